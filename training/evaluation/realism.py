"""Whether edits look right: their raster, what they change beside the edit, whom they show, and
their distance from real images of the target. Collected while edits are scored."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from training.core.config import EvalConfig
from training.data.dataset import EmptySplitError, Faces
from training.data.labels import Task
from training.evaluation import kid, raster
from training.evaluation.background import changed as changed_outside
from training.evaluation.background import outsides
from training.evaluation.frechet import KINDS, Distances, cluster_names, domains, in_domain
from training.evaluation.judges.judge import Judge
from training.evaluation.metrics import pairs
from training.evaluation.records import DomainKid, Kid, Scores
from training.evaluation.score import Translate, View, score, spread
from training.storage.store import Manifest, Store

LOOKS = ("raster", "background", "likeness")  # columns of single edits that change the labels
MOST = 1_000  # images on each side of a kernel distance, whose time grows with their square
ALIKE = 1e-5  # if different people's cosine is this near to 1, the rest is rounding
# Least AUC of telling people apart by the second judge's vectors of real images: at 0.55, drawn
# faces with nothing but another hair colour were less alike than different people.
TELLS = 0.6
REALS = 1_000  # real images of a data set for the raster's and the cosine's reference


class Realism:
    """Measures of every single edit; `add` is a hook of `score`, for `distances` as well.

    `real` are the splits with real images to compare with (the scored one, and validation), `train`
    that from which is learned where edits belong.
    """

    def __init__(
        self, distances: Distances, faces: Faces, extra: Faces | None, train: Faces | None
    ) -> None:
        self.distances, self.faces, self.extra = distances, faces, extra
        self.train = faces if train is None else train
        self.rows: list[pd.DataFrame] = []
        self._sources: dict[tuple[int, str], list[tuple[np.ndarray, ...]]] = defaultdict(list)
        self._outside: dict[int, dict[str, Tensor]] = {}
        self._real: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._impostors: dict[int, float] = {}

    def add(self, view: View, here: slice, task: Task, images: Tensor, features: Tensor) -> None:
        """Measure one task's uint8 outputs (n, s, s, 3) of rows `here` of a view."""
        self.distances.add(view, here, task, images, features)
        self._add_sources(view, here, task)
        count = here.stop - here.start
        columns = {"raster": [None] * count, "background": [np.nan] * count}
        table = pd.DataFrame(columns, dtype=object).astype({"background": float})
        used = task.changed[here]
        if task.single and used.any():
            places = used.nonzero().flatten().tolist()
            after = images[used.to(images.device)]
            before = self.faces.parts[view.dataset].images([view.rows[here][i] for i in places])
            outside = self._outsides(view).get(task.name)
            if outside is not None:
                table.loc[places, "background"] = changed_outside(before, after.cpu(), outside)
            if raster.lines(self.faces.size):
                above = raster.excess(after) - self._real_raster(view, task, here, used)
                table.loc[places, "raster"] = pd.Series(list(above), index=places)
        self.rows.append(table)

    def _add_sources(self, view: View, here: slice, task: Task) -> None:
        """Rows, target labels and people of each domain's edits, in the order of their features."""
        used = task.changed[here]
        rows_here = np.array(view.rows[here])
        people = cluster_names(self.faces, view.dataset, view.rows[here])
        for name, rows in domains(view.labels, task, task.target[here]):
            mine = (rows & used).numpy()
            if mine.any():
                source = rows_here[mine], task.target[here].numpy()[mine], people[mine]
                self._sources[view.dataset, name].append(source)

    def measured(self, table: pd.DataFrame) -> pd.DataFrame:
        """The score table with the columns of `LOOKS`, empty but for single edits that change.

        raster: power of each line above its neighbourhood, grey levels², minus the mean of real
        images of the target domain (a vector); background: the change outside of what the edit is
        about, 0..1; likeness: the identity cosine on a scale from 0, the mean of different people's
        real images, to 1, the same image; unknown if the judge sees all of them alike or does not
        tell known people apart.
        """
        out = pd.concat([table, pd.concat(self.rows, ignore_index=True)], axis=1)
        edits = out["single"].astype(bool) & out["changed"].astype(bool)
        impostor = out["dataset"].map(
            {labels.name: self._impostor(i) for i, labels in enumerate(self.faces.space.sets)}
        )
        likeness = (out["identity_cosine"] - impostor) / (1 - impostor)
        tells = out["dataset"].map(
            {labels.name: self._tells(i) for i, labels in enumerate(self.faces.space.sets)}
        )
        known = edits & (1 - impostor > ALIKE) & tells.astype(bool)
        return out.assign(likeness=likeness.where(known))

    def _tells(self, dataset: int) -> bool:
        """Whether the second judge tells people apart, if images say who they are of."""
        judge = self.distances.judge
        judged = judge.space.index(self.faces.space.sets[dataset].name)
        auc = judge.facts["datasets"][judged]["verification_auc"]
        return auc is None or auc >= TELLS

    def kids(self) -> list[Kid]:
        """KID of each data set by each kind of features; none of intensities, without domains.

        Not over all data sets: the scale of a distance depends on the pictures, so that a mean
        would be that of the set with the largest distances.
        """
        return [
            self._kid(kind, i)
            for i, labels in enumerate(self.faces.space.sets)
            if labels.kind != "continuous"
            for kind in self.distances.kinds
        ]

    def _outsides(self, view: View) -> dict[str, Tensor]:
        if view.dataset not in self._outside:
            part = self.train.parts[view.dataset]
            self._outside[view.dataset] = outsides(part, view.labels)
        return self._outside[view.dataset]

    def _real_raster(self, view: View, task: Task, here: slice, used: Tensor) -> np.ndarray:
        """Mean excess (n, lines), at least 0, of real images of each edit's domain (all if few)."""
        if view.dataset not in self._real:
            found, labels = [], []
            for split in self._splits:
                part = split.parts[view.dataset]
                rows = spread(len(part), REALS)
                chunks = (part.images(rows[i : i + 64]) for i in range(0, len(rows), 64))
                found += [raster.excess(chunk) for chunk in chunks]
                labels.append(part.labels[rows])
            self._real[view.dataset] = np.concatenate(found), torch.cat(labels).numpy()
        values, labels_of = self._real[view.dataset]
        out = np.tile(values.mean(0).clip(min=0), (int(used.sum()), 1))
        for name, edits in domains(view.labels, task, task.target[here][used]):
            real = values[in_domain(view.labels, name, labels_of)]
            if len(real) >= raster.REFERENCE:
                out[edits.numpy()] = real.mean(0).clip(min=0)
        return out

    @cached_property
    def _splits(self) -> Sequence[Faces]:
        return [split for split in (self.faces, self.extra) if split is not None]

    def _impostor(self, dataset: int) -> float:
        """Mean cosine of real images of different people; 0 with one person."""
        if dataset not in self._impostors:
            judge, labels = self.distances.judge, self.faces.space.sets[dataset]
            real = self.distances.real(dataset, self.faces, self.extra)["frechet_vgg"]
            names = np.concatenate([cluster_names(s, dataset) for s in self._splits])
            rows = spread(len(names), REALS)
            features = torch.from_numpy(real[rows]).to(judge.device)
            vectors = judge.embed(judge.space.index(labels.name), features).cpu().numpy()
            different = pairs(vectors, names[rows])[1]
            self._impostors[dataset] = float(different.mean()) if len(different) else 0.0
        return self._impostors[dataset]

    def _kid(self, kind: str, dataset: int) -> Kid:
        labels = self.faces.space.sets[dataset]
        names = [name for other, name in self.distances.edited if other == dataset]
        compared = {name: self._compared(kind, dataset, name) for name in names}
        found = _measured(compared, kid.paired)
        paired = len(found) == len(compared)  # never a mean of both kinds
        if not paired:
            few = {name: tuple(map(_few, sides)) for name, sides in compared.items()}
            found = _measured(few, kid.distance)
        return Kid(
            KINDS[kind],
            labels.name,
            images=sum(one.edits for one, _ in found.values()),
            people=len({name for one, _ in found.values() for name in one.people}),
            domains=tuple(
                DomainKid(
                    labels.name, name, one.edits, one.reals, one.left, one.matched,
                    one.value, two.value,
                )
                for name, (one, two) in found.items()
            ),
            skipped=tuple(f"{labels.name} {name}" for name in compared if name not in found),
            paired=paired and bool(found),
            **_means(list(found.values())),
        )  # fmt: skip

    def _compared(self, kind: str, dataset: int, name: str) -> tuple[kid.Sample, ...]:
        """Edits of a target domain, their inputs, and the domain's real images."""
        sources = zip(*self._sources[dataset, name], strict=True)
        places, targets, people = (np.concatenate(column) for column in sources)
        reals = self._sample(dataset, kind)
        edited = np.concatenate(self.distances.edited[dataset, name][kind])
        domain = in_domain(self.faces.space.sets[dataset], name, reals.labels)
        return (
            kid.Sample(edited, targets, people),
            kid.Sample(reals.features[places], targets, people),
            kid.Sample(*(column[domain] for column in reals)),
        )

    def _sample(self, dataset: int, kind: str) -> kid.Sample:
        """All real images of a data set; first those of the scored split."""
        return kid.Sample(
            self.distances.real(dataset, self.faces, self.extra)[kind],
            np.concatenate([s.parts[dataset].labels.numpy() for s in self._splits]),
            np.concatenate([cluster_names(s, dataset) for s in self._splits]),
        )


def reals(dataset: Manifest, config: EvalConfig, store: Store) -> tuple[Faces | None, Faces | None]:
    """Validation images, which enlarge the real side of the distances, and the training images."""
    validation = None if config.eval_split == "val" else _split(dataset, "val", store)
    return validation, _split(dataset, "train", store)


def _split(dataset: Manifest, split: str, store: Store) -> Faces | None:
    """Images for the real side of distances; None if the split has none."""
    try:
        return Faces.open(dataset, split, store)
    except EmptySplitError:
        return None


def scored(
    translator: Translate,
    faces: Faces,
    extra: Faces | None,
    train: Faces | None,
    judge: Judge,
    config: EvalConfig,
    inception: str = "",
) -> tuple[Scores, Distances]:
    """All that the gate reads of a model, and the features of its edits.

    The table of `score` with the columns of `LOOKS`, and the kernel distances; `extra` and `train`
    as for `Realism`. Raises ValueError as `score` does.
    """
    distances = Distances(judge, inception)
    realism = Realism(distances, faces, extra, train)
    table = score(translator, faces, judge, config, hook=realism.add)
    return Scores(realism.measured(table), tuple(realism.kids())), distances


def _measured(
    compared: Mapping[str, tuple[kid.Sample, ...]],
    measure: Callable[[kid.Sample, kid.Sample], kid.Distance | None],
) -> dict[str, tuple[kid.Distance, kid.Distance]]:
    """Distances of edits and of their inputs, of each target domain that has enough people."""
    found = {}
    for name, (edits, inputs, reals) in compared.items():
        one, two = measure(edits, reals), measure(inputs, reals)
        if one is not None and two is not None:
            found[name] = one, two
    return found


def _means(found: Sequence[tuple[kid.Distance, kid.Distance]]) -> dict[str, float]:
    """Fields of `Kid` that are means over domains; none without a domain."""
    if not found:
        return {}
    ones, twos = zip(*found, strict=True)
    value, inputs, ratio = kid.mean(ones), kid.mean(twos), kid.ratio(ones, twos)
    return {
        "value": value.value, "value_low": value.low, "value_high": value.high,
        "inputs": inputs.value, "inputs_low": inputs.low,
        "ratio": ratio.value, "low": ratio.low, "high": ratio.high,
    }  # fmt: skip


def _few(sample: kid.Sample) -> kid.Sample:
    """At most `MOST` images of a sample."""
    rows = spread(len(sample.people), MOST)
    return kid.Sample(*(column[rows] for column in sample))

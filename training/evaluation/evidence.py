"""Pictures that show why a model does or does not look right: the worst edits by each measure."""

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from training.core.config import EvalConfig
from training.data.dataset import Faces, to_float
from training.evaluation.background import outsides
from training.evaluation.frechet import domains, in_domain
from training.evaluation.judges.judge import Judge
from training.evaluation.raster import amplitude, spectrum
from training.evaluation.records import Figure, Scores
from training.evaluation.score import Translate, View, run, spread, views
from training.rendering.fonts import legend
from training.rendering.grids import grid

SHOWN = 6  # edits in a figure
CELL = 160  # px, at least
REALS = 500  # real images among which the nearest is looked for
DECIBELS = (-30.0, 20.0)  # black and white of a spectrum, above 1 grey level²
KINDS = ("raster", "background", "likeness", "kid")


def evidence(
    translator: Translate,
    faces: Faces,
    train: Faces | None,
    judge: Judge,
    config: EvalConfig,
    scores: Scores,
    kinds: Collection[str] = KINDS,
) -> list[Figure]:
    """A figure for each of `kinds` and data set, from the measures in `scores`.

    raster: the edits with the strongest raster and their spectra beside those of real images of the
    target; background: the edits that change most outside of what they are about; likeness: those
    whose person is recognised least; kid: edits of the domain farthest from real images, each above
    the nearest real image with the same labels.
    """
    out = []
    for view in views(translator, faces, judge, config):
        table = scores.table
        edits = table[
            (table["dataset"] == view.labels.name) & table["single"] & table["changed"]
        ].reset_index(drop=True)
        maker = _Maker(translator, faces, view, judge)
        if "raster" in kinds and edits["raster"].notna().any():
            out.append(_raster(maker, edits[edits["raster"].notna()]))
        if "background" in kinds and edits["background"].notna().any():
            out.append(_background(maker, edits[edits["background"].notna()], train or faces))
        if "likeness" in kinds and len(edits):
            out.append(_likeness(maker, edits))
        if "kid" in kinds and (figure := _distance(maker, edits, scores)) is not None:
            out.append(figure)
    return out


class _Maker:
    """Makes single edits again; the scores do not keep the pictures."""

    def __init__(self, translator: Translate, faces: Faces, view: View, judge: Judge) -> None:
        self.translator, self.faces, self.view, self.judge = translator, faces, view, judge
        self.part = faces.parts[view.dataset]
        self.tasks = {task.name: task for task in view.tasks}
        self.places = {row: i for i, row in enumerate(view.rows)}

    def target(self, index: int, task: str) -> Tensor:
        """Target labels (1, k)."""
        return self.tasks[task].target[[self.places[index]]]

    def pair(self, index: int, task: str) -> tuple[Tensor, Tensor]:
        """Input and edit, uint8 (1, s, s, 3)."""
        before = self.part.images([index])
        source, target = self.view.source[[self.places[index]]], self.target(index, task)
        x = to_float(before.to(self.judge.device))
        after = run(self.translator, x, self.view.encode(source), self.view.encode(target))
        return before.cpu(), after.cpu()

    def domain(self, index: int, task: str) -> str:
        """Name of an edit's target domain; "" without domains (intensities)."""
        named = domains(self.view.labels, self.tasks[task], self.target(index, task))
        return next((name for name, rows in named if rows.any()), "")

    def real(self, index: int, task: str) -> Tensor:
        """A real image (1, s, s, 3) with all the target's labels, else with the edited one."""
        shown, target = self.part.labels, self.target(index, task)
        same = ((shown > 0.5) == (target > 0.5)).all(1).nonzero().flatten().tolist()
        name = self.domain(index, task)
        if not same and name:
            same = np.flatnonzero(in_domain(self.view.labels, name, shown.numpy())).tolist()
        return self.part.images([(same or [index])[0]]).cpu()

    def title(self, index: int, task: str) -> str:
        return self.domain(index, task).replace("not_", "not ") or task


def _worst(edits: pd.DataFrame, by: Sequence[float], count: int = SHOWN) -> list[tuple[int, str]]:
    """(index, task) of the edits with the highest numbers, one per image."""
    ordered = edits.assign(by=by).sort_values(["by", "index"], ascending=[False, True])
    rows = ordered.drop_duplicates("index").head(count)
    return [(int(i), str(t)) for i, t in zip(rows["index"], rows["task"], strict=True)]


def _figure(maker: _Maker, name: str, rows: list[list[np.ndarray]], tops: list[str],
            sides: list[str], caption: str) -> Figure:  # fmt: skip
    dataset = maker.view.labels.name
    png = grid(rows, tops, sides, CELL)
    return Figure(f"looks_{name}_{dataset}.png", png, f"{dataset}: {caption}{legend(tops, sides)}")


def shown_spectrum(images: Tensor) -> np.ndarray:
    """The log spectrum of one image as uint8 (s, s, 3), frequency 0 in the middle."""
    power = torch.fft.fftshift(spectrum(images)[0]).clamp(min=1e-9)
    low, high = DECIBELS
    level = ((10 * power.log10() - low) / (high - low)).clamp(0, 1)
    grey = (255 * level).round().to(torch.uint8)
    return np.asarray(grey[:, :, None].expand(-1, -1, 3).numpy())


def _raster(maker: _Maker, edits: pd.DataFrame) -> Figure:
    strength = amplitude(np.stack(edits["raster"].to_list()))
    rows: list[list[np.ndarray]] = [[], [], [], []]
    chosen = _worst(edits, strength.tolist())
    for index, task in chosen:
        after, real = maker.pair(index, task)[1], maker.real(index, task)
        cells = (after[0].numpy(), shown_spectrum(after), real[0].numpy(), shown_spectrum(real))
        for row, cell in zip(rows, cells, strict=True):
            row.append(cell)
    caption = (
        f"the {len(chosen)} edits with the strongest raster, up to {strength.max():.1f} grey "
        f"levels (median {np.median(strength):.1f}), with their spectra. Bright dots at a quarter "
        "or half of the way around that the real image's spectrum lacks are stripes or "
        "checkerboards."
    )
    sides = ["edited", "spectrum", "real", "spectrum"]
    return _figure(maker, "raster", rows, [maker.title(*c) for c in chosen], sides, caption)


def _background(maker: _Maker, edits: pd.DataFrame, train: Faces) -> Figure:
    outside = outsides(train.parts[maker.view.dataset], maker.view.labels)
    rows: list[list[np.ndarray]] = [[], [], []]
    chosen = _worst(edits, edits["background"].to_list())
    for index, task in chosen:
        before, after = maker.pair(index, task)
        change = (after.float() - before.float()).abs().mean(3)[0]
        level = (2 * change).clamp(max=255).round().to(torch.uint8)
        shown = level[:, :, None].repeat(1, 1, 3)
        shown[~outside[task], 2] = 160  # blue: where the edit belongs
        for row, cell in zip(rows, (before[0], after[0], shown), strict=True):
            row.append(cell.numpy())
    caption = (
        f"the {len(chosen)} edits that change most outside of what they are about, up to "
        f"{edits['background'].max():.2f} of the contrast there (mean "
        f"{edits['background'].mean():.2f}). Third row: the change, where edits belong in blue."
    )
    sides = ["input", "edited", "change"]
    return _figure(maker, "background", rows, [maker.title(*c) for c in chosen], sides, caption)


def _likeness(maker: _Maker, edits: pd.DataFrame) -> Figure:
    chosen = _worst(edits, (-edits["likeness"]).to_list())
    pairs = [maker.pair(*c) for c in chosen]
    rows = [[pair[i][0].numpy() for pair in pairs] for i in (0, 1)]
    caption = (
        f"the {len(chosen)} edits whose person the second judge recognises least: identity from "
        f"{edits['likeness'].min():.2f} (mean {edits['likeness'].mean():.2f}; 0: different people)."
    )
    sides = ["input", "edited"]
    return _figure(maker, "likeness", rows, [maker.title(*c) for c in chosen], sides, caption)


def _distance(maker: _Maker, edits: pd.DataFrame, scores: Scores) -> Figure | None:
    labels, judge = maker.view.labels, maker.judge
    kinds = [k for k in scores.kids if (k.kind, k.dataset) == ("kid_vgg", labels.name)]
    rows_of = [d for k in kinds for d in k.domains]
    paired = any(k.paired for k in kinds)
    if not rows_of:
        return None
    worst = max(rows_of, key=lambda row: row.value)
    mine = edits[edits["task"] == worst.domain.removeprefix("not_")]
    found = [(int(i), str(t)) for i, t in zip(mine["index"], mine["task"], strict=True)]
    found = [one for one in found if maker.domain(*one) == worst.domain]
    chosen = [found[i] for i in spread(len(found), SHOWN)]
    pool = np.flatnonzero(in_domain(labels, worst.domain, maker.part.labels.numpy()))
    people = np.array(maker.part.identity)
    if paired:
        pool = pool[np.isin(people[pool], people[[index for index, _ in chosen]])]
    pool = pool[spread(len(pool), REALS)]
    images = maker.part.images(pool.tolist())
    features = torch.cat([judge.features(maker.view.judged, to_float(c)) for c in images.split(64)])
    rows: list[list[np.ndarray]] = [[], []]
    for one in chosen:
        after = maker.pair(*one)[1]
        target = maker.target(*one)
        same = ((maker.part.labels[pool.tolist()] > 0.5) == (target > 0.5)).all(1)
        if paired:
            same &= torch.from_numpy(people[pool] == people[one[0]])
        feature = judge.features(maker.view.judged, to_float(after))
        away = (features - feature).square().sum(1).cpu()
        if same.any():
            away[~same] = torch.inf
        rows[0].append(after[0].numpy())
        rows[1].append(images[int(away.argmin())].cpu().numpy())
    caption = (
        f"{worst.domain}, the target farthest from real images ({worst.value:.3g}, its inputs "
        f"{worst.inputs:.3g}): {len(chosen)} edits, each above the nearest real image "
        f"{'of the same person ' if paired else ''}with the same labels."
    )
    tops = [maker.title(*c) for c in chosen]
    return _figure(maker, "kid", rows, tops, ["edited", "real"], caption)

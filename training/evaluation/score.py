"""One row an (image, task): every edit of the test images, scored by a frozen judge.

Everything is measured on what would be saved: each output is rounded to uint8 first, also before
it is translated back.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from training.core.config import EvalConfig
from training.core.progress import Progress
from training.data.dataset import Faces, generator, memory_order, to_float, to_uint8
from training.data.labels import TOLERANCE, LabelSet, LabelSpace, Task
from training.evaluation.judges.judge import Judge
from training.evaluation.judges.training import decide
from training.evaluation.metrics import psnr, ssim
from training.inference.translator import Translator

BATCH = 32
CYCLE = ("cycle_psnr", "cycle_ssim", "cycle_ssim_gaussian")
INTENSITY = ("error", "error_others", "copy_error")
Translate = Callable[[Tensor, Tensor, Tensor], Tensor]


class View(NamedTuple):
    """One data set as the translator, the data and the judge number it, and the rows scored."""

    labels: LabelSet
    dataset: int  # in the evaluated data
    judged: int  # in the judge
    encode: Callable[[Tensor], Tensor]  # labels (n, k) -> c̃ of the translator
    rows: list[int]
    source: Tensor  # (rows, k)
    tasks: list[Task]


def space_of(translator: Translate, faces: Faces) -> LabelSpace:
    """The label space a translator was trained with; one without takes any."""
    return getattr(translator, "space", None) or faces.space


def spread(count: int, limit: int) -> list[int]:
    """`limit` rows of `count` at random, always the same ones (all where it is 0 or beyond).

    Equal steps would meet one label again and again where the images are sorted.
    """
    if not 0 < limit < count:
        return list(range(count))
    order = torch.randperm(count, generator=generator(0, "spread", count))
    return sorted(order[:limit].tolist())


# what sees the outputs of each edit: (view, rows of it, task, uint8 outputs of those rows, the
# second judge's features of them)
Hook = Callable[[View, slice, Task, Tensor, Tensor], None]


def views(
    translator: Translate,
    faces: Faces,
    judge: Judge,
    config: EvalConfig,
    only: Sequence[str] = (),
) -> list[View]:
    """The data sets (all, or those named) as everyone numbers them.

    Raises ValueError where translator, data and judge do not speak of the same labels and size.
    """
    space = space_of(translator, faces)
    for who, size in (
        ("the model", getattr(translator, "size", faces.size)),
        ("the judge", judge.size),
    ):
        if size != faces.size:
            raise ValueError(f"{who} takes images of {size} px; the data set holds {faces.size} px")
    out = []
    for i, labels in enumerate(faces.space.sets):
        if only and labels.name not in only:
            continue
        mine, judged = (
            position(other, labels, who)
            for who, other in (("the model", space), ("the judge", judge.space))
        )
        part = faces.parts[i]
        rows = spread(len(part), config.limit)
        source = part.labels[rows]
        out.append(
            View(
                labels,
                i,
                judged,
                lambda c, mine=mine: space.encode(c, mine),  # type: ignore[misc]
                rows,
                source,
                faces.space.tasks(source, i),
            )
        )
    return out


def position(space: LabelSpace, labels: LabelSet, who: str = "the model") -> int:
    """Where `who` has the data set's labels. Raises ValueError where it knows others."""
    found = space.matching(labels)
    if found is None:
        known = "; ".join(f"{s.name}: {s.kind} {', '.join(s.names)}" for s in space.sets)
        raise ValueError(
            f"{labels.name}: {who} knows other labels than the data set's {labels.kind} "
            f"{', '.join(labels.names)} (it knows {known})"
        )
    return found


def place(translator: Translate, device: torch.device) -> None:
    """Move a translator's networks to where the judge works."""
    for net in getattr(translator, "nets", {}).values():
        net.to(device)


def run(translator: Translate, image: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """One translation as it would be saved: uint8 (n, H, W, 3)."""
    image = image.contiguous(memory_format=memory_order(image.device))
    return to_uint8(translator(image, source.to(image.device), target.to(image.device)))


def score(
    translator: Translate,
    faces: Faces,
    judge: Judge,
    config: EvalConfig,
    *,
    only: Sequence[str] = (),
    hook: Hook | None = None,
    what: str = "evaluate",
) -> pd.DataFrame:
    """One row an (image, task): what the edit did, by the judge's word.

    Columns: dataset, index (row of the split), identity, file, task, single (one label is edited),
    changed (the target is not what the image shows), success (1 where the judge sees every label
    of the edited group as asked: black on, blond and brown off), margin (logits by which the worst
    of them is right), copy_success and copy_margin (the same of the input itself), blind_success
    (of the self-reconstruction, which never saw the target: an output that is always judged alike
    succeeds without any editing), preservation (share of the labels outside that are judged as
    they are on the input; 1 where there is none), others (their number), identity_cosine,
    self_psnr dB, self_ssim, self_ssim_gaussian of the self-reconstruction (G(x, c_org), or what
    the model has in its place), and cycle_* of G(G(x, c), c_org), NaN where the task is a
    combination or changes nothing. Of continuous labels (NaN elsewhere): error, mean
    distance of the judged intensities from those asked for; error_others, of the labels outside
    the edit from the input's; copy_error, of the input's from those asked for.
    Raises ValueError where a score is not finite.
    """
    place(translator, judge.device)
    asked = views(translator, faces, judge, config, only)
    tables = []
    with Progress(what, sum(len(v.rows) for v in asked), "images") as progress:
        for view in asked:
            for start in range(0, len(view.rows), BATCH):
                here = slice(start, min(start + BATCH, len(view.rows)))
                tables.append(_score_batch(translator, faces, judge, view, here, hook))
                progress.step(here.stop - here.start)
    table = pd.concat(tables, ignore_index=True)
    numbers = table.drop(columns=[*CYCLE, *INTENSITY]).select_dtypes("number")
    bad = [str(c) for c in numbers if not np.isfinite(numbers[c]).all()]
    if bad:
        raise ValueError(f"scores are not finite: {', '.join(bad)}; the model is broken")
    return table


def _score_batch(
    translator: Translate,
    faces: Faces,
    judge: Judge,
    view: View,
    here: slice,
    hook: Hook | None,
) -> pd.DataFrame:
    part, rows, labels = faces.parts[view.dataset], view.rows[here], view.labels
    before = part.images(rows)
    x = to_float(before.to(judge.device))
    original = view.encode(view.source[here])
    own = run(translator, x, original, original)
    seen = Seen(judge, view, x)
    again = _reconstructed(translator, x, original, own)
    own_scores = _quality("self", before, again)
    own_logits = judge.predict(view.judged, to_float(again)).cpu()
    out = []
    for task in view.tasks:
        target, changed = task.target[here], task.changed[here]
        after = own.clone()  # asked for what is there already, the model gives G(x, c_org)
        if changed.any():
            asked = view.encode(target)[changed]
            after[changed] = run(translator, x[changed.to(x.device)], original[changed], asked)
        y = to_float(after)
        features = judge.features(view.judged, y)
        table = pd.DataFrame(
            {
                "dataset": labels.name,
                "index": rows,
                "identity": [part.identity[i] for i in rows],
                "file": [part.files[i] for i in rows],
                "task": task.name,
                "single": task.single,
                "changed": changed.numpy(),
                **seen.judge_edit(y, features, own_logits, task, target),
                **own_scores,
                **dict.fromkeys(CYCLE, float("nan")),
            }
        )
        if hook:
            hook(view, here, task, after, features)
        cycle = changed if task.single else torch.zeros_like(changed)
        if cycle.any():
            home = getattr(translator, "back", lambda _: translator)(x[cycle.to(x.device)])
            back = run(home, y[cycle.to(y.device)], view.encode(target)[cycle], original[cycle])
            for name, values in _quality("cycle", before[cycle], back).items():
                table.loc[cycle.numpy(), name] = values
        out.append(table)
    return pd.concat(out, ignore_index=True)


def _reconstructed(translator: Translate, x: Tensor, source: Tensor, own: Tensor) -> Tensor:
    """What E3 compares with the input: `own`, or what the model has in its place."""
    if not isinstance(translator, Translator) or translator.model.edits_own_labels:
        return own
    return to_uint8(translator.reconstruct(x, source.to(x.device)))


def _quality(prefix: str, before: Tensor, after: Tensor) -> dict[str, Any]:
    after = after.to(before.device)
    return {
        f"{prefix}_psnr": psnr(before, after),
        f"{prefix}_ssim": ssim(before, after),
        f"{prefix}_ssim_gaussian": ssim(before, after, gaussian=True),
    }


class Seen:
    """What the judge says of the inputs, and of edits beside them."""

    def __init__(self, judge: Judge, view: View, x: Tensor) -> None:
        self.judge, self.view = judge, view
        self.logits = judge.predict(view.judged, x).cpu()
        self.vectors = judge.embed(view.judged, judge.features(view.judged, x))

    def judge_edit(
        self, y: Tensor, features: Tensor, own: Tensor, task: Task, target: Tensor
    ) -> dict[str, Any]:
        """Scores of outputs `y`; `own` are the logits of the unedited reconstructions."""
        labels = self.view.labels
        edited = sorted({i for name in task.edits for i in labels.group(name)})
        if labels.kind == "onehot":
            edited = list(range(len(labels.names)))
        others = [i for i in range(len(labels.names)) if i not in edited]
        logits = self.judge.predict(self.view.judged, y).cpu()
        same = decide(labels.kind, logits) == decide(labels.kind, self.logits)
        if labels.kind == "continuous":
            same = (logits - self.logits).abs() < TOLERANCE
        kept = same[:, others].float().mean(1) if others else torch.ones(len(y))
        margins = margin(labels.kind, logits, target, edited)
        copied = margin(labels.kind, self.logits, target, edited)
        vectors = self.judge.embed(self.view.judged, features)
        cosine = (vectors * self.vectors).sum(1).cpu()
        errors: dict[str, Any] = dict.fromkeys(INTENSITY, float("nan"))
        if labels.kind == "continuous":
            moved = (
                (logits - self.logits).abs()[:, others].mean(1) if others else torch.zeros(len(y))
            )
            far = {"error": logits - target, "copy_error": self.logits - target}
            errors = {k: v.abs()[:, edited].mean(1).double().numpy() for k, v in far.items()}
            errors["error_others"] = moved.double().numpy()
        return {
            **errors,
            "success": (margins > 0).double().numpy(),
            "copy_success": (copied > 0).double().numpy(),
            "margin": margins.double().numpy(),
            "copy_margin": copied.double().numpy(),
            "blind_success": (margin(labels.kind, own, target, edited) > 0).double().numpy(),
            "preservation": kept.double().numpy(),
            "others": len(others),
            "identity_cosine": cosine.double().numpy(),
        }


def margin(kind: str, logits: Tensor, target: Tensor, edited: list[int]) -> Tensor:
    """How surely labels `edited` are judged as asked (n,): above 0 exactly where all of them are.

    Binary: the smallest logit on the asked side; one-hot: the asked class's lead; continuous:
    TOLERANCE less the largest distance.
    """
    if kind == "onehot":
        wanted = target.bool()
        return logits[wanted] - logits.masked_fill(wanted, -torch.inf).amax(1)
    if kind == "continuous":
        return TOLERANCE - (logits - target)[:, edited].abs().amax(1)
    return ((2 * target - 1) * logits)[:, edited].amin(1)

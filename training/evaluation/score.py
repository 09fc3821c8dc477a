"""Score every edit of the test images with a frozen judge: one row per (image, task).

Everything is measured on saved images: each output is rounded to uint8 first, also before it is
translated back.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from training.core.config import EvalConfig
from training.core.progress import Progress
from training.data.dataset import Faces, to_float, to_uint8
from training.data.labels import TOLERANCE, LabelSet, LabelSpace, Task
from training.data.memory_format import memory_order
from training.data.order import generator
from training.evaluation.judges.judge import Judge
from training.evaluation.judges.training import decide
from training.evaluation.metrics import psnr, ssim
from training.inference.translator import Translator
from training.models.layers import place

BATCH = 32
CYCLE = ("cycle_psnr", "cycle_ssim", "cycle_ssim_gaussian")
INTENSITY = ("error", "error_others", "copy_error")
Translate = Callable[[Tensor, Tensor, Tensor], Tensor]


class BrokenModelError(ValueError):
    """A model whose outputs or scores are not finite."""


class View(NamedTuple):
    """One data set with its index in data and judge, its encoding, and the scored rows."""

    labels: LabelSet
    dataset: int  # index in the evaluated data
    judged: int  # index in the judge
    encode: Callable[[Tensor], Tensor]  # labels (n, k) -> the translator's c̃
    rows: list[int]
    source: Tensor  # (rows, k)
    tasks: list[Task]


def space_of(translator: Translate, faces: Faces) -> LabelSpace:
    """The translator's label space; that of the data if it has none."""
    return getattr(translator, "space", None) or faces.space


def spread(count: int, limit: int) -> list[int]:
    """`limit` of `count` row indices, sampled with a fixed seed (all if `limit` is 0 or larger).

    Not at equal steps, which could select the same label repeatedly in sorted data.
    """
    if not 0 < limit < count:
        return list(range(count))
    order = torch.randperm(count, generator=generator(0, "spread", count))
    return sorted(order[:limit].tolist())


# called with the outputs of each edit: (view, slice of its rows, task, uint8 outputs, the second
# judge's features of the outputs)
Hook = Callable[[View, slice, Task, Tensor, Tensor], None]


def views(
    translator: Translate,
    faces: Faces,
    judge: Judge,
    config: EvalConfig,
    only: Sequence[str] = (),
    *,
    whole: bool = False,
) -> list[View]:
    """Views of all data sets, or of those in `only`; `whole`: of every image.

    Raises ValueError if translator, data and judge have different labels or image sizes.
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
        rows = spread(len(part), 0 if whole else config.limit)
        source = part.labels[rows]
        out.append(
            View(
                labels,
                i,
                judged,
                partial(space.encode, dataset=mine),
                rows,
                source,
                faces.space.tasks(source, i),
            )
        )
    return out


def position(space: LabelSpace, labels: LabelSet, who: str = "the model") -> int:
    """Index of the data set's labels in `space`; ValueError, naming `who`, if there are none."""
    found = space.matching(labels)
    if found is None:
        known = "; ".join(f"{s.name}: {s.kind} {', '.join(s.names)}" for s in space.sets)
        raise ValueError(
            f"{labels.name}: {who} has other labels than the data set's {labels.kind} "
            f"{', '.join(labels.names)} (it has {known})"
        )
    return found


def move_nets(translator: Translate, device: torch.device) -> None:
    """Move a translator's networks to the device."""
    for net in getattr(translator, "nets", {}).values():
        place(net, device)


def run(translator: Translate, image: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """One translation, rounded as when saved: uint8 (n, H, W, 3); image (n, 3, H, W) in [-1, 1].

    Raises BrokenModelError, a ValueError, if the output is not finite.
    """
    image = image.contiguous(memory_format=memory_order(image.device))
    return _rounded(translator(image, source.to(image.device), target.to(image.device)))


def _rounded(output: Tensor) -> Tensor:
    if not output.isfinite().all():  # as a picture, NaN would be black
        raise BrokenModelError("the model's output is not finite; the model is broken")
    return to_uint8(output)


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
    """The score table: one row per (image, task), the edits classified by the judge.

    Columns: dataset, index (row of the split), identity, file, task, single (one label is edited),
    changed (the target differs from the source labels), success (1 if the judge assigns the target
    value to every label of the edited group: black on, blond and brown off), margin (smallest logit
    margin of these labels), copy_success and copy_margin (the same for the unchanged input),
    blind_success (for the self-reconstruction, which is independent of the target: outputs that are
    always classified the same succeed without any editing), preservation (share of the labels
    outside the group that are classified as on the input; 1 if there are none), others (their
    number), identity_cosine; self_psnr (dB), self_ssim and self_ssim_gaussian of the
    self-reconstruction (G(x, c_org), or `Model.reconstruct`); cycle_* of G(G(x, c), c_org), NaN for
    combinations and unchanged images. For continuous labels (otherwise NaN) mean absolute
    differences: error of judged to target intensities, error_others of labels outside the edit to
    those of the input, copy_error of the input's judged to the target intensities.
    Raises BrokenModelError, a ValueError, if an output or a score is not finite.
    """
    move_nets(translator, judge.device)
    data_views = views(translator, faces, judge, config, only)
    tables = []
    with Progress(what, sum(len(v.rows) for v in data_views), "images") as progress:
        for view in data_views:
            for start in range(0, len(view.rows), BATCH):
                here = slice(start, min(start + BATCH, len(view.rows)))
                tables.append(_score_batch(translator, faces, judge, view, here, hook))
                progress.step(here.stop - here.start)
    table = pd.concat(tables, ignore_index=True)
    numbers = table.drop(columns=[*CYCLE, *INTENSITY]).select_dtypes("number")
    bad = [str(c) for c in numbers if not np.isfinite(numbers[c]).all()]
    if bad:
        raise BrokenModelError(f"scores are not finite: {', '.join(bad)}; the model is broken")
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
    self_translation = run(translator, x, original, original)
    inputs = JudgedInputs(judge, view, x)
    reconstruction = reconstructed(translator, x, original, self_translation)
    self_scores = _quality("self", before, reconstruction)
    self_logits = judge.predict(view.judged, to_float(reconstruction)).cpu()
    out = []
    for task in view.tasks:
        target, changed = task.target[here], task.changed[here]
        after = self_translation.clone()  # with unchanged labels the output is G(x, c_org)
        if changed.any():
            c = view.encode(target)[changed]
            after[changed] = run(translator, x[changed.to(x.device)], original[changed], c)
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
                **inputs.judge_edit(y, features, self_logits, task, target),
                **self_scores,
                **dict.fromkeys(CYCLE, float("nan")),
            }
        )
        if hook:
            hook(view, here, task, after, features)
        cycle = changed if task.single else torch.zeros_like(changed)
        if cycle.any():
            inverse = getattr(translator, "back", lambda _: translator)(x[cycle.to(x.device)])
            back = run(inverse, y[cycle.to(y.device)], view.encode(target)[cycle], original[cycle])
            for name, values in _quality("cycle", before[cycle], back).items():
                table.loc[cycle.numpy(), name] = values
        out.append(table)
    return pd.concat(out, ignore_index=True)


def reconstructed(
    translator: Translate, x: Tensor, source: Tensor, self_translation: Tensor
) -> Tensor:
    """The self-reconstruction: `self_translation`, or the model's own reconstruction; uint8."""
    if not isinstance(translator, Translator) or translator.model.edits_own_labels:
        return self_translation
    return _rounded(translator.reconstruct(x, source.to(x.device)))


def _quality(prefix: str, before: Tensor, after: Tensor) -> dict[str, Any]:
    after = after.to(before.device)
    return {
        f"{prefix}_psnr": psnr(before, after),
        f"{prefix}_ssim": ssim(before, after),
        f"{prefix}_ssim_gaussian": ssim(before, after, gaussian=True),
    }


class JudgedInputs:
    """The judge's outputs for a batch of inputs, with which edits are compared."""

    def __init__(self, judge: Judge, view: View, x: Tensor) -> None:
        self.judge, self.view = judge, view
        self.logits = judge.predict(view.judged, x).cpu()
        self.vectors = judge.embed(view.judged, judge.features(view.judged, x))

    def judge_edit(
        self, y: Tensor, features: Tensor, reconstructed: Tensor, task: Task, target: Tensor
    ) -> dict[str, Any]:
        """Scores of outputs `y` (n, 3, s, s); `reconstructed`: logits (n, k) of reconstructions."""
        labels = self.view.labels
        edited = sorted({i for name in task.edits for i in labels.group(name)})
        if labels.kind == "onehot":
            edited = list(range(len(labels.names)))
        others = [i for i in range(len(labels.names)) if i not in edited]
        logits = self.judge.predict(self.view.judged, y).cpu()
        same = decide(labels.kind, logits) == decide(labels.kind, self.logits)
        if labels.kind == "continuous":
            same = (logits - self.logits).abs() < TOLERANCE
        preserved = same[:, others].float().mean(1) if others else torch.ones(len(y))
        margins = margin(labels.kind, logits, target, edited)
        copy_margins = margin(labels.kind, self.logits, target, edited)
        blind_margins = margin(labels.kind, reconstructed, target, edited)
        vectors = self.judge.embed(self.view.judged, features)
        cosine = (vectors * self.vectors).sum(1).cpu()
        errors: dict[str, Any] = dict.fromkeys(INTENSITY, float("nan"))
        if labels.kind == "continuous":
            others_moved = (
                (logits - self.logits).abs()[:, others].mean(1) if others else torch.zeros(len(y))
            )
            differences = {"error": logits - target, "copy_error": self.logits - target}
            errors = {
                k: v.abs()[:, edited].mean(1).double().numpy() for k, v in differences.items()
            }
            errors["error_others"] = others_moved.double().numpy()
        return {
            **errors,
            "success": (margins > 0).double().numpy(),
            "copy_success": (copy_margins > 0).double().numpy(),
            "margin": margins.double().numpy(),
            "copy_margin": copy_margins.double().numpy(),
            "blind_success": (blind_margins > 0).double().numpy(),
            "preservation": preserved.double().numpy(),
            "others": len(others),
            "identity_cosine": cosine.double().numpy(),
        }


def margin(kind: str, logits: Tensor, target: Tensor, edited: list[int]) -> Tensor:
    """Margin (n,) of the `edited` labels, positive exactly if all are classified as the target.

    Binary: the smallest signed logit; one-hot: the target class's logit minus the next largest;
    continuous: TOLERANCE minus the largest absolute error.
    """
    if kind == "onehot":
        is_target = target.bool()
        return logits[is_target] - logits.masked_fill(is_target, -torch.inf).amax(1)
    if kind == "continuous":
        return TOLERANCE - (logits - target)[:, edited].abs().amax(1)
    return ((2 * target - 1) * logits)[:, edited].amin(1)

"""Figures of an evaluation: samples, worst edits, and Figs 6 and 7 of the StarGAN paper."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from training.core.config import EvalConfig
from training.data.dataset import Faces, to_float
from training.data.labels import LabelSpace
from training.evaluation.judges.judge import Judge
from training.evaluation.metrics import proportion_interval
from training.evaluation.previews import PREVIEW_IMAGES, held_out, render_previews
from training.evaluation.records import Figure, Interval, MaskResult
from training.evaluation.score import Translate, View, run, space_of, spread
from training.inference.translator import Translator
from training.rendering.fonts import legend
from training.rendering.grids import grid

FACES = 6  # rows of a grid
WORST = 12  # edits in the figure of worst edits
FIG7_FACES = 64  # images on which the success of Fig. 7 is measured


def _cells(images: Tensor) -> list[np.ndarray]:
    return list(images.cpu().numpy())


def samples(translator: Translate, faces: Faces, view: View, device: torch.device) -> Figure:
    """Fixed held-out images (rows) under every target (columns)."""
    chosen = spread(len(view.rows), FACES)
    part = faces.parts[view.dataset]
    before = part.images([view.rows[i] for i in chosen])
    x, source = to_float(before.to(device)), view.encode(view.source[chosen])
    columns = [_cells(before), _cells(run(translator, x, source, source))]
    columns += [
        _cells(run(translator, x, source, view.encode(task.target[chosen]))) for task in view.tasks
    ]
    titles = ["input", "reconstructed", *(task.name for task in view.tasks)]
    rows = [list(row) for row in zip(*columns, strict=True)]
    caption = (
        f"{view.labels.name}: held-out images and every edit. Hair colours are set, other "
        "attributes flipped; in combinations H, G, A stand for hair, gender, age."
        if view.labels.kind == "binary"
        else f"{view.labels.name}: held-out images and every target."
    )
    png = grid(rows, titles)
    return Figure(f"samples_{view.labels.name}.png", png, caption + legend(titles))


def model_previews(
    translator: Translate, faces: Faces, view: View, device: torch.device
) -> list[Figure]:
    """The model's own previews, on fixed held-out images; empty if it is no `Translator`."""
    if not isinstance(translator, Translator):
        return []
    space = translator.space
    rows = [view.rows[i] for i in spread(len(view.rows), PREVIEW_IMAGES)]
    batch = held_out(faces.parts[view.dataset], rows, space, device)
    previews = render_previews(translator.model, translator.nets, batch, space)
    return [
        Figure(f"samples_{view.labels.name}_{name}.png", png, f"{view.labels.name}: {caption}")
        for name, (png, caption) in previews.items()
    ]


def worst_edits(
    translator: Translate, faces: Faces, view: View, table: pd.DataFrame, device: torch.device
) -> Figure | None:
    """The single edits with the lowest judge margins, at most one per image; None without any."""
    mine = table[(table["dataset"] == view.labels.name) & table["single"] & table["changed"]]
    per_task = max(2, 2 * WORST // len([t for t in view.tasks if t.single]))
    ordered = mine.sort_values(["margin", "index"]).drop_duplicates("index")
    failed = ordered.groupby("task", sort=False).head(per_task).head(WORST)
    if failed.empty:
        return None
    tasks = {task.name: task for task in view.tasks}
    position_of = {row: i for i, row in enumerate(view.rows)}
    top, bottom, titles = [], [], []
    for index, name, success in zip(
        failed["index"], failed["task"], failed["success"], strict=True
    ):
        i = position_of[int(index)]
        before = faces.parts[view.dataset].images([int(index)])
        source, target = view.source[[i]], tasks[name].target[[i]]
        after = run(
            translator, to_float(before.to(device)), view.encode(source), view.encode(target)
        )
        top += _cells(before)
        bottom += _cells(after)
        on = view.labels.kind != "binary" or bool(target[0, view.labels.names.index(name)])
        titles.append(f"{'' if on else 'not '}{name}{' (succeeded)' if success else ''}")
    count = int((mine["success"] < 0.5).sum())
    caption = (
        f"{view.labels.name}: the {len(failed)} worst single edits by the judge's margin, one per "
        f"image and at most {per_task} per task. {count} of all {len(mine)} failed."
    )
    png = grid([top, bottom], titles, ["input", "edited"])
    return Figure(f"worst_{view.labels.name}.png", png, caption + legend(titles))


def _pairs(space: LabelSpace) -> list[tuple[int, int]]:
    """Index pairs (binary data set, one-hot data set) of a joint label space."""
    kinds = [s.kind for s in space.sets]
    return [
        (a, b)
        for a, x in enumerate(kinds)
        for b, y in enumerate(kinds)
        if x == "binary" and y == "onehot"
    ]


def _masked(space: LabelSpace, labels: int, mask: int, rows: int, k: int) -> Tensor:
    """c̃ (rows, dim_g) with class k of data set `labels` under the mask of data set `mask`."""
    out = torch.zeros(rows, space.dim_g)
    out[:, space.slice(labels).start + k] = 1
    out[:, space.dim_d + mask] = 1
    return out


def mask_figures(
    translator: Translate, faces: Faces, judge: Judge, views: list[View], config: EvalConfig
) -> tuple[list[Figure], list[MaskResult]]:
    """Fig. 7: expressions learned from one data set, transferred to faces of the other.

    With the proper mask the model uses the expression labels; with the wrong mask it uses the part
    of c̃ that is all zeros. The judge of the expressions measures how often an output shows its
    target; each face is edited to all k expressions, so ignoring the label scores 1/k.
    """
    space = space_of(translator, faces)
    pictures, results = [], []
    for a, b in _pairs(faces.space):
        shown, expressions = views[a], views[b].labels
        mine, theirs = space.index(shown.labels.name), space.index(expressions.name)
        part = faces.parts[a]
        chosen = spread(len(shown.rows), FIG7_FACES)
        rows = [shown.rows[i] for i in chosen]
        source = shown.encode(shown.source[chosen])
        x = to_float(part.images(rows).to(judge.device))
        picked = spread(len(rows), FACES)
        people = np.array([part.identity[r] or f"image {r}" for r in rows])
        rates: dict[str, tuple[float, Interval]] = {}
        for kind, mask in (("proper", theirs), ("wrong", mine)):
            hits, columns = [], [_cells(part.images([rows[i] for i in picked]))]
            for k in range(len(expressions.names)):
                out = run(translator, x, source, _masked(space, theirs, mask, len(rows), k))
                logits = judge.predict(views[b].judged, to_float(out))
                hits.append((logits.argmax(1) == k).cpu().numpy())
                columns.append(_cells(out[picked]))
            values = np.concatenate(hits).astype(float)
            clusters = np.tile(people, len(expressions.names))
            interval = proportion_interval(values, clusters, config.bootstrap)
            rates[kind] = float(values.mean()), interval
            lines = [list(row) for row in zip(*columns, strict=True)]
            caption = (
                f"Fig. 7, {kind} mask: faces of {shown.labels.name} edited to the expressions of "
                f"{expressions.name}. The judge sees the target in {100 * values.mean():.1f} %; "
                f"chance is {100 / len(expressions.names):.1f} %."
            )
            png = grid(lines, ["input", *expressions.names])
            name = f"fig7_{kind}_{shown.labels.name}_{expressions.name}.png"
            pictures.append(Figure(name, png, caption + legend(expressions.names)))
        results.append(
            MaskResult(
                shown.labels.name, expressions.name, len(rows), *rates["proper"], *rates["wrong"],
                1 / len(expressions.names),
            )
        )  # fmt: skip
    return pictures, results


def two_model_figure(
    translator: Translate,
    other: Translate,
    faces: Faces,
    mine: View,
    theirs: View,
    names: tuple[str, str],
    device: torch.device,
) -> Figure:
    """Fig. 6: the same faces and targets edited by two models, one above the other."""
    chosen = spread(len(mine.rows), FACES // 2)
    before = faces.parts[mine.dataset].images([mine.rows[i] for i in chosen])
    x = to_float(before.to(device))
    blocks = []
    for model, view in ((translator, mine), (other, theirs)):
        source = view.encode(view.source[chosen])
        columns = [_cells(before)] + [
            _cells(run(model, x, source, view.encode(task.target[chosen]))) for task in view.tasks
        ]
        blocks.append([list(row) for row in zip(*columns, strict=True)])
    rows = [row for pair in zip(*blocks, strict=True) for row in pair]
    titles = ["input", *(task.name for task in mine.tasks)]
    caption = (
        f"Fig. 6: the same held-out images of {mine.labels.name} by {names[0]} and {names[1]}."
    )
    sides = list(names) * len(chosen)
    caption += legend(titles, sides)
    return Figure(f"fig6_{mine.labels.name}.png", grid(rows, titles, sides), caption)

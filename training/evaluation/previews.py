"""Held-out images on which a model is inspected, and previews of its translations."""

import torch
from torch import Tensor

from training.data.batch import Batch
from training.data.dataset import Faces, Part, to_float, to_uint8
from training.data.labels import LabelSpace
from training.data.order import generator
from training.models.base import Model, Nets, Preview
from training.models.layers import eval_mode
from training.rendering.fonts import legend
from training.rendering.grids import animated, grid

SAMPLES = 4  # held-out images of each data set in the sample grids
VALIDATION = 64  # held-out images of each data set in the validation score
PREVIEW_IMAGES = 16  # held-out images that a model's own previews may use


def _no_noise(name: str, shape: tuple[int, ...]) -> Tensor:
    raise ValueError(f"held-out images are inspected without noise, but {name} was requested")


def shuffled(count: int, limit: int) -> list[int]:
    """At most `limit` of `count` rows in a fixed random order.

    Data may be sorted by label: the labels of neighbours would be the same.
    """
    order = torch.randperm(count, generator=generator(0, "held out", count))
    return order[:limit].tolist()


def held_out(part: Part, rows: list[int], space: LabelSpace, device: torch.device) -> Batch:
    """A batch of one data set, with its labels shifted by one row as targets; c̃ of `space`."""
    index, labels = space.index(part.name), part.labels[rows]
    source, target = (space.encode(c, index).to(device) for c in (labels, labels.roll(1, 0)))
    image, end = to_float(part.images(rows)).to(device), torch.ones((), dtype=torch.float64)
    return Batch(image, source, target, index, _no_noise, end.to(device))


@torch.no_grad()
def render_previews(
    model: Model, nets: Nets, batch: Batch, space: LabelSpace
) -> dict[str, tuple[bytes, str]]:
    """PNG and caption of each preview of the model; the networks must be in evaluation mode."""
    previews = model.previews(nets, batch, space)
    return {
        name: (preview_png(p), p.caption + legend(p.columns, () if p.moves else p.rows))
        for name, p in previews.items()
        if p.images.numel()
    }


def preview_png(preview: Preview) -> bytes:
    """PNG of a preview: a grid, or an animation with one row per frame."""
    columns = preview.images.shape[1]
    cells = list(to_uint8(preview.images.flatten(0, 1)).cpu().numpy())
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    if preview.moves:
        return animated([[row] for row in rows], preview.columns)
    return grid(rows, preview.columns, preview.rows)


@torch.no_grad()
def validation_score(model: Model, nets: Nets, faces: Faces, device: torch.device) -> float:
    """Mean validation score of the model over all data sets; the networks in evaluation mode."""
    scores, space = [], faces.space
    for part in faces.parts:
        batch = held_out(part, shuffled(len(part), VALIDATION), space, device)
        scores.append(model.validate(nets, batch, space))
    return float(torch.stack(scores).mean())


@torch.no_grad()
def sample_grids(model: Model, nets: Nets, faces: Faces, device: torch.device) -> dict[str, bytes]:
    """PNG by name: per data set, fixed held-out images (rows) under every single edit (columns).

    The model's own previews are named DATASET-NAME.
    """
    grids, space = {}, faces.space
    for index, part in enumerate(faces.parts):
        chosen = _evenly_spaced(len(part), SAMPLES)
        labels, images = part.labels[chosen], part.images(chosen)
        x = to_float(images).to(device)
        source = space.encode(labels, index).to(device)
        tasks = [t for t in space.tasks(labels, index) if t.single]
        columns = [images.cpu().numpy()]
        with eval_mode(nets):
            for task in tasks:
                target = space.encode(task.target, index).to(device)
                columns.append(to_uint8(model.translate(nets, x, source, target)).cpu().numpy())
            batch = held_out(part, _evenly_spaced(len(part), PREVIEW_IMAGES), space, device)
            previews = render_previews(model, nets, batch, space)
        rows = [[column[i] for column in columns] for i in range(len(chosen))]
        grids[part.name] = grid(rows, ["input", *(t.name for t in tasks)])
        grids |= {f"{part.name}-{name}": png for name, (png, _) in previews.items()}
    return grids


def _evenly_spaced(count: int, limit: int) -> list[int]:
    """At most `limit` of `count` rows, evenly spaced."""
    limit = min(limit, count)
    return [int(i * count / limit) for i in range(limit)]

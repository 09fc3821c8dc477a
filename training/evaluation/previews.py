"""What a model is looked at with: held-out images, and the pictures that it draws of itself."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from training.data.batch import Batch
from training.data.dataset import Faces, Part, to_float, to_uint8
from training.data.labels import LabelSpace
from training.models.base import Model, Nets, Picture
from training.rendering.grids import animated, grid

SAMPLES = 4  # held-out images of each data set in the sample grids
VALIDATION = 64  # held-out images of each data set in the validation score
SHOWN = 16  # held-out images that a model may choose from


def _no_noise(name: str, shape: tuple[int, ...]) -> Tensor:
    raise ValueError(f"held-out images are looked at without noise, but {name} was asked for")


def held_out(part: Part, rows: list[int], space: LabelSpace, device: torch.device) -> Batch:
    """Images of one data set, asked for each other's labels; c̃ as `space` numbers them."""
    index, labels = space.index(part.name), part.labels[rows]
    source, target = (space.encode(c, index).to(device) for c in (labels, labels.roll(1, 0)))
    return Batch(
        to_float(part.images(rows)).to(device), source, target, index, _no_noise, position=1.0
    )


@torch.no_grad()
def shown(
    model: Model, nets: Nets, batch: Batch, space: LabelSpace
) -> dict[str, tuple[bytes, str]]:
    """PNG and caption of each picture that the model draws of itself; nets at rest (eval)."""
    look = getattr(model, "shows", None)
    pictures: dict[str, Picture] = look(nets, batch, space) if look else {}
    return {n: (drawn(p), p.says) for n, p in pictures.items() if p.images.numel()}


def drawn(picture: Picture) -> bytes:
    """PNG of a Picture: a grid, or its rows one after the other."""
    columns = picture.images.shape[1]
    cells = list(to_uint8(picture.images.flatten(0, 1)).cpu().numpy())
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    if picture.moves:
        return animated([[row] for row in rows], picture.columns)
    return grid(rows, picture.columns, picture.rows)


@contextmanager
def still(nets: Nets) -> Iterator[Nets]:
    """The networks as they translate: nothing that they remember moves, and no process waits."""
    before = {name: net.training for name, net in nets.items()}
    for net in nets.values():
        net.eval()
    try:
        yield nets
    finally:
        for name, net in nets.items():
            net.train(before[name])


@torch.no_grad()
def validation_score(model: Model, nets: Nets, faces: Faces, device: torch.device) -> float:
    """Mean of the model's own score over held-out images of every data set; nets at rest (eval)."""
    scores, space = [], faces.space
    for part in faces.parts:
        batch = held_out(part, list(range(min(VALIDATION, len(part)))), space, device)
        scores.append(model.validate(nets, batch, space))
    return float(torch.stack(scores).mean())


@torch.no_grad()
def sample_grids(model: Model, nets: Nets, faces: Faces, device: torch.device) -> dict[str, bytes]:
    """PNG a data set: fixed held-out images (rows) under every single edit (columns).

    Beside it, as DATASET-NAME, what the model shows of itself.
    """
    grids, space = {}, faces.space
    for index, part in enumerate(faces.parts):
        chosen = _apart(len(part), SAMPLES)
        labels, images = part.labels[chosen], part.images(chosen)
        x = to_float(images).to(device)
        source = space.encode(labels, index).to(device)
        tasks = [t for t in space.tasks(labels, index) if t.single]
        columns = [images.cpu().numpy()]
        with still(nets):
            for task in tasks:
                target = space.encode(task.target, index).to(device)
                columns.append(to_uint8(model.translate(nets, x, source, target)).cpu().numpy())
            batch = held_out(part, _apart(len(part), SHOWN), space, device)
            own = shown(model, nets, batch, space)
        rows = [[column[i] for column in columns] for i in range(len(chosen))]
        grids[part.name] = grid(rows, ["input", *(t.name for t in tasks)])
        grids |= {f"{part.name}-{name}": png for name, (png, _) in own.items()}
    return grids


def _apart(count: int, most: int) -> list[int]:
    """At most `most` of `count` rows, evenly apart."""
    most = min(most, count)
    return [int(i * count / most) for i in range(most)]

"""What a model is looked at with: held-out images, and the pictures that it draws of itself."""

import torch
from torch import Tensor

from training.data.dataset import Part, to_float, to_uint8
from training.data.labels import LabelSpace
from training.models.base import Batch, Model, Nets, Picture
from training.pictures import animated, grid

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

"""What a face keeps under StarGAN v2's high-pass skips: two maps, from a landmark network.

The published network finds WFLW's 98 points; each part of the face is moved, sharpened and summed.
"""

import torch
from torch import Tensor

from training.models.layers import autocast_off
from training.pinned import pinned

POINTS = 98
LEAST = 0.1  # of a heat-map; what is less counts as nothing
# Points of a part; rows at 256 px that it moves down; the power that sharpens it.
PARTS = {
    "chin": (slice(0, 33), 0, 3),
    "brows": (slice(33, 51), -7, 2),
    "nostrils": (slice(55, 60), 8, 4),
    "eyes": (slice(60, 76), -8, 3),
    "upper lip": (slice(76, 83), -8, 4),
    "lower lip": (slice(83, 88), 8, 4),
    "inner lips": (slice(88, 96), -2, 3),
}
LIDS = -24  # rows at 256 px to where the eyes' points are kept once more
COARSE = ("chin", "brows", "upper lip", "lower lip", "inner lips")  # kept at 32 px only


def _down(maps: Tensor, rows: int) -> Tensor:
    """Moved by `rows` of 256, up where negative; nothing comes in at the edge."""
    moved = round(rows * maps.shape[2] / 256)
    out = torch.zeros_like(maps)
    if moved > 0:
        out[:, :, moved:] = maps[:, :, :-moved]
    elif moved < 0:
        out[:, :, :moved] = maps[:, :, -moved:]
    else:
        out.copy_(maps)
    return out


def kept(heat: Tensor) -> Tensor:
    """Heat-maps (n, 98, h, w) as (n, 2, h, w) in [0, 1]: kept at 32 px, and at 64 and 128 px."""
    heat = heat.where(heat >= LEAST, 0)
    low, high = heat.amin((2, 3), keepdim=True), heat.amax((2, 3), keepdim=True)
    whole = (heat - low) / (high - low).clamp_min(1e-12)
    fine = whole.clone()
    for name, (points, rows, power) in PARTS.items():
        part = whole[:, points]
        moved = _down(part, rows) ** power
        whole[:, points] = moved + _down(part, LIDS) if name == "eyes" else moved
        fine[:, points] = 0 if name in COARSE else whole[:, points]
    return torch.stack([whole.sum(1), fine.sum(1)], 1).clamp(0, 1)


class Landmarks:
    """A frozen TorchScript network; not among the weights that are trained.

    It takes (n, 3, s, s) in [-1, 1] and gives heat-maps (n, 98, h, w), or the two maps of `kept`.
    """

    def __init__(self, setting: str) -> None:
        self.net = pinned(setting, "landmarks")

    def __deepcopy__(self, memo: object) -> "Landmarks":
        return self  # averages share it

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Raises ValueError for any other number of maps."""
        with autocast_off(x):
            maps: Tensor = self.net.to(x.device)(x.float())
            if maps.shape[1] == POINTS:
                return kept(maps)
        if maps.shape[1] != 2:
            raise ValueError(
                f"landmarks: the network gives {maps.shape[1]} maps; {POINTS} heat-maps or 2 maps "
                "of what is kept are needed"
            )
        return maps

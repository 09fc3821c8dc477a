"""Facial masks for StarGAN v2's high-pass skips, computed from a landmark network.

The published network detects the 98 landmarks of WFLW; each facial part is shifted, sharpened and
summed into two masks.
"""

import torch
from torch import Tensor

from training.models.layers import autocast_off
from training.models.torchscript import pinned

POINTS = 98
THRESHOLD = 0.1  # heat-map values below it are set to 0
# Landmarks of a part; downward shift in rows at 256 px; exponent that sharpens it.
PARTS = {
    "chin": (slice(0, 33), 0, 3),
    "brows": (slice(33, 51), -7, 2),
    "nostrils": (slice(55, 60), 8, 4),
    "eyes": (slice(60, 76), -8, 3),
    "upper lip": (slice(76, 83), -8, 4),
    "lower lip": (slice(83, 88), 8, 4),
    "inner lips": (slice(88, 96), -2, 3),
}
EYELID_SHIFT = -24  # rows at 256 px of a second copy of the eyes
COARSE = ("chin", "brows", "upper lip", "lower lip", "inner lips")  # in the 32 px mask only


def _shift_down(maps: Tensor, rows: int) -> Tensor:
    """Shift maps (n, k, h, w) down by `rows` of 256, up if negative; fill with 0."""
    shift = round(rows * maps.shape[2] / 256)
    out = torch.zeros_like(maps)
    if shift > 0:
        out[:, :, shift:] = maps[:, :, :-shift]
    elif shift < 0:
        out[:, :, :shift] = maps[:, :, -shift:]
    else:
        out.copy_(maps)
    return out


def face_masks(heat: Tensor) -> Tensor:
    """Convert heat-maps (n, 98, h, w) to masks (n, 2, h, w) in [0, 1].

    The first is for features at 32 px, the second for those at 64 and 128 px.
    """
    heat = heat.where(heat >= THRESHOLD, 0)
    low, high = heat.amin((2, 3), keepdim=True), heat.amax((2, 3), keepdim=True)
    whole = (heat - low) / (high - low).clamp_min(1e-12)
    fine = whole.clone()
    for name, (points, rows, power) in PARTS.items():
        part = whole[:, points]
        shifted = _shift_down(part, rows) ** power
        eyes = name == "eyes"
        whole[:, points] = shifted + _shift_down(part, EYELID_SHIFT) if eyes else shifted
        fine[:, points] = 0 if name in COARSE else whole[:, points]
    return torch.stack([whole.sum(1), fine.sum(1)], 1).clamp(0, 1)


class Landmarks:
    """A frozen TorchScript landmark network, which is not part of the trained weights.

    The network maps (n, 3, s, s) in [-1, 1] to heat-maps (n, 98, h, w), or directly to the two
    masks (n, 2, h, w) of `face_masks`.
    """

    def __init__(self, setting: str) -> None:
        self.net = pinned(setting, "landmarks")

    def __deepcopy__(self, memo: object) -> "Landmarks":
        return self  # shared with the moving averages

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Masks (n, 2, h, w). Raises ValueError for any other number of maps."""
        with autocast_off(x):
            maps: Tensor = self.net.to(x.device)(x.float())
            if maps.shape[1] == POINTS:
                return face_masks(maps)
        if maps.shape[1] != 2:
            raise ValueError(
                f"landmarks: the network returns {maps.shape[1]} maps; {POINTS} heat-maps or 2 "
                "masks are needed"
            )
        return maps

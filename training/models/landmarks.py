"""Facial masks for StarGAN v2's high-pass skips, computed from a landmark network.

The published network detects the 98 landmarks of WFLW; each facial part is moved, sharpened and
summed into two masks, as in the published code. Rows that leave the map enter at its other end.
"""

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from training.core.references import split_digest
from training.models.fan import FAN
from training.models.layers import autocast_off
from training.models.torchscript import checked, pinned

SUFFIX = ".safetensors"  # of the published network's tensors; other files are TorchScript

POINTS = 98
SIDE = 256  # px of the maps in which `PARTS` counts rows
THRESHOLD = 0.1  # heat-map values below it are set to 0
EPS = 1e-6  # of the min-max normalisation
# Landmarks of a part, rows to move it down (negative: up), exponent that sharpens it.
PARTS = {
    "chin": (slice(8, 25), 0, 3),
    "brows": (slice(33, 51), 7, 2),
    "nose": (slice(52, 55), -4, 1),
    "nostrils": (slice(55, 60), -8, 4),
    "upper lip": (slice(77, 82), 8, 4),
    "lower lip": (slice(83, 88), -8, 4),
    "inner lips": (slice(88, 96), 2, 3),
}
EYES = slice(60, 76)  # the sum of two copies; their rows do not grow with the map
EYE_ROWS, EYE_POWER, EYELID_ROWS = 8, 3, 24
# Sides of the face and the first brow's outer end; the second's; corners of the mouth.
UNUSED = (slice(8), slice(25, 34), slice(46, 47), slice(76, 77), slice(82, 83))
COARSE = (slice(8, 25), slice(33, 51), slice(76, 96))  # in the 32 px mask only


def face_masks(heat: Tensor, size: int) -> Tensor:
    """Convert heat-maps (n, 98, h, h) of images of `size` px to masks (n, 2, s, s) in [0, 1].

    The first is for features at 32 px, the second for those at 64 and 128 px. s is the larger of
    `size` and 256: the published code, made for 256 px and more, would not move most parts below.
    """
    side = max(size, SIDE)
    if heat.shape[2] != side:
        heat = F.interpolate(heat, (side, side), mode="bilinear", align_corners=True)
    heat = heat.where(heat >= THRESHOLD, 0)
    low, high = heat.amin((2, 3), keepdim=True), heat.amax((2, 3), keepdim=True)
    whole = (heat - low) / (high - low + EPS)
    for points, rows, power in PARTS.values():
        whole[:, points] = whole[:, points].roll(rows * (side // SIDE), 2) ** power
    eyes = whole[:, EYES]
    whole[:, EYES] = eyes.roll(EYE_ROWS, 2) ** EYE_POWER + eyes.roll(EYELID_ROWS, 2)
    for points in UNUSED:
        whole[:, points] = 0
    fine = whole.clone()
    for points in COARSE:
        fine[:, points] = 0
    return torch.stack([whole.sum(1), fine.sum(1)], 1).clamp(0, 1)


def _published(setting: str) -> nn.Module:
    """The published network with the tensors of PATH@SHA256. Raises ValueError if they differ."""
    path = checked(setting, "landmarks")
    with torch.device("meta"):
        net = FAN()
    try:
        with torch.device("cpu"):
            net.load_state_dict(load_file(path), assign=True)
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path}: not the tensors of StarGAN v2's landmark network ({reason}); make it with "
            "python -m training.convert landmarks"
        ) from error
    return net.eval().requires_grad_(False)


class Landmarks:
    """A frozen landmark network, which is not part of the trained weights.

    It is the published one, of a safetensors file, or any TorchScript that maps (n, 3, s, s) in
    [-1, 1] to heat-maps (n, 98, h, w), or directly to the two masks (n, 2, s, s) of `face_masks`.
    """

    def __init__(self, setting: str) -> None:
        own = split_digest(setting)[0].endswith(SUFFIX)
        self.net = _published(setting) if own else pinned(setting, "landmarks")

    def __deepcopy__(self, memo: object) -> "Landmarks":
        return self  # shared with the moving averages

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Masks (n, 2, h, w). Raises ValueError for any other number of maps."""
        with autocast_off(x):
            maps: Tensor = self.net.to(x.device)(x.float())
            if maps.shape[1] == POINTS:
                return face_masks(maps, x.shape[2])
        if maps.shape[1] != 2:
            raise ValueError(
                f"landmarks: the network returns {maps.shape[1]} maps; {POINTS} heat-maps or 2 "
                "masks are needed"
            )
        return maps

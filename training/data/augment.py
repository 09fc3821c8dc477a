"""Random crops of training images with the papers' settings, from given random numbers."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["none", "shift", "zoom"]
SHIFT = 256 / 286  # of the side: CycleGAN's 286 to 256 px; AttGAN's 143 to 128 is the same


def crop_boxes(uniform: Tensor, kind: Kind) -> Tensor:
    """Crop boxes (n, 4): centre x, y and half width, height, in [-1, 1].

    `uniform`: (n, 5) random numbers in [0, 1). shift: a square of `SHIFT` of the side, anywhere.
    zoom: with probability ½ a box of 0.8 to 1 of the area and an aspect ratio, uniform in its
    logarithm, of 0.9 to 1.1 (StarGAN v2); otherwise the whole image.
    """
    decision, area, ratio, x, y = uniform.unbind(1)
    if kind == "shift":
        width = height = torch.full_like(decision, SHIFT)
    else:
        low, high = math.log(0.9), math.log(1.1)
        root, tilt = (0.8 + 0.2 * area).sqrt(), torch.exp((low + (high - low) * ratio) / 2)
        width, height = (root * tilt).clamp(max=1), (root / tilt).clamp(max=1)
        unchanged = decision < 0.5
        width, height = (torch.where(unchanged, 1.0, side) for side in (width, height))
    return torch.stack([(1 - width) * (2 * x - 1), (1 - height) * (2 * y - 1), width, height], 1)


def cropped(images: Tensor, box: Tensor) -> Tensor:
    """Crop images (n, 3, s, s) to boxes (n, 4) and resize each crop to s × s.

    Bilinear, as in the papers' code.
    """
    theta = images.new_zeros((len(images), 2, 3))
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = box[:, 2], box[:, 3], box[:, :2]
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    resized = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    whole = (box[:, 2:] == 1).all(1)[:, None, None, None]
    return torch.where(whole, images, resized)

"""Random crops of training images, as the papers publish them: a function of the numbers given."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["none", "shift", "zoom"]
SHIFT = 256 / 286  # of the side: CycleGAN's 286 to 256 px; AttGAN's 143 to 128 is the same


def boxes(uniform: Tensor, kind: Kind) -> Tensor:
    """Squares or rectangles to show (n, 4): centre x, y and half width, height, in [-1, 1].

    Of `uniform` (n, 5) in [0, 1). shift: `SHIFT` of the side, anywhere. zoom: with probability ½
    0.8 to 1 of the area, the logarithm of the sides' ratio within that of 0.9 to 1.1 (StarGAN v2).
    """
    coin, area, ratio, x, y = uniform.unbind(1)
    if kind == "shift":
        width = height = torch.full_like(coin, SHIFT)
    else:
        low, high = math.log(0.9), math.log(1.1)
        root, tilt = (0.8 + 0.2 * area).sqrt(), torch.exp((low + (high - low) * ratio) / 2)
        width, height = (root * tilt).clamp(max=1), (root / tilt).clamp(max=1)
        still = coin < 0.5
        width, height = (torch.where(still, 1.0, side) for side in (width, height))
    return torch.stack([(1 - width) * (2 * x - 1), (1 - height) * (2 * y - 1), width, height], 1)


def shown(images: Tensor, uniform: Tensor, kind: Kind) -> Tensor:
    """(n, 3, s, s) of which each shows its box at full size; bilinear, as the papers' loaders."""
    place = boxes(uniform, kind).to(images.device)
    theta = images.new_zeros((len(images), 2, 3))
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = place[:, 2], place[:, 3], place[:, :2]
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    cut = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    whole = (place[:, 2:] == 1).all(1)[:, None, None, None]
    return torch.where(whole, images, cut)

"""Random crops of training images with the papers' settings, from given random numbers."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["none", "shift", "zoom"]
TRIES = 10  # of a zoom's area and aspect ratio
NUMBERS = 5 + 2 * (TRIES - 1)  # decision, area, ratio, x, y; area and ratio of each further try


def corners(uniform: Tensor, spare: int) -> Tensor:
    """crop=shift: left, top (n, 2) of windows, whole pixels from 0 to `spare`, each as likely.

    `uniform`: (n, NUMBERS) random numbers in [0, 1). As in CycleGAN's and AttGAN's code, the
    picture is larger than the window by `spare` px a side.
    """
    return (uniform[:, 3:5] * (spare + 1)).long().clamp(max=spare)


def windows(images: Tensor, corner: Tensor, size: int) -> Tensor:
    """The `size` × `size` px at corners (n, 2) of images (n, H, W, 3): their pixels as they are."""
    at = torch.arange(size, device=images.device)
    left, top = (corner[:, k, None] + at for k in range(2))
    rows = torch.arange(len(images), device=images.device)[:, None, None]
    return images[rows, top[:, :, None], left[:, None]]


def crop_boxes(uniform: Tensor) -> Tensor:
    """crop=zoom: boxes (n, 4): centre x, y and half width, height, in [-1, 1].

    `uniform`: (n, NUMBERS) random numbers in [0, 1). With probability ½ a box of 0.8 to 1 of the
    area and an aspect ratio, uniform in its logarithm, of 0.9 to 1.1 (StarGAN v2); otherwise the
    whole image. As in torchvision, a box that would leave the image is drawn anew, up to `TRIES`
    times, then the image is left whole.
    """
    decision, x, y = uniform[:, 0], uniform[:, 3], uniform[:, 4]
    area = torch.cat([uniform[:, 1:2], uniform[:, 5::2]], 1)
    ratio = torch.cat([uniform[:, 2:3], uniform[:, 6::2]], 1)
    low, high = math.log(0.9), math.log(1.1)
    root, tilt = (0.8 + 0.2 * area).sqrt(), torch.exp((low + (high - low) * ratio) / 2)
    sides = torch.stack([root * tilt, root / tilt], 2)  # (n, TRIES, 2)
    fits = (sides <= 1).all(2)
    width, height = sides[torch.arange(len(sides)), fits.int().argmax(1)].unbind(1)
    unchanged = (decision < 0.5) | ~fits.any(1)
    width, height = (torch.where(unchanged, 1.0, side) for side in (width, height))
    return torch.stack([(1 - width) * (2 * x - 1), (1 - height) * (2 * y - 1), width, height], 1)


def cropped(images: Tensor, box: Tensor) -> Tensor:
    """Crop images (n, 3, s, s) to boxes (n, 4) and resize each crop to s × s.

    Bilinear, as in StarGAN v2's code.
    """
    theta = images.new_zeros((len(images), 2, 3))
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = box[:, 2], box[:, 3], box[:, :2]
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    resized = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    whole = (box[:, 2:] == 1).all(1)[:, None, None, None]
    return torch.where(whole, images, resized)

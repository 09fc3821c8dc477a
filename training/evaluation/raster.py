"""Checkerboards and stripes: spectral peaks at the periods of a network's upsampling.

A decoder that doubles its image with stride-2 (transposed) convolutions leaves patterns that
repeat every 2, 4, … px (Odena et al. 2016, "Deconvolution and checkerboard artifacts"). In the
spectrum they are lines at the frequencies (k/p, l/p) cycles per px, whatever the picture shows; a
picture's own content is smooth there. Each line's power is measured above its neighbourhood's.
"""

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

PERIODS = (2, 4)  # px
NEAR = 1  # bins to each side that hold a line's power: the main lobe of a Hann window
RING = 3  # bins to each side from which the neighbourhood is taken, without those of NEAR
REFERENCE = 30  # real images whose mean is a reference; that of fewer is mostly chance
PAIRED = 4 / math.pi  # 1 / E[√(xy)] of two exponential variables with mean 1
LUMINANCE = (0.299, 0.587, 0.114)  # of R, G and B (BT.601)


def periods(size: int) -> tuple[int, ...]:
    """Those of `PERIODS` px that divide `size` and whose lines lie apart from each other."""
    return tuple(p for p in PERIODS if size % p == 0 and size // p > 2 * RING)


def lines(size: int) -> list[tuple[int, int]]:
    """Bins (row, column) of the lines, one of each pair of conjugates and without frequency 0."""
    steps = {size // p * k for p in periods(size) for k in range(p)}
    found = {(u, v) for u in steps for v in steps if (u, v) != (0, 0)}
    return sorted(b for b in found if b <= (-b[0] % size, -b[1] % size))


@cache
def _bins(size: int) -> list[tuple[Tensor, Tensor, Tensor, int, bool]]:
    """Of each line: its bins, its neighbourhood and the reflection of that through the line (flat
    indices), the number of bins with those of its conjugate, and whether it is its own."""
    out = []
    for u, v in lines(size):
        # along an axis only its own rows or columns: edges, and the picture's borders, lie there
        high, wide = (NEAR if u == 0 else RING), (NEAR if v == 0 else RING)
        steps = [(i, j) for i in range(-high, high + 1) for j in range(-wide, wide + 1)]
        here = [s for s in steps if max(map(abs, s)) <= NEAR]
        around = [s for s in steps if max(map(abs, s)) > NEAR]

        def flat(offsets: list[tuple[int, int]], sign: int = 1, u: int = u, v: int = v) -> Tensor:
            return torch.tensor(
                [(u + sign * i) % size * size + (v + sign * j) % size for i, j in offsets]
            )

        own = (-u % size, -v % size) == (u, v)
        out.append((flat(here), flat(around), flat(around, -1), len(here) * (1 if own else 2), own))
    return out


def spectrum(images: Tensor) -> Tensor:
    """Power (n, s, s), grey levels², of the luminance of uint8 images (n, s, s, 3).

    The sum over all bins is the mean square of the picture under a Hann window, so that a pattern
    of amplitude a grey levels (root mean square) adds a² at its frequency and the bins beside it.
    """
    size = images.shape[1]
    grey = images.to(torch.float32) @ torch.tensor(LUMINANCE).to(images.device)
    grey = grey - grey.mean((1, 2), keepdim=True)
    taper = torch.hann_window(size).to(grey)
    window = taper[:, None] * taper[None, :]
    transform = torch.fft.fft2(grey * window)
    return transform.abs().square() / (size**2 * window.square().sum())


def excess(images: Tensor) -> np.ndarray:
    """Power of each line above its neighbourhood, float32 (n, lines), grey levels².

    uint8 images (n, s, s, 3). Zero on average for pictures without a raster, so single values may
    be negative. ValueError if the size is not a multiple of any period.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != images.shape[2]:
        raise ValueError(
            f"images of {images.dtype} {tuple(images.shape)}; expected uint8 (n, s, s, 3)"
        )
    size = images.shape[1]
    if not lines(size):
        raise ValueError(f"images of {size} px: none of the periods {PERIODS} px divides the side")
    power = spectrum(images).flatten(1)
    found = []
    for here, around, opposite, count, own in _bins(size):
        level = (power[:, around] * power[:, opposite]).sqrt().mean(1)
        if not own:
            level = level * PAIRED
        found.append((power[:, here].mean(1) - level) * count)
    return np.asarray(torch.stack(found, 1).cpu().numpy())


def amplitude(lines_excess: np.ndarray) -> np.ndarray:
    """Root mean square of the raster, grey levels (…,), from mean excesses (…, lines)."""
    return np.asarray(np.sqrt(np.clip(lines_excess, 0, None).sum(-1)))

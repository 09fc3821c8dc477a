"""How much of a picture an edit changes outside of what the edit is about.

What an edit is about is where real pictures with and without its label differ on average: hair for
a hair colour, jaw and hair for the gender. A model that paints a new picture with the requested
label succeeds and may look real, but it changes everything else as well.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.dataset import Part
from training.data.labels import LabelSet
from training.evaluation.score import spread

ENERGY = 0.8  # share of the squared mean difference that lies inside
IMAGES = 2_000  # training images from which the differences are computed
LEAST = 8  # images on each side; with fewer the difference is mostly noise
CHUNK = 64


def _shown(part: Part, labels: LabelSet, rows: list[int]) -> Tensor:
    """Bool (n, k): which images show each label; of intensities those above the median."""
    values = part.labels[rows]
    if labels.kind == "continuous":
        return values > values.median(0).values
    return values > 0.5


def outsides(part: Part, labels: LabelSet) -> dict[str, Tensor]:
    """Of each label the pixels (s, s) bool outside of what its edits are about.

    Inside is the smallest set of pixels with 80 % of the energy of the mean difference between
    images of `part` (the train split) with and without the label, smoothed and enlarged by a
    32nd of the side. The energy that chance gives is subtracted. Labels with fewer than 8 images on
    a side, and labels that concern every pixel, are left out.
    """
    rows = spread(len(part), IMAGES)
    shown = _shown(part, labels, rows).double()
    weights = torch.cat([shown, torch.ones(len(rows), 1).double()], 1)
    side = part.side
    sums, squares = (torch.zeros(len(labels.names) + 1, side * side * 3).double() for _ in "12")
    for start in range(0, len(rows), CHUNK):
        pixels = part.images(rows[start : start + CHUNK]).cpu().flatten(1).double()
        share = weights[start : start + CHUNK].T
        sums += share @ pixels
        squares += share @ pixels.square()
    out = {}
    for i, name in enumerate(labels.names):
        count = float(shown[:, i].sum())
        if min(count, len(rows) - count) < LEAST:
            continue
        sides = ((sums[i], squares[i], count),
                 (sums[-1] - sums[i], squares[-1] - squares[i], len(rows) - count))  # fmt: skip
        means = [total / n for total, _, n in sides]
        chance = sum(
            (square / n - mean.square()) / (n - 1)
            for (_, square, n), mean in zip(sides, means, strict=True)
        )
        energy = (means[0] - means[1]).square() - chance
        outside = ~_inside(energy.view(side, side, 3).sum(2))
        if outside.any():
            out[name] = outside
    return out


def _inside(energy: Tensor) -> Tensor:
    """The smallest set of pixels (s, s) with 80 % of the smoothed energy, enlarged."""
    side = len(energy)
    width, reach = 2 * (side // 32) + 1, side // 32
    padded = F.pad(energy[None, None], (width // 2,) * 4, mode="replicate")
    smooth = F.avg_pool2d(padded, width, 1)[0, 0].clamp(min=0).flatten()
    order = smooth.argsort(descending=True)
    cumulated = smooth[order].cumsum(0)
    kept = torch.zeros(side * side)
    kept[order[: int((cumulated < ENERGY * cumulated[-1]).sum()) + 1]] = 1
    grown = F.max_pool2d(kept.view(1, 1, side, side), 2 * reach + 1, 1, reach)
    return grown[0, 0] > 0


def changed(before: Tensor, after: Tensor, outside: Tensor) -> np.ndarray:
    """Change outside relative to the input's own contrast there, in 0..1, float64 (n,).

    Σ (after − before)² / Σ (before − its mean)² over the pixels `outside` (s, s) of uint8 images
    (n, s, s, 3), at most 1: as different as another picture. 0 if nothing changes.
    """
    x, y = (v.to(outside.device)[:, outside].double() for v in (before, after))
    contrast = (x - x.mean(1, keepdim=True)).square().sum((1, 2))
    difference = (y - x).square().sum((1, 2))
    # a plain background: any change of more than a grey level a pixel counts fully
    least = torch.tensor(float(x[0].numel() if len(x) else 1)).double()
    return (difference / torch.maximum(contrast, least)).clamp(max=1).cpu().numpy()

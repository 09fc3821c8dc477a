"""Discriminators of MUNIT and DRIT: patch scores at several scales, and losses summed over them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.losses import relativistic
from training.models.slope import Back, pull, rule


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution with reflection padding; (n, outputs, s / stride, s / stride)."""
    padding = (kernel - 1) // 2
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, padding_mode="reflect")


class Discriminator(nn.Module):
    """Images (n, 3, s, s) -> patch scores at each of several scales, each half of the last."""

    def __init__(self, dim: int, layers: int, scales: int, slope: float = 0.2) -> None:
        super().__init__()
        self.scales = nn.ModuleList()
        for _ in range(scales):
            parts: list[nn.Module] = []
            width = 3
            for i in range(layers):
                parts += [conv(width, dim << i, 4, 2), nn.LeakyReLU(slope)]
                width = dim << i
            self.scales.append(nn.Sequential(*parts, nn.Conv2d(width, 1, 1)))
        self.pool = nn.AvgPool2d(3, 2, 1, count_include_pad=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        out: list[Tensor] = []
        for net in self.scales:
            if out:
                x = self.pool(x)
            out.append(net(x).float())
        return out

    def score_path(self) -> nn.Module:
        return MeanScores(self)


class MeanScores(nn.Module):
    """Images (n, 3, s, s) -> the sum over scales of each image's mean score (n,)."""

    def __init__(self, d: Discriminator) -> None:
        super().__init__()
        self.d = d

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([scores.flatten(1).mean(1) for scores in self.d(x)]).sum(0)


@rule(MeanScores, piecewise_linear=True)
def _mean_scores(net: MeanScores, x: Tensor) -> tuple[Tensor, Back]:
    means: list[Tensor] = []
    backs: list[tuple[Back, Back, torch.Size]] = []
    for layers in net.d.scales:
        pool: Back = _unchanged
        if means:
            x, pool = pull(net.d.pool, x)
        scores, back = pull(layers, x)
        means.append(scores.flatten(1).mean(1))
        backs.append((pool, back, scores.shape))

    def whole(g: Tensor) -> Tensor:
        slope = torch.zeros(())
        for pool, back, shape in reversed(backs):
            each = (g / shape[1:].numel())[:, None, None, None].expand(shape)
            slope = pool(slope + back(each))
        return slope

    return torch.stack(means).sum(0), whole


def _unchanged(g: Tensor) -> Tensor:
    return g


def squares(scores: Sequence[Tensor], aim: float) -> Tensor:
    """Σ over scales of E[(score − aim)²]."""
    return torch.stack([(one - aim).square().mean() for one in scores]).sum()


def judged(d: nn.Module, *images: Tensor) -> list[list[Tensor]]:
    """D's logits at every scale for each of the images (n, 3, s, s), in one pass: no norm."""
    scores = [scale.chunk(len(images)) for scale in d(torch.cat(images))]
    return [list(scales) for scales in zip(*scores, strict=True)]


def real_loss(scores: list[Tensor]) -> Tensor:
    """Σ over scales of −E[log D]."""
    return torch.stack([F.softplus(-s).mean() for s in scores]).sum()


def fake_loss(scores: list[Tensor]) -> Tensor:
    """Σ over scales of −E[log(1 − D)]."""
    return torch.stack([F.softplus(s).mean() for s in scores]).sum()


def paired_loss(higher: Sequence[Tensor], lower: Sequence[Tensor]) -> Tensor:
    """Σ over scales of `relativistic`."""
    pairs = zip(higher, lower, strict=True)
    return torch.stack([relativistic(first, second) for first, second in pairs]).sum()

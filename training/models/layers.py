"""Blocks and penalties of the papers, in their notation."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def autocast_off(tensor: Tensor) -> torch.autocast:
    """Full precision for what follows: penalties, losses and the critic's heads."""
    return torch.autocast(tensor.device.type, enabled=False)


def norm(channels: int) -> nn.GroupNorm:
    """Instance norm with weights and without running statistics, so that eval equals train.

    Written as a group norm of one channel a group: the same function and parameters, but its
    kernels take channels-last as it lies, where InstanceNorm2d copies there and back.

    The reference tracks running statistics that are wrong at test time (models.md 1.5 no. 6).
    """
    return nn.GroupNorm(channels, channels)


class Residual(nn.Module):
    """x + IN(Conv3(ReLU(IN(Conv3(x))))), no activation after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            norm(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            norm(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, alpha: Tensor
) -> Tensor:
    """WGAN-GP: mean over the batch of (‖∇_x̂ Σ critic(x̂)‖₂ − 1)², x̂ = α·real + (1 − α)·fake.

    `alpha` is (n, 1, 1, 1) in [0, 1). The sum runs over the patches of the critic's map. Always
    in full precision; differentiable (it holds a double backward).
    """
    with autocast_off(real):
        mixed = (alpha * real.float() + (1 - alpha) * fake.float()).requires_grad_(True)
        (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
        return (slope.flatten(1).norm(2, dim=1) - 1).square().mean()

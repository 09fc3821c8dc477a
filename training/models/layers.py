"""Blocks and penalties of the papers, in their notation."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from training.data.labels import LabelSpace


def autocast_off(tensor: Tensor) -> torch.autocast:
    """Full precision for what follows: penalties, losses and the critic's heads."""
    return torch.autocast(tensor.device.type, enabled=False)


@contextmanager
def eval_mode(nets: dict[str, nn.Module]) -> Iterator[None]:
    """Networks in evaluation mode within the block; their modes are restored afterwards."""
    before = {name: net.training for name, net in nets.items()}
    for net in nets.values():
        net.eval()
    try:
        yield
    finally:
        for name, net in nets.items():
            net.train(before[name])


def norm(channels: int) -> nn.GroupNorm:
    """Instance norm with weights and without running statistics, so that eval equals train.

    Written as a group norm of one channel a group: the same function and parameters, but its
    kernels take channels-last as it lies, where InstanceNorm2d copies there and back.

    The reference tracks running statistics that are wrong at test time (models.md 1.5 no. 6).
    """
    return nn.GroupNorm(channels, channels)


class _AllReduce(torch.autograd.Function):
    """The sum over all processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        out = value.clone()
        dist.all_reduce(out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        out = grad.clone()
        dist.all_reduce(out)
        return out


def _summed(value: Tensor) -> Tensor:
    """The sum over all processes."""
    out: Tensor = _AllReduce.apply(value)  # type: ignore[no-untyped-call]
    return out


class BatchNorm(nn.BatchNorm2d):
    """Batch norm over the whole global batch; torch's SyncBatchNorm refuses the CPU."""

    def forward(self, x: Tensor) -> Tensor:
        apart = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        if not (self.training and apart):
            return super().forward(x)
        with autocast_off(x):
            x = x.float()
            count = _summed(x.new_full((1,), x.numel() / x.shape[1]))
            mean = (_summed(x.sum((0, 2, 3))) / count)[:, None, None]
            spread = _summed((x - mean).square().sum((0, 2, 3)))
            self._remember(mean.flatten().detach(), (spread / (count - 1)).detach())
            scale = (self.weight * (spread / count + self.eps).rsqrt())[:, None, None]
            return (x - mean) * scale + self.bias[:, None, None]

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        for running, value in ((self.running_mean, mean), (self.running_var, variance)):
            if running is not None:
                running.lerp_(value, self.momentum or 0.0)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


class Signed(nn.Module):
    """c̃ (n, dim_g) with each known label in [-1, 1] instead of [0, 1], and unknown ones at 0."""

    known: Tensor
    beside: Tensor  # which labels cannot be 1 beside a label

    def __init__(self, space: LabelSpace) -> None:
        super().__init__()
        self.dim_d = space.dim_d
        known = torch.zeros(len(space.sets), space.dim_d)
        beside = torch.zeros(space.dim_d, space.dim_d)
        for index, part in enumerate(space.sets):
            known[index, space.slice(index)] = 1.0
            for i, name in enumerate(part.names):
                others = range(len(part.names)) if part.kind == "onehot" else part.group(name)
                start = space.slice(index).start
                beside[start + i, [start + j for j in others if j != i]] = 1.0
        self.register_buffer("known", known, persistent=False)
        self.register_buffer("beside", beside, persistent=False)

    def forward(self, c: Tensor) -> Tensor:
        labels, mask = c[:, : self.dim_d], c[:, self.dim_d :]
        known = mask @ self.known if len(self.known) > 1 else self.known
        return torch.cat([(2 * labels - 1) * known, mask], 1)

    def edited(self, source: Tensor, target: Tensor) -> Tensor:
        """Which columns of c̃ are known labels that change: (n, dim_g), bool."""
        labels = (torch.arange(target.shape[1]) < self.dim_d).to(target.device)
        known: Tensor = self(target) != 0
        return (source != target) & labels & known

    def asked(self, source: Tensor, target: Tensor) -> Tensor:
        """The changed labels but those that only make room: Black_Hair, where Blond_Hair comes."""
        changed, d = self.edited(source, target), self.dim_d
        comes = (changed & (target > source))[:, :d].float()
        room = F.pad((comes @ self.beside) > 0, (0, target.shape[1] - d))
        return changed & ~(room & (target < source))


def normal(uniform: Tensor) -> Tensor:
    """Standard normal numbers of uniform ones in [0, 1)."""
    return math.sqrt(2) * torch.erfinv((2 * uniform - 1).clamp(-1 + 1e-6, 1 - 1e-6))


def tiled(labels: Tensor, like: Tensor) -> Tensor:
    """(n, c) as planes of the height and width of `like`."""
    return labels[:, :, None, None].to(like.dtype).expand(-1, -1, *like.shape[2:])


def label_loss(logits: Tensor, labels: Tensor, dataset: int, space: LabelSpace) -> Tensor:
    """Mean over the batch and the labels of the current data set's own part.

    Binary: cross entropy; one-hot: softmax cross entropy; continuous: squared error.
    """
    part = space.slice(dataset)
    logits, labels = logits[:, part], labels[:, part]
    kind = space.sets[dataset].kind
    if kind == "binary":
        return F.binary_cross_entropy_with_logits(logits, labels)
    if kind == "onehot":
        return F.cross_entropy(logits, labels.argmax(1))
    return F.mse_loss(logits, labels)


def xavier(net: nn.Module) -> None:
    """Xavier uniform weights and zero biases for every convolution and linear layer."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def narrow_normal(net: nn.Module) -> None:
    """Convolutions' weights from N(0, 0.02), batch norms' from N(1, 0.02), biases 0."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | BatchNorm):
            nn.init.normal_(layer.weight, float(isinstance(layer, BatchNorm)), 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def check_halvings(size: int, times: int) -> None:
    """Raises ValueError for a side that a critic of `times` strided layers cannot halve."""
    if size % (1 << times) or size % 4:
        raise ValueError(
            f"size={size}: a multiple of {1 << times} is needed "
            f"(2^d_repeat_num; D halves the image {times} times)"
        )


def check_power_of_two(size: int) -> None:
    """Raises ValueError for a side that is not a power of two from 16 px."""
    if size < 16 or size & (size - 1):
        raise ValueError(f"size={size}: a power of two, at least 16, is needed")


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
        out: Tensor = x + self.body(x)
        return out


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
        out: Tensor = (slope.flatten(1).norm(2, dim=1) - 1).square().mean()
        return out

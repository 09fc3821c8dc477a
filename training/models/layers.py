"""Layers and initialisations shared by the models, in the papers' notation."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Annotated, Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from training.data.labels import LabelSpace
from training.data.memory_format import memory_order
from training.models.kernels import Norm

# Settings of a G that are not in the papers, for short trainings.
Upsampling = Annotated[
    Literal["transposed", "resize"],
    Field(
        description="of G: transposed convolution (published), or resize and convolution, "
        "which leaves no checkerboard"
    ),
]
Output = Annotated[
    Literal["image", "residual"],
    Field(
        description="of G: the image (published), or the change of its input, so that "
        "training starts with sharp copies"
    ),
]
LabelNorms = Annotated[
    bool,
    Field(
        description="G's norms take the labels as well (conditional instance norm), which "
        "otherwise remove constant label planes but at the border"
    ),
]


def autocast_off(tensor: Tensor) -> AbstractContextManager[object]:
    """Disable autocast: penalties, losses and the critic's heads run in full precision."""
    if tensor.is_meta:  # has no autocast
        return nullcontext()
    return torch.autocast(tensor.device.type, enabled=False)


def place(net: nn.Module, device: torch.device) -> None:
    """Move a network to the device, in the memory format of its images there."""
    net.to(device, memory_format=memory_order(device))  # type: ignore[call-overload]


@contextmanager
def eval_mode(nets: dict[str, nn.Module]) -> Iterator[None]:
    """Put the networks in evaluation mode; restore their modes on exit."""
    before = {name: net.training for name, net in nets.items()}
    for net in nets.values():
        net.eval()
    try:
        yield
    finally:
        for name, net in nets.items():
            net.train(before[name])


class _AllReduce(torch.autograd.Function):
    """Sum over all processes; the gradient is summed likewise."""

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


def _all_reduce(value: Tensor) -> Tensor:
    """Differentiable sum over all processes."""
    out: Tensor = _AllReduce.apply(value)  # type: ignore[no-untyped-call]
    return out


_alone = False  # see `alone`


@contextmanager
def alone() -> Iterator[None]:
    """Within it this process computes by itself, whatever the other processes do."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def _distributed() -> bool:
    if _alone or not (dist.is_available() and dist.is_initialized()):
        return False
    return dist.get_world_size() > 1


def global_mean(values: Tensor) -> Tensor:
    """Mean over the values of all processes, differentiable; for losses that are not means."""
    if not _distributed():
        return values.mean()
    return _all_reduce(values.sum()) / _all_reduce(values.new_full((), values.numel()))


class BatchNorm(nn.BatchNorm2d):
    """Batch norm over the global batch of all processes; SyncBatchNorm does not support the CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and _distributed()):
            return super().forward(x)
        with autocast_off(x):
            x = x.float()
            count = _all_reduce(x.new_full((1,), x.numel() / x.shape[1]))
            mean = (_all_reduce(x.sum((0, 2, 3))) / count)[:, None, None]
            squares = _all_reduce((x - mean).square().sum((0, 2, 3)))
            self._update_running_stats(mean.flatten().detach(), (squares / (count - 1)).detach())
            scale = (self.weight * (squares / count + self.eps).rsqrt())[:, None, None]
            return (x - mean) * scale + self.bias[:, None, None]

    @torch.no_grad()
    def _update_running_stats(self, mean: Tensor, variance: Tensor) -> None:
        for running, value in ((self.running_mean, mean), (self.running_var, variance)):
            if running is not None:
                running.lerp_(value, self.momentum or 0.0)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


class Signed(nn.Module):
    """Map labels c̃ (n, dim_g) from [0, 1] to [-1, 1]; unknown labels become 0."""

    known: Tensor
    excluded_by: Tensor  # which labels cannot be 1 excluded_by a label
    continuous: Tensor  # (dim_g,) bool

    def __init__(self, space: LabelSpace) -> None:
        super().__init__()
        self.dim_d = space.dim_d
        known = torch.zeros(len(space.sets), space.dim_d)
        continuous = torch.zeros(space.dim_g, dtype=torch.bool)
        excluded_by = torch.zeros(space.dim_d, space.dim_d)
        for index, part in enumerate(space.sets):
            known[index, space.slice(index)] = 1.0
            continuous[space.slice(index)] = part.kind == "continuous"
            for i, name in enumerate(part.names):
                others = range(len(part.names)) if part.kind == "onehot" else part.group(name)
                start = space.slice(index).start
                excluded_by[start + i, [start + j for j in others if j != i]] = 1.0
        self.register_buffer("known", known, persistent=False)
        self.register_buffer("excluded_by", excluded_by, persistent=False)
        self.register_buffer("continuous", continuous, persistent=False)

    def forward(self, c: Tensor) -> Tensor:
        labels, mask = c[:, : self.dim_d], c[:, self.dim_d :]
        return torch.cat([(2 * labels - 1) * self._known(c), mask], 1)

    def _known(self, c: Tensor) -> Tensor:
        """Which labels (n or 1, dim_d) the data set of each row has, as 0 or 1."""
        return c[:, self.dim_d :] @ self.known if len(self.known) > 1 else self.known

    def edited(self, source: Tensor, target: Tensor) -> Tensor:
        """Mask (n, dim_g) of known labels that differ between `source` and `target`."""
        known = F.pad(self._known(target), (0, target.shape[1] - self.dim_d)) > 0
        return (source != target) & known

    def requested(self, source: Tensor, target: Tensor) -> Tensor:
        """Mask (n, dim_g) of the changed labels, without those that another one switches off.

        Of an edit from Black_Hair to Blond_Hair, only Blond_Hair.
        """
        changed = self.edited(source, target)
        return changed & ~(self.excluded(changed, source, target) & (target < source))

    def excluded(self, changed: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Mask (n, dim_g) of the labels that a label switched on among the `changed` excludes."""
        added = (changed & (target > source))[:, : self.dim_d].float()
        return F.pad((added @ self.excluded_by) > 0, (0, target.shape[1] - self.dim_d))

    def scaled(self, source: Tensor, target: Tensor, intensity: float) -> Tensor:
        """The target's signed labels (n, dim_g), the requested ones times `intensity`.

        Of a label with degrees, its change is: ±1 is what 0 and 1 become, not where it starts.
        """
        a, b = self(source), self(target)
        stronger = torch.where(self.continuous, a + intensity * (b - a), intensity * b)
        return torch.where(self.requested(source, target), stronger, b)


def normal(uniform: Tensor) -> Tensor:
    """Convert uniform samples in [0, 1) to standard normal samples of the same shape."""
    return math.sqrt(2) * torch.erfinv((2 * uniform - 1).clamp(-1 + 1e-6, 1 - 1e-6))


# SplitMix64 (Steele et al., OOPSLA 2014) as signed numbers: its increment, and its two factors.
GAMMA, FACTORS = -0x61C8864680B583EB, (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)


def _mixed(state: Tensor) -> Tensor:
    """SplitMix64's output function of int64 states, whose products wrap around."""
    for shift, factor in zip((30, 27), FACTORS, strict=True):
        state = (state ^ ((state >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return state ^ ((state >> 31) & ((1 << 33) - 1))


def spread(key: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Uniform numbers (n, *shape) in [0, 1), each row a function of its key alone, on its device.

    `key`: (n, 2) numbers in [0, 1) of 24 bits, as `Batch.noise` gives. For noise of the shape of
    feature maps, which would be slow to make on the host and to copy: a counter-based stream in
    whole numbers, the same on every device.
    """
    high, low = (key * 2**24).long().unbind(1)
    count = torch.arange(1, 1 + math.prod(shape), device=key.device)
    start = _mixed((high << 24) | low)  # far apart for neighbouring keys
    bits = (_mixed(start[:, None] + count * GAMMA) >> 40) & (2**24 - 1)
    return (bits.float() / 2**24).view(len(key), *shape)


def tiled(labels: Tensor, like: Tensor) -> Tensor:
    """Broadcast labels (n, c) to planes (n, c, h, w) of the height, width and dtype of `like`."""
    return labels[:, :, None, None].to(like.dtype).expand(-1, -1, *like.shape[2:])


def xavier(net: nn.Module) -> None:
    """Initialise convolutions and linear layers: Xavier uniform weights, zero biases."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def he_normal(net: nn.Module) -> None:
    """Initialise convolutions and linear layers: He-normal weights by fan-in, zero biases."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def narrow_normal(net: nn.Module) -> None:
    """Initialise convolutions from N(0, 0.02), batch norms from N(1, 0.02), biases with 0."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | BatchNorm):
            nn.init.normal_(layer.weight, float(isinstance(layer, BatchNorm)), 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def check_halvings(size: int, times: int) -> None:
    """Raise ValueError for a size (px) that a critic cannot halve `times` times."""
    if size % (1 << times) or size % 4:
        raise ValueError(
            f"size={size}: a multiple of {1 << times} is needed "
            f"(2^d_repeat_num; D halves the image {times} times)"
        )


def check_power_of_two(size: int) -> None:
    """Raise ValueError unless the size (px) is a power of two and at least 16."""
    if size < 16 or size & (size - 1):
        raise ValueError(f"size={size}: a power of two, at least 16, is needed")


class Upsample(nn.Sequential):
    """Double the sides: nearest neighbour, then a 3×3 convolution, which leaves no checkerboard.

    Source: Odena et al., Distill 2016, "Deconvolution and Checkerboard Artifacts".
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__(
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=bias),
        )


def doubled(inputs: int, outputs: int, upsampling: Upsampling, *, bias: bool = False) -> nn.Module:
    """(n, inputs, s, s) -> (n, outputs, 2·s, 2·s)."""
    if upsampling == "resize":
        return Upsample(inputs, outputs, bias=bias)
    return nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=bias)


def start_as_copy(last: nn.Module) -> None:
    """Set the weights of a residual G's last layer, and its bias, to 0: G(x) = x."""
    for parameter in last.parameters():
        nn.init.zeros_(parameter)


def changed(image: Tensor, change: Tensor) -> Tensor:
    """tanh(change + artanh(image)): a network whose output is 0 copies the image.

    Both (n, 3, s, s); images in [-1, 1] are clamped to ±0.98, 2.5 of 255 levels.
    """
    return torch.tanh(change + torch.atanh(image.clamp(-0.98, 0.98)))


class LabelNorm(nn.Module):
    """(1 + γ(c))·IN(h) + β(c) with linear γ, β: (n, channels, s, s) and labels (n, c) -> the same.

    An instance norm after a convolution removes constant label planes but at the border; this is
    the conditional instance norm of Dumoulin et al. 2017 (arXiv 1610.07629, eq. 5).
    """

    def __init__(self, channels: int, labels: int) -> None:
        super().__init__()
        self.norm, self.affine = Norm(channels, affine=False), nn.Linear(labels, 2 * channels)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        gamma, beta = self.affine(c)[:, :, None, None].chunk(2, 1)
        out: Tensor = (1 + gamma) * self.norm(h) + beta
        return out


class LabelResidual(nn.Module):
    """`Residual` with `LabelNorm`."""

    def __init__(self, channels: int, labels: int) -> None:
        super().__init__()
        self.first, self.second = (
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False) for _ in range(2)
        )
        self.norms = nn.ModuleList(LabelNorm(channels, labels) for _ in range(2))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        h = F.relu(self.norms[0](self.first(x), c))
        out: Tensor = x + self.norms[1](self.second(h), c)
        return out


class Labelled(nn.Module):
    """Layers in order; those that take labels get them."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        for layer in self.layers:
            takes = isinstance(layer, LabelNorm | LabelResidual)
            h = layer(h, c) if takes else layer(h)
        return h


class Residual(nn.Module):
    """x + IN(Conv3(ReLU(IN(Conv3(x))))), no activation after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            Norm(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            Norm(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out

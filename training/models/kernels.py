"""torch's layers, computed faster: the same functions, parameters and names of weights.

The route depends on the device, the memory format and the shapes of the input, never on the
weights, so that a checkpoint fits any machine. Rounding differs from torch's own layers.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Weights of a convolution from which a matrix product is faster on CPUs (benchmarks/RESULTS.md):
# torch's convolution reorders them at each call.
WIDE = 4_000_000
CACHED = 2**19  # values that stay in a processor's cache between two operations
SMALL = 1_024  # px of an image from which torch's group norm is fast in channels-last


class _InstanceNorm(torch.autograd.Function):
    """Instance norm of float images in channels-last on a CPU. γ and β are tensors (c,).

    torch's backward pass takes four times as long in this memory format, and its forward pass too
    below `SMALL` pixels an image.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
        n, c, h, w = x.shape
        if h * w < SMALL:
            pixels = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
            mean = pixels.mean(1)
            centred = pixels - mean[:, None]
            rstd = (centred.square().mean(1) + eps).rsqrt()
            y = torch.empty_like(x)  # no view, so that a ReLU may change it in place
            into = y.permute(0, 2, 3, 1).view(n, h * w, c)
            torch.addcmul(beta, centred, (gamma * rstd)[:, None], out=into)
        else:
            y, mean, rstd = torch.native_group_norm(x, gamma, beta, n, c, h * w, c, eps)
        ctx.save_for_backward(x, gamma, beta, mean, rstd)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, beta, mean, rstd = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a second derivative: torch's own
            y = F.group_norm(x, len(gamma), gamma, beta, ctx.eps)
            wanted = [v for v in (x, gamma, beta) if v.requires_grad]
            grads = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
            return *(next(grads) if v.requires_grad else None for v in (x, gamma, beta)), None
        n, c, h, w = x.shape
        pixels, slopes = (t.permute(0, 2, 3, 1).reshape(n, h * w, c) for t in (x, grad))
        d_beta = slopes.sum(1)
        if x.numel() < CACHED:
            product = (pixels * slopes).sum(1)
        else:
            product = torch.stack([(p * s).sum(0) for p, s in zip(pixels, slopes, strict=True)])
        d_gamma = (product - mean * d_beta) * rstd
        # dL/dx = a·dL/dy + b·x + d for each image and channel
        a = gamma * rstd
        b = -a * rstd * d_gamma / (h * w)
        d = -a * d_beta / (h * w) - b * mean
        d_x = torch.addcmul(d[:, None], slopes, a[:, None]).addcmul_(pixels, b[:, None])
        return d_x.view(n, h, w, c).permute(0, 3, 1, 2), d_gamma.sum(0), d_beta.sum(0), None


def instance_norm(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    """γ·(x − μ)/σ + β of images x (n, c, h, w) and γ, β (c,), with statistics of each image.

    In x's type, with statistics in fp32: autocast on CUDA would compute group norm, which this is
    with one channel per group, in fp32 and move four times the bytes. Raises ValueError for images
    of one pixel, whose norm is β whatever they show.
    """
    if x.shape[2] * x.shape[3] == 1:
        raise ValueError(f"instance norm of {x.shape[1]} channels of one pixel; use larger images")
    by_hand = (
        not torch.compiler.is_compiling()  # which takes torch's own functions only
        and x.device.type == "cpu"
        and x.dtype == gamma.dtype != torch.bfloat16
        and x.is_contiguous(memory_format=torch.channels_last)
    )
    if by_hand:
        out: Tensor = _InstanceNorm.apply(x, gamma, beta, eps)  # type: ignore[no-untyped-call]
        return out
    gamma, beta = gamma.to(x.dtype), beta.to(x.dtype)
    if x.is_meta:  # has no autocast
        return F.group_norm(x, x.shape[1], gamma, beta, eps)
    with torch.autocast(x.device.type, enabled=False):
        return F.group_norm(x, x.shape[1], gamma, beta, eps)


class Norm(nn.GroupNorm):
    """Instance norm, affine unless told otherwise, without running statistics, so that eval mode
    equals training mode.

    The reference code tracks running statistics, which are wrong at test time.
    """

    def __init__(self, channels: int, *, affine: bool = True, eps: float = 1e-5) -> None:
        super().__init__(channels, channels, eps, affine)

    def forward(self, x: Tensor) -> Tensor:
        if self.affine:
            return instance_norm(x, self.weight, self.bias, self.eps)
        one, zero = x.new_ones(self.num_channels), x.new_zeros(self.num_channels)
        return instance_norm(x, one, zero, self.eps)


# oneDNN's product, which torch itself uses in compiled code; its F.linear calls MKL, which on AMD's
# processors is half as fast.
_ONE_DNN = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _multiply(a: Tensor, b: Tensor) -> Tensor:
    """a·bᵀ by oneDNN, of matrices (m, k) and (n, k)."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return out


class _Product(torch.autograd.Function):
    """x·Wᵀ, or x·W if `transposed`, of fp32 matrices on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, transposed: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.transposed = transposed
        return _multiply(x, weight.t() if transposed else weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        # For a second derivative: torch's own.
        multiply = (lambda a, b: a @ b.t()) if torch.is_grad_enabled() else _multiply
        d_x = d_weight = None
        if ctx.needs_input_grad[0]:
            d_x = multiply(grad, weight if ctx.transposed else weight.t())
        if ctx.needs_input_grad[1]:
            a, b = (x, grad) if ctx.transposed else (grad, x)
            d_weight = multiply(a.t(), b.t())
        return d_x, d_weight, None


def product(x: Tensor, weight: Tensor, *, transposed: bool = False) -> Tensor:
    """x·Wᵀ, or x·W if `transposed`, of x (…, k) and a matrix W."""
    by_one_dnn = (
        _ONE_DNN
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )
    if not by_one_dnn:
        return F.linear(x, weight.t() if transposed else weight)
    y: Tensor = _Product.apply(x.flatten(0, -2), weight, transposed)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], -1)


class Wide(nn.Conv2d):
    """A convolution with many weights and few output pixels; on CPUs one matrix product.

    Made by `wide_conv`. In channels-last the weights are that matrix without a copy.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or torch.compiler.is_exporting():
            return super().forward(x)
        (k, _), (stride, _), padding = self.kernel_size, self.stride, int(self.padding[0])
        columns = F.unfold(x, k, padding=padding, stride=stride)  # (n, c·k², places)
        n, _, places = columns.shape
        columns = columns.view(n, self.in_channels, k * k, places).permute(0, 3, 2, 1).flatten(2)
        y = product(columns, self.matrix())
        if self.bias is not None:
            y = y + self.bias.to(y.dtype)
        side = (x.shape[2] + 2 * padding - k) // stride + 1
        return y.view(n, side, places // side, self.out_channels).permute(0, 3, 1, 2)

    def matrix(self) -> Tensor:
        """The weights as (out, k²·in)."""
        return self.weight.permute(0, 2, 3, 1).flatten(1)

    def input_gradient(self, y: Tensor, size: torch.Size) -> Tensor:
        """Jᵀy: the gradient (n, in, *size) of Σ y·forward(x), made of ordinary operations."""
        (k, _), (stride, _), padding = self.kernel_size, self.stride, int(self.padding[0])
        rows = y.flatten(2).transpose(1, 2)
        columns = product(rows, self.matrix(), transposed=True)  # (n, places, k²·in)
        n, places, _ = columns.shape
        columns = columns.view(n, places, k * k, self.in_channels).permute(0, 3, 2, 1)
        columns = columns.reshape(n, -1, places)
        return F.fold(columns, (size[0], size[1]), k, padding=padding, stride=stride)


def wide_conv(inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0,
              *, bias: bool = True) -> nn.Conv2d:  # fmt: skip
    """A convolution, `Wide` from 4 million weights on."""
    kind = Wide if inputs * outputs * kernel**2 >= WIDE else nn.Conv2d
    return kind(inputs, outputs, kernel, stride, padding, bias=bias)


def few_outputs(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """F.conv2d(x, weight, padding=padding) for few output channels, of images of even sides.

    One convolution of stride 2 computes 2 × 2 pixels of a channel as four channels: with 3 output
    channels alone, most of a vector unit or tensor core idles.
    """
    outputs, inputs, k, _ = weight.shape
    shifted = [F.pad(weight, (b, 1 - b, a, 1 - a)) for a in (0, 1) for b in (0, 1)]
    four = torch.stack(shifted, 1).reshape(4 * outputs, inputs, k + 1, k + 1)
    if x.is_contiguous(memory_format=torch.channels_last):
        four = four.contiguous(memory_format=torch.channels_last)
    return F.pixel_shuffle(F.conv2d(x, four, stride=2, padding=padding), 2)


class ToImage(nn.Conv2d):
    """The last convolution of a generator: 7 × 7, to the channels of an image."""

    fast: ClassVar[bool] = True  # by `few_outputs`

    def __init__(self, inputs: int, outputs: int, padding: int = 3, *, bias: bool = False) -> None:
        super().__init__(inputs, outputs, 7, 1, padding, bias=bias)

    @classmethod
    @contextmanager
    def as_published(cls) -> Iterator[None]:
        """The convolution itself: `few_outputs` has a third more multiplications, by zeros."""
        cls.fast = False
        try:
            yield
        finally:
            cls.fast = True

    def forward(self, x: Tensor) -> Tensor:
        padding = int(self.padding[0])
        odd = (x.shape[2] + 2 * padding) % 2 or (x.shape[3] + 2 * padding) % 2
        if odd or not self.fast:
            return super().forward(x)
        y = few_outputs(x, self.weight, padding)
        return y if self.bias is None else y + self.bias[:, None, None].to(y.dtype)


class _FromImage(torch.autograd.Function):
    """A 7 × 7 convolution of few channels, whose input gradient is `few_outputs`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: int) -> Tensor:
        ctx.padding, ctx.types = padding, (x.dtype, weight.dtype)
        device = x.device.type
        if not x.is_meta and torch.is_autocast_enabled(device):
            # By hand: autocast would keep this copy of the weight, without a graph, for others.
            half = torch.get_autocast_dtype(device)
            x, weight = x.to(half), weight.to(half)
        ctx.save_for_backward(x, weight)
        with nullcontext() if x.is_meta else torch.autocast(device, enabled=False):
            return F.conv2d(x, weight, padding=padding)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        d_x = d_weight = None
        if ctx.needs_input_grad[0]:
            mirrored = weight.transpose(0, 1).flip(2, 3)
            d_x = few_outputs(grad, mirrored, 6 - ctx.padding).to(ctx.types[0])
        if ctx.needs_input_grad[1]:
            _, d_weight, _ = torch.ops.aten.convolution_backward(
                grad, x, weight, None, [1, 1], [ctx.padding] * 2, [1, 1], False, [0, 0], 1,
                [False, True, False],
            )  # fmt: skip
            d_weight = d_weight.to(ctx.types[1])
        return d_x, d_weight, None


class FromImage(nn.Conv2d):
    """The first convolution of a generator, without bias: 7 × 7, from an image and its labels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 7, 1, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        odd = x.shape[2] % 2 or x.shape[3] % 2
        if odd or not x.requires_grad or torch.compiler.is_compiling():
            return super().forward(x)
        out: Tensor = _FromImage.apply(x, self.weight, 3)  # type: ignore[no-untyped-call]
        return out

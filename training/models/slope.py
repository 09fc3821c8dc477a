"""A critic's gradient with respect to its images, written as ordinary operations.

`autograd.grad(create_graph=True)` gives the same numbers, but its second pass computes gradients of
weights as convolutions whose kernels are feature maps, and runs over zeros. Here each type of layer
has a rule that returns, with its output, the product with its transposed Jacobian; a penalty on the
slope then needs one ordinary backward pass. A rule for another layer:

    @rule(nn.Hardtanh)
    def _hardtanh(layer: nn.Hardtanh, x: Tensor) -> tuple[Tensor, Back]: ...
"""

import copy
import logging
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.models.kernels import Norm, Wide

log = logging.getLogger(__name__)

Back = Callable[[Tensor], Tensor]  # g of the output's shape -> Jᵀg of the input's
Rule = Callable[[Any, Tensor], tuple[Tensor, Back]]

RULES: dict[type[nn.Module], Rule] = {}
PIECEWISE_LINEAR: set[type[nn.Module]] = set()  # J depends on the input only by its signs


class NoRuleError(NotImplementedError):
    """A layer, which the message names, has no rule."""


class Scored(Protocol):
    """A network with a path of layers from images (n, 3, s, s) to scores (n, …)."""

    def score_path(self) -> nn.Module:
        """The layers, usually in a Sequential; those without a rule cost time, not exactness."""


def rule(*kinds: type[nn.Module], piecewise_linear: bool = False) -> Callable[[Rule], Rule]:
    """Register the rule of layers: (layer, x) -> (layer(x), g -> Jᵀg), differentiable once more.

    A critic whose layers are all `piecewise_linear` is run forward without a graph.
    """

    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(kinds, function))
        if piecewise_linear:
            PIECEWISE_LINEAR.update(kinds)
        return function

    return add


def _kind(layer: nn.Module) -> type[nn.Module] | None:
    """The most specific class with a rule; None if a class below it has its own `forward`."""
    for kind in type(layer).__mro__:
        if kind in RULES:
            return kind
        if "forward" in vars(kind):
            return None
    return None


def pull(layer: nn.Module, x: Tensor) -> tuple[Tensor, Back]:
    """(layer(x), g -> Jᵀg with J the Jacobian at x). Raises NoRuleError naming the layer."""
    kind = _kind(layer)
    if kind is None:
        raise NoRuleError(f"{type(layer).__name__} has no rule for its gradient")
    return RULES[kind](layer, x)


def scores_and_slope(
    net: nn.Module, x: Tensor, weights: Tensor | float = 1.0, *, graph: bool = True
) -> tuple[Tensor, Tensor]:
    """Scores s(x) of `net.score_path()`, and the slope ∇_x Σ weights·s(x), of the shape of x.

    x (n, 3, s, s) counts as constant; `weights` is broadcast to the scores. The slope can be
    differentiated with respect to the parameters, the scores only with `graph`. `net` may be
    wrapped in DistributedDataParallel, whose forward another term of the same loss has to call. If
    a layer has no rule, autograd computes the slope, which is logged once.
    """
    bare = net.module if isinstance(net, DistributedDataParallel) else net
    path, x = cast(Scored, bare).score_path(), x.detach()
    # A container without a rule is described by its layers.
    layers = [m for m in path.modules() if _kind(m) or not list(m.children())]
    graph = graph or any(_kind(layer) not in PIECEWISE_LINEAR for layer in layers)
    try:
        with torch.set_grad_enabled(graph and torch.is_grad_enabled()):
            scores, back = pull(path, x)
    except NoRuleError as error:
        _warn_of_double_backward(str(error))
        return double_backward(path, x, weights)
    return scores, back(torch.ones_like(scores) * weights)


def double_backward(
    critic: Callable[[Tensor], Tensor], x: Tensor, weights: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """Scores and slope of any critic as `scores_and_slope` gives them, by autograd alone."""
    x = x.detach().requires_grad_(True)
    scores = critic(x)
    (slope,) = torch.autograd.grad((scores * weights).sum(), x, create_graph=True)
    return scores, slope


@cache
def _warn_of_double_backward(reason: str) -> None:
    log.warning(
        "%s; the gradient penalty is computed by autograd's double backward: the same numbers, in "
        "up to twice the time. A rule in training/models/slope.py avoids it",
        reason,
    )


def _own_weight(layer: nn.Conv2d | nn.Linear) -> Tensor:
    """The weight. Raises NoRuleError if it is computed from others, as by weight norm."""
    if not isinstance(layer.weight, nn.Parameter):
        raise NoRuleError(f"{type(layer).__name__} with a computed weight has no rule")
    return layer.weight


@rule(nn.Sequential, piecewise_linear=True)
def _sequential(net: nn.Sequential, x: Tensor) -> tuple[Tensor, Back]:
    backs: list[Back] = []
    for layer in net:
        x, back = pull(layer, x)
        backs.append(back)

    def chain(g: Tensor) -> Tensor:
        for back in reversed(backs):
            g = back(g)
        return g

    return x, chain


@rule(nn.Identity, piecewise_linear=True)
def _identity(layer: nn.Identity, x: Tensor) -> tuple[Tensor, Back]:
    return x, lambda g: g


@rule(nn.Flatten, piecewise_linear=True)
def _flatten(layer: nn.Flatten, x: Tensor) -> tuple[Tensor, Back]:
    return layer(x), lambda g: g.reshape(x.shape)


@rule(nn.Linear, piecewise_linear=True)
def _linear(layer: nn.Linear, x: Tensor) -> tuple[Tensor, Back]:
    weight = _own_weight(layer)
    return layer(x), lambda g: g @ weight


@rule(nn.Conv2d, piecewise_linear=True)
def _convolution(layer: nn.Conv2d, x: Tensor) -> tuple[Tensor, Back]:
    weight, padding = _own_weight(layer), layer.padding
    if isinstance(padding, str) or layer.padding_mode not in ("zeros", "reflect"):
        raise NoRuleError(f"Conv2d(padding={padding!r}, {layer.padding_mode!r}) has no rule")
    if layer.padding_mode == "reflect":
        return _reflected_convolution(layer, x)
    y = layer(x)
    stride, dilation = layer.stride, layer.dilation
    reached = [  # px that the transposed convolution covers
        (y.shape[2 + i] - 1) * stride[i]
        - 2 * padding[i]
        + dilation[i] * (layer.kernel_size[i] - 1)
        + 1
        for i in range(2)
    ]
    rest = [x.shape[2 + i] - reached[i] for i in range(2)]

    def back(g: Tensor) -> Tensor:
        return F.conv_transpose2d(g, weight, None, stride, padding, rest, layer.groups, dilation)

    return y, back


def _reflected_convolution(layer: nn.Conv2d, x: Tensor) -> tuple[Tensor, Back]:
    """A convolution without padding of the reflected image; it has the layer's weights."""
    sides, at = layer._reversed_padding_repeated_twice, x.detach()
    inner = copy.copy(layer)
    inner.padding, inner.padding_mode = (0, 0), "zeros"
    y, inner_back = _convolution(inner, F.pad(x, sides, "reflect"))
    return y, lambda g: torch.ops.aten.reflection_pad2d_backward(inner_back(g), at, sides)


@rule(Wide, piecewise_linear=True)
def _wide(layer: Wide, x: Tensor) -> tuple[Tensor, Back]:
    """On a CPU, where the layer itself is a matrix product."""
    _own_weight(layer)
    if x.device.type != "cpu":
        return _convolution(layer, x)
    return layer(x), lambda g: layer.input_gradient(g, x.shape[2:])


@rule(nn.LeakyReLU, nn.ReLU, piecewise_linear=True)
def _leaky_relu(layer: nn.LeakyReLU | nn.ReLU, x: Tensor) -> tuple[Tensor, Back]:
    """Never in place, since `back` reads x."""
    slope = layer.negative_slope if isinstance(layer, nn.LeakyReLU) else 0.0
    at = x.detach()  # the second derivative is 0; autograd would make a tensor of zeros
    y = F.leaky_relu(x, slope)
    return y, lambda g: torch.ops.aten.leaky_relu_backward(g, at, slope, False)


@rule(nn.AvgPool2d, piecewise_linear=True)
def _average(layer: nn.AvgPool2d, x: Tensor) -> tuple[Tensor, Back]:
    k, at = layer.kernel_size, x.detach()
    tiles = isinstance(k, int) and layer.stride == k and not any(n % k for n in x.shape[2:])
    if isinstance(k, int) and tiles and not layer.padding and not layer.divisor_override:
        return layer(x), lambda g: F.interpolate(g, scale_factor=k, mode="nearest") / k**2
    sizes = ([n, n] if isinstance(n, int) else list(n) for n in (k, layer.stride, layer.padding))
    more = (*sizes, layer.ceil_mode, layer.count_include_pad, layer.divisor_override)
    return layer(x), lambda g: torch.ops.aten.avg_pool2d_backward(g, at, *more)


@rule(nn.GroupNorm, Norm)
def _instance_norm(layer: nn.GroupNorm, x: Tensor) -> tuple[Tensor, Back]:
    """y = w·x̂ + b with x̂ = (x − mean)/σ; Jᵀg = (h − mean(h) − x̂·mean(h·x̂))/σ, h = w·g."""
    if layer.num_groups != layer.num_channels:
        raise NoRuleError(f"{layer} has no rule: only norms of single channels have one")
    centred = x - x.mean((2, 3), keepdim=True)
    inverse = (centred.square().mean((2, 3), keepdim=True) + layer.eps).rsqrt()
    scaled = centred * inverse
    w, b = (layer.weight[:, None, None], layer.bias[:, None, None]) if layer.affine else (1.0, 0.0)

    def back(g: Tensor) -> Tensor:
        h = g * w
        along = (h * scaled).mean((2, 3), keepdim=True)
        return inverse * (h - h.mean((2, 3), keepdim=True) - scaled * along)

    return scaled * w + b, back

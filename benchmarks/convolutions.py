"""StarGAN's convolutions and activations, read by running its networks on the meta device."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.step import SPACE
from training.models.layers import Residual
from training.models.stargan import StarGAN


class Layer(NamedTuple):
    """A square convolution: channels, kernel and stride, sides of its input and output in px."""

    name: str
    inputs: int
    outputs: int
    kernel: int
    stride: int
    side_in: int
    side_out: int
    transposed: bool

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs * self.kernel**2

    @property
    def macs(self) -> int:
        """Multiplications with an addition for one image, of each of the three kinds."""
        return (self.side_in if self.transposed else self.side_out) ** 2 * self.weights


@dataclass(frozen=True)
class Network:
    """The convolutions of a network in order, and the elements of its activations for one image."""

    layers: tuple[Layer, ...]
    parameters: int
    normed: int
    summed: int  # outputs of residual blocks
    activated: int  # outputs of leaky ReLUs

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)


class Networks(NamedTuple):
    G: Network
    D: Network
    n_critic: int


def read(net: nn.Module, *inputs: Tensor) -> Network:
    """Run a network on `inputs` of one image and note its layers; on the meta device this is free.

    Raises ValueError for a convolution that is not square or has groups.
    """
    layers: list[Layer] = []
    elements = {nn.GroupNorm: 0, Residual: 0, nn.LeakyReLU: 0}
    names = {module: name for name, module in net.named_modules()}

    def note(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        for kind in elements:
            if isinstance(module, kind):
                elements[kind] += out.numel()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            x, (kernel, other) = given[0], module.kernel_size
            if kernel != other or x.shape[2] != x.shape[3] or module.groups > 1:
                raise ValueError(f"{names[module]}: {module} is not counted; extend `read`")
            layers.append(
                Layer(
                    names[module], module.in_channels, module.out_channels, kernel,
                    module.stride[0], x.shape[2], out.shape[2],
                    isinstance(module, nn.ConvTranspose2d),
                )
            )  # fmt: skip

    hooks = [module.register_forward_hook(note) for module in net.modules()]
    with torch.no_grad():
        net(*inputs)
    for hook in hooks:
        hook.remove()
    return Network(tuple(layers), sum(p.numel() for p in net.parameters()), *elements.values())


def networks(model: StarGAN, size: int) -> Networks:
    """G and D of `model` at `size` px, for one data set of five attributes."""
    with torch.device("meta"):
        nets = model.networks(SPACE, size)
        x, c = torch.empty(1, 3, size, size), torch.empty(1, SPACE.dim_g)
    return Networks(read(nets["G"], x, c), read(nets["D"], x), model.n_critic)

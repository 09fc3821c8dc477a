"""Inception v3 up to its last pooling (Szegedy et al. 2016), in the two forms of published FIDs.

`torchvision`: the ImageNet network by which StarGAN v2's code measures; `fid`: the one ported from
TensorFlow, by which most other papers do. They differ in weights, padding of the average pools, the
last pool, and in how an image is enlarged and scaled.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Form = Literal["torchvision", "fid"]
Kernel = int | tuple[int, int]
SIDE = 299  # px
# ImageNet's mean and standard deviation of red, green and blue, in 0..1.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Layer(NamedTuple):
    """A convolution; padded to keep the size unless its stride is 2."""

    width: int
    kernel: Kernel = 1
    stride: int = 1


class Branch(NamedTuple):
    """Layers of a block in a row, then those of `fork` side by side; `pool` comes first."""

    name: str
    layers: tuple[Layer, ...] = ()
    fork: tuple[Layer, ...] = ()
    pool: Literal["", "same", "halving"] = ""


ROW, COLUMN = (1, 7), (7, 1)
THIN = (Layer(384, (1, 3)), Layer(384, (3, 1)))
DOUBLE = (Layer(64), Layer(96, 3))


def _a(pooled: int) -> tuple[Branch, ...]:
    return (
        Branch("branch1x1", (Layer(64),)),
        Branch("branch5x5", (Layer(48), Layer(64, 5))),
        Branch("branch3x3dbl", (*DOUBLE, Layer(96, 3))),
        Branch("branch_pool", (Layer(pooled),), pool="same"),
    )


def _c(width: int) -> tuple[Branch, ...]:
    row, column = Layer(width, ROW), Layer(width, COLUMN)
    return (
        Branch("branch1x1", (Layer(192),)),
        Branch("branch7x7", (Layer(width), row, Layer(192, COLUMN))),
        Branch("branch7x7dbl", (Layer(width), column, row, column, Layer(192, ROW))),
        Branch("branch_pool", (Layer(192),), pool="same"),
    )


_B = (
    Branch("branch3x3", (Layer(384, 3, 2),)),
    Branch("branch3x3dbl", (*DOUBLE, Layer(96, 3, 2))),
    Branch("", pool="halving"),
)
_D = (
    Branch("branch3x3", (Layer(192), Layer(320, 3, 2))),
    Branch("branch7x7x3", (Layer(192), Layer(192, ROW), Layer(192, COLUMN), Layer(192, 3, 2))),
    Branch("", pool="halving"),
)
_E = (
    Branch("branch1x1", (Layer(320),)),
    Branch("branch3x3", (Layer(384),), THIN),
    Branch("branch3x3dbl", (Layer(448), Layer(384, 3)), THIN),
    Branch("branch_pool", (Layer(192),), pool="same"),
)
BLOCKS = {
    "Mixed_5b": _a(32), "Mixed_5c": _a(64), "Mixed_5d": _a(64), "Mixed_6a": _B,
    "Mixed_6b": _c(128), "Mixed_6c": _c(160), "Mixed_6d": _c(160), "Mixed_6e": _c(192),
    "Mixed_7a": _D, "Mixed_7b": _E, "Mixed_7c": _E,
}  # fmt: skip


class Unit(nn.Module):
    """Convolution, batch norm and ReLU."""

    def __init__(self, channels: int, layer: Layer, padding: Kernel) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            channels, layer.width, layer.kernel, layer.stride, padding, bias=False
        )
        self.bn = nn.BatchNorm2d(layer.width, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def _padding(layer: Layer) -> Kernel:
    if layer.stride == 2:
        return 0
    kernel = layer.kernel
    return kernel // 2 if isinstance(kernel, int) else (kernel[0] // 2, kernel[1] // 2)


def _pooled(x: Tensor, how: str) -> Tensor:
    """Pools of 3×3: `average` counts the zeros of the padding, `inside` does not."""
    if how == "max":
        return F.max_pool2d(x, 3, 1, 1)
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=how == "average")


class Block(nn.Module):
    """Branches of one input, joined along the channels; named as in the public files."""

    def __init__(self, channels: int, branches: tuple[Branch, ...], pool: str) -> None:
        super().__init__()
        self.pool, self.width = pool, 0
        self.paths: list[tuple[str, list[str], list[str]]] = []
        for branch in branches:
            last, names = channels, []
            many = len(branch.layers) > 1 or bool(branch.fork)
            for i, layer in enumerate(branch.layers, 1):
                names.append(f"{branch.name}_{i}" if many else branch.name)
                self.add_module(names[-1], Unit(last, layer, _padding(layer)))
                last = layer.width
            sides = "ab"[: len(branch.fork)]
            forks = [f"{branch.name}_{len(names) + 1}{side}" for side in sides]
            for name, layer in zip(forks, branch.fork, strict=True):
                self.add_module(name, Unit(last, layer, _padding(layer)))
            self.paths.append((branch.pool, names, forks))
            self.width += sum(layer.width for layer in branch.fork) or last

    def forward(self, x: Tensor) -> Tensor:
        out = []
        for pool, names, forks in self.paths:
            y = x
            if pool:
                y = F.max_pool2d(x, 3, 2) if pool == "halving" else _pooled(x, self.pool)
            for name in names:
                y = self.get_submodule(name)(y)
            out += [self.get_submodule(name)(y) for name in forks] if forks else [y]
        return torch.cat(out, 1)


class Inception(nn.Module):
    """Features (n, 2048) of uint8 images (n, 3, H, W)."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form
        self.Conv2d_1a_3x3 = Unit(3, Layer(32, 3, 2), 0)
        self.Conv2d_2a_3x3 = Unit(32, Layer(32, 3), 0)
        self.Conv2d_2b_3x3 = Unit(32, Layer(64, 3), 1)
        self.Conv2d_3b_1x1 = Unit(64, Layer(80), 0)
        self.Conv2d_4a_3x3 = Unit(80, Layer(192, 3), 0)
        channels = 192
        for name, branches in BLOCKS.items():
            pool = "average" if form == "torchvision" else "inside"
            if form == "fid" and name == "Mixed_7c":
                pool = "max"  # as in the network of the published FIDs
            block = Block(channels, branches, pool)
            self.add_module(name, block)
            channels = block.width

    def shown(self, images: Tensor) -> Tensor:
        """The input of the network: uint8 (n, 3, H, W) enlarged to 299 px and scaled.

        torchvision: antialiased, rounded to 8 bits as a resized picture, ImageNet's mean and
        standard deviation. fid: not antialiased, in [-1, 1].
        """
        x = images.float()
        if self.form == "fid":
            return 2 * F.interpolate(x / 255, (SIDE, SIDE), mode="bilinear") - 1
        if x.shape[2:] != (SIDE, SIDE):
            x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
            x = x.round().clamp(0, 255)
        mean, std = (x.new_tensor(v)[:, None, None] for v in (MEAN, STD))
        return (x / 255 - mean) / std

    def forward(self, images: Tensor) -> Tensor:
        x = self.shown(images)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, 2)
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
        for name in BLOCKS:
            x = self.get_submodule(name)(x)
        return x.mean((2, 3))

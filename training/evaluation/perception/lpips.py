"""LPIPS, the learned perceptual distance of two images (Zhang et al. 2018, eq. 1), version 0.1."""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Backbone = Literal["alex", "vgg"]
# Mean and standard deviation of red, green and blue, of images in [-1, 1].
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
TINY = 1e-10  # added to a norm before it divides


class Layer(NamedTuple):
    """A convolution by its number in torchvision's `features`, with a ReLU behind it."""

    number: int
    channels: int
    width: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pool: int = 0  # side of a max pool of stride 2 before it
    compared: bool = True  # its output is one of the five of the distance


ALEX = (
    Layer(0, 3, 64, 11, 4, 2),
    Layer(3, 64, 192, 5, 1, 2, pool=3),
    Layer(6, 192, 384, pool=3),
    Layer(8, 384, 256),
    Layer(10, 256, 256),
)
VGG = (
    Layer(0, 3, 64, compared=False), Layer(2, 64, 64),
    Layer(5, 64, 128, pool=2, compared=False), Layer(7, 128, 128),
    Layer(10, 128, 256, pool=2, compared=False), Layer(12, 256, 256, compared=False),
    Layer(14, 256, 256),
    Layer(17, 256, 512, pool=2, compared=False), Layer(19, 512, 512, compared=False),
    Layer(21, 512, 512),
    Layer(24, 512, 512, pool=2, compared=False), Layer(26, 512, 512, compared=False),
    Layer(28, 512, 512),
)  # fmt: skip
LAYERS: dict[str, tuple[Layer, ...]] = {"alex": ALEX, "vgg": VGG}


class Lpips(nn.Module):
    """Distances (n,) of images x and y (n, 3, H, W) in [-1, 1]."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.layers = LAYERS[backbone]
        self.features = nn.ModuleDict(
            {
                str(one.number): nn.Conv2d(
                    one.channels, one.width, one.kernel, one.stride, one.padding
                )
                for one in self.layers
            }
        )
        widths = [one.width for one in self.layers if one.compared]
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width in widths)

    def outputs(self, x: Tensor) -> list[Tensor]:
        """The five compared outputs of the backbone, each pixel of norm 1 over its channels."""
        shift, scale = (x.new_tensor(v)[:, None, None] for v in (SHIFT, SCALE))
        x, out = (x - shift) / scale, []
        for one in self.layers:
            if one.pool:
                x = F.max_pool2d(x, one.pool, 2)
            x = F.relu(self.features[str(one.number)](x))
            if one.compared:
                out.append(x / (x.square().sum(1, keepdim=True).sqrt() + TINY))
        return out

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        pairs = zip(self.heads, self.outputs(x), self.outputs(y), strict=True)
        return torch.stack([head((a - b).square()).mean((1, 2, 3)) for head, a, b in pairs]).sum(0)

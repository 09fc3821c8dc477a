"""The landmark network that StarGAN v2 is published with, frozen there as here.

A face alignment network of one hourglass (Bulat and Tzimiropoulos, ICCV 2017, arXiv 1703.07332)
with coordinates as further channels and a map of the face's boundary (Wang et al., ICCV 2019, arXiv
1904.07399). Tensors have the names of the published file.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 256  # px of its images; its maps have a quarter
WIDTH = 256  # channels of the hourglass
DEPTH = 4  # halvings in it
MAPS = 99  # 98 landmarks, then the boundary


class Block(nn.Module):
    """(n, inputs, s, s) -> (n, outputs, s, s): ½, ¼ and ¼ of the channels, one from another."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        plan = (inputs, outputs // 2, outputs // 4, outputs // 4)
        for i, (a, b) in enumerate(pairwise(plan), 1):
            self.add_module(f"bn{i}", nn.BatchNorm2d(a))
            self.add_module(f"conv{i}", nn.Conv2d(a, b, 3, 1, 1, bias=False))
        short = (nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False))
        self.downsample = nn.Sequential(*short) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        parts, h = [], x
        for i in (1, 2, 3):
            normed = F.relu(self.get_submodule(f"bn{i}")(h))
            h = self.get_submodule(f"conv{i}")(normed)
            parts.append(h)
        out: Tensor = torch.cat(parts, 1) + self.downsample(x)
        return out


class CoordConv(nn.Module):
    """A convolution that also sees each pixel's row, column and distance from the centre."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs + 3, outputs, kernel, stride, kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (
            torch.arange(n, device=x.device, dtype=x.dtype) / (n - 1) * 2 - 1 for n in x.shape[2:]
        )
        down, across = rows[:, None].expand(x.shape[2:]), columns.expand(x.shape[2:])
        radius = (down.square() + across.square()).sqrt()
        planes = torch.stack([down, across, radius / radius.amax()])
        out: Tensor = self.conv(torch.cat([x, planes.expand(len(x), -1, -1, -1)], 1))
        return out


class Hourglass(nn.Module):
    """(n, 256, s, s) -> the same: at each level a branch at its size and one at half."""

    def __init__(self) -> None:
        super().__init__()
        self.coordconv = CoordConv(WIDTH, WIDTH, 1)
        for level in range(1, DEPTH + 1):
            for branch in ("b1", "b2", "b3"):
                self.add_module(f"{branch}_{level}", Block(WIDTH, WIDTH))
        self.b2_plus_1 = Block(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.level(self.coordconv(x), DEPTH)

    def level(self, x: Tensor, level: int) -> Tensor:
        low = self.get_submodule(f"b2_{level}")(F.avg_pool2d(x, 2))
        low = self.level(low, level - 1) if level > 1 else self.b2_plus_1(low)
        low = self.get_submodule(f"b3_{level}")(low)
        out: Tensor = self.get_submodule(f"b1_{level}")(x)
        return out + F.interpolate(low, scale_factor=2, mode="nearest")


class FAN(nn.Module):
    """Images (n, 3, s, s) in [-1, 1] -> heat-maps (n, 98, 64, 64) of WFLW's landmarks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = CoordConv(3, 64, 7, 2), nn.BatchNorm2d(64)
        self.conv2, self.conv3, self.conv4 = Block(64, 128), Block(128, 128), Block(128, WIDTH)
        self.m0, self.top_m_0 = Hourglass(), Block(WIDTH, WIDTH)
        self.conv_last0, self.bn_end0 = nn.Conv2d(WIDTH, WIDTH, 1), nn.BatchNorm2d(WIDTH)
        self.l0 = nn.Conv2d(WIDTH, MAPS, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False) / 2 + 0.5
        h = F.avg_pool2d(self.conv2(F.relu(self.bn1(self.conv1(x)))), 2)
        h = self.top_m_0(self.m0(self.conv4(self.conv3(h))))
        out: Tensor = self.l0(F.relu(self.bn_end0(self.conv_last0(h))))
        return out[:, :-1]

"""The two judge networks: a ResNet-18 and a small VGG. Neither shares code with a GAN."""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3×3 convolutions with a shortcut (He et al. 2016, the basic block)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.short: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.short = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)), inplace=True)
        h = self.bn2(self.conv2(h))
        return F.relu(h + self.short(x), inplace=True)


class ResNet18(nn.Module):
    """(n, 3, s, s) in [-1, 1] -> logits (n, outputs); 11,176,512 + 513·outputs parameters."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )
        layers: list[nn.Module] = []
        inputs = 64
        for stage, width in enumerate((64, 128, 256, 512)):
            layers += [Block(inputs, width, 1 if stage == 0 else 2), Block(width, width, 1)]
            inputs = width
        self.main = nn.Sequential(*layers)
        self.head = nn.Linear(512, outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.main(self.stem(x)).mean((2, 3))))


class SmallVGG(nn.Module):
    """A plain stack of 3×3 convolutions whose 128 pooled features feed two heads.

    `features` (n, 128) encode labels and identity and are used for the Fréchet distance. `embed`
    gives unit vectors (n, 64), trained to classify the `people` of the train split if identities
    are known (people ≥ 2), otherwise the normalized features (n, 128).
    """

    FEATURES = 128

    def __init__(self, outputs: int, people: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width in (16, 32, 64, self.FEATURES):
            for _ in range(2):
                layers += [
                    nn.Conv2d(inputs, width, 3, 1, 1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
                inputs = width
            layers.append(nn.MaxPool2d(2))
        self.main = nn.Sequential(*layers)
        self.head = nn.Linear(self.FEATURES, outputs)
        self.person = nn.Linear(self.FEATURES, 64, bias=False) if people > 1 else None

    def features(self, x: Tensor) -> Tensor:
        """(n, 3, s, s) in [-1, 1] -> (n, 128)."""
        return cast(Tensor, self.main(x).mean((2, 3)))

    def embed(self, features: Tensor) -> Tensor:
        """Unit vectors of features (n, 128); their dot product is the identity cosine."""
        return F.normalize(features if self.person is None else self.person(features))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.features(x)
        return self.head(h), self.embed(h)

"""A toy model: one file that uses every hook of the model contract once."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.data.batch import Batch
from training.data.labels import Kind, LabelSpace
from training.models.base import (
    DEFAULT_OPTIONS,
    Adversarial,
    Diagnostic,
    EditOptions,
    Losses,
    Model,
    Nets,
    Optim,
    Phase,
    Preset,
    Preview,
)
from training.models.pairs import (
    Edge,
    Pair,
    chained,
    cycle_previews,
    identity_mappings,
    pairs_of,
    split,
)
from training.models.shared_presets import demo, smoke


class Decoder(nn.Module):
    def __init__(self, dim: int, pair: Pair) -> None:
        super().__init__()
        self.pair = pair
        self.main = nn.Conv2d(dim, 3, 3, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        return torch.tanh(self.main(features)).float()


@dataclass(frozen=True)
class Toy(Model):
    """A shared encoder E, a generator for each direction of each pair, and D with dropout."""

    dim: int = 4
    lr: float = 1e-3
    clip: float = 0.01

    label_kinds: ClassVar[tuple[Kind, ...]] = ("binary", "onehot")
    several_sets: ClassVar[bool] = False
    reads_source: ClassVar[bool] = True
    edits_own_labels: ClassVar[bool] = False
    references: ClassVar[int] = 2
    adversarial = Adversarial("lsgan", (("d/real", "d/fake"),), 0.5)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        return {"smoke": smoke(demo(cls()))}

    @classmethod
    def tiny(cls) -> Self:
        return cls()

    @property
    def supported_options(self) -> tuple[str, ...]:
        return ("intensity",)

    def directions(self, space: LabelSpace) -> list[str]:
        count = len(pairs_of(space.sets[0]))
        return [f"{way}{k}" for k in range(count) for way in ("ab", "ba")]

    def networks(self, space: LabelSpace, size: int) -> Nets:
        self.check_space(space)
        pairs = pairs_of(space.sets[0])
        nets: Nets = {"E": nn.Conv2d(3, self.dim, 3, 1, 1)}
        for index, direction in enumerate(self.directions(space)):
            nets[f"G{direction}"] = Decoder(self.dim, pairs[index // 2])
        nets["D"] = nn.Sequential(nn.Conv2d(3, self.dim, 4, 2, 1), nn.ReLU(), nn.Dropout(0.5),
                                  nn.Conv2d(self.dim, 1, 1))  # fmt: skip
        return nets

    def phases(self, space: LabelSpace) -> list[Phase]:
        out = []
        for index, direction in enumerate(self.directions(space)):
            g = f"G{direction}"
            out += [
                Phase("d", ("D",), partial(self.d_loss, g=g), round_robin_index=index),
                Phase("g", ("E", g), partial(self.g_loss, g=g), round_robin_index=index,
                      eval_nets=("D",)),
            ]  # fmt: skip
        return out

    def optim(self, space: LabelSpace) -> dict[str, Optim]:
        names = ("E", "D", *(f"G{direction}" for direction in self.directions(space)))
        return {name: Optim(self.lr, (0.5, 0.999), clip=self.clip) for name in names}

    def averaged(self, space: LabelSpace) -> tuple[str, ...]:
        return ("E", *(f"G{direction}" for direction in self.directions(space)))

    def domain_masks(self, labels: Tensor, space: LabelSpace, index: int) -> tuple[Tensor, Tensor]:
        first, second = split(labels, pairs_of(space.sets[0])[index // 2])
        return (second, first) if index % 2 else (first, second)

    def d_loss(self, nets: Nets, batch: Batch, g: str) -> Losses:
        """Both references are real; the pictures of the batch and of their peers are the fakes."""
        assert batch.reference is not None
        assert batch.peers is not None
        with torch.no_grad():
            fakes = [nets[g](nets["E"](x)) for x in (batch.image, batch.peers[:, 0])]
        real, fake = nets["D"](batch.reference.flatten(0, 1)), nets["D"](torch.cat(fakes))
        return {"real": (real.float() - 1).square().mean(), "fake": fake.float().square().mean()}

    def g_loss(self, nets: Nets, batch: Batch, g: str) -> Losses:
        fake = nets[g](nets["E"](batch.image))
        return {
            "adv": (nets["D"](fake).float() - 1).square().mean(),
            "rec": F.l1_loss(fake, batch.image),
        }

    def validate(self, nets: Nets, batch: Batch, space: LabelSpace) -> Tensor:
        there = self.translate(nets, batch.image, batch.source, batch.target)
        return -F.l1_loss(there, batch.image)

    def translate(
        self,
        nets: Nets,
        image: Tensor,
        source: Tensor | None,
        target: Tensor,
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        edited = chained(self._edge(nets), self._pairs(nets), image, source, target)
        amount = 1.0 if options.intensity is None else options.intensity
        return torch.lerp(image, edited, amount).clamp(-1, 1)

    def paint(
        self,
        nets: Nets,
        image: Tensor,
        source: Tensor | None,
        target: Tensor,
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> tuple[Tensor | None, Tensor]:
        keep = torch.zeros_like(image[:, :1])
        keep[:, :, : image.shape[2] // 2] = 1
        return keep, self.translate(nets, image, source, target, options)

    def reconstruct(self, nets: Nets, image: Tensor, source: Tensor) -> Tensor:
        return identity_mappings(self._edge(nets), self._pairs(nets), image, source)

    def deployed(self, nets: Nets) -> tuple[str, ...]:
        return tuple(name for name in nets if name != "D")

    def diagnostics(self, nets: Nets, image: Tensor, target: Tensor) -> list[Diagnostic]:
        spread = float(nets["E"](image).std())
        return [Diagnostic("features", spread, 0.0, 100.0, "the features have blown up")]

    def previews(self, nets: Nets, batch: Batch, space: LabelSpace) -> dict[str, Preview]:
        return cycle_previews(self, nets, batch, space)

    def _edge(self, nets: Nets) -> Edge:
        return lambda direction, x, rows: nets[f"G{direction}"](nets["E"](x))

    def _pairs(self, nets: Nets) -> list[Pair]:
        return [net.pair for net in nets.values() if isinstance(net, Decoder)][::2]

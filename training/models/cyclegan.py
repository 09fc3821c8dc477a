"""CycleGAN (Zhu et al., ICCV 2017, arXiv 1703.10593), a pair of networks a pair of domains.

StarGAN's paper trains one for each pair and chains them for edits of several attributes; here the
pairs of a label space take turns and share one budget.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from training.core.config import DataConfig, Decay, Positive, Rate, TrainConfig, Weight
from training.data.batch import Batch
from training.data.labels import Kind, LabelSpace
from training.models.base import (
    DEFAULT_OPTIONS,
    Adversarial,
    EditOptions,
    Losses,
    Model,
    Nets,
    Optim,
    Phase,
    Preset,
    Preview,
)
from training.models.layers import narrow_normal
from training.models.pairs import (
    Edge,
    Pair,
    chained,
    identities,
    pairs_of,
    split,
    there_and_back,
    two_domains,
)
from training.models.recipes import CELEBA, RAFD, demo, smoke


class Block(nn.Module):
    """x + IN(Conv3(ReLU(IN(Conv3(x))))), reflected at the border."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class Generator(nn.Module):
    """(n, 3, s, s) of one domain of `pair` -> of the other, in [-1, 1]."""

    def __init__(self, dim: int, blocks: int, pair: Pair) -> None:
        super().__init__()
        self.pair = pair
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, dim, 7)]
        layers += [nn.InstanceNorm2d(dim), nn.ReLU()]
        for _ in range(2):
            layers += [nn.Conv2d(dim, 2 * dim, 3, 2, 1), nn.InstanceNorm2d(2 * dim), nn.ReLU()]
            dim *= 2
        layers += [Block(dim) for _ in range(blocks)]
        for _ in range(2):
            layers.append(nn.ConvTranspose2d(dim, dim // 2, 3, 2, 1, output_padding=1))
            dim //= 2
            layers += [nn.InstanceNorm2d(dim), nn.ReLU()]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(dim, 3, 7), nn.Tanh()]
        self.main = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.main(x).float()
        return out


class Discriminator(nn.Module):
    """(n, 3, s, s) -> scores of overlapping patches (70 px at three strided layers)."""

    def __init__(self, dim: int, layers: int) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(3, dim, 4, 2, 1), nn.LeakyReLU(0.2)]
        for i in range(1, layers + 1):
            a, b = dim << (i - 1), dim << i
            parts += [nn.Conv2d(a, b, 4, 2 if i < layers else 1, 1), nn.InstanceNorm2d(b)]
            parts += [nn.LeakyReLU(0.2)]
        self.main = nn.Sequential(*parts, nn.Conv2d(dim << layers, 1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.main(x).float()
        return out


@dataclass(frozen=True)
class CycleGAN(Model):
    """The published code's numbers; without its pool of 50 old fakes, which has a memory."""

    dim: Annotated[Positive, Field(description="channels of G's first layer")] = 64
    blocks: Annotated[
        Positive, Field(description="residual blocks of G; the paper's are 9 at 256 px")
    ] = 6
    d_dim: Annotated[Positive, Field(description="channels of D's first layer")] = 64
    d_layers: Annotated[Positive, Field(description="layers of D")] = 3
    lambda_cyc: Annotated[Weight, Field(description="weight of the cycle loss")] = 10.0
    lambda_idt: Annotated[Weight, Field(description="weight of the identity loss")] = 5.0
    lr: Annotated[Rate, Field(description="learning rate")] = 2e-4
    beta1: Annotated[Decay, Field(description="Adam's decay of the first moment")] = 0.5
    beta2: Annotated[Decay, Field(description="Adam's decay of the second moment")] = 0.999
    averages: Annotated[
        bool, Field(description="keep moving averages of G, which the paper does not")
    ] = False
    hub: Annotated[
        str,
        Field(
            description="pairs of this class alone: StarGAN's comparison on RaFD has neutral's "
            "seven"
        ),
    ] = ""

    adversarial: ClassVar[Adversarial] = Adversarial(
        "lsgan", (("d/a_real", "d/a_fake"), ("d/b_real", "d/b_fake"))
    )
    label_kinds: ClassVar[tuple[Kind, ...]] = ("binary", "onehot")
    several_sets: ClassVar[bool] = False
    reads_source: ClassVar[bool] = True
    edits_own_labels: ClassVar[bool] = False
    references: ClassVar[int] = 1

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        small = demo(cls(dim=16, blocks=3, d_dim=16, d_layers=2, lr=8e-4, averages=True), batch=2)
        # StarGAN's length for each pair: five of CelebA, RaFD's neutral and each of seven others.
        celeba, rafd = 5 * CELEBA, 7 * RAFD
        return {
            "demo": small,
            "smoke": smoke(small),
            "celeba-128": Preset(
                cls(),
                train=TrainConfig(
                    images=celeba, decay_images=celeba // 2, batch=1, ema=0.0, crop="shift"
                ),
            ),
            "rafd-128": Preset(
                cls(hub="neutral"),
                DataConfig(datasets=("rafd",)),
                TrainConfig(images=rafd, decay_images=rafd // 2, batch=1, ema=0.0, crop="shift"),
            ),
        }

    @classmethod
    def tiny(cls) -> Self:
        return cls(dim=4, blocks=1, d_dim=4, d_layers=1, averages=True)

    def pairs(self, space: LabelSpace) -> list[Pair]:
        """The pairs of the label space, one data set of classes or attributes (ValueError)."""
        self.check_space(space)
        return pairs_of(space.sets[0], self.hub)

    def networks(self, space: LabelSpace, size: int) -> Nets:
        """G_ab, G_ba, D_a, D_b of each pair; weights from N(0, 0.02), biases 0."""
        if size % 4 or size < 8 << (self.d_layers - 1):
            raise ValueError(
                f"size={size}: a multiple of 4, at least {8 << (self.d_layers - 1)}, is needed"
            )
        nets: Nets = {}
        for k, pair in enumerate(self.pairs(space)):
            for name in ("Gab", "Gba"):
                nets[f"{name}{k}"] = Generator(self.dim, self.blocks, pair)
            for name in ("Da", "Db"):
                nets[f"{name}{k}"] = Discriminator(self.d_dim, self.d_layers)
        for net in nets.values():
            narrow_normal(net)
        return nets

    def phases(self, space: LabelSpace) -> list[Phase]:
        """Of each pair in its turn: both G, then both D, as in the published code."""
        out = []
        for k in range(len(self.pairs(space))):
            g, d = (f"Gab{k}", f"Gba{k}"), (f"Da{k}", f"Db{k}")
            out += [
                Phase("g", g, partial(self.g_loss, k=k), round_robin_index=k),
                Phase("d", d, partial(self.d_loss, k=k), round_robin_index=k),
            ]
        return out

    def warmup(self, space: LabelSpace) -> list[Phase]:
        """Not in the paper: each G learns to copy."""
        return [
            Phase(
                "warmup", (f"Gab{k}", f"Gba{k}"), partial(self.copy_loss, k=k), round_robin_index=k
            )
            for k in range(len(self.pairs(space)))
        ]

    def optim(self, space: LabelSpace) -> dict[str, Optim]:
        setting = Optim(self.lr, (self.beta1, self.beta2))
        names = (
            f"{n}{k}" for k in range(len(self.pairs(space))) for n in ("Gab", "Gba", "Da", "Db")
        )
        return dict.fromkeys(names, setting)

    def averaged(self, space: LabelSpace) -> tuple[str, ...]:
        if not self.averages:
            return ()
        return tuple(f"{n}{k}" for k in range(len(self.pairs(space))) for n in ("Gab", "Gba"))

    def domain_masks(self, labels: Tensor, space: LabelSpace, index: int) -> tuple[Tensor, Tensor]:
        """The first and the second domain of the pair whose turn it is."""
        return split(labels, self.pairs(space)[index])

    def g_loss(self, nets: Nets, batch: Batch, k: int) -> Losses:
        """L_GAN of both G in its least-squares form, λ·L_cyc (eq. 2) and λ_idt·L_identity."""
        a, b = two_domains(batch)
        ab, ba = nets[f"Gab{k}"], nets[f"Gba{k}"]
        fake_b, fake_a = ab(a), ba(b)
        batch.shared.update(a=fake_a.detach(), b=fake_b.detach())
        return {
            "gan_ab": (nets[f"Db{k}"](fake_b) - 1).square().mean(),
            "gan_ba": (nets[f"Da{k}"](fake_a) - 1).square().mean(),
            "cyc": self.lambda_cyc * (F.l1_loss(ba(fake_b), a) + F.l1_loss(ab(fake_a), b)),
            "idt": self.lambda_idt * (F.l1_loss(ab(b), b) + F.l1_loss(ba(a), a)),
        }

    def d_loss(self, nets: Nets, batch: Batch, k: int) -> Losses:
        """½·E[(D(real) − 1)²] + ½·E[D(fake)²] of both D, on the fakes of G's own step."""
        a, b = two_domains(batch)
        out = {}
        if not batch.shared:
            with torch.no_grad():
                batch.shared.update(a=nets[f"Gba{k}"](b), b=nets[f"Gab{k}"](a))
        for side, real in (("a", a), ("b", b)):
            d, fake = nets[f"D{side}{k}"], batch.shared[side]
            out[f"{side}_real"] = 0.5 * (d(real) - 1).square().mean()
            out[f"{side}_fake"] = 0.5 * d(fake).square().mean()
        return out

    def copy_loss(self, nets: Nets, batch: Batch, k: int) -> Losses:
        """λ_cyc·‖G(x) − x‖₁ of both G."""
        a, b = two_domains(batch)
        lost = F.l1_loss(nets[f"Gab{k}"](a), a) + F.l1_loss(nets[f"Gba{k}"](b), b)
        return {"cyc": self.lambda_cyc * lost}

    def deployed(self, nets: Nets) -> tuple[str, ...]:
        """Every G, of which one edit uses one or a few."""
        return tuple(name for name in nets if name.startswith("G"))

    def validate(self, nets: Nets, batch: Batch, space: LabelSpace) -> Tensor:
        """−λ_cyc·L_cyc of held-out faces, there and back along the chain of pairs."""
        there = self.translate(nets, batch.image, batch.source, batch.target)
        back = self.translate(nets, there, batch.target, batch.source)
        return -self.lambda_cyc * F.l1_loss(back, batch.image)

    def translate(
        self,
        nets: Nets,
        image: Tensor,
        source: Tensor | None,
        target: Tensor,
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """Each pair that the edit crosses, one after the other; ValueError without the source."""
        return chained(edge_of(nets), pairs_in(nets), image, source, target)

    def reconstruct(self, nets: Nets, image: Tensor, source: Tensor) -> Tensor:
        return identities(edge_of(nets), pairs_in(nets), image, source)

    def previews(self, nets: Nets, batch: Batch, space: LabelSpace) -> dict[str, Preview]:
        return there_and_back(self, nets, batch, space)


def edge_of(nets: Nets) -> Edge:
    """The generator of each direction."""
    return lambda direction, x: nets[f"G{direction}"](x)


def pairs_in(nets: Nets) -> list[Pair]:
    """The pairs that the networks Gab<k> lead between, in order."""
    count = sum(name.startswith("Gab") for name in nets)
    return [cast(Generator, nets[f"Gab{k}"]).pair for k in range(count)]

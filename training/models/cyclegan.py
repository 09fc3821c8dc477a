"""CycleGAN (Zhu et al., ICCV 2017, arXiv 1703.10593), a pair of networks a pair of domains.

StarGAN's paper trains one for each pair and chains them for edits of several attributes; here the
pairs of a label space take turns and share one budget.
"""

from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Annotated, ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from training.core.config import Decay, Positive, Rate, Weight
from training.data.batch import Batch
from training.data.labels import LabelSet, LabelSpace
from training.models.base import (  # fmt: skip
    PLAIN,
    Adversarial,
    Ask,
    Losses,
    Model,
    Nets,
    Optim,
    Phase,
    Picture,
    examples,
)


class Pair(NamedTuple):
    """Two domains: label `a` is 1 in one; in the other label `b` is, or, where b is −1, a is 0."""

    name: str
    a: int
    b: int
    hub: bool = False  # edits between its label `b` and the other such pairs' go through `a`


def pairs_of(labels: LabelSet, hub: str = "") -> list[Pair]:
    """Every two labels that exclude each other, and each other attribute with its absence.

    Of the labels that exclude `hub`, only its own pairs. ValueError where nothing does.
    """
    names, out = labels.names, []
    groups = [names] if labels.kind == "onehot" else list(labels.groups)
    if hub and not any(hub in group for group in groups):
        known = ", ".join(name for group in groups for name in group)
        raise ValueError(f"hub={hub!r}: one of the classes is needed ({known or 'there are none'})")
    for group in groups:
        couples = list(combinations(group, 2))
        if hub in group:
            couples = [(hub, y) for y in group if y != hub]
        out += [Pair(f"{x}-{y}", names.index(x), names.index(y), hub in group) for x, y in couples]
    grouped = {name for group in groups for name in group}
    return out + [Pair(n, names.index(n), -1) for n in names if n not in grouped]


def split(labels: Tensor, pair: Pair) -> tuple[Tensor, Tensor]:
    """Which rows (n,) of labels (n, k) are in the pair's first and second domain."""
    first = labels[:, pair.a] > 0.5
    return first, (labels[:, pair.b] > 0.5) if pair.b >= 0 else ~first


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
        return x + self.body(x)


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
        return self.main(x).float()


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
        return self.main(x).float()


@dataclass(frozen=True)
class CycleGAN:
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
    reads_source: ClassVar[bool] = True

    def pairs(self, space: LabelSpace) -> list[Pair]:
        """The pairs of the label space, one data set of classes or attributes (ValueError)."""
        if len(space.sets) != 1 or space.sets[0].kind == "continuous":
            kinds = ", ".join(f"{s.name}: {s.kind}" for s in space.sets)
            raise ValueError(
                f"{kinds}: CycleGAN takes one data set of classes or attributes, whose pairs it "
                "trains"
            )
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
            for layer in net.modules():
                if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                    nn.init.normal_(layer.weight, 0.0, 0.02)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)
        return nets

    def phases(self, space: LabelSpace) -> list[Phase]:
        """Of each pair in its turn: both G, then both D, as in the published code."""
        out = []
        for k in range(len(self.pairs(space))):
            g, d = (f"Gab{k}", f"Gba{k}"), (f"Da{k}", f"Db{k}")
            out += [
                Phase("g", g, partial(self.g_loss, k=k), turn=k),
                Phase("d", d, partial(self.d_loss, k=k), turn=k),
            ]
        return out

    def warmup(self, space: LabelSpace) -> list[Phase]:
        """Not in the paper: each G learns to copy."""
        return [
            Phase("warmup", (f"Gab{k}", f"Gba{k}"), partial(self.copy_loss, k=k), turn=k)
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

    def sides(self, labels: Tensor, space: LabelSpace, turn: int) -> tuple[Tensor, Tensor]:
        """Which images of (n, k) labels are in the first and second domain of the turn's pair."""
        return split(labels, self.pairs(space)[turn])

    def lr_scale(self, images: int, length: int, decay: int) -> float:
        """Constant, then linear to 0 over the last `decay` images."""
        return min(1.0, (length - images) / decay) if decay else 1.0

    def g_loss(self, nets: Nets, batch: Batch, k: int) -> Losses:
        """L_GAN of both G in its least-squares form, λ·L_cyc (eq. 2) and λ_idt·L_identity."""
        a, b = two(batch)
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
        a, b = two(batch)
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
        a, b = two(batch)
        lost = F.l1_loss(nets[f"Gab{k}"](a), a) + F.l1_loss(nets[f"Gba{k}"](b), b)
        return {"cyc": self.lambda_cyc * lost}

    def deployed(self, nets: Nets) -> list[str]:
        """What edits need in all: every G, of which one edit uses one or a few."""
        return [name for name in nets if name.startswith("G")]

    def validate(self, nets: Nets, batch: Batch, space: LabelSpace) -> Tensor:
        """−λ_cyc·L_cyc of held-out faces, there and back along the chain of pairs."""
        there = self.translate(nets, batch.image, batch.source, batch.target)
        back = self.translate(nets, there, batch.target, batch.source)
        return -self.lambda_cyc * F.l1_loss(back, batch.image)

    def translate(
        self, nets: Nets, image: Tensor, source: Tensor | None, target: Tensor, ask: Ask = PLAIN
    ) -> Tensor:
        """Each pair that the edit crosses, one after the other; ValueError without the source."""
        return chained(nets, kept(nets), image, source, target)

    def reconstruct(self, nets: Nets, image: Tensor, source: Tensor) -> Tensor:
        return identities(nets, kept(nets), image, source)

    def shows(self, nets: Nets, batch: Batch, space: LabelSpace) -> dict[str, Picture]:
        return there_and_back(self, nets, batch, space)


def kept(nets: Nets) -> list[Pair]:
    """The pairs of networks Gab<k>, in order."""
    count = sum(name.startswith("Gab") for name in nets)
    return [cast(Pair, nets[f"Gab{k}"].pair) for k in range(count)]


def there_and_back(model: Model, nets: Nets, batch: Batch, space: LabelSpace) -> dict[str, Picture]:
    """Single edits, and the networks of the other direction on what came out."""
    names, x, source, target = examples(batch, space)
    there = model.translate(nets, x, source, target)
    back = model.translate(nets, there, target, source)
    says = "Single edits, and the way back from what came out."
    columns = ("input", "edited", "back")
    return {"cycle": Picture(torch.stack([x, there, back], 1), columns, says, names)}


def chained(
    nets: Nets, pairs: list[Pair], image: Tensor, source: Tensor | None, target: Tensor
) -> Tensor:
    """The nets Gab<k> and Gba<k> of each pair that an edit crosses, one after the other.

    Where pairs have a hub, an edit goes to it and from there on.
    """
    if source is None:
        raise ValueError(
            "networks of pairs go from one domain to another: say which labels the picture has"
        )
    out, between = image.clone(), target
    if hubs := [pair for pair in pairs if pair.hub]:
        members = [hubs[0].a, *(pair.b for pair in hubs)]
        at_hub = torch.zeros_like(target[:, members])
        at_hub[:, 0] = 1
        moves = (source[:, members] != target[:, members]).any(1, keepdim=True)
        between = target.clone()
        between[:, members] = torch.where(moves, at_hub, target[:, members])
    for start, end in ((source, between), (between, target)):
        for k, pair in enumerate(pairs):
            (from_a, from_b), (to_a, to_b) = split(start, pair), split(end, pair)
            for name, rows in (("Gab", from_a & to_b), ("Gba", from_b & to_a)):
                if rows.any():
                    out[rows] = nets[f"{name}{k}"](out[rows])
    return out


def identities(nets: Nets, pairs: list[Pair], image: Tensor, source: Tensor) -> Tensor:
    """Each image by the first network that leads to a domain it is in already: G_ab(b).

    A chain from its labels to themselves crosses no pair and would be a copy.
    """
    out, left = image.clone(), torch.ones(len(image), dtype=torch.bool, device=image.device)
    for k, pair in enumerate(pairs):
        in_a, in_b = split(source, pair)
        for name, rows in (("Gab", in_b & left), ("Gba", in_a & left)):
            if rows.any():
                out[rows] = nets[f"{name}{k}"](image[rows])
        left &= ~(in_a | in_b)
    return out


def two(batch: Batch) -> tuple[Tensor, Tensor]:
    """The pair's images: of its first and of its second domain."""
    if batch.reference is None:
        raise ValueError("a pair trains on batches of two domains")
    return batch.image, batch.reference[:, 0]

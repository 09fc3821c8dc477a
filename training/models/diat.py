"""DIAT (Li, Zuo, Zhang, arXiv 1610.05586), one network per direction, as in StarGAN's comparison.

Layers and loss weights are not published, so this follows the parameter count in StarGAN's paper:
CycleGAN's generator, StarGAN's critic without labels, WGAN-GP, and an identity loss on deep
features. The features are the critic's (the paper's DIAT-A), since no face network is available.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from training.core.config import (
    DataConfig,
    Decay,
    Layers,
    Positive,
    Rate,
    TrainConfig,
    Units,
    Weight,
)
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
from training.models.cyclegan import Generator, edge_of
from training.models.kernels import wide_conv
from training.models.layers import Output, Upsampling, autocast_off, check_halvings
from training.models.losses import (
    AdversarialLoss,
    R1Weight,
    balance_of,
    fooled,
    gradient_penalty,
    told_apart,
    zero_centred,
)
from training.models.pairs import (
    Pair,
    chained,
    cycle_previews,
    identity_mappings,
    pairs_in,
    pairs_of,
    split,
    two_domains,
)
from training.models.shared_presets import CELEBA, RAFD, demo, smoke


class Critic(nn.Module):
    """Images (n, 3, s, s) -> patch scores, and if `features` also the last feature map."""

    def __init__(self, dim: int, repeat: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for i in range(repeat):
            layers += [wide_conv(channels, dim << i, 4, 2, 1), nn.LeakyReLU(0.01)]
            channels = dim << i
        self.main = nn.Sequential(*layers)
        self.src = nn.Conv2d(channels, 1, 3, 1, 1, bias=False)

    def forward(self, x: Tensor, *, features: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        h = self.main(x)
        with autocast_off(h):
            h = h.float()
            return (self.src(h), h) if features else self.src(h)

    def score_path(self) -> nn.Module:
        return nn.Sequential(self.main, self.src)


@dataclass(frozen=True)
class DIAT(Model):
    """Hyper-parameters of DIAT; defaults as in StarGAN's comparison, except our λ_id."""

    dim: Annotated[Units, Field(description="channels of G's first layer")] = 64
    blocks: Annotated[Layers, Field(description="residual blocks of G")] = 6
    d_dim: Annotated[Units, Field(description="channels of D's first layer")] = 64
    d_repeat_num: Annotated[Layers, Field(description="strided layers of D")] = 6
    lambda_id: Annotated[
        Weight,
        Field(description="weight of the identity loss; with 1, G only adds noise"),
    ] = 10.0
    lambda_gp: Annotated[Weight, Field(description="weight of the gradient penalty")] = 10.0
    n_critic: Annotated[Positive, Field(description="updates of D for one of G")] = 5
    lr: Annotated[Rate, Field(description="learning rate")] = 1e-4
    beta1: Annotated[Decay, Field(description="Adam's decay of the first moment")] = 0.5
    beta2: Annotated[Decay, Field(description="Adam's decay of the second moment")] = 0.999
    averages: Annotated[bool, Field(description="keep moving averages of G (not in the paper)")] = (
        False
    )
    hub: Annotated[
        str,
        Field(
            description="train only the pairs with this class; StarGAN's comparison has the 7 "
            "directions from RaFD's neutral, ours also the 7 back, for edits between the others"
        ),
    ] = ""
    # Not in the paper, for short trainings; the papers' presets keep the defaults.
    upsampling: Upsampling = "transposed"
    output: Output = "image"
    loss: AdversarialLoss = "wgan-gp"
    lambda_r1: R1Weight = 1.0

    label_kinds: ClassVar[tuple[Kind, ...]] = ("binary", "onehot")
    several_sets: ClassVar[bool] = False
    reads_source: ClassVar[bool] = True
    needs_source: ClassVar[bool] = True
    edits_own_labels: ClassVar[bool] = False
    references: ClassVar[int] = 1

    @property
    def adversarial(self) -> Adversarial:
        return balance_of(self.loss)

    def named_classes(self) -> tuple[str, ...]:
        return (self.hub,) if self.hub else ()

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        small = demo(
            # Departs from StarGAN's comparison, which needs a GPU's hours: docs/models/diat.md.
            cls(
                dim=16, blocks=3, d_dim=16, d_repeat_num=4, n_critic=1, lr=5e-4, averages=True,
                lambda_id=3.0, beta2=0.99, upsampling="resize", output="residual",
                loss="logistic-r1",
            ),
            images=11_200, decay_images=4_400, batch=2, warmup_images=0,
        )  # fmt: skip
        # StarGAN's training length for each direction, two per pair.
        celeba = TrainConfig(images=10 * CELEBA, decay_images=5 * CELEBA, ema=0.0)
        rafd = TrainConfig(images=14 * RAFD, decay_images=7 * RAFD, ema=0.0)
        return {
            "demo": small,
            "smoke": smoke(small),
            "celeba-128": Preset(cls(), train=celeba),
            "rafd-128": Preset(cls(hub="neutral"), DataConfig(datasets=("rafd",)), rafd),
        }

    @classmethod
    def tiny(cls) -> Self:
        return cls(dim=4, blocks=1, d_dim=4, d_repeat_num=2, n_critic=1, averages=True)

    def pairs(self, space: LabelSpace) -> list[Pair]:
        """The domain pairs, each with two directions. Raises ValueError as CycleGAN does."""
        self.check_space(space)
        return pairs_of(space.sets[0], self.hub)

    def directions(self, space: LabelSpace) -> list[str]:
        """ab0, ba0, ab1, …: suffixes of the networks' names, in round-robin order."""
        return [f"{side}{k}" for k in range(len(self.pairs(space))) for side in ("ab", "ba")]

    def networks(self, space: LabelSpace, size: int) -> Nets:
        """G and D of each direction. Raises ValueError for an unsupported label space or size."""
        check_halvings(size, self.d_repeat_num)
        nets: Nets = {}
        pairs = self.pairs(space)
        for index, name in enumerate(self.directions(space)):
            pair = pairs[index // 2]
            nets[f"G{name}"] = Generator(self.dim, self.blocks, pair, self.upsampling, self.output)
            nets[f"D{name}"] = Critic(self.d_dim, self.d_repeat_num)
        return nets

    def phases(self, space: LabelSpace) -> list[Phase]:
        out = []
        for index, name in enumerate(self.directions(space)):
            g, d = (f"G{name}",), (f"D{name}",)
            out += [
                Phase("d", d, partial(self.d_loss, name=name), round_robin_index=index),
                Phase(
                    "g", g, partial(self.g_loss, name=name), self.n_critic, round_robin_index=index
                ),
            ]
        return out

    def warmup(self, space: LabelSpace) -> list[Phase]:
        """Not in the paper: each G first learns the identity."""
        return [
            Phase(
                "warmup", (f"G{name}",), partial(self.copy_loss, name=name), round_robin_index=index
            )
            for index, name in enumerate(self.directions(space))
        ]

    def optim(self, space: LabelSpace) -> dict[str, Optim]:
        setting = Optim(self.lr, (self.beta1, self.beta2))
        names = self.directions(space)
        return dict.fromkeys((f"{kind}{name}" for name in names for kind in "GD"), setting)

    def averaged(self, space: LabelSpace) -> tuple[str, ...]:
        return tuple(f"G{name}" for name in self.directions(space)) if self.averages else ()

    def domain_masks(self, labels: Tensor, space: LabelSpace, index: int) -> tuple[Tensor, Tensor]:
        """Masks of the source and the target domain of the current direction."""
        first, second = split(labels, self.pairs(space)[index // 2])
        return (second, first) if index % 2 else (first, second)

    def d_loss(self, nets: Nets, batch: Batch, name: str) -> Losses:
        """−E[D(y)] + E[D(G(x))] + λ_gp·GP.

        logistic-r1: E[softplus(−D(y))] + E[softplus(D(G(x)))] + λ_r1/2·R1, with R1 of the mean of
        the patch scores; r3gan: E[softplus(D(G(x)) − D(y))] + λ_r1/2·(R1 + R2).
        """
        x, real = two_domains(batch)
        with torch.no_grad():
            fake = nets[f"G{name}"](x)
        d = nets[f"D{name}"]
        if self.loss == "wgan-gp":
            alpha = batch.noise("alpha", (1, 1, 1))
            penalty = {"gp": self.lambda_gp * gradient_penalty(d, real, fake, alpha)}
        else:
            patches = (real.shape[2] >> self.d_repeat_num) ** 2
            penalty = zero_centred(d, real, fake, self.loss, self.lambda_r1, 1 / patches)
        return told_apart(d(real), d(fake), self.loss) | penalty

    def g_loss(self, nets: Nets, batch: Batch, name: str) -> Losses:
        """−E[D(G(x))] + λ_id·‖F(x) − F(G(x))‖₁, with F the critic's features.

        logistic-r1: E[softplus(−D(G(x)))] instead of the first; r3gan: E[softplus(D(y) − D(G(x)))].
        """
        x, y = two_domains(batch)
        src, fake_features = nets[f"D{name}"](nets[f"G{name}"](x), features=True)
        with torch.no_grad():
            _, real_features = nets[f"D{name}"](x, features=True)
        identity = F.l1_loss(fake_features, real_features)
        fake = fooled(src, self.loss, lambda: nets[f"D{name}"](y))
        return {"fake": fake, "id": self.lambda_id * identity}

    def copy_loss(self, nets: Nets, batch: Batch, name: str) -> Losses:
        """10·‖G(x) − x‖₁."""
        x, _ = two_domains(batch)
        return {"rec": 10 * F.l1_loss(nets[f"G{name}"](x), x)}

    def deployed(self, nets: Nets) -> tuple[str, ...]:
        """Every G; a single edit uses one or a few of them."""
        return tuple(name for name in nets if name.startswith("G"))

    def validate(self, nets: Nets, batch: Batch, space: LabelSpace) -> Tensor:
        """−‖x − x''‖₁ on held-out images, with x'' the cycle reconstruction of edits."""
        edited = self.translate(nets, batch.image, batch.source, batch.target)
        back = self.translate(nets, edited, batch.target, batch.source)
        return -F.l1_loss(back, batch.image)

    def translate(
        self,
        nets: Nets,
        image: Tensor,
        source: Tensor | None,
        target: Tensor,
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """Apply every direction of the edit. Raises ValueError without source labels."""
        return chained(edge_of(nets), pairs_in(nets), image, source, target)

    def reconstruct(self, nets: Nets, image: Tensor, source: Tensor) -> Tensor:
        return identity_mappings(edge_of(nets), pairs_in(nets), image, source)

    def previews(self, nets: Nets, batch: Batch, space: LabelSpace) -> dict[str, Preview]:
        return cycle_previews(self, nets, batch, space)

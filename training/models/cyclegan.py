"""CycleGAN (Zhu et al., ICCV 2017, arXiv 1703.10593), one per domain pair.

As in StarGAN's comparison, edits of several attributes chain pairs. Here one model holds all pairs
of a label space; they are trained round-robin and share one budget.
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
from training.models.kernels import Norm, ToImage
from training.models.layers import (
    Output,
    Upsample,
    Upsampling,
    changed,
    narrow_normal,
    start_as_copy,
)
from training.models.losses import (
    R1Weight,
    SquaredLoss,
    balance_of,
    fooled,
    told_apart,
    zero_centred,
)
from training.models.pairs import (
    Edge,
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


class Block(nn.Module):
    """Residual block x + IN(Conv3(ReLU(IN(Conv3(x))))) with reflection padding."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            Norm(channels, affine=False),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            Norm(channels, affine=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class Generator(nn.Module):
    """Images (n, 3, s, s) in [-1, 1] of one domain of `pair` -> images of the other.

    With a residual `output` the last layer gives the change of x, at first 0.
    """

    def __init__(
        self,
        dim: int,
        blocks: int,
        pair: Pair,
        upsampling: Upsampling = "transposed",
        output: Output = "image",
    ) -> None:
        super().__init__()
        self.pair, self.residual = pair, output == "residual"
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, dim, 7)]
        layers += [Norm(dim, affine=False), nn.ReLU()]
        for _ in range(2):
            layers += [nn.Conv2d(dim, 2 * dim, 3, 2, 1), Norm(2 * dim, affine=False), nn.ReLU()]
            dim *= 2
        layers += [Block(dim) for _ in range(blocks)]
        for _ in range(2):
            if upsampling == "resize":
                layers.append(Upsample(dim, dim // 2, bias=True))
            else:
                layers.append(nn.ConvTranspose2d(dim, dim // 2, 3, 2, 1, output_padding=1))
            dim //= 2
            layers += [Norm(dim, affine=False), nn.ReLU()]
        layers += [nn.ReflectionPad2d(3), ToImage(dim, 3, 0, bias=True)]
        if not self.residual:
            layers.append(nn.Tanh())
        self.main = nn.Sequential(*layers)
        if self.residual:
            start_as_copy(self.main[-1])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.main(x).float()
        return changed(x, out) if self.residual else out


class Discriminator(nn.Module):
    """Images (n, 3, s, s) -> patch scores (receptive field 70 px with three strided layers)."""

    def __init__(self, dim: int, layers: int) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(3, dim, 4, 2, 1), nn.LeakyReLU(0.2)]
        for i in range(1, layers + 1):
            a, b = dim << (i - 1), dim << i
            parts += [nn.Conv2d(a, b, 4, 2 if i < layers else 1, 1), Norm(b, affine=False)]
            parts += [nn.LeakyReLU(0.2)]
        self.main = nn.Sequential(*parts, nn.Conv2d(dim << layers, 1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.main(x).float()
        return out

    def score_path(self) -> nn.Module:
        return self.main


@dataclass(frozen=True)
class CycleGAN(Model):
    """Hyper-parameters of CycleGAN; defaults as in the published code.

    Without its pool of 50 earlier fakes, which would be extra training state.
    """

    dim: Annotated[Units, Field(description="channels of G's first layer")] = 64
    blocks: Annotated[
        Layers, Field(description="residual blocks of G; the paper's are 9 at 256 px")
    ] = 6
    d_dim: Annotated[Units, Field(description="channels of D's first layer")] = 64
    d_layers: Annotated[Layers, Field(description="layers of D")] = 3
    lambda_cyc: Annotated[Weight, Field(description="weight of the cycle loss")] = 10.0
    lambda_idt: Annotated[Weight, Field(description="weight of the identity loss")] = 5.0
    lr: Annotated[Rate, Field(description="learning rate")] = 2e-4
    beta1: Annotated[Decay, Field(description="Adam's decay of the first moment")] = 0.5
    beta2: Annotated[Decay, Field(description="Adam's decay of the second moment")] = 0.999
    averages: Annotated[bool, Field(description="keep moving averages of G (not in the paper)")] = (
        False
    )
    hub: Annotated[
        str,
        Field(
            description="train only the pairs with this class, such as the seven pairs of RaFD's "
            "neutral in StarGAN's comparison"
        ),
    ] = ""
    upsampling: Upsampling = "transposed"
    output: Output = "image"
    loss: SquaredLoss = "lsgan"
    lambda_r1: R1Weight = 1.0

    label_kinds: ClassVar[tuple[Kind, ...]] = ("binary", "onehot")
    several_sets: ClassVar[bool] = False
    reads_source: ClassVar[bool] = True
    needs_source: ClassVar[bool] = True
    edits_own_labels: ClassVar[bool] = False
    references: ClassVar[int] = 1

    @property
    def adversarial(self) -> Adversarial:
        return balance_of(self.loss, ("d/a_", "d/b_"))

    def named_classes(self) -> tuple[str, ...]:
        return (self.hub,) if self.hub else ()

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        # Departs from the paper, whose form leaves stripes: docs/models/cyclegan.md.
        small = demo(
            cls(
                dim=16, blocks=3, d_dim=16, d_layers=2, lr=8e-4, averages=True,
                upsampling="resize", output="residual",
            ),
            batch=2, warmup_images=0, ema=0.99,
        )  # fmt: skip
        # StarGAN's training length for each pair: five pairs of CelebA, seven of RaFD's neutral.
        celeba, rafd = 5 * CELEBA, 7 * RAFD
        return {
            "demo": small,
            "smoke": smoke(small),
            "celeba-128": Preset(
                cls(),
                DataConfig(load=143),
                TrainConfig(
                    images=celeba, decay_images=celeba // 2, batch=1, ema=0.0, crop="shift"
                ),
            ),
            "rafd-128": Preset(
                cls(hub="neutral"),
                DataConfig(datasets=("rafd",), load=143),
                TrainConfig(images=rafd, decay_images=rafd // 2, batch=1, ema=0.0, crop="shift"),
            ),
        }

    @classmethod
    def tiny(cls) -> Self:
        return cls(dim=4, blocks=1, d_dim=4, d_layers=1, averages=True)

    def pairs(self, space: LabelSpace) -> list[Pair]:
        """The domain pairs of the label space. Raises ValueError for an unsupported one."""
        self.check_space(space)
        return pairs_of(space.sets[0], self.hub)

    def networks(self, space: LabelSpace, size: int) -> Nets:
        """G_ab, G_ba, D_a, D_b of each pair; weights from N(0, 0.02), biases 0.

        Raises ValueError for an unsupported label space or size.
        """
        if size % 4 or size < 8 << (self.d_layers - 1):
            raise ValueError(
                f"size={size}: a multiple of 4, at least {8 << (self.d_layers - 1)}, is needed"
            )
        nets: Nets = {}
        for k, pair in enumerate(self.pairs(space)):
            for name in ("Gab", "Gba"):
                nets[f"{name}{k}"] = Generator(
                    self.dim, self.blocks, pair, self.upsampling, self.output
                )
            for name in ("Da", "Db"):
                nets[f"{name}{k}"] = Discriminator(self.d_dim, self.d_layers)
        for net in nets.values():
            narrow_normal(net)
            if isinstance(net, Generator) and net.residual:
                start_as_copy(net.main[-1])
        return nets

    def phases(self, space: LabelSpace) -> list[Phase]:
        """Both G, then both D of one pair per iteration, as in the published code."""
        out = []
        for k in range(len(self.pairs(space))):
            g, d = (f"Gab{k}", f"Gba{k}"), (f"Da{k}", f"Db{k}")
            out += [
                Phase("g", g, partial(self.g_loss, k=k), round_robin_index=k),
                Phase("d", d, partial(self.d_loss, k=k), round_robin_index=k),
            ]
        return out

    def warmup(self, space: LabelSpace) -> list[Phase]:
        """Not in the paper: each G first learns the identity."""
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
        """Masks of the first and the second domain of the current pair."""
        return split(labels, self.pairs(space)[index])

    def g_loss(self, nets: Nets, batch: Batch, k: int) -> Losses:
        """Least-squares L_GAN of both G, λ_cyc·L_cyc (eq. 2) and λ_idt·L_identity.

        r3gan: E[softplus(D(real) − D(fake))] of both G instead of the first.
        """
        a, b = two_domains(batch)
        ab, ba = nets[f"Gab{k}"], nets[f"Gba{k}"]
        fake_b, fake_a = ab(a), ba(b)
        batch.shared.update(a=fake_a.detach(), b=fake_b.detach())
        d_a, d_b = nets[f"Da{k}"], nets[f"Db{k}"]
        return {
            "gan_ab": fooled(d_b(fake_b), self.loss, lambda: d_b(b)),
            "gan_ba": fooled(d_a(fake_a), self.loss, lambda: d_a(a)),
            "cyc": self.lambda_cyc * (F.l1_loss(ba(fake_b), a) + F.l1_loss(ab(fake_a), b)),
            "idt": self.lambda_idt * (F.l1_loss(ab(b), b) + F.l1_loss(ba(a), a)),
        }

    def d_loss(self, nets: Nets, batch: Batch, k: int) -> Losses:
        """½·E[(D(real) − 1)²] + ½·E[D(fake)²] of both D, on the fakes of the G phase.

        r3gan: E[softplus(D(fake) − D(real))] + λ_r1/2·(R1 + R2), of the mean of the patch scores.
        """
        a, b = two_domains(batch)
        out: Losses = {}
        if not batch.shared:
            with torch.no_grad():
                batch.shared.update(a=nets[f"Gba{k}"](b), b=nets[f"Gab{k}"](a))
        for side, real in (("a", a), ("b", b)):
            d, fake = nets[f"D{side}{k}"], batch.shared[side]
            scores = d(real)
            terms = told_apart(scores, d(fake), self.loss)
            if self.loss == "r3gan":
                patches = scores[0].numel()
                terms |= zero_centred(d, real, fake, self.loss, self.lambda_r1, 1 / patches)
            out |= {f"{side}_{name}": term for name, term in terms.items()}
        return out

    def copy_loss(self, nets: Nets, batch: Batch, k: int) -> Losses:
        """λ_cyc·‖G(x) − x‖₁ of both G."""
        a, b = two_domains(batch)
        loss = F.l1_loss(nets[f"Gab{k}"](a), a) + F.l1_loss(nets[f"Gba{k}"](b), b)
        return {"cyc": self.lambda_cyc * loss}

    def deployed(self, nets: Nets) -> tuple[str, ...]:
        """Every G; a single edit uses one or a few of them."""
        return tuple(name for name in nets if name.startswith("G"))

    def validate(self, nets: Nets, batch: Batch, space: LabelSpace) -> Tensor:
        """−λ_cyc·‖x − x''‖₁ on held-out images, with x'' the cycle reconstruction of edits."""
        edited = self.translate(nets, batch.image, batch.source, batch.target)
        back = self.translate(nets, edited, batch.target, batch.source)
        return -self.lambda_cyc * F.l1_loss(back, batch.image)

    def translate(
        self,
        nets: Nets,
        image: Tensor,
        source: Tensor | None,
        target: Tensor,
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """Apply every pair that the edit crosses. Raises ValueError without source labels."""
        return chained(edge_of(nets), pairs_in(nets), image, source, target)

    def reconstruct(self, nets: Nets, image: Tensor, source: Tensor) -> Tensor:
        return identity_mappings(edge_of(nets), pairs_in(nets), image, source)

    def previews(self, nets: Nets, batch: Batch, space: LabelSpace) -> dict[str, Preview]:
        return cycle_previews(self, nets, batch, space)


def edge_of(nets: Nets) -> Edge:
    """The function that applies the generator of a direction."""
    return lambda direction, x, rows: nets[f"G{direction}"](x)

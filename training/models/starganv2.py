"""StarGAN v2 (Choi et al., CVPR 2020, arXiv 1912.01865).

G is conditioned on a style code s of a domain y: F(z, y) of a latent z, or E(x, y) of a reference
image x. F, E and D have one branch per domain. Domains are the classes of one data set.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from training.core.config import (
    DataConfig,
    Decay,
    Rate,
    SomeUnits,
    TrainConfig,
    Units,
    Weight,
)
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
from training.models.kernels import Norm, wide_conv
from training.models.landmarks import Landmarks
from training.models.layers import (
    Output,
    autocast_off,
    changed,
    check_power_of_two,
    he_normal,
    normal,
    start_as_copy,
)
from training.models.losses import (
    LogisticLoss,
    ModeSeekingClip,
    ModeSeekingWeight,
    balance_of,
    fooled,
    mode_seeking,
    r1_penalty,
    told_apart,
)
from training.models.shared_presets import HAIR_JUDGE, demo, smoke
from training.models.slope import Back, pull, rule, scores_and_slope
from training.models.styles import fixed_latent, latent_of, style_preview

LATENT, STYLE = 16, 64  # dimensions of z and s


class ResBlock(nn.Module):
    """Pre-activation residual block, scaled by 1/√2; `downsample`: 2×2 average pooling."""

    def __init__(self, inputs: int, outputs: int, *, normalize: bool, downsample: bool) -> None:
        super().__init__()
        self.downsample = downsample
        self.norm1, self.norm2 = (Norm(inputs) if normalize else nn.Identity() for _ in range(2))
        self.conv1 = nn.Conv2d(inputs, inputs, 3, 1, 1)
        self.conv2 = nn.Conv2d(inputs, outputs, 3, 1, 1)
        identity = inputs == outputs
        self.short = nn.Identity() if identity else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.leaky_relu(self.norm1(x), 0.2))
        short: Tensor = self.short(x)
        if self.downsample:
            h, short = F.avg_pool2d(h, 2), F.avg_pool2d(short, 2)
        out: Tensor = self.conv2(F.leaky_relu(self.norm2(h), 0.2))
        return (out + short) / math.sqrt(2)


@rule(ResBlock, piecewise_linear=True)
def _pull_res_block(block: ResBlock, x: Tensor) -> tuple[Tensor, Back]:
    act = nn.LeakyReLU(0.2)
    half = nn.AvgPool2d(2) if block.downsample else nn.Identity()
    layers = (block.norm1, act, block.conv1, half, block.norm2, act, block.conv2)
    out, back = pull(nn.Sequential(*layers), x)
    short, back_short = pull(nn.Sequential(block.short, half), x)
    return (out + short) / math.sqrt(2), lambda g: (back(g) + back_short(g)) / math.sqrt(2)


class AdaIN(nn.Module):
    """Adaptive instance norm: (1 + γ(s))·IN(x) + β(s)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = Norm(channels, affine=False)
        self.affine = nn.Linear(STYLE, 2 * channels)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        gamma, beta = self.affine(s)[:, :, None, None].chunk(2, 1)
        out: Tensor = (1 + gamma) * self.norm(x) + beta
        return out


class StyledBlock(nn.Module):
    """A residual block with AdaIN; `upsample`: nearest-neighbour upsampling by 2.

    `skip` False removes the residual connection, as published for networks with high-pass skips.
    """

    def __init__(self, inputs: int, outputs: int, *, upsample: bool, skip: bool = True) -> None:
        super().__init__()
        self.upsample, self.skip = upsample, skip
        self.norm1, self.norm2 = AdaIN(inputs), AdaIN(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        identity = inputs == outputs or not skip
        self.short = nn.Identity() if identity else nn.Conv2d(inputs, outputs, 1, bias=False)

    def _upsampled(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.upsample else x

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        h = self.conv1(self._upsampled(F.leaky_relu(self.norm1(x, s), 0.2)))
        out: Tensor = self.conv2(F.leaky_relu(self.norm2(h, s), 0.2))
        return (out + self.short(self._upsampled(x))) / math.sqrt(2) if self.skip else out


def widths(dim: int, most: int, count: int) -> list[int]:
    """Channels dim, 2·dim, … for `count` downsamplings, at most `most`."""
    return [min(dim << i, most) for i in range(count + 1)]


class Generator(nn.Module):
    """Images (n, 3, s, s) and style codes (n, 64) -> images (n, 3, s, s), not bounded.

    With w_hpf > 0 the encoder's features at 32, 64 and 128 px are masked by `landmarks`, high-pass
    filtered and added to the decoder's. With `residual` the last layer gives the change of x, at
    first 0, and images are in [-1, 1].
    """

    sharp: Tensor

    def __init__(
        self, size: int, dim: int, most: int, w_hpf: float = 0.0,
        landmarks: Callable[[Tensor], Tensor] | None = None, *, residual: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.landmarks, self.residual = landmarks, residual
        # 2-D: DDP cannot copy 1×1 kernels in channels-last
        kernel = torch.full((3, 3), -1.0, device="cpu")
        kernel[1, 1] = 8.0
        self.register_buffer("sharp", kernel / (w_hpf or 1.0), persistent=False)
        # downsample to 16 px, to 8 px with high-pass skips
        plan = widths(dim, most, max(1, size.bit_length() - 1 - 4 + bool(w_hpf)))
        steps, skip = list(pairwise(plan)), not w_hpf
        self.enter = nn.Conv2d(3, dim, 3, 1, 1)
        self.encode = nn.Sequential(
            *(ResBlock(a, b, normalize=True, downsample=True) for a, b in steps),
            *(ResBlock(plan[-1], plan[-1], normalize=True, downsample=False) for _ in range(2)),
        )
        self.decode = nn.ModuleList(
            [
                *(StyledBlock(plan[-1], plan[-1], upsample=False, skip=skip) for _ in range(2)),
                *(StyledBlock(b, a, upsample=True, skip=skip) for a, b in reversed(steps)),
            ]
        )
        self.leave = nn.Sequential(Norm(dim), nn.LeakyReLU(0.2), nn.Conv2d(dim, 3, 1))

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        maps = self.landmarks(x) if self.landmarks else None
        h = self.enter(x)
        features: dict[int, Tensor] = {}
        for block in self.encode:
            features[h.shape[2]] = h
            h = block(h)
        for block in self.decode:
            h = block(h, s)
            if maps is not None and h.shape[2] in (32, 64, 128):
                h = h + self.high_pass(features[h.shape[2]], maps)
        out: Tensor = self.leave(h).float()
        return changed(x, out) if self.residual else out

    def high_pass(self, h: Tensor, maps: Tensor) -> Tensor:
        """High-pass filter of m∘h, with m the mask for the size of h."""
        mask = maps[:, :1] if h.shape[2] == 32 else maps[:, 1:]
        mask = F.interpolate(mask, h.shape[2:], mode="bilinear", align_corners=False).to(h.dtype)
        kernel = self.sharp.to(h.dtype).expand(h.shape[1], 1, 3, 3)
        return F.conv2d(mask * h, kernel, padding=1, groups=h.shape[1])


def of_domain(values: Tensor, y: Tensor) -> Tensor:
    """Of values (n, domains, …), those of each row's domain y (n,): (n, …)."""
    rows = y.reshape(-1, *[1] * (values.dim() - 1)).expand(-1, 1, *values.shape[2:])
    return values.gather(1, rows)[:, 0]


class Mapping(nn.Module):
    """F: latents (n, 16) and domain indices (n,) -> style codes (n, 64)."""

    def __init__(self, domains: int, hidden: int) -> None:
        super().__init__()
        shared: list[nn.Module] = []
        for inputs in (LATENT, hidden, hidden, hidden):
            shared += [nn.Linear(inputs, hidden), nn.ReLU()]
        self.shared = nn.Sequential(*shared)
        self.own = nn.ModuleList()
        for _ in range(domains):
            layers: list[nn.Module] = []
            for _ in range(3):
                layers += [nn.Linear(hidden, hidden), nn.ReLU()]
            self.own.append(nn.Sequential(*layers, nn.Linear(hidden, STYLE)))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h = self.shared(z)
        return of_domain(torch.stack([branch(h) for branch in self.own], 1), y).float()


class SharedMap(nn.Module):
    """F of ablations C and D: one affine map of the domain and the first `latent` values of z."""

    def __init__(self, domains: int, latent: int) -> None:
        super().__init__()
        self.domains, self.latent = domains, latent
        self.affine = nn.Linear(latent + domains, STYLE)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        domain = F.one_hot(y, self.domains).to(z.dtype)
        out: Tensor = self.affine(torch.cat([z[:, : self.latent], domain], 1)).float()
        return out


def _trunk(size: int, dim: int, most: int) -> tuple[list[nn.Module], int]:
    """The trunk of E and D, (n, 3, s, s) -> (n, width, 1, 1), and its width."""
    plan = widths(dim, most, size.bit_length() - 1 - 2)  # down to 4 px
    layers: list[nn.Module] = [nn.Conv2d(3, dim, 3, 1, 1)]
    layers += [ResBlock(a, b, normalize=False, downsample=True) for a, b in pairwise(plan)]
    layers += [nn.LeakyReLU(0.2), wide_conv(plan[-1], plan[-1], 4), nn.LeakyReLU(0.2)]
    return layers, plan[-1]


class StyleEncoder(nn.Module):
    """E: images (n, 3, s, s) and domain indices (n,) -> style codes (n, 64)."""

    def __init__(self, size: int, dim: int, most: int, domains: int) -> None:
        super().__init__()
        layers, width = _trunk(size, dim, most)
        self.main = nn.Sequential(*layers)
        self.own = nn.ModuleList(nn.Linear(width, STYLE) for _ in range(domains))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.main(x).flatten(1)
        return of_domain(torch.stack([branch(h) for branch in self.own], 1), y).float()


class Discriminator(nn.Module):
    """D: images (n, 3, s, s) and domain indices (n,) -> logits (n,) of the domains' branches."""

    def __init__(self, size: int, dim: int, most: int, domains: int) -> None:
        super().__init__()
        layers, width = _trunk(size, dim, most)
        self.main = nn.Sequential(*layers)
        self.own = nn.Conv2d(width, domains, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.main(x)
        with autocast_off(h):
            return of_domain(self.own(h.float()).flatten(1), y)

    def score_path(self) -> nn.Module:
        """To the logits (n, domains, 1, 1) of all branches."""
        return nn.Sequential(self.main, self.own)


@dataclass(frozen=True)
class StarGANv2(Model):
    """Hyper-parameters of StarGAN v2; defaults are the paper's, except w_hpf.

    The paper uses w_hpf = 1 on CelebA-HQ, which needs a landmark network. Configurations of its
    ablation (table 1): A is StarGAN on the same domains, B adds `d_branches`, C is style = label
    (AdaIN conditioned on the domain only, without E and style losses), D is style = latent with
    lambda_ds = 0 (z instead of style codes), E is lambda_ds = 0 (no diversity loss), F the default.
    """

    dim: Annotated[SomeUnits, Field(description="channels of the first layer; 0: 2^14 / size")] = 0
    max_dim: Annotated[Units, Field(description="maximum channels of a layer")] = 512
    hidden: Annotated[Units, Field(description="units of F's hidden layers")] = 512
    style: Annotated[
        Literal["code", "latent", "label"],
        Field(
            description="code: style codes; latent: z through one map for all domains; label: the "
            "domain only"
        ),
    ] = "code"
    w_hpf: Annotated[Weight, Field(description="divisor of the high-pass skips; 0: no skips")] = 0.0
    landmarks: Annotated[
        str,
        Field(
            description="PATH@SHA256 of a landmark network, for w_hpf > 0: a file of "
            "training.convert, or TorchScript"
        ),
    ] = ""
    lambda_reg: Annotated[Weight, Field(description="weight of R1")] = 1.0
    lambda_sty: Annotated[Weight, Field(description="weight of the style reconstruction")] = 1.0
    lambda_ds: Annotated[
        Weight, Field(description="initial weight of the diversity loss; 2 for AFHQ")
    ] = 1.0
    lambda_cyc: Annotated[Weight, Field(description="weight of the cycle loss")] = 1.0
    ds_share: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="share of training over which the diversity loss's weight decays to 0",
        ),
    ] = 1.0
    lr: Annotated[Rate, Field(description="learning rate")] = 1e-4
    f_lr: Annotated[Rate, Field(description="learning rate of F")] = 1e-6
    beta1: Annotated[Decay, Field(description="Adam's decay of the first moment")] = 0.0
    beta2: Annotated[Decay, Field(description="Adam's decay of the second moment")] = 0.99
    weight_decay: Annotated[Weight, Field(description="Adam's weight decay")] = 1e-4
    # Not in the paper: MSGAN's term beside, or instead of, the diversity loss.
    lambda_ms: ModeSeekingWeight = 0.0
    ms_clip: ModeSeekingClip = 0.01
    loss: LogisticLoss = "logistic"
    output: Output = "image"

    label_kinds: ClassVar[tuple[Kind, ...]] = ("onehot",)
    several_sets: ClassVar[bool] = False
    references: ClassVar[int] = 2  # reference images per batch row

    @property
    def adversarial(self) -> Adversarial:
        return balance_of(self.loss, ("d_latent/", "d_reference/"))

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        base = demo(
            # Departs from the paper: docs/models/starganv2.md.
            cls(
                dim=8, max_dim=64, hidden=64, lr=5e-4, f_lr=1e-4, lambda_ms=0.02,
                output="residual",
            ),
            images=9_600,
            decay_images=0,
            warmup_images=0,
            ema=0.99,
        )  # fmt: skip
        small = replace(
            base,
            data=replace(base.data, domains=("Black_Hair", "Blond_Hair", "Brown_Hair")),
            judge=HAIR_JUDGE,
        )
        train = TrainConfig(images=800_000, decay_images=0, batch=8, ema=0.998, crop="zoom")
        # Folders female/ and male/.
        celeba_hq = Preset(cls(), DataConfig(datasets=("celeba-hq:folders",), size=256), train)
        afhq = DataConfig(datasets=("afhq:folders",), size=256)
        return {
            "demo": small,
            "smoke": smoke(small),
            "celeba-hq": celeba_hq,
            "afhq": Preset(cls(lambda_ds=2.0), afhq, train),
        }

    @classmethod
    def tiny(cls) -> Self:
        return cls(dim=4, max_dim=8, hidden=8)

    @property
    def supported_options(self) -> tuple[str, ...]:
        return ("seed", "reference") if self.styled else ()

    @property
    def style_width(self) -> int:
        return LATENT if self.styled else 0

    @property
    def styled(self) -> bool:
        """Whether outputs vary within a domain."""
        return self.style != "label"

    @property
    def g_side(self) -> tuple[str, ...]:
        """Names of the networks that are trained with G."""
        return ("G", "F", "E") if self.styled else ("G", "F")

    def networks(self, space: LabelSpace, size: int) -> Nets:
        """G, F, E, D; He-normal weights, biases 0.

        Raises ValueError unless the size is a power of two from 16 px and the label space is one
        data set of classes.
        """
        check_power_of_two(size)
        self.check_space(space)
        dim, domains = self.dim or 2**14 // size, len(space.sets[0].names)
        marks = Landmarks(self.landmarks) if self.w_hpf else None
        nets: Nets = {
            "G": Generator(
                size, dim, self.max_dim, self.w_hpf, marks, residual=self.output == "residual"
            ),
            "F": Mapping(domains, self.hidden)
            if self.style == "code"
            else SharedMap(domains, LATENT if self.style == "latent" else 0),
            **({"E": StyleEncoder(size, dim, self.max_dim, domains)} if self.styled else {}),
            "D": Discriminator(size, dim, self.max_dim, domains),
        }
        for net in nets.values():
            he_normal(net)
        if self.output == "residual":
            start_as_copy(cast(Generator, nets["G"]).leave[-1])
        return nets

    def phases(self, space: LabelSpace) -> list[Phase]:
        """D and G, each with latent and with reference styles, on one batch."""
        return [
            Phase("d_latent", ("D",), lambda nets, batch: self.d_loss(nets, batch, latent=True)),
            Phase(
                "d_reference", ("D",), lambda nets, batch: self.d_loss(nets, batch, latent=False)
            ),
            Phase(
                "g_latent",
                self.g_side,
                lambda nets, batch: self.g_loss(nets, batch, latent=True),
            ),
            Phase(
                "g_reference", ("G",), lambda nets, batch: self.g_loss(nets, batch, latent=False)
            ),
        ]

    def warmup(self, space: LabelSpace) -> list[Phase]:
        """Not in the paper: G and E first learn to reconstruct an image from its own style."""
        return [Phase("warmup", ("G", self.g_side[-1]), self.copy_loss)]

    def optim(self, space: LabelSpace) -> dict[str, Optim]:
        betas = (self.beta1, self.beta2)
        slow = Optim(self.f_lr, betas, self.weight_decay)
        usual = Optim(self.lr, betas, self.weight_decay)
        return {name: slow if name == "F" else usual for name in (*self.g_side, "D")}

    def averaged(self, space: LabelSpace) -> tuple[str, ...]:
        return self.g_side

    @staticmethod
    def latent(batch: Batch, which: int) -> Tensor:
        """z ~ N(0, 1) (n, 16), the first (0) or second (1) of a batch."""
        return normal(batch.noise(f"z{which}", (LATENT,)))

    def style_code(self, nets: Nets, batch: Batch, which: int, *, latent: bool) -> Tensor:
        """Style codes (n, 64) of the target domain; `which` selects the first (0) or second (1)."""
        y = batch.target.argmax(1)
        if latent or not self.styled:
            mapped: Tensor = nets["F"](self.latent(batch, which), y)
            return mapped
        if batch.reference is None:
            raise ValueError("StarGAN v2 needs batches with reference images")
        encoded: Tensor = nets["E"](batch.reference[:, which], y)
        return encoded

    def s_org(self, nets: Nets, x: Tensor, y: Tensor) -> Tensor:
        """Style codes of the source images x, for the cycle reconstruction."""
        # Without styles F reads only the domain.
        out: Tensor = nets["E"](x, y) if self.styled else nets["F"](x.new_zeros(len(x), LATENT), y)
        return out

    def style_loss(self, nets: Nets, x_fake: Tensor, y_trg: Tensor, s_trg: Tensor) -> Tensor:
        """L_sty = ‖s − E(G(x,s), y)‖₁."""
        if not self.styled:
            return s_trg.new_zeros(())
        s_pred = nets["E"](x_fake, y_trg)
        return F.l1_loss(s_pred, s_trg)

    def d_loss(self, nets: Nets, batch: Batch, *, latent: bool) -> Losses:
        """−L_adv (eq. 1) in its non-saturating form, and λ_reg·R1: ½·E[‖∇_x D_y(x)‖²].

        r3gan: E[softplus(D(G(x,s)) − D(x))] instead of the first, each branch of D with its own
        images, and λ_reg·R2, the same at generated images, as well.
        """
        with torch.no_grad():
            x_fake = nets["G"](batch.image, self.style_code(nets, batch, 0, latent=latent))
        x_real, y = batch.image, batch.source.argmax(1)
        with autocast_off(x_real):
            if self.lambda_reg:
                own = batch.source[:, :, None, None]
                scores, slope = scores_and_slope(nets["D"], x_real, own)
                real = scores.flatten(1).gather(1, y[:, None]).flatten()
                r1 = slope.square().flatten(1).sum(1).mean() / 2
            else:
                real = nets["D"](x_real, y)
                r1 = real.new_zeros(())
        fake = nets["D"](x_fake, batch.target.argmax(1))
        out = told_apart(real, fake, self.loss) | {"r1": self.lambda_reg * r1}
        if self.loss == "r3gan" and self.lambda_reg:
            r2 = r1_penalty(nets["D"], x_fake, batch.target[:, :, None, None]) / 2
            out["r2"] = self.lambda_reg * r2
        return out

    def g_loss(self, nets: Nets, batch: Batch, *, latent: bool) -> Losses:
        """L_adv + λ_sty·L_sty − λ_ds·L_ds + λ_cyc·L_cyc (eqs 1–5).

        L_sty = ‖s − E(G(x,s), y)‖₁, L_ds = ‖G(x,s) − G(x,s₂)‖₁, L_cyc = ‖x − G(G(x,s), E(x))‖₁.
        With λ_ms, of latents: mode seeking on G(x,s) and G(x,s₂), both with their gradients. r3gan:
        L_adv is E[softplus(D(x) − D(G(x,s)))].
        """
        x_real, y_trg = batch.image, batch.target.argmax(1)
        s_trg = self.style_code(nets, batch, 0, latent=latent)
        x_fake = nets["G"](x_real, s_trg)
        s_org = self.s_org(nets, x_real, batch.source.argmax(1))
        loss_ds = x_fake.new_zeros(())
        seeks = latent and self.styled and self.lambda_ms > 0
        if self.styled and (self.lambda_ds or seeks):
            with nullcontext() if seeks else torch.no_grad():
                x_fake2 = nets["G"](x_real, self.style_code(nets, batch, 1, latent=latent))
            weight = self.lambda_ds * (1 - batch.position / self.ds_share).clamp(min=0)
            loss_ds = weight.float() * F.l1_loss(x_fake, x_fake2.detach())
        more: Losses = {}
        if seeks:
            z = self.latent(batch, 0), self.latent(batch, 1)
            more["ms"] = self.lambda_ms * mode_seeking((x_fake, x_fake2), z, self.ms_clip)
        return {
            "adv": fooled(
                nets["D"](x_fake, y_trg),
                self.loss,
                lambda: nets["D"](x_real, batch.source.argmax(1)),
            ),
            "sty": self.lambda_sty * self.style_loss(nets, x_fake, y_trg, s_trg),
            "ds": -loss_ds,
            "cyc": self.lambda_cyc * F.l1_loss(nets["G"](x_fake, s_org), x_real),
            **more,
        }

    def copy_loss(self, nets: Nets, batch: Batch) -> Losses:
        """λ_cyc·‖x − G(x, E(x))‖₁."""
        s_org = self.s_org(nets, batch.image, batch.source.argmax(1))
        return {"cyc": self.lambda_cyc * F.l1_loss(nets["G"](batch.image, s_org), batch.image)}

    def validate(self, nets: Nets, batch: Batch, space: LabelSpace) -> Tensor:
        """−(λ_sty·L_sty + λ_cyc·L_cyc) on held-out images, with the style of one fixed latent."""
        x_real, y_trg = batch.image, batch.target.argmax(1)
        s_trg = nets["F"](fixed_latent(x_real, LATENT), y_trg)
        x_fake = nets["G"](x_real, s_trg)
        back = nets["G"](x_fake, self.s_org(nets, x_real, batch.source.argmax(1)))
        loss_sty = self.lambda_sty * self.style_loss(nets, x_fake, y_trg, s_trg)
        return -(loss_sty + self.lambda_cyc * F.l1_loss(back, x_real))

    def deployed(self, nets: Nets) -> tuple[str, ...]:
        """F for a latent, E for a reference."""
        return self.g_side

    @torch.no_grad()
    def diagnostics(self, nets: Nets, image: Tensor, target: Tensor) -> list[Diagnostic]:
        """Collapse of the mapping network: mean |ΔG| of two latents, for images in [-1, 1]."""
        if not self.styled:
            return []
        y = target.argmax(1)
        first, second = (
            nets["G"](image, nets["F"](fixed_latent(image, LATENT, seed), y)) for seed in (0, 1)
        )
        distance = float((first - second).abs().mean())
        says = "two latents give the same image: the mapping network has collapsed"
        # A residual output starts as a copy, which is the same for all latents.
        least = 0.002 if self.output == "residual" else 0.01
        return [Diagnostic("diversity", distance, least, 2.0, says)]

    def translate(
        self,
        nets: Nets,
        image: Tensor,
        source: Tensor | None,
        target: Tensor,
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """G(x, F(z, y)) with z of a seed, or G(x, E(x_ref, y)).

        Without options, z is the same for all images, and images whose domain does not change keep
        their own style.
        """
        y = target.argmax(1)
        if options.reference is not None:
            s_trg = nets["E"](options.reference, y)
            styled: Tensor = nets["G"](image, s_trg).clamp(-1, 1)
            return styled
        z = latent_of(options, image, LATENT) if self.styled else image.new_zeros(len(y), LATENT)
        s = nets["F"](z, y)
        if source is not None and options.seed is None:
            unchanged = source.argmax(1) == y
            if unchanged.any():
                s = torch.where(unchanged[:, None], self.s_org(nets, image, y), s)
        out: Tensor = nets["G"](image, s).clamp(-1, 1)
        return out

    def previews(self, nets: Nets, batch: Batch, space: LabelSpace) -> dict[str, Preview]:
        """For each domain: edits with three latent styles and up to three reference styles."""
        if not self.styled:
            return {}
        x, out = batch.image[:4], {}
        for k, name in enumerate(space.sets[batch.dataset].names):
            target = torch.zeros_like(batch.target[:4])
            target[:, k] = 1
            references = batch.image[batch.source[:, k] > 0.5][:3]
            edit = partial(self.translate, nets, x, None, target)
            out[f"styles_{k + 1}"] = style_preview(name, x, references, edit)
        return out

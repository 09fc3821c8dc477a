"""MUNIT (Huang et al., ECCV 2018, arXiv 1804.04732), one per domain pair.

An image of a domain is a content and a style. An edit decodes the content with a style of the other
domain, drawn at random or encoded from a reference. The pairs of a label space are CycleGAN's.
"""

from dataclasses import dataclass, replace
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
from training.models.cyclegan import Block
from training.models.kernels import Norm, ToImage
from training.models.layers import autocast_off, he_normal, narrow_normal, normal
from training.models.losses import R1Weight, SquaredLoss, balance_of, zero_centred
from training.models.pairs import (
    Pair,
    chained,
    identity_mappings,
    pairs_in,
    pairs_of,
    split,
    two_domains,
)
from training.models.scales import Discriminator, conv, paired_loss, squares
from training.models.shared_presets import HAIR_JUDGE, demo, smoke
from training.models.styles import directed_previews, latent_of, of_rows

CODERS = ("Ca", "Cb", "Sa", "Sb", "Ga", "Gb")  # the auto-encoders of a pair's two domains
EPS = 1e-5


class LayerNorm(nn.Module):
    """γ·(x − mean)/(std + 1e-5) + β over c, h, w of each image, with the unbiased std.

    γ and β (c,) are per channel; γ is at first uniform in [0, 1), as in the published code.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        with autocast_off(x):
            full = x.to(torch.promote_types(x.dtype, torch.float32))
            std, mean = torch.std_mean(full, (1, 2, 3), correction=1, keepdim=True)
            scale = self.weight[:, None, None] / (std + EPS)
            return ((full - mean) * scale + self.bias[:, None, None]).to(x.dtype)


class AdaINBlock(nn.Module):
    """`Block` with AdaIN, std·IN(h) + mean, in place of both instance norms."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (conv(channels, channels, 3) for _ in range(2))
        self.norm = Norm(channels, affine=False, eps=EPS)

    def forward(self, x: Tensor, numbers: Tensor) -> Tensor:
        """`numbers` (n, 2, 2, c): for each of the two norms the means, then the stds."""
        planes = numbers[..., None, None]
        (mean1, std1), (mean2, std2) = (pair.unbind(1) for pair in planes.unbind(1))
        h = F.relu(std1 * self.norm(self.first(x)) + mean1)
        out: Tensor = x + std2 * self.norm(self.second(h)) + mean2
        return out


class ContentEncoder(nn.Module):
    """Images (n, 3, s, s) in [-1, 1] -> contents (n, 4·dim, s/4, s/4)."""

    def __init__(self, dim: int, blocks: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(3, dim, 7), Norm(dim, affine=False), nn.ReLU()]
        for _ in range(2):
            layers += [conv(dim, 2 * dim, 4, 2), Norm(2 * dim, affine=False), nn.ReLU()]
            dim *= 2
        self.main = nn.Sequential(*layers, *(Block(dim) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.main(x).float()
        return out


class StyleEncoder(nn.Module):
    """Images (n, 3, s, s) in [-1, 1] -> styles (n, style). No norm: it would remove the style."""

    def __init__(self, dim: int, style: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(3, dim, 7), nn.ReLU()]
        width = dim
        for outputs in (2 * dim, 4 * dim, 4 * dim, 4 * dim):
            layers += [conv(width, outputs, 4, 2), nn.ReLU()]
            width = outputs
        self.main = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, style, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.main(x).float().flatten(1)
        return out


class Decoder(nn.Module):
    """Contents (n, 4·dim, s/4, s/4) and styles (n, style) -> images (n, 3, s, s) of one domain."""

    def __init__(self, dim: int, blocks: int, style: int, hidden: int, pair: Pair) -> None:
        super().__init__()
        self.pair = pair
        width = 4 * dim
        self.blocks = nn.ModuleList(AdaINBlock(width) for _ in range(blocks))
        self.mlp = nn.Sequential(
            nn.Linear(style, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, blocks * 2 * 2 * width),
        )
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.Upsample(scale_factor=2, mode="nearest"), conv(width, width // 2, 5)]
            layers += [LayerNorm(width // 2), nn.ReLU()]
            width //= 2
        layers += [nn.ReflectionPad2d(3), ToImage(width, 3, 0, bias=True), nn.Tanh()]
        self.main = nn.Sequential(*layers)

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        h = content
        numbers = self.mlp(style).unflatten(1, (len(self.blocks), 2, 2, -1))
        for block, own in zip(self.blocks, numbers.unbind(1), strict=True):
            h = block(h, own)
        out: Tensor = self.main(h).float()
        return out


@dataclass(frozen=True)
class MUNIT(Model):
    """Hyper-parameters of MUNIT; defaults as in the published code for edges to shoes."""

    dim: Annotated[Units, Field(description="channels of the encoders' first layers")] = 64
    blocks: Annotated[
        Layers, Field(description="residual blocks of the content encoder, and of the decoder")
    ] = 4
    style_dim: Annotated[Units, Field(description="numbers in a style")] = 8
    hidden: Annotated[Units, Field(description="units of the decoder's map of the style")] = 256
    d_dim: Annotated[Units, Field(description="channels of D's first layer")] = 64
    d_layers: Annotated[Layers, Field(description="strided layers of D at each scale")] = 4
    d_scales: Annotated[Layers, Field(description="scales of D")] = 3
    lambda_rec: Annotated[
        Weight, Field(description="weight of the reconstruction within a domain")
    ] = 10.0
    lambda_sty: Annotated[Weight, Field(description="weight of the style reconstruction")] = 1.0
    lambda_con: Annotated[Weight, Field(description="weight of the content reconstruction")] = 1.0
    lambda_cyc: Annotated[
        Weight,
        Field(description="weight of the style-augmented cycle loss; 10 for summer and winter"),
    ] = 0.0
    lr: Annotated[Rate, Field(description="learning rate")] = 1e-4
    beta1: Annotated[Decay, Field(description="Adam's decay of the first moment")] = 0.5
    beta2: Annotated[Decay, Field(description="Adam's decay of the second moment")] = 0.999
    weight_decay: Annotated[Weight, Field(description="Adam's weight decay")] = 1e-4
    averages: Annotated[
        bool, Field(description="keep moving averages of the auto-encoders (not in the paper)")
    ] = False
    # Not in the paper.
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
        """Each D's terms are sums over its scales of whole squares."""
        scales = self.d_scales
        return balance_of(self.loss, ("d/a_", "d/b_"), 1 / (2 * scales), scales)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        base = demo(
            cls(
                dim=16, blocks=2, hidden=64, d_dim=32, d_layers=3, d_scales=2, lambda_cyc=10.0,
                lr=1e-3, averages=True, loss="r3gan",  # least squares: D was undecided throughout
            ),
            images=4_800, decay_images=1_600, warmup_images=800, batch=2, ema=0.95,
        )  # fmt: skip
        small = replace(
            base,
            data=replace(base.data, domains=("Black_Hair", "Blond_Hair")),
            judge=HAIR_JUDGE,
        )
        # Halved each 100,000 iterations of one pair.
        train = TrainConfig(images=1_000_000, decay_images=100_000, batch=1, ema=0.0)
        edges = DataConfig(datasets=("edges2shoes:folders",), size=256)
        seasons = DataConfig(datasets=("yosemite:folders",), size=256)
        faces = DataConfig(size=256, attributes=("Male",))
        return {
            "demo": small,
            "smoke": smoke(small),
            "edges2shoes": Preset(cls(), edges, train),
            "yosemite": Preset(cls(lambda_cyc=10.0), seasons, train),
            "celeba-256": Preset(cls(lambda_cyc=10.0), faces, train),
        }

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            dim=4, blocks=1, hidden=8, d_dim=4, d_layers=2, d_scales=2, lambda_cyc=10.0,
            averages=True,
        )  # fmt: skip

    @property
    def supported_options(self) -> tuple[str, ...]:
        return ("seed", "reference")

    @property
    def style_width(self) -> int:
        return self.style_dim

    def pairs(self, space: LabelSpace) -> list[Pair]:
        """The domain pairs of the label space. Raises ValueError for an unsupported one."""
        self.check_space(space)
        return pairs_of(space.sets[0])

    def networks(self, space: LabelSpace, size: int) -> Nets:
        """Of each pair's two domains: content encoder C, style encoder S, decoder G, and D.

        He-normal weights, those of D from N(0, 0.02); biases 0. Raises ValueError for an
        unsupported label space or size.
        """
        least = max(16, 1 << (self.d_layers + self.d_scales - 1))
        if size % 4 or size < least:
            raise ValueError(f"size={size}: a multiple of 4, at least {least}, is needed")
        nets: Nets = {}
        for k, pair in enumerate(self.pairs(space)):
            for side in "ab":
                nets[f"C{side}{k}"] = ContentEncoder(self.dim, self.blocks)
                nets[f"S{side}{k}"] = StyleEncoder(self.dim, self.style_dim)
                nets[f"G{side}{k}"] = Decoder(
                    self.dim, self.blocks, self.style_dim, self.hidden, pair
                )
                nets[f"D{side}{k}"] = Discriminator(self.d_dim, self.d_layers, self.d_scales)
        for name, net in nets.items():
            (narrow_normal if name.startswith("D") else he_normal)(net)
        return nets

    def phases(self, space: LabelSpace) -> list[Phase]:
        """Both D, then both auto-encoders of one pair per iteration, with other random styles."""
        out = []
        for k in range(len(self.pairs(space))):
            g, d = tuple(f"{name}{k}" for name in CODERS), (f"Da{k}", f"Db{k}")
            out += [
                Phase("d", d, partial(self.d_loss, k=k), round_robin_index=k),
                Phase("g", g, partial(self.g_loss, k=k), round_robin_index=k),
            ]
        return out

    def warmup(self, space: LabelSpace) -> list[Phase]:
        """Not in the paper: the auto-encoders first learn to reconstruct, and edits to copy."""
        return [
            Phase(
                "warmup",
                tuple(f"{name}{k}" for name in CODERS),
                partial(self.copy_loss, k=k),
                round_robin_index=k,
            )
            for k in range(len(self.pairs(space)))
        ]

    def optim(self, space: LabelSpace) -> dict[str, Optim]:
        setting = Optim(self.lr, (self.beta1, self.beta2), self.weight_decay)
        count = len(self.pairs(space))
        return {f"{name}{k}": setting for k in range(count) for name in (*CODERS, "Da", "Db")}

    def averaged(self, space: LabelSpace) -> tuple[str, ...]:
        if not self.averages:
            return ()
        return tuple(f"{name}{k}" for k in range(len(self.pairs(space))) for name in CODERS)

    def lr_scale(self, images: int, length: int, decay: int) -> float:
        """Factor on the learning rate: halved after each `decay` images."""
        return 0.5 ** (images // decay) if decay else 1.0

    def domain_masks(self, labels: Tensor, space: LabelSpace, index: int) -> tuple[Tensor, Tensor]:
        """Masks of the first and the second domain of the current pair."""
        return split(labels, self.pairs(space)[index])

    def random_style(self, batch: Batch, name: str) -> Tensor:
        """Styles (n, style_dim) from N(0, 1)."""
        return normal(batch.noise(name, (self.style_dim,)))

    def d_loss(self, nets: Nets, batch: Batch, k: int) -> Losses:
        """E[D(fake)²] + E[(D(real) − 1)²] of both D, summed over the scales (eq. 4).

        r3gan: E[softplus(D(fake) − D(real))], and λ_r1/2·(R1 + R2) of the summed mean scores.
        """
        a, b = two_domains(batch)
        with torch.no_grad():
            fake_a = nets[f"Ga{k}"](nets[f"Cb{k}"](b), self.random_style(batch, "d_a"))
            fake_b = nets[f"Gb{k}"](nets[f"Ca{k}"](a), self.random_style(batch, "d_b"))
        out: Losses = {}
        for side, real, fake in (("a", a, fake_a), ("b", b, fake_b)):
            d = nets[f"D{side}{k}"]
            if self.loss == "r3gan":
                terms = {"pair": paired_loss(d(real), d(fake))}
                terms |= zero_centred(d, real, fake, self.loss, self.lambda_r1)
            else:
                terms = {"real": squares(d(real), 1), "fake": squares(d(fake), 0)}
            out |= {f"{side}_{name}": term for name, term in terms.items()}
        return out

    def g_loss(self, nets: Nets, batch: Batch, k: int) -> Losses:
        """Both directions of eq. 5, and the style-augmented cycle loss (section 5.1).

        With x_ab = G_b(c_a, z_b) and a's own style s_a: L_adv, λ_rec·‖G_a(c_a, s_a) − a‖₁ (eq. 1),
        λ_con·‖C_b(x_ab) − c_a‖₁ (eq. 2), λ_sty·‖S_b(x_ab) − z_b‖₁ (eq. 3), and
        λ_cyc·‖G_a(C_b(x_ab), s_a) − a‖₁. r3gan: L_adv is E[softplus(D_b(b) − D_b(x_ab))].
        """
        a, b = two_domains(batch)
        ca, cb, sa, sb, ga, gb, da, db = (nets[f"{name}{k}"] for name in (*CODERS, "Da", "Db"))
        c_a, c_b, s_a, s_b = ca(a), cb(b), sa(a), sb(b)
        z_a, z_b = self.random_style(batch, "g_a"), self.random_style(batch, "g_b")
        fake_a, fake_b = ga(c_b, z_a), gb(c_a, z_b)
        back_a, back_b = cb(fake_b), ca(fake_a)  # contents of a and b again
        out = {
            "gan_ab": self.fooled(db, fake_b, b),
            "gan_ba": self.fooled(da, fake_a, a),
            "rec": self.lambda_rec * (F.l1_loss(ga(c_a, s_a), a) + F.l1_loss(gb(c_b, s_b), b)),
            "sty": self.lambda_sty * (F.l1_loss(sa(fake_a), z_a) + F.l1_loss(sb(fake_b), z_b)),
            "con": self.lambda_con * (F.l1_loss(back_a, c_a) + F.l1_loss(back_b, c_b)),
        }
        if self.lambda_cyc:
            cycle = F.l1_loss(ga(back_a, s_a), a) + F.l1_loss(gb(back_b, s_b), b)
            out["cyc"] = self.lambda_cyc * cycle
        return out

    def fooled(self, d: nn.Module, fake: Tensor, real: Tensor) -> Tensor:
        """L_adv of a D for generated images, with r3gan against real ones."""
        if self.loss != "r3gan":
            return squares(d(fake), 1)
        with torch.no_grad():
            against = d(real)
        return paired_loss(d(fake), against)

    def copy_loss(self, nets: Nets, batch: Batch, k: int) -> Losses:
        """λ_rec·(‖G_a(C_a(a), S_a(a)) − a‖₁ + ‖G_b(C_a(a), z_b) − a‖₁), and the same of b.

        Edits that start as copies, whatever their style, keep the faces.
        """
        a, b = two_domains(batch)
        ca, cb, sa, sb, ga, gb = (nets[f"{name}{k}"] for name in CODERS)
        c_a, c_b = ca(a), cb(b)
        z_a, z_b = self.random_style(batch, "g_a"), self.random_style(batch, "g_b")
        rec = F.l1_loss(ga(c_a, sa(a)), a) + F.l1_loss(gb(c_b, sb(b)), b)
        copy = F.l1_loss(gb(c_a, z_b), a) + F.l1_loss(ga(c_b, z_a), b)
        return {"rec": self.lambda_rec * rec, "copy": self.lambda_rec * copy}

    def deployed(self, nets: Nets) -> tuple[str, ...]:
        """Every auto-encoder; a single edit uses parts of one or a few of them."""
        return tuple(name for name in nets if not name.startswith("D"))

    def validate(self, nets: Nets, batch: Batch, space: LabelSpace) -> Tensor:
        """−‖x − x''‖₁ on held-out images, with x'' the edit translated back with x's own style."""
        edited = self.translate(nets, batch.image, batch.source, batch.target)
        style = EditOptions(reference=batch.image)
        back = self.translate(nets, edited, batch.target, batch.source, style)
        return -F.l1_loss(back, batch.image)

    def translate(
        self,
        nets: Nets,
        image: Tensor,
        source: Tensor | None,
        target: Tensor,
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """Apply every pair that the edit crosses, with the style of a seed or of a reference.

        Without options the style is that of seed 0, the same for all images. Raises ValueError
        without source labels.
        """

        def edge(direction: str, x: Tensor, rows: Tensor) -> Tensor:
            return self.edited(nets, direction, x, of_rows(options, rows))

        return chained(edge, pairs_in(nets, "Ga"), image, source, target)

    def edited(self, nets: Nets, direction: str, x: Tensor, options: EditOptions) -> Tensor:
        """The contents of x (n, 3, s, s), decoded in the target domain of a pair's direction."""
        start, end, k = direction[0], direction[1], direction[2:]
        if options.reference is None:
            style = latent_of(options, x, self.style_dim)
        else:
            style = nets[f"S{end}{k}"](options.reference)
        out: Tensor = nets[f"G{end}{k}"](nets[f"C{start}{k}"](x), style)
        return out

    def reconstruct(self, nets: Nets, image: Tensor, source: Tensor) -> Tensor:
        """G(C(x), S(x)) by the auto-encoder of a domain of each image."""
        return identity_mappings(
            lambda direction, x, rows: own(nets, direction[1:], x),
            pairs_in(nets, "Ga"),
            image,
            source,
        )

    def previews(self, nets: Nets, batch: Batch, space: LabelSpace) -> dict[str, Preview]:
        """For each direction: edits with three latent styles and up to three reference styles."""
        return directed_previews(nets, batch, space, pairs_in(nets, "Ga"), self.edited)


def own(nets: Nets, domain: str, x: Tensor) -> Tensor:
    """Images x of a domain, such as "a0", reconstructed from their contents and styles."""
    out: Tensor = nets[f"G{domain}"](nets[f"C{domain}"](x), nets[f"S{domain}"](x))
    return out

"""DRIT and DRIT++ (Lee et al., ECCV 2018, arXiv 1808.00948; IJCV 2020, arXiv 1905.01270).

An image is a content, a feature map whose domain a content discriminator cannot tell, and an
attribute, a latent z of its domain. One model for each domain pair, as for CycleGAN.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar, Self, cast

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
    SomeLayers,
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
from training.models.cyclegan import Block
from training.models.kernels import Norm
from training.models.layers import Upsample, Upsampling, normal, spread, tiled
from training.models.losses import (
    EntropyLoss,
    ModeSeekingClip,
    ModeSeekingWeight,
    R1Weight,
    mode_seeking,
    zero_centred,
)
from training.models.munit import StyleEncoder
from training.models.pairs import (
    Pair,
    chained,
    identity_mappings,
    pairs_in,
    pairs_of,
    split,
    two_domains,
)
from training.models.scales import (
    Discriminator,
    conv,
    fake_loss,
    judged,
    paired_loss,
    real_loss,
)
from training.models.shared_presets import HAIR_JUDGE, demo, smoke
from training.models.styles import directed_previews, latent_of, of_rows

SIDES = "ab"
SLOPE = 0.01  # of the leaky ReLU in the content encoder and every D: torch's default


class ContentEncoder(nn.Module):
    """Images (n, 3, s, s) of domain `side` -> contents (n, 4·dim, s/4, s/4).

    The domains share the last block.
    """

    def __init__(self, dim: int, blocks: int) -> None:
        super().__init__()

        def own() -> nn.Module:
            layers: list[nn.Module] = [conv(3, dim, 7), nn.LeakyReLU(SLOPE)]
            for width in (dim, 2 * dim):
                layers += [conv(width, 2 * width, 3, 2), Norm(2 * width, affine=False)]
                layers += [nn.ReLU()]
            return nn.Sequential(*layers, *(Block(4 * dim) for _ in range(blocks)))

        self.own = nn.ModuleList(own() for _ in SIDES)
        self.shared = Block(4 * dim)

    def forward(self, x: Tensor, side: int, noise: Tensor | None = None) -> Tensor:
        """`noise` of the shape of the contents is added in training."""
        out: Tensor = self.shared(self.own[side](x))
        return out if noise is None else out + noise.to(out.dtype)


class Halving(nn.Module):
    """Residual block without a norm: (n, a, s, s) -> (n, b, s/2, s/2) by average pooling."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.LeakyReLU(0.2), conv(inputs, inputs, 3),
            nn.LeakyReLU(0.2), conv(inputs, outputs, 3), nn.AvgPool2d(2),
        )  # fmt: skip
        self.short = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.main(x) + self.short(x)
        return out


class AttributeEncoder(nn.Module):
    """Images (n, 3, s, s) of domain `side` -> μ and log σ² of their attribute, (n, 2·latent).

    Without `concat` the attribute itself, (n, latent), by MUNIT's style encoder.
    """

    def __init__(self, dim: int, latent: int, concat: bool) -> None:
        super().__init__()
        make = self._residual if concat else StyleEncoder
        self.own = nn.ModuleList(make(dim, latent) for _ in SIDES)

    @staticmethod
    def _residual(dim: int, latent: int) -> nn.Module:
        return nn.Sequential(
            conv(3, dim, 4, 2), *(Halving(k * dim, (k + 1) * dim) for k in (1, 2, 3)),
            nn.LeakyReLU(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(4 * dim, 2 * latent),
        )  # fmt: skip

    def forward(self, x: Tensor, side: int) -> Tensor:
        out: Tensor = self.own[side](x).float()
        return out


def doubling(inputs: int, outputs: int, upsampling: Upsampling) -> nn.Module:
    """(n, inputs, s, s) -> (n, outputs, 2·s, 2·s), with a layer norm over the whole image."""
    up: nn.Module = (
        Upsample(inputs, outputs, bias=True)
        if upsampling == "resize"
        else nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, output_padding=1)
    )
    return nn.Sequential(up, nn.GroupNorm(1, outputs), nn.ReLU())


class Generator(nn.Module):
    """Contents (n, 4·dim, s/4, s/4) and attributes (n, latent) -> images (n, 3, s, s) of `side`."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.pair = pair


class ConcatGenerator(Generator):
    """z is concatenated, as constant planes, to every part's input; the first block is shared."""

    def __init__(
        self, dim: int, latent: int, blocks: int, upsampling: Upsampling, pair: Pair
    ) -> None:
        super().__init__(pair)
        first = 4 * dim + latent
        half = (first + latent) // 2
        quarter = (half + latent) // 2

        def own() -> nn.ModuleList:
            return nn.ModuleList(
                [
                    nn.Sequential(*(Block(first) for _ in range(blocks))),
                    doubling(first + latent, half, upsampling),
                    doubling(half + latent, quarter, upsampling),
                    nn.Sequential(nn.ConvTranspose2d(quarter + latent, 3, 1), nn.Tanh()),
                ]
            )

        self.shared = Block(4 * dim)
        self.own = nn.ModuleList(own() for _ in SIDES)

    def forward(self, content: Tensor, z: Tensor, side: int) -> Tensor:
        h: Tensor = self.shared(content)
        for part in cast(nn.ModuleList, self.own[side]):
            h = part(torch.cat([h, tiled(z, h)], 1))
        return h.float()


class Mixing(nn.Module):
    """x + blk(IN(Conv3(blk(IN(Conv3(x)), z))), z); blk: two 1×1 convolutions of features and z."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        both = 2 * channels
        self.convs = nn.ModuleList(
            nn.Sequential(conv(channels, channels, 3), Norm(channels, affine=False))
            for _ in range(2)
        )
        self.mixes = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(both, both, 1), nn.ReLU(), nn.Conv2d(both, channels, 1), nn.ReLU()
            )
            for _ in range(2)
        )

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        h = x
        for layer, mix in zip(self.convs, self.mixes, strict=True):
            h = layer(h)
            h = mix(torch.cat([h, tiled(z, h)], 1))
        return x + h


class FeatureGenerator(Generator):
    """Feature-wise: maps of z are mixed into the features of each block; nothing is shared."""

    def __init__(
        self, dim: int, latent: int, blocks: int, upsampling: Upsampling, pair: Pair
    ) -> None:
        super().__init__(pair)
        wide = 4 * dim
        self.maps = nn.ModuleList(
            nn.Sequential(
                nn.Linear(latent, wide), nn.ReLU(), nn.Linear(wide, wide), nn.ReLU(),
                nn.Linear(wide, (blocks + 1) * wide),
            )
            for _ in SIDES
        )  # fmt: skip
        self.blocks = nn.ModuleList(
            nn.ModuleList(Mixing(wide) for _ in range(blocks + 1)) for _ in SIDES
        )
        self.ends = nn.ModuleList(
            nn.Sequential(
                doubling(wide, 2 * dim, upsampling), doubling(2 * dim, dim, upsampling),
                nn.ConvTranspose2d(dim, 3, 1), nn.Tanh(),
            )
            for _ in SIDES
        )  # fmt: skip

    def forward(self, content: Tensor, z: Tensor, side: int) -> Tensor:
        blocks = cast(nn.ModuleList, self.blocks[side])
        h = content
        for block, part in zip(blocks, self.maps[side](z).chunk(len(blocks), 1), strict=True):
            h = block(h, part)
        out: Tensor = self.ends[side](h).float()
        return out


class ContentDiscriminator(nn.Module):
    """Contents (n, c, s/4, s/4) -> logits of domain B.

    Without a norm, as the other D: the published code asks for one by a name that it does not know.
    """

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for kernel, stride, padding in [(7, 2, 1)] * layers + [(4, 1, 0)]:
            layer = nn.Conv2d(channels, channels, kernel, stride, padding, padding_mode="reflect")
            parts += [layer, nn.LeakyReLU(SLOPE)]
        self.main = nn.Sequential(*parts, nn.Conv2d(channels, 1, 1))

    def forward(self, content: Tensor) -> Tensor:
        out: Tensor = self.main(content).float()
        return out


@dataclass(frozen=True)
class DRIT(Model):
    """Hyper-parameters of DRIT; defaults as in the published code of DRIT++ without mode seeking.

    With `lambda_ms` a second latent is drawn, as in MSGAN.
    """

    dim: Annotated[Units, Field(description="channels of the encoders' first layers")] = 64
    blocks: Annotated[
        Layers,
        Field(description="residual blocks of each domain in content encoder and G"),
    ] = 3
    latent: Annotated[Units, Field(description="dimensions of the attribute z")] = 8
    concat: Annotated[
        bool,
        Field(
            description="z is concatenated to G's features; false: mixed in feature-wise, which is "
            "for changes of shape, such as cats to dogs"
        ),
    ] = True
    d_dim: Annotated[Units, Field(description="channels of D's first layers")] = 64
    d_layers: Annotated[Layers, Field(description="strided layers of each D")] = 4
    d_scales: Annotated[
        Layers, Field(description="scales of each D, each of half the size before")
    ] = 3
    dc_layers: Annotated[
        SomeLayers,
        Field(description="strided layers of the content D: 3 from 216 px, 2 for 128, 1 for 64"),
    ] = 3
    lambda_cyc: Annotated[Weight, Field(description="weight of the cross-cycle loss")] = 10.0
    lambda_rec: Annotated[Weight, Field(description="weight of the self-reconstruction")] = 10.0
    lambda_latent: Annotated[Weight, Field(description="weight of the latent regression")] = 10.0
    lambda_kl: Annotated[
        Weight,
        Field(description="weight of attributes' divergence from N(0, 1); feature-wise: of z²"),
    ] = 0.01
    lambda_content: Annotated[Weight, Field(description="weight of the contents' mean square")] = (
        0.01
    )
    lambda_ms: ModeSeekingWeight = 0.0
    ms_clip: ModeSeekingClip = 0.0
    d_iter: Annotated[
        Positive, Field(description="updates of the content D for one of the others")
    ] = 3
    lr: Annotated[Rate, Field(description="learning rate")] = 1e-4
    dc_lr: Annotated[Rate, Field(description="learning rate of the content D")] = 4e-5
    dc_clip: Annotated[
        Weight, Field(description="maximum gradient norm of the content D; 0: not clipped")
    ] = 5.0
    beta1: Annotated[Decay, Field(description="Adam's decay of the first moment")] = 0.5
    beta2: Annotated[Decay, Field(description="Adam's decay of the second moment")] = 0.999
    weight_decay: Annotated[Weight, Field(description="Adam's weight decay")] = 1e-4
    averages: Annotated[
        bool, Field(description="keep moving averages of encoders and G (not in the paper)")
    ] = False
    upsampling: Upsampling = "transposed"
    loss: EntropyLoss = "gan"
    lambda_r1: R1Weight = 1.0

    label_kinds: ClassVar[tuple[Kind, ...]] = ("binary", "onehot")
    several_sets: ClassVar[bool] = False
    reads_source: ClassVar[bool] = True
    needs_source: ClassVar[bool] = True
    edits_own_labels: ClassVar[bool] = False
    references: ClassVar[int] = 2  # of each domain: an encoded image, and one for the random z's D

    @property
    def adversarial(self) -> Adversarial:
        kinds = ("pair",) if self.loss == "r3gan" else ("real", "fake")
        encoded, drawn = (
            tuple(tuple(f"d/{s}{which}_{kind}" for kind in kinds) for s in SIDES)
            for which in ("", "2")
        )
        latents = 2 if self.lambda_ms else 1  # the second D's terms are sums over them
        terms = (*(names * latents for names in encoded), *drawn)
        # A pair's loss is half of cross entropy's two terms where D is undecided.
        return Adversarial("gan", terms, 2 / len(kinds) / (self.d_scales * latents))

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        base = demo(
            cls(
                dim=12, blocks=1, d_dim=24, d_layers=3, d_scales=2, dc_layers=0, d_iter=1, lr=6e-4,
                dc_lr=2e-4, lambda_latent=2.0, ms_clip=0.01, averages=True, upsampling="resize",
                loss="r3gan",
            ),
            images=4_000, decay_images=2_000, warmup_images=800, batch=2,
        )  # fmt: skip
        small = replace(
            base,
            data=replace(base.data, domains=("Black_Hair", "Blond_Hair")),
            judge=HAIR_JUDGE,
        )
        # 500,000 full iterations, each the third, of one encoded and one other image a domain.
        train = TrainConfig(
            images=1_500_000, decay_images=750_000, batch=1, ema=0.0, crop="shift",
            sample_images=30_000, checkpoint_images=30_000,
        )  # fmt: skip
        seasons, pets = (
            DataConfig(datasets=(f"{name}:folders",), size=216, load=256)
            for name in ("yosemite", "cat2dog")
        )
        faces = DataConfig(size=216, load=256, attributes=("Male",))
        return {
            "demo": small,
            "smoke": smoke(small),
            "yosemite-216": Preset(cls(), seasons, train),
            "cat2dog-216": Preset(cls(concat=False), pets, train),
            "celeba-216": Preset(cls(), faces, train),
        }

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            dim=4, blocks=1, latent=3, d_dim=4, d_layers=2, dc_layers=0, d_iter=2, averages=True,
            lambda_ms=1.0, ms_clip=0.01,
        )  # fmt: skip

    @property
    def supported_options(self) -> tuple[str, ...]:
        return ("seed", "reference")

    @property
    def style_width(self) -> int:
        return self.latent

    def pairs(self, space: LabelSpace) -> list[Pair]:
        """The domain pairs of the label space. Raises ValueError for an unsupported one."""
        self.check_space(space)
        return pairs_of(space.sets[0])

    def names(self, space: LabelSpace, *kinds: str) -> tuple[str, ...]:
        """Names of the networks of these kinds, pair by pair."""
        return tuple(f"{kind}{k}" for k in range(len(self.pairs(space))) for kind in kinds)

    def networks(self, space: LabelSpace, size: int) -> Nets:
        """Of each pair: encoders Ec and Ea and G, each for both domains; Da, Db for encoded
        attributes, Ra, Rb for random ones; Dc of contents.

        Weights of convolutions from N(0, 0.02), others PyTorch's. Raises ValueError for an
        unsupported label space or size.
        """
        self.check_size(size)
        make = ConcatGenerator if self.concat else FeatureGenerator
        nets: Nets = {}
        for k, pair in enumerate(self.pairs(space)):
            nets[f"Ec{k}"] = ContentEncoder(self.dim, self.blocks)
            nets[f"Ea{k}"] = AttributeEncoder(self.dim, self.latent, self.concat)
            nets[f"G{k}"] = make(self.dim, self.latent, self.blocks, self.upsampling, pair)
            for name in ("Da", "Db", "Ra", "Rb"):
                nets[f"{name}{k}"] = Discriminator(self.d_dim, self.d_layers, self.d_scales, SLOPE)
            nets[f"Dc{k}"] = ContentDiscriminator(4 * self.dim, self.dc_layers)
        for net in nets.values():
            for layer in net.modules():
                if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                    nn.init.normal_(layer.weight, 0.0, 0.02)
        return nets

    def check_size(self, size: int) -> None:
        """Raise ValueError for a size (px) that a network cannot halve as often as configured."""
        least = max(16, 1 << (self.d_layers + self.d_scales - 1))
        if size % 4 or size < least:
            raise ValueError(f"size={size}: a multiple of 4, at least {least}, is needed")
        side, fits = size // 4, 0
        while (side - 5) // 2 + 1 >= 4:  # a strided 7×7 layer; the last one reads 4×4
            side, fits = (side - 5) // 2 + 1, fits + 1
        if fits < self.dc_layers:
            raise ValueError(
                f"size={size}: too small for a content D with {self.dc_layers} strided layers; "
                f"set dc_layers={fits}"
            )

    def phases(self, space: LabelSpace) -> list[Phase]:
        """The content D each time, all others each `d_iter`-th time, on the images of one pair.

        The second update of content encoder and G, for random attributes, has its own forward pass.
        """
        out = []
        for k in range(len(self.pairs(space))):
            made, ds = (
                (f"Ec{k}", f"Ea{k}", f"G{k}"),
                tuple(f"{n}{k}" for n in ("Da", "Db", "Ra", "Rb")),
            )
            steps: list[tuple[str, tuple[str, ...], Callable[..., Losses], int]] = [
                ("dc", (f"Dc{k}",), self.dc_loss, 1),
                ("d", ds, self.d_loss, self.d_iter),
                ("eg", made, self.eg_loss, self.d_iter),
                ("alone", (f"Ec{k}", f"G{k}"), self.alone_loss, self.d_iter),
            ]
            out += [
                Phase(
                    name, trained, partial(loss, k=k), every, round_robin_index=k,
                    keep_grad=made if name in ("dc", "d") else (),
                )
                for name, trained, loss, every in steps
            ]  # fmt: skip
        return out

    def warmup(self, space: LabelSpace) -> list[Phase]:
        """Not in the paper: encoders and G first learn to reconstruct, and edits to copy."""
        return [
            Phase(
                "warmup",
                (f"Ec{k}", f"Ea{k}", f"G{k}"),
                partial(self.copy_loss, k=k),
                round_robin_index=k,
            )
            for k in range(len(self.pairs(space)))
        ]

    def optim(self, space: LabelSpace) -> dict[str, Optim]:
        usual = Optim(self.lr, (self.beta1, self.beta2), self.weight_decay)
        content = usual._replace(lr=self.dc_lr, clip=self.dc_clip)
        names = self.names(space, "Ec", "Ea", "G", "Da", "Db", "Ra", "Rb", "Dc")
        return {name: content if name.startswith("Dc") else usual for name in names}

    def averaged(self, space: LabelSpace) -> tuple[str, ...]:
        return self.names(space, "Ec", "Ea", "G") if self.averages else ()

    def domain_masks(self, labels: Tensor, space: LabelSpace, index: int) -> tuple[Tensor, Tensor]:
        """Masks of the first and the second domain of the current pair."""
        return split(labels, self.pairs(space)[index])

    def contents(
        self, nets: Nets, images: tuple[Tensor, ...], batch: Batch, k: int, name: str
    ) -> Tensor:
        """Contents (2n, c, h, w) of images of A, then of B, with N(0, 1) noise added."""
        out = []
        for side, x in enumerate(images):
            shape = (4 * self.dim, x.shape[2] // 4, x.shape[3] // 4)
            noise = normal(spread(batch.noise(f"{name}_{SIDES[side]}", (2,)), shape))
            out.append(nets[f"Ec{k}"](x, side, noise))
        return torch.cat(out)

    def content(self, nets: Nets, batch: Batch, k: int) -> Tensor:
        """Contents of the encoded images, once for all phases before their encoder moves."""
        found = batch.shared.get("content")
        if found is None or (_trains(nets[f"Ec{k}"]) and not found.requires_grad):
            found = self.contents(nets, two_domains(batch), batch, k, "content")
            batch.shared["content"] = found
        return found

    def latents(self, batch: Batch) -> tuple[Tensor, ...]:
        """z ~ N(0, 1) (n, latent), the same for both domains; with mode seeking a second one."""
        count = 2 if self.lambda_ms else 1
        return tuple(normal(batch.noise(f"z{i}", (self.latent,))) for i in range(count))

    def sampled(self, code: Tensor, batch: Batch, name: str) -> Tensor:
        """μ + σ·ε of what the attribute encoder returns; feature-wise: z itself."""
        if not self.concat:
            return code
        mean, log_var = code.chunk(2, 1)
        return mean + (log_var / 2).exp() * normal(batch.noise(f"eps_{name}", (self.latent,)))

    def made(self, nets: Nets, batch: Batch, k: int) -> tuple[list[Tensor], list[Tensor]]:
        """For A and B: images with the other's content and the own attribute, with both its own,
        with the other's content and each of `latents`; and the codes of the attribute encoder.

        Once for all phases before their networks move.
        """
        shared = batch.shared
        known = shared.get("made_a")
        if known is None or (_trains(nets[f"G{k}"]) and not known.requires_grad):
            content = self.content(nets, batch, k).chunk(2)
            for side, x in enumerate(two_domains(batch)):
                code = nets[f"Ea{k}"](x, side)
                own = self.sampled(code, batch, SIDES[side])
                z, other = self.latents(batch), content[1 - side]
                maps = torch.cat([other, content[side], *[other] * len(z)])
                shared[f"made_{SIDES[side]}"] = nets[f"G{k}"](maps, torch.cat([own, own, *z]), side)
                shared[f"code_{SIDES[side]}"] = code
        return [shared[f"made_{s}"] for s in SIDES], [shared[f"code_{s}"] for s in SIDES]

    def parts(self, made: Tensor) -> tuple[Tensor, ...]:
        """The kinds of images, each (n, 3, s, s), of one domain in `made`."""
        return made.chunk(4 if self.lambda_ms else 3)

    def dc_loss(self, nets: Nets, batch: Batch, k: int) -> Losses:
        """−E[log Dc(c_B)] − E[log(1 − Dc(c_A))]."""
        a, b = nets[f"Dc{k}"](self.content(nets, batch, k).detach()).chunk(2)
        return {"a": F.softplus(a).mean(), "b": F.softplus(-b).mean()}

    def d_loss(self, nets: Nets, batch: Batch, k: int) -> Losses:
        """−E[log D(x)] − E[log(1 − D(x'))] of each D, summed over scales.

        The D of random attributes sums over the latents, so that its real images count as often.
        r3gan: E[softplus(D(x') − D(x))], and λ_r1/2·(R1 + R2) of the summed mean scores.
        """
        out: Losses = {}
        images, _ = self.made(nets, batch, k)
        first, second = two_domains(batch), others(batch)
        for side, name in enumerate(SIDES):
            cross, _, *drawn = self.parts(images[side].detach())
            for which, x, fakes in (("", first[side], [cross]), ("2", second[side], drawn)):
                d = nets[f"{'R' if which else 'D'}{name}{k}"]
                terms = self.told_apart(d, x, fakes)
                out |= {f"{name}{which}_{kind}": term for kind, term in terms.items()}
        return out

    def told_apart(self, d: nn.Module, x: Tensor, fakes: list[Tensor]) -> Losses:
        """Terms of one D for real images x and for as many of each kind of generated ones."""
        real, *scores = judged(d, x, *fakes)
        if self.loss != "r3gan":
            return {
                "real": len(fakes) * real_loss(real),
                "fake": torch.stack([fake_loss(one) for one in scores]).sum(),
            }
        # The mean over all kinds, times their number: R1 counts as often as the real images.
        penalties = zero_centred(d, x, torch.cat(fakes), self.loss, self.lambda_r1)
        pair = torch.stack([paired_loss(real, one) for one in scores]).sum()
        return {"pair": pair} | {name: len(fakes) * one for name, one in penalties.items()}

    def fooled(self, d: nn.Module, fakes: list[Tensor], x: Tensor) -> Tensor:
        """Adversarial term of each kind of generated images, with r3gan against real images x."""
        scores = judged(d, *fakes)
        if self.loss != "r3gan":
            return torch.stack([real_loss(one) for one in scores]).sum()
        with torch.no_grad():
            against = d(x)
        return torch.stack([paired_loss(one, against) for one in scores]).sum()

    def eg_loss(self, nets: Nets, batch: Batch, k: int) -> Losses:
        """Encoders and G: adversarial terms of images with encoded attributes and of contents,
        cross-cycle, self-reconstruction, and the regularisation of attributes and contents.

        KL: ½·Σ(μ² + σ² − 1 − log σ²) over the latent; the published sum over the batch is a mean.
        """
        images, codes = self.made(nets, batch, k)
        content = self.content(nets, batch, k)
        x = two_domains(batch)
        (cross_a, own_a, *_), (cross_b, own_b, *_) = (self.parts(made) for made in images)
        cross, own = (cross_a, cross_b), (own_a, own_b)
        # The content of A is in B', and that of B in A'.
        of_b, of_a = self.contents(nets, cross, batch, k, "back").chunk(2)
        gan, cyc, rec, kl = [], [], [], []
        for side, back in enumerate((of_a, of_b)):
            code = nets[f"Ea{k}"](cross[side], side)
            z = self.sampled(code, batch, f"back_{SIDES[side]}")
            gan.append(self.fooled(nets[f"D{SIDES[side]}{k}"], [cross[side]], x[side]))
            cyc.append(F.l1_loss(nets[f"G{k}"](back, z, side), x[side]))
            rec.append(F.l1_loss(own[side], x[side]))
            kl.append(self.attribute_loss(codes[side]))
        scores = nets[f"Dc{k}"](content)
        # Cross entropy with ½, of both domains' contents.
        confused = F.softplus(scores).mean() + F.softplus(-scores).mean()
        return {
            "gan_a": gan[0],
            "gan_b": gan[1],
            "content": confused,
            "cyc": self.lambda_cyc * (cyc[0] + cyc[1]),
            "rec": self.lambda_rec * (rec[0] + rec[1]),
            "kl": self.lambda_kl * (kl[0] + kl[1]),
            "l2": self.lambda_content * 2 * content.float().square().mean(),
        }

    def copy_loss(self, nets: Nets, batch: Batch, k: int) -> Losses:
        """λ_rec·(‖G_A(c_A, z_A) − x_A‖₁ + ½·Σ_z ‖G_B(c_A, z) − x_A‖₁), the same of B, and KL.

        z is B's attribute, then a random one. Edits that start as copies keep the faces.
        """
        images, codes = self.made(nets, batch, k)
        x = two_domains(batch)
        rec, copy, kl = [], [], []
        for side, made in enumerate(images):
            cross, own, drawn, *_ = self.parts(made)
            rec.append(F.l1_loss(own, x[side]))
            copy += [F.l1_loss(cross, x[1 - side]) / 2, F.l1_loss(drawn, x[1 - side]) / 2]
            kl.append(self.attribute_loss(codes[side]))
        return {
            "rec": self.lambda_rec * (rec[0] + rec[1]),
            "copy": self.lambda_rec * torch.stack(copy).sum(),
            "kl": self.lambda_kl * (kl[0] + kl[1]),
        }

    def attribute_loss(self, code: Tensor) -> Tensor:
        """KL(N(μ, σ²) ‖ N(0, 1)), a sum over the latent; feature-wise: mean z²."""
        if not self.concat:
            return code.square().mean()
        mean, log_var = code.chunk(2, 1)
        return (mean.square() + log_var.exp() - 1 - log_var).sum(1).mean() / 2

    def alone_loss(self, nets: Nets, batch: Batch, k: int) -> Losses:
        """Content encoder and G: adversarial terms of images with random attributes, latent
        regression ‖μ(G(c, z)) − z‖₁ of the first latent, and mode seeking.
        """
        content = self.contents(nets, two_domains(batch), batch, k, "content").chunk(2)
        z, real = self.latents(batch), others(batch)
        out: Losses = {}
        latent, seek = [], []
        for side, name in enumerate(SIDES):
            maps = torch.cat([content[1 - side]] * len(z))
            drawn = nets[f"G{k}"](maps, torch.cat(z), side).chunk(len(z))
            out[f"gan_{name}"] = self.fooled(nets[f"R{name}{k}"], list(drawn), real[side])
            mean = nets[f"Ea{k}"](drawn[0], side)[:, : self.latent]
            latent.append(F.l1_loss(mean, z[0]))
            if self.lambda_ms:
                seek.append(mode_seeking(drawn, z, self.ms_clip))
        out["latent"] = self.lambda_latent * (latent[0] + latent[1])
        if self.lambda_ms:
            out["ms"] = self.lambda_ms * (seek[0] + seek[1])
        return out

    def deployed(self, nets: Nets) -> tuple[str, ...]:
        """Encoders and G of every pair; a single edit uses one or a few of them."""
        return tuple(name for name in nets if name.startswith(("Ec", "Ea", "G")))

    def validate(self, nets: Nets, batch: Batch, space: LabelSpace) -> Tensor:
        """−λ_cyc·‖x − x''‖₁ on held-out images: x'' is the edit, edited back with x's attribute."""
        edited = self.translate(nets, batch.image, batch.source, batch.target)
        own = EditOptions(reference=batch.image)
        back = self.translate(nets, edited, batch.target, batch.source, own)
        return -self.lambda_cyc * F.l1_loss(back, batch.image)

    def edited(self, nets: Nets, direction: str, x: Tensor, options: EditOptions) -> Tensor:
        """Images x of the direction's first domain, "ab0", in its second.

        Their attribute is drawn with the seed, or μ of a reference; feature-wise its z.
        """
        (start, end), k = (SIDES.index(s) for s in direction[:2]), direction[2:]
        if options.reference is None:
            z = latent_of(options, x, self.latent)
        else:
            z = nets[f"Ea{k}"](options.reference, end)[:, : self.latent]
        out: Tensor = nets[f"G{k}"](nets[f"Ec{k}"](x, start), z, end)
        return out

    def translate(
        self,
        nets: Nets,
        image: Tensor,
        source: Tensor | None,
        target: Tensor,
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """G(Ec(x), z) of every pair that the edit crosses; z of a seed, or μ of a reference.

        Without options, z is that of seed 0. Raises ValueError without source labels.
        """

        def edge(direction: str, x: Tensor, rows: Tensor) -> Tensor:
            return self.edited(nets, direction, x, of_rows(options, rows))

        return chained(edge, pairs_in(nets, "G"), image, source, target)

    def reconstruct(self, nets: Nets, image: Tensor, source: Tensor) -> Tensor:
        """G(Ec(x), μ(x)) in a domain of each image."""

        def own(direction: str, x: Tensor, rows: Tensor) -> Tensor:
            same = direction[1] * 2 + direction[2:]
            return self.edited(nets, same, x, EditOptions(reference=x))

        return identity_mappings(own, pairs_in(nets, "G"), image, source)

    @torch.no_grad()
    def diagnostics(self, nets: Nets, image: Tensor, target: Tensor) -> list[Diagnostic]:
        """Mode collapse: mean |ΔG| of two latents, for images in [-1, 1], of the first pair."""
        first, second = (self.edited(nets, "ab0", image, EditOptions(seed=seed)) for seed in (0, 1))
        says = "two latents give the same image: G ignores the attribute"
        return [Diagnostic("diversity", float((first - second).abs().mean()), 0.002, 2.0, says)]

    def previews(self, nets: Nets, batch: Batch, space: LabelSpace) -> dict[str, Preview]:
        """For each direction: edits with three random and up to three reference attributes."""
        return directed_previews(nets, batch, space, pairs_in(nets, "G"), self.edited)


def _trains(net: nn.Module) -> bool:
    return next(net.parameters()).requires_grad


def others(batch: Batch) -> tuple[Tensor, Tensor]:
    """The images (n, 3, s, s) of A and B that are real for the D of random attributes."""
    if batch.reference is None or batch.peers is None:
        raise ValueError("DRIT needs batches with two images of each domain")
    return batch.peers[:, 0], batch.reference[:, 1]

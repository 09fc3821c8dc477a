"""AttGAN (He et al., IEEE TIP 2019, arXiv 1711.10678).

The decoder is conditioned on the latent and the target attributes b; decoding with the source
attributes a must reconstruct the input (instead of a cycle loss). The critic D and the attribute
classifier C share one trunk.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Self, cast

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
    Share,
    SomeLayers,
    TrainConfig,
    Units,
    Weight,
)
from training.data.batch import Batch
from training.data.labels import LabelSpace
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
    examples,
)
from training.models.kernels import Norm, wide_conv
from training.models.layers import (
    BatchNorm,
    Output,
    Signed,
    Upsampling,
    autocast_off,
    changed,
    doubled,
    start_as_copy,
    tiled,
    xavier,
)
from training.models.losses import (
    AdversarialLoss,
    R1Weight,
    balance_of,
    fooled,
    gradient_penalty,
    label_loss,
    told_apart,
    zero_centred,
)
from training.models.shared_presets import ATTGAN_ATTRIBUTES, demo, smoke

EPS = 1e-3  # of the batch norms, as published
D_EPS = 1e-6  # of D's instance norms: the default of TensorFlow's slim, which the authors use
INTENSITIES = (0.5, 1.0, 1.5, 2.0)  # in the previews


class Encoder(nn.Module):
    """Images (n, 3, s, s) -> features of every layer: z_1 at s/2, …, z_k, the latent, at s/2^k."""

    def __init__(self, dim: int, layers: int, momentum: float) -> None:
        super().__init__()
        widths = [3, *(dim << i for i in range(layers))]
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 4, 2, 1, bias=False),
                BatchNorm(b, EPS, momentum),
                nn.LeakyReLU(0.2, inplace=True),
            )
            for a, b in pairwise(widths)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        out = []
        for layer in self.layers:
            x = layer(x)
            out.append(x)
        return out


class Decoder(nn.Module):
    """The image, its features and labels (n, c) -> (n, 3, s, s) in [-1, 1].

    The encoder's features are concatenated to the outputs of the first `shortcut` layers, the
    labels to the latent and to the outputs of the first `inject` layers. `skip_channels`: channels
    of the innermost skip connection, halved for each further one; 0: those of the encoder. With
    a residual `output` the last layer gives the change of the image, at first 0.
    """

    def __init__(
        self, labels: int, dim: int, layers: int, shortcut: int, inject: int, momentum: float,
        skip_channels: int = 0, upsampling: Upsampling = "transposed", output: Output = "image",
    ) -> None:  # fmt: skip
        super().__init__()
        self.shortcut, self.inject, self.residual = shortcut, inject, output == "residual"
        self.layers = nn.ModuleList()
        channels = (dim << (layers - 1)) + labels
        skip_channels = skip_channels or dim << (layers - 2)
        for i in range(1, layers):
            out = dim << (layers - i)
            self.layers.append(
                nn.Sequential(
                    doubled(channels, out, upsampling),
                    BatchNorm(out, EPS, momentum),
                    nn.ReLU(inplace=True),
                )
            )
            channels = (
                out
                + (skip_channels >> (i - 1) if i <= shortcut else 0)
                + (labels if i <= inject else 0)
            )
        last = doubled(channels, 3, upsampling, bias=True)
        self.layers.append(last if self.residual else nn.Sequential(last, nn.Tanh()))

    def forward(self, image: Tensor, features: list[Tensor], labels: Tensor) -> Tensor:
        x = torch.cat([features[-1], tiled(labels, features[-1])], 1)
        for i, layer in enumerate(self.layers, 1):
            x = layer(x)
            parts = [x]
            if i <= self.shortcut and i < len(self.layers):
                parts.append(features[-1 - i].to(x.dtype))
            if i <= self.inject and i < len(self.layers):
                parts.append(tiled(labels, x))
            x = torch.cat(parts, 1)
        return changed(image, x.float()) if self.residual else x.float()


class Generator(nn.Module):
    """Encoder and decoder; labels c̃ in [0, 1] are mapped to ±`strength` for the decoder."""

    def __init__(self, space: LabelSpace, encoder: Encoder, decoder: Decoder, strength: float):
        super().__init__()
        self.encoder, self.decoder, self.signed = encoder, decoder, Signed(space)
        self.strength = strength

    def forward(
        self,
        x: Tensor,
        source: Tensor | None,
        target: Tensor,
        intensity: float = 1.0,
        *,
        both: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """G(x, b), and if `both` also G(x, a); requested labels are scaled by `intensity`."""
        features = self.encoder(x)
        if source is None:
            unscaled: Tensor = self.decoder(x, features, self.strength * self.signed(target))
            return unscaled
        scaled = self.signed.scaled(source, target, intensity)
        fake: Tensor = self.decoder(x, features, self.strength * scaled)
        if not both:
            return fake
        return fake, self.decoder(x, features, self.strength * self.signed(source))


class Discriminator(nn.Module):
    """Images (n, 3, s, s) -> critic scores (n, 1) and label logits (n, c) from one trunk."""

    def __init__(
        self, labels: int, size: int, dim: int, layers: int, fc: int, *, norms: bool = True
    ) -> None:
        super().__init__()
        trunk: list[nn.Module] = []
        channels = 3
        for i in range(layers):
            trunk += [wide_conv(channels, dim << i, 4, 2, 1, bias=not norms)]
            trunk += [Norm(dim << i, eps=D_EPS)] if norms else []
            trunk += [nn.LeakyReLU(0.2, inplace=True)]
            channels = dim << i
        self.main = nn.Sequential(*trunk)
        flat = channels * (size >> layers) ** 2
        self.src, self.cls = (
            nn.Sequential(nn.Linear(flat, fc), nn.LeakyReLU(0.2, inplace=True), nn.Linear(fc, out))
            for out in (1, labels)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.main(x)
        with autocast_off(h):
            h = h.float().flatten(1)
            return self.src(h), self.cls(h)

    def score_path(self) -> nn.Module:
        return nn.Sequential(self.main, nn.Flatten(), self.src)


# 60 epochs of the paper's 182,000 images; 67 epochs of the official split.
LENGTH = 10_920_000
# For two CPU cores; also STGAN's demo.
SMALL: dict[str, Any] = {
    "dim": 32, "layers": 4, "d_dim": 32, "d_layers": 4, "d_fc": 256, "n_critic": 1, "lr": 5e-4,
    "bn_momentum": 0.02, "averages": True,
}  # fmt: skip


@dataclass(frozen=True)
class AttGAN(Model):
    """Hyper-parameters of AttGAN; defaults as in the authors' TensorFlow code."""

    dim: Annotated[
        Units, Field(description="channels of the first layer of encoder and decoder")
    ] = 64
    layers: Annotated[Layers, Field(description="layers of encoder and decoder")] = 5
    shortcut_layers: Annotated[
        SomeLayers, Field(description="skip connections from encoder to decoder")
    ] = 1
    inject_layers: Annotated[
        SomeLayers, Field(description="decoder layers with the labels as extra input")
    ] = 1
    d_dim: Annotated[Units, Field(description="channels of D's first layer")] = 64
    d_layers: Annotated[Layers, Field(description="layers of D")] = 5
    d_fc: Annotated[Units, Field(description="units of D's fully connected layer")] = 1024
    lambda_rec: Annotated[Weight, Field(description="weight of the reconstruction loss")] = 100.0
    lambda_g_cls: Annotated[Weight, Field(description="weight of G's classification loss")] = 10.0
    lambda_d_cls: Annotated[Weight, Field(description="weight of D's classification loss")] = 1.0
    lambda_gp: Annotated[Weight, Field(description="weight of the gradient penalty")] = 10.0
    n_critic: Annotated[Positive, Field(description="updates of D for one of G")] = 5
    strength: Annotated[Weight, Field(description="label magnitude in training: ±1")] = 1.0
    test_int: Annotated[
        Weight,
        Field(description="factor on edited labels at test time; the published results use 2"),
    ] = 2.0
    lr: Annotated[Rate, Field(description="learning rate")] = 2e-4
    beta1: Annotated[Decay, Field(description="Adam's decay of the first moment")] = 0.5
    beta2: Annotated[Decay, Field(description="Adam's decay of the second moment")] = 0.999
    bn_momentum: Annotated[Share, Field(description="momentum of batch normalisation")] = 0.001
    averages: Annotated[bool, Field(description="keep moving averages of G (not in the paper)")] = (
        False
    )
    upsampling: Upsampling = "transposed"
    output: Output = "image"
    d_norms: Annotated[
        bool,
        Field(
            description="instance norms in D (published), which hide from it a colour cast of the "
            "whole image"
        ),
    ] = True
    loss: AdversarialLoss = "wgan-gp"
    lambda_r1: R1Weight = 1.0

    reads_source: ClassVar[bool] = True  # only labels known to change are scaled

    @property
    def adversarial(self) -> Adversarial:
        return balance_of(self.loss)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        small = demo(
            # Departs from the paper: docs/models/attgan.md.
            replace(
                cls(**SMALL), upsampling="resize", output="residual", d_norms=False, beta1=0.0,
                beta2=0.99,
            ),
            images=22_400, decay_images=8_800,
        )  # fmt: skip
        # Length, learning rate, flips and random crop (143 to 128 px) of the TensorFlow code; the
        # centre crop, which tests see whole at 128 px, of the PyTorch port, because the TensorFlow
        # code re-aligns the images.
        paper = Preset(
            cls(),
            DataConfig(
                celeba_crop=170, interpolation="bilinear", attributes=ATTGAN_ATTRIBUTES, load=143
            ),
            TrainConfig(images=LENGTH, decay_images=LENGTH // 2, batch=32, ema=0.0, crop="shift"),
        )
        return {"demo": small, "smoke": smoke(small), "celeba-128": paper}

    @classmethod
    def tiny(cls) -> Self:
        return cls(dim=4, layers=2, d_dim=4, d_layers=2, d_fc=8, n_critic=2, averages=True)

    @property
    def supported_options(self) -> tuple[str, ...]:
        return ("intensity",)

    @property
    def usual_intensity(self) -> float:
        return self.test_int

    def networks(self, space: LabelSpace, size: int) -> Nets:
        """G and D for images of `size` × `size` px.

        Raises ValueError unless `size` is a multiple of 2^layers, or for too many skip layers.
        """
        halved = max(self.layers, self.d_layers)
        if size % (1 << halved) or size >> self.d_layers < 2:
            raise ValueError(
                f"size={size}: a multiple of {1 << halved}, at least {2 << self.d_layers}, is "
                f"needed (the encoder halves it {self.layers} times, D {self.d_layers} times)"
            )
        depths = {"shortcut_layers": self.shortcut_layers, "inject_layers": self.inject_layers}
        for name, value in depths.items():
            if not 0 <= value < self.layers:
                raise ValueError(f"{name}={value}: between 0 and layers − 1 = {self.layers - 1}")
        nets: Nets = {
            "G": self.generator(space),
            "D": Discriminator(
                space.dim_d, size, self.d_dim, self.d_layers, self.d_fc, norms=self.d_norms
            ),
        }
        for net in nets.values():
            xavier(net)
        if self.output == "residual":
            start_as_copy(cast(Generator, nets["G"]).decoder.layers[-1])
        return nets

    def generator(self, space: LabelSpace) -> nn.Module:
        """The generator, not initialised yet."""
        encoder = Encoder(self.dim, self.layers, self.bn_momentum)
        decoder = Decoder(
            space.dim_g, self.dim, self.layers, self.shortcut_layers, self.inject_layers,
            self.bn_momentum, upsampling=self.upsampling, output=self.output,
        )  # fmt: skip
        return Generator(space, encoder, decoder, self.strength)

    def phases(self, space: LabelSpace) -> list[Phase]:
        """D every iteration; G every `n_critic` iterations on a new batch."""
        return [
            Phase("d", ("D",), lambda nets, batch: self.d_loss(nets, batch, space)),
            Phase(
                "g",
                ("G",),
                lambda nets, batch: self.g_loss(nets, batch, space),
                self.n_critic,
                new_batch=True,
            ),
        ]

    def warmup(self, space: LabelSpace) -> list[Phase]:
        """Not in the paper: only G, on the reconstruction loss."""
        return [Phase("warmup", ("G",), self.copy_loss)]

    def optim(self, space: LabelSpace) -> dict[str, Optim]:
        return dict.fromkeys("GD", Optim(self.lr, (self.beta1, self.beta2)))

    def averaged(self, space: LabelSpace) -> tuple[str, ...]:
        return ("G",) if self.averages else ()

    def d_loss(self, nets: Nets, batch: Batch, space: LabelSpace) -> Losses:
        """L_D = −E[D(x)] + E[D(G(x,b))] + λ_gp·GP + λ_2·BCE(C(x), a) (eqs 6, 9).

        logistic-r1: E[softplus(−D(x))] + E[softplus(D(G(x,b)))] + λ_r1/2·R1 instead of the first
        three; r3gan: E[softplus(D(G(x,b)) − D(x))] + λ_r1/2·(R1 + R2).
        """
        x = batch.image
        with torch.no_grad():
            fake = nets["G"](x, batch.source, batch.target)
        src, cls = nets["D"](torch.cat([x, fake]))  # D's instance norm makes rows independent
        n = len(x)
        if self.loss == "wgan-gp":
            alpha = batch.noise("alpha", (1, 1, 1))
            penalty = {"gp": self.lambda_gp * gradient_penalty(nets["D"], x, fake, alpha)}
        else:
            penalty = zero_centred(nets["D"], x, fake, self.loss, self.lambda_r1)
        cls = self.lambda_d_cls * label_loss(cls[:n], batch.source, batch.dataset, space)
        return told_apart(src[:n], src[n:], self.loss) | {"cls": cls} | penalty

    def g_loss(self, nets: Nets, batch: Batch, space: LabelSpace) -> Losses:
        """L_G = −E[D(G(x,b))] + λ_1·BCE(C(G(x,b)), b) + λ_rec·‖x − G(x,a)‖₁ (eqs 5, 7, 8).

        logistic-r1: E[softplus(−D(G(x,b)))] instead of the first; r3gan:
        E[softplus(D(x) − D(G(x,b)))].
        """
        fake, again = nets["G"](batch.image, batch.source, batch.target, both=True)
        src, cls = nets["D"](fake)
        return {
            "fake": fooled(src, self.loss, lambda: nets["D"](batch.image)[0]),
            "cls": self.lambda_g_cls * label_loss(cls, batch.target, batch.dataset, space),
            "rec": self.lambda_rec * F.l1_loss(again, batch.image),
        }

    def copy_loss(self, nets: Nets, batch: Batch) -> Losses:
        """λ_rec·‖x − G(x,a)‖₁."""
        again = nets["G"](batch.image, batch.source, batch.source)
        return {"rec": self.lambda_rec * F.l1_loss(again, batch.image)}

    def validate(self, nets: Nets, batch: Batch, space: LabelSpace) -> Tensor:
        """−(λ_1·BCE + λ_rec·L_rec) on held-out images, with the current D."""
        losses = self.g_loss(nets, batch, space)
        return -(losses["cls"] + losses["rec"])

    def translate(
        self,
        nets: Nets,
        image: Tensor,
        source: Tensor | None,
        target: Tensor,
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """G(x, b); requested labels are scaled by `test_int` if a is known."""
        intensity = self.usual_intensity if options.intensity is None else options.intensity
        out: Tensor = nets["G"](image, source, target, intensity)
        return out

    def previews(self, nets: Nets, batch: Batch, space: LabelSpace) -> dict[str, Preview]:
        """Single edits at several intensities; training uses 1."""
        names, x, source, target = examples(batch, space)
        edits = [
            self.translate(nets, x, source, target, EditOptions(intensity=i)) for i in INTENSITIES
        ]
        caption = "Single edits by the factor on the changed label; training uses 1."
        columns = ("input", *(f"{i:g}" for i in INTENSITIES))
        return {"intensity": Preview(torch.stack([x, *edits], 1), columns, caption, names)}

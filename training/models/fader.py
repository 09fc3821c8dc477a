"""Fader Networks (Lample et al., 2017, arXiv 1706.00409): an auto-encoder with an invariant latent.

D learns to read the attributes from the latent, the encoder to hide them from it, so that the
decoder can only take them from its other input, the labels. There is no D of images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar, Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from training.core.config import (
    DataConfig,
    Decay,
    Layers,
    Rate,
    Share,
    SomeLayers,
    TrainConfig,
    Units,
    Weight,
)
from training.data.batch import Batch
from training.data.labels import Kind, LabelSpace
from training.models.base import (
    DEFAULT_OPTIONS,
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
from training.models.layers import (
    BatchNorm,
    Signed,
    Upsampling,
    autocast_off,
    check_power_of_two,
    doubled,
    tiled,
)
from training.models.shared_presets import ATTGAN_ATTRIBUTES, demo, smoke

ALPHAS = (0.0, 0.5, 1.0, 2.0, 4.0)  # in the previews
# 1000 epochs of 1,563 updates of each kind, each on 32 images of its own.
LENGTH = 1000 * 1563 * 2 * 32


class Categories(nn.Module):
    """Labels c̃ (n, dim_g) -> one-hot categories of every attribute, [1 − c, c] of a binary label.

    (n, p) with the mask, if any, at the end; unknown attributes are 0. Affine in c̃, so that labels
    beyond [0, 1] extrapolate.
    """

    label: Tensor  # (p,) the label of each category
    sign: Tensor  # (p,) −1 for the category "is 0"
    known: Tensor  # (data sets, p)

    def __init__(self, space: LabelSpace) -> None:
        super().__init__()
        self.dim_d = space.dim_d
        label: list[int] = []
        sign: list[float] = []
        owner: list[int] = []
        for index, part in enumerate(space.sets):
            start = space.slice(index).start
            for position in range(start, start + len(part.names)):
                signs = (-1.0, 1.0) if part.kind == "binary" else (1.0,)
                label += [position] * len(signs)
                owner += [index] * len(signs)
                sign += signs
        known = F.one_hot(torch.tensor(owner), len(space.sets)).T.float()
        self.register_buffer("label", torch.tensor(label), persistent=False)
        self.register_buffer("sign", torch.tensor(sign), persistent=False)
        self.register_buffer("known", known, persistent=False)

    @property
    def width(self) -> int:
        return len(self.label)

    def forward(self, c: Tensor) -> Tensor:
        labels, mask = c[:, : self.dim_d], c[:, self.dim_d :]
        values = (1 - self.sign) / 2 + self.sign * labels[:, self.label]
        if len(self.known) == 1:
            return values
        return torch.cat([values * (mask @ self.known), mask], 1)


class Generator(nn.Module):
    """Encoder and decoder; the decoder gets the labels at every layer.

    The encoder halves the image once a layer. Decoder layers 2 … 1 + `skips`, the innermost being
    layer 1, also get the encoder's features of their input's size.
    """

    def __init__(
        self, space: LabelSpace, widths: Sequence[int], skips: int, upsampling: Upsampling
    ) -> None:
        super().__init__()
        self.categories, self.signed, self.skips = Categories(space), Signed(space), skips
        labels = self.categories.width + space.dim_g - space.dim_d
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for depth, (inputs, outputs) in enumerate(pairwise([3, *widths])):
            norm = [BatchNorm(outputs)] if depth else []
            conv = nn.Conv2d(inputs, outputs, 4, 2, 1)
            self.encoder.append(nn.Sequential(conv, *norm, nn.LeakyReLU(0.2)))
        inner = widths[::-1]
        for depth, (inputs, outputs) in enumerate(pairwise([*inner, 3])):
            skipped = inner[depth] if 0 < depth <= skips else 0
            last = depth == len(inner) - 1
            rest = [nn.Tanh()] if last else [BatchNorm(outputs), nn.ReLU()]
            up = doubled(inputs + labels + skipped, outputs, upsampling)
            self.decoder.append(nn.Sequential(up, *rest))

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The features that D reads and, given labels c̃ (n, dim_g), the image (n, 3, s, s)."""
        features = []
        h = x
        for layer in self.encoder:
            h = layer(h)
            features.append(h)
        latent = features[-1 - self.skips]
        if c is None:
            return latent, None
        y = self.categories(c)
        for depth, layer in enumerate(self.decoder):
            skipped = [features[-1 - depth]] if 0 < depth <= self.skips else []
            h = layer(torch.cat([h, *skipped, tiled(y, h)], 1))
        return latent, h.float()


class Discriminator(nn.Module):
    """The encoder's features (n, c, h, h) -> logits (n, p) of every attribute's categories.

    `widths`: channels of the features and of each layer, which halves them, down to 1×1.
    """

    def __init__(self, widths: Sequence[int], hidden: int, categories: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.main = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), BatchNorm(b), nn.LeakyReLU(0.2))
            for a, b in pairwise(widths)
        )
        self.head = nn.Sequential(
            nn.Linear(widths[-1], hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, categories)
        )

    def forward(self, h: Tensor, noise: Sequence[Tensor] = ()) -> Tensor:
        """With dropout if `noise` is given: uniform, of the shape of every layer's output."""
        for position, layer in enumerate(self.main):
            h = layer(h)
            if noise:
                h = h * (noise[position] >= self.dropout) / (1 - self.dropout)
        with autocast_off(h):
            out: Tensor = self.head(h.float().flatten(1))
            return out


@dataclass(frozen=True)
class Fader(Model):
    """Hyper-parameters of Fader Networks; defaults are the published ones, for 128 and 256 px."""

    dim: Annotated[Units, Field(description="channels of the encoder's first layer")] = 32
    max_dim: Annotated[Units, Field(description="maximum number of channels")] = 512
    layers: Annotated[Layers, Field(description="layers of encoder and decoder; 5 for 64 px")] = 6
    skips: Annotated[
        SomeLayers,
        Field(
            description="skip connections from encoder to decoder; D then reads the encoder's "
            "features so many layers before the last"
        ),
    ] = 0
    hidden: Annotated[Units, Field(description="units of D's hidden layer")] = 512
    dropout: Annotated[Decay, Field(description="dropout in D's convolutional layers")] = 0.3
    lambda_lat: Annotated[
        Weight, Field(description="final weight of the encoder's loss against D")
    ] = 1e-4
    lambda_share: Annotated[
        Share,
        Field(
            description="share of the images in which that weight grows linearly from 0: 500,000 "
            "of 1,563,000 updates"
        ),
    ] = 500 / 1563
    clip: Annotated[
        Weight, Field(description="maximum gradient norm of each network; 0: not clipped")
    ] = 5.0
    lr: Annotated[Rate, Field(description="learning rate")] = 2e-4
    beta1: Annotated[Decay, Field(description="Adam's decay of the first moment")] = 0.5
    beta2: Annotated[Decay, Field(description="Adam's decay of the second moment")] = 0.999
    test_int: Annotated[
        Weight,
        Field(description="α of edited labels at test time: 1 the target, beyond it extrapolates"),
    ] = 1.0

    upsampling: Upsampling = "transposed"

    label_kinds: ClassVar[tuple[Kind, ...]] = ("binary", "onehot")
    reads_source: ClassVar[bool] = True  # only labels known to change are extrapolated

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        small = demo(
            cls(
                dim=24,
                max_dim=192,
                layers=4,
                hidden=128,
                lambda_lat=5e-3,
                lambda_share=0.25,
                lr=1e-3,
                upsampling="resize",
            ),
            images=56_000,
            decay_images=28_000,
            warmup_images=0,
            batch=8,
            ema=0.0,
            log_images=800,
            sample_images=14_000,
            checkpoint_images=14_000,
        )
        train = TrainConfig(images=LENGTH, decay_images=0, batch=32, ema=0.0)
        data = DataConfig(size=256, interpolation="lanczos", attributes=("Male",))
        many = DataConfig(size=256, interpolation="lanczos", attributes=ATTGAN_ATTRIBUTES)
        return {
            "demo": small,
            "smoke": smoke(small),
            "celeba-256": Preset(cls(), data, train),
            "celeba-256-13": Preset(cls(), many, train),
        }

    @classmethod
    def tiny(cls) -> Self:
        return cls(dim=4, max_dim=8, layers=3, skips=1, hidden=8, lambda_lat=0.1)

    @property
    def supported_options(self) -> tuple[str, ...]:
        return ("intensity",)

    @property
    def usual_intensity(self) -> float:
        return self.test_int

    def networks(self, space: LabelSpace, size: int) -> Nets:
        """The auto-encoder G and the latent's D, with PyTorch's default weights.

        Raises ValueError as `check_space` does, for a size that is no power of two or smaller than
        2^layers, and for too many skips.
        """
        self.check_space(space)
        check_power_of_two(size)
        if size < 1 << self.layers:
            raise ValueError(
                f"size={size}: at least {1 << self.layers} is needed (the encoder halves it "
                f"{self.layers} times)"
            )
        if self.skips >= self.layers:
            raise ValueError(f"skips={self.skips}: between 0 and layers − 1 = {self.layers - 1}")
        widths = [min(self.dim << i, self.max_dim) for i in range(size.bit_length() - 1)]
        read = widths[self.layers - self.skips - 1 :]
        g = Generator(space, widths[: self.layers], self.skips, self.upsampling)
        return {"G": g, "D": Discriminator(read, self.hidden, g.categories.width, self.dropout)}

    def phases(self, space: LabelSpace) -> list[Phase]:
        """D, then the auto-encoder on a new batch; the other one is in evaluation mode."""
        return [
            Phase(
                "d",
                ("D",),
                lambda nets, batch: self.d_loss(nets, batch, space),
                eval_nets=("G",),
            ),
            Phase(
                "ae",
                ("G",),
                lambda nets, batch: self.ae_loss(nets, batch, space),
                new_batch=True,
                eval_nets=("D",),
            ),
        ]

    def optim(self, space: LabelSpace) -> dict[str, Optim]:
        return dict.fromkeys("GD", Optim(self.lr, (self.beta1, self.beta2), clip=self.clip))

    def d_loss(self, nets: Nets, batch: Batch, space: LabelSpace) -> Losses:
        """Σ over attributes of −log P(y | E(x)) (eq. 2)."""
        with torch.no_grad():
            latent, _ = nets["G"](batch.image)
        logits = nets["D"](latent, self.dropout_noise(batch, latent))
        return {"cls": read_loss(logits, batch, space)}

    def dropout_noise(self, batch: Batch, latent: Tensor) -> list[Tensor]:
        """Uniform numbers for each of D's layers, the same for any number of processes."""
        channels, side = latent.shape[1], latent.shape[2]
        out = []
        while side > 1 and self.dropout:
            channels, side = min(2 * channels, self.max_dim), side // 2
            out.append(batch.noise(f"dropout{side}", (channels, side, side)))
        return out

    def ae_loss(self, nets: Nets, batch: Batch, space: LabelSpace) -> Losses:
        """Mean of (x − Dec(E(x), y))², and −λ(t)·Σ log P(y̅ | E(x)) with other categories y̅ (eq. 3).

        λ(t) grows linearly from 0 to `lambda_lat` over the first `lambda_share` of the images.
        """
        latent, again = nets["G"](batch.image, batch.source)
        fooled = read_loss(nets["D"](latent), batch, space, other=True)
        if self.lambda_share:
            fooled = fooled * (batch.position / self.lambda_share).clamp(max=1).float()
        return {"rec": F.mse_loss(again, batch.image), "lat": self.lambda_lat * fooled}

    def validate(self, nets: Nets, batch: Batch, space: LabelSpace) -> Tensor:
        """The negative mean squared error of the reconstruction of held-out images."""
        again = self.translate(nets, batch.image, batch.source, batch.source)
        return -F.mse_loss(again, batch.image)

    def translate(
        self,
        nets: Nets,
        image: Tensor,
        source: Tensor | None,
        target: Tensor,
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """Dec(E(x), y'): requested labels, if the source is known, at α = `intensity`.

        α: 0 is the label as it is, 1 the target, beyond it extrapolates; [1 − α, α] of a binary
        label that is switched on. Labels that it excludes are off at any α.
        """
        if source is not None:
            alpha = self.usual_intensity if options.intensity is None else options.intensity
            requested = cast(Generator, nets["G"]).signed.requested(source, target)
            target = torch.where(requested, source + alpha * (target - source), target)
        out: Tensor = nets["G"](image, target)[1]
        return out

    def previews(self, nets: Nets, batch: Batch, space: LabelSpace) -> dict[str, Preview]:
        """Single edits at several α; training uses 0 and 1."""
        names, x, source, target = examples(batch, space)
        edits = [self.translate(nets, x, source, target, EditOptions(intensity=a)) for a in ALPHAS]
        caption = (
            "Single edits by α: 0 leaves the label as it is, 1 the target, more extrapolates. "
            "Labels that it excludes, as other hair colours, are off at any α."
        )
        columns = ("input", *(f"{a:g}" for a in ALPHAS))
        return {"slider": Preview(torch.stack([x, *edits], 1), columns, caption, names)}


def read_loss(logits: Tensor, batch: Batch, space: LabelSpace, *, other: bool = False) -> Tensor:
    """Cross entropies of D's logits (n, p) with the images' categories, summed over attributes.

    A mean over the batch. With `other`, a random other category of each attribute is the truth.
    """
    labels = batch.source[:, space.slice(batch.dataset)]
    counts = [len(part.names) * (2 if part.kind == "binary" else 1) for part in space.sets]
    own = torch.split(logits, counts, 1)[batch.dataset]
    if space.sets[batch.dataset].kind == "binary":
        own, truth = own.reshape(-1, 2), labels.round().long().flatten()
        truth = 1 - truth if other else truth
    else:
        truth, classes = labels.argmax(1), own.shape[1]
        if other:
            step = (batch.noise("other", ()) * (classes - 1)).long()  # 0 … classes − 2
            truth = (truth + 1 + step) % classes
    return F.cross_entropy(own, truth, reduction="sum") / len(labels)

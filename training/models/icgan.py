"""IcGAN (Perarnau et al., 2016, arXiv 1611.06355): a conditional GAN and its inverse.

First G(z, y) and D are trained; then the encoders Ez, on generated images, and Ey, on real ones.
An edit is G(Ez(x), y'), where y' is Ey(x), as published at ±1, with the edited labels replaced.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from training.core.config import (
    DataConfig,
    Decay,
    Rate,
    Share,
    TrainConfig,
    Units,
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
)
from training.models.layers import (
    BatchNorm,
    Signed,
    Upsampling,
    autocast_off,
    check_power_of_two,
    doubled,
    narrow_normal,
    normal,
    tiled,
)
from training.models.shared_presets import demo, smoke

ICGAN_ATTRIBUTES = (
    "Bald", "Bangs", "Black_Hair", "Blond_Hair", "Brown_Hair", "Bushy_Eyebrows", "Eyeglasses",
    "Gray_Hair", "Heavy_Makeup", "Male", "Mouth_Slightly_Open", "Mustache", "Pale_Skin",
    "Receding_Hairline", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Hat",
)  # fmt: skip
OTHERS = 3  # other latents in the previews


class Generator(nn.Module):
    """Latents z (n, k) and labels c̃ (n, c) -> images (n, 3, s, s) in [-1, 1]."""

    def __init__(
        self, space: LabelSpace, size: int, dim: int, latent: int,
        upsampling: Upsampling = "transposed",
    ) -> None:  # fmt: skip
        super().__init__()
        self.space, self.signed = space, Signed(space)
        steps = size.bit_length() - 3  # doublings from 4 px
        width = dim << (steps - 1)
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent + space.dim_g, width, 4)]
        for _ in range(steps - 1):
            layers += [BatchNorm(width), nn.ReLU()]
            layers += [doubled(width, width // 2, upsampling, bias=True)]
            width //= 2
        layers += [BatchNorm(width), nn.ReLU(), doubled(width, 3, upsampling, bias=True), nn.Tanh()]
        self.main = nn.Sequential(*layers)

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        out: Tensor = self.main(torch.cat([z, self.signed(c)], 1)[:, :, None, None]).float()
        return out

    def labels(self, y: Tensor) -> Tensor:
        """Labels in [0, 1], such as G was trained on, of Ey's predictions y (n, dim_d).

        Binary: thresholded at 0, as in the published code. Not in the paper: the likeliest of
        classes; intensities are clamped.
        """
        out = []
        for index, part in enumerate(self.space.sets):
            own = y[:, self.space.slice(index)]
            if part.kind == "binary":
                out.append((own > 0).to(y.dtype))
            elif part.kind == "onehot":
                out.append(F.one_hot(own.argmax(1), own.shape[1]).to(y.dtype))
            else:
                out.append((own.clamp(-1, 1) + 1) / 2)
        return torch.cat(out, 1)


class Discriminator(nn.Module):
    """Images and labels c̃ -> logits (n,); the labels are an input of the second layer."""

    def __init__(self, space: LabelSpace, size: int, dim: int) -> None:
        super().__init__()
        self.signed = Signed(space)
        self.first = nn.Sequential(nn.Conv2d(3, dim, 4, 2, 1), nn.LeakyReLU(0.2))
        layers: list[nn.Module] = []
        channels, width = dim + space.dim_g, dim
        for _ in range(size.bit_length() - 4):
            width *= 2
            layers += [nn.Conv2d(channels, width, 4, 2, 1), BatchNorm(width), nn.LeakyReLU(0.2)]
            channels = width
        self.main = nn.Sequential(*layers)
        self.last = nn.Conv2d(channels, 1, 4)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        h = self.first(x)
        h = self.main(torch.cat([h, tiled(self.signed(c), h)], 1))
        with autocast_off(h):
            out: Tensor = self.last(h.float()).flatten()
            return out


def encoder(size: int, dim: int, hidden: int, outputs: int) -> nn.Sequential:
    """(n, 3, s, s) -> (n, outputs, 1, 1); the dense layer is a convolution over the 4×4 map."""
    layers: list[nn.Module] = []
    channels, width = 3, dim
    for _ in range(size.bit_length() - 3):
        layers += [nn.Conv2d(channels, width, 5, 2, 2), BatchNorm(width), nn.ReLU()]
        channels, width = width, width * 2
    dense = [nn.Conv2d(channels, hidden, 4), BatchNorm(hidden), nn.ReLU()]
    return nn.Sequential(*layers, *dense, nn.Conv2d(hidden, outputs, 1))


@dataclass(frozen=True)
class IcGAN(Model):
    """Hyper-parameters of IcGAN; defaults are the published ones, for 64 px."""

    dim: Annotated[Units, Field(description="channels of G's last and D's first hidden layer")] = 64
    latent: Annotated[Units, Field(description="length of z")] = 100
    e_dim: Annotated[Units, Field(description="channels of the encoders' first layer")] = 32
    z_hidden: Annotated[Units, Field(description="units of Ez's hidden layer")] = 4096
    y_hidden: Annotated[Units, Field(description="units of Ey's hidden layer")] = 512
    lr: Annotated[Rate, Field(description="learning rate")] = 2e-4
    beta1: Annotated[Decay, Field(description="Adam's decay of the first moment")] = 0.5
    e_lr: Annotated[Rate, Field(description="learning rate of the encoders")] = 1e-4
    e_beta1: Annotated[Decay, Field(description="the encoders' decay of the first moment")] = 0.1
    beta2: Annotated[Decay, Field(description="Adam's decay of the second moment")] = 0.999
    gan_share: Annotated[
        Share, Field(description="share of the images for the GAN stage: 25 epochs of 25 + 15")
    ] = 0.625
    upsampling: Upsampling = "transposed"  # not in the paper: resize

    reads_source: ClassVar[bool] = True  # unchanged labels come from Ey
    adversarial = Adversarial("gan", (("d/real", "d/wrong", "d/fake"),))

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        small = demo(
            cls(dim=32, e_dim=16, z_hidden=512, y_hidden=128, upsampling="resize"),  # no stripes
            images=22_400,  # with 5,600 the faces are still noise
            batch=8,
            warmup_images=0,
            decay_images=0,
            ema=0.0,
        )
        paper = Preset(
            cls(),
            # crop: x 30 to 168, y 40 to 178
            DataConfig(size=64, celeba_crop=138, celeba_shift=(10, 0), attributes=ICGAN_ATTRIBUTES),
            TrainConfig(images=40 * 182_637, decay_images=0, batch=64, ema=0.0),
        )
        return {"demo": small, "smoke": smoke(small), "celeba-64": paper}

    @classmethod
    def tiny(cls) -> Self:
        return cls(dim=4, latent=4, e_dim=4, z_hidden=8, y_hidden=8)

    def networks(self, space: LabelSpace, size: int) -> Nets:
        """G, D, Ez, Ey.

        Weights of G and D from N(0, 0.02), batch norms from N(1, 0.02), biases 0. The encoders as
        Torch7, which the published code leaves to it: PyTorch's default, batch norms from U(0, 1).
        Raises ValueError unless `size` is a power of two from 16 px.
        """
        check_power_of_two(size)
        nets: Nets = {
            "G": Generator(space, size, self.dim, self.latent, self.upsampling),
            "D": Discriminator(space, size, self.dim),
            "Ez": encoder(size, self.e_dim, self.z_hidden, self.latent),
            "Ey": encoder(size, self.e_dim, self.y_hidden, space.dim_d),
        }
        for name, net in nets.items():
            if name in ("G", "D"):
                narrow_normal(net)
                continue
            for layer in net.modules():
                if isinstance(layer, BatchNorm):
                    nn.init.uniform_(layer.weight)
        return nets

    def phases(self, space: LabelSpace) -> list[Phase]:
        """The GAN stage, then the encoder stage."""
        gan, after = (0.0, self.gan_share), (self.gan_share, 1.0)
        return [
            Phase("d", ("D",), self.d_loss, active_range=gan),
            Phase("g", ("G",), self.g_loss, active_range=gan),
            # Ez trains on images of G in evaluation mode, as used by `translate`.
            Phase("ez", ("Ez",), self.z_loss, active_range=after, eval_nets=("G",)),
            Phase(
                "ey",
                ("Ey",),
                lambda nets, batch: self.y_loss(nets, batch, space),
                active_range=after,
            ),
        ]

    def optim(self, space: LabelSpace) -> dict[str, Optim]:
        gan = Optim(self.lr, (self.beta1, self.beta2))
        slow = Optim(self.e_lr, (self.e_beta1, self.beta2))
        return {"G": gan, "D": gan, "Ez": slow, "Ey": slow}

    def z(self, batch: Batch) -> Tensor:
        """Standard normal latents (n, `latent`)."""
        return normal(batch.noise("z", (self.latent,)))

    def d_loss(self, nets: Nets, batch: Batch) -> Losses:
        """BCE: 1 for real images; 0 for wrong labels and for fakes, each weighted ½."""
        x, y = batch.image, batch.source
        if batch.other is None:
            raise ValueError("IcGAN needs batches with the labels of other images")
        with torch.no_grad():
            fake = nets["G"](self.z(batch), batch.target)
        d = nets["D"]
        return {
            "real": F.softplus(-d(x, y)).mean(),
            "wrong": 0.5 * F.softplus(d(x, batch.other)).mean(),
            "fake": 0.5 * F.softplus(d(fake, batch.target)).mean(),
        }

    def g_loss(self, nets: Nets, batch: Batch) -> Losses:
        """BCE(D(G(z, y'), y'), 1)."""
        fake = nets["G"](self.z(batch), batch.target)
        return {"fake": F.softplus(-nets["D"](fake, batch.target)).mean()}

    def z_loss(self, nets: Nets, batch: Batch) -> Losses:
        """‖z − Ez(G(z, y'))‖² on images of G in evaluation mode.

        G's batch norms use the statistics from training; the published code re-estimates them with
        100 passes.
        """
        z = self.z(batch)
        with torch.no_grad():
            fake = nets["G"](z, batch.target)
        return {"z": F.mse_loss(nets["Ez"](fake).flatten(1).float(), z)}

    def y_loss(self, nets: Nets, batch: Batch, space: LabelSpace) -> Losses:
        """‖y − Ey(x)‖² on real images, with y in [-1, 1] of the current data set's labels."""
        part = space.slice(batch.dataset)
        predicted = nets["Ey"](batch.image).flatten(1).float()[:, part]
        return {"y": F.mse_loss(predicted, 2 * batch.source[:, part] - 1)}

    def validate(self, nets: Nets, batch: Batch, space: LabelSpace) -> Tensor:
        """−‖x − G(Ez(x), Ey(x))‖₁ on held-out images."""
        again = self.translate(nets, batch.image, batch.source, batch.source)
        return -F.l1_loss(again, batch.image)

    def translate(
        self,
        nets: Nets,
        image: Tensor,
        source: Tensor | None,
        target: Tensor,
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """G(Ez(x), y'); without source labels, y' is the whole target."""
        y = target if source is None else edited(nets, image, source, target)
        out: Tensor = nets["G"](nets["Ez"](image).flatten(1).float(), y)
        return out

    def previews(self, nets: Nets, batch: Batch, space: LabelSpace) -> dict[str, Preview]:
        """Images, their reconstructions, and images of other latents with the same labels."""
        x, source = batch.image[:4], batch.source[:4]
        y = edited(nets, x, source, source)
        stream = torch.Generator().manual_seed(0)
        latents = torch.randn(OTHERS, 1, self.latent, generator=stream).to(x.device)
        others = [nets["G"](z.expand(len(x), -1), y) for z in latents]
        outputs = [self.translate(nets, x, source, source), *others]
        columns = ("input", "again", *(f"latent {k}" for k in range(OTHERS)))
        caption = "G(Ez(x), Ey(x)), and G(z, Ey(x)) with the same latents z for every image."
        return {"inverse": Preview(torch.stack([x, *outputs], 1), columns, caption)}


def edited(nets: Nets, image: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Labels y' (n, dim_g): the prediction of Ey, but `target` where a known label changes and for
    labels that one of these excludes (another hair colour, another class)."""
    g = cast(Generator, nets["G"])
    asked = g.signed.edited(source, target)
    predicted = g.labels(nets["Ey"](image).flatten(1).float())
    current = torch.cat([predicted, target[:, predicted.shape[1] :]], 1)
    return torch.where(asked | g.signed.excluded(asked, source, target), target, current)

"""STGAN (Liu et al., CVPR 2019, arXiv 1904.09709).

AttGAN's encoder, critic and losses; G is told the difference b − a instead of b, and its skip
connections pass selective transfer units (STU), which transform the encoder's features by it.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from training.core.config import DataConfig, Natural, TrainConfig, Weight
from training.data.labels import LabelSpace
from training.models.attgan import SMALL, AttGAN, Decoder, Encoder
from training.models.base import Preset
from training.models.layers import Signed, tiled
from training.models.recipes import THIRTEEN, demo, smoke


class STU(nn.Module):
    """A ConvGRU cell: state of the level below (half the size) and features f -> f' and a state.

    r, z = σ(W·[f, ŝ]); s' = r∘ŝ; h = tanh(W_h·[f, s']); f' = (1 − z)∘ŝ + z∘h (eqs 3–8), where ŝ
    is the state, with the difference vector beside it, at this size.
    """

    def __init__(self, below: int, labels: int, beside: int, channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(below + labels, channels, 4, 2, 1)
        self.reset, self.update, self.hidden = (
            nn.Conv2d(beside + channels, channels, 3, 1, 1) for _ in range(3)
        )

    def forward(self, f: Tensor, state: Tensor, labels: Tensor, kept: str) -> tuple[Tensor, Tensor]:
        above = self.up(torch.cat([state, tiled(labels, state)], 1))
        both = torch.cat([f, above], 1)
        selected = torch.sigmoid(self.reset(both)) * above
        z = torch.sigmoid(self.update(both))
        h = torch.tanh(self.hidden(torch.cat([f, selected], 1)))
        out = (1 - z) * above + z * h
        return out, {"stu": selected, "gru": out, "direct": above}[kept]


class Generator(nn.Module):
    """G(x, b − a): each known label's difference is in {−1, 0, 1}; 0 asks for the input."""

    def __init__(self, space: LabelSpace, encoder: Encoder, decoder: Decoder, units: nn.ModuleList,
                 kept: str) -> None:  # fmt: skip
        super().__init__()
        self.encoder, self.decoder, self.stu = encoder, decoder, units
        self.kept, self.signed = kept, Signed(space)

    def difference(self, source: Tensor | None, target: Tensor, intensity: float) -> Tensor:
        """½(b − a) of labels at ±1 where they differ and the target's is known, else 0.

        b of the labels asked for is times `intensity`. An unknown a is 0. With several data sets
        the target's mask stands beside it.
        """
        b, d = self.signed(target), self.signed.dim_d
        if source is None:
            return torch.cat([0.5 * b[:, :d], target[:, d:]], 1)
        a = self.signed(source)
        edited = self.signed.edited(source, target)
        b = torch.where(self.signed.asked(source, target), intensity * b, b)
        diff = torch.where(edited, 0.5 * (b - a), 0.0)
        return torch.cat([diff[:, :d], target[:, d:]], 1)

    def forward(
        self,
        x: Tensor,
        source: Tensor | None,
        target: Tensor,
        intensity: float = 1.0,
        *,
        both: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """G(x, b − a), and with `both` G(x, 0) from the same latent."""
        features = self.encoder(x)
        fake = self._decode(features, self.difference(source, target, intensity))
        if not both or source is None:
            return fake
        return fake, self._decode(features, self.difference(source, source, 1.0))

    def _decode(self, features: list[Tensor], diff: Tensor) -> Tensor:
        changed, state = list(features), features[-1]
        for i, unit in enumerate(self.stu, 2):
            changed[-i], state = unit(features[-i], state, diff, self.kept)
        out: Tensor = self.decoder(changed, diff)
        return out


# 200 epochs of 947 cycles of six batches of 32; of the official split's images it is 223 epochs.
LENGTH = 36_364_800


@dataclass(frozen=True)
class STGAN(AttGAN):
    """The paper's numbers."""

    shortcut_layers: Annotated[
        Natural, Field(description="selective transfer units between encoder and decoder")
    ] = 4
    inject_layers: Annotated[
        Natural, Field(description="decoder layers that are given the label difference again")
    ] = 4
    stu_dim: Annotated[
        Natural,
        Field(
            description="channels of the outermost unit; 0: dim, as published but at 384 px (48, "
            "units 64)"
        ),
    ] = 0
    use_stu: Annotated[
        bool, Field(description="off: plain skip connections, the paper's ablation")
    ] = True
    stu_state: Annotated[
        Literal["stu", "gru", "direct"],
        Field(description="what a unit hands on as state: r∘ŝ as published, f' (a GRU), or ŝ"),
    ] = "stu"
    test_int: Annotated[
        Weight,
        Field(description="±1.5 instead of ±1 for an edited label, as behind the paper's numbers"),
    ] = 2.0

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        small = demo(
            cls(**SMALL, shortcut_layers=3, inject_layers=3),
            images=11_200,  # hair comes after gender and age, in the second half
            warmup_images=400,
        )
        paper = Preset(
            cls(),
            # Called central, the published square is at (3, 26), not (4, 24).
            DataConfig(celeba_crop=170, celeba_shift=(-1, 2), attributes=THIRTEEN),
            TrainConfig(images=LENGTH, decay_images=LENGTH // 2, batch=32, ema=0.0, flip=False),
        )
        return {"demo": small, "smoke": smoke(small), "celeba-128": paper}

    @classmethod
    def tiny(cls) -> Self:
        return replace(super().tiny(), shortcut_layers=1, inject_layers=1)

    def generator(self, space: LabelSpace) -> nn.Module:
        dim, layers = self.dim, self.layers
        own = (self.stu_dim or dim) if self.use_stu else dim
        encoder = Encoder(dim, layers, self.bn_momentum)
        decoder = Decoder(
            space.dim_g, dim, layers, self.shortcut_layers, self.inject_layers, self.bn_momentum,
            own << (layers - 2),
        )  # fmt: skip
        units, below = nn.ModuleList(), dim << (layers - 1)
        for i in range(2, 2 + (self.shortcut_layers if self.use_stu else 0)):
            units.append(STU(below, space.dim_g, dim << (layers - i), own << (layers - i)))
            below = own << (layers - i)
        return Generator(space, encoder, decoder, units, self.stu_state)

    def lr_scale(self, images: int, length: int, decay: int) -> float:
        """Constant, then a tenth for the last `decay` images."""
        return 0.1 if decay and images >= length - decay else 1.0

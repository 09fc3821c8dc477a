"""STGAN (Liu et al., CVPR 2019, arXiv 1904.09709).

AttGAN's encoder, critic and losses; G is conditioned on the attribute-difference vector b − a, and
selective transfer units (STU) in the skip connections adapt the encoder's features to it.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from training.core.config import (
    DataConfig,
    SomeLayers,
    SomeUnits,
    TrainConfig,
    Weight,
)
from training.data.labels import LabelSpace
from training.models.attgan import SMALL, AttGAN, Decoder, Encoder
from training.models.base import Preset
from training.models.layers import Signed, Upsampling, doubled, tiled
from training.models.shared_presets import ATTGAN_ATTRIBUTES, demo, smoke


class STU(nn.Module):
    """Selective transfer unit, a variant of a GRU: features f and inner state -> f', new state.

    r, z = σ(W·[f, ŝ]); s' = r∘ŝ; h = tanh(W_h·[f, s']); f' = (1 − z)∘ŝ + z∘h (eqs 3–8), where ŝ
    is the upsampled state of the inner level (half the size) and the difference vector.
    `state_kind` selects the returned state: "stu" s', "gru" f', "direct" ŝ.
    """

    def __init__(
        self,
        inner: int,
        labels: int,
        features: int,
        channels: int,
        upsampling: Upsampling = "transposed",
    ) -> None:
        super().__init__()
        self.up = doubled(inner + labels, channels, upsampling, bias=True)
        self.reset, self.update, self.hidden = (
            nn.Conv2d(features + channels, channels, 3, 1, 1) for _ in range(3)
        )

    def forward(
        self, f: Tensor, state: Tensor, labels: Tensor, state_kind: str
    ) -> tuple[Tensor, Tensor]:
        upsampled = self.up(torch.cat([state, tiled(labels, state)], 1))
        both = torch.cat([f, upsampled], 1)
        selected = torch.sigmoid(self.reset(both)) * upsampled
        z = torch.sigmoid(self.update(both))
        h = torch.tanh(self.hidden(torch.cat([f, selected], 1)))
        out = (1 - z) * upsampled + z * h
        return out, {"stu": selected, "gru": out, "direct": upsampled}[state_kind]


class Generator(nn.Module):
    """G(x, b − a): differences of known labels are in {−1, 0, 1}; 0 reconstructs the input."""

    def __init__(self, space: LabelSpace, encoder: Encoder, decoder: Decoder, units: nn.ModuleList,
                 state_kind: str) -> None:  # fmt: skip
        super().__init__()
        self.encoder, self.decoder, self.stu = encoder, decoder, units
        self.state_kind, self.signed = state_kind, Signed(space)

    def difference(self, source: Tensor | None, target: Tensor, intensity: float) -> Tensor:
        """Difference ½(b − a) of labels at ±1; 0 where they are equal or the target is unknown.

        In b, requested labels are scaled by `intensity`; an unknown a is 0. With several data sets
        the target's mask vector is appended. Returns (n, dim_g).
        """
        d = self.signed.dim_d
        if source is None:
            return torch.cat([0.5 * self.signed(target)[:, :d], target[:, d:]], 1)
        a, b = self.signed(source), self.signed.scaled(source, target, intensity)
        diff = torch.where(self.signed.edited(source, target), 0.5 * (b - a), 0.0)
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
        """G(x, b − a), and if `both` also G(x, 0) from the same latent."""
        features = self.encoder(x)
        fake = self._decode(x, features, self.difference(source, target, intensity))
        if not both or source is None:
            return fake
        return fake, self._decode(x, features, self.difference(source, source, 1.0))

    def _decode(self, x: Tensor, features: list[Tensor], diff: Tensor) -> Tensor:
        changed, state = list(features), features[-1]
        for i, unit in enumerate(self.stu, 2):
            changed[-i], state = unit(features[-i], state, diff, self.state_kind)
        out: Tensor = self.decoder(x, changed, diff)
        return out


# 200 epochs of 947 cycles with six batches of 32; 223 epochs of the official split.
LENGTH = 36_364_800


@dataclass(frozen=True)
class STGAN(AttGAN):
    """Hyper-parameters of STGAN; defaults are the paper's."""

    shortcut_layers: Annotated[
        SomeLayers, Field(description="selective transfer units between encoder and decoder")
    ] = 4
    inject_layers: Annotated[
        SomeLayers, Field(description="decoder layers with the label difference as extra input")
    ] = 4
    stu_dim: Annotated[
        SomeUnits,
        Field(
            description="channels of the outermost unit; 0: dim, as published except at 384 px "
            "(dim 48, units 64)"
        ),
    ] = 0
    use_stu: Annotated[
        bool, Field(description="off: plain skip connections, the paper's ablation")
    ] = True
    stu_state: Annotated[
        Literal["stu", "gru", "direct"],
        Field(description="state passed to the next unit: r∘ŝ as published, f' (a GRU), or ŝ"),
    ] = "stu"
    test_int: Annotated[
        Weight,
        Field(description="2: ±1.5 instead of ±1 for edited labels, as in the paper's results"),
    ] = 2.0

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        small = demo(
            # Departs from the paper: docs/models/stgan.md.
            cls(
                **SMALL,
                shortcut_layers=3,
                inject_layers=3,
                upsampling="resize",
                output="residual",
                d_norms=False,
            ),
            images=11_200,  # hair colour is only learnt in the second half
            warmup_images=400,
        )
        paper = Preset(
            cls(),
            # The published "centre" crop is at (3, 26), not (4, 24).
            DataConfig(celeba_crop=170, celeba_shift=(-1, 2), attributes=ATTGAN_ATTRIBUTES),
            TrainConfig(images=LENGTH, decay_images=LENGTH // 2, batch=32, ema=0.0, flip=False),
        )
        return {"demo": small, "smoke": smoke(small), "celeba-128": paper}

    @classmethod
    def tiny(cls) -> Self:
        return replace(super().tiny(), shortcut_layers=1, inject_layers=1)

    def generator(self, space: LabelSpace) -> nn.Module:
        dim, layers = self.dim, self.layers
        unit_dim = (self.stu_dim or dim) if self.use_stu else dim
        encoder = Encoder(dim, layers, self.bn_momentum)
        decoder = Decoder(
            space.dim_g, dim, layers, self.shortcut_layers, self.inject_layers, self.bn_momentum,
            unit_dim << (layers - 2), self.upsampling, self.output,
        )  # fmt: skip
        units, inner = nn.ModuleList(), dim << (layers - 1)
        for i in range(2, 2 + (self.shortcut_layers if self.use_stu else 0)):
            channels = unit_dim << (layers - i)
            units.append(STU(inner, space.dim_g, dim << (layers - i), channels, self.upsampling))
            inner = channels
        return Generator(space, encoder, decoder, units, self.stu_state)

    def lr_scale(self, images: int, length: int, decay: int) -> float:
        """Factor on the learning rate: 1, and 0.1 for the last `decay` images."""
        return 0.1 if decay and images >= length - decay else 1.0

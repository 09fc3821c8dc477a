"""Where an edit belongs, and how much it changes elsewhere, on pictures with a known answer."""

from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from training.data.dataset import Part
from training.data.labels import LabelSet
from training.evaluation.background import changed, outsides


class Pictures:
    """Noise of 64 px; label 0 brightens a square, label 1 nothing."""

    side = 64

    def __init__(self, count: int, label: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(0)
        self.labels = (torch.rand(count, 2, generator=generator) > 0.5).float()
        noise = 128 + 20 * torch.randn(count, 64, 64, 3, generator=generator)
        noise[:, 8:24, 16:40] += 40 * self.labels[:, 0, None, None, None]
        self.labels[:, 0] *= label
        self.pixels = noise.clamp(0, 255).round().to(torch.uint8)

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, rows: list[int]) -> Tensor:
        return self.pixels[rows]


def found(pictures: Pictures, kind: str = "binary") -> dict[str, Tensor]:
    labels = LabelSet("toy", kind, ("square", "nothing"))  # type: ignore[arg-type]
    return outsides(cast(Part, pictures), labels)


@pytest.mark.parametrize("kind", ["binary", "continuous"])
def test_an_edit_belongs_where_pictures_with_its_label_differ(kind: str) -> None:
    inside = ~found(Pictures(200, 0.7 if kind == "continuous" else 1.0), kind)["square"]
    assert inside[10:22, 18:38].float().mean() > 0.9
    away = torch.ones(64, 64, dtype=torch.bool)
    away[4:28, 12:44] = False
    assert not inside[away].any()


def test_a_label_with_fewer_than_8_images_on_a_side_has_no_place() -> None:
    pictures = Pictures(60)
    pictures.labels[:, 0] = 0
    pictures.labels[:7, 0] = 1
    assert set(found(pictures)) == {"nothing"}


def test_only_changes_outside_count_and_another_picture_counts_fully() -> None:
    outside = torch.ones(64, 64, dtype=torch.bool)
    outside[8:24, 16:40] = False
    before = Pictures(4).pixels
    inside_only = before.clone()
    inside_only[:, ~outside] = 255
    assert changed(before, inside_only, outside).tolist() == [0.0] * 4
    assert changed(before, before.roll(1, 0), outside).tolist() == [1.0] * 4
    # half of the contrast in amplitude is a quarter in energy
    mean = before[:, outside].float().mean(1)[:, None, None]
    half = (mean + (before.float() - mean) / 2).round().to(torch.uint8)
    assert np.allclose(changed(before, half, outside), 0.25, atol=0.02)


def test_a_label_that_concerns_every_pixel_has_no_outside() -> None:
    """Else the change outside would be 0 of 0."""
    pictures = Pictures(60)
    shown = pictures.labels[:, 0, None, None, None] > 0.5
    pictures.pixels = torch.where(shown, 200, 20).to(torch.uint8).expand(-1, 64, 64, 3).clone()
    # rows without a difference lie within the distance by which the place is enlarged
    pictures.pixels[:, 1:62:2] = 100
    assert "square" not in found(pictures)

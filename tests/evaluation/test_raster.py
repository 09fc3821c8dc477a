"""Spectral peaks at the periods of upsampling: what counts as a raster, and what does not."""

import numpy as np
import pytest
import torch
from torch import Tensor

from training.evaluation.raster import amplitude, excess, lines, spectrum


def smooth(count: int, size: int, seed: int = 0) -> Tensor:
    """uint8 pictures (count, size, size, 3), 1/f in amplitude as photographs are."""
    generator = torch.Generator().manual_seed(seed)
    f = torch.fft.fftfreq(size)
    radius = (f[:, None].square() + f[None, :].square()).sqrt().clamp(min=1 / size)
    noise = torch.randn(count, 3, size, size, generator=generator)
    images = torch.fft.ifft2(torch.fft.fft2(noise) / radius).real
    images = images / images.std((2, 3), keepdim=True)
    return (128 + 30 * images).clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def pattern(size: int, kind: str) -> Tensor:
    """A raster (size, size) with mean 0 and mean square 1."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    sign = {
        "checkerboard": (-1.0) ** (x + y),
        "rows": (-1.0) ** y,
        "columns of 4": torch.tensor([1.0, 1.0, -1.0, -1.0])[x % 4],
        "waves of 4": 2**0.5 * torch.sin(torch.pi / 2 * (x - y)),
        "every other pixel": ((x % 2 + y % 2) == 0) * 4.0 / 3**0.5 - 1 / 3**0.5,
    }[kind]
    return sign.float()


def with_raster(images: Tensor, kind: str, strength: float) -> Tensor:
    added = images.float() + strength * pattern(images.shape[1], kind)[None, :, :, None]
    return added.clamp(0, 255).round().to(torch.uint8)


@pytest.mark.parametrize("strength", [2.0, 4.0, 8.0])
@pytest.mark.parametrize(
    "kind", ["checkerboard", "rows", "columns of 4", "waves of 4", "every other pixel"]
)
def test_the_number_is_the_strength_of_the_raster_in_grey_levels(
    kind: str, strength: float
) -> None:
    images = smooth(64, 64)
    found = amplitude(excess(with_raster(images, kind, strength)).mean(0))
    assert found == pytest.approx(strength, rel=0.1, abs=0.3)


@pytest.mark.parametrize("size", [32, 48, 64, 128, 178])
def test_pictures_without_a_raster_have_none(size: int) -> None:
    assert amplitude(excess(smooth(128, size)).mean(0)) < 0.6


def test_noise_edges_and_patterns_of_other_periods_are_no_raster() -> None:
    generator = torch.Generator().manual_seed(0)
    images = smooth(128, 64)
    noise = (images.float() + 8 * torch.randn(images.shape, generator=generator)).clamp(0, 255)
    assert amplitude(excess(noise.round().to(torch.uint8)).mean(0)) < 0.6
    halves = torch.zeros(64, 64, 64, 3, dtype=torch.uint8)
    for i in range(64):
        halves[i, :, i:] = 200
    assert amplitude(excess(halves).mean(0)) < 0.6
    wave = 8 * torch.sin(2 * torch.pi * torch.arange(64) / 6.4)
    waves = (images.float() + wave[None, None, :, None]).clamp(0, 255).round().to(torch.uint8)
    assert amplitude(excess(waves).mean(0)) < 0.6


def test_the_spectrum_sums_to_the_mean_square_under_the_window() -> None:
    image = smooth(1, 32)
    grey = (image.double() @ torch.tensor([0.299, 0.587, 0.114]).double())[0]
    taper = torch.hann_window(32).double()
    window = (taper[:, None] * taper) ** 2
    square = ((grey - grey.mean()) ** 2 * window).sum() / window.sum()
    assert float(spectrum(image).sum()) == pytest.approx(float(square), rel=1e-4)


def test_lines_are_those_of_periods_2_and_4_that_divide_the_side() -> None:
    assert len(lines(64)) == 9
    assert (32, 32) in lines(64)
    assert lines(178) == [(0, 89), (89, 0), (89, 89)]
    with pytest.raises(ValueError, match="none of the periods"):
        excess(torch.zeros(1, 33, 33, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="expected uint8"):
        excess(torch.zeros(1, 3, 64, 64))


def test_a_raster_of_the_edits_is_seen_whatever_the_pictures_mean_brightness() -> None:
    images = smooth(32, 64)
    dark = (images.float() / 4).round().to(torch.uint8)
    numbers = [amplitude(excess(with_raster(v, "rows", 4.0)).mean(0)) for v in (images, dark)]
    assert np.allclose(numbers, 4.0, rtol=0.1)

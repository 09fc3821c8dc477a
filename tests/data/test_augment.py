"""Random crops: the published sizes, a function of the batch's position only."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training.core.config import DataConfig, enlarged_side
from training.data.augment import NUMBERS, corners, crop_boxes, cropped, windows
from training.data.dataset import Faces
from training.data.enlarged import check_load
from training.data.order import Order


def test_a_zoom_is_every_second_picture_and_has_the_published_areas_and_ratios() -> None:
    """Scale 0.8–1, ratio 0.9–1.1, inside the picture (StarGAN v2's code).

    torchvision's cropped area is 0.879 ± 0.049; with boxes cut to the picture it would be 0.896.
    """
    torch.manual_seed(0)
    x, y, width, height = crop_boxes(torch.rand(40_000, NUMBERS)).unbind(1)
    whole = (width == 1) & (height == 1)
    assert 0.49 < whole.float().mean() < 0.51
    area, ratio = (width * height)[~whole], (width / height)[~whole]
    assert float(area.mean()) == pytest.approx(0.879, abs=0.002)
    assert float(area.std()) == pytest.approx(0.049, abs=0.002)
    assert area.min() >= 0.8
    assert 0.98 < area.max() <= 1
    assert 0.9 <= ratio.min() < 0.91
    assert 1.09 < ratio.max() <= 1.1
    assert (x.abs() + width).max() <= 1 + 1e-6
    assert (y.abs() + height).max() <= 1 + 1e-6


def test_a_zoom_that_would_leave_the_picture_is_drawn_anew() -> None:
    """Row by row, by torchvision's rule; the last row never fits and stays whole."""
    torch.manual_seed(1)
    uniform = torch.rand(64, NUMBERS)
    uniform[:, 0] = 0.9
    uniform[-1, [1, *range(5, NUMBERS, 2)]] = 0.99  # areas near 1
    uniform[-1, [2, *range(6, NUMBERS, 2)]] = 0.0  # too high for them
    anew = 0
    for numbers, (_, _, width, height) in zip(uniform.tolist(), crop_boxes(uniform),
                                              strict=True):  # fmt: skip
        first, more = numbers[1:3], numbers[5:]
        found = (1.0, 1.0)
        for number, (a, r) in enumerate([first, *zip(more[::2], more[1::2], strict=True)]):
            area = 0.8 + 0.2 * a
            ratio = math.exp(math.log(0.9) + r * (math.log(1.1) - math.log(0.9)))
            if max(sides := (math.sqrt(area * ratio), math.sqrt(area / ratio))) <= 1:
                found, anew = sides, anew + (number > 0)
                break
        assert (float(width), float(height)) == pytest.approx(found, abs=1e-6)
    assert anew > 4
    assert found == (1.0, 1.0)


def test_a_shift_is_a_window_of_whole_pixels_at_any_place_alike() -> None:
    """Of 143 px, as AttGAN's and CycleGAN's code loads for 128: 16 places a side, none blurred."""
    torch.manual_seed(0)
    corner = corners(torch.rand(16_000, NUMBERS), 143 - 128)
    for side in corner.T:
        counts = torch.bincount(side, minlength=16)
        assert len(counts) == 16
        assert (counts - 1000).abs().max() < 150
    assert corners(torch.full((1, NUMBERS), 1 - 2**-24), 15).tolist() == [[15, 15]]
    images = torch.randint(0, 256, (3, 143, 143, 3), dtype=torch.uint8)
    corner = torch.tensor([[0, 15], [15, 0], [4, 9]])
    found = windows(images, corner, 128)
    for image, (left, top), window in zip(images, corner.tolist(), found, strict=True):
        assert torch.equal(window, image[top : top + 128, left : left + 128])


def test_the_published_side_of_larger_pictures() -> None:
    assert [enlarged_side(size) for size in (256, 128)] == [286, 143]


def test_a_shift_without_larger_pictures_is_refused_with_the_side_to_set() -> None:
    check_load("shift", 128, 143)
    check_load("zoom", 128, 0)
    with pytest.raises(ValueError, match=r"windows of data.size=128 px.*set data\.load=143"):
        check_load("shift", 128, 0)
    with pytest.raises(ValueError, match=r"data\.load=128 is not above .*; set data\.load=143"):
        DataConfig(size=128, load=128)


def test_a_picture_that_is_not_cropped_is_unchanged() -> None:
    image, uniform = torch.rand(2, 3, 8, 8), torch.full((2, NUMBERS), 0.1)
    uniform[1, :3] = torch.tensor([0.9, 0, 0.5])
    out = cropped(image, crop_boxes(uniform))
    assert torch.equal(out[0], image[0])
    assert not torch.equal(out[1], image[1])


@pytest.mark.parametrize("kind", ["shift", "zoom"])
def test_crops_are_equal_at_any_world_size_and_differ_in_the_next_batch(
    kind: str, classes: Path
) -> None:
    faces, cpu = Faces.open(classes, "train"), torch.device("cpu")
    faces = replace(faces, size=13) if kind == "shift" else faces
    order, plain = (
        Order(faces, 5, 8, flip=True, length=64, references=2, crop=crop)  # type: ignore[arg-type]
        for crop in (kind, "none")
    )
    whole = order.batch(0, 16, 0, slice(0, 8), cpu)
    parts = [order.batch(0, 16, 0, part, cpu) for part in (slice(0, 3), slice(3, 8))]
    assert torch.equal(torch.cat([p.image for p in parts]), whole.image)
    assert whole.reference is not None
    assert torch.equal(torch.cat([p.reference for p in parts if p.reference is not None]),
                       whole.reference)  # fmt: skip
    for start in (16, 24):
        cropped, full = (o.batch(0, start, 0, slice(0, 8), cpu) for o in (order, plain))
        assert torch.equal(cropped.source, full.source)
        assert cropped.image.shape == (8, 3, faces.size, faces.size)
        centre = full.image[..., 1:14, 1:14] if kind == "shift" else full.image
        assert (cropped.image != centre).flatten(1).any(1).float().mean() > 0.1
    assert not torch.equal(whole.image, order.batch(0, 24, 0, slice(0, 8), cpu).image)

"""Random crops: the published sizes, a function of the batch's position only."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from training.data.augment import NUMBERS, crop_boxes, cropped
from training.data.dataset import Faces
from training.data.order import Order


def test_a_zoom_is_every_second_picture_and_has_the_published_areas_and_ratios() -> None:
    """Scale 0.8–1, ratio 0.9–1.1, inside the picture (StarGAN v2's code).

    torchvision's cropped area is 0.879 ± 0.049; with boxes cut to the picture it would be 0.896.
    """
    torch.manual_seed(0)
    x, y, width, height = crop_boxes(torch.rand(40_000, NUMBERS), "zoom").unbind(1)
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
    for numbers, (_, _, width, height) in zip(uniform.tolist(), crop_boxes(uniform, "zoom"),
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


def test_a_shift_is_a_crop_of_256_of_286_px_enlarged() -> None:
    """The corner of 256 px, cut out by slicing and enlarged, is the crop of the corner box."""
    box = crop_boxes(torch.zeros(1, NUMBERS), "shift")[0]
    torch.testing.assert_close(box[2:] * 286, torch.tensor([256.0, 256]))
    image = torch.rand(1, 3, 286, 286)
    corner = torch.zeros(1, NUMBERS)
    expected = F.interpolate(image[..., :256, :256], (286, 286), mode="bilinear")
    found = cropped(image, crop_boxes(corner, "shift"))
    torch.testing.assert_close(
        found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], rtol=1e-3, atol=2e-3
    )


def test_a_picture_that_is_not_cropped_is_unchanged() -> None:
    image, uniform = torch.rand(2, 3, 8, 8), torch.full((2, NUMBERS), 0.1)
    uniform[1, :3] = torch.tensor([0.9, 0, 0.5])
    out = cropped(image, crop_boxes(uniform, "zoom"))
    assert torch.equal(out[0], image[0])
    assert not torch.equal(out[1], image[1])


@pytest.mark.parametrize("kind", ["shift", "zoom"])
def test_crops_are_equal_at_any_world_size_and_differ_in_the_next_batch(
    kind: str, classes: Path
) -> None:
    faces, cpu = Faces.open(classes, "train"), torch.device("cpu")
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
        assert (cropped.image != full.image).flatten(1).any(1).float().mean() > 0.1
    assert not torch.equal(whole.image, order.batch(0, 24, 0, slice(0, 8), cpu).image)

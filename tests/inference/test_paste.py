"""Edits inside a larger picture: the rest is unchanged, and faces are detected."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from training.data.dataset import to_float, to_uint8
from training.inference.edit import largest_face
from training.inference.paste import edge_weights, find_faces, parse_box, paste, square_in

WHOLE = np.random.RandomState(1).randint(0, 256, (60, 90, 3), np.uint8)
BOX = (20, 10, 60, 50)
INSIDE = np.zeros((60, 90), bool)
INSIDE[10:50, 20:60] = True


def test_pixels_outside_the_box_are_unchanged() -> None:
    out = paste(WHOLE, BOX, None, torch.ones(1, 3, 16, 16))
    assert np.array_equal(out[~INSIDE], WHOLE[~INSIDE])
    assert (out[20:40, 30:50] == 255).all()


def in_one_pass(
    whole: np.ndarray, box: tuple[int, int, int, int], keep: torch.Tensor | None,
    paint: torch.Tensor,
) -> np.ndarray:  # fmt: skip
    """`paste` without bands."""
    left, top, right, bottom = box
    part = to_float(torch.from_numpy(whole[top:bottom, left:right].copy())[None])
    size = (bottom - top, right - left)
    new = F.interpolate(paint, size, mode="bicubic", antialias=True).clamp(-1, 1)
    weight = edge_weights(size[0])
    if keep is not None:
        weight = weight * (1 - F.interpolate(keep, size, mode="bilinear", antialias=True))
    out = whole.copy()
    out[top:bottom, left:right] = to_uint8(torch.lerp(part, new, weight.expand_as(part)))[0].numpy()
    return out


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("side", [1, 255, 256, 513, 700])
def test_a_square_that_is_blended_in_bands_is_that_of_one_pass(side: int, masked: bool) -> None:
    random = np.random.RandomState(side)
    whole = random.randint(0, 256, (side + 9, side + 5, 3), np.uint8)
    before, box = whole.copy(), (3, 7, 3 + side, 7 + side)
    torch.manual_seed(side)
    keep = torch.rand(1, 1, 32, 32) if masked else None
    for paint in (torch.randn(1, 3, 32, 32), torch.randn(1, 32, 32, 3).permute(0, 3, 1, 2)):
        given = paint.clone()
        assert np.array_equal(paste(whole, box, keep, paint), in_one_pass(whole, box, keep, paint))
        assert torch.equal(paint, given)
    assert np.array_equal(whole, before)


def test_a_large_square_takes_little_more_than_its_own_floats() -> None:
    """In one pass this one took 300 MiB."""
    whole = np.zeros((2000, 2000, 3), np.uint8)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = memory("VmRSS")
    paste(whole, (0, 0, 2000, 2000), torch.rand(1, 1, 32, 32), torch.rand(1, 3, 32, 32))
    assert memory("VmHWM") - before < 150


def memory(name: str) -> int:
    """MiB of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(name))


def test_a_mask_that_keeps_everything_leaves_the_picture_unchanged() -> None:
    out = paste(WHOLE, BOX, torch.ones(1, 1, 16, 16), torch.ones(1, 3, 16, 16))
    assert np.array_equal(out, WHOLE)


def test_the_mask_selects_between_original_and_edited_pixels() -> None:
    """The left half is kept, at the resolution of the picture."""
    keep = torch.zeros(1, 1, 16, 16)
    keep[..., :8] = 1
    out = paste(WHOLE, BOX, keep, torch.ones(1, 3, 16, 16))
    assert np.array_equal(out[10:50, 20:36], WHOLE[10:50, 20:36])
    assert (out[20:40, 44:52] == 255).all()


def test_the_edges_of_the_pasted_square_are_blended() -> None:
    weight = edge_weights(40)
    assert float(weight.max()) == 1
    assert float(weight[0].max()) == pytest.approx(0.1)
    assert torch.equal(weight, weight.T)
    assert torch.equal(weight, weight.flip(0))


def test_pasting_the_unedited_crop_is_not_visible() -> None:
    """A smooth picture, resized to the model's size and back, changes by a few grey levels."""
    ramp = np.linspace(40, 200, 90, dtype=np.uint8)[None, :, None].repeat(60, 0).repeat(3, 2)
    crop = Image.fromarray(ramp).crop(BOX).resize((20, 20))
    paint = to_float(torch.from_numpy(np.asarray(crop).copy())[None])
    change = np.abs(paste(ramp, BOX, None, paint).astype(int) - ramp)
    assert change.max() <= 3


def test_a_box_is_parsed_and_cropped_to_its_central_square() -> None:
    assert parse_box("10,20,50,80") == (10, 20, 50, 80)
    assert square_in((10, 20, 50, 80), 90, 90) == (10, 30, 50, 70)
    assert square_in((0, 0, 90, 60), 90, 60) == (15, 0, 75, 60)


@pytest.mark.parametrize("text", ["10,20,30", "a,b,c,d", "", "1 2 3 4"])
def test_text_that_is_no_box_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a box is LEFT,TOP,RIGHT,BOTTOM"):
        parse_box(text)


@pytest.mark.parametrize("box", [(-1, 0, 10, 10), (0, 0, 91, 10), (5, 5, 5, 9), (0, 50, 9, 61)])
def test_a_box_outside_the_picture_is_refused(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="within the picture's 90x60 px"):
        square_in(box, 90, 60)


def sheet(paths: list[Path], sides: list[int], width: int) -> Image.Image:
    """Photographs beside each other on grey, each at a width of `sides`."""
    out = Image.new("RGB", (width, 400), (120, 125, 130))
    left = 60
    for path, side in zip(paths, sides, strict=True):
        with Image.open(path) as photo:
            out.paste(photo.convert("RGB").resize((side, side * 218 // 178)), (left, 60))
        left += side + 80
    return out


def test_a_detected_face_is_framed_like_training_images(shared_data: Path) -> None:
    """CelebA's own crop of each photograph, within a larger picture; 24 of 30 at least."""
    paths = sorted((shared_data / "celeba" / "img_align_celeba").glob("*.jpg"))[:30]
    overlaps = []
    for path in paths:
        found = find_faces(sheet([path], [178], 420))
        left, top, right, bottom = found[0] if found else (0, 0, 0, 0)
        width = max(0, min(right, 238) - max(left, 60))
        height = max(0, min(bottom, 258) - max(top, 80))
        union = 178**2 + (right - left) ** 2 - width * height
        overlaps.append(width * height / union)
    assert np.mean(np.array(overlaps) > 0.6) >= 0.8


def test_of_several_faces_the_largest_is_edited_with_a_warning(
    shared_data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = sorted((shared_data / "celeba" / "img_align_celeba").glob("*.jpg"))[:8]
    clear = [path for path in paths if len(find_faces(sheet([path], [178], 420))) == 1][:2]
    picture = sheet(clear, [110, 178], 500)
    with caplog.at_level(logging.WARNING):
        box = largest_face(picture)
    assert "2 faces found; the largest is edited" in caplog.text
    assert box[0] > 200


def test_no_face_is_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match="no face found; give its box with --box"):
        largest_face(Image.new("RGB", (200, 200), (120, 125, 130)))
    with pytest.raises(ValueError, match="no face found"):
        largest_face(Image.new("RGB", (8, 8)))

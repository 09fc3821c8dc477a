"""Decode and crop one image: Pillow's pixels, the right square, reasons for unusable files."""

import io
import os
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from training.core.config import DataConfig
from training.data.crop import crop_box, crop_image
from training.data.pictures import UnusableError

SHARED = Path(os.environ.get("SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
GENUINE = SHARED / "celeba" / "img_align_celeba"
FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Smooth random colours, so that JPEG's losses stay small and edges exist."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def by_pillow(data: bytes, square: tuple[int, int, int, int], config: DataConfig) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        part = image.convert("RGB").crop(square)
    return np.asarray(part.resize((config.size, config.size), FILTERS[config.interpolation]))


def by_pillow_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the fast decoder."""

    def refuse(data: bytes) -> None:
        raise ValueError("not for me")

    monkeypatch.setattr(simplejpeg, "decode_jpeg_header", refuse)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_celebas_centre_crop_equals_pillows(
    interpolation: str, subsampling: int, progressive: bool
) -> None:
    config = DataConfig(size=128, interpolation=interpolation)  # type: ignore[arg-type]
    data = encode(picture(178, 218), quality=90, subsampling=subsampling, progressive=progressive)
    expected = by_pillow(data, (0, 20, 178, 198), config)
    assert np.array_equal(crop_image(data, "celeba", config), expected)


def test_a_smaller_crop_equals_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    config, data = DataConfig(celeba_crop=170), encode(picture(178, 218))
    expected = by_pillow(data, (4, 24, 174, 194), config)
    assert np.array_equal(crop_image(data, "celeba", config), expected)
    by_pillow_alone(monkeypatch)
    assert np.array_equal(crop_image(data, "celeba", config), expected)


@pytest.mark.skipif(not GENUINE.is_dir(), reason="no genuine CelebA images next to the project")
def test_genuine_images_give_pillows_pixels() -> None:
    config = DataConfig()
    for path in sorted(GENUINE.iterdir())[:60]:
        data = path.read_bytes()
        expected = by_pillow(data, (0, 20, 178, 198), config)
        assert np.array_equal(crop_image(data, "celeba", config), expected), path.name


@pytest.mark.parametrize("kind", ["celeba", "rafd", "folders"])
def test_both_decoders_give_the_same_bytes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(picture(341, 513), quality=85)
    fast = crop_image(data, kind, DataConfig(size=64))
    by_pillow_alone(monkeypatch)
    assert np.array_equal(crop_image(data, kind, DataConfig(size=64)), fast)


def test_the_squares_of_the_genuine_sizes() -> None:
    config = DataConfig(rafd_crop=256, rafd_centre=(340, 440))
    assert crop_box("celeba", 178, 218, config) == (0, 20, 178, 198)
    assert crop_box("celeba", 178, 218, DataConfig(celeba_crop=170)) == (4, 24, 174, 194)
    stgan = DataConfig(celeba_crop=170, celeba_shift=(-1, 2))  # published as (h 26, w 3)
    assert crop_box("celeba", 178, 218, stgan) == (3, 26, 173, 196)
    icgan = DataConfig(celeba_crop=138, celeba_shift=(10, 0))  # published as x 30:168, y 40:178
    assert crop_box("celeba", 178, 218, icgan) == (30, 40, 168, 178)
    assert crop_box("celeba", 356, 436, icgan) == (60, 80, 336, 356)
    assert crop_box("rafd", 681, 1024, config) == (212, 312, 468, 568)
    assert crop_box("folders", 300, 200, config) == (50, 0, 250, 200)


@given(
    st.sampled_from(["celeba", "rafd", "folders", "csv"]),
    st.integers(20, 3000),
    st.integers(20, 3000),
    st.integers(1, 2000),
    st.tuples(st.integers(0, 681), st.integers(0, 1024)),
)
def test_a_square_lies_inside_its_image(
    kind: str, width: int, height: int, crop: int, centre: tuple[int, int]
) -> None:
    config = DataConfig(celeba_crop=crop, rafd_crop=crop, rafd_centre=centre)
    left, top, right, bottom = crop_box(kind, width, height, config)
    assert 0 <= left <= right <= width
    assert 0 <= top <= bottom <= height
    assert right - left == bottom - top


@given(st.sampled_from(["celeba", "rafd"]), st.sampled_from([0.5, 2.0, 3.0]))
def test_another_resolution_shows_the_same_part(kind: str, scale: float) -> None:
    width, height = {"celeba": (178, 218), "rafd": (682, 1024)}[kind]
    full = crop_box(kind, width, height, DataConfig())
    other = crop_box(kind, int(width * scale), int(height * scale), DataConfig())
    assert np.allclose(np.array(other) / scale, full, atol=2 / scale)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1"])
def test_other_modes_become_rgb_as_pillow_converts_them(mode: str) -> None:
    data = encode(picture(60, 50, "RGB").convert(mode), "PNG")
    config = DataConfig(size=32)
    assert np.array_equal(crop_image(data, "csv", config), by_pillow(data, (5, 0, 55, 50), config))


def test_cmyk_jpeg_is_converted() -> None:
    data = encode(picture(60, 60, "CMYK"))
    config = DataConfig(size=32)
    assert np.array_equal(crop_image(data, "csv", config), by_pillow(data, (0, 0, 60, 60), config))


def test_orientation_is_applied_to_own_images_and_ignored_for_celeba() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image, config = picture(178, 178), DataConfig(size=64)
    turned, plain = encode(image, exif=exif), encode(image)
    assert np.array_equal(crop_image(turned, "celeba", config), crop_image(plain, "celeba", config))
    own = crop_image(turned, "folders", config).astype(int)
    assert np.abs(own - crop_image(plain, "folders", config)[::-1, ::-1]).max() < 8


def huge_png() -> bytes:
    data = bytearray(encode(Image.new("L", (8, 8)), "PNG"))
    data[16:24] = (7000).to_bytes(4, "big") * 2  # the header gives a wrong size
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\n", r"not a picture \(JPEG, .*version"),
        (b"<!DOCTYPE html>", "not a picture.*DOCTYPE"),
        (encode(picture(40, 40), "AVIF"), "AVIF is not read; save it as JPEG or PNG"),
        (encode(picture(10, 40)), "too small: 10x40"),
        (encode(picture(178, 218))[:2000], "does not decode.*truncated"),
        (encode(picture(40, 40), "PNG")[:-60], "does not decode"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "does not decode"),
        (huge_png(), "too large: 7000x7000 px, the limit is 40,000,000 pixels"),
        (encode(Image.new("I", (40, 40)), "TIFF"), "mode I: 8 or 16 bits a channel"),
    ],
)
def test_an_unusable_file_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(UnusableError, match=reason):
        crop_image(data, "celeba", DataConfig())


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=300)
@given(st.sampled_from(["JPEG", "PNG"]), st.data())
def test_damaged_bytes_give_an_image_or_a_reason(kind: str, draw: st.DataObject) -> None:
    data = bytearray(encode(picture(50, 60), kind))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    data = data[: draw.draw(st.integers(0, len(data)))]
    config = DataConfig(size=16)
    with suppress(UnusableError):
        assert crop_image(bytes(data), "folders", config).shape == (16, 16, 3)

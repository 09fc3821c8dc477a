"""Training and translation see the same 8-bit RGB pixels of every kind of picture, or a reason."""

import io
import struct
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from training.core.config import DataConfig
from training.data import pictures
from training.data.crop import crop_image
from training.data.pictures import (
    FORMATS,
    UnusableError,
    content,
    decode,
    open_picture,
    read_picture,
)

SIZE = 64
CONFIG = DataConfig(size=SIZE)
GREY = np.arange(SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint8)
RGB = np.random.RandomState(0).randint(0, 256, (SIZE, SIZE, 3), np.uint8)
PLAIN = Image.fromarray(RGB)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png16(values: np.ndarray) -> bytes:
    """A PNG of 16-bit colours (H, W, 3), which Pillow cannot write."""
    height, width = values.shape[:2]
    rows = values.astype(">u2").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff16(values: np.ndarray, photometric: int, order: str) -> bytes:
    """An uncompressed TIFF of 16-bit grey, `order` < or >."""
    height, width = values.shape
    tags = [
        (256, 3, width), (257, 3, height), (258, 3, 16), (259, 3, 1), (262, 3, photometric),
        (273, 4, 200), (277, 3, 1), (278, 3, height), (279, 4, values.size * 2),
    ]  # fmt: skip
    out = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(tags))
    for tag, kind, value in tags:
        one = struct.pack(f"{order}I", value) if kind == 4 else struct.pack(f"{order}HH", value, 0)
        out += struct.pack(f"{order}HHI", tag, kind, 1) + one
    return out.ljust(200, b"\0") + values.astype(f"{order}u2").tobytes()


def as_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The composition over white, as the definition of alpha says."""
    weight = alpha[..., None] / 255
    return np.round(colours * weight + 255 * (1 - weight)).astype(np.uint8)


ALPHA = np.tile(np.arange(SIZE, dtype=np.uint8) * 4, (SIZE, 1))
HIDDEN = np.where(ALPHA[..., None] == 0, 0, RGB).astype(np.uint8)  # black where transparent
CMYK = PLAIN.convert("CMYK")
PALETTE = PLAIN.quantize(64)
HOLES = np.where(np.asarray(PALETTE)[..., None] == 3, 255, np.asarray(PALETTE.convert("RGB")))

# name -> bytes and the pixels that they mean
EXPECTED: dict[str, tuple[bytes, np.ndarray]] = {
    "png": (encode(PLAIN), RGB),
    "bmp": (encode(PLAIN, "BMP"), RGB),
    "tiff": (encode(PLAIN, "TIFF"), RGB),
    "tiff-lzw": (encode(PLAIN, "TIFF", compression="tiff_lzw"), RGB),
    "webp": (encode(PLAIN, "WEBP", lossless=True), RGB),
    "gif": (encode(PALETTE, "GIF"), np.asarray(PALETTE.convert("RGB"))),
    "grey": (encode(Image.fromarray(GREY)), as_rgb(GREY)),
    "grey16": (encode(Image.fromarray(GREY.astype(np.uint16) * 257)), as_rgb(GREY)),
    "grey16-tiff": (encode(Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF"), as_rgb(GREY)),
    "grey16-tiff-big-endian": (tiff16(GREY * np.uint16(257), 1, ">"), as_rgb(GREY)),
    "grey16-tiff-white-is-zero": (tiff16(GREY * np.uint16(257), 0, "<"), as_rgb(255 - GREY)),
    "rgb16": (png16(RGB * np.uint16(257)), RGB),
    "palette": (encode(PALETTE), np.asarray(PALETTE.convert("RGB"))),
    "palette-hole": (encode(PALETTE, transparency=3), HOLES.astype(np.uint8)),
    "1-bit": (encode(Image.fromarray(GREY > 99)), as_rgb(np.where(GREY > 99, 255, 0))),
    "cmyk-tiff": (encode(CMYK, "TIFF"), np.asarray(CMYK.convert("RGB"))),
    "rgba": (encode(Image.fromarray(np.dstack([RGB, ALPHA]))), on_white(RGB, ALPHA)),
    "rgba-black-below": (encode(Image.fromarray(np.dstack([HIDDEN, ALPHA]))), on_white(RGB, ALPHA)),
    "rgba-webp": (
        encode(Image.fromarray(np.dstack([RGB, ALPHA])), "WEBP", lossless=True, exact=True),
        on_white(RGB, ALPHA),
    ),
    "la": (
        encode(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)])),
        on_white(as_rgb(GREY), ALPHA),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_training_and_translation_see_the_right_pixels(name: str, tmp_path: Path) -> None:
    data, expected = EXPECTED[name]
    path = tmp_path / "picture"
    path.write_bytes(data)
    seen = np.asarray(read_picture(path).image)
    assert np.array_equal(crop_image(data, "folders", CONFIG), seen)
    assert np.abs(seen.astype(int) - expected).max() <= 1  # Pillow's alpha rounds by halves


@pytest.mark.parametrize("value", [0, 255, 256, 32896, 65535])
def test_grey_and_colour_of_16_bits_are_the_same(value: int) -> None:
    grey = np.full((SIZE, SIZE), value, np.uint16)
    one = crop_image(encode(Image.fromarray(grey)), "csv", CONFIG)
    three = crop_image(png16(np.dstack([grey] * 3)), "csv", CONFIG)
    assert np.array_equal(one, three)
    assert (one == value >> 8).all()


def test_a_transparent_grey_of_16_bits_is_white() -> None:
    data = encode(Image.fromarray(GREY.astype(np.uint16) * 257))
    key = 7 * 257
    data = data[:33] + chunk(b"tRNS", struct.pack(">H", key)) + data[33:]
    seen = crop_image(data, "csv", CONFIG)
    assert (seen[GREY == 7] == 255).all()
    assert np.array_equal(seen[GREY != 7], as_rgb(GREY)[GREY != 7])


def test_what_was_changed_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(EXPECTED["rgba"][0])
    assert read_picture(path).notes == ("its transparency is composed on white",)
    PLAIN.save(path, save_all=True, append_images=[PLAIN.rotate(90)])
    assert read_picture(path).notes == ("several pictures in one file: the first is used",)
    PLAIN.save(path)
    assert read_picture(path).notes == ()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF"])
def test_the_first_picture_of_several_is_used(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "several"
    more = {"lossless": True} if kind == "WEBP" else {}
    frames = [PALETTE.convert("RGB").rotate(90 * i) for i in range(3)]
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], **more)
    picture = read_picture(path)
    assert np.array_equal(picture.image, frames[0])
    assert picture.notes == ("several pictures in one file: the first is used",)


def jpeg_with(*segments: tuple[int, bytes]) -> bytes:
    """A JPEG whose lower half is dark, with more segments at its start."""
    picture = Image.new("RGB", (SIZE, SIZE), "white")
    ImageDraw.Draw(picture).rectangle((0, SIZE // 2, SIZE, SIZE), fill="black")
    data = encode(picture, "JPEG", quality=95)
    more = b"".join(struct.pack(">BBH", 255, kind, len(d) + 2) + d for kind, d in segments)
    return data[:2] + more + data[2:]


TURNED = Image.Exif()
TURNED[0x0112] = 3
EXIF = (0xE1, b"Exif\0\0" + TURNED.tobytes()[6:])
XMP = (0xE1, b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="3"/>')
FILL = (0xE2, bytes(65000))


@pytest.mark.parametrize("segments", [[EXIF], [FILL, FILL, EXIF], [XMP], [FILL, XMP]])
def test_both_readers_turn_by_exif_wherever_it_is(
    segments: list[tuple[int, bytes]], tmp_path: Path
) -> None:
    """Also behind the first 64 KiB, and by XMP; CelebA's and RaFD's are upright as stored."""
    data = jpeg_with(*segments)
    (tmp_path / "a.jpg").write_bytes(data)
    seen = np.asarray(read_picture(tmp_path / "a.jpg").image)
    assert np.array_equal(crop_image(data, "folders", CONFIG), seen)
    assert seen[:20].max() < 9  # the dark half is above
    assert crop_image(data, "celeba", DataConfig(size=SIZE))[:20].min() > 246


FAULTS: list[tuple[str, Callable[[], bytes], str]] = [
    ("empty.jpg", lambda: b"", "an empty file; fetch it again"),
    ("cut.png", lambda: EXPECTED["png"][0][:2000], "does not decode: .*truncated"),
    ("float.tif", lambda: encode(Image.new("F", (64, 64), 0.5), "TIFF"), "mode F: 8 or 16 bits"),
    ("phone.heic", lambda: b"\0\0\0\x24ftypheic\0\0\0\0mif1heic" + bytes(400),
     "HEIC is not read; save it as JPEG or PNG"),
    ("phone.jpg", lambda: b"\0\0\0\x24ftypmif1\0\0\0\0mif1heic" + bytes(400), "HEIC is not read"),
    ("clip.mp4", lambda: b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(400), "a video; .*ffmpeg"),
    ("clip.jpg", lambda: b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(400), "a video; .*ffmpeg"),
    ("vector.eps", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "EPS is not read"),
    ("huge.bmp", lambda: b"BM" + bytes(12) + struct.pack("<IiiHHIIIIII", 40, 20000, 10000, 1, 24,
     0, 0, 0, 0, 0, 0) + bytes(99), "too large: the limit is 40,000,000 pixels"),
    ("large.bmp", lambda: b"BM" + bytes(12) + struct.pack("<IiiHHIIIIII", 40, 9000, 9000, 1, 24,
     0, 0, 0, 0, 0, 0) + bytes(99), "too large: 9000x9000 px, the limit is 40,000,000 pixels"),
    ("wide.bmp", lambda: b"BM" + bytes(12) + struct.pack("<IiiHHIIIIII", 40, 12000, 9000, 1, 24,
     0, 0, 0, 0, 0, 0) + bytes(99), "too large: the limit is 40,000,000 pixels"),
    ("page.png", lambda: b"<!DOCTYPE html>", "not a picture .*: starts with b'<!DOCTYPE"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "make", "reason"), FAULTS, ids=[f[0] for f in FAULTS])
def test_an_unusable_file_is_named_with_its_reason(
    name: str, make: Callable[[], bytes], reason: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(make())
    with pytest.raises(ValueError, match=f"{name}: {reason}") as error:
        read_picture(tmp_path / name)
    assert "\n" not in str(error.value)
    with pytest.raises(UnusableError, match=reason):
        crop_image(make(), "folders", CONFIG)


def test_no_decoder_beside_the_listed_ones_sees_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would start Ghostscript for an EPS, if the first bytes were mistaken."""
    monkeypatch.setattr(pictures, "content", lambda head: "png")
    with pytest.raises(UnusableError, match="does not decode"):
        open_picture(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n" + bytes(99)
        )
    with pytest.raises(UnusableError, match="does not decode"):
        open_picture(encode(PLAIN, "PPM"))


def test_a_png_of_very_many_chunks_is_refused_at_once() -> None:
    data = EXPECTED["png"][0]
    data = data[:33] + chunk(b"tEXt", b"k\0v") * 10**6 + data[33:]
    start = time.perf_counter()
    with pytest.raises(UnusableError, match="over 100,000 chunks"):
        open_picture(data)
    assert time.perf_counter() - start < 2


def test_a_jpeg_of_very_many_scans_is_refused_at_once() -> None:
    """Each is decoded over all pixels; progressive pictures as they are written are read."""
    buffer = io.BytesIO()
    Image.new("RGB", (640, 480), "teal").save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    assert 1 < data.count(b"\xff\xda") < 20
    assert decode(open_picture(data), upright=False).size == (640, 480)
    start = data.index(b"\xff\xda")
    scan = data[start : data.index(b"\xff", start + 2)]
    bomb = data[:start] + scan * 1000 + data[start:]
    with pytest.raises(UnusableError, match=r"1,0\d\d scans, the limit is 500"):
        open_picture(bomb)
    with pytest.raises(UnusableError, match=r"1,0\d\d scans"):
        crop_image(bomb, "folders", DataConfig(size=32))


def test_a_file_above_the_limit_of_bytes_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MAX_BYTES", 1000)
    (tmp_path / "a.png").write_bytes(EXPECTED["png"][0])
    monkeypatch.setattr(Path, "read_bytes", None)
    with pytest.raises(ValueError, match=r"a\.png: too large: [\d,]+ bytes, the limit is 1,000"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize(
    "text", [b"BMI,label\n0001.jpg,1\n", b"RIFF,label\n", b"file,smile\n", b"II,a\n", b"MM\0"]
)
def test_a_table_is_not_taken_for_a_picture(text: bytes) -> None:
    assert content(text) == ""


SOURCES = [encode(PLAIN.convert("P" if f == "GIF" else "RGB"), f) for f in FORMATS]
SOURCES += [data for data, _ in EXPECTED.values()]


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.data_too_large])
@given(st.sampled_from(SOURCES), st.data())
def test_damaged_bytes_of_every_format_give_pixels_or_a_reason(
    source: bytes, draw: st.DataObject
) -> None:
    """Bytes changed mostly in the header, cut, repeated: never an exception of Pillow's own."""
    data = bytearray(source)
    for _ in range(draw.draw(st.integers(1, 6))):
        most = draw.draw(st.sampled_from([64, len(data) - 1]))
        data[draw.draw(st.integers(0, most))] = draw.draw(st.integers(0, 255))
    data = data[: draw.draw(st.sampled_from([len(data), len(data), len(data) // 2, 40]))]
    with suppress(UnusableError):
        pixels = crop_image(bytes(data), "folders", DataConfig(size=16))
        assert (pixels.shape, pixels.dtype) == ((16, 16, 3), np.uint8)

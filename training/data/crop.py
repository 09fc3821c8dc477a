"""One source image: from its bytes to the square that training sees, or the reason why not.

Pixels are those of Pillow's decode, crop and antialiased resize, so they do not depend on machine
or worker. simplejpeg decodes plain colour JPEGs: the same libjpeg-turbo, the same pixels, half the
time.
"""

import io
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import simplejpeg
from PIL import Image, ImageOps

from training.core.config import DataConfig

MAX_PIXELS = 40_000_000  # no face data set comes near; a small file can claim far more
MIN_SIDE = 16  # px of the source square; less is no face
CELEBA = (178, 218)  # (width, height) px at which `celeba_crop` is stated
RAFD = (681, 1024)  # the same for `rafd_crop` and `rafd_centre`
FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
ROOM = 8 * 2**20  # bytes a thread keeps for decoding; a 681x1024 image takes 2.8 MB
MODES = ("RGB", "L", "LA", "P", "PA", "RGBA", "CMYK", "1")  # 8 bits a channel or fewer
# What Pillow's readers raise on broken bytes.
BROKEN = (
    OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError,
    struct.error, zlib.error,
)  # fmt: skip

Box = tuple[int, int, int, int]  # left, top, right, bottom in px
_local = threading.local()


class UnusableError(ValueError):
    """An image that cannot be used; the text is the reason kept in its row."""


def box(kind: str, width: int, height: int, config: DataConfig) -> Box:
    """The square to cut out of an image of `width` x `height` px.

    celeba: the centre square of `celeba_crop` px, moved by `celeba_shift`, at 178x218; rafd:
    `rafd_crop` px around `rafd_centre` at 681x1024. At another size both scale with the image (the
    factor is the smaller of the two sides' ratios), so that a copy of another resolution shows the
    same part of the face; at the genuine size they are exact. Everything else: the largest centre
    square. A square that would leave the image is moved, then shrunk, into it.
    """
    if kind == "celeba":
        side = _scaled(config.celeba_crop, width, height, CELEBA)
        scale = min(width / CELEBA[0], height / CELEBA[1])
        x, y = (
            n / 2 + scale * s for n, s in zip((width, height), config.celeba_shift, strict=True)
        )
    elif kind == "rafd":
        side = _scaled(config.rafd_crop, width, height, RAFD)
        x, y = (
            c * n / full
            for c, n, full in zip(config.rafd_centre, (width, height), RAFD, strict=True)
        )
    else:
        side, x, y = min(width, height), width / 2, height / 2
    side = min(side, width, height)
    left = min(max(round(x - side / 2), 0), width - side)
    top = min(max(round(y - side / 2), 0), height - side)
    return left, top, left + side, top + side


def _scaled(side: int, width: int, height: int, full: tuple[int, int]) -> int:
    return round(side * min(width / full[0], height / full[1]))


def cut(data: bytes, kind: str, config: DataConfig) -> np.ndarray:
    """The training image, uint8 (size, size, 3), of one file's bytes. Raises UnusableError.

    JPEG and PNG by their first bytes, whatever the name says; the header's size is checked before
    anything is decoded. Grey, palette and 1-bit images become RGB, transparency is dropped, CMYK
    goes through Pillow's plain conversion, 16-bit images are refused. The EXIF orientation is
    honoured for own images only: CelebA and RaFD are upright as stored.
    """
    jpeg = data.startswith(b"\xff\xd8\xff")
    if not jpeg and not data.startswith(b"\x89PNG\r\n\x1a\n"):
        raise UnusableError(f"not JPEG or PNG: starts with {data[:12]!r}")
    own = kind not in ("celeba", "rafd")
    pixels = None
    if jpeg and not (own and b"Exif\0\0" in data[:65536]):
        pixels = _decode_turbo(data, kind, config)
    if pixels is None:
        pixels = _decode_pillow(data, kind, config, upright=own)
    return np.asarray(pixels.resize((config.size, config.size), FILTERS[config.interpolation]))


def _check_size(width: int, height: int, kind: str, config: DataConfig) -> Box:
    if width * height > MAX_PIXELS:
        raise UnusableError(f"too large: {width}x{height} px")
    square = box(kind, width, height, config)
    if square[2] - square[0] < MIN_SIDE:
        raise UnusableError(f"too small: {width}x{height} px")
    return square


def _decode_turbo(data: bytes, kind: str, config: DataConfig) -> Image.Image | None:
    """The cropped image, or None where Pillow must judge (odd colour space, damaged data)."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if space != "YCbCr":
            return None
        left, top, right, bottom = _check_size(width, height, kind, config)
        pixels = simplejpeg.decode_jpeg(data, "RGBX", buffer=_room(width * height * 4))
    except UnusableError:
        raise
    except ValueError:
        return None
    # Pillow keeps RGB in four bytes a pixel, so it takes these without a copy.
    part = np.ascontiguousarray(pixels[top:bottom, left:right])
    values = pa.Array.from_buffers(pa.uint8(), part.size, [None, pa.py_buffer(part)])
    size = (right - left, bottom - top)
    return Image.fromarrow(pa.FixedSizeListArray.from_arrays(values, 4), "RGB", size)


def _room(size: int) -> np.ndarray | None:
    """Memory of this thread to decode into: fresh pages for every image cost as much as a third
    of its decoding. None (the decoder takes its own) for large images.
    """
    if size > ROOM:
        return None
    if not hasattr(_local, "room"):
        _local.room = np.empty(ROOM, np.uint8)
    return _local.room[:size]


def _decode_pillow(data: bytes, kind: str, config: DataConfig, upright: bool) -> Image.Image:
    with _reasons():
        image: Image.Image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
    if image.mode not in MODES:
        raise UnusableError(f"mode {image.mode}: 8 bits a channel are needed")
    _check_size(*image.size, kind, config)
    with _reasons():
        image.load()
        if upright:
            image = ImageOps.exif_transpose(image)
        image.info.pop("transparency", None)
        part = image.crop(box(kind, *image.size, config))
        return part if part.mode == "RGB" else part.convert("RGB")


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn what Pillow raises on broken or huge data into UnusableError."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnusableError(f"too large: {error}") from error
    except BROKEN as error:
        raise UnusableError(f"does not decode: {error}") from error

"""Decode one source image and crop it to the training square, or give the reason for dropping it.

Pixels are those of Pillow's decode, crop and antialiased resize, so they do not depend on machine
or worker. simplejpeg decodes plain colour JPEGs: the same libjpeg-turbo, the same pixels, half the
time. With `resize=fast` torch resizes what the same decoders give.
"""

import threading
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import simplejpeg
from PIL import Image

from training.core.config import DataConfig
from training.data.pictures import (
    UnusableError,
    check_pixels,
    check_scans,
    decode,
    open_picture,
)

MIN_SIDE = 16  # px of the source square; a smaller one shows no usable face
CELEBA = (178, 218)  # (width, height) px, the size that `celeba_crop` refers to
RAFD = (681, 1024)  # the same for `rafd_crop` and `rafd_centre`
FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
ORIENTATION = (b"Exif\0\0", b"tiff:Orientation")  # Exif's header; XMP's entry
BUFFER_BYTES = 8 * 2**20  # bytes of each thread's decoding buffer; a 681x1024 image takes 2.8 MB

Box = tuple[int, int, int, int]  # left, top, right, bottom in px
_local = threading.local()


def decisive(kind: str, config: DataConfig) -> dict[str, Any]:
    """The settings, by name, on which the pixels of `crop_image` depend."""
    own = {"celeba": ("celeba_crop", "celeba_shift"), "rafd": ("rafd_crop", "rafd_centre")}
    names = ("size", "interpolation", "resize", *own.get(kind, ()))
    return {name: getattr(config, name) for name in names}


def crop_box(kind: str, width: int, height: int, config: DataConfig) -> Box:
    """The square to crop from an image of `width` x `height` px.

    celeba: the centre square of `celeba_crop` px, moved by `celeba_shift`, at 178x218; rafd:
    `rafd_crop` px around `rafd_centre` at 681x1024. At another size both scale with the image (the
    factor is the smaller of the two sides' ratios), so that a copy of another resolution shows the
    same part of the face; at the original size they are exact. Other kinds: the largest centre
    square. A square that extends beyond the image is moved, then shrunk, to fit.
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
            c * n / reference
            for c, n, reference in zip(config.rafd_centre, (width, height), RAFD, strict=True)
        )
    else:
        side, x, y = min(width, height), width / 2, height / 2
    side = min(side, width, height)
    left = min(max(round(x - side / 2), 0), width - side)
    top = min(max(round(y - side / 2), 0), height - side)
    return left, top, left + side, top + side


def _scaled(side: int, width: int, height: int, reference: tuple[int, int]) -> int:
    return round(side * min(width / reference[0], height / reference[1]))


def crop_image(data: bytes, kind: str, config: DataConfig) -> np.ndarray:
    """The training image, uint8 (size, size, 3), of one file's bytes. Raises UnusableError.

    The format is detected from the bytes and the size in the header is checked before decoding;
    `training.data.pictures` says what becomes of other modes than RGB. The orientation of Exif or
    XMP data is applied to the user's own data only: CelebA and RaFD are upright as stored.
    """
    user_data = kind not in ("celeba", "rafd")
    turned = user_data and any(mark in data for mark in ORIENTATION)
    fast = config.resize == "fast"
    pixels = None
    if data.startswith(b"\xff\xd8\xff") and not turned:
        # Pillow stores RGB in four bytes per pixel, so it uses this array without a copy.
        pixels = _decode_turbo(data, kind, config, "RGB" if fast else "RGBX")
    if fast:
        from training.data.resize import resize

        if pixels is None:
            pixels = np.array(_decode_pillow(data, kind, config, upright=user_data))
        return resize(pixels, config.size, config.interpolation)
    if pixels is None:
        image = _decode_pillow(data, kind, config, upright=user_data)
    else:
        image = _as_image(pixels)
    return np.asarray(image.resize((config.size, config.size), FILTERS[config.interpolation]))


def _check_size(width: int, height: int, kind: str, config: DataConfig) -> Box:
    check_pixels(width, height)
    square = crop_box(kind, width, height, config)
    if square[2] - square[0] < MIN_SIDE:
        raise UnusableError(f"too small: {width}x{height} px")
    return square


def _decode_turbo(
    data: bytes, kind: str, config: DataConfig, order: Literal["RGB", "RGBX"]
) -> np.ndarray | None:
    """The square, uint8 (side, side, 3 or 4), or None if Pillow has to decode it (other colour
    space, damaged data).
    """
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if space != "YCbCr":
            return None
        check_scans(data)
        left, top, right, bottom = _check_size(width, height, kind, config)
        buffer = _decode_buffer(width * height * len(order))
        pixels = simplejpeg.decode_jpeg(data, order, buffer=buffer)
    except UnusableError:
        raise
    except ValueError:
        return None
    return np.ascontiguousarray(pixels[top:bottom, left:right])


def _as_image(pixels: np.ndarray) -> Image.Image:
    """uint8 (side, side, 4) as an RGB image in the same memory."""
    values = pa.Array.from_buffers(pa.uint8(), pixels.size, [None, pa.py_buffer(pixels)])
    size = (pixels.shape[1], pixels.shape[0])
    return Image.fromarrow(pa.FixedSizeListArray.from_arrays(values, 4), "RGB", size)


def _decode_buffer(size: int) -> np.ndarray | None:
    """This thread's buffer to decode into: allocating fresh pages for every image would add up to
    a third to its decoding time. None (the decoder allocates its own) for large images.
    """
    if size > BUFFER_BYTES:
        return None
    if not hasattr(_local, "buffer"):
        _local.buffer = np.empty(BUFFER_BYTES, np.uint8)
    return _local.buffer[:size]


def _decode_pillow(data: bytes, kind: str, config: DataConfig, upright: bool) -> Image.Image:
    header = open_picture(data)
    _check_size(*header.size, kind, config)
    image = decode(header, upright)
    return image.crop(crop_box(kind, *image.size, config))

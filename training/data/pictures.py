"""The one reader of pictures, for training, validation and translation.

The formats are listed, so that no other decoder of Pillow (EPS starts Ghostscript) sees the bytes.
Every picture becomes 8-bit RGB: 16-bit channels keep their high byte, transparency is composed on
white, CMYK is converted without a profile, and of an animation the first frame is used.
"""

import io
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
# Suffixes of these formats, in lower case.
PICTURES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif",
)  # fmt: skip
# Photographs in formats that are not read.
UNREAD = (
    ".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".jxr", ".ppm", ".pgm", ".pnm",
    ".tga", ".psd", ".exr", ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf",
)  # fmt: skip
VIDEOS = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp",
)  # fmt: skip
ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst")
FRAMES = "take its pictures first, `ffmpeg -i VIDEO FOLDER/%05d.png`, and give that folder"
CONVERT = "save it as JPEG or PNG"
MAX_PIXELS = 40_000_000  # far above any face data set; a small file can claim far more
MAX_BYTES = 400_000_000  # above MAX_PIXELS of four 16-bit channels without compression
MAX_SCANS = 500  # of a JPEG; progressive ones have some ten
START_OF_SCAN = b"\xff\xda"  # in the scans' own data an FF is followed by 00
MAX_CHUNKS = 100_000  # of a PNG; 40 million pixels have 20,000 of the usual 8 KiB
# Modes that become RGB without a guess.
MODES = ("RGB", "L", "LA", "La", "P", "PA", "RGBA", "RGBa", "CMYK", "YCbCr", "1")
HIGH_BYTE = ("I;16", "I;16L", "I;16B")  # unsigned 16-bit grey
PHOTOMETRIC, WHITE_IS_ZERO, BITS = 262, 0, 258  # TIFF tags and a value
# Exceptions that Pillow's readers raise on broken bytes.
BROKEN = (
    OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError,
    AttributeError, RuntimeError, MemoryError, ZeroDivisionError, struct.error, zlib.error,
)  # fmt: skip

# Pillow's limit of pixels is an error with a reason here; its texts about metadata name no file.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.simplefilter("error", Image.DecompressionBombWarning)


class UnusableError(ValueError):
    """A picture that cannot be used; the text is the reason, without the file's name."""


class Picture(NamedTuple):
    """A decoded picture, mode RGB, and what was changed that its owner may not expect."""

    image: Image.Image
    notes: tuple[str, ...] = ()


def content(head: bytes) -> str:
    """What the first 32 bytes are: the format in lower case, one that is not read, or "" ."""
    for start, name in (
        (b"\xff\xd8\xff", "jpeg"), (b"\x89PNG\r\n\x1a\n", "png"), (b"GIF87a", "gif"),
        (b"GIF89a", "gif"), (b"II*\0", "tiff"), (b"MM\0*", "tiff"), (b"II+\0", "tiff"),
        (b"MM\0+", "tiff"), (b"8BPS", "psd"), (b"\x1aE\xdf\xa3", "video"), (b"\xff\x0a", "jxl"),
        (b"\0\0\0\x0cJXL ", "jxl"), (b"\0\0\0\x0cjP  ", "jp2"), (b"PK\x03\x04", "zip"),
        (b"%!PS", "eps"), (b"%PDF", "pdf"),
    ):  # fmt: skip
        if head.startswith(start):
            return name
    if head[:2] == b"BM" and head[6:10] == bytes(4) and head[15:18] == bytes(3):
        return "bmp"
    if head[:4] == b"RIFF":
        return {b"WEBP": "webp", b"AVI ": "video"}.get(head[8:12], "")
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in (b"avif", b"avis"):
            return "avif"
        return "heic" if brand[:2] in (b"he", b"mi", b"ms") else "video"
    return ""


def is_read(kind: str) -> bool:
    """Whether a format named by `content` is read."""
    return kind.upper() in FORMATS


def check_bytes(size: int) -> None:
    """Raise UnusableError for a file that is too large to be read into memory."""
    if size > MAX_BYTES:
        raise UnusableError(f"too large: {size:,} bytes, the limit is {MAX_BYTES:,}")


def open_picture(data: bytes) -> Image.Image:
    """The picture's header, read by Pillow but not decoded. Raises UnusableError with the reason.

    The format is that of the bytes, not of the name.
    """
    check_bytes(len(data))
    kind = content(data[:32])
    if not is_read(kind):
        raise UnusableError(_not_read(kind, data))
    if kind == "png":
        _check_chunks(data)
    if kind == "jpeg":
        check_scans(data)
    with as_unusable():
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    bits = getattr(image, "tag_v2", {}).get(BITS, (8,)) if kind == "tiff" else (8,)
    if image.mode not in (*MODES, *HIGH_BYTE) or 12 in bits:
        raise UnusableError(f"mode {image.mode}: 8 or 16 bits a channel are needed; {CONVERT}")
    if "transparency" in image.info and _has_16_bits(image) and image.mode == "RGB":
        raise UnusableError(f"a transparent colour of 16 bits a channel; {CONVERT} with 8 bits")
    return image


def check_scans(data: bytes) -> None:
    """Raise UnusableError for a JPEG of very many scans: each is decoded over all of its pixels."""
    if (scans := data.count(START_OF_SCAN)) > MAX_SCANS:
        raise UnusableError(f"{scans:,} scans, the limit is {MAX_SCANS}; {CONVERT}")


def check_pixels(width: int, height: int) -> None:
    """Raise UnusableError above `MAX_PIXELS`."""
    if width * height > MAX_PIXELS:
        raise UnusableError(
            f"too large: {width}x{height} px, the limit is {MAX_PIXELS:,} pixels; scale it down"
        )


def decode(image: Image.Image, upright: bool) -> Image.Image:
    """Decode a picture of `open_picture` to RGB. Raises UnusableError.

    `upright`: apply the orientation of its Exif or XMP data.
    """
    with as_unusable():
        inverted = getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO
        image.load()
        if upright:
            image = ImageOps.exif_transpose(image)
        return _to_rgb(image, inverted)


def check_file(path: Path) -> None:
    """Raise ValueError for what is no file or has the suffix of a format that is not read."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "not a plain file"
        raise ValueError(f"{path}: {what}; give a picture")
    if reason := reason_of(path):
        raise ValueError(f"{path}: {reason}")


def reason_of(path: Path) -> str:
    """Why files with this suffix are not read, and the fix; "" for others."""
    suffix = path.suffix.lower()
    if suffix in (*UNREAD, *VIDEOS):
        return _not_read("video" if suffix in VIDEOS else suffix[1:], b"")
    return ""


def read_picture(path: Path) -> Picture:
    """Read a file as an upright picture. Raises ValueError and OSError that name the file."""
    check_file(path)
    try:
        check_bytes(path.stat().st_size)
        header = open_picture(path.read_bytes())
        check_pixels(*header.size)
        notes = []
        if is_animated(header):
            notes.append("several pictures in one file: the first is used")
        image = decode(header, upright=True)
        if _is_transparent(header):
            notes.append("its transparency is composed on white")
        return Picture(image, tuple(notes))
    except UnusableError as error:
        raise ValueError(f"{path}: {error}") from error


def is_animated(image: Image.Image) -> bool:
    """Whether a file holds several pictures of equal rank: frames or pages."""
    if image.format == "MPO":  # a JPEG of a phone; the others are previews
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except BROKEN:  # of the second picture, which is not used
        return True


def _not_read(kind: str, data: bytes) -> str:
    if kind == "video":
        return f"a video; {FRAMES}"
    if kind:
        return f"{kind.upper()} is not read; {CONVERT}"
    if not data.strip():
        return "an empty file; fetch it again"
    return f"not a picture ({', '.join(FORMATS)}): starts with {data[:12]!r}"


def _check_chunks(data: bytes) -> None:
    """Refuse a PNG with so many chunks that reading them takes seconds."""
    position, count = 8, 0
    while position + 8 <= len(data):
        position += 12 + int.from_bytes(data[position : position + 4], "big")
        count += 1
        if count > MAX_CHUNKS:
            raise UnusableError(f"over {MAX_CHUNKS:,} chunks in a PNG; save it again")


def _has_16_bits(image: Image.Image) -> bool:
    """Whether Pillow keeps the high bytes of 16-bit colour channels."""
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", []))


def _is_transparent(image: Image.Image) -> bool:
    """Whether a decoded picture has a pixel that is not opaque."""
    if image.mode in HIGH_BYTE or not image.has_transparency_data:
        return "transparency" in image.info
    return bool((np.asarray(image.convert("RGBA"))[..., 3] < 255).any())


def _to_rgb(image: Image.Image, inverted: bool) -> Image.Image:
    """`image` as RGB; `inverted`: 16-bit grey of a TIFF where 0 is white."""
    if image.mode in HIGH_BYTE:
        values = np.asarray(image).astype(np.uint16)  # also from big-endian
        grey = (values >> 8).astype(np.uint8)
        grey = 255 - grey if inverted else grey
        if (key := image.info.get("transparency")) is not None:
            grey = np.where(values == key, np.uint8(255), grey)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, colours).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


@contextmanager
def as_unusable() -> Iterator[None]:
    """Convert Pillow's exceptions on broken or huge data to UnusableError."""
    try:
        yield
    except UnusableError:
        raise
    except UnidentifiedImageError as error:  # its text is an address in memory
        raise UnusableError("does not decode: a damaged header; fetch it again") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnusableError(
            f"too large: the limit is {MAX_PIXELS:,} pixels; scale it down ({error})"
        ) from error
    except BROKEN as error:
        raise UnusableError(
            f"does not decode: {str(error) or type(error).__name__}; fetch it again"
        ) from error

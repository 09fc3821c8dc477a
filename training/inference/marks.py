"""Marks of pictures and videos that a model made: machine-readable metadata, and text to see.

The metadata is an XMP packet with IPTC's DigitalSourceType and the version that made the picture.
Sources: IPTC Photo Metadata Standard 2025.1; XMP specification, part 3 (where a file holds it).
"""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin, TiffImagePlugin

from training.core.references import split_version
from training.rendering.fonts import font_for, standard

PROJECT, RELEASE = "stargan-family", "0.2.0"
TERMS = "http://cv.iptc.org/newscodes/digitalsourcetype/"
EDITED = "compositeWithTrainedAlgorithmicMedia"  # a photograph that a model edited
GENERATED = "trainedAlgorithmicMedia"  # the whole picture is a model's
# IPTC's terms for media that are synthetic or have synthetic parts.
SYNTHETIC = (EDITED, GENERATED, "algorithmicMedia", "compositeSynthetic")
# Formats that hold the packet, each with its own suffixes in Pillow.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "AVIF")
ITXT = "XML:com.adobe.xmp"  # the keyword of PNG's chunk
UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")  # XMP's box in MP4 and QuickTime files
TIFF_TAG = 700
SPACES = {
    "x": "adobe:ns:meta/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
}
LONGEST = 300  # characters of a version's name that are written
SMALLEST = 9  # px of the visible text's font: smaller letters cannot be read
# Only whole terms, none of which begins another: in CBOR and Matroska a letter may follow at once.
_STATED = re.compile(
    rb"cv\.iptc\.org/newscodes/digitalsourcetype/(" + "|".join(SYNTHETIC).encode() + rb")"
)
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xmp(version: str, *, generated: bool = False, sources: Sequence[str] = ()) -> bytes:
    """The XMP packet of a picture that the version `version` ("NAME/3") made, UTF-8.

    `generated`: the whole picture is the model's; else it is an edit of a photograph. `sources`:
    the terms that its input stated (`stated_sources`).
    """
    name = _NOT_XML.sub("?", version)[:LONGEST]
    split = split_version(name)
    facts = {
        "Iptc4xmpExt:DigitalSourceType": TERMS + (GENERATED if generated else EDITED),
        "Iptc4xmpExt:AISystemUsed": f"{split.name if split else name} ({PROJECT})",
        "Iptc4xmpExt:AISystemVersionUsed": (split.number if split else "") or name,
        "xmp:CreatorTool": f"{PROJECT} {RELEASE}, model {name}",
        "photoshop:Credit": f"{PROJECT}, model {name}",
    }
    for prefix, space in SPACES.items():
        ElementTree.register_namespace(prefix, space)
    root = ElementTree.Element(_tag("x:xmpmeta"))
    rdf = ElementTree.SubElement(root, _tag("rdf:RDF"))
    about = ElementTree.SubElement(rdf, _tag("rdf:Description"), {_tag("rdf:about"): ""})
    for key, value in facts.items():
        ElementTree.SubElement(about, _tag(key)).text = value
    texts = ElementTree.SubElement(
        ElementTree.SubElement(about, _tag("dc:description")), _tag("rdf:Alt")
    )
    language = {"{http://www.w3.org/XML/1998/namespace}lang": "x-default"}
    ElementTree.SubElement(texts, _tag("rdf:li"), language).text = said(
        name, generated=generated, sources=sources
    )
    body = ElementTree.tostring(root, encoding="unicode")
    head = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    return f'{head}\n{body}\n<?xpacket end="r"?>'.encode()


def _tag(name: str) -> str:
    prefix, _, local = name.partition(":")
    return f"{{{SPACES[prefix]}}}{local}"


def said(version: str, *, generated: bool = False, sources: Sequence[str] = ()) -> str:
    """The mark as a sentence, for people and for files without XMP."""
    verb = "Generated" if generated else "Edited"
    more = f" The input was already marked as {', '.join(sources)}." if sources else ""
    return f"{verb} with AI: model {version}, {PROJECT} {RELEASE}.{more}"


def stated_sources(file: BinaryIO) -> tuple[str, ...]:
    """The terms of `SYNTHETIC` that a file names, sorted: in XMP, tags or a C2PA manifest.

    All are plain text in every format; a compressed packet in a PNG is not seen.
    """
    found: set[str] = set()
    end = b""
    while chunk := file.read(2**20):
        found |= {name.decode() for name in _STATED.findall(end + chunk)}
        end = chunk[-128:]  # a name may be cut by the end of a chunk
    return tuple(sorted(found))


def format_of(path: Path) -> str:
    """Pillow's name of a picture format that holds the mark, by `path`'s suffix.

    Raises ValueError for an unknown suffix and for formats that are not written or hold no XMP.
    """
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path}: unknown image format; use a suffix such as .png")
    try:
        Image.new("RGB", (16, 16)).save(io.BytesIO(), kind)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(
            f"{path}: a {kind} file cannot be written; use a suffix such as .png"
        ) from error
    if kind not in FORMATS:
        raise ValueError(
            f"{path}: a {kind} file cannot hold the mark that a model made it; use .png, .jpg, "
            ".webp, .tif or .avif"
        )
    return kind


def marked(
    picture: np.ndarray | Image.Image, version: str, kind: str = "PNG", *,
    generated: bool = False, sources: Sequence[str] = (),
) -> bytes:  # fmt: skip
    """A picture's file with the mark as its only metadata; Pillow's default settings.

    picture: uint8 (H, W, 3) or a Pillow image, whose own metadata is dropped. kind: one of
    `FORMATS`. The other arguments are those of `xmp`. Raises ValueError for another kind.
    """
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture.copy()
    for name in ("xmp", "exif", "comment", "icc_profile"):  # Pillow would write them again
        image.info.pop(name, None)
    packet = xmp(version, generated=generated, sources=sources)
    more: dict[str, Any] = {"xmp": packet}
    if kind == "PNG":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt(ITXT, packet.decode())
        more = {"pnginfo": chunks}
    elif kind == "TIFF":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags.tagtype[TIFF_TAG] = 1  # bytes
        tags[TIFF_TAG] = packet
        more = {"tiffinfo": tags}
    elif kind not in FORMATS:
        raise ValueError(f"{kind}: cannot hold the mark; use one of {', '.join(FORMATS)}")
    out = io.BytesIO()
    image.save(out, kind, **more)
    return out.getvalue()


def uuid_box(packet: bytes) -> bytes:
    """An XMP packet as the top-level box that is appended to an MP4 or QuickTime file."""
    return (8 + len(UUID) + len(packet)).to_bytes(4, "big") + b"uuid" + UUID + packet


def label(version: str, width: int, height: int) -> Image.Image:
    """The visible mark, RGBA, for frames of `width` x `height` px: white on a dark box.

    It says "AI-edited · VERSION", in two lines on narrow frames, with letters of a 24th of the
    shorter side, at least `SMALLEST` px, and fits within the frame; a long version is cut.
    """
    shown = version if font_for(version, SMALLEST) else version.encode("ascii", "replace").decode()
    size = max(SMALLEST, min(width, height) // 24)
    space = width - 2 * size
    while size > SMALLEST and _wide(f"AI-edited · {shown}", size, shown) > space:
        size -= 1
    lines = [f"AI-edited · {shown}"]
    if _wide(lines[0], size, shown) > space:
        lines = ["AI-edited", shown]
        while len(lines[1]) > 1 and _wide(lines[1], size, shown) > space:
            lines[1] = f"{lines[1].rstrip('…')[:-1]}…"
    font, pad = _font(shown, size), max(2, size // 3)
    box = Image.new(
        "RGBA",
        (int(max(font.getlength(line) for line in lines)) + 2 * pad + 1,
         int(1.3 * size) * len(lines) + pad),
        (0, 0, 0, 170),
    )  # fmt: skip
    pen = ImageDraw.Draw(box)
    for number, line in enumerate(lines):
        middle = pad // 2 + int(1.3 * size * (number + 0.5))
        pen.text((pad, middle), line, "white", font, anchor="lm")
    return box


def _font(text: str, size: int) -> ImageFont.FreeTypeFont:
    return font_for(f"AI-edited · {text}", size) or standard(size)


def _wide(line: str, size: int, text: str) -> float:
    return _font(text, size).getlength(line)


def burn(pixels: np.ndarray, mark: Image.Image) -> np.ndarray:
    """A copy of uint8 (H, W, 3) with `mark` in the lower left corner."""
    image = Image.fromarray(pixels)
    gap = max(2, min(image.size) // 60)
    image.paste(mark, (gap, max(0, image.height - mark.height - gap)), mark)
    return np.asarray(image)

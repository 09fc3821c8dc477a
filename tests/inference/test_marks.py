"""The marks of results, as other programs read them."""

import io
import json
import shutil
import struct
import subprocess
import tomllib
import zlib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from training.inference import marks
from training.inference.marks import label, marked, stated_sources, xmp

SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "TIFF": ".tif", "AVIF": ".avif"}
PIXELS = np.random.RandomState(0).randint(0, 256, (40, 56, 3), np.uint8)
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
EXT = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
EDITED = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def about(packet: bytes) -> dict[str, str]:
    """The properties of a packet, by a parser of XML."""
    root = ElementTree.fromstring(packet)
    described = root.find(f"{RDF}RDF/{RDF}Description")
    assert described is not None
    return {one.tag: "".join(one.itertext()) for one in described}


def png_packet(data: bytes) -> bytes:
    """The text of the chunk iTXt, read as the PNG specification says."""
    position = 8
    while position < len(data):
        (length,), kind = (
            struct.unpack(">I", data[position : position + 4]),
            data[position + 4 :][:4],
        )
        body = data[position + 8 : position + 8 + length]
        assert zlib.crc32(kind + body) == int.from_bytes(data[position + 8 + length :][:4], "big")
        if kind == b"iTXt" and body.startswith(b"XML:com.adobe.xmp\0"):
            assert body[18:22] == b"\0\0\0\0"  # not compressed, no language, no translation
            return body[22:]
        position += 12 + length
    raise AssertionError("no XMP")


def jpeg_packet(data: bytes) -> bytes:
    """The body of the segment APP1 with Adobe's name."""
    position = 2
    while data[position + 1] != 0xDA:
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        body = data[position + 4 : position + 2 + length]
        if data[position + 1] == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            return body[29:]
        position += 2 + length
    raise AssertionError("no XMP")


def webp_packet(data: bytes) -> bytes:
    """The chunk "XMP "."""
    position = 12
    while position < len(data):
        kind, length = (
            data[position : position + 4],
            int.from_bytes(data[position + 4 :][:4], "little"),
        )
        if kind == b"XMP ":
            return data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2
    raise AssertionError("no XMP")


@pytest.mark.parametrize(
    ("kind", "read"), [("PNG", png_packet), ("JPEG", jpeg_packet), ("WEBP", webp_packet)]
)
def test_the_packet_is_where_each_formats_specification_puts_it(kind: str, read: object) -> None:
    facts = about(read(marked(PIXELS, "stargan/3", kind)))  # type: ignore[operator]
    assert facts[f"{EXT}DigitalSourceType"] == EDITED
    assert facts["{http://ns.adobe.com/xap/1.0/}CreatorTool"] == (
        f"{marks.PROJECT} {marks.RELEASE}, model stargan/3"
    )


@pytest.mark.skipif(not shutil.which("exiftool"), reason="apt-get install libimage-exiftool-perl")
@pytest.mark.parametrize("kind", marks.FORMATS)
def test_exiftool_reads_the_mark(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"picture{SUFFIXES[kind]}"
    path.write_bytes(marked(PIXELS, "stargan/3", kind, sources=("trainedAlgorithmicMedia",)))
    asked = ["exiftool", "-j", "-G1", "-XMP:all", "-validate", "-warning", "-error", str(path)]
    [found] = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
    assert found["XMP-iptcExt:DigitalSourceType"] == EDITED
    assert found["XMP-iptcExt:AISystemUsed"] == "stargan (stargan-family)"
    assert str(found["XMP-iptcExt:AISystemVersionUsed"]) == "3"
    assert found["XMP-photoshop:Credit"] == "stargan-family, model stargan/3"
    assert found["XMP-dc:Description"].endswith("already marked as trainedAlgorithmicMedia.")
    assert "ExifTool:Error" not in found
    assert "XMP" not in found.get("ExifTool:Warning", "")  # TIFF: Pillow writes no resolution


@pytest.mark.parametrize("kind", marks.FORMATS)
def test_pillow_reads_the_mark_and_the_pixels_are_those_without_it(kind: str) -> None:
    plain = io.BytesIO()
    Image.fromarray(PIXELS).save(plain, kind)
    with Image.open(io.BytesIO(marked(PIXELS, "m/1", kind, generated=True))) as picture:
        found = picture.getxmp()["xmpmeta"]["RDF"]["Description"]
        assert np.array_equal(np.asarray(picture), np.asarray(Image.open(plain)))
    assert found["DigitalSourceType"] == GENERATED


@given(st.text(max_size=400), st.booleans())
def test_any_name_of_a_version_gives_valid_xml(version: str, generated: bool) -> None:
    facts = about(xmp(version, generated=generated))
    assert facts[f"{EXT}DigitalSourceType"] == (GENERATED if generated else EDITED)
    with Image.open(io.BytesIO(marked(PIXELS, version, "JPEG"))) as picture:
        assert picture.getxmp()


def test_no_metadata_of_the_input_is_written(tmp_path: Path) -> None:
    """Places and names of a photograph's owner would be published with its edit."""
    exif = Image.Exif()
    exif[0x010E] = "at home"
    exif[0x8825] = {1: "N", 2: (52.0, 31.0, 12.0)}
    image = Image.fromarray(PIXELS)
    image.save(tmp_path / "photo.jpg", exif=exif, xmp=b"<x>secret</x>", comment=b"secret",
               icc_profile=b"secret profile")  # fmt: skip
    with Image.open(tmp_path / "photo.jpg") as photo:
        photo.load()
        assert photo.getexif().get_ifd(0x8825)
        for kind in marks.FORMATS:
            made = marked(photo, "m/1", kind)
            assert b"secret" not in made
            assert b"at home" not in made
            with Image.open(io.BytesIO(made)) as again:
                assert not dict(again.getexif()).keys() & {0x010E, 0x8825}
        assert photo.info["xmp"]  # the caller's picture is as it was


def test_what_an_input_says_of_itself_is_found_in_its_bytes() -> None:
    for kind in marks.FORMATS:
        data = marked(PIXELS, "m/1", kind, generated=True)
        assert stated_sources(io.BytesIO(data)) == ("trainedAlgorithmicMedia",), kind
    assert stated_sources(io.BytesIO(b"")) == ()
    term = GENERATED.encode() + b"<"
    for before in (0, 2**20 - 70, 2**20 - 10, 2**20):
        data = bytes(before) + term
        assert stated_sources(io.BytesIO(data)) == ("trainedAlgorithmicMedia",), before


def test_a_term_is_found_whatever_byte_follows_it() -> None:
    """A letter does in CBOR (the next key) and in Matroska (a tag's id); no term begins another."""
    for one in marks.SYNTHETIC:
        for after in (b"", b"kdescription", b"g\xc8", b"<", b"\0"):
            data = b"x" + marks.TERMS.encode() + one.encode() + after
            assert stated_sources(io.BytesIO(data)) == (one,), (one, after)
        assert not any(other.startswith(one) for other in marks.SYNTHETIC if other != one)
    photo = marks.TERMS.encode() + b"digitalCapture<"
    assert stated_sources(io.BytesIO(photo)) == ()


def test_the_release_is_that_of_the_package() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    assert (project["name"], project["version"]) == (marks.PROJECT, marks.RELEASE)


def test_a_kind_without_metadata_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^BMP: cannot hold the mark; use one of PNG, JPEG"):
        marked(PIXELS, "m/1", "BMP")


@pytest.mark.parametrize(
    "size", [(48, 48), (64, 64), (128, 96), (90, 160), (640, 360), (1920, 1080)]
)
@pytest.mark.parametrize("version", ["stargan/3", "a-rather-long-name-of-a-model/12345", "人/1"])
def test_the_visible_mark_lies_within_the_frame_and_can_be_read(
    size: tuple[int, int], version: str
) -> None:
    """Letters of a 24th of the shorter side, at least 9 px; white on dark by 4.5 to 1 and more."""
    width, height = size
    mark = label(version, width, height)
    frame = np.full((height, width, 3), 255, np.uint8)  # the worst: white text on a white picture
    changed = (marks.burn(frame, mark) != frame).any(2)
    assert mark.width < width
    assert mark.height < height
    assert changed[height // 2 :].any()
    assert mark.height >= max(9, min(size) // 24)
    dark = marks.burn(frame, mark)[changed].min() / 255
    light = ((dark + 0.055) / 1.055) ** 2.4
    assert 1.05 / (light + 0.05) >= 4.5
    assert frame.min() == 255

"""Labelled grids of images as PNG, static or animated."""

import io
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from training.rendering.fonts import font_for, numbered, standard

GAP = 4  # px between images
INK = (29, 35, 48)
FRAME, HELD = 120, 900  # ms per frame of an animation; the first and last are held longer


def _fit(text: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """Wrap `text` to `width` px at spaces and underscores, and after : = and commas.

    Longer words are truncated.
    """
    lines: list[str] = []
    for word in text.replace("_", " ").split():
        gap = " "
        for part in re.findall(r"[^:=,]*[:=,]+|[^:=,]+", word):
            joined = f"{lines[-1]}{gap}{part}" if lines else part
            if lines and font.getlength(joined) <= width:
                lines[-1] = joined
            else:
                lines.append(part)
            gap = ""
    for i, line in enumerate(lines):
        while font.getlength(lines[i]) > width and len(line) > 1:
            line = line[:-1]
            lines[i] = f"{line}…"
    return lines


class _Title(NamedTuple):
    lines: list[str]
    font: ImageFont.FreeTypeFont


def _title(text: str, width: int, size: int) -> _Title:
    font = font_for(text, size) or standard(size)
    return _Title(_fit(text, width, font), font)


def grid(
    rows: Sequence[Sequence[np.ndarray]],
    col_titles: Sequence[str] = (),
    row_titles: Sequence[str] = (),
    cell: int = 0,
) -> bytes:
    """PNG of uint8 (H, W, 3) images in rows, with titles above the columns and left of the rows.

    Smaller images are enlarged by an integer factor to at least `cell` px (default 96) a side, so
    that they stay crisp. Rows may differ in length. Titles that no font here can draw are numbers;
    `fonts.legend` of the same titles says which. Raises ValueError if there is no image, or one is
    not uint8 RGB.
    """
    out = io.BytesIO()
    _sheet(rows, col_titles, row_titles, cell).save(out, "PNG", optimize=True)
    return out.getvalue()


def animated(
    frames: Sequence[Sequence[Sequence[np.ndarray]]],
    col_titles: Sequence[str] = (),
    row_titles: Sequence[str] = (),
    cell: int = 0,
) -> bytes:
    """Endlessly looping APNG whose frames are grids as in `grid`; the first and last are held."""
    first, *rest = (_sheet(rows, col_titles, row_titles, cell) for rows in frames)
    times = [FRAME] * (len(rest) + 1)
    times[0] = times[-1] = HELD
    out = io.BytesIO()
    first.save(out, "PNG", save_all=True, append_images=rest, duration=times, loop=0)
    return out.getvalue()


def _sheet(
    rows: Sequence[Sequence[np.ndarray]],
    col_titles: Sequence[str],
    row_titles: Sequence[str],
    cell: int,
) -> Image.Image:
    images = [image for row in rows for image in row]
    if not images:
        raise ValueError("a grid needs at least one image")
    for image in images:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"image of {image.dtype} {image.shape}; expected uint8 (H, W, 3)")
    height, width = images[0].shape[:2]
    scale = max(1, -(-(cell or 96) // width))
    height, width = height * scale, width * scale
    size = max(11, min(18, width // 8))
    line = int(size * 1.25)
    keys = numbered(col_titles, row_titles)[0]
    tops = [_title(keys.get(t, t), width, size) for t in col_titles]
    sides = [_title(keys.get(t, t), 150, size) for t in row_titles]
    top = GAP + line * max((len(t.lines) for t in tops), default=0) + (GAP if tops else 0)
    side = (
        GAP
        + int(max((t.font.getlength(s) for t in sides for s in t.lines), default=0))
        + (2 * GAP if sides else 0)
    )
    columns = max(len(row) for row in rows)
    sheet = Image.new(
        "RGB", (side + columns * (width + GAP), top + len(rows) * (height + GAP)), "white"
    )
    pen = ImageDraw.Draw(sheet)
    for i, title in enumerate(tops):
        centre = side + i * (width + GAP) + width // 2
        for j, text in enumerate(reversed(title.lines)):
            pen.text((centre, top - GAP - j * line), text, INK, title.font, anchor="ms")
    for i, row in enumerate(rows):
        y = top + i * (height + GAP)
        for j, text in enumerate(sides[i].lines if i < len(sides) else []):
            middle = y + height // 2 + int((j - (len(sides[i].lines) - 1) / 2) * line)
            pen.text((side - 2 * GAP, middle), text, INK, sides[i].font, anchor="rm")
        for j, image in enumerate(row):
            picture = Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(picture, (side + j * (width + GAP), y))
    return sheet

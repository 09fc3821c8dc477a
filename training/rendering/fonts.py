"""A font for each title: Pillow's own, else an installed one that has every character of it."""

import logging
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import cast

from PIL import ImageFont, features

# Fonts whose characters are symbols, other letters or boxes under the code of a letter.
WITHOUT_LETTERS = ("Last Resort", "cm", "STIX")
LACKING = "\U0010ffff"  # a code without a character: fonts draw their box for it
RIGHT_TO_LEFT = ("R", "AL")
log = logging.getLogger(__name__)


def standard(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font."""
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont | None:
    """A font that has every character of `text`, the standard one if it does; None without any."""
    letters = frozenset(c for c in text if not c.isspace())
    if not features.check("raqm") and any(
        unicodedata.bidirectional(c) in RIGHT_TO_LEFT for c in letters
    ):
        return None  # would be drawn from left to right, and unjoined
    if letters <= _drawn(letters):
        return standard(size)
    path = _installed(letters)
    return ImageFont.truetype(path, size) if path else None


def path_of(text: str) -> str:
    """An installed font for `text`; "" if the standard one or none has its characters."""
    letters = frozenset(c for c in text if not c.isspace())
    return "" if letters <= _drawn(letters) or font_for(text, 11) is None else _installed(letters)


def numbered(*titles: Iterable[str]) -> tuple[dict[str, str], str]:
    """Numbers `[1]`, … for the titles that no font here can draw, and what they stand for as text.

    ({}, "") if every title can be drawn. Otherwise it is also logged, once for each such text.
    """
    every = dict.fromkeys(title for group in titles for title in group)
    keys = {
        title: f"[{number}]"
        for number, title in enumerate((t for t in every if font_for(t, 11) is None), 1)
    }
    text = ", ".join(f"{key} {title}" for title, key in keys.items())
    if text:
        _log(text)
    return keys, text


def legend(*titles: Iterable[str]) -> str:
    """The end of a caption: what the numbers of a grid with these titles stand for, or ""."""
    text = numbered(*titles)[1]
    return f" No font here has the titles {text}." if text else ""


@lru_cache(maxsize=64)
def _log(text: str) -> None:
    log.warning("no font here has the titles %s; install one, such as Noto Sans, to see them", text)


@lru_cache(maxsize=1024)
def _in_standard(letter: str) -> bool:
    font = standard(20)
    return bytes(font.getmask(letter)) != bytes(font.getmask(LACKING))


def _drawn(letters: Iterable[str]) -> frozenset[str]:
    return frozenset(letter for letter in letters if _in_standard(letter))


@lru_cache(maxsize=256)
def _installed(letters: frozenset[str]) -> str:
    """The path of the first installed font with all `letters`, "" without any."""
    codes = {ord(letter) for letter in letters}
    return next((path for path in _paths() if codes <= _codes(path)), "")


@lru_cache(maxsize=1)
def _paths() -> tuple[str, ...]:
    """Installed fonts and matplotlib's, upright sans-serif ones of normal weight first."""
    from matplotlib.font_manager import fontManager  # takes a moment; rarely needed

    fonts = [f for f in fontManager.ttflist if not f.name.startswith(WITHOUT_LETTERS)]
    fonts.sort(
        key=lambda f: ("Sans" not in f.name, f.style != "normal", f.weight != 400, f.name, f.fname)
    )
    return tuple(dict.fromkeys(f.fname for f in fonts))


@lru_cache(maxsize=256)
def _codes(path: str) -> frozenset[int]:
    """The characters that a font has; none if it cannot be drawn at any size."""
    from matplotlib.ft2font import FT2Font

    try:
        ImageFont.truetype(path, 11)
        return frozenset(FT2Font(Path(path)).get_charmap())
    except (OSError, RuntimeError):  # colours only, or removed since
        return frozenset()

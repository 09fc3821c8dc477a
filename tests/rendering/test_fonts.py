"""Titles of picture grids in any script are drawn with a font that has them, or numbered."""

import io
import logging
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from training.rendering import fonts
from training.rendering.charts import Bar, bars
from training.rendering.fonts import font_for, legend, numbered, standard
from training.rendering.grids import grid

CELL = np.full((96, 96, 3), 200, np.uint8)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Without what earlier tests have looked up."""
    for cached in (fonts._paths, fonts._installed, fonts._log):
        cached.cache_clear()
    yield
    fonts._paths.cache_clear()
    fonts._installed.cache_clear()


@pytest.fixture
def none_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_paths", lambda: ())
    monkeypatch.setattr(fonts, "_installed", lambda letters: "")


def drawn(text: str, font: ImageFont.FreeTypeFont) -> bytes:
    picture = Image.new("L", (300, 40))
    ImageDraw.Draw(picture).text((5, 5), text, 255, font)
    return picture.tobytes()


@pytest.mark.parametrize("text", ["Blond_Hair", "50% grey (new)", "not Young"])
def test_latin_titles_keep_pillows_font(text: str) -> None:
    font = font_for(text, 14)
    assert font is not None
    assert drawn(text, font) == drawn(text, standard(14))


@pytest.mark.parametrize("text", ["Радость", "Χαρά", "Ελένη & Жанна", "café & co"])
def test_other_letters_are_drawn_with_matplotlibs_font(text: str) -> None:
    """DejaVu is part of matplotlib; no letter is the font's box."""
    font = font_for(text, 14)
    assert font is not None
    for letter in text.replace(" ", ""):
        assert drawn(letter, font) != drawn(fonts.LACKING, font)
    assert legend([text]) == ""


def test_a_script_without_a_font_is_numbered_in_picture_and_caption(
    none_installed: None, caplog: pytest.LogCaptureFixture
) -> None:
    titles = ["input", "开心", "悲伤", "开心"]
    with caplog.at_level(logging.WARNING):
        png = grid([[CELL] * 4], titles)
    assert png == grid([[CELL] * 4], ["input", "[1]", "[2]", "[1]"])
    assert legend(titles) == " No font here has the titles [1] 开心, [2] 悲伤."
    assert legend(["input"]) == ""
    [record] = caplog.records
    assert "[1] 开心, [2] 悲伤; install one" in record.getMessage()


def test_titles_of_rows_and_columns_share_their_numbers(none_installed: None) -> None:
    png = grid([[CELL], [CELL]], ["悲伤"], ["开心", "悲伤"])
    assert png == grid([[CELL], [CELL]], ["[1]"], ["[2]", "[1]"])
    assert numbered(["悲伤"], ["开心", "悲伤"]) == (
        {"悲伤": "[1]", "开心": "[2]"},
        "[1] 悲伤, [2] 开心",
    )


def test_a_placeholder_font_is_not_used() -> None:
    """matplotlib's Last Resort has a box for every character, its cm fonts other symbols."""
    names = [path.rpartition("/")[2].lower() for path in fonts._paths()]
    assert any(name.startswith("dejavusans") for name in names)
    assert not [name for name in names if name.startswith(("lastresort", "cm", "stix"))]


def test_arabic_needs_a_layout_that_joins_and_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    assert font_for("سعيد", 14) is not None
    monkeypatch.setattr(fonts.features, "check", lambda name: False)
    assert font_for("سعيد", 14) is None


@settings(deadline=None, max_examples=150)
@given(st.text(st.characters(codec="utf-8"), max_size=12))
def test_any_title_gives_a_picture(title: str) -> None:
    """A drawn title or a number, never an error and never the box of a missing character."""
    with Image.open(io.BytesIO(grid([[CELL]], [title], [title]))) as picture:
        assert picture.width > 96
    font = font_for(title, 14)
    if font is not None and not any(c in fonts.LACKING for c in title):
        for letter in {c for c in title if c.isprintable() and not c.isspace()}:
            assert drawn(letter, font) != drawn(fonts.LACKING, font)


@pytest.mark.parametrize("name", ["faces  开心", "faces  café", "faces  Радость"])
def test_a_chart_draws_no_box_for_a_letter(name: str) -> None:
    """matplotlib warns of a letter that its font lacks."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bars([Bar(name, 0.5, 0.4, 0.6, 0.2, 0.9)]).startswith(b"\x89PNG")

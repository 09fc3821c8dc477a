"""Titles of grids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.rendering.fonts import standard
from training.rendering.grids import _fit

FONT = standard(18)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("stargan:upsampling=transposed", ["stargan:", "upsampling=", "transposed"]),
        ("stargan:gp_patches=sum", ["stargan:gp", "patches=sum"]),
        ("stargan", ["stargan"]),
    ],
)
def test_a_setting_is_broken_after_its_signs_not_cut(text: str, lines: list[str]) -> None:
    assert _fit(text, 150, FONT) == lines


@given(st.text("ab:=,_ ", max_size=40))
def test_lines_fit_and_keep_every_letter(text: str) -> None:
    """Words of at most 40 narrow letters in 700 px: none is cut."""
    lines = _fit(text, 700, FONT)
    assert all(FONT.getlength(line) <= 700 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace("_", " ").replace(" ", "")

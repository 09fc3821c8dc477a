"""Reports are one escaped file that fetches nothing."""

from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from training.rendering.grids import grid
from training.rendering.html import heading, note, page, paragraph, picture, table

EVIL = "<script>alert('x')</script>\" onload=\"a.png & <b>"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, Any]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parse(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    return tags


def test_text_from_outside_is_escaped_everywhere() -> None:
    png = grid([[np.zeros((8, 8, 3), np.uint8)]], ["a"], ["b"])
    parts = [
        table([EVIL], [[EVIL]], EVIL),
        picture(png, EVIL),
        note(EVIL, "bad"),
        heading(EVIL),
        paragraph(EVIL),
        EVIL,
    ]
    seen = parse(page(EVIL, parts, EVIL))
    assert "script" not in seen.tags
    assert "b" not in seen.tags
    assert "onload" not in dict(seen.attributes)
    assert "".join(seen.text).count(EVIL) == 11  # title twice, subtitle, table, caption, four


def test_page_fetches_nothing() -> None:
    png = grid([[np.zeros((8, 8, 3), np.uint8)]], ["a"], ["b"])
    html = page("t", [picture(png, "c")])
    seen = parse(html)
    links = [v for k, v in seen.attributes if k in ("src", "href")]
    assert links
    assert all(v.startswith("data:") for v in links)
    assert not {"script", "link", "iframe"} & set(seen.tags)
    assert "url(" not in html
    assert "@import" not in html


def test_numbers_stand_right_and_words_left() -> None:
    rows = [["a", 1234567, 0.98765, "3.1 – 9 %", 1], ["b", 3, 2.0, "–", "c"]]
    html = table(["name", "n", "share", "span", "mixed"], rows)
    assert '<td class="number">1,234,567</td><td class="number">0.9877</td>' in html
    assert '<th>name</th><th class="number">n</th>' in html
    assert '<td class="number">–</td><td>c</td>' in html
    assert "<td>yes</td>" in table(["x"], [[True]])


def test_table_with_empty_headers_has_no_head() -> None:
    assert "<thead>" not in table(["", ""], [["a", 1]])


def test_table_without_rows_says_none() -> None:
    assert ">none<" in table(["a", "b"], [])


def test_ragged_table_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1 has not 2 cells"):
        table(["a", "b"], [[1, 2], [3]])


def test_unknown_note_level_is_refused() -> None:
    with pytest.raises(ValueError, match="note level"):
        note("x", "loud")  # type: ignore[arg-type]

"""Pages are self-contained and escaped."""

from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from jinja2 import DictLoader, Environment, UndefinedError

from training.rendering import html
from training.rendering.grids import grid

EVIL = "<script>alert('x')</script>\" onload=\"a.png & <b>"
PAGE = """
{% extends "base.html.j2" %}
{% from "macros.html.j2" import empty, fact, note, number, picture, table %}
{% block title %}{{ text }}{% endblock %}
{% block subtitle %}{{ text }}{% endblock %}
{% block content %}
{% call table([text], text) %}<tr><td>{{ text }}</td>{{ number(text) }}</tr>{{ fact(text, text) }}
{% endcall %}
{{ picture(png, text) }}
{% call note("bad") %}{{ text }}{% endcall %}
{% endblock %}
"""


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


def parse(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    return tags


@pytest.fixture
def templates(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Test templates, in addition to those of the library."""
    more: dict[str, str] = {}
    ours = html.TEMPLATES
    loader = ours.loader
    assert loader is not None
    for name in ("base.html.j2", "macros.html.j2", "style.css.j2"):
        more[name] = loader.get_source(ours, name)[0]
    own: Environment = ours.overlay(loader=DictLoader(more))
    monkeypatch.setattr(html, "TEMPLATES", own)
    return more


def shown(templates: dict[str, str], body: str) -> str:
    """The page of one template whose content is `body`."""
    head, _, _ = PAGE.partition("{% block title")
    blocks = "{% block title %}t{% endblock %}{% block content %}" + body + "{% endblock %}"
    templates["own.html.j2"] = head + blocks
    return html.render("own").split('<div class="subtitle"></div>')[1]


@pytest.fixture
def evil(templates: dict[str, str]) -> str:
    templates["evil.html.j2"] = PAGE
    png = grid([[np.zeros((8, 8, 3), np.uint8)]], ["a"], ["b"])
    return html.render("evil", text=EVIL, png=png)


def test_all_values_are_escaped(evil: str) -> None:
    seen = parse(evil)
    assert "script" not in seen.tags
    assert "b" not in seen.tags
    assert "onload" not in dict(seen.attributes)
    # title twice, subtitle, head, caption, four cells, figure, note
    assert "".join(seen.text).count(EVIL) == 11


def test_page_loads_no_external_resources(evil: str) -> None:
    seen = parse(evil)
    links = [v for k, v in seen.attributes if k in ("src", "href")]
    assert links
    assert all(v.startswith("data:") for v in links)
    assert not {"script", "link", "iframe"} & set(seen.tags)
    assert "url(" not in evil
    assert "@import" not in evil


def test_missing_template_variable_is_an_error(templates: dict[str, str]) -> None:
    with pytest.raises(UndefinedError, match="forgotten"):
        shown(templates, "{{ forgotten }}")


def test_number_columns_are_right_aligned(templates: dict[str, str]) -> None:
    body = '{% call table(["name", ">n"]) %}<tr><td>a</td>{{ number(1234567) }}</tr>{% endcall %}'
    page = shown(templates, body)
    assert '<th>name</th><th class="number">n</th>' in page
    assert '<td>a</td><td class="number">1,234,567</td>' in page


def test_numbers_have_thousands_separators_and_four_digits() -> None:
    shown = [html.amount(v) for v in (1234567, 0.98765, 2.0, 12345.6, True, "3.1 – 9 %")]
    assert shown == ["1,234,567", "0.9877", "2", "12,346", "yes", "3.1 – 9 %"]


def test_table_without_columns_has_no_header(templates: dict[str, str]) -> None:
    page = shown(templates, '{% call table([]) %}{{ fact("a", 1) }}{% endcall %}')
    assert "<thead>" not in page
    assert "<tr><td>a</td><td>1</td></tr>" in page


def test_empty_table_shows_none(templates: dict[str, str]) -> None:
    page = shown(templates, '{% call table(["a", "b"]) %}{{ empty(2) }}{% endcall %}')
    assert '<td class="empty" colspan="2">none</td>' in page

"""Self-contained, escaped HTML reports: no script, nothing fetched, pictures as data URIs.

Every text passes through Jinja2's autoescape, so file names and labels can hold any character.
Plain `str` is escaped; only `Markup`, which the functions here return, is taken as HTML.
"""

import base64
from collections.abc import Sequence
from typing import Any, Literal

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

Level = Literal["info", "good", "warn", "bad"]

_CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f5f7; color: #1d2330;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 28px auto; padding: 30px 40px 44px; background: #fff;
  border: 1px solid #e1e4ea; border-radius: 10px; }
h1 { font-size: 27px; line-height: 1.25; margin: 0; letter-spacing: -.01em; }
.subtitle { color: #5b6475; margin: 5px 0 22px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 36px 0 10px; padding-top: 16px; border-top: 1px solid #e1e4ea; }
p { margin: 8px 0 12px; max-width: 82ch; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 12px 0 18px; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #5b6475; padding: 0 0 6px; caption-side: top; }
th, td { padding: 6px 14px 6px 10px; text-align: left; vertical-align: top;
  border-bottom: 1px solid #e8eaef; }
td { overflow-wrap: break-word; max-width: 70ch; }
th { background: #f4f5f7; font-weight: 600; border-bottom-color: #cfd4de; vertical-align: bottom; }
.number { text-align: right; }
td.number { white-space: pre; }
tbody tr:hover { background: #fafbfc; }
.empty { color: #5b6475; font-style: italic; }
.note { margin: 12px 0; padding: 10px 16px; border-left: 4px solid; border-radius: 4px;
  overflow-wrap: anywhere; white-space: pre-line; }
.info { background: #eef4fd; border-color: #3b74c4; }
.good { background: #eaf7ee; border-color: #2c8a4b; }
.warn { background: #fff6e3; border-color: #c98a11; }
.bad { background: #fdecec; border-color: #c23b3b; }
figure { margin: 14px 0 22px; }
figure img { display: block; max-width: 100%; height: auto; border: 1px solid #e1e4ea;
  border-radius: 6px; }
figcaption { color: #5b6475; font-size: 13.5px; margin-top: 6px; max-width: 100ch; }
@media (max-width: 700px) { main { margin: 0; padding: 18px; border: 0; border-radius: 0; } }
@media print { body { background: #fff; font-size: 11pt; }
  main { max-width: none; margin: 0; padding: 0; border: 0; }
  .note, th { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  h2 { break-after: avoid; } tr, figure, .note { break-inside: avoid; }
  .scroll { overflow: visible; } }
"""

_JINJA = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
_PAGE = _JINJA.from_string("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ css }}</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
<div class="subtitle">{{ subtitle }}</div>
{% for part in parts %}
{{ part }}
{% endfor %}
</main>
</body>
</html>
""")
_TABLE = _JINJA.from_string("""<div class="scroll"><table>
{% if caption %}
<caption>{{ caption }}</caption>
{% endif %}
{% if headers | join %}
<thead><tr>
{%- for text in headers %}<th{{ right[loop.index0] }}>{{ text }}</th>{% endfor %}</tr></thead>
{% endif %}
<tbody>
{% for row in rows %}
<tr>
{%- for text in row %}<td{{ right[loop.index0] }}>{{ text }}</td>{% endfor %}</tr>
{% else %}
<tr><td class="empty" colspan="{{ headers | length }}">none</td></tr>
{% endfor %}
</tbody>
</table></div>""")
_PICTURE = _JINJA.from_string("""<figure>
<img src="data:image/png;base64,{{ data }}" alt="{{ caption }}">
{% if caption %}
<figcaption>{{ caption }}</figcaption>
{% endif %}
</figure>""")


def page(title: str, parts: Sequence[Markup | str], subtitle: str = "") -> str:
    """One whole HTML document; a part that is plain text is escaped."""
    return _PAGE.render(title=title, subtitle=subtitle, parts=parts, css=Markup(_CSS))  # noqa: S704


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return value


def _numeric(value: Any) -> bool:
    """Whether a cell is a number, alone or as text with a unit, an interval or nothing."""
    if isinstance(value, str):
        return not value.replace("dB", "").strip("0123456789.,%–-+±[] ×\n")
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> Markup:
    """A table; columns of numbers are set to the right. With empty headers it has no head.

    A row whose length is not that of `headers` raises ValueError.
    """
    wrong = [i for i, row in enumerate(rows) if len(row) != len(headers)]
    if wrong:
        raise ValueError(
            f"table row {wrong[0]} has not {len(headers)} cells; {len(wrong)} such rows"
        )
    columns = list(zip(*rows, strict=True)) or [()] * len(headers)
    right = [
        Markup(' class="number"') if any(column) and all(map(_numeric, column)) else ""
        for column in columns
    ]
    cells = [[_text(value) for value in row] for row in rows]
    html = _TABLE.render(headers=headers, rows=cells, caption=caption, right=right)
    return Markup(html)  # noqa: S704


def picture(png: bytes, caption: str = "") -> Markup:
    """A PNG, held in the page itself."""
    data = base64.b64encode(png).decode("ascii")
    return Markup(_PICTURE.render(data=data, caption=caption))  # noqa: S704


def note(text: str, level: Level = "info") -> Markup:
    """A coloured box: neutral, passed, look here, failed. Line breaks are kept."""
    if level not in ("info", "good", "warn", "bad"):
        raise ValueError(f"note level {level!r}; one of info, good, warn, bad is needed")
    return Markup('<div class="note {}">{}</div>').format(level, text)


def heading(text: str) -> Markup:
    return Markup("<h2>{}</h2>").format(text)


def paragraph(text: str) -> Markup:
    return Markup("<p>{}</p>").format(text)

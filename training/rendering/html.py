"""Self-contained, escaped HTML pages from the templates: no external resources, and no scripts but
those of the ballot and of the pages of the server and of an exported model.

Jinja2 escapes every value, so file names and labels may contain any character; a missing template
variable raises UndefinedError.
"""

import base64
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def amount(value: Any) -> Any:
    """Format a number: thousands separators, four significant digits; other values unchanged."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return value


def percent(share: float) -> str:
    """A share in 0..1 as a percentage with its sign."""
    return f"{100 * share:.1f} %"


def hundredths(share: float) -> str:
    """A share in 0..1 as a percentage without its sign."""
    return f"{100 * share:.1f}"


def span(low: float, high: float) -> str:
    """An interval of shares in 0..1, in percent."""
    return f"{100 * low:.1f} – {100 * high:.1f} %"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


TEMPLATES = Environment(
    loader=PackageLoader("training.rendering"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters |= {
    "amount": amount, "percent": percent, "hundredths": hundredths, "base64": _base64,
}  # fmt: skip
TEMPLATES.globals["span"] = span


def text(template: str) -> str:
    """A template without variables, such as a page's script."""
    return TEMPLATES.get_template(template).render()


def render(template: str, **context: Any) -> str:
    """Render `templates/<template>.html.j2` as a complete HTML document."""
    return TEMPLATES.get_template(f"{template}.html.j2").render(context)

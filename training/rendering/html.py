"""Self-contained, escaped HTML pages from the templates beside: no script, nothing fetched.

Every value passes through Jinja2's autoescape, so file names and labels can hold any character; a
name that a template uses and nobody gives raises UndefinedError.
"""

import base64
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def amount(value: Any) -> Any:
    """A number as a reader wants it: thousands apart, four digits of a fraction; else as it is."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return value


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def hundredths(share: float) -> str:
    return f"{100 * share:.1f}"


def span(low: float, high: float) -> str:
    """An interval of shares."""
    return f"{100 * low:.1f} – {100 * high:.1f} %"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


_TEMPLATES = Environment(
    loader=PackageLoader("training.rendering"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {
    "amount": amount, "percent": percent, "hundredths": hundredths, "base64": _base64,
}  # fmt: skip
_TEMPLATES.globals["span"] = span


def render(template: str, **context: Any) -> str:
    """The page of `templates/<template>.html.j2`, one whole HTML document."""
    return _TEMPLATES.get_template(f"{template}.html.j2").render(context)

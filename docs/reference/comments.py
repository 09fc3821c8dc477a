"""Adds the comments on fields to the API reference, beside the docstrings."""

import re
from typing import Any

from griffe import Attribute, Class, Docstring, Extension, Object

COMMENT = re.compile(r"""^(?:[^#"']|"[^"]*"|'[^']*')*#:?\s*(?P<text>.*)$""")
CODE_OR_TAG = re.compile(r"`[^`]*`|<(?=[A-Za-z/])")


class Comments(Extension):
    """Lists a class's fields with their comments, as a section of its docstring.

    Also keeps a placeholder such as <run> in a docstring from being read as HTML.
    """

    def on_class(self, *, cls: Class, **_: Any) -> None:
        fields = [m for m in cls.members.values() if isinstance(m, Attribute) and m.annotation]
        texts = {field.name: comment_of(field) for field in fields if not field.docstring}
        rows = [f"    {name}: {text}" for name, text in texts.items() if text]
        if rows:
            before = [cls.docstring.value, ""] if cls.docstring else []
            text = "\n".join([*before, "Attributes:", *rows])
            cls.docstring = Docstring(text, lineno=cls.lineno, parent=cls, parser="google")

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = "\n".join(map(escaped, obj.docstring.value.split("\n")))


def comment_of(field: Attribute) -> str:
    """The comment of a field: on its lines and directly below, else above it, else "".

    Comment lines between two fields belong to the second, unless it has its own comment.
    """
    if not (field.lineno and field.endlineno):
        return ""
    lines = field.lines_collection[field.filepath]
    start, end = field.lineno - 1, field.endlineno
    inside = [found["text"] for line in lines[start:end] if (found := COMMENT.match(line))]
    if not inside:
        return " ".join(reversed(_block(lines[:start][::-1])))
    below = _block(lines[end:])
    after = "".join(lines[end + len(below) : end + len(below) + 1])
    return " ".join([*inside, *below] if COMMENT.match(after) else inside)


def _block(lines: list[str]) -> list[str]:
    """The texts of the comment lines at the head of `lines`."""
    texts = []
    for line in lines:
        if not line.lstrip().startswith("#"):
            break
        texts.append(line.strip().lstrip("#:").strip())
    return texts


def escaped(line: str) -> str:
    """A docstring's line whose `<` outside code stays a character; indented lines are code."""
    if line.startswith("    "):
        return line
    return CODE_OR_TAG.sub(lambda found: "&lt;" if found[0] == "<" else found[0], line)

"""The text of a label file in the encodings that spreadsheets write."""

import codecs
import re

MARKS = (  # byte order marks; UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig", ""),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")
SHOWN = 40  # characters shown of a doubtful line


def decode(data: bytes) -> tuple[str, str]:
    """The text and its encoding: "" for UTF-8, otherwise named for the user, with what is doubtful.

    Without a text ("") the second value says what the bytes are instead.
    """
    for mark, codec, name in MARKS:
        if data.startswith(mark):
            try:
                text = data.decode(codec)
            except UnicodeDecodeError as error:
                return "", f"damaged {name or 'UTF-8'} text ({_where(data, error)})"
            return (text, name) if text else ("", "empty")
    if b"\0" in data[:1024]:
        return _wide(data)
    try:
        return data.decode("utf-8"), ""
    except UnicodeDecodeError as error:
        return _single_byte(data, error)


def _wide(data: bytes) -> tuple[str, str]:
    """UTF-16 without its mark: every second byte of Latin letters is zero."""
    zeros = [data[:1024][start::2].count(0) for start in (0, 1)]
    codec = "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
    try:
        text = data.decode(codec)
    except UnicodeDecodeError:
        return "", "binary"
    if min(zeros) or max(zeros) < len(data[:1024]) // 4 or CONTROL.search(text):
        return "", "binary"
    return text, f"{codec.upper()} without a byte order mark"


def _single_byte(data: bytes, error: UnicodeDecodeError) -> tuple[str, str]:
    """Windows-1252, unless the bytes are damaged UTF-8 or no text."""
    if any(character > "\x7f" for character in data.decode("utf-8", errors="ignore")):
        return "", f"damaged UTF-8 text ({_where(data, error)})"
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError as second:
        return "", f"text neither in UTF-8 nor in Windows-1252 ({_where(data, second)})"
    if CONTROL.search(text):
        return "", "binary"
    line = text[: error.start].count("\n")
    shown = text.split("\n")[line].strip()[:SHOWN]
    return text, (
        f"Windows-1252, a guess, as it is not UTF-8 (first in line {line + 1}, {shown!r}; "
        "if that is wrong, save it as CSV UTF-8)"
    )


def _where(data: bytes, error: UnicodeDecodeError) -> str:
    line = data[: error.start].count(b"\n") + 1
    return f"line {line}, byte {error.start}"

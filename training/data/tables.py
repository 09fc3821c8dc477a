"""Read label tables without validating them.

CelebA's text files (any white space, CRLF or LF, with or without count line and header) and CSV
files (commas, semicolons, tabs or bars; UTF-8, UTF-16, Windows-1252). Anomalies are recorded, for
`sources` to refuse or `validate` to report.
"""

import csv
import io
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Literal

import numpy as np
import pandas as pd

from training.data.columns import label_column
from training.data.encoding import decode
from training.data.pictures import PICTURES, content

Format = Literal["text", "git-lfs pointer", "git-annex pointer", "web page", "empty", "binary"]
TABLES = ("text", "csv")
OPEN_QUOTE = "broken (a quotation mark in its first line is not closed)"
# What to do about a file that is not a table, by its format.
FIXES = {
    "web page": "fetch it again: the server sent a page instead of the file",
    "git-lfs pointer": "run `git lfs pull`",
    "git-annex pointer": "run `git annex get`",
    "empty": "fetch it again",
    "binary": "fetch it again, or save the spreadsheet as CSV UTF-8",
    OPEN_QUOTE: "remove the mark, or close it",
}
OTHER_FIX = "save it as comma-separated UTF-8 (in Excel: CSV UTF-8)"
# CSV columns that hold the image's name, in any case; the first of them in the header is used.
FILE_COLUMNS = (
    "file", "image_id", "filename", "image", "file_name", "image_path", "image_name", "path",
    "filepath", "file_path",
)  # fmt: skip
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
SAMPLE = 20  # rows that decide the separator
SHOWN = 80  # characters kept of a broken line
LONGEST = 2**20  # characters of a first line that are looked at
LONG = 200  # characters kept of a value in a message


class _Categories(dict[str, int]):
    """Number texts in the order of their first occurrence."""

    def __missing__(self, text: str) -> int:
        self[text] = len(self)
        return self[text]


@dataclass(frozen=True)
class Table:
    """One label file. `rows` and `ragged` together are all its rows.

    format: "text", "csv", or what the file is instead.
    rows: line (1-based in the file), file (the image's name as written), then the other columns as
    text, named by `label_column`; the first of repeated columns, none without a name.
    ragged: rows with another number of fields than the header: line, file, fields, expected, text.
    """

    name: str
    format: str
    rows: pd.DataFrame
    ragged: pd.DataFrame
    stated: int | None = None  # the count line's number
    header: tuple[str, ...] = ()  # column names as written, the file's included
    line_end: Literal["CRLF", "LF", "CR", "mixed", ""] = ""
    final_newline: bool = True
    has_file: bool = True  # whether the header of a CSV names the column of the images
    notes: tuple[str, ...] = ()  # what was guessed about encoding and separator

    @property
    def count(self) -> int:
        return len(self.rows) + len(self.ragged)

    @property
    def columns(self) -> list[str]:
        """Names of the columns after the file name."""
        return list(self.rows.columns[2:])


def shortened(value: object) -> object:
    """`value`, or the beginning of a long text."""
    return f"{value[:LONG]}…" if isinstance(value, str) and len(value) > LONG else value


def one_line(text: str) -> str:
    """The text with line ends, which a quoted field can have, as in Python's source."""
    return text.replace("\r", "\\r").replace("\n", "\\n")


def fix(form: str) -> str:
    """What to do about a file of this format, which is not a table."""
    return FIXES.get(form, OTHER_FIX)


def sniff(data: bytes) -> Format:
    """The format of the bytes: one of `Format`; "text" may be in any encoding."""
    head = data[:1024]
    if content(head):
        return "binary"
    if not head.strip():
        return "empty"
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "git-lfs pointer"
    if b"annex/objects/" in head and len(data) < 32_768:
        return "git-annex pointer"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "web page"
    return "binary" if b"\0" in head else "text"


def read_text(data: bytes) -> tuple[str, str, str]:
    """The text of a table, its encoding ("" for UTF-8), and what it is instead of a text or ""."""
    form = sniff(data)
    if form not in ("text", "binary"):  # UTF-16 looks binary
        return "", "", form
    text, encoding = decode(data)
    fault = encoding if not text else "" if text.strip() else "empty"
    return text, encoding, fault


def read_table(name: str, data: bytes, header: tuple[str, ...] = ()) -> Table:
    """Read a label file; `header` names the columns after the file name if the text form has no
    header line (partition and identity files). Never raises: anomalies are part of the result.
    """
    text, encoding, fault = read_text(data)
    if fault:
        return _faulty(name, fault)
    marked, separator = find_separator(text)
    first = _first_line(text)
    if not separator and name.lower().endswith(".csv") and not first.strip().isdecimal():
        return _faulty(name, f"one-column ({first.strip()[:SHOWN]!r} has no comma or semicolon)")
    kind = "csv" if separator else "text"
    lines = csv_lines(text, separator, marked) if separator else _text_lines(text)
    stated, columns, lines = _header(lines, kind, header)
    if open_quote(columns):
        return _faulty(name, OPEN_QUOTE)
    lower = [column.lower() for column in columns]
    key = next((lower.index(c) for c in FILE_COLUMNS if c in lower), 0)
    rows, ragged = _rows(lines, columns, key)
    return Table(
        name,
        kind,
        rows,
        ragged,
        stated,
        tuple(columns),
        _line_end(text),
        text.endswith(("\n", "\r")),
        kind == "text" or bool({*FILE_COLUMNS} & {*lower}),
        reading_notes(
            name, encoding, separator, nameless=not header and columns[1:2] == ["column 1"]
        ),
    )


def reading_notes(
    name: str, encoding: str, separator: str, nameless: bool = False
) -> tuple[str, ...]:
    """What was guessed to read a file that is not comma-separated UTF-8."""
    guessed = [f"read as {encoding}"] if encoding else []
    if separator not in ("", ","):
        guessed.append(f"columns separated by {SEPARATORS[separator]}s")
    if nameless:
        guessed.append("line 1 is a row and not a header, so its columns are column 1, column 2, …")
    return (f"{name}: {', '.join(guessed)}",) if guessed else ()


def open_quote(header: Sequence[str]) -> bool:
    """Whether a column name goes over several lines, as after a quotation mark that stays open."""
    return any("\n" in column or "\r" in column for column in header)


def _line_end(text: str) -> Literal["CRLF", "LF", "CR", "mixed"]:
    crlf, lf, cr = text.count("\r\n"), text.count("\n"), text.count("\r")
    if cr > crlf:
        return "mixed" if lf else "CR"
    return "mixed" if 0 < crlf < lf else "CRLF" if crlf else "LF"


def _faulty(name: str, form: str) -> Table:
    rows, ragged = _rows(iter(()), ["file"], 0)
    return Table(name, form, rows, ragged)


def find_separator(text: str) -> tuple[bool, str]:
    """Whether Excel's line `sep=;` comes first, and the separator; "" for white space.

    The separator isolates a column of image names, then gives as many first rows as possible the
    header's width; a comma before others.
    """
    marked = re.match(r"\ufeff?sep=([,;\t|])[\r\n]", text)
    if marked:
        return True, marked[1]
    first = _first_line(text)
    best = (False, 0.0, next((s for s in ",;" if s in first), ""))
    for separator in () if first.strip().isdecimal() else SEPARATORS:
        sample = [fields for _, fields in islice(csv_lines(text, separator), SAMPLE)]
        width = len(sample[0]) if sample else 0
        named = width > 1 and any(f.lower() in FILE_COLUMNS for f in sample[0])
        named |= width > 1 and any(f.lower().endswith(PICTURES) for f in sample[0])
        even = sum(len(fields) == width for fields in sample) / max(len(sample), 1)
        # A tab or bar is common in text with another form; a header must confirm it.
        if width > 1 and (named or separator in ",;") and (named, even) > best[:2]:
            best = (named, even, separator)
    return False, best[2]


def _first_line(text: str) -> str:
    """The first line that is not blank, without white space before it; "" if there is none."""
    found = re.search(r"\S", text)
    return text[found.start() : found.start() + LONGEST].splitlines()[0] if found else ""


Line = tuple[int, list[str]]  # line number, fields


def _stream(text: str, newline: Literal[""] | None) -> io.TextIOWrapper:
    """The lines of a text; StringIO would hold four bytes for each character."""
    return io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8", newline=newline)


def _text_lines(text: str) -> Iterator[Line]:
    for number, line in enumerate(_stream(text, None), start=1):
        fields = line.split()
        if fields:
            yield number, fields


def csv_lines(text: str, separator: str, marked: bool = False) -> Iterator[Line]:
    """Rows that are not blank, each with its first line; without the line `sep=` if `marked`."""
    reader = csv.reader(_stream(text, ""), delimiter=separator, strict=False)
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:  # a field beyond the reader's limit
            fields = [f"unreadable: {error}"]
        if any(field.strip() for field in fields) and not (marked and number == 1):
            yield number, [field.strip() for field in fields]


def _header(
    lines: Iterator[Line], kind: str, header: tuple[str, ...]
) -> tuple[int | None, list[str], Iterator[Line]]:
    """The count line's number, the column names (the file's first) and the remaining lines."""
    stated = None
    number, fields = next(lines, (0, []))
    if kind == "text" and len(fields) == 1 and fields[0].isdecimal() and len(fields[0]) < 19:
        stated = int(fields[0])
        number, fields = next(lines, (0, []))
    is_row = bool(fields) and fields[0].lower().endswith(PICTURES)
    if is_row:
        names = header or tuple(f"column {i}" for i in range(1, len(fields)))
        return stated, ["file", *names], chain([(number, fields)], lines)
    if kind == "text":
        return stated, ["file", *fields], lines
    return stated, fields, lines


def _rows(lines: Iterator[Line], columns: list[str], key: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows as categorical text columns (8 million labels need little memory), and ragged rows."""
    categories, numbers, files, ragged = _Categories(), [], [], []
    codes = array("i")  # one after another: a NumPy array a row needs three times the memory
    width = len(columns)
    for number, fields in lines:
        if len(fields) != width:
            ragged.append((number, fields[0], len(fields), width, " ".join(fields)[:SHOWN]))
            continue
        numbers.append(number)
        files.append(fields[key])
        fields[key] = ""
        codes.extend(map(categories.__getitem__, fields))
    table = np.frombuffer(codes, np.intc).reshape(len(numbers), width)
    dtype = pd.CategoricalDtype(list(categories))
    frame = {"line": pd.Series(numbers, dtype="int64"), "file": pd.Series(files, dtype="str")}
    for i, name in enumerate(map(label_column, columns)):
        if i != key and name and name not in frame:
            frame[name] = pd.Categorical.from_codes(table[:, i], dtype=dtype)
    ragged_frame = pd.DataFrame(ragged, columns=["line", "file", "fields", "expected", "text"])
    return pd.DataFrame(frame), ragged_frame

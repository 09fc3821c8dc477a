"""Read label tables without validating them.

CelebA's text files (any white space, CRLF or LF, with or without count line and header) and CSV
files. Anomalies are recorded, for `sources` to refuse or `validate` to report.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np
import pandas as pd

from training.data.pictures import PICTURES, content

Format = Literal[
    "text", "csv", "web page", "git-lfs pointer", "git-annex pointer", "empty", "binary"
]
TABLES = ("text", "csv")
FILE_COLUMNS = ("file", "image_id", "filename", "image")  # CSV columns that hold the image's name
SHOWN = 80  # characters kept of a broken line


class _Categories(dict[str, int]):
    """Number texts in the order of their first occurrence."""

    def __missing__(self, text: str) -> int:
        self[text] = len(self)
        return self[text]


@dataclass(frozen=True)
class Table:
    """One label file. `rows` and `ragged` together are all its rows.

    rows: line (1-based in the file), file (the image's name as written), then the other columns as
    text; the first of repeated columns.
    ragged: rows with another number of fields than the header: line, file, fields, expected, text.
    """

    name: str
    format: Format
    rows: pd.DataFrame
    ragged: pd.DataFrame
    stated: int | None = None  # the count line's number
    header: tuple[str, ...] = ()  # column names as written, the file's included
    line_end: Literal["CRLF", "LF", "mixed", ""] = ""
    final_newline: bool = True

    @property
    def count(self) -> int:
        return len(self.rows) + len(self.ragged)

    @property
    def columns(self) -> list[str]:
        """Names of the columns after the file name."""
        return list(self.rows.columns[2:])


def sniff(data: bytes) -> Format:
    """The format of the bytes: "text", or one of the faults of `Format`."""
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


def read_table(name: str, data: bytes, header: tuple[str, ...] = ()) -> Table:
    """Read a label file; `header` names the columns after the file name if the text form has no
    header line (partition and identity files). Never raises: anomalies are part of the result.
    """
    kind = sniff(data)
    text = ""
    if kind == "text":
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            kind = "binary"
    if kind != "text":
        return _faulty(name, kind)
    first = text[: text.find("\n")] if "\n" in text else text
    lines = _csv_lines(text) if "," in first else _text_lines(text)
    kind = "csv" if "," in first else "text"
    stated, columns, lines = _header(lines, kind, header)
    key = next((columns.index(c) for c in FILE_COLUMNS if c in columns), 0)
    rows, ragged = _rows(lines, columns, key)
    crlf, lf = text.count("\r\n"), text.count("\n")
    ends: Literal["CRLF", "LF", "mixed"] = "mixed" if 0 < crlf < lf else "CRLF" if crlf else "LF"
    form: Format = "csv" if kind == "csv" else "text"
    return Table(name, form, rows, ragged, stated, tuple(columns), ends, text.endswith("\n"))


def _faulty(name: str, kind: Format) -> Table:
    rows, ragged = _rows(iter(()), ["file"], 0)
    return Table(name, kind, rows, ragged)


Line = tuple[int, list[str]]  # line number, fields


def _text_lines(text: str) -> Iterator[Line]:
    for number, line in enumerate(text.split("\n"), start=1):
        fields = line.split()
        if fields:
            yield number, fields


def _csv_lines(text: str) -> Iterator[Line]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=False)
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:  # a field beyond the reader's limit
            fields = [f"unreadable: {error}"]
        if any(field.strip() for field in fields):
            yield reader.line_num, [field.strip() for field in fields]


def _header(
    lines: Iterator[Line], kind: str, header: tuple[str, ...]
) -> tuple[int | None, list[str], Iterator[Line]]:
    """The count line's number, the column names (the file's first) and the remaining lines."""
    stated = None
    number, fields = next(lines)
    if kind == "text" and len(fields) == 1 and fields[0].isdigit() and len(fields[0]) < 19:
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
    categories, numbers, files, codes, ragged = _Categories(), [], [], [], []
    width = len(columns)
    for number, fields in lines:
        if len(fields) != width:
            ragged.append((number, fields[0], len(fields), width, " ".join(fields)[:SHOWN]))
            continue
        numbers.append(number)
        files.append(fields[key])
        fields[key] = ""
        codes.append(np.fromiter(map(categories.__getitem__, fields), np.int32, width))
    table = np.stack(codes) if codes else np.empty((0, width), np.int32)
    dtype = pd.CategoricalDtype(list(categories))
    frame = {"line": pd.Series(numbers, dtype="int64"), "file": pd.Series(files, dtype="str")}
    for i, name in enumerate(columns):
        if i != key and name not in frame:
            frame[name] = pd.Categorical.from_codes(table[:, i], dtype=dtype)
    ragged_frame = pd.DataFrame(ragged, columns=["line", "file", "fields", "expected", "text"])
    return pd.DataFrame(frame), ragged_frame

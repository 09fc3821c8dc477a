"""OpenFace's action-unit intensities and the images that they belong to.

FeatureExtraction writes one CSV with a row for each frame; FaceLandmarkImg writes one CSV for each
picture, named after it, with a row for each face and no column `success`.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
import pandas as pd

from training.data.archive import Tree
from training.data.labels import UNITS
from training.data.matching import Images, locate, stem
from training.data.tables import (
    FILE_COLUMNS,
    OPEN_QUOTE,
    SHOWN,
    csv_lines,
    find_separator,
    fix,
    open_quote,
    read_text,
    reading_notes,
)

CONFIDENCE = 0.88  # OpenFace's authors drop faces below it
HIGHEST = 5.0  # intensities lie in 0 … 5
NUMBERS = ("confidence", *(f"{unit}_r" for unit in UNITS))  # columns of each output
RAGGED = ["line", "file", "fields", "expected", "text"]


@dataclass(frozen=True)
class Units:
    """The measurements of one data set.

    rows: line, file as written, image ("" if none matches), kept (detected, with a confidence of
    0.88 or more), confidence, then the intensities in the header (NaN: not a number).
    ragged: rows with another number of fields than the header: line, file, fields, expected, text.
    """

    name: str
    format: str  # "csv", or the fault of the file
    rows: pd.DataFrame
    ragged: pd.DataFrame
    files: tuple[str, ...] = ()  # the CSVs of the data set that were read
    header: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()  # columns that the header lacks
    unmatched_reason: str = ""  # why rows cannot be matched to images
    notes: tuple[str, ...] = ()  # what was guessed or left out

    def by_image(self) -> pd.DataFrame:
        """Intensities by image name, of the most confident face in each image."""
        kept = self.rows[self.rows["kept"] & (self.rows["image"] != "")]
        kept = kept.sort_values("confidence", ascending=False, kind="stable")
        return kept.drop_duplicates("image").set_index("image")[list(UNITS)].astype("float64")

    def problem(self) -> str:
        """Why the file cannot be used; "" if it can."""
        if self.format != "csv":
            return f"{self.name}: a {self.format} file, not OpenFace's CSV; {fix(self.format)}"
        if self.missing:
            return (
                f"{self.name}: no column {', '.join(self.missing)} (it has "
                f"{', '.join(self.header[:8])}, …); run OpenFace with -aus, or correct the header"
            )
        if len(self.ragged):
            row = self.ragged.iloc[0]
            return (
                f"{self.name}: {len(self.ragged)} rows of another width, first line {row['line']} "
                f"with {row['fields']} fields instead of {row['expected']}: {row['text']!r}; "
                "complete them, or run OpenFace again"
            )
        if not len(self.rows):
            return f"{self.name}: a header and no rows; run OpenFace on the images"
        if self.unmatched_reason:
            return f"{self.name}: {self.unmatched_reason}"
        return self._row_problem()

    def _row_problem(self) -> str:
        unmatched = self.rows[self.rows["image"] == ""]
        if len(unmatched):
            return (
                f"{self.name}: {len(unmatched)} rows name no image, first line "
                f"{unmatched['line'].iloc[0]} ({unmatched['file'].iloc[0]}); correct the names"
            )
        used = self.rows[self.rows["kept"]]
        for unit in UNITS:
            wrong = used[~used[unit].between(0, HIGHEST)]
            if len(wrong):
                return (
                    f"{self.name}: {len(wrong)} values of {unit} are not in 0 … 5, first line "
                    f"{wrong['line'].iloc[0]} ({wrong['file'].iloc[0]}): {wrong[unit].iloc[0]}; "
                    "run OpenFace again"
                )
        return ""


def find_units(tree: Tree, images: list[str]) -> Units | None:
    """The measurements in openface.csv, else in CSVs named after the images; None without either.

    Nothing is validated.
    """
    tables = [name for name in tree.names() if name.lower().endswith(".csv")]
    joined = [name for name in tables if _base(name).lower() == "openface.csv"]
    if joined:
        name = min(joined, key=lambda n: (n.count("/"), n))
        return read_units(name, tree.read(name), images)
    find = Images(images, unique=True)
    stems = {stem(_base(image)) for image in images}
    named = [name for name in tables if stem(_base(name)) in stems]
    parts = {name: tree.read(name) for name in named}
    outputs = [name for name in named if _is_output(parts[name])]
    found = {name: find.at(name) or find(_base(name)) or _nearest(name, images) for name in outputs}
    if not found:
        return None
    several = [
        read_units(name, parts[name], [image] if image else []) for name, image in found.items()
    ]
    for part in several:
        if part.format != "csv" or part.missing or len(part.ragged):
            return replace(part, files=tuple(found))
    rows = pd.concat([part.rows for part in several], ignore_index=True)
    name = f"{len(found)} CSVs of OpenFace ({min(found)} …)"
    notes = (f"action units come from {name}, named after the images", *_counts(rows, images))
    ragged = several[0].ragged
    return Units(name, "csv", rows, ragged, tuple(found), several[0].header, notes=notes)


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _nearest(csv: str, images: list[str]) -> str:
    """The image of the CSV's name whose folder shares most with the CSV's; "" if several do."""
    folders = csv.split("/")[:-1]

    def shared(image: str) -> int:
        pairs = zip(folders, image.split("/")[:-1], strict=False)
        return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))

    same = [image for image in images if stem(_base(image)) == stem(_base(csv))]
    most = max(map(shared, same), default=0)
    best = [image for image in same if shared(image) == most]
    return best[0] if len(best) == 1 else ""


def _is_output(data: bytes) -> bool:
    """Whether a CSV's first bytes are a header of OpenFace's."""
    head = data[:65_536].partition(b"\n")[0]
    return b"confidence" in head and b"AU01_r" in head


def read_units(name: str, data: bytes, images: list[str]) -> Units:
    """Read one of OpenFace's CSVs without validating it.

    Rows are matched to images by a column `file` (or another of `FILE_COLUMNS`) if there is one;
    else by `frame`, counted from 1 over the sorted images; else by `face`, which begins each
    picture's rows with 0; else by their order, if there are as many rows as images.
    """
    text, encoding, fault = read_text(data)
    marked, separator = find_separator(text)
    header, table, ragged, skipped = _read(text, separator or ",", marked)
    fault = fault or (OPEN_QUOTE if open_quote(header) else "")
    if fault:
        empty = pd.DataFrame({"line": [], "file": [], "image": [], "kept": [], "confidence": []})
        return Units(name, fault, empty, pd.DataFrame(columns=RAGGED))
    missing = [column for column in NUMBERS if column not in table]
    if "success" not in table and ("face" not in table or "frame" in table):
        missing.insert(0, "success")
    files, found, reason, note = _files(table, images)
    rows = pd.DataFrame({"line": table["line"], "file": files, "image": found})
    confidence = _numbers(table, "confidence", 0.0)
    rows["confidence"] = confidence
    rows["kept"] = (confidence >= CONFIDENCE) & (_numbers(table, "success", 1.0) == 1)
    for unit in UNITS:
        if f"{unit}_r" in table:
            rows[unit] = _numbers(table, f"{unit}_r", 0.0)
    notes = [*reading_notes(name, encoding, separator), *([f"{name}: {note}"] if note else [])]
    if skipped:
        notes.append(f"{name}: {skipped} repeated header lines are left out")
    if not missing and not reason and len(images) > 1:
        notes += [f"{name}: {text}" for text in _counts(rows, images)]
    return Units(name, "csv", rows, ragged, (name,), header, tuple(missing), reason, tuple(notes))


def _read(
    text: str, separator: str, marked: bool
) -> tuple[tuple[str, ...], pd.DataFrame, pd.DataFrame, int]:
    """The header, the needed columns as text with their lines, ragged rows, repeated headers."""
    lines = csv_lines(text, separator, marked)
    header = tuple(next(lines, (0, []))[1])
    wanted = {"frame", "face", "success", *NUMBERS}
    kept = [
        position
        for position, column in enumerate(header)
        if (column in wanted or column.lower() in FILE_COLUMNS) and column not in header[:position]
    ]
    numbers, rows, ragged, skipped = [], [], [], 0
    for number, fields in lines:
        if tuple(fields) == header:
            skipped += 1
        elif len(fields) != len(header):
            text = " ".join(fields)[:SHOWN]
            ragged.append((number, fields[0], len(fields), len(header), text))
        else:
            numbers.append(number)
            rows.append([fields[position] for position in kept])
    table = pd.DataFrame(rows, columns=[header[position] for position in kept], dtype="str")
    table.insert(0, "line", pd.Series(numbers, dtype="int64"))
    return header, table, pd.DataFrame(ragged, columns=RAGGED), skipped


def _numbers(table: pd.DataFrame, column: str, default: float) -> pd.Series:
    """A column as finite numbers, NaN for everything else; `default` where it is missing."""
    if column not in table:
        return pd.Series(default, index=table.index, dtype="float64")
    numbers = pd.to_numeric(table[column], errors="coerce").astype("float64")
    return numbers.where(np.isfinite(numbers))


def _files(table: pd.DataFrame, images: list[str]) -> tuple[list[str], list[str], str, str]:
    """Each row's file and image, why they cannot be matched ("" if they can), and a note."""
    lower = {column.lower(): column for column in table.columns}
    for column in FILE_COLUMNS:
        if column in lower:
            files = list(table[lower[column]])
            found, _, note = locate(files, Images(images, unique=True))
            return files, found, "", note
    named = _by_number(table, images)
    if named is not None:
        return named, named, "", ""
    text = f"{len(table)} rows for {len(images)} images and no column `file`; add that column"
    return [""] * len(table), [""] * len(table), text, ""


def _by_number(table: pd.DataFrame, images: list[str]) -> list[str] | None:
    """The image of each row by `frame`, `face` or order; "" for a wrong frame, None if unknown."""
    frames = _numbers(table, "frame", 0.0)
    if "frame" in table and not (len(table) > 1 and (frames == 1).all()):
        whole = frames.where(frames % 1 == 0, 0).fillna(0).clip(0, len(images) + 1).astype("int64")
        return [images[f - 1] if 0 < f <= len(images) else "" for f in whole]
    if len(table) == len(images):  # where OpenFace ran once for each image, every frame is 1
        return images
    if "face" in table and "frame" not in table:
        picture = (_numbers(table, "face", 0.0) == 0).cumsum()
        if len(table) and picture.iloc[0] == 1 and picture.iloc[-1] == len(images):
            return [images[number - 1] for number in picture]
    return None


def _counts(rows: pd.DataFrame, images: Iterable[str]) -> list[str]:
    """How many rows and images are left out, and how many images show several faces."""
    faces = Counter(rows.loc[rows["kept"], "image"])
    several = sum(count > 1 for count in faces.values())
    out, unmeasured = int((~rows["kept"]).sum()), sum(image not in faces for image in images)
    texts = []
    if several:
        texts.append(f"{several} images have several faces; the most confident one is used")
    if out:
        texts.append(f"{out} rows without a face or with a confidence under {CONFIDENCE} left out")
    if unmeasured:
        texts.append(f"{unmeasured} images have no measurement")
    return texts

"""Read a raw data set of any supported layout into one frame of images and labels."""

from dataclasses import dataclass

import pandas as pd

from training.core.config import DataConfig
from training.data.archive import Tree
from training.data.layouts import SOURCES, VALUES, RawDataset, read_layout
from training.data.tables import TABLES

__all__ = ["SOURCES", "Source", "SourceError", "read_source"]


class SourceError(ValueError):
    """A raw data set that cannot be used; the text says what, where, how many, and the fix."""


@dataclass(frozen=True)
class Source:
    """A usable data set: a frame with one row per image, and notes to print.

    Columns: file (name in the tree), identity ("" unknown), part ("train", "val", "test" or ""),
    then raw labels: CelebA's attributes and a CSV's columns int8 in {-1, 1}; RaFD's camera, group,
    gender, expression, gaze; a folder layout's class; and AU01 … AU45 (float 0 … 5, NaN where
    OpenFace failed or was not confident) if openface.csv exists. Rows are in the order of the label
    table, or of the sorted names.
    """

    frame: pd.DataFrame
    notes: tuple[str, ...] = ()


def read_source(kind: str, tree: Tree, config: DataConfig) -> Source:
    """Read a data set of `kind` celeba, rafd, folders or csv; see `Source`.

    Every image is returned: cameras, gazes and the limit are applied later. Raises SourceError with
    file, row, value, count and fix for each fault in names and labels that `validate` treats as
    critical.
    """
    raw = read_layout(kind, tree, config)
    if text := _folder_problem(raw, config.bad_share):
        raise SourceError(text)
    for problem in (_table_problem, _name_problem, _value_problem, _units_problem):
        text = problem(raw)
        if text:
            raise SourceError(text)
    labels = raw.labels
    frame = pd.DataFrame(
        {
            "file": labels["image"].astype("str"),
            "identity": labels["identity"].astype("str"),
            "part": labels["part"].astype("str"),
        }
    )
    for column in raw.checked:
        frame[column] = labels[column].astype("str").map(VALUES).replace(0, -1).astype("int8")
    if not raw.checked:
        skip = ("line", "file", "image", "inside", "identity", "part")
        for column in labels.columns.difference(skip, sort=False):
            frame[column] = labels[column].astype("str")
    if raw.units is not None:
        frame = frame.join(raw.units.by_image(), on="file")
    return Source(frame.reset_index(drop=True), raw.notes)


def _some(frame: pd.DataFrame, column: str) -> str:
    """The first rows with their line in the label file (0: the name is the label) and value."""
    rows = frame[["line", "file", column]].head(3).itertuples(index=False)
    return ", ".join(f"{f'line {n} ({f})' if n else f}: {value!r}" for n, f, value in rows)


def _folder_problem(raw: RawDataset, bad_share: float) -> str:
    """Folders that are no data set, and pictures in formats that are not read."""
    if raw.layout:
        return f"{raw.kind}: {raw.layout}"
    if raw.vanished:
        return (
            f"{raw.kind}: {len(raw.vanished)} class folders have no picture that is read: "
            f"{', '.join(raw.vanished[:3])}; save their pictures as JPEG or PNG, or remove them"
        )
    count = len(raw.unread) + len(raw.images)
    if len(raw.unread) > bad_share * count:
        return (
            f"{raw.kind}: {len(raw.unread)} of {count} pictures are in formats that are not read "
            f"(bad_share={bad_share:.2%}): {', '.join(raw.unread[:3])}; save them as JPEG or PNG, "
            "or remove them"
        )
    return ""


def _table_problem(raw: RawDataset) -> str:
    if raw.missing:
        return f"{raw.kind}: no {raw.missing} among the files; put the label file there"
    for table in raw.tables.values():
        if table.format not in TABLES:
            return f"{table.name}: a {table.format} file, not a label table; fetch it again"
        if len(table.ragged):
            row = table.ragged.iloc[0]
            return (
                f"{table.name}: {len(table.ragged)} rows of another width, first line "
                f"{row['line']} with {row['fields']} fields instead of {row['expected']}: "
                f"{row['text']!r}; complete them"
            )
        if table.stated is not None and table.stated != table.count:
            return (
                f"{table.name}: line 1 gives {table.stated} rows, the file has {table.count}; "
                "the file is truncated, fetch it again"
            )
    missing = [name for name in raw.needed if name not in raw.checked]
    if missing:
        table = raw.tables["labels"]
        return (
            f"{table.name}: no label column {', '.join(missing)} "
            f"(it has {', '.join(table.columns)}); pass attributes= or fix the header"
        )
    if not len(raw.labels):
        return f"{raw.kind}: no {'labelled ' if raw.tables else ''}images; check the folder"
    return ""


def _name_problem(raw: RawDataset) -> str:
    labels = raw.labels
    where = raw.tables["labels"].name if "labels" in raw.tables else raw.kind
    unsafe = labels[~labels["inside"]]
    if len(unsafe):
        return f"{where}: {len(unsafe)} names leave the data folder: {_some(unsafe, 'file')}"
    absent = labels[labels["image"] == ""]
    if len(absent):
        return f"{where}: {len(absent)} rows without an image, {_some(absent, 'file')}; add them"
    repeated = labels[labels["image"].duplicated()]
    if len(repeated):
        return (
            f"{where}: {len(repeated)} images are listed more than once, "
            f"{_some(repeated, 'image')}; keep one row"
        )
    unlabelled = sorted(set(raw.images) - set(labels["image"]))
    if unlabelled:
        return (
            f"{where}: {len(unlabelled)} images without a row, {unlabelled[:3]}; add rows for them"
        )
    return ""


def _value_problem(raw: RawDataset) -> str:
    labels = raw.labels
    for column in raw.checked:
        wrong = labels[~labels[column].isin(raw.domain)]
        if len(wrong):
            return (
                f"{raw.tables['labels'].name}: {len(wrong)} values of {column} are not "
                f"{' or '.join(raw.domain[::2])}: {_some(wrong, column)}; correct them"
            )
    for column, what in (
        ("part", "split"), ("identity", "identity"), ("expression", "RaFD name"),
        ("class", "class folder"),
    ):  # fmt: skip
        if column not in labels:
            continue
        wrong = labels[labels[column].isna()]
        if column == "part":
            wrong = labels[~labels["part"].isin(["train", "val", "test", ""])]
        if len(wrong):
            return (
                f"{raw.kind}: {len(wrong)} images without a valid {what}: "
                f"{_some(wrong, column)}; complete or remove them"
            )
    return ""


def _units_problem(raw: RawDataset) -> str:
    if raw.measured and raw.units is None:
        return (
            f"{raw.kind}: attributes {', '.join(raw.measured)} need openface.csv, which is "
            "missing; run OpenFace with -aus on the images and put its CSV beside them, or pass "
            "attributes="
        )
    return raw.units.problem() if raw.units is not None else ""

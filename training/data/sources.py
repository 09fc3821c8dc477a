"""Read a raw data set of any supported layout into one frame of images and labels."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from training.core.config import DataConfig
from training.data.archive import Tree
from training.data.columns import VALUES
from training.data.layouts import SOURCES, RawDataset, read_layout, repeated
from training.data.tables import TABLES, Table, fix, one_line, shortened

__all__ = ["SOURCES", "Source", "SourceError", "problem", "read_source", "say_notes"]


class SourceError(ValueError):
    """A raw data set that cannot be used; the text says what, where, how many, and the fix."""


@dataclass(frozen=True)
class Source:
    """A usable data set: a frame with one row per image, and notes to print.

    Columns: file (name in the tree), identity ("" unknown), part ("train", "val", "test" or ""),
    then raw labels, named by `label_column`: the columns of a table int8 in {-1, 1}, its column of
    classes and words that say who is shown; RaFD's camera, group, gender, expression, gaze; a
    folder layout's class; and AU01 … AU45 (float 0 … 5, NaN where OpenFace failed or was not
    confident) if OpenFace's output exists. Rows are in the order of the label table, or of the
    sorted names.
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
    text = problem(raw, config.bad_share)
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
    for column in raw.columns.checked:
        frame[column] = _signed(labels[column])
    for column in raw.texts:
        frame[column] = labels[column].astype("str")
    if raw.units is not None:
        frame = frame.join(raw.units.by_image(), on="file")
    return Source(frame.reset_index(drop=True), raw.all_notes)


def _signed(column: pd.Series) -> np.ndarray:
    """-1 or 1, int8, for each text of a checked column; its few different ones are read once."""
    codes, texts = pd.factorize(column)
    return np.array([VALUES[str(text)] or -1 for text in texts], np.int8)[codes]


def say_notes(name: str, notes: Iterable[str]) -> None:
    """Print what was guessed, left out or changed in data set `name`."""
    for note in notes:
        sys.stdout.write(f"{name}: {note}\n")
    sys.stdout.flush()


def problem(raw: RawDataset, bad_share: float) -> str:
    """The first fault in names and labels that stops a run, with its fix; "" if there is none."""
    checks = (
        _table_problem, _column_problem, _name_problem, _value_problem, _part_problem,
        _class_problem, _units_problem,
    )  # fmt: skip
    found = _folder_problem(raw, bad_share)
    return one_line(found or next((text for check in checks if (text := check(raw))), ""))


def _some(frame: pd.DataFrame, column: str) -> str:
    """The first rows with their line in the label file (0: the name is the label) and value."""
    rows = frame[["line", "file", column]].head(3).itertuples(index=False)
    return ", ".join(
        f"{f'line {n} ({shortened(f)})' if n else f}: {shortened(value)!r}" for n, f, value in rows
    )


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
    for role, table in raw.tables.items():
        text = _form_problem(table, role)
        if text:
            return text
    return ""


def _form_problem(table: Table, role: str) -> str:
    if table.format not in TABLES:
        return f"{table.name}: a {table.format} file, not a label table; {fix(table.format)}"
    if len(table.ragged):
        row = table.ragged.iloc[0]
        return (
            f"{table.name}: {len(table.ragged)} rows of another width, first line "
            f"{row['line']} with {row['fields']} fields instead of {row['expected']}: "
            f"{row['text']!r}; complete them"
        )
    if table.format == "text" and role == "labels" and table.stated is None:
        return (
            f"{table.name}: line 1 is not the number of rows, so that nothing shows whether the "
            f"file is complete; put {table.count} there if it is"
        )
    if table.stated is not None and table.stated != table.count:
        return (
            f"{table.name}: line 1 gives {table.stated} rows, the file has {table.count}; "
            "the file is truncated, fetch it again"
        )
    if role == "labels":
        return ""
    again = repeated(table)
    if len(again):
        row = again.iloc[0]
        return (
            f"{table.name}: {len(again)} images have several rows, first line {row['line']} "
            f"({row['file']}); keep one row"
        )
    return ""


def _column_problem(raw: RawDataset) -> str:
    table = raw.tables.get("labels")
    if table is not None and not table.has_file:
        return (
            f"{table.name}: no column holds the image names (the columns are "
            f"{', '.join(table.header)}); name that column `file`"
        )
    if raw.columns.absent and table is not None:
        name, why = raw.columns.absent[0]
        names = ", ".join(name for name, _ in raw.columns.absent)
        return (
            f"{table.name}: no label column {names} ({name}: {why}); "
            "set data.attributes to columns of this file, or fix the header"
        )
    if table is not None:
        named = pd.Series([name for name in table.header if name], dtype="str")
        twice = list(named[named.duplicated()])
        if twice:
            return f"{table.name}: the column {twice[0]} occurs twice; rename one of them"
    if not len(raw.labels):
        what = "no rows; add one for each image" if raw.tables else "no images; check the folder"
        return f"{_where(raw)}: {what}"
    return ""


def _name_problem(raw: RawDataset) -> str:
    labels = raw.labels
    where = _where(raw)
    unsafe = labels[~labels["inside"]]
    if len(unsafe):
        return (
            f"{where}: {len(unsafe)} names leave the data folder: {_some(unsafe, 'file')}; "
            f"write them as in the folder{like(raw)}"
        )
    absent = labels[labels["image"] == ""]
    if len(absent):
        return (
            f"{where}: {len(absent)} rows without an image, {_some(absent, 'file')}; add the "
            f"images, or write the names as in the folder{like(raw)}"
        )
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


def like(raw: RawDataset) -> str:
    """Examples of the names in the folder."""
    return f", like {' or '.join(raw.images[:2])}" if raw.images else " (it has no images)"


def value_fix(raw: RawDataset) -> str:
    """How to correct label values that are not binary."""
    low, high = raw.domain[::2]
    fix = f"write {low} or {high} in every row"
    words = [c for c in raw.columns.checked if not set(raw.labels[c].unique()) & set(VALUES)]
    if not words:
        return fix
    return (
        f"{fix}; if {words[0]} names classes, write a word in every row that is not a number or "
        "yes, no, true, false, and make it the only one of data.attributes"
    )


def _value_problem(raw: RawDataset) -> str:
    labels = raw.labels
    for column in raw.columns.checked:
        wrong = labels[~labels[column].isin(raw.domain)]
        if len(wrong):
            return (
                f"{raw.tables['labels'].name}: {len(wrong)} values of {column} are not "
                f"{' or '.join(raw.domain[::2])}: {_some(wrong, column)}; {value_fix(raw)}"
            )
    return ""


def _where(raw: RawDataset, role: str = "labels") -> str:
    """The table with this role, else the label table, else the kind of data set."""
    table = raw.tables.get(role) or raw.tables.get("labels")
    return table.name if table is not None else raw.kind


def _part_problem(raw: RawDataset) -> str:
    labels = raw.labels
    for column, what, role in (("part", "split", "parts"), ("identity", "identity", "identities")):
        wrong = labels[labels[column].isna()]
        if column == "part":
            wrong = labels[~labels["part"].isin(["train", "val", "test", ""])]
        if len(wrong):
            return (
                f"{_where(raw, role)}: {len(wrong)} images of {_where(raw)} without a valid "
                f"{what}: {_some(wrong, column)}; complete or remove them"
            )
    people = labels[labels["identity"] != ""]
    torn = people.groupby("identity")["part"].nunique() > 1
    if torn.any():
        person = torn[torn].index[0]
        rows = people[people["identity"] == person].drop_duplicates("part")
        return (
            f"{_where(raw, 'identities')}: {int(torn.sum())} persons are in more than one split, "
            f"{person!r} in {_some(rows, 'part')}; correct the splits or the identities"
        )
    return _view_problem(raw) if raw.kind == "rafd" else ""


def _view_problem(raw: RawDataset) -> str:
    view = ["camera", "identity", "expression", "gaze"]
    again = raw.labels[raw.labels.duplicated(view)]
    if not len(again):
        return ""
    return (
        f"rafd: {len(again)} files of a person, camera, expression and gaze that another file has: "
        f"{', '.join(again['file'].head(3))}; keep one of them"
    )


def _class_problem(raw: RawDataset) -> str:
    column = raw.classes
    if not column:
        return ""
    values = raw.labels[column]
    wrong = raw.labels[values.isna() | (values == "")]
    if len(wrong):
        what, fix = {
            "rafd": ("with another name than RaFD's", "rename or remove them"),
            "folders": ("outside a class folder", "put each in a folder named after its class"),
        }.get(raw.kind, (f"without a class in {column}", "fill it in, or remove the rows"))
        return f"{_where(raw)}: {len(wrong)} images {what}: {_some(wrong, 'file')}; {fix}"
    if raw.kind != "rafd" and values.nunique() < 2:
        return f"{_where(raw)}: only one class, {values.iloc[0]!r}; {class_fix(raw)}"
    return ""


def class_fix(raw: RawDataset) -> str:
    """What to do about a single class."""
    if raw.kind != "folders":
        return "two or more are needed"
    return "add a second class folder beside it"


def _units_problem(raw: RawDataset) -> str:
    if raw.measured and raw.units is None:
        return (
            f"{raw.kind}: attributes {', '.join(raw.measured)} need openface.csv, which is "
            "missing; run OpenFace with -aus on the images and put its CSV beside them (or one CSV "
            "for each image, named after it), or set data.attributes"
        )
    return raw.units.problem() if raw.units is not None else ""

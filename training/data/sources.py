"""Raw data sets of every supported layout as one frame of images and labels, or a clear refusal."""

from dataclasses import dataclass

import pandas as pd

from training.core.config import DataConfig
from training.data.archive import Tree
from training.data.layouts import SOURCES, VALUES, Facts, gather
from training.data.tables import TABLES

__all__ = ["SOURCES", "Source", "SourceError", "read_source"]


class SourceError(ValueError):
    """A raw data set that cannot be used; the text says what, where, how many, and the mend."""


@dataclass(frozen=True)
class Source:
    """A usable data set: a frame with one row an image, and remarks worth printing.

    Columns: file (name in the tree), identity ("" unknown), part ("train", "val", "test" or ""),
    then raw labels: CelebA's attributes and a CSV's columns int8 in {-1, 1}; RaFD's camera, group,
    gender, expression, gaze; a folder layout's class; and AU01 … AU45 (float 0 … 5, NaN where
    OpenFace was not sure) where openface.csv exists. Rows keep the label table's order, or that of
    the sorted names.
    """

    frame: pd.DataFrame
    notes: tuple[str, ...] = ()


def read_source(kind: str, tree: Tree, config: DataConfig) -> Source:
    """Read a data set of `kind` celeba, rafd, folders or csv; see `Source`.

    Every image is returned: cameras, gazes and the limit are chosen later. Raises SourceError with
    file, row, value, count and mend for anything that `validate` holds for critical in names and
    labels.
    """
    facts = gather(kind, tree, config)
    for problem in (_table_problem, _name_problem, _value_problem, _units_problem):
        text = problem(facts)
        if text:
            raise SourceError(text)
    labels = facts.labels
    frame = pd.DataFrame(
        {
            "file": labels["image"].astype("str"),
            "identity": labels["identity"].astype("str"),
            "part": labels["part"].astype("str"),
        }
    )
    for column in facts.checked:
        frame[column] = labels[column].astype("str").map(VALUES).replace(0, -1).astype("int8")
    if not facts.checked:
        skip = ("line", "file", "image", "inside", "identity", "part")
        for column in labels.columns.difference(skip, sort=False):
            frame[column] = labels[column].astype("str")
    if facts.units is not None:
        frame = frame.join(facts.units.by_image(), on="file")
    return Source(frame.reset_index(drop=True), facts.notes)


def _some(frame: pd.DataFrame, column: str) -> str:
    """The first rows with their line in the label file (0: the name is the label) and value."""
    rows = frame[["line", "file", column]].head(3).itertuples(index=False)
    return ", ".join(f"{f'line {n} ({f})' if n else f}: {value!r}" for n, f, value in rows)


def _table_problem(facts: Facts) -> str:
    if facts.missing:
        return f"{facts.kind}: no {facts.missing} among the files; put the label file there"
    for table in facts.tables.values():
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
                f"{table.name}: line 1 promises {table.stated} rows, {table.count} are there; "
                "the file is cut, fetch it again"
            )
    lacking = [name for name in facts.needed if name not in facts.checked]
    if lacking:
        table = facts.tables["labels"]
        return (
            f"{table.name}: no label column {', '.join(lacking)} "
            f"(it has {', '.join(table.columns)}); pass attributes= or fix the header"
        )
    if not len(facts.labels):
        return f"{facts.kind}: no {'labelled ' if facts.tables else ''}images; check the folder"
    return ""


def _name_problem(facts: Facts) -> str:
    labels = facts.labels
    where = facts.tables["labels"].name if "labels" in facts.tables else facts.kind
    unsafe = labels[~labels["inside"]]
    if len(unsafe):
        return f"{where}: {len(unsafe)} names leave the data folder: {_some(unsafe, 'file')}"
    absent = labels[labels["image"] == ""]
    if len(absent):
        return f"{where}: {len(absent)} rows without an image, {_some(absent, 'file')}; add them"
    twice = labels[labels["image"].duplicated()]
    if len(twice):
        return (
            f"{where}: {len(twice)} images are listed again, {_some(twice, 'image')}; keep one row"
        )
    unlabelled = sorted(set(facts.images) - set(labels["image"]))
    if unlabelled:
        return (
            f"{where}: {len(unlabelled)} images without a row, {unlabelled[:3]}; add rows for them"
        )
    return ""


def _value_problem(facts: Facts) -> str:
    labels = facts.labels
    for column in facts.checked:
        wrong = labels[~labels[column].isin(facts.domain)]
        if len(wrong):
            return (
                f"{facts.tables['labels'].name}: {len(wrong)} values of {column} are not "
                f"{' or '.join(facts.domain[::2])}: {_some(wrong, column)}; correct them"
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
                f"{facts.kind}: {len(wrong)} images without a valid {what}: "
                f"{_some(wrong, column)}; complete or remove them"
            )
    return ""


def _units_problem(facts: Facts) -> str:
    if facts.measured and facts.units is None:
        return (
            f"{facts.kind}: {', '.join(facts.measured)} are asked for and there is no "
            "openface.csv; run OpenFace with -aus on the images and put its CSV beside them, or "
            "pass attributes="
        )
    return facts.units.problem() if facts.units is not None else ""

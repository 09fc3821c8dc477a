"""The label columns of a table: their names in frames, their kinds, and why one is not usable."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from pandas.api.types import is_numeric_dtype

from training.core.config import DataConfig
from training.data.labels import UNITS

VALUES = {"-1": -1, "-1.0": -1, "0": 0, "0.0": 0, "1": 1, "1.0": 1}  # label texts and their values
PAIRS = ({"true": 1, "false": 0}, {"yes": 1, "no": 0})  # words for 1 and 0, in any case
WORDS = {word for pair in PAIRS for word in pair}
ROLES = {"identity": "the person", "split": "the split"}  # columns of a CSV that are not labels
CLASS_COLUMN = {"rafd": "expression", "folders": "class"}  # by kind of data set
# Columns that the code adds to a frame with labels.
INTERNAL = {
    "file", "line", "image", "inside", "identity", "part", "split", "sha256", "shard", "row",
    "reason", "table", "name", "found", *UNITS,
}  # fmt: skip
# Columns, in any case, by whose values scores are told apart (`training.evaluation.groups`).
GROUPS = {
    "male", "young", "pale_skin", "gender", "sex", "age", "age_group", "group", "ethnicity", "race",
    "skin", "skin_tone",
}  # fmt: skip
MARK = " (column)"
LISTED = 45  # columns listed in a message: CelebA's forty and a few of the user's


def label_column(name: str) -> str:
    """The name in frames of a label file's column: `name`, unless the code uses it itself.

    Different names stay different.
    """
    base = name
    while base.endswith(MARK):
        base = base.removesuffix(MARK)
    return name + MARK if base in INTERNAL else name


def attribute_column(name: str) -> str:
    """The name in frames of a configured attribute; action units are OpenFace's."""
    return name if name in UNITS else label_column(name)


def class_column(kind: str, frame: pd.DataFrame, config: DataConfig) -> str:
    """The column of `frame` that holds one class of each image; "" if its labels are not classes.

    In a label table that is the only configured column, if it holds words.
    """
    if kind in CLASS_COLUMN:
        return CLASS_COLUMN[kind]
    names = config.domains or config.attributes
    column = attribute_column(names[0]) if len(names) == 1 else ""
    return column if column in frame and not is_numeric_dtype(frame[column]) else ""


@dataclass(frozen=True)
class LabelColumns:
    """How the columns of one label table are used; names as in frames.

    needed: the configured columns. absent: configured columns that are missing, and why. checked:
    the columns whose values must be binary. classes: the column of classes, or "". groups: other
    columns of words that say who is shown.
    """

    needed: tuple[str, ...] = ()
    absent: tuple[tuple[str, str], ...] = ()
    checked: tuple[str, ...] = ()
    classes: str = ""
    groups: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_columns(
    name: str, labels: pd.DataFrame, columns: Sequence[str], config: DataConfig,
    header: Sequence[str], binary: Sequence[str] = (),
) -> LabelColumns:  # fmt: skip
    """Choose among the `columns` of `labels`; words for 1 and 0 become numbers in `labels`.

    `name` is the file's, `binary` names columns that must be binary if they are present.
    """
    wanted = [n for n in config.domains or config.attributes if n not in UNITS]
    needed = tuple(label_column(n) for n in wanted)
    values = {c: {str(v) for v in labels[c].unique()} for c in columns}
    numbers = [c for c in columns if values[c] and values[c] <= set(VALUES)]
    signed = any({"-1", "-1.0"} & values[c] for c in columns if c in {*numbers, *needed, *binary})
    words, notes = [], []
    for pair in PAIRS:
        found = [c for c in columns if _are_pair(values[c], pair, c in needed)]
        if found:
            notes.append(f"{name}: {_to_numbers(labels, found, pair, signed)}")
        words += found
    classes = ""
    if len(needed) == 1 and needed[0] in columns and needed[0] not in words:
        classes = needed[0] if _are_classes(values[needed[0]]) else ""
    if classes:
        counts = labels[classes].astype("str").value_counts().sort_index()
        some = ", ".join(f"{k!r} {n}" for k, n in counts.head(LISTED).items())
        notes.append(f"{name}: the words of {classes} are {len(counts)} classes: {some}")
    checked = tuple(
        c
        for c in columns
        if c != classes and (c in numbers or c in words or c in {*needed, *binary})
    )
    others = [c for c in columns if c not in checked and c != classes]
    groups = tuple(c for c in others if c.casefold() in GROUPS and _are_classes(values[c]))
    if groups:
        notes.append(f"{name}: kept for scores by group of people: {', '.join(groups)}")
    left_out = [c for c in others if c not in groups]
    if left_out:
        notes.append(f"{name}: neither 0/1 nor -1/1, left out: {', '.join(left_out)}")
    absent = tuple(
        (n, _why_absent(n, header)) for n, c in zip(wanted, needed, strict=True) if c not in columns
    )
    return LabelColumns(needed, absent, checked, classes, groups, tuple(notes))


def _to_numbers(
    labels: pd.DataFrame, columns: Sequence[str], pair: Mapping[str, int], signed: bool
) -> str:
    """Write the pair's words in these columns as 1 and 0 or -1; returns what to say of it."""
    low = "-1" if signed else "0"
    for column in columns:
        texts = labels[column].astype("str")
        numbers = texts.str.casefold().map({w: "1" if on else low for w, on in pair.items()})
        labels[column] = numbers.fillna(texts)
    yes, no = pair
    return f"{yes} and {no} are read as 1 and {low}: {', '.join(columns)}"


def _are_pair(values: set[str], pair: Mapping[str, int], needed: bool) -> bool:
    """Whether the texts are the pair's words; in a `needed` column some other texts are faults."""
    found = {value.casefold() for value in values}
    if needed and found & set(pair):
        return not found & (set(VALUES) | WORDS - set(pair))
    return bool(found) and found <= set(pair)


def _are_classes(values: set[str]) -> bool:
    """Whether the texts, blank ones aside, are words: no numbers, no words for 1 and 0."""
    texts = values - {""}
    return bool(texts) and not any(_is_number(v) or v.casefold() in WORDS for v in texts)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _why_absent(name: str, header: Sequence[str]) -> str:
    """Why a configured column is not among the labels, with the columns that there are."""
    if name in header:
        role = ROLES.get(name, "the image")
        return f"it names {role} and cannot be a label; rename the column to use it as one"
    listed = ", ".join(header[:LISTED]) + (", …" if len(header) > LISTED else "")
    near = difflib.get_close_matches(name, header, 1, 0.7) or [
        column for column in header if column.lower() == name.lower()
    ]
    return f"absent; the columns are {listed}" + (f"; {near[0]} may be meant" if near else "")

"""The frames that expectations judge, made from the facts of a data set.

A consequence is left out where its cause is a fault of its own: without a readable label file no
image counts as unlabelled.
"""

from typing import Any

import pandas as pd

from training.data.labels import HAIR
from training.data.layouts import VALUES, Facts
from training.data.openface import UNITS
from training.data.tables import FILE_COLUMNS, TABLES

ON = [word for word, value in VALUES.items() if value == 1]
LEAST_SHARE = 0.01  # of a binary label's rarer value, below which it is reported
LEAST_CLASS = 0.2  # of an equal share, the same for a class


def frames(facts: Facts, images: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Frames by the names that the rules use; empty ones say that nothing is to be judged."""
    labels = _labels(facts)
    out = {
        **_tables(facts),
        "labels": labels,
        "identities": _identities(labels),
        "images": _images(facts, labels, images),
        "classes": _classes(facts, labels),
        "hair": _hair(facts, labels),
    }
    if facts.units is not None and facts.units.format in TABLES:
        rows = facts.units.rows
        present = [column not in facts.units.missing for column in _unit_columns()]
        out["unit columns"] = pd.DataFrame({"column": _unit_columns(), "present": present})
        out["units"] = rows.assign(found=rows["image"].replace("", None))
        if not facts.units.missing:
            kept = rows[rows["kept"]]
            out["kept units"] = kept.assign(numbers=kept[list(UNITS)].notna().sum(axis=1))
    return out


def _unit_columns() -> list[str]:
    return ["success", "confidence", *(f"{unit}_r" for unit in UNITS)]


def _usable(facts: Facts) -> bool:
    """Whether the label rows can be told at all."""
    table = facts.tables.get("labels")
    return not facts.missing and (table is None or table.format in TABLES)


def _tables(facts: Facts) -> dict[str, pd.DataFrame]:
    tables: list[tuple[str, str | None, str | None, bool]] = [
        (t.name, t.name, t.format, t.final_newline) for t in facts.tables.values()
    ]
    if facts.missing:
        tables.append((facts.missing, None, None, True))
    if facts.units is not None:
        units = facts.units
        tables.append((units.name, units.name, units.format, True))
    elif facts.measured:
        tables.append(("openface.csv", None, None, True))
    columns = ["table", "file", "format", "final_newline"]
    out = {"tables": pd.DataFrame(tables, columns=columns)}
    readable = [table for table in facts.tables.values() if table.format in TABLES]
    ragged = [table.ragged.assign(table=table.name) for table in readable]
    out["ragged"] = pd.concat(ragged) if ragged else pd.DataFrame()
    table = facts.tables.get("labels")
    if table is None or table not in readable:
        return out
    counts = [(table.name, table.stated, table.count)] if table.format == "text" else []
    out["counts"] = pd.DataFrame(counts, columns=["file", "stated", "rows"])
    heads = [(table.name, bool({*FILE_COLUMNS} & {*table.header}))] if table.format == "csv" else []
    out["headers"] = pd.DataFrame(heads, columns=["file", "has_file"])
    out["columns"] = pd.DataFrame({"table": table.name, "column": list(table.header)})
    present = [name in facts.checked for name in facts.needed]
    out["needed"] = pd.DataFrame(
        {"table": table.name, "column": list(facts.needed), "present": present}
    )
    return out


def _labels(facts: Facts) -> pd.DataFrame:
    labels = facts.labels
    found = labels["image"].mask(labels["image"] == "")
    more: dict[str, Any] = {
        "name": found.fillna(labels["file"]),
        # A name that leads out of the folder is a fault of its own, not a missing image.
        "found": found.where(labels["inside"], labels["file"]),
    }
    if "labels" in facts.tables:
        more["table"] = facts.tables["labels"].name
    if facts.kind == "rafd":
        more["base"] = _base(labels["file"])
        parts = ["camera", "identity", "expression", "gaze"]
        more["view"] = labels[parts[0]].str.cat([labels[part] for part in parts[1:]], sep="_")
    return labels.assign(**more)


def _base(files: pd.Series) -> pd.Series:
    return files.str.split("/").str[-1]


def _identities(labels: pd.DataFrame) -> pd.DataFrame:
    """One row a person: in how many parts, under how many descriptions."""
    known = labels[labels["identity"].notna() & (labels["identity"] != "")]
    described = "group" in known and "gender" in known
    texts = known["group"] + " " + known["gender"] if described else known["identity"]
    part = known["part"].where(known["part"].isin(["train", "val", "test"]))
    people = known.assign(text=texts, known_part=part).groupby("identity")
    counts = people.agg(parts=("known_part", "nunique"), descriptions=("text", "nunique"))
    return counts.reset_index()


def _images(facts: Facts, labels: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    # Rows that are ragged or lead out of the folder are faults of their own.
    faulty = [*labels.loc[~labels["inside"], "file"]]
    faulty += [file for table in facts.tables.values() for file in table.ragged["file"]]
    faulty_names = {file.rpartition("/")[2] for file in faulty}
    known = set(labels["image"])
    told = _usable(facts)
    labelled = [
        not told or file in known or file.rpartition("/")[2] in faulty_names
        for file in images["file"]
    ]
    parts = dict(zip(labels["image"], labels["part"], strict=True))
    part = images["file"].map(parts).replace("", None)
    several = part.groupby(images["sha256"]).transform("nunique")
    return images.assign(labelled=labelled, parts=several)


def _classes(facts: Facts, labels: pd.DataFrame) -> pd.DataFrame:
    """The share of each class, of a binary label's rarer value, and the least that is usual."""
    rows = []
    for name in facts.needed:
        if name in facts.checked and len(labels):
            on = labels[name].isin(ON)
            rows.append((name, int(on.sum()), min(on.mean(), 1 - on.mean()), LEAST_SHARE))
    for column in ("expression", "class"):
        if column in labels:
            counts = labels[column].value_counts().sort_index()
            least = LEAST_CLASS / max(len(counts), 1)
            rows += [(str(k), int(n), n / counts.sum(), least) for k, n in counts.items()]
    return pd.DataFrame(rows, columns=["label", "count", "share", "least"])


def _hair(facts: Facts, labels: pd.DataFrame) -> pd.DataFrame:
    """How many of the exclusive hair colours each face has."""
    names = [name for name in HAIR if name in facts.checked]
    if len(names) < 2:
        return pd.DataFrame()
    colours = sum(labels[name].isin(ON).astype("int8") for name in names)
    return pd.DataFrame({"file": labels["file"], "line": labels["line"], "colours": colours})

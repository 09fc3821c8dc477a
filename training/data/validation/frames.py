"""The frames that the rules check, built from a raw data set.

Consequences of a fault that is reported elsewhere are left out: without a readable label file no
image counts as unlabelled.
"""

from typing import Any

import pandas as pd

from training.data.columns import VALUES, label_column
from training.data.labels import HAIR
from training.data.layouts import RawDataset, repeated
from training.data.openface import NUMBERS, UNITS
from training.data.tables import TABLES

ON = [text for text, value in VALUES.items() if value == 1]
LEAST_SHARE = 0.01  # of a binary label's rarer value; below it the label is reported
LEAST_CLASS = 0.2  # of an equal share; below it a class is reported


def frames(raw: RawDataset, images: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Frames by the names that the rules use; rules for empty ones are skipped."""
    labels = _labels(raw)
    out = {
        **_tables(raw),
        "labels": labels,
        "identities": _identities(labels),
        "images": _images(raw, labels, images),
        "classes": _classes(raw, labels),
        "hair": _hair(raw, labels),
        "layout": pd.DataFrame({"fault": [raw.layout]}),
        "readable": _readable(raw),
        "class folders": _class_folders(raw, labels),
    }
    if raw.units is not None and raw.units.format in TABLES:
        rows = raw.units.rows
        needed = ["success", *NUMBERS]
        present = [column not in raw.units.missing for column in needed]
        out["unit columns"] = pd.DataFrame({"column": needed, "present": present})
        out["units"] = rows.assign(found=rows["image"].replace("", None))
        if not raw.units.missing:
            kept = rows[rows["kept"]]
            out["kept units"] = kept.assign(numbers=kept[list(UNITS)].notna().sum(axis=1))
    return out


def _readable(raw: RawDataset) -> pd.DataFrame:
    """Every picture, and whether its format is one that is read."""
    read = [True] * len(raw.images) + [False] * len(raw.unread)
    return pd.DataFrame({"file": [*raw.images, *raw.unread], "read": read})


def _class_folders(raw: RawDataset, labels: pd.DataFrame) -> pd.DataFrame:
    """The classes of folders, and whether they have a picture that is read."""
    names = labels["class"].dropna().unique().tolist() if "class" in labels else []
    return pd.DataFrame(
        {
            "class": [*names, *raw.vanished],
            "read": [c not in raw.vanished for c in [*names, *raw.vanished]],
        }
    )


def _usable(raw: RawDataset) -> bool:
    """Whether there are readable label rows."""
    table = raw.tables.get("labels")
    return not raw.missing and (table is None or table.format in TABLES)


def _tables(raw: RawDataset) -> dict[str, pd.DataFrame]:
    tables: list[tuple[str, str | None, str | None, bool, int | None]] = [
        (t.name, t.name, t.format, t.final_newline, None) for t in raw.tables.values()
    ]
    if raw.missing:
        tables.append((raw.missing, None, None, True, None))
    if raw.units is not None:
        units = raw.units
        # Other tables without rows leave images without labels, which has a rule.
        rows = len(units.rows) + len(units.ragged) if units.format in TABLES else None
        tables.append((units.name, units.name, units.format, True, rows))
    elif raw.measured:
        tables.append(("openface.csv", None, None, True, None))
    columns = ["table", "file", "format", "final_newline", "rows"]
    out = {"tables": pd.DataFrame(tables, columns=columns)}
    readable = [table for table in raw.tables.values() if table.format in TABLES]
    ragged = [table.ragged.assign(table=table.name) for table in readable]
    if raw.units is not None:
        ragged.append(raw.units.ragged.assign(table=raw.units.name))
    out["ragged"] = pd.concat(ragged) if ragged else pd.DataFrame()
    again = [
        repeated(t).assign(table=t.name, earlier=True)
        for role, t in raw.tables.items()
        if role != "labels" and t.format in TABLES
    ]
    out["repeated"] = pd.concat(again) if again else pd.DataFrame()
    table = raw.tables.get("labels")
    if table is None or table not in readable:
        return out
    counts = [
        (t.name, t.stated, t.count)
        for t in readable
        if t.format == "text" and (t is table or t.stated is not None)
    ]
    out["counts"] = pd.DataFrame(counts, columns=["file", "stated", "rows"])
    header = ", ".join(table.header)
    heads = [(table.name, table.has_file, header)] if table.format == "csv" else []
    out["headers"] = pd.DataFrame(heads, columns=["file", "has_file", "header"])
    named = [name for name in table.header if name]
    out["columns"] = pd.DataFrame({"table": table.name, "column": named})
    absent = dict(raw.columns.absent) if table.has_file else {}
    there = [n for n in raw.columns.needed if n not in map(label_column, absent)]
    needed = [*absent.items(), *((name, "present") for name in there)]
    out["needed"] = pd.DataFrame(needed, columns=["column", "status"]).assign(table=table.name)
    return out


def _labels(raw: RawDataset) -> pd.DataFrame:
    labels = raw.labels
    found = labels["image"].mask(labels["image"] == "")
    more: dict[str, Any] = {
        "name": found.fillna(labels["file"]),
        # A name outside the folder is reported as such, not as a missing image.
        "found": found.where(labels["inside"], labels["file"]),
    }
    if "labels" in raw.tables:
        more["table"] = raw.tables["labels"].name
    if raw.kind == "rafd":
        more["base"] = _base(labels["file"])
        parts = ["camera", "identity", "expression", "gaze"]
        more["view"] = labels[parts[0]].str.cat([labels[part] for part in parts[1:]], sep="_")
    return labels.assign(**more)


def _base(files: pd.Series) -> pd.Series:
    return files.str.split("/").str[-1]


def _identities(labels: pd.DataFrame) -> pd.DataFrame:
    """One row per person: the number of splits and of descriptions."""
    known = labels[labels["identity"].notna() & (labels["identity"] != "")]
    described = "group" in known and "gender" in known
    texts = known["group"] + " " + known["gender"] if described else known["identity"]
    part = known["part"].where(known["part"].isin(["train", "val", "test"]))
    people = known.assign(text=texts, known_part=part).groupby("identity")
    counts = people.agg(parts=("known_part", "nunique"), descriptions=("text", "nunique"))
    return counts.reset_index()


def _images(raw: RawDataset, labels: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    # Ragged rows and names outside the folder are reported by their own rules.
    faulty = [*labels.loc[~labels["inside"], "file"]]
    faulty += [file for table in raw.tables.values() for file in table.ragged["file"]]
    faulty_names = {file.rpartition("/")[2] for file in faulty}
    known = set(labels["image"])
    usable = _usable(raw)
    labelled = [
        not usable or file in known or file.rpartition("/")[2] in faulty_names
        for file in images["file"]
    ]
    parts = dict(zip(labels["image"], labels["part"], strict=True))
    part = images["file"].map(parts).replace("", None)
    several = part.groupby(images["sha256"]).transform("nunique")
    classes = pd.Series(0, index=images.index)
    if raw.classes:
        by_image = dict(zip(labels["image"], labels[raw.classes].astype("object"), strict=True))
        classes = images["file"].map(by_image).groupby(images["sha256"]).transform("nunique")
    return images.assign(labelled=labelled, parts=several, classes=classes)


def _classes(raw: RawDataset, labels: pd.DataFrame) -> pd.DataFrame:
    """The share of each class or of a binary label's rarer value, and the least expected share."""
    rows = []
    for name in raw.columns.needed:
        if name in raw.columns.checked and len(labels):
            on = labels[name].isin(ON)
            rows.append((name, int(on.sum()), min(on.mean(), 1 - on.mean()), LEAST_SHARE))
    if raw.classes:
        counts = labels[raw.classes].astype("object").value_counts().sort_index()
        least = LEAST_CLASS / max(len(counts), 1)
        rows += [(str(k), int(n), n / counts.sum(), least) for k, n in counts.items()]
    return pd.DataFrame(rows, columns=["label", "count", "share", "least"])


def _hair(raw: RawDataset, labels: pd.DataFrame) -> pd.DataFrame:
    """The number of mutually exclusive hair colours of each face."""
    names = [name for name in HAIR if name in raw.columns.checked]
    if len(names) < 2:
        return pd.DataFrame()
    colours = sum(labels[name].isin(ON).astype("int8") for name in names)
    return pd.DataFrame({"file": labels["file"], "line": labels["line"], "colours": colours})

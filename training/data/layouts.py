"""Read the files of a raw data set, one reader per layout, without validating them."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

import pandas as pd

from training.core.config import DataConfig
from training.data.archive import Tree, check_name
from training.data.folders import arrange
from training.data.labels import ATTRIBUTES, UNITS
from training.data.openface import Units, read_units
from training.data.pictures import ARCHIVES, CONVERT, FRAMES, PICTURES, UNREAD, VIDEOS
from training.data.tables import TABLES, Table, read_table

EXPRESSIONS = (
    "angry", "contemptuous", "disgusted", "fearful", "happy", "neutral", "sad", "surprised",
)  # fmt: skip
RAFD_NAME = (
    r"^Rafd(?P<camera>000|045|090|135|180)_(?P<identity>\d\d)"
    r"_(?P<group>Caucasian|Moroccan|Kid)_(?P<gender>female|male)"
    rf"_(?P<expression>{'|'.join(EXPRESSIONS)})_(?P<gaze>frontal|left|right)"
    r"\.([jJ][pP][eE]?[gG]|[pP][nN][gG])$"
)
VALUES = {"-1": -1, "-1.0": -1, "0": 0, "0.0": 0, "1": 1, "1.0": 1}  # label texts and their values
CSV_PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
CELEBA_PARTS = {"0": "train", "1": "val", "2": "test"}
# Columns that other code adds to a frame; labels cannot have these names.
RESERVED = (
    "file", "line", "image", "inside", "identity", "part", "split", "sha256", "shard", "row",
    "reason", "dataset", "label", "table", "name", "found", "base", "view",
)  # fmt: skip


@dataclass(frozen=True)
class RawDataset:
    """The content of a data set's files, not validated.

    labels: one row per label row (or per image, if the file names are the labels): line in the file
    or 0, file as written, image (its name in the tree; "" if none matches), inside (whether `file`
    stays in the data folder), identity and part ("" unknown, None if their table has no such row),
    then the label columns as text. The configured attributes are split into label columns
    (`needed`) and action units of openface.csv (`measured`).
    """

    kind: str
    images: list[str]
    labels: pd.DataFrame
    tables: dict[str, Table] = field(default_factory=dict)
    missing: str = ""  # the name of the missing label file
    needed: tuple[str, ...] = ()
    checked: tuple[str, ...] = ()  # label columns whose values must be binary
    units: Units | None = None
    notes: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()
    layout: str = ""  # why the folders are no data set, and the fix
    unread: tuple[str, ...] = ()  # pictures in formats that are not read
    vanished: tuple[str, ...] = ()  # class folders without any picture that is read

    @property
    def domain(self) -> tuple[str, ...]:
        """The valid texts of label values: -1/1 if any -1 occurs, otherwise 0/1."""
        low = 0
        for column in self.checked:
            if {"-1", "-1.0"} & set(self.labels[column].unique()):
                low = -1
                break
        return tuple(text for text, value in VALUES.items() if value in (low, 1))


Reader = Callable[[Tree, DataConfig], RawDataset]


def read_layout(kind: str, tree: Tree, config: DataConfig) -> RawDataset:
    """Read the files of a data set of `kind`. Raises ValueError for an unknown kind."""
    if kind not in SOURCES:
        raise ValueError(
            f"unknown kind of data set {kind!r}; one of {', '.join(SOURCES)} is needed"
        )
    attributes = () if kind == "folders" or config.domains else config.attributes
    measured = tuple(name for name in attributes if name in UNITS)
    raw = SOURCES[kind](tree, config)
    unread, notes = left_out(tree.names())
    return replace(raw, measured=measured, unread=unread, notes=(*raw.notes, *notes))


def _needed(config: DataConfig) -> tuple[str, ...]:
    """The configured columns of the label table; action units are in openface.csv."""
    return tuple(n for n in config.domains or config.attributes if n not in UNITS)


def visible(names: Iterable[str]) -> list[str]:
    """The names without hidden files and macOS's resource forks."""
    return [
        name
        for name in names
        if not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
    ]


def has_suffix(name: str, suffixes: tuple[str, ...]) -> bool:
    return name.lower().endswith(suffixes)


def pictures(names: Iterable[str]) -> list[str]:
    """The visible names with the suffix of a format that is read."""
    return [name for name in visible(names) if has_suffix(name, PICTURES)]


def left_out(names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Pictures in formats that are not read, and a note for each sort of file that is left out."""
    seen = visible(names)
    unread = [name for name in seen if has_suffix(name, UNREAD)]
    sorts = {
        f"pictures that are not read ({CONVERT})": unread,
        f"videos ({FRAMES})": [name for name in seen if has_suffix(name, VIDEOS)],
        "archives (unpack them there if they hold pictures)": [
            name for name in seen if has_suffix(name, ARCHIVES)
        ],
    }
    known = {*(name for files in sorts.values() for name in files)}
    sorts["other files"] = [
        n for n in seen if n not in known and not has_suffix(n, (*PICTURES, ".csv", ".txt"))
    ]
    notes = []
    for what, files in sorts.items():
        suffixes = Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in files)
        numbers = ", ".join(f"{suffix} {n}" for suffix, n in sorted(suffixes.items()))
        if files:
            notes.append(f"left out: {what}: {numbers}, such as {files[0]!r}")
    return tuple(unread), tuple(notes)


def _find(names: Iterable[str], base_names: tuple[str, ...]) -> str:
    """The file with the first of these base names, the least nested one; "" if none."""
    bases = {name: name.rpartition("/")[2].lower() for name in names}
    found = [name for name, base in bases.items() if base in base_names]
    return min(found, key=lambda n: (base_names.index(bases[n]), n.count("/"), n), default="")


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


class Images:
    """Find the image that a label file names: by path, by base name, or with another suffix."""

    def __init__(self, images: list[str], beside: str = "") -> None:
        self.paths = set(images)
        self.folder = f"{beside.rpartition('/')[0]}/" if "/" in beside else ""
        self.names: dict[str, str] = {}
        self.stems: dict[str, str] = {}
        self.ends = {_stem(image): image for image in reversed(images)}  # whole paths
        for image in images:
            name = image.rpartition("/")[2]
            self.names.setdefault(name, image)
            self.stems.setdefault(_stem(name), image)

    def __call__(self, file: str) -> str:
        for path in (file, f"{self.folder}{file}"):
            if path in self.paths:
                return path
        if "/" in file:  # with a folder: the same base name elsewhere is another image
            ends = [self.ends.get(_stem(path), "") for path in (file, f"{self.folder}{file}")]
            return ends[0] or ends[1]
        name = file
        return self.names.get(name) or self.stems.get(_stem(name), "")


def _inside(file: str) -> bool:
    try:
        check_name(file)
    except ValueError:
        return False
    return True


def _celeba(tree: Tree, config: DataConfig) -> RawDataset:
    names = tree.names()
    images = pictures(names)
    for folder in ("img_align_celeba", "img_align_celeba_png"):
        inside = [image for image in images if folder in image.split("/")]
        if inside:
            images = inside
            break
    tables = {}
    for role, base, header in (
        ("labels", "list_attr_celeba", ()),
        ("parts", "list_eval_partition", ("partition",)),
        ("identities", "identity_celeba", ("identity",)),
    ):
        file = _find(names, (f"{base}.txt", f"{base}.csv"))
        if file:
            tables[role] = read_table(file, tree.read(file), header)
    units = _read_units(tree, names, images)
    if "labels" not in tables:
        empty = _labels([], [], Images([]))
        return RawDataset("celeba", images, empty, tables, "list_attr_celeba.txt", units=units)
    table = tables["labels"]
    labels = _table_labels(table, Images(images))
    stems = [_stem(file.rpartition("/")[2]) for file in labels["file"]]
    labels["identity"] = _joined(stems, tables.get("identities"))
    parts = _joined(stems, tables.get("parts"))
    labels["part"] = [CELEBA_PARTS.get(p, p) if p is not None else None for p in parts]
    present = tuple(name for name in ATTRIBUTES if name in table.columns)
    notes = [
        f"{t.name}: line ends are {t.line_end}, final newline "
        f"{'present' if t.final_newline else 'missing'}, form {t.format}"
        for t in tables.values()
        if t.line_end != "CRLF" or not t.final_newline or t.format != "text"
    ]
    return RawDataset(
        "celeba", images, labels, tables, "", _needed(config), present, units, tuple(notes)
    )


def _rafd(tree: Tree, config: DataConfig) -> RawDataset:
    names = tree.names()
    images = pictures(names)
    labels = _labels([0] * len(images), images, Images(images))
    base = pd.Series([image.rpartition("/")[2] for image in images], dtype="str")
    matched = base.str.extract(re.compile(RAFD_NAME))
    for column in ("camera", "group", "gender", "expression", "gaze"):
        labels[column] = matched[column]
    labels["identity"] = matched["identity"]
    return RawDataset("rafd", images, labels, units=_read_units(tree, names, images))


def _folders(tree: Tree, config: DataConfig) -> RawDataset:
    """`<class>/…`, with or without parts; see `training.data.folders`."""
    names = tree.names()
    images = pictures(names)
    labels = _labels([0] * len(images), images, Images(images))
    found = arrange(images)
    labels["part"] = found.parts
    labels["class"] = found.classes
    others = [name for name in visible(names) if has_suffix(name, (*UNREAD, *VIDEOS, *ARCHIVES))]
    every = arrange([*images, *others])
    vanished = set() if every.fault else {*every.classes} - {*found.classes, None}
    return RawDataset(
        "folders", images, labels, units=_read_units(tree, names, images), notes=found.notes,
        layout=found.fault, vanished=tuple(sorted(map(str, vanished))),
    )  # fmt: skip


def _csv(tree: Tree, config: DataConfig) -> RawDataset:
    names = tree.names()
    images = pictures(names)
    units = _read_units(tree, names, images)
    file = _find(names, ("labels.csv",))
    tables = [n for n in names if n.lower().endswith(".csv") and not n.endswith("openface.csv")]
    file = file or (tables[0] if len(tables) == 1 else "")
    if not tables and units and not _needed(config):  # the intensities are the only labels
        return RawDataset(
            "csv", images, _labels([0] * len(images), images, Images(images)), units=units
        )
    if not file:
        missing = "labels.csv" + (f" (one of {', '.join(tables[:5])})" if tables else "")
        return RawDataset("csv", images, _labels([], [], Images([])), missing=missing, units=units)
    table = read_table(file, tree.read(file))
    labels = _table_labels(table, Images(images, file))
    if "identity" in table.columns:
        labels["identity"] = table.rows["identity"].astype("str")
    if "split" in table.columns:
        parts = table.rows["split"].astype("str")
        labels["part"] = [CSV_PARTS.get(part.lower(), part) for part in parts]
        del labels["split"]
    columns = [c for c in labels.columns if c in table.columns and c not in RESERVED]
    binary = {c for c in columns if set(labels[c].unique()) <= set(VALUES)}
    needed = _needed(config)
    checked = tuple(c for c in columns if c in binary or c in needed)
    left_out = [c for c in columns if c not in checked]
    notes = (f"{file}: not 0/1 or -1/1, left out: {', '.join(left_out)}",) if left_out else ()
    return RawDataset("csv", images, labels, {"labels": table}, "", needed, checked, units, notes)


SOURCES: dict[str, Reader] = {"celeba": _celeba, "rafd": _rafd, "folders": _folders, "csv": _csv}


def _labels(lines: Iterable[int], files: Iterable[str], images: Images) -> pd.DataFrame:
    files = list(files)
    inside = [_inside(file) for file in files]
    found = [images(file) if ok else "" for file, ok in zip(files, inside, strict=True)]
    return pd.DataFrame(
        {
            "line": pd.Series(list(lines), dtype="int64"),
            "file": pd.Series(files, dtype="str"),
            "image": pd.Series(found, dtype="str"),
            "inside": pd.Series(inside, dtype="bool"),
            "identity": pd.Series([""] * len(files), dtype="str"),
            "part": pd.Series([""] * len(files), dtype="str"),
        }
    )


def _table_labels(table: Table, images: Images) -> pd.DataFrame:
    labels = _labels(table.rows["line"], table.rows["file"], images)
    rest = [column for column in table.rows.columns if column not in labels.columns]
    return pd.concat([labels, table.rows[rest]], axis=1)


def _joined(stems: list[str], table: Table | None) -> list[str | None] | list[str]:
    """The second column of a two-column table by name: "" without a table, None for a gap."""
    if table is None or table.format not in TABLES or not table.columns:
        return [""] * len(stems)
    values = table.rows[table.columns[0]].astype("str")
    known = dict(zip(map(_stem, table.rows["file"]), values, strict=True))
    return [known.get(stem) for stem in stems]


def _read_units(tree: Tree, names: list[str], images: list[str]) -> Units | None:
    file = _find(names, ("openface.csv",))
    return read_units(file, tree.read(file), images, Images(images)) if file else None

"""Read the files of a raw data set, one reader per layout, without validating them."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

import pandas as pd

from training.core.config import DataConfig
from training.data.archive import Tree
from training.data.columns import CLASS_COLUMN, VALUES, LabelColumns, label_column, read_columns
from training.data.folders import arrange
from training.data.labels import ATTRIBUTES, UNITS
from training.data.matching import Images, locate, plain, stem
from training.data.openface import Units, find_units
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
CELEBA_PARTS = {"0": "train", "1": "val", "2": "test"}
CSV_PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
# CelebA-HQ's attributes; kind csv reads them and CelebA's file for pictures of another shape.
HQ_LABELS = "celebamask-hq-attribute-anno.txt"
HQ_IMAGES = "CelebA-HQ-img"


@dataclass(frozen=True)
class RawDataset:
    """The content of a data set's files, not validated.

    labels: one row per label row (or per image, if the file names are the labels): line in the file
    or 0, file as written, image (its name in the tree; "" if none matches), inside (whether `file`
    stays in the data folder), identity and part ("" unknown, None if their table has no such row),
    then the label columns as text, named by `label_column`; `columns` says how they are used.
    `measured`: the configured action units of openface.csv.
    """

    kind: str
    images: list[str]
    labels: pd.DataFrame
    tables: dict[str, Table] = field(default_factory=dict)
    missing: str = ""  # the name of the missing label file
    columns: LabelColumns = field(default_factory=LabelColumns)
    units: Units | None = None
    notes: tuple[str, ...] = ()  # what was guessed or left out
    measured: tuple[str, ...] = ()
    layout: str = ""  # why the folders are no data set, and the fix
    unread: tuple[str, ...] = ()  # pictures in formats that are not read
    vanished: tuple[str, ...] = ()  # class folders without any picture that is read

    @property
    def classes(self) -> str:
        """The column with one class of each image; "" if the labels are not classes."""
        return CLASS_COLUMN.get(self.kind, self.columns.classes)

    @property
    def texts(self) -> tuple[str, ...]:
        """The label columns that are not binary."""
        if self.kind == "rafd":
            return ("camera", "group", "gender", "expression", "gaze")
        return (*([self.classes] if self.classes else ()), *self.columns.groups)

    @property
    def all_notes(self) -> tuple[str, ...]:
        """What was guessed or left out in any file."""
        more = [note for table in self.tables.values() for note in table.notes]
        units = self.units.notes if self.units is not None else ()
        return (*more, *self.notes, *self.columns.notes, *units)

    @property
    def domain(self) -> tuple[str, ...]:
        """The valid texts of label values: -1/1 if any -1 occurs, otherwise 0/1."""
        low = 0
        for column in self.columns.checked:
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


def visible(names: Iterable[str]) -> list[str]:
    """The names without hidden files and macOS's resource forks."""
    return [name for name in names if "/." not in (path := f"/{name}") and "/__MACOSX" not in path]


def has_suffix(name: str, suffixes: tuple[str, ...]) -> bool:
    return name.lower().endswith(suffixes)


def pictures(names: Iterable[str]) -> list[str]:
    """The visible names with the suffix of a format that is read."""
    return [name for name in visible(names) if has_suffix(name, PICTURES)]


def left_out(names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Pictures in formats that are not read, and a note for each sort of file that is left out."""
    read = (*PICTURES, ".csv", ".txt")
    seen = [name for name in visible(names) if not has_suffix(name, read)]
    unread = [name for name in seen if has_suffix(name, UNREAD)]
    sorts = {
        f"pictures that are not read ({CONVERT})": unread,
        f"videos ({FRAMES})": [name for name in seen if has_suffix(name, VIDEOS)],
        "archives (unpack them there if they hold pictures)": [
            name for name in seen if has_suffix(name, ARCHIVES)
        ],
    }
    known = {*(name for files in sorts.values() for name in files)}
    sorts["other files"] = [name for name in seen if name not in known]
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
    units = find_units(tree, images)
    if "labels" not in tables:
        return RawDataset("celeba", images, _labels([], []), tables, _celeba_missing(names),
                          units=units)  # fmt: skip
    table = tables["labels"]
    labels, notes = _table_labels(table, Images(images))
    stems = stems_of(labels["file"])
    labels["identity"] = _joined(stems, tables.get("identities"))
    parts = _joined(stems, tables.get("parts"))
    labels["part"] = [CELEBA_PARTS.get(p, p) if p is not None else None for p in parts]
    official = [name for name in ATTRIBUTES if name in table.columns]
    others = [name for name in table.columns if name not in official]
    columns = read_columns(
        table.name, labels, official + others, config, table.header, binary=official
    )
    notes += [
        f"{t.name}: line ends are {t.line_end}, final newline "
        f"{'present' if t.final_newline else 'missing'}, form {t.format}"
        for t in tables.values()
        if t.line_end != "CRLF" or not t.final_newline or t.format != "text"
    ]
    return RawDataset("celeba", images, labels, tables, "", columns, units, tuple(notes))


def _celeba_missing(names: list[str]) -> str:
    """The missing label file, and what to do about CelebA-HQ, which has another one."""
    high = _find(names, (HQ_LABELS,))
    return "list_attr_celeba.txt" + (f" ({high} is CelebA-HQ's: use kind csv)" if high else "")


def _rafd(tree: Tree, config: DataConfig) -> RawDataset:
    names = tree.names()
    images = pictures(names)
    labels = _labels(images, images)
    base = pd.Series([image.rpartition("/")[2] for image in images], dtype="str")
    matched = base.str.extract(re.compile(RAFD_NAME))
    for column in ("camera", "group", "gender", "expression", "gaze"):
        labels[column] = matched[column]
    labels["identity"] = matched["identity"]
    return RawDataset("rafd", images, labels, units=find_units(tree, images))


def _folders(tree: Tree, config: DataConfig) -> RawDataset:
    """`<class>/…`, with or without parts; see `training.data.folders`."""
    names = tree.names()
    images = pictures(names)
    labels = _labels(images, images)
    found = arrange(images)
    labels["part"] = found.parts
    labels["class"] = found.classes
    others = [name for name in visible(names) if has_suffix(name, (*UNREAD, *VIDEOS, *ARCHIVES))]
    every = arrange([*images, *others])
    vanished = set() if every.fault else {*every.classes} - {*found.classes, None}
    return RawDataset(
        "folders", images, labels, units=find_units(tree, images), notes=found.notes,
        layout=found.fault, vanished=tuple(sorted(map(str, vanished))),
    )  # fmt: skip


def _csv(tree: Tree, config: DataConfig) -> RawDataset:
    names = tree.names()
    images, notes = _high_quality(names, pictures(names))
    units = find_units(tree, images)
    measured = set(units.files) if units else set()
    tables = [n for n in names if n.lower().endswith(".csv") and n not in measured]
    file = _find(names, ("labels.csv", HQ_LABELS)) or (tables[0] if len(tables) == 1 else "")
    file = file or _find(names, ("list_attr_celeba.txt", "list_attr_celeba.csv"))
    attributes = config.domains or config.attributes
    if not tables and units and set(attributes) <= set(UNITS):  # intensities are the only labels
        return RawDataset("csv", images, _labels(images, images), units=units)
    if not file:
        missing = "labels.csv" + (f" (one of {', '.join(tables[:5])})" if tables else "")
        return RawDataset("csv", images, _labels([], []), missing=missing, units=units)
    others = [name for name in tables if name != file]
    if others:
        notes.append(f"labels are read from {file}, not from {', '.join(others[:5])}")
    table = read_table(file, tree.read(file))
    labels, more = _table_labels(table, Images(images, file))
    identity, split = label_column("identity"), label_column("split")
    if identity in table.columns:
        labels["identity"] = labels.pop(identity).astype("str")
    if split in table.columns:
        parts = labels.pop(split).astype("str")
        labels["part"] = [CSV_PARTS.get(part.lower(), part) for part in parts]
    names = [c for c in table.columns if c in labels.columns]
    columns = read_columns(table.name, labels, names, config, table.header)
    return RawDataset("csv", images, labels, {"labels": table}, "", columns, units, (*notes, *more))


def _high_quality(names: list[str], images: list[str]) -> tuple[list[str], list[str]]:
    """The pictures without CelebAMask-HQ's masks, which are not faces, and a note on them."""
    faces = [image for image in images if HQ_IMAGES in image.split("/")]
    if not faces or not _find(names, (HQ_LABELS,)) or len(faces) == len(images):
        return images, []
    left = len(images) - len(faces)
    return faces, [f"CelebA-HQ: only the {len(faces)} pictures of {HQ_IMAGES}/, not {left} others"]


SOURCES: dict[str, Reader] = {"celeba": _celeba, "rafd": _rafd, "folders": _folders, "csv": _csv}


def _labels(files: list[str], found: list[str]) -> pd.DataFrame:
    """Rows without labels; `found` are the images of the files."""
    return pd.DataFrame(
        {
            "line": pd.Series([0] * len(files), dtype="int64"),
            "file": pd.Series(files, dtype="str"),
            "image": pd.Series(found, dtype="str"),
            "inside": pd.Series([True] * len(files), dtype="bool"),
            "identity": pd.Series([""] * len(files), dtype="str"),
            "part": pd.Series([""] * len(files), dtype="str"),
        }
    )


def _table_labels(table: Table, images: Images) -> tuple[pd.DataFrame, list[str]]:
    """The rows of a label table with their images, and notes on how both were read."""
    files = table.rows["file"].to_numpy(object).tolist()
    found, inside, note = locate(files, images)
    labels = _labels(files, found).assign(line=table.rows["line"], inside=inside)
    labels = pd.concat([labels, table.rows[table.columns]], axis=1)
    notes = [f"{table.name}: {note}"] if note else []
    return labels, notes


def _joined(stems: list[str], table: Table | None) -> list[str | None] | list[str]:
    """The second column of a two-column table by name: "" without a table, None for a gap."""
    if table is None or table.format not in TABLES or not table.columns:
        return [""] * len(stems)
    values = table.rows[table.columns[0]].astype("str").to_numpy(object)
    known = dict(zip(stems_of(table.rows["file"]), values, strict=True))
    return [known.get(name) for name in stems]


def stems_of(files: pd.Series) -> list[str]:
    """The base names without their suffix."""
    return [stem(plain(file).rpartition("/")[2]) for file in files.to_numpy(object)]


def repeated(table: Table) -> pd.DataFrame:
    """Rows (line, file) of a partition or identity table whose image has an earlier row."""
    again = pd.Series(stems_of(table.rows["file"]), dtype="str").duplicated()
    return table.rows.loc[again.to_numpy(), ["line", "file"]]

"""Unify the raw labels of n data sets in one label space and one table (StarGAN eq. 7).

Preprocessing keeps labels as in their source; here they become vectors in [0, 1].
"""

import io
import re
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from training.core import cli
from training.core.cli import means
from training.core.config import DataConfig, from_json
from training.core.files import write_bytes, write_json
from training.core.temporary import temporary_folder
from training.data.columns import attribute_column, class_column
from training.data.labels import CONFLICTS, HAIR, LabelSet, LabelSpace
from training.data.sources import say_notes
from training.data.split import SPLITS
from training.storage.meta import DatasetMeta
from training.storage.store import Manifest, Store, open_store

main = cli.program("python -m training.data.unify", __doc__)
IMAGE_COLUMNS = ("shard", "row", "split", "identity", "file", "sha256")
AU = re.compile(r"AU\d\d")  # OpenFace's action units
AU_MAX = 5  # their highest intensity


class UnifyError(ValueError):
    """Labels that cannot become one label space."""


@main.default
def unify(
    *,
    images: Annotated[Path, means('manifest of kind "images"')],
    data_config: Annotated[str, means("DataConfig as JSON; empty: its defaults")] = "",
    out: Annotated[Path, means("the manifest to write")],
    store: Annotated[Store | None, cli.INTERNAL] = None,
) -> Manifest[DatasetMeta]:
    """Write and return a manifest of kind "dataset": the images' files and two more.

    `label_space.json` is `LabelSpace.to_json()`. Attributes of celeba and csv data sets are binary;
    hair colours and AttGAN's conflicts exclude each other. rafd's expressions, folders' classes and
    a table's column of words are one-hot in alphabetical order. If every configured attribute is an
    action unit (AU12), the labels are continuous, intensity / 5, and images without a measurement
    are left out. Attributes configured as `domains` become classes; images with none or several of
    them are left out.
    `labels.parquet` has one row per kept image, in the order of the data sets and their sources:
    dataset, shard, row, split, identity, file, sha256, label (list of float32 in [0, 1], the labels
    of its data set).

    Raises UnifyError for an attribute that the source lacks, a value outside its domain (with file
    and row) and a class or attribute without a training image.
    """
    store = store or open_store()
    manifest = Manifest.read(images, "images")
    config = from_json(DataConfig, data_config)
    sets, tables = [], []
    for dataset in manifest.meta.datasets:
        name, kind = dataset.name, dataset.kind
        frame = pd.read_parquet(manifest.local(f"{name}.parquet", store))
        labels, values = read_labels(name, kind, frame, config)
        usable, known = (frame["reason"] == "").to_numpy(), ~np.isnan(values).any(1)
        if config.domains and (others := int((usable & ~known).sum())):
            classes = ", ".join(config.domains)
            note = f"{others} of {usable.sum()} images have none or several of {classes}, left out"
            say_notes(name, [note])
        kept = usable & known
        frame, values = frame[kept], values[kept]
        check_trained(labels, values, frame["split"].to_numpy(), config)
        sets.append(labels)
        tables.append(_table(name, frame, values))
    space = LabelSpace(tuple(sets))
    with temporary_folder() as folder:
        buffer = io.BytesIO()
        pq.write_table(pa.concat_tables(tables), buffer, compression="zstd")
        files = {n: Path(folder) / n for n in ("labels.parquet", "label_space.json")}
        write_bytes(files["labels.parquet"], buffer.getvalue())
        write_json(files["label_space.json"], space.to_json())
        rows = {"labels.parquet": sum(table.num_rows for table in tables)}
        meta = DatasetMeta(
            data=manifest.meta.data,
            source=manifest.meta.source,
            datasets=manifest.meta.datasets,
            md5=manifest.meta.md5,
            images=manifest.digest,
            dim_g=space.dim_g,
        )
        result = Manifest.build(
            "dataset", files, meta, rows=rows, keep=manifest.entries, store=store
        )
    result.write(out, store)
    return result


def read_labels(
    name: str, kind: str, frame: pd.DataFrame, config: DataConfig
) -> tuple[LabelSet, np.ndarray]:
    """The label set of one data set and its labels, float32 (rows of `frame`, labels).

    Unmeasured intensities are NaN, as are the classes of images with none or several.
    """
    if kind != "folders" and not config.domains and all(AU.fullmatch(a) for a in config.attributes):
        return _continuous(name, frame, config.attributes)
    classes = class_column(kind, frame, config)
    if classes:
        return _onehot(name, frame, classes)
    if config.domains:
        return _domains(name, frame, config.domains)
    return _binary(name, frame, config.attributes)


def _check_known(name: str, frame: pd.DataFrame, attributes: tuple[str, ...]) -> None:
    known = [c for c in frame.columns if c not in (*IMAGE_COLUMNS, "reason")]
    for attribute in attributes:
        if attribute_column(attribute) not in known:
            raise UnifyError(f'{name}: no attribute "{attribute}"; known: {", ".join(known)}')


def _continuous(
    name: str, frame: pd.DataFrame, attributes: tuple[str, ...]
) -> tuple[LabelSet, np.ndarray]:
    _check_known(name, frame, attributes)
    for unit in attributes:
        good = frame[unit].isna() | frame[unit].between(0, AU_MAX)
        _check_domain(name, unit, frame, good, f"within 0…{AU_MAX}")
    values = frame[list(attributes)].to_numpy(np.float32) / AU_MAX
    return LabelSet(name, "continuous", attributes), values


def _binary(
    name: str, frame: pd.DataFrame, attributes: tuple[str, ...]
) -> tuple[LabelSet, np.ndarray]:
    _check_known(name, frame, attributes)
    hair = tuple(n for n in attributes if n in HAIR)
    conflicts = tuple(pair for pair in CONFLICTS if set(pair) <= set(attributes))
    labels = LabelSet(name, "binary", attributes, (hair,) if len(hair) > 1 else (), conflicts)
    columns = [_zero_one(name, frame, attribute) for attribute in attributes]
    return labels, np.stack(columns, 1).astype(np.float32)


def _domains(
    name: str, frame: pd.DataFrame, attributes: tuple[str, ...]
) -> tuple[LabelSet, np.ndarray]:
    """Binary attributes as classes; a single attribute gives two, without and with it."""
    _check_known(name, frame, attributes)
    values = np.stack([_zero_one(name, frame, a) for a in attributes], 1).astype(np.float32)
    if len(attributes) == 1:
        names = (f"not {attributes[0]}", attributes[0])
        return LabelSet(name, "onehot", names), np.concatenate([1 - values, values], 1)
    values[values.sum(1) != 1] = np.nan
    return LabelSet(name, "onehot", attributes), values


def _zero_one(name: str, frame: pd.DataFrame, attribute: str) -> np.ndarray:
    """A column of -1/1 or 0/1 as 0/1."""
    column = attribute_column(attribute)
    values = pd.to_numeric(frame[column], errors="coerce")
    used = set(values[frame["reason"] == ""])
    allowed = {0, 1} if 0 in used else {-1, 1}
    _check_domain(name, column, frame, values.isin(allowed), " or ".join(map(str, sorted(allowed))))
    return (values == 1).to_numpy()


def _onehot(name: str, frame: pd.DataFrame, column: str) -> tuple[LabelSet, np.ndarray]:
    values = frame[column]
    _check_domain(name, column, frame, values.notna() & (values != ""), "a class name")
    classes = tuple(sorted(set(values[frame["reason"] == ""])))
    if len(classes) < 2:
        raise UnifyError(
            f"{name}: only one {column} ({classes[0]}); two or more are needed: add images of "
            "another, and pass the folder above the classes, not one of them"
        )
    onehot = np.stack([values == c for c in classes], 1).astype(np.float32)
    return LabelSet(name, "onehot", classes), onehot


def _check_domain(
    name: str, column: str, frame: pd.DataFrame, good: pd.Series, domain: str
) -> None:
    """Raise UnifyError for used rows whose value is not `good`; rows are numbered from 1."""
    bad = frame.index[~good & (frame["reason"] == "")]
    if len(bad):
        some = "; ".join(
            f"{frame.at[i, 'file']} (row {i + 1}): {frame.at[i, column]!r}" for i in bad[:3]
        )
        raise UnifyError(
            f"{name}: {len(bad)} of {len(frame)} values of {column} are not {domain}: {some}; "
            "correct the label file"
        )


def check_trained(
    labels: LabelSet, values: np.ndarray, split: np.ndarray, config: DataConfig
) -> None:
    """Raise UnifyError for labels that no training image has, or that all have.

    values: (images, labels); split: each image's part.
    """
    train = values[split == "train"]
    for position, label in enumerate(labels.names):
        share = train[:, position].sum() / max(len(train), 1)
        if share == 0 or (labels.kind == "binary" and share == 1):
            value = 0 if share else 1
            rare = (values[:, position] > 0) == value
            parts = [f"{int((split[rare] == p).sum())} {p}" for p in SPLITS]
            raise UnifyError(
                f"{labels.name}: {'every' if share else 'no'} training image (of {len(train)}) has "
                f"{label}; of all {len(values)} images {int(rare.sum())} "
                f"{'lack' if share else 'have'} it ({', '.join(parts)}). "
                f"{_fix(labels, label, rare, config)}"
            )


def _fix(labels: LabelSet, label: str, rare: np.ndarray, config: DataConfig) -> str:
    """What to do about a label that is constant in training, given the images that differ."""
    what = f"leave {label} out of the data set"
    if labels.kind == "onehot" and len(labels.names) == 2:
        what = "two classes are needed"
    elif labels.kind == "binary":
        what = f"leave {label} out of data.attributes"
    if config.limit:
        return f"Raise data.limit (now {config.limit}), or {what}"
    if rare.sum() >= len(SPLITS):
        return f"Choose another split (data.fold), add such images, or {what}"
    return f"Add such images, at least {len(SPLITS)} in all, or {what}"


def _table(name: str, frame: pd.DataFrame, values: np.ndarray) -> pa.Table:
    facts = pa.Table.from_pandas(frame[list(IMAGE_COLUMNS)], preserve_index=False)
    names = pa.array([name] * len(frame), pa.string())
    facts = facts.add_column(0, "dataset", names)
    return facts.append_column(
        "label", pa.array(list(values), pa.list_(pa.float32()))
    ).replace_schema_metadata(None)


if __name__ == "__main__":
    cli.entry_point(main)

"""The labels and splits that the data steps will make of raw data, before they run."""

from pathlib import Path
from typing import NamedTuple

from training.core.config import DataConfig
from training.data.archive import Folder
from training.data.forgotten import NOBODY, Pseudonyms
from training.data.labels import CONFLICTS, HAIR, UNITS, LabelSet


class Preview(NamedTuple):
    """The labels of one data set, and the number of its images in each split."""

    labels: LabelSet
    splits: dict[str, int]

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {split}" for split, count in self.splits.items())
        return f"{self.labels.name}: {counts} images; labels {', '.join(self.labels.names)}"


def preview(
    name: str, kind: str, folder: Path, config: DataConfig, forgotten: Pseudonyms = NOBODY
) -> Preview:
    """Read the names and labels in `folder`, no pixels; images may still turn out unusable.

    Images of `forgotten` people are left out, as the data steps do.

    Raises SourceError for files that cannot be read as `kind`, and ValueError for a split without
    an image and a label without a training image.
    """
    import numpy as np  # with pandas: a second that runs without raw= do not need

    from training.data.preprocess import check_splits, plan
    from training.data.sources import read_source
    from training.data.split import SPLITS
    from training.data.unify import check_trained, read_labels

    source = read_source(kind, Folder(folder), config)
    frame, split_by = plan(source.frame, name, kind, config, forgotten)
    labels, values = read_labels(name, kind, frame, config)
    kept = (frame["reason"] == "").to_numpy() & ~np.isnan(values).any(1)
    split = frame["split"].to_numpy()
    splits = {part: int((kept & (split == part)).sum()) for part in SPLITS}
    check_splits(frame[kept], name, split_by, config.limit)
    check_trained(labels, values[kept], split[kept], config)
    return Preview(labels, splits)


def expected(name: str, kind: str, config: DataConfig, classes: tuple[str, ...]) -> LabelSet:
    """The labels of a data set whose files are not read here, as `unify` makes them.

    `classes` stand for the unknown classes of folders and of a table's single column, which may
    hold words; see `is_known`.
    """
    chosen = config.domains or config.attributes
    if kind != "folders" and not config.domains and set(chosen) <= set(UNITS):
        return LabelSet(name, "continuous", chosen)
    if kind == "rafd":
        from training.data.layouts import EXPRESSIONS  # with pandas

        return LabelSet(name, "onehot", EXPRESSIONS)
    if kind == "folders":
        return LabelSet(name, "onehot", classes)
    if len(config.domains) == 1:
        return LabelSet(name, "onehot", (f"not {chosen[0]}", chosen[0]))
    if config.domains:
        return LabelSet(name, "onehot", chosen)
    hair = tuple(n for n in chosen if n in HAIR)
    conflicts = tuple(pair for pair in CONFLICTS if set(pair) <= set(chosen))
    return LabelSet(name, "binary", chosen, (hair,) if len(hair) > 1 else (), conflicts)


def is_known(kind: str, config: DataConfig) -> bool:
    """Whether `expected` is sure of the labels."""
    chosen = config.domains or config.attributes
    return kind != "folders" and not (kind == "csv" and len(chosen) == 1)

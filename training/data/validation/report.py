"""The validation report: one page per run, with sample images cropped as for training."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from training.core.config import DataConfig
from training.data.archive import Tree
from training.data.columns import GROUPS, VALUES
from training.data.crop import crop_image
from training.data.layouts import RawDataset
from training.data.pictures import UnusableError
from training.data.validation.runner import LISTED, Finding, cell_text
from training.rendering import html
from training.rendering.fonts import legend
from training.rendering.grids import grid

if TYPE_CHECKING:
    from training.data.validation.runner import Outcome

SAMPLES = 12  # evenly spaced images of each data set
COLUMNS = 6


class Page(NamedTuple):
    """The section of one data set."""

    name: str
    raw: RawDataset
    findings: Sequence[Finding]
    people: int
    pictures: list[tuple[bytes, str]]  # with legends
    summary: list[tuple[str, str, int]]  # property, value, images
    classes: list[tuple[str, int, float]]  # label, images, share


def render(
    outcomes: Sequence["Outcome"],
    trees: Mapping[str, Tree],
    config: DataConfig,
    meta: Mapping[str, Any],
) -> str:
    """The page as HTML text; names and labels are escaped."""
    about = [(key, meta.get(key)) for key in ("source", "revision", "md5")]
    return html.render(
        "validation",
        failed=sum(len(outcome.failed) for outcome in outcomes),
        origin=[(key, value) for key, value in about if value],
        datasets=[_dataset(outcome, trees[outcome.name], config) for outcome in outcomes],
        offending=_offending,
        listed=LISTED,
    )


def _dataset(outcome: "Outcome", tree: Tree, config: DataConfig) -> Page:
    tables = outcome.frames
    return Page(
        outcome.name,
        outcome.raw,
        outcome.findings,
        len(tables["identities"]),
        _pictures(outcome.raw, tree, config),
        _summary(tables),
        [(r.label, r.count, float(r.share)) for r in tables["classes"].itertuples()],
    )


def _offending(finding: Finding) -> list[tuple[tuple[str, ...], list[list[str]]]]:
    """Column names and rows of a finding; rows with the same columns share a table."""
    return [
        (
            names,
            [[cell_text(v) for v in row.values()] for row in finding.rows if tuple(row) == names],
        )
        for names in dict.fromkeys(tuple(row) for row in finding.rows)
    ]


def _summary(tables: Mapping[str, pd.DataFrame]) -> list[tuple[str, str, int]]:
    """Counts of splits, sizes and modes: property, value, images."""
    rows: list[tuple[str, str, int]] = []
    for what, frame, column in (
        ("split", "labels", "part"),
        ("size", "images", "size"),
        ("mode", "images", "mode"),
        ("format", "images", "format"),
    ):
        counts = tables[frame][column].replace("", "not given").value_counts()
        rows += [(what, str(value), int(n)) for value, n in counts.head(6).items()]
    return rows


def _pictures(raw: RawDataset, tree: Tree, config: DataConfig) -> list[tuple[bytes, str]]:
    """PNGs and legends: sample images with their labels, cropped as for training.

    The resize is the exact one for every setting, so that the page does not depend on it.
    """
    config = replace(config, resize="exact")
    labels = raw.labels[raw.labels["image"] != ""]
    chosen = labels.iloc[
        np.unique(np.linspace(0, len(labels) - 1, min(SAMPLES, len(labels))).astype(int))
    ]
    images, titles = [], []
    for row in chosen.to_dict("records"):
        try:
            images.append(
                np.ascontiguousarray(crop_image(tree.read(row["image"]), raw.kind, config))
            )
        except UnusableError:
            continue
        titles.append(_title(row, raw))
    return [
        (grid([images[i : i + COLUMNS]], part := titles[i : i + COLUMNS]), legend(part))
        for i in range(0, len(images), COLUMNS)
    ]


def _title(row: Mapping[Any, Any], raw: RawDataset) -> str:
    columns = raw.columns
    if columns.needed and not columns.classes:
        on = [n for n in columns.needed if n in row and VALUES.get(str(row[n])) == 1]
        return " ".join(on) or "none"
    shown = dict.fromkeys((raw.classes, *(c for c in raw.texts if c.casefold() not in GROUPS)))
    return " ".join(str(row[c]) for c in shown if c in row)

"""Scores of single edits by group of the people shown: gender, age, skin, where labels say so.

Which labels those are is a rule, not a setting: the columns of the data set's own label table, or
its labels where there is no table, whose names are in `GROUPS`. Groups are compared over the same
edits, without those of the label itself, which are other edits for either group.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from training.core.config import EvalConfig
from training.data.columns import GROUPS
from training.data.dataset import Faces
from training.evaluation.metrics import Interval, resampled
from training.evaluation.records import GroupGap, GroupScore
from training.evaluation.summary import certain, clusters
from training.storage.store import Manifest, Store

PEOPLE = 3  # of a group, at least, for a score
MEASURES = {  # name -> column of the score table
    "success": "success", "preservation": "preservation", "identity": "identity_cosine",
    "background": "background",
}  # fmt: skip


class _Means(NamedTuple):
    """Means (g,) of groups, and their bootstrap draws (draws, g) from the same people."""

    value: np.ndarray
    drawn: np.ndarray


def by_group(
    table: pd.DataFrame, dataset: Manifest[Any], faces: Faces, config: EvalConfig, store: Store
) -> tuple[list[GroupScore], list[GroupGap]]:
    """Scores of each group, and each measure's largest gap between two groups of one label.

    `table` is the score table with the columns of `realism`. Intervals of scores are 95 %; that of
    a gap is so wide that of all compared gaps at most one in twenty would exclude 0 by chance.
    """
    scores: list[GroupScore] = []
    gaps: list[GroupGap] = []
    for i, labels in enumerate(faces.space.sets):
        rows = table[(table["dataset"] == labels.name) & table["single"] & table["changed"]]
        columns = _columns(dataset, faces, i, store)
        measured: dict[str, list[tuple[str, list[str], _Means]]] = {}
        for label in columns.columns:
            shown = rows.assign(group=rows["file"].map(columns[label]))
            shown = shown[shown["group"].notna()]
            found, means = _scores(labels.name, str(label), shown, config)
            scores += found
            for measure, (names, mean) in means.items():
                measured.setdefault(measure, []).append((str(label), names, mean))
        known = {(s.label, s.group): s for s in scores if s.dataset == labels.name}
        for measure, several in measured.items():
            if (gap := _largest(labels.name, measure, several, known)) is not None:
                gaps.append(gap)
    return scores, gaps


def _columns(dataset: Manifest[Any], faces: Faces, index: int, store: Store) -> pd.DataFrame:
    """Groups by label (columns) and file (rows): a class's name, or `Male` and `not Male`."""
    labels, part = faces.space.sets[index], faces.parts[index]
    if f"{labels.name}.parquet" in {entry.name for entry in dataset.entries}:
        raw = pd.read_parquet(dataset.local(f"{labels.name}.parquet", store)).set_index("file")
    elif labels.kind == "binary":
        raw = pd.DataFrame(part.labels.numpy(), part.files, list(labels.names))
    else:
        raw = pd.DataFrame(index=part.files)
    chosen = [name for name in raw.columns if str(name).casefold() in GROUPS]
    return raw[chosen].apply(_named)


def _named(column: pd.Series) -> pd.Series:
    if not pd.api.types.is_numeric_dtype(column):
        return column.where(column != "")
    names = {True: str(column.name), False: f"not {column.name}"}
    return (column > 0).map(names)


def _scores(
    dataset: str, label: str, rows: pd.DataFrame, config: EvalConfig
) -> tuple[list[GroupScore], dict[str, tuple[list[str], _Means]]]:
    """A score of each group of one label, and the means of those with enough people."""
    rows = rows[rows["task"] != label]
    sizes = {
        str(name): (len(group), len(np.unique(clusters(group))))
        for name, group in rows.groupby("group")
    }
    large = [name for name, (_, people) in sizes.items() if people >= PEOPLE]
    means: dict[str, tuple[list[str], _Means]] = {}
    values: dict[str, dict[str, tuple[float, float, float]]] = {name: {} for name in sizes}
    for measure, column in MEASURES.items():
        found = _means(rows[rows["group"].isin(large)], large, column, config)
        if found is None:
            continue
        means[measure] = large, found
        for k, name in enumerate(large):
            low, high = _interval(found.drawn[:, k], sizes[name][1], 0.05)
            values[name][measure] = float(found.value[k]), low, high
    scores = [GroupScore(dataset, label, name, *sizes[name], values[name]) for name in sizes]
    return scores, means


def _means(
    rows: pd.DataFrame, groups: Sequence[str], column: str, config: EvalConfig
) -> _Means | None:
    """Means over the edits that every group has; None without any such edit."""
    if column not in rows:
        return None
    rows = rows[rows[column].notna()]
    if column == "preservation":
        rows = rows[rows["others"] > 0]
    having = rows.groupby("task")["group"].nunique()
    rows = rows[rows["task"].isin(having.index[having == len(groups)])]
    if rows.empty:
        return None
    cells = rows["group"].map({name: f"{k:06d}" for k, name in enumerate(groups)}) + rows["task"]
    tasks = rows["task"].nunique()
    shape = (len(groups), tasks)
    value = rows.groupby(cells)[column].mean().to_numpy().reshape(shape).mean(1)
    drawn = resampled(
        rows[column].to_numpy(float), cells.to_numpy(str), clusters(rows), config.bootstrap
    )
    return _Means(value, _known_mean(drawn[:, :, 0].reshape(-1, *shape)))


def _known_mean(values: np.ndarray) -> np.ndarray:
    """Means over the last axis of what is known; NaN where nothing is."""
    known = ~np.isnan(values)
    number = known.sum(-1)
    sums = np.where(known, values, 0.0).sum(-1)
    return np.divide(sums, number, out=np.full(sums.shape, np.nan), where=number > 0)


def _interval(drawn: np.ndarray, people: int, level: float) -> Interval:
    """The interval of a mean in 0..1, whose draws may lack a group that nobody was drawn from."""
    drawn = drawn[~np.isnan(drawn)]
    ends = certain(drawn, people)
    low, high = ends or np.percentile(drawn, [50 * level, 100 - 50 * level])
    return float(low), float(high)


def _largest(
    dataset: str,
    measure: str,
    several: Sequence[tuple[str, list[str], _Means]],
    scores: Mapping[tuple[str, str], GroupScore],
) -> GroupGap | None:
    """The largest of all gaps between two groups of one label; None without two groups."""
    pairs = [
        (label, names, means, i, j)
        for label, names, means in several
        for i, j in combinations(range(len(names)), 2)
    ]
    if not pairs:
        return None
    label, names, means, i, j = max(pairs, key=lambda p: abs(p[2].value[p[3]] - p[2].value[p[4]]))
    if means.value[i] < means.value[j]:
        i, j = j, i
    gap = means.drawn[:, i] - means.drawn[:, j]
    gap = gap[~np.isnan(gap)]
    level = 0.05 / len(pairs)  # Bonferroni's, as the largest was chosen
    low, high = np.percentile(gap, [50 * level, 100 - 50 * level])
    value = float(means.value[i] - means.value[j])
    if low == high:  # nothing to resample: from the intervals of both (Newcombe 1998, method 10)
        one, two = (scores[label, names[k]].scores[measure] for k in (i, j))
        low = value - np.hypot(one[0] - one[1], two[2] - two[0])
        high = value + np.hypot(one[2] - one[0], two[0] - two[1])
    return GroupGap(
        dataset, measure, label, names[i], names[j], value, float(low), float(high), len(pairs)
    )

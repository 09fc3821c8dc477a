"""Distance of edits from real images with the edits' target labels, and its interval.

Where (nearly) every edit has a real image of the same person with its target labels, as in RaFD,
whose people show every expression, it is the distance from that image (`paired`). Elsewhere it is
the kernel distance (KID) of all edits from all real images (`distance`).

KID (Bińkowski et al. 2018, "Demystifying MMD GANs") is the squared maximum mean discrepancy of two
sets of features under the kernel (x·y/d + 1)³. Unlike a Fréchet distance it has no bias at small
samples. We differ in three points, because edits of few people are compared:

- Real images are weighted so that every combination of labels is as frequent as among the edits'
  targets: most blond people of a data set may be women, but not most of those edited to be blond.
- Pairs of images of one person are left out; they are alike for another reason. The estimate is
  a U-statistic over people, and the interval a jackknife that leaves out one person at a time (a
  bootstrap would draw a person twice and count it as a pair of alike people).
- The distance is compared with that of the unedited inputs from the same real images, since its
  scale depends on the features: below 1, edits are nearer to the target than their inputs were.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

PEOPLE = 3  # per combination of labels and side, so that two are left if one is left out
MATCHED = 0.8  # share of edits that must have real images of their combination of labels


class Sample(NamedTuple):
    """Features (n, d) of images with their labels (n, k) and the cluster (n,) each belongs to."""

    features: np.ndarray
    labels: np.ndarray
    people: np.ndarray


class Distance(NamedTuple):
    """The distance of one domain, and its value without each of the `people`.

    `edits` and `reals` are the numbers of compared images, `left` that of edits without real images
    of their combination (and person, if paired); `matched` is False if that were too many and only
    the edited labels were matched.
    """

    value: float
    edits: int
    reals: int
    left: int
    matched: bool
    people: np.ndarray
    without: np.ndarray  # (people,)


class Estimate(NamedTuple):
    """A number of all domains with its 95 % interval."""

    value: float
    low: float
    high: float


def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(x·y/d + 1)³ of all rows of features a (n, d) and b (m, d): (n, m)."""
    return np.asarray((a @ b.T / a.shape[1] + 1.0) ** 3)


def _combinations(edits: Sample, reals: Sample) -> tuple[np.ndarray, np.ndarray, bool]:
    """Numbers of the combinations of labels of edits and of real images, −1 for those left out."""
    rows = np.concatenate([edits.labels, reals.labels]) > 0.5
    _, codes = np.unique(rows, axis=0, return_inverse=True)
    sides = np.split(codes.reshape(-1), [len(edits.labels)])
    enough = [
        {c for c in np.unique(side) if len(np.unique(sample.people[side == c])) >= PEOPLE}
        for side, sample in zip(sides, (edits, reals), strict=True)
    ]
    both = np.array(sorted(enough[0] & enough[1]), dtype=int)
    kept = np.isin(sides[0], both)
    if kept.mean() < MATCHED:
        return np.zeros(len(edits.labels), int), np.zeros(len(reals.labels), int), False
    one, two = (np.where(np.isin(side, both), np.searchsorted(both, side), -1) for side in sides)
    return one, two, True


def distance(edits: Sample, reals: Sample) -> Distance | None:
    """KID of edits from real images of the same domain; None with too few people on a side."""
    if min(len(np.unique(s.people)) if len(s.people) else 0 for s in (edits, reals)) < PEOPLE:
        return None
    first, second, matched = _combinations(edits, reals)
    count = int(max(first.max(), second.max())) + 1
    share = np.bincount(first[first >= 0], minlength=count) / (first >= 0).sum()
    here, there = first >= 0, second >= 0
    features = np.concatenate([edits.features[here], reals.features[there]]).astype(np.float64)
    names = np.concatenate([edits.people[here], reals.people[there]])
    # group: side and combination
    groups = np.concatenate([first[here], second[there] + count])
    member = np.eye(2 * count)[groups]
    weight = np.concatenate([share, -share])
    people, person = np.unique(names, return_inverse=True)
    values = kernel(features, features)
    apart = (person[:, None] != person[None, :]).astype(np.float64)
    sums, pairs = (values * apart) @ member, apart @ member  # (n, groups), of each image
    total, number = member.T @ sums, member.T @ pairs

    def estimate(total: np.ndarray, number: np.ndarray) -> float:
        means = np.divide(total, number, out=np.zeros_like(total), where=number > 0)
        return float(weight @ means @ weight)

    without = np.empty(len(people))
    order = np.argsort(person, kind="stable")
    for i, rows in enumerate(np.split(order, np.cumsum(np.bincount(person))[:-1])):
        lost, pairs_lost = member[rows].T @ sums[rows], member[rows].T @ pairs[rows]
        without[i] = estimate(total - lost - lost.T, number - pairs_lost - pairs_lost.T)
    return Distance(
        estimate(total, number), int(here.sum()), int(there.sum()), int((~here).sum()), matched,
        people, without,
    )  # fmt: skip


def paired(edits: Sample, reals: Sample) -> Distance | None:
    """Mean squared distance of edits from real images of the same person with the target labels.

    In features, divided by their number d; an edit's distance is the mean over all such images.
    People's own looks fall out, so that fewer people can decide. None if fewer than `MATCHED` of
    the edits, or fewer than `PEOPLE` people, have such an image.
    """
    names, who = np.unique(np.concatenate([edits.people, reals.people]), return_inverse=True)
    shown = np.concatenate([edits.labels, reals.labels]) > 0.5
    _, codes = np.unique(np.c_[who, shown], axis=0, return_inverse=True)
    mine, theirs = np.split(codes.reshape(-1), [len(edits.labels)])
    here = np.isin(mine, theirs)
    person = who[: len(mine)][here]
    known = np.unique(person)
    if not len(mine) or here.mean() < MATCHED or len(known) < PEOPLE:
        return None
    used = np.isin(theirs, mine)
    member = np.eye(codes.max() + 1)[:, theirs[used]]  # (combinations, reals)
    member /= member.sum(1, keepdims=True).clip(min=1)
    real, edit = (side.astype(np.float64) for side in (reals.features[used], edits.features[here]))
    centre, power = (member @ real)[mine[here]], (member @ np.square(real).sum(1))[mine[here]]
    away = (np.square(edit).sum(1) - 2 * (edit * centre).sum(1) + power) / real.shape[1]
    sums, counts = (np.bincount(person, w, len(names))[known] for w in (away, np.ones_like(away)))
    without = (away.sum() - sums) / (len(away) - counts)
    left = int((~here).sum())
    return Distance(
        float(away.mean()), len(away), int(used.sum()), left, True, names[known], without
    )


def _replicates(distances: Sequence[Distance]) -> np.ndarray:
    """Means over domains without each of all people (people,)."""
    people = np.unique(np.concatenate([d.people for d in distances]))
    changed = np.zeros(len(people))
    for d in distances:
        changed[np.searchsorted(people, d.people)] += (d.without - d.value) / len(distances)
    return np.asarray(np.mean([d.value for d in distances]) + changed)


def _interval(value: float, without: np.ndarray) -> Estimate:
    """Student's t interval with the standard error of the delete-one-person jackknife."""
    from scipy.stats import t  # imported here: it takes a third of a second

    n = len(without)
    error = float(np.sqrt((n - 1) / n * np.square(without - without.mean()).sum()))
    half = float(t.ppf(0.975, n - 1)) * error
    return Estimate(value, value - half, value + half)


def mean(distances: Sequence[Distance]) -> Estimate:
    """The mean distance over domains."""
    return _interval(float(np.mean([d.value for d in distances])), _replicates(distances))


def ratio(edits: Sequence[Distance], inputs: Sequence[Distance]) -> Estimate:
    """The mean distance of edits as a multiple of that of their inputs, from the same images."""
    above, below = (np.mean([d.value for d in side]) for side in (edits, inputs))
    with np.errstate(divide="ignore", invalid="ignore"):  # the gate refuses what is not finite
        return _interval(float(above / below), _replicates(edits) / _replicates(inputs))

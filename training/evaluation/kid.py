"""Kernel distance (KID) of edits from real images with the edits' target labels, and its interval.

KID (Bińkowski et al. 2018, "Demystifying MMD GANs") is the squared maximum mean discrepancy of two
sets of features under the kernel (x·y/d + 1)³. Unlike a Fréchet distance it has no bias at small
samples. We differ in three points, because edits of few people are compared:

- Real images are weighted so that every combination of labels is as frequent as among the edits'
  targets: most blond people of a data set may be women, but not most of those edited to be blond.
- Pairs of images of one person are left out; they are alike for another reason. The estimate is
  a U-statistic over people, and the interval a jackknife that leaves out one person at a time (a
  bootstrap would draw a person twice and count it as a pair of alike people).
- `share` divides the distance by the real images' own spread E k(x, x) − E k(x, x′), so that it
  depends less on the scale of the features: 0 for real images, 1 if means lie as far apart as
  single real images lie from their mean.
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
    """KID of one domain, and its value without each of the `people`.

    `spread` is that of the real images, `edits` and `reals` the numbers of compared images, `left`
    that of edits without real images of their combination; `matched` is False if that were too many
    and only the edited labels were matched.
    """

    value: float
    spread: float
    edits: int
    reals: int
    left: int
    matched: bool
    people: np.ndarray
    without: np.ndarray  # (people,)

    @property
    def share(self) -> float:
        return self.value / self.spread


class Estimate(NamedTuple):
    """A mean over domains with its standard error and 95 % interval."""

    value: float
    low: float
    high: float
    people: int


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
    own = values.diagonal()[here.sum() :]
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
    reals_mean = share @ (total / np.maximum(number, 1))[count:, count:] @ share
    same = np.bincount(second[there], own, count) / np.bincount(second[there], minlength=count)
    spread = float(share @ same - reals_mean)
    return Distance(
        estimate(total, number), spread, int(here.sum()), int(there.sum()),
        int((~here).sum()), matched, people, without,
    )  # fmt: skip


def mean(distances: Sequence[Distance], *, shares: bool) -> Estimate:
    """The mean over domains of KID, or of its share of the real images' spread.

    The 95 % interval is Student's t with the standard error of the delete-one-person jackknife.
    """
    from scipy.stats import t  # imported here: it takes a third of a second

    scales = [d.spread if shares else 1.0 for d in distances]
    people = np.unique(np.concatenate([d.people for d in distances]))
    left = np.zeros(len(people))
    for d, scale in zip(distances, scales, strict=True):
        changed = np.zeros(len(people))
        changed[np.searchsorted(people, d.people)] = (d.without - d.value) / scale
        left += changed / len(distances)
    n = len(people)
    error = float(np.sqrt((n - 1) / n * np.square(left - left.mean()).sum()))
    value = float(np.mean([d.value / s for d, s in zip(distances, scales, strict=True)]))
    half = float(t.ppf(0.975, n - 1)) * error
    return Estimate(value, value - half, value + half, n)

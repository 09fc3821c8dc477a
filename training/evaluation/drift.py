"""Whether pictures differ from others as a whole: a kernel test over people, shares, image facts.

The distance is the squared maximum mean discrepancy (Gretton et al. 2012, "A Kernel Two-Sample
Test") of the second judge's features under KID's kernel, unbiased, without pairs of one person. Its
p-value is that of a permutation test (Phipson and Smyth 2010): if both sides were drawn alike, any
other division of the people would give as large a distance as often. People are moved as a whole,
since images of one person are alike; those who are on both sides are exchanged with themselves.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from training.evaluation.kid import PEOPLE, kernel
from training.evaluation.metrics import bootstrap, proportion_interval
from training.evaluation.records import DRIFT_LEVEL, Drift

MOST = 1_000  # images on each side, whose pairs are compared
PERMUTATIONS = 999
BLOCK = 250  # permutations at the same time
DRAWS = 1_000  # of the bootstrap


class TooFewError(ValueError):
    """So few people that no p-value can show drift."""


class Side(NamedTuple):
    """Features (n, d) of images, and the name (n,) of the person whom each shows."""

    features: np.ndarray
    people: np.ndarray


@dataclass(frozen=True)
class Difference:
    """A mean in both sets and its difference, compared minus reference, with a 95 % interval."""

    name: str
    reference: float
    value: float
    difference: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def discrepancies(values: np.ndarray, apart: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Squared discrepancies (m,) of m divisions `sides` (n, m) bool of n images.

    values: kernel (n, n); apart (n, n): whether two images are of different people, else their pair
    is left out. A division with no such pair on a side gives NaN.
    """
    one = sides.astype(np.float64)
    means = []
    for matrix in (values * apart, apart.astype(np.float64)):
        within = (matrix @ one * one).sum(0)
        mixed = (matrix.sum(0) @ one) - within
        rest = matrix.sum() - 2 * mixed - within
        means.append((rest, mixed, within))
    with np.errstate(divide="ignore", invalid="ignore"):
        rest, mixed, within = (total / number for total, number in zip(*means, strict=True))
    return np.asarray(rest + within - 2 * mixed)


def divisions(person: np.ndarray, side: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` random divisions (n, count) bool of images of `person` (n,) int, now on `side` (n,).

    Who is on one side only may get to the other with all images; as many people stay there. Who is
    on both sides keeps the two groups of images, which may be exchanged.
    """
    number = int(person.max()) + 1
    here, there = (np.bincount(person[side == s], minlength=number) > 0 for s in (False, True))
    both = np.logical_and(here, there)
    alone = np.flatnonzero(~both)
    rng = np.random.default_rng(seed)
    moved = np.zeros((number, count), bool)
    moved[alone] = rng.permuted(np.tile(there[alone], (count, 1)), axis=1).T
    exchanged = rng.integers(0, 2, (number, count)).astype(bool)
    return np.where(both[person, None], side[:, None] ^ exchanged[person], moved[person])


def least_p(person: np.ndarray, side: np.ndarray) -> float:
    """The lowest p-value that so many people, at least one, can give: 1 / number of divisions.

    2 / that number if the sides have equally many people who are on one side only: exchanging the
    sides is then another division, with the same distance.
    """
    one, two = (set(person[side == s].tolist()) for s in (False, True))
    both = len(one & two)
    alone = (len(one) - both, len(two) - both)
    logarithm = math.lgamma(sum(alone) + 1) - sum(math.lgamma(n + 1) for n in alone)
    if alone[0] == alone[1]:
        logarithm -= math.log(2)
    return math.exp(-(logarithm + both * math.log(2)))


def drift(
    dataset: str,
    reference: Side,
    compared: Side,
    *,
    permutations: int = PERMUTATIONS,
    level: float = DRIFT_LEVEL,
    seed: int = 0,
) -> Drift:
    """The distance of `compared` from `reference`, both of `dataset`, and its p-value.

    Raises TooFewError, a ValueError, for so few people that no p-value up to `level` is possible.
    """
    names = np.concatenate([reference.people, compared.people])
    side = np.arange(len(names)) >= len(reference.people)
    _, person = np.unique(names, return_inverse=True)
    counts = [len(np.unique(person[side == s])) for s in (False, True)]
    least = max(least_p(person, side), 1 / (permutations + 1))
    if min(counts) < PEOPLE or least > level:
        raise TooFewError(
            f"{dataset}: {counts[0]} people or single images are compared with {counts[1]}; with "
            f"{permutations} permutations these give no p-value below {least:.2g}, and drift "
            f"means {level:g} or less: add images of other people (at least {PEOPLE} of them), "
            "raise the permutations or the level"
        )
    features = np.concatenate([reference.features, compared.features]).astype(np.float64)
    values, apart = kernel(features, features), person[:, None] != person[None, :]
    found = float(discrepancies(values, apart, side[:, None])[0])
    others = divisions(person, side, permutations, seed)
    drawn = np.concatenate([
        discrepancies(values, apart, others[:, start : start + BLOCK])
        for start in range(0, permutations, BLOCK)
    ])  # fmt: skip
    # equal divisions differ by rounding
    larger = int((drawn >= found - 1e-9 * max(1.0, abs(found))).sum())
    p = (1 + larger) / (1 + permutations)
    error = math.sqrt(p * (1 - p) / (permutations + 1))
    sizes = len(reference.people), counts[0], len(compared.people), counts[1]
    return Drift(dataset, found, p, error, permutations, *sizes)


def difference(
    name: str,
    reference: tuple[np.ndarray, np.ndarray],
    compared: tuple[np.ndarray, np.ndarray],
    *,
    share: bool,
    draws: int = DRAWS,
) -> Difference:
    """The difference of two means of (values (n,), people (n,)); `share`: the values are 0 or 1.

    The interval is made of those of both means over people (Newcombe 1998, method 10), which has
    a width where all values of a side are equal.
    """
    means, ends = [], []
    for values, people in (reference, compared):
        means.append(float(np.mean(values)))
        if share:
            ends.append(proportion_interval(values, people, draws))
        else:
            drawn = bootstrap(values, np.zeros(len(values)), people, draws)
            low, high = np.percentile(drawn, [2.5, 97.5])
            ends.append((float(low), float(high)))
    (one, two), ((low1, high1), (low2, high2)) = means, ends
    return Difference(
        name, one, two, two - one,
        two - one - math.hypot(two - low2, high1 - one),
        two - one + math.hypot(high2 - two, one - low1),
    )  # fmt: skip


def nearest(features: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index (n,) and distance (n,) of the row of `others` (m, d) nearest to each of `features`."""
    a, b = features.astype(np.float64), others.astype(np.float64)
    squares = np.square(a).sum(1)[:, None] - 2 * a @ b.T + np.square(b).sum(1)
    index = squares.argmin(1)
    return index, np.sqrt(squares[np.arange(len(a)), index].clip(min=0))

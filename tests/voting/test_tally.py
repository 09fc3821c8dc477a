"""Shares, strengths, intervals and agreement against other ways to compute them."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize
from scipy.special import logsumexp

from training.evaluation.metrics import wilson
from training.voting.tally import (
    MISSING,
    Votes,
    agreement,
    alpha,
    bootstrap,
    counts,
    estimates,
    strengths,
)

_ = MISSING
# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: four observers.
PAPER = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
    [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
]
# The worked example of Wikipedia's article: three coders, fifteen units.
ARTICLE = [
    [_, _, _, _, _, 3, 4, 1, 2, 1, 1, 3, 3, _, 3],
    [1, _, 2, 1, 3, 3, 4, 3, _, _, _, _, _, _, _],
    [_, _, 2, 1, 3, 4, 4, _, 2, 1, 1, 3, 3, _, 4],
]


def alpha_by_pairs(chosen: np.ndarray) -> Fraction | None:
    """1 − D_o/D_e from every pair of values, in exact fractions."""
    units = [[int(v) for v in column if v != MISSING] for column in chosen.T]
    units = [unit for unit in units if len(unit) > 1]
    values = [value for unit in units for value in unit]
    n = len(values)
    observed = sum(
        (Fraction(sum(a != b for a, b in itertools.permutations(unit, 2)), len(unit) - 1)
         for unit in units), Fraction(0),
    )  # fmt: skip
    differing = sum(a != b for a, b in itertools.permutations(values, 2))
    if not differing:
        return None
    return 1 - (observed / n) / Fraction(differing, n * (n - 1))


@pytest.mark.parametrize(("data", "published"), [(PAPER, 0.743), (ARTICLE, 0.691)])
def test_alpha_is_that_of_the_published_examples(data: list[list[int]], published: float) -> None:
    assert alpha(np.array(data)) == pytest.approx(published, abs=5e-4)


@given(
    arrays(np.int64, st.tuples(st.integers(1, 5), st.integers(1, 7)), elements=st.integers(-1, 3))
)
def test_alpha_equals_the_sum_over_all_pairs(chosen: np.ndarray) -> None:
    expected = alpha_by_pairs(chosen)
    found = alpha(chosen)
    if expected is None:
        assert found is None
    else:
        assert found == pytest.approx(float(expected), abs=1e-12)


def test_alpha_is_one_for_agreement_and_near_zero_for_chance() -> None:
    rng = np.random.default_rng(3)
    same = np.tile(rng.integers(0, 4, 50), (6, 1))
    assert alpha(same) == 1
    assert alpha(rng.integers(0, 4, (6, 2000))) == pytest.approx(0, abs=0.02)


def test_strengths_of_two_models_are_half_their_log_odds() -> None:
    assert strengths(np.array([30.0, 10.0])) == pytest.approx([np.log(3) / 2, -np.log(3) / 2])


@given(st.lists(st.integers(1, 60), min_size=2, max_size=6))
def test_strengths_are_the_maximum_of_the_first_choices_likelihood(votes: list[int]) -> None:
    n = np.array(votes, np.float64)

    def loss(beta: np.ndarray) -> float:
        return float(-(n @ (beta - logsumexp(beta))) / n.sum() + np.square(beta.mean()))

    fit = minimize(loss, np.zeros(len(n)), method="BFGS", options={"gtol": 1e-7})
    assert strengths(n) == pytest.approx(fit.x, abs=1e-4)


def test_a_model_without_votes_has_a_finite_strength_from_half_a_vote() -> None:
    found = strengths(np.array([[7.0, 0.0], [7.0, 7.0]]))
    assert found == pytest.approx(np.array([[np.log(15) / 2, -np.log(15) / 2], [0, 0]]))


def toy(voters: int = 5, questions: int = 12, people: int = 4) -> Votes:
    rng = np.random.default_rng(0)
    chosen = rng.choice(3, (voters, questions), p=[0.6, 0.3, 0.1])
    return Votes(chosen, np.array([f"p{i % people}" for i in range(questions)]))


def test_the_bootstrap_draws_whole_voters_and_whole_people() -> None:
    """Its draws are what repeating the drawn rows and columns one by one would count."""
    votes, draws = toy(), 20
    rng = np.random.default_rng(0)
    voters = rng.multinomial(5, np.full(5, 1 / 5), size=draws)
    people = rng.multinomial(4, np.full(4, 1 / 4), size=draws)
    names = sorted(set(votes.people))
    expected = []
    for by_voter, by_person in zip(voters, people, strict=True):
        table = np.zeros(3)
        for v, times in enumerate(by_voter):
            for q, person in enumerate(votes.people):
                table[votes.chosen[v, q]] += times * by_person[names.index(person)]
        expected.append(table)
    assert bootstrap(votes, 3, draws) == pytest.approx(np.array(expected))


def test_intervals_hold_the_true_share_and_are_wider_with_voters_of_different_taste() -> None:
    """Among 60 studies about 95 % of the intervals hold it; an interval over votes would not."""
    rng = np.random.default_rng(1)
    hits, widths, naive = 0, [], []
    for _study in range(60):
        taste = rng.beta(3, 3, 12)  # each voter's chance to choose model 0: mean 1/2
        chosen = (rng.random((12, 20)) > taste[:, None]).astype(int)
        votes = Votes(chosen, np.arange(20).astype(str))
        share = estimates(votes, 2, 400)[0][0]
        hits += share.low <= 0.5 <= share.high
        widths.append(share.high - share.low)
        low, high = wilson(share.value * chosen.size, chosen.size)
        naive.append(high - low)
    assert hits >= 52
    assert np.mean(widths) > 1.3 * np.mean(naive)


def test_shares_add_up_and_strengths_follow_them() -> None:
    votes = toy()
    shares, rated = estimates(votes, 3, 200)
    assert [s.value for s in shares] == pytest.approx(counts(votes, 3) / votes.chosen.size)
    assert [s.value for s in rated] == pytest.approx(strengths(counts(votes, 3)))
    for one in (*shares, *rated):
        assert one.low <= one.value <= one.high


def test_a_share_of_all_votes_has_wilsons_interval_of_the_fewer_of_voters_and_people() -> None:
    votes = Votes(np.zeros((3, 8), int), np.arange(8).astype(str))
    first, second = estimates(votes, 2, 100)[0]
    assert (first.low, first.high) == pytest.approx(wilson(3, 3))
    assert (second.low, second.high) == pytest.approx(wilson(0, 3))


def test_alphas_interval_is_over_people_and_holds_its_value() -> None:
    votes = toy(voters=6, questions=40, people=20)
    value, interval = agreement(votes, 300)
    assert value == alpha(votes.chosen)
    assert value is not None
    assert interval is not None
    assert interval[0] < value < interval[1]


def test_agreement_of_one_voter_is_undefined() -> None:
    assert agreement(toy(voters=1), 100) == (None, None)

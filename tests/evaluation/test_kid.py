"""The kernel distance against independent formulas, and its interval against repeated draws."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.evaluation.kid import Estimate, Sample, distance, kernel, mean, paired, ratio


def sample(
    rng: np.random.Generator, people: int, each: int, shift: float = 0.0, width: int = 8,
    prefix: str = "p", labels: int = 1,
) -> Sample:  # fmt: skip
    """Features of `people` with `each` images; a person's own offset is shared by their images."""
    person = np.repeat(np.arange(people), each)
    own = rng.normal(size=(people, width))[person]
    kind = rng.integers(0, 2, (people, labels))[person].astype(float)
    features = own + 0.5 * rng.normal(size=(len(person), width)) + shift + kind.sum(1)[:, None]
    return Sample(features, kind, np.array([f"{prefix}{i}" for i in person]))


def test_of_single_images_without_labels_it_is_the_published_estimator() -> None:
    """Against the unbiased MMD² of Bińkowski et al. (2018), computed by its double sums."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 6)), rng.normal(size=(30, 6)) + 0.3
    one = np.ones((40, 1))
    found = distance(
        Sample(x, one, np.arange(40).astype(str)),
        Sample(y, one[:30], np.arange(100, 130).astype(str)),
    )

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((np.dot(a, b) / 6 + 1) ** 3)

    within_x = np.mean([k(x[i], x[j]) for i in range(40) for j in range(40) if i != j])
    within_y = np.mean([k(y[i], y[j]) for i in range(30) for j in range(30) if i != j])
    across = np.mean([k(a, b) for a in x for b in y])
    assert found is not None
    assert found.value == pytest.approx(within_x + within_y - 2 * across)
    assert np.allclose(kernel(x[:2], y[:3]), [[k(a, b) for b in y[:3]] for a in x[:2]])


def test_the_value_without_a_person_is_that_of_the_others() -> None:
    rng = np.random.default_rng(1)
    sides = (sample(rng, 12, 3, 0.4), sample(rng, 12, 2))
    sides = tuple(s._replace(labels=np.ones_like(s.labels)) for s in sides)
    whole = distance(*sides)
    fewer = distance(*(Sample(*(v[s.people != "p4"] for v in s)) for s in sides))
    assert whole is not None
    assert fewer is not None
    assert whole.without[list(whole.people).index("p4")] == pytest.approx(fewer.value)


def test_it_is_zero_on_average_for_equal_distributions_of_the_same_people() -> None:
    """Also where people appear on both sides, as they do with edits and their inputs' data set."""
    values = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        one = sample(rng, 15, 4)
        half = np.arange(60) % 2 == 0
        found = distance(*(Sample(*(v[h] for v in one)) for h in (half, ~half)))
        assert found is not None
        values.append(found.value)
    assert abs(np.mean(values)) < 3 * np.std(values) / len(values) ** 0.5


def test_real_images_are_weighted_by_the_edits_labels() -> None:
    """Edits have each label half the time, real images one in ten: no distance remains."""
    rng = np.random.default_rng(2)
    edits = sample(rng, 300, 1, prefix="e")
    reals = sample(rng, 1200, 1, prefix="r")
    drop = (reals.labels[:, 0] > 0.5) & (rng.random(1200) < 0.89)
    reals = Sample(*(v[~drop] for v in reals))
    found = distance(edits, reals)
    unweighted = distance(*(s._replace(labels=np.ones_like(s.labels)) for s in (edits, reals)))
    assert found is not None
    assert unweighted is not None
    assert found.matched
    assert abs(found.value) < 0.2 * unweighted.value


def test_edits_without_real_images_of_their_labels_are_left_out_and_counted() -> None:
    rng = np.random.default_rng(3)
    edits, reals = sample(rng, 100, 1, prefix="e"), sample(rng, 50, 1, prefix="r")
    edits.labels[:10] = 1
    edits = edits._replace(labels=np.c_[edits.labels, np.r_[np.ones(10), np.zeros(90)]])
    reals = reals._replace(labels=np.c_[reals.labels, np.zeros(50)])
    found = distance(edits, reals)
    assert found is not None
    assert (found.left, found.edits, found.matched) == (10, 90, True)
    many = edits._replace(labels=np.c_[edits.labels[:, 0], np.r_[np.ones(40), np.zeros(60)]])
    group = distance(many, reals)
    assert group is not None
    assert (group.left, group.edits, group.matched) == (0, 100, False)


def test_two_people_are_too_few() -> None:
    rng = np.random.default_rng(4)
    assert distance(sample(rng, 2, 9), sample(rng, 9, 1)) is None


@pytest.mark.parametrize(("people", "shift"), [(20, 0.5), (60, 0.3)])
def test_the_interval_holds_the_true_distance_in_about_95_percent(
    people: int, shift: float
) -> None:
    """150 repeated draws of people; the truth from one large sample."""
    rng = np.random.default_rng(5)
    large = distance(sample(rng, 2_000, 1, shift, prefix="e"), sample(rng, 2_000, 1, prefix="r"))
    assert large is not None
    inside = 0
    for seed in range(150):
        rng = np.random.default_rng(1_000 + seed)
        found = distance(
            sample(rng, people, 3, shift, prefix="e"), sample(rng, people, 2, prefix="r")
        )
        assert found is not None
        estimate = mean([found])
        inside += estimate.low <= large.value <= estimate.high
    assert inside / 150 >= 0.89


def test_the_ratio_to_the_inputs_has_an_interval_that_holds_the_truth() -> None:
    """60 people are edited from inputs 0.6 away to edits 0.3 away; 100 repeated draws."""

    def draw(seed: int, people: int, each: int) -> Estimate:
        rng = np.random.default_rng(seed)
        inputs = sample(rng, people, each, 0.6, prefix="e")
        edits = inputs._replace(features=inputs.features - 0.3)
        reals = sample(rng, people, 2, prefix="r")
        found = distance(edits, reals), distance(inputs, reals)
        assert found[0] is not None
        assert found[1] is not None
        return ratio([found[0]], [found[1]])

    truth = draw(0, 1_200, 1).value
    assert 0 < truth < 0.5
    inside = [e.low <= truth <= e.high for e in (draw(1 + seed, 60, 3) for seed in range(100))]
    assert np.mean(inside) >= 0.88


def faces_of(rng: np.random.Generator, people: int, noise: float) -> tuple[Sample, Sample, Sample]:
    """Each person shows three labels in two real images; edits are near their targets' images.

    Returns edits, their inputs, and real images.
    """
    own, kinds = 5 * rng.normal(size=(people, 8)), rng.normal(size=(3, 8))
    eye = np.eye(3)
    who, label = (v.ravel() for v in np.mgrid[:people, :3])
    reals = np.repeat(own[who] + kinds[label], 2, axis=0) + 0.1 * rng.normal(size=(len(who) * 2, 8))
    names = np.array([f"p{i}" for i in who])
    source, target = np.repeat(np.arange(len(reals)), 2), np.repeat(label, 4)
    target = (target + np.tile([1, 2], len(reals))) % 3
    edits = own[np.repeat(who, 4)] + kinds[target] + noise * rng.normal(size=(len(source), 8))
    people_of = np.repeat(names, 2)
    sides = [(edits, target), (reals[source], target)]
    one, two = (Sample(f, eye[t], people_of[source]) for f, t in sides)
    return one, two, Sample(reals, eye[np.repeat(label, 2)], people_of)


def test_the_paired_distance_is_the_mean_over_each_edits_own_real_images() -> None:
    """By loops over edits, and over edits without those of one person."""
    edits, _, reals = faces_of(np.random.default_rng(6), 5, 0.3)
    found = paired(edits, reals)
    assert found is not None

    def loops(without: str) -> float:
        away = []
        for x, t, p in zip(*edits, strict=True):
            mine = [
                np.mean(np.square(x - y))
                for y, u, q in zip(*reals, strict=True)
                if p == q and (t == u).all()
            ]
            if p != without:
                away.append(np.mean(mine))
        return float(np.mean(away))

    assert found.value == pytest.approx(loops(""))
    assert found.without == pytest.approx([loops(p) for p in found.people])
    assert (found.edits, found.left, found.matched) == (len(edits.people), 0, True)


def test_five_people_who_show_every_label_decide_what_the_kernel_distance_leaves_open() -> None:
    """Their own looks, five times as large as the labels', fall out."""
    edits, inputs, reals = faces_of(np.random.default_rng(7), 5, 0.1)
    pairs = [(paired(side, reals), distance(side, reals)) for side in (edits, inputs)]
    (own, kid), (own_inputs, kid_inputs) = pairs
    assert own is not None
    assert own_inputs is not None
    assert kid is not None
    assert kid_inputs is not None
    near, wide = ratio([own], [own_inputs]), ratio([kid], [kid_inputs])
    assert near.high - near.low < 0.1
    assert near.high < 0.1
    assert wide.high - wide.low > 5 * (near.high - near.low)


def test_edits_that_are_worse_than_their_inputs_are_farther_from_the_persons_own_image() -> None:
    edits, inputs, reals = faces_of(np.random.default_rng(8), 5, 3.0)
    one, two = paired(edits, reals), paired(inputs, reals)
    assert one is not None
    assert two is not None
    assert ratio([one], [two]).low > 1


def test_it_needs_three_people_and_a_real_image_of_four_edits_in_five() -> None:
    edits, _, reals = faces_of(np.random.default_rng(9), 5, 0.1)

    def only(side: Sample, kept: np.ndarray) -> Sample:
        return Sample(*(column[kept] for column in side))

    assert paired(*(only(s, s.people < "p2") for s in (edits, reals))) is None
    assert paired(edits, only(reals, reals.people < "p3")) is None
    found = paired(edits, only(reals, reals.people < "p4"))
    assert found is not None
    assert found.left == len(edits.people) // 5
    assert list(found.people) == ["p0", "p1", "p2", "p3"]


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_images_does_not_matter(random: Any) -> None:
    edits, _, reals = faces_of(np.random.default_rng(10), 4, 0.5)
    found = paired(edits, reals)
    turned = []
    for side in (edits, reals):
        order = list(range(len(side.people)))
        random.shuffle(order)
        turned.append(Sample(*(column[order] for column in side)))
    again = paired(*turned)
    assert found is not None
    assert again is not None
    assert again.value == pytest.approx(found.value)
    assert again.without == pytest.approx(found.without)

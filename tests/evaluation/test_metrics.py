"""Metrics against scikit-image, closed forms and counts done by hand."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from training.evaluation.metrics import (
    PSNR_CAP,
    auc,
    bootstrap,
    frechet,
    pairs,
    proportion_interval,
    psnr,
    ssim,
    threshold,
    wilson,
)


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    """Three pairs: noise against noise, a ramp against its noisy self, dark against bright."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (3, 32, 40, 3), np.uint8)
    b = rng.integers(0, 256, a.shape, np.uint8)
    a[1] = np.linspace(0, 255, 40, dtype=np.uint8)[None, :, None]
    b[1] = np.clip(a[1].astype(int) + rng.integers(-9, 10, a[1].shape), 0, 255)
    a[2], b[2] = 250, 12
    return torch.from_numpy(a), torch.from_numpy(b)


def test_psnr_matches_scikit_image(images: tuple[Tensor, Tensor]) -> None:
    a, b = images
    theirs = [
        peak_signal_noise_ratio(x.numpy(), y.numpy(), data_range=255)
        for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(psnr(a, b), theirs, rtol=1e-12)


def test_psnr_of_equal_images_is_the_cap_and_finite(images: tuple[Tensor, Tensor]) -> None:
    assert psnr(images[0], images[0]).tolist() == pytest.approx([PSNR_CAP] * 3)


@pytest.mark.parametrize("gaussian", [False, True])
def test_ssim_matches_scikit_image(images: tuple[Tensor, Tensor], gaussian: bool) -> None:
    a, b = images
    extra = (
        {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False} if gaussian else {}
    )
    theirs = [
        structural_similarity(x.numpy(), y.numpy(), channel_axis=2, data_range=255, **extra)
        for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(ssim(a, b, gaussian=gaussian), theirs, atol=1e-5)


def test_image_metrics_refuse_floats_and_small_images(images: tuple[Tensor, Tensor]) -> None:
    a, b = images
    with pytest.raises(ValueError, match="uint8"):
        psnr(a.float(), b.float())
    with pytest.raises(ValueError, match="different shape"):
        psnr(a, b[:2])
    with pytest.raises(ValueError, match="at least 11"):
        ssim(a[:, :10], b[:, :10], gaussian=True)


def test_frechet_matches_the_matrix_square_root_formula() -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(size=(400, 6)) @ rng.normal(size=(6, 6)) + 1
    b = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6))
    c1, c2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(c1 @ c2)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * root).real
    assert frechet(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_one_dimension_is_the_closed_form() -> None:
    """Two normals on a line: (μ₁−μ₂)² + (σ₁−σ₂)²."""
    a, b = np.array([[1.0], [3.0], [8.0]]), np.array([[2.0], [2.5], [4.0], [9.0]])
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet(a, b) == pytest.approx(expected)


def test_frechet_of_fewer_rows_than_features_is_finite_and_zero_for_itself() -> None:
    a = np.random.default_rng(2).normal(size=(10, 64))
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="two rows"):
        frechet(a[:1], a)
    with pytest.raises(ValueError, match="not finite"):
        frechet(np.full((3, 2), np.nan), np.ones((3, 2)))


@pytest.mark.parametrize(
    ("errors", "low", "high"), [(2.12, 1.1, 4.0), (5.99, 4.1, 8.7), (8.07, 5.8, 11.1)]
)
def test_wilson_gives_known_intervals(errors: float, low: float, high: float) -> None:
    """The classification errors of StarGAN's table 3, for 420 translations."""
    interval = wilson(errors / 100 * 420, 420)
    assert [round(100 * v, 1) for v in interval] == [low, high]


def test_wilson_stays_inside_zero_and_one() -> None:
    assert wilson(0, 10)[0] == 0
    assert wilson(10, 10)[1] == pytest.approx(1)
    assert wilson(10, 10)[0] < 0.75
    assert wilson(0, 0) == (0, 1)


def test_bootstrap_is_deterministic_and_paired() -> None:
    rng = np.random.default_rng(3)
    x = rng.random(200)
    values = np.stack([x, x + 0.25], 1)
    groups, clusters = rng.integers(0, 3, 200), rng.integers(0, 40, 200)
    first = bootstrap(values, groups, clusters, 100, seed=5)
    np.testing.assert_array_equal(first, bootstrap(values, groups, clusters, 100, seed=5))
    assert (first != bootstrap(values, groups, clusters, 100, seed=6)).any()
    np.testing.assert_allclose(first[:, 1] - first[:, 0], 0.25)


def test_bootstrap_of_clusters_has_the_width_of_clusters() -> None:
    """20 identities whose 50 images agree hold the information of 20 images, not of 1,000."""
    truth = np.arange(20) % 2
    values, clusters = np.repeat(truth, 50), np.repeat(np.arange(20), 50)
    spread = bootstrap(values, np.zeros(1000), clusters, 4000).std()
    assert spread == pytest.approx(math.sqrt(0.25 / 20), rel=0.05)


def test_bootstrap_weights_groups_equally() -> None:
    values = np.array([1.0] * 90 + [0.0] * 10)
    groups = np.array(["a"] * 90 + ["b"] * 10)
    draws = bootstrap(values, groups, np.arange(100), 200)
    assert draws.mean() == pytest.approx(0.5, abs=0.01)


def test_bootstrap_never_loses_the_few_people_of_a_second_data_set() -> None:
    """Two people and two hundred: without strata, every seventh draw would miss both."""
    values = np.concatenate([np.arange(200) % 2, [1.0, 0.0]])
    groups = np.array(["celeba/Male"] * 200 + ["rafd/happy"] * 2)
    draws = bootstrap(values, groups, np.arange(202), 2000)[:, 0]
    assert draws.mean() == pytest.approx(0.5, abs=0.02)
    # variance of the mean of both groups: (0.25/200 + 0.25/2) / 4
    assert draws.std() == pytest.approx(math.sqrt((0.25 / 200 + 0.25 / 2) / 4), rel=0.05)


def test_proportion_without_variation_falls_back_to_wilson_over_clusters() -> None:
    clusters = np.repeat(np.arange(10), 7)
    assert proportion_interval(np.ones(70), clusters, 50) == pytest.approx(wilson(10, 10))
    low, high = proportion_interval(np.arange(70) % 2, np.arange(70), 500)
    assert 0.3 < low < 0.5 < high < 0.7


def test_auc_counts_pairs() -> None:
    rng = np.random.default_rng(4)
    p, q = rng.integers(0, 6, 30) + 1, rng.integers(0, 6, 20)
    pairs = [(x > y) + 0.5 * (x == y) for x in p for y in q]
    assert auc(p, q) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert auc(p.astype(np.float32), q.astype(np.float32)) == auc(p, q)


def test_pairs_are_each_counted_once_and_by_person() -> None:
    rng = np.random.default_rng(6)
    vectors = rng.normal(size=(7, 3))
    names = np.array(list("abacbaa"))
    found: dict[bool, list[float]] = {True: [], False: []}
    for i in range(7):
        for j in range(i + 1, 7):
            found[bool(names[i] == names[j])].append(float(vectors[i] @ vectors[j]))
    for mine, theirs in zip(pairs(vectors, names), (found[True], found[False]), strict=True):
        np.testing.assert_allclose(sorted(mine), sorted(theirs))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=200), st.sampled_from([0.01, 0.02, 0.1]))
def test_a_threshold_is_the_lowest_that_lets_few_enough_impostors_pass(
    scores: list[int], far: float
) -> None:
    """Also with ties; None if a single impostor would already exceed the rate."""
    impostors = np.array(scores, float)
    found = threshold(impostors, far)
    if len(scores) * far < 1 - 1e-9:
        assert found is None
        return
    assert found is not None
    assert (impostors > found).mean() <= far + 1e-9
    assert (impostors > found - 0.5).mean() > far  # and any lower score lets more pass


def test_a_false_accept_rate_holds_on_other_people() -> None:
    """With a threshold from 300 people, one impostor pair in a thousand of 300 others passes."""
    rng = np.random.default_rng(7)

    def people() -> tuple[np.ndarray, np.ndarray]:
        who = np.repeat(np.arange(300), 2)
        vectors = rng.normal(size=(300, 16))[who] + 0.3 * rng.normal(size=(600, 16))
        return pairs(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), who)

    at = threshold(people()[1], 1e-3)
    genuine, impostors = people()
    assert at is not None
    assert (impostors > at).mean() == pytest.approx(1e-3, rel=0.4)
    assert (genuine > at).mean() > 0.95

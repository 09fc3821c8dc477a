"""Image metrics, Fréchet distance and confidence intervals."""

import math

import numpy as np
import torch
from scipy.sparse import block_array, coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

PSNR_CAP = 100.0  # dB; equal images have no finite PSNR
Z95 = 1.959963984540054  # two-sided 95 % point of the normal distribution
Interval = tuple[float, float]


def _pair(a: Tensor, b: Tensor) -> None:
    for image in (a, b):
        if image.dtype != torch.uint8 or image.ndim != 4 or image.shape[3] != 3:
            raise ValueError(
                f"images of {image.dtype} {tuple(image.shape)}; expected uint8 (n, H, W, 3)"
            )
    if a.shape != b.shape:
        raise ValueError(f"images of different shape: {tuple(a.shape)} and {tuple(b.shape)}")


def psnr(a: Tensor, b: Tensor) -> np.ndarray:
    """Peak signal-to-noise ratio of each image, dB, float64 (n,); uint8 (n, H, W, 3), peak 255.

    As in scikit-image, but capped at PSNR_CAP so that means stay finite. Other images: ValueError.
    """
    _pair(a, b)
    mse = (a.double() - b.double()).square().mean((1, 2, 3)).cpu().numpy()
    worst = 255.0**2 / 10 ** (PSNR_CAP / 10)
    return np.asarray(10 * np.log10(255.0**2 / np.maximum(mse, worst)))


def _window(length: int, gaussian: bool) -> Tensor:
    """1-D filter with valid padding as a matrix (length − taps + 1, length).

    On a CPU two matrix products are several times faster than pooling or convolving one channel.
    """
    taps = torch.exp(-0.5 * (torch.arange(-5, 6) / 1.5).square()) if gaussian else torch.ones(7)
    band = torch.zeros(length - len(taps) + 1, length)
    for i, row in enumerate(band):
        row[i : i + len(taps)] = taps / taps.sum()
    return band


def ssim(a: Tensor, b: Tensor, *, gaussian: bool = False) -> np.ndarray:
    """Structural similarity of each image (Wang et al. 2004), float64 (n,); uint8 (n, H, W, 3).

    Equal to scikit-image's `structural_similarity` (its default 7×7 uniform window with sample
    covariance, or the original Gaussian window, σ 1.5 over 11×11), but on whole batches; that one
    needs 20 ms per image at 128 px. Images smaller than the window raise ValueError.
    """
    _pair(a, b)
    window = 11 if gaussian else 7
    if min(a.shape[1:3]) < window:
        raise ValueError(f"images of {a.shape[1]}×{a.shape[2]} px; at least {window} required")
    x, y = (v.permute(0, 3, 1, 2).float().div(255.0) for v in (a, b))
    ux, uy = x.mean((2, 3), keepdim=True), y.mean((2, 3), keepdim=True)
    x, y = x - ux, y - uy  # leaves variances unchanged and keeps float32 precise enough
    rows, columns = (_window(n, gaussian).to(x) for n in x.shape[2:])

    def smooth(v: Tensor) -> Tensor:
        return rows @ v @ columns.T

    unbias = 1.0 if gaussian else window**2 / (window**2 - 1)
    mx, my = smooth(x), smooth(y)
    vx = unbias * (smooth(x * x) - mx * mx)
    vy = unbias * (smooth(y * y) - my * my)
    vxy = unbias * (smooth(x * y) - mx * my)
    mx, my = mx + ux, my + uy
    c1, c2 = 0.01**2, 0.03**2
    value = ((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return value.double().mean((1, 2, 3)).cpu().numpy()


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance of the Gaussians fitted to features a (n, d) and b (m, d).

    ‖μ₁−μ₂‖² + tr(C₁ + C₂ − 2(C₁C₂)^½) (Heusel et al. 2017, eq. 6), ≥ 0; biased upwards for small
    n, so compare only at equal n. Fewer than two rows or a non-finite value raises ValueError.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if min(len(a), len(b)) < 2 or a.shape[1:] != b.shape[1:]:
        raise ValueError(
            f"features of shape {a.shape} and {b.shape}; at least two rows of equal width required"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("features are not finite")
    c1, c2 = (np.atleast_2d(np.cov(v, rowvar=False)) for v in (a, b))
    # tr (C₁C₂)^½ = tr (C₁^½ C₂ C₁^½)^½, a symmetric matrix: real and numerically stable
    values, vectors = np.linalg.eigh(c1)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ c2 @ root), 0, None)).sum()
    distance = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(c1) + np.trace(c2) - 2 * cross
    return float(max(distance, 0.0))


def wilson(successes: float, n: float, z: float = Z95) -> Interval:
    """Wilson's score interval of a proportion (default 95 %); (0, 1) for n = 0."""
    if n <= 0:
        return 0.0, 1.0
    p, z2 = successes / n, z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap(
    values: np.ndarray, groups: np.ndarray, clusters: np.ndarray, draws: int, seed: int = 0
) -> np.ndarray:
    """Cluster bootstrap (draws, m) of the mean over `groups` of each group's mean of values (n, m).

    Whole clusters (identities) are drawn with replacement, the same ones for every column, so that
    differences of columns are paired. Groups that are empty in a draw are excluded from its mean.
    No rows raise ValueError.
    """
    return np.asarray(np.nanmean(resampled(values, groups, clusters, draws, seed), axis=1))


def resampled(
    values: np.ndarray, groups: np.ndarray, clusters: np.ndarray, draws: int, seed: int = 0
) -> np.ndarray:
    """Each group's means (draws, groups, m) of values (n, m) in draws of whole clusters.

    Groups are in the order of `np.unique`; those that are empty in a draw are NaN. Sampling is
    stratified by connected components of clusters and groups (the people of different data sets),
    so that small data sets are never left out. No rows raise ValueError.
    """
    values = np.asarray(values, np.float64).reshape(len(groups), -1)
    if not len(values):
        raise ValueError("no rows to draw from")
    _, group = np.unique(groups, return_inverse=True)
    _, cluster = np.unique(clusters, return_inverse=True)
    ng, nc, m = group.max() + 1, cluster.max() + 1, values.shape[1]
    cell = cluster * ng + group
    counts = np.bincount(cell, minlength=nc * ng).reshape(nc, ng)
    sums = np.stack([np.bincount(cell, values[:, j], nc * ng).reshape(nc, ng) for j in range(m)], 2)
    rng = np.random.default_rng(seed)
    links = coo_array((counts > 0).astype(np.int8))
    graph = block_array([[None, links], [links.T, None]])
    stratum = connected_components(graph, directed=False)[1][:nc]
    weights = np.zeros((draws, nc))
    for number in np.unique(stratum):
        members = np.flatnonzero(stratum == number)
        weights[:, members] = rng.multinomial(
            len(members), np.full(len(members), 1 / len(members)), size=draws
        )
    n = (weights @ counts)[:, :, None]
    totals = (weights @ sums.reshape(nc, ng * m)).reshape(draws, ng, m)
    return np.asarray(np.divide(totals, n, out=np.full_like(totals, np.nan), where=n > 0))


def proportion_interval(
    values: np.ndarray, clusters: np.ndarray, draws: int, seed: int = 0
) -> Interval:
    """95 % interval of the mean of 0/1 values that are clustered (by identity).

    Percentiles of the cluster bootstrap; if all values are equal, which leaves nothing to resample,
    Wilson's interval with one trial per cluster.
    """
    values = np.asarray(values, np.float64)
    count = len(np.unique(clusters))
    if not len(values) or count < 2 or values.min() == values.max():
        return wilson(float(values.mean()) * count if len(values) else 0.0, count)
    low, high = np.percentile(
        bootstrap(values, np.zeros(len(values)), clusters, draws, seed), [2.5, 97.5]
    )
    return float(low), float(high)


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Area under the ROC curve: P(positive score > negative score), ties counted half."""
    from scipy.stats import mannwhitneyu  # imported here: it takes a third of a second

    if not len(positive) or not len(negative):
        raise ValueError("AUC: at least one positive and one negative score required")
    # U has the dtype of its inputs
    above, below = (np.asarray(v, np.float64) for v in (positive, negative))
    wins = mannwhitneyu(above, below, method="asymptotic").statistic
    return float(wins / (len(positive) * len(negative)))


def pairs(vectors: np.ndarray, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of all pairs of unit vectors (n, d): genuine (same name) and impostor pairs."""
    same = names[:, None] == names[None, :]
    upper = np.triu(np.ones_like(same), 1)
    cosines = vectors @ vectors.T
    return cosines[same & upper], cosines[~same & upper]


def threshold(impostors: np.ndarray, far: float) -> float | None:
    """The lowest threshold with a false accept rate of at most `far` on the impostor scores.

    None for fewer than 1/far impostors, where one false accept would already exceed the rate.
    """
    passing = int(far * len(impostors) + 1e-9)
    if not passing:
        return None
    rank = len(impostors) - 1 - passing
    return float(np.partition(impostors, rank)[rank])

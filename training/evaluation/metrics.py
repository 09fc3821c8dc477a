"""Image metrics, the Fréchet distance, intervals, and what a translation costs."""

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import block_array, coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

PSNR_CAP = 100.0  # dB; equal images have no finite PSNR
Z95 = 1.959963984540054  # two-sided 95 % point of the normal distribution
Interval = tuple[float, float]


def _pair(a: Tensor, b: Tensor) -> None:
    for image in (a, b):
        if image.dtype != torch.uint8 or image.ndim != 4 or image.shape[3] != 3:
            raise ValueError(
                f"images of {image.dtype} {tuple(image.shape)}; uint8 (n, H, W, 3) is needed"
            )
    if a.shape != b.shape:
        raise ValueError(f"images of different shape: {tuple(a.shape)} and {tuple(b.shape)}")


def psnr(a: Tensor, b: Tensor) -> np.ndarray:
    """Peak signal-to-noise ratio of each image, dB, float64 (n,); uint8 (n, H, W, 3), peak 255.

    As scikit-image's, except that it is cut at PSNR_CAP, so that means stay finite.
    """
    _pair(a, b)
    mse = (a.double() - b.double()).square().mean((1, 2, 3)).cpu().numpy()
    worst = 255.0**2 / 10 ** (PSNR_CAP / 10)
    return np.asarray(10 * np.log10(255.0**2 / np.maximum(mse, worst)))


def _window(length: int, gaussian: bool) -> Tensor:
    """(length − taps + 1, length): the filter's valid positions along one side, as a matrix.

    On a CPU two products with it are several times faster than pooling or convolving one channel.
    """
    taps = torch.exp(-0.5 * (torch.arange(-5, 6) / 1.5).square()) if gaussian else torch.ones(7)
    band = torch.zeros(length - len(taps) + 1, length)
    for i, row in enumerate(band):
        row[i : i + len(taps)] = taps / taps.sum()
    return band


def ssim(a: Tensor, b: Tensor, *, gaussian: bool = False) -> np.ndarray:
    """Structural similarity of each image (Wang et al. 2004), float64 (n,); uint8 (n, H, W, 3).

    Equal to scikit-image's `structural_similarity` (its default 7×7 uniform window with sample
    covariance, or the original's Gaussian σ 1.5 over 11×11), which takes one image at a time
    and 20 ms for it at 128 px; this one takes the batch. Images under the window: ValueError.
    """
    _pair(a, b)
    window = 11 if gaussian else 7
    if min(a.shape[1:3]) < window:
        raise ValueError(f"images of {a.shape[1]}×{a.shape[2]} px; at least {window} are needed")
    x, y = (v.permute(0, 3, 1, 2).float().div(255.0) for v in (a, b))
    ux, uy = x.mean((2, 3), keepdim=True), y.mean((2, 3), keepdim=True)
    x, y = x - ux, y - uy  # variances do not mind, and float32 stays exact enough
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
    n, so compare at equal n only. Fewer than two rows or a value not finite raises ValueError.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if min(len(a), len(b)) < 2 or a.shape[1:] != b.shape[1:]:
        raise ValueError(
            f"features of shape {a.shape} and {b.shape}; two rows of one width at least"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("features are not finite")
    c1, c2 = (np.atleast_2d(np.cov(v, rowvar=False)) for v in (a, b))
    # (C₁C₂)^½ has the trace of (C₁^½ C₂ C₁^½)^½, which is symmetric: real and stable
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
    """Bootstrap draws (draws, m) of the mean over `groups` of each group's mean of values (n, m).

    Whole clusters (identities) are drawn with replacement, the same ones for every column, so
    differences of columns are paired. Clusters without a common group, even through others (the
    people of two data sets), are drawn apart, so that few people are not lost among many. A group
    that a draw leaves empty is left out of its mean.
    """
    values = np.asarray(values, np.float64).reshape(len(groups), -1)
    if not len(values):
        raise ValueError("no rows to draw from")
    _, group = np.unique(groups, return_inverse=True)
    _, cluster = np.unique(clusters, return_inverse=True)
    ng, nc, m = group.max() + 1, cluster.max() + 1, values.shape[1]
    place = cluster * ng + group
    counts = np.bincount(place, minlength=nc * ng).reshape(nc, ng)
    sums = np.stack(
        [np.bincount(place, values[:, j], nc * ng).reshape(nc, ng) for j in range(m)], 2
    )
    rng = np.random.default_rng(seed)
    links = coo_array((counts > 0).astype(np.int8))
    graph = block_array([[None, links], [links.T, None]])
    stratum = connected_components(graph, directed=False)[1][:nc]
    weights = np.zeros((draws, nc))
    for number in np.unique(stratum):
        mine = np.flatnonzero(stratum == number)
        weights[:, mine] = rng.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), size=draws)
    n = (weights @ counts)[:, :, None]
    totals = (weights @ sums.reshape(nc, ng * m)).reshape(draws, ng, m)
    means = np.divide(totals, n, out=np.full_like(totals, np.nan), where=n > 0)
    return np.asarray(np.nanmean(means, axis=1))


def proportion_interval(
    values: np.ndarray, clusters: np.ndarray, draws: int, seed: int = 0
) -> Interval:
    """95 % interval of the mean of 0/1 values whose rows come in clusters (identities).

    The percentiles of the cluster bootstrap; where every value is the same, which leaves nothing
    to resample, Wilson's interval with one trial a cluster.
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
    """Probability that a positive scores above a negative (ties count half)."""
    from scipy.stats import mannwhitneyu  # not with the module: a third of a second

    if not len(positive) or not len(negative):
        raise ValueError("both kinds are needed")
    above, below = (np.asarray(v, np.float64) for v in (positive, negative))  # U has their dtype
    wins = mannwhitneyu(above, below, method="asymptotic").statistic
    return float(wins / (len(positive) * len(negative)))


def pairs(vectors: np.ndarray, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of all pairs of unit vectors (n, d): of one person, and of two (impostors)."""
    same = names[:, None] == names[None, :]
    upper = np.triu(np.ones_like(same), 1)
    cosines = vectors @ vectors.T
    return cosines[same & upper], cosines[~same & upper]


def threshold(impostors: np.ndarray, far: float) -> float | None:
    """The lowest score above which at most `far` of the impostors lie; None of fewer than 1/far.

    Of so few even one that passes is too many, so that no score of theirs tells where to stop.
    """
    passing = int(far * len(impostors) + 1e-9)
    if not passing:
        return None
    place = len(impostors) - 1 - passing
    return float(np.partition(impostors, place)[place])


def parameters(net: nn.Module) -> int:
    """Number of trainable-shaped values; buffers are not counted."""
    return sum(p.numel() for p in net.parameters())


def macs(nets: dict[str, nn.Module], call: Callable[[], object]) -> dict[str, int]:
    """Multiply-accumulates that `call` spends in each network's layers: half of PyTorch's FLOP.

    Convolutions and matrix products count, biases and norms do not; a network that `call` does not
    use counts 0.
    """
    counts = dict.fromkeys(nets, 0)
    counter = FlopCounterMode(display=False)
    handles: list[RemovableHandle] = []

    def add(name: str, sign: int) -> Callable[..., None]:
        def hook(*_: object) -> None:
            counts[name] += sign * (counter.get_total_flops() // 2)

        return hook

    for name, net in nets.items():
        # each layer, not the whole: models call parts of a network, past its own hooks
        for layer in (m for m in net.modules() if not any(m.children())):
            handles.append(layer.register_forward_pre_hook(add(name, -1)))
            handles.append(layer.register_forward_hook(add(name, 1)))
    try:
        with torch.no_grad(), counter:
            call()
    finally:
        for handle in handles:
            handle.remove()
    return counts


def throughput(
    call: Callable[[], object], images: int, repeats: int, device: torch.device
) -> float:
    """Images a second: `images` over the median time of `repeats` calls, after three to warm up."""

    def once() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    for _ in range(3):
        once()
    return images / float(np.median([once() for _ in range(repeats)]))

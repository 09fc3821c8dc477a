"""Presets hold the papers' numbers; precision is what is measured or asked for."""

import pytest
import torch

from training import precision, presets
from training.distributed import World
from training.models.stargan import StarGAN

STEPS = 16  # images an iteration


@pytest.mark.parametrize(
    ("name", "images", "size", "datasets"),
    [
        # 20 epochs of CelebA's 200,599 and 180 of RaFD's 4,824, as the paper trains.
        ("celeba-128", 250_750 * STEPS, 128, ("celeba",)),
        ("celeba-256", 250_750 * STEPS, 256, ("celeba",)),
        ("rafd-128", 54_275 * STEPS, 128, ("rafd",)),
        # The reference's 200,000 iterations; jointly, each draws from both sets.
        ("celeba-128-repo", 200_000 * STEPS, 128, ("celeba",)),
        ("joint-128", 2 * 200_000 * STEPS, 128, ("celeba", "rafd")),
        ("joint-256", 2 * 200_000 * STEPS, 256, ("celeba", "rafd")),
    ],
)
def test_presets_of_the_paper(name: str, images: int, size: int, datasets: tuple[str, ...]) -> None:
    """Lengths in real images, the rate falling over the second half, the model's own numbers."""
    config = presets.resolve("stargan", name)
    assert (config.train.images, config.train.decay_images) == (images, images // 2)
    assert (config.train.batch, config.train.warmup_images) == (STEPS, 0)
    assert (config.data.size, config.data.datasets, config.data.celeba_crop) == (
        size,
        datasets,
        178,
    )
    repo = name.endswith("-repo")
    assert config.model == StarGAN(fidelity="repo" if repo else "paper")
    assert (config.data.split == "paper") == repo


@pytest.mark.parametrize("name", ["demo", "demo-joint", "demo-long", "smoke"])
def test_presets_for_two_cores_warm_up_and_end_with_a_falling_rate(name: str) -> None:
    config = presets.resolve("stargan", name)
    assert config.data.size == 64
    assert 0 < config.train.warmup_images < config.train.images - config.train.decay_images
    networks = config.model
    assert 64 % (1 << networks.d_repeat_num) == 0


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"celeba-64.*celeba-128"):
        presets.resolve("stargan", "celeba-64")


@pytest.mark.parametrize(("seconds", "faster"), [((1.0, 0.5), True), ((1.0, 0.9), False)])
def test_auto_takes_bf16_where_it_was_measured_faster(
    seconds: tuple[float, float], faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is asked for without a measurement."""
    world = World(0, 1, torch.device("cpu"))
    monkeypatch.setattr(precision, "_seconds", lambda net, x, bf16: seconds[bf16])
    assert precision.use_bf16("auto", world) is faster
    monkeypatch.setattr(precision, "_seconds", None)
    assert precision.use_bf16("bf16", world) is True
    assert precision.use_bf16("fp32", world) is False


def test_the_measurement_runs_both_ways() -> None:
    net, x = torch.nn.Conv2d(3, 3, 3), torch.rand(1, 3, 8, 8)
    assert precision._seconds(net, x, False) > 0
    assert precision._seconds(net, x, True) > 0

"""Parameters, operations and speed of a translation."""

import pytest
import torch
from torch import nn

from training.data.labels import LabelSet, LabelSpace
from training.evaluation.cost import macs, parameters, throughput
from training.models.stargan import StarGAN


def test_macs_by_hand() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),  # 8 × 8×8 outputs of 27 products
        nn.ConvTranspose2d(8, 4, 4, 2, 1),  # 8 × 8×8 inputs of 4×16 products
        nn.Flatten(),
        nn.Linear(4 * 256, 5),
    )
    x = torch.zeros(1, 3, 16, 16)
    counts = macs({"net": net, "idle": nn.Linear(2, 2)}, lambda: net(x))
    assert counts == {"net": 8 * 64 * 27 + 8 * 64 * 64 + 1024 * 5, "idle": 0}
    assert not any(m._forward_hooks for m in net.modules())


def test_stargan_at_128_has_the_published_cost() -> None:
    """8,430,528 parameters and 9.96 GMAC per image."""
    names = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Young")
    space = LabelSpace((LabelSet("celeba", "binary", names),))
    nets = StarGAN().networks(space, 128)
    assert parameters(nets["G"]) == 8_430_528
    x, c = torch.zeros(1, 3, 128, 128), torch.zeros(1, 5)
    counts = macs(nets, lambda: nets["G"](x, c))
    assert round(counts["G"] / 1e9, 2) == 9.96
    assert counts["D"] == 0


def test_throughput_counts_images_over_the_median_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """After three calls to warm up: 16 images in 2 s, which is not the mean."""
    clock, durations = [0.0], iter([50.0, 40.0, 30.0, 1.0, 2.0, 9.0, 2.0, 1.0])

    def call() -> None:
        clock[0] += next(durations)

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    assert throughput(call, 16, 5, torch.device("cpu")) == 8.0
    assert list(durations) == []

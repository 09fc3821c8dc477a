"""Parameters, operations and speed of a translation."""

import pytest
import torch
from torch import nn

from training.data.labels import LabelSet, LabelSpace
from training.evaluation.cost import macs, parameters, throughput
from training.models.base import Model
from training.models.drit import DRIT
from training.models.fader import Fader
from training.models.msgan import MSGAN
from training.models.munit import MUNIT
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


CONCAT = {216: (15.92, 3.02, 16.48, 1.49, 2.45), 256: (22.36, 4.24, 23.16, 2.18, 3.52)}
FEATURE = {216: (15.92, 4.44, 24.66, 1.49, 2.45), 256: (22.36, 6.25, 34.64, 2.18, 3.52)}


@pytest.mark.parametrize(
    ("model", "size", "golden"),
    [
        (Fader(), 256, {"G": 1.268}),
        (Fader(), 128, {"G": 0.317}),
        (Fader(layers=5), 64, {"G": 0.071}),
        *((MUNIT(), size, dict(zip(("Ca0", "Sa0", "Ga0", "Da0"), costs, strict=True)))
          for size, costs in ((256, (24.24, 6.25, 46.79, 2.18)), (128, (6.06, 1.56, 11.70, 0.55)),
                              (64, (1.51, 0.39, 2.92, 0.14)))),
        *((model, size, dict(zip(("Ec0", "Ea0", "G0", "Da0", "Dc0"), costs, strict=True)))
          for model, rows in ((DRIT(), CONCAT), (MSGAN(), CONCAT), (DRIT(concat=False), FEATURE))
          for size, costs in rows.items()),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Model) else None,
)  # fmt: skip
def test_the_networks_of_one_pair_have_the_published_costs(
    model: Model, size: int, golden: dict[str, float]
) -> None:
    """GMAC for each image, to the digits of the published networks' counts."""
    labels = LabelSet("faces", "onehot", ("female", "male"))
    if isinstance(model, Fader):
        labels = LabelSet("celeba", "binary", ("Male",))
    with torch.device("meta"):
        nets = model.networks(LabelSpace((labels,)), size)
        x, z = torch.empty(1, 3, size, size), torch.empty(1, 8)

        def one_image() -> None:
            if isinstance(model, Fader):
                nets["G"].eval()(x, torch.empty(1, 1))
            elif isinstance(model, DRIT):
                content = nets["Ec0"](x, 0)
                nets["Ea0"](x, 0)
                nets["G0"](content, z, 0)
                nets["Dc0"](content)
                nets["Da0"](x)
            else:
                nets["Ga0"](nets["Ca0"](x), nets["Sa0"](x))
                nets["Da0"](x)

        counts = macs(nets, one_image)
    found = {name: count / 1e9 for name, count in counts.items() if count}
    rest = 0.0005 if isinstance(model, Fader) else 0.006
    assert found == pytest.approx(golden, abs=rest)


def test_throughput_counts_images_over_the_median_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """After three calls to warm up: 16 images in 2 s, which is not the mean."""
    clock, durations = [0.0], iter([50.0, 40.0, 30.0, 1.0, 2.0, 9.0, 2.0, 1.0])

    def call() -> None:
        clock[0] += next(durations)

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    assert throughput(call, 16, 5, torch.device("cpu")) == 8.0
    assert list(durations) == []

"""The papers' settings besides networks and losses, for every model, as tables."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from training.data.labels import LabelSet, LabelSpace
from training.models import MODELS
from training.models.layers import BatchNorm
from training.models.starganv2 import StarGANv2

TWO = LabelSpace((LabelSet("faces", "onehot", ("female", "male")),))

# Learning rate, β₁, β₂ and weight decay of each network; the networks of which an average is kept.
ADAM: dict[str, tuple[dict[str, tuple[float, float, float, float]], tuple[str, ...]]] = {
    "stargan": (dict.fromkeys("GD", (1e-4, 0.5, 0.999, 0)), ("G",)),
    "attgan": (dict.fromkeys("GD", (2e-4, 0.5, 0.999, 0)), ()),
    "stgan": (dict.fromkeys("GD", (2e-4, 0.5, 0.999, 0)), ()),
    "starganv2": (
        dict.fromkeys("GED", (1e-4, 0.0, 0.99, 1e-4)) | {"F": (1e-6, 0.0, 0.99, 1e-4)},
        ("G", "F", "E"),
    ),
    "ganimation": (dict.fromkeys("GD", (1e-4, 0.5, 0.999, 0)), ()),
    "cyclegan": (dict.fromkeys(("Gab0", "Gba0", "Da0", "Db0"), (2e-4, 0.5, 0.999, 0)), ()),
    "diat": (dict.fromkeys(("Gab0", "Gba0", "Dab0", "Dba0"), (1e-4, 0.5, 0.999, 0)), ()),
    **dict.fromkeys(("drit", "msgan"), (
        dict.fromkeys(("Ec0", "Ea0", "G0", "Da0", "Db0", "Ra0", "Rb0"), (1e-4, 0.5, 0.999, 1e-4))
        | {"Dc0": (4e-5, 0.5, 0.999, 1e-4)},
        (),
    )),
    "fader": (dict.fromkeys("GD", (2e-4, 0.5, 0.999, 0)), ()),
    "munit": (
        dict.fromkeys((f"{part}{side}0" for part in "CSGD" for side in "ab"),
                      (1e-4, 0.5, 0.999, 1e-4)),
        (),
    ),
    "icgan": (
        dict.fromkeys("GD", (2e-4, 0.5, 0.999, 0))
        | dict.fromkeys(("Ez", "Ey"), (1e-4, 0.1, 0.999, 0)),
        (),
    ),
}  # fmt: skip

# Phases: name, networks, interval in iterations, whether on a new batch.
CRITIC = [("d", "D", 1, False), ("g", "G", 5, False)]
CONTENTS = [("dc", "Dc0", 1, False), ("d", "Da0 Db0 Ra0 Rb0", 3, False),
            ("eg", "Ec0 Ea0 G0", 3, False), ("alone", "Ec0 G0", 3, False)]  # fmt: skip
PHASES: dict[str, list[tuple[str, str, int, bool]]] = {
    "stargan": CRITIC,
    "ganimation": CRITIC,
    "attgan": [("d", "D", 1, False), ("g", "G", 5, True)],
    "stgan": [("d", "D", 1, False), ("g", "G", 5, True)],
    "starganv2": [("d_latent", "D", 1, False), ("d_reference", "D", 1, False),
                  ("g_latent", "G F E", 1, False), ("g_reference", "G", 1, False)],
    "cyclegan": [("g", "Gab0 Gba0", 1, False), ("d", "Da0 Db0", 1, False)],
    "diat": [("d", "Dab0", 1, False), ("g", "Gab0", 5, False),
             ("d", "Dba0", 1, False), ("g", "Gba0", 5, False)],
    "drit": CONTENTS,
    "msgan": CONTENTS,
    "fader": [("d", "D", 1, False), ("ae", "G", 1, True)],
    "munit": [("d", "Da0 Db0", 1, False), ("g", "Ca0 Cb0 Sa0 Sb0 Ga0 Gb0", 1, False)],
    "icgan": [("d", "D", 1, False), ("g", "G", 1, False), ("ez", "Ez", 1, False),
              ("ey", "Ey", 1, False)],
}  # fmt: skip

# The rate's factor at 0, 50, 75 and 100 % of the images; the decay, if any, begins at half.
LINEAR, STEP, CONSTANT = (1, 1, 0.5, 0), (1, 0.1, 0.1, 0.1), (1, 1, 1, 1)
HALVES = (1, 0.5, 0.5, 0.25)
RATES: dict[str, tuple[int, tuple[float, ...]]] = {
    **dict.fromkeys(
        (
            "stargan",
            "attgan",
            "ganimation",
            "cyclegan",
            "diat",
            "drit",
            "msgan",
        ),
        (50, LINEAR),
    ),
    "stgan": (50, STEP),
    "munit": (50, HALVES),
    **dict.fromkeys(("starganv2", "fader", "icgan"), (0, CONSTANT)),
}


@pytest.mark.parametrize("name", MODELS)
def test_optimisers_and_averages_are_the_published_ones(name: str) -> None:
    found = MODELS[name]().optim(TWO)
    adam, averaged = ADAM[name]
    assert {n: (o.lr, *o.betas, o.weight_decay) for n, o in found.items()} == adam
    assert MODELS[name]().averaged(TWO) == averaged


@pytest.mark.parametrize("name", MODELS)
def test_phases_and_rates_are_the_published_ones(name: str) -> None:
    found = MODELS[name]().phases(TWO)
    assert [(p.name, " ".join(p.trains), p.every, p.new_batch) for p in found] == PHASES[name]
    decay, factors = RATES[name]
    assert [MODELS[name]().lr_scale(i, 100, decay) for i in (0, 50, 75, 100)] == list(factors)


def test_stargan_v2s_weights_are_those_of_celeba_hq() -> None:
    model = StarGANv2()
    weights = (model.lambda_reg, model.lambda_sty, model.lambda_ds, model.lambda_cyc)
    assert (weights, model.ds_share) == ((1, 1, 1, 1), 1)


def torch_default(weight: torch.Tensor, fan_in: float, fan_out: float) -> float:
    return 1 / math.sqrt(3 * fan_in)  # uniform within ±1/√fan_in


def narrow(weight: torch.Tensor, fan_in: float, fan_out: float) -> float:
    return 0.02


def glorot(weight: torch.Tensor, fan_in: float, fan_out: float) -> float:
    return math.sqrt(2 / (fan_in + fan_out))


def he(weight: torch.Tensor, fan_in: float, fan_out: float) -> float:
    return math.sqrt(2 / fan_in)


SPREAD = {
    "stargan": torch_default, "diat": torch_default, "attgan": glorot, "stgan": glorot,
    "starganv2": he, "ganimation": narrow, "cyclegan": narrow, "icgan": narrow,
    "fader": torch_default, "drit": narrow, "msgan": narrow, "munit": he,
}  # fmt: skip
# Models whose linear layers, and all biases, are torch's.
PARTLY = ("drit", "msgan")
THIN: dict[str, dict[str, Any]] = {
    "stargan": {"conv_dim": 8, "repeat_num": 1, "d_conv_dim": 8, "d_repeat_num": 3},
    "ganimation": {"conv_dim": 8, "repeat_num": 1, "d_conv_dim": 8, "d_repeat_num": 3},
    "attgan": {"dim": 8, "layers": 3, "d_dim": 8, "d_layers": 3, "d_fc": 16},
    "stgan": {"dim": 8, "layers": 3, "d_dim": 8, "d_layers": 3, "d_fc": 16, "shortcut_layers": 2,
              "inject_layers": 2},
    "starganv2": {"dim": 16, "max_dim": 16, "hidden": 32},
    "cyclegan": {"dim": 8, "blocks": 1, "d_dim": 8, "d_layers": 2},
    "diat": {"dim": 8, "blocks": 1, "d_dim": 8, "d_repeat_num": 3},
    "fader": {"dim": 8, "max_dim": 32, "layers": 4, "hidden": 16},
    "munit": {"dim": 8, "blocks": 1, "hidden": 16, "d_dim": 8, "d_layers": 3, "d_scales": 2},
    "drit": {"dim": 8, "blocks": 1, "d_dim": 8, "d_layers": 3, "dc_layers": 0},
    "msgan": {"dim": 8, "blocks": 1, "d_dim": 8, "d_layers": 3, "dc_layers": 0},
    "icgan": {"dim": 8, "latent": 8, "e_dim": 8, "z_hidden": 32, "y_hidden": 32},
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_initial_weights_are_as_published_and_biases_are_0(name: str) -> None:
    """Each layer's spread, within four of its standard errors; torch's biases are uniform."""
    torch.manual_seed(0)
    for key, net in MODELS[name](**THIN[name]).networks(TWO, 32).items():
        encoder = key in ("Ez", "Ey")  # IcGAN's: Torch7's default
        for layer in net.modules():
            spread_of = torch_default if encoder else SPREAD[name]
            if name == "munit" and key.startswith("D"):
                spread_of = narrow
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                area = layer.weight[0][0].numel() if layer.weight.ndim > 2 else 1
                fans = layer.weight.shape[1] * area, layer.weight.shape[0] * area
                if name in PARTLY and isinstance(layer, nn.Linear):
                    spread_of = torch_default
                wanted = spread_of(layer.weight, *fans)
                error = 4 / math.sqrt(2 * layer.weight.numel())
                assert float(layer.weight.detach().square().mean().sqrt()) == pytest.approx(
                    wanted, rel=error
                )
                if layer.bias is None:
                    continue
                if spread_of is torch_default or name in PARTLY:
                    assert layer.bias.abs().max() <= 1 / math.sqrt(fans[0])
                else:
                    assert not layer.bias.any()
            elif isinstance(layer, nn.GroupNorm | BatchNorm) and layer.affine:
                if encoder:
                    low, high = layer.weight.detach().aminmax()
                    assert 0 <= low < 0.4 < 0.6 < high <= 1
                    assert not layer.bias.any()
                    continue
                spread = 0.02 if name == "icgan" else 0.0
                assert (layer.weight - 1).abs().max() <= 5 * spread
                assert bool((layer.weight != 1).any()) == bool(spread)
                assert not layer.bias.any()


SHARES = """
import sys, torch, torch.distributed as dist
from training.models.layers import BatchNorm
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
case = torch.load(f"{folder}/case.pt")
x = case["x"][[slice(0, 5), slice(5, 8)][rank]].clone().requires_grad_(True)
norm = BatchNorm(3, 1e-3, 0.2)
norm.load_state_dict(case["state"])
y = norm(x)
(y * case["slope"][[slice(0, 5), slice(5, 8)][rank]]).sum().backward()
torch.save({"y": y.detach(), "x": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad,
            "state": norm.state_dict()}, f"{folder}/{rank}.pt")
dist.destroy_process_group()  # or its threads abort a busy machine's exit
"""


def test_batch_norm_over_unequal_shares_equals_torchs_over_the_whole_batch(tmp_path: Path) -> None:
    """Two processes with 5 and 3 of 8 pictures: values, gradients and running statistics."""
    torch.manual_seed(0)
    whole = nn.BatchNorm2d(3, 1e-3, 0.2)
    nn.init.normal_(whole.weight)
    nn.init.normal_(whole.bias)
    x, slope = 3 * torch.randn(8, 3, 4, 4) + 1, torch.randn(8, 3, 4, 4)
    torch.save({"x": x, "slope": slope, "state": whole.state_dict()}, tmp_path / "case.pt")
    both = [
        subprocess.Popen([sys.executable, "-c", SHARES, str(rank), str(tmp_path)])
        for rank in (0, 1)
    ]
    assert [process.wait(300) for process in both] == [0, 0]
    x.requires_grad_(True)
    y = whole(x)
    (y * slope).sum().backward()
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    assert x.grad is not None
    for name, expected in (("y", y.detach()), ("x", x.grad)):
        torch.testing.assert_close(torch.cat([p[name] for p in parts]), expected,
                                   rtol=1e-4, atol=1e-5)  # fmt: skip
    for name in ("weight", "bias"):  # gradients that are summed over the processes
        wanted = getattr(whole, name).grad
        torch.testing.assert_close(parts[0][name] + parts[1][name], wanted, rtol=1e-4, atol=1e-5)
    for part in parts:
        for key, value in whole.state_dict().items():
            torch.testing.assert_close(part["state"][key], value, rtol=1e-4, atol=1e-5)

"""The start of each model's demo: finite losses, and a balance of D and G within its range.

At 32 px instead of 64, with the demo's networks, batches and rates, and its shares of warm-up and
decay: every update is made, each at a quarter of its cost. 160 or 320 images of the quick models in
`make test`, 800 of each in `make test-all`.
"""

import json
import logging
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from training.core.config import to_json
from training.core.files import sha256_bytes
from training.data.preprocess import preprocess
from training.data.pull import pull
from training.data.unify import unify
from training.evaluation.diagnostics import BALANCE_MAX, BALANCE_MIN, balance, worst_balance
from training.models import MODELS, configure
from training.models.stargan import StarGAN
from training.models.starganv2 import StarGANv2
from training.train import train


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("watch")


@pytest.fixture(scope="module")
def prepare(home: Path, drawn: Path) -> Callable[[str], Path]:
    """The data set of a data configuration, made once."""

    @cache
    def made(config: str) -> Path:
        name = sha256_bytes(config.encode())[:8]
        raw, images, dataset = (home / f"{name}-{what}" for what in ("raw", "images", "dataset"))
        pull(datasets="celeba", raw=str(drawn), out=raw)
        preprocess(raw=raw, data_config=config, out=images, workers=1)
        unify(images=images, data_config=config, out=dataset)
        return dataset

    return made


LATER = ("stargan",)  # its diagnostics settle after 160 images
SLOW = ("cyclegan", "munit", "drit", "msgan", "starganv2")  # no short form


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "length"),
    [
        pytest.param(name, length, marks=mark)
        for name in MODELS
        for length, mark in (
            (320 if name in LATER else 160, pytest.mark.brief),
            (800, pytest.mark.long),
        )
        if name not in SLOW or length == 800
    ],
)
def test_the_demos_first_images_are_sound(
    name: str,
    length: int,
    home: Path,
    prepare: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Finite in every row of the log; at the end no diagnostic of the model is out of range."""
    monkeypatch.setenv("STORE_URI", f"file://{home / 'store'}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    monkeypatch.chdir(home)
    whole = configure.resolve(name, "demo").train
    changes = {key: getattr(whole, key) * length // whole.images
               for key in ("warmup_images", "decay_images")}  # fmt: skip
    changes |= {"train.images": length, "log_images": length // 10, "sample_images": length,
                "checkpoint_images": length, "data.size": 32}  # fmt: skip
    config = configure.resolve(name, "demo", {**changes, "precision": "fp32"})
    run = home / f"{name}-{length}"
    with caplog.at_level(logging.WARNING):
        train(prepare(to_json(config.data)), home / f"{name}-{length}.json", name,
              to_json(config.model), to_json(config.train), run=run)  # fmt: skip
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["images"] >= length
    assert all(math.isfinite(value) for row in rows for value in row.values())
    leads = [row["symptom/balance"] for row in rows if "symptom/balance" in row]
    if adversarial := MODELS[name].tiny().adversarial:
        assert len(leads) >= 5
        form = adversarial.form
        assert BALANCE_MIN[form] <= min(leads) <= max(leads) <= BALANCE_MAX[form], leads
    assert not [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_wgans_lead_is_one_at_gradient_norm_one_and_the_largest_distance() -> None:
    white, black = torch.ones(2, 3, 8, 8), -torch.ones(2, 3, 8, 8)
    along = torch.ones(3 * 8 * 8) / math.sqrt(3 * 8 * 8)  # the unit vector from one to the other

    def critic(x: Tensor) -> Tensor:
        return x.flatten(1) @ along

    means = {"d/real": -float(critic(white).mean()), "d/fake": float(critic(black).mean())}
    (found,) = balance(StarGAN(), means, 8)
    assert found.value == pytest.approx(1)
    (found,) = balance(StarGAN(), {name: 1.1 * value for name, value in means.items()}, 8)
    assert found.bad  # steeper than the penalty allows
    assert found.says == "D has left G behind"
    (found,) = balance(StarGAN(), {name: -value for name, value in means.items()}, 8)
    assert found.value == pytest.approx(-1)
    assert found.bad
    assert "more real" in found.says


@pytest.mark.parametrize(
    ("real", "fake", "lead", "bad"),
    [(0.5, 0.5, 0.0, False), (0.9, 0.1, 0.848, False), (0.999, 0.001, 0.9986, True),
     (0.1, 0.9, -2.32, True)],
)  # fmt: skip
def test_a_gans_lead_is_zero_at_one_half_and_one_where_d_is_certain(
    real: float, fake: float, lead: float, bad: bool
) -> None:
    """For D's scores of real and fake images, with latent and with reference styles."""
    terms = {"real": -math.log(real), "fake": -math.log(1 - fake)}
    means = {f"{phase}/{k}": v for phase in ("d_latent", "d_reference") for k, v in terms.items()}
    (found,) = balance(StarGANv2(), means, 64)
    assert found.value == pytest.approx(lead, abs=1e-2)
    assert found.bad == bad


def test_without_an_adversarial_step_there_is_no_balance() -> None:
    assert balance(StarGAN(), {"warmup/rec": 1.0}, 64) == []
    assert worst_balance(StarGAN(), {"seconds": 1.0}) == []


@pytest.mark.parametrize(
    ("least", "most", "worst", "bad"),
    [(0.1, 0.5, 0.1, False), (0.1, 1.2, 1.2, True), (-0.4, 1.2, -0.4, True),
     (-0.05, 0.9, -0.05, False)],
)  # fmt: skip
def test_the_worst_balance_is_the_one_furthest_beyond_its_range(
    least: float, most: float, worst: float, bad: bool
) -> None:
    """With wgan's range −0.1 to 1; within it, the value closest to a limit."""
    took = {"balance": 0.3, "balance_least": least, "balance_most": most}
    (found,) = worst_balance(StarGAN(), took)
    assert (found.value, found.bad) == (worst, bad)
    assert found.says.endswith("in training; at its end 0.3")

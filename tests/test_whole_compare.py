"""Several models through the whole pipeline under one budget, onto one page."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.compare import budgeted
from training import presets
from training.compare import Entry
from training.files import read_json
from training.models import MODELS

SHORT = ["preset=smoke", "images=64", "size=32", "judge.images=128", "train.batch=4",
         "raw=raw/celeba"]  # fmt: skip


def compare(place: Path, *pairs: str, code: int = 0) -> str:
    names = ("STORE_URI", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "PIPELINE_RUN_ID")
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "compare", *pairs], cwd=place, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={k: v for k, v in os.environ.items() if k not in names},
    )  # fmt: skip
    assert done.returncode == code, done.stdout[-6000:]
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from training.data.faces import draw_celeba

    folder = tmp_path_factory.mktemp("compare")
    draw_celeba(folder / "raw" / "celeba", 160)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_models_end_on_one_page_and_go_on_from_the_cache(place: Path) -> None:
    """Same judge and data for those of one label space; a smoke test says of itself that it is."""
    said = compare(place, "models=stargan,stgan", "d_repeat_num=3", *SHORT, code=2)
    assert "unknown key 'd_repeat_num'" in said  # of one of the two only
    said = compare(place, "models=attgan,stgan", "d_layers=3", "layers=3", *SHORT,
                   "shortcut_layers=2", "inject_layers=2")  # fmt: skip
    assert said.count("judge: from cache") == 1
    (page,) = (place / "runs" / "report").glob("compare-*.html")
    text = page.read_text()
    assert "A smoke test: 64 images each, one seed" in text
    assert text.count("data:image/png;base64") == 2
    assert len(re.findall(r"<th[^>]*>(?:attgan|stgan)</th>", text)) == 2
    assert "did not learn" in text
    assert not re.search(r"<script|https?://", text)
    again = compare(place, "models=attgan,stgan", "d_layers=3", "layers=3", *SHORT,
                    "shortcut_layers=2", "inject_layers=2")  # fmt: skip
    assert again.count("train: from cache") == 2


def test_a_budget_stretches_every_length_of_the_preset() -> None:
    for model in MODELS:
        pairs = budgeted(model, "demo", 700)
        short = presets.resolve(model, "demo", pairs).train
        long = presets.resolve(model, "demo").train
        assert short.images == 700
        for name in ("decay_images", "warmup_images"):
            assert getattr(short, name) == getattr(long, name) * 700 // long.images
    assert budgeted("stargan", "demo", 0) == {}


def test_an_unknown_model_is_refused_with_the_known_ones(place: Path) -> None:
    said = compare(place, "models=stargan,pix2pix", code=2)
    assert f"unknown model pix2pix; known: {', '.join(MODELS)}" in said


def test_files_of_two_runs_are_not_taken_for_one(binary: Path, joint: Path, tmp_path: Path) -> None:
    from training.config import to_json
    from training.store import Manifest
    from training.train import train

    config = presets.resolve("stargan", "smoke", {
        "images": 8, "decay_images": 4, "warmup_images": 0, "conv_dim": 4, "d_conv_dim": 4,
        "d_repeat_num": 2, "repeat_num": 1,
    })  # fmt: skip
    train(binary, tmp_path / "m.json", "stargan", to_json(config.model), to_json(config.train),
          run=tmp_path / "run")  # fmt: skip
    model = Manifest.read(tmp_path / "m.json")
    meta = {"model": model.digest, "dataset": Manifest.read(joint).digest, "identity": "i"}
    Manifest.build("evaluation", {}, meta).write(tmp_path / "e.json")
    with pytest.raises(ValueError, match="is not of this model and data"):
        Entry.read("stargan", tmp_path / "m.json", tmp_path / "e.json", binary)
    assert read_json(tmp_path / "e.json")["meta"] == meta

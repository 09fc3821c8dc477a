"""The documented example gives the same results as `training.translate`."""

import dataclasses
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from training import release, translate
from training.core.files import write_json
from training.data.labels import LabelSet, LabelSpace
from training.storage.meta import ModelMeta
from training.storage.store import Manifest
from training.tracking import client as tracking

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # MLflow's own
    pytest.mark.filterwarnings("ignore:.*type hints? :UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow leaves SQLite pools open
]
ROOT = next(path for path in Path(__file__).parents if (path / "pyproject.toml").is_file())
EXAMPLE = ROOT / "docs/examples/use_a_model.py"
NAMES = ("Black_Hair", "Blond_Hair", "Male")
FACES = LabelSet("celeba", "binary", NAMES, (NAMES[:2],))
MOODS = LabelSet("rafd", "onehot", ("angry", "happy", "sad"))
SIZE, CAPTION = 16, 14


def registered(folder: Path, name: str, model: Any, dataset: Path, space: LabelSpace) -> None:
    """Make an untrained `model` of 16 px the champion of the registered model `name`."""
    folder.mkdir()
    torch.manual_seed(3)
    files = {}
    for net, module in model.networks(space, SIZE).items():
        files[f"nets/{net}.safetensors"] = folder / f"{net}.safetensors"
        save_file(module.state_dict(), folder / f"{net}.safetensors")
    config = {"name": name, "preset": "demo", "size": SIZE, "seed": 0,
              "model": dataclasses.asdict(model), "train": {"images": 32, "seed": 0}}  # fmt: skip
    for file, value in (("config.json", config), ("label_space.json", space.to_json())):
        write_json(folder / file, value)
        files[file] = folder / file
    data, trained = Manifest.read(dataset), folder / "model.json"
    meta = ModelMeta(
        model=name, preset="demo", seed=0, images=32, dataset=data.digest, mlflow_run=""
    )
    Manifest.build("model", files, meta).write(trained)
    write_json(folder / "metrics.json", {"success_mean": 0.8, "self_psnr": 21.5})
    scored = {"identity": "e" * 64, "judge": "a" * 64, "dataset": data.digest,
              "model": Manifest.read(trained).digest}  # fmt: skip
    Manifest.build("evaluation", {"metrics.json": folder / "metrics.json"}, scored).write(
        folder / "evaluation.json"
    )
    release.register(
        trained, folder / "evaluation.json", dataset, name=name, data_md5="0" * 32,
        code_hash="c" * 64, out=folder / "version.json",
    )  # fmt: skip
    tracking.client().set_registered_model_alias(name, "champion", "1")


@pytest.fixture
def champion(
    make_dataset: Callable[..., Path],
    small: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Path]:
    """Makes a model the champion of a new registry; gives the folder, with a drawn picture."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("PIPELINE_RUN_ID", "example")
    tracking.pipeline_run_id.cache_clear()

    def make(name: str, *sets: LabelSet) -> Path:
        dataset = make_dataset(tmp_path / "dataset.json", sets)
        registered(tmp_path / name, name, small[name], dataset, LabelSpace(sets))
        pixels = np.random.RandomState(0).randint(0, 256, (SIZE, 2 * SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "face.png")
        return tmp_path

    return make


def example(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the example as a user does, in the folder with the registry."""
    command = [sys.executable, str(EXAMPLE), *arguments]
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize(
    ("name", "sets", "label", "has"),
    [
        ("stargan", (FACES, MOODS), "happy", ()),
        ("attgan", (FACES,), "Male", ("Black_Hair",)),
    ],
)
def test_the_example_edits_as_translate_does_and_says_what_changed(
    name: str,
    sets: tuple[LabelSet, ...],
    label: str,
    has: tuple[str, ...],
    champion: Callable[..., Path],
) -> None:
    """The second column of its grid equals `training.translate`'s output, and its numbers match."""
    folder = champion(name, *sets)
    flags = [part for one in has for part in ("--has", one, "--keep", one)]
    model = f"models:/{name}@champion"
    done = example(folder, "face.png", "grid.png", label, *flags, "--model", model)
    assert done.returncode == 0, done.stderr[-3000:]
    out = folder / "out.png"
    translate.translate(f"{name}@champion", folder / "face.png", out, label, has=[*has] or None)
    ours, sheet = pixels(out), pixels(folder / "grid.png")
    with Image.open(folder / "grid.png") as marked:
        found = marked.getxmp()["xmpmeta"]["RDF"]["Description"]
    assert found["DigitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")
    assert found["CreatorTool"] == model
    assert sheet.shape == (SIZE + CAPTION, 2 * SIZE, 3)
    before, after = sheet[CAPTION:, :SIZE], sheet[CAPTION:, SIZE:]
    # Two processes may round a value halfway between two grey levels differently.
    assert np.abs(after.astype(int) - ours.astype(int)).max() <= 1
    found = re.search(rf"{label}: mean change ([\d.]+)  pixels changed, % ([\d.]+)", done.stdout)
    assert found, done.stdout
    apart = np.abs(before.astype(float) - after.astype(float))
    assert float(found[1]) == pytest.approx(apart.mean(), abs=0.006)
    assert float(found[2]) == pytest.approx(100 * (apart.max(2) >= 16).mean(), abs=0.006)
    assert apart.mean() > 1


def test_the_example_names_the_labels_that_exist() -> None:
    vector = runpy.run_path(str(EXAMPLE))["vector"]
    assert vector(["celeba/Male", "rafd/sad", "mask/celeba", "mask/rafd"], ["sad"]).tolist() == [
        [0, 1, 0, 1]
    ]
    with pytest.raises(SystemExit, match=r"^'Beard': name one of celeba/Male, celeba/Young$"):
        vector(["celeba/Male", "celeba/Young"], ["Beard"])

"""Registering tiny models in a working folder of their own."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from training import release
from training.core.files import write_json
from training.data.dataset import Faces
from training.models.stargan import StarGAN
from training.storage.store import Manifest
from training.tracking import client as tracking

MD5 = "0517a8" * 5 + "01.dir"
IDENTITY = "e" * 64


@pytest.fixture
def release_folder(
    empty_mlflow: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A working folder with the default stores, as in a step of a pipeline run."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setenv("PIPELINE_RUN_ID", "run-1")
    tracking.pipeline_run_id.cache_clear()
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_mlflow, tmp_path / "runs" / "mlflow.db")
    return tmp_path


def train(dataset: Path, seed: int = 0, init: str = "") -> Path:
    """A model manifest with the initial weights of a StarGAN for `seed`; `init` is only noted."""
    path = dataset.parent / f"model-{seed}.json"
    faces = Faces.open(dataset, "test")
    model = StarGAN(conv_dim=8, repeat_num=1, d_conv_dim=8, d_repeat_num=2)
    torch.manual_seed(seed)
    folder = dataset.parent / f"model-{seed}"
    files: dict[str, Path] = {}
    for part, nets in (("nets", "GD"), ("ema", "G")):
        networks = model.networks(faces.space, faces.size)
        for name in nets:
            files[f"{part}/{name}.safetensors"] = folder / part / f"{name}.safetensors"
            (folder / part).mkdir(parents=True, exist_ok=True)
            save_file(networks[name].state_dict(), files[f"{part}/{name}.safetensors"])
    files["optim/G.safetensors"] = files["nets/G.safetensors"]
    config = {
        "name": "stargan", "preset": "demo", "size": faces.size, "seed": seed,
        "model": dataclasses.asdict(model), "train": {"images": 320, "seed": seed},
    } | ({"init": init} if init else {})  # fmt: skip
    for name, value in (("config.json", config), ("label_space.json", faces.space.to_json())):
        write_json(folder / name, value)
        files[name] = folder / name
    meta = {
        "model": "stargan", "preset": "demo", "seed": seed, "images": 320,
        "dataset": Manifest.read(dataset).digest, "mlflow_run": "",
    }  # fmt: skip
    Manifest.build("model", files, meta).write(path)
    return path


def evaluate(model: Path, dataset: Path, **metrics: float) -> Path:
    """An evaluation manifest with `metrics`."""
    path = model.with_name(f"evaluation-{model.name}")
    values, page = model.with_name("metrics.json"), model.with_name("report.html")
    write_json(values, {"success_mean": 0.8, "self_psnr": 21.5, **metrics})
    page.write_text("<p>report</p>")
    meta = {
        "identity": IDENTITY, "judge": "a" * 64, "model": Manifest.read(model).digest,
        "dataset": Manifest.read(dataset).digest,
    }  # fmt: skip
    Manifest.build("evaluation", {"metrics.json": values, "report.html": page}, meta).write(path)
    return path


def register(dataset: Path, seed: int = 0, init: str = "", **lineage_pieces: str) -> dict[str, Any]:
    model = train(dataset, seed, init)
    pieces = {"data_md5": MD5, "revision": "v1", "code_hash": "c" * 64, "image": "steps:1"}
    return release.register(
        model,
        evaluate(model, dataset),
        dataset,
        out=dataset.parent / f"version-{seed}.json",
        **(pieces | lineage_pieces),
    )


def registered_folder() -> Path:
    """The folder of the only version's files in the registry."""
    return next(Path("runs/mlartifacts/models").glob("m-*/artifacts"))


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))

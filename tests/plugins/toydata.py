"""Toy data sets, the smallest models, and a separate store for each test."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from training.core.files import write_json
from training.data.labels import LabelSet, LabelSpace
from training.storage.meta import DatasetMeta
from training.storage.store import Manifest

HAIR = ("Black_Hair", "Blond_Hair", "Male")
CELEBA = LabelSet("celeba", "binary", HAIR, (HAIR[:2],))
RAFD = LabelSet("rafd", "onehot", ("angry", "happy", "sad"))
SETS = {  # of the fixtures below
    "binary": (CELEBA,),
    "classes": (RAFD,),
    "units": (LabelSet("celeba", "continuous", ("AU06", "AU12")),),
    "joint": (CELEBA, RAFD),
}
DATASET = DatasetMeta(data={}, source="", datasets=(), md5="", images="", dim_g=0)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own store; tracking is off and nothing is written elsewhere."""
    monkeypatch.setenv("STORE_URI", f"file://{tmp_path / 'store'}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "store"


@pytest.fixture(scope="session")
def small() -> dict[str, Any]:
    """Every model by name, in its smallest size for 16 px."""
    from training.models import MODELS

    return {name: model.tiny() for name, model in MODELS.items()}


def dataset_of(path: Path, sets: tuple[LabelSet, ...], size: int = 16, count: int = 40) -> Path:
    """A manifest of kind "dataset" whose colours show the labels; written to `path`."""
    random = np.random.RandomState(7)
    files, rows, records = {}, {}, []
    for labels in sets:
        width, shard = len(labels.names), f"{labels.name}-00000.npy"
        if labels.kind == "onehot":
            values = np.eye(width)[np.arange(count) % width]
        elif labels.kind == "continuous":
            values = random.rand(count, width)
        else:
            values = random.randint(0, 2, (count, width))
        images = random.randint(90, 160, (count, size, size, 3))
        band = size // width
        for k in range(width):
            images[:, k * band : (k + 1) * band, :, k % 3] += (
                values[:, k, None, None] * 90
            ).astype(int)
        np.save(path.parent / shard, images.clip(0, 255).astype(np.uint8))
        files[shard], rows[shard] = path.parent / shard, count
        for i in range(count):
            split = "train" if i < count * 0.6 else "val" if i < count * 0.8 else "test"
            records.append(
                {"dataset": labels.name, "shard": shard, "row": i, "split": split,
                 "identity": f"{labels.name}-{i // 2}", "file": f"{i:06d}.jpg",
                 "sha256": f"{i:064x}", "label": values[i].astype(np.float32)}
            )  # fmt: skip
    table, space = path.parent / "labels.parquet", path.parent / "label_space.json"
    pd.DataFrame(records).to_parquet(table)
    write_json(space, LabelSpace(sets).to_json())
    files |= {"labels.parquet": table, "label_space.json": space}
    Manifest.build("dataset", files, DATASET, rows=rows).write(path)
    return path


@pytest.fixture
def make_dataset(store: Path) -> Callable[..., Path]:
    """`dataset_of`, for a test with its own label sets."""
    return dataset_of


@pytest.fixture
def binary(store: Path, tmp_path: Path) -> Path:
    """One data set: three attributes, two of which exclude each other."""
    return dataset_of(tmp_path / "binary.json", SETS["binary"])


@pytest.fixture
def joint(store: Path, tmp_path: Path) -> Path:
    """Two data sets: attributes and expressions."""
    return dataset_of(tmp_path / "joint.json", SETS["joint"])


@pytest.fixture
def classes(store: Path, tmp_path: Path) -> Path:
    """One data set: three classes."""
    return dataset_of(tmp_path / "classes.json", SETS["classes"])


@pytest.fixture
def units(store: Path, tmp_path: Path) -> Path:
    """One data set: two intensities."""
    return dataset_of(tmp_path / "units.json", SETS["units"])


def pictures(folder: Path, first: int, people: int, dark: float = 1.0) -> Path:
    """A folder of 3 pictures of each person beside labels.csv, told apart by their colours."""
    folder.mkdir()
    lines = ["file,identity,Hat,Male"]
    for i in range(first, first + people):
        rng = np.random.default_rng(i)
        base, male = rng.integers(60, 120, (1, 1, 3)), int(rng.integers(2))
        for k in range(3):
            hat = int(rng.integers(2))
            image = np.tile(base, (24, 24, 1)) + rng.integers(0, 25, (24, 24, 3))
            image[:8, :, 0] += 90 * hat
            image[16:, :, 2] += 90 * male
            pixels = (image * dark).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i:03d}-{k}.png")
            lines.append(f"{i:03d}-{k}.png,{i},{hat},{male}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder

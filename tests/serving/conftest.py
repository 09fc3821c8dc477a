"""Registered versions that the tests of the server read, and faces."""

import io
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving import Running, add_version, promote, running
from training.data.synthetic.faces import draw_celeba
from training.models import MODELS
from training.registry import versions as registry
from training.serving import follow
from training.serving.served import Served

# Name in the registry -> model and label sets. "faces" has two versions.
VERSIONS = {"faces": ("attgan", "binary"), "moods": ("starganv2", "classes"),
            "units": ("ganimation", "units"), "joint": ("stargan", "joint")}  # fmt: skip


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Path:
    """A working folder whose registry has VERSIONS, each the champion; read only."""
    folder = tmp_path_factory.mktemp("shelf")
    (folder / "runs").mkdir()
    shutil.copy(empty_mlflow, folder / "runs" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own
        patch.chdir(folder)
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "STORE_URI"):
            patch.delenv(name, raising=False)
        for name, (model, sets) in VERSIONS.items():
            promote(name, add_version(name, MODELS[model].tiny(), model, sets))
        add_version("faces", MODELS["attgan"].tiny(), "attgan", seed=1)
    return folder


@pytest.fixture
def at_shelf(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test runs in the shelf, which it only reads."""
    monkeypatch.chdir(shelf)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "STORE_URI", "SERVE_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return shelf


@pytest.fixture
def own_shelf(at_shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shelf that the test may change."""
    shutil.copytree(at_shelf, tmp_path / "shelf")
    monkeypatch.chdir(tmp_path / "shelf")
    assert registry.champion("faces") == "1"  # MLflow's file now knows where it is
    return tmp_path / "shelf"


@pytest.fixture
def faces(at_shelf: Path) -> Served:
    """Version 1 of "faces"."""
    return follow.first("faces/1")


@pytest.fixture
def server(faces: Served) -> Iterator[Running]:
    """A server of version 1 of "faces"."""
    with running(faces) as made:
        yield made


@pytest.fixture(scope="session")
def portrait(tmp_path_factory: pytest.TempPathFactory) -> Image.Image:
    """A drawn face that the face detector finds, 356x436 px."""
    folder = tmp_path_factory.mktemp("drawn")
    draw_celeba(folder, count=4, workers=1)
    face = Image.open(sorted(folder.rglob("*.jpg"))[1]).convert("RGB")
    return face.resize((356, 436))


@pytest.fixture(scope="session")
def photo(portrait: Image.Image) -> bytes:
    """The drawn face as PNG."""
    return as_png(portrait)


def as_png(picture: Image.Image | np.ndarray) -> bytes:
    buffer = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(buffer, "PNG")
    return buffer.getvalue()

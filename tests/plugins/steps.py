"""The data steps on a folder, as `python -m training.data.*` runs them."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from training.core.config import DataConfig, to_json
from training.core.files import read_json
from training.data.archive import Folder, pack
from training.storage.meta import RawMeta, RawSet
from training.storage.store import Manifest, open_store

ROOT = Path(__file__).resolve().parents[2]


class Memory:
    """A tree of files in memory."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def names(self) -> list[str]:
        return sorted(self.files)

    def read(self, name: str) -> bytes:
        return self.files[name]

    def size(self, name: str) -> int:
        return len(self.files[name])


def draw(folder: Path, names: list[str], size: tuple[int, int] = (32, 32)) -> None:
    """A different small picture for each name."""
    for seed, name in enumerate(names):
        pixels = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), np.uint8)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(path, quality=95)


@dataclass
class Steps:
    """What the steps printed, and their results or refusals; an empty text: the step passed."""

    said: str = ""
    validate: str = ""
    preprocess: str = ""
    unify: str = ""
    sets: list[dict[str, Any]] = field(default_factory=list)  # of the label space
    labels: pd.DataFrame = field(default_factory=pd.DataFrame)  # labels.parquet

    def refusals(self) -> list[str]:
        return [text for text in (self.validate, self.preprocess, self.unify) if text]


@pytest.fixture
def run_steps(tmp_path: Path) -> Callable[..., Steps]:
    """Run validate, preprocess and unify on data set `set` in a folder; returns `Steps`."""

    count = itertools.count()

    def run(kind: str, folder: Path, **data: Any) -> Steps:
        work = tmp_path / f"steps-{next(count)}"
        return data_steps(work, kind, folder, DataConfig(**{"size": 64, **data}))

    return run


def data_steps(work: Path, kind: str, folder: Path, config: DataConfig) -> Steps:
    from training.data.preprocess import preprocess
    from training.data.unify import unify
    from training.data.validate import validate

    work.mkdir(parents=True, exist_ok=True)
    text, store, done, out = (
        to_json(config),
        open_store(f"file://{work}/store"),
        Steps(),
        StringIO(),
    )
    files = {path.name: path for path in pack(Folder(folder), work, "set")}
    sets = (RawSet(name="set", kind=kind),)
    meta = RawMeta(datasets=sets, md5="", nfiles=0, source="folder", note="")
    raw, images = work / "raw.json", work / "images.json"
    Manifest.build("raw", files, meta, store=store).write(raw, store)
    with redirect_stdout(out):
        try:
            validate(raw, data_config=text, report=work / "report.html", store=store)
        except ValueError as error:
            done.validate = str(error)
        try:
            preprocess(raw=raw, data_config=text, out=images, work=work / "work", store=store)
            result = unify(images=images, data_config=text, out=work / "set.json", store=store)
            done.sets = read_json(result.local("label_space.json", store))["sets"]
            done.labels = pd.read_parquet(result.local("labels.parquet", store))
        except ValueError as error:
            step = "unify" if images.exists() else "preprocess"
            setattr(done, step, str(error))
    done.said = out.getvalue()
    return done


@pytest.fixture
def draw_case(tmp_path: Path) -> Callable[[str], Path]:
    """Draw the input of a public report by its script beside the checkout; returns its folder."""

    def draw(name: str) -> Path:
        script = ROOT.parent / "shared" / "cases" / name / "make.py"
        if not script.is_file():
            pytest.skip("no genuine reports beside this checkout")
        folder = tmp_path / "case"
        subprocess.run([sys.executable, str(script), str(folder)], check=True)
        return folder

    return draw

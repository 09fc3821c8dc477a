"""Inputs of public reports that ended in a late, wrong or missing refusal."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import compiled
from pipelines.__main__ import describe
from pipelines.arguments import parse
from project import ROOT
from runs import QUICK, go
from training.core.config import DataConfig, TrainConfig, to_json
from training.data.preprocess import preprocess
from training.data.pull import pull
from training.data.unify import unify

CASES = ROOT.parent / "shared" / "cases"
KNOWN = compiled.parameters()


def make(case: str, folder: Path) -> Path:
    """Draw a case's input; skip beside a checkout without the collected reports."""
    script = CASES / case / "make.py"
    if not script.is_file():
        pytest.skip("no genuine reports beside this checkout")
    subprocess.run([sys.executable, str(script), str(folder)], check=True)
    return folder


def dry_run(*pairs: str) -> str:
    return describe(parse(list(pairs), KNOWN), KNOWN)


def test_case_07_lr() -> None:
    """`lr=` changed the judge's rate of StarGAN; it is refused with what may be meant."""
    text = "lr: only settings of train, or of model alone, need no section; write "
    wanted = re.escape(f"{text}model.g_lr or model.d_lr or judge.lr")
    with pytest.raises(ValueError, match=wanted):
        parse(["preset=smoke", "lr=1e-4"], KNOWN)


@pytest.mark.parametrize(("name", "sign"), [("faces.v2", "."), ("50%", "%"), ("it's mine", "'")])
def test_case_08_name_with_a_dot(name: str, sign: str) -> None:
    """MLflow refused it after the training."""
    with pytest.raises(
        ValueError, match=re.escape(f"name={name}: {sign} cannot be in a registered model's name")
    ):
        dry_run("preset=smoke", f"name={name}")


def unified(folder: Path, raw: Path) -> Path:
    config = to_json(DataConfig(datasets=("s:folders",), size=16, bad_share=1.0))
    folder.mkdir()
    pull(datasets="s:folders", raw=str(raw), out=folder / "raw.json")
    preprocess(raw=folder / "raw.json", data_config=config, out=folder / "images.json")
    unify(images=folder / "images.json", data_config=config, out=folder / "data.json")
    return folder / "data.json"


def test_case_09_warm_start(store: Path, tmp_path: Path) -> None:
    """Other labels were silent; another number a state_dict's text; another model a KeyError."""
    three = make("02-odd-class-names", tmp_path / "odd")
    tiny = make("05-tiny", tmp_path / "tiny")
    still = TrainConfig(**{**vars(QUICK), "images": 8, "decay_images": 0, "warmup_images": 0})
    first = go(unified(tmp_path / "a", three), tmp_path / "first", still)
    other = unified(tmp_path / "b", three.with_name("oddcjk"))
    with pytest.raises(ValueError, match=r"50% grey.*those of this run \[开心, 悲伤, 愤怒\]"):
        go(other, tmp_path / "c", still, init=str(first))
    two = unified(tmp_path / "d", tiny / "ten")
    with pytest.raises(ValueError, match=r"those of this run \[a, b\] \(onehot\); give the same"):
        go(two, tmp_path / "e", still, init=str(first))
    with pytest.raises(ValueError, match="a model of stargan cannot start a training of cyclegan"):
        go(other, tmp_path / "f", still, "cyclegan", init=str(first))


def test_case_16_size_late(tmp_path: Path) -> None:
    """Found after the judge, tried four times; the dry run refuses it, with a size that works."""
    raw = make("11-csv-dialects", tmp_path / "f") / "bom-quoted"
    given = ["preset=smoke", "datasets=mine:csv", f"raw={raw}", "data.attributes=Blond,Smiling"]
    with pytest.raises(
        ValueError, match=r"size=100: a multiple of 16 is needed.*data.size=96 works"
    ):
        dry_run(*given, "data.size=100")
    notes = json.loads(dry_run(*given, "data.size=96"))["notes"]
    assert notes[0] == "mine: 30 train, 2 val, 4 test images; labels Blond, Smiling"

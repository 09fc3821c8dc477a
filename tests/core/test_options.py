"""The training step's options are declared once; every command has them unchanged."""

import argparse
import inspect
from typing import Any

import pytest

from components.train import train
from pipelines import compiled
from pipelines.arguments import parse
from pipelines.stargan import stargan
from training.core.config import describe
from training.core.options import NAMES, TrainOptions, add_fields, read_options

ROWS = {name: (default, meaning) for name, default, _, meaning in describe(TrainOptions)}


def test_every_option_has_a_meaning() -> None:
    assert [name for name, (_, meaning) in ROWS.items() if not meaning] == []


def test_the_pipeline_has_each_option_with_its_default_and_meaning() -> None:
    declared = compiled.parameters()
    assert {name: str(declared[name].default) for name in NAMES} == {
        name: default for name, (default, _) in ROWS.items()
    }
    inputs = stargan.component_spec.inputs or {}
    assert {name: inputs[name].description for name in NAMES} == {
        name: f"{meaning}." for name, (_, meaning) in ROWS.items()
    }


def test_the_component_passes_each_option_to_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    import training.launch

    seen: dict[str, Any] = {}
    monkeypatch.setattr(training.launch, "step", lambda *_, **options: seen.update(options))
    names = inspect.signature(train.python_func).parameters
    values = {name: f"value of {name}" for name in names}
    files = argparse.Namespace(path="f")
    train.python_func(**values | dict.fromkeys(("dataset", "out", "replicates"), files))
    assert seen.pop("replicates")
    assert seen == {name: f"value of {name}" for name in NAMES}


def test_a_program_has_each_option_with_its_default() -> None:
    parser = argparse.ArgumentParser()
    add_fields(parser)
    assert read_options(vars(parser.parse_args([]))) == TrainOptions()
    given = parser.parse_args(["--nproc", "2", "--launcher", "trainjob", "--queue", "faces"])
    assert read_options(vars(given)) == TrainOptions(nproc=2, launcher="trainjob", queue="faces")
    assert all(name.replace("_", "-") in parser.format_help() for name in NAMES)


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("nproc=0", "nproc=0: needs a whole number, at least 1"),
        ("launcher=slurm", "launcher='slurm': needs one of local, trainjob"),
        ("accelerators=-1", "accelerators=-1: needs a whole number, at least 0"),
        ("seeds=0", "seeds=0: needs"),
        ("nodes=0", "nodes=0: needs"),
    ],
)
def test_a_wrong_option_is_refused_before_the_run(pair: str, said: str) -> None:
    with pytest.raises(ValueError, match="needs") as caught:
        parse([pair], compiled.parameters())
    assert said in str(caught.value)


def test_incompatible_options_are_refused() -> None:
    with pytest.raises(ValueError, match="set accelerators=0"):
        read_options({"launcher": "trainjob", "accelerators": 1})
    with pytest.raises(ValueError, match="one for each of 2 accelerators"):
        read_options({"nproc": 3, "accelerators": 2})

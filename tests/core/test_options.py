"""The training step's options are declared once; every command has them unchanged."""

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest

from components.train import train
from pipelines import compiled
from pipelines.arguments import parse
from pipelines.stargan import pipeline
from training.core import cli
from training.core.config import describe
from training.core.options import NAMES, TRAIN, TrainOptions, read_options

ROWS = {name: (default, meaning) for name, default, _, meaning in describe(TrainOptions)}


def test_every_option_has_a_meaning() -> None:
    assert [name for name, (_, meaning) in ROWS.items() if not meaning] == []


def test_the_pipeline_has_each_option_with_its_default_and_meaning() -> None:
    declared = compiled.parameters()
    assert {name: str(declared[name].default) for name in NAMES} == {
        name: default for name, (default, _) in ROWS.items()
    }
    inputs = pipeline(parts=False).component_spec.inputs or {}
    assert {name: inputs[name].description for name in NAMES} == {
        name: f"{meaning}." for name, (_, meaning) in ROWS.items()
    }


def test_the_component_passes_each_option_to_the_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import training.launch

    seen: dict[str, Any] = {}
    monkeypatch.setattr(training.launch, "step", lambda *_, **options: seen.update(options))
    names = inspect.signature(train.python_func).parameters
    values = {name: f"value of {name}" for name in names}
    numbers = tmp_path / "metrics.json"  # as the launcher writes it
    numbers.write_text("{}")
    files = SimpleNamespace(path=str(numbers), metadata={})
    outputs = ("replicates", "report", "metrics")
    train.python_func(**values | dict.fromkeys(("dataset", "out", *outputs), files))
    assert [seen.pop(name) for name in outputs] == [numbers] * 3
    assert seen == {name: f"value of {name}" for name in NAMES}


def test_a_program_has_each_option_with_its_default_meaning_and_bounds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    program, given = cli.program("program", ""), []

    @program.default
    def command(*, options: Annotated[TrainOptions, cli.FIELDS] = TRAIN) -> None:
        given.append(options)

    program([])
    program(["--nproc", "2", "--launcher", "trainjob", "--queue", "faces"])
    assert given == [TRAIN, TrainOptions(nproc=2, launcher="trainjob", queue="faces")]
    program(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for name, (_, meaning) in ROWS.items():
        assert f"--{name.replace('_', '-')} " in said
        assert meaning in said
    for wrong in (["--nproc", "0"], ["--nproc", "1.5"], ["--launcher", "slurm"]):
        with pytest.raises(SystemExit) as ended:
            program(wrong)
        assert ended.value.code == 2
        assert wrong[0] in capsys.readouterr().err


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
    for launcher in ("local", "trainjob"):
        with pytest.raises(ValueError, match="one for each of 2 accelerators"):
            read_options({"nproc": 3, "accelerators": 2, "launcher": launcher})
        assert read_options({"nproc": 3, "launcher": launcher}).accelerators == 0


@pytest.mark.parametrize("launcher", ["local", "trainjob"])
def test_accelerators_that_would_be_idle_are_refused(launcher: str) -> None:
    with pytest.raises(ValueError, match="the others are idle; give nproc=4"):
        read_options({"accelerators": 4, "launcher": launcher})
    options = read_options({"accelerators": 4, "nproc": 4, "launcher": launcher})
    assert options.accelerators == 4


@pytest.mark.parametrize(("name", "value"), [("nodes", 2), ("queue", "faces")])
def test_the_place_of_a_trainjob_is_refused_without_one(name: str, value: Any) -> None:
    """It would be ignored: the training runs in the step's own pod."""
    with pytest.raises(ValueError, match=f"{name}={value}: needs launcher=trainjob"):
        read_options({name: value})
    assert getattr(read_options({name: value, "launcher": "trainjob"}), name) == value

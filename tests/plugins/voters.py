"""A study of tiny models, and voters who answer as they are told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import releases
from toydata import SETS, dataset_of
from training import vote
from training.core.files import write_json
from training.voting.study import DESTROYED, REAL, SCHEMA, Key, Question, plan

NAMES = ("Quillon", "Brackish", "Tessera")  # of models: words that no page has by itself
Taste = Callable[[Question], str]  # the name of the option that is chosen


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a page and its key: three models, nine questions, three traps and repeats.

    Of the data set that the fixture `binary` makes; built once, to be read only.
    """
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORE_URI", f"file://{folder / 'store'}")
        patch.setenv("MLFLOW_TRACKING_URI", "off")
        data = dataset_of(folder / "binary.json", SETS["binary"])
        return built(data, folder / "study")


def built(dataset: Path, out: Path, names: tuple[str, ...] = NAMES, **more: Any) -> Path:
    models = [(name, str(releases.train(dataset, seed))) for seed, name in enumerate(names)]
    settings = {"images": 3, "traps": 3, "repeats": 3, "edits": "Hair,Male,H+G", **more}
    vote.build(out, dataset, model=models, **settings)
    return out


def always(name: str) -> Taste:
    """A voter who likes one model and passes the traps."""
    return lambda question: REAL if question.kind == "trap" else name


def option_of(question: Question, name: str) -> str:
    """The id of the first option with this name."""
    return next(option for option in sorted(question.options) if question.options[option] == name)


def answers(key: Key, seed: int, taste: Taste) -> list[dict[str, Any]]:
    """What the page would save of a voter with this seed and taste."""
    questions = key.questions
    return [
        {"question": question, "shown": shown, "seconds": 1.5,
         "chosen": option_of(questions[question], taste(questions[question]))}
        for question, shown in plan(key, seed)
    ]  # fmt: skip


def ballot(key: Key, voter: str, seed: int, taste: Taste) -> dict[str, Any]:
    return {
        "schema": SCHEMA, "study": key.study, "voter": voter, "seed": seed,
        "answers": answers(key, seed, taste),
    }  # fmt: skip


def cast(folder: Path, key: Key, voter: str, seed: int, taste: Taste) -> Path:
    """Write a voter's file."""
    file = folder / f"votes-{voter}.json"
    write_json(file, ballot(key, voter, seed, taste))
    return file


def careless(question: Question) -> str:
    """A voter who fails every trap."""
    return DESTROYED if question.kind == "trap" else NAMES[0]

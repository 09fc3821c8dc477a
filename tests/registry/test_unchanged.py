"""A run with nothing to register or promote: answered from MLflow's file, as MLflow answers."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from releases import register
from training.core.config import EvalConfig, to_json
from training.registry import versions as registry
from training.storage.store import Manifest
from training.tracking import client as tracking
from training.tracking import database

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own
NAME = "stargan"
FILE = Path("runs/mlflow.db")
AGAIN = """
import json, sys
from pathlib import Path
from training.registry.promotion import promote
from training.release import register
model, evaluation, dataset, judge, version, config = sys.argv[1:]
again = register(Path(model), Path(evaluation), Path(dataset), name="stargan", out=Path(version))
done = promote(Path(version), Path(dataset), Path(judge), config, "", Path("verdict.json"))
heavy = {"mlflow", "sqlalchemy", "torch", "pandas", "matplotlib", "kfp", "great_expectations"}
print(json.dumps([again["created"], again["version"], done["changed"], done["reason"],
                  sorted(heavy & set(sys.modules))]))
"""


@pytest.fixture(autouse=True)
def champion(release_folder: Path, binary: Path) -> dict[str, Any]:
    """Version 1 as champion, and version 2 of other content."""
    pieces = {"data_md5": "", "revision": "", "code_hash": "", "image": ""}
    first = register(binary, **pieces)
    register(binary, seed=1)
    registry.move(NAME, None, "1", "promote", "the first")
    tracking.client().set_model_version_tag(NAME, "1", "verdict", "promoted: the first")
    return first


def in_mlflow(monkeypatch: pytest.MonkeyPatch, content: str) -> tuple[Any, ...]:
    """Champion, version with `content`, and history, as MLflow gives them."""
    with monkeypatch.context() as patch:
        patch.setattr(database, "rows", lambda *_: [])
        return answers(content)


def answers(content: str) -> tuple[Any, ...]:
    found = registry.with_content(NAME, content)
    same = found and (int(found.version), found.run_id)
    return registry.champion(NAME), same, registry.history(NAME)


def test_the_same_run_again_imports_neither_mlflow_nor_pandas_nor_torch(binary: Path) -> None:
    """Both steps in a new process."""
    folder, judge = binary.parent, binary.parent / "judge.json"
    Manifest.build("judge", {}, {"recipe": "1", "dataset": "", "accuracy": {}}).write(judge)
    files = [folder / "model-0.json", folder / "evaluation-model-0.json", binary, judge,
             folder / "version-0.json"]  # fmt: skip
    command = [sys.executable, "-c", AGAIN, *map(str, files), to_json(EvalConfig())]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    created, version, changed, reason, imported = json.loads(done.stdout)
    assert (created, version, changed) == (False, "1", False)
    assert reason.startswith("version 1 is champion since ")
    assert reason.endswith(" (the first)")
    assert imported == []


def test_the_answers_are_mlflows(champion: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two versions, after a change of the champion, and without one."""
    content = champion["content"]
    assert answers(content) == in_mlflow(monkeypatch, content)
    assert answers(content)[:2] == ("1", (1, champion["run_id"]))
    registry.move(NAME, "1", "2", "promote", "better")
    assert answers(content) == in_mlflow(monkeypatch, content)
    tracking.client().delete_registered_model_alias(NAME, registry.ALIAS)
    assert answers(content) == in_mlflow(monkeypatch, content)
    assert registry.champion(NAME) is None


@pytest.mark.parametrize("key", ["verdict", "content", "protocol"])
def test_a_versions_tag_is_mlflows(key: str) -> None:
    """Also one that it does not have."""
    assert registry.tag(NAME, "1", key) == registry.version(f"{NAME}/1").tags.get(key, "")


@pytest.mark.parametrize("whole", [False, True], ids=["version", "model"])
def test_what_was_deleted_in_mlflow_is_not_found(
    champion: dict[str, Any], monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    api, content = tracking.client(), champion["content"]
    if whole:
        api.delete_registered_model(NAME)
    else:
        api.delete_model_version(NAME, "1")
    assert answers(content)[:2] == (None, None)
    assert answers(content) == in_mlflow(monkeypatch, content)


def test_the_schema_that_is_read_is_the_installed_mlflows() -> None:
    """After an update of MLflow, compare the tables with the queries of `registry.versions`."""
    with closing(sqlite3.connect(FILE)) as opened:
        assert opened.execute("SELECT version_num FROM alembic_version").fetchall() == [
            (database.SCHEMA,)
        ]


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE alembic_version SET version_num = '0123456789ab'",
        "INSERT INTO workspaces (name) VALUES ('other')",
        "DROP TABLE registered_model_aliases",
    ],
)
def test_a_file_of_another_form_is_left_to_mlflow(harm: str) -> None:
    assert tracking.rows(registry._ALIASED, NAME, registry.ALIAS) == [(1,)]
    with closing(sqlite3.connect(FILE, isolation_level=None)) as opened:
        opened.execute(harm)
    assert tracking.rows(registry._ALIASED, NAME, registry.ALIAS) == []


@pytest.mark.parametrize("content", [None, b"", b"no database", b"SQLite format 3\0" + bytes(99)])
def test_a_file_that_is_no_database_is_left_to_mlflow(content: bytes | None) -> None:
    """Missing, empty, or damaged."""
    FILE.unlink()
    if content is not None:
        FILE.write_bytes(content)
    assert tracking.rows(registry._ALIASED, NAME, registry.ALIAS) == []
    assert FILE.exists() is (content is not None)

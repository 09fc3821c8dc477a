"""A registry in a database of an older MLflow: refused, upgraded by the documented command, used.

The older database has the tables of MLflow's own migrations up to a revision of before workspaces,
webhooks and jobs, and in them the rows of a real registry, without the columns that came later.
"""

import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from alembic import command
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.db import utils
from mlflow.store.tracking.dbmodels.initial_models import Base

from forks import Forks
from pipelines.local.stack import Stack
from releases import register
from training.core.faults import explained
from training.registry import versions as registry
from training.tracking import client as tracking
from training.tracking import database

OLDER = "6953534de441"  # the first with all that a version with a logged model needs
ROOT = next(path for path in Path(__file__).parents if (path / "pyproject.toml").is_file())

pytestmark = pytest.mark.filterwarnings("ignore")  # of MLflow, of its pools and of SQLAlchemy


@pytest.fixture
def champion(release_folder: Path, binary: Path) -> Path:
    """The database file of a registry with two versions, of which the second is the champion."""
    for seed, before in enumerate((None, "1")):
        register(binary, seed)
        registry.move("stargan", before, str(seed + 1), "promote", f"number {seed + 1}")
    return release_folder / "runs" / "mlflow.db"


def make_older(source: Path, target: str) -> int:
    """Fill the tables of revision `OLDER` at the URL `target`; returns how many rows they got."""
    engine = sqlalchemy.create_engine(target)
    Base.metadata.create_all(engine)
    config = utils._get_alembic_config(target)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, OLDER)
    tables = sqlalchemy.MetaData()
    tables.reflect(engine)
    count, newer = 0, sqlalchemy.create_engine(f"sqlite:///{source}")
    with newer.connect() as before, engine.begin() as after:
        for table in tables.sorted_tables:
            if table.name == "alembic_version":
                continue
            known = {one["name"] for one in sqlalchemy.inspect(newer).get_columns(table.name)}
            common = [column for column in table.columns if column.name in known]
            names = ", ".join(f'"{column.name}"' for column in common)
            found = before.execute(sqlalchemy.text(f'SELECT {names} FROM "{table.name}"')).all()
            rows = [dict(zip([c.name for c in common], row, strict=True)) for row in found]
            if rows:
                after.execute(table.insert(), [_typed(table, row) for row in rows])
            count += len(rows)
    newer.dispose()
    engine.dispose()
    return count


def _typed(table: Any, row: dict[str, Any]) -> dict[str, Any]:
    """A row of SQLite with the booleans that other databases have."""
    boolean = {c.name for c in table.columns if isinstance(c.type, sqlalchemy.Boolean)}
    return {k: bool(v) if k in boolean and v is not None else v for k, v in row.items()}


# In a process of its own: MLflow keeps connections to a file that was replaced.
USE = """
from training import release
from training.inference.translator import translator_from_files
from training.registry import lineage
from training.registry import versions as registry
from training.registry.references import model_files

assert registry.champion("stargan") == "2"
assert [move["why"] for move in registry.history("stargan")] == ["number 1", "number 2"]
assert lineage.verify("stargan@champion").seed == 1
assert translator_from_files(model_files("stargan@champion")).space.sets[0].name == "celeba"
release.main(["rollback", "stargan", "--reason", "after the upgrade"])
assert registry.champion("stargan") == "1"
print("used")
"""


def use(forks: Forks, folder: Path) -> None:
    """The champion resolves, verifies, loads and is rolled back."""
    status, output = forks.run([sys.executable, "-c", USE], folder, dict(os.environ))
    assert (status, output.split()[-1]) == (0, "used"), output


@pytest.mark.slow
def test_an_older_registry_is_refused_upgraded_and_used(
    champion: Path, release_folder: Path, forks: Forks
) -> None:
    """The message's command is the page's; the copy of before is refused as the file was."""
    older, saved = champion.with_name("older.db"), champion.with_name("mlflow.db.before")
    assert make_older(champion, f"sqlite:///{older}") > 60
    database._ready.clear()
    older.replace(champion)
    with pytest.raises(database.DatabaseError, match=f"older MLflow .schema {OLDER}") as refused:
        registry.champion("stargan")
    assert "docs/how-to/upgrade.md" in str(refused.value)
    words = shlex.split(str(refused.value).rpartition("upgrade.md): ")[2])
    assert words == ["mlflow", "db", "upgrade", f"sqlite:///{champion}"]
    page = (ROOT / "docs" / "how-to" / "upgrade.md").read_text()
    assert "mlflow db upgrade sqlite:///runs/mlflow.db" in page

    shutil.copy(champion, saved)
    words[-1] = "sqlite:///runs/mlflow.db"
    subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True)
    use(forks, release_folder)
    query = (
        "SELECT key FROM registered_model_tags WHERE name = ? AND value LIKE '%after the upgrade%'"
    )
    assert tracking.rows(query, "stargan") == [("alias.champion.000003",)]

    saved.replace(champion)
    database._ready.clear()
    with pytest.raises(database.DatabaseError, match="older MLflow"):
        registry.champion("stargan")


def test_mlflows_own_refusal_is_told_with_the_command(empty_mlflow: Path, tmp_path: Path) -> None:
    """Of a database that is no file of this project's: MLflow itself compares the schemas."""
    path = Path(shutil.copy(empty_mlflow, tmp_path))
    with closing(sqlite3.connect(path)) as opened:
        opened.execute("UPDATE alembic_version SET version_num = '75868b020152'")
        opened.commit()
    with pytest.raises(MlflowException) as refused:
        MlflowClient(f"sqlite:///{path}").search_experiments()
    assert "older MLflow; stop all that use it" in explained(refused.value)
    assert "mlflow db upgrade" in explained(refused.value)


@pytest.fixture
def postgres(stack: Stack) -> Iterator[str]:
    """The address of an empty database on the stack's Postgres."""
    connection = stack.connect_postgres()
    with connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE older")
    yield stack.database("mlflow").rpartition("/")[0] + "/older"
    with connection.cursor() as cursor:
        cursor.execute("DROP DATABASE older WITH (FORCE)")
    connection.close()


@pytest.mark.server
@pytest.mark.long
def test_an_older_registry_on_postgres_is_upgraded_and_used(
    champion: Path,
    release_folder: Path,
    postgres: str,
    forks: Forks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_older(champion, postgres)
    upgrade = [sys.executable, "-m", "mlflow", "db", "upgrade", postgres]
    subprocess.run(upgrade, check=True, capture_output=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres)
    champion.unlink()
    use(forks, release_folder)

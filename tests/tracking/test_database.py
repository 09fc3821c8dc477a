"""MLflow's SQLite file at its first use: kills, several processes, and files of before."""

import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from forks import Forks
from training.tracking import client as tracking
from training.tracking import database

# MLflow leaves pools open, and SQLAlchemy warns of what MLflow uses.
pytestmark = pytest.mark.filterwarnings("ignore")

USE = "from training.tracking import client; print(client.experiment_id('faces'))"
KILLS = 12


@pytest.fixture(autouse=True)
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def begin(folder: Path, code: str = USE) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def whole(path: Path) -> bool:
    """Whether MLflow's own check passes and the default experiment is there."""
    database._check(path)
    with closing(sqlite3.connect(path)) as opened:
        names = {name for (name,) in opened.execute("SELECT name FROM experiments")}
    return "Default" in names


@pytest.mark.slow
def test_three_processes_that_use_a_new_folder_at_once_make_one_database(workdir: Path) -> None:
    ends = [(one, *one.communicate()) for one in [begin(workdir) for _ in range(3)]]
    assert [(one.returncode, errors) for one, _, errors in ends] == [(0, "")] * 3
    assert len({out for _, out, _ in ends}) == 1
    assert whole(workdir / "runs" / "mlflow.db")
    assert not list((workdir / "runs").glob("*.tmp*"))


# Starts a program in each of some folders and kills it within the time that the first one takes.
KILLING = """
import os, random, signal, subprocess, sys, time
places, made = random.Random(7), 0.0
for number, folder in enumerate(sys.argv[2:]):
    one = subprocess.Popen([sys.executable, "-c", sys.argv[1]], cwd=folder, stdout=subprocess.PIPE)
    assert one.stdout.readline() == b"go\\n"
    start = time.monotonic()
    if number == 0:
        one.wait()
        made = time.monotonic() - start
    else:
        time.sleep(places.uniform(0, made))
        os.kill(one.pid, signal.SIGKILL)
    one.communicate()
"""


@pytest.mark.long
def test_a_kill_at_any_moment_of_the_first_use_leaves_a_usable_folder(
    tmp_path: Path, forks: Forks
) -> None:
    """Kills spread over the making of the file; the next process then makes or finds it."""
    code = f"from training.tracking import client; client.mlflow(); print('go', flush=True); {USE}"
    folders = [tmp_path / str(number) for number in range(KILLS)]
    for folder in folders:
        folder.mkdir()
    status, out = forks.run([sys.executable, "-c", KILLING, code, *map(str, folders)])
    assert status == 0, out
    made = [folder / "runs" / "mlflow.db" for folder in folders]
    assert all(whole(path) for path in made if path.exists())
    code = "import os, sys\nfrom training.tracking import client\nfor folder in sys.argv[1:]:\n"
    code += " os.chdir(folder); print('id', client.experiment_id('faces'))\n"
    status, out = forks.run([sys.executable, "-c", code, *map(str, folders)])
    assert (status, len(re.findall(r"^id \d+$", out, re.MULTILINE))) == (0, KILLS), out
    assert all(whole(path) for path in made)
    assert not [path for one in made for path in one.parent.glob(".*.tmp*")]


STOPPED = """
import sys
import sqlalchemy
from alembic import command
from mlflow.store.db import utils
from mlflow.store.tracking.dbmodels.initial_models import Base

path, revision, used = sys.argv[1:]
engine = sqlalchemy.create_engine(f"sqlite:///{path}")
Base.metadata.create_all(engine)
if revision:
    config = utils._get_alembic_config(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
if used:
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text(
            "INSERT INTO experiments (experiment_id, name, lifecycle_stage, artifact_location) "
            "VALUES (0, 'Default', 'active', 'x')"
        ))
"""


def stopped(path: Path, revision: str = "", used: str = "") -> None:
    """A file as an earlier version left it: MLflow's first tables, and migrations up to one."""
    command = [sys.executable, "-W", "ignore", "-c", STOPPED, str(path), revision, used]
    subprocess.run(command, check=True, capture_output=True)


def refusal(path: Path) -> str:
    with pytest.raises(database.DatabaseError) as raised:
        tracking.client()
    text = str(raised.value)
    assert str(path) in text
    assert len(text.splitlines()) == 1
    return text


@pytest.mark.parametrize("revision", ["", "451aebb31d03", "acf3f17fdcc7"])
def test_a_half_made_file_is_named_and_its_fix_helps(workdir: Path, revision: str) -> None:
    path = workdir / "runs" / "mlflow.db"
    path.parent.mkdir()
    stopped(path, revision)
    text = refusal(path)
    assert "nothing is recorded in it" in text
    move = re.search(r"\((mv .*?)\)", text)
    assert move
    subprocess.run(shlex.split(move[1]), check=True)
    assert tracking.experiment_id("faces")
    assert whole(path)


def test_an_older_mlflows_file_is_told_apart_and_its_fix_helps(workdir: Path) -> None:
    path = workdir / "runs" / "mlflow.db"
    path.parent.mkdir()
    stopped(path, "acf3f17fdcc7", used="used")
    text = refusal(path)
    assert "older MLflow (schema acf3f17fdcc7" in text
    command = shlex.split(text.rpartition("upgrade.md): ")[2])
    subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True)
    assert tracking.experiment_id("faces")
    assert whole(path)


def test_a_newer_mlflows_file_is_told_apart(workdir: Path, empty_mlflow: Path) -> None:
    path = workdir / "runs" / "mlflow.db"
    path.parent.mkdir()
    shutil.copy(empty_mlflow, path)
    with closing(sqlite3.connect(path)) as opened:
        opened.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        opened.commit()
    assert "newer MLflow (schema ffffffffffff" in refusal(path)


def damage_text(path: Path) -> None:
    path.write_text("no database at all, but long enough to be read as one" * 40)


def damage_head(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:100] + bytes(4000) + content[4100:])


@pytest.mark.parametrize("damage", [damage_text, damage_head, Path.mkdir])
def test_a_file_that_is_no_database_is_named(
    workdir: Path, empty_mlflow: Path, damage: Any
) -> None:
    path = workdir / "runs" / "mlflow.db"
    path.parent.mkdir()
    if damage is not Path.mkdir:
        shutil.copy(empty_mlflow, path)
    damage(path)
    assert "; " in refusal(path)


def test_an_empty_file_is_filled(workdir: Path) -> None:
    path = workdir / "runs" / "mlflow.db"
    path.parent.mkdir()
    path.touch()
    assert tracking.experiment_id("faces")
    assert whole(path)


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:////a/b c.db", "/a/b c.db"),
        ("sqlite:///runs/x.db?timeout=3", "runs/x.db"),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("http://server", None),
        ("postgresql://u@h/d", None),
    ],
)
def test_the_file_of_an_address(uri: str, path: str | None) -> None:
    assert database.file_of(uri) == (Path(path) if path else None)


def test_a_write_that_a_kill_cut_off_is_rolled_back_and_the_file_used(
    workdir: Path, empty_mlflow: Path
) -> None:
    """SQLite's journal is left beside the file, and its pages are partly written."""
    path = workdir / "runs" / "mlflow.db"
    path.parent.mkdir()
    shutil.copy(empty_mlflow, path)
    code = (
        "import os, sqlite3; d = sqlite3.connect('runs/mlflow.db', isolation_level=None); "
        "d.execute('PRAGMA cache_size = 1'); d.execute('BEGIN'); "
        "d.execute('UPDATE alembic_version SET version_num = 0'); "
        "d.execute('CREATE TABLE t (x)'); "
        "d.executemany('INSERT INTO t VALUES (?)', [('x' * 9000,)] * 300); os.kill(os.getpid(), 9)"
    )
    assert begin(workdir, code).wait() == -9
    assert path.with_name("mlflow.db-journal").stat().st_size > 0
    assert tracking.experiment_id("faces")
    assert whole(path)


def test_a_file_that_may_only_be_read_is_checked(workdir: Path, empty_mlflow: Path) -> None:
    path = workdir / "mlflow.db"
    shutil.copy(empty_mlflow, path)
    path.chmod(0o400)
    workdir.chmod(0o500)
    try:
        database.ready(path)
    finally:
        workdir.chmod(0o700)

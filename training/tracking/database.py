"""MLflow's SQLite file: made whole or not at all, and checked before its first use.

MLflow makes a new file in some seconds, by migrations that SQLite does not roll back. A process
that is killed meanwhile, or a second one beside it, would leave a file that MLflow can never open.
"""

import sqlite3
import uuid
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock

from training.core.files import fsync, rename

SCHEME = "sqlite:///"
WAIT = 30.0  # s that a query waits for a locked file
SCHEMA = "dc11669786a5"  # the revision of the pinned MLflow's tables
USED = ("experiments", "runs", "registered_models")  # a finished file has at least one experiment
_ready: set[tuple[str, int]] = set()  # path and inode of the files that this process has checked


class DatabaseError(ValueError):
    """The file is not a database that this MLflow can use; the message has the fix."""


def file_of(uri: str) -> Path | None:
    """The SQLite file of a tracking URI; None for any other URI and for one in memory."""
    name = uri.removeprefix(SCHEME).partition("?")[0]
    return Path(name) if uri.startswith(SCHEME) and name not in ("", ":memory:") else None


def ready(path: Path) -> None:
    """Make the file if there is none, and check it once in this process.

    Processes that begin at once make it once; one that is killed leaves no file. Raises
    DatabaseError for a file that is half made, damaged, or of another version of MLflow.
    """
    if path.is_dir():
        raise DatabaseError(f"{path}: is a folder; name a file: MLFLOW_TRACKING_URI={SCHEME}FILE")
    if not _filled(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not _filled(path):
                _make(path)
    known = (str(path.absolute()), path.stat().st_ino)
    if known not in _ready:
        _check(path)
        _ready.add(known)


def rows(path: Path, query: str, values: Sequence[str]) -> list[tuple[Any, ...]]:
    """The rows of a query, read without MLflow, whose import takes a second.

    Empty also if they are better asked from MLflow, which then names the fault: for a file that
    cannot be read, has another schema than `SCHEMA`, or has workspaces besides the default one.
    """
    if not _filled(path):
        return []
    try:
        with closing(sqlite3.connect(_address(path), uri=True, timeout=WAIT)) as database:
            schema = database.execute("SELECT version_num FROM alembic_version").fetchall()
            spaces = database.execute("SELECT name FROM workspaces").fetchall()
            if (schema, spaces) != ([(SCHEMA,)], [("default",)]):
                return []
            return database.execute(query, values).fetchall()
    except sqlite3.Error:
        return []


def _filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _make(path: Path) -> None:
    """Let MLflow make the file under a temporary name; the caller holds the lock."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for left in path.parent.glob(f".{path.name}.*.tmp*"):  # of a process that was killed
        left.unlink()
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        store = SqlAlchemyStore(f"{SCHEME}{temporary}", "./mlruns")
        store.engine.dispose()
        fsync(temporary)
        rename(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _check(path: Path) -> None:
    from mlflow.store.db import utils

    try:
        found, used = _state(path)
    except sqlite3.OperationalError as error:
        raise DatabaseError(
            f"{path}: {error}; end the program that holds it, or make it readable, and run again"
        ) from error
    except sqlite3.DatabaseError as error:
        raise DatabaseError(f"{path}: {error}; restore it from a copy, or {_away(path)}") from error
    config = utils._get_alembic_config("")
    script = utils.ScriptDirectory.from_config(config)
    head = script.get_current_head()
    if found == head:
        return
    if not used:
        raise DatabaseError(
            f"{path}: MLflow was stopped while it made this file; nothing is recorded in it: "
            f"{_away(path)}"
        )
    if found not in {revision.revision for revision in script.walk_revisions()}:
        raise DatabaseError(
            f"{path}: made by a newer MLflow (schema {found}, here {head}); install that one, or "
            f"{_away(path)}"
        )
    raise DatabaseError(
        f"{path}: made by an older MLflow (schema {found}, here {head}); stop what uses it, copy "
        "the file, then run (docs/how-to/upgrade.md): "
        f"mlflow db upgrade '{SCHEME}{path}'"
    )


def _away(path: Path) -> str:
    return f"move it away (mv '{path}' '{path}.old') and run again"


def _state(path: Path) -> tuple[str, bool]:
    """The schema's revision, empty if none, and whether anything is recorded in the file."""
    with closing(sqlite3.connect(_address(path), uri=True, timeout=WAIT)) as database:
        found = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        tables = {name for (name,) in found}
        used = any(
            database.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone()  # noqa: S608 - constants
            for name in USED
            if name in tables
        )
        if "alembic_version" not in tables:
            return "", used
        row = database.execute("SELECT version_num FROM alembic_version").fetchone()
        return (str(row[0]) if row else ""), used


def _address(path: Path) -> str:
    # Not ro: SQLite first rolls back what a kill cut off. It reads a file that may only be read.
    return f"file:{quote(str(path.absolute()))}?mode=rw"

"""A project folder that was moved or copied: the artifacts' places in its MLflow database.

MLflow stores absolute places in SQLite. They are corrected when the database is first used in the
project's new folder, so that versions, runs and `make ui` find their files there.
"""

import functools
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

ARTIFACTS = "mlartifacts"  # beside the database
PLACES = (  # tables and columns
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


@functools.cache
def follow(database: Path) -> None:
    """Correct the places in the database, if its project was moved, and say so on stdout.

    A place was moved if it is called as ours, `runs/mlartifacts`, and does not exist any more, or
    has a database of its own, from which this one was copied.
    """
    root = database.parent / ARTIFACTS
    if not database.is_file() or not root.is_dir():
        return
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=60)) as records:
        names = {name for (name,) in records.execute("SELECT name FROM sqlite_master")}
        if not {table for table, _ in PLACES} <= names:  # another process is making it
            return
        rows = records.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
    for old in (str(text) for (text,) in rows):
        if _was_moved(Path(url2pathname(urlsplit(old).path)), root, database.name):
            count = _replace(database, old, root.as_uri())
            sys.stdout.write(
                f"MLflow: this project was moved or copied; {count} records of {old} are now of "
                f"{root.as_uri()}\n"
            )


def _was_moved(old: Path, root: Path, database: str) -> bool:
    if old.parts[-2:] != root.parts[-2:] or old == root:
        return False
    try:
        return not old.samefile(root) and (old.parent / database).is_file()
    except OSError:  # it does not exist, or is another user's
        return True


def _replace(database: Path, old: str, new: str) -> int:
    """Replace the beginning of every place; returns how many records changed."""
    count = 0
    with closing(sqlite3.connect(database, timeout=60, isolation_level=None)) as records:
        records.execute("BEGIN IMMEDIATE")
        for table, column in PLACES:
            change = f"UPDATE {table} SET {column} = ? || substr({column}, ?)"  # noqa: S608
            where = f"WHERE {column} = ? OR substr({column}, 1, ?) = ?"
            values = (new, len(old) + 1, old, len(old) + 1, f"{old}/")
            count += records.execute(f"{change} {where}", values).rowcount
        records.execute("COMMIT")
    return count

"""Errors of libraries that a user can act on, as one line with the fix.

They are told by the name of their class, so that no library is imported for it.
"""

import errno
import re
import shutil
import tempfile
from pathlib import Path

from training.core import environment
from training.core.shown import shown

LONGEST = 500  # characters of another library's text
FULL = 10_000_000  # bytes left on a disk that counts as full
_DATABASE = (
    "sqlalchemy.exc.DatabaseError", "sqlite3.DatabaseError", "mlflow.exceptions.MlflowException",
)  # fmt: skip
# Class, pattern in its text (the first that is found counts), and what it means with the fix.
_KNOWN = (
    (_DATABASE, r"database (table )?is locked",
     "MLflow's database {database} is held by another program; end that, or wait, and try again"),
    (_DATABASE, r"database or disk is full|disk I/O error|No space left",
     "no space left for MLflow's database {database}, or its disk fails; free some space"),
    (_DATABASE, r"readonly database|unable to open database",
     "MLflow's database {database} cannot be written; make the file and its folder writable"),
    (_DATABASE, r"out-of-date database schema",
     "MLflow's database {database} is of an older MLflow; stop all that use it, save a copy, then "
     "run: mlflow db upgrade with its address (docs/how-to/upgrade.md)"),
    (_DATABASE, r"malformed|not a database",
     "MLflow's database {database} is damaged; restore it from a copy, or move it away"),
    (_DATABASE, "", "MLflow ({database}) refused the request; remove the cause and run this again"),
    (("safetensors._safetensors_rust.SafetensorError",), r"No space left|os error 28|os error 122",
     "no space left for a weight file; free some space and run this again"),
    (("safetensors._safetensors_rust.SafetensorError",), "",
     "a weight file is damaged or cut short; restore it, or delete it, and run this again"),
    (("PIL.Image.DecompressionBombError",), "",
     "the picture is too large to decode safely; make it smaller"),
)  # fmt: skip


def explained(error: BaseException) -> str:
    """One line on an expected error, with the fix; empty for an error of the program itself."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = "" if error.filename else f" ({_full_disks()})"
        return f"{shown(error)}{where}; free some space and run this again"
    if isinstance(error, ValueError | OSError):
        return shown(error)
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    text = " ".join(shown(error).split())
    for classes, pattern, meaning in _KNOWN:
        if names & set(classes) and re.search(pattern, text):
            return f"{meaning.format(database=_database())}: {text[:LONGEST]}"
    return ""


def _database() -> str:
    uri = environment.MLFLOW_TRACKING_URI.get() or str(environment.runs("mlflow.db").absolute())
    return shown(uri.removeprefix("sqlite:///"))


def _full_disks() -> str:
    """The folders that a program writes to whose disk is full."""
    free = {
        folder: shutil.disk_usage(folder).free for folder in (Path.cwd(), tempfile.gettempdir())
    }
    full = [f"{folder} has {left} bytes left" for folder, left in free.items() if left < FULL]
    return ", ".join(full) or "on none of the disks of this folder and of TMPDIR"

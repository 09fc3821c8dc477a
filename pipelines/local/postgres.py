"""The data folder of the local stack's Postgres, whose programs come from Debian's package."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import psutil

from training.core.environment import whole
from training.core.files import rename


def program(name: str) -> str:
    """Path of a Postgres program; Debian keeps most outside the PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = os.pathsep.join([*map(str, folders), whole()["PATH"]])
    located = shutil.which(name, path=path)
    if not located:
        raise ValueError(f"{name} is not installed: apt-get install postgresql")
    return located


def temporary(data: Path) -> Path:
    """Where initdb works: it cannot go on where an earlier one was killed."""
    return data.with_name(f"{data.name}.new")


def create(data: Path, superuser_password: str, user: str) -> None:
    """Create the data folder, whole or not at all, as a system user if one is named.

    Raises ValueError if initdb fails.
    """
    new, password = temporary(data), data.with_name(f"{data.name}.password")
    if new.exists():
        _end_initdb(new)
        shutil.rmtree(new)
    new.mkdir()
    password.touch(mode=0o600)
    password.write_text(superuser_password)
    if user:
        for path in (new, password):
            shutil.chown(path, user, user)
    command = [
        program("initdb"), "--pgdata", str(new), "--username", "stargan",
        "--auth", "scram-sha-256", "--pwfile", str(password), "--encoding", "UTF8",
    ]  # fmt: skip
    result = subprocess.run(
        command, capture_output=True, text=True, user=user or None, group=user or None, cwd="/"
    )
    password.unlink()
    if result.returncode:
        shutil.rmtree(new)
        raise ValueError(f"initdb: {result.stderr.strip()[-500:]}")
    rename(new, data)


def _end_initdb(folder: Path) -> None:
    """Kill an initdb that outlived its starter, with its helpers: they still write."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(folder) in process.cmdline():
                process.kill()
                process.wait(10)

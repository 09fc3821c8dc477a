"""Provenance: hashes of the code and its lock, the git commit, the machine."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
from pathlib import Path

from training.core import environment
from training.core.files import canonical_json, sha256_bytes, sha256_file

PACKAGES = ("training", "components", "pipelines")
SOURCES = ("*.py", "*.j2")
ROOT = Path(__file__).resolve().parents[2]


def code_hash() -> str:
    """Hex SHA-256 of names and bytes of all source files and page templates, and of the lock."""
    files = sorted(
        path for package in PACKAGES for kind in SOURCES for path in (ROOT / package).rglob(kind)
    )
    rows = [[path.relative_to(ROOT).as_posix(), sha256_file(path)] for path in files]
    return sha256_bytes(canonical_json([*rows, ["requirements.lock", lock_hash()]]))


def lock_hash() -> str:
    """Hex sha256 of `lock_bytes`."""
    return sha256_bytes(lock_bytes())


def git_state() -> tuple[str, bool]:
    """(commit, whether files differ from it), from git or an image's SOURCE_REVISION.

    SOURCE_REVISION is `<commit>` or `<commit>-dirty`. Without either: ("unknown", True).
    """
    return _read_git()[:2]


def git_problem() -> str:
    """Why the commit is unknown, with the fix, or empty text."""
    return _read_git()[2]


def _read_git() -> tuple[str, bool, str]:
    given = environment.SOURCE_REVISION.get()
    if given:
        return given.removesuffix("-dirty"), given.endswith("-dirty"), ""
    try:
        if git(ROOT, "rev-parse", "--show-prefix").strip():
            return "unknown", True, f"{ROOT} is inside an unrelated repository"
        commit = git(ROOT, "rev-parse", "HEAD").strip()
        return commit, bool(git(ROOT, "status", "--porcelain").strip()), ""
    except ValueError as error:
        return "unknown", True, str(error)


def source_url() -> str:
    """The repository's address without a login: SOURCE_URL, else git's `origin`; empty if none."""
    url = environment.SOURCE_URL.get()
    if not url and git_state()[0] != "unknown":
        try:
            url = git(ROOT, "config", "--get", "remote.origin.url").strip()
        except ValueError:  # no such remote, or no git in this image
            return ""
    scheme, found, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if found else url


def git(root: Path, *arguments: str) -> str:
    """Output of a git command. Raises ValueError with git's error message."""
    try:
        result = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ValueError("git is not installed; give the data's md5 as revision") from error
    if "dubious ownership" in result.stderr:
        raise ValueError(
            f"git {arguments[0]}: {root} belongs to another user; to use it, run "
            f"git config --global --add safe.directory {shlex.quote(str(root.resolve()))}"
        )
    if result.returncode:
        raise ValueError(f"git {arguments[0]}: {result.stderr.strip()}")
    return result.stdout


def lock_bytes() -> bytes:
    """The package lock; if there is none, the list of installed packages."""
    lock = ROOT / "requirements.lock"
    if lock.is_file():
        return lock.read_bytes()
    installed = {(d.name.lower(), d.version) for d in importlib.metadata.distributions()}
    return canonical_json(sorted(installed))


def machine() -> str:
    """This machine in one line: processor, cores, accelerator, torch version."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if platform.system() == "Linux" else []
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{cpu}, {os.cpu_count()} cores{gpu}, torch {torch.__version__}"

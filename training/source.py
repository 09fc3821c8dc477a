"""Which sources are at work: hashes of the package and its lock, and git's word."""

import importlib.metadata
import os
from pathlib import Path

from training.data.versions import git
from training.files import canonical_json, sha256_bytes, sha256_file

PACKAGES = ("training", "components", "pipelines")


def code_hash() -> str:
    """Hex sha256 over the names and bytes of the installed package's sources and the lock."""
    root = Path(__file__).resolve().parents[1]
    files = sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))
    rows = [[path.relative_to(root).as_posix(), sha256_file(path)] for path in files]
    return sha256_bytes(canonical_json([*rows, ["requirements.lock", lock_hash()]]))


def lock_hash() -> str:
    """Hex sha256 of requirements.lock; installed without it, of what is installed instead."""
    lock = Path(__file__).resolve().parents[1] / "requirements.lock"
    if lock.is_file():
        return sha256_file(lock)
    found = {(d.name.lower(), d.version) for d in importlib.metadata.distributions()}
    return sha256_bytes(canonical_json(sorted(found)))


def git_state() -> tuple[str, bool]:
    """(commit, whether files differ from it), from git or an image's SOURCE_REVISION.

    SOURCE_REVISION is `<commit>` or `<commit>-dirty`. Where neither says: ("unknown", True).
    """
    given = os.environ.get("SOURCE_REVISION", "")
    if given:
        return given.removesuffix("-dirty"), given.endswith("-dirty")
    root = Path(__file__).resolve().parents[1]
    try:
        if git(root, "rev-parse", "--show-prefix").strip():
            return "unknown", True  # installed inside somebody's own repository
        commit = git(root, "rev-parse", "HEAD").strip()
        return commit, bool(git(root, "status", "--porcelain").strip())
    except ValueError:
        return "unknown", True

"""A content-addressed cache of local step results, in place of kfp.local's.

kfp 2.17.0's own cache identifies an input artifact by its path, so that a step that ran again
causes everything after it to run again; it trusts any output file that exists; and two concurrent
runs do the same work twice. Here

- a key covers the content of the input artifacts (the digest of a manifest), the arguments and the
  component's source, but not the image, since locally the code is the working tree (steps take its
  hash as an argument), and not what a step requests from a cluster;
- a hit requires unchanged bytes of every output file and, for a manifest, of every stored file;
- the first of two runs that need the same result computes it, the second waits for it.

Entries are small JSON files under one root. Outputs stay in the folder of the run that wrote them.
"""

import hashlib
import os
import re
import sys
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from kfp import dsl
from kfp.local.cache import LocalCache

from training.core.files import canonical_json, read_json, sha256_bytes, sha256_file, write_json
from training.storage.store import Entry, Manifest, open_store

# Names that kfp's compiler gives to what sizes a step's pod, and to the results it comes from.
RESOURCE = re.compile(r"pipelinechannel--|(cpu|memory)_(request|limit)$|accelerator_(type|count)$")


def digest(path: Path) -> str:
    """Hex sha256 of a file's bytes, or of a folder's relative names and bytes."""
    if not path.is_dir():
        return sha256_file(path)
    whole = hashlib.sha256()
    for entry in sorted(p for p in path.rglob("*") if p.is_file()):
        whole.update(f"{entry.relative_to(path)}\0{sha256_file(entry)}\n".encode())
    return whole.hexdigest()


def is_manifest(path: Path) -> bool:
    """Whether a file's content is a step's manifest."""
    try:
        Manifest.read(path)
    except (ValueError, OSError, KeyError, TypeError):
        return False
    return True


def content(value: Any) -> Any:
    """An argument's part of a key: the digest of an artifact, the value of anything else."""
    if isinstance(value, dsl.Artifact):
        path = Path(value.uri)
        return {"artifact": Manifest.read(path).digest if is_manifest(path) else digest(path)}
    if isinstance(value, list):
        return [content(item) for item in value]
    if isinstance(value, dict):
        return {name: content(item) for name, item in value.items()}
    return value


class ContentCache(LocalCache):
    """Replaces `kfp.local.cache.LocalCache`; overrides its three methods.

    A miss in `get` keeps the key locked until `put` or `release`.
    """

    def __init__(self, cache_root: str) -> None:
        super().__init__(cache_root)
        self.root = Path(cache_root)
        self.held: dict[str, FileLock] = {}
        self.verified: set[Entry] = set()  # steps share stored files: each is read once per run

    def compute_key(  # type: ignore[no-untyped-def]
        self, component_name, image, full_command, arguments, env_vars=None, custom_cache_key=None
    ) -> str:
        del image
        given = {name: v for name, v in arguments.items() if not RESOURCE.match(name)}
        parts = [component_name, full_command, content(given), env_vars or {}, custom_cache_key]
        return sha256_bytes(canonical_json(parts))

    def get(self, key: str) -> dict[str, Any] | None:
        """The outputs cached under `key`, or None if any of their bytes changed."""
        lock = FileLock(self.root / f"{key}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            sys.stdout.write("  another run is computing the same result; waiting for it\n")
            sys.stdout.flush()
            lock.acquire()
        self.held[key] = lock
        path = self.root / f"{key}.json"
        if not path.is_file():
            return None
        try:
            entry = read_json(path)
            fault = self.fault(entry["files"])
        except (ValueError, OSError, KeyError, TypeError) as error:
            fault = f"{path.name}: not a cache entry ({error!r})"
        if fault:
            sys.stdout.write(f"  not from cache: {fault}\n")
            return None
        os.utime(path)  # in use: `release gc` keeps it
        self.release()
        return self._deserialize_outputs(entry["outputs"])

    def put(self, key: str, outputs: dict[str, Any]) -> None:
        """Store `outputs` and the digest of each of their files."""
        files = [Path(v.uri) for v in outputs.values() if isinstance(v, dsl.Artifact)]
        rows = [
            {"path": str(p), "sha256": digest(p), "manifest": p.is_file() and is_manifest(p)}
            for p in files
        ]
        write_json(
            self.root / f"{key}.json", {"outputs": self._serialize_outputs(outputs), "files": rows}
        )
        self.release()

    def release(self) -> None:
        """Unlock the keys that this run missed."""
        for lock in self.held.values():
            lock.release()
        self.held.clear()

    def fault(self, files: list[dict[str, Any]]) -> str:
        """Why the files of an entry are no longer valid, or empty text."""
        for row in files:
            path = Path(row["path"])
            if not path.exists():
                return f"{path} is missing"
            if digest(path) != row["sha256"]:
                return f"{path} was altered"
            if row["manifest"]:
                store = open_store()
                for entry in Manifest.read(path).entries:
                    if entry not in self.verified and not store.exists(entry):
                        return f"{entry.name} is missing in the store or altered ({entry.sha256})"
                    self.verified.add(entry)
        return ""

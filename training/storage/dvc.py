"""Push and pull versions of the raw data with DVC; a pull is complete and verified, or fails.

DVC transfers the bytes. Its own `pull` does not report the cause of a failure and, without
`verify`, delivers altered bytes with exit code 0; so the listing is verified before the transfer,
and each object and the whole folder after it. No other module uses DVC.

The remote comes from DVC_REMOTE_URL (s3://bucket/prefix or a folder) or .dvc/config.
"""

import configparser
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlparse

from training.core import environment
from training.core.entries import plain_files
from training.core.files import parse_json, rename
from training.core.progress import Progress
from training.core.shown import shown
from training.core.temporary import temporary_folder
from training.storage.s3 import Bucket, Code, RemoteError, disk_full

POLL = 0.5  # s between progress updates of a running pull
NAMED = 3  # damaged files that an error message lists
PUSH = "push the data again from a clone that has it (python -m training.data push NAME)"


def file_md5(path: Path) -> str:
    """Hex MD5 of a file's bytes, DVC's name for them; no protection against deliberate changes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()


def tree_md5(root: Path, outside: bool = False) -> tuple[str, int]:
    """DVC's name `<32 hex>.dir` of a folder's content, computed without DVC, and its file count.

    It is the MD5 of the JSON list of {"md5", "relpath"} sorted by relpath; modes and times do not
    count. Raises ValueError for a folder that is missing, empty or, before a file is opened, has
    entries that `plain_files` refuses; `outside`: links out of it are followed, as DVC makes them.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder")
    names = list(plain_files(root, outside))
    if not names:
        raise ValueError(f"{root}: no files in it")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = list(pool.map(lambda name: file_md5(root / name), names, chunksize=1))
    rows = [{"md5": md5, "relpath": name} for md5, name in zip(digests, names, strict=True)]
    text = json.dumps(rows, sort_keys=True).encode()
    return f"{hashlib.md5(text, usedforsecurity=False).hexdigest()}.dir", len(rows)


@dataclass(frozen=True)
class Remote:
    """A DVC remote: s3://bucket/prefix or a folder, and DVC's options for it."""

    url: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def objects(self) -> "Bucket | FolderRemote":
        """The remote's files, read without DVC."""
        if urlparse(self.url).scheme == "s3":
            return Bucket(self.url, self.options)
        return FolderRemote(Path(self.url))


class FolderRemote:
    """A remote in a local folder, with the methods of `Bucket` that a pull needs."""

    def __init__(self, root: Path) -> None:
        self.root, self.url = root, str(root)

    def check(self) -> None:
        if not self.root.is_dir():
            message = f"{self.root}: no such folder; push to it first, or correct the remote's url"
            raise RemoteError("missing-remote", message)

    def read(self, key: str) -> bytes:
        path = self.root / key
        self.check()
        if not path.is_file():
            raise RemoteError("missing-object", f"{path}: no such file")
        return path.read_bytes()

    def size(self, key: str) -> int | None:
        path = self.root / key
        return path.stat().st_size if path.is_file() else None


def configured(url: str = "", root: Path | None = None) -> Remote:
    """The remote `url`, else DVC_REMOTE_URL, else the default one of `root`'s .dvc/config.

    Raises RemoteError "missing-remote" if none is set.
    """
    folder = (root or Path.cwd()) / ".dvc"
    config = configparser.ConfigParser(interpolation=None)
    config.read([folder / "config", folder / "config.local"])
    remotes = {
        name.removeprefix("'remote \"").removesuffix("\"'"): dict(config[name])
        for name in config.sections()
        if name.startswith("'remote ")
    }
    url = url or environment.DVC_REMOTE_URL.get()
    default = remotes.get(config.get("core", "remote", fallback=""), {})
    if not url and not default:
        raise RemoteError(
            "missing-remote",
            f"{folder}/config names no default remote; set DVC_REMOTE_URL=s3://bucket/prefix",
        )
    options = {k: v for k, v in default.items() if k not in ("url", "verify")}
    where = url or default["url"]
    if urlparse(where).scheme in ("", "file"):
        base = Path.cwd() if url else folder
        return Remote(os.path.normpath(base / urlparse(where).path))
    if urlparse(where).scheme != "s3":
        raise ValueError(f"remote {shown(where)}: s3://bucket/prefix or a folder is needed")
    return Remote(where, options)


def key(md5: str) -> str:
    """Key of an object or listing in a remote."""
    return f"files/md5/{md5[:2]}/{md5[2:]}"


def listing(remote: Remote, md5: str) -> dict[str, str]:
    """File name -> MD5 of a directory version, from the remote's listing, verified.

    Raises RemoteError: credentials, endpoint, missing remote, missing or altered listing.
    """
    objects = remote.objects
    try:
        text = objects.read(key(md5))
    except RemoteError as error:
        if error.code != "missing-object":
            raise
        objects.check()
        message = f"{objects.url}: data version {md5} is not in the remote; {PUSH}"
        raise RemoteError("missing-object", message) from error
    if f"{hashlib.md5(text, usedforsecurity=False).hexdigest()}.dir" != md5:
        raise RemoteError(
            "tampered-listing",
            f"{objects.url}/{key(md5)}: the listing of data version {md5} was altered "
            f"({len(text)} bytes); delete that object and {PUSH}",
        )
    where = f"{objects.url}/{key(md5)}"
    rows = parse_json(text, where)
    try:
        found = {str(row["relpath"]): str(row["md5"]) for row in rows}
        if outside := [n for n in found if n[:1] == "/" or {"..", ""} & set(n.split("/"))]:
            raise ValueError(f"{outside[0]!r} is not below the data folder")
        return found
    except (KeyError, TypeError, ValueError) as error:
        raise RemoteError(
            "tampered-listing", f"{where}: not a listing ({error}); {PUSH}"
        ) from error


def pull(
    md5: str, nfiles: int, out: Path, url: str = "", size: int = 0, root: Path | None = None
) -> int:
    """Download data version `md5` (`<32 hex>.dir`) into the folder `out`, which must not exist.

    `nfiles` and `size` (bytes) are those of the .dvc file; 0 = unknown. No git is needed. `out` is
    created only after its MD5 and file count were verified. Returns the number of files. Raises
    RemoteError, and ValueError if `out` exists or `nfiles` is wrong.
    """
    if out.exists():
        raise ValueError(f"{out} exists; remove it or name another folder")
    remote = configured(url, root)
    files = listing(remote, md5)
    if nfiles and nfiles != len(files):
        raise ValueError(f"data version {md5} has {len(files)} files, not the {nfiles} stated")
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    if size > shutil.disk_usage(out.parent).free:
        raise RemoteError("disk-full", f"{out.parent}: {size} bytes are needed; free some space")
    try:
        with temporary_folder(out.parent, f".{out.name}.") as work:
            _receive(work, remote, md5, files, size)
            rename(work / "data", out)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise disk_full(out, error) from error
        raise
    return len(files)


def _receive(work: Path, remote: Remote, md5: str, files: Mapping[str, str], size: int) -> None:
    """Download a version into `work/data` and verify it."""
    _write_project(work, remote, md5)
    _fetch(work, remote, files, size)
    shutil.rmtree(work / "cache")
    received, count = tree_md5(work / "data")
    if (received, count) != (md5, len(files)):
        raise RemoteError(
            "corrupted",
            f"{remote.url}: data version {md5} with {len(files)} files arrived as {received} "
            f"with {count}; {PUSH}",
        )
    for path in (work / "data").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # DVC leaves links read-only


def push(folder: Path, url: str = "", root: Path | None = None) -> tuple[str, bool]:
    """Upload a folder's version unless the remote has all of it; (md5, whether it was uploaded).

    Raises RemoteError.
    """
    remote = configured(url, root)
    md5, _ = tree_md5(folder)
    try:
        files = listing(remote, md5)
        if all(remote.objects.size(key(each)) is not None for each in set(files.values())):
            return md5, False
    except RemoteError as error:
        if error.code not in ("missing-object", "missing-remote"):
            raise
    with temporary_folder(folder.absolute().parent, ".push.") as work:
        _write_project(work, remote, md5)
        (work / "data.dvc").unlink()
        shutil.copytree(folder, work / "data", copy_function=os.link)
        dvc("add", "--quiet", "data", cwd=work)
        dvc("push", "--quiet", cwd=work)
        for path in folder.rglob("*"):  # DVC makes the files that it links to read-only
            path.chmod(0o755 if path.is_dir() else 0o644)
    listing(remote, md5)
    return md5, True


def _fetch(work: Path, remote: Remote, files: Mapping[str, str], size: int) -> None:
    """Run `dvc pull`, again while each attempt fetches more: a server may be briefly down."""
    before, have = -1, -1
    while True:
        code, errors = _dvc_pull(work, len(files))
        if not code:
            return
        before, have = have, len(_cached(work))
        cause = _cause(work, remote, files, size, errors)  # waits for a server that is down
        if cause.code in ("missing-object", "disk-full") or have == before:
            raise cause


def _write_project(work: Path, remote: Remote, md5: str) -> None:
    """A DVC project without git, with this version and this remote."""
    config = configparser.ConfigParser(interpolation=None)
    config["core"] = {
        "analytics": "false", "check_update": "false", "no_scm": "true", "remote": "storage",
    }  # fmt: skip
    config["cache"] = {"dir": str(work / "cache"), "type": "hardlink,copy"}
    # The default for a local remote is to trust it.
    config["'remote \"storage\"'"] = {"url": remote.url, "verify": "true", **remote.options}
    (work / ".dvc").mkdir()
    with (work / ".dvc" / "config").open("w") as stream:
        config.write(stream)
    (work / "data.dvc").write_text(f"outs:\n- md5: {md5}\n  hash: md5\n  path: data\n")


def _dvc_pull(work: Path, nfiles: int) -> tuple[int, str]:
    """Run `dvc pull` with progress; its exit code and its output."""
    command = [sys.executable, "-m", "dvc", "pull"]
    env = environment.whole() | {
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(work / "site"),
    }
    # Not beside the data: on a full disk the error message would be lost.
    with tempfile.TemporaryFile("w+") as errors, Progress("pull", nfiles, "files") as bar:
        process = subprocess.Popen(command, cwd=work, env=env, stdout=errors, stderr=errors)
        try:
            while process.poll() is None:
                try:
                    process.wait(POLL)
                except subprocess.TimeoutExpired:
                    bar.step(max(0, len(_cached(work)) - bar.done))
        finally:
            process.kill()
            process.wait()
        bar.step(max(0, len(_cached(work)) - bar.done))
        errors.seek(0)
        return process.returncode, errors.read()


def _cached(work: Path) -> set[str]:
    """The MD5s of the objects in the project's cache, without listings."""
    paths = (work / "cache" / "files" / "md5").glob("[0-9a-f][0-9a-f]/*")
    return {path.parent.name + path.name for path in paths if len(path.name) == 30}


def _cause(
    work: Path, remote: Remote, files: Mapping[str, str], size: int, errors: str
) -> RemoteError:
    """Why `dvc pull` failed: compare the fetched objects with the listing."""
    if os.strerror(errno.ENOSPC) in errors or "disk is full" in errors:  # the latter is SQLite's
        return disk_full(work.parent, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    have = {md5: work / "cache" / key(md5) for md5 in _cached(work)}
    bad = {name: md5 for name, md5 in files.items() if md5 not in have}
    if not bad:
        return RemoteError("failed", f"dvc pull from {remote.url}: {shown(errors).strip()[-2000:]}")
    objects = remote.objects
    sizes = {name: objects.size(key(md5)) for name, md5 in bad.items()}
    lost = [name for name, stored in sizes.items() if stored is None]
    if lost:
        return _damage("missing-object", remote, "is missing", {n: bad[n] for n in lost})
    fetched = sum(have[md5].stat().st_size for md5 in files.values() if md5 in have)
    if sum(stored or 0 for stored in sizes.values()) < size - fetched:
        return _damage("truncated", remote, "is cut short", bad)
    # A server that has just started may list objects that it cannot read yet: `read` waits for it.
    md5 = bad[min(bad, key=lambda name: sizes[name] or 0)]
    if hashlib.md5(objects.read(key(md5)), usedforsecurity=False).hexdigest() == md5:
        return RemoteError("failed", f"dvc pull from {remote.url}: {shown(errors).strip()[-2000:]}")
    return _damage("corrupted", remote, "does not have the bytes of its name", bad)


def _damage(code: Code, remote: Remote, what: str, bad: Mapping[str, str]) -> RemoteError:
    """The error for `bad` (file name -> MD5), which lists the first `NAMED` of them."""
    named = "; ".join(f"{name} ({key(md5)})" for name, md5 in list(bad.items())[:NAMED])
    more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return RemoteError(
        code,
        f"{remote.url}: {len(bad)} of the data's objects {what}: {named}{more}; "
        f"delete such objects and {PUSH}",
    )


def dvc(*arguments: str, cwd: Path | None = None) -> None:
    """Run a DVC command in `cwd`, default the working folder. ValueError with DVC's error."""
    command = [sys.executable, "-m", "dvc", *arguments]
    env = environment.whole() | {"DVC_NO_ANALYTICS": "1"}
    result = subprocess.run(command, env=env, capture_output=True, text=True, cwd=cwd)
    if result.returncode:
        raise ValueError(f"dvc {' '.join(arguments)}: {shown(result.stderr).strip()}")

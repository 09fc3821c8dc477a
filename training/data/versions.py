"""Versions of the raw data in `.dvc` files, by name, git revision or md5.

`<name>.dvc` of an adopted data set takes precedence; `data.dvc` pins the drawn demo data, which
contain `celeba` and `rafd`.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from training.core.entries import check_name
from training.core.provenance import git
from training.storage.dvc import tree_md5
from training.storage.s3 import RemoteError

DEMO = "data"  # data.dvc pins ./data
DEMO_SETS = ("celeba", "rafd")
KINDS = ("celeba", "rafd", "folders", "csv")
DVC_LIMIT = 100_000  # bytes
_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Pin:
    """The content of one `.dvc` file: a folder's version and, for adopted data, its kind."""

    name: str
    md5: str
    nfiles: int = 0  # 0 = not known
    size: int = 0  # bytes; 0 = not known
    path: str = ""
    kind: str = ""

    @classmethod
    def parse(cls, name: str, text: str | bytes) -> "Pin":
        """Parse a `.dvc` file. Raises ValueError if it does not pin a folder."""
        file = f"{name}.dvc"
        content = _load(file, text)
        try:
            out = content["outs"][0]
            md5, path = str(out["md5"]), str(out["path"])
        except (LookupError, TypeError) as error:
            raise ValueError(f"{file}: not a .dvc file with an md5; run dvc add") from error
        if not _MD5.fullmatch(md5) or not md5.endswith(".dir"):
            raise ValueError(f"{file}: {md5!r} is not the md5 of a folder; dvc add the folder")
        try:
            check_name(path)
        except ValueError as error:
            raise ValueError(f"{file}: path {error}; dvc add a folder of the project") from error
        meta = content.get("meta") or {}
        if not isinstance(meta, dict) or meta.get("kind", "") not in ("", *KINDS):
            raise ValueError(f"{file}: meta={meta!r}: needs kind: {'|'.join(KINDS)}")
        nfiles, size = (_count(file, key, out.get(key, 0)) for key in ("nfiles", "size"))
        return cls(name, md5, nfiles, size, path, meta.get("kind", ""))


class _Loader(yaml.SafeLoader):
    """YAML as DVC writes it: without aliases, which could unfold without an end."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*), which DVC does not write")
        return super().compose_node(parent, index)


def _load(file: str, text: str | bytes) -> Any:
    """The content of a `.dvc` file. Raises ValueError that names it."""
    if len(text) > DVC_LIMIT:
        raise ValueError(f"{file}: {len(text)} bytes; a .dvc file has less than {DVC_LIMIT}")
    try:
        return _Loader(text).get_single_data()
    except RecursionError as error:
        raise ValueError(f"{file}: nested too deeply for a .dvc file; run dvc add") from error
    except (yaml.YAMLError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"{file}: not a .dvc file ({why}); run dvc add") from error


def _count(file: str, key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{file}: {key}={value!r}: needs a whole number, at least 0; run dvc add")
    return value


def project_root() -> Path:
    """The folder of the `.dvc` files: the working folder if it has any, else the project root."""
    here = Path.cwd()
    if (here / ".dvc").is_dir() or any(here.glob("*.dvc")):
        return here
    return Path(__file__).resolve().parents[2]


def commit_of(revision: str, root: Path) -> str:
    """The commit that a git revision names. Raises RemoteError "unknown-revision"."""
    try:
        name = f"{revision}^{{commit}}"
        return git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", name).strip()
    except ValueError as error:
        if "safe.directory" in str(error):
            raise RemoteError("unknown-revision", f"revision {revision!r}: {error}") from error
        raise RemoteError(
            "unknown-revision",
            f"revision {revision!r}: neither a commit, tag or branch of {root} nor a data md5 of "
            f"32 hex digits; git fetch --tags, or correct revision= {error}".rstrip(": "),
        ) from error


def pin(name: str, commit: str = "", root: Path | None = None) -> Pin | None:
    """The content of `<name>.dvc`, here or at a git commit; None if the file does not exist."""
    root = root or project_root()
    if not commit:
        path = root / f"{name}.dvc"
        return Pin.parse(name, path.read_bytes()) if path.is_file() else None
    if not git(root, "ls-tree", "--name-only", commit, f"{name}.dvc").strip():
        return None
    return Pin.parse(name, git(root, "show", f"{commit}:./{name}.dvc"))


def find_pin(name: str, commit: str = "") -> Pin:
    """The version of one data set: from its own `.dvc` file, else from the demo's.

    Raises ValueError if there is neither."""
    found = pin(name, commit)
    if found is not None:
        return found
    demo = pin(DEMO, commit) if name in DEMO_SETS else None
    if demo is None:
        at = f" at {commit}" if commit else f" in {project_root()}"
        raise ValueError(
            f"no {name}.dvc{at}; python -m training.data adopt {name} PATH, or give raw=PATH"
        )
    return demo


def drawn_instead(names: Sequence[str], revision: str) -> list[str]:
    """Which of the data sets are the demo's drawn faces, having no `.dvc` file of their own."""
    if is_md5(revision):
        return []
    commit = commit_of(revision, project_root()) if revision else ""
    return [name for name in names if name in DEMO_SETS and pin(name, commit) is None]


def split_datasets(datasets: str | Sequence[str]) -> list[tuple[str, str]]:
    """(name, kind) of `name` or `name:kind` entries; the kind is "" if it is not given."""
    entries = datasets.split(",") if isinstance(datasets, str) else list(datasets)
    out = []
    for entry in filter(None, (e.strip() for e in entries)):
        name, _, kind = entry.partition(":")
        kind = kind or (name if name in KINDS else "")
        if not _NAME.fullmatch(name) or (kind and kind not in KINDS):
            raise ValueError(f"data set {entry!r}: NAME or NAME:KIND, kind {'|'.join(KINDS)}")
        out.append((name, kind))
    names = [name for name, _ in out]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"datasets={entries}: one or more different names are needed")
    return out


def with_kind(name: str, kind: str, found: Pin | None) -> str:
    """`name:kind`, with the adopted data set's kind if the user gave none."""
    kind = kind or (found.kind if found else "")
    if not kind:
        raise ValueError(f"data set {name!r}: give its kind, {name}:folders or {name}:csv")
    return f"{name}:{kind}"


def raw_root(raw: str) -> Path:
    """The folder `raw`. Raises ValueError for another address than file://."""
    path = raw.removeprefix("file://")
    if "://" in path:
        raise ValueError(
            f"raw={raw}: a folder is needed; download the data, or adopt them into DVC"
        )
    return Path(path)


def raw_folder(raw: str, name: str, alone: bool) -> Path:
    """The folder of data set `name`: `raw/<name>`, or `raw` if it is the only one (`alone`)."""
    root = raw_root(raw)
    if (root / name).is_dir():
        return root / name
    if not alone or not root.is_dir():
        raise ValueError(f"raw={raw}: no folder {root / name if root.is_dir() else root}")
    return root


def data_version(
    datasets: Sequence[tuple[str, str]], raw: str, revision: str
) -> tuple[str, str, list[str]]:
    """(md5 text, revision text, `name:kind` entries) of the data sets. Accesses no remote."""
    if raw:
        folders = {name: raw_folder(raw, name, len(datasets) == 1) for name, _ in datasets}
        versions = {name: tree_md5(folder)[0] for name, folder in folders.items()}
        return join_md5(versions), "folder", [with_kind(n, k, None) for n, k in datasets]
    if is_md5(revision):
        versions = split_md5(revision, [name for name, _ in datasets])
        kinds = [with_kind(n, k, pin(n)) for n, k in datasets]
        return join_md5(versions), revision, kinds
    commit = commit_of(revision, project_root()) if revision else ""
    pins = {name: find_pin(name, commit) for name, _ in datasets}
    files = ",".join(dict.fromkeys(f"{p.name}.dvc" for p in pins.values()))
    kinds = [with_kind(n, k, pins[n]) for n, k in datasets]
    return join_md5({n: p.md5 for n, p in pins.items()}), commit or files, kinds


def is_md5(text: str) -> bool:
    """Whether a revision is a data version itself: an md5, or `name=md5` for each data set."""
    parts = text.split(",")
    return all(_MD5.fullmatch(part.rpartition("=")[2]) for part in parts) and bool(text)


def join_md5(versions: dict[str, str]) -> str:
    """The data sets' versions as one text: only the md5 if all have the same."""
    different = set(versions.values())
    if len(different) == 1:
        return different.pop()
    return ",".join(f"{name}={md5}" for name, md5 in versions.items())


def split_md5(text: str, names: Sequence[str]) -> dict[str, str]:
    """The version of each data set, the inverse of `join_md5`; `.dir` may be left out."""
    if not is_md5(text):
        raise ValueError(f"md5={text!r}: 32 hex digits, or name=md5 for each data set")
    parts = [part.rpartition("=") for part in text.split(",")]
    table = {name: md5.removesuffix(".dir") + ".dir" for name, _, md5 in parts}
    if list(table) == [""] and len(parts) == 1:
        return dict.fromkeys(names, table[""])
    if sorted(table) != sorted(names):
        raise ValueError(f"md5={text!r}: one name=md5 is needed for each of {', '.join(names)}")
    return {name: table[name] for name in names}


def short_md5(data_md5: str) -> str:
    """At most 36 characters, MLflow's limit for a digest: the md5, or an md5 of several."""
    if len(data_md5) <= 36 and "=" not in data_md5:
        return data_md5
    return hashlib.md5(data_md5.encode(), usedforsecurity=False).hexdigest()

"""Step 2: put the raw data of the given md5 into the store as tar shards.

    python -m training.data.pull --datasets celeba --out runs/raw.json

Local copies (./data, ./raw/<name>) are used first if their md5 matches, then the DVC remote. The
demo data are drawn if the remote does not have them, unless DRAW_DEMO=0.
"""

import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

from filelock import FileLock, Timeout

from training.core import cli, environment
from training.core.cli import means
from training.core.files import read_json, write_json
from training.core.temporary import temporary_folder
from training.data import archive as tree
from training.data import forgotten as tombstones
from training.data.versions import (
    DEMO,
    DEMO_SETS,
    Pin,
    data_version,
    pin,
    project_root,
    raw_folder,
    split_datasets,
    split_md5,
    with_kind,
)
from training.storage import dvc as remote
from training.storage.meta import RawMeta, RawSet
from training.storage.s3 import RemoteError
from training.storage.store import Manifest, open_store

main = cli.program("python -m training.data.pull", __doc__)
DATA = Path(DEMO)  # the demo's raw data, below the working folder
DRAWN = environment.runs("drawn.json")  # the data drawn on this machine: {"md5", "pixels"}


class Source(NamedTuple):
    """A folder with verified data, its origin and a note for the manifest."""

    folder: Path
    nfiles: int
    origin: str = "dvc"  # the pinned bytes; "drawn": the pinned pixels; "folder": the user's
    note: str = ""


def say(text: str) -> None:
    sys.stdout.write(f"pull: {text}\n")
    sys.stdout.flush()


@main.default
def pull(
    *,
    datasets: Annotated[str, means("name or name:kind, comma-separated")],
    raw: Annotated[str, means("your own folder instead of DVC's data")] = "",
    revision: Annotated[str, means("git revision or data md5; only recorded with --md5")] = "",
    md5: Annotated[str, means("the data version to verify; empty: resolved")] = "",
    out: Annotated[Path, means("the manifest to write")],
    forgotten: Annotated[str | None, cli.INTERNAL] = None,
) -> Manifest[RawMeta]:
    """Write a manifest of kind "raw": the data sets' tar shards, verified against `md5`.

    It also names the lists of people whom the later steps leave out: `forgotten`, as
    `training.data.forgotten.references` gives them, by default the current ones.

    Raises ValueError if the user's folder differs from `md5`, and RemoteError if the version is not
    completely available.
    """
    names = split_datasets(datasets)
    if not md5:
        md5, revision, entries = data_version(names, raw, revision)
        names = split_datasets(entries)
    versions = split_md5(md5, [name for name, _ in names])
    kinds = [with_kind(name, kind, pin(name)).split(":") for name, kind in names]
    sources: dict[str, Source] = {}
    shards: dict[str, Path] = {}
    out.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(out.parent, ".pull.") as work:
        for name, version in versions.items():
            if raw:
                shards |= _user_shards(
                    raw_folder(raw, name, len(names) == 1), name, version, work, sources
                )
                continue
            same = [other for other in versions if versions[other] == version]
            if version not in sources:
                sources[version] = fetch_version(version, same, work)
            shards |= _shards(sources[version].folder, name, len(same) == 1, work)
        used = list(sources.values())
        meta = RawMeta(
            datasets=tuple(RawSet(name=name, kind=kind) for name, kind in kinds),
            md5=md5,
            nfiles=sum(source.nfiles for source in used),
            source=used[0].origin,
            note="; ".join(source.note for source in used if source.note),
        )
        # The digest of the manifest does not depend on the revision.
        store = open_store()
        if forgotten is None:
            forgotten = tombstones.references(versions, store)
        left_out = tombstones.parse(forgotten)
        manifest = Manifest.build(
            "raw", shards, meta, keep=left_out, store=store, about={"revision": revision}
        )
    manifest.write(out)
    return manifest


def _user_shards(
    folder: Path, name: str, version: str, work: Path, sources: dict[str, Source]
) -> dict[str, Path]:
    """Pack the user's folder. Raises ValueError if it is not `version` afterwards."""
    shards = _shards(folder, name, True, work)
    found, nfiles = remote.tree_md5(folder)
    if found != version:
        raise ValueError(
            f"{folder}: its files are version {found}, not {version}; start the run again"
        )
    sources[name] = Source(folder, nfiles, "folder")
    return shards


def _shards(folder: Path, name: str, alone: bool, work: Path) -> dict[str, Path]:
    """Entry name -> tar of one data set: the shards of adopted data, or newly packed ones."""
    tars = sorted(folder.glob("*-[0-9][0-9][0-9][0-9][0-9].tar"))
    shards = [path for path in tars if path.name[: -len("-00000.tar")] == name]
    if shards:
        return {path.name: path for path in shards}
    if tars:
        raise ValueError(f"{folder}: holds {tars[0].name}, not data set {name!r}")
    inside = folder / name
    if not inside.is_dir():
        if not alone:
            raise ValueError(f"this data version has no folder {name!r}")
        inside = folder
    start = time.monotonic()
    paths = tree.pack(tree.Folder(inside), work / "tars", name)
    size = sum(path.stat().st_size for path in paths)
    seconds = time.monotonic() - start
    say(f"packed {name}: {len(paths)} shards, {size / 1e6:.1f} MB, {seconds:.1f} s")
    return {path.name: path for path in paths}


def fetch_version(md5: str, names: Sequence[str], work: Path) -> Source:
    """Version `md5` of the data sets `names`: a local copy, from the remote, or drawn.

    New files are written to ./data if allowed, else to `work`. Raises RemoteError.
    """
    demo = pin(DEMO)
    demo = demo if demo is not None and demo.md5 == md5 else None
    with _alone():
        return _fetch(md5, names, work, demo)


@contextmanager
def _alone() -> Iterator[None]:
    """One process at a time fetches into a working folder; the next one finds its data there."""
    if not os.access(".", os.W_OK):  # nothing is written here
        yield
        return
    path = environment.runs("pull.lock")
    path.parent.mkdir(exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("another process fetches data into this folder; waiting for its end")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch(md5: str, names: Sequence[str], work: Path, demo: Pin | None) -> Source:
    for source in _copies(md5, names, demo):
        return source
    known = next(
        (p for p in (demo, *map(pin, names)) if p is not None and p.md5 == md5), Pin("", md5)
    )
    target = DATA if demo and _may_keep() else work / md5
    try:
        say(f"fetching data version {md5}")
        nfiles = remote.pull(md5, known.nfiles, target, size=known.size, root=project_root())
    except RemoteError as error:
        absent = error.code in ("missing-object", "missing-remote")
        if demo is None or not absent or environment.DRAW_DEMO.get() == "0":
            raise
        say(f"not in the remote ({error}); drawing the data, which takes a few minutes")
        return _draw(demo, target)
    return Source(target, nfiles)


def _may_keep() -> bool:
    """Whether ./data may be created: next to data.dvc, and only if it does not exist."""
    return Path(f"{DEMO}.dvc").is_file() and not DATA.exists() and os.access(".", os.W_OK)


def _copies(md5: str, names: Sequence[str], demo: Pin | None) -> Iterator[Source]:
    """Local copies of this version, verified by hashing them."""
    folders = [Path("raw") / names[0]] if len(names) == 1 else []
    if set(names) <= set(DEMO_SETS):
        folders.append(DATA)
    for folder in folders:
        if not folder.is_dir() or not any(folder.iterdir()):
            continue
        found, nfiles = remote.tree_md5(folder, outside=True)
        if found == md5:
            say(f"./{folder} is data version {md5}")
            yield Source(folder, nfiles)
        elif demo is not None and folder == DATA and _drawn_pixels(found) == pixels():
            yield Source(folder, nfiles, "drawn", _other_encoder(found))
        elif folder == DATA:
            say(f"./{folder} is another version, {found}; not changed")


def pixels() -> str:
    """The pixel hash stored next to data.dvc. Raises ValueError if the file is missing."""
    path = project_root() / f"{DEMO}.pixels"
    if not path.is_file():
        raise ValueError(f"{path}: missing; write it with python -m training.data pin")
    return path.read_text().strip()


def _drawn_pixels(md5: str) -> str | None:
    """The pixel hash of the data drawn here with bytes `md5`, or None."""
    drawn = read_json(DRAWN) if DRAWN.is_file() else {}
    return str(drawn["pixels"]) if drawn.get("md5") == md5 else None


def _other_encoder(md5: str) -> str:
    note = f"drawn with another JPEG encoder: bytes {md5}, the pixels are data.dvc's"
    say(note)
    return note


def _draw(demo: Pin, target: Path) -> Source:
    """Draw the demo data. Raises ValueError if neither bytes nor pixels are the pinned ones."""
    from training.data.synthetic import faces

    drawn = faces.draw(target)
    md5, nfiles = remote.tree_md5(target)
    if md5 == demo.md5:
        return Source(target, nfiles)
    if drawn.pixel_hash != pixels():
        shutil.rmtree(target)
        raise ValueError(
            f"the faces drawn here are {md5}, data.dvc pins {demo.md5}, and the pixels differ too: "
            "training/data/synthetic is not the code that drew them; take both from one commit, "
            "or accept the new drawing with python -m training.data pin"
        )
    if target == DATA:
        write_json(DRAWN, {"md5": md5, "pixels": drawn.pixel_hash})
    return Source(target, nfiles, "drawn", _other_encoder(md5))


if __name__ == "__main__":
    cli.entry_point(main)

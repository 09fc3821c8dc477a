"""Crop raw faces to squares of one size: uint8 shards and one Parquet row per image.

The workers are threads: decoding, hashing and resizing release the GIL. Finished shards are put in
the store and recorded there, so that the same command resumes after a kill, on any machine, and
several processes can share the work (`preprocess_part`); the bytes do not depend on the number of
workers or parts.
"""

import io
import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from filelock import FileLock

from training.core import cli
from training.core.cli import means
from training.core.config import DataConfig, from_json, to_json
from training.core.environment import cores, runs
from training.core.files import canonical_json, read_json, sha256_bytes, write_bytes, write_json
from training.core.progress import Progress
from training.core.provenance import code_hash as current_code
from training.data import forgotten as tombstones
from training.data.archive import StoredTars, open_raw
from training.data.enlarged import enlarged
from training.data.export import write_folders
from training.data.forgotten import NOBODY, REASON, Pseudonyms
from training.data.shards import Outcome, write_shard
from training.data.sources import read_source, say_notes
from training.data.split import SPLITS, assign, select_limited
from training.storage.meta import ImageSet, ImagesMeta, RawMeta
from training.storage.store import Entry, Manifest, Store, open_store

main = cli.program("python -m training.data.preprocess", __doc__)
VERSION = 2  # raised when pixels or rows change; part of the name of recorded shards
# Columns of every data set's Parquet file; its raw labels follow.
COLUMNS = ("file", "sha256", "shard", "row", "split", "identity", "reason")


class PreprocessError(ValueError):
    """Too many unusable images, or a split without any."""


@main.default
def preprocess(
    *,
    raw: Annotated[Path, means('manifest of kind "raw"')],
    data_config: Annotated[str, means("DataConfig as JSON; empty: its defaults")] = "",
    out: Annotated[Path, means("the manifest to write")],
    workers: Annotated[int, means("threads; 0: every core")] = 0,
    folders: Annotated[Path | None, means("also write train|test/<class>/*.png here")] = None,
    code_hash: Annotated[str, cli.INTERNAL] = "",
    work: Annotated[Path | None, cli.INTERNAL] = None,
    store: Annotated[Store | None, cli.INTERNAL] = None,
) -> Manifest[ImagesMeta]:
    """Crop every image of a "raw" manifest; write and return a manifest of kind "images".

    Its files: `<dataset>-00000.npy` …, uint8 (n, size, size, 3), at most `shard_rows` rows each, in
    the label table's order; with `load` also `<dataset>-00000.load.npy` …, the same rows at `load`
    px; and `<dataset>.parquet` with one row per image, including dropped ones, but for those of
    people whom the raw manifest's lists name (`training.data.forgotten`), who are only counted:
    file, sha256 of the source bytes ("" if not read), shard and row ("" and -1 if dropped), split,
    identity, reason ("" if kept), then the raw labels.

    Shards that the store has from `preprocess_part`, or from a run that was killed, are not written
    again if raw data, `data_config` and code (`code_hash`, default: this code's) are the same.
    Raises PreprocessError if more than `bad_share` of the selected images are unusable or a split
    is empty.
    """
    store = store or open_store()
    config = from_json(DataConfig, data_config)
    manifest = Manifest.read(raw, "raw")
    key = _key(manifest, config, code_hash)
    entries: list[Entry] = []
    image_sets = []
    with _jobs(manifest, config, key, workers, work, store) as (jobs, pool):
        for job in jobs:
            new_entries, image_set = job.run(pool)
            entries += new_entries
            image_sets.append(image_set)
    entries += tombstones.kept(manifest)
    meta = ImagesMeta(
        data=json.loads(to_json(config)),
        source=manifest.digest,
        datasets=tuple(image_sets),
        md5=manifest.meta.md5,
    )
    result = Manifest("images", tuple(entries), meta)
    result.write(out, store)
    if folders:
        write_folders(result, folders, store)
    return result


def preprocess_part(
    *,
    raw: Path,
    data_config: str,
    part: float,
    parts: float,
    code_hash: str = "",
    workers: int = 0,
    work: Path | None = None,
    store: Store | None = None,
) -> None:
    """Write the shards `part`, `part` + `parts`, … of every data set to the store.

    `preprocess` with the same raw data, configuration and code finds them there. Raises what it
    raises before it reads a picture, and StoreError for a damaged tar.
    """
    part, parts = int(part), int(parts)  # kfp makes floats of the numbers in an object
    store = store or open_store()
    config = from_json(DataConfig, data_config)
    manifest = Manifest.read(raw, "raw")
    key = _key(manifest, config, code_hash)
    with _jobs(manifest, config, key, workers, work, store, f"-{part}-of-{parts}") as (jobs, pool):
        for job in jobs:
            job.write_part(part, parts, pool)


def _key(manifest: Manifest[RawMeta], config: DataConfig, code_hash: str) -> str:
    """What the bytes of the shards depend on."""
    inputs = [VERSION, manifest.digest, to_json(config), code_hash or current_code()]
    if config.resize == "fast":  # torch, which resizes then, is not in the code hash
        inputs.append(metadata.version("torch"))
    return sha256_bytes(canonical_json(inputs))


@contextmanager
def _jobs(
    manifest: Manifest[RawMeta], config: DataConfig, key: str, workers: int, work: Path | None,
    store: Store, suffix: str = "",
) -> "Iterator[tuple[list[Job], ThreadPoolExecutor]]":  # fmt: skip
    """A job for each data set, and threads; a second run of the same work waits for the first."""
    folder = (work or runs("work").absolute()) / f"preprocess-{key[:16]}{suffix}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")), ThreadPoolExecutor(workers or cores()) as pool:
        folder.mkdir(exist_ok=True)
        trees = open_raw(manifest, store)
        people = tombstones.lists(tombstones.kept(manifest), store)
        yield (
            [
                Job(
                    one.name,
                    one.kind,
                    trees[one.name],
                    config,
                    folder,
                    store,
                    key,
                    people.get(one.name, NOBODY),
                )
                for one in manifest.meta.datasets
            ],
            pool,
        )
        shutil.rmtree(folder)


@dataclass(frozen=True)
class Job:
    """Preprocess one data set."""

    name: str
    kind: str
    tree: StoredTars
    config: DataConfig
    work: Path  # the shard being written
    store: Store
    key: str  # of the recorded shards, as `_key` makes it
    forgotten: Pseudonyms = NOBODY  # people who are left out

    def run(self, pool: ThreadPoolExecutor) -> tuple[list[Entry], ImageSet]:
        """Write every shard and the Parquet file; returns them and the manifest's record."""
        source = read_source(self.kind, self.tree, self.config)
        say_notes(self.name, source.notes)
        frame, split_by = plan(source.frame, self.name, self.kind, self.config, self.forgotten)
        gone = len(source.frame) - len(frame)
        say_notes(self.name, tombstones.said(gone))
        selected = frame.index[frame["reason"] == ""]
        entries = []
        total = len(selected) * len(self.configs)
        with Progress(f"preprocess {self.name}", total, "images") as progress:
            for number, rows in enumerate(self._shards(selected)):
                files = list(frame.loc[rows, "file"])
                for config in self.configs:
                    entry, outcomes = self._shard(number, files, config, pool, progress)
                    entries += [entry] if entry.rows else []
                    if config is self.config:
                        _record(frame, rows, entry, outcomes)
        _check_bad(frame.loc[selected], self.name, self.config.bad_share)
        if split_by != "official" and self.kind in ("folders", "csv"):
            say_notes(self.name, _unite_copies(frame))
        check_splits(frame[frame["reason"] == ""], self.name, split_by, self.config.limit)
        entries.append(self._parquet(frame))
        return entries, ImageSet(
            name=self.name, kind=self.kind, split_by=split_by, **_counts(frame, gone)
        )

    def write_part(self, part: int, parts: int, pool: ThreadPoolExecutor) -> None:
        """Write every `parts`-th shard from number `part`; `run` finds them."""
        source = read_source(self.kind, self.tree, self.config)
        frame, _ = plan(source.frame, self.name, self.kind, self.config, self.forgotten)
        shards = self._shards(frame.index[frame["reason"] == ""])
        mine = range(part, len(shards), parts)
        total = sum(len(shards[number]) for number in mine) * len(self.configs)
        what = f"preprocess {self.name}, part {part + 1} of {parts}"
        if not mine:
            say_notes(
                self.name, [f"no shard for part {part + 1} of {parts}: there are {len(shards)}"]
            )
        with Progress(what, total, "images") as progress:
            for number in mine:
                for config in self.configs:
                    files = list(frame.loc[shards[number], "file"])
                    self._shard(number, files, config, pool, progress)

    @cached_property
    def configs(self) -> tuple[DataConfig, ...]:
        """That of the images, and with `load` that of the larger ones."""
        config = self.config
        larger = (replace(config, size=config.load, load=0),) if config.load else ()
        return config, *larger

    def _shards(self, selected: pd.Index) -> list[pd.Index]:
        """The rows of each shard."""
        size = self.config.shard_rows
        return [selected[start : start + size] for start in range(0, len(selected), size)]

    def _shard(
        self, number: int, files: list[str], config: DataConfig, pool: ThreadPoolExecutor,
        progress: Progress,
    ) -> tuple[Entry, list[Outcome]]:  # fmt: skip
        """Write one shard to the store, or take it from a part or a run that finished it."""
        name = f"{self.name}-{number:05d}.npy"
        if config is not self.config:
            name = enlarged(name)
        found = self._finished(name, len(files))
        if found is not None:
            progress.step(len(files))
            return found
        self.tree.fetch(files)  # a damaged tar is not a reason to leave pictures out
        path = self.work / name
        outcomes = write_shard(path, self.tree, files, self.kind, config, pool, progress)
        kept = sum(not outcome.reason for outcome in outcomes)
        entry = self.store.put(path, name, kept) if kept else Entry(name, "", 0, 0)
        path.unlink()
        record = self.work / f"{name}.json"
        write_json(
            record,
            {"entry": asdict(entry), "outcomes": [[o.sha256, o.reason] for o in outcomes]},
        )
        self.store.refer(self._reference(name), self.store.put(record).reference)
        record.unlink()
        return entry, outcomes

    def _reference(self, name: str) -> str:
        return f"shards/{self.key}/{name}"

    def _finished(self, name: str, count: int) -> tuple[Entry, list[Outcome]] | None:
        """A recorded shard of `count` images whose bytes are in the store, unaltered; else None."""
        reference = self.store.reference(self._reference(name))
        if reference is None:
            return None
        record = Entry.parse(name, reference)
        if not self.store.exists(record):
            return None
        value = read_json(self.store.local(record))
        entry, outcomes = Entry(**value["entry"]), [Outcome(*row) for row in value["outcomes"]]
        whole = len(outcomes) == count and (not entry.rows or self.store.exists(entry))
        return (entry, outcomes) if whole else None

    def _parquet(self, frame: pd.DataFrame) -> Entry:
        buffer = io.BytesIO()
        labels = [c for c in frame.columns if c not in (*COLUMNS, "part")]
        frame[[*COLUMNS, *labels]].to_parquet(buffer, index=False, compression="zstd")
        path = self.work / f"{self.name}.parquet"
        write_bytes(path, buffer.getvalue())
        return self.store.put(path, path.name, len(frame))


def plan(
    source: pd.DataFrame, name: str, kind: str, config: DataConfig, forgotten: Pseudonyms = NOBODY
) -> tuple[pd.DataFrame, str]:
    """The source's rows with the columns of `COLUMNS`, their splits and the reasons to drop rows.

    Without those of `forgotten` people; they leave after the split, so that nobody else changes it.

    The split is made before the limit, so a short run uses a subset of the full run's splits;
    `limit` keeps the first rows of each split, in the splits' proportion. Also returns how the
    split was made.
    """
    frame = source.reset_index(drop=True)
    frame = frame.assign(sha256="", shard="", row=-1, split="", reason="")
    frame["row"] = frame["row"].astype("int32")
    frame["reason"] = unselected(frame, kind, config)
    selected = frame["reason"] == ""
    if not selected.any():
        raise PreprocessError(
            f"{name}: none of {len(frame)} images is selected; cameras={','.join(config.cameras)} "
            f"and gazes={','.join(config.gazes)} match none"
        )
    split, split_by = assign(frame[selected], name, config)
    frame.loc[selected, "split"] = split
    if forgotten:
        frame = frame[~tombstones.among(frame["identity"], name, forgotten)]
        frame = frame.reset_index(drop=True)
        split = frame.loc[frame["reason"] == "", "split"]
    if config.limit:
        chosen = select_limited(split, config.limit)
        frame.loc[split.index[~chosen], "reason"] = f"beyond limit={config.limit}"
    return frame, split_by


def unselected(frame: pd.DataFrame, kind: str, config: DataConfig) -> pd.Series:
    """Why each row of a source is not one of the data that `config` selects; "" if it is."""
    reasons = pd.Series("", index=frame.index)
    for column, values in (("camera", config.cameras), ("gaze", config.gazes)):
        if kind == "rafd" and column in frame:
            off = ~frame[column].isin(values) & (reasons == "")
            reasons[off] = column + " not selected: " + frame.loc[off, column]
    return reasons


def _record(frame: pd.DataFrame, rows: pd.Index, entry: Entry, outcomes: Sequence[Outcome]) -> None:
    """Record the outcome of one shard's images in their rows."""
    frame.loc[rows, "sha256"] = [outcome.sha256 for outcome in outcomes]
    frame.loc[rows, "reason"] = [outcome.reason for outcome in outcomes]
    kept = rows[[not outcome.reason for outcome in outcomes]]
    frame.loc[kept, "shard"] = entry.name
    frame.loc[kept, "row"] = np.arange(len(kept), dtype=np.int32)


def _check_bad(selected: pd.DataFrame, name: str, most: float) -> None:
    bad = selected[selected["reason"] != ""]
    if len(bad) > most * len(selected):
        some = "; ".join(f"{r.file}: {r.reason}" for r in bad.head(5).itertuples())
        raise PreprocessError(
            f"{name}: {len(bad)} of {len(selected)} images are unusable "
            f"({len(bad) / len(selected):.2%}, bad_share={most:.2%}): {some}; "
            "replace or remove them, or raise bad_share"
        )


def check_splits(kept: pd.DataFrame, name: str, split_by: str, limit: int) -> None:
    """Raise PreprocessError for a split without an image among the usable ones, `kept`."""
    fix = "set data.split=identity" if split_by == "official" else "add images"
    fix = f"raise data.limit (now {limit}), or {fix}" if limit else fix
    for split in SPLITS:
        if not (kept["split"] == split).any():
            sizes = kept["split"].value_counts().to_dict()
            raise PreprocessError(
                f"{name}: no image in the {split} split (of {len(kept)}: {sizes}); {fix}"
            )


def _unite_copies(frame: pd.DataFrame) -> list[str]:
    """Move copies (the same bytes) of an image without a person to the split of the one with a
    person, else of the first one; copies that still are in several splits, since their persons are,
    are only told."""
    kept = frame[frame["reason"] == ""]
    free = kept[kept["identity"] == ""]
    known = kept[kept["identity"] != ""].groupby("sha256")["split"].agg(["first", "nunique"])
    of_persons = known.loc[known["nunique"] == 1, "first"].to_dict()
    first = free.groupby("sha256")["split"].transform("first")
    wanted = [of_persons.get(*pair) for pair in zip(free["sha256"], first, strict=True)]
    first = pd.Series(wanted, free.index, dtype=free["split"].dtype)
    moved = free.index[first != free["split"]]
    frame.loc[moved, "split"] = first[moved]
    parts = frame.loc[kept.index].groupby("sha256")["split"].transform("nunique")
    torn = kept.index[parts > 1]
    return [
        f"{len(rows)} {text}: {', '.join(frame.loc[rows[:3], 'file'])}"
        for rows, text in (
            (moved, "copies of other images join their split"),
            (torn, "images with the same bytes are in several splits, as their persons are"),
        )
        if len(rows)
    ]


def _counts(frame: pd.DataFrame, forgotten: int) -> dict[str, Any]:
    kept = frame[frame["reason"] == ""]
    dropped = frame.loc[frame["reason"] != "", "reason"].str.split(":").str[0].value_counts()
    if forgotten:
        dropped[REASON] = forgotten
    return {
        "images": len(frame) + forgotten,
        "kept": len(kept),
        "splits": {s: int((kept["split"] == s).sum()) for s in SPLITS},
        "dropped": {str(reason): int(n) for reason, n in sorted(dropped.items())},
    }


if __name__ == "__main__":
    cli.entry_point(main)

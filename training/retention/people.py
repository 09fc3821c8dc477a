"""Which data versions, shards, trainings and registered versions have seen given people.

Found by what this project writes: the manifests below a folder of runs and those inside registered
versions, the trainings' run folders, and MLflow's runs. Nothing is deleted.
"""

import difflib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.core.temporary import temporary_folder
from training.data import forgotten as tombstones
from training.data.archive import open_raw
from training.data.enlarged import enlarged
from training.data.forgotten import Pseudonyms, pseudonym
from training.registry import versions as registry
from training.registry.lineage import DATASET
from training.retention import derived, tracked
from training.retention.derived import Made
from training.retention.seen import RAW, REGISTERED, SCORES, Kept, Seen, pages
from training.retention.starts import CONFIG, settings
from training.storage.store import Entry, Manifest, Store, StoreError
from training.tracking import client as tracking

if TYPE_CHECKING:
    import pandas as pd

BEGIN = b'{\n "schema"'  # of a manifest's file
SKIPPED = {"store", "node-cache", "mlartifacts", "cache", "train", "work"}  # directly in `runs`
NEAR = 3  # names given for an identity that nobody has


def manifests(folder: Path) -> tuple[list[Kept], list[str]]:
    """The manifests below a folder of runs, and notes on those that cannot be read."""
    found, notes = [], []
    for path in _files(folder, SKIPPED):
        with path.open("rb") as stream:
            if stream.read(len(BEGIN)) != BEGIN:
                continue
        try:
            found.append(Kept(str(path), Manifest.read(path)))
        except ValueError as error:
            notes.append(str(error))
    return found, notes


def _files(folder: Path, skipped: Collection[str] = ()) -> Iterator[Path]:
    """Every file below a folder, but for those in its own folders of these names."""
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if entry.is_dir() and not entry.is_symlink() and entry.name not in skipped:
            yield from _files(entry)
        elif entry.is_file():
            yield entry


def registered(notes: list[str]) -> Iterator[tuple[Made, Kept | None]]:
    """Every registered version, with its data set's manifest; none where tracking is off.

    A version that was imported, is foreign or cannot be read has no manifest, and a note.
    """
    if tracking.uri() == "off":
        notes.append("MLFLOW_TRACKING_URI=off: registered versions were not looked at")
        return
    unreadable = (OSError, ValueError, KeyError, tracking.mlflow().exceptions.MlflowException)
    names = [one.name for one in pages(tracking.client().search_registered_models)]
    for version in [v for name in sorted(names) for v in registry.versions(name)]:
        where = f"{version.name}/{version.version}"
        kept, made = None, Made(REGISTERED, where, names=frozenset({where}))
        if version.tags.get("imported"):
            notes.append(f"{where}: imported weights; whom they were trained on is not known")
        else:
            try:
                with temporary_folder() as temporary:
                    path = Path(temporary) / "dataset.json"
                    path.write_bytes(registry.read(version, DATASET))
                    kept = Kept(where, Manifest.read(path))
                made = replace(made, dataset=kept.manifest.digest)
                made = derived.of_version(version, kept.manifest.digest)
            except unreadable as error:
                what = "its model" if kept else "its data"
                text = " ".join(str(error).split())[:300]
                notes.append(f"{where}: {what} cannot be read: {text}")
        yield made, kept


def table(kept: Kept, store: Store) -> "pd.DataFrame | None":
    """Columns dataset, identity, file, split, shard of a manifest's images; None without any."""
    import pandas as pd

    manifest = kept.manifest
    if manifest.kind not in ("images", "dataset"):
        return None
    columns = ["identity", "file", "split", "shard"]
    names = [one.name for one in manifest.meta.datasets]
    listed = {entry.name for entry in manifest.entries}
    if names and all(f"{name}.parquet" in listed for name in names):
        parts = [
            pd.read_parquet(manifest.local(f"{name}.parquet", store), columns=columns).assign(
                dataset=name
            )
            for name in names
        ]
        return pd.concat(parts, ignore_index=True)
    return pd.read_parquet(manifest.local("labels.parquet", store), columns=["dataset", *columns])


class Search:
    """All that can be read of the manifests, for several questions."""

    def __init__(self, runs: Path, store: Store) -> None:
        self.runs, self.store = runs, store
        files, self.notes = manifests(runs)
        versions = [*registered(self.notes)]
        self.registered = [made for made, _ in versions]
        self.versions = {made.where for made in self.registered}
        self.kept = files + [kept for _, kept in versions if kept]
        self.made = self._made()
        self.tables: dict[str, pd.DataFrame] = {}  # by a manifest's digest
        for one in self.kept:
            if one.manifest.digest in self.tables:
                continue
            try:
                found = table(one, store)
            except StoreError as error:
                self.notes.append(f"{one.where}: its people cannot be read: {error}")
                continue
            if found is not None:
                self.tables[one.manifest.digest] = found

    def people(self) -> dict[str, set[str]]:
        """The known identities of each data set."""
        out: dict[str, set[str]] = defaultdict(set)
        for frame in self.tables.values():
            for dataset, rows in frame[frame["identity"] != ""].groupby("dataset"):
                out[str(dataset)] |= set(rows["identity"])
        return dict(out)

    def wanted(self, identities: Sequence[str], dataset: str) -> dict[str, Pseudonyms]:
        """Pseudonyms by data set.

        Raises ValueError for identities that no data set has, or that several have.
        """
        known = self.people()
        if not known:
            raise ValueError(
                f"no data version with known people below {self.runs} or among the registered "
                "versions; run the pipeline's data steps first, or give their folder with --runs"
            )
        if dataset and dataset not in known:
            raise ValueError(f"no data set {dataset!r} with known people; {', '.join(known)}")
        known = {dataset: known[dataset]} if dataset else known
        out: dict[str, set[str]] = defaultdict(set)
        unknown, several = [], []
        for one in identities:
            having = [name for name, people in known.items() if one in people]
            if not having:
                near = difflib.get_close_matches(one, set().union(*known.values()), NEAR, 0.5)
                unknown.append(f"{one!r}" + (f" (near: {', '.join(near)})" if near else ""))
            elif len(having) > 1:
                several.append(f"{one!r} in {' and '.join(having)}")
            else:
                out[having[0]].add(pseudonym(having[0], one))
        if unknown:
            raise ValueError(
                f"{len(unknown)} of {len(identities)} identities are not known in "
                f"{', '.join(known)}: {'; '.join(unknown)}; correct them"
            )
        if several:
            raise ValueError(f"{'; '.join(several)}: name the data set with --dataset")
        return {name: frozenset(people) for name, people in out.items()}

    def trace(self, wanted: Mapping[str, Pseudonyms]) -> list[Seen]:
        """Everything that has seen these people."""
        seen: list[Seen] = []
        data: dict[str, dict[str, int]] = {}
        rows = {digest: _of(frame, wanted) for digest, frame in self.tables.items()}
        released = {one.where: one.objects for one in self.registered}
        for one in self.kept:
            found = rows.get(one.manifest.digest)
            if found is None or found.empty:
                continue
            data[one.manifest.digest] = _counts(found)
            what = (
                REGISTERED
                if one.where in self.versions
                else ("images" if one.manifest.kind == "images" else "data set")
            )
            objects = _objects(one.manifest, found) + released.get(one.where, ())
            seen.append(Seen(what, one.where, one.manifest.digest, _counts(found), objects))
        seen += self._raw(rows)
        known = {one.where for one in seen}
        found = derived.spread(self.made, data)
        seen += [
            Seen(one.what, one.where, one.digest, images, one.objects, start)
            for one, images, start in found
            if one.where not in known
        ]
        seen += self._scores(wanted)
        return [*seen, *tracked.runs(data, [(one.run, images) for one, images, _ in found])]

    def _raw(self, rows: "Mapping[str, pd.DataFrame]") -> list[Seen]:
        """The raw data from which these images were cropped, with the tars that hold them."""
        out = []
        sources = {
            one.manifest.meta.source: rows[one.manifest.digest]
            for one in self.kept
            if one.manifest.digest in rows and not rows[one.manifest.digest].empty
        }
        for one in self.kept:
            found = sources.get(one.manifest.digest)
            if one.manifest.kind != "raw" or found is None:
                continue
            what = f"{RAW} {one.manifest.meta.md5}"
            try:
                tars = tuple(self._tars(one.manifest, found))
            except ValueError as error:
                self.notes.append(f"{one.where}: its tars cannot be read: {error}")
                tars = ()
            out.append(Seen(what, one.where, one.manifest.digest, _counts(found), tars))
        return out

    def _tars(self, raw: Manifest[Any], rows: "pd.DataFrame") -> Iterator[Entry]:
        """The tars that hold the files of these rows. Raises StoreError if they are lost."""
        trees = open_raw(raw, self.store)
        for name, group in rows.groupby("dataset"):
            yield from trees[str(name)].holding(group["file"])

    def _scores(self, wanted: Mapping[str, Pseudonyms]) -> Iterator[Seen]:
        """The score tables that evaluations cached in the store: their rows name people and files.

        No manifest lists them, as an evaluation's own copy has other bytes.
        """
        import pandas as pd

        from training.evaluation.cache import SCORES_FOLDER

        for key in sorted(self.store.listing(f"refs/{SCORES_FOLDER}/")):
            where, name = f"{self.store.uri}/{key}", key.removeprefix("refs/")
            try:
                entry = Entry.parse(name, self.store.reference(name) or "")
                frame = pd.read_parquet(
                    self.store.local(entry), columns=["dataset", "identity", "file"]
                )
            except ValueError as error:
                self.notes.append(f"{where}: whom it names is not known: {error}")
                continue
            files = _of(frame, wanted).drop_duplicates(["dataset", "file"])
            counts = files["dataset"].value_counts().sort_index()
            if len(counts):
                images = {f"{dataset} scored": int(count) for dataset, count in counts.items()}
                yield Seen(SCORES, where, "", images, (entry,))

    def _made(self) -> list[Made]:
        """Judges, models and evaluations, trainings, registered versions, and notes on others."""
        found = [*self.registered, *derived.copies(self.store, self.notes)]
        for one in self.kept:
            if one.where in self.versions:
                continue
            model: Mapping[str, Any] = {}
            try:
                model = settings(one.manifest, self.store)
            except StoreError as error:
                self.notes.append(f"{one.where}: what it started from cannot be read: {error}")
            found.append(derived.of_manifest(one, model))
        for config in sorted((self.runs / "train").glob(f"*/{CONFIG}")):
            try:
                found.append(derived.of_folder(config.parent))
            except ValueError as error:
                self.notes.append(str(error))
        self.notes += derived.lost(found)
        return found


def _of(frame: "pd.DataFrame", wanted: Mapping[str, Pseudonyms]) -> "pd.DataFrame":
    """The rows of these people."""
    import pandas as pd

    parts = [
        rows[tombstones.among(rows["identity"], str(name), wanted.get(str(name), frozenset()))]
        for name, rows in frame.groupby("dataset")
    ]
    return pd.concat(parts) if parts else frame


def _counts(rows: "pd.DataFrame") -> dict[str, int]:
    """Images by data set and split; those that were dropped have no shard."""
    used = rows["split"].where(rows["shard"] != "", "dropped")
    counts = (rows["dataset"] + " " + used).value_counts()
    return {str(name): int(count) for name, count in sorted(counts.items())}


def _objects(manifest: Manifest[Any], rows: "pd.DataFrame") -> tuple[Entry, ...]:
    """The shards with these images, and the tables with their rows."""
    shards = set(rows["shard"])
    tables = {"labels.parquet", *(f"{name}.parquet" for name in rows["dataset"].unique())}
    larger = {enlarged(name) for name in shards if name}
    return tuple(e for e in manifest.entries if e.name in shards | tables | larger)

"""Which data versions, shards, trainings and registered versions have seen given people.

Found by what this project writes: the manifests below a folder of runs and those inside registered
versions, the trainings' run folders, and MLflow's runs. Nothing is deleted.
"""

import difflib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from training.core.files import read_json
from training.core.temporary import temporary_folder
from training.data import forgotten as tombstones
from training.data.archive import open_raw
from training.data.enlarged import enlarged
from training.data.forgotten import Pseudonyms, pseudonym
from training.registry import versions as registry
from training.registry.lineage import DATASET
from training.storage.store import Entry, Manifest, Store, StoreError
from training.tracking import client as tracking

if TYPE_CHECKING:
    import pandas as pd

BEGIN = b'{\n "schema"'  # of a manifest's file
SKIPPED = {"store", "node-cache", "mlartifacts", "cache", "train", "work"}  # folders of `runs`
# What was found, where it is not the kind of a manifest.
REGISTERED, RAW, TRACKED = "registered version", "raw data", "MLflow run"
RUN_FOLDER = "training with checkpoints"
NEAR = 3  # names given for an identity that nobody has


class Kept(NamedTuple):
    """A manifest and where it is: a path, or NAME/VERSION."""

    where: str
    manifest: Manifest[Any]


@dataclass(frozen=True)
class Seen:
    """One manifest, training or version that has these people's images, or was made of them.

    `images`: their number by data set and split ("mine train"), for what was made of a data set
    those of the data set. `objects`: the stored files that hold them.
    """

    what: str
    where: str
    digest: str
    images: dict[str, int]
    objects: tuple[Entry, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def manifests(folder: Path) -> tuple[list[Kept], list[str]]:
    """The manifests below a folder of runs, and notes on those that cannot be read."""
    found, notes = [], []
    for path in _files(folder):
        with path.open("rb") as stream:
            if stream.read(len(BEGIN)) != BEGIN:
                continue
        try:
            found.append(Kept(str(path), Manifest.read(path)))
        except ValueError as error:
            notes.append(str(error))
    return found, notes


def _files(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if entry.is_dir() and not entry.is_symlink() and entry.name not in SKIPPED:
            yield from _files(entry)
        elif entry.is_file():
            yield entry


def registered() -> tuple[list[Kept], list[str]]:
    """The data set's manifest of every registered version; none where tracking is off."""
    found: list[Kept] = []
    notes: list[str] = []
    if tracking.uri() == "off":
        return found, ["MLFLOW_TRACKING_URI=off: registered versions were not looked at"]
    names = [one.name for one in _all(tracking.client().search_registered_models)]
    for version in [v for name in sorted(names) for v in registry.versions(name)]:
        where = f"{version.name}/{version.version}"
        if version.tags.get("imported"):
            notes.append(f"{where}: imported weights; whom they were trained on is not known")
            continue
        try:
            with temporary_folder() as temporary:
                path = Path(temporary) / "dataset.json"
                path.write_bytes(registry.read(version, DATASET))
                found.append(Kept(where, Manifest.read(path)))
        except (OSError, ValueError) as error:
            notes.append(f"{where}: its data cannot be read: {error}")
    return found, notes


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
        files, notes = manifests(runs)
        versions, more = registered()
        self.kept, self.notes = files + versions, notes + more
        self.versions = {one.where for one in versions}
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
            seen.append(Seen(what, one.where, one.manifest.digest, _counts(found),
                             _objects(one.manifest, found)))  # fmt: skip
        seen += self._raw(rows)
        seen += self._made(data)
        return seen

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
            trees = open_raw(one.manifest, self.store)
            tars = [
                tar
                for name, group in found.groupby("dataset")
                for tar in trees[str(name)].holding(group["file"])
            ]
            what = f"{RAW} {one.manifest.meta.md5}"
            out.append(Seen(what, one.where, one.manifest.digest, _counts(found), tuple(tars)))
        return out

    def _made(self, data: Mapping[str, dict[str, int]]) -> list[Seen]:
        """Judges, models and evaluations of these data sets, run folders and MLflow's runs."""
        out = []
        for one in self.kept:
            manifest = one.manifest
            source = getattr(manifest.meta, "dataset", "")
            if source in data:
                out.append(Seen(manifest.kind, one.where, manifest.digest, data[source],
                                manifest.entries))  # fmt: skip
        for config in sorted((self.runs / "train").glob("*/config.json")):
            source = read_json(config).get("data_digest", "")
            if source in data:
                out.append(Seen(RUN_FOLDER, str(config.parent), "", data[source]))
        if tracking.uri() != "off":
            for digest, images in data.items():
                out += [
                    Seen(TRACKED, run.info.run_id, "", images)
                    for run in _tracked(f"tags.dataset = '{digest}'")
                ]
        return out


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


def _tracked(query: str) -> list[Any]:
    api = tracking.client()
    experiments = [one.experiment_id for one in _all(api.search_experiments)]
    return _all(lambda **page: api.search_runs(experiments, query, **page))


def _all(search: Callable[..., Any]) -> list[Any]:
    """Every page of a search of MLflow's."""
    found, token = [], None
    while True:
        page = search(page_token=token)
        found += page
        token = page.token
        if not token:
            return found

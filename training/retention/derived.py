"""Models, trainings and evaluations: of which data they were made, and of which other models."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.core.files import parse_json, read_json, sha256_file
from training.core.references import split_digest, split_start, split_version
from training.registry import versions as registry
from training.registry.lineage import MODEL, RECORD
from training.retention.seen import COPIES, REGISTERED, RUN_FOLDER, Kept
from training.retention.starts import CONFIG
from training.storage.store import Entry, S3Store, Store

# Of a version's files; an early one need not have all.
READ = (f"{MODEL}/{CONFIG}", "release/model.json", "release/evaluation.json")


@dataclass(frozen=True)
class Made:
    """Something that was made of a data set, by its digest, and of other models.

    `names`: what others call it: digests, NAME/VERSION and paths; `sources`: what it calls the
    models that it was made of; `run`: its MLflow run, or empty.
    """

    what: str
    where: str
    digest: str = ""
    dataset: str = ""
    init: str = ""
    names: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()
    objects: tuple[Entry, ...] = ()
    run: str = ""


def called(init: str) -> frozenset[str]:
    """What a value of `init` calls its model: by its content, as far as that is given."""
    if not init:
        return frozenset()
    reference, digest = split_digest(split_start(init).reference)
    path = Path(reference).resolve()
    own = {digest} if digest else {str(path), reference}
    return frozenset({*own, *map(str, path.parents)})  # a training's folder has its checkpoints


def of_manifest(kept: Kept, config: Mapping[str, Any]) -> Made:
    """A manifest, with the settings of the model in it, or empty ones."""
    manifest, init = kept.manifest, str(config.get("init", ""))
    meta = manifest.meta
    evaluated = str(getattr(meta, "model", "")) if manifest.kind == "evaluation" else ""
    return Made(
        manifest.kind, kept.where, manifest.digest,
        getattr(meta, "dataset", "") or str(config.get("data_digest", "")), init,
        frozenset({manifest.digest, str(Path(kept.where).resolve())}),
        called(init) | {evaluated} - {""}, manifest.entries, getattr(meta, "mlflow_run", ""),
    )  # fmt: skip


def of_folder(folder: Path) -> Made:
    """A run folder. Raises ValueError if its settings are damaged."""
    config, run = read_json(folder / CONFIG), folder / "tracking" / "run.json"
    init = str(config.get("init", ""))
    seals = [sha256_file(path) for path in folder.glob("checkpoints/*/manifest.json")]
    return Made(
        RUN_FOLDER, str(folder), "", str(config.get("data_digest", "")), init,
        frozenset({str(folder.resolve()), *seals}), called(init),
        run=str(read_json(run).get("run_id", "")) if run.is_file() else "",
    )  # fmt: skip


def of_version(version: Any, dataset: str) -> Made:
    """A registered version. Raises OSError, ValueError or MlflowException if it cannot be read."""
    listed = json.loads(registry.read(version, RECORD))["files"]
    config, model, evaluation = (
        parse_json(registry.read(version, name), name) if name in listed else {} for name in READ
    )
    entries = [*model.get("entries", ()), *evaluation.get("entries", ())]
    where, init = f"{version.name}/{version.version}", str(config.get("init", ""))
    return Made(
        REGISTERED, where, dataset, dataset, init,
        frozenset({where, str(model.get("digest", ""))} - {""}), called(init),
        tuple(Entry(one["name"], one["sha256"], one["size"]).checked() for one in entries),
        str(version.run_id or ""),
    )  # fmt: skip


def copies(store: Store, notes: list[str]) -> Iterator[Made]:
    """Trainings' copies of their checkpoints in an object store, the newest of each."""
    if not isinstance(store, S3Store):
        return
    keys = [key for key in sorted(store.listing("checkpoints/")) if key.endswith(f"/{CONFIG}")]
    for run, key in {key.split("/")[1]: key for key in keys}.items():
        where = f"{store.uri}/checkpoints/{run}"
        try:
            config = parse_json(store.bucket.read(key), f"{store.uri}/{key}")
        except ValueError as error:
            notes.append(f"{where}: its data are not known: {error}")
            continue
        init = str(config.get("init", ""))
        yield Made(COPIES, where, "", str(config.get("data_digest", "")), init,
                   sources=called(init))  # fmt: skip


def spread(
    made: Sequence[Made], data: Mapping[str, dict[str, int]]
) -> list[tuple[Made, dict[str, int], str]]:
    """What was made of these data sets, by digest, or of a model that was: with the images of the
    people, and what it started from, where only that has seen them."""
    found: list[tuple[Made, dict[str, int], str]] = []
    names: dict[str, dict[str, int]] = {}
    left = list(made)
    while left:
        new = []
        for one in left:
            through = sorted(one.sources & names.keys())
            if one.dataset in data:
                new.append((one, data[one.dataset], ""))
            elif through:
                start = split_digest(split_start(one.init).reference)[0]
                new.append((one, names[through[0]], start))
        if not new:
            break
        found += new
        names |= {name: images for one, images, _ in new for name in one.names}
        left = [one for one in left if all(one is not other for other, *_ in new)]
    return found


def lost(made: Sequence[Made]) -> Iterator[str]:
    """Notes on models that others started from, and that are not found."""
    names = {name for one in made for name in one.names}
    for one in made:
        if one.init and not called(one.init) & names:
            start = split_digest(split_start(one.init).reference)[0]
            why = "is not found here"
            if (version := split_version(start)) and version.alias:
                why = "is an alias: it is not known which version that was"
            yield f"{one.where}: started from {start}, which {why}; see whom that model has seen"

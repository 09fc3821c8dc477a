"""Step 1: resolve names to hashes and configurations. Never cached: later steps' keys need them.

    python -m training.resolve --preset demo

No remote of data is contacted, so that a run starts at once.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from training.core import cli, pods
from training.core.cli import means
from training.core.config import SECTIONS, Config, to_json, values_of
from training.core.environment import runs
from training.core.files import canonical_json, sha256_bytes, write_json
from training.core.options import MODEL, PRESET
from training.core.provenance import code_hash, git_problem, git_state, lock_hash
from training.core.references import split_start
from training.data import forgotten as tombstones
from training.data.labels import LabelSpace
from training.data.preview import expected, is_known, preview
from training.data.versions import (
    data_version,
    drawn_instead,
    raw_folder,
    split_datasets,
    with_kind,
)
from training.engine import preflight, warm_start
from training.evaluation.protocol import JUDGE_RECIPE
from training.models import configure
from training.registry.names import check_model_name
from training.registry.references import model_facts, pin
from training.storage.store import open_store
from training.tracking import client as tracking

main = cli.program("python -m training.resolve", __doc__)
OUT = runs("resolved.json")


class Resolved(NamedTuple):
    """The resolved inputs of a run, parameters of the later steps. `*_config` are JSON texts."""

    data_md5: str  # `<32 hex>.dir`; with several sources `name=<32 hex>.dir,…`
    revision: str  # source of data_md5: a git commit, .dvc files, an md5 or "folder"
    code_hash: str
    data_config: str
    preprocess_config: str
    judge_config: str
    train_config: str
    model_config: str
    eval_config: str
    judge_hash: str  # names the judge before it exists
    datasets: str  # name:kind, comma-separated
    init: str  # pinned: an alias as its current version, a path with its digest
    compare: str  # likewise
    name: str  # of the registered model
    changes: str  # values that differ from the preset's by key, JSON
    step_cpu: str  # these: see `training.core.pods.Requests`
    step_memory: str
    step_memory_limit: str
    train_cpu: str
    train_memory: str
    train_memory_limit: str
    accelerator_count: str
    step_accelerator_count: str
    forgotten: str  # people left out of the data; see `training.data.forgotten.references`


def judge_hash(config: Config, data_md5: str, forgotten: str = "") -> str:
    """The judge's key: hex SHA-256 of its recipe, settings, data version and data configuration.

    Without `data.load`: the judge sees the images of `data.size` px, which do not depend on it. And
    of the lists of forgotten people, if there are any.
    """
    settings = [values_of(config.judge), values_of(replace(config.data, load=0))]
    people = [forgotten] if forgotten else []
    return sha256_bytes(canonical_json([JUDGE_RECIPE, settings, data_md5, *people]))


def _changes(config: Config) -> dict[str, str]:
    sections = {name: asdict(getattr(config, name)) for name in SECTIONS}
    return configure.changes(config.name, config.preset, sections)


class Checked(NamedTuple):
    """The outcome of `check`."""

    notes: list[str]  # lines for the user
    init: str  # pinned
    compare: str  # pinned
    data: tuple[str, str, list[str]] | None  # as `data_version`; None for raw=, which is hashed


def check(
    config: Config,
    raw: str = "",
    revision: str = "",
    init: str = "",
    compare: str = "",
    name: str = "",
    *,
    reported: bool = False,
    forgotten: str = "",
) -> Checked:
    """Raise ValueError for what a later step would refuse, without reading pixels.

    Checked are the registered name, the MLflow address, `init` and `compare`, the names and labels
    of `raw`, the splits, the networks and the files that the evaluation loads. With `reported`,
    faulty label files are left to the validation, whose report lists all of them. Images of
    `forgotten` people do not count.
    """
    people = tombstones.lists(tombstones.parse(forgotten), open_store()) if forgotten else {}
    check_model_name(name or config.name)
    tracking.check_address()
    start = split_start(init)
    start = start._replace(reference=pin(start.reference))
    compared = pin(compare)
    datasets = split_datasets(config.data.datasets)
    data = None if raw else data_version(datasets, raw, revision)
    classes = (*(config.model.named_classes() or ("one",)), "two")
    notes, sets = [], []
    notes += _drawn(config.preset, [one for one, _ in datasets], raw, revision)
    unknown = set()  # kinds of data sets whose labels are guesses
    for entry in [with_kind(n, k, None) for n, k in datasets] if data is None else data[2]:
        one, kind = entry.split(":")
        labels, sure = expected(one, kind, config.data, classes), is_known(kind, config.data)
        if raw:
            from training.data.sources import SourceError  # imports pandas

            try:
                folder = raw_folder(raw, one, len(datasets) == 1)
                gone = people.get(one, tombstones.NOBODY)
                seen = preview(one, kind, folder, config.data, gone)
            except SourceError as error:
                if not reported:
                    raise
                notes.append(f"{one}: not usable as it is; the validation reports it: {error}")
            else:
                labels, sure = seen.labels, True
                notes.append(str(seen))
        sets.append(labels)
        if not sure:
            unknown.add(kind)
    space = LabelSpace(tuple(sets))
    if "csv" not in unknown:  # a column of 0 and 1, or of words
        config.model.check_space(space)
        preflight.check(config, space)
    if start.reference and not unknown:
        warm_start.check_fit(str(start), *model_facts(start.reference), config, space)
    if problem := git_problem():
        notes.append(f"the commit of the code is recorded as unknown: {problem}")
    return Checked(notes, str(start) if init else "", compared, data)


def _drawn(preset: str, names: Sequence[str], raw: str, revision: str) -> list[str]:
    """A note for each data set of a long training that is the demo's drawn faces."""
    if raw or pods.SMALL.fullmatch(preset):
        return []
    return [
        f"{one}: there is no {one}.dvc, so these are the demo's DRAWN faces; for photographs "
        f"give raw=PATH, or first python -m training.data adopt {one} PATH"
        for one in drawn_instead(names, revision)
    ]


def say(notes: Sequence[str]) -> None:
    sys.stdout.writelines(f"resolve: {note}\n" for note in notes)


@main.default
def resolve(
    *,
    datasets: Annotated[str, means("name or name:kind, comma-separated; empty: the preset's")] = "",
    raw: Annotated[str, means("folder with your own data instead of DVC's")] = "",
    revision: Annotated[str, means("git revision or data md5; empty: the current .dvc files")] = "",
    model: Annotated[str, means("model to train")] = MODEL,
    preset: Annotated[str, means("the model's named configuration")] = PRESET,
    overrides: Annotated[str, means("key=value;key=value")] = "",
    out: Annotated[Path, means("JSON to write")] = OUT,
    init: Annotated[str, cli.INTERNAL] = "",
    compare: Annotated[str, cli.INTERNAL] = "",
    name: Annotated[str, cli.INTERNAL] = "",
    requested: Annotated[Mapping[str, Any] | None, cli.INTERNAL] = None,
    parts: Annotated[bool, cli.INTERNAL] = True,
) -> Resolved:
    """Resolve a run's inputs and write them with the git state.

    `raw` has one subfolder per data set, or, for one data set, is the folder itself. `init` is the
    model that training starts from, `compare` the one that evaluation compares with: a manifest,
    NAME/VERSION or NAME@ALIAS. `name` is the registered model ("" = `model`), `requested` the
    arguments of `training.core.pods.requests` after the preset; `parts` tells whether the
    pipeline can divide the preprocessing. Raises ValueError for unknown names, for a `name` that
    the registry does not accept and for parts of a pipeline without, and RemoteError
    "unknown-revision".
    """
    config = configure.resolve(model, preset, configure.parse(overrides), datasets)
    if (workers := config.preprocess.workers) > 1 and not parts:
        raise ValueError(
            f"preprocess.workers={workers}: this pipeline crops all images in one pod; submit the "
            "other one, pipelines/stargan-parts.yaml (`python -m pipelines submit` chooses it)"
        )
    names = split_datasets(config.data.datasets)
    forgotten = tombstones.references([one for one, _ in names], open_store())
    found = check(config, raw, revision, init, compare, name, reported=True, forgotten=forgotten)
    say(found.notes)
    data_md5, source, kinds = found.data or data_version(names, raw, revision)
    resolved = Resolved(
        data_md5, source, code_hash(), to_json(config.data), to_json(config.preprocess),
        to_json(config.judge), to_json(config.train), to_json(config.model), to_json(config.eval),
        judge_hash(config, data_md5, forgotten), ",".join(kinds), found.init, found.compare,
        name or model, json.dumps(_changes(config), sort_keys=True),
        *pods.requests(preset, **(requested or {})), forgotten,
    )  # fmt: skip
    commit, dirty = git_state()
    facts = {"model": model, "preset": preset, "commit": commit, "dirty": dirty}
    write_json(out, {**resolved._asdict(), **facts, "lock_hash": lock_hash()})
    sys.stdout.write(f"resolve: data {data_md5} ({source}), code {resolved.code_hash[:12]}\n")
    return resolved


if __name__ == "__main__":
    cli.entry_point(main)

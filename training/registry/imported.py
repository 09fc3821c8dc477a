"""Bring a paper's published weights in as a version whose lineage is the files they came from.

What is not known of them, such as training data and seed, is recorded as unknown.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.core.config import Config
from training.core.files import canonical_json, sha256_bytes, write_bytes, write_json
from training.core.temporary import temporary_folder
from training.data.labels import ATTRIBUTES, LabelSet, LabelSpace
from training.data.preview import expected
from training.data.versions import split_datasets, with_kind
from training.registry import lineage
from training.registry import versions as registry
from training.registry.card import card
from training.registry.lineage import Lineage
from training.registry.names import check_model_name
from training.registry.publish import publish, reads_source, supported_options
from training.storage.meta import ModelMeta
from training.storage.store import Entry, Manifest, open_store
from training.tracking import client as tracking

if TYPE_CHECKING:  # torch, which a refused name does not need
    from training.inference.published import File, Taken

# Classes of the published models of folders, in the order of their branches.
CLASSES = {"celeba-hq": ("female", "male"), "afhq": ("cat", "dog", "wild")}
TENSORFLOW = ("attgan", "stgan")


def label_space(config: Config, labels: tuple[str, ...] = ()) -> LabelSpace:
    """The labels that a published model of this preset has, or `labels`, in their order.

    Raises ValueError for `labels` of several data sets, for folders without known classes, and for
    names that are no attributes of CelebA.
    """
    kinds = _kinds(config)
    if labels and len(kinds) > 1:
        raise ValueError(
            f"--labels: preset {config.preset} has {len(kinds)} data sets; leave --labels out, or "
            "set data.attributes with --set"
        )
    return LabelSpace(tuple(_label_set(config, one, kinds[one], labels) for one in kinds))


def _kinds(config: Config) -> dict[str, str]:
    """The layout of each data set by its name."""
    names = split_datasets(config.data.datasets)
    return {name: with_kind(name, kind, None).partition(":")[2] for name, kind in names}


def _label_set(config: Config, name: str, kind: str, labels: tuple[str, ...]) -> LabelSet:
    if kind == "folders":
        if not (classes := labels or CLASSES.get(name, ())):
            raise ValueError(f"{name}: give its classes, in the model's order, with --labels")
        return LabelSet(name, "onehot", classes)
    if labels and (kind == "rafd" or config.data.domains):
        return LabelSet(name, "onehot", labels)
    if kind == "celeba" and (unknown := [one for one in labels if one not in ATTRIBUTES]):
        raise ValueError(f"--labels: {', '.join(unknown)}: no attributes of CelebA")
    data = replace(config.data, attributes=labels) if labels else config.data
    return expected(name, kind, data, CLASSES.get(name, ()))


def bring_in(
    paths: Sequence[Path],
    config: Config,
    labels: tuple[str, ...],
    name: str,
    manifest: Path,
    out: Path,
) -> list[str]:
    """Register published weights as a version of `name`, unless one has this content.

    Writes the model's `manifest`, as a training does, and `out`, as `register` does. Returns lines
    that say which tensors were taken and left out. Raises ValueError, with the reason, for files
    that are not the networks of `config`.
    """
    check_model_name(name)
    if config.name in TENSORFLOW:
        raise ValueError(
            f"{config.name}: its published weights are TensorFlow's checkpoints, which are not "
            "read; stargan and starganv2 can be imported"
        )
    if len({path.name for path in paths}) < len(paths):
        raise ValueError("two files have the same name, which the lineage could not tell apart")
    from training.inference import published

    space = label_space(config, labels)
    layouts = published.layouts(config.model, space, config.data.size)
    files = [published.read(path) for path in paths]
    try:
        taken = published.take(files, layouts)
    except published.MisfitError as error:
        raise published.MisfitError(f"{error}; {_advice(files, config, space)}") from error
    imported = {f.path.name: Entry(f.path.name, f.sha256, f.size).reference for f in files}
    built = _manifest(taken, imported, config, space)
    built.write(manifest)
    record = _lineage(built)
    version, created = _register(built, record, config, space, name)
    write_json(
        out,
        {
            "name": name,
            "version": str(version.version),
            "created": created,
            "run_id": str(version.run_id),
            "content": record.content,
        },
    )
    absent = [f"network {key}: in no file; training from this version starts it fresh"
              for key in taken.absent]  # fmt: skip
    known = "registered as" if created else "already registered, as"
    return [*taken.notes, *absent, f"{known} {name}/{version.version}"]


def _manifest(
    taken: "Taken", imported: dict[str, str], config: Config, space: LabelSpace
) -> Manifest[ModelMeta]:
    """Store the networks and their configuration."""
    from training.inference.weights import write_tensors

    values: dict[str, Any] = {
        "name": config.name,
        "preset": config.preset,
        "size": config.data.size,
        "model": dataclasses.asdict(config.model),
        "imported": imported,
        "absent": list(taken.absent),
    }
    with temporary_folder() as temporary:
        folder = Path(temporary)
        files = {f"{key}.safetensors": folder / f"{key}.safetensors" for key in taken.weights}
        for key, state in taken.weights.items():
            path = files[f"{key}.safetensors"]
            path.parent.mkdir(exist_ok=True)
            write_tensors(state, path)
        for file, value in (("config.json", values), ("label_space.json", space.to_json())):
            files[file] = folder / file
            write_bytes(files[file], canonical_json(value))
        meta = ModelMeta(
            model=config.name, preset=config.preset, seed=None, images=None, dataset="",
            mlflow_run="", imported=imported,
        )  # fmt: skip
        return Manifest.build("model", files, meta)


def _register(
    built: Manifest[ModelMeta], record: Lineage, config: Config, space: LabelSpace, name: str
) -> tuple[Any, bool]:
    if known := registry.with_content(name, record.content):
        return known, False
    run_id = tracking.log_run(
        tracking.EXPERIMENT, f"import {name}", {"role": "import"},
        {"model": config.name, "preset": config.preset, **record.imported}, {}, {},
    )  # fmt: skip
    store = open_store()
    files = {entry.name: built.local(entry.name, store) for entry in built.entries}
    fill = partial(_fill, built, config, space, name, record)
    return publish(name, files, record, run_id, fill)


def _lineage(built: Manifest[ModelMeta]) -> Lineage:
    from training.core.provenance import code_hash, git_state

    commit, dirty = git_state()
    records = ("config.json", "label_space.json")
    return Lineage(
        data_md5="", revision="", dataset="", git_commit=commit, git_dirty=dirty,
        code_hash=code_hash(),
        config_hash=built.entry(records[0]).sha256,
        label_space_hash=built.entry(records[1]).sha256,
        lock_hash=sha256_bytes(lineage.lock_bytes()),
        image="", seed=None, judge="", evaluation="",
        pipeline_run=tracking.pipeline_run_id(),
        training_run="",
        weights={e.name: e.sha256 for e in built.entries if e.name not in records},
        imported=built.meta.imported or {},
    )  # fmt: skip


def _fill(
    built: Manifest[ModelMeta], config: Config, space: LabelSpace, name: str, record: Lineage,
    folder: Path,
) -> str:  # fmt: skip
    """Write card, lock and manifest into the version's folder; returns the card."""
    values = {"name": config.name, "preset": config.preset, "size": config.data.size,
              "model": dataclasses.asdict(config.model)}  # fmt: skip
    text = card(
        name, values, space, record, {}, _kinds(config), {}, source=reads_source(config.name),
        options=supported_options(values),
    )  # fmt: skip
    write_bytes(folder / "README.md", text.encode())
    write_bytes(folder / lineage.LOCK, lineage.lock_bytes())
    built.write(folder / "release/model.json")
    return text


def _advice(files: "Sequence[File]", config: Config, space: LabelSpace) -> str:
    """Which presets these files are of, as they are or with another number of labels."""
    from training.inference import published
    from training.models import configure

    count = published.label_count(files)
    fits: list[str] = []
    others: list[str] = []
    for (model, preset), row in configure.PRESETS.items():
        if model != config.name:
            continue
        own = label_space(row)
        placeholders = tuple(f"label {i}" for i in range(count or 0))
        for labels in (own, _numbered(own, placeholders)):
            try:
                found = published.layouts(row.model, labels, row.data.size)
                published.take(files, found)
            except ValueError:
                continue
            (fits if labels is own else others).append(preset)
            break
    given = f"preset {config.preset} was asked for, of {space.dim_d} labels"
    if fits:
        return f"{given}; the files fit {' or '.join(fits)}"
    if others:
        return f"{given}; the files fit {' or '.join(others)} with {count} labels: give --labels"
    if any(published.FAN in file.sections for file in files) and not getattr(
        config.model, "w_hpf", True
    ):
        return (
            f"{given}; of high-pass skips: --set 'w_hpf=1;landmarks=PATH@SHA256' is needed, whose "
            "file `python -m training.convert landmarks` makes of this one"
        )
    return f"{given}; no preset has these tensors"


def _numbered(space: LabelSpace, names: tuple[str, ...]) -> LabelSpace:
    """A single data set's space with other names; several stay."""
    if len(space.sets) > 1 or not names:
        return space
    only = space.sets[0]
    return LabelSpace((LabelSet(only.name, only.kind, names),))

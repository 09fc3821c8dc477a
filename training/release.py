"""Register a trained model as a version and promote it to champion.

    python -m training.release register MODEL EVALUATION DATASET --name stargan --out version.json
    python -m training.release import 200000-G.ckpt 200000-D.ckpt --model stargan \\
        --preset celeba-128 --manifest model.json --out version.json
    python -m training.release promote version.json DATASET JUDGE --out verdict.json
    python -m training.release show|history|rollback stargan
    python -m training.release verify stargan@champion
    python -m training.release sign stargan/3 --key private.pem
    python -m training.release webhook create https://example.com/promotions
    python -m training.release gc --days 30                    # what takes space for nothing; --yes
    python -m training.release export stargan@champion --onnx stargan.onnx
    python -m training.release export stargan@champion --web page

These commands never run code from the registry: they check every file against the version's
lineage record and load the weights with this package.
"""

import json
import math
import re
import shutil
from collections.abc import Mapping
from functools import partial, wraps
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from training.core import cli, options
from training.core.cli import means
from training.core.config import Positive
from training.core.files import read_json, sha256_bytes, write_bytes, write_json
from training.core.temporary import whole_folder
from training.data.versions import short_md5
from training.evaluation.headline import headline
from training.registry import lineage, signature
from training.registry import versions as registry
from training.registry.lineage import MODEL, Lineage
from training.registry.note import describe_version
from training.registry.note import summary as version_page
from training.registry.openlineage import recorded as events
from training.storage.meta import DatasetMeta, EvaluationMeta, ModelMeta
from training.storage.store import Manifest, open_store
from training.tracking import client as tracking
from training.tracking.described import describe, parameters

SHOWN = re.compile("samples$|worst_")  # pictures of an evaluation that its run shows
app = cli.program("python -m training.release", __doc__)
Name = Annotated[str, means("name of the registered model")]
Reference = Annotated[str, means("NAME@champion or NAME/VERSION")]
Recorded = Annotated[str, means("recorded in the lineage")]


@tracking.answered()
@events("register", ("model", "evaluation", "dataset"))
def register(
    model: Annotated[Path, means('manifest of kind "model"')],
    evaluation: Annotated[Path, means('manifest of kind "evaluation"')],
    dataset: options.Dataset,
    /,
    *,
    name: Name = options.MODEL,
    data_md5: Recorded = "",
    revision: Recorded = "",
    code_hash: Recorded = "",
    image: Recorded = "",
    changes: Annotated[str, means("JSON; values that differ from the preset's; empty: read")] = "",
    out: Annotated[Path, means("JSON to write")],
    summary: Annotated[Path | None, means("Markdown page of the version to write")] = None,
) -> dict[str, Any]:
    """Register a trained model as a version, unless a version with this content exists.

    Returns {"name", "version", "created", "run_id", "content"}. Raises ValueError if the manifests
    are from different runs, or a metric is missing or not finite.
    """
    store = open_store()
    trained, scored = Manifest.read(model, "model"), Manifest.read(evaluation, "evaluation")
    data = Manifest.read(dataset, "dataset")
    _require_one_run(trained, scored, data)
    metrics = _metrics(read_json(scored.local("metrics.json", store)))
    files = {
        e.name: trained.local(e.name, store) for e in trained.entries if _is_model_file(e.name)
    }
    record = _lineage(trained, scored, data, (data_md5, revision, code_hash, image))
    version, created = registry.with_content(name, record.content), False
    scores = headline(metrics, trained.about.get("training", {}))
    if version is None:
        from training.registry.publish import publish

        run_id = tracking.parent_run(tracking.experiment_of(trained.meta.mlflow_run))
        changed = json.loads(changes) if changes else _changes(files, data)
        _describe(run_id, changed, trained, data)
        _log_evaluation(run_id, scored, data, data_md5, {**metrics, **scores})
        fill = partial(_release_files, name, record, metrics, (trained, scored, data))
        version, created = publish(name, files, record, run_id, fill)
        if created:
            describe_version(run_id, name, str(version.version))
    result = {
        "name": name,
        "version": str(version.version),
        "created": created,
        "run_id": str(version.run_id),
        "content": record.content,
    }
    write_json(out, result)
    if summary:
        sets = read_json(files["label_space.json"])["sets"]
        labels = [label for one in sets for label in one["names"]]
        write_bytes(summary, version_page(result, labels, scores).encode())
    return result


def _is_model_file(name: str) -> bool:
    """Whether a model manifest's file is part of the registered model."""
    return name in ("config.json", "label_space.json") or name.startswith(("nets/", "ema/"))


def _require_one_run(
    trained: Manifest[ModelMeta], scored: Manifest[EvaluationMeta], data: Manifest[DatasetMeta]
) -> None:
    if trained.meta.imported:
        raise ValueError(
            f"imported from {', '.join(trained.meta.imported)}: `import` registered it already; "
            "promote that version"
        )
    pairs = [
        ("the model was trained on another data set", trained.meta.dataset, data.digest),
        ("the evaluation is of another model", scored.meta.model, trained.digest),
        ("the evaluation is on another data set", scored.meta.dataset, data.digest),
    ]
    for what, recorded, given in pairs:
        if recorded != given:
            raise ValueError(
                f"{what} ({recorded[:12]}, given {given[:12]}); pass manifests of one run"
            )


def _metrics(values: Any) -> dict[str, float]:
    """Metrics as floats; ValueError if success_mean is missing or a value is not finite."""
    bad = [k for k, v in values.items() if not isinstance(v, (int, float)) or not math.isfinite(v)]
    if bad or "success_mean" not in values:
        what = f"{', '.join(bad)} not finite" if bad else "success_mean is missing"
        raise ValueError(f"metrics.json: {what}; evaluate the model again before registering it")
    return {k: float(v) for k, v in values.items()}


def _lineage(
    trained: Manifest[ModelMeta],
    scored: Manifest[EvaluationMeta],
    data: Manifest[DatasetMeta],
    provenance: tuple[str, str, str, str],
) -> Lineage:
    from training.core.provenance import git_state

    data_md5, revision, code_hash, image = provenance
    commit, dirty = git_state()
    weights = {e.name: e.sha256 for e in trained.entries if e.name.startswith(("nets/", "ema/"))}
    return Lineage(
        data_md5=data_md5,
        revision=revision,
        dataset=data.digest,
        git_commit=commit,
        git_dirty=dirty,
        code_hash=code_hash,
        config_hash=trained.entry("config.json").sha256,
        label_space_hash=trained.entry("label_space.json").sha256,
        lock_hash=sha256_bytes(lineage.lock_bytes()),
        image=image,
        seed=trained.meta.seed,
        judge=scored.meta.judge,
        evaluation=scored.meta.identity,
        pipeline_run=tracking.pipeline_run_id(),
        training_run=trained.meta.mlflow_run,
        weights=weights,
    )


def _release_files(
    name: str,
    record: Lineage,
    metrics: dict[str, float],
    manifests: tuple[Manifest[ModelMeta], Manifest[EvaluationMeta], Manifest[DatasetMeta]],
    folder: Path,
) -> str:
    """Write card, lock, metrics and manifests into the pyfunc's folder; returns the card."""
    import pandas as pd

    from training.registry.card import card
    from training.registry.publish import label_space, reads_source, supported_options

    trained, scored, data = manifests
    table = pd.read_parquet(data.local("labels.parquet"), columns=["dataset", "split"])
    counts = {(str(d), str(s)): int(n) for (d, s), n in table.value_counts().items()}
    files = {e: folder / MODEL / e for e in ("config.json", "label_space.json")}
    kinds = {part.name: part.kind for part in data.meta.datasets}
    config = read_json(files["config.json"])
    source, supported = reads_source(config["name"]), supported_options(config)
    listed = {entry.name for entry in scored.entries}
    details = read_json(scored.local("details.json")) if "details.json" in listed else {}
    text = card(
        name, config, label_space(files), record, metrics, kinds, counts, source=source,
        options=supported, groups=details.get("groups", ()),
    )  # fmt: skip
    write_bytes(folder / "README.md", text.encode())
    write_bytes(folder / lineage.LOCK, lineage.lock_bytes())
    write_json(folder / "release/metrics.json", metrics)
    data.write(folder / lineage.DATASET)
    trained.write(folder / "release/model.json")
    scored.write(folder / "release/evaluation.json")
    return text


def _changes(files: Mapping[str, Path], data: Manifest[DatasetMeta]) -> dict[str, str]:
    """What the model's and the data's settings changed in the preset; see `configure.changes`."""
    from training.models import configure

    config = read_json(files["config.json"])
    sections = {"train": config["train"], "data": data.meta.data, "model": config["model"]}
    return configure.changes(config["name"], config["preset"], sections)


def _describe(
    run_id: str,
    changes: Mapping[str, str],
    trained: Manifest[ModelMeta],
    data: Manifest[DatasetMeta],
) -> None:
    """Name the pipeline's parent run and give it its parameters."""
    names = "+".join(part.name for part in data.meta.datasets) or "data"
    version = short_md5(data.meta.md5 or data.digest[:36])
    model, preset, seed = trained.meta.model, trained.meta.preset, trained.meta.seed
    describe(run_id, parameters(model, preset, changes, (names, version), seed))


def _log_evaluation(
    run_id: str,
    scored: Manifest[EvaluationMeta],
    data: Manifest[DatasetMeta],
    data_md5: str,
    metrics: dict[str, float],
) -> None:
    """Log report, grids, scores and data version to the pipeline's parent run."""
    files = {f"evaluation/{e.name}": scored.local(e.name) for e in scored.entries}
    tracking.log_results(run_id, metrics, files)
    shown = {e.name: PurePosixPath(e.name).stem for e in scored.entries if e.name.endswith(".png")}
    pictures = {key: scored.local(name) for name, key in shown.items() if SHOWN.match(key)}
    tracking.log_pictures(run_id, pictures)
    names = "+".join(part.name for part in data.meta.datasets) or "data"
    tracking.log_dataset(run_id, names, short_md5(data_md5) if data_md5 else data.digest, data_md5)


@app.command
def show(name: Name, /) -> str:
    """All versions, one line each: number, alias, content, data, seed and verdict."""
    lines, champion = [], registry.champion(name)
    for version in registry.versions(name):
        alias = f"@{registry.ALIAS}" if str(version.version) == champion else ""
        tags = version.tags
        lines.append(
            f"{name}/{version.version} {alias:<10} content {tags.get('content', '')[:12]}  "
            f"{_origin(tags)}  "
            f"{tags.get('verdict', 'not judged')}"
        )
    return "\n".join(lines) or f"{name}: no version"


def _origin(tags: Mapping[str, str]) -> str:
    if files := tags.get("imported"):
        return f"imported from {re.sub(r' [(].*?[)]', '', files)}"
    return f"data {tags.get('data_md5', '')[:12]}  seed {tags.get('seed', '')}"


@app.command(name="register")
@wraps(register)
def _register(*manifests: Path, **options: Any) -> str:
    return json.dumps(register(*manifests, **options))


@app.command(name="import")
@tracking.answered()
def _import(
    path: Annotated[Path, means("a published checkpoint, such as 200000-G.ckpt")],
    /,
    *more: Annotated[Path, means("further files, such as 200000-D.ckpt")],
    model: Annotated[str, means("the published model: stargan or starganv2")],
    preset: Annotated[str, means("the preset with its networks, image size and labels")],
    changes: options.Changes = "",
    labels: Annotated[str, means("its labels in order, A,B,C; empty: the preset's")] = "",
    name: Annotated[str, means("name of the registered model; empty: the model")] = "",
    manifest: Annotated[Path, means("the model's manifest to write, for evaluate")],
    out: Annotated[Path, means("JSON to write, for promote")],
) -> str:
    """Register published weights as a version; their code is not run."""
    from training.models import configure
    from training.registry.imported import bring_in

    config = configure.resolve(model, preset, configure.parse(changes))
    given = tuple(one.strip() for one in labels.split(",")) if labels else ()
    return "\n".join(bring_in([path, *more], config, given, name or model, manifest, out))


@app.command(name="promote")
def _promote(
    version: Annotated[Path, means("JSON written by register")],
    dataset: options.Dataset,
    judge: Annotated[Path, means('manifest of kind "judge"')],
    /,
    *,
    eval_config: Annotated[str, means("EvalConfig as JSON; empty: its defaults")] = "",
    override: Annotated[str, means("a reason to promote against the gate")] = "",
    replicates: Annotated[Path | None, means("manifest of other seeds' models")] = None,
    out: Annotated[Path, means("JSON to write")],
    report: Annotated[Path | None, means("HTML to write; default: beside the JSON")] = None,
    metrics: Annotated[Path | None, means("JSON of the gate's figures to write")] = None,
) -> str:
    """Make a version the champion if it passes the gate."""
    from training.registry.promotion import promote  # imports pandas

    verdict = promote(
        version, dataset, judge, eval_config, override, out, replicates, report, metrics
    )
    return f"{'promoted' if verdict['promoted'] else 'not promoted'}: {verdict['reason']}"


@app.command(name="rollback")
def _rollback(name: Name, /, *, reason: Annotated[str, means("recorded")]) -> str:
    """Restore the previous champion."""
    from training.registry.promotion import rollback

    return f"{name}@champion is version {rollback(name, reason)} again"


@app.command
def history(name: Name, /) -> str:
    """Every change of the alias."""
    return "\n".join(map(json.dumps, registry.history(name))) or f"{name}: no champion yet"


@app.command
@tracking.answered()
def gc(
    *,
    days: Annotated[Positive, means("keep what was used within so many days")] = 30,
    yes: Annotated[bool, means("remove it; without, only list it")] = False,
) -> str:
    """List, or remove, what no version, judge, cache entry or recent run needs.

    A training whose model is not in the store is listed, and never removed.
    """
    from training.retention import unneeded

    store = open_store()
    removed, kept = unneeded.clear(store, days) if yes else (unneeded.find(store, days), [])
    items = sorted([*removed, *kept], key=lambda item: -item.size)
    lines = unneeded.table(items)
    found = [item for item in items if item.kind != unneeded.UNFINISHED]
    if not found:
        what = "all else" if lines else "all"
        lines += [f"nothing to remove: {what} was used within {days} days or is needed"]
    elif not yes:
        but = ", but for unfinished trainings" if len(found) < len(items) else ""
        lines += [f"nothing was removed; --yes removes it{but}"]
    else:
        again = [item for item in kept if item in found]
        lines += [f"kept, as it is in use again: {item.place}" for item in again]
        freed = sum(item.size for item in removed)
        lines += [f"removed {len(removed)} of {len(found)}, {freed / 1e6:.1f} MB"]
    return "\n".join(lines)


@app.command(name="verify")
def _verify(
    reference: Reference,
    /,
    *,
    no_data: Annotated[bool, means("do not check the training data")] = False,
    here: Annotated[bool, means("require this installation's code and lock")] = False,
    key: Annotated[Path | None, means("public key; require a signature by its owner")] = None,
    out: Annotated[Path | None, means("new folder for a copy of the verified files")] = None,
) -> str:
    """Check a version against its lineage record, and its signature against a public key."""
    if out is not None and out.exists():
        raise ValueError(f"{out} exists; name a new folder")
    with lineage.verified(reference, data=not no_data, key=key) as (folder, record):
        changed = lineage.differences(record)
        if here and changed:
            raise ValueError(f"{reference}: made with different {' and '.join(changed)}")
        if out is not None:
            with whole_folder(out) as copy:
                shutil.copytree(folder, copy, dirs_exist_ok=True)
    origin = f"imported from {record.sources}" if record.imported else f"data {record.data_md5}"
    text = f"{reference}: {len(record.files)} files as registered, {origin}"
    notes = [signature.state(reference, key), *(f"made with different {one}" for one in changed)]
    return "\n".join([text, *(f"note: {note}" for note in notes)])


@app.command
def sign(
    reference: Reference, /, *, key: Annotated[Path, means("private key, PEM; elliptic curve")]
) -> str:
    """Verify a version and sign its files; the signature becomes a tag of the version."""
    version = registry.version(reference)
    name = f"{version.name}/{version.version}"  # the alias may move meanwhile
    with lineage.verified(name, data=False, signed=False) as (folder, record):
        signature.sign(version, folder, key)
    return f"{name}: {len(record.files) + 1} files signed"


@app.command(name="lineage")
def _lineage_events(
    reference: Reference, /, *, openlineage: Annotated[str, means("file or URL to send them to")]
) -> str:
    """Send the OpenLineage events of a version that is registered already."""
    from training.registry import past

    return past.send(reference, openlineage)


@app.command(name="provenance")
def _provenance(
    reference: Reference,
    /,
    *,
    out: Annotated[Path, means("JSON to write")],
    key: Annotated[Path | None, means("private key, PEM; elliptic curve; to sign it")] = None,
) -> str:
    """Write an in-toto statement of a version's files, settings, data, judge and code."""
    from training.registry import statement

    return statement.provenance(reference, out, key)


@app.command(name="bom")
def _bom(reference: Reference, /, *, out: Annotated[Path, means("JSON to write")]) -> str:
    """Write a bill of materials of a version, CycloneDX 1.6: model card, data and packages."""
    from training.registry import bom

    return bom.write(reference, out)


@app.command
def webhook(
    action: Annotated[Literal["create", "list", "test", "remove"], means("what to do")],
    target: Annotated[str, means("to create, an https address; to test or remove, an id")] = "",
    /,
    *,
    name: Annotated[str, means("shown in lists")] = "promotions",
    events: Annotated[str, means("MLflow's names, A,B; empty: those of aliases")] = "",
    unsigned: Annotated[bool, means("without a secret: any message could be forged")] = False,
) -> str:
    """Let MLflow's server post a message to an address when an alias moves."""
    from training.registry import webhooks

    if action == "list":
        return webhooks.listed()
    if not target:
        needed = "address" if action == "create" else "id, which `webhook list` shows"
        raise ValueError(f"webhook {action} needs an {needed}")
    if action == "create":
        return webhooks.create(target, name, events or webhooks.EVENTS, unsigned=unsigned)
    return webhooks.example(target) if action == "test" else webhooks.remove(target)


@app.command(name="export")
def _export(
    reference: Reference,
    /,
    *,
    onnx: Annotated[Path | None, means("ONNX file to write")] = None,
    web: Annotated[
        Path | None, means("new folder for a page that edits photos in the browser")
    ] = None,
    style: Annotated[
        Literal["latent", "reference"],
        means("what a model with styles takes them from: random numbers or another picture"),
    ] = "latent",
    onnxruntime_web: Annotated[
        Path | None, means("the page's npm package, unpacked; default: it is fetched with npm")
    ] = None,
    time: Annotated[bool, means("time onnxruntime beside torch")] = False,
) -> str:
    """Write a verified version as an ONNX file, as a page that runs in the browser, or both."""
    from training.registry.exporting import export  # imports torch

    return export(reference, onnx, web, style, onnxruntime_web, time=time)


@tracking.answered()
def main(argv: list[str] | None = None) -> None:
    app(argv)


if __name__ == "__main__":
    cli.entry_point(main)

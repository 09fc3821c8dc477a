"""Train the frozen judges: for each data set a ResNet-18 label classifier and a small VGG.

They are trained once per data version, on the train split only, with a seed that no GAN uses. The
store keeps them under the judge hash, and they are not retrained while it holds them. The ResNet-18
measures edit success and preservation; the VGG, a different architecture so that the two share no
weakness, provides Fréchet features and the identity embedding.

python -m training.judge DATASET --out judge.json
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import torch

from training.core import cli
from training.core.cli import means
from training.core.config import JudgeConfig, from_json
from training.core.files import canonical_json, read_json, sha256_bytes, write_bytes
from training.core.metrics import write_metrics
from training.core.temporary import temporary_folder
from training.data.dataset import Faces
from training.evaluation.judges.judge import require
from training.evaluation.judges.training import train
from training.evaluation.protocol import JUDGE_RECIPE
from training.inference.weights import write_tensors
from training.storage.meta import JudgeMeta
from training.storage.store import Entry, Manifest, Store, StoreError, open_store

main = cli.program("python -m training.judge", __doc__)


def _stored(name: str, store: Store) -> tuple[Entry, bytes | None] | None:
    """The manifest entry stored under judge hash `name` and its bytes (None if lost), or None."""
    value = store.reference(f"judges/{name}")
    if value is None:
        return None
    entry = Entry.parse("manifest.json", value)
    try:
        return entry, store.local(entry).read_bytes()
    except StoreError:
        return entry, None


def judge(
    dataset: Annotated[Path, means('manifest of kind "dataset"')],
    /,
    *,
    judge_config: Annotated[
        str, means("JudgeConfig as JSON; empty: its defaults", "--config")
    ] = "",
    judge_hash: Annotated[str, means("under which the judges are stored", "--hash")] = "",
    out: Annotated[Path, means('manifest of kind "judge" to write')],
    metrics: Annotated[Path | None, means("JSON of the accuracies to write")] = None,
    store: Annotated[Store | None, cli.INTERNAL] = None,
) -> Manifest[JudgeMeta]:
    """Train the judges of a data set, or return those stored under `judge_hash`.

    An empty `judge_hash` is computed from recipe, configuration and data. Judges whose stored bytes
    are lost are retrained and accepted only if the bytes are identical, since older scores depend
    on them (ValueError otherwise). Judges below their accuracy floor are stored, and then a
    ValueError is raised, before any GAN is trained.
    """
    store, config = store or open_store(), from_json(JudgeConfig, judge_config)
    source = Manifest.read(dataset, "dataset")
    name = judge_hash or sha256_bytes(canonical_json([JUDGE_RECIPE, asdict(config), source.digest]))
    stored = _stored(name, store)
    if stored and stored[1] is not None:
        write_bytes(out, stored[1])
        manifest = Manifest.read(out, "judge")
        if manifest.intact(store):
            sys.stdout.write(f"judge {name[:12]} found in the store; skipping training\n")
            return _require_accuracy(manifest, store, metrics)
    trained = _train_all(source, config, store)
    trained.write(out, store)
    entry = store.put(out, "manifest.json")
    if store.refer(f"judges/{name}", entry.reference) == entry.reference:
        return _require_accuracy(trained, store, metrics)
    if stored:
        out.unlink()
        raise ValueError(
            f"judge {name}: stored bytes are lost and retraining gave different ones (another "
            f"machine or thread count); restore them, or delete the store's refs/judges/{name}"
        )
    # Another process stored one first.
    return judge(
        dataset, judge_config=judge_config, judge_hash=judge_hash, out=out, metrics=metrics,
        store=store,
    )  # fmt: skip


def _require_accuracy(
    manifest: Manifest[JudgeMeta], store: Store, metrics: Path | None
) -> Manifest[JudgeMeta]:
    facts = read_json(manifest.local("judge.json", store))
    if metrics:
        write_metrics(metrics, _accuracies(facts))
    require(facts)
    return manifest


def _accuracies(facts: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], float]]:
    """Accuracies on real test images: of each data set's judges, and of the first by label."""
    for fact in facts["datasets"]:
        yield ("accuracy", fact["name"]), fact["accuracy"]
        yield ("second_accuracy", fact["name"]), fact["second_accuracy"]
        if fact["verification_auc"] is not None:
            yield ("verification_auc", fact["name"]), fact["verification_auc"]
        for label, rates in fact["labels"].items():
            yield ("accuracy", fact["name"], label), rates["accuracy"]
            if fact["kind"] == "binary":
                yield ("balanced", fact["name"], label), rates["balanced"]


def _train_all(source: Manifest, config: JudgeConfig, store: Store) -> Manifest[JudgeMeta]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    faces, test = Faces.open(source, "train", store), Faces.open(source, "test", store)
    facts: dict[str, Any] = {
        "recipe": JUDGE_RECIPE,
        "config": asdict(config),
        "trained_on": {"dataset": source.digest, "split": "train", "digest": faces.digest},
        "architectures": {"first": "resnet18", "second": "vgg"},
        "space": faces.space.to_json(),
        "size": faces.size,
        "datasets": [],
    }
    with temporary_folder() as folder:
        files = {}
        for i, labels in enumerate(faces.space.sets):
            first, second, fact = train(i, faces, test, config, device)
            facts["datasets"].append(fact)
            for kind, net in (("resnet18", first), ("second", second)):
                name = f"{labels.name}-{kind}.safetensors"
                files[name] = Path(folder) / name
                write_tensors(
                    {k: v.cpu().contiguous() for k, v in net.state_dict().items()}, files[name]
                )
        files["judge.json"] = Path(folder) / "judge.json"
        files["judge.json"].write_bytes(canonical_json(facts))
        meta = JudgeMeta(
            recipe=JUDGE_RECIPE,
            dataset=source.digest,
            accuracy={f["name"]: f["accuracy"] for f in facts["datasets"]},
        )
        return Manifest.build("judge", files, meta, store=store)


@main.default
@wraps(judge)
def command(*dataset: Path, **options: Any) -> str:
    return json.dumps(judge(*dataset, **options).meta.accuracy)


if __name__ == "__main__":
    cli.entry_point(main)

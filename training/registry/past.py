"""The OpenLineage events of a version that is registered already, from its lineage record."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from training.core.files import read_json
from training.core.provenance import source_url
from training.registry import emit, lineage
from training.registry import versions as registry
from training.registry.openlineage import (
    DONE,
    STARTED,
    Data,
    Job,
    event,
    of_manifest,
    run_of,
    version,
)
from training.storage.store import Manifest
from training.tracking import client as tracking

RELEASE = "release"  # folder of the manifests among a version's files


def send(reference: str, to: str) -> str:
    """Verify NAME@ALIAS or NAME/VERSION and send its events to a file or a server.

    Run ids depend on the version only, so that a server that has them already counts no run twice.
    Raises ValueError if an event is not received.
    """
    target = emit.destination(to)
    found = registry.version(reference)
    with lineage.verified(f"{found.name}/{found.version}", data=False) as (folder, record):
        sent = events(found, folder, record)
    for number, one in enumerate(sent):
        try:
            target.send(one)
        except OSError as error:
            raise ValueError(
                f"{target.where}: {number} of {len(sent)} events were received, then: {error}; "
                "correct the address or start the server, and run this again"
            ) from error
    return f"{found.name}/{found.version}: {len(sent)} events sent to {target.where}"


def events(found: Any, folder: Path, record: lineage.Lineage) -> list[Any]:
    """The events of train, evaluate, register and each promotion, oldest first.

    The times of the training and of the alias are recorded; those of the evaluation are not, and
    are given as the registration's.
    """
    registered = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
    this = version(found.name, str(found.version), {"content": record.content})
    sent: list[Any] = []

    def add(
        job: str, about: str, span: tuple[datetime, datetime], inputs: list[Data], output: Data,
        more: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        key = f"{record.content}/{job}/{'' if job == 'train' else this.version}/{span[0]}"
        tags = {"git_commit": record.git_commit, "git_dirty": str(record.git_dirty),
                "code_hash": record.code_hash, "image": record.image, **(more or {})}  # fmt: skip
        run = Job(
            job, about, run_of(key), tags, record.pipeline_run, record.git_commit, source_url()
        )
        sent.append(event(STARTED, run, inputs, when=span[0]))
        sent.append(event(DONE, run, inputs, [output], when=span[1]))

    if record.imported:
        source = Data("imported", record.content, f"Published weights: {record.sources}.")
        add("register", "Register published weights.", (registered, registered), [source], this)
    else:
        read = _reader(folder)
        data, (model, *_), (scores, *_) = read("dataset"), read("model"), read("evaluation")
        settings = {"seed": str(record.seed), "config_hash": record.config_hash}
        add("train", "Train the model.", times(record.training_run, registered), data, model,
            settings)  # fmt: skip
        judge = Data("judge", record.judge, "The frozen classifiers that score edits.")
        numbers = read_json(folder / RELEASE / "metrics.json")
        measured = {name: f"{value:.6g}" for name, value in numbers.items()}
        both = registered, registered
        add("evaluate", "Score edits of held-out images.", both, [model, *data, judge], scores,
            measured)  # fmt: skip
        add("register", "Register the model as a version.", both, [model, scores, *data], this)
    for move in registry.history(found.name):
        if move["to"] == this.version:
            when = datetime.fromisoformat(move["when"])
            alias = version(found.name, this.version, {}, registry.ALIAS)
            more = {"kind": move["kind"], "from": move["from"] or "", "reason": move["why"]}
            add("promote", "Move the alias to a version.", (when, when), [this], alias, more)
    return sent


def _reader(folder: Path) -> Callable[[str], list[Data]]:
    return lambda kind: of_manifest(Manifest.read(folder / RELEASE / f"{kind}.json"))


def times(run_id: str, otherwise: datetime) -> tuple[datetime, datetime]:
    """When an MLflow run began and ended; `otherwise` if this MLflow does not have it."""
    errors = tracking.mlflow().exceptions
    try:
        info = tracking.client().get_run(run_id).info if run_id else None
    except errors.MlflowException as error:
        if error.error_code not in tracking.UNKNOWN:
            raise
        info = None
    if info is None:
        return otherwise, otherwise
    begun, ended = info.start_time, info.end_time or info.start_time
    return datetime.fromtimestamp(begun / 1000, UTC), datetime.fromtimestamp(ended / 1000, UTC)

"""OpenLineage events: which data, judge and models the steps of a version read and wrote.

A recorded step sends START, then COMPLETE, FAIL or ABORT, to OPENLINEAGE_URL, OPENLINEAGE_FILE or
both; without them nothing is imported. The object model is that of https://openlineage.io/docs/spec.
"""

import inspect
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import wraps
from importlib import metadata
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from training.core import environment
from training.core.cli import StoppedError
from training.core.faults import explained
from training.core.files import read_json
from training.core.provenance import code_hash, git_state, source_url
from training.core.shown import shown
from training.registry import emit
from training.storage.meta import EvaluationMeta, ImagesMeta, JudgeMeta, ModelMeta
from training.storage.store import Manifest, store_uri

P = ParamSpec("P")
T = TypeVar("T")
STARTED, DONE, FAILED, STOPPED = "START", "COMPLETE", "FAIL", "ABORT"


@dataclass(frozen=True)
class Data:
    """A data set in OpenLineage's sense: a manifest's content, or a registered version."""

    name: str
    version: str  # a digest or a number
    about: str
    tags: Mapping[str, str] = field(default_factory=dict)
    uri: str = ""  # of the store that has it
    rows: int | None = None  # images
    files: int | None = None
    size: int | None = None  # bytes


@dataclass(frozen=True)
class Job:
    """One run of a step: its name, what it does, its run's id, and facts about it."""

    name: str
    about: str
    run_id: str
    tags: Mapping[str, str]
    pipeline: str = ""  # the pipeline run that it is part of
    commit: str = ""
    source: str = ""  # address of the code's repository; empty: unknown


def recorded(
    job: str, inputs: tuple[str, ...], outputs: tuple[str, ...] = ()
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Let a step send events. `inputs` and `outputs` are its parameters that are manifests' paths.

    What it returns as {"name", "version"} is an output, too, unless it has "promoted": false.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            if not (environment.OPENLINEAGE_URL.get() or environment.OPENLINEAGE_FILE.get()):
                return function(*args, **kwargs)
            given = inspect.signature(function).bind(*args, **kwargs).arguments
            about = (inspect.getdoc(function) or job).partition("\n\n")[0]
            with _sent(job, " ".join(about.split()), _paths(given, inputs)) as made:
                result = function(*args, **kwargs)
                made += _of_paths(_paths(given, outputs))
                if isinstance(result, Mapping) and result.get("promoted", True):
                    made.append(_registered(result))
            return result

        return run

    return decorate


def _paths(given: Mapping[str, Any], names: Iterable[str]) -> list[Path]:
    return [path for name in names if isinstance(path := given.get(name), Path) and path.is_file()]


@contextmanager
def _sent(job: str, about: str, inputs: list[Path]) -> Iterator[list[Data]]:
    """Send the events of a block that runs a step; yields the list of its outputs."""
    outputs: list[Data] = []
    try:
        sender = emit.Sender(emit.configured())
    except ValueError as error:
        sys.stderr.write(f"OpenLineage: {shown(error)}; no events are sent\n")
        yield outputs
        return
    read, this = _of_paths(inputs), _this(job, about)
    sender.put(event(STARTED, this, read))
    try:
        yield outputs
        sender.put(event(DONE, this, read, outputs))
    except BaseException as error:
        stopped = isinstance(error, StoppedError | KeyboardInterrupt | SystemExit)
        why = explained(error) or shown(f"{type(error).__name__}: {error}")
        sender.put(event(STOPPED if stopped else FAILED, this, read, outputs, why=why))
        raise
    finally:
        sender.finish()


def _this(job: str, about: str) -> Job:
    """This process's run of a step."""
    from openlineage.client.uuid import generate_new_uuid

    commit, dirty = git_state()
    tags = {"git_commit": commit, "git_dirty": str(dirty), "code_hash": code_hash()}
    pipeline = environment.PIPELINE_RUN_ID.get()
    return Job(job, about, str(generate_new_uuid()), tags, pipeline, commit, source_url())


def _of_paths(paths: Iterable[Path]) -> list[Data]:
    """The content of manifests, and the version that a JSON file of `register` names."""
    found: list[Data] = []
    for path in paths:
        try:
            if "kind" in (values := read_json(path)):
                found += of_manifest(Manifest.read(path))
            else:
                found.append(_registered(values))
        except (ValueError, LookupError, TypeError):  # the step itself says what is wrong with it
            continue
    return found


def _registered(values: Mapping[str, Any]) -> Data:
    """A version, of what `register` returns, or the alias, of what `promote` returns."""
    named = ("content", "reason", "identity", "judge")
    tags = {key: str(values[key]) for key in named if key in values}
    return version(str(values["name"]), str(values["version"]), tags, values.get("alias", ""))


def version(name: str, number: str, tags: Mapping[str, str], alias: str = "") -> Data:
    """A registered version, or an alias that is moved to it."""
    what = f"The alias {alias} of the" if alias else "The"
    about = f"{what} registered model {name}, version {number}."
    return Data(f"models/{name}@{alias}" if alias else f"models/{name}", number, about, tags)


def of_manifest(manifest: Manifest[Any]) -> list[Data]:
    """A manifest's content; for images and their labels the raw data, too."""
    meta, entries = manifest.meta, manifest.entries
    name, rows = manifest.kind, None
    tags: dict[str, str] = {}
    more: list[Data] = []
    if isinstance(meta, ImagesMeta):
        sets = "+".join(part.name for part in meta.datasets) or "data"
        name, rows = f"{manifest.kind}/{sets}", sum(part.kept for part in meta.datasets) or None
        for part in meta.datasets:
            counts = {"listed": part.images, **part.splits}
            counts |= {f"dropped.{why}": count for why, count in part.dropped.items()}
            tags |= {f"{part.name}.{key}": str(value) for key, value in counts.items()}
        if meta.md5:
            more.append(raw(sets, meta.md5))
    elif isinstance(meta, JudgeMeta):
        name = f"judge/{'+'.join(meta.accuracy) or 'data'}"
        tags = {"recipe": meta.recipe}
        tags |= {f"accuracy.{part}": f"{value:.4f}" for part, value in meta.accuracy.items()}
    elif isinstance(meta, ModelMeta):
        name = f"trained/{meta.model}"
        tags = {"preset": meta.preset, "seed": str(meta.seed), "images": str(meta.images)}
    elif isinstance(meta, EvaluationMeta):
        tags = {"fingerprint": meta.identity, "judge": meta.judge, "model": meta.model}
        tags["protocol"] = meta.protocol or "ours"
    about = f"A manifest of kind {manifest.kind} with {len(entries)} files."
    size = sum(entry.size for entry in entries)
    this = Data(name, manifest.digest, about, tags, shown(store_uri()), rows, len(entries), size)
    return [this, *more]


def raw(names: str, md5: str) -> Data:
    """The raw data of some data sets, by DVC's MD5."""
    return Data(f"raw/{names}", md5, f"The raw data of {names}, by DVC's MD5.")


def event(
    kind: str,
    job: Job,
    inputs: Iterable[Data],
    outputs: Iterable[Data] = (),
    *,
    why: str = "",
    when: datetime | None = None,
) -> Any:
    """An OpenLineage RunEvent of spec 2-0-2; `why` is the reason of a failure."""
    from openlineage.client import event_v2, facet_v2

    package = f"pkg:pypi/stargan-family@{metadata.version('stargan-family')}"
    event_v2.set_producer(job.source or package)
    space = environment.OPENLINEAGE_NAMESPACE.get()
    of_job: dict[str, Any] = {
        "documentation": facet_v2.documentation_job.DocumentationJobFacet(job.about),
        "jobType": facet_v2.job_type_job.JobTypeJobFacet("BATCH", "STARGAN", "TASK"),
    }
    if job.source and job.commit not in ("", "unknown"):
        of_job["sourceCodeLocation"] = facet_v2.source_code_location_job.SourceCodeLocationJobFacet(
            "git", job.source, repoUrl=job.source, version=job.commit
        )
    field_ = facet_v2.tags_run.TagsRunFacetFields
    of_run: dict[str, Any] = {
        "tags": facet_v2.tags_run.TagsRunFacet([field_(k, v) for k, v in job.tags.items() if v])
    }
    if job.pipeline:
        of_run["parent"] = facet_v2.parent_run.ParentRunFacet(
            facet_v2.parent_run.Run(run_of(job.pipeline)),
            facet_v2.parent_run.Job(space, "pipeline"),
        )
    if kind == FAILED:
        of_run["errorMessage"] = facet_v2.error_message_run.ErrorMessageRunFacet(
            why[:2000], "python"
        )
    return event_v2.RunEvent(
        eventTime=(when or datetime.now(UTC)).isoformat(),
        eventType=event_v2.RunState(kind),
        run=event_v2.Run(job.run_id, of_run),
        job=event_v2.Job(space, job.name, of_job),
        inputs=[_input(space, one) for one in inputs],
        outputs=[event_v2.OutputDataset(space, one.name, facets=_facets(one)) for one in outputs],
    )


def run_of(text: str) -> str:
    """A run's UUID for a text: that of Kubeflow's runs is one, others are hashed to one."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"stargan-family:{text}"))


def _input(space: str, one: Data) -> Any:
    from openlineage.client import event_v2
    from openlineage.client.facet_v2 import data_quality_metrics_input_dataset as quality

    numbers: dict[str, Any] = {}
    if one.files is not None:
        numbers["dataQualityMetrics"] = quality.DataQualityMetricsInputDatasetFacet(
            {}, rowCount=one.rows, bytes=one.size, fileCount=one.files
        )
    return event_v2.InputDataset(space, one.name, numbers, facets=_facets(one))


def _facets(one: Data) -> dict[str, Any]:
    from openlineage.client import facet_v2

    found: dict[str, Any] = {
        "version": facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet(one.version),
        "documentation": facet_v2.documentation_dataset.DocumentationDatasetFacet(one.about),
    }
    if one.uri:
        found["dataSource"] = facet_v2.datasource_dataset.DatasourceDatasetFacet("store", one.uri)
    if one.tags:
        tag = facet_v2.tags_dataset.TagsDatasetFacetFields
        found["tags"] = facet_v2.tags_dataset.TagsDatasetFacet(
            [tag(key, value) for key, value in one.tags.items() if value]
        )
    return found

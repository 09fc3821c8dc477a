"""The compiled pipeline: written, read for its parameters, pinned to image digests."""

import json
import re
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Annotated, Any

import yaml

from training.core.cli import means
from training.core.config import convert
from training.core.files import sha256_bytes, write_bytes

PACKAGE = Path(__file__).with_name("stargan.yaml")
PARTS = PACKAGE.with_name("stargan-parts.yaml")  # the same, with preprocess.workers parts
OUTPUT = means("the YAML to write", "--output", "-o")
CHOSEN = means("the pipeline; empty: as preprocess.workers needs it", "--package-file", "-f")
IMAGE = means("image of these steps", metavar="NAME@sha256:…")
NAMESPACE = means("write the objects Pipeline and PipelineVersion of this namespace instead")
KINDS = {
    "STRUCT": dict,
    "STRING": str,
    "NUMBER_INTEGER": int,
    "NUMBER_DOUBLE": float,
    "BOOLEAN": bool,
}
DIGEST = re.compile(r"[^\s@]+@sha256:[0-9a-f]{64}")
VERSION = re.compile(
    rf"^kind: PipelineVersion\nmetadata:\n  name: ({PACKAGE.stem}-[0-9a-f]{{12}})$", re.MULTILINE
)


@dataclass(frozen=True)
class Parameter:
    """An input of the pipeline."""

    kind: type
    default: Any


def write(
    *,
    output: Annotated[Path | None, OUTPUT] = None,
    parts: Annotated[bool, means("with the loop that preprocess.workers above 1 needs")] = False,
    kubernetes: Annotated[str, NAMESPACE] = "",
) -> None:
    """Compile the pipeline; reproducible: the same sources give the same bytes.

    Without `output` both committed files are written. With `kubernetes`, for Kubeflow servers that
    keep pipelines as Kubernetes objects. Raises ValueError if that would replace a committed file.
    """
    if kubernetes and (output is None or output.resolve() in (PACKAGE, PARTS)):
        raise ValueError(f"--kubernetes: give --output; {PACKAGE.name} is the plain pipeline")
    if output is None:
        for path in (PACKAGE, PARTS):
            write_bytes(path, _compiled(path, path == PARTS))
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    content = _compiled(output, parts)
    if kubernetes:
        from kfp.compiler.compiler_utils import KubernetesManifestOptions

        options = KubernetesManifestOptions(
            pipeline_version_name=_version(content), namespace=kubernetes,
            include_pipeline_manifest=True,
        )  # fmt: skip
        content = _compiled(
            output, parts, kubernetes_manifest_format=True, kubernetes_manifest_options=options
        )
    write_bytes(output, content)


def _compiled(output: Path, parts: bool, **options: Any) -> bytes:
    """What kfp writes, by way of a temporary file beside `output`."""
    from kfp.compiler import Compiler

    from pipelines.stargan import pipeline

    temporary = output.with_name(f".{output.stem}.tmp.yaml")  # kfp requires the suffix
    try:
        Compiler().compile(pipeline(parts), str(temporary), **options)
        return temporary.read_bytes()
    finally:
        temporary.unlink(missing_ok=True)


def parameters(path: Path = PACKAGE) -> dict[str, Parameter]:
    """The parameters of a compiled pipeline, by name."""
    spec = next(yaml.safe_load_all(path.read_text()))
    rows = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    out = {}
    for name, row in rows.items():
        kind = KINDS[row["parameterType"]]
        out[name] = Parameter(kind, kind(row["defaultValue"]))  # YAML writes integers as 1.0
    return out


def fitting(arguments: dict[str, Any]) -> Path:
    """The committed pipeline for a run's arguments: that with parts for preprocess.workers > 1."""
    from training.models import configure

    given = {name: row.default for name, row in parameters().items()} | arguments
    config = configure.resolve(
        given["model"], given["preset"], configure.parse(given["overrides"]), given["datasets"]
    )
    return PARTS if config.preprocess.workers > 1 else PACKAGE


def steps(path: Path = PACKAGE) -> dict[str, str]:
    """The display names of a compiled pipeline's steps by their names, in the order of the run."""
    spec = next(yaml.safe_load_all(path.read_text()))

    def inside(dag: dict[str, Any]) -> dict[str, str]:
        rows = dag["tasks"]
        order = TopologicalSorter({n: sorted(rows[n].get("dependentTasks", ())) for n in rows})
        found: dict[str, str] = {}
        for name in order.static_order():
            component = spec["components"][rows[name]["componentRef"]["name"]]
            one = {name: str(rows[name]["taskInfo"]["name"])}
            found |= inside(component["dag"]) if "dag" in component else one
        return found

    return inside(spec["root"]["dag"])


def check(known: dict[str, Parameter], values: dict[str, str]) -> dict[str, Any]:
    """Convert `values` to the parameters' types. Raises ValueError for a wrong value."""
    return {
        name: _struct(text, name)
        if known[name].kind is dict
        else convert(known[name].kind, text, name)
        for name, text in values.items()
    }


def _struct(text: str, name: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f'{name}={text!r}: a JSON object is needed, {{"label": "value"}}')
    return value


def pin(
    *,
    steps: Annotated[str, IMAGE] = "",
    train: Annotated[str, IMAGE] = "",
    output: Annotated[Path, OUTPUT],
    package: Annotated[Path, means("the YAML to pin", "--package-file", "-f")] = PACKAGE,
) -> None:
    """Write the YAML pinned to image digests; else only a PipelineVersion's name changes.

    The pipeline uses both images, a search for Katib only that of `train`.
    """
    from components.images import STEPS_IMAGE, TRAIN_IMAGE

    text = package.read_text()
    if not steps and not train:
        raise ValueError(f"{package}: give --steps and --train, the digests of its images")
    for option, tag, reference in (("steps", STEPS_IMAGE, steps), ("train", TRAIN_IMAGE, train)):
        if not reference and tag not in text:
            continue
        if not DIGEST.fullmatch(reference):
            raise ValueError(
                f"--{option} {reference!r}: not a digest; NAME@sha256:<64 hex digits> is needed "
                f"for {tag}"
            )
        if tag not in text:
            raise ValueError(
                f"{package}: does not use {tag}; leave --{option} out of a search for Katib, or "
                "run python -m pipelines compile"
            )
        text = text.replace(tag, reference)
    if named := VERSION.search(text):
        text = text.replace(named[1], _version(text.encode()))
    write_bytes(output, text.encode())


def _version(content: bytes) -> str:
    """The name of a PipelineVersion: each content has its own, as Kubernetes refuses changes."""
    return f"{PACKAGE.stem}-{sha256_bytes(content)[:12]}"


def write_until(step: str, output: Path, package: Path = PACKAGE) -> None:
    """Write the pipeline up to `step`: without the steps that it does not need."""
    spec, platform = yaml.safe_load_all(package.read_text())
    places = [spec["deploymentSpec"]["executors"]]
    places.append(platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"])
    (tasks,) = (
        one["dag"]["tasks"]
        for one in spec["components"].values()
        if step in one.get("dag", {}).get("tasks", ())
    )
    needed, pending = set(), [step]
    while pending:
        needed.add(name := pending.pop())
        pending += tasks[name].get("dependentTasks", ())
    for name in tasks.keys() - needed:
        component = spec["components"].pop(tasks.pop(name)["componentRef"]["name"])
        for executors in places:
            executors.pop(component["executorLabel"])
    write_bytes(output, yaml.safe_dump_all([spec, platform], sort_keys=False).encode())

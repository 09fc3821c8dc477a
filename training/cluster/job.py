"""A TrainJob's request, its shape, and the Kubernetes object built from them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from training.cluster.kubernetes import RUN, run_label
from training.core import cli
from training.core.config import Natural, Positive, described
from training.core.environment import LAUNCH_ID, new_launch
from training.core.files import canonical_json, sha256_bytes
from training.core.pods import Cpu, Memory, Pod
from training.core.provenance import code_hash, git_state

NODE, MANAGER = "node", "stargan.example.org/launcher"  # of k8s/jobs/runtime.yaml; of our patch
TEMPLATE = Path(__file__).resolve().parents[2] / "k8s" / "jobs" / "trainjob.yaml"


CALLER = ("experiment", "pipeline_run", "child", "mlflow_run")  # a request's fields about it


@dataclass(frozen=True)
class Request:
    """Everything that one training needs: the arguments of `training.train.train`."""

    dataset: str  # the manifest's text
    model: str
    model_config: str
    train_config: str
    init: str = ""
    experiment: str = ""
    preset: str = ""
    pipeline_run: str = ""
    child: bool = False  # one of several models of a run
    mlflow_run: str = ""  # that the platform created for the step, which the pods would not know
    code: str = field(default_factory=code_hash)

    @property
    def name(self) -> str:
        """The job's name: a hash of what is trained, without the fields about the caller."""
        content = {k: v for k, v in asdict(self).items() if k not in CALLER}
        return f"train-{sha256_bytes(canonical_json(content))[:16]}"

    @property
    def caller(self) -> dict[str, Any]:
        """The fields about the caller."""
        return {k: v for k, v in asdict(self).items() if k in CALLER}


@described
@dataclass(frozen=True)
class Shape:
    """Size and placement of a job."""

    nodes: Annotated[Positive, Field(description="nodes of the job")] = 2
    nproc: Annotated[Positive, Field(description="processes per node")] = 1
    accelerator: Annotated[str, Field(description="resource name of the accelerator")] = (
        "nvidia.com/gpu"
    )
    accelerators: Annotated[
        Natural, Field(description="accelerators per node; 0: train on CPUs")
    ] = 1
    image: Annotated[
        str, Field(description="the pods' image; empty: this pod's, else the template's")
    ] = ""
    cpu: Annotated[Cpu, Field(description="CPUs that a node's pod requests; empty: 4")] = ""
    memory: Annotated[
        Memory,
        Field(
            description="memory that a node's pod requests, limited to four times as much; "
            "empty: 16Gi"
        ),
    ] = ""
    deadline: Annotated[int, cli.INTERNAL] = 172_800  # s
    queue: Annotated[str, Field(description="Kueue's local queue")] = ""
    template: Annotated[
        str, Field(description="YAML of a TrainJob; empty: k8s/jobs/trainjob.yaml")
    ] = ""


def manifest(
    request: Request,
    shape: Shape,
    owner: list[dict[str, Any]],
    image: str = "",
    labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The TrainJob for `request`: the template with all values filled in.

    Its pods run on nodes with these `labels` only.
    """
    job: dict[str, Any] = yaml.safe_load(Path(shape.template or TEMPLATE).read_text())
    commit, dirty = git_state()
    head, spec, trainer = job["metadata"], job["spec"], job["spec"]["trainer"]
    head["name"] = request.name
    head["ownerReferences"] = owner
    head["labels"] |= {
        "stargan/model": request.model,
        "stargan/commit": f"{commit}{'-dirty' if dirty else ''}",
        RUN: run_label(request.pipeline_run),
    }
    if shape.queue:
        head["labels"]["kueue.x-k8s.io/queue-name"] = shape.queue
    spec["activeDeadlineSeconds"] = shape.deadline
    trainer |= {
        "args": ["run", request.name], "numNodes": shape.nodes, "numProcPerNode": shape.nproc,
        # One id for the whole job, whichever of its pods is rank 0.
        "env": [*trainer.get("env", ()), {"name": LAUNCH_ID.name, "value": new_launch()}],
    }  # fmt: skip
    if image:
        trainer["image"] = image
    requested, limits = (trainer["resourcesPerNode"][key] for key in ("requests", "limits"))
    if shape.cpu:
        requested["cpu"] = shape.cpu
    if shape.memory:
        requested["memory"] = shape.memory
        limits["memory"] = Pod(shape.cpu, shape.memory).memory_limit
    limits.pop("nvidia.com/gpu", None)
    if shape.accelerator and shape.accelerators:
        limits[shape.accelerator] = str(shape.accelerators)
    if labels:
        spec.setdefault("runtimePatches", []).append(_placement(labels))
    return job


def launch_id(job: Mapping[str, Any]) -> str:
    """The value of LAUNCH_ID in a job's pods."""
    env = job["spec"]["trainer"]["env"]
    return next(str(one["value"]) for one in env if one["name"] == LAUNCH_ID.name)


def _placement(labels: Mapping[str, str]) -> dict[str, Any]:
    """A patch of the runtime: its pods run on nodes with these labels only."""
    pod = {"spec": {"nodeSelector": dict(labels)}}
    node = {"name": NODE, "template": {"spec": {"template": pod}}}
    patch = {"template": {"spec": {"replicatedJobs": [node]}}}
    return {"manager": MANAGER, "trainingRuntimeSpec": patch}

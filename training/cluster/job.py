"""A TrainJob's request, its shape, and the object made of them."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from training.core.environment import LAUNCH_ID, new_launch
from training.core.files import canonical_json, sha256_bytes
from training.core.provenance import code_hash, git_state

TEMPLATE = Path(__file__).resolve().parents[2] / "k8s" / "jobs" / "trainjob.yaml"


@dataclass(frozen=True)
class Request:
    """One training, whole: what `training.train.train` takes."""

    dataset: str  # the manifest's text
    model: str
    model_config: str
    train_config: str
    init: str = ""
    experiment: str = ""
    preset: str = ""
    pipeline_run: str = ""
    child: bool = False  # one of several models of a run
    code: str = field(default_factory=code_hash)

    @property
    def name(self) -> str:
        """The job's name; who asks, and from which run, is no part of what is trained."""
        asker = ("experiment", "pipeline_run", "child")
        what = {k: v for k, v in asdict(self).items() if k not in asker}
        return f"train-{sha256_bytes(canonical_json(what))[:16]}"


@dataclass(frozen=True)
class Shape:
    """Where and how large a job runs."""

    nodes: int = 2
    nproc: int = 1  # processes a node
    accelerator: str = "nvidia.com/gpu"
    accelerators: int = 1  # a node
    image: str = ""  # empty: the one that this process runs in, else the template's
    deadline: int = 172_800  # s
    queue: str = ""  # a Kueue LocalQueue
    template: str = ""  # a YAML file; empty: k8s/jobs/trainjob.yaml


def manifest(
    request: Request, shape: Shape, owner: list[dict[str, Any]], image: str = ""
) -> dict[str, Any]:
    """The TrainJob for `request`: the template with its blanks filled in."""
    job: dict[str, Any] = yaml.safe_load(Path(shape.template or TEMPLATE).read_text())
    commit, dirty = git_state()
    head, spec, trainer = job["metadata"], job["spec"], job["spec"]["trainer"]
    head["name"] = request.name
    head["ownerReferences"] = owner
    head["labels"] |= {
        "stargan/model": request.model,
        "stargan/commit": f"{commit}{'-dirty' if dirty else ''}",
        "stargan/pipeline-run": request.pipeline_run[:63] or "none",
    }
    if shape.queue:
        head["labels"]["kueue.x-k8s.io/queue-name"] = shape.queue
    spec["activeDeadlineSeconds"] = shape.deadline
    trainer |= {
        "args": ["run", request.name], "numNodes": shape.nodes, "numProcPerNode": shape.nproc,
        # The job's, whichever of its pods is rank 0.
        "env": [*trainer.get("env", ()), {"name": LAUNCH_ID.name, "value": new_launch()}],
    }  # fmt: skip
    if image:
        trainer["image"] = image
    limits = trainer["resourcesPerNode"]["limits"]
    limits.pop("nvidia.com/gpu", None)
    if shape.accelerator and shape.accelerators:
        limits[shape.accelerator] = str(shape.accelerators)
    return job

"""CPU and memory that the pods of a run request from a cluster; a run on one machine ignores them.

The small values are for the presets of minutes on two cores and follow the peaks in
docs/how-to/cluster.md (`benchmarks/memory.py` measures them); the others leave room for hours at
128 to 256 px.
"""

import re
from typing import Annotated, NamedTuple

from pydantic import Field

from training.core.config import convert

Cpu = Annotated[str, Field(pattern=r"^(|[1-9]\d*m?|\d+\.\d+)$", examples=["500m", "2"])]
Memory = Annotated[str, Field(pattern=r"^(|[1-9]\d*[MG]i)$", examples=["768Mi", "16Gi"])]
SMALL = re.compile(r"smoke|demo(-.*)?")  # names of presets
HEADROOM = 4  # a pod's memory limit / its request


class Pod(NamedTuple):
    """What one pod requests, as Kubernetes' quantities."""

    cpu: str
    memory: str

    @property
    def memory_limit(self) -> str:
        return f"{HEADROOM * int(self.memory[:-2])}{self.memory[-2:]}"


STEP, TRAINER = Pod("2", "4Gi"), Pod("4", "16Gi")
SMALL_STEP, SMALL_TRAINER = Pod("250m", "1280Mi"), Pod("500m", "1536Mi")
SMOKE_TRAINER = Pod("250m", "1280Mi")
FOLLOWER = Pod("100m", "256Mi")  # the step's pod while a TrainJob's pods train


class Requests(NamedTuple):
    """Results of `resolve` from which Kubeflow sizes the pods of the later steps.

    All are text: Kubeflow takes a number from a parameter for empty, and asks for nothing.
    """

    step_cpu: str  # of a step that reads images or runs networks
    step_memory: str
    step_memory_limit: str
    train_cpu: str  # of the training step's own pod
    train_memory: str
    train_memory_limit: str
    accelerator_count: str  # of the training step's own pod; empty: none is requested
    step_accelerator_count: str  # of a step that runs networks; empty likewise


def step(preset: str, cpu: str = "", memory: str = "") -> Pod:
    """A step's pod: the given quantities, else those for the preset. Raises ValueError."""
    return _pod(SMALL_STEP if SMALL.fullmatch(preset) else STEP, "step", cpu, memory)


def trainer(preset: str, cpu: str = "", memory: str = "") -> Pod:
    """A training pod: the given quantities, else those for the preset. Raises ValueError."""
    small = SMOKE_TRAINER if preset == "smoke" else SMALL_TRAINER
    return _pod(small if SMALL.fullmatch(preset) else TRAINER, "train", cpu, memory)


def _pod(usual: Pod, name: str, cpu: str, memory: str) -> Pod:
    return Pod(
        convert(Cpu, cpu, f"{name}_cpu") or usual.cpu,
        convert(Memory, memory, f"{name}_memory") or usual.memory,
    )


def requests(
    preset: str,
    step_cpu: str = "",
    step_memory: str = "",
    train_cpu: str = "",
    train_memory: str = "",
    launcher: str = "local",
    accelerators: int = 0,
) -> Requests:
    """The requests of a run; "" means those for the preset. Raises ValueError for no quantity."""
    one, training = step(preset, step_cpu, step_memory), trainer(preset, train_cpu, train_memory)
    if launcher != "local":
        training = FOLLOWER
    # With a TrainJob the accelerators are those of its pods.
    count = str(accelerators) if accelerators and launcher == "local" else ""
    each = "1" if accelerators else ""
    return Requests(*one, one.memory_limit, *training, training.memory_limit, count, each)

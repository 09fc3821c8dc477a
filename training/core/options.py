"""Options of the training step, declared once for every command that has them.

The pipeline's parameters, the component's arguments and the options of `training.launch` come from
here; what is trained is configured in `training/core/config.py`.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from training.core.cli import means
from training.core.config import Natural, Positive, build, describe, described
from training.core.pods import Cpu, Memory

MODEL, PRESET, EXPERIMENT = "stargan", "demo", "stargan"  # defaults
Dataset = Annotated[Path, means('manifest of kind "dataset"')]
Model = Annotated[str, means("model to train")]
Changes = Annotated[str, means("changes to the preset, K=V;K=V", "--set")]
F = TypeVar("F", bound=Callable[..., Any])


@described
@dataclass(frozen=True)
class RunOptions:
    """Preset, initial weights and MLflow experiment of one training."""

    preset: Annotated[str, Field(description="the model's named configuration")] = PRESET
    init: Annotated[
        str,
        Field(
            description="model manifest or registered version to start from, after `by-name:` "
            "if the labels differ; empty: none"
        ),
    ] = ""
    experiment: Annotated[str, Field(description="MLflow experiment; empty: none")] = EXPERIMENT


@described
@dataclass(frozen=True)
class TrainOptions(RunOptions):
    """Processes, nodes, accelerators, seeds and initial weights of the training step."""

    nproc: Annotated[Positive, Field(description="training processes per node")] = 1
    seeds: Annotated[
        Positive,
        Field(
            description="number of models to train, with consecutive seeds; the first is "
            "registered, the spread over all estimates seed noise for promotion"
        ),
    ] = 1
    launcher: Annotated[
        Literal["local", "trainjob"],
        Field(
            description="local: train in the step's own pod; trainjob: in the pods of a Kubeflow "
            "TrainJob"
        ),
    ] = "local"
    nodes: Annotated[
        Positive, Field(description="nodes of a TrainJob, each with `accelerators`")
    ] = 1
    queue: Annotated[str, Field(description="Kueue's local queue for a TrainJob; empty: none")] = ""
    accelerator: Annotated[str, Field(description="resource name of the accelerator")] = (
        "nvidia.com/gpu"
    )
    accelerators: Annotated[
        Natural,
        Field(
            description="accelerators of each training pod: the step's own or, with "
            "launcher=trainjob, one for each node; 0: train on CPUs, no accelerator is requested"
        ),
    ] = 0
    train_cpu: Annotated[
        Cpu, Field(description="CPUs that each training pod requests; empty: by the preset")
    ] = ""
    train_memory: Annotated[
        Memory,
        Field(
            description="memory that each training pod requests, limited to four times as much; "
            "empty: by the preset"
        ),
    ] = ""


RUN, TRAIN = RunOptions(), TrainOptions()  # every default
NAMES = tuple(f.name for f in dataclasses.fields(TrainOptions))


def read_options(values: Mapping[str, Any]) -> TrainOptions:
    """Parse the options from `values`, text or typed.

    Raises ValueError for an unknown name, a wrong value, and incompatible values.
    """
    options = build(TrainOptions, values)
    if options.accelerators and options.nproc > options.accelerators:
        raise ValueError(
            f"nproc={options.nproc}: one for each of {options.accelerators} accelerators at most"
        )
    if options.accelerators > options.nproc:
        raise ValueError(
            f"accelerators={options.accelerators}, nproc={options.nproc}: a process trains on one, "
            f"the others are idle; give nproc={options.accelerators}"
        )
    if options.launcher == "local" and (options.nodes > 1 or options.queue):
        given = f"nodes={options.nodes}" if options.nodes > 1 else f"queue={options.queue}"
        raise ValueError(f"{given}: needs launcher=trainjob; give that, or leave it out")
    return options


def documented(function: F) -> F:
    """Append the options to the `Args:` at the end of a docstring."""
    lines = [f"{name}: {meaning}." for name, _, _, meaning in describe(TrainOptions)]
    function.__doc__ = "\n    ".join([inspect.cleandoc(function.__doc__ or ""), *lines])
    return function

"""Write a model as an ONNX file that computes what torch does, and says what it is.

The exporter is torch's (`torch.onnx.export`, dynamo). Packages: the extra `onnx`.
"""

import copy
import json
import logging
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from training.core.files import write_bytes
from training.data.labels import label_names
from training.export.graph import Graph, Input, Style, drawn, expected
from training.inference.marks import EDITED, TERMS
from training.inference.translator import Translator

OPSET = 20
LIMIT = 1e-4  # of the largest difference from torch, in a range of [-1, 1]
BATCHES = (1, 2, 12)  # on which it is compared
TIMED, ROUNDS = (1, 8), 15  # batches that are timed, and how often
INSTALL = "python -m pip install onnx onnxruntime onnxscript"
NOTICE = (
    "The outputs are synthetic: mark them as such (DigitalSourceType) wherever they are shown, and "
    "edit a person's picture only with their consent."
)


@dataclass(frozen=True)
class Version:
    """The registered version that is exported."""

    name: str
    number: str
    content: str  # hex SHA-256 of its weights, configuration, labels, data and code
    lineage: str  # hex SHA-256 of its lineage record, which lists the digest of every file

    def __str__(self) -> str:
        return f"{self.name}/{self.number}"


class Timing(NamedTuple):
    """Median milliseconds of a batch."""

    batch: int
    torch: float
    onnxruntime: float


@dataclass(frozen=True)
class Exported:
    """An ONNX file in memory, and how it compares with torch."""

    data: bytes
    facts: dict[str, Any]
    difference: float  # the largest, absolute
    edits: int  # that were compared
    session: Any  # onnxruntime's


def require_packages() -> None:
    """Raise ValueError with the command that installs the packages of the extra `onnx`."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(f"ONNX files need other packages ({error.name}): {INSTALL}") from error


def describe(translator: Translator, version: Version, wanted: tuple[Input, ...]) -> dict[str, Any]:
    """What the file's metadata say, JSON values by key."""
    space, size = translator.space, translator.size
    return {
        "name": version.name,
        "version": version.number,
        "content_sha256": version.content,
        "lineage_sha256": version.lineage,
        "model": translator.config["name"],
        "preset": translator.config.get("preset", ""),
        "image_size": size,
        "labels": label_names(space),
        "label_space": space.to_json()["sets"],
        "inputs": [one.to_json() for one in wanted],
        "output": {
            "name": "edited", "shape": ["n", 3, size, size], "type": "float32",
            "range": "-1 to 1", "meaning": "RGB pictures: byte = round((value + 1) * 127.5)",
        },
        "digital_source_type": TERMS + EDITED,
        "notice": NOTICE,
    }  # fmt: skip


def export(translator: Translator, version: Version, style: Style = "latent") -> Exported:
    """The file of a model, compared with torch (its default memory format) on faces and noise.

    Raises ValueError if packages are missing, the exporter refuses the model, the batch is not
    free, or an output differs from torch's by more than `LIMIT`.
    """
    require_packages()
    graph = Graph(translator, style)
    made = _traced(graph, drawn(graph.inputs, translator.space, 2), str(version))
    facts = describe(translator, version, graph.inputs)
    for key, value in facts.items():
        entry = made.metadata_props.add()
        entry.key, entry.value = key, value if isinstance(value, str) else json.dumps(value)
    data = made.SerializeToString()
    session = start(data)
    # In channels-last, the faster one, torch itself is off by more than the file is.
    reference = copy.deepcopy(graph)
    reference.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    difference = _difference(translator, reference, session)
    if not difference <= LIMIT:  # NaN is refused, too
        raise ValueError(
            f"{version}: the ONNX file differs from torch by {difference:.1e}, over {LIMIT:.0e}, "
            "and is not written; report it with the version's configuration"
        )
    return Exported(data, facts, difference, sum(BATCHES), session)


def write(path: Path, exported: Exported) -> None:
    """Write the file, whole or not at all."""
    if path.is_dir():
        raise ValueError(f"{path}: a folder; name a file, such as {path / 'model.onnx'}")
    write_bytes(path, exported.data)


def start(data: bytes) -> Any:
    """An onnxruntime session on the CPU, with as many threads as torch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors: it warns of the exporter's unused constants
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run(session: Any, values: Mapping[str, Tensor]) -> np.ndarray:
    given = {name: value.numpy() for name, value in values.items()}
    return np.asarray(session.run(None, given)[0])


def _traced(graph: Graph, values: Mapping[str, Tensor], version: str) -> Any:
    """The exporter's ModelProto, checked."""
    import onnx

    n = torch.export.Dim("n")
    shapes = tuple({0: n} if one.by_rows else {} for one in graph.inputs)
    loggers = [logging.getLogger(f"torch.{name}") for name in ("onnx", "_subclasses")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:  # torchvision is absent; errors come as exceptions
            logger.setLevel(logging.CRITICAL)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the exporter's own calls
            program = torch.onnx.export(
                graph, tuple(values[one.name] for one in graph.inputs), dynamo=True,
                dynamic_shapes=(shapes,), input_names=[one.name for one in graph.inputs],
                output_names=["edited"], opset_version=OPSET, verbose=False,
            )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        raise ValueError(f"{version} cannot be exported: {_reason(error)}") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    made = cast(Any, program).model_proto  # None without dynamo
    fixed = [i.name for i, one in zip(made.graph.input, graph.inputs, strict=True)
             if one.by_rows and not i.type.tensor_type.shape.dim[0].dim_param]  # fmt: skip
    if fixed:
        raise ValueError(
            f"{version} cannot be exported: the exporter fixes the batch of {', '.join(fixed)}"
        )
    onnx.checker.check_model(made)
    return made


def _reason(error: BaseException) -> str:
    """The cause's first line, of the innermost exception."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _difference(translator: Translator, graph: Graph, session: Any) -> float:
    """The largest absolute difference from torch over `BATCHES`."""
    largest = 0.0
    for seed, n in enumerate(BATCHES, 1):
        values = drawn(graph.inputs, translator.space, n, seed)
        found = np.abs(run(session, values) - expected(graph, values).numpy()).max()
        largest = max(largest, float(found)) if np.isfinite(found) else float("nan")
    return largest


def timed(translator: Translator, session: Any, style: Style = "latent") -> list[Timing]:
    """Milliseconds of torch and of onnxruntime, in turn, on the same threads and inputs."""
    graph, found = Graph(translator, style), []
    for batch in TIMED:
        values = drawn(graph.inputs, translator.space, batch, seed=batch)
        calls: tuple[Callable[[], object], ...] = (
            partial(expected, graph, values),
            partial(run, session, values),
        )
        took: tuple[list[float], ...] = ([], [])
        for turn in range(1 + ROUNDS):
            for call, times in zip(calls, took, strict=True):
                start = time.perf_counter()
                call()
                if turn:  # the first warms up
                    times.append(1_000 * (time.perf_counter() - start))
        found.append(Timing(batch, *map(median, took)))
    return found

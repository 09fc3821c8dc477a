"""Export every model at its demo's size and print how its file compares with torch.

    python benchmarks/onnx_parity.py > table.md
    python benchmarks/onnx_parity.py --case stargan:demo --case stgan:celeba-128

The weights are untrained, which changes neither the size nor the speed. Each row is printed as soon
as it is measured, as Markdown: opset, size of the file, largest difference from torch, and
milliseconds of torch and onnxruntime at batch 1 and 8, measured in turn on the same threads.
"""

import time
from typing import Annotated, Any

import torch

from training.core import cli
from training.core.cli import means
from training.core.provenance import machine
from training.data.labels import LabelSpace
from training.engine.throughput import synthetic_labels
from training.export import onnx_file
from training.export.onnx_file import Version
from training.inference.translator import Translator
from training.models import MODELS, configure
from training.models.layers import place

main = cli.program("python benchmarks/onnx_parity.py", __doc__)
PAPER = ("stargan", "attgan", "stgan")  # also at the papers' 128 px
CASES = (*(f"{name}:demo" for name in MODELS), *(f"{name}:celeba-128" for name in PAPER))
UNTRAINED = Version("benchmark", "0", "0" * 64, "0" * 64)


def untrained(name: str, preset: str) -> Translator:
    """A preset's model with its initial weights, as it is loaded for inference."""
    config = configure.resolve(name, preset)
    space = LabelSpace(tuple(labels for labels, _ in synthetic_labels(config.data)))
    torch.manual_seed(0)
    nets = config.model.networks(space, config.data.size)
    for net in nets.values():
        net.requires_grad_(False).eval()
        place(net, torch.device("cpu"))
    facts: dict[str, Any] = {"name": name, "preset": preset}
    return Translator(config.model, nets, space, config.data.size, facts)


def row(case: str) -> str:
    name, _, preset = case.partition(":")
    translator = untrained(name, preset)
    start = time.perf_counter()
    made = onnx_file.export(translator, UNTRAINED)
    took = time.perf_counter() - start
    one, eight = onnx_file.timed(translator, made.session)
    cells = [
        name, preset, f"{translator.size} px", onnx_file.OPSET, f"{len(made.data) / 1e6:.1f} MB",
        f"{made.difference:.1e}", f"{one.torch:.1f} / {one.onnxruntime:.1f}",
        f"{eight.torch:.1f} / {eight.onnxruntime:.1f}", f"{took:.0f} s",
    ]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


@main.default
def parity(
    *, case: Annotated[list[str] | None, means("MODEL:PRESET; repeatable; default: all")] = None
) -> None:
    """Print the table."""
    names = ["model", "preset", "size", "opset", "file", "largest difference",
             "batch 1, ms: torch / onnxruntime", "batch 8, ms", "export"]  # fmt: skip
    print(f"{time.strftime('%Y-%m-%d')}, {machine()}, {torch.get_num_threads()} threads\n")
    print(f"| {' | '.join(names)} |\n|{' --- |' * len(names)}", flush=True)
    for one in case or CASES:
        print(row(one), flush=True)


if __name__ == "__main__":
    cli.entry_point(main)

"""Benchmark D's loss and its backward pass: the slope written out against a double backward.

    python benchmarks/penalty.py                        # StarGAN, AttGAN and StarGAN v2, batch 4
    python benchmarks/penalty.py --models stargan --batch 16

Networks have the paper's size; G is replaced by a flip of the batch. Both take the same weights and
batch, in turns; their losses must agree before anything is timed. Times are CPU seconds of one
thread, or wall seconds on a GPU.
"""

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from training.core import cli
from training.core.cli import means
from training.data.batch import Batch
from training.data.labels import LabelSet, LabelSpace
from training.data.memory_format import memory_order
from training.models import MODELS, slope

main = cli.program("python benchmarks/penalty.py", __doc__)
NAMES = ("a", "b", "c", "d", "e")


class Flip(nn.Module):
    """A generator that costs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        return x.flip(3)


def d_loss(name: str, size: int, batch: int, device: torch.device) -> Callable[[], float]:
    """A function that computes D's loss and its gradients, and returns the loss."""
    model = MODELS[name]()
    kind: Any = model.label_kinds[0]
    space = LabelSpace((LabelSet("faces", kind, NAMES),))
    torch.manual_seed(0)
    order = memory_order(device)
    d = model.networks(space, size)["D"].to(device, memory_format=order)
    x = (2 * torch.rand(batch, 3, size, size, device=device) - 1).contiguous(memory_format=order)
    labels = space.encode(torch.eye(5, device=device)[torch.arange(batch) % 5], 0)
    alpha = torch.rand(batch, 1, 1, 1, device=device)
    nets = {"D": d, "G": Flip(), "F": nn.Identity()}
    nets["F"].forward = lambda z, y: z

    position = torch.zeros((), dtype=torch.float64, device=device)

    def noise(name: str, shape: tuple[int, ...]) -> Tensor:
        return alpha if name == "alpha" else torch.rand(batch, *shape, device=device)

    def step() -> float:
        d.zero_grad(set_to_none=True)
        terms = model.phases(space)[0].loss(nets, Batch(x, labels, labels, 0, noise, position))
        loss = torch.stack(list(terms.values())).sum()
        loss.backward()
        return loss.item()

    return step


@main.default
def command(
    *,
    models: Annotated[tuple[str, ...], means("the models", consume_multiple=(1, None))] = (
        "stargan",
        "attgan",
        "starganv2",
    ),
    size: Annotated[int, means("side of the images, px")] = 128,
    batch: Annotated[int, means("images of a batch")] = 4,
    rounds: Annotated[int, means("timed rounds")] = 3,
) -> None:
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    forms: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "double backward": lambda: patch.object(slope, "RULES", {}),
        "written out": nullcontext,
    }
    for name in models:
        step = d_loss(name, size, batch, device)
        times: dict[str, list[float]] = {form: [] for form in forms}
        for turn in range(rounds + 1):
            losses = []
            for form, chosen in forms.items():
                with chosen():
                    start = clock()
                    losses.append(step())
                    taken = clock() - start
                if turn:  # the first warms up
                    times[form].append(taken)
            if abs(losses[0] - losses[1]) > 1e-4 * abs(losses[0]):
                raise SystemExit(f"{name}: the losses differ: {losses}")
        ratio = statistics.median(a / b for a, b in zip(*times.values(), strict=True))
        for form, all_times in times.items():
            each = " ".join(f"{t:.2f}" for t in all_times)
            print(f"{name:10s} {form:16s} median {statistics.median(all_times):6.2f} s ({each})")
        print(f"{name:10s} ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()

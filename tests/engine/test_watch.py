"""What would stop a CUDA graph, or freeze a value into it: the operations of every phase, watched.

On torch's meta device an operation that needs a value on the host raises, and a host tensor beside
a meta one is a copy from the host in disguise. The number of kernels shows work that came back.
"""

import json
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from runs import RICHEST
from toydata import SETS
from training.data.batch import Batch
from training.data.dataset import Faces
from training.data.labels import LabelSpace
from training.data.order import Order
from training.engine.distributed import freeze
from training.models import MODELS
from training.models.base import Model, Nets, Phase
from training.models.layers import eval_mode

TABLE = Path(__file__).with_name("kernels.json")  # kernels of each phase; and torch's version
RENEW = "pytest tests/engine/test_watch.py -n0 --keep-kernels"
VARIANTS: list[tuple[str, str, dict[str, Any]]] = [
    ("stargan", "classes", {"d_branches": True}),
    (
        "stargan",
        "joint",
        {
            "d_projection": True,
            "loss": "logistic-r1",
            "upsampling": "resize",
            "output": "residual",
            "label_norms": True,
        },
    ),
    ("starganv2", "classes", {"style": "label"}),
    ("starganv2", "classes", {"style": "latent"}),
]
CASES: list[tuple[str, str, dict[str, Any]]] = [*((*case, {}) for case in RICHEST), *VARIANTS]
META = torch.device("meta")
N, SIZE = 4, 16
SYNCHRONISES = {
    "_local_scalar_dense", "item", "nonzero", "is_nonzero", "masked_select", "equal", "unique_dim",
    "_unique2", "unique_consecutive", "bincount", "repeat_interleave",
}  # fmt: skip
COPIES = {"convolution_backward": 2, "native_group_norm": 2, "native_group_norm_backward": 3}


class Watch(TorchDispatchMode):
    """Counts kernels, and what a graph cannot hold, by place in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: Counter[str] = Counter()
        self.kernels = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        devices = {t.device.type for t in given}
        out = func(*args, **kwargs)
        made = {t.device.type for t in tree_leaves(out) if isinstance(t, Tensor)}
        if name in SYNCHRONISES or (name == "index" and _has_bools(args[1])):
            self.fault(f"{name} waits for the device")
        if "cpu" in devices:
            self.fault(f"{name} reads a tensor on the host")
        elif "cpu" in made:
            self.fault(f"{name} makes a tensor on the host")
        if not func.is_view and name not in ("detach", "lift_fresh"):
            self.kernels += COPIES.get(name, 1)
        return out

    def fault(self, what: str) -> None:
        lines = traceback.extract_stack()
        place = next((f for f in reversed(lines) if "/training/" in f.filename), lines[0])
        self.faults[f"{what} at {Path(place.filename).name}:{place.lineno}: {place.line}"] += 1


def _has_bools(indices: Any) -> bool:
    return any(isinstance(t, Tensor) and t.dtype == torch.bool for t in tree_leaves(indices))


def on_meta(space: LabelSpace, dataset: int) -> Batch:
    """A batch with everything that a phase may read, on the meta device."""

    def empty(*shape: int) -> Tensor:
        return torch.empty(*shape, device=META)

    return Batch(
        empty(N, 3, SIZE, SIZE), empty(N, space.dim_g), empty(N, space.dim_g), dataset,
        lambda name, shape: empty(N, *shape), torch.empty((), dtype=torch.float64, device=META),
        reference=empty(N, 2, 3, SIZE, SIZE), other=empty(N, space.dim_g),
        peers=empty(N, 1, 3, SIZE, SIZE),
    )  # fmt: skip


def watch(nets: Nets, phase: Phase, batch: Batch) -> Watch:
    """The phase's loss and its backward pass."""
    freeze(nets, phase.trains)
    with Watch() as seen, eval_mode({name: nets[name] for name in phase.eval_nets}):
        terms = phase.loss(nets, batch)
        torch.stack(list(terms.values())).sum().backward()
    for net in nets.values():
        net.zero_grad()
    return seen


def phases_of(model: Model, which: str) -> list[tuple[str, Watch]]:
    """Every phase, also of the warm-up, by data set, phase and turn."""
    space = LabelSpace(SETS[which])
    nets = {n: net.to(META) for n, net in model.networks(space, SIZE).items()}
    found = []
    for dataset in range(len(space.sets)):
        for phase in (*model.warmup(space), *model.phases(space)):
            turn = "" if phase.round_robin_index < 0 else str(phase.round_robin_index)
            place = f"{space.sets[dataset].name}/{phase.name}{turn}"
            found.append((place, watch(nets, phase, on_meta(space, dataset))))
    return found


@pytest.mark.parametrize(("name", "which", "options"), CASES)
def test_no_phase_does_what_a_graph_cannot_hold(
    name: str, which: str, options: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    """No host tensor, no copy between devices, nothing that waits; and as many kernels as before.

    The number is exact for the version of torch in the table, within a tenth for others.
    """
    found = phases_of(replace(MODELS[name].tiny(), **options), which)
    name = "-".join([name, *map(str, options.values())])
    assert {place: dict(seen.faults) for place, seen in found if seen.faults} == {}
    kernels = {place: seen.kernels for place, seen in found}
    table = json.loads(TABLE.read_text()) if TABLE.is_file() else {}
    if request.config.getoption("--keep-kernels"):
        table |= {"torch": _version(), name: kernels}
        TABLE.write_text(f"{json.dumps(table, indent=1, sort_keys=True)}\n")
    expected: Any = table[name]
    if table["torch"] != _version():
        expected = {place: pytest.approx(count, rel=0.1) for place, count in expected.items()}
    assert kernels == expected, f"more or fewer kernels; if that is meant: {RENEW}"


def test_clipping_waits_for_nothing() -> None:
    """A graph can hold it: no norm is read on the host."""
    net = torch.nn.Conv2d(3, 4, 3, device=META)
    net(torch.empty(2, 3, 8, 8, device=META)).sum().backward()
    with Watch() as seen:
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    assert seen.kernels > 0
    assert seen.faults == {}


@pytest.mark.parametrize("crop", ["none", "zoom", "shift"])
def test_a_batch_is_shown_on_the_device_of_its_draw(crop: Any, classes: Path) -> None:
    """Converted, cropped, mirrored and stacked with its references there."""
    faces = Faces.open(classes, "train")
    faces = replace(faces, size=SIZE - 3) if crop == "shift" else faces
    order = Order(faces, 0, N, flip=True, length=64, references=2, crop=crop)
    draw = order.draw(0, 8, 8, slice(0, N)).to(META)
    with Watch() as seen:
        batch = order.show(draw)
    assert seen.faults == {}
    assert batch.reference is not None
    assert batch.reference.shape == (N, 2, 3, faces.size, faces.size)


def _version() -> str:
    return ".".join(torch.__version__.split(".")[:2])


def test_the_watch_sees_what_a_graph_cannot_hold() -> None:
    """Each kind of fault, and the place in the code that a message names."""
    x, mask = torch.empty(3, device=META), torch.empty(3, dtype=torch.bool, device=META)

    def faults(call: Any) -> list[str]:
        with Watch() as seen:
            try:
                call()
            except (RuntimeError, NotImplementedError):  # no value on the meta device
                seen.faults["raises"] += 1
        return [fault.partition(" at ")[0] for fault in seen.faults]

    assert faults(lambda: x * 2 + 1) == []
    assert faults(lambda: x[torch.arange(3)]) == [
        "arange makes a tensor on the host", "index reads a tensor on the host"
    ]  # fmt: skip
    assert faults(lambda: x + torch.ones(()))
    assert faults(lambda: torch.ones(3).to(META))
    assert faults(lambda: x.to("cpu"))
    assert faults(lambda: x.item()) == ["raises"]
    assert faults(lambda: x[mask]) == ["raises"]
    assert faults(lambda: x.nonzero()) == ["raises"]

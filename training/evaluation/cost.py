"""E7: cost of a translation in parameters, operations and time."""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

from training.core.config import EvalConfig
from training.data.dataset import Faces, to_float
from training.data.labels import LabelSpace
from training.evaluation.records import Cost
from training.evaluation.score import position, run, space_of, spread
from training.inference.translator import Translator
from training.models.kernels import ToImage


def cost(translator: Translator, faces: Faces, config: EvalConfig, device: torch.device) -> Cost:
    """E7: parameters and GMAC of the translating networks, images/s (fp32) at batch 1 and 16.

    Times are medians of 50 calls (of 8 if fewer than 1,000 images are scored, as in the demo).
    """
    nets = translator.nets
    space = space_of(translator, faces)
    edit_costs = sorted(
        edits(translator, faces, space, device), key=lambda edit: sum(edit[0].values())
    )
    macs_by_network, x, labels, target = edit_costs[len(edit_costs) // 2]
    deployed = translator.model.deployed(nets)
    names = [n for n, count in macs_by_network.items() if count] if deployed is None else deployed
    sizes = [parameters(nets[n]) for n in names]
    repeats = 50 if not 0 < config.limit < 1000 else 8

    def rate(n: int) -> float:
        images, a, b = (t.expand(n, *t.shape[1:]) for t in (x, labels, target))
        return throughput(lambda: run(translator, images, a, b), n, repeats, device)

    return Cost(
        parameters=float(sum(sizes)),
        parameters_total=float(sum(parameters(net) for net in nets.values())),
        # one equal network per domain or pair counts as n models, as in the papers
        models=float(len(sizes) if len(set(sizes)) == 1 else 1),
        gmac=float(np.mean([sum(edit[0].values()) for edit in edit_costs])) / 1e9,
        images_per_second_1=rate(1),
        images_per_second_16=rate(16),
    )


def edits(
    translator: Translator, faces: Faces, space: LabelSpace, device: torch.device
) -> list[tuple[dict[str, int], torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(MACs per network, x, c_org, c) of each single edit, for the most costly of a few images.

    The most costly, since networks of a domain pair skip images that are in neither domain.
    Raises ValueError if no image can be edited.
    """
    part, out = faces.parts[0], []
    rows = spread(len(part), 200)
    mine, shown = position(space, faces.space.sets[0]), part.labels[rows]
    for task in (task for task in faces.space.tasks(shown, 0) if task.single):
        candidates = []
        for i in task.changed.nonzero().flatten()[:4].tolist():
            x = to_float(part.images([rows[i]]).to(device))
            source = space.encode(shown[i : i + 1], mine)
            target = space.encode(task.target[i : i + 1], mine)
            macs_by_network = macs(translator.nets, lambda: run(translator, x, source, target))  # noqa: B023
            candidates.append((macs_by_network, x, source, target))
        if candidates:
            out.append(max(candidates, key=lambda edit: sum(edit[0].values())))
    if not out:
        raise ValueError("no test image can be edited: each already shows every target")
    return out


def parameters(net: nn.Module) -> int:
    """Number of parameters; buffers are not counted."""
    return sum(p.numel() for p in net.parameters())


def macs(nets: dict[str, nn.Module], call: Callable[[], object]) -> dict[str, int]:
    """Multiply-accumulates of `call` in each network's layers: half of PyTorch's FLOP count.

    Convolutions and matrix products count, biases and norms do not; unused networks have 0.
    """
    counts = dict.fromkeys(nets, 0)
    counter = FlopCounterMode(display=False)
    handles: list[RemovableHandle] = []

    def add(name: str, sign: int) -> Callable[..., None]:
        def hook(*_: object) -> None:
            counts[name] += sign * (counter.get_total_flops() // 2)

        return hook

    for name, net in nets.items():
        # hooks on layers: models may call parts of a network, which skips the network's own hooks
        for layer in (m for m in net.modules() if not any(m.children())):
            handles.append(layer.register_forward_pre_hook(add(name, -1)))
            handles.append(layer.register_forward_hook(add(name, 1)))
    try:
        with torch.no_grad(), ToImage.as_published(), counter:
            call()
    finally:
        for handle in handles:
            handle.remove()
    return counts


def throughput(
    call: Callable[[], object], images: int, repeats: int, device: torch.device
) -> float:
    """Images/s: `images` over the median time of `repeats` calls, after three warm-up calls."""

    def timed_call() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    for _ in range(3):
        timed_call()
    return images / float(np.median([timed_call() for _ in range(repeats)]))

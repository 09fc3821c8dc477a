"""Chooses fp32 or bf16 by measurement: on some CPUs bfloat16 is 5–11 times slower."""

import logging
import time
from dataclasses import replace

import torch
from torch import Tensor

from training.engine.distributed import freeze
from training.engine.preflight import trial_batch
from training.engine.record import EAGER, Body, Graphs
from training.engine.session import Job, records
from training.models.base import Nets, Phase
from training.models.layers import alone, place

log = logging.getLogger(__name__)

TIME_LIMIT = 0.3  # s for a phase in one precision; one pass takes longer if it is emulated
FASTER = 1.2  # from which ratio on bf16 is worth its rounding
ROWS = 4  # of the batch on a CPU


def _seconds(job: Job, nets: Nets, bf16: bool) -> float:
    """Time in s of the losses and gradients of one step, a mean over the steps of a cycle."""
    device, model, space = job.world.device, job.model, job.faces.space
    rows = -(-job.train.batch // job.world.size)  # of the largest share
    if device.type == "cpu":
        rows = min(rows, ROWS)
    with device:
        batch = trial_batch(model, space, 0, job.faces.size, rows)
    total = 0.0
    for phase in model.phases(space):
        if phase.round_robin_index > 0:
            continue  # of networks like those of the first turn

        def body(phase: Phase = phase) -> Tensor:
            freeze(nets, phase.trains)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                terms = phase.loss(nets, replace(batch, shared={}))
            loss = torch.stack(list(terms.values())).sum()
            loss.backward()
            for name in phase.trains:
                nets[name].zero_grad(set_to_none=True)
            return loss.detach()

        total += _shortest(_recorded(job, body) if records(job) else body, device) / phase.every
    return total


def _recorded(job: Job, body: Body) -> Body:
    """`body` as a graph, as the training replays it: op by op, launches would be measured."""
    graphs = Graphs(job.world.device)
    for _ in range(EAGER):
        with graphs.warming():
            body()
    try:
        return graphs.record(body)
    except RuntimeError as error:
        log.info("precision=auto: measured op by op, since it is not recorded: %s", error)
        return body


def _shortest(body: Body, device: torch.device) -> float:
    """Shortest time in s of up to six calls, after one for warm-up."""
    times: list[float] = []
    while len(times) < 2 or (len(times) < 7 and sum(times[1:]) < TIME_LIMIT):
        start = time.perf_counter()
        body()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def use_bf16(job: Job) -> bool:
    """Whether to train in bf16. "auto": if it makes the model's own phases 1.2 times as fast.

    Measured by rank 0 on separate networks and random images, for every rank, and logged. bf16 must
    win twice: on a busy machine one measurement may be noise, and the weights depend on it.
    """
    precision, world = job.train.precision, job.world
    if precision != "auto":
        return precision == "bf16"
    faster = False
    if world.rank == 0:
        nets = job.model.networks(job.faces.space, job.faces.size)
        for net in nets.values():
            place(net, world.device)
        with alone():  # the other ranks wait for the answer, not for sums over all
            faster = _faster(job, nets) and _faster(job, nets)
    return world.agree("bf16" if faster else "fp32") == "bf16"


def _faster(job: Job, nets: Nets) -> bool:
    fp32, bf16 = (_seconds(job, nets, half) for half in (False, True))
    faster = fp32 > FASTER * bf16
    log.info(
        "precision=auto: %s (losses and gradients of a step: %.3g s in fp32, %.3g s in bf16)",
        "bf16" if faster else "fp32", fp32, bf16,
    )  # fmt: skip
    return faster

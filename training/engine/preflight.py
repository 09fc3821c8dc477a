"""Refuse before a run what its training or its judge would refuse after hours.

The networks and every phase's loss run on torch's meta device: shapes without numbers, in
milliseconds, whatever the size of the networks.
"""

import re
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from training.core.config import Config
from training.data.batch import Batch
from training.data.enlarged import check_load
from training.data.labels import LabelSpace
from training.engine import ahead
from training.engine.distributed import freeze
from training.evaluation.judges.nets import ResNet18, SmallVGG
from training.evaluation.perception.stored import name_of
from training.evaluation.protocol import PAPER, check_published
from training.models.base import Model

SIZES = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024)  # px, tried in place of a refused one
META = re.compile(r"\bmeta\b", re.I)  # of torch's errors about tensors without numbers
Trial = Callable[[int, int], None]  # (size, batch)


def check(config: Config, space: LabelSpace) -> None:
    """Raise ValueError for a configuration that cannot be trained, judged or evaluated.

    If another size or batch helps, the message has one, which was tried.
    """
    for field in ("inception", "lpips"):
        if setting := getattr(config.eval, field):
            name_of(setting, field)
    if config.eval.protocol == PAPER:
        check_published(space)
    if config.train.ahead:
        ahead.check(config.model.phases(space), type(config.model).__name__)
    size = config.data.size
    check_load(config.train.crop, size, config.data.load)
    _check("train", config.name, partial(_train, config.model, space), size, config.train.batch)
    _check("judge", "the judge", partial(_judge, space), size, config.judge.batch)


def _check(section: str, what: str, trial: Trial, size: int, batch: int) -> None:
    fault = _fault(trial, size, batch)
    if not fault:
        return
    if batch == 1 and not _fault(trial, size, 2):
        raise ValueError(f"{section}.batch=1: {what} needs 2 or more ({fault})")
    near = sorted(SIZES, key=lambda other: abs(other - size))
    fits = next((other for other in near if not _fault(trial, other, batch)), 0)
    raise ValueError(f"{what}: {fault}" + (f"; data.size={fits} works" if fits else ""))


def _fault(trial: Trial, size: int, batch: int) -> str:
    """Why a trial fails, in one line, or empty text."""
    try:
        with torch.device("meta"):
            trial(size, batch)
    except (NotImplementedError, torch.jit.Error):
        return ""  # an operation without shapes, or a TorchScript file, proves nothing
    except (ValueError, RuntimeError, OverflowError, TypeError) as error:
        text = str(error).partition("\n")[0]
        return "" if isinstance(error, RuntimeError) and META.search(text) else text
    return ""


def _train(model: Model, space: LabelSpace, size: int, batch: int) -> None:
    """Every phase's loss, on a batch of each data set."""
    nets = model.networks(space, size)
    for dataset in range(len(space.sets)):
        for phase in (*model.warmup(space), *model.phases(space)):
            freeze(nets, phase.trains)
            phase.loss(nets, trial_batch(model, space, dataset, size, batch))


def trial_batch(model: Model, space: LabelSpace, dataset: int, size: int, batch: int) -> Batch:
    """A random batch of every kind of input, on torch's default device."""
    image, labels = torch.rand(batch, 3, size, size), torch.rand(batch, space.dim_g)
    more = model.references

    def noise(name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(batch, *shape)

    return Batch(
        image, labels, labels, dataset, noise, torch.full((), 0.5, dtype=torch.float64),
        reference=torch.rand(batch, more, 3, size, size) if more else None, other=labels,
        peers=torch.rand(batch, more - 1, 3, size, size) if more else None,
    )  # fmt: skip


def _judge(space: LabelSpace, size: int, batch: int) -> None:
    for part in space.sets:
        nets: list[nn.Module] = [ResNet18(len(part.names)), SmallVGG(len(part.names), 2)]
        for net in nets:
            net(torch.empty(batch, 3, size, size))

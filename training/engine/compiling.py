"""Phases whose losses are compiled by torch.compile."""

import logging
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from training.data.batch import Batch
from training.models.base import Losses, Nets, Phase

log = logging.getLogger(__name__)
BACKEND = "inductor"


def compiled(phases: list[Phase], sets: int) -> list[Phase]:
    """The phases with compiled losses.

    They share no graph with a later phase (`keep_grad`): a compiled function is differentiated as a
    whole, once.
    """
    import torch._dynamo.config as settings

    # Every phase and data set is one compilation of the same function.
    settings.recompile_limit += 2 * len(phases) * sets
    return [phase._replace(loss=Compiled(phase), keep_grad=()) for phase in phases]


class Compiled:
    """A phase's loss. Its first call runs op by op and finds which noise it reads."""

    def __init__(self, phase: Phase) -> None:
        self.phase = phase
        self.noises: dict[tuple[str, tuple[int, ...]], None] | None = None
        self.whole = torch.compile(self._body, fullgraph=True, dynamic=False, backend=BACKEND)
        self.refused = False

    def __call__(self, nets: Nets, batch: Batch) -> Losses:
        if self.refused:
            return self.phase.loss(nets, batch)
        if self.noises is None:
            return self._first(nets, batch)
        noises = {key: batch.noise(*key) for key in self.noises}
        tensors = {
            f.name: value
            for f in fields(Batch)
            if isinstance(value := getattr(batch, f.name), Tensor)
        }
        shared = dict(batch.shared)
        try:
            losses, made = self.whole(nets, tensors, batch.dataset, noises, shared)
        except torch._dynamo.exc.TorchDynamoException as error:  # before anything ran
            self.refused = True
            reason = str(error).strip().partition("\n")[0]
            log.warning("phase %s is not compiled and runs as it is: %s", self.phase.name, reason)
            return self.phase.loss(nets, batch)
        batch.shared.update(made)
        return losses

    def _first(self, nets: Nets, batch: Batch) -> Losses:
        asked: dict[tuple[str, tuple[int, ...]], None] = {}

        def noise(name: str, shape: tuple[int, ...]) -> Tensor:
            asked[name, shape] = None
            return batch.noise(name, shape)

        every: dict[str, Any] = {f.name: getattr(batch, f.name) for f in fields(Batch)}
        losses = self.phase.loss(nets, Batch(**{**every, "noise": noise}))
        self.noises = asked
        return losses

    def _body(
        self,
        nets: Nets,
        tensors: dict[str, Tensor],
        dataset: int,
        noises: dict[tuple[str, tuple[int, ...]], Tensor],
        shared: dict[str, Tensor],
    ) -> tuple[Losses, dict[str, Tensor]]:
        def noise(name: str, shape: tuple[int, ...]) -> Tensor:
            return noises[name, shape]

        batch = Batch(**tensors, dataset=dataset, noise=noise, shared=shared)
        return self.phase.loss(nets, batch), batch.shared

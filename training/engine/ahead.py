"""Tensors of the steps between two updates of the networks that make them, in one pass.

StarGAN's D is trained five times on fakes of a G that stands still: the fakes of four of these
steps are one batch of G. The group of a step is a function of the step alone, so a training resumed
in the middle of a group computes the whole group again and gets the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from training.models.base import Ahead, Phase

if TYPE_CHECKING:  # `check` runs in steps that do not import pandas
    from training.data.order import Draw

MOST = 8  # steps in one pass: bounds its memory


def check(phases: Sequence[Phase], model: str) -> None:
    """Raise ValueError for a model that prepares nothing ahead."""
    if not any(phase.ahead for phase in phases):
        raise ValueError(
            f"train.ahead=true: {model} has no phase whose images can be made ahead (StarGAN and "
            "GANimation have); leave train.ahead out"
        )


def group(step: int, sets: int, due: Callable[[int], Sequence[Phase]]) -> tuple[list[int], Ahead]:
    """The steps of the same data set that share a pass with `step`, in order; and what they share.

    `due` gives the phases of any step. No step if one of its phases trains what the pass reads.
    """
    ahead = next((phase.ahead for phase in due(step) if phase.ahead), None)
    if ahead is None:
        return [], Ahead((), lambda *_: {})

    def still(at: int) -> bool:
        phases = due(at)
        moved = {name for phase in phases for name in phase.trains} & set(ahead.reads)
        return not moved and any(phase.ahead == ahead for phase in phases)

    if not still(step):
        return [], ahead
    first = step
    while first > 0 and still(first - 1):
        first -= 1
    first += (step - first) // (MOST * sets) * MOST * sets
    members = []
    for at in range(first, first + MOST * sets):
        if not still(at):
            break
        if (at - step) % sets == 0:
            members.append(at)
    return members, ahead


def joined(draws: Sequence[Draw]) -> Draw:
    """One draw with the rows of all, of one data set, and the first one's position."""
    tensors = {
        name: value if name == "position" else torch.cat([draw.tensors[name] for draw in draws])
        for name, value in draws[0].tensors.items()
    }

    def noise(name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.cat([draw.noise(name, shape) for draw in draws])

    return replace(draws[0], tensors=tensors, noise=noise)


class Lookahead:
    """Draws of the steps of a group, and the tensors made of them, until their steps come."""

    def __init__(
        self,
        sets: int,
        due: Callable[[int], Sequence[Phase]],
        draw: Callable[[int], tuple[Draw, ...]],
        make: Callable[[Ahead, Draw], dict[str, Tensor]],
    ) -> None:
        self.sets, self.due, self.draw, self.make = sets, due, draw, make
        self.kept: dict[int, tuple[tuple[Draw, ...], dict[str, Tensor]]] = {}
        self.last = -1

    def take(self, step: int) -> tuple[tuple[Draw, ...], dict[str, Tensor]]:
        """The draws of `step`, and the prepared tensors of its main batch; none in a lone step."""
        if step != self.last + 1:
            self.kept.clear()  # another state was loaded
        self.last = step
        if step not in self.kept:
            self._fill(step)
        return self.kept.pop(step)

    def _fill(self, step: int) -> None:
        members, ahead = group(step, self.sets, self.due)
        if len(members) < 2:
            self.kept[step] = (self.draw(step), {})
            return
        draws = {at: self.draw(at) for at in members}
        made = self.make(ahead, joined([one[0] for one in draws.values()]))
        rows = len(draws[step][0].tensors["source"])
        parts = {name: tensor.split(rows) for name, tensor in made.items()}
        for k, at in enumerate(members):
            if at >= step:
                self.kept[at] = (draws[at], {name: split[k] for name, split in parts.items()})

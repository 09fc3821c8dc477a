"""The state of a training and its single step, for any model: runs the phases that are due."""

from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.core.config import TrainConfig
from training.data.batch import Batch
from training.data.dataset import Faces, memory_order
from training.data.order import Order, generator
from training.engine import checkpoint
from training.engine.checkpoint import Optimisers, State
from training.engine.distributed import World, freeze
from training.engine.mirror import Mirror
from training.engine.schedule import Schedule
from training.engine.telemetry import Telemetry
from training.models.base import Losses, Model, Nets, Optim, Phase
from training.models.layers import eval_mode
from training.models.optim import Adam
from training.tracking.tracker import Tracker


@dataclass(frozen=True)
class Job:
    """Everything that defines one training run."""

    model: Model
    train: TrainConfig
    faces: Faces
    held_out: Faces
    run: Path  # checkpoints/, samples/, log.jsonl
    config: dict[str, Any]  # resolved; stored with every checkpoint
    world: World
    tracker: Tracker = field(default_factory=Tracker)
    mirror: Mirror | None = None  # copy of the checkpoints in an object store
    clock: Telemetry = field(default_factory=Telemetry)


def build_state(job: Job) -> State:
    """Create networks (seeded), averages and optimisers on the device, in full precision."""
    torch.manual_seed(job.train.seed)
    nets = job.model.networks(job.faces.space, job.faces.size)
    for net in nets.values():
        device = job.world.device
        net.to(device, memory_format=memory_order(device))  # type: ignore[call-overload]
    averaged = job.model.averaged(job.faces.space) if job.train.ema else ()
    settings = job.model.optim(job.faces.space)
    optim: Optimisers = {
        name: Adam(
            net.parameters(),
            lr=settings[name].lr,
            betas=settings[name].betas,
            weight_decay=settings[name].weight_decay,
            fused=True,
        )
        for name, net in nets.items()
    }
    return State(nets, checkpoint.averages(nets, averaged), optim)


@dataclass
class Session:
    """A running job: its state and the objects that every step uses."""

    job: Job
    state: State
    nets: Nets  # the state's networks, wrapped in DDP if distributed
    order: Order
    schedule: Schedule
    phases: list[Phase]
    warmup: list[Phase]
    settings: dict[str, Optim]
    masks: dict[tuple[int, int], tuple[Tensor, Tensor] | None] = field(default_factory=dict)

    @classmethod
    def open(cls, job: Job, state: State | None = None) -> "Session":
        """Continue from `state`, or start from scratch. Raises ValueError as `Schedule` does."""
        train, space, model = job.train, job.faces.space, job.model
        state = state or build_state(job)
        order = Order(
            job.faces,
            train.seed,
            train.batch,
            flip=train.flip,
            length=train.images,
            references=model.references,
            crop=train.crop,
        )
        phases, warmup = model.phases(space), model.warmup(space)
        warmup_images = train.warmup_images if warmup else 0
        schedule = Schedule(phases, len(space.sets), train.batch, warmup_images)
        nets = job.world.wrap(state.nets)
        return cls(job, state, nets, order, schedule, phases, warmup, model.optim(space))

    def rates(self) -> dict[str, float]:
        """The current learning rate of each network."""
        train, images = self.job.train, self.state.images
        scale = self.job.model.lr_scale(images, train.images, train.decay_images)
        return {name: setting.lr * scale for name, setting in self.settings.items()}

    def due(self) -> tuple[list[Phase], int]:
        """The phases of this step and the current round-robin index."""
        iteration = self.state.step // self.schedule.sets
        stage = self.warmup if iteration < self.schedule.warmup_iterations else self.phases
        turns = max(1, 1 + max((phase.round_robin_index for phase in stage), default=0))
        rounds, index = divmod(iteration, turns)
        progress = self.state.images / self.job.train.images
        due = [
            phase
            for phase in stage
            if (rounds + 1) % phase.every == 0
            and phase.round_robin_index in (-1, index)
            and phase.active_range[0] <= progress < phase.active_range[1]
        ]
        return due, index

    def draw(self, dataset: int, drawn: int, index: int) -> Batch:
        """This rank's part of the batch that follows `drawn` images of a data set."""
        job = self.job
        with job.clock.waiting():
            if (dataset, index) not in self.masks:  # of all labels: once, not for each batch
                labels = job.faces.parts[dataset].labels
                self.masks[dataset, index] = job.model.domain_masks(labels, job.faces.space, index)
            masks, share = self.masks[dataset, index], job.world.share(job.train.batch)
            return self.order.batch(
                dataset, drawn, self.state.images, share, job.world.device, masks
            )

    def update(self, phase: Phase, batch: Batch, retained: tuple[str, ...] = ()) -> Losses:
        """Run one phase: loss, backward, one optimiser step for each network that it trains.

        The networks `retained` are not frozen. Returns the detached losses by log name.
        """
        state, world = self.state, self.job.world
        freeze(state.nets, (*phase.trains, *retained))
        with (
            eval_mode({name: self.nets[name] for name in phase.eval_nets}),
            torch.autocast(world.device.type, torch.bfloat16, enabled=state.bf16),
        ):
            terms = phase.loss(self.nets, batch)
        total = torch.stack(list(terms.values())).sum() * world.weight(self.job.train.batch)
        total.backward()
        for name in phase.trains:
            if clip := self.settings[name].clip:
                torch.nn.utils.clip_grad_norm_(state.nets[name].parameters(), clip)
            state.optim[name].step()
            state.optim[name].zero_grad(set_to_none=True)
        return {f"{phase.name}/{k}": v.detach() for k, v in terms.items()}

    def advance(self) -> Losses:
        """Run one step: draw a batch, run the due phases, update averages. Returns the losses."""
        state = self.state
        iteration, dataset = divmod(state.step, self.schedule.sets)
        drawn = self.schedule.drawn(iteration)
        for name, rate in self.rates().items():
            for group in state.optim[name].param_groups:
                group["lr"] = rate
        # Reseed torch's generator (dropout), so that a resumed run draws the same numbers.
        stream = generator(self.job.train.seed, "step", state.step, self.job.world.rank)
        torch.manual_seed(stream.initial_seed())
        due, index = self.due()
        batch = self.draw(dataset, drawn, index)
        losses: Losses = {}
        for position, phase in enumerate(due, 1):
            if phase.new_batch:
                drawn += self.job.train.batch
                batch = self.draw(dataset, drawn, index)
            same_batch = takewhile(lambda later: not later.new_batch, due[position:])
            retained = {name for later in same_batch for name in later.trains}
            losses |= self.update(phase, batch, tuple(retained & set(phase.keep_grad)))
        self._average()
        state.step += 1
        state.images = self.schedule.images(state.step)
        return losses

    def _average(self) -> None:
        """Update the moving averages of the weights; copy the buffers."""
        train, state = self.job.train, self.state
        keep = train.ema ** (train.batch / 16)
        for name, average in state.ema.items():
            net = state.nets[name]
            torch._foreach_lerp_(
                list(average.parameters()), [p.detach() for p in net.parameters()], 1 - keep
            )
            for averaged, current in zip(average.buffers(), net.buffers(), strict=True):
                averaged.copy_(current)

"""The state of a training and its single step, for any model: runs the phases that are due."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.core.config import TrainConfig
from training.data.batch import Batch
from training.data.dataset import Faces
from training.data.order import Draw, Order, generator
from training.engine import checkpoint
from training.engine.ahead import Lookahead, check
from training.engine.checkpoint import Optimisers, State
from training.engine.compiling import compiled
from training.engine.distributed import World, freeze
from training.engine.mirror import Mirror
from training.engine.record import Graphs, Plan, Recorder
from training.engine.schedule import Schedule
from training.engine.telemetry import Telemetry
from training.models.base import Ahead, Losses, Model, Nets, Optim, Phase
from training.models.layers import eval_mode, place
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


def records(job: Job) -> bool:
    """Whether the steps are recorded as CUDA graphs: on one GPU, unless switched off."""
    return job.train.record and job.world.device.type == "cuda" and job.world.size == 1


def build_state(job: Job) -> State:
    """Create networks (seeded), averages and optimisers on the device, in full precision."""
    torch.manual_seed(job.train.seed)
    nets = job.model.networks(job.faces.space, job.faces.size)
    for net in nets.values():
        place(net, job.world.device)
    averaged = job.model.averaged(job.faces.space) if job.train.ema else ()
    settings = job.model.optim(job.faces.space)
    record = records(job)

    def rate(lr: float) -> float | Tensor:  # a graph would freeze a number
        return torch.tensor(lr, device=job.world.device) if record else lr

    optim: Optimisers = {
        name: Adam(
            net.parameters(),
            lr=rate(settings[name].lr),
            betas=settings[name].betas,
            weight_decay=settings[name].weight_decay,
            fused=True,
            capturable=record,
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
    recorder: Recorder | None = None
    lookahead: Lookahead | None = None
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
        if train.ahead:
            check(phases, type(model).__name__)
        if train.compile:
            if job.world.size > 1:
                raise ValueError("train.compile=true: one process only; leave train.compile out")
            sets = len(space.sets)
            phases, warmup = compiled(phases, sets), compiled(warmup, sets)
        warmup_images = train.warmup_images if warmup else 0
        schedule = Schedule(phases, len(space.sets), train.batch, warmup_images)
        nets = job.world.wrap(state.nets)
        session = cls(job, state, nets, order, schedule, phases, warmup, model.optim(space))
        if train.ahead:
            session.lookahead = Lookahead(
                schedule.sets, lambda step: session.due(step)[0], session.draws, session.make
            )
        if records(job):
            device = job.world.device
            graphs = Graphs(device)
            session.recorder = Recorder(
                session.show, session.work, state.nets, device, graphs, job.clock.waiting
            )
        return session

    def rates(self) -> dict[str, float]:
        """The current learning rate of each network."""
        train, images = self.job.train, self.state.images
        scale = self.job.model.lr_scale(images, train.images, train.decay_images)
        return {name: setting.lr * scale for name, setting in self.settings.items()}

    def due(self, step: int) -> tuple[list[Phase], int]:
        """The phases of a step and its round-robin index."""
        iteration = step // self.schedule.sets
        stage = self.warmup if self.warming(step) else self.phases
        turns = max(1, 1 + max((phase.round_robin_index for phase in stage), default=0))
        rounds, index = divmod(iteration, turns)
        progress = self.schedule.images(step) / self.job.train.images
        due = [
            phase
            for phase in stage
            if (rounds + 1) % phase.every == 0
            and phase.round_robin_index in (-1, index)
            and phase.active_range[0] <= progress < phase.active_range[1]
        ]
        return due, index

    @property
    def cycle(self) -> int:
        """Steps after which the due phases repeat, within a stage."""
        turns = max(1, 1 + max(phase.round_robin_index for phase in self.phases))
        return self.schedule.sets * turns * math.lcm(*(phase.every for phase in self.phases))

    def warming(self, step: int) -> bool:
        """Whether a step belongs to the warm-up."""
        return step // self.schedule.sets < self.schedule.warmup_iterations

    def draw(self, dataset: int, drawn: int, seen: int, index: int) -> Draw:
        """This rank's part of the batch that follows `drawn` images of a data set, `seen` of all.

        `index` is the step's round-robin index.
        """
        job = self.job
        labels, share = job.faces.parts[dataset].labels, job.world.share(job.train.batch)
        if (dataset, index) not in self.masks:  # of all labels: once, not for each batch
            self.masks[dataset, index] = job.model.domain_masks(labels, job.faces.space, index)
        return self.order.draw(dataset, drawn, seen, share, self.masks[dataset, index])

    def draws(self, step: int) -> tuple[Draw, ...]:
        """The draws of a step: the main one, then one for each due phase with `new_batch`."""
        iteration, dataset = divmod(step, self.schedule.sets)
        due, index = self.due(step)
        seen, drawn = self.schedule.images(step), self.schedule.drawn(iteration)
        with self.job.clock.waiting():
            return tuple(
                self.draw(dataset, drawn + k * self.job.train.batch, seen, index)
                for k in range(1 + sum(phase.new_batch for phase in due))
            )

    @torch.no_grad()
    def make(self, ahead: Ahead, draw: Draw) -> dict[str, Tensor]:
        """The tensors that `ahead` makes of a draw."""
        device = self.job.world.device
        batch = self.order.show(draw.to(device))
        with torch.autocast(device.type, torch.bfloat16, enabled=self.state.bf16):
            return ahead.tensors(self.nets, batch)

    def plan(self) -> Plan:
        """Decide this step on the host: set the learning rates, find the phases, draw."""
        state = self.state
        for name, rate in self.rates().items():
            for group in state.optim[name].param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate
        # Layers such as nn.Dropout read torch's generator: a resumed run draws the same numbers.
        stream = generator(self.job.train.seed, "step", state.step, self.job.world.rank)
        torch.manual_seed(stream.initial_seed())
        prepared: dict[str, Tensor] = {}
        if self.lookahead:
            draws, prepared = self.lookahead.take(state.step)
        else:
            draws = self.draws(state.step)
        due = tuple(self.due(state.step)[0])
        return Plan(due, draws, self.warming(state.step), prepared)

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

    def show(self, draws: Sequence[Draw], prepared: dict[str, Tensor]) -> list[Batch]:
        """The batches of draws on the device; the first one shares the tensors `prepared`."""
        with self.job.clock.waiting():
            batches = [self.order.show(draw) for draw in draws]
        batches[0].shared.update(prepared)
        return batches

    def work(
        self, due: Sequence[Phase], batches: Iterable[Batch]
    ) -> tuple[tuple[str, ...], Tensor]:
        """Run the due phases and update the averages: tensors in, tensors out, on one device.

        `batches`: the main one, then one for each phase with `new_batch`. Returns the losses' log
        names and their values (k,).
        """
        following = iter(batches)
        batch = next(following)
        losses: Losses = {}
        for position, phase in enumerate(due, 1):
            if phase.new_batch:
                batch = next(following)
            same_batch = takewhile(lambda later: not later.new_batch, due[position:])
            retained = {name for later in same_batch for name in later.trains}
            losses |= self.update(phase, batch, tuple(retained & set(phase.keep_grad)))
        self._average()
        values = list(losses.values())
        return tuple(losses), torch.stack(values) if values else batch.image.new_zeros(0)

    def advance(self) -> Losses:
        """Run one step: draw batches, run the due phases, update averages. Returns the losses."""
        state, plan = self.state, self.plan()
        if self.recorder:
            names, losses = self.recorder.run(plan)
        else:
            draws = [draw.to(self.job.world.device) for draw in plan.draws]
            names, losses = self.work(plan.due, self.show(draws, plan.prepared))
        state.step += 1
        state.images = self.schedule.images(state.step)
        return dict(zip(names, losses.unbind(), strict=True))

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

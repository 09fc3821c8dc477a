"""The one training loop: it walks phases and knows no model.

Progress is counted in real images drawn; the same command again goes on from the last checkpoint.
"""

import json
import logging
import math
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from training.core.cli import StoppedError
from training.core.config import TrainConfig
from training.core.files import write_bytes, write_json
from training.core.progress import Progress
from training.data.batch import Batch
from training.data.dataset import Faces, Order, memory_order
from training.data.labels import LabelSpace
from training.engine import checkpoint
from training.engine.checkpoint import Optimisers, State
from training.engine.distributed import World, freeze
from training.engine.mirror import LOG, Mirror
from training.engine.schedule import Schedule
from training.engine.telemetry import Exporter, Telemetry, exporter, usage
from training.evaluation.previews import sample_grids, still, validation_score
from training.evaluation.symptoms import balance, symptoms
from training.models.base import Losses, Model, Nets, Phase, Symptom
from training.models.optim import Adam
from training.storage.s3 import RemoteError
from training.tracking.tracker import Tracker

log = logging.getLogger(__name__)


class NonFiniteError(ValueError):
    """A loss became NaN or infinite."""


@dataclass(frozen=True)
class Job:
    """What one training run is made of."""

    model: Model
    train: TrainConfig
    faces: Faces
    held_out: Faces
    run: Path  # checkpoints/, samples/, log.jsonl
    config: dict[str, Any]  # resolved; travels with every checkpoint
    world: World
    tracker: Tracker = field(default_factory=Tracker)
    mirror: Mirror | None = None  # of the checkpoints, in an object store
    clock: Telemetry = field(default_factory=Telemetry)


class Meter:
    """Losses since the last flush, kept as tensors so that no step waits for the device."""

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor]] = defaultdict(list)
        self.images: dict[str, list[int]] = defaultdict(list)

    def add(self, losses: Losses, images: int) -> None:
        for name, value in losses.items():
            self.values[name].append(value)
            self.images[name].append(images)

    def flush(self, world: World, batch: int, run: Path) -> dict[str, float]:
        """Global means since the last flush. Raises NonFiniteError naming term and moment."""
        names = sorted(self.values)
        if not names:
            return {}
        local = torch.stack([torch.stack(self.values[n]).mean() for n in names])
        means = dict(zip(names, world.mean(local, batch).tolist(), strict=True))
        for name, mean in means.items():
            if not math.isfinite(mean):
                self._raise(name, run)
        self.values.clear()
        self.images.clear()
        return means

    def _raise(self, name: str, run: Path) -> None:
        values = torch.stack(self.values[name])
        bad = (~torch.isfinite(values)).nonzero()
        first = self.images[name][int(bad[0]) if len(bad) else 0]
        good = checkpoint.latest(run / "checkpoints")
        raise NonFiniteError(
            f"loss {name} is not finite after {first} images; last good checkpoint: "
            f"{good or 'none'}; lower the learning rate or train in fp32, then start again"
        )


def build_state(job: Job) -> State:
    """Fresh networks (seeded), averages and optimisers on the device; full precision."""
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
    return State(nets, checkpoint.averages(nets, averaged), optim, extra={"bf16": False})


def update(
    state: State, nets: Nets, phase: Phase, batch: Batch, job: Job, kept: tuple[str, ...] = ()
) -> Losses:
    """One phase: loss, backward, one step of every network that it trains; `kept` stay unfrozen."""
    freeze(state.nets, (*phase.trains, *kept))
    with torch.autocast(job.world.device.type, torch.bfloat16, enabled=state.extra["bf16"]):
        terms = phase.loss(nets, batch)
    total = torch.stack(list(terms.values())).sum() * job.world.weight(job.train.batch)
    total.backward()
    for name in phase.trains:
        state.optim[name].step()
        state.optim[name].zero_grad(set_to_none=True)
    return {f"{phase.name}/{k}": v.detach() for k, v in terms.items()}


def advance(state: State, nets: Nets, order: Order, job: Job, phases: list[Phase]) -> Losses:
    """One step: draw one data set's batch, run the phases that are due, move the averages."""
    train, sets = job.train, len(job.faces.space.sets)
    iteration, dataset = divmod(state.step, sets)
    schedule = Schedule(job.model.phases(job.faces.space), sets, train.batch, train.warmup_images)
    drawn, share = schedule.drawn(iteration), job.world.share(train.batch)
    scale = job.model.lr_scale(state.images, train.images, train.decay_images)
    for name, setting in job.model.optim(job.faces.space).items():
        for group in state.optim[name].param_groups:
            group["lr"] = setting.lr * scale
    turns = 1 + max((phase.turn for phase in phases), default=0)
    rounds, turn = divmod(iteration, max(1, turns))
    place = state.images / train.images

    def draw() -> Batch:
        with job.clock.waiting():
            look = getattr(job.model, "sides", None)
            sides = look(job.faces.parts[dataset].labels, job.faces.space, turn) if look else None
            return order.batch(dataset, drawn, state.images, share, job.world.device, sides)

    batch = draw()
    losses: Losses = {}
    due = [
        p
        for p in phases
        if (rounds + 1) % p.every == 0 and p.turn in (-1, turn) and p.span[0] <= place < p.span[1]
    ]
    for place, phase in enumerate(due):
        if phase.fresh:
            drawn += train.batch
            batch = draw()
        later = takewhile(lambda p: not p.fresh, due[place + 1 :])
        kept = {name for p in later for name in p.trains} & set(phase.keeps)
        losses |= update(state, nets, phase, batch, job, tuple(kept))
    keep = train.ema ** (train.batch / 16)
    for name, net in state.ema.items():
        torch._foreach_lerp_(
            list(net.parameters()), [p.detach() for p in state.nets[name].parameters()], 1 - keep
        )
        for mine, its in zip(net.buffers(), state.nets[name].buffers(), strict=True):
            mine.copy_(its)
    state.step += 1
    state.images = schedule.images(state.step)
    return losses


@contextmanager
def stop_on_sigterm() -> Iterator[list[bool]]:
    """A one-element list that turns true when SIGTERM comes."""
    flag = [False]

    def note(number: int, frame: FrameType | None) -> None:
        flag[0] = True

    previous = signal.signal(signal.SIGTERM, note)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGTERM, previous)


def _due(before: int, now: int, every: int) -> bool:
    return before // every < now // every


def _save(state: State, job: Job, space: LabelSpace) -> Path:
    """Checkpoint (rank 0), prune, and the best by the validation score beside it."""
    folder = job.run / "checkpoints"
    with still({**state.nets, **state.ema}) as nets:
        score = validation_score(job.model, nets, job.held_out, job.world.device)
    better = state.best is None or score > state.best
    if better:
        state.best = score
    if not math.isfinite(score):
        good = checkpoint.latest(folder)
        raise NonFiniteError(
            f"the validation score is not finite after {state.images} images; last good "
            f"checkpoint: {good or 'none'}; lower the learning rate or train in fp32, then start "
            "again"
        )
    if job.world.rank == 0:
        if better:  # first, or a kill in between would lose it
            checkpoint.write_best(folder, state, job.config, space)
        checkpoint.save(folder, state, job.config, space)
        checkpoint.prune(folder, job.train.keep)
        with still({**state.nets, **state.ema}) as nets:
            signs = symptoms(job.model, nets, job.held_out, space, job.world.device)
        facts = {"validation/score": score, **_watch(signs, state.images)}
        job.tracker.metrics(facts, step=state.images)
        if job.mirror:
            _copy(job.mirror, folder / f"{state.images:012d}", job.tracker.run_id)
    job.world.wait()
    return folder / f"{state.images:012d}"


def _watch(signs: list[Symptom], images: int) -> dict[str, float]:
    """The signs by their names in the log, with a warning for each that is bad."""
    for sign in signs:
        if sign.bad:
            log.warning("after %d images: %s %.3g: %s", images, *sign[:2], sign.says)
    return {f"symptom/{sign.name}": sign.value for sign in signs}


def _copy(mirror: Mirror, path: Path, mlflow_run: str) -> None:
    """Copy a checkpoint to the store; one that cannot be reached does not stop training."""
    try:
        mirror.push(path, mlflow_run)
    except RemoteError as error:
        log.warning("checkpoint %s stays on this machine for now: %s", path.name, error)


def _record(
    state: State, job: Job, means: dict[str, float], rate: float, shown: Exporter | None
) -> None:
    scale = job.model.lr_scale(state.images, job.train.images, job.train.decay_images)
    facts = {
        **means,
        **_watch(balance(job.model, means, job.faces.size), state.images),
        "lr_scale": scale,
        **{f"lr/{n}": s.lr * scale for n, s in job.model.optim(job.faces.space).items()},
        "images_per_second": rate,
        **job.clock.take(job.train.price_per_hour),
        **usage(job.world.device),
    }
    line = {"images": state.images, **{k: round(v, 6) for k, v in facts.items()}}
    with (job.run / LOG).open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    job.tracker.metrics(facts, step=state.images)
    if shown:
        shown.show({**facts, "images": state.images, "length": job.train.images})


def _forget_after(log_file: Path, images: int) -> None:
    """Drop rows that a resumed run will write again, and a line cut short by a kill."""
    kept = []
    for line in log_file.read_text().splitlines() if log_file.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row["images"] <= images:
            kept.append(f"{line}\n")
    if kept or log_file.is_file():
        write_bytes(log_file, "".join(kept).encode())


def _sample(state: State, job: Job) -> None:
    nets = {**state.nets, **state.ema}
    for name, picture in sample_grids(job.model, nets, job.held_out, job.world.device).items():
        write_bytes(job.run / "samples" / f"{state.images:012d}-{name}.png", picture)
        job.tracker.image(picture, f"samples-{name}", step=state.images)


def fit(job: Job, state: State) -> Path:
    """Train to the configured length from where `state` stands; returns the last checkpoint.

    Raises NonFiniteError, and StoppedError after SIGTERM with the state saved.
    """
    train, space = job.train, job.faces.space
    if job.world.rank == 0:
        job.run.mkdir(parents=True, exist_ok=True)
        write_json(job.run / "config.json", {**job.config, "train": asdict(train)})
        _forget_after(job.run / LOG, state.images)
    nets = job.world.wrap(state.nets)
    order = Order(
        job.faces,
        train.seed,
        train.batch,
        flip=train.flip,
        length=train.images,
        references=getattr(job.model, "references", 0),
        crop=train.crop,
    )
    warmup, phases = job.model.warmup(space), job.model.phases(space)
    warm = Schedule(phases, len(space.sets), train.batch, train.warmup_images).warm
    meter, clock, since = Meter(), time.monotonic(), state.images
    progress = Progress("train", train.images, "images", state.images)
    last = job.run / "checkpoints" / f"{state.images:012d}"
    with exporter(job.world.rank) as shown, stop_on_sigterm() as stop, progress:
        while state.images < train.images:
            before = state.images
            active = warmup if state.step // len(space.sets) < warm else phases
            meter.add(advance(state, nets, order, job, active), before)
            now, done = state.images, state.images >= train.images
            stopping = job.world.any(stop[0])
            saving = done or stopping or _due(before, now, train.checkpoint_images)
            if saving or _due(before, now, train.log_images):
                means = meter.flush(job.world, train.batch, job.run)
                rate = (now - since) / max(time.monotonic() - clock, 1e-9)
                clock, since = time.monotonic(), now
                if job.world.rank == 0:
                    _record(state, job, means, rate, shown)
            if job.world.rank == 0:
                progress.step(now - before)
                if done or _due(before, now, train.sample_images):
                    _sample(state, job)
            if saving:
                with job.clock.stalling():
                    last = _save(state, job, space)
            if stopping and not done:
                raise StoppedError(f"stopped after {now} images; the same command goes on")
    return last

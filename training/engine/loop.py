"""The training loop: steps, logging, sample images and checkpoints.

Progress is counted in real images drawn; running the same command again resumes from the last
checkpoint.
"""

import json
import logging
import math
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

from training.core.cli import StoppedError
from training.core.files import write_bytes, write_json
from training.core.progress import Progress
from training.engine import checkpoint
from training.engine.checkpoint import State
from training.engine.distributed import World
from training.engine.mirror import LOG, Mirror
from training.engine.session import Job, Session
from training.engine.telemetry import Exporter, exporter, usage
from training.evaluation.diagnostics import balance, diagnostics
from training.evaluation.previews import sample_grids, validation_score
from training.models.base import Diagnostic, Losses
from training.models.layers import eval_mode
from training.storage.s3 import RemoteError

log = logging.getLogger(__name__)


class NonFiniteError(ValueError):
    """A loss, a weight or the validation score became NaN or infinite."""


class Meter:
    """Losses since the last flush, as tensors, so that steps do not synchronise with the device."""

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor]] = defaultdict(list)
        self.images: dict[str, list[int]] = defaultdict(list)

    def add(self, losses: Losses, images: int) -> None:
        for name, value in losses.items():
            self.values[name].append(value)
            self.images[name].append(images)

    def flush(self, world: World, batch: int, run: Path) -> dict[str, float]:
        """Global means since the last flush. Raises NonFiniteError naming loss and images."""
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
        bad, seen = (~torch.isfinite(values)).nonzero(), self.images[name]
        if len(bad):
            when = f"after {seen[int(bad[0])]} images"
        else:
            when = f"in another process, after {seen[0]} to {seen[-1]} images"
        raise NonFiniteError(f"loss {name} is not finite {when}; {_last_good(run)}")


@contextmanager
def stop_on_sigterm() -> Iterator[list[bool]]:
    """Yields a one-element list that becomes [True] on SIGTERM."""
    flag = [False]

    def on_signal(number: int, frame: FrameType | None) -> None:
        flag[0] = True

    previous = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGTERM, previous)


class Stopping:
    """Whether any process was told to stop, asked together and not at every step.

    Asking waits for the device and for the other processes: at most every 16th step, sooner where
    steps are slow. One process just looks.
    """

    STEPS, SECONDS = 16, 2.0  # between two questions

    def __init__(self, world: World, flag: list[bool]) -> None:
        self.world, self.flag = world, flag
        self.left = self.asked = 1  # steps until the next question; between the last two
        self.since = time.monotonic()

    def __call__(self) -> bool:
        """Called by every rank after each step; the same answer on every rank."""
        if self.world.size == 1:
            return self.flag[0]
        self.left -= 1
        if self.left:
            return False
        now = time.monotonic()
        told, seconds = self.world.most(
            [float(self.flag[0]), max(now - self.since, 1e-9) / self.asked]
        )
        self.left = self.asked = min(self.STEPS, max(1, int(self.SECONDS / seconds)))
        self.since = time.monotonic()
        return bool(told)


def _due(before: int, now: int, every: int) -> bool:
    return before // every < now // every


def _save(state: State, job: Job) -> Path:
    """Save a checkpoint (rank 0), prune old ones, and log validation score and diagnostics.

    Raises NonFiniteError, and saves nothing, if a weight or the score is not finite.
    """
    folder, device = job.run / "checkpoints", job.world.device
    nets = {**state.nets, **state.ema}
    every = [*state.nets.items(), *((f"{name}'s average", net) for name, net in state.ema.items())]
    if broken := [name for name, net in every if not _is_finite(net)]:
        raise NonFiniteError(
            f"weights of {', '.join(broken)} are not finite after {state.images} images; "
            f"{_last_good(job.run)}"
        )
    with eval_mode(nets):
        score = validation_score(job.model, nets, job.held_out, device)
    if not math.isfinite(score):
        raise NonFiniteError(
            f"the validation score is not finite after {state.images} images; {_last_good(job.run)}"
        )
    if job.world.rank == 0:
        checkpoint.save(folder, state, job.config, job.faces.space)
        checkpoint.prune(folder, job.train.keep, state.images)
        with eval_mode(nets):
            measured = diagnostics(job.model, nets, job.held_out, job.faces.space, device)
        facts = {"validation/score": score, **_warn_of(measured, state.images)}
        job.tracker.metrics(facts, step=state.images)
        if job.mirror:
            _copy(job.mirror, folder / f"{state.images:012d}", job.tracker.run_id)
    job.world.wait()
    return folder / f"{state.images:012d}"


def _is_finite(net: nn.Module) -> bool:
    """Whether every weight and buffer is a finite number; one synchronisation with the device."""
    values = [v for v in net.state_dict().values() if v.is_floating_point()]
    return not values or bool(torch.stack([v.isfinite().all() for v in values]).all())


def _last_good(run: Path) -> str:
    """The checkpoint to restart a diverged training from, and what to change, as text."""
    good = checkpoint.latest(run / "checkpoints")
    return (
        f"last good checkpoint: {good or 'none'}; lower the learning rate or train in fp32, then "
        "restart"
    )


def _warn_of(measured: list[Diagnostic], images: int) -> dict[str, float]:
    """Log a warning for each diagnostic out of range; returns all values by log name."""
    for one in measured:
        if one.bad:
            log.warning("after %d images: %s %.3g: %s", images, one.name, one.value, one.says)
    return {f"symptom/{one.name}": one.value for one in measured}


def _copy(mirror: Mirror, path: Path, mlflow_run: str) -> None:
    """Copy a checkpoint to the store; an unreachable store only causes a warning."""
    try:
        mirror.push(path, mlflow_run)
    except RemoteError as error:
        log.warning("checkpoint %s stays on this machine for now: %s", path.name, error)


def _record(
    session: Session, means: dict[str, float], rate: float, metrics: Exporter | None
) -> None:
    """Write one row to the log, the tracker and the exporter."""
    job, images = session.job, session.state.images
    facts = {
        **means,
        **_warn_of(balance(job.model, means, job.faces.size), images),
        "lr_scale": job.model.lr_scale(images, job.train.images, job.train.decay_images),
        **{f"lr/{name}": rate for name, rate in session.rates().items()},
        "images_per_second": rate,
        **job.clock.take(job.train.price_per_hour),
        **usage(job.world.device),
    }
    line = {"images": images, **{k: round(v, 6) for k, v in facts.items()}}
    with (job.run / LOG).open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    job.tracker.metrics(facts, step=images)
    if metrics:
        metrics.show({**facts, "images": images, "length": job.train.images})


def _drop_rows_after(log_file: Path, images: int) -> None:
    """Remove rows that a resumed run will write again, and an incomplete line after a kill."""
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
    """Save the sample grids and send them to the tracker."""
    nets = {**state.nets, **state.ema}
    for name, picture in sample_grids(job.model, nets, job.held_out, job.world.device).items():
        write_bytes(job.run / "samples" / f"{state.images:012d}-{name}.png", picture)
        job.tracker.image(picture, f"samples-{name}", step=state.images)


def fit(job: Job, state: State, until: int = 0) -> Path:
    """Train from `state` to the configured length; returns the last checkpoint's folder.

    With `until`, only until that many images were drawn; a later call goes on from there, with the
    results of an uninterrupted one.

    Raises NonFiniteError for a loss, a weight or a validation score that is not finite, and
    StoppedError after SIGTERM, when the state is saved.
    """
    train = job.train
    end = min(until or train.images, train.images)
    if job.world.rank == 0:
        job.run.mkdir(parents=True, exist_ok=True)
        write_json(job.run / "config.json", {**job.config, "train": asdict(train)})
        _drop_rows_after(job.run / LOG, state.images)
    session = Session.open(job, state)
    meter, clock, since = Meter(), time.monotonic(), state.images
    progress = Progress("train", end, "images", state.images)
    last = job.run / "checkpoints" / f"{state.images:012d}"
    with exporter(job.world.rank) as metrics, stop_on_sigterm() as stop, progress:
        stopped = Stopping(job.world, stop)
        while state.images < end:
            before = state.images
            meter.add(session.advance(), before)
            now, done = state.images, state.images >= end
            stopping = stopped()
            saving = done or stopping or _due(before, now, train.checkpoint_images)
            if saving or _due(before, now, train.log_images):
                means = meter.flush(job.world, train.batch, job.run)
                rate = (now - since) / max(time.monotonic() - clock, 1e-9)
                clock, since = time.monotonic(), now
                if job.world.rank == 0:
                    _record(session, means, rate, metrics)
            if job.world.rank == 0:
                progress.step(now - before)
                if done or _due(before, now, train.sample_images):
                    _sample(state, job)
            if saving:
                with job.clock.stalling():
                    last = _save(state, job)
            if stopping and not done:
                raise StoppedError(f"stopped after {now} images; run the same command to resume")
    return last

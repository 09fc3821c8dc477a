"""Measures training throughput on random images, to convert a budget in minutes to images."""

import time
from bisect import bisect_left
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from training.core.config import Config, DataConfig
from training.data.dataset import Faces, Part
from training.data.labels import LabelSet, LabelSpace
from training.data.layouts import EXPRESSIONS
from training.data.unify import read_labels
from training.data.versions import split_datasets
from training.engine.distributed import World
from training.engine.precision import use_bf16
from training.engine.record import EAGER
from training.engine.schedule import Schedule
from training.engine.session import Job, Session, build_state
from training.tracking.tracker import Tracker

# Training progress at the measurements: warm-up and later stages train other networks.
PROGRESS_POINTS = tuple((i + 0.5) / 10 for i in range(10))
IMAGES = 64


class Noise(Part):
    """Random images in memory with given labels, so that disk reads are not measured."""

    def __init__(self, name: str, labels: np.ndarray, size: int, device: torch.device) -> None:
        self.name, self.labels = name, torch.from_numpy(labels)
        stream = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (len(labels), size, size, 3), generator=stream)
        self._resident = pixels.to(torch.uint8).to(device)

    def __len__(self) -> int:
        return len(self.labels)


def synthetic_labels(data: DataConfig, count: int = IMAGES) -> list[tuple[LabelSet, np.ndarray]]:
    """Each data set's label set and labels (`count`, k) of synthetic images, as unified."""
    chosen = data.domains or data.attributes
    rows: dict[str, list[Any]] = {
        name: [float(i % max(2, len(chosen)) == k) for i in range(count)]
        for k, name in enumerate(chosen)
    }
    rows |= {
        "expression": list(islice(cycle(EXPRESSIONS), count)),
        "class": list(islice(cycle(("one", "two")), count)),
        "reason": [""] * count,
        "file": [f"{i}" for i in range(count)],
    }
    frame = pd.DataFrame(rows)
    return [read_labels(n, kind, frame, data) for n, kind in split_datasets(data.datasets)]


def step_at(schedule: Schedule, images: int, batch: int) -> int:
    """The first step before which at least `images` are drawn, including extra batches."""
    return bisect_left(range(images // batch + 1), images, key=schedule.images)


def _settle(session: Session) -> None:
    """Run steps that are not measured: algorithms are selected, and every graph is recorded."""
    if not session.recorder:
        session.advance()
        return
    cycle = session.cycle
    for step in range((EAGER + 1) * cycle):
        if step >= cycle and session.recorder.settled:
            break
        session.advance()


def measure_throughput(config: Config, seconds: float = 20.0) -> float:
    """Training images per second, measured for `seconds` spread evenly over the schedule."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sets = synthetic_labels(config.data)
    side = config.data.load if config.train.crop == "shift" else config.data.size
    parts = [Noise(labels.name, values, side, device) for labels, values in sets]
    space = LabelSpace(tuple(labels for labels, _ in sets))
    faces = Faces("train", space, config.data.size, [*parts])
    job = Job(config.model, config.train, faces, faces, Path(), {}, World(0, 1, device), Tracker())
    state = build_state(job)
    state.bf16 = use_bf16(job)
    session = Session.open(job, state)
    train, schedule = config.train, session.schedule
    seconds_per_image = 0.0
    for progress in PROGRESS_POINTS:
        state.step = step_at(schedule, int(progress * train.images), train.batch)
        state.images = schedule.images(state.step)
        _settle(session)
        start, before = time.monotonic(), state.images
        while time.monotonic() - start < seconds / len(PROGRESS_POINTS):
            session.advance()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds_per_image += (time.monotonic() - start) / (state.images - before)
    return len(PROGRESS_POINTS) / seconds_per_image

"""How many images a second a configuration trains on this machine, measured on noise.

So that a budget in minutes becomes one in images, which alone decides what a training does.
"""

import time
from bisect import bisect_left
from dataclasses import replace
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
from training.engine.schedule import Schedule
from training.engine.session import Job, Session
from training.tracking.tracker import Tracker

# Of the schedule: a model may train other networks later, or begin with a warm-up.
PLACES = tuple((i + 0.5) / 10 for i in range(10))
IMAGES = 64


class Noise(Part):
    """Random images in memory, with the labels given: the step is timed, not the disk."""

    def __init__(self, name: str, labels: np.ndarray, size: int, device: torch.device) -> None:
        self.name, self.labels = name, torch.from_numpy(labels)
        stream = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (len(labels), size, size, 3), generator=stream)
        self._resident = pixels.to(torch.uint8).to(device)

    def __len__(self) -> int:
        return len(self.labels)


def invented(data: DataConfig, count: int = IMAGES) -> list[tuple[LabelSet, np.ndarray]]:
    """Each data set's labels as the configuration would unify them, of `count` made-up images."""
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
    """The first step that begins with `images` drawn; some phases draw a batch of their own."""
    return bisect_left(range(images // batch + 1), images, key=schedule.images)


def pace(config: Config, seconds: float = 20.0) -> float:
    """Images a second of training, over `seconds` spread evenly along the schedule."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sets = invented(config.data)
    parts = [Noise(labels.name, values, config.data.size, device) for labels, values in sets]
    space = LabelSpace(tuple(labels for labels, _ in sets))
    faces = Faces("train", space, config.data.size, [*parts])
    train = replace(config.train, precision="fp32") if device.type == "cpu" else config.train
    job = Job(config.model, train, faces, faces, Path(), {}, World(0, 1, device), Tracker())
    session = Session.open(job)
    state, schedule = session.state, session.schedule
    spent = drawn = 0.0
    for place in PLACES:
        state.step = step_at(schedule, int(place * train.images), train.batch)
        state.images = schedule.images(state.step)
        session.advance()  # the first step plans its convolutions
        start, before = time.monotonic(), state.images
        while time.monotonic() - start < seconds / len(PLACES):
            session.advance()
        if device.type == "cuda":
            torch.cuda.synchronize()
        rate = (time.monotonic() - start) / (state.images - before)
        spent, drawn = spent + rate, drawn + 1
    return drawn / spent

"""Short trainings of the smallest networks, and their results."""

import json
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toydata import SETS
from training.core.config import TrainConfig, to_json
from training.data.dataset import Faces
from training.data.labels import LabelSpace
from training.engine.distributed import World
from training.engine.record import Body, Recorder
from training.engine.session import Job, Session
from training.models import MODELS
from training.models.base import Model
from training.storage.store import Manifest
from training.train import train

QUICK = TrainConfig(
    images=64, decay_images=32, warmup_images=16, batch=8, log_images=8, sample_images=64,
    checkpoint_images=16, precision="fp32", ema=0.9, keep=9,
)  # fmt: skip
CPU = torch.device("cpu")


def takes(model: type[Model], which: str) -> bool:
    """Whether the model accepts the label space of the fixture of this name."""
    try:
        model.tiny().check_space(LabelSpace(SETS[which]))
    except ValueError:
        return False
    return True


def richest(model: type[Model]) -> str:
    """The richest label space that a model accepts: several data sets if possible."""
    kind = model.label_kinds[0]
    own = next(which for which, sets in SETS.items() if [s.kind for s in sets] == [kind])
    joint = takes(model, "joint") and kind in {part.kind for part in SETS["joint"]}
    return "joint" if joint else own


CASES = [(name, which) for name, model in MODELS.items() for which in SETS if takes(model, which)]
RICHEST = [(name, richest(model)) for name, model in MODELS.items()]


def go(
    dataset: Path, run: Path, config: TrainConfig = QUICK, name: str = "stargan", **more: Any
) -> Path:
    """Train in the folder `run`; the model's manifest beside it."""
    out = run.parent / f"{run.name}.json"
    train(dataset, out, name, to_json(MODELS[name].tiny()), to_json(config), run=run, **more)
    return out


def session_of(
    model: Model, dataset: Path, config: TrainConfig = QUICK, world: World | None = None
) -> Session:
    """A session at its first step."""
    faces = Faces.open(dataset, "train")
    return Session.open(Job(model, config, faces, faces, Path(), {}, world or World(0, 1, CPU)))


class Calls:
    """In place of CUDA graphs: records nothing, calls the function at each replay."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def warming(self) -> AbstractContextManager[None]:
        return nullcontext()

    def record(self, body: Body) -> Body:
        self.recorded += 1

        def replay() -> Tensor:
            self.replayed += 1
            return body().clone()

        return replay


def static(session: Session, graphs: Any) -> Session:
    """The session with its steps recorded by `graphs`."""
    nets = session.state.nets
    session.recorder = Recorder(session.show, session.work, nets, CPU, graphs)
    return session


def weights(manifest: Path) -> dict[str, str]:
    """Digest of every network, average and optimiser."""
    entries = Manifest.read(manifest, "model").entries
    return {e.name: e.sha256 for e in entries if e.name.endswith(".safetensors")}


def losses(run: Path) -> list[dict[str, float]]:
    """The log's rows without machine-dependent values."""
    keys = ("images_per_second", "memory_mib", "data_wait_share", "checkpoint_seconds")
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in keys} for line in lines]


def command(dataset: Path, run: Path, name: str = "stargan") -> list[str]:
    """The command of `go` as a separate process."""
    return [
        sys.executable, "-m", "training.train", str(dataset), "--model", name,
        "--model-config", to_json(MODELS[name].tiny()), "--train-config", to_json(QUICK),
        "--folder", str(run), "--experiment", "", "--out", str(run.parent / f"{run.name}.json"),
    ]  # fmt: skip


def environment() -> dict[str, str]:
    """This process's environment, with as many threads for the child."""
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}

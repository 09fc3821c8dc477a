"""Resume a training from the newest complete checkpoint, local or in the store."""

import logging
from pathlib import Path
from typing import Any

from training.engine import checkpoint
from training.engine.checkpoint import State
from training.engine.mirror import Mirror
from training.engine.session import Job
from training.inference.weights import read_record

log = logging.getLogger(__name__)


def resume(state: State, job: Job) -> bool:
    """Load the run's newest complete checkpoint into `state` on every rank; False if none exists.

    Raises CheckpointError if the run started with other settings.
    """
    folder, mirror = job.run / "checkpoints", job.mirror
    path = ""
    if job.world.rank == 0:
        newest = _newest(job, mirror, state) if mirror else _local(job, state)
        path = str(newest or "")
    path = job.world.agree(path)
    if not path:
        return False
    no_local_copy = job.world.rank and not job.world.local and not Path(path).is_dir()
    if no_local_copy and mirror and (entry := mirror.newest()):  # not rank 0's machine
        mirror.fetch(entry, folder)
    job.world.wait()
    config = read_record(dict[str, Any], Path(path) / "config.json")
    checkpoint.check_config(config, job.config, Path(path))
    if config.get("code") != job.config.get("code"):
        log.warning("%s was written by another version of the code; the run mixes both", path)
    checkpoint.load(Path(path), state)
    log.info("resuming from %s", path)
    return True


def _local(job: Job, state: State) -> Path | None:
    return checkpoint.latest(job.run / "checkpoints", state, job.config)


def _newest(job: Job, mirror: Mirror, state: State) -> Path | None:
    """Claim the run, and return its newest checkpoint, local or downloaded from the store."""
    folder = job.run / "checkpoints"
    entry, local = mirror.claim(), _local(job, state)
    if local and int(local.name) >= entry.images:
        if int(local.name) > entry.images:
            mirror.push(local)
        return local
    return mirror.fetch(entry, folder) if entry.folder else None

"""Where a training goes on: the newest whole checkpoint, of this machine or of the store."""

import json
import logging
from pathlib import Path

from training.engine import checkpoint
from training.engine.checkpoint import State
from training.engine.mirror import Mirror
from training.engine.session import Job

log = logging.getLogger(__name__)


def resume(state: State, job: Job) -> bool:
    """Load the newest whole checkpoint of the run, from its folder or its mirror, on every rank."""
    folder, mirror = job.run / "checkpoints", job.mirror
    path = ""
    if job.world.rank == 0:
        path = str((_newest(mirror, folder) if mirror else checkpoint.latest(folder)) or "")
    path = job.world.agree(path)
    if not path:
        return False
    elsewhere = job.world.rank and not job.world.local and not Path(path).is_dir()
    if elsewhere and mirror and (entry := mirror.newest()):  # not rank 0's machine
        mirror.fetch(entry, folder)
    job.world.wait()
    config = json.loads((Path(path) / "config.json").read_text())
    checkpoint.check_config(config, job.config, Path(path))
    if config.get("code") != job.config.get("code"):
        log.warning("%s was written by other code; its first part is not this code's", path)
    checkpoint.load(Path(path), state)
    log.info("going on from %s", path)
    return True


def _newest(mirror: Mirror, folder: Path) -> Path | None:
    """The run's newest checkpoint, here and in the store; the run's writer is now this process."""
    entry, found = mirror.claim(), checkpoint.latest(folder)
    if found and int(found.name) >= entry.images:
        if int(found.name) > entry.images:
            mirror.push(found)
        return found
    return mirror.fetch(entry, folder) if entry.folder else None

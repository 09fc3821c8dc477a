"""Train a model on a unified data set; the same command resumes an interrupted training.

    python -m training.train dataset.json --model stargan --preset demo --out model.json
    torchrun --standalone --nproc-per-node 2 -m training.train dataset.json --out model.json

Exit codes: 0 done, 2 an input error or a loss that is not finite, 143 stopped by SIGTERM with the
state saved.
"""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from filelock import FileLock, Timeout

from training.core import cli
from training.core.cli import means
from training.core.config import Natural, TrainConfig, from_json, to_json
from training.core.environment import runs
from training.core.files import canonical_json, sha256_bytes
from training.core.options import MODEL, RUN, Changes, Dataset, Model, RunOptions
from training.core.provenance import code_hash
from training.core.references import split_start
from training.data.enlarged import check_load
from training.data.versions import short_md5
from training.models import model_from_json
from training.models.configure import RECORDED, changes, parse, resolve
from training.storage.meta import DatasetMeta, ModelMeta
from training.storage.store import Manifest

if TYPE_CHECKING:
    from training.engine.checkpoint import State
    from training.engine.session import Job
    from training.tracking.tracker import Tracker

main = cli.program("python -m training.train", __doc__)
log = logging.getLogger(__name__)
RESIDENT = 16 << 30  # bytes; smaller data sets are moved to the GPU
LOCK_TIMEOUT = 30.0  # s to wait for another process that trains in the run folder


@main.default
def command(
    dataset: Dataset,
    /,
    *,
    model: Model = MODEL,
    changes: Changes = "",
    out: Annotated[Path, means("manifest of the model to write")],
    options: Annotated[RunOptions, cli.FIELDS] = RUN,
    model_config: Annotated[str, means("JSON; replaces the preset's")] = "",
    train_config: Annotated[str, means("JSON; replaces the preset's")] = "",
    folder: Annotated[Path | None, means("run folder; default: named by what is trained")] = None,
    child: Annotated[bool, means("one of several models of a step; its own MLflow run")] = False,
    until: Annotated[Natural, means("stop after so many images, to go on later; 0: train on")] = 0,
) -> None:
    if not (model_config and train_config):
        preset = resolve(model, options.preset, parse(changes))
        model_config = model_config or to_json(preset.model)
        train_config = train_config or to_json(preset.train)
    train(
        dataset, out, model, model_config, train_config, run=folder, child=child, until=until,
        **asdict(options),
    )  # fmt: skip


def run_folder(dataset: Manifest, *what: str) -> Path:
    """The default run folder, named by a hash of the data set and `what` is trained."""
    key = sha256_bytes(canonical_json([dataset.digest, *what]))
    return runs("train", key[:16])


def train(
    dataset: Path,
    out: Path,
    model: str,
    model_config: str,
    train_config: str,
    *,
    run: Path | None = None,
    init: str = "",
    experiment: str = "",
    preset: str = "",
    child: bool = False,
    until: int = 0,
) -> None:
    """Train `model` on the manifest `dataset` and write the manifest `out` of kind "model".

    Configs are JSON texts. Log, checkpoints and samples are in the run folder `run`. A `child` is
    one of several models of a pipeline step. With `until`, the training stops once it has drawn so
    many images, and the same call with more or without goes on from there. Raises StoppedError
    after SIGTERM, with the state saved, and ValueError if another process trains in the folder.
    """
    from training.data.dataset import Faces
    from training.engine import checkpoint
    from training.engine.distributed import world
    from training.engine.loop import fit
    from training.engine.mirror import LOG, mirror
    from training.engine.precision import use_bf16
    from training.engine.resume import resume
    from training.engine.session import Job, build_state
    from training.engine.telemetry import last_losses, summarise_log

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    manifest = Manifest.read(dataset, "dataset")
    settings = from_json(TrainConfig, train_config)
    network = model_from_json(model, json.loads(model_config))
    data = manifest.meta.data
    check_load(settings.crop, data.get("size", 0), data.get("load", 0))
    code = code_hash()
    default = run_folder(manifest, model, model_config, train_config, init, code)
    run = run or default
    with world() as here, _locked(run, here.rank):
        faces = Faces.open(manifest, "train", load=settings.crop == "shift")
        held_out = Faces.open(manifest, "val")
        if here.device.type == "cuda" and sum(part.bytes for part in faces.parts) < RESIDENT:
            for part in faces.parts:
                part.move(here.device)
        config: dict[str, Any] = {
            "name": model,
            "preset": preset,
            "size": faces.size,
            "model": checkpoint.as_dict(network),
            "train": checkpoint.as_dict(settings),
            "data_digest": manifest.digest,
            "data": manifest.meta.data,
            "init": init,
            "code": code,
        }
        copies = mirror(default.name, settings.keep)
        job = Job(network, settings, faces, held_out, run, config, here, mirror=copies)
        state = build_state(job)
        if not resume(state, job):
            state.bf16 = use_bf16(job)
            _start_from(init, state, job)
        if here.rank == 0 and experiment:
            job = replace(job, tracker=_tracker(job, dataset, manifest, experiment, child))
        try:
            last = fit(job, state, until)
        except cli.StoppedError:
            job.tracker.close("KILLED")
            raise
        except BaseException:
            job.tracker.close("FAILED")
            raise
        if undelivered := job.tracker.close("FINISHED"):
            log.warning("%s", undelivered)
        if here.rank == 0:
            log_file = run / LOG
            about = {
                "training": summarise_log(log_file, settings.price_per_hour),
                "losses": last_losses(log_file),
            }
            _publish(last, run, out, manifest, job.tracker.run_id, settings.seed, about)
        here.wait()


def _start_from(init: str, state: "State", job: "Job") -> None:
    """Initialise the networks from the model `init`, if there is one."""
    from training.engine.warm_start import warm_start
    from training.registry.references import model_files

    if init:
        done = warm_start(init, model_files(split_start(init).reference), state, job)
        if job.world.rank == 0:
            log.info("%s", done)


def _tracker(
    job: "Job", dataset: Path, manifest: Manifest[DatasetMeta], experiment: str, child: bool
) -> "Tracker":
    """The tracker of this training; it rejoins the MLflow run of an earlier part on any machine."""
    from training.tracking.described import parameters
    from training.tracking.tracker import Tracker

    config = job.config
    version = short_md5(manifest.meta.md5 or manifest.digest[:36])
    data = "+".join(labels.name for labels in job.faces.space.sets), version
    changed = changes(config["name"], config["preset"], {s: config[s] for s in RECORDED})
    about = parameters(config["name"], config["preset"], changed, data, job.train.seed)
    return Tracker.start(
        experiment,
        f"train {config['name']} seed {job.train.seed}",
        {**config["model"], **config["train"], "size": job.faces.size},
        {
            "role": "training",
            "dataset": manifest.digest,
            "model": config["name"],
            "preset": config["preset"] or "none",
        },
        {
            "name": data[0],
            "digest": data[1],
            "source": str(dataset),
        },
        run_id=job.mirror.entry.mlflow_run if job.mirror else "",
        folder=job.run / "tracking",
        child=child,
        parent={} if child else about,
    )


@contextmanager
def _locked(run: Path, rank: int) -> Iterator[None]:
    """Rank 0 locks the run folder, so that no second training writes the same checkpoints."""
    if rank:
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(run / ".lock", timeout=LOCK_TIMEOUT):
            yield
    except Timeout as error:
        raise ValueError(
            f"{run}: another process trains there; wait for it, or give another --folder"
        ) from error


def _publish(
    last: Path,
    run: Path,
    out: Path,
    dataset: Manifest,
    mlflow_run: str,
    seed: int,
    about: dict[str, Any],
) -> None:
    """Store the last checkpoint and the last sample grids and write the manifest."""
    from training.core.files import read_json
    from training.inference.weights import verify, weight_files

    verify(last)
    files = weight_files(last)
    for picture in (run / "samples").glob(f"{last.name}-*.png"):
        files[f"samples/{picture.name.partition('-')[2]}"] = picture
    config = read_json(last / "config.json")
    meta = ModelMeta(
        model=config["name"],
        preset=config["preset"],
        seed=seed,
        images=read_json(last / "extra" / "state.json")["images"],
        dataset=dataset.digest,
        mlflow_run=mlflow_run,
    )
    Manifest.build("model", files, meta, about=about).write(out)


if __name__ == "__main__":
    cli.entry_point(main)

"""StarGAN's paper recipe on drawn faces under a time limit, by the programs of the pipeline."""

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from training.core.config import Config, to_json
from training.core.files import read_json
from training.engine.telemetry import summarise_log
from training.engine.throughput import measure_throughput
from training.models import configure
from training.models.shared_presets import CELEBA

MEASURED = 20.0  # s in which the rate is measured, to choose the length
SCORED = 45.0  # s left for the start of the training and for the scores
DEMO = {"judge.images": "3200", "eval.limit": "250"}  # there are only 2,400 faces
# Without a GPU: the smallest networks and few images.
TOY = {
    "data.size": "32", "model.conv_dim": "4", "model.repeat_num": "1", "model.d_conv_dim": "4",
    "model.d_repeat_num": "3", "judge.images": "64", "judge.floor": "0", "eval.limit": "8",
    "eval.bootstrap": "100", "train.images": "320", "train.decay_images": "160",
}  # fmt: skip
SCORES = (
    "success_mean", "success_low", "success_high", "success_worst", "copy_success_mean",
    "preservation_mean", "self_psnr", "frechet_vgg_celeba", "frechet_vgg_floor_celeba",
)  # fmt: skip


def run(program: str, *words: str | Path) -> None:
    """Run a program of the pipeline. Raises ValueError if it fails; its own message is above."""
    print(f"{program} {' '.join(map(str, words))}", flush=True)
    done = subprocess.run([sys.executable, "-m", f"training.{program}", *map(str, words)])
    if done.returncode:
        raise ValueError(f"python -m training.{program} ended with exit code {done.returncode}")


def prepared(folder: Path, config: Config, raw: Path | None) -> tuple[Path, Path]:
    """Manifests of the data set and its judge; the faces are drawn unless `raw` has them."""
    raw_faces, images, dataset, judge = (
        folder / f"{name}.json" for name in ("raw", "images", "dataset", "judge")
    )
    if raw is None:
        raw = folder / "faces" / "celeba"
        if not raw.is_dir():
            run("data", "draw", folder / "faces")
    data = to_json(config.data)
    run("data.pull", "--datasets", "celeba", "--raw", raw, "--out", raw_faces)
    run("data.preprocess", "--raw", raw_faces, "--data-config", data, "--out", images)
    run("data.unify", "--images", images, "--data-config", data, "--out", dataset)
    run("judge", dataset, "--config", to_json(config.judge), "--out", judge)
    return dataset, judge


def chosen_length(config: Config, seconds: float, measured: float) -> Config:
    """The recipe, shortened to the images that `seconds` allow at the rate measured here.

    Raises ValueError if not even ten steps fit.
    """
    rate = measure_throughput(config, measured)
    images = min(int(rate * (seconds - measured)), config.train.images)
    images -= images % config.train.batch
    print(f"{rate:.1f} images/s measured: {images:,} images for {seconds - measured:.0f} s")
    if images < 10 * config.train.batch:
        raise ValueError(
            f"{seconds:.0f} s are left for the training, {images} images at {rate:.1f} images/s; "
            "raise --minutes, or run again: the data and the judge are kept"
        )
    train = replace(config.train, images=images, decay_images=images // 2)
    return replace(config, train=train)


def train_for(folder: Path, limit: float, batch: int, raw: Path | None) -> None:
    """Prepare, train and score within `limit` seconds; print length, rate, stalls and scores.

    The judge and the scored images are the demo's; all else is preset celeba-128, its length and
    decay scaled to the time. Raises ValueError if a program fails or the time is too short.
    """
    began = time.monotonic()
    cuda = torch.cuda.is_available()
    folder.mkdir(parents=True, exist_ok=True)
    if not cuda:
        print("no GPU here: a toy size, whose numbers mean nothing")
    changes = DEMO if cuda else TOY
    config = configure.resolve("stargan", "celeba-128", {"train.batch": batch, **changes})
    dataset, judge = prepared(folder, config, raw)
    measured, scored = (MEASURED, SCORED) if cuda else (1.0, 1.0)
    left = limit - scored - (time.monotonic() - began)
    config = chosen_length(config, left, measured)
    model, scores = folder / "model.json", folder / "scores.json"
    training = folder / f"train-{time.strftime('%Y%m%d-%H%M%S')}"
    run(
        "train", dataset, "--experiment", "", "--model-config", to_json(config.model),
        "--train-config", to_json(config.train), "--folder", training, "--out", model,
    )  # fmt: skip
    run(
        "evaluate", model, dataset, judge, "--config", to_json(config.eval), "--metrics", scores,
        "--report", folder / "report.html", "--out", folder / "evaluation.json",
    )  # fmt: skip
    told(config, summarise_log(training / "log.jsonl"), read_json(scores))
    print(f"whole command: {time.monotonic() - began:.0f} s; report: {folder / 'report.html'}")


def told(config: Config, facts: Mapping[str, float], scores: Mapping[str, float]) -> None:
    """Print length, rate, stalls and scores of a training."""
    seconds, share = facts["seconds"], facts["images"] / CELEBA
    print(
        f"{facts['images']:,.0f} images at {config.data.size} px, batch {config.train.batch}, in "
        f"{seconds:.0f} s: {facts['images_per_second']:.1f} images/s, {100 * share:.1f} % of the "
        "paper's length"
    )
    print(
        f"waiting for data on the host {100 * facts['data_wait_share']:.2f} % of the time, an "
        "upper bound of the GPU's idle time for it; checkpoints "
        f"{100 * facts['checkpoint_seconds'] / seconds:.2f} %"
        + (f"; GPU busy {facts['gpu_utilisation']:.0f} %" if "gpu_utilisation" in facts else "")
    )
    print("scores: " + ", ".join(f"{name} {scores[name]:.3f}" for name in SCORES if name in scores))

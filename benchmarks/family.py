"""Train and evaluate models with several seeds at a time on one accelerator; write one report.

    python benchmarks/family.py --run stargan,attgan 40000 dataset.json judge.json \\
        --run starganv2 6000 domains.json domains-judge.json --seeds 3 --out runs/family

The manifests are those of any pipeline run (its unify-labels and judge steps). Small networks leave
most of a large GPU idle, so many trainings share it; images/s therefore depend on what else runs at
the same time. Failed systems are listed, and the others continue.
"""

import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from pipelines.model_specs import ModelSpec, budgeted, parse_specs
from training.core import cli
from training.core.cli import means
from training.core.config import to_json
from training.core.files import write_bytes, write_json
from training.core.options import Changes
from training.evaluation.comparison.page import report
from training.evaluation.comparison.runs import ComparedRun
from training.models import configure

main = cli.program("python benchmarks/family.py", __doc__)
RUN = means(
    "comma-separated systems; training images of each (0: the preset's); data set; judge",
    metavar="SYSTEMS IMAGES DATASET JUDGE",
)
Asked = tuple[str, Annotated[int, Field(ge=0)], Path, Path]


@dataclass(frozen=True)
class Run:
    """One seed of one system."""

    system: ModelSpec
    seed: int
    dataset: Path
    judge: Path
    settings: dict[str, str]
    folder: Path

    def commands(self, preset: str) -> list[list[str]]:
        """The pipeline's train and evaluate steps as commands; ValueError for a wrong setting."""
        config = configure.resolve(self.system.model, preset, self.settings)
        pairs = ";".join(f"{key}={value}" for key, value in self.settings.items())
        model, evaluation = self.folder / "model.json", self.folder / "evaluation.json"
        return [
            [
                sys.executable, "-m", "training.train", str(self.dataset), "--model",
                self.system.model, "--preset", preset, "--set", pairs, "--folder",
                str(self.folder / "train"), "--experiment", "", "--out", str(model),
            ],
            [
                sys.executable, "-m", "training.evaluate", str(model), str(self.dataset),
                str(self.judge), "--config", to_json(config.eval), "--out", str(evaluation),
                "--report", str(self.folder / "evaluation.html"),
                "--metrics", str(self.folder / "metrics.json"),
            ],
        ]  # fmt: skip

    def go(self, preset: str, end: float) -> ComparedRun | str:
        """Train and evaluate until `end` (monotonic, s); the result, or a failure with its log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log.txt").open("w") as log:
            for command in self.commands(preset):
                try:
                    subprocess.run(
                        command, stdout=log, stderr=subprocess.STDOUT, check=True,
                        env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=end - time.monotonic(),
                    )  # fmt: skip
                except subprocess.SubprocessError as error:
                    logged = (self.folder / "log.txt").read_text().split()
                    why = (
                        "out of time" if isinstance(error, subprocess.TimeoutExpired) else "failed"
                    )
                    return f"{self.system.label}, seed {self.seed}: {why}: {' '.join(logged[-20:])}"
        files = (self.folder / "model.json", self.folder / "evaluation.json", self.dataset)
        return ComparedRun.read(self.system.label, *files)


def show(entry: ComparedRun) -> dict[str, float]:
    """The numbers of one run that its line of output shows."""
    took, numbers = entry.model.about["training"], entry.numbers
    chosen = ("success_mean", "success_worst", "copy_success_mean", "preservation_mean",
              "identity_cosine", "self_psnr", "self_ssim", "learned")  # fmt: skip
    spent = ("images", "seconds", "images_per_second", "data_wait_share", "gpu_utilisation",
             "gpu_memory_mib")  # fmt: skip
    return {k: numbers[k] for k in chosen if k in numbers} | {
        k: took[k] for k in spent if k in took
    }


def planned(asked: list[Asked], preset: str, changes: str, seeds: int, out: Path) -> list[Run]:
    """Every requested run, seed by seed; the settings of each are validated."""
    runs = []
    for seed in range(seeds):
        for text, images, dataset, judge in asked:
            for one in parse_specs(text):
                settings = {
                    **budgeted(one.model, preset, images), **configure.parse(changes),
                    **one.settings, "train.seed": str(seed),
                }  # fmt: skip
                folder = out / f"{re.sub(r'[^A-Za-z0-9.]+', '-', one.label)}-{seed}"
                runs.append(Run(one, seed, dataset, judge, settings, folder))
                runs[-1].commands(preset)
    return runs


@main.default
def command(
    *,
    run: Annotated[list[Asked], RUN],
    preset: Annotated[str, means("preset of all systems")] = "demo",
    changes: Changes = "",
    seeds: Annotated[int, means("trainings of each system")] = 1,
    minutes: Annotated[float, means("time limit of all runs")] = 60.0,
    jobs: Annotated[int, means("runs at a time")] = os.cpu_count() or 1,
    title: Annotated[str, means("title of the report")] = "Models compared",
    out: Annotated[Path, means("output folder")],
) -> None:
    runs = planned(run, preset, changes, seeds, out)
    start, entries, failed = time.monotonic(), [], []
    end = start + 60 * minutes
    with ThreadPoolExecutor(jobs) as pool:
        made = pool.map(lambda one: one.go(preset, end), runs)
        for one, found in zip(runs, made, strict=True):
            at = f"{time.monotonic() - start:6.0f} s  {one.system.label} {one.seed}"
            if isinstance(found, str):
                failed.append(found)
                print(f"{at}  failed: {found}", flush=True)
                continue
            entries.append(found)
            facts = {k: round(v, 3) for k, v in show(found).items()}
            print(f"{at}  {json.dumps(facts)}", flush=True)
    if not entries:
        raise SystemExit("every system failed")
    write_json(out / "results.json", [[e.name, e.model.meta.seed, show(e)] for e in entries])
    write_bytes(out / "compare.html", report(entries, title, "", failed).encode())
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    cli.entry_point(main)

"""The whole pipeline killed in every step, with the same command again after each kill."""

import itertools
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from project import SMALL, clean_environment
from runs import weights

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]

STEPS = ("resolve", "pull", "validate", "preprocess", "unify-labels", "judge", "train",
         "evaluate", "register", "promote", "report-status")  # fmt: skip


def killed_in(step: str, folder: Path, environment: dict[str, str], alone: bool) -> bool:
    """Start the run and kill it within a second after a step has begun; whether it was reached.

    alone: only the runner is killed and its step goes on without it; otherwise all its processes.
    """
    process = psutil.Popen(
        [sys.executable, "-m", "pipelines", "run", *SMALL], cwd=folder, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    for line in process.stdout:
        if line.rstrip().endswith(f"] {step}"):
            time.sleep(random.Random(step).random())
            family = [] if alone else process.children(recursive=True)
            process.kill()
            for one in family:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            break
    process.stdout.close()
    return process.wait() == -signal.SIGKILL


def model(folder: Path) -> Path:
    """The newest manifest of the trained model in a folder."""
    return max(folder.glob("runs/kfp/*/train/out*"), key=lambda path: path.stat().st_mtime_ns)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of SQLAlchemy, caused by MLflow
def test_a_run_killed_in_every_step_ends_as_one_that_was_not(
    tmp_path: Path, drawn: Path, start_pipeline: Callable[..., str]
) -> None:
    """The same weights, one version, every MLflow run ended, nothing left in temporary folders."""
    from mlflow import MlflowClient

    calm, rough, scratch = (tmp_path / name for name in ("calm", "rough", "scratch"))
    for folder in (calm, rough):
        (folder / "raw").mkdir(parents=True)
        (folder / "raw" / "celeba").symlink_to(drawn)
    scratch.mkdir()
    start_pipeline(calm, *SMALL)

    environment = clean_environment({"TMPDIR": str(scratch)})
    alone = itertools.cycle([False, True])
    reached = [s for s in STEPS if killed_in(s, rough, environment, next(alone))]
    assert len(reached) >= len(STEPS) - 1  # report-status may end before it is killed
    start_pipeline(rough, *SMALL, environment={"TMPDIR": str(scratch)})

    assert weights(model(rough)) == weights(model(calm))
    api = MlflowClient(f"sqlite:///{rough / 'runs' / 'mlflow.db'}")
    (version,) = api.search_model_versions("name = 'stargan'")
    champion = api.get_model_version_by_alias("stargan", "champion")
    assert champion.version == version.version
    runs = api.search_runs([e.experiment_id for e in api.search_experiments()])
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED", "FAILED"}
    assert [path.name for path in scratch.iterdir()] == []
    assert {path.name for path in rough.iterdir()} == {"raw", "runs"}

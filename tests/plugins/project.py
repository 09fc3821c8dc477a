"""The project as users run it: genuine sample data, a DVC project, the pipeline's command."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from forks import Forks

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of genuine sample data beside the repository, which is never part of it."""
    default = ROOT.parent / "shared" / "data"
    path = Path(os.environ.get("SHARED_DATA", default))
    if not path.is_dir():
        pytest.skip(f"no genuine sample data at {path}; set SHARED_DATA")
    return path


def dvc(*arguments: str, cwd: Path) -> None:
    """Run DVC as a user does."""
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class Pushed:
    """The result of one real `dvc push` of a small `data` folder; tests use copies of it."""

    clone: Path
    remote: Path
    facts: tuple[str, int, int]  # md5, nfiles, size, as in data.dvc

    @staticmethod
    def again(work: Path, url: str) -> tuple[str, int, int]:
        """Draw, `dvc add` and `dvc push` to `url` in a new clone; what data.dvc says."""
        for number in range(12):
            path = work / "data" / ("celeba", "rafd")[number % 2] / f"{number:03d}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes([number]) * 3000)
        (work / "data" / "celeba" / "größe.txt").write_text("x")
        subprocess.run(["git", "init", "-q", str(work)], check=True)
        dvc("init", "-q", cwd=work)
        dvc("remote", "add", "-q", "-d", "storage", url, cwd=work)
        dvc("add", "-q", "data", cwd=work)
        dvc("push", "-q", cwd=work)
        lines = (work / "data.dvc").read_text().splitlines()[1:]
        facts = dict(line.strip("- ").split(": ") for line in lines)
        return facts["md5"], int(facts["nfiles"]), int(facts["size"])


@pytest.fixture(scope="session")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Pushed:
    folder = tmp_path_factory.mktemp("pushed")
    clone, remote = folder / "clone", folder / "remote"
    return Pushed(clone, remote, Pushed.again(clone, str(remote)))


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 drawn faces in CelebA's layout, drawn once for all workers. Read only; change a copy."""
    from training.data.synthetic.faces import draw_celeba

    folder = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        folder = folder.parent  # shared by the workers
    with FileLock(folder / "drawn.lock"):
        if not (folder / "drawn").is_dir():
            draw_celeba(folder / "drawn", 200, workers=1)
    return folder / "drawn"


# Settings of the smallest run that promotes a model.
SMALL = ["preset=smoke", "raw=raw/celeba", "data.size=32", "d_repeat_num=4", "train.images=160",
         "decay_images=80", "warmup_images=32", "log_images=64", "sample_images=160",
         "checkpoint_images=160", "judge.images=256"]  # fmt: skip
# Variables of the test process that a pipeline must not inherit.
OURS = ("STORE_URI", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "PIPELINE_RUN_ID")


def clean_environment(more: dict[str, str] | None) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in OURS} | (more or {})


@pytest.fixture(scope="session")
def start_pipeline() -> Callable[..., str]:
    """Run the pipeline in a folder, as a user does; gives its output."""

    def run(
        folder: Path, *pairs: str, code: int = 0, environment: dict[str, str] | None = None
    ) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pipelines", "run", *pairs],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=clean_environment(environment),
        )  # fmt: skip
        assert done.returncode == code, done.stdout[-6000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def run_pipeline(forks: Forks) -> Callable[..., str]:
    """The same with the program and each of its steps as forks: imports run once.

    `command`: another of `python -m pipelines`.
    """

    def run(
        folder: Path, *pairs: str, code: int = 0, environment: dict[str, str] | None = None,
        command: str = "run",
    ) -> str:  # fmt: skip
        line = [sys.executable, "-m", "pipelines", command, *pairs]
        found, output = forks.run(line, folder, clean_environment(environment))
        assert found == code, output[-6000:]
        return output

    return run


def heed_ctrl_c() -> None:
    """In a new process: Ctrl-C ends it, even if the tests were started where it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

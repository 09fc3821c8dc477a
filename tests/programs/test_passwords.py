"""No password of an address is in any output, log, page or file of a program."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from forks import Forks
from project import clean_environment

NOWHERE = "127.0.0.1:9"  # a port that nobody listens on
MLFLOW = {"MLFLOW_TRACKING_URI": f"http://bob:CANARYpw77@{NOWHERE}"}
QUICK = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "2", "S3_PATIENCE": "0",
    "DRAW_DEMO": "0",
}  # fmt: skip
PULL = ("training.data.pull", "--datasets", "celeba:celeba", "--md5", f"{'0' * 32}.dir",
        "--out", "raw.json")  # fmt: skip
PUSH = ("training.data", "push")
SHOW = ("training.release", "show", "stargan")
PROGRAMS = [
    (SHOW, MLFLOW),
    pytest.param(  # MLflow tries for a minute and a half
        SHOW, {"MLFLOW_TRACKING_URI": f"postgresql+psycopg2://bob:CANARYpw77@{NOWHERE}/x"},
        marks=pytest.mark.long,
    ),
    (SHOW, {"MLFLOW_TRACKING_URI": f"foo://bob:CANARYpw77@{NOWHERE}/x"}),
    (("training.tracking", "ui"), MLFLOW),
    (("training.tracking", "end"), MLFLOW),
    (PULL, {"DVC_REMOTE_URL": "s3://key:CANARYpw77@bucket/dvc"}),
    (PULL, {"DVC_REMOTE_URL": "https://key:CANARYpw77@host/dvc"}),
    (PULL, {"DVC_REMOTE_URL": "s3://b/dvc", "AWS_ENDPOINT_URL_S3": f"http://u:CANARYpw77@{NOWHERE}"}),
    (("training.backup", "save", ".", "s3://a", "s3://b"),
     {"AWS_ENDPOINT_URL_S3": f"http://u:CANARYpw77@{NOWHERE}"}),
    (("training.backup", "save", ".", "s3://u:CANARYpw77@a", "s3://b"), {}),
    (("training.data.validate", "raw.json", "--out", "o", "--report", "r"),
     {"STORE_URI": "s3://key:CANARYpw77@bucket/store"}),
    (("pipelines", "submit", "preset=smoke"),
     {"KF_PIPELINES_ENDPOINT": f"http://u:CANARYpw77@{NOWHERE}"}),
]  # fmt: skip


@pytest.mark.parametrize(("words", "variables"), PROGRAMS)
def test_a_program_that_fails_does_not_print_the_password(
    tmp_path: Path, forks: Forks, words: tuple[str, ...], variables: dict[str, str]
) -> None:
    (tmp_path / "x").write_text("x")
    environment = clean_environment({**QUICK, **variables})
    code, output = forks.run([sys.executable, "-m", *words], tmp_path, environment)
    assert code == (0 if "ui" in words else 2), output
    assert "CANARY" not in output
    assert "Traceback" not in output


def holding(folder: Path, text: bytes) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text in path.read_bytes()]


@pytest.mark.long
@pytest.mark.parametrize(
    "variables",
    [MLFLOW, {"STORE_URI": "s3://key:CANARYpw77@bucket/p"},
     {"DVC_REMOTE_URL": "s3://key:CANARYpw77@bucket/dvc"}],
)  # fmt: skip
def test_a_pipeline_that_fails_writes_the_password_nowhere(
    tmp_path: Path, run_pipeline: Callable[..., str], drawn: Path, variables: dict[str, str]
) -> None:
    """Not on the terminal, in a log, a report or a file that a step leaves."""
    raw = [] if "DVC_REMOTE_URL" in variables else [f"raw={drawn}"]
    out = run_pipeline(
        tmp_path, "preset=smoke", "datasets=celeba", "train.images=64", "decay_images=0",
        "warmup_images=0", "log_images=32", "sample_images=64", "checkpoint_images=64",
        "judge.images=256", "judge.batch=32", "eval.limit=8", "eval.bootstrap=50", *raw, code=1,
        environment={**QUICK, **variables},
    )  # fmt: skip
    assert "CANARY" not in out
    assert holding(tmp_path, b"CANARY") == []
    if variables is MLFLOW:
        assert "tracking: http://127.0.0.1:9 accepts no records" in out

"""Why a step failed, from the pod of the step to who follows the run: MLflow's tags of the run."""

import socket
from pathlib import Path

import pytest

from training.cluster.ending import end_run
from training.storage.attempts import attempt
from training.tracking import client, reasons
from training.tracking.client import TrackingError


def mistake() -> None:
    raise ValueError("labels.csv: row 3: 2 is neither 0 nor 1")


@pytest.fixture
def run(store: Path, tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A pipeline run on a cluster, with MLflow in a file."""
    path = tmp_path / "mlflow.db"
    path.write_bytes(empty_mlflow.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    for name, value in (
        ("PIPELINE_RUN_ID", "run-1"),
        ("POD_NAME", "pod"),
        ("PIPELINE_STEP", "pull"),
    ):
        monkeypatch.setenv(name, value)
    client.pipeline_run_id.cache_clear()
    return "run-1"


def test_the_reason_of_a_failed_step_is_read_by_who_follows_the_run(run: str) -> None:
    """Though nothing of the run was logged: its parent is made, and closed as failed."""
    with pytest.raises(SystemExit):
        attempt(mistake)
    end_run("FAILED", "faces", "local")
    assert reasons.read(run, "faces", "pull") == "labels.csv: row 3: 2 is neither 0 nor 1"
    assert reasons.read(run, "faces", "train") == ""
    assert reasons.read("run-2", "faces", "pull") == ""
    assert reasons.read(run, "other", "pull") == ""
    (parent,) = client.client().search_runs([client.experiment_id("faces")])
    assert parent.info.status == "FAILED"


def test_a_run_that_failed_without_a_reason_makes_no_record(run: str) -> None:
    end_run("FAILED", "faces", "local")
    assert reasons.read(run, "faces", "pull") == ""
    assert client.client().search_runs([client.experiment_id("faces")]) == []


def test_an_mlflow_that_does_not_answer_is_an_error_not_no_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In seconds: MLflow's own retries take minutes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setattr(reasons, "RETRIES", "0")
    with pytest.raises(TrackingError, match="start it and its storage"):
        reasons.read("run-1", "faces", "pull")

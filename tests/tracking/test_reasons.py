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


def nobody() -> str:
    """An address at which no server answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


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
    for name, experiment in (("run-2", "faces"), (run, "other")):
        with pytest.raises(ValueError, match="did not write to this MLflow whether"):
            reasons.read(name, experiment, "pull")
    (parent,) = client.client().search_runs([client.experiment_id("faces")])
    assert parent.info.status == "FAILED"


def test_no_reason_is_told_apart_from_a_last_step_that_did_not_look(run: str) -> None:
    """Neither can be taken for the other: a lost run is submitted again, a mistake is not."""
    with pytest.raises(ValueError, match="Report status, did not write"):
        reasons.read(run, "faces", "pull")
    end_run("FAILED", "faces", "local")
    assert reasons.read(run, "faces", "pull") == ""
    (parent,) = client.client().search_runs([client.experiment_id("faces")])
    assert parent.info.status == "FAILED"


def test_a_last_step_that_cannot_read_the_store_leaves_the_reason_unknown(
    run: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And closes the run in MLflow all the same."""
    with pytest.raises(SystemExit):
        attempt(mistake)
    parent = client.parent_run("faces")
    with monkeypatch.context() as during:
        for name, value in (
            ("STORE_URI", "s3://store"), ("AWS_ENDPOINT_URL_S3", nobody()), ("S3_PATIENCE", "0"),
            ("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s"),
        ):  # fmt: skip
            during.setenv(name, value)
        end_run("FAILED", "faces", "local")
    assert "error: the reasons of failed steps are not known: " in capsys.readouterr().out
    assert client.client().get_run(parent).info.status == "FAILED"
    with pytest.raises(ValueError, match="did not write"):
        reasons.read(run, "faces", "pull")


def test_an_mlflow_that_does_not_answer_is_an_error_not_no_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In seconds: MLflow's own retries take minutes."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nobody())
    monkeypatch.setattr(reasons, "RETRIES", "0")
    with pytest.raises(TrackingError, match="start it and its storage"):
        reasons.read("run-1", "faces", "pull")

"""The MLflow record of a training; no server failure can stop or slow a training."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests

import training.tracking.__main__
import training.tracking.tracker
from training.tracking import client as tracking
from training.tracking.journal import Journal
from training.tracking.tracker import Delivery, Tracker

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow leaves SQLite pools open
]


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store with its tables created (3 s), to be copied."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    tracking.mlflow().MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def workdir(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the default store, as one step of a pipeline run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIPELINE_RUN_ID", "run-1")
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.setenv(name, "2")  # restored afterwards, whatever the tracker sets
    tracking.pipeline_run_id.cache_clear()
    return tmp_path


def start(folder: Path, **more: Any) -> Tracker:
    return Tracker.start(
        "faces",
        "stargan demo",
        {"train.batch": 16, "long": "x" * 9000},
        {"seed": "0"},
        {"name": "celeba", "digest": "0517a8" * 5 + "01.dir", "source": "data"},
        folder=folder,
        **more,
    )


def history(run_id: str, key: str) -> list[tuple[int, float]]:
    points = tracking.client().get_metric_history(run_id, key)
    return sorted((p.step, p.value) for p in points)


def test_a_training_is_a_child_of_the_pipeline_run(workdir: Path) -> None:
    """Parameters, series, pictures over time, files and the data's digest arrive under a parent."""
    tracker = start(workdir / "t")
    for step in range(0, 3200, 16):
        tracker.metrics({"d/gp": step / 2, "lr": 1e-4}, step)
    tracker.image(np.full((8, 8, 3), 200, np.uint8), "samples/celeba", 1600)
    note = workdir / "config.json"
    note.write_text("{}")
    tracker.artifact(note, "resolved")
    note.unlink()
    assert tracker.close() == ""
    run = tracking.client().get_run(tracker.run_id)
    experiment = tracking.client().get_experiment(run.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    parent = run.data.tags[tracking.PARENT]
    assert parent == tracking.parent_run("faces")
    assert tracking.client().get_run(parent).data.tags["pipeline_run"] == "run-1"
    assert run.info.status == "FINISHED"
    assert run.data.params["train.batch"] == "16"
    assert [(s, s / 2) for s in range(0, 3200, 16)] == history(tracker.run_id, "d/gp")
    assert run.inputs.dataset_inputs[0].dataset.digest == "0517a8" * 5 + "01.dir"
    names = [f.path for f in tracking.client().list_artifacts(tracker.run_id, "images")]
    assert any("step" in n and "1600" in n and n.endswith(".png") for n in names)
    assert [f.path for f in tracking.client().list_artifacts(tracker.run_id, "resolved")] == [
        "resolved/config.json"
    ]
    assert not list((workdir / "t" / "files").iterdir())


def test_a_restarted_training_joins_its_run_and_records_no_step_twice(workdir: Path) -> None:
    first = start(workdir / "t")
    first.metrics({"loss": 3.0}, 16)
    first.metrics({"loss": 2.0}, 32)
    first.close("KILLED")
    second = start(workdir / "t")
    second.metrics({"loss": 2.5}, 32)
    second.metrics({"loss": 1.0}, 48)
    second.close()
    assert first.run_id == second.run_id != ""
    assert history(first.run_id, "loss") == [(16, 3.0), (32, 2.0), (48, 1.0)]
    assert tracking.client().get_run(first.run_id).info.status == "FINISHED"


def test_a_training_resumed_elsewhere_joins_the_run_it_is_given(workdir: Path) -> None:
    first = start(workdir / "a")
    first.close("KILLED")
    second = start(workdir / "b", run_id=first.run_id)
    second.metrics({"loss": 1.0}, 16)
    second.close()
    assert history(first.run_id, "loss") == [(16, 1.0)]


@pytest.mark.parametrize("fate", ["another server's", "thrown away"])
def test_a_training_given_a_missing_run_gets_its_own(workdir: Path, fate: str) -> None:
    given = "0" * 32
    if fate == "thrown away":
        first = start(workdir / "a")
        first.close()
        given = first.run_id
        tracking.client().delete_run(given)
    second = start(workdir / "b", run_id=given)
    second.metrics({"loss": 1.0}, 16)
    assert second.close() == ""
    assert second.run_id != given
    assert history(second.run_id, "loss") == [(16, 1.0)]
    assert tracking.client().get_run(second.run_id).data.params["train.batch"] == "16"


def test_two_steps_of_one_pipeline_run_share_a_parent_and_two_runs_do_not(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = tracking.parent_run("faces")
    assert one == tracking.parent_run("faces")
    monkeypatch.setenv("PIPELINE_RUN_ID", "run-2")
    tracking.pipeline_run_id.cache_clear()
    assert one != tracking.parent_run("faces")


def test_the_parent_is_closed_with_the_runs_state_and_never_created_for_it(workdir: Path) -> None:
    assert tracking.end_parent("FINISHED", "faces") == ""
    parent = tracking.parent_run("faces")
    assert tracking.end_parent("FAILED", "faces") == parent
    assert tracking.client().get_run(parent).info.status == "FAILED"


def test_further_seeds_are_children_of_the_injected_run(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = tracking.client()
    where = tracking.experiment_id("platform")
    parent = api.create_run(where).info.run_id
    step = api.create_run(where, tags={tracking.PARENT: parent}).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", step)
    tracker = start(workdir / "t", child=True)
    assert tracker.close() == ""
    assert tracker.run_id != step
    assert api.get_run(tracker.run_id).data.tags[tracking.PARENT] == step


def test_a_run_that_the_platform_injects_is_joined(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step's run is used and left open; register logs to its parent."""
    api = tracking.client()
    where = tracking.experiment_id("platform")
    parent = api.create_run(where).info.run_id
    step = api.create_run(where, tags={tracking.PARENT: parent}).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", step)
    tracker = start(workdir / "t")
    tracker.metrics({"loss": 1.0}, 16)
    assert tracker.close() == ""
    assert step == tracker.run_id
    assert api.get_run(step).info.status == "RUNNING"
    assert parent == tracking.parent_run("faces")
    assert tracking.end_parent("FINISHED", "faces") == ""
    assert api.get_run(parent).info.status == "RUNNING"


@pytest.mark.parametrize("run_id", ["0" * 32, "of/another form"])
def test_a_run_of_another_mlflow_is_not_joined(
    workdir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run_id: str,
) -> None:
    """As where Kubeflow's plug-in logs to another server: the pipeline has its own parent here."""
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    tracker = start(workdir / "t")
    tracker.metrics({"loss": 1.0}, 16)
    assert tracker.close() == ""
    parent = tracking.parent_run("faces")
    child = tracking.client().get_run(tracker.run_id)
    assert (child.data.tags[tracking.PARENT], child.info.status) == (parent, "FINISHED")
    assert f"has no run {run_id} (MLFLOW_RUN_ID)" in capsys.readouterr().err
    assert tracking.end_parent("FINISHED", "faces") == parent
    assert tracking.client().get_run(parent).info.status == "FINISHED"


def test_a_tracker_that_is_off_does_nothing(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    tracker = start(workdir / "t")
    tracker.metrics({"loss": 1.0}, 16)
    tracker.image(b"png", "samples", 16)
    tracker.artifact(workdir / "absent.json")
    assert tracker.close() == ""
    assert tracker.run_id == ""
    assert [p.name for p in workdir.iterdir()] == ["runs"]
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_URI=off"):
        tracking.client()


@pytest.fixture
def requesting(monkeypatch: pytest.MonkeyPatch) -> set[threading.Thread]:
    """The threads that have sent requests."""
    threads: set[threading.Thread] = set()
    send = requests.Session.send

    def recorded(*arguments: Any, **options: Any) -> requests.Response:
        threads.add(threading.current_thread())
        return send(*arguments, **options)

    monkeypatch.setattr(requests.Session, "send", recorded)
    return threads


def test_a_server_that_never_answers_costs_a_training_no_time(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    requesting: set[threading.Thread],
) -> None:  # fmt: skip
    """All requests are another thread's, and the report has the command to deliver them later."""
    with socket.socket() as silent:  # accepts connections, never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(training.tracking.tracker, "PATIENCE", 1.0)
        tracker = start(workdir / "t")
        for step in range(1000):
            tracker.metrics({"loss": 1.0, "lr": 0.1}, step)
        report = tracker.close()
    assert requesting
    assert threading.current_thread() not in requesting
    assert "1001 records did not reach" in report
    assert f"deliver {workdir / 't'}" in report
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    training.tracking.__main__.main(["deliver", str(workdir / "t")])
    assert "all records were delivered" in capsys.readouterr().out
    run_id = json.loads((workdir / "t" / "run.json").read_text())["run_id"]
    assert len(history(run_id, "loss")) == 1000


def test_deliver_leaves_a_running_training_alone(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two senders made two runs of it, and the second lost the pictures that the first deleted."""
    monkeypatch.setattr(training.tracking.__main__, "WAIT", 0.1)
    tracker = start(workdir / "t")
    with pytest.raises(ValueError, match="the training still runs and sends its records itself"):
        training.tracking.__main__.deliver(workdir / "t")
    tracker.image(np.zeros((4, 4, 3), np.uint8), "samples", 16)
    assert tracker.close() == ""
    assert "all records were delivered" in training.tracking.__main__.deliver(workdir / "t")
    parent = tracking.client().get_run(tracker.run_id).data.tags[tracking.PARENT]
    experiment = tracking.client().get_run(parent).info.experiment_id
    runs = {run.info.run_id for run in tracking.client().search_runs([experiment])}
    assert runs == {parent, tracker.run_id}


def test_a_training_waits_for_deliver(workdir: Path) -> None:
    """It then knows the run that `deliver` made, and records into it."""
    start(workdir / "t").close("KILLED")
    sending = Journal(workdir / "t")
    threading.Timer(0.5, sending.close).start()
    begin = time.monotonic()
    tracker = start(workdir / "t")
    assert time.monotonic() - begin >= 0.4
    tracker.metrics({"loss": 1.0}, 16)
    assert tracker.close() == ""
    assert history(tracker.run_id, "loss") == [(16, 1.0)]


def test_records_wait_while_permission_is_denied(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's permission may be set too late, or be taken away for an hour."""
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

    monkeypatch.setattr(training.tracking.tracker, "INTERVAL", 0.05)
    denied = tracking.mlflow().exceptions.MlflowException(
        "Permission denied", error_code=PERMISSION_DENIED
    )
    send, refused = Delivery._send, threading.Event()

    def deny(delivery: Delivery, records: list[dict[str, Any]]) -> None:
        if not refused.is_set():
            refused.set()
            raise denied
        send(delivery, records)

    monkeypatch.setattr(Delivery, "_send", deny)
    tracker = start(workdir / "t")
    tracker.metrics({"loss": 1.0}, 16)
    assert tracker.close() == ""
    assert refused.is_set()
    assert history(tracker.run_id, "loss") == [(16, 1.0)]


def test_refused_records_do_not_block_the_rest(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = start(workdir / "t")
    tracker.metrics({"": 1.0}, 16)
    tracker.image(np.zeros((4, 4, 3), np.uint8), "samples", 16)
    tracker.metrics({"loss": 1.0}, 16)
    assert "1 records were refused" in tracker.close()
    assert history(tracker.run_id, "loss") == [(16, 1.0)]


def test_a_digest_longer_than_mlflow_takes_is_refused_or_cut(workdir: Path) -> None:
    run_id = tracking.parent_run("faces")
    tracking.log_dataset(run_id, "celeba", "f" * 64, "data")
    digest = tracking.client().get_run(run_id).inputs.dataset_inputs[0].dataset.digest
    assert digest == "f" * 36


def test_a_line_torn_by_a_kill_is_dropped_and_the_rest_delivered(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add({"kind": "metrics", "step": 1, "time": 7, "values": {"loss": 1.0}})
    with journal.path.open("a") as stream:
        stream.write('{"kind": "metr')
    journal.close()  # as the end of its process does
    again = Journal(tmp_path)
    again.add({"kind": "metrics", "step": 2, "time": 8, "values": {"loss": 2.0}})
    assert [record["step"] for _, record in again.pending()] == [1, 2]
    again.delivered(again.pending(1)[0][0], [])
    again.close()
    assert [record["step"] for _, record in Journal(tmp_path).pending()] == [2]


@pytest.mark.server
@pytest.mark.slow
def test_a_server_killed_during_a_training_gets_everything_when_it_is_back(
    workdir: Path, mlflow_server: Any, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], requesting: set[threading.Thread],
) -> None:  # fmt: skip
    """It is back after a request has failed; all requests are another thread's."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    monkeypatch.setattr(training.tracking.tracker, "INTERVAL", 0.1)
    monkeypatch.setattr(training.tracking.tracker, "BACKOFF", 1.0)
    tracker = start(workdir / "t")
    tracker.metrics({"loss": 0.0}, 0)
    for _ in range(300):
        if tracker.run_id and history(tracker.run_id, "loss"):
            break
        time.sleep(0.1)
    mlflow_server.kill()
    requesting.clear()  # of this thread, which asked for the history
    for step in range(1, 200):
        tracker.metrics({"loss": float(step)}, step)
    tracker.image(np.zeros((8, 8, 3), np.uint8), "samples", 199)
    while "accepts no records" not in capsys.readouterr().err:
        time.sleep(0.1)
    assert requesting
    assert threading.current_thread() not in requesting
    mlflow_server.start()
    assert tracker.close() == ""
    assert [(s, float(s)) for s in range(200)] == history(tracker.run_id, "loss")
    assert tracking.client().list_artifacts(tracker.run_id, "images")


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.long
def test_the_pages_are_served_without_the_database_in_the_process_list(workdir: Path) -> None:
    """`make ui`: its address may have a password."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (workdir / "runs" / "mlflow.db").unlink()  # it is made first
    environment = {**os.environ, "MLFLOW_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-m", "training.tracking", "ui"], env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        for _ in range(600):
            try:
                found = requests.post(
                    f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search",
                    json={"max_results": 9}, timeout=5,
                )  # fmt: skip
                break
            except requests.ConnectionError:
                time.sleep(0.2)
        assert [each["name"] for each in found.json()["experiments"]] == ["Default"]
        started = psutil.Process(process.pid).children(recursive=True)
        assert started
        assert not [one for one in started if "mlflow.db" in " ".join(one.cmdline())]
    finally:
        os.killpg(process.pid, 9)
        process.wait()

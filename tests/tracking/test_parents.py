"""After a kill, no parent run stays RUNNING in MLflow; others' live runs are left alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from training.tracking import client as tracking
from training.tracking import runners

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow leaves SQLite pools open
]
RUNNER = """
import os, subprocess, sys, time
from training.tracking import runners
os.environ["PIPELINE_RUNNER"] = runners.this()
print(subprocess.run([sys.executable, "-W", "ignore", "-c", '''{step}'''],
                     capture_output=True, text=True, check=True).stdout, end="", flush=True)
time.sleep(120)
"""
STEP = """
import os
from pathlib import Path
from training.tracking.tracker import Tracker
folder = Path(os.environ["PIPELINE_RUN_ID"])
tracker = Tracker.start("faces", "stargan", {}, {}, {}, folder=folder)
tracker.metrics({"loss": 1.0}, 16)
tracker._delivery.finish()
print(tracker.run_id)
"""


@pytest.fixture(autouse=True)
def workdir(empty_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_mlflow, tmp_path / "runs" / "mlflow.db")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "PIPELINE_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    tracking.pipeline_run_id.cache_clear()
    return tmp_path


def as_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a step of pipeline run `name`, which this process runs."""
    monkeypatch.setenv("PIPELINE_RUN_ID", name)
    monkeypatch.setenv("PIPELINE_RUNNER", runners.this())
    tracking.pipeline_run_id.cache_clear()


def begin(name: str) -> tuple["subprocess.Popen[str]", str, str]:
    """A runner in a process, whose training step has recorded; its child's and parent's ids."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER.format(step=STEP)], text=True, stdout=subprocess.PIPE,
        env={**os.environ, "PIPELINE_RUN_ID": name},
    )  # fmt: skip
    assert process.stdout
    child = process.stdout.readline().strip()
    return process, child, tracking.client().get_run(child).data.tags[tracking.PARENT]


def kill(process: "subprocess.Popen[str]") -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def status(run_id: str) -> str:
    return str(tracking.client().get_run(run_id).info.status)


def test_the_next_run_closes_the_parent_of_a_killed_one_and_not_a_live_one(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, _, dead = begin("run-1")
    living, _, alive = begin("run-2")
    assert (status(dead), status(alive)) == ("RUNNING", "RUNNING")
    kill(killed)
    as_run("run-3", monkeypatch)
    own = tracking.parent_run("faces")
    assert (status(dead), status(alive), status(own)) == ("KILLED", "RUNNING", "RUNNING")
    assert tracking.end_parent("FINISHED", "faces") == own
    assert (status(dead), status(alive), status(own)) == ("KILLED", "RUNNING", "FINISHED")
    kill(living)


def test_a_run_that_takes_all_from_the_cache_after_a_kill_closes_it_and_has_its_own_parent(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, _, dead = begin("run-1")
    kill(killed)
    as_run("run-2", monkeypatch)
    own = tracking.end_parent("FINISHED", "faces")
    assert (status(dead), status(own)) == ("KILLED", "FINISHED")
    assert own != dead
    as_run("run-3", monkeypatch)  # nothing is left to close, so that it logs nothing
    assert tracking.end_parent("FINISHED", "faces") == ""


def test_a_training_resumed_after_a_kill_is_a_child_of_the_new_run(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.tracking.tracker import Tracker

    killed, child, dead = begin("run-1")
    kill(killed)
    as_run("run-2", monkeypatch)
    tracker = Tracker.start("faces", "stargan", {}, {}, {}, folder=workdir / "run-1")
    tracker.metrics({"loss": 0.5}, 32)
    assert tracker.close() == ""
    assert tracker.run_id == child
    own = tracking.end_parent("FINISHED", "faces")
    assert tracking.client().get_run(child).data.tags[tracking.PARENT] == own != dead
    assert (status(child), status(own), status(dead)) == ("FINISHED", "FINISHED", "KILLED")


@pytest.mark.parametrize("change", ["host", "namespace"])
def test_another_hosts_or_containers_run_is_left_alone(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    killed, _, dead = begin("run-1")
    kill(killed)
    note = workdir / "runs" / "parents" / "run-1.json"
    stored = json.loads(note.read_text())
    host, namespace, *rest = stored["runner"].split()
    if change == "host":
        host = f"not-{host}"
    else:
        namespace = "pid:[1]"
    note.write_text(json.dumps({**stored, "runner": " ".join([host, namespace, *rest])}))
    as_run("run-2", monkeypatch)
    tracking.parent_run("faces")
    assert status(dead) == "RUNNING"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"experiment": "faces"}', "null"])
def test_a_damaged_note_or_one_of_before_changes_nothing(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    (workdir / "runs" / "parents").mkdir()
    (workdir / "runs" / "parents" / "x.json").write_text(content)
    as_run("run-2", monkeypatch)
    assert tracking.end_parent("FINISHED", "faces") == ""
    own = tracking.parent_run("faces")
    assert tracking.end_parent("FINISHED", "faces") == own


def test_a_program_outside_a_pipeline_closes_its_parent_with_its_training(workdir: Path) -> None:
    from training.tracking.tracker import Tracker

    tracker = Tracker.start("faces", "stargan", {}, {}, {}, folder=workdir / "t")
    tracker.metrics({"loss": 0.5}, 32)
    assert tracker.close("FAILED") == ""
    parent = tracking.client().get_run(tracker.run_id).data.tags[tracking.PARENT]
    assert (status(tracker.run_id), status(parent)) == ("FAILED", "FAILED")
    assert not list((workdir / "runs" / "parents").iterdir())


@pytest.mark.parametrize(
    ("child", "expected"),
    [("", "FINISHED"), ("FINISHED", "FINISHED"), ("KILLED", "KILLED"), ("RUNNING", "RUNNING")],
)
def test_the_parent_of_a_program_that_ended_is_closed_as_its_trainings_were(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, child: str, expected: str
) -> None:
    code = "from training.tracking import client; print(client.parent_run('faces'))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    parent, api = done.stdout.strip(), tracking.client()
    if child:
        run = api.create_run(tracking.experiment_id("faces"), tags={tracking.PARENT: parent})
        api.update_run(run.info.run_id, status=child)
    as_run("run-2", monkeypatch)
    tracking.parent_run("faces")
    assert status(parent) == expected


def test_a_process_is_ended_only_if_it_is_known_to_be() -> None:
    own = runners.this()
    assert not runners.ended(own)
    host, namespace, pid, started = own.split()
    assert runners.ended(f"{host} {namespace} {pid} {float(started) - 1000}")  # an earlier one's id
    assert not runners.ended(f"{host} {namespace} {pid} {float(started) + 1}")  # the clock moved
    assert not runners.ended("")
    assert not runners.ended("nonsense")

"""Following a run: answers of a real Kubeflow server, and what is told of them."""

import os
import pty
import re
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from kfpruns import recorded
from pipelines import compiled, follow, submit

STEPS = compiled.steps()


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The recorded times are told as they are."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def told(name: str) -> tuple[Any, list[str]]:
    """A recorded run as it ended, and the lines told meanwhile."""
    lines: list[str] = []
    return submit.follow(iter(recorded(name)).__next__, lines.append, STEPS, every=0), lines


def ended(name: str, why: str | ValueError = "") -> tuple[list[str], bool]:
    """The last lines of a recorded run, each after its label, and whether it was lost."""

    def reason(step: str) -> str:
        if isinstance(why, ValueError):
            raise why
        return why

    lines, lost = submit.end(told(name)[0], STEPS, reason)
    return lines[lines.index("", 1) + 1 :], lost


def test_the_steps_are_in_the_order_of_the_run() -> None:
    """With the names that the pipeline gives them; loops and the exit handler's group are none."""
    assert list(STEPS) == [
        "resolve", "pull", "validate", "preprocess", "unify-labels", "judge", "train", "evaluate",
        "register", "promote", "report-status",
    ]  # fmt: skip
    assert list(compiled.steps(compiled.PARTS)) == [
        *list(STEPS)[:3], "preprocess-plan", "preprocess-part", *list(STEPS)[3:]
    ]  # fmt: skip
    assert STEPS["unify-labels"] == "Unify labels"


def test_each_change_of_a_step_is_one_line_and_no_other_node_is_told() -> None:
    """26 answers: 11 steps, of which five come from the cache and six are seen to run and end."""
    assert told("sequence")[1] == [
        "19:08:23  Resolve configuration    running",
        "19:08:33  Resolve configuration    succeeded in 10 s",
        "19:08:43  Pull raw data            from the cache",
        "19:08:53  Validate raw data        from the cache",
        "19:09:03  Preprocess images        from the cache",
        "19:09:13  Unify labels             from the cache",
        "19:09:23  Train judge              from the cache",
        "19:09:33  Train model              running",
        "19:10:21  Train model              succeeded in 48 s",
        "19:10:31  Evaluate model           running",
        "19:10:52  Evaluate model           succeeded in 21 s",
        "19:11:02  Register version         running",
        "19:11:34  Register version         succeeded in 32 s",
        "19:11:44  Promote through the gate running",
        "19:12:21  Promote through the gate succeeded in 37 s",
        "19:12:31  Report status            running",
        "19:12:41  Report status            succeeded in 10 s",
    ]


def test_a_step_that_ran_is_not_told_as_from_the_cache() -> None:
    lines = told("succeeded")[1]
    assert len(lines) == 11
    assert not [line for line in lines if "cache" in line]


def test_the_end_has_the_duration_of_each_step() -> None:
    lines, lost = submit.end(told("from-cache")[0], STEPS, lambda step: "")
    assert (lines[-1], lost) == ("run       succeeded in 2 min 52 s", False)
    rows = dict(
        re.fullmatch(r"  (.{24}) (.+)", line).groups() for line in lines if line[:2] == "  "
    )  # type: ignore[union-attr]
    assert [name.strip() for name in rows] == list(STEPS.values())
    assert {name.strip(): text for name, text in rows.items() if "cache" not in text} == {
        "Resolve configuration": "10 s", "Register version": "10 s",
        "Promote through the gate": "10 s", "Report status": "11 s",
    }  # fmt: skip


def test_a_loops_step_is_told_by_number_and_its_duration_once() -> None:
    """No loop was recorded: three nodes of one name, as in the recorded form."""
    (run,) = recorded("succeeded")
    nodes = run.run_details.task_details
    (part,) = [node for node in nodes if node.display_name == "preprocess"]
    for other in [node for node in nodes if node.display_name in ("validate", "unify-labels")]:
        other.display_name = "preprocess"
    assert [t.title for t in follow.tasks(run, STEPS) if t.name == "preprocess"] == [
        "Preprocess images", "Preprocess images 2", "Preprocess images 3",
    ]  # fmt: skip
    assert "  Preprocess images        1 min 0 s, 3 times" in follow.durations(run, STEPS)
    assert part.display_name == "preprocess"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1 min 0 s"), (294, "4 min 54 s"), (7200, "2 h 0 min"), (97_200, "1 d 3 h"),
     (-3, "0 s")],
)  # fmt: skip
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert follow.lasted(timedelta(seconds=seconds)) == text


def test_a_failed_step_is_named_with_the_reason_that_it_left_and_the_fix() -> None:
    lines, lost = ended("failed-by-mistake", "unknown preset 'dome'; known: demo")
    assert lines == [
        "run       failed after 1 min 0 s",
        "failed    Resolve configuration (resolve): unknown preset 'dome'; known: demo",
        "fix       correct this, then run the same command: what is done comes from the cache",
    ]
    assert not lost


def test_a_step_that_left_no_reason_is_lost() -> None:
    """A pod that was deleted: the server's answer has the same form as a mistake's."""
    lines, lost = ended("pod-deleted")
    assert lost
    assert lines[1].startswith("failed    Train model (train): it left no reason: its pod was del")
    assert lines[2].startswith("fix       run the same command again, --resubmit N")


def test_a_run_that_somebody_ended_is_not_lost() -> None:
    """KFP calls it failed; only its history has CANCELING."""
    run, _ = told("terminated")
    assert run.state == "FAILED"
    lines, lost = ended("terminated")
    assert lines[1] == "ended     by a user or the platform during Train model"
    assert not lost
    run.state_history = [one for one in run.state_history if one.state != "CANCELING"]
    assert submit.end(run, STEPS, lambda step: "")[1]


def test_a_reason_that_cannot_be_asked_for_is_not_taken_for_none() -> None:
    lines, lost = ended("pod-deleted", ValueError("set MLFLOW_TRACKING_URI"))
    assert not lost
    assert "the reason is not known here" in lines[1]
    assert "/#/runs/details/" in lines[2]
    assert lines[2].endswith("set MLFLOW_TRACKING_URI")


def test_a_failed_driver_counts_as_its_step() -> None:
    """Of a step that did not begin; a run in which no step failed is not lost."""
    (run,) = recorded("pod-deleted")
    for node in run.run_details.task_details:
        if node.display_name == "train":
            node.state = None
        if node.display_name == "train-driver":
            node.state = "FAILED"
    assert [(one.name, one.title) for one in follow.failures(run, STEPS)] == [
        ("train", "Train model, its driver")
    ]
    for node in run.run_details.task_details:
        if node.display_name == "train-driver":
            node.state = "SUCCEEDED"
    lines, lost = submit.end(run, STEPS, lambda step: "")
    assert not lost
    assert lines[-1].startswith("failed    no step failed; see ")


def test_the_progress_stays_at_the_bottom_of_a_terminal() -> None:
    """A real terminal: the recorded sequence's lines, each above the progress of that moment."""
    code = (
        "import sys; sys.path.insert(0, 'tests/plugins')\n"
        "from kfpruns import recorded; from pipelines import compiled, submit\n"
        "t = submit.Terminal()\n"
        "submit.follow(iter(recorded('sequence')).__next__, t.line, compiled.steps(), every=0.01,"
        " progress=t.progress)\n"
        "t.close()\n"
    )
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    with subprocess.Popen([sys.executable, "-c", code], stdout=theirs, stderr=subprocess.PIPE,
                          cwd=compiled.PACKAGE.parents[1],
                          env={**os.environ, "COLUMNS": "100"}) as process:  # fmt: skip
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65_536)
            except OSError:  # Linux: the other side is closed
                break
            if not part:
                break
            shown += part
        assert process.stderr
        assert process.stderr.read() == b""
    os.close(ours)
    rows = [
        row.rpartition("\r")[2].strip() for row in shown.decode().replace("\r\n", "\n").split("\n")
    ]
    assert rows[:17] == told("sequence")[1]
    assert rows[17:] == [""]  # the progress is removed at the end
    at = re.findall(r"\r(\d+ of 11 steps done; [^\r\n]*)", shown.decode())
    assert any(line.startswith("6 of 11 steps done; Train model ") for line in at)

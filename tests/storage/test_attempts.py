"""A mistake of the user ends a step at once, in every attempt of a pipeline run."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.core.retry import may_pass
from training.inference.weights import CheckpointError
from training.storage.attempts import attempt, failures
from training.storage.s3 import UnreachableError
from training.tracking.client import TrackingError

calls: list[dict[str, Any]] = []


def failing(error: Exception) -> Callable[..., None]:
    """A step that fails."""

    def step(**given: Any) -> None:
        calls.append(given)
        raise error

    return step


@pytest.fixture
def run(store: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Attempt the step `failing` in a pipeline run; the exit code and what was printed."""
    calls.clear()

    def run(capsys: pytest.CaptureFixture[str], name: str = "run-1", **given: Any) -> str:
        monkeypatch.setenv("PIPELINE_RUN_ID", name)
        with pytest.raises(SystemExit) as ended:
            attempt(failing(ValueError("row 3: 2")), **given)
        return f"{ended.value.code} {capsys.readouterr().err}"

    return run


def test_a_second_attempt_ends_at_once_with_the_same_line(
    run: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """And says that a correction needs a new run."""
    assert run(capsys, size=100) == "2 error: row 3: 2\n"
    again = run(capsys, size=100)
    assert again.startswith("2 error: row 3: 2\n")
    assert "after a correction, start a new run" in again
    assert len(calls) == 1


def test_another_run_other_inputs_or_a_changed_file_are_tried(
    run: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "table.csv"
    path.write_text("1")
    run(capsys, table=path)
    run(capsys, "run-2", table=path)
    run(capsys, table=path, size=64)
    path.write_text("2")
    run(capsys, table=path)
    assert len(calls) == 4
    run(capsys, table=path)
    assert len(calls) == 4


def test_outside_a_pipeline_run_nothing_is_kept(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIPELINE_RUN_ID", raising=False)
    for _ in range(2):
        with pytest.raises(SystemExit):
            attempt(failing(ValueError("x")))
    assert not (store / "refs").exists()


def test_an_error_that_may_pass_is_one_line_with_exit_code_1_and_not_kept(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIPELINE_RUN_ID", "run-1")
    for error in (OSError(28, "full"), ConnectionError("cut"), TrackingError("down")):
        with pytest.raises(SystemExit) as ended:
            attempt(failing(error))
        assert ended.value.code == 1
        assert re.fullmatch(r"error: .*(full|cut|down).*\n", capsys.readouterr().err)
    assert not (store / "refs").exists()


def test_an_unexpected_error_is_raised_and_not_kept(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_RUN_ID", "run-1")
    with pytest.raises(KeyError):
        attempt(failing(KeyError("x")))
    assert not (store / "refs").exists()


def test_a_store_that_takes_nothing_does_not_hide_the_mistake(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "refs").write_text("")
    monkeypatch.setenv("STORE_URI", f"file://{tmp_path}")
    monkeypatch.setenv("PIPELINE_RUN_ID", "run-1")
    with pytest.raises(SystemExit):
        attempt(failing(ValueError("row 3: 2")))
    err = capsys.readouterr().err
    assert err.startswith("error: row 3: 2\n")
    assert "the store does not take this refusal" in err


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ValueError("2"), False), (FileNotFoundError(2, "no"), False), (OSError(28, "full"), True),
        (TimeoutError(), True), (UnreachableError("s3"), True), (CheckpointError("x"), False),
    ],
)  # fmt: skip
def test_which_errors_may_pass(error: Exception, passes: bool) -> None:
    """Also as the cause of an error that explains it."""
    assert may_pass(error) is passes
    explained = ValueError("explained")
    explained.__cause__ = error
    assert may_pass(explained) is passes


def test_a_training_process_passes_its_mistake_to_the_launcher(
    store: Path, tmp_path: Path, classes: Path
) -> None:
    """Through torchrun, which ends with an exit code of its own."""
    from training.core.config import TrainConfig, to_json
    from training.launch import launch
    from training.models import MODELS

    config = to_json(MODELS["attgan"](layers=9))
    with pytest.raises(ValueError, match="size=16: a multiple of 512") as caught:
        launch(classes, tmp_path / "out.json", "attgan", config, to_json(TrainConfig(images=16)),
               experiment="")  # fmt: skip
    assert not may_pass(caught.value)


def fail_in_a_pod(monkeypatch: pytest.MonkeyPatch, step: str, pod: str, error: Exception) -> None:
    monkeypatch.setenv("PIPELINE_RUN_ID", "run-1")
    monkeypatch.setenv("PIPELINE_STEP", step)
    monkeypatch.setenv("POD_NAME", pod)
    with pytest.raises((SystemExit, type(error))):
        attempt(failing(error))


def test_a_failed_pod_leaves_its_reason_whatever_the_error(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By step, that of the last pod; of this run only."""
    fail_in_a_pod(monkeypatch, "pull", "pull-1", ConnectionError("cut"))
    fail_in_a_pod(monkeypatch, "pull", "pull-2", ConnectionError("cut again"))
    fail_in_a_pod(monkeypatch, "train", "train-1", KeyError("x"))
    fail_in_a_pod(monkeypatch, "judge", "judge-1", ValueError("row 3: 2"))
    assert failures("run-1") == {
        "pull": "cut again", "train": "KeyError: 'x'", "judge": "row 3: 2",
    }  # fmt: skip
    assert failures("run-2") == {}


def test_a_step_that_is_stopped_leaves_no_reason(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pod is deleted, or the run is ended."""
    monkeypatch.setenv("PIPELINE_RUN_ID", "run-1")
    monkeypatch.setenv("POD_NAME", "train-1")

    def stop() -> None:
        raise SystemExit(143)

    with pytest.raises(SystemExit):
        attempt(stop)
    assert failures("run-1") == {}


def test_a_further_attempt_takes_back_the_reason_and_may_be_lost_without_one(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pod is deleted: the first attempt's reason is not why the run failed."""
    fail_in_a_pod(monkeypatch, "pull", "pull-1", ConnectionError("cut"))
    monkeypatch.setenv("POD_NAME", "pull-2")

    def stop() -> None:
        raise SystemExit(143)

    stop.__qualname__ = failing(ValueError()).__qualname__  # the same step
    with pytest.raises(SystemExit):
        attempt(stop)
    assert failures("run-1") == {}
    fail_in_a_pod(monkeypatch, "pull", "pull-3", ConnectionError("cut again"))
    assert failures("run-1") == {"pull": "cut again"}


def test_another_part_of_a_loop_takes_back_no_reason(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_in_a_pod(monkeypatch, "part", "part-1", ConnectionError("cut"))
    monkeypatch.setenv("POD_NAME", "part-2")

    def step(item: int) -> None:
        return None

    step.__qualname__ = failing(ValueError()).__qualname__
    attempt(step, 2)
    assert failures("run-1") == {"part": "cut"}


def test_a_mistake_that_is_not_tried_again_keeps_its_reason(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_in_a_pod(monkeypatch, "judge", "judge-1", ValueError("row 3: 2"))
    fail_in_a_pod(monkeypatch, "judge", "judge-2", ValueError("row 3: 2"))
    assert failures("run-1") == {"judge": "row 3: 2"}

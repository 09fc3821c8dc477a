"""Submit the compiled pipeline and follow the run to its end.

`kfp run submit` submits the run; its own `--watch` exits 0 if the run fails, names no task and
never ends for a run that is stopped, so the run is followed here.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from tenacity import RetryCallState

from training.core import environment
from training.core.retry import retrying
from training.core.shown import shown
from training.tracking.links import kubeflow

ENDED = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
EVERY = 5.0  # s between polls
PATIENCE = 600.0  # s that an API server may be unavailable


def submit(command: list[str]) -> str:
    """Run a `kfp run submit …` command; returns the run's id.

    Raises ValueError with the program's output if it fails or prints no id.
    """
    # Not the script `kfp`: its first line is read by a shell if the path has a space.
    start = "from kfp.cli.__main__ import main; main()"
    tool = [sys.executable, "-c", start, "--output", "json"]
    result = subprocess.run([*tool, *command[1:]], check=False, capture_output=True, text=True)
    output = (result.stderr + result.stdout).strip()
    if result.returncode:
        last = output.splitlines()[-1] if output else "it printed nothing"
        raise ValueError(
            f"kfp ended with exit code {result.returncode}: {shown(last)}; "
            f"is KF_PIPELINES_ENDPOINT ({shown(kubeflow()) or 'not set'}) right?"
        )
    try:
        return str(json.loads(result.stdout[result.stdout.index("{") :])["run_id"])
    except (ValueError, KeyError) as error:
        raise ValueError(f"kfp printed no run id: {shown(output)[-500:]}") from error


def follow(
    get_run: Callable[[], Any],
    report: Callable[[str], None],
    *,
    every: float = EVERY,
    patience: float = PATIENCE,
) -> bool:
    """Poll a run until it ends and report each task's changes of state; whether it succeeded.

    `get_run` returns a V2beta1Run. While the server is unavailable, requests are retried for
    `patience` seconds, then its error is raised; permanent errors (400, 401, 403, 404) are raised
    at once.
    """
    import urllib3
    from kfp_server_api import ApiException

    away = (ApiException, urllib3.exceptions.HTTPError, OSError)

    def transient(error: BaseException) -> bool:
        final = getattr(error, "status", None) in (400, 401, 403, 404)
        return isinstance(error, away) and not final

    def failed(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        report(f"the server does not answer ({type(error).__name__}); retrying")

    known: dict[str, str] = {}
    while True:
        retry = retrying(transient, lambda: patience, first=every, most=every, failed=failed)
        run = retry(get_run)
        for task in _tasks(run):
            if known.get(task.display_name) != task.state:
                known[task.display_name] = task.state
                report(f"{task.display_name}: {task.state}")
        if run.state in ENDED:
            report(f"run {run.state}")
            for task in _tasks(run):
                if task.state == "FAILED":
                    report(f"failed: {task.display_name}{_reason(task)}")
            if run.error and run.error.message:
                report(f"reason: {run.error.message}")
            return run.state in ("SUCCEEDED", "SKIPPED")
        time.sleep(every)


def _tasks(run: Any) -> list[Any]:
    details = run.run_details.task_details if run.run_details else None
    return [task for task in details or [] if task.display_name and task.state]


def _reason(task: Any) -> str:
    return f": {task.error.message}" if task.error and task.error.message else ""


def wait(run_id: str) -> int:
    """Follow a submitted run on the terminal; 0 if it succeeded, else 1."""
    from kfp import Client

    client = Client(host=environment.KF_PIPELINES_ENDPOINT.get() or None)

    def report(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    return 0 if follow(lambda: client.get_run(run_id), report) else 1

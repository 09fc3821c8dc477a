"""Submit the compiled pipeline and follow the run to its end.

The real `kfp run submit` hands the run in; its own `--watch` exits 0 when the run fails, names no
task and never ends for a run that somebody stops, so following is done here.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tenacity import RetryCallState

from training.core import environment
from training.core.retry import retrying

ENDED = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
EVERY = 5.0  # s between looks
PATIENCE = 600.0  # s that an API server may be away


def submit(command: list[str]) -> str:
    """Run a `kfp run submit …` line; returns the run's id.

    Raises ValueError with the program's own words where it ends badly or gives no id.
    """
    tool = str(Path(sys.executable).with_name(command[0]))
    done = subprocess.run(
        [tool, "--output", "json", *command[1:]], check=False, capture_output=True, text=True
    )
    said = (done.stderr + done.stdout).strip()
    if done.returncode:
        last = said.splitlines()[-1] if said else "it said nothing"
        raise ValueError(
            f"kfp ended with exit code {done.returncode}: {last}; "
            f"is KF_PIPELINES_ENDPOINT ({endpoint() or 'not set'}) right?"
        )
    try:
        return str(json.loads(done.stdout[done.stdout.index("{") :])["run_id"])
    except (ValueError, KeyError) as error:
        raise ValueError(f"kfp named no run: {said[-500:]}") from error


def endpoint() -> str:
    """Where people look at runs: the UI's address, or the API's."""
    return environment.KF_PIPELINES_UI_ENDPOINT.get() or environment.KF_PIPELINES_ENDPOINT.get()


def link(run_id: str) -> str:
    """The run's page."""
    return f"{endpoint().rstrip('/')}/#/runs/details/{run_id}"


def follow(
    look: Callable[[], Any],
    tell: Callable[[str], None],
    *,
    every: float = EVERY,
    patience: float = PATIENCE,
) -> bool:
    """Look at a run until it ends, telling each change of a task; whether it succeeded.

    `look` returns a V2beta1Run. A server that is away is asked again for `patience` seconds, then
    its error is raised; an answer that asking again cannot change (401, 403, 404) at once.
    """
    import urllib3
    from kfp_server_api import ApiException

    away = (ApiException, urllib3.exceptions.HTTPError, OSError)

    def transient(error: BaseException) -> bool:
        final = getattr(error, "status", None) in (400, 401, 403, 404)
        return isinstance(error, away) and not final

    def failed(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        tell(f"the server does not answer ({type(error).__name__}); asking again")

    known: dict[str, str] = {}
    while True:
        retry = retrying(transient, lambda: patience, first=every, most=every, failed=failed)
        run = retry(look)
        for task in _tasks(run):
            if known.get(task.display_name) != task.state:
                known[task.display_name] = task.state
                tell(f"{task.display_name}: {task.state}")
        if run.state in ENDED:
            tell(f"run {run.state}")
            for task in _tasks(run):
                if task.state == "FAILED":
                    tell(f"failed: {task.display_name}{_reason(task)}")
            if run.error and run.error.message:
                tell(f"reason: {run.error.message}")
            return run.state in ("SUCCEEDED", "SKIPPED")
        time.sleep(every)


def _tasks(run: Any) -> list[Any]:
    details = run.run_details.task_details if run.run_details else None
    return [task for task in details or [] if task.display_name and task.state]


def _reason(task: Any) -> str:
    return f": {task.error.message}" if task.error and task.error.message else ""


def wait(run_id: str) -> int:
    """Follow a submitted run on the terminal; 0 where it succeeded, 1 where it did not."""
    from kfp import Client

    client = Client(host=environment.KF_PIPELINES_ENDPOINT.get() or None)

    def tell(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    return 0 if follow(lambda: client.get_run(run_id), tell) else 1

"""Submit the compiled pipeline and follow the run to its end.

`kfp run submit` submits the run; its own `--watch` exits 0 if the run fails, names no task and
never ends for a run that is stopped, so the run is followed here.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from tenacity import RetryCallState
from tqdm import tqdm

from pipelines import follow as reading
from pipelines.follow import WIDTH, Titles
from training.core import environment
from training.core.retry import retrying
from training.core.shown import shown
from training.tracking import reasons
from training.tracking.links import kubeflow, kubeflow_run

EVERY = 5.0  # s between polls
PATIENCE = 600.0  # s that an API server may be unavailable
SAME = "what is done comes from the cache"


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


class Terminal:
    """Lines on stdout, with the progress at the bottom if it is a terminal."""

    def __init__(self) -> None:
        width = shutil.get_terminal_size().columns - 1
        self.bar: Any = (
            tqdm(bar_format="{desc}", file=sys.stdout, leave=False, ncols=width)
            if sys.stdout.isatty()
            else None
        )

    def line(self, text: str) -> None:
        if self.bar is not None:
            self.bar.clear()
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
        if self.bar is not None:
            self.bar.refresh()

    def progress(self, text: str) -> None:
        if self.bar is not None:
            self.bar.set_description_str(text)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def follow(
    get_run: Callable[[], Any],
    report: Callable[[str], None],
    titles: Titles,
    *,
    progress: Callable[[str], None] = lambda _: None,
    every: float = EVERY,
    patience: float = PATIENCE,
) -> Any:
    """Poll a run until it ends; returns it as it ended.

    `get_run` returns a V2beta1Run. `report` gets a line for each change of a step, `progress` one
    on the whole run after each poll. While the server is unavailable, requests are retried for
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
        found = reading.tasks(run, titles)
        news = [task for task in found if task.state and known.get(task.key) != task.state]
        for task in sorted(news, key=lambda task: str(task.end or task.start)):
            known[task.key] = task.state
            report(f"{task.since}  {task.title:<{WIDTH}} {task.what}")
        if run.state in reading.ENDED:
            return run
        progress(reading.progress(found, titles))
        time.sleep(every)


def wait(run_id: str, titles: Titles, experiment: str) -> tuple[bool, bool]:
    """Follow a submitted run on the terminal; whether it succeeded, and whether it was lost.

    Lost is a run that failed by no fault of a step, as far as can be told: see `end`. `experiment`
    is that of the run in MLflow.
    """
    from kfp import Client

    client = Client(host=environment.KF_PIPELINES_ENDPOINT.get() or None)
    terminal = Terminal()
    try:
        run = follow(
            lambda: client.get_run(run_id), terminal.line, titles, progress=terminal.progress
        )
    except KeyboardInterrupt:
        terminal.close()
        sys.stderr.write(f"\nno longer followed; the run goes on: {kubeflow_run(run_id)}\n")
        raise SystemExit(130) from None
    finally:
        terminal.close()
    lines, lost = end(run, titles, lambda step: reason(run_id, experiment, step))
    sys.stdout.write("\n".join([*lines, ""]))
    sys.stdout.flush()
    return run.state in reading.GOOD, lost


def check_resubmit(wait: bool) -> None:
    """Raise ValueError if it could not be told whether a run is to be submitted again."""
    if not wait:
        raise ValueError("--resubmit: only a run that is followed is submitted again; add --wait")
    try:
        _mlflow()
    except ValueError as error:
        raise ValueError(f"--resubmit: a step's own mistake is not tried again; {error}") from None


def _mlflow() -> None:
    if environment.MLFLOW_TRACKING_URI.get() in ("", "off"):  # the default is this machine's
        raise ValueError(
            "set MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for "
            "the cluster's MLflow, where a failed step leaves its reason: two commands in "
            "docs/how-to/cluster.md, In ten lines"
        )


def reason(run_id: str, experiment: str, step: str) -> str:
    """Why a step failed, which it left in MLflow; empty if it left nothing.

    Raises ValueError if MLflow cannot be asked.
    """
    _mlflow()
    return reasons.read(run_id, experiment, step)


def end(run: Any, titles: Titles, reason: Callable[[str], str]) -> tuple[list[str], bool]:
    """The last lines on an ended run, and whether it was lost.

    It was lost if its steps failed without leaving a reason (`reason` of a step's name, empty for
    none, ValueError if that cannot be told) and nobody ended it.
    """
    joint = "in" if run.state in reading.GOOD else "after"
    took = f" {joint} {reading.total(run)}" if reading.total(run) else ""
    lines = ["", *reading.durations(run, titles), "", f"run       {run.state.lower()}{took}"]
    if run.state in reading.GOOD:
        return lines, False
    failed = reading.failures(run, titles)
    if reading.stopped(run):
        during = f" during {', '.join(one.title for one in failed)}" if failed else ""
        return [*lines, f"ended     by a user or the platform{during}",
                f"fix       to go on, run the same command again: {SAME}"], False  # fmt: skip
    if not failed:  # of Kubeflow's own nodes
        page = kubeflow_run(run.run_id)
        why = (run.error.message if run.error else "") or f"no step failed; see {page}"
        return [*lines, f"failed    {why}"], False
    lost = True
    for one in failed:
        try:
            why = shown(one.message or reason(one.name))
            fix = f"correct this, then run the same command: {SAME}"
        except ValueError as error:
            why = "the reason is not known here"
            page = kubeflow_run(run.run_id)
            fix = f"see the step's log: {page}; to see the reason here: {error}"
        lost = lost and not why
        if not why:
            why = "it left no reason: its pod was deleted, evicted, out of memory or lost"
            fix = f"run the same command again, --resubmit N does it by itself: {SAME}"
        lines += [f"failed    {one.title} ({one.name}): {why}", f"fix       {fix}"]
    return lines, lost

"""Stages of trials as processes, several at the same time."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pipelines.local.run import cause, stop
from pipelines.search.trial import Result, Stage
from training.core import environment
from training.core.shown import shown

TAIL = 400  # last lines of a log from which the cause of a failure is taken


class Job(NamedTuple):
    """A stage, the file for its output, and the MLflow run that its training joins, if any."""

    stage: Stage
    log: Path
    mlflow_run: str = ""


def run_all(jobs: Sequence[Job], most: int) -> list[Result | str]:
    """The result of each job, or why it failed; `most` run at the same time.

    Results of earlier processes are taken. If this process is stopped, the stages save and stop.
    """
    waiting = [job for job in jobs if job.stage.done() is None]
    failed: dict[Path, str] = {}
    running: dict[int, tuple[Job, subprocess.Popen[str]]] = {}  # by slot, below `most`
    try:
        while waiting or running:
            while len(running) < most and (
                job := _next(waiting, (one for one, _ in running.values()))
            ):
                waiting.remove(job)
                slot = min(set(range(most)) - running.keys())
                running[slot] = job, _start(job, most, slot)
            for slot in [slot for slot, (_, one) in running.items() if one.poll() is not None]:
                job, process = running.pop(slot)
                if process.returncode or job.stage.done() is None:
                    failed[job.stage.path] = _reason(job, process.returncode)
            time.sleep(0.05)
    except BaseException:
        for _, process in running.values():
            stop(process)
        raise
    return [
        failed.get(job.stage.path) or job.stage.done() or "its result is missing" for job in jobs
    ]


def _next(waiting: Sequence[Job], running: Iterable[Job]) -> Job | None:
    """The first job whose training no running one does: equal trials share a run folder."""
    busy = {_training(job.stage) for job in running}
    return next((job for job in waiting if _training(job.stage) not in busy), None)


def _training(stage: Stage) -> Stage:
    return replace(stage, folder="", child=False)


def _gpus() -> list[str]:
    """The GPUs that trials may use, as CUDA names them: the machine's, or those that are set."""
    import torch

    if chosen := environment.CUDA_VISIBLE_DEVICES.get():
        return chosen.split(",")
    return [str(number) for number in range(torch.cuda.device_count())]


def _start(job: Job, most: int, slot: int = 0) -> "subprocess.Popen[str]":
    job.stage.write()
    job.log.parent.mkdir(parents=True, exist_ok=True)
    env = environment.whole() | {"PYTHONUNBUFFERED": "1"}
    env.setdefault(environment.OMP_NUM_THREADS.name, str(max(1, environment.cores() // most)))
    if most > 1 and (gpus := _gpus()):  # else all trials would be on the first
        env[environment.CUDA_VISIBLE_DEVICES.name] = gpus[slot % len(gpus)]
    env.pop(environment.MLFLOW_RUN_ID.name, None)
    if job.mlflow_run:
        env[environment.MLFLOW_RUN_ID.name] = job.mlflow_run
    command = [
        sys.executable, "-m", "pipelines.search.trial", str(job.stage.path), str(os.getpid()),
    ]  # fmt: skip
    with job.log.open("ab") as log:
        # In a new session: Ctrl-C reaches it through `stop`, which waits until it has saved.
        return subprocess.Popen(
            command, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            stdin=subprocess.DEVNULL, text=True,
        )  # fmt: skip


def _reason(job: Job, code: int) -> str:
    """Why a stage failed, from the last lines of its log."""
    lines = job.log.read_text(errors="replace").splitlines()[-TAIL:]
    ended = f" (exit code {code})" if code not in (1, 2) else ""
    return shown(f"{cause(lines)}{ended}")

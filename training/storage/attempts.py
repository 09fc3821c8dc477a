"""A pipeline step's attempts: a mistake of the user ends a step at once, however often it is tried.

On a cluster a failed step is tried again whatever its exit code. So the refusal is kept in the
store, under the pipeline run, the step and its inputs, and a further attempt ends with its line.
A step's pod also leaves there why it failed, for the run's last step: Kubeflow does not tell it.
"""

import json
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from training.core import environment
from training.core.cli import EXIT_MISTAKE
from training.core.faults import explained
from training.core.files import canonical_json, sha256_bytes, sha256_file
from training.core.retry import may_pass
from training.core.shown import shown
from training.storage.store import open_store

T = TypeVar("T")
EXIT_FAULT = 1  # exit code of an error that may pass


def attempt(function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Call a step's `function`; an expected error becomes one `error:` line and an exit code.

    It is 2 if the error cannot pass, so that no further attempt is made, and otherwise 1. Any
    unexpected exception is raised.
    """
    name = _name(function, [*arguments, options])
    try:
        if name and (known := open_store().reference(name)) is not None:
            sys.stderr.write(
                f"error: {known}\n"
                "An earlier attempt of this step ended so; after a correction, start a new run.\n"
            )
            raise SystemExit(EXIT_MISTAKE)
        _withdraw(name)
        return function(*arguments, **options)
    except Exception as error:
        line = explained(error)
        _leave(name, line or shown(f"{type(error).__name__}: {error}"))
        if not line:
            raise
        sys.stderr.write(f"error: {line}\n")
        if may_pass(error):
            raise SystemExit(EXIT_FAULT) from error
        if name:
            _keep(name, line)
        raise SystemExit(EXIT_MISTAKE) from error


def failures(run: str) -> dict[str, str]:
    """Why steps of a pipeline run failed, by step: what the last pod that failed left.

    Nothing of a step whose last attempt left nothing, as a deleted pod's does.
    """
    last = {(one["step"], one["work"]): one["reason"] for one in _left(run)}
    return {step: reason for (step, _), reason in last.items() if reason}


def _left(run: str) -> Iterator[dict[str, str]]:
    """What pods of a pipeline run left, in order: step, its work, pod and reason."""
    store = open_store()
    for number in count():
        text = store.reference(f"{_failures(run)}/{number}")
        if text is None:
            return
        yield json.loads(text)


def _failures(run: str) -> str:
    return f"failures/{sha256_bytes(run.encode())[:16]}"


def _withdraw(work: str) -> None:
    """Take back the reason of this step's earlier attempt: this one may end without any.

    `work` tells the pods of a loop apart, which are attempts of the same step.
    """
    run, step = environment.PIPELINE_RUN_ID.get(), environment.PIPELINE_STEP.get()
    if run and environment.POD_NAME.get():
        mine = [one for one in _left(run) if (one["step"], one["work"]) == (step, work)]
        if mine and mine[-1]["reason"]:
            _leave(work, "")


def _leave(work: str, reason: str) -> None:
    """Keep why this pod fails; only on a cluster, where nobody else tells."""
    run, pod = environment.PIPELINE_RUN_ID.get(), environment.POD_NAME.get()
    if not run or not pod:
        return
    step = environment.PIPELINE_STEP.get()
    text = canonical_json({"step": step, "work": work, "pod": pod, "reason": reason}).decode()
    try:
        store, number = open_store(), 0
        # The first writer of a number wins: another pod may fail at the same time.
        while store.refer(f"{_failures(run)}/{number}", text) != text:
            number += 1
    except (ValueError, OSError) as error:
        sys.stderr.write(f"the store does not take the reason ({error})\n")


def _name(function: Callable[..., Any], inputs: list[Any]) -> str:
    """The refusal's name in the store; empty outside a pipeline run."""
    run = environment.PIPELINE_RUN_ID.get()
    if not run:
        return ""
    step = f"{function.__module__}.{function.__qualname__}"
    key = sha256_bytes(canonical_json([step, _content(inputs)]))
    return f"refusals/{sha256_bytes(run.encode())[:16]}/{key}"


def _content(value: Any) -> Any:
    """An input as JSON: a file by its digest, any other path by its text."""
    if isinstance(value, dict):
        return {name: _content(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_content(item) for item in value]
    if isinstance(value, Path):
        return sha256_file(value) if value.is_file() else str(value)
    return value


def _keep(name: str, text: str) -> None:
    try:
        open_store().refer(name, text)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"the store does not take this refusal ({error}); a retry repeats it\n")

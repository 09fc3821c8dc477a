"""A pipeline step's attempts: a mistake of the user ends a step at once, however often it is tried.

On a cluster a failed step is tried again whatever its exit code. So the refusal is kept in the
store, under the pipeline run, the step and its inputs, and a further attempt ends with its line.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from training.core import environment
from training.core.cli import EXIT_MISTAKE
from training.core.faults import explained
from training.core.files import canonical_json, sha256_bytes, sha256_file
from training.core.retry import may_pass
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
        return function(*arguments, **options)
    except Exception as error:
        line = explained(error)
        if not line:
            raise
        sys.stderr.write(f"error: {line}\n")
        if may_pass(error):
            raise SystemExit(EXIT_FAULT) from error
        if name:
            _keep(name, line)
        raise SystemExit(EXIT_MISTAKE) from error


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

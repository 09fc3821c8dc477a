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
from training.core.files import canonical_json, sha256_bytes, sha256_file
from training.core.retry import may_pass
from training.storage.store import open_store

T = TypeVar("T")


def attempt(function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Call a step's `function`; a ValueError or OSError that cannot pass becomes exit code 2.

    It is printed as one `error:` line. Any other exception is raised, for another attempt.
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
    except (ValueError, OSError) as error:
        if may_pass(error):
            raise
        sys.stderr.write(f"error: {error}\n")
        if name:
            _keep(name, str(error))
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

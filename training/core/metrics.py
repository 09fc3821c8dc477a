"""A step's numbers as a file of its own, from which Kubeflow's page of the step is filled."""

import math
import sys
from collections.abc import Iterable
from pathlib import Path

from training.core.files import write_json
from training.core.names import named


def write_metrics(path: Path, rows: Iterable[tuple[tuple[str, ...], float]]) -> None:
    """Write numbers as flat JSON, each under its parts joined by `_`.

    One that is not finite is left out, as JSON has none and Kubeflow fails the step for it.
    """
    numbers = named(rows)
    kept = {name: value for name, value in numbers.items() if math.isfinite(value)}
    if lost := sorted(numbers.keys() - kept.keys()):
        sys.stderr.write(f"{path.name}: left out, as not finite: {', '.join(lost)}\n")
    write_json(path, kept)

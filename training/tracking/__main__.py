"""MLflow runs: deliver a training's pending records, close a pipeline run's parent, show runs."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

from training.core import cli, environment
from training.core.cli import means
from training.core.shown import shown
from training.tracking import links
from training.tracking.client import EXPERIMENT, answered, client, end_parent, uri
from training.tracking.journal import Journal
from training.tracking.tracker import Delivery, read_plan

main = cli.program("python -m training.tracking", __doc__)
WAIT = 30.0  # s for the last request of a training that has just ended


@main.command
def deliver(folder: Annotated[Path, means("that the training printed")], /) -> str:
    """Send a training's pending records, once it has ended."""
    if not (folder / "run.json").is_file():
        raise ValueError(f"{folder}: not a tracking folder; give the one that the training printed")
    delivery = _delivery(folder)
    left = delivery.finish()
    if left:
        raise ValueError(left)
    return f"all records were delivered to run {delivery.plan['run_id']}"


def _delivery(folder: Path) -> Delivery:
    try:
        journal = Journal(folder, WAIT)
    except TimeoutError as error:
        raise ValueError(
            f"{folder}: the training still runs and sends its records itself; wait for its end"
        ) from error
    try:
        return Delivery(journal, read_plan(folder / "run.json"))
    except (OSError, ValueError):
        journal.close()
        raise


@main.command
def end(
    *,
    status: Annotated[Literal["FINISHED", "FAILED", "KILLED"], means("how it ended")] = "FINISHED",
    experiment: Annotated[str, means("MLflow experiment of the run")] = EXPERIMENT,
) -> str:
    """Close the parent run of this pipeline run."""
    with answered():
        return end_parent(status, experiment)


@main.command
def ui() -> str:
    """Serve MLflow's pages of this machine's runs on http://127.0.0.1:5000."""
    if uri().startswith("http"):
        return f"the runs are on {shown(uri())}"
    found = client().get_experiment_by_name(EXPERIMENT)  # makes and checks the database
    if found is not None:
        sys.stdout.write(f"compare runs: {links.base()}{links.runs(found.experiment_id)}\n")
        sys.stdout.flush()
    environment.put(MLFLOW_BACKEND_STORE_URI=uri())  # not an argument: it may have a password
    raise SystemExit(subprocess.call([sys.executable, "-m", "mlflow", "ui"]))


if __name__ == "__main__":
    cli.entry_point(main)

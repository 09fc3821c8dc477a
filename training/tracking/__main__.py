"""MLflow runs: deliver a training's pending records, close a pipeline run's parent."""

import argparse
import sys
from pathlib import Path

from training.core import cli
from training.core.files import read_json
from training.tracking.client import (
    EXPERIMENT,
    end_parent,
)
from training.tracking.journal import Journal
from training.tracking.tracker import Delivery


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m training.tracking", description="Manage runs in MLflow."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    deliver = commands.add_parser("deliver", help="send a training's pending records")
    deliver.add_argument("folder", type=Path)
    end = commands.add_parser("end", help="close the parent run of this pipeline run")
    end.add_argument("--status", default="FINISHED", choices=["FINISHED", "FAILED", "KILLED"])
    end.add_argument("--experiment", default=EXPERIMENT)
    arguments = parser.parse_args(argv)
    if arguments.command == "end":
        sys.stdout.write(f"{end_parent(arguments.status, arguments.experiment)}\n")
        return
    if not (arguments.folder / "run.json").is_file():
        raise ValueError(
            f"{arguments.folder}: not a tracking folder; give the one that the training printed"
        )
    delivery = Delivery(Journal(arguments.folder), read_json(arguments.folder / "run.json"))
    left = delivery.finish()
    if left:
        raise ValueError(left)
    sys.stdout.write(f"all records were delivered to run {delivery.plan['run_id']}\n")


if __name__ == "__main__":
    cli.entry_point(main)

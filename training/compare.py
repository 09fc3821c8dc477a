"""Compare models on one HTML page: scores of their evaluations, example edits and cost.

    python -m training.compare --run stargan model.json evaluation.json dataset.json \\
        --run attgan model.json evaluation.json dataset.json --title "2,000 images each" --out P

Scores are comparable only between evaluations with the same fingerprint (images, judge, tasks,
protocol); the page has one table per fingerprint.
"""

import argparse
from pathlib import Path

from training.core import cli
from training.core.files import write_bytes
from training.evaluation.comparison.page import report
from training.evaluation.comparison.runs import ComparedRun


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.compare", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--run", nargs=4, action="append", required=True, dest="runs",
        metavar=("NAME", "MODEL", "EVALUATION", "DATASET"), help="one seed of one model",
    )  # fmt: skip
    parser.add_argument("--title", default="Models compared")
    parser.add_argument("--remark", default="", help="a note shown above the results")
    parser.add_argument("--out", type=Path, required=True, help="HTML file to write")
    args = parser.parse_args(argv)
    runs = [ComparedRun.read(name, *map(Path, paths)) for name, *paths in args.runs]
    write_bytes(args.out, report(runs, args.title, args.remark).encode())


if __name__ == "__main__":
    cli.entry_point(main)

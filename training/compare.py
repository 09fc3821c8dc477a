"""Models side by side: one page from what each run's evaluation says, and from the models.

    python -m training.compare --run stargan model.json evaluation.json dataset.json \\
        --run attgan model.json evaluation.json dataset.json --title "2,000 images each" --out P

Scores compare only where the evaluation's fingerprint (images, judge, tasks, protocol) is the same;
models with another one are in a table of their own.
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
    parser.add_argument("--remark", default="", help="what to know before reading the numbers")
    parser.add_argument("--out", type=Path, required=True, help="the HTML to write")
    args = parser.parse_args(argv)
    entries = [ComparedRun.read(name, *map(Path, rest)) for name, *rest in args.runs]
    write_bytes(args.out, report(entries, args.title, args.remark).encode())


if __name__ == "__main__":
    cli.entry_point(main)

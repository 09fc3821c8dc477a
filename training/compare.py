"""Compare models on one HTML page: scores of their evaluations, example edits and cost.

    python -m training.compare --run stargan model.json evaluation.json dataset.json \\
        --run attgan model.json evaluation.json dataset.json --title "2,000 images each" --out P

Scores are comparable only between evaluations with the same fingerprint (images, judge, tasks,
protocol); the page has one table per fingerprint.
"""

from pathlib import Path
from typing import Annotated

from training.core import cli
from training.core.cli import means
from training.core.files import write_bytes

main = cli.program("python -m training.compare", __doc__)
RUN = means("one seed of one model; repeatable", metavar="NAME MODEL EVALUATION DATASET")


@main.default
def compare(
    *,
    run: Annotated[list[tuple[str, Path, Path, Path]], RUN],
    title: Annotated[str, means("title of the page")] = "Models compared",
    remark: Annotated[str, means("a note shown above the results")] = "",
    out: Annotated[Path, means("HTML file to write")],
) -> None:
    # These import matplotlib and pandas, which the help does not need.
    from training.evaluation.comparison.page import report
    from training.evaluation.comparison.runs import ComparedRun

    write_bytes(out, report([ComparedRun.read(*one) for one in run], title, remark).encode())


if __name__ == "__main__":
    cli.entry_point(main)

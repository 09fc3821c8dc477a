"""Validate raw data: critical failures stop the run, warnings are reported.

`python -m training.data.validate RAW_MANIFEST --report report.html` writes one self-contained page
in either case, and optionally Great Expectations' own pages.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from training.core.cli import entry_point
from training.core.config import DataConfig, from_json
from training.core.files import whole_folder, write_bytes
from training.data.archive import open_raw
from training.data.validation.report import render
from training.data.validation.runner import Outcome, check, open_context
from training.storage.store import Manifest, Store


class ValidationError(ValueError):
    """Raw data that breaks a critical rule; the text names each with files and rows."""


def validate(
    raw: Path,
    data_config: str,
    report: Path,
    docs: Path | str | None = None,
    *,
    workers: int = 0,
    store: Store | None = None,
) -> None:
    """Validate every data set of a "raw" manifest and write the report.

    Raises ValidationError, after the report is written, if a critical rule failed.

    `docs`: a folder for Great Expectations' own pages (they load styles from the network); empty
    or None for none.
    """
    config = from_json(DataConfig, data_config)
    manifest = Manifest.read(raw, "raw")
    trees = open_raw(manifest, store)
    outcomes = []
    context = open_context()
    for dataset in manifest.meta.datasets:
        name, kind = dataset.name, dataset.kind
        outcome = check(name, kind, trees[name], config, context=context, workers=workers)
        outcomes.append(outcome)
    if docs:
        from training.data.validation.docs import write_docs

        with whole_folder(Path(docs)) as pages:
            write_docs(context, pages)
    write_bytes(
        report,
        render(outcomes, trees, config, {**manifest.meta.to_json(), **manifest.about}).encode(),
    )
    _refuse(outcomes, report)


def _refuse(outcomes: Sequence[Outcome], report: Path) -> None:
    lines = [f"{o.name}: {finding}" for o in outcomes for finding in o.failed]
    if lines:
        what = (
            "1 critical expectation" if len(lines) == 1 else f"{len(lines)} critical expectations"
        )
        raise ValidationError("\n".join([f"the raw data breaks {what}; see {report}", *lines]))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.data.validate", description=__doc__)
    parser.add_argument("raw", type=Path, help='manifest of kind "raw"')
    parser.add_argument("--data-config", default="", help="DataConfig as JSON; empty = defaults")
    parser.add_argument("--report", type=Path, required=True, help="the HTML page to write")
    parser.add_argument("--docs", default="", help="folder for Great Expectations' own pages")
    parser.add_argument("--workers", type=int, default=0, help="threads; 0 = every core")
    options = parser.parse_args(arguments)
    validate(
        options.raw, options.data_config, options.report, options.docs, workers=options.workers
    )


if __name__ == "__main__":
    entry_point(main)

"""Validate raw data: critical failures stop the run, warnings are reported.

`python -m training.data.validate RAW_MANIFEST --report report.html` writes one self-contained page
in either case, and optionally Great Expectations' own pages.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from training.core import cli
from training.core.cli import means
from training.core.config import DataConfig, from_json
from training.core.files import write_bytes
from training.core.metrics import write_metrics
from training.core.temporary import check_free, whole_folder
from training.data import forgotten as tombstones
from training.data.archive import open_raw
from training.data.sources import say_notes
from training.data.validation.report import render
from training.data.validation.runner import Finding, Outcome, check, open_context
from training.storage.store import Manifest, Store, open_store

main = cli.program("python -m training.data.validate", __doc__)
DOCS = means(
    "folder for Great Expectations' own pages, which load styles from the network: a new one, or "
    "that of an earlier call"
)
PAGES = {"index.html", "static", "validations"}  # what such a folder has


class ValidationError(ValueError):
    """Raw data that breaks a critical rule; the text names each with files and rows."""


@main.default
def validate(
    raw: Annotated[Path, means('manifest of kind "raw"')],
    /,
    *,
    data_config: Annotated[str, means("DataConfig as JSON; empty: its defaults")] = "",
    report: Annotated[Path, means("the HTML page to write")],
    metrics: Annotated[Path | None, means("JSON of what was counted, to write")] = None,
    docs: Annotated[str | Path, DOCS] = "",
    workers: Annotated[int, means("threads; 0: every core")] = 0,
    store: Annotated[Store | None, cli.INTERNAL] = None,
) -> None:
    """Validate every data set of a "raw" manifest; write the report and the counts.

    Raises ValidationError, after both are written, if a critical rule failed, and ValueError if
    `docs` has other files than such pages.
    """
    if docs:
        _check_docs(Path(docs))
    config = from_json(DataConfig, data_config)
    manifest = Manifest.read(raw, "raw")
    store = store or open_store()
    trees = open_raw(manifest, store)
    people = tombstones.lists(tombstones.kept(manifest), store)
    outcomes = []
    context = open_context()
    for dataset in manifest.meta.datasets:
        name, kind = dataset.name, dataset.kind
        outcome = check(
            name, kind, trees[name], config, context=context, workers=workers,
            forgotten=people.get(name, tombstones.NOBODY),
        )  # fmt: skip
        outcomes.append(outcome)
        say_notes(name, [*outcome.raw.all_notes, *map(_warning, outcome.warnings)])
    if docs:
        from training.data.validation.docs import write_docs

        with whole_folder(Path(docs)) as pages:
            write_docs(context, pages)
    write_bytes(
        report,
        render(outcomes, trees, config, {**manifest.meta.to_json(), **manifest.about}).encode(),
    )
    if metrics:
        write_metrics(metrics, _counts(outcomes))
    _refuse(outcomes, report)


def _check_docs(docs: Path) -> None:
    """Raise ValueError if writing the pages would replace anything but earlier ones."""
    names = {path.name for path in docs.iterdir()} if docs.is_dir() else set()
    if not {"index.html", "validations"} <= names <= PAGES:
        check_free(docs)


def _counts(outcomes: Sequence[Outcome]) -> Iterator[tuple[tuple[str, str], int]]:
    """What was found in each data set, by its name and what is counted."""
    for found in outcomes:
        yield (found.name, "images"), len(found.raw.images)
        yield (found.name, "label_rows"), len(found.raw.labels)
        yield (found.name, "people"), len(found.frames["identities"])
        yield (found.name, "rules"), len(found.findings)
        yield (found.name, "warnings"), len(found.warnings)
        yield (found.name, "failed"), len(found.failed)
        if found.forgotten:
            yield (found.name, "forgotten"), found.forgotten


def _warning(finding: Finding) -> str:
    """One line without the rows, which the report lists."""
    count = f", {finding.count} of {finding.total}" if finding.count else ""
    return f"warning: {finding.rule.name}: {finding.rule.fault}{count}. Fix: {finding.rule.fix}"


def _refuse(outcomes: Sequence[Outcome], report: Path) -> None:
    lines = [f"{o.name}: {finding}" for o in outcomes for finding in o.failed]
    if lines:
        what = (
            "1 critical expectation" if len(lines) == 1 else f"{len(lines)} critical expectations"
        )
        raise ValidationError("\n".join([f"the raw data breaks {what}; see {report}", *lines]))


if __name__ == "__main__":
    cli.entry_point(main)

"""Raw data against its expectations: hard failures stop the run, soft ones are reported.

`python -m training.data.validate RAW_MANIFEST --report report.html` writes one self-contained page
in either case, and Great Expectations' own pages beside it on request.
"""

import argparse
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from training.cli import run
from training.config import DataConfig, from_json
from training.data.expectations import rules
from training.data.facts import frames
from training.data.gather import Facts, gather
from training.data.images import image_facts
from training.data.judging import Finding, judge, open_context
from training.data.tree import Tree, open_raw
from training.data.validate_report import render
from training.files import whole_folder, write_bytes
from training.store import Manifest, Store


class ValidationError(ValueError):
    """Raw data that breaks a critical expectation; the text names each with files and rows."""


@dataclass(frozen=True)
class Outcome:
    """What was found in one data set."""

    name: str
    facts: Facts
    frames: dict[str, pd.DataFrame]
    findings: list[Finding]

    @property
    def failed(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.failed]


def check(
    name: str,
    kind: str,
    tree: Tree,
    config: DataConfig,
    *,
    context: Any = None,
    without: Collection[str] = (),
    workers: int = 0,
) -> Outcome:
    """Judge one data set by every rule but those named in `without`.

    `context`: of Great Expectations, a new one by default. `workers`: threads that read and decode
    the images; 0 for every core.
    """
    facts = gather(kind, tree, config)
    images = image_facts(tree, facts.images, kind, config, workers or _cores(), f"validate {name}")
    tables = frames(facts, images)
    wanted = [rule for rule in rules(facts, tables, config) if rule.name not in without]
    findings = judge(context or open_context(), name, tables, wanted)
    return Outcome(name, facts, tables, findings)


def validate(
    raw: Path,
    data_config: str,
    report: Path,
    docs: Path | str | None = None,
    *,
    workers: int = 0,
    store: Store | None = None,
) -> None:
    """Judge every data set of a "raw" manifest and write the report, then raise ValidationError if
    a critical expectation failed.

    `docs`: a folder for Great Expectations' own pages (they fetch their styles from the network);
    empty or None for none.
    """
    config = from_json(DataConfig, data_config)
    manifest = Manifest.read(raw, "raw")
    trees = open_raw(manifest, store)
    outcomes = []
    context = open_context()
    for dataset in manifest.meta["datasets"]:
        name, kind = dataset["name"], dataset["kind"]
        outcome = check(name, kind, trees[name], config, context=context, workers=workers)
        outcomes.append(outcome)
    if docs:
        from training.data.docs_pages import write_docs

        with whole_folder(Path(docs)) as pages:
            write_docs(context, pages)
    write_bytes(
        report, render(outcomes, trees, config, {**manifest.meta, **manifest.about}).encode()
    )
    _refuse(outcomes, report)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    run(main)

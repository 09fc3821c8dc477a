"""Run the rules with Great Expectations and look up the offending rows of those that failed."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from training.core.config import DataConfig
from training.core.environment import cores, put
from training.data import forgotten as tombstones
from training.data.archive import Tree
from training.data.forgotten import NOBODY, Pseudonyms
from training.data.layouts import RawDataset, read_layout
from training.data.tables import one_line, shortened
from training.data.validation.frames import frames
from training.data.validation.images import image_facts
from training.data.validation.rules import Check, Rule, rules

LISTED = 20  # offending rows kept for each check
# The columns that identify a row of each frame, besides the checked one.
ROW_NAMES = {
    "tables": ("table",), "counts": ("file",), "ragged": ("table", "line", "text"),
    "headers": ("file",), "columns": ("table",), "needed": ("table", "column"),
    "repeated": ("table", "line", "file"),
    "labels": ("table", "line", "file"), "identities": ("identity",), "images": ("file", "size"),
    "unit columns": ("column",), "units": ("line", "file"), "kept units": ("line", "file"),
    "classes": ("label", "count"), "layout": (), "readable": ("file",), "class folders": ("class",),
    "hair": ("line", "file"),
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """The result of one rule: how many rows were checked, how many offend, and the first ones."""

    rule: Rule
    passed: bool
    total: int
    count: int = 0
    rows: tuple[dict[str, Any], ...] = ()
    observed: str = ""  # the observed value, if no single row offends

    @property
    def failed(self) -> bool:
        """Whether it stops the run."""
        return not self.passed and self.rule.severity == "critical"

    def __str__(self) -> str:
        """One line: name, fault, count, the first rows, fix."""
        rows = [", ".join(f"{k} {cell_text(v)}" for k, v in row.items()) for row in self.rows[:3]]
        seen = "; ".join(rows) or self.observed
        more = f"; and {self.count - 3} more" if self.count > 3 else ""
        number = f"{self.count} of {self.total}" if self.count else ""
        parts = (f"{self.rule.name}: {self.rule.fault}", number, f"{seen}{more}")
        return ": ".join(part for part in parts if part) + f". Fix: {self.rule.fix}"


def cell_text(value: Any) -> str:
    """A cell as text for the report."""
    return "missing" if pd.isna(value) else one_line(str(shortened(value)))


def open_context() -> Any:
    """A Great Expectations context in memory, usable for several data sets."""
    put(GX_ANALYTICS_ENABLED="false")  # no usage statistics to its vendor
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return context


def run_rules(
    context: Any, name: str, frames: Mapping[str, pd.DataFrame], rules: Sequence[Rule]
) -> list[Finding]:
    """Run the rules on the frames of data set `name`; returns one finding per rule, in order."""
    import great_expectations as gx

    source = context.data_sources.add_pandas(name)
    results: dict[str, list[tuple[Check, Any]]] = {rule.name: [] for rule in rules}
    for frame in dict.fromkeys(rule.frame for rule in rules):
        checks: list[Check] = []
        expectations = []
        for rule in (r for r in rules if r.frame == frame):
            for check in rule.checks:
                cls = getattr(gx.expectations, check.kind)
                more = {"severity": rule.severity, "meta": {"rule": rule.name, "n": len(checks)}}
                expectations.append(cls(**check.arguments, **more))
                checks.append(check)
        title = f"{name}-{frame.replace(' ', '-')}"
        suite = gx.ExpectationSuite(name=title, expectations=expectations)
        asset = source.add_dataframe_asset(frame.replace(" ", "_"))
        definition = gx.ValidationDefinition(
            name=title,
            data=asset.add_batch_definition_whole_dataframe("all"),
            suite=context.suites.add(suite),
        )
        checkpoint = gx.Checkpoint(
            name=title,
            validation_definitions=[context.validation_definitions.add(definition)],
            # _rows looks the rows up: Great Expectations' lists take minutes if every row offends.
            result_format={"result_format": "BASIC", "partial_unexpected_count": LISTED},
        )
        run = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": frames[frame]})
        for result in next(iter(run.run_results.values())).results:
            meta = result.expectation_config.meta
            results[meta["rule"]].append((checks[meta["n"]], result))
    return [_finding(rule, frames[rule.frame], results[rule.name]) for rule in rules]


def _finding(rule: Rule, frame: pd.DataFrame, results: list[tuple[Check, Any]]) -> Finding:
    """One finding from the results of all of a rule's checks."""
    wrong = [(check, result) for check, result in results if not result.success]
    count, rows, observed = 0, [], []
    for check, result in wrong:
        values = result.result.get("partial_unexpected_list")
        count += result.result.get("unexpected_count", 0)
        if values:
            rows += _rows(rule.frame, frame, check, values)
        else:
            seen = result.result.get("observed_value", result.exception_info)
            observed.append(f"{check.arguments.get('column', 'rows')}: {seen}")
    if len(wrong) > 1 and count:  # a row can be wrong in several columns
        masks = [_wrong(frame, check) for check, _ in wrong]
        count = int(np.logical_or.reduce(masks).sum())
    return Finding(rule, not wrong, len(frame), count, tuple(rows[:LISTED]), "; ".join(observed))


def _wrong(frame: pd.DataFrame, check: Check) -> "pd.Series[bool]":
    """The rows that break a check of one of the kinds that a rule makes of several columns."""
    column, wanted = frame[check.arguments["column"]], check.arguments
    if "value_set" in wanted:
        return ~column.isin(wanted["value_set"]) & column.notna()
    return (column < wanted["min_value"]) | (column > wanted["max_value"])


def _rows(name: str, frame: pd.DataFrame, check: Check, values: list[Any]) -> list[dict[str, Any]]:
    """The first rows with the offending values that a check reports."""
    if check.kind.startswith("ExpectColumnPair"):
        checked = [check.arguments["column_A"], check.arguments["column_B"]]
        pairs = pd.Series(
            list(frame[checked].itertuples(index=False, name=None)), index=frame.index
        )
        mask = pairs.isin([tuple(value) for value in values])
    else:
        checked = [check.arguments["column"]]
        column = frame[checked[0]]
        mask = column.isna() if check.kind.endswith("NotBeNull") else column.isin(values)
    identifying = [column for column in ROW_NAMES[name] if column in frame]
    if name == "labels" and "table" not in identifying:
        identifying.remove("line")  # the labels are in the files' names
    columns = list(dict.fromkeys([*identifying, *checked]))
    rows = frame.loc[mask, columns].head(LISTED).astype("object")
    return [dict(zip(columns, row, strict=True)) for row in rows.itertuples(index=False, name=None)]


@dataclass(frozen=True)
class Outcome:
    """The validation result of one data set."""

    name: str
    raw: RawDataset
    frames: dict[str, pd.DataFrame]
    findings: list[Finding]
    forgotten: int = 0  # images of people who are left out

    @property
    def failed(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.failed]

    @property
    def warnings(self) -> list[Finding]:
        """What is reported and does not stop the run."""
        return [finding for finding in self.findings if not finding.passed and not finding.failed]


def check(
    name: str,
    kind: str,
    tree: Tree,
    config: DataConfig,
    *,
    context: Any = None,
    without: Collection[str] = (),
    workers: int = 0,
    forgotten: Pseudonyms = NOBODY,
) -> Outcome:
    """Validate one data set by every rule except those named in `without`.

    Images of `forgotten` people are not read; a note says how many they are.

    `context`: a Great Expectations context, by default a new one. `workers`: threads that read and
    decode the images; 0 for every core.
    """
    raw, gone = _without(read_layout(kind, tree, config), name, forgotten)
    images = image_facts(tree, raw.images, kind, config, workers or cores(), f"validate {name}")
    tables = frames(raw, images)
    selected = [rule for rule in rules(raw, tables, config) if rule.name not in without]
    findings = run_rules(context or open_context(), name, tables, selected)
    return Outcome(name, raw, tables, findings, gone)


def _without(raw: RawDataset, name: str, people: Pseudonyms) -> tuple[RawDataset, int]:
    """A data set without the images of these people, and their number."""
    if not people:
        return raw, 0
    gone = tombstones.among(raw.labels["identity"], name, people)
    files = set(raw.labels.loc[gone, "image"])
    left = replace(
        raw,
        images=[image for image in raw.images if image not in files],
        labels=raw.labels[~gone].reset_index(drop=True),
        notes=(*raw.notes, *tombstones.said(int(gone.sum()))),
    )
    return left, int(gone.sum())

"""Great Expectations at work: rules judge frames; what failed is found again in the rows."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from training.core.config import DataConfig
from training.core.environment import cores, put
from training.data.archive import Tree
from training.data.layouts import Facts, gather
from training.data.validation.frames import frames
from training.data.validation.images import image_facts
from training.data.validation.rules import Check, Rule, rules

LISTED = 20  # offending rows kept for each check
# The columns by which a row of each frame is named, beside the one that is judged.
NAMES = {
    "tables": ("table",), "counts": ("file",), "ragged": ("table", "line", "text"),
    "headers": ("file",), "columns": ("table",), "needed": ("table", "column"),
    "labels": ("table", "line", "file"), "identities": ("identity",), "images": ("file", "size"),
    "unit columns": ("column",), "units": ("line", "file"), "kept units": ("line", "file"),
    "classes": ("label", "count"), "hair": ("line", "file"),
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """How one rule fared: the number of judged rows, of offending ones, and the first of these."""

    rule: Rule
    passed: bool
    total: int
    count: int = 0
    rows: tuple[dict[str, Any], ...] = ()
    observed: str = ""  # what was seen, where no single row offends

    @property
    def failed(self) -> bool:
        """Whether it stops the run."""
        return not self.passed and self.rule.severity == "critical"

    def __str__(self) -> str:
        """One line: name, fault, count, the first rows, mend."""
        rows = [", ".join(f"{k} {shown(v)}" for k, v in row.items()) for row in self.rows[:3]]
        seen = "; ".join(rows) or self.observed
        more = f"; and {self.count - 3} more" if self.count > 3 else ""
        number = f"{self.count} of {self.total}" if self.count else ""
        parts = (f"{self.rule.name}: {self.rule.fault}", number, f"{seen}{more}")
        return ": ".join(part for part in parts if part) + f". Mend: {self.rule.mend}"


def shown(value: Any) -> str:
    """A cell as a person reads it."""
    return "missing" if pd.isna(value) else str(value)


def open_context() -> Any:
    """A Great Expectations context in memory; one serves several data sets."""
    put(GX_ANALYTICS_ENABLED="false")  # it would post to its makers
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return context


def judge(
    context: Any, name: str, frames: Mapping[str, pd.DataFrame], rules: Sequence[Rule]
) -> list[Finding]:
    """Run the rules over the frames of data set `name`; one finding a rule, in their order."""
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
            # Rows are found again below: its own row lists take minutes where every row offends.
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
    return Finding(rule, not wrong, len(frame), count, tuple(rows[:LISTED]), "; ".join(observed))


def _rows(name: str, frame: pd.DataFrame, check: Check, values: list[Any]) -> list[dict[str, Any]]:
    """The first rows that hold the offending values that a check reports."""
    if check.kind.startswith("ExpectColumnPair"):
        judged = [check.arguments["column_A"], check.arguments["column_B"]]
        pairs = pd.Series(list(frame[judged].itertuples(index=False, name=None)), index=frame.index)
        mask = pairs.isin([tuple(value) for value in values])
    else:
        judged = [check.arguments["column"]]
        column = frame[judged[0]]
        mask = column.isna() if check.kind.endswith("NotBeNull") else column.isin(values)
    named = [column for column in NAMES[name] if column in frame]
    if name == "labels" and "table" not in named:
        named.remove("line")  # the labels are in the files' names
    shown = list(dict.fromkeys([*named, *judged]))
    found = frame.loc[mask, shown].head(LISTED).astype("object")
    return [dict(zip(shown, row, strict=True)) for row in found.itertuples(index=False, name=None)]


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
    images = image_facts(tree, facts.images, kind, config, workers or cores(), f"validate {name}")
    tables = frames(facts, images)
    wanted = [rule for rule in rules(facts, tables, config) if rule.name not in without]
    findings = judge(context or open_context(), name, tables, wanted)
    return Outcome(name, facts, tables, findings)

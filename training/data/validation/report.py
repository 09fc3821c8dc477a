"""The validation report: one page a run, with sample pictures as training will see them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from training.core.config import DataConfig
from training.data.archive import Tree
from training.data.crop import UnusableError, cut
from training.data.layouts import VALUES, Facts
from training.data.validation.runner import LISTED, Finding, shown
from training.rendering import html as report
from training.rendering.grids import grid

if TYPE_CHECKING:
    from training.data.validation.runner import Outcome

SAMPLES = 12  # pictures a data set, spread over it
COLUMNS = 6


def render(
    outcomes: Sequence["Outcome"],
    trees: Mapping[str, Tree],
    config: DataConfig,
    meta: Mapping[str, Any],
) -> str:
    """The page as HTML text; names and labels are escaped."""
    failed = sum(len(outcome.failed) for outcome in outcomes)
    verdict = (
        report.note(f"Refused: {failed} critical expectations failed.", "bad")
        if failed
        else report.note("Every critical expectation holds.", "good")
    )
    parts: list[Markup] = [verdict]
    for outcome in outcomes:
        parts += _dataset(outcome, trees[outcome.name], config)
    about = {"source": meta.get("source"), "revision": meta.get("revision"), "md5": meta.get("md5")}
    subtitle = ", ".join(f"{key} {value}" for key, value in about.items() if value)
    return report.page("Validation of the raw data", parts, subtitle)


def _dataset(outcome: "Outcome", tree: Tree, config: DataConfig) -> list[Markup]:
    facts, tables = outcome.facts, outcome.frames
    parts = [
        report.heading(outcome.name),
        report.paragraph(
            f"{facts.kind}: {len(facts.images):,} images, {len(facts.labels):,} label rows, "
            f"{len(tables['identities']):,} known persons."
        ),
    ]
    for finding in outcome.findings:
        if not finding.passed:
            parts += _finding(finding)
    parts += [report.note(text) for text in facts.notes]
    parts += _pictures(facts, tree, config)
    parts.append(_summary(tables))
    if len(tables["classes"]):
        rows = [(r.label, r.count, float(r.share)) for r in tables["classes"].itertuples()]
        caption = "Class balance; the share of a binary label is that of its rarer value"
        parts.append(report.table(("label", "images", "share"), rows, caption))
    results = [
        (f.rule.name, f.rule.fault, f.rule.severity, "passed" if f.passed else "failed", f.total)
        for f in outcome.findings
    ]
    heads = ("expectation", "refuses or reports", "severity", "result", "rows judged")
    parts.append(report.table(heads, results, "Every expectation"))
    return parts


def _finding(finding: Finding) -> list[Markup]:
    level: report.Level = "bad" if finding.failed else "warn"
    number = f"{finding.count:,} of {finding.total:,}. " if finding.count else ""
    text = (
        f"{finding.rule.name} ({finding.rule.severity}): {finding.rule.fault}. "
        f"{number}{finding.observed}\nMend: {finding.rule.mend}."
    )
    parts = [report.note(text, level)]
    for heads in dict.fromkeys(tuple(row) for row in finding.rows):
        rows = [[shown(v) for v in row.values()] for row in finding.rows if tuple(row) == heads]
        more = f"; the first {LISTED} at most" if finding.count > len(finding.rows) else ""
        parts.append(report.table(heads, rows, f"Offending rows{more}"))
    return parts


def _summary(tables: Mapping[str, pd.DataFrame]) -> Markup:
    """Counts of parts, sizes and modes."""
    rows: list[tuple[str, str, int]] = []
    for what, frame, column in (
        ("part", "labels", "part"),
        ("size", "images", "size"),
        ("mode", "images", "mode"),
        ("format", "images", "format"),
    ):
        counts = tables[frame][column].replace("", "not given").value_counts()
        rows += [(what, str(value), int(n)) for value, n in counts.head(6).items()]
    return report.table(("fact", "value", "images"), rows, "Parts, sizes and forms")


def _pictures(facts: Facts, tree: Tree, config: DataConfig) -> list[Markup]:
    """Sample images with their labels, cut and scaled as for training."""
    labels = facts.labels[facts.labels["image"] != ""]
    chosen = labels.iloc[
        np.unique(np.linspace(0, len(labels) - 1, min(SAMPLES, len(labels))).astype(int))
    ]
    images, titles = [], []
    for row in chosen.to_dict("records"):
        try:
            images.append(np.ascontiguousarray(cut(tree.read(row["image"]), facts.kind, config)))
        except UnusableError:
            continue
        titles.append(_title(row, facts))
    return [
        report.picture(
            grid([images[i : i + COLUMNS]], titles[i : i + COLUMNS]),
            "Samples as training sees them, with their labels" if i == 0 else "",
        )
        for i in range(0, len(images), COLUMNS)
    ]


def _title(row: Mapping[Any, Any], facts: Facts) -> str:
    if facts.needed:
        on = [n for n in facts.needed if n in row and VALUES.get(str(row[n])) == 1]
        return " ".join(on) or "none"
    columns = ("expression", "camera", "gaze", "class")
    return " ".join(str(row[column]) for column in columns if column in row)

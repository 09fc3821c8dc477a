"""The flat metrics of an evaluation, for trackers and metrics.json: finite numbers by name."""

from collections.abc import Iterator, Sequence
from statistics import fmean

import numpy as np

from training.core.names import named
from training.evaluation.protocol import PAPER
from training.evaluation.records import (
    DomainDistance,
    Drift,
    Evaluation,
    GroupGap,
    JudgeFacts,
    Kid,
    MaskResult,
    PaperResult,
    StyleSpread,
    SweepPoint,
    TaskScore,
    Untold,
    Verification,
    to_json,
)

Numbers = dict[str, float]
Rows = Iterator[tuple[tuple[str, ...], float]]  # the parts of a metric's name, and its value


def flat(evaluation: Evaluation) -> Numbers:
    """Every number of an evaluation by metric name.

    Raises ValueError with the names of those that are not finite.
    """
    numbers = named(_rows(evaluation))
    invalid = sorted(k for k, v in numbers.items() if not np.isfinite(v))
    if invalid:
        raise ValueError(f"not finite: {', '.join(invalid)}; the model or the judge is broken")
    return numbers


def _rows(evaluation: Evaluation) -> Rows:
    yield from (((name,), float(v)) for name, v in to_json(evaluation.summary).items())
    yield from ((("success", t.dataset, t.task), t.success) for t in evaluation.tasks)
    yield from frechet_numbers(evaluation.domains)
    yield from kid_numbers(evaluation.kids)
    yield from style_numbers(evaluation.diversity)
    yield from frechet_numbers(evaluation.styles)
    yield from (((name,), float(v)) for name, v in to_json(evaluation.cost).items())
    yield from judge_numbers(evaluation.judge)
    yield from mask_numbers(evaluation.masks)
    yield from verification_numbers(evaluation.verification)
    yield from sweep_numbers(evaluation.sweep)
    yield from (((f"symptom_{s.name}",), s.value) for s in evaluation.symptoms)
    yield from paper_numbers(evaluation.papers)
    yield from drift_numbers(evaluation.drifts)
    yield from gap_numbers(evaluation.gaps)


def tasks_by_name(tasks: Sequence[TaskScore]) -> dict[str, str]:
    """The task of each metric `success_…` that does not have the task's own name in its own."""
    names = named((("success", one.dataset, one.task), i) for i, one in enumerate(tasks))
    found = {name: tasks[int(i)].task for name, i in names.items()}
    return {name: task for name, task in found.items() if task.replace("+", "_") not in name}


def style_numbers(rows: Sequence[StyleSpread]) -> Rows:
    """E5 by style source: mean distance between outputs, and of outputs from their inputs."""
    for way in dict.fromkeys(row.way for row in rows):
        selected = [row for row in rows if row.way == way]
        name = selected[0].distance
        yield (name, way), float(np.mean([row.apart for row in selected]))
        yield (name, way, "from_input"), float(np.mean([row.from_input for row in selected]))


def frechet_numbers(rows: Sequence[DomainDistance]) -> Rows:
    """E4: each domain's distance, and means of distances and floors over a data set's domains."""
    for way, dataset in dict.fromkeys((row.way, row.dataset) for row in rows):
        selected = [row for row in rows if (row.way, row.dataset) == (way, dataset)]
        for kind in selected[0].distances:
            found = [row.distances[kind] for row in selected]
            for row, distance in zip(selected, found, strict=True):
                yield (kind, way, dataset, row.domain), distance.value
            yield (kind, way, dataset), float(np.mean([d.value for d in found]))
            yield (f"{kind}_floor", way, dataset), float(np.mean([d.floor for d in found]))
            trains = [d.train for d in found if d.train is not None]
            if len(trains) == len(found):
                yield (f"{kind}_train", way, dataset), float(np.mean(trains))


def kid_numbers(kids: Sequence[Kid]) -> Rows:
    """E4: each domain's KID, means of edits and inputs, and their ratio with its interval.

    The means' names have the data set's only where there are several.
    """
    several = len({kid.dataset for kid in kids}) > 1
    for kid in kids:
        for row in kid.domains:
            yield (kid.kind, row.dataset, row.domain), row.value
        found = (("ratio", kid.ratio), ("ratio_low", kid.low), ("ratio_high", kid.high),
                 ("", kid.value), ("inputs", kid.inputs))  # fmt: skip
        for name, value in found:
            if value is not None:
                yield (kid.kind, kid.dataset if several else "", name), value


def frechet_mean(rows: Sequence[DomainDistance], kind: str, dataset: str) -> tuple[float, float]:
    """Mean distance and mean floor over a data set's domains."""
    found = [row.distances[kind] for row in rows if row.dataset == dataset]
    return fmean(d.value for d in found), fmean(d.floor for d in found)


def judge_numbers(judge: JudgeFacts) -> Rows:
    """Clean accuracy of each data set's judge, and its error if labels are continuous."""
    for row in judge.datasets:
        yield ("judge_accuracy", row.name), row.accuracy
        if row.error is not None:
            yield ("judge_error", row.name), row.error


def paper_numbers(results: Sequence[PaperResult]) -> Rows:
    """Every number by a paper's protocol; each name starts with paper and the protocol's name."""
    for found in results:
        for one in found.numbers:
            name = (PAPER, found.protocol, one.measure, one.way, found.dataset, one.part)
            for end, value in (("", one.value), ("low", one.low), ("high", one.high)):
                if value is not None:
                    yield (*name, end), value


def drift_numbers(drifts: Sequence[Drift | Untold]) -> Rows:
    """Distance of each data set's scored images from its training images, and its p-value."""
    for found in drifts:
        if isinstance(found, Drift):
            yield ("drift", found.dataset), found.distance
            yield ("drift_p", found.dataset), found.p


def gap_numbers(gaps: Sequence[GroupGap]) -> Rows:
    """Each measure's largest gap between groups of people, with its interval.

    The names have the data set's only where there are several.
    """
    several = len({gap.dataset for gap in gaps}) > 1
    for gap in gaps:
        for end, value in (("", gap.value), ("low", gap.low), ("high", gap.high)):
            yield ("gap", gap.measure, gap.dataset if several else "", end), value


def mask_numbers(results: Sequence[MaskResult]) -> Rows:
    """Success with the proper and the wrong mask (Fig. 7)."""
    for mask in results:
        yield ("mask_proper", mask.faces, mask.labels), mask.proper
        yield ("mask_wrong", mask.faces, mask.labels), mask.wrong


def verification_numbers(rows: Sequence[Verification]) -> Rows:
    """The number of impostor pairs, and the threshold and rates if they are known (E6)."""
    for row in rows:
        found = (("impostors", row.impostors), ("threshold", row.threshold), ("rate", row.rate),
                 ("real_rate", row.real_rate))  # fmt: skip
        for name, value in found:
            if value is not None:
                yield ("verification", name, row.dataset), float(value)


def sweep_numbers(points: Sequence[SweepPoint]) -> Rows:
    """Success and preservation at each intensity."""
    for point in points:
        at = f"at_{point.intensity:g}"
        yield ("success_mean", at), point.success_mean
        if point.preservation_mean is not None:
            yield ("preservation_mean", at), point.preservation_mean

"""The flat metrics of an evaluation, for trackers and metrics.json: finite numbers by name."""

import re
from collections.abc import Sequence
from statistics import fmean

import numpy as np

from training.evaluation.records import (
    DomainDistance,
    Evaluation,
    JudgeFacts,
    MaskResult,
    StyleSpread,
    SweepPoint,
    Verification,
    to_json,
)

Numbers = dict[str, float]


def key(*parts: str) -> str:
    """A metric name of characters that every tracker accepts."""
    return "_".join(re.sub(r"[^A-Za-z0-9.-]+", "_", part) for part in parts if part)


def flat(evaluation: Evaluation) -> Numbers:
    """Every number of an evaluation by metric name.

    Raises ValueError with the names of those that are not finite.
    """
    numbers: Numbers = {k: float(v) for k, v in to_json(evaluation.summary).items()}
    numbers |= {key("success", t.dataset, t.task): t.success for t in evaluation.tasks}
    numbers |= frechet_numbers(evaluation.domains)
    numbers |= style_numbers(evaluation.diversity)
    numbers |= frechet_numbers(evaluation.styles)
    numbers |= to_json(evaluation.cost)
    numbers |= judge_numbers(evaluation.judge)
    numbers |= mask_numbers(evaluation.masks)
    numbers |= verification_numbers(evaluation.verification)
    numbers |= sweep_numbers(evaluation.sweep)
    numbers |= {f"symptom_{s.name}": s.value for s in evaluation.symptoms}
    invalid = sorted(k for k, v in numbers.items() if not np.isfinite(v))
    if invalid:
        raise ValueError(f"not finite: {', '.join(invalid)}; the model or the judge is broken")
    return numbers


def style_numbers(rows: Sequence[StyleSpread]) -> Numbers:
    """E5 by style source: mean distance between outputs, and of outputs from their inputs."""
    out: Numbers = {}
    for way in dict.fromkeys(row.way for row in rows):
        selected = [row for row in rows if row.way == way]
        name = selected[0].distance
        out[key(name, way)] = float(np.mean([row.apart for row in selected]))
        out[key(name, way, "from_input")] = float(np.mean([row.from_input for row in selected]))
    return out


def frechet_numbers(rows: Sequence[DomainDistance]) -> Numbers:
    """E4: each domain's distance, and means of distances and floors over a data set's domains."""
    out: Numbers = {}
    for way, dataset in dict.fromkeys((row.way, row.dataset) for row in rows):
        selected = [row for row in rows if (row.way, row.dataset) == (way, dataset)]
        for kind in selected[0].distances:
            found = [row.distances[kind] for row in selected]
            for row, distance in zip(selected, found, strict=True):
                out[key(kind, way, dataset, row.domain)] = distance.value
            out[key(kind, way, dataset)] = float(np.mean([d.value for d in found]))
            out[key(f"{kind}_floor", way, dataset)] = float(np.mean([d.floor for d in found]))
            trains = [d.train for d in found if d.train is not None]
            if len(trains) == len(found):
                out[key(f"{kind}_train", way, dataset)] = float(np.mean(trains))
    return out


def frechet_mean(rows: Sequence[DomainDistance], kind: str, dataset: str) -> tuple[float, float]:
    """Mean distance and mean floor over a data set's domains."""
    found = [row.distances[kind] for row in rows if row.dataset == dataset]
    return fmean(d.value for d in found), fmean(d.floor for d in found)


def judge_numbers(judge: JudgeFacts) -> Numbers:
    """Clean accuracy of each data set's judge, and its error if labels are continuous."""
    out: Numbers = {}
    for row in judge.datasets:
        out[key("judge_accuracy", row.name)] = row.accuracy
        if row.error is not None:
            out[key("judge_error", row.name)] = row.error
    return out


def mask_numbers(results: Sequence[MaskResult]) -> Numbers:
    """Success with the proper and the wrong mask (Fig. 7)."""
    out: Numbers = {}
    for mask in results:
        where = key(mask.faces, mask.labels)
        out |= {f"mask_proper_{where}": mask.proper, f"mask_wrong_{where}": mask.wrong}
    return out


def verification_numbers(rows: Sequence[Verification]) -> Numbers:
    """The number of impostor pairs, and the threshold and rates if they are known (E6)."""
    out: Numbers = {}
    for row in rows:
        found = (("impostors", row.impostors), ("threshold", row.threshold), ("rate", row.rate),
                 ("real_rate", row.real_rate))  # fmt: skip
        out |= {
            key("verification", name, row.dataset): float(value)
            for name, value in found
            if value is not None
        }
    return out


def sweep_numbers(points: Sequence[SweepPoint]) -> Numbers:
    """Success and preservation at each intensity."""
    out: Numbers = {}
    for point in points:
        at = f"at_{point.intensity:g}"
        out[key("success_mean", at)] = point.success_mean
        if point.preservation_mean is not None:
            out[key("preservation_mean", at)] = point.preservation_mean
    return out

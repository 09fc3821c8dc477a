"""The evaluation as one HTML page: verdict first, then pictures, then every table."""

from collections.abc import Mapping, Sequence

from training.evaluation.numbers import frechet_mean
from training.evaluation.paper_tables import of_evaluation
from training.evaluation.protocol import PROTOCOL
from training.evaluation.records import Evaluation, JudgeRecord
from training.evaluation.trained import facts
from training.rendering import html
from training.rendering.charts import Bar, bars
from training.rendering.fonts import legend

GALLERIES = ("samples", "fig7", "fig6", "worst", "looks")  # prefixes of the figures' file names
WEAK = 0.7  # balanced accuracy below which the judge is unreliable for a label


def render(evaluation: Evaluation) -> str:
    """Self-contained HTML page of an evaluation; all names are escaped."""
    tasks, judges = evaluation.tasks, evaluation.judge.datasets
    singles = [task for task in tasks if task.single]
    ceilings = _ceilings(evaluation)
    overall = {judge.name: judge.accuracy for judge in judges}
    marks = [
        Bar(
            f"{t.dataset}  {t.task}", t.success, t.low, t.high, t.copy_success,
            overall[t.dataset] if (known := ceilings[t.dataset, t.task]) is None else known,
            pale=not t.single,
        )
        for t in tasks
    ]  # fmt: skip
    return html.render(
        "evaluation",
        e=evaluation,
        protocol=PROTOCOL,
        papers=of_evaluation(evaluation.papers),
        unpublished=_unpublished(evaluation),
        best=max(singles, key=lambda task: task.success),
        worst=min(singles, key=lambda task: task.success),
        bars=bars(marks),
        bars_legend=legend(mark.name for mark in marks),
        ceilings=ceilings,
        mean_distances=_mean_distances(evaluation),
        without_distance=_without_distance(evaluation),
        weak=_weak(judges),
        intensity=evaluation.config.get("model", {}).get("test_int"),
        pictures={
            kind: [p for p in evaluation.pictures if p.name.startswith(kind)] for kind in GALLERIES
        },
        training=facts(evaluation.training),
    )


def _ceilings(evaluation: Evaluation) -> Mapping[tuple[str, str], float | None]:
    """The judge's clean accuracy on each task's label; None for combinations."""
    labels = {judge.name: judge.labels for judge in evaluation.judge.datasets}
    found = {}
    for task in evaluation.tasks:
        known = labels[task.dataset].get(task.task)
        found[task.dataset, task.task] = known.accuracy if known else None
    return found


def _mean_distances(evaluation: Evaluation) -> list[tuple[str, str, float, float]]:
    """(kind, data set, mean distance over its domains, mean floor)."""
    rows = evaluation.domains
    kinds = rows[0].distances if rows else ()
    datasets = dict.fromkeys(row.dataset for row in rows)
    return [(k, d, *frechet_mean(rows, k, d)) for k in kinds for d in datasets]


def _unpublished(evaluation: Evaluation) -> list[str]:
    """Data sets whose labels are in no paper's protocol."""
    known = {found.dataset for found in evaluation.papers}
    return [
        name for name in dict.fromkeys(t.dataset for t in evaluation.tasks) if name not in known
    ]


def _without_distance(evaluation: Evaluation) -> list[str]:
    """Data sets with too few images for a distance; continuous labels have no domains."""
    known = {row.dataset for row in evaluation.domains}
    kinds = {judge.name: judge.kind for judge in evaluation.judge.datasets}
    names = dict.fromkeys(task.dataset for task in evaluation.tasks)
    return [n for n in names if n not in known and kinds[n] != "continuous"]


def _weak(judges: Sequence[JudgeRecord]) -> list[str]:
    """Names of the binary labels with a balanced accuracy below WEAK."""
    return [
        f"{judge.name} {name}"
        for judge in judges
        if judge.kind == "binary"
        for name, rate in judge.labels.items()
        if rate.balanced < WEAK
    ]

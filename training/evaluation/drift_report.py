"""Everything that is said of the drift between two sets of pictures, and its page."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from training.data.labels import LabelSet
from training.evaluation.drift import (
    PERMUTATIONS,
    Difference,
    difference,
    drift,
    nearest,
)
from training.evaluation.drift_sides import Pictures, image_facts, short_names
from training.evaluation.judges.judge import Judge
from training.evaluation.records import DRIFT_LEVEL, Drift
from training.evaluation.score import position
from training.rendering import html
from training.rendering.fonts import legend
from training.rendering.grids import grid

SHOWN = 8  # pictures in the figure
CELL = 110  # px, at least


@dataclass(frozen=True)
class Compared:
    """The drift of one set of pictures with all that explains it.

    `sides`: lowest, middle and highest shorter side of the original pictures, px; None where only
    crops are there. `smaller`: the share of them that are smaller than the training images.
    """

    drift: Drift
    level: float
    labels: tuple[Difference, ...]
    facts: tuple[Difference, ...]
    totals: tuple[int, int]  # images that each side's were chosen from
    sides: tuple[int, int, int] | None
    smaller: float | None
    notes: tuple[str, ...]
    figure: bytes
    legend: str

    @property
    def found(self) -> bool:
        return self.drift.found(self.level)

    def to_json(self) -> dict[str, Any]:
        """All numbers, without the figure."""
        values = asdict(self)
        return {"found": self.found, **{k: v for k, v in values.items() if k not in _PICTURE}}


_PICTURE = ("figure", "legend")


def compare(
    labels: LabelSet,
    reference: Pictures,
    compared: Pictures,
    judge: Judge,
    *,
    permutations: int = PERMUTATIONS,
    level: float = DRIFT_LEVEL,
) -> Compared:
    """The drift of `compared` from `reference` by the judge of data set `labels`.

    Raises ValueError for too few people, as `drift` does, and for a judge of other labels.
    """
    judged = position(judge.space, labels, "the judge")
    one, two = (side.features(judge, judged) for side in (reference, compared))
    found = drift(labels.name, one, two, permutations=permutations, level=level)
    figure, shown = _unusual(reference, compared, one.features, two.features)
    sides = np.array(compared.sides)
    training = reference.images.shape[1]
    return Compared(
        found,
        level,
        tuple(_shares(labels, reference, compared)),
        tuple(image_facts(reference, compared)),
        (reference.total, compared.total),
        (int(sides.min()), int(np.median(sides)), int(sides.max())) if len(sides) else None,
        float((sides < training).mean()) if len(sides) else None,
        compared.notes,
        figure,
        shown,
    )


def _shares(labels: LabelSet, reference: Pictures, compared: Pictures) -> list[Difference]:
    """Of each label, also of classes that only one side has; empty with labels unknown."""
    if not compared.labels:
        return []
    names = dict.fromkeys([*reference.labels, *compared.labels])
    return [
        difference(
            name,
            *((side.labels.get(name, np.zeros(len(side.people))), side.people)
              for side in (reference, compared)),
            share=labels.kind != "continuous",
        )
        for name in names
    ]  # fmt: skip


def _unusual(
    reference: Pictures, compared: Pictures, known: np.ndarray, new: np.ndarray
) -> tuple[bytes, str]:
    """A figure of the pictures farthest from all known ones, one per person, and its legend."""
    index, away = nearest(new, known)
    order: dict[str, int] = {}
    for i in np.argsort(-away, kind="stable"):
        order.setdefault(str(compared.people[i]), int(i))
    chosen = list(order.values())[:SHOWN]
    pairs = [(compared.images[i].numpy(), reference.images[index[i]].numpy()) for i in chosen]
    names = short_names([compared.files[i] for i in chosen])
    tops = [f"{name} {away[i]:.2f}" for name, i in zip(names, chosen, strict=True)]
    sides = ["unusual", "nearest known"]
    rows = [list(row) for row in zip(*pairs, strict=True)]
    return grid(rows, tops, sides, CELL), legend(tops, sides)


def page(compared: Compared, reference: str, other: str) -> str:
    """Self-contained HTML page; `reference` and `other` name both sides."""
    return html.render("drift", c=compared, reference=reference, other=other)

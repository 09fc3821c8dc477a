"""One run of a comparison: a trained model, what its evaluation says, and the data of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from training.core.files import read_json
from training.evaluation.records import (
    Cost,
    Summary,
    TaskScore,
    from_json,
    stored_symptoms,
    stored_tasks,
)
from training.models.base import Diagnostic
from training.storage.meta import DatasetMeta, EvaluationMeta, ModelMeta
from training.storage.store import Manifest


@dataclass(frozen=True)
class ComparedRun:
    """One trained and evaluated model; those of one name are seeds of one system."""

    name: str
    model: Manifest[ModelMeta]
    evaluation: Manifest[EvaluationMeta]
    dataset: Manifest[DatasetMeta]

    @classmethod
    def read(cls, name: str, model: Path, evaluation: Path, dataset: Path) -> "ComparedRun":
        """Raises ValueError where the three are not of one run."""
        found = cls(
            name,
            Manifest.read(model, "model"),
            Manifest.read(evaluation, "evaluation"),
            Manifest.read(dataset, "dataset"),
        )
        said = (found.evaluation.meta.model, found.evaluation.meta.dataset)
        if said != (found.model.digest, found.dataset.digest):
            raise ValueError(f"{name}: {evaluation} is not of this model and data; pass one run's")
        return found

    @cached_property
    def numbers(self) -> dict[str, float]:
        """The flat metrics."""
        return dict(read_json(self.evaluation.local("metrics.json")))

    @cached_property
    def summary(self) -> Summary:
        return from_json(Summary, {"preservation_mean": None, **self.numbers})

    @cached_property
    def cost(self) -> Cost:
        return from_json(Cost, self.numbers)

    @cached_property
    def details(self) -> Mapping[str, Any]:
        return dict(read_json(self.evaluation.local("details.json")))

    @property
    def tasks(self) -> list[TaskScore]:
        return stored_tasks(self.details)

    @property
    def symptoms(self) -> list[Diagnostic]:
        return stored_symptoms(self.details)

    @property
    def training(self) -> Mapping[str, float]:
        """What the training took, by name; empty where its manifest does not say."""
        return dict(self.model.about.get("training", {}))

    @property
    def minutes(self) -> float:
        return self.training.get("seconds", float("nan")) / 60


def grouped(runs: Sequence[ComparedRun]) -> list[list[ComparedRun]]:
    """Runs whose scores compare, in the order given."""
    found: dict[str, list[ComparedRun]] = {}
    for run in runs:
        found.setdefault(run.evaluation.meta.identity, []).append(run)
    return list(found.values())


def named(runs: Sequence[ComparedRun]) -> dict[str, list[ComparedRun]]:
    """The seeds of each system, in the order given."""
    found: dict[str, list[ComparedRun]] = {}
    for run in runs:
        found.setdefault(run.name, []).append(run)
    return found

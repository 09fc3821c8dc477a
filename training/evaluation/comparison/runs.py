"""One run of a comparison: a trained model with its evaluation and data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from training.core.files import read_json
from training.evaluation.records import (
    Cost,
    Kid,
    PaperResult,
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
    """One trained and evaluated model; runs with the same name are seeds of one system."""

    name: str
    model: Manifest[ModelMeta]
    evaluation: Manifest[EvaluationMeta]
    dataset: Manifest[DatasetMeta]

    @classmethod
    def read(cls, name: str, model: Path, evaluation: Path, dataset: Path) -> "ComparedRun":
        """Read the manifests of one run. Raises ValueError if they are from different runs."""
        found = cls(
            name,
            Manifest.read(model, "model"),
            Manifest.read(evaluation, "evaluation"),
            Manifest.read(dataset, "dataset"),
        )
        evaluated = (found.evaluation.meta.model, found.evaluation.meta.dataset)
        if evaluated != (found.model.digest, found.dataset.digest):
            raise ValueError(
                f"{name}: {evaluation} is not of this model and data; pass manifests of one run"
            )
        return found

    @cached_property
    def numbers(self) -> dict[str, float]:
        """The flat metrics of metrics.json."""
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
    def kids(self) -> list[Kid]:
        """Kernel distances by the judge, one for each data set; empty if they were not measured."""
        # the first ones were stored for all data sets together
        rows = [row for row in self.details.get("kids", ()) if "dataset" in row]
        return [kid for row in rows if (kid := Kid.read(row)).kind == "kid_vgg"]

    @property
    def papers(self) -> list[PaperResult]:
        """The numbers by papers' protocols; empty unless eval.protocol=paper."""
        return [PaperResult.read(row) for row in self.details.get("papers", ())]

    @property
    def symptoms(self) -> list[Diagnostic]:
        return stored_symptoms(self.details)

    @property
    def training(self) -> Mapping[str, float]:
        """The training summary by name; empty if the manifest has none."""
        return dict(self.model.about.get("training", {}))

    @property
    def minutes(self) -> float:
        """Minutes of training; NaN if unknown."""
        return self.training.get("seconds", float("nan")) / 60


def grouped(runs: Sequence[ComparedRun]) -> list[list[ComparedRun]]:
    """Group runs with comparable scores (equal fingerprint), in the given order."""
    found: dict[str, list[ComparedRun]] = {}
    for run in runs:
        found.setdefault(run.evaluation.meta.identity, []).append(run)
    return list(found.values())


def named(runs: Sequence[ComparedRun]) -> dict[str, list[ComparedRun]]:
    """Runs by system name, in the given order."""
    found: dict[str, list[ComparedRun]] = {}
    for run in runs:
        found.setdefault(run.name, []).append(run)
    return found

"""One run of a comparison: a trained model, what its evaluation says, and the data of both."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.core.files import read_json
from training.storage.meta import DatasetMeta, EvaluationMeta, ModelMeta
from training.storage.store import Manifest


@dataclass(frozen=True)
class Entry:
    """One trained and evaluated model; those of one name are seeds of one system."""

    name: str
    model: Manifest[ModelMeta]
    evaluation: Manifest[EvaluationMeta]
    dataset: Manifest[DatasetMeta]

    @classmethod
    def read(cls, name: str, model: Path, evaluation: Path, dataset: Path) -> "Entry":
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

    @property
    def numbers(self) -> dict[str, float]:
        return dict(read_json(self.evaluation.local("metrics.json")))

    @property
    def minutes(self) -> float:
        return float(self.model.about.get("training", {}).get("seconds", float("nan"))) / 60


def grouped(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries whose scores compare, in the order given."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.evaluation.meta.identity, []).append(entry)
    return list(found.values())


def named(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.name, []).append(entry)
    return found

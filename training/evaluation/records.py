"""What an evaluation finds, as typed records, and the JSON in which they are stored."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple, TypeVar

import pandas as pd

from training.models.base import Diagnostic

Interval = tuple[float, float]
Record = TypeVar("Record")


def to_json(record: Any) -> dict[str, Any]:
    """A flat record as stored: what was not measured (None) is left out."""
    return {k: v for k, v in asdict(record).items() if v is not None}


def from_json(kind: type[Record], stored: Mapping[str, Any]) -> Record:
    """A flat record as it was stored; fields that it does not have are passed over.

    Raises ValueError where a field without a default is missing.
    """
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    try:
        return kind(**{name: stored[name] for name in names if name in stored})
    except TypeError as error:
        raise ValueError(f"stored {kind.__name__}: {error}; evaluate the model again") from error


class Figure(NamedTuple):
    """One picture: its file name, the PNG, and what it shows."""

    name: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class Subject:
    """What was evaluated on what: the fingerprint that comparable scores share, and digests."""

    fingerprint: str
    judge: str
    dataset: str
    split: str
    model: str

    def to_json(self) -> dict[str, str]:
        """As in manifests, where the fingerprint is called identity."""
        return {
            "identity": self.fingerprint, "judge": self.judge, "dataset": self.dataset,
            "split": self.split, "model": self.model,
        }  # fmt: skip


@dataclass(frozen=True)
class TaskScore:
    """E1, E2 and E6 of one task: means over the images that it changes, and a 95 % interval.

    Shares in 0..1; the errors are of continuous labels, in the labels' own units.
    """

    dataset: str
    task: str
    single: bool
    images: int
    people: int
    success: float
    low: float
    high: float
    copy_success: float
    blind_success: float
    preservation: float
    others: int  # labels outside the edit
    identity_cosine: float
    error: float | None = None
    error_others: float | None = None
    copy_error: float | None = None


@dataclass(frozen=True)
class Summary:
    """The numbers by which models are compared; shares in 0..1, PSNR in dB.

    None where nothing was measured: `preservation_mean` without other labels, the errors without
    continuous labels, `success_combined` without combined edits.
    """

    success_mean: float
    success_low: float
    success_high: float
    success_worst: float
    success_best: float
    copy_success_mean: float
    blind_success_mean: float
    success_rise_low: float
    learned: bool
    identity_cosine: float
    preservation_mean: float | None
    self_psnr: float
    self_ssim: float
    self_ssim_gaussian: float
    cycle_psnr: float
    cycle_ssim: float
    cycle_ssim_gaussian: float
    error_mean: float | None = None
    error_others_mean: float | None = None
    copy_error_mean: float | None = None
    error_low: float | None = None
    error_high: float | None = None
    success_combined: float | None = None


@dataclass(frozen=True)
class Distance:
    """A Fréchet distance from held-out faces, its floor (real against real), and from train."""

    value: float
    floor: float
    train: float | None = None


@dataclass(frozen=True)
class DomainDistance:
    """E4 of one target domain, `images` a side; `way`: what chose the style, where it was chosen.

    `distances` by name: frechet_vgg, and fid where Inception's weights are given.
    """

    dataset: str
    domain: str
    images: int
    distances: Mapping[str, Distance]
    way: str = ""

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"way": self.way} if self.way else {}
        row |= {"dataset": self.dataset, "domain": self.domain, "images": self.images}
        for kind, distance in self.distances.items():
            row |= {kind: distance.value, f"{kind}_floor": distance.floor}
        trains = {f"{kind}_train": distance.train for kind, distance in self.distances.items()}
        return row | {name: value for name, value in trains.items() if value is not None}


@dataclass(frozen=True)
class StyleSpread:
    """E5 of one target domain: mean distance of outputs of one input, and from that input."""

    way: str
    dataset: str
    domain: str
    distance: str
    apart: float
    from_input: float
    images: int


@dataclass(frozen=True)
class MaskResult:
    """Fig. 7 in numbers: success with the proper and the wrong mask, and what chance gives."""

    faces: str
    labels: str
    images: int
    proper: float
    proper_interval: Interval
    wrong: float
    wrong_interval: Interval
    chance: float

    @property
    def exceeds_chance(self) -> bool:
        return self.proper_interval[0] > self.chance

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "exceeds_chance": self.exceeds_chance}


@dataclass(frozen=True)
class Verification:
    """E6 as face verification counts it, of one data set.

    `impostors` are pairs of two people, `genuine` pairs of one; with fewer impostors than `needed`
    nothing else is known. `passing` of the impostors lie above the threshold; `rate` is the share
    of edits above it (95 % interval: low, high), `real_rate` that of genuine pairs.
    """

    dataset: str
    people: int
    impostors: int
    needed: int
    threshold: float | None = None
    passing: int | None = None
    rate: float | None = None
    low: float | None = None
    high: float | None = None
    genuine: int | None = None
    real_rate: float | None = None


@dataclass(frozen=True)
class SweepPoint:
    """Success and its price at one intensity of the edit."""

    intensity: float
    success_mean: float
    success_worst: float
    preservation_mean: float | None
    identity_cosine: float


@dataclass(frozen=True)
class ComparedModel:
    """One side of Fig. 6: its title, where it comes from (digest or reference), and scores."""

    title: str
    source: str
    success_mean: float
    success_low: float
    success_high: float
    identity_cosine: float
    self_psnr: float


@dataclass(frozen=True)
class Comparison:
    """Fig. 6: two models on one data set."""

    dataset: str
    models: tuple[ComparedModel, ComparedModel]

    def to_json(self) -> dict[str, Any]:
        rows = [(m.title, m.source, to_json(m)) for m in self.models]
        return {
            "dataset": self.dataset,
            "models": {title: source for title, source, _ in rows},
            "numbers": {
                title: {k: v for k, v in row.items() if k not in ("title", "source")}
                for title, _, row in rows
            },
        }


@dataclass(frozen=True)
class Cost:
    """E7: parameters of what translates and of all networks, how many equal networks, GMAC a
    translation, images a second at batch 1 and 16."""

    parameters: float
    parameters_total: float
    models: float
    gmac: float
    images_per_second_1: float
    images_per_second_16: float


@dataclass(frozen=True)
class JudgedLabel:
    """How well the judge knows one label; `share` of the images that show it."""

    accuracy: float
    balanced: float
    share: float


@dataclass(frozen=True)
class JudgeRecord:
    """The judges of one data set, on its test images."""

    name: str
    kind: str
    accuracy: float
    second_accuracy: float
    verification_auc: float | None
    people: int
    train_images: int
    test_images: int
    labels: Mapping[str, JudgedLabel]
    error: float | None = None


@dataclass(frozen=True)
class JudgeFacts:
    """What judge.json says of the judges; `stored` is its content."""

    seed: int
    datasets: tuple[JudgeRecord, ...]
    stored: Mapping[str, Any] = field(repr=False)

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> "JudgeFacts":
        datasets = []
        for row in stored["datasets"]:
            labels = {name: from_json(JudgedLabel, rates) for name, rates in row["labels"].items()}
            datasets.append(from_json(JudgeRecord, {**row, "labels": labels}))
        return cls(stored["config"]["seed"], tuple(datasets), stored)


@dataclass(frozen=True)
class Evaluation:
    """Everything that one evaluation found; `table` has one row an (image, task).

    `config` is the model's configuration; `training` what its training took, by name.
    """

    subject: Subject
    config: Mapping[str, Any]
    summary: Summary
    tasks: Sequence[TaskScore]
    domains: Sequence[DomainDistance]
    diversity: Sequence[StyleSpread]
    styles: Sequence[DomainDistance]
    cost: Cost
    judge: JudgeFacts
    masks: Sequence[MaskResult]
    verification: Sequence[Verification]
    sweep: Sequence[SweepPoint]
    symptoms: Sequence[Diagnostic]
    training: Mapping[str, float]
    comparison: Comparison | None
    pictures: Sequence[Figure]
    table: pd.DataFrame

    def details(self) -> dict[str, Any]:
        """The content of details.json."""
        compared = {"compare": self.comparison.to_json()} if self.comparison else {}
        return {
            **self.subject.to_json(),
            "tasks": [to_json(task) for task in self.tasks],
            "domains": [row.to_json() for row in self.domains],
            "masks": [result.to_json() for result in self.masks],
            "verification": [to_json(found) for found in self.verification],
            **compared,
            "judge_facts": dict(self.judge.stored),
            "sweep": [to_json(point) for point in self.sweep],
            "diversity": [to_json(row) for row in self.diversity],
            "styles": [row.to_json() for row in self.styles],
            "symptoms": [{**s._asdict(), "bad": s.bad} for s in self.symptoms],
            "training": dict(self.training),
        }


def stored_tasks(details: Mapping[str, Any]) -> list[TaskScore]:
    """The tasks of a details.json."""
    return [from_json(TaskScore, row) for row in details["tasks"]]


def stored_symptoms(details: Mapping[str, Any]) -> list[Diagnostic]:
    """The symptoms of a details.json."""
    return [
        Diagnostic(**{name: row[name] for name in Diagnostic._fields})
        for row in details["symptoms"]
    ]

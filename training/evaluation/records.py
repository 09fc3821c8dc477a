"""Results of an evaluation as typed records, and their stored JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from training.evaluation.protocol import OURS, PUBLISHED, Published

if TYPE_CHECKING:  # the last lines of a run read the records without pandas and torch
    import pandas as pd

    from training.models.base import Diagnostic

Interval = tuple[float, float]
DRIFT_LEVEL = 0.01  # p-values up to it count as drift
Record = TypeVar("Record")


def to_json(record: Any) -> dict[str, Any]:
    """A flat record as JSON, without the fields that were not measured (None)."""
    return {k: v for k, v in asdict(record).items() if v is not None}


def from_json(kind: type[Record], stored: Mapping[str, Any]) -> Record:
    """A flat record from its JSON; unknown keys are ignored.

    Raises ValueError if a field without a default is missing.
    """
    try:
        return kind(**{name: stored[name] for name in kind.__annotations__ if name in stored})
    except TypeError as error:
        raise ValueError(f"stored {kind.__name__}: {error}; evaluate the model again") from error


class Figure(NamedTuple):
    """One figure: file name, PNG and caption."""

    name: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class Subject:
    """The inputs of an evaluation: fingerprint, split, and digests of judge, data set and model."""

    fingerprint: str
    judge: str
    dataset: str
    split: str
    model: str
    protocol: str = OURS

    def to_json(self) -> dict[str, str]:
        """As stored in manifests, where the key of the fingerprint is identity.

        `protocol` only if it is not ours, which older ones mean without naming it.
        """
        protocol = {} if self.protocol == OURS else {"protocol": self.protocol}
        return {
            "identity": self.fingerprint, "judge": self.judge, "dataset": self.dataset,
            "split": self.split, "model": self.model, **protocol,
        }  # fmt: skip


@dataclass(frozen=True)
class TaskScore:
    """E1, E2 and E6 of one task: means over the images that it changes, and a 95 % interval.

    Shares in 0..1; `copy_success` is that of the unchanged input, `blind_success` that of the
    self-reconstruction. Errors are mean absolute errors of continuous labels, in label units.
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
    others: int  # number of labels outside the edit
    identity_cosine: float
    error: float | None = None
    error_others: float | None = None
    copy_error: float | None = None


@dataclass(frozen=True)
class Summary:
    """The numbers by which models are compared; shares in 0..1, PSNR in dB.

    None if not applicable: `preservation_mean` without other labels, the errors without continuous
    labels, `success_combined` without combined edits, and what `realism` measures without it: the
    raster in grey levels, background and likeness in 0..1, with 95 % intervals. `success_rise_low`
    is the lower end of the interval of the gain over copied inputs and self-reconstructions.
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
    raster: float | None = None
    raster_low: float | None = None
    raster_high: float | None = None
    background: float | None = None
    background_low: float | None = None
    background_high: float | None = None
    likeness: float | None = None
    likeness_low: float | None = None
    likeness_high: float | None = None


@dataclass(frozen=True)
class Distance:
    """A Fréchet distance to held-out images, its floor (real to real), and that to train images."""

    value: float
    floor: float
    train: float | None = None


@dataclass(frozen=True)
class DomainDistance:
    """E4 of one target domain with `images` per side; `way`: style source, "" without styles.

    `distances` by name: frechet_vgg, and fid if Inception weights are given.
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
class DomainKid:
    """Distance of the edits of one target domain, and of their unedited inputs, from real images.

    `images` edits are compared with `reals` real images; `left` more edits have no real image with
    all their labels (and of their person, if `Kid.paired`). Unless `matched`, only the edited label
    is equal on both sides.
    """

    dataset: str
    domain: str
    images: int
    reals: int
    left: int
    matched: bool
    value: float
    inputs: float


@dataclass(frozen=True)
class Kid:
    """E4 of one data set: means over domains by one kind of features, kid_vgg or kid (Inception),
    with 95 % intervals over people; 0 for real images.

    `value…`: of the edits, `inputs…`: of their inputs, `ratio`, `low` and `high`: the first
    as a multiple of the second; None without a domain of three people on each side. `skipped`:
    domains with fewer. `paired`: the mean squared distance from real images of the same person
    instead of a kernel distance.
    """

    kind: str
    dataset: str
    images: int
    people: int
    domains: tuple[DomainKid, ...]
    skipped: tuple[str, ...] = ()
    value: float | None = None
    value_low: float | None = None
    value_high: float | None = None
    inputs: float | None = None
    inputs_low: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    paired: bool = False

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> "Kid":
        """From its stored JSON (`to_json`)."""
        domains = tuple(from_json(DomainKid, row) for row in stored["domains"])
        return from_json(cls, {**stored, "domains": domains, "skipped": tuple(stored["skipped"])})


class Scores(NamedTuple):
    """What the gate reads of one model: its score table, and kernel distances by kind and set."""

    table: "pd.DataFrame"
    kids: tuple[Kid, ...] = ()


@dataclass(frozen=True)
class StyleSpread:
    """E5 of one target domain: mean distance between outputs of one input, and to that input."""

    way: str
    dataset: str
    domain: str
    distance: str
    apart: float
    from_input: float
    images: int


@dataclass(frozen=True)
class PaperNumber:
    """One number by a paper's protocol; `measure` is a key of `PUBLISHED[…].measures`.

    `part`: the attribute, class or ordered pair of domains, "" for the mean over all; `way`: the
    style source, "" without styles; `outputs`: the number of images it was measured on.
    """

    measure: str
    value: float
    outputs: int
    part: str = ""
    way: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class PaperResult:
    """The numbers of one data set by `protocol`, a key of PUBLISHED.

    `sources` says in words which images were edited, `images` how many there are, and `remark` what
    could not be measured.
    """

    protocol: str
    dataset: str
    sources: str
    images: int
    numbers: tuple[PaperNumber, ...]
    remark: str = ""

    @property
    def published(self) -> Published:
        return PUBLISHED[self.protocol]

    def to_json(self) -> dict[str, Any]:
        return {**to_json(self), "numbers": [to_json(number) for number in self.numbers]}

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> "PaperResult":
        """From its stored JSON (`to_json`)."""
        numbers = tuple(from_json(PaperNumber, row) for row in stored["numbers"])
        return from_json(cls, {**stored, "numbers": numbers})


@dataclass(frozen=True)
class MaskResult:
    """Fig. 7 in numbers: success with the proper and the wrong mask, and by chance, in 0..1."""

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
    """E6 as face verification on one data set.

    `impostors`: number of pairs of different people, `genuine`: of the same person. With fewer
    impostors than `needed` the rest is None. `passing` impostors lie above the threshold; `rate` is
    the share of edits above it (95 % interval: low, high), `real_rate` that of genuine pairs.
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
class Drift:
    """The distance of one set of images from another with its p-value.

    `error` is the standard error of `p`, which comes from a limited number of `permutations`;
    images and people are those of the reference and of the compared set.
    """

    dataset: str
    distance: float
    p: float
    error: float
    permutations: int
    reference_images: int
    reference_people: int
    images: int
    people: int

    def found(self, level: float = DRIFT_LEVEL) -> bool:
        """Whether the sets differ: the p-value is at most `level`."""
        return self.p <= level


@dataclass(frozen=True)
class Untold:
    """Why the drift of a data set is unknown."""

    dataset: str
    why: str


@dataclass(frozen=True)
class GroupScore:
    """Single edits of the images of one group of people, by one label of theirs.

    `scores`: value and 95 % interval over people by measure (success, preservation, identity,
    background), means over edits; empty for fewer than three people.
    """

    dataset: str
    label: str
    group: str
    images: int
    people: int
    scores: Mapping[str, tuple[float, float, float]]


@dataclass(frozen=True)
class GroupGap:
    """The largest difference of one measure between two groups of one label, `compared` in all.

    The interval is widened for the choice of the largest.
    """

    dataset: str
    measure: str
    label: str
    above: str
    below: str
    value: float
    low: float
    high: float
    compared: int


@dataclass(frozen=True)
class SweepPoint:
    """Scores at one intensity of the edit."""

    intensity: float
    success_mean: float
    success_worst: float
    preservation_mean: float | None
    identity_cosine: float


@dataclass(frozen=True)
class ComparedModel:
    """One model of Fig. 6: title, source (digest or reference) and scores."""

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
    """E7: parameters of the translating and of all networks, number of equal translating networks,
    GMAC per translation, images/s at batch 1 and 16."""

    parameters: float
    parameters_total: float
    models: float
    gmac: float
    images_per_second_1: float
    images_per_second_16: float


@dataclass(frozen=True)
class JudgedLabel:
    """The judge's accuracy on one label, and the `share` of images that show it."""

    accuracy: float
    balanced: float
    share: float


@dataclass(frozen=True)
class JudgeRecord:
    """The judges of one data set, measured on its test images."""

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
    """The judges' records from judge.json; `stored` is its whole content."""

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
    """All results of one evaluation; `table` has one row per (image, task).

    `config` is the model's configuration, `training` the summary of its training by name. All
    numbers are by our protocol but those of `papers`.
    """

    subject: Subject
    config: Mapping[str, Any]
    summary: Summary
    tasks: Sequence[TaskScore]
    domains: Sequence[DomainDistance]
    kids: Sequence[Kid]
    diversity: Sequence[StyleSpread]
    styles: Sequence[DomainDistance]
    cost: Cost
    judge: JudgeFacts
    masks: Sequence[MaskResult]
    verification: Sequence[Verification]
    sweep: Sequence[SweepPoint]
    symptoms: "Sequence[Diagnostic]"
    training: Mapping[str, float]
    comparison: Comparison | None
    pictures: Sequence[Figure]
    table: "pd.DataFrame"
    papers: Sequence[PaperResult] = ()
    drifts: Sequence[Drift | Untold] = ()
    groups: Sequence[GroupScore] = ()
    gaps: Sequence[GroupGap] = ()

    @property
    def scores(self) -> Scores:
        return Scores(self.table, tuple(self.kids))

    def details(self) -> dict[str, Any]:
        """The content of details.json."""
        comparison = {"compare": self.comparison.to_json()} if self.comparison else {}
        papers = {"papers": [found.to_json() for found in self.papers]} if self.papers else {}
        drifts = {"drift": [to_json(found) for found in self.drifts]} if self.drifts else {}
        groups = {
            name: [to_json(one) for one in found]
            for name, found in (("groups", self.groups), ("gaps", self.gaps))
            if found
        }
        return {
            **self.subject.to_json(),
            "tasks": [to_json(task) for task in self.tasks],
            "domains": [row.to_json() for row in self.domains],
            "kids": [to_json(kid) for kid in self.kids],
            "masks": [result.to_json() for result in self.masks],
            "verification": [to_json(found) for found in self.verification],
            **comparison,
            **papers,
            **drifts,
            **groups,
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


def stored_symptoms(details: Mapping[str, Any]) -> "list[Diagnostic]":
    """The symptoms of a details.json."""
    from training.models.base import Diagnostic

    return [
        Diagnostic(**{name: row[name] for name in Diagnostic._fields})
        for row in details["symptoms"]
    ]

"""The contract between a model and everything that trains, evaluates or serves it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from training.core.config import DataConfig, EvalConfig, JudgeConfig, TrainConfig
from training.data.batch import Batch
from training.data.labels import Kind, LabelSpace

Nets = dict[str, nn.Module]
Losses = dict[str, Tensor]  # named, already weighted scalars; each a mean over the batch


class Phase(NamedTuple):
    """One update: which networks it trains and by which loss."""

    name: str  # prefixes its logged losses: "d/gp"
    trains: tuple[str, ...]  # the rest are frozen
    loss: Callable[[Nets, Batch], Losses]
    every: int = 1  # run once in this many iterations
    new_batch: bool = False  # draw another batch for this phase
    keep_grad: tuple[
        str, ...
    ] = ()  # left unfrozen where a later phase of the batch trains them, so
    # that what it shares has their graph; its own loss must be detached from them
    round_robin_index: int = -1  # run when it is this index's turn; `every` counts whole rounds
    active_range: tuple[float, float] = (0.0, 1.0)  # share of the images in which it runs
    eval_nets: tuple[str, ...] = ()  # in evaluation mode during this phase (batch norm, dropout)


class Optim(NamedTuple):
    """Adam's settings for one network."""

    lr: float
    betas: tuple[float, float]
    weight_decay: float = 0.0
    clip: float = 0.0  # largest norm of the network's gradient; 0: not clipped


class Diagnostic(NamedTuple):
    """A number that reveals a known failure, and its healthy range."""

    name: str
    value: float
    low: float
    high: float
    says: str  # what a value outside means

    @property
    def bad(self) -> bool:
        return not self.low <= self.value <= self.high


class Adversarial(NamedTuple):
    """A model's adversarial loss: its form, and the logged terms of D that make it up."""

    form: Literal["wgan", "gan", "lsgan"]  # −E[D(x)] + E[D(G)]; cross entropies; ½ squares
    terms: tuple[tuple[str, ...], ...]  # of each D
    factor: float = 1.0  # on a D's summed terms, which gives the form's loss of one score


class Preview(NamedTuple):
    """Images (rows, columns, 3, s, s) in [-1, 1] in which a model shows what it does."""

    images: Tensor
    columns: tuple[str, ...]
    says: str  # the caption
    rows: tuple[str, ...] = ()
    moves: bool = False  # the rows are frames, shown one after the other


@dataclass(frozen=True)
class EditOptions:
    """Optional controls of an edit; `Model.supported_options` names those that a model honours."""

    intensity: float | None = None  # factor on a label that changes; 1 is that of training
    seed: int | None = None  # of the latent
    reference: Tensor | None = None  # (n, 3, s, s) images whose style is taken


DEFAULT_OPTIONS = EditOptions()


@dataclass(frozen=True)
class Preset:
    """A named configuration of one model."""

    model: "Model"
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)


SET_WORDS = {"binary": "attributes", "onehot": "classes", "continuous": "intensities"}


@dataclass(frozen=True)
class Model(ABC):
    """A stateless frozen dataclass whose fields are the paper's numbers.

    What every model must say is abstract; everything else has a default here.
    """

    label_kinds: ClassVar[tuple[Kind, ...]] = ("binary", "onehot", "continuous")  # its own first
    several_sets: ClassVar[bool] = True  # data sets may share it, through the mask vector
    reads_source: ClassVar[bool] = False  # edits better when the source labels are known
    edits_own_labels: ClassVar[bool] = True  # an edit to the labels an image has runs a network
    references: ClassVar[int] = 0  # images of the target's class in each row of a batch; source and
    # target classes are then drawn evenly and independently
    adversarial: ClassVar[Adversarial | None] = None  # whose balance is watched

    @classmethod
    @abstractmethod
    def presets(cls) -> dict[str, Preset]:
        """Its configurations by name."""

    @classmethod
    @abstractmethod
    def tiny(cls) -> Self:
        """The smallest networks for images of 16 px, with every option on: what the tests train."""

    @abstractmethod
    def networks(self, space: LabelSpace, size: int) -> Nets:
        """New networks for images of side `size`, by name.

        Raises ValueError for a label space or a size that the model does not take.
        """

    @abstractmethod
    def phases(self, space: LabelSpace) -> list[Phase]:
        """The updates of one iteration, in order."""

    @abstractmethod
    def optim(self, space: LabelSpace) -> dict[str, Optim]:
        """Settings of each network's optimiser."""

    @abstractmethod
    def validate(self, nets: Nets, batch: Batch, space: LabelSpace) -> Tensor:
        """A scalar that is logged with each checkpoint; higher is better."""

    @abstractmethod
    def translate(
        self,
        nets: Nets,
        image: Tensor,
        source: Tensor | None,
        target: Tensor,
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """Images (n, 3, s, s) in [-1, 1] with labels c̃ `source` (None: unknown) as `target`."""

    def warmup(self, space: LabelSpace) -> list[Phase]:
        """Phases of the optional reconstruction-only warm-up; none: training begins at once."""
        return []

    def averaged(self, space: LabelSpace) -> tuple[str, ...]:
        """Networks of which a moving average is kept, and used to translate."""
        return ()

    def lr_scale(self, images: int, length: int, decay: int) -> float:
        """Factor on every learning rate after `images` of `length` real images.

        Constant, then linear to 0 over the last `decay` images.
        """
        return min(1.0, (length - images) / decay) if decay else 1.0

    def domain_masks(
        self, labels: Tensor, space: LabelSpace, index: int
    ) -> tuple[Tensor, Tensor] | None:
        """Which images (n,) of labels (n, k) a batch's rows, and their references, are drawn from.

        `index` is the round-robin index whose turn it is. None: any image.
        """
        return None

    @property
    def supported_options(self) -> tuple[str, ...]:
        """The fields of EditOptions that `translate` honours."""
        return ()

    def paint(
        self,
        nets: Nets,
        image: Tensor,
        source: Tensor | None,
        target: Tensor,
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> tuple[Tensor | None, Tensor]:
        """An edit A∘image + (1 − A)∘C as A (n, 1, s, s) and C (n, 3, s, s).

        A larger picture keeps its own pixels where A is 1. None: C is the whole edit.
        """
        return None, self.translate(nets, image, source, target, options)

    def reconstruct(self, nets: Nets, image: Tensor, source: Tensor) -> Tensor:
        """The images with the labels that they have, through the networks."""
        return self.translate(nets, image, source, source)

    def deployed(self, nets: Nets) -> tuple[str, ...] | None:
        """Networks that edits need in all; None: those that any single edit runs."""
        return None

    def diagnostics(self, nets: Nets, image: Tensor, target: Tensor) -> list[Diagnostic]:
        """Known failures, measured on held-out images and the labels that they are to have."""
        return []

    def previews(self, nets: Nets, batch: Batch, space: LabelSpace) -> dict[str, Preview]:
        """What the model shows of itself on held-out images, beside the grid of edits of all."""
        return {}

    def check_space(self, space: LabelSpace) -> None:
        """Raises ValueError, naming what is needed, for a label space that it does not take."""
        kinds = {part.kind for part in space.sets}
        if kinds <= set(self.label_kinds) and (self.several_sets or len(space.sets) == 1):
            return
        found = ", ".join(f"{part.name}: {part.kind}" for part in space.sets)
        wanted = " or ".join(SET_WORDS[kind] for kind in self.label_kinds)
        count = "data sets" if self.several_sets else "one data set"
        hint = (
            "; take folders or rafd, or make classes of attributes with data.domains"
            if self.label_kinds == ("onehot",)
            else ""
        )
        raise ValueError(f"{found}: {type(self).__name__} takes {count} of {wanted}{hint}")


def check_options(model: Model, name: str, source: Tensor | None, options: EditOptions) -> None:
    """Raises ValueError, with what the model supports, for options that it would ignore."""
    given = [f.name for f in fields(EditOptions) if getattr(options, f.name) is not None]
    supported = model.supported_options
    if wrong := [what for what in given if what not in supported]:
        raise ValueError(
            f"{name} takes no {', '.join(wrong)}; it takes {', '.join(('labels', *supported))}"
        )
    if options.intensity is not None and not math.isfinite(options.intensity):
        raise ValueError(f"intensity={options.intensity}: a number is needed")
    if options.intensity is not None and source is None:
        raise ValueError(
            "intensity: a factor on labels that change; say what the picture has already (--has)"
        )
    if options.seed is not None and options.reference is not None:
        raise ValueError("seed and reference: a style comes from one of them; leave one out")


def examples(batch: Batch, space: LabelSpace) -> tuple[tuple[str, ...], Tensor, Tensor, Tensor]:
    """Each single edit on one image that it changes, another image each time.

    Names, images, and c̃ of the labels that they have and of those that they are to have.
    """
    labels = batch.source[:, space.slice(batch.dataset)]
    names: list[str] = []
    rows: list[int] = []
    targets: list[Tensor] = []
    for task in space.tasks(labels, batch.dataset):
        if task.single and task.changed.any():
            fit = task.changed.nonzero()[:, 0].tolist()
            rows.append(fit[len(rows) % len(fit)])
            names.append(task.name)
            targets.append(task.target[rows[-1]])
    target = space.encode(torch.stack(targets), batch.dataset) if rows else batch.target[:0]
    return tuple(names), batch.image[rows], batch.source[rows], target

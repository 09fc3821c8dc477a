"""The interface between a model and the code that trains, evaluates or serves it."""

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
Losses = dict[str, Tensor]  # weighted scalar terms by name; each a mean over the batch


class Ahead(NamedTuple):
    """Tensors of a phase's batch that can be made for several steps in one pass."""

    reads: tuple[str, ...]  # networks, without batch norm and dropout: rows are independent
    tensors: Callable[[Nets, Batch], dict[str, Tensor]]  # by their names in Batch.shared; by row


class Phase(NamedTuple):
    """One update: which networks it trains, with which loss."""

    name: str  # prefixes its logged losses: "d/gp"
    trains: tuple[str, ...]  # the rest are frozen
    loss: Callable[[Nets, Batch], Losses]
    every: int = 1  # run once in this many iterations
    new_batch: bool = False  # draw another batch for this phase
    # Not frozen if a later phase on the same batch trains them, so that shared tensors carry their
    # graph; this phase's loss must be detached from them.
    keep_grad: tuple[str, ...] = ()
    round_robin_index: int = -1  # runs only in this turn; -1: every turn; `every` counts rounds
    active_range: tuple[float, float] = (0.0, 1.0)  # training progress during which it runs
    eval_nets: tuple[str, ...] = ()  # in evaluation mode during this phase (batch norm, dropout)
    ahead: Ahead | None = None  # made before the phase while the networks it reads stand still


class Optim(NamedTuple):
    """Adam's settings for one network."""

    lr: float
    betas: tuple[float, float]
    weight_decay: float = 0.0
    clip: float = 0.0  # maximum gradient norm of the network; 0: no clipping


class Diagnostic(NamedTuple):
    """A scalar that reveals a known training failure, and its healthy range [low, high]."""

    name: str
    value: float
    low: float
    high: float
    says: str  # what a value outside the range means

    @property
    def bad(self) -> bool:
        return not self.low <= self.value <= self.high


class Adversarial(NamedTuple):
    """A model's adversarial loss: its form, and the logged loss terms of each D."""

    form: Literal["wgan", "gan", "lsgan"]  # −E[D(x)] + E[D(G)]; cross entropy; ½ square
    terms: tuple[tuple[str, ...], ...]  # one tuple of log names for each D
    factor: float = 1.0  # times a D's summed terms gives the form's loss for one score


class Preview(NamedTuple):
    """A grid of example images (rows, columns, 3, s, s) in [-1, 1] that illustrates a model."""

    images: Tensor
    columns: tuple[str, ...]
    caption: str
    rows: tuple[str, ...] = ()
    moves: bool = False  # an animation whose frames are the rows


@dataclass(frozen=True)
class EditOptions:
    """Optional edit controls. `Model.supported_options` lists those that a model supports."""

    intensity: float | None = None  # factor on each changed label; training uses 1
    seed: int | tuple[int, ...] | None = None  # of the latent code; several: one for each image
    reference: Tensor | None = None  # style images (n, 3, s, s) in [-1, 1]
    latent: Tensor | None = None  # (n, style_width), in place of a seed: an exported graph's input


DEFAULT_OPTIONS = EditOptions()


@dataclass(frozen=True)
class Preset:
    """A named configuration of one model."""

    model: "Model"
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)


KIND_NAMES = {"binary": "attributes", "onehot": "classes", "continuous": "intensities"}


@dataclass(frozen=True)
class Model(ABC):
    """Base class of all models: stateless frozen dataclasses of hyper-parameters.

    Defaults are the paper's values. Every model implements the abstract methods; all others have
    a default here.
    """

    label_kinds: ClassVar[tuple[Kind, ...]] = ("binary", "onehot", "continuous")  # main kind first
    several_sets: ClassVar[bool] = True  # can train on several data sets, with the mask vector
    reads_source: ClassVar[bool] = False  # `translate` uses the source labels
    needs_source: ClassVar[bool] = False  # and cannot do without them
    edits_own_labels: ClassVar[bool] = True  # translating to unchanged labels runs a network
    # Images of the target class per batch row; if > 0, source and target classes are drawn
    # uniformly and independently.
    references: ClassVar[int] = 0

    @property
    def adversarial(self) -> Adversarial | None:
        """Its adversarial loss, by which the balance of D and G is monitored; None: it has none."""
        return None

    def named_classes(self) -> tuple[str, ...]:
        """Classes that a setting names, such as a hub; the data must have them."""
        return ()

    @classmethod
    @abstractmethod
    def presets(cls) -> dict[str, Preset]:
        """Named configurations of this model."""

    @classmethod
    @abstractmethod
    def tiny(cls) -> Self:
        """The smallest configuration, for 16 px images and with every option on; used by tests."""

    @abstractmethod
    def networks(self, space: LabelSpace, size: int) -> Nets:
        """Create the networks, by name, for images of `size` × `size` px.

        Raises ValueError for a label space or a size that the model does not support.
        """

    @abstractmethod
    def phases(self, space: LabelSpace) -> list[Phase]:
        """The updates of one iteration, in order."""

    @abstractmethod
    def optim(self, space: LabelSpace) -> dict[str, Optim]:
        """Optimiser settings of each network."""

    @abstractmethod
    def validate(self, nets: Nets, batch: Batch, space: LabelSpace) -> Tensor:
        """Validation score, logged with each checkpoint; higher is better."""

    @abstractmethod
    def translate(
        self,
        nets: Nets,
        image: Tensor,
        source: Tensor | None,
        target: Tensor,
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """Edit images (n, 3, s, s) in [-1, 1] from labels c̃ `source` to `target` (n, dim_g).

        `source` is None if unknown. Returns images of the same shape and range.
        """

    def warmup(self, space: LabelSpace) -> list[Phase]:
        """Phases of the reconstruction-only warm-up; an empty list for no warm-up."""
        return []

    def averaged(self, space: LabelSpace) -> tuple[str, ...]:
        """Networks with a moving average of their weights, which is used to translate."""
        return ()

    def lr_scale(self, images: int, length: int, decay: int) -> float:
        """Factor on every learning rate after `images` of `length` images.

        Default: constant, then linear to 0 over the last `decay` images.
        """
        return min(1.0, (length - images) / decay) if decay else 1.0

    def domain_masks(
        self, labels: Tensor, space: LabelSpace, index: int
    ) -> tuple[Tensor, Tensor] | None:
        """Masks (n,) of the images that batch rows and their references are drawn from.

        `labels` is (n, k); `index` is the current round-robin index. None: no restriction.
        """
        return None

    @property
    def supported_options(self) -> tuple[str, ...]:
        """The fields of EditOptions that `translate` supports."""
        return ()

    @property
    def style_width(self) -> int:
        """Width of the latents from which it draws styles; 0: it draws none."""
        return 0

    @property
    def usual_intensity(self) -> float:
        """The intensity of an edit without options."""
        return 1.0

    def paint(
        self,
        nets: Nets,
        image: Tensor,
        source: Tensor | None,
        target: Tensor,
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> tuple[Tensor | None, Tensor]:
        """The edit A∘image + (1 − A)∘C as A (n, 1, s, s) in [0, 1] and C (n, 3, s, s) in [-1, 1].

        An edit inside a larger picture keeps its pixels where A is 1. A is None if C is the result.
        """
        return None, self.translate(nets, image, source, target, options)

    def reconstruct(self, nets: Nets, image: Tensor, source: Tensor) -> Tensor:
        """Self-reconstruction: translate images to the labels that they already have."""
        return self.translate(nets, image, source, source)

    def deployed(self, nets: Nets) -> tuple[str, ...] | None:
        """Networks that inference needs; None: those that any single edit runs."""
        return None

    def diagnostics(self, nets: Nets, image: Tensor, target: Tensor) -> list[Diagnostic]:
        """Diagnostics on held-out images (n, 3, s, s) and their target labels c̃ (n, dim_g)."""
        return []

    def previews(self, nets: Nets, batch: Batch, space: LabelSpace) -> dict[str, Preview]:
        """Model-specific preview images by name, on held-out images."""
        return {}

    def check_space(self, space: LabelSpace) -> None:
        """Raise ValueError, naming the supported kinds, for an unsupported label space."""
        kinds = {part.kind for part in space.sets}
        if kinds <= set(self.label_kinds) and (self.several_sets or len(space.sets) == 1):
            return
        given = ", ".join(f"{part.name}: {part.kind}" for part in space.sets)
        supported = " or ".join(KIND_NAMES[kind] for kind in self.label_kinds)
        count = "data sets" if self.several_sets else "one data set"
        hint = (
            "; use folders, rafd or one column of words, or turn attributes into classes with "
            "data.domains"
            if self.label_kinds == ("onehot",)
            else ""
        )
        raise ValueError(f"{given}: {type(self).__name__} takes {count} of {supported}{hint}")


def check_options(model: Model, name: str, source: Tensor | None, options: EditOptions) -> None:
    """Raise ValueError, listing the supported options, for options that the model would ignore.

    Also for a `source` that the model needs, for an intensity that is not finite or has none, for
    both seed and reference, and for a seed that torch does not take.
    """
    if model.needs_source and source is None:
        raise ValueError(
            f"{name} has networks for pairs of labels: give the labels of the picture with --has"
        )
    given = [f.name for f in fields(EditOptions) if getattr(options, f.name) is not None]
    supported = model.supported_options
    if ignored := [option for option in given if option not in supported]:
        raise ValueError(
            f"{name} takes no {', '.join(ignored)}; it takes {', '.join(('labels', *supported))}"
        )
    if options.intensity is not None and not math.isfinite(options.intensity):
        raise ValueError(f"intensity={options.intensity}: a finite number is needed")
    if options.intensity is not None and source is None:
        raise ValueError(
            "intensity scales the labels that change; give the labels of the picture with --has"
        )
    if options.seed is not None and options.reference is not None:
        raise ValueError("seed and reference: the style comes from one of them; give only one")
    seeds = options.seed if isinstance(options.seed, tuple) else (options.seed or 0,)
    if wrong := [seed for seed in seeds if not -(2**63) <= seed < 2**64]:
        raise ValueError(f"seed {wrong[0]}: out of range; give a number from 0 to {2**64 - 1}")


def examples(batch: Batch, space: LabelSpace) -> tuple[tuple[str, ...], Tensor, Tensor, Tensor]:
    """One example image for each single edit that changes it.

    Returns the edits' names, images (n, 3, s, s), and source and target labels c̃ (n, dim_g).
    """
    labels = batch.source[:, space.slice(batch.dataset)]
    names: list[str] = []
    rows: list[int] = []
    targets: list[Tensor] = []
    for task in space.tasks(labels, batch.dataset):
        if task.single and task.changed.any():
            candidates = task.changed.nonzero()[:, 0].tolist()
            rows.append(candidates[len(rows) % len(candidates)])
            names.append(task.name)
            targets.append(task.target[rows[-1]])
    target = space.encode(torch.stack(targets), batch.dataset) if rows else batch.target[:0]
    return tuple(names), batch.image[rows], batch.source[rows], target

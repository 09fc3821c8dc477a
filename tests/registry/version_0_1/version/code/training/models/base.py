"""The whole contract between a model and the loop."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from training.data.labels import LabelSpace

Nets = dict[str, nn.Module]
Losses = dict[str, Tensor]  # named, already weighted scalars; each a mean over the batch


@dataclass(frozen=True)
class Batch:
    """What one phase sees. Rows are this process's part of the global batch."""

    image: Tensor  # (n, 3, size, size) in [-1, 1]
    source: Tensor  # (n, dim_g) c̃ of the labels the images have
    target: Tensor  # (n, dim_g) c̃ of the labels asked for
    dataset: int  # index into LabelSpace.sets
    noise: Callable[[str, tuple[int, ...]], Tensor]
    # noise(name, shape): uniform [0, 1) of shape (n, *shape), keyed by (seed, global index, name)
    position: float  # of the schedule: 0 at the first image, 1 at the last
    reference: Tensor | None = None  # (n, k, 3, size, size) images with the target's labels
    other: Tensor | None = None  # (n, dim_g) c̃ of other images, never the labels of the row's own
    shared: dict[str, Tensor] = field(default_factory=dict)
    # what a phase made of this batch and a later phase of the same step takes again


class Phase(NamedTuple):
    """One update: which networks move and by which loss."""

    name: str  # prefixes its logged losses: "d/gp"
    trains: tuple[str, ...]  # the rest are frozen
    loss: Callable[[Nets, Batch], Losses]
    every: int = 1  # run once in this many iterations
    fresh: bool = False  # draw a new batch for this phase
    keeps: tuple[str, ...] = ()  # left unfrozen where a later phase of the batch trains them, so
    # that what it shares has their graph; its own loss must be detached from them
    turn: int = -1  # run in this turn only; turns rotate, and `every` counts their rounds
    span: tuple[float, float] = (0.0, 1.0)  # share of the images in which it runs: a stage


class Optim(NamedTuple):
    """Adam's settings for one network."""

    lr: float
    betas: tuple[float, float]
    weight_decay: float = 0.0


class Symptom(NamedTuple):
    """A number that tells a known way of going wrong, and the range in which all is well."""

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


class Picture(NamedTuple):
    """Images (rows, columns, 3, s, s) in [-1, 1] by which a model shows what it does."""

    images: Tensor
    columns: tuple[str, ...]
    says: str  # the caption
    rows: tuple[str, ...] = ()
    moves: bool = False  # the rows are frames, shown one after the other


@dataclass(frozen=True)
class Ask:
    """How an edit is asked for, beside its labels; a model names what it `takes` of these."""

    intensity: float | None = None  # factor on a label that changes; 1 is that of training
    seed: int | None = None  # of the latent
    reference: Tensor | None = None  # (n, 3, s, s) pictures whose style is taken


PLAIN = Ask()


def check_ask(model: Any, name: str, source: Tensor | None, ask: Ask) -> None:
    """Raises ValueError, with what the model takes, for an ask that it would not heed."""
    given = [f.name for f in fields(Ask) if getattr(ask, f.name) is not None]
    takes = getattr(model, "takes", ())
    if wrong := [what for what in given if what not in takes]:
        raise ValueError(
            f"{name} takes no {', '.join(wrong)}; it takes {', '.join(('labels', *takes))}"
        )
    if ask.intensity is not None and not math.isfinite(ask.intensity):
        raise ValueError(f"intensity={ask.intensity}: a number is needed")
    if ask.intensity is not None and source is None:
        raise ValueError(
            "intensity: a factor on labels that change; say what the picture has already (--has)"
        )
    if ask.seed is not None and ask.reference is not None:
        raise ValueError("seed and reference: a style comes from one of them; leave one out")


class Model(Protocol):
    """A stateless frozen dataclass whose fields are the paper's numbers.

    One with a class attribute `references` asks for that many images of the target's class in each
    row of a batch; source and target classes are then drawn evenly, each for itself. One with a
    method `sides(labels, space, turn)` -> two (n,) bools gets images of the first and one reference
    of the second in each row. One with a method `deployed(nets)` names the networks that
    translation needs where one edit does not use them all. One without a way to be asked for what
    is there has a method `reconstruct(nets, image, source)`. One with a class attribute
    `adversarial` has the balance of D and G watched. One with a method `shows(nets, batch, space)`
    -> {name: Picture} draws itself best on held-out images, beside the grid of edits of all.
    """

    def networks(self, space: LabelSpace, size: int) -> Nets: ...

    def phases(self, space: LabelSpace) -> list[Phase]: ...

    def warmup(self, space: LabelSpace) -> list[Phase]:
        """Phases of the optional reconstruction-only warm-up."""
        ...

    def optim(self, space: LabelSpace) -> dict[str, Optim]: ...

    def averaged(self, space: LabelSpace) -> tuple[str, ...]:
        """Networks of which a moving average is kept, and used to translate."""
        ...

    def lr_scale(self, images: int, length: int, decay: int) -> float:
        """Factor on every learning rate after `images` of `length` real images."""
        ...

    def validate(self, nets: Nets, batch: Batch, space: LabelSpace) -> Tensor:
        """Score (scalar, higher is better) by which the best checkpoint is kept."""
        ...

    def translate(
        self, nets: Nets, image: Tensor, source: Tensor | None, target: Tensor, ask: Ask = PLAIN
    ) -> Tensor:
        """(n, 3, s, s) in [-1, 1] with labels c̃ `source` (None: not known) shown with `target`.

        A model that edits worse without the source says so by a class attribute `reads_source`;
        the fields of `ask` that it heeds are named in its attribute `takes`. One with known
        ways of going wrong has a method `symptoms(nets, image, target)` -> list of Symptom. One
        whose edit is A∘image + (1 − A)∘C has a method `painted`, with the arguments of this one,
        -> (A (n, 1, s, s), C): a larger picture then keeps its own pixels where A is 1.
        """
        ...


@dataclass(frozen=True)
class Translator:
    """A trained model ready for use; `nets` hold the averaged weights where they exist."""

    model: Model
    nets: Nets
    space: LabelSpace
    size: int
    config: dict[str, Any]
    ask: Ask = PLAIN

    @torch.no_grad()
    def __call__(self, image: Tensor, source: Tensor | None, target: Tensor) -> Tensor:
        """Translate (n, 3, size, size) in [-1, 1] from c̃ `source` to c̃ `target` (n, dim_g).

        Raises ValueError, with what the model takes, for an ask that it does not heed.
        """
        check_ask(self.model, self.config["name"], source, self.ask)
        return self.model.translate(self.nets, image, source, target, self.ask)

    @torch.no_grad()
    def painted(
        self, image: Tensor, source: Tensor | None, target: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """What is kept of the image (None: the model does not say) and what is put in its place."""
        check_ask(self.model, self.config["name"], source, self.ask)
        paint = getattr(self.model, "painted", None)
        if paint is None:
            return None, self(image, source, target)
        kept: tuple[Tensor, Tensor] = paint(self.nets, image, source, target, self.ask)
        return kept

    def reconstruct(self, image: Tensor, source: Tensor) -> Tensor:
        """G(x, c_org), or the model's own `reconstruct` where no network takes what is there."""
        own = getattr(self.model, "reconstruct", None)
        with torch.no_grad():
            return own(self.nets, image, source) if own else self(image, source, source)

    def back(self, image: Tensor) -> "Translator":
        """The way back to `image`: with its own style where the model takes a reference."""
        if "reference" not in getattr(self.model, "takes", ()):
            return self
        return replace(self, ask=Ask(reference=image))


def examples(batch: Batch, space: LabelSpace) -> tuple[tuple[str, ...], Tensor, Tensor, Tensor]:
    """Each single edit on one image that it changes, another one each time.

    Names, images, and c̃ of what they have and of what is asked for.
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


class CopyInput:
    """The translator that changes nothing: the floor of every comparison."""

    def __call__(self, image: Tensor, source: Tensor, target: Tensor) -> Tensor:
        return image

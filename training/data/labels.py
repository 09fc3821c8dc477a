"""The label space: n labelled data sets in one vector c̃ = [c₁ … cₙ, m] (StarGAN eq. 7).

Each data set has binary attributes, one one-hot class or continuous intensities. A generator
gets all of them plus, for n > 1, the mask m that marks the known part; unknown parts are zero.
A discriminator's label head has no mask.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # steps that only read labels do not import torch
    from torch import Tensor

Kind = Literal["binary", "onehot", "continuous"]
# CelebA's attributes, in the order of its label file.
ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs",
    "Big_Lips", "Big_Nose", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows",
    "Chubby", "Double_Chin", "Eyeglasses", "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones",
    "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin",
    "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair",
    "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace",
    "Wearing_Necktie", "Young",
)  # fmt: skip
# Mutually exclusive hair colours.
HAIR = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
# Mutually exclusive attributes: AttGAN's rules for the labels that it edits.
CONFLICTS = (("Bald", "Bangs"), ("Receding_Hairline", "Bangs"), ("Straight_Hair", "Wavy_Hair"))
# OpenFace's action units: GANimation's 17, in the same order.
UNITS = tuple(
    f"AU{number:02}" for number in (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)
)
# Intensities closer than TOLERANCE count as equal; an edit's target is EDIT_INTENSITY, 3.5 of
# OpenFace's 5: clearly visible, while faces hardly ever reach the full 5.
TOLERANCE, EDIT_INTENSITY = 0.25, 0.7


@dataclass(frozen=True)
class LabelSet:
    """The labels of one data set.

    At most one label of each of the `groups` may be 1, and at most one of each pair of `conflicts`.
    An edit of a group's member switches it on; an edit of any other label flips it.
    """

    name: str
    kind: Kind
    names: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...] = ()
    conflicts: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) != len(self.names):
            raise ValueError(f"{self.name}: label names must be present and unique: {self.names}")
        unknown = {n for group in self.exclusive for n in group} - set(self.names)
        if unknown:
            raise ValueError(f"{self.name}: a group names unknown labels {sorted(unknown)}")

    @property
    def exclusive(self) -> tuple[tuple[str, ...], ...]:
        return (*self.groups, *self.conflicts)

    def group(self, name: str) -> tuple[int, ...]:
        """Positions of `name` and of the labels it excludes: those that its edit may change."""
        excluded = [n for names in self.exclusive if name in names for n in names]
        return tuple(self.names.index(n) for n in dict.fromkeys([*excluded, name]))


@dataclass(frozen=True)
class Task:
    """One edit of a batch: target labels (n, k) of one data set, and which images change."""

    name: str
    edits: tuple[str, ...]  # names of the edited labels
    target: Tensor  # (n, k)
    changed: Tensor  # (n,) bool: target differs from the source labels (by TOLERANCE or more)

    @property
    def single(self) -> bool:
        return len(self.edits) == 1


@dataclass(frozen=True)
class LabelSpace:
    """The labels of every data set, in order."""

    sets: tuple[LabelSet, ...]

    def __post_init__(self) -> None:
        names = [s.name for s in self.sets]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"data sets must be present and have unique names: {names}")

    @property
    def dim_d(self) -> int:
        """Width of the discriminator's label head."""
        return sum(len(s.names) for s in self.sets)

    @property
    def dim_g(self) -> int:
        """Width of the generator's label vector c̃, with the mask if there are several data sets."""
        return self.dim_d + (len(self.sets) if len(self.sets) > 1 else 0)

    def index(self, name: str) -> int:
        names = [s.name for s in self.sets]
        if name not in names:
            raise ValueError(f"unknown data set {name!r}; this label space has {', '.join(names)}")
        return names.index(name)

    def matching(self, labels: LabelSet) -> int | None:
        """Index of the data set with the same labels, preferably the same name; None if missing.

        This applies a model to other data than it was trained on.
        """
        same = [i for i, s in enumerate(self.sets) if replace(s, name=labels.name) == labels]
        same_name = [i for i in same if self.sets[i].name == labels.name]
        return next(iter(same_name or same), None)

    def slice(self, dataset: int) -> slice:
        """Columns of the data set's labels, both in c̃ and in the discriminator's head."""
        start = sum(len(s.names) for s in self.sets[:dataset])
        return slice(start, start + len(self.sets[dataset].names))

    def encode(self, labels: Tensor, dataset: int) -> Tensor:
        """c̃ (n, dim_g) of labels (n, k) of one data set: unknown parts 0, its mask entry 1.

        Raises ValueError for labels of another shape.
        """
        if labels.ndim != 2 or labels.shape[1] != len(self.sets[dataset].names):
            raise ValueError(
                f"{self.sets[dataset].name}: labels of shape {tuple(labels.shape)}; "
                f"(n, {len(self.sets[dataset].names)}) is needed"
            )
        labels = labels.float()
        out = labels.new_zeros((len(labels), self.dim_g))
        out[:, self.slice(dataset)] = labels
        if len(self.sets) > 1:
            out[:, self.dim_d + dataset] = 1.0
        return out

    def tasks(self, labels: Tensor, dataset: int) -> list[Task]:
        """Every edit that evaluation scores, for labels (n, k) in [0, 1].

        Binary: each attribute alone (a member of a group is switched on and the others off, any
        other attribute is flipped), then StarGAN's combinations of group, Male and Young (H+G,
        H+A, G+A, H+G+A). One-hot: each class. Continuous: each intensity alone at EDIT_INTENSITY.
        """
        part = self.sets[dataset]
        if part.kind == "onehot":
            rows = labels.new_zeros((len(part.names), len(part.names))).fill_diagonal_(1)
            return [
                _task(name, (name,), row.expand(len(labels), -1).clone(), labels)
                for name, row in zip(part.names, rows, strict=True)
            ]
        if part.kind == "continuous":
            return [
                _task(n, (n,), _intensified(labels, i), labels) for i, n in enumerate(part.names)
            ]
        singles = [_task(n, (n,), edit(labels, part, n), labels) for n in part.names]
        return singles + _combinations(labels, part)

    def to_json(self) -> dict[str, Any]:
        return {
            "sets": [
                {
                    "name": s.name,
                    "kind": s.kind,
                    "names": list(s.names),
                    "groups": [list(g) for g in s.groups],
                    **({"conflicts": [list(c) for c in s.conflicts]} if s.conflicts else {}),
                }
                for s in self.sets
            ]
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> LabelSpace:
        return cls(
            tuple(
                LabelSet(
                    s["name"],
                    s["kind"],
                    tuple(s["names"]),
                    tuple(tuple(g) for g in s["groups"]),
                    tuple(tuple(c) for c in s.get("conflicts", ())),
                )
                for s in value["sets"]
            )
        )


def _task(name: str, edits: tuple[str, ...], target: Tensor, labels: Tensor) -> Task:
    return Task(name, edits, target, ((target - labels).abs() >= TOLERANCE).any(1))


def _intensified(labels: Tensor, index: int) -> Tensor:
    out = labels.clone()
    out[:, index] = EDIT_INTENSITY
    return out


def _switch_on(labels: Tensor, part: LabelSet, name: str) -> Tensor:
    out = labels.clone()
    out[:, list(part.group(name))] = 0
    out[:, part.names.index(name)] = 1
    return out


def edit(labels: Tensor, part: LabelSet, name: str) -> Tensor:
    """Switch `name` on if it is in a group, else flip it; if on, the labels it excludes go off."""
    if any(name in group for group in part.groups):
        return _switch_on(labels, part, name)
    return flip(labels, part, name)


def flip(labels: Tensor, part: LabelSet, name: str) -> Tensor:
    """Flip `name`, a group's member, too; where that is on, the labels it excludes go off."""
    flipped = labels.clone()
    index = part.names.index(name)
    flipped[:, index] = 1 - flipped[:, index]
    return _switch_on(labels, part, name).where(flipped[:, index, None] == 1, flipped)


def _next_in_group(labels: Tensor, part: LabelSet, group: tuple[str, ...]) -> Tensor:
    """Switch each row to the group's next member (the first if none is set)."""
    positions = [part.names.index(n) for n in group]
    current = labels[:, positions]
    following = ((current.argmax(1) + 1) % len(group)) * current.any(1)
    out = labels.clone()
    out[:, positions] = current.new_zeros(current.shape).scatter_(1, following[:, None], 1)
    return out


def _combinations(labels: Tensor, part: LabelSet) -> list[Task]:
    letters = {"H": part.groups[0] if part.groups else (), "G": ("Male",), "A": ("Young",)}
    available = {k: v for k, v in letters.items() if v and set(v) <= set(part.names)}
    tasks = []
    for count in range(2, len(available) + 1):
        for combination in itertools.combinations(available, count):
            target = labels
            for letter in combination:
                names = available[letter]
                if letter == "H":
                    target = _next_in_group(target, part, names)
                else:
                    target = edit(target, part, names[0])
            edits = tuple(n for letter in combination for n in available[letter])
            tasks.append(_task("+".join(combination), edits, target, labels))
    return tasks


def label_names(space: LabelSpace) -> list[str]:
    """A name for each column of c̃, including the mask."""
    names = [f"{part.name}/{label}" for part in space.sets for label in part.names]
    masks = [f"mask/{part.name}" for part in space.sets] if len(space.sets) > 1 else []
    return names + masks

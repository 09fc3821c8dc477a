"""The label space: n labelled data sets in one vector c̃ = [c₁ … cₙ, m] (StarGAN eq. 7).

Each data set brings binary attributes, one one-hot class or continuous intensities. A generator
sees all of them plus, for n > 1, the mask m that says which part is known; unknown parts are zero.
A discriminator's label head has no mask.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # steps that only read labels start without torch
    from torch import Tensor

Kind = Literal["binary", "onehot", "continuous"]
# Attributes of which a face has at most one; CelebA's names.
HAIR = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
# Attributes that a face has not both of: AttGAN's rules for the labels that it edits.
CONFLICTS = (("Bald", "Bangs"), ("Receding_Hairline", "Bangs"), ("Straight_Hair", "Wavy_Hair"))
# OpenFace's action units: GANimation's 17, in its order.
UNITS = tuple(
    f"AU{number:02}" for number in (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)
)
# Of an intensity: what is nearer counts as the same, and what an edit asks for. That is 3.5 of
# OpenFace's 5, plain to see; faces hardly ever show the full 5.
TOLERANCE, PLAIN = 0.25, 0.7


@dataclass(frozen=True)
class LabelSet:
    """The labels of one data set: `groups` lists names of which at most one may be 1.

    So do `conflicts`, of two; but an edit of a group's member switches it on, any other flips.
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
        """Positions of `name` and of what cannot be 1 beside it: those that its edit may move."""
        beside = [n for names in self.exclusive if name in names for n in names]
        return tuple(self.names.index(n) for n in dict.fromkeys([*beside, name]))


@dataclass(frozen=True)
class Task:
    """One edit of a batch: target labels (n, k) in the data set's own part, and who changes."""

    name: str
    edits: tuple[str, ...]  # names of the labels that the edit is about
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
        """Width of the generator's label c̃: with more than one data set it carries the mask."""
        return self.dim_d + (len(self.sets) if len(self.sets) > 1 else 0)

    def index(self, name: str) -> int:
        names = [s.name for s in self.sets]
        if name not in names:
            raise ValueError(f"unknown data set {name!r}; this label space has {', '.join(names)}")
        return names.index(name)

    def matching(self, labels: LabelSet) -> int | None:
        """Position of the set of these labels; of another name where none has its own.

        So that a model can be applied to other data than it was trained on.
        """
        same = [i for i, s in enumerate(self.sets) if replace(s, name=labels.name) == labels]
        own = [i for i in same if self.sets[i].name == labels.name]
        return next(iter(own or same), None)

    def slice(self, dataset: int) -> slice:
        """Where the data set's labels stand, in c̃ and in the discriminator's head alike."""
        start = sum(len(s.names) for s in self.sets[:dataset])
        return slice(start, start + len(self.sets[dataset].names))

    def encode(self, labels: Tensor, dataset: int) -> Tensor:
        """c̃ (n, dim_g) of labels (n, k) of one data set: unknown parts zero, the mask set."""
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
        """Every edit that evaluation asks for, of labels (n, k) in [0, 1].

        Binary: each attribute alone (a member of a group is switched on and the others off, any
        other attribute is flipped), then StarGAN's combinations of group, Male and Young (H+G,
        H+A, G+A, H+G+A). One-hot: each class. Continuous: each intensity alone at PLAIN.
        """
        part = self.sets[dataset]
        if part.kind == "onehot":
            rows = labels.new_zeros((len(part.names), len(part.names))).fill_diagonal_(1)
            return [
                _task(name, (name,), row.expand(len(labels), -1).clone(), labels)
                for name, row in zip(part.names, rows, strict=True)
            ]
        if part.kind == "continuous":
            return [_task(n, (n,), _plain(labels, i), labels) for i, n in enumerate(part.names)]
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


def _plain(labels: Tensor, at: int) -> Tensor:
    out = labels.clone()
    out[:, at] = PLAIN
    return out


def _switch_on(labels: Tensor, part: LabelSet, name: str) -> Tensor:
    out = labels.clone()
    out[:, list(part.group(name))] = 0
    out[:, part.names.index(name)] = 1
    return out


def edit(labels: Tensor, part: LabelSet, name: str) -> Tensor:
    """Switch `name` on if it belongs to a group, else flip it; once on, what it excludes is off."""
    if any(name in group for group in part.groups):
        return _switch_on(labels, part, name)
    flipped = labels.clone()
    at = part.names.index(name)
    flipped[:, at] = 1 - flipped[:, at]
    return _switch_on(labels, part, name).where(flipped[:, at, None] == 1, flipped)


def _next_in_group(labels: Tensor, part: LabelSet, group: tuple[str, ...]) -> Tensor:
    """Move each row to the group's next member (the first where none is set)."""
    positions = [part.names.index(n) for n in group]
    current = labels[:, positions]
    following = ((current.argmax(1) + 1) % len(group)) * current.any(1)
    out = labels.clone()
    out[:, positions] = current.new_zeros(current.shape).scatter_(1, following[:, None], 1)
    return out


def _combinations(labels: Tensor, part: LabelSet) -> list[Task]:
    letters = {"H": part.groups[0] if part.groups else (), "G": ("Male",), "A": ("Young",)}
    have = {k: v for k, v in letters.items() if v and set(v) <= set(part.names)}
    tasks = []
    for count in range(2, len(have) + 1):
        for combination in itertools.combinations(have, count):
            target = labels
            for letter in combination:
                names = have[letter]
                if letter == "H":
                    target = _next_in_group(target, part, names)
                else:
                    target = edit(target, part, names[0])
            edits = tuple(n for letter in combination for n in have[letter])
            tasks.append(_task("+".join(combination), edits, target, labels))
    return tasks

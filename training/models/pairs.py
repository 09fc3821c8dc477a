"""Networks that lead from one domain to another: which pairs a label space has, and their chain."""

from collections.abc import Callable
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from training.data.batch import Batch
from training.data.labels import LabelSet, LabelSpace
from training.models.base import Model, Nets, Preview, examples

# (direction, images of its first domain) -> the same in its second; "ab0" is pair 0's a to b
Edge = Callable[[str, Tensor], Tensor]


class Pair(NamedTuple):
    """Two domains: label `a` is 1 in one; in the other label `b` is, or, where b is −1, a is 0."""

    name: str
    a: int
    b: int
    hub: bool = False  # edits between its label `b` and the other such pairs' go through `a`


def pairs_of(labels: LabelSet, hub: str = "") -> list[Pair]:
    """Every two labels that exclude each other, and each other attribute with its absence.

    Of the labels that exclude `hub`, only its own pairs. Raises ValueError where nothing does.
    """
    names, out = labels.names, []
    groups = [names] if labels.kind == "onehot" else list(labels.groups)
    if hub and not any(hub in group for group in groups):
        known = ", ".join(name for group in groups for name in group)
        raise ValueError(f"hub={hub!r}: one of the classes is needed ({known or 'there are none'})")
    for group in groups:
        couples = list(combinations(group, 2))
        if hub in group:
            couples = [(hub, y) for y in group if y != hub]
        out += [Pair(f"{x}-{y}", names.index(x), names.index(y), hub in group) for x, y in couples]
    grouped = {name for group in groups for name in group}
    return out + [Pair(n, names.index(n), -1) for n in names if n not in grouped]


def split(labels: Tensor, pair: Pair) -> tuple[Tensor, Tensor]:
    """Which rows (n,) of labels (n, k) are in the pair's first and second domain."""
    first = labels[:, pair.a] > 0.5
    return first, (labels[:, pair.b] > 0.5) if pair.b >= 0 else ~first


def two_domains(batch: Batch) -> tuple[Tensor, Tensor]:
    """The pair's images: of its first and of its second domain."""
    if batch.reference is None:
        raise ValueError("a pair trains on batches of two domains")
    return batch.image, batch.reference[:, 0]


def chained(
    edge: Edge, pairs: list[Pair], image: Tensor, source: Tensor | None, target: Tensor
) -> Tensor:
    """The directions of each pair that an edit crosses, one after the other.

    Where pairs have a hub, an edit goes to it and from there on. Raises ValueError without the
    source.
    """
    if source is None:
        raise ValueError(
            "networks of pairs go from one domain to another: say which labels the picture has"
        )
    out, between = image.clone(), target
    if hubs := [pair for pair in pairs if pair.hub]:
        members = [hubs[0].a, *(pair.b for pair in hubs)]
        at_hub = torch.zeros_like(target[:, members])
        at_hub[:, 0] = 1
        moves = (source[:, members] != target[:, members]).any(1, keepdim=True)
        between = target.clone()
        between[:, members] = torch.where(moves, at_hub, target[:, members])
    for start, end in ((source, between), (between, target)):
        for k, pair in enumerate(pairs):
            (from_a, from_b), (to_a, to_b) = split(start, pair), split(end, pair)
            for direction, rows in (("ab", from_a & to_b), ("ba", from_b & to_a)):
                if rows.any():
                    out[rows] = edge(f"{direction}{k}", out[rows])
    return out


def identities(edge: Edge, pairs: list[Pair], image: Tensor, source: Tensor) -> Tensor:
    """Each image by the first direction that leads to a domain it is in already: G_ab(b).

    A chain from its labels to themselves crosses no pair and would be a copy.
    """
    out, left = image.clone(), torch.ones(len(image), dtype=torch.bool, device=image.device)
    for k, pair in enumerate(pairs):
        in_a, in_b = split(source, pair)
        for direction, rows in (("ab", in_b & left), ("ba", in_a & left)):
            if rows.any():
                out[rows] = edge(f"{direction}{k}", image[rows])
        left &= ~(in_a | in_b)
    return out


def there_and_back(model: Model, nets: Nets, batch: Batch, space: LabelSpace) -> dict[str, Preview]:
    """Single edits, and the networks of the other direction on what came out."""
    names, x, source, target = examples(batch, space)
    there = model.translate(nets, x, source, target)
    back = model.translate(nets, there, target, source)
    says = "Single edits, and the way back from what came out."
    columns = ("input", "edited", "back")
    return {"cycle": Preview(torch.stack([x, there, back], 1), columns, says, names)}

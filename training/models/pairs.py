"""Domain pairs of a label space, and multi-label edits as chains of pairwise networks."""

from collections.abc import Callable
from itertools import combinations
from typing import NamedTuple, cast

import torch
from torch import Tensor

from training.data.batch import Batch
from training.data.labels import LabelSet, LabelSpace
from training.models.base import Model, Nets, Preview, examples

# (direction, images of the source domain, their rows in the batch) -> images of the target domain;
# "ab0": pair 0, a to b
Edge = Callable[[str, Tensor, Tensor], Tensor]


class Pair(NamedTuple):
    """Two domains: label `a` is 1 in the first; in the second `b` is 1 or, if b is −1, `a` is 0."""

    name: str
    a: int
    b: int
    hub: bool = False  # edits between the labels `b` of two such pairs pass through `a`


def pairs_of(labels: LabelSet, hub: str = "") -> list[Pair]:
    """All pairs of mutually exclusive labels, and each remaining attribute with its absence.

    Of the group of `hub`, only the pairs with `hub`. Raises ValueError if `hub` is in no group.
    """
    names, out = labels.names, []
    groups = [names] if labels.kind == "onehot" else list(labels.groups)
    if hub and not any(hub in group for group in groups):
        known = ", ".join(name for group in groups for name in group)
        raise ValueError(f"hub={hub!r}: one of the classes is needed ({known or 'none exist'})")
    for group in groups:
        combined = list(combinations(group, 2))
        if hub in group:
            combined = [(hub, y) for y in group if y != hub]
        out += [Pair(f"{x}-{y}", names.index(x), names.index(y), hub in group) for x, y in combined]
    grouped = {name for group in groups for name in group}
    return out + [Pair(n, names.index(n), -1) for n in names if n not in grouped]


def pairs_in(nets: Nets, name: str = "Gab") -> list[Pair]:
    """The domain pairs of the networks <name>0, <name>1, …, each of which holds its own."""
    count = sum(key.startswith(name) for key in nets)
    return [cast(Pair, nets[f"{name}{k}"].pair) for k in range(count)]


def split(labels: Tensor, pair: Pair) -> tuple[Tensor, Tensor]:
    """Masks (n,) of the rows of labels (n, k) in the pair's first and second domain."""
    first = labels[:, pair.a] > 0.5
    return first, (labels[:, pair.b] > 0.5) if pair.b >= 0 else ~first


def two_domains(batch: Batch) -> tuple[Tensor, Tensor]:
    """The batch's images (n, 3, s, s) of the pair's first and second domain."""
    if batch.reference is None:
        raise ValueError("a domain pair needs batches with reference images of the second domain")
    return batch.image, batch.reference[:, 0]


def chained(
    edge: Edge, pairs: list[Pair], image: Tensor, source: Tensor | None, target: Tensor
) -> Tensor:
    """Apply the direction of each pair that the edit crosses, one after the other.

    With a hub, the edit first goes to the hub. Raises ValueError without source labels.
    """
    if source is None:
        raise ValueError(
            "pairwise networks need the source domain: give the labels of the picture with --has"
        )
    out, intermediate = image.clone(), target
    if hubs := [pair for pair in pairs if pair.hub]:
        members = [hubs[0].a, *(pair.b for pair in hubs)]
        at_hub = torch.zeros_like(target[:, members])
        at_hub[:, 0] = 1
        changed = (source[:, members] != target[:, members]).any(1, keepdim=True)
        intermediate = target.clone()
        intermediate[:, members] = torch.where(changed, at_hub, target[:, members])
    legs = ((source, intermediate), (intermediate, target)) if hubs else ((source, target),)
    for start, end in legs:
        for k, pair in enumerate(pairs):
            (from_a, from_b), (to_a, to_b) = split(start, pair), split(end, pair)
            for direction, rows in (("ab", from_a & to_b), ("ba", from_b & to_a)):
                if torch.compiler.is_exporting():
                    out = _switched(edge, f"{direction}{k}", out, rows)
                elif rows.any():
                    out[rows] = edge(f"{direction}{k}", out[rows], rows)
    return out


def _switched(edge: Edge, direction: str, x: Tensor, rows: Tensor) -> Tensor:
    """One step of `chained` as an If of an exported graph: if any row passes, all are computed."""

    def passed(x: Tensor, rows: Tensor) -> Tensor:
        # Both branches must give the same order in memory.
        return torch.where(rows[:, None, None, None], edge(direction, x, rows), x).contiguous()

    def kept(x: Tensor, rows: Tensor) -> Tensor:
        return x.clone(memory_format=torch.contiguous_format)

    out: Tensor = torch.cond(rows.any(), passed, kept, (x, rows))
    return out


def identity_mappings(edge: Edge, pairs: list[Pair], image: Tensor, source: Tensor) -> Tensor:
    """Map each image (n, 3, s, s) to a domain that it is already in: G_ab(b) of its first pair.

    A chain with unchanged labels crosses no pair and would copy the input.
    """
    out, remaining = image.clone(), torch.ones(len(image), dtype=torch.bool, device=image.device)
    for k, pair in enumerate(pairs):
        in_a, in_b = split(source, pair)
        for direction, rows in (("ab", in_b & remaining), ("ba", in_a & remaining)):
            if rows.any():
                out[rows] = edge(f"{direction}{k}", image[rows], rows)
        remaining &= ~(in_a | in_b)
    return out


def cycle_previews(model: Model, nets: Nets, batch: Batch, space: LabelSpace) -> dict[str, Preview]:
    """Previews of single edits and of their cycle reconstructions."""
    names, x, source, target = examples(batch, space)
    edited = model.translate(nets, x, source, target)
    back = model.translate(nets, edited, target, source)
    caption = "Single edits and their cycle reconstructions."
    columns = ("input", "edited", "back")
    return {"cycle": Preview(torch.stack([x, edited, back], 1), columns, caption, names)}

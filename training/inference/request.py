"""The labels of an edit as a person writes them: `Blond_Hair`, `set/Male=0`, `AU12=0.8`."""

import torch
from torch import Tensor

from training.data.labels import LabelSet, LabelSpace, label_names


def read(space: LabelSpace, texts: list[str]) -> tuple[int, dict[str, float]]:
    """The data set that `name`, `set/name` or `name=value` are of, and the values by name.

    Raises ValueError for a name that is unknown or given twice, labels of no or two data sets,
    two that exclude each other, and a value that the labels cannot have.
    """
    known = [(i, name) for i, part in enumerate(space.sets) for name in part.names]
    values: dict[str, float] = {}
    sets = set() if texts or len(space.sets) > 1 else {0}
    for text in texts:
        name, _, value = text.partition("=")
        hits = [(i, n) for i, n in known if name in (n, f"{space.sets[i].name}/{n}")]
        if len(hits) != 1:
            names = ", ".join(label_names(space)[: space.dim_d])
            raise ValueError(f"{name!r}: name one of the model's labels: {names}")
        ((index, name),) = hits
        if name in values:
            raise ValueError(f"{name}: given twice; leave one out")
        values[name] = _amount(text, value, space.sets[index])
        sets.add(index)
    if len(sets) != 1:
        raise ValueError(
            f"{', '.join(texts) or 'no label'}: of {len(sets)} data sets; name labels of one of "
            f"{', '.join(part.name for part in space.sets)}"
        )
    index = sets.pop()
    part = space.sets[index]
    for group in [part.names] if part.kind == "onehot" else part.groups:
        if len(both := [name for name in group if values.get(name)]) > 1:
            raise ValueError(f"{', '.join(both)}: a picture has one of these at most; name one")
    return index, values


def _amount(text: str, value: str, part: LabelSet) -> float:
    try:
        amount = float(value or 1)
    except ValueError:
        amount = -1.0
    if not 0 <= amount <= 1:
        raise ValueError(f"{text}: a number between 0 and 1 is needed")
    if part.kind == "onehot" and amount != 1:
        raise ValueError(f"{text}: a class is had whole; name the one that is wanted")
    if part.kind == "binary" and amount not in (0, 1):
        raise ValueError(f"{text}: {part.name} knows on and off; NAME or NAME=0 is needed")
    return amount


def _switched(part: LabelSet, row: Tensor, values: dict[str, float]) -> Tensor:
    """Labels (k,) with `values`; what comes on switches off what it excludes."""
    out = row.clone()
    for name, value in values.items():
        if value:
            out[list(range(len(out)) if part.kind == "onehot" else part.group(name))] = 0
        out[part.names.index(name)] = value
    return out


def labels(
    space: LabelSpace, asked: list[str], has: list[str] | None, *, reads: bool
) -> tuple[Tensor | None, Tensor]:
    """c̃ (1, dim_g) of what a picture has (None: not said) and of what it is to have.

    The edit starts from `has`, else from labels that all are off. `reads`: whether the model looks
    at the first; where it does not, a `has` that changes nothing is refused too (ValueError).
    """
    before = None if has is None else read(space, has)
    index, wanted = read(space, asked) if asked or before is None else (before[0], {})
    part = space.sets[index]
    shown, source = torch.zeros(len(part.names)), None
    if before is not None:
        own = space.sets[before[0]]
        row = _switched(own, torch.zeros(len(own.names)), before[1])
        _require_class(own, row)
        source = space.encode(row[None], before[0])
        if before[0] == index:
            shown = row
        if not reads and (before[0] != index or part.kind == "onehot"):
            raise ValueError(
                f"{', '.join(has or ())}: the model does not look at what a picture has already, "
                "and the target takes nothing from it; leave it out"
            )
    target = _switched(part, shown, wanted)
    _require_class(part, target)
    return source, space.encode(target[None], index)


def _require_class(part: LabelSet, row: Tensor) -> None:
    if part.kind == "onehot" and not row.any():
        raise ValueError(f"{part.name}: no class is named; name one of {', '.join(part.names)}")

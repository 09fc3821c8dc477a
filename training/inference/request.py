"""Parse the labels of an edit from text: `Blond_Hair`, `set/Male=0`, `AU12=0.8`."""

from collections.abc import Iterable

import torch
from torch import Tensor

from training.data.labels import LabelSet, LabelSpace, label_names


def listed(names: Iterable[str]) -> str:
    """The names, comma-separated; in quotes if one of them has a comma."""
    names = list(names)
    quoted = any("," in name for name in names)
    return ", ".join(f"'{name}'" if quoted else name for name in names)


def parse(space: LabelSpace, texts: list[str]) -> tuple[int, dict[str, float]]:
    """Parse `name`, `set/name` or `name=value`: index of the data set, and name -> value in [0, 1].

    Raises ValueError for unknown and repeated names, labels of no or several data sets, mutually
    exclusive labels, and invalid values.
    """
    known = [(i, name) for i, part in enumerate(space.sets) for name in part.names]
    plain = {n for i, name in known for n in (name, f"{space.sets[i].name}/{name}")}  # may have =
    values: dict[str, float] = {}
    sets = set() if texts or len(space.sets) > 1 else {0}
    for text in texts:
        name, equals, value = (text, "", "") if text in plain else text.partition("=")
        matches = [(i, n) for i, n in known if name in (n, f"{space.sets[i].name}/{n}")]
        if len(matches) != 1:
            names = listed(label_names(space)[: space.dim_d])
            raise ValueError(f"{name!r}: not a unique label name; use one of {names}")
        ((index, name),) = matches
        if name in values:
            raise ValueError(f"{name}: given twice; leave one out")
        values[name] = _amount(text, value if equals else "1", space.sets[index])
        sets.add(index)
    if len(sets) != 1:
        raise ValueError(
            f"{listed(texts) or 'no label'}: of {len(sets)} data sets; use labels of one of "
            f"{', '.join(part.name for part in space.sets)}"
        )
    index = sets.pop()
    part = space.sets[index]
    for group in [part.names] if part.kind == "onehot" else part.exclusive:
        if len(exclusive := [name for name in group if values.get(name)]) > 1:
            raise ValueError(f"{listed(exclusive)}: mutually exclusive labels; give only one")
    return index, values


def _amount(text: str, value: str, part: LabelSet) -> float:
    try:
        amount = float(value)
    except ValueError:
        amount = -1.0
    if not 0 <= amount <= 1:
        raise ValueError(f"{text}: a number between 0 and 1 is needed")
    if part.kind == "onehot" and amount != 1:
        raise ValueError(f"{text}: a class has no intensity; give its name only")
    if part.kind == "binary" and amount not in (0, 1):
        raise ValueError(f"{text}: labels of {part.name} are binary; NAME or NAME=0 is needed")
    return amount


def _updated(part: LabelSet, row: Tensor, values: dict[str, float]) -> Tensor:
    """Labels (k,) with `values`; labels that exclude one with a value above 0 become 0."""
    out = row.clone()
    for name, value in values.items():
        if value:
            out[list(range(len(out)) if part.kind == "onehot" else part.group(name))] = 0
        out[part.names.index(name)] = value
    return out


def edit_labels(
    space: LabelSpace, requested: list[str], has: list[str] | None, *, reads_source: bool
) -> tuple[Tensor | None, Tensor]:
    """Source c̃ (1, dim_g), None if `has` is None, and target c̃ (1, dim_g) of an edit.

    The target is `has` (all labels 0 if None) changed by `requested`. Raises ValueError as `parse`
    does, and for a `has` that neither the target nor the model (`reads_source`) uses.
    """
    before = None if has is None else parse(space, has)
    index, changes = parse(space, requested) if requested or before is None else (before[0], {})
    part = space.sets[index]
    start, source = torch.zeros(len(part.names)), None
    if before is not None:
        source_part = space.sets[before[0]]
        row = _updated(source_part, torch.zeros(len(source_part.names)), before[1])
        _require_class(source_part, row)
        source = space.encode(row[None], before[0])
        if before[0] == index:
            start = row
        if not reads_source and (before[0] != index or part.kind == "onehot"):
            raise ValueError(
                f"{listed(has or ())}: this model does not use the source labels, and they do "
                "not affect the target; remove them"
            )
    target = _updated(part, start, changes)
    _require_class(part, target)
    return source, space.encode(target[None], index)


def _require_class(part: LabelSet, row: Tensor) -> None:
    if part.kind == "onehot" and not row.any():
        raise ValueError(f"{part.name}: no class is given; use one of {listed(part.names)}")

"""Start a training from the networks of another model, also of one with other labels.

Which axis of a tensor belongs to the labels is found by building the networks, on torch's meta
device, for one more label and for one more data set. Labels follow the other channels on that axis.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from training.core.config import Config
from training.core.files import read_json
from training.core.references import split_digest, split_start
from training.data.labels import LabelSet, LabelSpace
from training.inference.weights import CheckpointError, load_weights
from training.models import model_from_json
from training.models.base import Model, Nets

if TYPE_CHECKING:  # pandas, which the first step does not need
    from training.engine.checkpoint import State
    from training.engine.session import Job


def check(init: str, stored: dict[str, Any], old: LabelSpace, name: str, new: LabelSpace) -> None:
    """Raise ValueError if model `init` cannot start a training of model `name` on the labels `new`.

    `stored` is its config.json, `old` its labels.
    """
    start = split_start(init)
    what = f"init={split_digest(start.reference)[0]}"
    if stored["name"] != name:
        raise ValueError(
            f"{what}: a model of {stored['name']} cannot start a training of {name}; "
            f"give a model of {name}, or model={stored['name']}"
        )
    if start.by_name and not matches(old, new).labels:
        raise ValueError(f"{what}: none of its labels {_text(old)} is one of {_text(new)}")
    if not start.by_name and _kinds(old) != _kinds(new):
        raise ValueError(
            f"{what}: its labels are {_text(old)}, those of this run {_text(new)}; give the same "
            f"ones in the same order, or init=by-name:{split_digest(start.reference)[0]} to start "
            "labels of the same name from it and all others fresh"
        )


def check_fit(
    init: str, stored: dict[str, Any], old: LabelSpace, config: Config, new: LabelSpace
) -> None:
    """Raise ValueError if model `init` cannot start this run: `check` and `check_networks`."""
    check(init, stored, old, config.name, new)
    check_networks(init, stored, config.model, config.data.size, new)


def check_networks(
    init: str, stored: dict[str, Any], model: Model, size: int, space: LabelSpace
) -> None:
    """Raise ValueError if the networks of `init` do not fit those of `model` at `size` px.

    Only shapes are compared, so that no weights are needed; `stored` is its config.json.
    """
    start = split_start(init)
    shown = split_digest(start.reference)[0]
    if start.by_name:
        _check_layout(shown, type(model).__name__, Layout.of(model, space, size))
    with torch.device("meta"):
        here = model.networks(space, size)
        there = model_from_json(stored["name"], stored["model"]).networks(space, stored["size"])
    for key in here:
        if key not in stored.get("absent", ()) and _shapes(here, key) != _shapes(there, key):
            raise ValueError(_misfit(shown, key, _differences(stored, model, size, space), ""))


def _kinds(space: LabelSpace) -> list[tuple[str, tuple[str, ...]]]:
    return [(part.kind, part.names) for part in space.sets]


def _text(space: LabelSpace) -> str:
    return " + ".join(f"[{', '.join(part.names)}] ({part.kind})" for part in space.sets)


class Matches(NamedTuple):
    """Position in the new space -> position in the old one: of labels, and of data sets."""

    labels: dict[int, int]
    sets: dict[int, int]


def matches(old: LabelSpace, new: LabelSpace) -> Matches:
    """Labels of the same name and kind: those of the same data set, or the only ones."""
    known = _columns(old)
    labels = {}
    for position, (name, kind, label) in enumerate(_columns(new)):
        same = [i for i, column in enumerate(known) if column[1:] == (kind, label)]
        own = [i for i in same if known[i][0] == name]
        if own or len(same) == 1:
            labels[position] = (own or same)[0]
    names = [part.name for part in old.sets]
    several = len(old.sets) > 1 and len(new.sets) > 1
    sets = {i: names.index(s.name) for i, s in enumerate(new.sets) if s.name in names and several}
    return Matches(labels, sets)


def _columns(space: LabelSpace) -> list[tuple[str, str, str]]:
    return [(part.name, part.kind, name) for part in space.sets for name in part.names]


def warm_start(init: str, files: dict[str, Path], state: "State", job: "Job") -> str:
    """Initialise networks and averages from a model's `files`, name -> path; says what was done.

    Networks that an imported model lacks start fresh. Optimisers and counters are not loaded. With
    `by-name:`, labels are matched by name and the rest keeps its fresh values. Raises ValueError as
    `check` does, and CheckpointError for networks of other sizes.
    """
    stored, start = read_json(files["config.json"]), split_start(init)
    old = LabelSpace.from_json(read_json(files["label_space.json"]))
    space = job.faces.space
    check(init, stored, old, job.config["name"], space)
    shown = split_digest(start.reference)[0]
    different = partial(_differences, stored, job.model, job.faces.size, space)
    absent = stored.get("absent", ())
    if not start.by_name:
        for key, net in state.nets.items():
            if key in absent:
                continue
            try:
                for target in (net, state.ema.get(key)):
                    if target is not None:
                        load_weights(target, _network(files, key))
            except CheckpointError as error:
                raise CheckpointError(_misfit(shown, key, different(), error)) from error
        return f"started from {shown}: {_started(state, absent)}"
    return _by_name(shown, files, state, job, old, different, absent)


def _started(state: "State", absent: Sequence[str]) -> str:
    """The networks that start from the model, and those that it lacks."""
    text = ", ".join(key for key in state.nets if key not in absent)
    return f"{text}; fresh, as it has none: {', '.join(absent)}" if absent else text


def _network(files: dict[str, Path], key: str) -> Path:
    """The file of a network; of its average if an imported model has no other.

    Raises CheckpointError if the model lacks it.
    """
    names = (f"{part}/{key}.safetensors" for part in ("nets", "ema"))
    path = next((files[name] for name in names if name in files), None)
    if path is None:
        raise CheckpointError(f"it has no network {key}")
    return path


def _misfit(shown: str, key: str, different: str, error: Exception | str) -> str:
    why = different or " ".join(str(error).split())[:300]
    return f"init={shown}: its network {key} has other tensors than this run's ({why})"


def _differences(stored: dict[str, Any], model: Model, size: int, space: LabelSpace) -> str:
    """The settings of the networks that differ, `name: there -> here`, with the fix."""
    name, old, new = stored["name"], stored["model"], json.loads(json.dumps(asdict(model)))

    def shapes(settings: dict[str, Any], size: int) -> dict[str, dict[str, torch.Size]] | None:
        try:
            with torch.device("meta"):
                nets = model_from_json(name, settings).networks(space, size)
        except ValueError:
            return None  # one setting needs the other
        return {key: _shapes(nets, key) for key in nets}

    here = shapes(new, size)
    found = [
        f"{k}: {old[k]} -> {new[k]}"
        for k in new
        if old.get(k, new[k]) != new[k] and shapes(new | {k: old[k]}, size) != here
    ]
    there = stored.get("size", size)
    if there != size and shapes(new, there) != here:
        found.append(f"size: {there} -> {size}")
    return f"{'; '.join(found)}; set them as there" if found else ""


def _by_name(
    shown: str, files: dict[str, Path], state: "State", job: "Job", old: LabelSpace,
    different: Callable[[], str], absent: Sequence[str],
) -> str:  # fmt: skip
    new = job.faces.space
    found, layout = matches(old, new), Layout.of(job.model, new, job.faces.size)
    _check_layout(shown, type(job.model).__name__, layout)
    for key, net in state.nets.items():
        if key in absent:
            continue
        fresh = net.state_dict()
        try:
            values = load_file(_network(files, key))
            mixed = {
                tensor: _mixed(layout, key, tensor, fresh[tensor].clone(), values, old, found)
                for tensor in fresh
            }
        except CheckpointError as error:
            raise CheckpointError(_misfit(shown, key, different(), error)) from error
        for target in (net, state.ema.get(key)):
            if target is not None:
                target.load_state_dict(mixed)
    names, known = _columns(new), _columns(old)
    matched = [names[i][2] for i in found.labels]
    left = [names[i][2] for i in range(len(names)) if i not in found.labels]
    unused = [known[i][2] for i in range(len(known)) if i not in found.labels.values()]
    return (
        f"started from {shown}: {_started(state, absent)}; labels matched by name: "
        f"{', '.join(matched)}; fresh: {', '.join(left) or 'none'}; "
        f"not used: {', '.join(unused) or 'none'}"
    )


def _check_layout(shown: str, model: str, layout: "Layout") -> None:
    """Raise ValueError if labels cannot be matched by name."""
    if not layout.shared:
        raise ValueError(
            f"init=by-name:{shown}: {model} has networks of its own for each "
            "pair of labels; only the same labels in the same order can start from another model"
        )
    if not layout.single:
        raise ValueError(
            f"init=by-name:{shown}: {model} has two categories for each "
            "attribute; only the same labels in the same order can start from another model"
        )


def _mixed(
    layout: "Layout", net: str, tensor: str, value: Tensor, stored: dict[str, Tensor],
    old: LabelSpace, found: Matches,
) -> Tensor:  # fmt: skip
    """The fresh `value` with everything that has a counterpart in `stored`."""
    prefix, position, rest = layout.part(net, tensor)
    axis, masks = layout.axes.get((net, tensor), (None, False))
    if position is not None:
        if position not in found.labels:
            return value
        tensor = f"{prefix}{found.labels[position]}{rest}"
    if tensor not in stored:
        raise CheckpointError(f"{tensor} is missing")
    source = stored[tensor].to(value.device)
    if axis is None:
        if source.shape != value.shape:
            raise CheckpointError(f"{tensor}: {tuple(source.shape)} -> {tuple(value.shape)}")
        return value.copy_(source)
    width = layout.space.dim_g if masks else layout.space.dim_d
    before = old.dim_g if masks else old.dim_d
    value, source = value.movedim(axis, 0), source.movedim(axis, 0)
    fixed = len(value) - width
    if value.shape[1:] != source.shape[1:] or len(source) - before != fixed:
        raise CheckpointError(f"{tensor}: {tuple(source.shape)} -> {tuple(value.shape)}")
    value[:fixed] = source[:fixed]
    for here, there in found.labels.items():
        value[fixed + here] = source[fixed + there]
    for here, there in found.sets.items() if masks else ():
        value[fixed + layout.space.dim_d + here] = source[fixed + old.dim_d + there]
    return value.movedim(0, axis)


class Layout(NamedTuple):
    """Where the labels are in a model's networks."""

    space: LabelSpace
    axes: dict[tuple[str, str], tuple[int, bool]]  # (network, tensor) -> (axis, with the mask)
    lists: dict[str, list[str]]  # network -> prefixes of tensors that exist once for each label
    shared: bool  # every network is for all labels
    single: bool = True  # every label has one place on an axis

    @classmethod
    def of(cls, model: Model, space: LabelSpace, size: int) -> "Layout":
        with torch.device("meta"):
            nets = model.networks(space, size)
            each = [model.networks(_grown(space, index), size) for index in range(len(space.sets))]
            grown = each[-1]
            try:
                joint = model.networks(_joint(space), size)
            except ValueError:  # takes one data set
                joint = grown
        axes: dict[tuple[str, str], tuple[int, bool]] = {}
        lists: dict[str, list[str]] = {}
        if nets.keys() != grown.keys():
            return cls(space, axes, lists, shared=False)
        last = space.dim_d
        for name in nets:
            more, whole = _shapes(grown, name), _shapes(joint, name)
            lists[name] = sorted(
                {key.partition(f".{last}.")[0] + "." for key in more.keys() - _shapes(nets, name)}
            )
            for key, shape in _shapes(nets, name).items():
                for axis, (a, b) in enumerate(zip(shape, more[key], strict=True)):
                    if a != b:
                        axes[name, key] = (axis, whole[key][axis] > b)
        single = all(
            _shapes(wider, name)[key][axis] == _shapes(nets, name)[key][axis] + 1
            for wider in each
            for (name, key), (axis, _) in axes.items()
        )
        return cls(space, axes, lists, shared=True, single=single)

    def part(self, net: str, tensor: str) -> tuple[str, int | None, str]:
        """(prefix, label, rest) of a tensor that exists once for each label; else label None."""
        for prefix in self.lists[net]:
            number, dot, rest = tensor.removeprefix(prefix).partition(".")
            if tensor.startswith(prefix) and number.isdecimal():
                return prefix, int(number), dot + rest
        return "", None, ""


def _shapes(nets: Nets, name: str) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in nets[name].state_dict().items()}


def _grown(space: LabelSpace, index: int) -> LabelSpace:
    """With one more label in a data set."""
    sets = list(space.sets)
    sets[index] = replace(sets[index], names=(*sets[index].names, "one more"))
    return LabelSpace(tuple(sets))


def _joint(space: LabelSpace) -> LabelSpace:
    """With one more data set of one label."""
    return LabelSpace((*space.sets, LabelSet("one more", space.sets[-1].kind, ("one more",))))

"""Read the papers' published checkpoints as this project's networks, without running their code.

The layouts are those of the authors' repositories: StarGAN's one file for each network, a state
dict, and StarGAN v2's one file with a state dict for each network, of the trained networks
(`nets`) or of their averages (`nets_ema`). Each tensor of a file is used exactly once, left out
for a stated reason, or refused.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from training.core.files import sha256_file
from training.data.labels import LabelSpace
from training.inference.weights import CheckpointError, outlined
from training.models import fan
from training.models.base import Model
from training.models.kernels import Norm
from training.models.stargan import StarGAN
from training.models.starganv2 import Generator as GeneratorV2
from training.models.starganv2 import StarGANv2, StyledBlock

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
SHOWN = 5  # names in a message
OPTIONAL = ("D",)  # networks that inference does without
PARALLEL = "module."  # DataParallel's prefix of names
# Settings that change the networks; published are their defaults.
FORM = {
    StarGAN: ("upsampling", "output", "label_norms", "d_branches", "d_projection"),
    StarGANv2: ("style",),
}
SECTIONS = {"G": "generator", "F": "mapping_network", "E": "style_encoder", "D": "discriminator"}
FAN = "fan"  # StarGAN v2's landmark network, in files of w_hpf > 0
STATISTICS = "running statistics of instance norm, which the published code never reads"
COUNTS = "batch counts of those statistics"
SHORTCUTS = "1x1 convolutions that the published code makes and never calls with w_hpf > 0"
KERNEL = "the high-pass kernel, which w_hpf gives"
LANDMARKS = "the landmark network; training.convert landmarks makes the setting's file of it"


class Extra(NamedTuple):
    """Tensors that a file may have and a network does not need: all of them, or none."""

    why: str
    shapes: Shapes
    value: Tensor | None = None  # what they must be


class Layout(NamedTuple):
    """One network in a file: published name -> own name, and the shape; and what is left out."""

    names: dict[str, str]
    shapes: Shapes
    extras: tuple[Extra, ...] = ()


@dataclass(frozen=True)
class File:
    """A published file: its state dicts by section, "" for a single one."""

    path: Path
    sha256: str
    size: int  # bytes
    sections: Mapping[str, State]


class Taken(NamedTuple):
    """Networks of published files by their names in a model, such as "nets/G"."""

    weights: dict[str, State]
    absent: tuple[str, ...]  # networks that no file has
    notes: tuple[str, ...]  # what was taken and what was left out


def read(path: Path) -> File:
    """Read a file with PyTorch's weights-only reader, on the CPU.

    Raises CheckpointError, with the reason, for what is not one state dict or a dictionary of them,
    and for tensors that are not finite 32-bit numbers.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on formats that are then refused
        try:
            value = torch.load(path, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # whatever the reader raises for such bytes
            raise CheckpointError(f"{path}: not read: {_reason(error)}") from error
    if not isinstance(value, dict) or not value:
        raise CheckpointError(f"{path}: holds {_kind(value)}; a state dict is needed")
    nested = all(isinstance(one, dict) for one in value.values())
    sections = {str(k): v for k, v in value.items()} if nested else {"": value}
    for section, state in sections.items():
        _check_state(f"{path}{f', {section}' if section else ''}", state)
    states = {section: _unwrapped(state) for section, state in sections.items()}
    return File(path, sha256_file(path), path.stat().st_size, states)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        return (
            f"it holds a {found[1]}, which only code in the file could restore; save its "
            "state_dict() alone and import that"
        )
    if "legacy .tar" in text:
        return "the tar format of PyTorch before 0.2; save it again as a state dict"
    plain = text.partition("WeightsUnpickler error:")[2].strip() or text
    plain = plain[:120] or type(error).__name__
    return f"no PyTorch file of tensors alone, or a damaged one ({plain})"


def _kind(value: object) -> str:
    return "nothing" if isinstance(value, dict) else f"a {type(value).__name__}"


def _check_state(what: str, state: Mapping[Any, Any]) -> None:
    odd = [k for k, v in state.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
    if odd or not state:
        kinds = _shown(f"{name}: {_kind(state[name])}" for name in odd)
        raise CheckpointError(
            f"{what}: {len(odd)} of {len(state)} entries are no named tensors ({kinds}); import a "
            "file of state dicts alone"
        )
    for name, tensor in state.items():
        counts = name.endswith("num_batches_tracked")
        if tensor.layout != torch.strided or tensor.dtype != (
            torch.int64 if counts else torch.float32
        ):
            raise CheckpointError(f"{what}: {name} is {tensor.dtype}; 32-bit weights are needed")
        if bad := int((~tensor.isfinite()).sum()):
            raise CheckpointError(f"{what}: {name}: {bad} of {tensor.numel()} values not finite")


def _unwrapped(state: State) -> State:
    """Without DataParallel's prefix, if every name has it."""
    whole = all(name.startswith(PARALLEL) for name in state)
    return {name.removeprefix(PARALLEL) if whole else name: v for name, v in state.items()}


def layouts(model: Model, space: LabelSpace, size: int) -> dict[str, Layout]:
    """The published layout of each network of `model`.

    Raises ValueError for a model without one, and for settings that depart from it.
    """
    form = FORM.get(type(model))
    if form is None:
        raise ValueError(
            f"{type(model).__name__}: no layout of published weights is known; stargan and "
            "starganv2 have one"
        )
    defaults = {field.name: field.default for field in fields(model)}
    if other := [f"{k}={getattr(model, k)}" for k in form if getattr(model, k) != defaults[k]]:
        raise ValueError(f"{', '.join(other)}: not the published networks; take another preset")
    nets = outlined(partial(model.networks, space, size))
    return {
        key: (_stargan if isinstance(model, StarGAN) else _stargan_v2)(key, net)
        for key, net in nets.items()
    }


def _layout(net: nn.Module, rename: Callable[[str], str], *extras: Extra) -> Layout:
    own = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    names = {rename(name): name for name in own}
    return Layout(names, {theirs: own[name] for theirs, name in names.items()}, extras)


def _stargan(key: str, net: nn.Module) -> Layout:
    if key == "D":
        heads = {"src.weight": "conv1.weight", "cls.weight": "conv2.weight"}
        return _layout(net, lambda name: heads.get(name, name))

    def rename(name: str) -> str:
        return name.replace(".body.", ".main.")

    norms = {rename(k): m.num_channels for k, m in net.named_modules() if isinstance(m, Norm)}
    statistics: Shapes = {
        f"{name}.running_{what}": (channels,)
        for name, channels in norms.items()
        for what in ("mean", "var")
    }
    counts: Shapes = {f"{name}.num_batches_tracked": () for name in norms}
    return _layout(net, rename, Extra(STATISTICS, statistics), Extra(COUNTS, counts))


def _stargan_v2(key: str, net: nn.Module) -> Layout:
    main = getattr(net, "main", ())  # the trunk of E and D
    words = {
        "enter.": "from_rgb.", "leave.": "to_rgb.", "main.": "shared." if key == "E" else "main.",
        "own.": f"main.{len(main)}." if key == "D" else "unshared.",
    }  # fmt: skip

    def rename(name: str) -> str:
        for ours, theirs in words.items():
            if name.startswith(ours):
                name = theirs + name.removeprefix(ours)
                break
        return name.replace(".short.", ".conv1x1.").replace(".affine.", ".fc.")

    if not (isinstance(net, GeneratorV2) and net.landmarks):
        return _layout(net, rename)
    shortcuts: Shapes = {
        f"decode.{i}.conv1x1.weight": (block.conv1.out_channels, block.conv1.in_channels, 1, 1)
        for i, block in enumerate(net.decode)
        if isinstance(block, StyledBlock) and block.conv1.in_channels != block.conv1.out_channels
    }
    kernel = Extra(KERNEL, {"hpf.filter": (3, 3)}, net.sharp)
    return _layout(net, rename, Extra(SHORTCUTS, shortcuts), kernel)


def landmarks(file: File) -> State:
    """The landmark network of a StarGAN v2 file, with the names of `training.models.fan`.

    Raises CheckpointError if the file has none, or another one.
    """
    state = file.sections.get(FAN)
    if state is None:
        have = "one state dict" if "" in file.sections else _shown(file.sections)
        raise CheckpointError(
            f"{file.path}: no network {FAN} in it, but {have}; give the file of CelebA-HQ, "
            "100000_nets_ema.ckpt"
        )
    net = outlined(lambda: {FAN: fan.FAN()})[FAN]
    if faults := misfits(state, _layout(net, str)):
        raise MisfitError(f"{file.path}: network {FAN}: {'; '.join(faults)}")
    return {name: _copy(tensor) for name, tensor in state.items()}


def take(files: Sequence[File], found: Mapping[str, Layout]) -> Taken:
    """The networks of `files`, with this project's names.

    Raises CheckpointError if a file has no network of the layouts, two have the same, one that
    inference needs is in none, or a tensor is missing, left over or of another shape.
    """
    weights: dict[str, State] = {}
    sources: dict[str, Path] = {}
    notes: list[str] = []
    for file in files:
        for name, key, state in _networks(file, found):
            if key in sources:
                raise CheckpointError(f"{name} is in {sources[key]} and in {file.path}; give one")
            sources[key] = file.path
            layout = found[key.partition("/")[2]]
            what = f"{file.path}: network {name}"
            if faults := misfits(state, layout):
                raise MisfitError(f"{what}: {'; '.join(faults)}")
            weights[key] = {own: _copy(state[theirs]) for theirs, own in layout.names.items()}
            notes.append(f"{what}: {len(layout.names)} tensors{_left_out(state, layout)}")
        if file.sections.get(FAN):
            count = len(file.sections[FAN])
            notes.append(f"{file.path}: {FAN}: {count} tensors left out: {LANDMARKS}")
    have = {key.partition("/")[2] for key in weights}
    absent = tuple(name for name in found if name not in have)
    if needed := [name for name in absent if name not in OPTIONAL]:
        raise CheckpointError(
            f"{', '.join(str(file.path) for file in files)}: no network {', '.join(needed)}; give "
            "the file that has it, too"
        )
    return Taken(weights, absent, tuple(notes))


def _copy(tensor: Tensor) -> Tensor:
    """In order and alone: tensors of a file may share memory."""
    return tensor.clone(memory_format=torch.contiguous_format)


class MisfitError(CheckpointError):
    """The tensors of a file are not those of a network."""


def _networks(file: File, found: Mapping[str, Layout]) -> list[tuple[str, str, State]]:
    """(published name, "nets/…" or "ema/…", tensors) of each network of a file."""
    sections = {s: state for s, state in file.sections.items() if s != FAN}
    known = {SECTIONS[key]: key for key in found if key in SECTIONS}
    if "" not in sections and "E" in found:
        if unknown := [s for s in sections if s not in known]:
            raise CheckpointError(
                f"{file.path}: unknown networks {_shown(unknown)}; known: "
                f"{', '.join((*known, FAN))}"
            )
        part = "nets" if SECTIONS["D"] in sections else "ema"  # averages have no D
        return [(s, f"{part}/{known[s]}", state) for s, state in sections.items()]
    if [*sections] != [""] or "E" in found:
        have = "one state dict" if "" in sections else f"the sections {_shown(sections)}"
        kind = ", ".join(known) if "E" in found else "one state dict, of G or D"
        raise CheckpointError(f"{file.path}: has {have}; this model's files have {kind}")
    state = sections[""]
    key = max(found, key=lambda one: len(state.keys() & found[one].names.keys()))
    if not state.keys() & found[key].names.keys():
        raise CheckpointError(f"{file.path}: no name in it is G's or D's: {_shown(state)}")
    return [(key, f"nets/{key}", state)]


def misfits(state: State, layout: Layout) -> list[str]:
    """What keeps a state dict from being a network, as text; empty if it is one."""
    shapes = dict(layout.shapes)
    for extra in layout.extras:
        if extra.shapes.keys() & state.keys():
            shapes |= extra.shapes
    missing, unknown = [k for k in shapes if k not in state], [k for k in state if k not in shapes]
    other = [
        f"{k} is {tuple(state[k].shape)}, not {shape}"
        for k, shape in shapes.items()
        if k in state and tuple(state[k].shape) != shape
    ]
    rows = ((missing, "missing"), (unknown, "left over"), (other, "of another shape"))
    faults = [f"{len(names)} tensors {what}: {_shown(names)}" for names, what in rows if names]
    return faults or [
        f"{name} is not {extra.why}"
        for extra in layout.extras
        for name in extra.shapes.keys() & state.keys()
        if extra.value is not None and not torch.allclose(state[name], extra.value)
    ]


def _left_out(state: State, layout: Layout) -> str:
    return "".join(
        f", {len(extra.shapes)} left out: {extra.why}"
        for extra in layout.extras
        if extra.shapes.keys() & state.keys()
    )


def label_count(files: Iterable[File]) -> int | None:
    """The number of labels that the tensors are for; None if they do not tell."""
    for file in files:
        for section, state in file.sections.items():
            if "conv2.weight" in state and not section:
                return len(state["conv2.weight"])
            if branches := {k.split(".")[1] for k in state if k.startswith("unshared.")}:
                return len(branches)
    for file in files:
        first = file.sections.get("", {}).get("main.0.weight")
        if first is not None and first.dim() == 4:
            return first.shape[1] - 3
    return None


def _shown(names: Iterable[str]) -> str:
    listed = list(names)
    rest = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + rest

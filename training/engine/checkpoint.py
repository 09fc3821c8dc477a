"""Checkpoints: written atomically, verified by SHA-256, never pickled.

checkpoints/000000014400/
  nets/G.safetensors  ema/G.safetensors  optim/G.safetensors  extra/state.json
  config.json  label_space.json  manifest.json
"""

import copy
import dataclasses
import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from training.core.config import TrainConfig
from training.core.files import canonical_json
from training.core.temporary import whole_folder
from training.data.labels import LabelSpace
from training.inference.weights import (
    CheckpointError,
    load_weights,
    read_record,
    read_tensors,
    seal,
    verify,
    write_tensors,
)
from training.models import MODELS
from training.models.base import Model, Nets

log = logging.getLogger(__name__)
_NUMBER = re.compile(r"[0-9]{12,}")
Optimisers = dict[str, torch.optim.Adam]


@dataclass
class State:
    """The whole state of a training."""

    nets: Nets
    ema: Nets
    optim: Optimisers
    step: int = 0  # batches drawn as main batches, over all data sets
    images: int = 0  # real images drawn
    bf16: bool = False  # whether the losses are computed in bfloat16


COUNTERS = "extra/state.json"


@dataclass(frozen=True)
class Counters:
    """What extra/state.json holds; other keys, such as "best" of older checkpoints, are ignored."""

    step: Annotated[int, Field(ge=0)]
    images: Annotated[int, Field(ge=0)]
    bf16: bool


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().contiguous() for k, v in net.state_dict().items()}


def _adam(net: nn.Module, optimiser: torch.optim.Adam) -> dict[str, Tensor]:
    out = {}
    for name, parameter in net.named_parameters():
        for key, value in optimiser.state.get(parameter, {}).items():
            out[f"{name}/{key}"] = torch.as_tensor(value).detach().contiguous()
    return out


def _restore_adam(net: nn.Module, optimiser: torch.optim.Adam, values: dict[str, Tensor]) -> None:
    """Fill the optimiser's tensors in place, which a recorded step reads; create missing ones."""
    for name, parameter in net.named_parameters():
        stored = {
            k.rpartition("/")[2]: v for k, v in values.items() if k.rpartition("/")[0] == name
        }
        state = optimiser.state[parameter] if stored else {}
        for key, value in stored.items():
            if key not in state:
                # Fused Adam needs moments in the memory format of their parameter.
                moment = value.shape == parameter.shape
                state[key] = torch.empty_like(parameter.detach() if moment else value)
                state[key] = state[key].to(parameter.device)
            state[key].copy_(value)


def save(folder: Path, state: State, config: dict[str, Any], space: LabelSpace) -> Path:
    """Write `folder`/<images> atomically, replacing an existing one. Returns its path."""
    path = folder / f"{state.images:012d}"
    with whole_folder(path) as new:
        for part, nets in (("nets", state.nets), ("ema", state.ema)):
            (new / part).mkdir()
            for name, net in nets.items():
                write_tensors(_tensors(net), new / part / f"{name}.safetensors")
        (new / "optim").mkdir()
        for name, optimiser in state.optim.items():
            values = _adam(state.nets[name], optimiser)
            write_tensors(values, new / "optim" / f"{name}.safetensors")
        (new / "extra").mkdir()
        facts = Counters(state.step, state.images, state.bf16)
        (new / COUNTERS).write_bytes(canonical_json(dataclasses.asdict(facts)))
        (new / "config.json").write_bytes(canonical_json(config))
        (new / "label_space.json").write_bytes(canonical_json(space.to_json()))
        seal(new)
    return path


def saved(folder: Path) -> list[Path]:
    """Checkpoint folders of a run, newest first, without temporary ones."""
    paths = [p for p in folder.glob("*") if _NUMBER.fullmatch(p.name)] if folder.is_dir() else []
    return sorted(paths, reverse=True)


def latest(
    folder: Path, state: State | None = None, config: dict[str, Any] | None = None
) -> Path | None:
    """The newest whole checkpoint, with all files that `state` needs; None without.

    Damaged ones are skipped with a warning. Raises CheckpointError, as `check_config` does, for one
    of other settings than `config`, whose files may be others.
    """
    for path in saved(folder):
        try:
            verify(path, [COUNTERS])
            read_record(Counters, path / COUNTERS)
            stored = read_record(dict[str, Any], path / "config.json")
        except CheckpointError as error:
            log.warning("%s; using the previous checkpoint", error)
            continue
        if config is not None:
            check_config(stored, config, path)
        if absent := [name for name in _needed(state) if not (path / name).is_file()]:
            log.warning(
                "%s: damaged checkpoint (its manifest does not list %s); using the previous "
                "checkpoint",
                path, ", ".join(absent),
            )  # fmt: skip
            continue
        return path
    return None


def _needed(state: State | None) -> list[str]:
    """The files that `load` reads."""
    if state is None:
        return []
    parts = (("nets", state.nets), ("ema", state.ema), ("optim", state.optim))
    return [COUNTERS, *(f"{part}/{name}.safetensors" for part, names in parts for name in names)]


def load(path: Path, state: State) -> None:
    """Load weights, averages, optimisers and counters of a verified checkpoint into `state`.

    Raises CheckpointError for a file that does not fit.
    """
    for part, nets in (("nets", state.nets), ("ema", state.ema)):
        for name, net in nets.items():
            load_weights(net, path / part / f"{name}.safetensors")
    for name, optimiser in state.optim.items():
        values = read_tensors(path / "optim" / f"{name}.safetensors")
        _restore_adam(state.nets[name], optimiser, values)
    facts = read_record(Counters, path / COUNTERS)
    state.step, state.images, state.bf16 = facts.step, facts.images, facts.bf16


def prune(folder: Path, keep: int, images: int) -> None:
    """Delete all but the newest `keep` checkpoints, of those at `images` and before.

    Later ones were damaged when the training went on from an earlier one: they do not count.
    """
    known = [path for path in saved(folder) if int(path.name) <= images]
    for path in known[keep:]:
        shutil.rmtree(path)


def averages(nets: Nets, names: tuple[str, ...]) -> Nets:
    """Copies of the named networks for moving averages."""
    return {n: copy.deepcopy(nets[n]).requires_grad_(False) for n in names}


def check_config(stored: dict[str, Any], current: dict[str, Any], path: Path) -> None:
    """Raise CheckpointError if settings or the model to start from changed.

    How often to log, sample and save may change, and what does not enter the weights.
    """
    ignored = {
        "log_images", "sample_images", "checkpoint_images", "keep", "price_per_hour", "record"
    }  # fmt: skip
    differing = []
    for section in ("model", "train", "data_digest", "name", "size"):
        old, new = stored.get(section), current.get(section)
        if isinstance(old, dict) and isinstance(new, dict):
            # A setting that is newer than the checkpoint had its default.
            defaults = TrainConfig() if section == "train" else MODELS[current["name"]]()
            old = as_dict(defaults) | old
            keys = sorted((set(old) | set(new)) - ignored)
            differing += [
                f"{section}.{k}: {old.get(k)} -> {new.get(k)}"
                for k in keys
                if old.get(k) != new.get(k)
            ]
        elif old != new:
            differing.append(f"{section}: {old} -> {new}")
    there, here = (one.get("init") or "none" for one in (stored, current))
    if there != here:
        differing.append(f"init: {there} -> {here}")
    if differing:
        raise CheckpointError(
            f"{path}: started with other settings ({'; '.join(differing)}); "
            "choose another run folder, or delete this one to start over"
        )


def as_dict(model: Model | TrainConfig) -> dict[str, Any]:
    """Its fields as stored in config.json."""
    return dataclasses.asdict(model)

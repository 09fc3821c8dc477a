"""Checkpoints: whole or absent, checked by sha256, never a pickle.

checkpoints/000000014400/
  nets/G.safetensors  ema/G.safetensors  optim/G.safetensors  extra/state.json
  config.json  label_space.json  manifest.json
"""

import copy
import dataclasses
import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.data.labels import LabelSpace
from training.files import canonical_json, read_json, sha256_file, whole_folder, write_json
from training.models.base import Nets, Translator
from training.presets import model_from_json
from training.store import Manifest, Store

log = logging.getLogger(__name__)
PINNED = "@sha256:"  # between a path and the digest of what lay there
Optimisers = dict[str, torch.optim.Adam]


class CheckpointError(ValueError):
    """A checkpoint that is damaged, or that does not fit what it is loaded into."""


@dataclass
class State:
    """Everything that training carries from one image to the next."""

    nets: Nets
    ema: Nets
    optim: Optimisers
    step: int = 0  # batches drawn as main batches, over all data sets
    images: int = 0  # real images drawn
    best: float | None = None  # validation score of the best checkpoint
    extra: dict[str, Any] = field(default_factory=dict)  # JSON values


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().contiguous() for k, v in net.state_dict().items()}


def _adam(net: nn.Module, optimiser: torch.optim.Adam) -> dict[str, Tensor]:
    out = {}
    for name, parameter in net.named_parameters():
        for key, value in optimiser.state.get(parameter, {}).items():
            out[f"{name}/{key}"] = torch.as_tensor(value).detach().contiguous()
    return out


def _restore_adam(net: nn.Module, optimiser: torch.optim.Adam, values: dict[str, Tensor]) -> None:
    for name, parameter in net.named_parameters():
        mine = {k.rpartition("/")[2]: v for k, v in values.items() if k.rpartition("/")[0] == name}
        if mine:
            optimiser.state[parameter] = {
                # Fused Adam walks the memory of both, so moments lie as their parameter does.
                k: torch.empty_like(parameter.detach()).copy_(v)
                if v.shape == parameter.shape
                else v.to(parameter.device)
                for k, v in mine.items()
            }


def save(folder: Path, state: State, config: dict[str, Any], space: LabelSpace) -> Path:
    """Write `folder`/<images> whole; the same images' older checkpoint is replaced."""
    path = folder / f"{state.images:012d}"
    with whole_folder(path) as new:
        for part, nets in (("nets", state.nets), ("ema", state.ema)):
            (new / part).mkdir()
            for name, net in nets.items():
                save_file(_tensors(net), new / part / f"{name}.safetensors")
        (new / "optim").mkdir()
        for name, optimiser in state.optim.items():
            save_file(_adam(state.nets[name], optimiser), new / "optim" / f"{name}.safetensors")
        (new / "extra").mkdir()
        facts = {"step": state.step, "images": state.images, "best": state.best, **state.extra}
        (new / "extra" / "state.json").write_bytes(canonical_json(facts))
        (new / "config.json").write_bytes(canonical_json(config))
        (new / "label_space.json").write_bytes(canonical_json(space.to_json()))
        _seal(new)
    return path


def _seal(folder: Path) -> None:
    """Write the digest of every file, which `verify` reads."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    digests = {p.relative_to(folder).as_posix(): sha256_file(p) for p in files}
    (folder / "manifest.json").write_bytes(canonical_json({"files": digests}))


def verify(path: Path) -> None:
    """Raise CheckpointError unless every file is the one that was saved."""
    try:
        digests = read_json(path / "manifest.json")["files"]
        for name, digest in digests.items():
            if sha256_file(path / name) != digest:
                raise CheckpointError(f"{path / name}: altered since it was saved")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged checkpoint ({error})") from error


def saved(folder: Path) -> list[Path]:
    """Checkpoints of a run, newest first; temporary folders are not among them."""
    paths = [p for p in folder.glob("*") if p.name.isdigit()] if folder.is_dir() else []
    return sorted(paths, reverse=True)


def latest(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; damaged ones are passed over with a warning."""
    for path in saved(folder):
        try:
            verify(path)
        except CheckpointError as error:
            log.warning("%s; going back to the one before it", error)
        else:
            return path
    return None


def load(path: Path, state: State) -> None:
    """Put a verified checkpoint into `state`, weights, averages, optimisers and counters."""
    for part, nets in (("nets", state.nets), ("ema", state.ema)):
        for name, net in nets.items():
            load_weights(net, path / part / f"{name}.safetensors")
    for name, optimiser in state.optim.items():
        values = load_file(path / "optim" / f"{name}.safetensors")
        _restore_adam(state.nets[name], optimiser, values)
    facts = read_json(path / "extra" / "state.json")
    state.step, state.images, state.best = facts["step"], facts["images"], facts["best"]
    state.extra = {k: v for k, v in facts.items() if k not in ("step", "images", "best")}


def load_weights(net: nn.Module, path: Path) -> None:
    """Load one network. Raises CheckpointError naming tensors that are absent or do not fit."""
    try:
        values = load_file(path)
        net.load_state_dict(values)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{path}: does not fit this network: {error}") from error


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints."""
    for path in saved(folder)[keep:]:
        shutil.rmtree(path)


def averages(nets: Nets, names: tuple[str, ...]) -> Nets:
    """Copies of the named networks, to hold moving averages."""
    return {n: copy.deepcopy(nets[n]).requires_grad_(False) for n in names}


def check_config(stored: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
    """Refuse to go on with a run under other settings (how often to log or save may change)."""
    free = {"log_images", "sample_images", "checkpoint_images", "keep", "price_per_hour"}
    differing = []
    for section in ("model", "train", "data_digest", "name", "size"):
        old, new = stored.get(section), wanted.get(section)
        if isinstance(old, dict) and isinstance(new, dict):
            keys = sorted((set(old) | set(new)) - free)
            differing += [
                f"{section}.{k}: {old.get(k)} -> {new.get(k)}"
                for k in keys
                if old.get(k) != new.get(k)
            ]
        elif old != new:
            differing.append(f"{section}: {old} -> {new}")
    if differing:
        raise CheckpointError(
            f"{path}: started with other settings ({'; '.join(differing)}); "
            "name another run folder, or start this one anew by deleting it"
        )


def write_best(folder: Path, state: State, config: dict[str, Any], space: LabelSpace) -> None:
    """Keep the networks of the best validation score beside the last checkpoints."""
    with whole_folder(folder / "best") as new:
        for part, nets in (("nets", state.nets), ("ema", state.ema)):
            (new / part).mkdir()
            for name, net in nets.items():
                save_file(_tensors(net), new / part / f"{name}.safetensors")
        write_json(new / "state.json", {"images": state.images, "score": state.best})
        write_json(new / "config.json", config)
        write_json(new / "label_space.json", space.to_json())
        _seal(new)


def weight_files(path: Path) -> dict[str, Path]:
    """Name -> path of the files of a checkpoint that another run or a registry needs."""
    names = (
        "config.json",
        "label_space.json",
        *(
            p.relative_to(path).as_posix()
            for part in ("nets", "ema", "optim")
            for p in sorted((path / part).glob("*.safetensors"))
        ),
    )
    return {n: path / n for n in names}


def load_translator(source: Manifest | Path, store: Store | None = None) -> Translator:
    """A translator from a manifest of kind "model" (or its path) or a checkpoint's folder.

    Averaged weights stand in for the plain ones where they exist. The file digests are checked.
    """
    if isinstance(source, Path) and source.is_dir():
        files = weight_files(source)
    else:
        manifest = source if isinstance(source, Manifest) else Manifest.read(source, "model")
        files = {
            e.name: manifest.local(e.name, store)
            for e in manifest.entries
            if not e.name.startswith("optim/")
        }
    return translator_from_files(files)


def translator_from_files(files: dict[str, Path]) -> Translator:
    """A translator from a checkpoint's files by name ("ema/G.safetensors", "config.json", …)."""
    config = read_json(files["config.json"])
    space = LabelSpace.from_json(read_json(files["label_space.json"]))
    model = model_from_json(config["name"], config["model"])
    nets = model.networks(space, config["size"])
    for name, net in nets.items():
        averaged = f"ema/{name}.safetensors"
        load_weights(net, files[averaged if averaged in files else f"nets/{name}.safetensors"])
        net.requires_grad_(False).eval()
    return Translator(model, nets, space, config["size"], config)


def model_digest(path: Path) -> str:
    """Hex sha256 that names a model manifest's or a checkpoint folder's content."""
    if path.is_dir():
        return sha256_file(path / "manifest.json")
    return Manifest.read(path, "model").digest


def model_files(source: str, store: Store | None = None) -> dict[str, Path]:
    """Name -> path of a model's files, checked by their digests.

    `source` is a model manifest, a checkpoint's folder, NAME/VERSION or NAME@ALIAS; a path may end
    in `@sha256:<digest>`, which must be the digest of what lies there (ValueError otherwise).
    """
    name, _, digest = source.partition(PINNED)
    path = Path(name)
    if digest and model_digest(path) != digest:
        raise CheckpointError(f"{path}: changed since this run began; start the run again")
    if path.is_dir():
        verify(path)
        return weight_files(path)
    if path.is_file():
        manifest = Manifest.read(path, "model")
        return {e.name: manifest.local(e.name, store) for e in manifest.entries}
    from training.lineage import registered_files

    return registered_files(source)


def warm_start(source: str, state: State) -> None:
    """Start from the networks of `source`, as `model_files` reads it.

    Averages start from the same weights; optimisers and counters start anew. Raises
    CheckpointError where a tensor does not fit.
    """
    files = model_files(source)
    for name, net in state.nets.items():
        load_weights(net, files[f"nets/{name}.safetensors"])
        if name in state.ema:
            load_weights(state.ema[name], files[f"nets/{name}.safetensors"])


def as_dict(model: Any) -> dict[str, Any]:
    """A model's fields, as they stand in config.json."""
    return dataclasses.asdict(model)

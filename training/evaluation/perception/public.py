"""Public weight files as ours: read weights-only, names mapped and counted, shapes checked."""

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from training.evaluation.perception.stored import NETWORKS

SHOWN = 3  # names in a message
# Tensors of the classifiers, which no distance uses, by the first part of their names.
UNUSED = ("fc", "AuxLogits", "classifier")
CLASSES = {1000: "inception-torchvision", 1008: "inception-fid"}


class Converted(NamedTuple):
    """A network's name, its tensors, and how many of the files' tensors it has no use for."""

    network: str
    tensors: dict[str, Tensor]
    unused: int


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of `torch.save`, by name; nothing but tensors is loaded from it.

    Raises ValueError, with the path, for a file of anything else.
    """
    try:
        values: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        line = str(error).partition("\n")[0]
        raise ValueError(
            f"{path}: not a plain file of weights, and nothing else is unpickled ({line}); "
            "download the file of the recipe again"
        ) from error
    if not isinstance(values, Mapping) or not all(torch.is_tensor(v) for v in values.values()):
        raise ValueError(f"{path}: holds more than tensors by name; give a file of a state dict")
    return {str(name): value for name, value in values.items()}


def inception(path: Path) -> Converted:
    """torchvision's `inception_v3`, or pytorch-fid's Inception, known by its number of classes.

    Raises ValueError for a file of another network.
    """
    found = read(path)
    classes = len(found["fc.bias"]) if "fc.bias" in found else 0
    if classes not in CLASSES:
        raise ValueError(
            f"{path}: no Inception v3 with 1000 classes (torchvision) or 1008 (pytorch-fid); it "
            f"has {classes or 'no layer fc'}"
        )
    return _converted(CLASSES[classes], [(path, found, lambda name: name)])


def lpips(backbone: Path, heads: Path) -> Converted:
    """torchvision's AlexNet or VGG-16 with the linear heads of the `lpips` package.

    Raises ValueError for files of other networks, or of two different ones.
    """
    features, linear = read(backbone), read(heads)
    network = "lpips-vgg" if "features.28.weight" in features else "lpips-alex"
    renamed: Callable[[str], str] = lambda name: (  # noqa: E731
        name.replace("lin", "heads.").replace(".model.1.", ".")
    )
    return _converted(network, [(backbone, features, lambda name: name), (heads, linear, renamed)])


def _converted(
    network: str, files: list[tuple[Path, dict[str, Tensor], Callable[[str], str]]]
) -> Converted:
    """The tensors of `files` under the names of a network. Raises ValueError if they do not fit."""
    wanted = _shapes(NETWORKS[network])
    out: dict[str, Tensor] = {}
    unused = 0
    for path, found, rename in files:
        names = {rename(name): name for name in found}
        if len(names) < len(found):
            raise ValueError(f"{path}: {len(found) - len(names)} tensors have the same name twice")
        known = {ours: name for ours, name in names.items() if ours in wanted}
        rest = [name for ours, name in names.items() if ours not in known]
        strange = [
            name
            for name in rest
            if name.split(".")[0] not in UNUSED and not name.endswith("num_batches_tracked")
        ]
        _refuse(path, network, "are unknown", strange, len(found))
        wrong = [
            f"{name} {tuple(found[name].shape)}, not {wanted[ours]}"
            for ours, name in known.items()
            if tuple(found[name].shape) != wanted[ours]
        ]
        _refuse(path, network, "have another shape", wrong, len(found))
        bad = [name for name in known.values() if not found[name].isfinite().all()]
        _refuse(path, network, "are not finite", bad, len(found))
        unused += len(rest)
        out |= {ours: found[name].detach().float().contiguous() for ours, name in known.items()}
    missing = [name for name in wanted if name not in out]
    _refuse(files[-1][0] if len(files) == 1 else None, network, "are missing", missing, len(wanted))
    return Converted(network, out, unused)


def _refuse(path: Path | None, network: str, fault: str, names: list[str], of: int) -> None:
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise ValueError(
            f"{path or 'both files'}: {len(names)} of {of} tensors {fault} for {network}: "
            f"{', '.join(names[:SHOWN])}{more}; give the files of the recipe"
        )


def _shapes(make: Callable[[], nn.Module]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        state = make().state_dict()
    return {
        name: tuple(value.shape)
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }

"""Files of a model: write and verify digests, read, write and check weights and configuration."""

import errno
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from training.core.entries import inside, unusual
from training.core.files import canonical_json, sha256_file
from training.core.records import parse_record
from training.data.labels import LabelSpace
from training.models.base import Nets

SEAL = "manifest.json"
ALWAYS = ("config.json", "label_space.json")  # in every checkpoint
LIMIT = 64 * 2**20  # bytes of a JSON file
T = TypeVar("T")


class CheckpointError(ValueError):
    """A checkpoint is damaged or does not fit the networks it is loaded into."""


@dataclass(frozen=True)
class Seal:
    """What manifest.json holds."""

    files: dict[str, str]  # name -> SHA-256


@dataclass(frozen=True)
class StoredModel:
    """What config.json says about the networks."""

    name: str  # a key of MODELS
    model: dict[str, Any]  # its fields
    size: Annotated[int, Field(ge=8, le=4096)]  # of the images, px
    absent: tuple[str, ...] = ()  # networks that an imported model lacks; inference needs none


def seal(folder: Path) -> None:
    """Write manifest.json with the SHA-256 of every file in `folder`."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    digests = {p.relative_to(folder).as_posix(): sha256_file(p) for p in files}
    (folder / SEAL).write_bytes(canonical_json({"files": digests}))


def verify(path: Path, needed: Iterable[str] = ()) -> None:
    """Check that a checkpoint is exactly the files it was sealed with, `needed` among them.

    Raises CheckpointError for an absent, changed, added or unlisted file and a damaged manifest.
    """
    try:
        digests = read_record(Seal, path / SEAL).files
        if absent := sorted({*ALWAYS, *needed} - set(digests)):
            raise ValueError(f"{SEAL} does not list {', '.join(absent)}")
        if not any(name.startswith("nets/") for name in digests):
            raise ValueError(f"{SEAL} lists no weights")
        for name, digest in digests.items():
            if sha256_file(inside(path, name)) != digest:
                raise ValueError(f"{name}: altered since it was saved")
        present = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
        if added := sorted(present - set(digests) - {SEAL}):
            raise ValueError(f"{added[0]}: added since it was saved")
        odd = [f"{name}: {kind}" for name, kind in unusual(path).items() if "empty" not in kind]
        if odd:
            raise ValueError(odd[0])
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged checkpoint ({error})") from error


def read_record(cls: type[T], path: Path) -> T:
    """A JSON file of a model as dataclass `cls`. Raises CheckpointError that names the file."""
    try:
        if path.stat().st_size > LIMIT:
            raise ValueError(f"{path}: more than {LIMIT} bytes")
        return parse_record(cls, path.read_bytes(), str(path))
    except (OSError, ValueError) as error:
        raise CheckpointError(str(error)) from error


def read_space(path: Path) -> LabelSpace:
    """The label space in a JSON file. Raises CheckpointError that names the file."""
    value = read_record(dict[str, Any], path)
    try:
        return LabelSpace.from_json(value)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a label space ({error})") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises CheckpointError that names the file."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not readable weights: {error}") from error


def write_tensors(values: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file. Raises OSError with the path, on a full disk for example."""
    try:
        save_file(dict(values), path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code) if number else str(error), str(path)) from error


def load_weights(net: nn.Module, path: Path) -> None:
    """Load a network's weights. Raises CheckpointError naming absent or mismatched tensors."""
    try:
        net.load_state_dict(read_tensors(path))
    except RuntimeError as error:
        raise CheckpointError(f"{path}: does not fit this network: {error}") from error


class _Uninitialised(TorchFunctionMode):
    """Skip the initialisation of weights."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def outlined(make: Callable[[], Nets]) -> Nets:
    """The networks of `make` with shapes only, which take no memory."""
    with torch.device("meta"), _Uninitialised():
        return make()


def check_fit(make: Callable[[], Nets], files: Mapping[str, Path]) -> None:
    """Check that the networks of `make` have the tensors of their `files`, before any takes memory.

    `files` are by the networks' names. Raises CheckpointError for other tensors or shapes, and
    ValueError as `make` does.
    """
    for name, net in outlined(make).items():
        if name not in files:
            raise CheckpointError(f"no weights of network {name} among the model's files")
        expected = {key: list(value.shape) for key, value in net.state_dict().items()}
        path = files[name]
        try:
            with safe_open(path, "pt") as stored:
                found = {key: stored.get_slice(key).get_shape() for key in stored.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: not readable weights: {error}") from error
        for key in sorted(set(expected) | set(found)):
            if expected.get(key) != found.get(key):
                raise CheckpointError(
                    f"{path}: does not fit this network: {key} has shape {found.get(key)}, the "
                    f"configuration asks for {expected.get(key)}"
                )


def weight_files(path: Path) -> dict[str, Path]:
    """Files of a checkpoint that fine-tuning or the registry needs, name -> path."""
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

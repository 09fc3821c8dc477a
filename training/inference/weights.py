"""A model's weight files: sealed by their digests, verified and loaded."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from training.core.files import canonical_json, read_json, sha256_file


class CheckpointError(ValueError):
    """A checkpoint that is damaged, or that does not fit what it is loaded into."""


def seal(folder: Path) -> None:
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


def load_weights(net: nn.Module, path: Path) -> None:
    """Load one network. Raises CheckpointError naming tensors that are absent or do not fit."""
    try:
        values = load_file(path)
        net.load_state_dict(values)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{path}: does not fit this network: {error}") from error


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

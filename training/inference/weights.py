"""Weight files of a model: write digests, verify and load."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from training.core.files import canonical_json, read_json, sha256_file


class CheckpointError(ValueError):
    """A checkpoint is damaged or does not fit the networks it is loaded into."""


def seal(folder: Path) -> None:
    """Write manifest.json with the SHA-256 of every file in `folder`."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    digests = {p.relative_to(folder).as_posix(): sha256_file(p) for p in files}
    (folder / "manifest.json").write_bytes(canonical_json({"files": digests}))


def verify(path: Path) -> None:
    """Check the SHA-256 of every file. Raises CheckpointError for an absent or changed one."""
    try:
        digests = read_json(path / "manifest.json")["files"]
        for name, digest in digests.items():
            if sha256_file(path / name) != digest:
                raise CheckpointError(f"{path / name}: altered since it was saved")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged checkpoint ({error})") from error


def load_weights(net: nn.Module, path: Path) -> None:
    """Load a network's weights. Raises CheckpointError naming absent or mismatched tensors."""
    try:
        values = load_file(path)
        net.load_state_dict(values)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{path}: does not fit this network: {error}") from error


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

"""Load third-party TorchScript networks, pinned by path and SHA-256 for reproducible runs."""

from pathlib import Path

import torch
from torch import nn

from training.core.files import sha256_file
from training.core.references import split_digest


def checked(setting: str, field: str) -> str:
    """The path of PATH@SHA256; `field` is the name of the setting in messages.

    Raises ValueError for a setting without a digest, an absent file, or another digest.
    """
    path, expected = split_digest(setting)
    if not expected:
        raise ValueError(f"{field}={setting}: PATH@SHA256 is needed")
    if not Path(path).is_file():
        raise ValueError(f"{field}={setting}: no file {path} on this machine; download it")
    actual = sha256_file(Path(path))
    if actual != expected:
        raise ValueError(f"{path}: sha256 {actual}, not {expected}; download the file again")
    return path


def pinned(setting: str, field: str) -> nn.Module:
    """Load the network PATH@SHA256 on the CPU, in evaluation mode. Raises as `checked` does."""
    path = checked(setting, field)
    net: nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    return net.eval()

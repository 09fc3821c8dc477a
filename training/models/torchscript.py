"""Networks that others trained: TorchScript by path and checksum, so that a run can be repeated."""

from pathlib import Path

import torch
from torch import nn

from training.core.files import sha256_file
from training.core.references import split_digest


def pinned(setting: str, field: str) -> nn.Module:
    """The network at PATH@SHA256, at rest on the CPU; ValueError if the file is not that one."""
    path, wanted = split_digest(setting)
    if not wanted:
        raise ValueError(f"{field}={setting}: PATH@SHA256 is needed")
    if not Path(path).is_file():
        raise ValueError(f"{field}={setting}: no file {path} on this machine; fetch it")
    found = sha256_file(Path(path))
    if found != wanted:
        raise ValueError(f"{path}: sha256 {found}, not {wanted}; fetch the file again")
    net: nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    return net.eval()

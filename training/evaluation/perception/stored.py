"""Networks of metrics, by PATH@SHA256: ours from safetensors, or anybody's from TorchScript."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from training.core.files import sha256_file, write_bytes
from training.core.references import split_digest
from training.evaluation.perception.inception import Inception
from training.evaluation.perception.lpips import Lpips
from training.models.torchscript import checked, pinned

SUFFIX = ".safetensors"
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "inception-torchvision": partial(Inception, "torchvision"),
    "inception-fid": partial(Inception, "fid"),
    "lpips-alex": partial(Lpips, "alex"),
    "lpips-vgg": partial(Lpips, "vgg"),
}


def write(path: Path, network: str, tensors: Mapping[str, Tensor]) -> str:
    """Write a network's tensors, the same bytes on every machine; returns their hex SHA-256."""
    write_bytes(path, save(dict(tensors), {"network": network}))
    return sha256_file(path)


def name_of(setting: str, field: str) -> str:
    """The network of PATH@SHA256, a key of NETWORKS; "" for TorchScript.

    Raises ValueError, before anything is loaded, as `checked` does, and for another network than
    `eval.<field>` takes.
    """
    path = checked(setting, f"eval.{field}")
    if not path.endswith(SUFFIX):
        return ""
    try:
        with safe_open(path, "pt") as stored:
            network = (stored.metadata() or {}).get("network", "")
    except (OSError, SafetensorError) as error:
        raise ValueError(f"eval.{field}={setting}: not readable: {error}") from error
    if network not in NETWORKS or not network.startswith(field):
        known = ", ".join(name for name in NETWORKS if name.startswith(field))
        raise ValueError(
            f"eval.{field}={setting}: holds {network or 'no network of ours'}, not one of {known}; "
            "make it with python -m training.convert"
        )
    return network


def network(setting: str, field: str, device: torch.device) -> nn.Module:
    """Load PATH@SHA256 in evaluation mode: ours on `device`, TorchScript on the CPU.

    Raises ValueError as `name_of` does, and for a file that does not fit its network.
    """
    name = name_of(setting, field)
    if not name:
        return pinned(setting, field)
    net = NETWORKS[name]()
    # the counters of batches, which evaluation does not use, are not in the file
    missing, unexpected = net.load_state_dict(load_file(split_digest(setting)[0]), strict=False)
    faults = [key for key in missing if not key.endswith("num_batches_tracked")] + unexpected
    if faults:
        raise ValueError(
            f"eval.{field}={setting}: does not fit {name}: {', '.join(faults[:3])}; make it again "
            "with python -m training.convert"
        )
    return net.to(device).eval().requires_grad_(False)


def placed(net: nn.Module) -> torch.device:
    """The device of a network; the CPU if it has no parameters."""
    first = next(net.parameters(), None)
    return torch.device("cpu") if first is None else first.device

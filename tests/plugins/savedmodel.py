"""The files of an untrained model, for tests of inference."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from training.core.files import write_json
from training.data.labels import LabelSpace


def saved(folder: Path, name: str, model: Any, space: LabelSpace) -> dict[str, Path]:
    """The files of an untrained model of 16 px."""
    torch.manual_seed(3)
    folder.mkdir(exist_ok=True)
    files = {}
    for net, module in model.networks(space, 16).items():
        files[f"nets/{net}.safetensors"] = folder / f"{net}.safetensors"
        save_file(module.state_dict(), folder / f"{net}.safetensors")
    config = {"name": name, "size": 16, "model": dataclasses.asdict(model)}
    for file, value in (("config.json", config), ("label_space.json", space.to_json())):
        write_json(folder / file, value)
        files[file] = folder / file
    return files

"""Load a trained model for inference."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.data.labels import LabelSpace
from training.inference.weights import (
    ALWAYS,
    CheckpointError,
    StoredModel,
    check_fit,
    load_weights,
    read_record,
    read_space,
    weight_files,
)
from training.models import model_from_json
from training.models.base import DEFAULT_OPTIONS, EditOptions, Model, Nets, check_options
from training.models.layers import place
from training.storage.store import Manifest, Store


@dataclass(frozen=True)
class Translator:
    """A trained model for inference; `nets` hold the averaged weights if they exist."""

    model: Model
    nets: Nets
    space: LabelSpace
    size: int
    config: dict[str, Any]
    options: EditOptions = DEFAULT_OPTIONS

    @torch.no_grad()
    def __call__(self, image: Tensor, source: Tensor | None, target: Tensor) -> Tensor:
        """Edit images (n, 3, size, size) in [-1, 1] from labels c̃ `source` to `target` (n, dim_g).

        `source` is None if unknown. Raises ValueError, listing the supported options, for options
        that the model would ignore.
        """
        check_options(self.model, self.config["name"], source, self.options)
        return self.model.translate(self.nets, image, source, target, self.options)

    @torch.no_grad()
    def paint(
        self, image: Tensor, source: Tensor | None, target: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """Attention mask A (n, 1, s, s) or None, and content C (n, 3, s, s); see `Model.paint`."""
        check_options(self.model, self.config["name"], source, self.options)
        return self.model.paint(self.nets, image, source, target, self.options)

    @torch.no_grad()
    def reconstruct(self, image: Tensor, source: Tensor) -> Tensor:
        """Self-reconstruction of images (n, 3, size, size) with labels c̃ `source`."""
        if self.model.edits_own_labels:
            return self(image, source, source)
        return self.model.reconstruct(self.nets, image, source)

    def back(self, image: Tensor) -> "Translator":
        """The translator for cycle reconstruction; styles come from `image` if supported."""
        if "reference" not in self.model.supported_options:
            return self
        return replace(self, options=EditOptions(reference=image))


def load_translator(source: Manifest | Path, store: Store | None = None) -> Translator:
    """Load a translator from a manifest of kind "model", its path, or a checkpoint folder.

    Uses averaged weights if they exist. File digests of a manifest are verified.
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
    """Load a translator from checkpoint files, name ("ema/G.safetensors", …) -> path.

    Raises CheckpointError for a missing or damaged file, and for weights of other networks than
    the configuration's; nothing is allocated before.
    """
    if absent := [name for name in ALWAYS if name not in files]:
        raise CheckpointError(f"no {absent[0]} among the model's files")
    config = read_record(dict[str, Any], files["config.json"])
    stored = read_record(StoredModel, files["config.json"])
    space = read_space(files["label_space.json"])
    weights = {
        name.removeprefix(part).removesuffix(".safetensors"): path
        for part in ("nets/", "ema/")  # the averages replace the weights
        for name, path in files.items()
        if name.startswith(part)
    }
    try:
        model = model_from_json(stored.name, stored.model)
        make = partial(_networks, model, space, stored)
        check_fit(make, weights)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{files['config.json']}: {error}") from error
    nets = make()
    for name, net in nets.items():
        load_weights(net, weights[name])
        net.requires_grad_(False).eval()
        place(net, torch.device("cpu"))
    return Translator(model, nets, space, stored.size, config)


def _networks(model: Model, space: LabelSpace, stored: StoredModel) -> Nets:
    nets = model.networks(space, stored.size)
    return {name: net for name, net in nets.items() if name not in stored.absent}

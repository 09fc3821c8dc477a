"""A trained model ready for use."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.core.files import read_json
from training.data.labels import LabelSpace
from training.inference.weights import load_weights, weight_files
from training.models import model_from_json
from training.models.base import DEFAULT_OPTIONS, EditOptions, Model, Nets, check_options
from training.storage.store import Manifest, Store


@dataclass(frozen=True)
class Translator:
    """A trained model ready for use; `nets` hold the averaged weights where they exist."""

    model: Model
    nets: Nets
    space: LabelSpace
    size: int
    config: dict[str, Any]
    options: EditOptions = DEFAULT_OPTIONS

    @torch.no_grad()
    def __call__(self, image: Tensor, source: Tensor | None, target: Tensor) -> Tensor:
        """Translate (n, 3, size, size) in [-1, 1] from c̃ `source` to c̃ `target` (n, dim_g).

        Raises ValueError, with what the model supports, for options that it would ignore.
        """
        check_options(self.model, self.config["name"], source, self.options)
        return self.model.translate(self.nets, image, source, target, self.options)

    @torch.no_grad()
    def paint(
        self, image: Tensor, source: Tensor | None, target: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """What is kept of the image (None: the model does not say) and what is put in its place."""
        check_options(self.model, self.config["name"], source, self.options)
        return self.model.paint(self.nets, image, source, target, self.options)

    @torch.no_grad()
    def reconstruct(self, image: Tensor, source: Tensor) -> Tensor:
        """The images with the labels that they have, through the networks."""
        if self.model.edits_own_labels:
            return self(image, source, source)
        return self.model.reconstruct(self.nets, image, source)

    def back(self, image: Tensor) -> "Translator":
        """The way back to `image`: with its own style where the model takes a reference."""
        if "reference" not in self.model.supported_options:
            return self
        return replace(self, options=EditOptions(reference=image))


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

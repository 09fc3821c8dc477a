"""The version that is served: its verified weights in memory, and what it offers."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import torch
from torch import Tensor

from training.data.labels import LabelSet, LabelSpace
from training.inference.translator import Translator, translator_from_files
from training.models.base import EditOptions
from training.registry import versions
from training.registry.lineage import verified_files
from training.tracking import client as tracking

# The Facial Action Coding System's names of the units that OpenFace measures.
UNITS = {
    "AU01": "inner brow raiser", "AU02": "outer brow raiser", "AU04": "brow lowerer",
    "AU05": "upper lid raiser", "AU06": "cheek raiser", "AU07": "lid tightener",
    "AU09": "nose wrinkler", "AU10": "upper lip raiser", "AU12": "lip corner puller",
    "AU14": "dimpler", "AU15": "lip corner depressor", "AU17": "chin raiser",
    "AU20": "lip stretcher", "AU23": "lip tightener", "AU25": "lips part", "AU26": "jaw drop",
    "AU45": "blink",
}  # fmt: skip


@dataclass(frozen=True)
class Served:
    """A registered version in memory. Requests keep the one that they began with."""

    name: str
    version: str
    translator: Translator

    @property
    def space(self) -> LabelSpace:
        return self.translator.space

    @property
    def size(self) -> int:
        """Side of the model's images, px."""
        return self.translator.size

    @property
    def headers(self) -> dict[str, str]:
        """Which version made a picture, and that it is synthetic."""
        return {
            "X-Model": quote(self.name),
            "X-Model-Version": self.version,
            "X-Synthetic": "made by an image-to-image translation model",
        }

    def offer(self) -> dict[str, Any]:
        """What requests may ask for: label sets with their kinds, and the model's options."""
        model = self.translator.model
        return {
            "name": self.name,
            "version": self.version,
            "model": self.translator.config["name"],
            "size": self.size,
            "reads_source": model.reads_source,
            "needs_source": model.needs_source,
            "options": list(model.supported_options),
            "sets": [_offered(part) for part in self.space.sets],
        }


def _offered(part: LabelSet) -> dict[str, Any]:
    texts = {
        name: f"{name} {UNITS[name]}" if name in UNITS else name.replace("_", " ").strip() or name
        for name in part.names
    }
    return {
        "name": part.name,
        "kind": part.kind,
        "labels": [{"name": name, "text": text} for name, text in texts.items()],
        "groups": [list(group) for group in part.groups],
        "conflicts": [list(pair) for pair in part.conflicts],
    }


@tracking.answered()
def current(reference: str) -> tuple[str, str]:
    """Name and number of the version that NAME@ALIAS or NAME/VERSION is now; ValueError if none."""
    found = versions.version(reference)
    return str(found.name), str(found.version)


@tracking.answered()
def load(name: str, version: str) -> Served:
    """Verify a version and load it; its networks have run once, which makes the next run faster.

    Raises ValueError as `registry.lineage.verified` and `translator_from_files` do.
    """
    with verified_files(f"{name}/{version}") as files:
        translator = translator_from_files(files)
    served = Served(name, version, translator)
    image, target = torch.zeros(1, 3, served.size, served.size), first_label(served.space)
    translator.paint(image, target if translator.model.needs_source else None, target)
    return served


def first_label(space: LabelSpace) -> Tensor:
    """c̃ (1, dim_g) with the first label of the first data set."""
    row = torch.zeros(1, len(space.sets[0].names))
    row[0, 0] = 1
    return space.encode(row, 0)


def rows_of(options: EditOptions, rows: int) -> EditOptions:
    """The options with one seed for each of `rows` images."""
    if not isinstance(options.seed, int):
        return options
    return EditOptions(options.intensity, (options.seed,) * rows, options.reference)

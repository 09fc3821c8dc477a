"""Load trained judges and classify images with them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.core.files import read_json
from training.data.labels import LabelSpace
from training.evaluation.judges.nets import ResNet18, SmallVGG
from training.evaluation.judges.training import scaled
from training.inference.weights import load_weights
from training.storage.store import Manifest, Store


@dataclass(frozen=True)
class Judge:
    """Trained judges, one pair per data set of `space`; `facts` is the content of judge.json."""

    space: LabelSpace
    size: int
    nets: list[ResNet18]
    seconds: list[SmallVGG]
    facts: dict[str, Any]
    digest: str
    device: torch.device

    def predict(self, dataset: int, images: Tensor) -> Tensor:
        """Logits (n, k), or intensities if labels are continuous, of (n, 3, s, s) in [-1, 1]."""
        with torch.inference_mode():
            logits = self.nets[dataset](images.to(self.device))
        return scaled(self.space.sets[dataset].kind, logits)

    def features(self, dataset: int, images: Tensor) -> Tensor:
        """Features (n, 128) of the second judge, for the Fréchet distance."""
        with torch.inference_mode():
            return self.seconds[dataset].features(images.to(self.device))

    def embed(self, dataset: int, features: Tensor) -> Tensor:
        """Unit identity vectors (n, d) of the second judge's features (n, 128)."""
        with torch.inference_mode():
            return self.seconds[dataset].embed(features)

    def accuracy(self, dataset: int) -> float:
        """Accuracy on real test images, mean over labels; the ceiling of edit success."""
        return float(self.facts["datasets"][dataset]["accuracy"])

    def require(self) -> None:
        """Raise ValueError unless the accuracy on every data set reaches the configured floor."""
        require(self.facts)


def require(facts: dict[str, Any]) -> None:
    """Raise ValueError unless the accuracy on every data set reaches the configured floor."""
    floor = facts["config"]["floor"]
    for fact in facts["datasets"]:
        if fact["accuracy"] < floor:
            rates = {n: v["accuracy"] for n, v in fact["labels"].items()}
            worst = min(rates, key=lambda n: rates[n])
            raise ValueError(
                f"judge of {fact['name']}: clean test accuracy {fact['accuracy']:.3f} (worst "
                f"{worst}, {rates[worst]:.3f}) is below its floor {floor}; train it longer "
                "(judge.images) or set a lower floor (judge.floor)"
            )


def load_judge(source: Manifest | Path, store: Store | None = None) -> Judge:
    """Load the judges of a manifest of kind "judge"; the digest of every file is checked."""
    manifest = source if isinstance(source, Manifest) else Manifest.read(source, "judge")
    facts = read_json(manifest.local("judge.json", store))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    nets, seconds = [], []
    for fact in facts["datasets"]:
        first = ResNet18(len(fact["names"]))
        second = SmallVGG(len(fact["names"]), fact["people"])
        for kind, net in (("resnet18", first), ("second", second)):
            load_weights(net, manifest.local(f"{fact['name']}-{kind}.safetensors", store))
            net.to(device).eval().requires_grad_(False)
        nets.append(first)
        seconds.append(second)
    space = LabelSpace.from_json(facts["space"])
    return Judge(space, facts["size"], nets, seconds, facts, manifest.digest, device)

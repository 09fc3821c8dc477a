"""E4: Fréchet distances of the edits of each target domain from real faces of that domain.

The features are the second judge's, and the distance bears its name; only with Inception weights
given by path and checksum is there a FID. Distances of few images are biased upwards, so beside
each stands its floor: real against real, at the same number of images.
"""

from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

from training.data.dataset import Faces, Part, generator, to_float
from training.data.labels import LabelSet, Task
from training.evaluation.judges.judge import Judge
from training.evaluation.metrics import frechet
from training.evaluation.records import Distance, DomainDistance
from training.evaluation.score import View
from training.models.torchscript import pinned

LEAST = 8  # images; fewer say nothing
CHUNK = 64


def inception_features(net: torch.nn.Module, images: Tensor) -> np.ndarray:
    """(n, d) of uint8 (n, H, W, 3).

    The network takes (n, 3, H, W), and return_features=True where its schema has that.
    """
    schema = str(getattr(net.forward, "schema", ""))
    extra = {"return_features": True} if "return_features" in schema else {}
    with torch.inference_mode():
        chunks = [
            net(images[i : i + CHUNK].cpu().permute(0, 3, 1, 2).contiguous(), **extra)
            for i in range(0, len(images), CHUNK)
        ]
    return torch.cat(chunks).float().cpu().numpy()


def domains(labels: LabelSet, task: Task, target: Tensor) -> list[tuple[str, Tensor]]:
    """Target domains of a single edit and the rows (n,) bool of `target` (n, k) that lie in each.

    An attribute that is flipped has two: those that got it, and those that lost it.
    """
    if not task.single or labels.kind == "continuous":
        return []
    on = target[:, labels.names.index(task.name)] > 0.5
    return [(task.name, on), (f"not_{task.name}", ~on)]


class Distances:
    """Collects features of the edits while they are scored (`see` is a hook of `score`)."""

    def __init__(self, judge: Judge, inception: str = "") -> None:
        self.judge = judge
        self.inception = pinned(inception, "inception") if inception else None
        self.kinds = ["frechet_vgg", *(["fid"] if inception else [])]
        self.edited: dict[tuple[int, str], dict[str, list[np.ndarray]]] = defaultdict(
            lambda: defaultdict(list)
        )

    def _features(self, judged: int, images: Tensor) -> dict[str, np.ndarray]:
        chunks = [
            self.judge.features(judged, to_float(images[i : i + CHUNK])).float().cpu().numpy()
            for i in range(0, len(images), CHUNK)
        ]
        out = {"frechet_vgg": np.concatenate(chunks)}
        if self.inception is not None:
            out["fid"] = inception_features(self.inception, images)
        return out

    def see(self, view: View, here: slice, task: Task, images: Tensor, features: Tensor) -> None:
        """Take the outputs (uint8) of one task for rows `here` of a view, and their features."""
        changed = task.changed[here]
        named = domains(view.labels, task, task.target[here])
        if not named or not changed.any():
            return
        found = {"frechet_vgg": features[changed.to(features.device)].float().cpu().numpy()}
        if self.inception is not None:
            found["fid"] = inception_features(self.inception, images[changed.to(images.device)])
        for name, rows in named:
            mine = rows[changed].numpy()
            for kind, values in found.items():
                if mine.any():
                    self.edited[view.dataset, name][kind].append(values[mine])

    def table(
        self,
        faces: Faces,
        spare: Faces | None,
        learned: Faces | None = None,
        seed: int = 0,
        way: str = "",
    ) -> list[DomainDistance]:
        """One record a domain: distance, floor, and the number of images on each side of both.

        Real faces are those of `faces` (the test split) and `spare` (validation, if any) with the
        label: one half is compared with the edits, and with the other half for the floor. `train`
        is the distance from as many of `learned` (StarGAN v2's convention), where it has them.
        Domains with fewer than 8 images a side are left out.
        """
        out: list[DomainDistance] = []
        for i, labels in enumerate(faces.space.sets):
            parts = [s.parts[i] for s in (faces, spare) if s is not None]
            real = self._real(self.judge.space.index(labels.name), parts)
            shown = torch.cat([p.labels for p in parts])
            for (dataset, name), edited in self.edited.items():
                if dataset != i:
                    continue
                positive = name in labels.names
                attribute = name if positive else name.removeprefix("not_")
                at = labels.names.index(attribute)
                here = (shown[:, at] > 0.5) == positive
                stream = generator(seed, "halves", labels.name, name)
                found = here.nonzero().flatten()
                rows = found[torch.randperm(len(found), generator=stream)].numpy()
                fakes = {kind: np.concatenate(v) for kind, v in edited.items()}
                total = len(fakes[self.kinds[0]])
                order = torch.randperm(total, generator=stream).numpy()
                n = min(total, len(rows) // 2)
                if n < LEAST:
                    continue
                trained: dict[str, np.ndarray] = {}
                if learned is not None:
                    part = learned.parts[i]
                    seen = ((part.labels[:, at] > 0.5) == positive).nonzero().flatten()
                    some = seen[torch.randperm(len(seen), generator=stream)[:n]].tolist()
                    if len(some) == n:
                        trained = self._some(self.judge.space.index(labels.name), part, some)
                distances = {}
                for kind in self.kinds:
                    fake = fakes[kind][order[:n]]
                    one, two = real[kind][rows[:n]], real[kind][rows[n : 2 * n]]
                    train = frechet(fake, trained[kind]) if trained else None
                    distances[kind] = Distance(frechet(fake, one), frechet(two, one), train)
                out.append(DomainDistance(labels.name, name, n, distances, way))
        return out

    def _real(self, judged: int, parts: list[Part]) -> dict[str, np.ndarray]:
        found = [self._some(judged, part, list(range(len(part)))) for part in parts]
        return {kind: np.concatenate([f[kind] for f in found if f]) for kind in self.kinds}

    def _some(self, judged: int, part: Part, rows: list[int]) -> dict[str, np.ndarray]:
        """Features of these real images, few at a time."""
        chunks: dict[str, list[np.ndarray]] = defaultdict(list)
        for start in range(0, len(rows), CHUNK):
            images = part.images(rows[start : start + CHUNK])
            for kind, values in self._features(judged, images).items():
                chunks[kind].append(values)
        return {kind: np.concatenate(v) for kind, v in chunks.items()}

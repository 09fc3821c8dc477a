"""E4: Fréchet distances of the edits of each target domain from real faces of that domain.

Features are the second judge's (frechet_vgg); FID is added if Inception weights are given by
path and checksum. Distances of few images are biased upwards, so each comes with a floor: the
distance between real images at the same sample size.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from training.data.dataset import Faces, Part, to_float
from training.data.labels import LabelSet, Task
from training.data.order import generator
from training.evaluation.judges.judge import Judge
from training.evaluation.metrics import frechet
from training.evaluation.perception.stored import network, placed
from training.evaluation.records import Distance, DomainDistance
from training.evaluation.score import View

MIN_IMAGES = 8  # per side; with fewer the distance is meaningless
CHUNK = 64
KINDS = {"frechet_vgg": "kid_vgg", "fid": "kid"}  # the kernel distance of the same features


def inception_features(net: torch.nn.Module, images: Tensor) -> np.ndarray:
    """Features (n, d) of uint8 images (n, H, W, 3).

    The network takes (n, 3, H, W), and return_features=True if its schema has that argument.
    """
    schema, device = str(getattr(net.forward, "schema", "")), placed(net)
    extra = {"return_features": True} if "return_features" in schema else {}
    with torch.inference_mode():
        chunks = [
            net(images[i : i + CHUNK].to(device).permute(0, 3, 1, 2).contiguous(), **extra)
            for i in range(0, len(images), CHUNK)
        ]
    return torch.cat(chunks).float().cpu().numpy()


def domains(labels: LabelSet, task: Task, target: Tensor) -> list[tuple[str, Tensor]]:
    """Target domains of a single edit, each with a mask (n,) bool of its rows of `target` (n, k).

    A flipped attribute has two: images that gained it and images that lost it. Combinations and
    continuous labels have none.
    """
    if not task.single or labels.kind == "continuous":
        return []
    on = target[:, labels.names.index(task.name)] > 0.5
    return [(task.name, on), (f"not_{task.name}", ~on)]


def in_domain(labels: LabelSet, name: str, shown: np.ndarray) -> np.ndarray:
    """Which rows of labels (n, k) belong to the target domain `name`: bool (n,)."""
    positive = name in labels.names
    column = labels.names.index(name if positive else name.removeprefix("not_"))
    return np.asarray((shown[:, column] > 0.5) == positive)


def cluster_names(faces: Faces, dataset: int, rows: Sequence[int] | None = None) -> np.ndarray:
    """Data set and person of images (all without `rows`), or the image if the person is unknown."""
    part = faces.parts[dataset]
    chosen = range(len(part)) if rows is None else rows
    people = (part.identity[i] or f"{faces.split} image {i}" for i in chosen)
    return np.array([f"{part.name}/{person}" for person in people])


class Distances:
    """Collects features of edits while they are scored (`add` is a hook of `score`)."""

    def __init__(self, judge: Judge, inception: str = "") -> None:
        self.judge = judge
        self.inception = network(inception, "inception", judge.device) if inception else None
        self.kinds = ["frechet_vgg", *(["fid"] if inception else [])]
        self.edited: dict[tuple[int, str], dict[str, list[np.ndarray]]] = defaultdict(
            lambda: defaultdict(list)
        )
        self._real: dict[int, dict[str, np.ndarray]] = {}

    def real(self, dataset: int, faces: Faces, extra: Faces | None) -> dict[str, np.ndarray]:
        """Features by kind of all real images of `faces` and `extra`, computed once."""
        if dataset not in self._real:
            parts = [s.parts[dataset] for s in (faces, extra) if s is not None]
            judged = self.judge.space.index(parts[0].name)
            self._real[dataset] = self._real_features(judged, parts)
        return self._real[dataset]

    def features(self, judged: int, images: Tensor) -> dict[str, np.ndarray]:
        """Features (n, d) by kind of uint8 images (n, H, W, 3)."""
        chunks = [
            self.judge.features(judged, to_float(images[i : i + CHUNK])).float().cpu().numpy()
            for i in range(0, len(images), CHUNK)
        ]
        out = {"frechet_vgg": np.concatenate(chunks)}
        if self.inception is not None:
            out["fid"] = inception_features(self.inception, images)
        return out

    def add(
        self, view: View, here: slice | Tensor, task: Task, images: Tensor, features: Tensor
    ) -> None:
        """Collect the features of one task's uint8 outputs for rows `here` of a view."""
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
        extra: Faces | None,
        train: Faces | None = None,
        seed: int = 0,
        way: str = "",
    ) -> list[DomainDistance]:
        """One record per domain: distance, floor, and the number of images on each side.

        Real images are those of the domain in `faces` (the test split) and `extra` (validation,
        if any): one half is compared with the edits, and with the other half for the floor.
        `Distance.train` is the distance to as many images of `train` (StarGAN v2's convention), if
        it has enough. Domains with fewer than 8 images a side are omitted.
        """
        out: list[DomainDistance] = []
        for i, labels in enumerate(faces.space.sets):
            parts = [s.parts[i] for s in (faces, extra) if s is not None]
            real = self.real(i, faces, extra)
            shown = torch.cat([p.labels for p in parts])
            for (dataset, name), edited in self.edited.items():
                if dataset != i:
                    continue
                stream = generator(seed, "halves", labels.name, name)
                found = torch.from_numpy(in_domain(labels, name, shown.numpy())).nonzero().flatten()
                rows = found[torch.randperm(len(found), generator=stream)].numpy()
                fakes = {kind: np.concatenate(v) for kind, v in edited.items()}
                total = len(fakes[self.kinds[0]])
                order = torch.randperm(total, generator=stream).numpy()
                n = min(total, len(rows) // 2)
                if n < MIN_IMAGES:
                    continue
                train_features: dict[str, np.ndarray] = {}
                if train is not None:
                    part = train.parts[i]
                    own = in_domain(labels, name, part.labels.numpy())
                    candidates = torch.from_numpy(own).nonzero().flatten()
                    chosen = candidates[
                        torch.randperm(len(candidates), generator=stream)[:n]
                    ].tolist()
                    if len(chosen) == n:
                        train_features = self.row_features(
                            self.judge.space.index(labels.name), part, chosen
                        )
                distances = {}
                for kind in self.kinds:
                    fake = fakes[kind][order[:n]]
                    one, two = real[kind][rows[:n]], real[kind][rows[n : 2 * n]]
                    from_train = frechet(fake, train_features[kind]) if train_features else None
                    distances[kind] = Distance(frechet(fake, one), frechet(two, one), from_train)
                out.append(DomainDistance(labels.name, name, n, distances, way))
        return out

    def _real_features(self, judged: int, parts: list[Part]) -> dict[str, np.ndarray]:
        found = [self.row_features(judged, part, list(range(len(part)))) for part in parts]
        return {kind: np.concatenate([f[kind] for f in found if f]) for kind in self.kinds}

    def row_features(self, judged: int, part: Part, rows: list[int]) -> dict[str, np.ndarray]:
        """Features of the given rows, computed in chunks."""
        chunks: dict[str, list[np.ndarray]] = defaultdict(list)
        for start in range(0, len(rows), CHUNK):
            images = part.images(rows[start : start + CHUNK])
            for kind, values in self.features(judged, images).items():
                chunks[kind].append(values)
        return {kind: np.concatenate(v) for kind, v in chunks.items()}

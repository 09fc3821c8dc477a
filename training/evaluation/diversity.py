"""E5: diversity of the outputs for one input, for models with a style latent or reference.

For each target domain and source image that is not in it, the mean distance over the 45 pairs of
ten outputs: LPIPS if its weights are given by path and checksum, otherwise the distance of the
second judge's features (diversity_vgg). The same outputs also give Fréchet distances, over many
styles instead of one.
"""

from collections import defaultdict
from dataclasses import replace
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from training.core.config import EvalConfig
from training.data.dataset import Faces, to_float
from training.data.labels import Task
from training.data.order import generator
from training.evaluation.frechet import Distances
from training.evaluation.judges.judge import Judge
from training.evaluation.perception.stored import network, placed
from training.evaluation.records import StyleSpread
from training.evaluation.score import View, run, views
from training.inference.translator import Translator
from training.models.base import EditOptions

OUTPUTS = 10
SOURCES = 32  # maximum number of images per data set
WAYS = {"latent": "seed", "reference": "reference"}  # way -> required edit option


class PerceptualDistance:
    """Distance of two batches of images: LPIPS if its weights are given, else VGG features."""

    def __init__(self, judge: Judge, lpips: str = "") -> None:
        self.judge = judge
        self.net = network(lpips, "lpips", judge.device) if lpips else None
        self.name = "lpips" if lpips else "diversity_vgg"

    def __call__(self, judged: int, a: Tensor, b: Tensor) -> np.ndarray:
        """Distances (n,) of uint8 images (n, H, W, 3)."""
        x, y = to_float(a), to_float(b)
        if self.net is not None:
            with torch.inference_mode():
                found = self.net(x.to(placed(self.net)), y.to(placed(self.net)))
            return np.asarray(found.float().reshape(len(a)).cpu().numpy())
        return self.features(judged, x, y)

    def features(self, judged: int, x: Tensor, y: Tensor) -> np.ndarray:
        """Distances (n,) of the second judge's features; images (n, 3, H, W) in [-1, 1]."""
        one, two = (self.judge.features(judged, v) for v in (x, y))
        return np.asarray((one - two).norm(dim=1).cpu())


def _options(way: str, faces: Faces, view: View, task: Task, rows: Tensor) -> list[EditOptions]:
    """Up to ten styles for the targets of a task's `rows`: latent seeds, or for each row held-out
    images of its own target domain (a flip has two)."""
    if way == "latent":
        return [EditOptions(seed=i) for i in range(OUTPUTS)]
    part, columns = faces.parts[view.dataset], [view.labels.names.index(n) for n in task.edits]
    targets, which = task.target[rows][:, columns].unique(dim=0, return_inverse=True)
    found = []
    for target in targets:
        shown = (part.labels[:, columns] == target).all(1).nonzero().flatten()
        order = torch.randperm(len(shown), generator=generator(0, "style", task.name))[:OUTPUTS]
        found.append(shown[order].tolist())
    count = min(map(len, found))
    if count < 2:
        return []
    return [
        EditOptions(reference=to_float(part.images([found[i][k] for i in which.tolist()])))
        for k in range(count)
    ]


def diversity(
    translator: Translator, faces: Faces, judge: Judge, config: EvalConfig
) -> tuple[list[StyleSpread], dict[str, Distances]]:
    """One row per (way, data set, edit), and the features for Fréchet distances by way.

    Of the images that the edit changes: the others are copied by the models of pairs. In a row
    `apart` is the mean distance over pairs of outputs, `from_input` that to the source image. Both
    are empty for a model without a latent or a reference.
    """
    supported = translator.model.supported_options
    ways = [way for way, field in WAYS.items() if field in supported]
    if not ways:
        return [], {}
    limited = replace(config, limit=min(config.limit or SOURCES, SOURCES))
    distance = PerceptualDistance(judge, config.lpips)
    found: list[StyleSpread] = []
    frechet: dict[str, Distances] = defaultdict(lambda: Distances(judge, config.inception))
    for view in views(translator, faces, judge, limited):
        images = faces.parts[view.dataset].images(view.rows)
        for way in ways:
            for task in (task for task in view.tasks if task.single and task.changed.any()):
                rows = task.changed.nonzero().flatten()
                before = images[rows]
                x, source = to_float(before).to(judge.device), view.encode(view.source)[rows]
                target, outputs = view.encode(task.target)[rows], []
                for options in _options(way, faces, view, task, rows):
                    if options.reference is not None:
                        options = EditOptions(reference=options.reference.to(x.device))
                    styled = replace(translator, options=options)
                    outputs.append(run(styled, x, source, target))
                    features = judge.features(view.judged, to_float(outputs[-1]))
                    frechet[way].add(view, rows, task, outputs[-1], features)
                if not outputs:
                    continue
                pairs = [distance(view.judged, a, b).mean() for a, b in combinations(outputs, 2)]
                input_distances = [
                    distance(view.judged, a, before.to(a.device)).mean() for a in outputs
                ]
                found.append(
                    StyleSpread(
                        way=way, dataset=view.labels.name, domain=task.name, distance=distance.name,
                        apart=float(np.mean(pairs)), from_input=float(np.mean(input_distances)),
                        images=len(x),
                    )
                )  # fmt: skip
    return found, dict(frechet)

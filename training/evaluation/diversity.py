"""E5: how much the outputs for one input differ, of a model that takes a latent or a reference.

Ten outputs a source and target domain, the mean distance of their 45 pairs. With LPIPS weights
given by path and checksum that distance is LPIPS; else it is one of the second judge's features
and bears its name. The same outputs give Fréchet distances, since one style for all is no sample
of a domain.
"""

from collections import defaultdict
from dataclasses import replace
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from training.core.config import EvalConfig
from training.data.dataset import Faces, generator, to_float
from training.data.labels import Task
from training.evaluation.frechet import Distances
from training.evaluation.judges.judge import Judge
from training.evaluation.records import StyleSpread
from training.evaluation.score import View, run, views
from training.inference.translator import Translator
from training.models.base import EditOptions
from training.models.torchscript import pinned

OUTPUTS = 10
SOURCES = 32  # images of each data set at most
WAYS = {"latent": "seed", "reference": "reference"}  # way -> the edit option that it needs


class Apart:
    """The distance of two batches of pictures: LPIPS where its weights are given."""

    def __init__(self, judge: Judge, lpips: str = "") -> None:
        self.judge = judge
        self.net = pinned(lpips, "lpips") if lpips else None
        self.name = "lpips" if lpips else "diversity_vgg"

    def __call__(self, judged: int, a: Tensor, b: Tensor) -> np.ndarray:
        """(n,) of uint8 (n, H, W, 3)."""
        x, y = to_float(a), to_float(b)
        if self.net is not None:
            with torch.inference_mode():
                return self.net(x.cpu(), y.cpu()).float().reshape(len(a)).numpy()
        return self.features(judged, x, y)

    def features(self, judged: int, x: Tensor, y: Tensor) -> np.ndarray:
        one, two = (self.judge.features(judged, v) for v in (x, y))
        return np.asarray((one - two).norm(dim=1).cpu())


def _options(way: str, faces: Faces, view: View, task: Task) -> list[EditOptions]:
    """Ten styles of a task's target: of latents, or of held-out images that show its label."""
    if way == "latent":
        return [EditOptions(seed=i) for i in range(OUTPUTS)]
    part, at = faces.parts[view.dataset], [view.labels.names.index(n) for n in task.edits]
    shown = (part.labels[:, at] == task.target[0, at]).all(1).nonzero().flatten()
    order = torch.randperm(len(shown), generator=generator(0, "style", task.name))[:OUTPUTS]
    if len(order) < 2:
        return []
    return [EditOptions(reference=to_float(part.images([int(i)]))) for i in shown[order]]


def diversity(
    translator: Translator, faces: Faces, judge: Judge, config: EvalConfig
) -> tuple[list[StyleSpread], dict[str, Distances]]:
    """One row a (way, data set, target domain): apart (mean over pairs of ten outputs), from_input
    (distance to the source), images; and by way the Fréchet distances' features. Empty for a model
    that takes neither a latent nor a reference.
    """
    supported = translator.model.supported_options
    ways = [way for way, field in WAYS.items() if field in supported]
    if not ways:
        return [], {}
    few = replace(config, limit=min(config.limit or SOURCES, SOURCES))
    apart = Apart(judge, config.lpips)
    rows: list[StyleSpread] = []
    seen: dict[str, Distances] = defaultdict(lambda: Distances(judge, config.inception))
    for view in views(translator, faces, judge, few):
        before = faces.parts[view.dataset].images(view.rows)
        x, source = to_float(before).to(judge.device), view.encode(view.source)
        for way in ways:
            for task in (task for task in view.tasks if task.single and task.changed.any()):
                made = []
                for options in _options(way, faces, view, task):
                    if options.reference is not None:
                        style = options.reference.to(x.device).expand(len(x), -1, -1, -1)
                        options = EditOptions(reference=style)
                    styled = replace(translator, options=options)
                    made.append(run(styled, x, source, view.encode(task.target)))
                    features = judge.features(view.judged, to_float(made[-1]))
                    seen[way].see(view, slice(0, len(x)), task, made[-1], features)
                if not made:
                    continue
                pairs = [apart(view.judged, a, b).mean() for a, b in combinations(made, 2)]
                moved = [apart(view.judged, a, before.to(a.device)).mean() for a in made]
                rows.append(
                    StyleSpread(
                        way=way, dataset=view.labels.name, domain=task.name, distance=apart.name,
                        apart=float(np.mean(pairs)), from_input=float(np.mean(moved)),
                        images=len(x),
                    )
                )  # fmt: skip
    return rows, dict(seen)

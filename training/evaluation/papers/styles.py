"""StarGAN v2's test of styles (section 4 and appendix; its published code): FID and LPIPS.

For every ordered pair of domains, all images of the first are edited to the second ten times, each
output with a latent or a reference of its own. LPIPS is the mean over the 45 pairs of the ten
outputs of an image; the FID compares all outputs with all training images of the second domain.
Both are means over the ordered pairs. A model without styles gives one output, and no LPIPS.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, permutations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.core.config import EvalConfig
from training.core.progress import Progress
from training.data.dataset import Faces, to_float
from training.data.order import generator
from training.evaluation.diversity import OUTPUTS, WAYS, PerceptualDistance
from training.evaluation.frechet import Distances
from training.evaluation.judges.judge import Judge
from training.evaluation.metrics import frechet
from training.evaluation.records import PaperNumber, PaperResult
from training.evaluation.score import BATCH, View, move_nets, run
from training.inference.translator import Translator
from training.models.base import EditOptions

LEAST = 2  # images on a side of a Fréchet distance
SEEDS = 2**62


class Pair(NamedTuple):
    """An ordered pair of domains: their classes, and the rows of the view that are edited."""

    source: int
    target: int
    rows: list[int]

    def named(self, view: View) -> str:
        return f"{view.labels.names[self.source]} to {view.labels.names[self.target]}"


def styles(
    translator: Translator,
    faces: Faces,
    train: Faces | None,
    judge: Judge,
    view: View,
    config: EvalConfig,
) -> PaperResult:
    """Distances of every ordered pair and their means, of each style source that the model has.

    Raises ValueError without training images, or if no pair has enough images.
    """
    if train is None:
        raise ValueError("eval.protocol=paper: the FID is from training images, which are missing")
    move_nets(translator, judge.device)
    supported = translator.model.supported_options
    ways = [way for way, field in WAYS.items() if field in supported] or [""]
    own, shown = view.source.argmax(1), train.parts[view.dataset].labels.argmax(1)
    sources = [(own == k).nonzero().flatten().tolist() for k in range(len(view.labels.names))]
    trained = [int((shown == k).sum()) for k in range(len(view.labels.names))]
    every = [Pair(a, b, sources[a]) for a, b in permutations(range(len(sources)), 2)]
    least = 1 if ways[0] else LEAST  # of ten outputs each, one source is enough
    enough = [
        len(p.rows) >= least and bool(sources[p.target]) and trained[p.target] >= LEAST
        for p in every
    ]
    pairs, skipped = ([p for p, fits in zip(every, enough, strict=True) if fits == wanted]
                      for wanted in (True, False))  # fmt: skip
    if not pairs:
        raise ValueError(
            f"eval.protocol=paper: {view.labels.name}: no two classes have enough scored and "
            f"training images for a distance; {LEAST} of each are needed"
        )
    measure = _Measure(translator, faces, train, judge, view, config)
    numbers: list[PaperNumber] = []
    total = len(ways) * sum(len(pair.rows) for pair in pairs)
    with Progress("StarGAN v2's protocol", total, "images") as progress:
        for way in ways:
            rows = [number for p in pairs for number in measure.pair(p, way, progress)]
            for name in dict.fromkeys(row.measure for row in rows):
                mine = [row for row in rows if row.measure == name]
                mean = float(np.mean([row.value for row in mine]))
                numbers.append(PaperNumber(name, mean, sum(row.outputs for row in mine), way=way))
            numbers += rows
    words = "images of the other domains, "
    words += f"{OUTPUTS} outputs each" if ways[0] else "one output each: the model has no styles"
    names = ", ".join(pair.named(view) for pair in skipped)
    remark = f"too few images, left out: {names}" if skipped else ""
    images = len({row for pair in pairs for row in pair.rows})
    return PaperResult("starganv2", view.labels.name, words, images, tuple(numbers), remark)


class _Measure:
    """Measures pairs; the features of a domain's training images are computed once."""

    def __init__(
        self, translator: Translator, faces: Faces, train: Faces, judge: Judge, view: View,
        config: EvalConfig,
    ) -> None:  # fmt: skip
        self.translator, self.faces, self.train = translator, faces, train
        self.judge, self.view = judge, view
        self.distances = Distances(judge, config.inception)
        self.perceptual = PerceptualDistance(judge, config.lpips)
        self._real: dict[int, dict[str, np.ndarray]] = {}

    def pair(self, pair: Pair, way: str, progress: Progress) -> list[PaperNumber]:
        features: dict[str, list[np.ndarray]] = {kind: [] for kind in self.distances.kinds}
        apart: list[np.ndarray] = []
        judged = self.view.judged
        for outputs in self._outputs(pair, way):
            for images in outputs:
                for kind, values in self.distances.features(judged, images).items():
                    features[kind].append(values)
            if way:
                distances = [self.perceptual(judged, a, b) for a, b in combinations(outputs, 2)]
                apart.append(np.mean(distances, 0))
            progress.step(len(outputs[0]))
        name, real = pair.named(self.view), self._real_features(pair.target)
        count = len(pair.rows) * (OUTPUTS if way else 1)
        numbers = []
        for kind, chunks in features.items():
            value = frechet(np.concatenate(chunks), real[kind])
            numbers.append(PaperNumber(kind, value, count, name, way))
        if apart:
            value = float(np.concatenate(apart).mean())
            numbers.append(PaperNumber(self.perceptual.name, value, count, name, way))
        return numbers

    def _outputs(self, pair: Pair, way: str) -> Iterator[list[Tensor]]:
        """Batches of a pair's sources: uint8 (n, s, s, 3) of each of the ten styles, or of one."""
        view, part = self.view, self.faces.parts[self.view.dataset]
        chosen = self._styles(pair, way)
        c = torch.zeros(1, len(view.labels.names))
        c[0, pair.target] = 1
        for start in range(0, len(pair.rows), BATCH):
            here = pair.rows[start : start + BATCH]
            x = to_float(part.images([view.rows[i] for i in here]).to(self.judge.device))
            source, target = view.encode(view.source[here]), view.encode(c.expand(len(here), -1))
            mine = chosen[start : start + BATCH]
            options = [self._options(column, way) for column in mine.unbind(1)]
            yield [run(replace(self.translator, options=one), x, source, target) for one in options]

    def _styles(self, pair: Pair, way: str) -> Tensor:
        """Of each source (n, 10): seeds of latents, or rows of references; (n, 1) without styles.

        References are the target's scored images in a random order, again and again, so that the
        ten of one source differ where there are as many.
        """
        n = len(pair.rows)
        if not way:
            return torch.zeros(n, 1, dtype=torch.long)
        stream = generator(0, "paper", way, self.view.labels.name, pair.source, pair.target)
        if way == "latent":
            return torch.randint(SEEDS, (n, OUTPUTS), generator=stream)
        shown = (self.view.source.argmax(1) == pair.target).nonzero().flatten()
        rounds = -(-n * OUTPUTS // len(shown))
        orders = [torch.randperm(len(shown), generator=stream) for _ in range(rounds)]
        return shown[torch.cat(orders)[: n * OUTPUTS]].reshape(n, OUTPUTS)

    def _options(self, column: Tensor, way: str) -> EditOptions:
        """The options of one output of a batch."""
        if not way:
            return self.translator.options
        if way == "latent":
            return EditOptions(seed=tuple(column.tolist()))
        rows = [self.view.rows[i] for i in column.tolist()]
        images = self.faces.parts[self.view.dataset].images(rows)
        return EditOptions(reference=to_float(images.to(self.judge.device)))

    def _real_features(self, domain: int) -> dict[str, np.ndarray]:
        if domain not in self._real:
            part = self.train.parts[self.view.dataset]
            rows = (part.labels.argmax(1) == domain).nonzero().flatten().tolist()
            self._real[domain] = self.distances.row_features(self.view.judged, part, rows)
        return self._real[domain]

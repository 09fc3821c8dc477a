"""StarGAN's test of expressions (table 3): how often the judge does not see the target.

Neutral faces are edited to every other expression, and the error is over all outputs, so that an
expression counts by its images. Of a data set without a neutral class every image is a source.
"""

import numpy as np
import torch

from training.core.config import EvalConfig
from training.core.progress import Progress
from training.data.dataset import Faces, to_float
from training.evaluation.frechet import cluster_names
from training.evaluation.judges.judge import Judge
from training.evaluation.metrics import proportion_interval
from training.evaluation.records import PaperNumber, PaperResult
from training.evaluation.score import BATCH, Translate, View, move_nets, run

NEUTRAL = "neutral"


def neutral(view: View) -> tuple[torch.Tensor, str]:
    """Which rows (n,) bool of a view are edited, and which these are, in words."""
    classes = [name.lower() for name in view.labels.names]
    if NEUTRAL not in classes:
        return torch.ones(len(view.rows), dtype=torch.bool), (
            f"images of every class, since none of {', '.join(view.labels.names)} is neutral"
        )
    rows = view.source[:, classes.index(NEUTRAL)] > 0.5
    if not rows.any():
        return ~rows, "images of every class, since no scored image is neutral"
    return rows, "neutral images only"


def expressions(
    translator: Translate, faces: Faces, judge: Judge, view: View, config: EvalConfig
) -> PaperResult:
    """Errors over all outputs, and of each target class, with 95 % intervals over people."""
    move_nets(translator, judge.device)
    part, own = faces.parts[view.dataset], view.source.argmax(1)
    edited, words = neutral(view)
    wrong, target, people = [], [], []
    names = cluster_names(faces, view.dataset, view.rows)
    real = []
    with Progress("StarGAN's protocol", len(view.rows), "images") as progress:
        for start in range(0, len(view.rows), BATCH):
            here = slice(start, start + BATCH)
            x = to_float(part.images(view.rows[here]).to(judge.device))
            source = view.encode(view.source[here])
            real.append(judge.predict(view.judged, x).argmax(1).cpu() != own[here])
            for k in range(len(view.labels.names)):
                rows = edited[here] & (own[here] != k)
                if not rows.any():
                    continue
                c = torch.zeros(int(rows.sum()), len(view.labels.names))
                c[:, k] = 1
                out = run(translator, x[rows.to(x.device)], source[rows], view.encode(c))
                seen = judge.predict(view.judged, to_float(out)).argmax(1).cpu()
                wrong.append((seen != k).numpy())
                target.append(np.full(len(seen), k))
                people.append(names[here][rows.numpy()])
            progress.step(len(source))
    values, who = np.concatenate(wrong).astype(float), np.concatenate(people)
    numbers = [_error(values, who, config)]
    for k, name in enumerate(view.labels.names):
        chosen = np.concatenate(target) == k
        if chosen.any():
            numbers.append(_error(values[chosen], who[chosen], config, name))
    errors = torch.cat(real).double().numpy()
    low, high = proportion_interval(errors, names, config.bootstrap)
    real_error = PaperNumber("real_error", float(errors.mean()), len(errors), low=low, high=high)
    return PaperResult(
        "stargan", view.labels.name, words, int(edited.sum()), (*numbers, real_error)
    )


def _error(
    wrong: np.ndarray, people: np.ndarray, config: EvalConfig, part: str = ""
) -> PaperNumber:
    low, high = proportion_interval(wrong, people, config.bootstrap)
    return PaperNumber("error", float(wrong.mean()), len(wrong), part, low=low, high=high)

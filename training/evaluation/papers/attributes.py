"""AttGAN's and STGAN's test of attributes, as STGAN's published code runs it.

Each attribute of every image is flipped; where that switches it on, the attributes it excludes go
off. Only the flipped attribute decides about success. The error of the others is against the
image's own labels, also where the edit had to switch one of them off. Reconstruction: the target is
the source.
"""

import torch

from training.core.progress import Progress
from training.data.dataset import Faces, to_float
from training.data.labels import flip
from training.evaluation.judges.judge import Judge
from training.evaluation.judges.training import decide
from training.evaluation.metrics import psnr, ssim
from training.evaluation.records import PaperNumber, PaperResult
from training.evaluation.score import BATCH, View, move_nets, reconstructed, run
from training.inference.translator import Translator


def attributes(translator: Translator, faces: Faces, judge: Judge, view: View) -> PaperResult:
    """Accuracy and error of every attribute and their means; PSNR (dB) and SSIM over the images."""
    move_nets(translator, judge.device)
    part, labels, n = faces.parts[view.dataset], view.labels, len(view.rows)
    k = len(labels.names)
    right, others = torch.zeros(2, k, dtype=torch.float64)  # sums over images
    real = 0.0
    quality: dict[str, float] = {"psnr": 0.0, "ssim": 0.0}
    with Progress("AttGAN's and STGAN's protocol", n, "images") as progress:
        for start in range(0, n, BATCH):
            here = slice(start, start + BATCH)
            before, truth = part.images(view.rows[here]), view.source[here]
            x, source = to_float(before.to(judge.device)), view.encode(truth)
            wrong = _seen(judge, view, x) != truth.bool()
            real += float(wrong.double().mean(1).sum())
            again = reconstructed(translator, x, source, run(translator, x, source, source))
            quality["psnr"] += float(psnr(before, again.to(before.device)).sum())
            quality["ssim"] += float(ssim(before, again.to(before.device)).sum())
            for i, name in enumerate(labels.names):
                target = view.encode(flip(truth, labels, name))
                y = to_float(run(translator, x, source, target))
                unlike = _seen(judge, view, y) != truth.bool()
                right[i] += unlike[:, i].sum()
                rest = unlike.sum(1) - unlike[:, i].long()
                others[i] += rest.sum() / max(k - 1, 1)
            progress.step(len(truth))
    numbers = [PaperNumber("accuracy", float(right.mean()) / n, n * k)]
    if k > 1:
        numbers.append(PaperNumber("others_error", float(others.mean()) / n, n * k))
    numbers.append(PaperNumber("real_error", real / n, n))
    numbers += [PaperNumber(name, total / n, n) for name, total in quality.items()]
    for i, name in enumerate(labels.names):
        numbers.append(PaperNumber("accuracy", float(right[i]) / n, n, name))
        if k > 1:
            numbers.append(PaperNumber("others_error", float(others[i]) / n, n, name))
    intensity = translator.config.get("model", {}).get("test_int")
    words = "every image, each attribute flipped"
    if intensity is not None:
        words += f", test intensity {intensity:g}"
    return PaperResult("stgan", labels.name, words, n, tuple(numbers))


def _seen(judge: Judge, view: View, images: torch.Tensor) -> torch.Tensor:
    """The judge's attributes (n, k), bool."""
    return decide("binary", judge.predict(view.judged, images).cpu()).bool()

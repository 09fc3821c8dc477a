"""Train the judges of one data set and measure them on real test images."""

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.core.config import JudgeConfig
from training.core.progress import Progress
from training.data.dataset import Faces, Part, to_float
from training.data.labels import TOLERANCE, LabelSet
from training.data.order import generator
from training.evaluation.judges.nets import ResNet18, SmallVGG
from training.evaluation.metrics import auc, pairs
from training.models.optim import AdamW

SHIFT = 3  # px at 64 px images, scaled with the size: maximum shift of the augmentation
INTENSITY_WEIGHT = 4.0  # relative to the identity loss
SCALE = 16.0  # scale of cosines in the identity softmax
RESIDENT = 6 << 30  # bytes; smaller data sets are kept on the device


def decide(kind: str, logits: Tensor) -> Tensor:
    """Labels (n, k) from `scaled` logits (n, k): 0/1 each, one-hot rows, or intensities."""
    if kind == "binary":
        return (logits > 0).to(torch.float32)
    if kind == "onehot":
        return F.one_hot(logits.argmax(1), logits.shape[1]).to(torch.float32)
    return logits


def scaled(kind: str, logits: Tensor) -> Tensor:
    """Logits (n, k) unchanged, or as intensities in [0, 1] if labels are continuous."""
    return torch.sigmoid(logits) if kind == "continuous" else logits


def agree(kind: str, decided: Tensor, labels: Tensor) -> Tensor:
    """Whether predictions (n, k) match the labels: equal, or intensities within TOLERANCE."""
    return (decided - labels).abs() < (TOLERANCE if kind == "continuous" else 0.5)


def _people(part: Part) -> tuple[Tensor, int]:
    """Identity class of each image (−1: none) and their number: people with two or more images."""
    counts = Counter(i for i in part.identity if i)
    names = sorted(i for i, n in counts.items() if n > 1)
    number = {name: i for i, name in enumerate(names)}
    return torch.tensor([number.get(i, -1) for i in part.identity]), len(names)


def _augment(images: Tensor, stream: torch.Generator) -> Tensor:
    """Flip each image with probability 1/2 and shift it by a few pixels (replicated edges)."""
    n, size = len(images), images.shape[2]
    flipped = torch.rand(n, generator=stream) < 0.5
    images = torch.where(flipped.to(images.device)[:, None, None, None], images.flip(3), images)
    shift = max(1, SHIFT * size // 64)
    padded = F.pad(images, (shift, shift, shift, shift), mode="replicate")
    corners = torch.randint(0, 2 * shift + 1, (n, 2), generator=stream).tolist()
    return torch.stack(
        [
            image[:, y : y + size, x : x + size]
            for image, (y, x) in zip(padded, corners, strict=True)
        ]
    )


def label_loss(kind: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy, for intensities too: with a squared error they stay at their low mean."""
    if kind == "onehot":
        return F.cross_entropy(logits, labels.argmax(1))
    loss = F.binary_cross_entropy_with_logits(logits, labels)
    return INTENSITY_WEIGHT * loss if kind == "continuous" else loss


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch inside the block; the global random state is restored afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _lr_factor(position: float) -> float:
    """Learning rate factor: linear warm-up over the first quarter, then cosine decay to 0."""
    return (
        position / 0.25
        if position < 0.25
        else 0.5 + 0.5 * math.cos((position - 0.25) / 0.75 * math.pi)
    )


def _fit(
    what: str,
    net: nn.Module,
    extra: nn.Linear | None,
    part: Part,
    labels: LabelSet,
    config: JudgeConfig,
    images: int,
    device: torch.device,
) -> None:
    """Train `net` (and the identity head `extra`) with AdamW and a one-cycle learning rate."""
    people, _ = _people(part)
    modules = nn.ModuleList([net, *([extra] if extra else [])]).to(device).train()
    steps = max(1, images // config.batch)
    optimiser = AdamW(modules.parameters(), config.lr, weight_decay=0.05, fused=True)
    order, stream = torch.empty(0, dtype=torch.long), generator(config.seed, what)
    with Progress(what, steps * config.batch, "images") as progress:
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = config.lr * _lr_factor((step + 1) / steps)
            while len(order) < config.batch:
                order = torch.cat([order, torch.randperm(len(part), generator=stream)])
            rows, order = order[: config.batch], order[config.batch :]
            x = _augment(to_float(part.images(rows).to(device)), stream)
            y = part.labels[rows].to(device)
            if isinstance(net, SmallVGG):
                logits, person = net(x)
                loss = label_loss(labels.kind, logits, y)
                known = (people[rows] >= 0).to(device)
                if extra is not None and known.any():
                    cosines = SCALE * person[known] @ F.normalize(extra.weight).T
                    loss = loss + F.cross_entropy(cosines, people[rows].to(device)[known])
            else:
                loss = label_loss(labels.kind, net(x), y)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            progress.step(config.batch)
    if not all(bool(v.isfinite().all()) for v in net.state_dict().values()):
        raise ValueError(f"{what}: training diverged; lower judge.lr ({config.lr})")
    net.eval().requires_grad_(False)


def _batches(part: Part, rows: Sequence[int] = (), size: int = 64) -> Iterator[Tensor]:
    """Batches of images in [-1, 1] of the given rows, or of all."""
    rows = rows or range(len(part))
    for start in range(0, len(rows), size):
        yield to_float(part.images(list(rows[start : start + size])))


@torch.inference_mode()
def clean_accuracy(
    net: ResNet18 | SmallVGG, part: Part, labels: LabelSet, device: torch.device
) -> dict[str, Any]:
    """Accuracy on real test images; per label also balanced accuracy and share of positives."""
    predictions = (net(x.to(device)) for x in _batches(part))
    logits = torch.cat([(a[0] if isinstance(a, tuple) else a).cpu() for a in predictions])
    logits = scaled(labels.kind, logits)
    correct = agree(labels.kind, decide(labels.kind, logits), part.labels)
    if labels.kind == "onehot":
        hits = correct.all(1)
        accuracy = float(hits.float().mean())
        classes = part.labels.argmax(1)
        table = {
            name: _rates(hits[classes == i], hits[:0], share=float((classes == i).float().mean()))
            for i, name in enumerate(labels.names)
        }
    else:
        on = part.labels > (TOLERANCE if labels.kind == "continuous" else 0.5)
        table = {
            name: _rates(
                correct[on[:, i], i], correct[~on[:, i], i], share=float(on[:, i].float().mean())
            )
            for i, name in enumerate(labels.names)
        }
        accuracy = float(correct.float().mean())
    facts = {"accuracy": accuracy, "labels": table, "test_images": len(part)}
    if labels.kind == "continuous":
        # Most intensities are near 0: plain accuracy would be high for a judge that always gives 0.
        facts["accuracy"] = float(np.mean([rates["balanced"] for rates in table.values()]))
        facts["error"] = float((logits - part.labels).abs().mean())
    return facts


def _rates(positive: Tensor, negative: Tensor, share: float) -> dict[str, float]:
    """Accuracy, and its mean over the classes that occur (`balanced`)."""
    both = torch.cat([positive, negative]).float()
    kinds = [float(v.float().mean()) for v in (positive, negative) if len(v)]
    return {
        "accuracy": float(both.mean()) if len(both) else 0.0,
        "balanced": float(np.mean(kinds)) if kinds else 0.0,
        "share": share,
    }


@torch.inference_mode()
def _verification(net: SmallVGG, part: Part, device: torch.device) -> float | None:
    """AUC of verifying identities, on people not in training; None without known pairs."""
    known = [i for i, name in enumerate(part.identity) if name][:2000]
    if len(known) < 2:
        return None
    vectors = (
        torch.cat([net.embed(net.features(x.to(device))) for x in _batches(part, known)])
        .cpu()
        .numpy()
    )
    genuine, impostor = pairs(vectors, np.array([part.identity[i] for i in known]))
    return auc(genuine, impostor) if len(genuine) and len(impostor) else None


def train(
    dataset: int, faces: Faces, test: Faces, config: JudgeConfig, device: torch.device
) -> tuple[ResNet18, SmallVGG, dict[str, Any]]:
    """Train both judges of data set number `dataset`; returns them and their facts."""
    part, labels = faces.parts[dataset], faces.space.sets[dataset]
    _, count = _people(part)
    if part.bytes < RESIDENT:
        part.move(device)
    with _seeded(config.seed + dataset):
        first = ResNet18(len(labels.names))
        second = SmallVGG(len(labels.names), count)
        people = nn.Linear(64, count, bias=False) if count > 1 else None
    images = config.images[min(dataset, len(config.images) - 1)]
    _fit(f"judge {labels.name} resnet18", first, None, part, labels, config, images, device)
    _fit(f"judge {labels.name} vgg", second, people, part, labels, config, images, device)
    fact = {
        "name": labels.name,
        "kind": labels.kind,
        "names": list(labels.names),
        "train_images": len(part),
        "people": count,  # identity classes of the second judge; 0 or 1: not trained
        **clean_accuracy(first, test.parts[dataset], labels, device),
        "second_accuracy": clean_accuracy(second, test.parts[dataset], labels, device)["accuracy"],
        "verification_auc": _verification(second, test.parts[dataset], device),
    }
    return first, second, fact

"""Loss terms shared by several models: gradient penalties, and the loss of the label head."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.data.labels import LabelSpace
from training.models.layers import autocast_off
from training.models.slope import scores_and_slope


def label_loss(logits: Tensor, labels: Tensor, dataset: int, space: LabelSpace) -> Tensor:
    """Label loss on the current data set's slice of (n, dim_d), a mean over batch and labels.

    Binary: cross entropy; one-hot: softmax cross entropy; continuous: squared error.
    """
    part = space.slice(dataset)
    logits, labels = logits[:, part], labels[:, part]
    kind = space.sets[dataset].kind
    if kind == "binary":
        return F.binary_cross_entropy_with_logits(logits, labels)
    if kind == "onehot":
        return F.cross_entropy(logits, labels.argmax(1))
    return F.mse_loss(logits, labels)


def gradient_penalty(
    net: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor, weights: Tensor | float = 1.0
) -> Tensor:
    """WGAN-GP: mean over the batch of (‖∇_x̂ Σ weights·s(x̂)‖₂ − 1)², x̂ = α·real + (1 − α)·fake.

    s are the scores of `net.score_path()`; the sum is over all patches, with `weights` broadcast to
    them. `alpha` is (n, 1, 1, 1) in [0, 1). Computed in full precision, with respect to the
    parameters only. Source: Gulrajani et al., arXiv 1704.00028.
    """
    with autocast_off(real):
        full = torch.promote_types(real.dtype, torch.float32)
        mixed = alpha * real.to(full) + (1 - alpha) * fake.to(full)
        _, slope = scores_and_slope(net, mixed, weights, graph=False)
        out: Tensor = (slope.flatten(1).norm(2, dim=1) - 1).square().mean()
        return out


def r1_penalty(net: nn.Module, real: Tensor, weights: Tensor | float = 1.0) -> Tensor:
    """R1: mean over the batch of ‖∇_x Σ weights·s(x)‖₂² at real images; as `gradient_penalty`.

    Source: Mescheder et al., arXiv 1801.04406, eq. 9 without the factor γ/2.
    """
    with autocast_off(real):
        full = torch.promote_types(real.dtype, torch.float32)
        _, slope = scores_and_slope(net, real.to(full), weights, graph=False)
        out: Tensor = slope.square().flatten(1).sum(1).mean()
        return out

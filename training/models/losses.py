"""Loss terms shared by several models: the gradient penalty, and the loss of the label head."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.labels import LabelSpace
from training.models.layers import autocast_off


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
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, alpha: Tensor
) -> Tensor:
    """WGAN-GP: mean over the batch of (‖∇_x̂ Σ critic(x̂)‖₂ − 1)², x̂ = α·real + (1 − α)·fake.

    `alpha` is (n, 1, 1, 1) in [0, 1). The sum is over all patch scores of the critic. Computed in
    full precision and differentiable twice. Source: Gulrajani et al., arXiv 1704.00028.
    """
    with autocast_off(real):
        mixed = (alpha * real.float() + (1 - alpha) * fake.float()).requires_grad_(True)
        (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
        out: Tensor = (slope.flatten(1).norm(2, dim=1) - 1).square().mean()
        return out

"""Loss terms shared by several models: gradient penalties, and the loss of the label head."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from training.core.config import Weight
from training.data.labels import LabelSpace
from training.models.layers import autocast_off, global_mean
from training.models.slope import scores_and_slope

AdversarialLoss = Annotated[
    Literal["wgan-gp", "logistic-r1"],
    Field(
        description="adversarial loss: the published WGAN-GP, or the logistic one with R1, whose "
        "gradient vanishes where D finds no fault"
    ),
]
R1Weight = Annotated[
    Weight, Field(description="weight of R1 (half the squared slope) in loss=logistic-r1")
]

ModeSeekingWeight = Annotated[
    Weight,
    Field(description="weight of mode seeking (MSGAN), which pushes two latents' images apart"),
]
ModeSeekingClip = Annotated[
    Weight,
    Field(
        description="ratio of distances below which mode seeking grows linearly; as published (0) "
        "it reaches 1e5 where two images are equal"
    ),
]


def form(loss: AdversarialLoss) -> Literal["wgan", "gan"]:
    """The form of the loss, by which the balance of D and G is judged."""
    return "wgan" if loss == "wgan-gp" else "gan"


def told_apart(real: Tensor, fake: Tensor, loss: AdversarialLoss) -> dict[str, Tensor]:
    """D's terms of the scores of real and generated images, without the penalty.

    wgan-gp: −E[s(x)], E[s(G)]; logistic-r1: E[softplus(−s(x))], E[softplus(s(G))].
    """
    if loss == "wgan-gp":
        return {"real": -real.mean(), "fake": fake.mean()}
    return {"real": F.softplus(-real).mean(), "fake": F.softplus(fake).mean()}


def fooled(fake: Tensor, loss: AdversarialLoss) -> Tensor:
    """G's term of the scores of generated images: −E[s(G)], or E[softplus(−s(G))]."""
    return -fake.mean() if loss == "wgan-gp" else F.softplus(-fake).mean()


def mode_seeking(images: tuple[Tensor, ...], latents: tuple[Tensor, ...], clip: float) -> Tensor:
    """L_ms = 1 / (r + 1e-5), with r = mean |I₁ − I₂| / mean |z₁ − z₂| over the global batch.

    Of two images and two latents of one condition. Below r = `clip` its tangent there, so that
    neither value nor slope blow up at the start, and the slope does not vanish.
    Source: Mao et al., arXiv 1903.05628; the form to be minimised is that of the published code.
    """
    apart, moved = (global_mean((a - b).abs()) for a, b in (images, latents))
    ratio, least = apart / moved + 1e-5, clip + 1e-5
    tangent = (2 * least - ratio) / least**2
    return torch.where(ratio > least, 1 / ratio.clamp(min=least), tangent)


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

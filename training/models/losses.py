"""Loss terms shared by several models: gradient penalties, and the loss of the label head."""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from training.core.config import Weight
from training.data.labels import LabelSpace
from training.models.base import Adversarial
from training.models.layers import autocast_off, global_mean
from training.models.slope import scores_and_slope

R3GAN = "r3gan: each generated image against a real one, with R1 and R2"
AdversarialLoss = Annotated[
    Literal["wgan-gp", "logistic-r1", "r3gan"],
    Field(
        description="adversarial loss: the published WGAN-GP; the logistic one with R1, whose "
        f"gradient vanishes where D finds no fault; or {R3GAN}"
    ),
]
SquaredLoss = Annotated[
    Literal["lsgan", "r3gan"],
    Field(description=f"adversarial loss: the published least squares, or {R3GAN}"),
]
EntropyLoss = Annotated[
    Literal["gan", "r3gan"],
    Field(description=f"adversarial loss: the published cross entropy, or {R3GAN}"),
]
LogisticLoss = Annotated[
    Literal["logistic", "r3gan"],
    Field(description=f"adversarial loss: the published one, logistic, or {R3GAN}"),
]
FORMS: dict[str, Literal["wgan", "gan", "lsgan"]] = {"wgan-gp": "wgan", "lsgan": "lsgan"}
R1Weight = Annotated[
    Weight,
    Field(
        description="weight of R1 (half the squared slope) in loss=logistic-r1, of R1 and R2 in "
        "loss=r3gan"
    ),
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


def balance_of(
    loss: str, prefixes: tuple[str, ...] = ("d/",), factor: float = 1.0, scales: int = 1
) -> Adversarial:
    """What the balance of D and G is judged by: the form of the loss and its logged terms.

    `prefixes` are those of each D's logged terms "real" and "fake", or "pair", which are sums over
    `scales` scores; `factor` makes the terms those of a single score, except for pairs.
    """
    if loss == "r3gan":  # log 2 where D is undecided, half of cross entropy's
        return Adversarial("gan", tuple((f"{p}pair",) for p in prefixes), 2 / scales)
    form = FORMS.get(loss, "gan")
    return Adversarial(form, tuple((f"{p}real", f"{p}fake") for p in prefixes), factor)


def relativistic(higher: Tensor, lower: Tensor) -> Tensor:
    """E[softplus(s₂ − s₁)] of scores in pairs, row by row: small where s₁ exceeds s₂.

    D's first are those of real images, G's those of generated ones. Source: Huang et al., R3GAN,
    arXiv 2501.05441, eq. 2 with f(t) = −log(1 + e⁻ᵗ); Jolicoeur-Martineau, arXiv 1807.00734.
    """
    return F.softplus(lower - higher).mean()


def told_apart(real: Tensor, fake: Tensor, loss: str) -> dict[str, Tensor]:
    """D's terms of the scores of real and generated images, without the penalty.

    wgan-gp: −E[s(x)], E[s(G)]; lsgan: ½·E[(s(x) − 1)²], ½·E[s(G)²]; r3gan: the pair's
    E[softplus(s(G) − s(x))]; any other: E[softplus(−s(x))], E[softplus(s(G))].
    """
    if loss == "wgan-gp":
        return {"real": -real.mean(), "fake": fake.mean()}
    if loss == "lsgan":
        return {"real": 0.5 * (real - 1).square().mean(), "fake": 0.5 * fake.square().mean()}
    if loss == "r3gan":
        return {"pair": relativistic(real, fake)}
    return {"real": F.softplus(-real).mean(), "fake": F.softplus(fake).mean()}


def fooled(fake: Tensor, loss: str, real: Callable[[], Tensor]) -> Tensor:
    """G's term: −E[s(G)], E[(s(G) − 1)²] or E[softplus(−s(G))], as in `told_apart`.

    r3gan: E[softplus(s(x) − s(G))], for which `real` computes the scores of the paired images.
    """
    if loss == "wgan-gp":
        return -fake.mean()
    if loss == "lsgan":
        return (fake - 1).square().mean()
    if loss == "r3gan":
        with torch.no_grad():
            against = real()
        return relativistic(fake, against)
    return F.softplus(-fake).mean()


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


def zero_centred(
    net: nn.Module,
    real: Tensor,
    fake: Tensor,
    loss: str,
    weight: float,
    weights: Tensor | float = 1.0,
    fake_weights: Tensor | float | None = None,
) -> dict[str, Tensor]:
    """λ/2·R1 at real images, and with r3gan λ/2·R2, the same at generated ones.

    `weights` and `fake_weights` (default: the same) are those of the scores, as in `r1_penalty`.
    """
    out = {"r1": weight / 2 * r1_penalty(net, real, weights)}
    if loss == "r3gan":
        of_fake = weights if fake_weights is None else fake_weights
        out["r2"] = weight / 2 * r1_penalty(net, fake.detach(), of_fake)
    return out

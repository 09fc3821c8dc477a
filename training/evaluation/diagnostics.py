"""Training diagnostics, measured on held-out images, for the log and the report."""

import math
from collections.abc import Mapping

import torch

from training.data.dataset import Faces
from training.data.labels import LabelSpace
from training.evaluation.previews import held_out, shuffled
from training.models.base import Adversarial, Diagnostic, Model, Nets

IMAGES = 64  # held-out images per data set


@torch.no_grad()
def diagnostics(
    model: Model, nets: Nets, faces: Faces, space: LabelSpace, device: torch.device
) -> list[Diagnostic]:
    """The model's diagnostics on 64 images of each data set, with shuffled labels as targets.

    `space` is the model's label space, which may have more data sets than `faces`. With several
    data sets, names end in the data set's. The networks must be in evaluation mode.
    """
    found: list[Diagnostic] = []
    for part in faces.parts:
        batch = held_out(part, shuffled(len(part), IMAGES), space, device)
        suffix = f"_{part.name}" if len(faces.parts) > 1 else ""
        measured = model.diagnostics(nets, batch.image, batch.target)
        found += [one._replace(name=f"{one.name}{suffix}") for one in measured]
    return found


# Range of D's lead: 0 if D cannot tell real from fake, 1 if it is certain, negative if fakes look
# more real. An untrained lsgan D that outputs 0 is at −1; at 0.99 G gets hardly any gradient.
BALANCE_MIN, BALANCE_MAX = (
    {"wgan": -0.1, "gan": -1.0, "lsgan": -1.5},
    {"wgan": 1.0, "gan": 0.99, "lsgan": 0.99},
)


def balance(model: Model, means: Mapping[str, float], size: int) -> list[Diagnostic]:
    """The lead of D over G, from the logged mean losses; empty if the model has no adversarial loss
    or no D was trained (a warm-up, another stage).

    gan, lsgan: 1 − L/L₀, where L₀ is the loss of a D that outputs ½. wgan: the estimated distance
    over the largest possible distance of two images of `size` px under a gradient norm of 1.
    """
    adversarial = model.adversarial
    if adversarial is None:
        return []
    sums = [
        sum(means[name] for name in names)
        for names in adversarial.terms
        if all(name in means for name in names)
    ]
    if not sums:
        return []
    loss = adversarial.factor * sum(sums) / len(sums)
    lead = {
        "wgan": -loss / (2 * math.sqrt(3) * size),
        "gan": 1 - loss / (2 * math.log(2)),
        "lsgan": 1 - loss / 0.25,
    }[adversarial.form]
    return [_lead(lead, adversarial)]


def _lead(value: float, adversarial: Adversarial) -> Diagnostic:
    says = "D has left G behind" if value > 0 else "G's images look more real to D than real ones"
    return Diagnostic(
        "balance", value, BALANCE_MIN[adversarial.form], BALANCE_MAX[adversarial.form], says
    )


def worst_balance(model: Model, training: Mapping[str, float]) -> list[Diagnostic]:
    """The lead from a training's summary that is furthest out of its range, or closest to a limit.

    Empty if the summary has no lead: an older version, or no adversarial step.
    """
    adversarial = model.adversarial
    if adversarial is None or "balance" not in training:
        return []
    extremes = (_lead(training[name], adversarial) for name in ("balance_least", "balance_most"))
    worst = max(extremes, key=lambda end: max(end.low - end.value, end.value - end.high))
    return [worst._replace(says=f"{worst.says} in training; at its end {training['balance']:.3g}")]

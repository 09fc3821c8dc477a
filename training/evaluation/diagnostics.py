"""Known failures of models, measured on held-out images: in the log and in the report."""

import math
from collections.abc import Mapping

import torch

from training.data.dataset import Faces
from training.data.labels import LabelSpace
from training.evaluation.previews import held_out
from training.models.base import Adversarial, Diagnostic, Model, Nets

IMAGES = 64  # held-out images of each data set that are looked at


@torch.no_grad()
def diagnostics(
    model: Model, nets: Nets, faces: Faces, space: LabelSpace, device: torch.device
) -> list[Diagnostic]:
    """The model's own diagnostics on each data set's first images, with each other's labels.

    `space` is the model's, of which the data may be a part. Of several data sets each is named. The
    networks are to be in evaluation mode.
    """
    found: list[Diagnostic] = []
    for part in faces.parts:
        batch = held_out(part, list(range(min(IMAGES, len(part)))), space, device)
        ending = f"_{part.name}" if len(faces.parts) > 1 else ""
        own = model.diagnostics(nets, batch.image, batch.target)
        found += [one._replace(name=f"{one.name}{ending}") for one in own]
    return found


# D's lead: 0 where it cannot tell, 1 where it is sure; below, G's pictures pass for more real. An
# untaught D that says 0 is at −1 of lsgan; entropies of 0.02·ln 2 in all leave G hardly a gradient.
LEAST, MOST = {"wgan": -0.1, "gan": -1.0, "lsgan": -1.5}, {"wgan": 1.0, "gan": 0.99, "lsgan": 0.99}


def balance(model: Model, means: Mapping[str, float], size: int) -> list[Diagnostic]:
    """The lead of D over G in the logged `means`; none where the model names no such loss, or where
    no D learned (a warm-up, another stage).

    gan, lsgan: 1 − L/L₀, where L₀ is the loss of a D that says ½. wgan: the estimated distance as
    a share of the greatest that two pictures of `size` px have, which a slope of 1 allows.
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
    says = "D has left G behind" if value > 0 else "G's pictures pass for more real than real ones"
    return Diagnostic("balance", value, LEAST[adversarial.form], MOST[adversarial.form], says)


def worst_balance(model: Model, took: Mapping[str, float]) -> list[Diagnostic]:
    """The lead in a training's summary that went furthest beyond its range, or came closest to it.

    None where the summary has none: trained before it was kept, or without an adversarial step.
    """
    adversarial = model.adversarial
    if adversarial is None or "balance" not in took:
        return []
    ends = (_lead(took[name], adversarial) for name in ("balance_least", "balance_most"))
    sign = max(ends, key=lambda end: max(end.low - end.value, end.value - end.high))
    return [sign._replace(says=f"{sign.says} in training; at its end {took['balance']:.3g}")]

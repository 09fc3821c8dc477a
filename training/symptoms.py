"""Known ways in which a model goes wrong, watched on held-out faces: in the log and the report."""

import math
from collections.abc import Mapping

import torch

from training.data.dataset import Faces, to_float
from training.models.base import Model, Nets, Symptom

FACES = 64  # held-out faces that are looked at


@torch.no_grad()
def symptoms(model: Model, nets: Nets, faces: Faces, device: torch.device) -> list[Symptom]:
    """The model's own symptoms on the first data set's first faces, asked for each other's labels.

    A model without the method has none. The networks are to be at rest (eval).
    """
    look = getattr(model, "symptoms", None)
    if look is None:
        return []
    part = faces.parts[0]
    rows = list(range(min(FACES, len(part))))
    image = to_float(part.images(rows)).to(device)
    target = faces.space.encode(part.labels[rows].roll(1, 0), 0).to(device)
    found: list[Symptom] = look(nets, image, target)
    return found


# D's lead: 0 where it cannot tell, 1 where it is sure; below, G's pictures pass for more real. An
# untaught D that says 0 is at −1 of lsgan; entropies of 0.02·ln 2 in all leave G hardly a gradient.
LEAST, MOST = {"wgan": -0.1, "gan": -1.0, "lsgan": -1.5}, {"wgan": 1.0, "gan": 0.99, "lsgan": 0.99}


def balance(model: Model, means: Mapping[str, float], size: int) -> list[Symptom]:
    """The lead of D over G in the logged `means`; none where the model names no such loss, or where
    no D learned (a warm-up, another stage).

    gan, lsgan: 1 − L/L₀, where L₀ is the loss of a D that says ½. wgan: the estimated distance as
    a share of the greatest that two pictures of `size` px have, which a slope of 1 allows.
    """
    adversarial = getattr(model, "adversarial", None)
    sums = [
        sum(means[name] for name in names)
        for names in (adversarial.terms if adversarial else ())
        if all(name in means for name in names)
    ]
    if not sums:
        return []
    loss = sum(sums) / len(sums)
    lead = {
        "wgan": -loss / (2 * math.sqrt(3) * size),
        "gan": 1 - loss / (2 * math.log(2)),
        "lsgan": 1 - loss / 0.25,
    }[adversarial.form]
    says = "D has left G behind" if lead > 0 else "G's pictures pass for more real than real ones"
    return [Symptom("balance", lead, LEAST[adversarial.form], MOST[adversarial.form], says)]

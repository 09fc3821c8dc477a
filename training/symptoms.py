"""Known ways in which a model goes wrong, watched on held-out faces: in the log and the report."""

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

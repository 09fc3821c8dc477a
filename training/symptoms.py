"""Known ways in which a model goes wrong, watched on held-out images: in the log and the report."""

import torch

from training.data.dataset import Faces
from training.data.labels import LabelSpace
from training.models.base import Model, Nets, Symptom
from training.showing import held_out

IMAGES = 64  # held-out images of each data set that are looked at


@torch.no_grad()
def symptoms(
    model: Model, nets: Nets, faces: Faces, space: LabelSpace, device: torch.device
) -> list[Symptom]:
    """The model's own symptoms on each data set's first images, asked for each other's labels.

    `space` is the model's, of which the data may be a part. Of several data sets each is named. A
    model without the method has none. The networks are to be at rest (eval).
    """
    look = getattr(model, "symptoms", None)
    if look is None:
        return []
    found: list[Symptom] = []
    for part in faces.parts:
        batch = held_out(part, list(range(min(IMAGES, len(part)))), space, device)
        ending = f"_{part.name}" if len(faces.parts) > 1 else ""
        signs: list[Symptom] = look(nets, batch.image, batch.target)
        found += [sign._replace(name=f"{sign.name}{ending}") for sign in signs]
    return found

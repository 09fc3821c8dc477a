"""The registry of models by name. A new model needs its own file and one line here."""

from collections.abc import Mapping
from typing import Any

from training.core.config import build
from training.models.attgan import AttGAN
from training.models.base import Model
from training.models.cyclegan import CycleGAN
from training.models.diat import DIAT
from training.models.drit import DRIT
from training.models.fader import Fader
from training.models.ganimation import GANimation
from training.models.icgan import IcGAN
from training.models.msgan import MSGAN
from training.models.munit import MUNIT
from training.models.stargan import StarGAN
from training.models.starganv2 import StarGANv2
from training.models.stgan import STGAN

MODELS: dict[str, type[Model]] = {
    "attgan": AttGAN,
    "cyclegan": CycleGAN,
    "diat": DIAT,
    "drit": DRIT,
    "fader": Fader,
    "ganimation": GANimation,
    "icgan": IcGAN,
    "msgan": MSGAN,
    "munit": MUNIT,
    "stargan": StarGAN,
    "starganv2": StarGANv2,
    "stgan": STGAN,
}


def model_from_json(name: str, values: Mapping[str, Any]) -> Model:
    """Build the model of a stored configuration.

    Raises ValueError for an unknown name or an invalid value.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    return build(MODELS[name], values, "model.")

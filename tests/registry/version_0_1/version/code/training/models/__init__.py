"""Every model by name. A new one: its file and one line here."""

from typing import Any

from training.models.attgan import AttGAN
from training.models.cyclegan import CycleGAN
from training.models.diat import DIAT
from training.models.ganimation import GANimation
from training.models.icgan import IcGAN
from training.models.stargan import StarGAN
from training.models.starganv2 import StarGANv2
from training.models.stgan import STGAN

MODELS: dict[str, type[Any]] = {
    "attgan": AttGAN,
    "cyclegan": CycleGAN,
    "diat": DIAT,
    "ganimation": GANimation,
    "icgan": IcGAN,
    "stargan": StarGAN,
    "starganv2": StarGANv2,
    "stgan": STGAN,
}

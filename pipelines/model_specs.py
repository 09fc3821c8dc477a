"""The systems of a comparison: a model with settings of its own, trained for a common length."""

import re
from typing import NamedTuple

from training.models import MODELS, presets

LENGTHS = ("decay_images", "warmup_images", "log_images", "sample_images", "checkpoint_images")


class ModelSpec(NamedTuple):
    """One system of the comparison; `settings` are those that only it has."""

    label: str  # as it was asked for: its name on the page
    model: str
    settings: dict[str, str]


def parse_specs(text: str) -> list[ModelSpec]:
    """Systems, comma-separated, each `model` or `model:key=value:…` (a list's items joined by +).

    Raises ValueError for an unknown model, a setting without a value, or one asked for twice.
    """
    found: list[ModelSpec] = []
    for label in filter(None, (word.strip() for word in text.split(","))):
        model, _, rest = label.partition(":")
        pairs = re.split(r":(?=[\w.]+=)", rest) if rest else []  # a value may have a colon, too
        if model not in MODELS:
            raise ValueError(f"unknown model {model}; known: {', '.join(MODELS)}")
        if wrong := [pair for pair in pairs if "=" not in pair]:
            raise ValueError(f"{label}: {wrong[0]!r} is no key=value")
        settings = dict(pair.split("=", 1) for pair in pairs)
        lists = {k: re.sub(r"(?<!\de)\+", ",", v) for k, v in settings.items()}  # 1e+3 stays
        found.append(ModelSpec(label, model, lists))
    labels = [one.label for one in found]
    if not found or len(set(labels)) < len(labels):
        raise ValueError(f"models={text}: one or more are needed, each once")
    return found


def budgeted(model: str, preset: str, images: int) -> dict[str, str]:
    """The preset's lengths stretched to `images` (0: the preset's own)."""
    train = presets.resolve(model, preset).train
    if not images:
        return {}
    scaled = {name: getattr(train, name) * images // train.images for name in LENGTHS}
    return {"train.images": str(images)} | {
        f"train.{name}": str(max(value, 0 if name.startswith(("decay", "warm")) else train.batch))
        for name, value in scaled.items()
    }

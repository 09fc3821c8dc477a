"""The systems of a comparison: models with their own settings, trained for the same length."""

import re
from typing import NamedTuple

from training.models import MODELS, configure

LENGTHS = ("decay_images", "warmup_images", "log_images", "sample_images", "checkpoint_images")


class ModelSpec(NamedTuple):
    """One system of a comparison; `settings` apply to it alone."""

    label: str  # the requested text: its name in the report
    model: str
    settings: dict[str, str]


def parse_specs(text: str) -> list[ModelSpec]:
    """Parse comma-separated systems, each `model` or `model:key=value:…` (list items joined by +).

    Raises ValueError for an unknown model, a setting without a value, or a repeated system.
    """
    specs: list[ModelSpec] = []
    for label in filter(None, (word.strip() for word in text.split(","))):
        model, _, rest = label.partition(":")
        pairs = re.split(r":(?=[\w.]+=)", rest) if rest else []  # a value may contain a colon
        if model not in MODELS:
            raise ValueError(f"unknown model {model}; known: {', '.join(MODELS)}")
        if wrong := [pair for pair in pairs if "=" not in pair]:
            raise ValueError(f"{label}: {wrong[0]!r} is not key=value")
        settings = dict(pair.split("=", 1) for pair in pairs)
        lists = {k: re.sub(r"(?<!\de)\+", ",", v) for k, v in settings.items()}  # 1e+3 stays
        specs.append(ModelSpec(label, model, lists))
    labels = [one.label for one in specs]
    if not specs or len(set(labels)) < len(labels):
        raise ValueError(f"models={text}: one or more are needed, each once")
    return specs


def budgeted(model: str, preset: str, images: int) -> dict[str, str]:
    """Settings that scale the preset's lengths to `images` (0: unchanged, so none)."""
    train = configure.resolve(model, preset).train
    if not images:
        return {}
    scaled = {name: getattr(train, name) * images // train.images for name in LENGTHS}
    return {"train.images": str(images)} | {
        f"train.{name}": str(max(value, 0 if name.startswith(("decay", "warm")) else train.batch))
        for name, value in scaled.items()
    }

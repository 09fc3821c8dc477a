"""Every model's presets by (model, preset), and how a run's overrides change one.

python -m pipelines run preset=celeba-128 seed=1 lambda_rec=5 --dry-run
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from training.core.config import Config, build
from training.models import MODELS

PRESETS = {
    (name, preset): Config(name, preset, row.data, row.train, row.judge, row.eval, row.model)
    for name, model in MODELS.items()
    for preset, row in model.presets().items()
}
SECTIONS = ("train", "data", "judge", "eval", "model")


def fields(config: Config) -> dict[str, list[str]]:
    """The settable names of each section of `config`."""
    return {s: [f.name for f in dataclasses.fields(getattr(config, s))] for s in SECTIONS}


def known(config: Config) -> str:
    """The settable names, as a person reads them."""
    return "; ".join(f"{s}: {', '.join(names)}" for s, names in fields(config).items())


def locate(config: Config, key: str) -> tuple[str, str]:
    """(section, name) of `key`, dotted or bare. A bare name of two sections means `train`'s."""
    table = fields(config)
    section, _, name = key.rpartition(".")
    homes = [s for s in ([section] if section else SECTIONS) if name in table.get(s, [])]
    if homes and (len(homes) == 1 or homes[0] == "train"):
        return homes[0], name
    if homes:
        options = " or ".join(f"{home}.{name}" for home in homes)
        raise ValueError(f"{key}: say {options}")
    raise ValueError(f"unknown key {key!r}; known: {known(config)}")


def resolve(model: str, preset: str, overrides: Mapping[str, Any] | None = None) -> Config:
    """The preset with `overrides` (name, or section.name -> text or value) applied.

    Raises ValueError, with the known names, for an unknown model, preset, key or value.
    """
    if model not in MODELS:
        raise ValueError(f"unknown model {model!r}; known: {', '.join(MODELS)}")
    if (model, preset) not in PRESETS:
        rows = [p for m, p in PRESETS if m == model]
        raise ValueError(f"unknown preset {preset!r} of {model}; known: {', '.join(rows)}")
    config = PRESETS[model, preset]
    for key, value in (overrides or {}).items():
        section, name = locate(config, key)
        part = getattr(config, section)
        changed = build(type(part), {**_shallow(part), name: value}, f"{section}.")
        config = replace(config, **{section: changed})
    _check(config)
    return config


def _shallow(part: Any) -> dict[str, Any]:
    return {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}


def _check(config: Config) -> None:
    train = config.train
    if train.batch < 1 or train.images < train.batch:
        raise ValueError(
            f"train.images={train.images}: at least one batch of {train.batch} is needed"
        )
    for name in ("decay_images", "warmup_images"):
        if not 0 <= getattr(train, name) <= train.images:
            raise ValueError(f"train.{name}={getattr(train, name)}: between 0 and {train.images}")
    for name in ("log_images", "sample_images", "checkpoint_images", "keep"):
        if getattr(train, name) < 1:
            raise ValueError(f"train.{name}={getattr(train, name)}: at least 1 is needed")
    if not 0 <= train.ema < 1:
        raise ValueError(f"train.ema={train.ema}: between 0 (off) and 1 is needed")


def parse(text: str) -> dict[str, str]:
    """Overrides written as "key=value;key=value"."""
    out = {}
    for part in filter(None, (p.strip() for p in text.split(";"))):
        key, sign, value = part.partition("=")
        if not sign:
            raise ValueError(f"override {part!r}: key=value is needed")
        out[key.strip()] = value.strip()
    return out

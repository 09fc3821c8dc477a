"""Every model's presets by (model, preset), and how a run's overrides change one.

python -m pipelines run preset=celeba-128 seed=1 lambda_rec=5 --dry-run
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from training.core.config import SECTIONS, Config, build
from training.models import MODELS

PRESETS = {
    (name, preset): Config(name, preset, row.data, row.train, row.judge, row.eval, row.model)
    for name, model in MODELS.items()
    for preset, row in model.presets().items()
}


def fields(config: Config) -> dict[str, list[str]]:
    """The settable names of each section of `config`."""
    return {s: [f.name for f in dataclasses.fields(getattr(config, s))] for s in SECTIONS}


def known(config: Config) -> str:
    """The settable names, as a person reads them."""
    return "; ".join(f"{s}: {', '.join(names)}" for s, names in fields(config).items())


def locate(config: Config, key: str) -> tuple[str, str]:
    """(section, name) of `key`, dotted or bare.

    A bare name means the training's field, or the model's where no other section has one of that
    name. Raises ValueError for an unknown name, and with the candidates for one of other sections.
    """
    table = fields(config)
    section, _, name = key.rpartition(".")
    homes = [s for s in ([section] if section else SECTIONS) if name in table.get(s, [])]
    if not homes:
        raise ValueError(f"unknown key {key!r}; known: {known(config)}")
    if section or homes[0] == "train" or homes == ["model"]:
        return homes[0], name
    near = [f"model.{own}" for own in table["model"] if own.endswith(f"_{name}")]
    options = " or ".join([*near, *(f"{home}.{name}" for home in homes)])
    raise ValueError(f"{key}: not a setting of the training or the model alone; write {options}")


def resolve(
    model: str, preset: str, overrides: Mapping[str, Any] | None = None, datasets: str = ""
) -> Config:
    """The preset with `overrides` (name, or section.name -> text or value) applied.

    `datasets`, a parameter of the pipeline, comes before `data.datasets` where it is given.
    Raises ValueError, with the known names, for an unknown model, preset, key or value.
    """
    if model not in MODELS:
        raise ValueError(f"unknown model {model!r}; known: {', '.join(MODELS)}")
    if (model, preset) not in PRESETS:
        rows = [p for m, p in PRESETS if m == model]
        raise ValueError(f"unknown preset {preset!r} of {model}; known: {', '.join(rows)}")
    config = PRESETS[model, preset]
    changes: dict[str, dict[str, Any]] = {}
    given = {"data.datasets": datasets} if datasets else {}
    for key, value in {**(overrides or {}), **given}.items():
        section, name = locate(config, key)
        changes.setdefault(section, {})[name] = value
    for section, values in changes.items():
        part = getattr(config, section)
        changed = build(type(part), {**_shallow(part), **values}, f"{section}.")
        config = replace(config, **{section: changed})
    _check(config)
    return config


def _shallow(part: Any) -> dict[str, Any]:
    return {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}


def _check(config: Config) -> None:
    """What no field's own bounds can say."""
    train = config.train
    if train.images < train.batch:
        raise ValueError(
            f"train.images={train.images}: needs at least one batch, train.batch={train.batch}"
        )
    for name in ("decay_images", "warmup_images"):
        if getattr(train, name) > train.images:
            raise ValueError(
                f"train.{name}={getattr(train, name)}: needs at most train.images={train.images}"
            )


def parse(text: str) -> dict[str, str]:
    """Overrides written as "key=value;key=value"."""
    out = {}
    for part in filter(None, (p.strip() for p in text.split(";"))):
        key, sign, value = part.partition("=")
        if not sign:
            raise ValueError(f"override {part!r}: key=value is needed")
        out[key.strip()] = value.strip()
    return out

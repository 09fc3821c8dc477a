"""A run's configuration: a preset, which each model's file defines, with overrides.

python -m pipelines run preset=celeba-128 seed=1 lambda_rec=5 --dry-run
"""

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from training.core import config as configuration
from training.core.config import SECTIONS, Config, build
from training.core.options import TrainOptions
from training.models import MODELS

TABLES = {
    "data": configuration.DataConfig,
    "preprocess": configuration.PreprocessConfig,
    "train": configuration.TrainConfig,
    "judge": configuration.JudgeConfig,
    "eval": configuration.EvalConfig,
}

RECORDED = ("train", "data", "model")  # sections that a trained model's config.json has

PRESETS = {
    (name, preset): Config(name, preset, row.data, row.train, row.judge, row.eval, row.model)
    for name, model in MODELS.items()
    for preset, row in model.presets().items()
}


def find(model: str, preset: str) -> Config:
    """The preset. Raises ValueError, with the known names, for an unknown model or preset."""
    if model not in MODELS:
        raise ValueError(f"unknown model {model!r}; known: {', '.join(MODELS)}")
    if (model, preset) not in PRESETS:
        rows = [p for m, p in PRESETS if m == model]
        raise ValueError(f"unknown preset {preset!r} of {model}; known: {', '.join(rows)}")
    return PRESETS[model, preset]


def fields(config: Config) -> dict[str, list[str]]:
    """The field names of each section of `config`."""
    return {s: [f.name for f in dataclasses.fields(getattr(config, s))] for s in SECTIONS}


def known(config: Config) -> str:
    """The settable names of each section as text."""
    return "; ".join(f"{s}: {', '.join(names)}" for s, names in fields(config).items())


def locate(config: Config, key: str) -> tuple[str, str]:
    """Resolve `key` (`name` or `section.name`) to (section, name).

    A name without a section is a field of `train`, or of `model` if no other section has it. Raises
    ValueError for an unknown name, and for a name that needs a section, listing the options.
    """
    table = fields(config)
    section, _, name = key.rpartition(".")
    sections = [s for s in ([section] if section else SECTIONS) if name in table.get(s, [])]
    if not sections:
        raise ValueError(f"unknown key {key!r}; known: {known(config)}")
    if section or sections[0] == "train" or sections == ["model"]:
        return sections[0], name
    similar = [f"model.{field}" for field in table["model"] if field.endswith(f"_{name}")]
    options = " or ".join([*similar, *(f"{s}.{name}" for s in sections)])
    raise ValueError(
        f"{key}: only settings of train, or of model alone, need no section; write {options}"
    )


def resolve(
    model: str, preset: str, overrides: Mapping[str, Any] | None = None, datasets: str = ""
) -> Config:
    """The preset with `overrides` applied: name or section.name -> text or value.

    `datasets`, a pipeline parameter, takes precedence over `data.datasets` if not empty.
    Raises ValueError, with the known names, for an unknown model, preset, key or value.
    """
    config = find(model, preset)
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


def changes(model: str, preset: str, sections: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The values that differ from the preset's, as text by the key that a user writes.

    `sections` are settings by section, typed or from JSON; a missing name has its default, a
    missing section counts as the preset's. Without `train.seed`, which every run has its own of;
    empty for an unknown preset.
    """
    known = PRESETS.get((model, preset))
    found: dict[str, str] = {}
    if known is None:
        return found
    for section in sections:
        part, given = getattr(known, section), sections[section]
        for field in dataclasses.fields(part):
            before, now = (
                text(getattr(part, field.name)),
                text(given.get(field.name, field.default)),
            )
            if before != now and (section, field.name) != ("train", "seed"):
                found[_key(known, section, field.name)] = now
    return found


def text(value: Any) -> str:
    """A value as a user writes it: 14 for 14.0, true, and A,B for several."""
    if isinstance(value, list | tuple):
        return ",".join(map(text, value))
    if isinstance(value, bool):
        return str(value).lower()
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else str(value)


def _key(config: Config, section: str, name: str) -> str:
    """The shortest key of a setting that `locate` accepts."""
    try:
        return name if locate(config, name) == (section, name) else f"{section}.{name}"
    except ValueError:
        return f"{section}.{name}"


def _shallow(part: Any) -> dict[str, Any]:
    return {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}


def _check(config: Config) -> None:
    """Check the bounds that involve several fields."""
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
    """Parse overrides "key=value;key=value". Raises ValueError for a part without =."""
    out = {}
    for part in filter(None, (p.strip() for p in text.split(";"))):
        key, sign, value = part.partition("=")
        if not sign:
            raise ValueError(f"override {part!r}: key=value is needed")
        out[key.strip()] = value.strip()
    return out


def table() -> str:
    """The Markdown page that lists every setting with its range and default."""
    lines = [
        "# Settings", "",
        "Generated by `python -m training.models.configure`. Presets change some of the defaults;",
        "`python -m pipelines run preset=… --dry-run` prints the values of a run. "
        "[Configure a run](how-to/configure.md) explains how to write a key.",
    ]  # fmt: skip
    lines += _rows("Options of the training step", TrainOptions)
    for section, cls in TABLES.items():
        lines += _rows(f"`{section}`", cls, f"{section}.")
    for name, model in MODELS.items():
        lines += _rows(f"`model` for `{name}`", model)
    return "\n".join([*lines, ""])


def _rows(title: str, cls: type, prefix: str = "") -> list[str]:
    """A heading, the class's first line and a table of its fields."""
    rows = [
        f"| `{prefix}{name}` | {meaning} | {needed} | {f'`{default}`' if default else 'empty'} |"
        for name, default, needed, meaning in configuration.describe(cls)
    ]
    about = (cls.__doc__ or "").partition("\n")[0]
    head = ["| key | meaning | values | default |", "| --- | --- | --- | --- |"]
    return ["", f"## {title}", "", about, "", *head, *rows]


if __name__ == "__main__":
    sys.stdout.write(table())

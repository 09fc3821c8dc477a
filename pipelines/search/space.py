"""The space of a search: settings with the range or the values that each may take.

lambda_cls=0.1..2 log     batch=4..16 step 4     upsampling=resize,transposed
"""

import dataclasses
import math
import re
import typing
from collections.abc import Mapping
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from training.core.config import Config
from training.models import configure

Dimension = FloatDistribution | IntDistribution | CategoricalDistribution
Space = dict[str, Dimension]  # by the key that a user writes
RANGE = re.compile(r"(\S+?)\.\.(\S+)(?:\s+(log)|\s+step\s+(\S+))?")
SECTIONS = ("train", "model")
# Settings of train that say how long, how often or from which seed, with what to give instead.
OTHERS = {
    "images": "give the length as images=", "seed": "give the number of seeds as seeds=",
    "log_images": "", "sample_images": "", "checkpoint_images": "", "keep": "", "record": "",
    "price_per_hour": "",
}  # fmt: skip


def is_entry(config: Config, pair: str) -> bool:
    """Whether a `key=value` text is of the space: a range, or values of a setting that takes one.

    Raises ValueError for an unknown setting with a range.
    """
    key, _, value = pair.partition("=")
    if RANGE.fullmatch(value.strip()):
        return True
    try:
        kind = _kind(config, *configure.locate(config, key))
    except ValueError:
        return False  # a parameter of the pipeline, or refused when the run is resolved
    return "," in value and typing.get_origin(kind) is not tuple


def parse(config: Config, fixed: Mapping[str, str], entries: list[str]) -> Space:
    """The space of `entries`, each `setting=low..high`, with `log` or `step N`, or `setting=a,b,c`.

    `fixed` are the settings of every trial. Raises ValueError for an unknown setting, one that is
    not the model's or the training's, and a value that the setting does not accept.
    """
    space: Space = {}
    known = {configure.locate(config, key) for key in fixed}
    for entry in entries:
        key, sign, text = (part.strip() for part in entry.partition("="))
        if not sign or not text:
            raise ValueError(f"space {entry!r}: setting=low..high or setting=a,b,c is needed")
        section, name = configure.locate(config, key)
        if section not in SECTIONS:
            raise ValueError(
                f"space {entry!r}: {section}.{name} changes what is scored, so that trials could "
                f"not be compared; only settings of {' and '.join(SECTIONS)} are searched"
            )
        if section == "train" and name in OTHERS:
            raise ValueError(
                f"space {entry!r}: not searched; {OTHERS[name] or 'it does not change a model'}"
            )
        if (section, name) in known:
            raise ValueError(f"space {entry!r}: {section}.{name} is given twice")
        known.add((section, name))
        space[key] = _distribution(entry, text, _kind(config, section, name))
        for value in _ends(space[key]):
            try:
                configure.resolve(config.name, config.preset, {**fixed, key: value})
            except ValueError as error:
                raise ValueError(f"space {entry!r}: {error}") from error
    return space


def _kind(config: Config, section: str, name: str) -> Any:
    """The type of a setting, without its bounds."""
    return typing.get_type_hints(type(getattr(config, section)))[name]


def _distribution(entry: str, text: str, kind: Any) -> Dimension:
    found = RANGE.fullmatch(text)
    if not found:
        values = [value.strip() for value in text.split(",")]
        if len({*values}) < max(2, len(values)) or "" in values:
            raise ValueError(f"space {entry!r}: two or more different values are needed")
        if typing.get_origin(kind) is tuple:
            raise ValueError(f"space {entry!r}: a setting that is a list is not searched")
        return CategoricalDistribution(values)
    if kind not in (int, float):
        raise ValueError(f"space {entry!r}: only a number has a range; give the values, a,b,c")
    low, high = (_number(entry, part, kind) for part in found.group(1, 2))
    log, step = bool(found[3]), _number(entry, found[4], kind) if found[4] else None
    if not low < high:
        raise ValueError(f"space {entry!r}: the lower end must be below the upper one")
    if log and low <= 0:
        raise ValueError(f"space {entry!r}: log needs a lower end above 0")
    if step is not None and not 0 < step <= high - low:
        raise ValueError(f"space {entry!r}: a step above 0 and within the range is needed")
    if step is not None and not math.isclose(round((high - low) / step) * step, high - low):
        raise ValueError(f"space {entry!r}: the range is not a multiple of the step")
    if kind is int:
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    return FloatDistribution(low, high, log=log, step=step)


def _number(entry: str, text: str, kind: type) -> float:
    try:
        number = float(kind(text))
    except ValueError as error:
        what = "a whole number" if kind is int else "a number"
        raise ValueError(f"space {entry!r}: {text!r} is not {what}") from error
    if not math.isfinite(number):
        raise ValueError(f"space {entry!r}: {text!r} is not finite")
    return number


def _ends(distribution: Dimension) -> list[str]:
    """The values that are checked before anything starts: both ends, or each choice."""
    if isinstance(distribution, CategoricalDistribution):
        return [str(choice) for choice in distribution.choices]
    return [configure.text(distribution.low), configure.text(distribution.high)]


def preset_point(config: Config, space: Space) -> dict[str, Any] | None:
    """The preset's own values, if they are in the space: the first trial."""
    point: dict[str, Any] = {}
    for key, distribution in space.items():
        section, name = configure.locate(config, key)
        value = getattr(getattr(config, section), name)
        if isinstance(distribution, CategoricalDistribution):
            value = configure.text(value)
            inside = value in distribution.choices
        else:
            value = type(distribution.low)(value)
            steps = (value - distribution.low) / (distribution.step or 1)
            on_step = not distribution.step or math.isclose(steps, round(steps), abs_tol=1e-9)
            inside = distribution.low <= value <= distribution.high and on_step
        if not inside:
            return None
        point[key] = value
    return point


def shown(distribution: Dimension) -> str:
    """A dimension as it is written on the command line."""
    if isinstance(distribution, CategoricalDistribution):
        return ",".join(map(str, distribution.choices))
    low, high, step = distribution.low, distribution.high, distribution.step
    text = f"{configure.text(low)}..{configure.text(high)}"
    if distribution.log:
        return f"{text} log"
    return text if step in (None, 1) else f"{text} step {configure.text(step)}"


def written(params: Mapping[str, Any]) -> dict[str, str]:
    """A trial's values as the command line and the training have them: four significant digits."""
    return {
        key: configure.text(float(f"{value:.4g}") if isinstance(value, float) else value)
        for key, value in params.items()
    }


def names(config: Config) -> list[str]:
    """Every setting that can be searched."""
    return [
        f"{section}.{field.name}"
        for section in SECTIONS
        for field in dataclasses.fields(getattr(config, section))
        if not (section == "train" and field.name in OTHERS)
    ]

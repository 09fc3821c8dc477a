"""Parse a run's `key=value` texts into arguments of the compiled pipeline."""

from typing import Any

from pipelines import compiled
from training.core import pods
from training.core.config import SEED
from training.core.options import NAMES, TrainOptions, read_options
from training.data.versions import raw_root

LOCAL = "none, a local environment"  # the image of a run without one


def parse(pairs: list[str], known: dict[str, compiled.Parameter]) -> dict[str, Any]:
    """Parse `key=value` texts into pipeline arguments; fields of the preset go to `overrides`.

    Raises ValueError for an unknown (with the known ones), repeated or ill-typed key.
    """
    given: dict[str, str] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign:
            raise ValueError(f"{pair!r}: key=value is needed")
        if key in given:
            raise ValueError(f"{key} is given twice")
        given[key] = value
    fields = {key: given.pop(key) for key in list(given) if key not in known}
    arguments = compiled.check(known, given)
    defaults = {name: p.default for name, p in known.items()}
    whole = defaults | arguments
    options = read_options({n: v for n, v in whole.items() if n in NAMES})
    raw_root(whole.get("raw", ""))
    pods.step(options.preset, *(whole.get(n, "") for n in ("step_cpu", "step_memory")))
    if fields or arguments.keys() & {"model", "preset", "overrides"}:
        arguments |= fold(fields, whole)
    if options.nproc * options.nodes * options.seeds > 1:
        check_training(options, defaults | arguments)
    return arguments


def check_training(options: TrainOptions, arguments: dict[str, Any]) -> None:
    """Raise ValueError for processes that cannot share a training, and for too large a seed."""
    from training.models import configure

    overrides = configure.parse(arguments["overrides"])
    train = configure.resolve(arguments["model"], arguments["preset"], overrides).train
    processes = options.nproc * options.nodes
    if processes > train.batch:
        raise ValueError(
            f"nproc={options.nproc}, nodes={options.nodes}: {processes} processes for "
            f"train.batch={train.batch}; at most one for each image of a batch"
        )
    if train.compile and processes > 1:
        raise ValueError(
            f"train.compile=true: one process only, not nproc={options.nproc}, "
            f"nodes={options.nodes}; leave train.compile out"
        )
    if train.seed + options.seeds - 1 > SEED:
        raise ValueError(
            f"seeds={options.seeds}: from train.seed={train.seed} on, the last is above {SEED}; "
            "give a smaller train.seed"
        )


def fold(fields: dict[str, str], arguments: dict[str, Any]) -> dict[str, Any]:
    """Add `fields` to `overrides`, validated against the preset."""
    from training.models import configure

    config = configure.find(arguments["model"], arguments["preset"])
    overrides = configure.parse(arguments["overrides"])
    for key, value in fields.items():
        try:
            section, name = configure.locate(config, key)
        except ValueError as error:
            raise ValueError(f"{error}; parameters: {', '.join(sorted(arguments))}") from error
        if ";" in value:
            raise ValueError(f"{key}={value!r}: a value cannot hold a semicolon")
        overrides[f"{section}.{name}"] = value
    configure.resolve(arguments["model"], arguments["preset"], overrides)
    text = ";".join(f"{key}={value}" for key, value in overrides.items())
    return {"overrides": text} if text else {}

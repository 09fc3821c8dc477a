"""Parse a run's `key=value` texts into arguments of the compiled pipeline."""

from typing import Any

from pipelines import compiled
from training.core.options import NAMES, read_options

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
    read_options({n: v for n, v in (defaults | arguments).items() if n in NAMES})
    if fields or arguments.keys() & {"model", "preset", "overrides"}:
        arguments |= fold(fields, defaults | arguments)
    return arguments


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

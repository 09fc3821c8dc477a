"""What a run changed in its preset, by the keys that a user writes."""

import json
from typing import Any

from training.core.config import SECTIONS, Config, to_json
from training.models import configure


def stored(config: Config) -> dict[str, Any]:
    """The sections as a model's config.json and the steps' arguments have them."""
    return {name: json.loads(to_json(getattr(config, name))) for name in SECTIONS}


def test_a_preset_changes_nothing_in_itself_whatever_its_seed() -> None:
    for model, preset in configure.PRESETS:
        config = configure.resolve(model, preset, {"seed": "7"})
        assert configure.changes(model, preset, stored(config)) == {}, (model, preset)


def test_the_changes_are_the_overrides_and_resolve_to_the_same_run() -> None:
    """Numbers, lists, switches, values that JSON leaves out, and keys that need a section."""
    given = {
        "lambda_rec": "14", "images": "1600", "decay_images": "0", "model.lambda_gp": "2.5",
        "data.attributes": "Male,Young", "data.resize": "fast", "eval.max_kid": "0",
        "eval.must_learn": "false", "judge.images": "960", "output": "residual",
    }  # fmt: skip
    config = configure.resolve("stargan", "demo", given)
    found = configure.changes("stargan", "demo", stored(config))
    known = configure.find("stargan", "demo")
    assert found == {
        key.removeprefix("model."): value
        for key, value in given.items()
        if configure.text(getattr(getattr(known, configure.locate(known, key)[0]),
                                  configure.locate(known, key)[1])) != value
    }  # fmt: skip
    assert {"lambda_rec", "data.attributes", "eval.max_kid", "judge.images"} <= found.keys()
    assert configure.resolve("stargan", "demo", found) == config


def test_an_unknown_preset_has_no_changes() -> None:
    assert configure.changes("stargan", "", {"train": {"images": 1}}) == {}

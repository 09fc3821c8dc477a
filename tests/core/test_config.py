"""Every setting has a meaning and bounds; resolved configurations keep their bytes."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from training.core.config import (
    IMPLIED,
    SECTIONS,
    Config,
    DataConfig,
    EvalConfig,
    JudgeConfig,
    TrainConfig,
    build,
    describe,
    from_json,
    to_json,
)
from training.core.files import sha256_bytes
from training.models import MODELS, configure
from training.resolve import judge_hash

GOLDEN = json.loads(Path(__file__).with_name("presets.json").read_text())
LONGER = configure.resolve("stargan", "demo").train.images + 1
PARTS = (DataConfig, TrainConfig, JudgeConfig, EvalConfig, *MODELS.values())


def test_every_section_of_every_preset_keeps_its_bytes() -> None:
    """Cache keys and the names of run folders and judges depend on them."""
    found = {}
    for model, preset in configure.PRESETS:
        config = configure.resolve(model, preset)
        texts = {name: to_json(getattr(config, name)) for name in SECTIONS}
        found[f"{model}/{preset}"] = {
            **{name: sha256_bytes(text.encode())[:16] for name, text in texts.items()},
            "judge_hash": judge_hash(config, "0" * 32 + ".dir")[:16],
        }
    assert found | GOLDEN == found  # a new model or preset is not in it yet


@pytest.mark.parametrize("section", PARTS)
def test_a_value_left_out_of_texts_is_read_back(section: type) -> None:
    """It is the default, or refused."""
    for field in dataclasses.fields(section):
        for value in (value for name, value in IMPLIED if name == field.name):
            try:
                given = build(section, {field.name: value})
            except ValueError:
                continue
            assert getattr(from_json(section, to_json(given)), field.name) == value


@pytest.mark.parametrize("key", configure.PRESETS)
def test_a_preset_is_within_its_own_bounds(key: tuple[str, str]) -> None:
    """Read back from its JSON text, as the steps read it."""
    config = configure.resolve(*key)
    for name in SECTIONS:
        part = getattr(config, name)
        assert from_json(type(part), to_json(part)) == part


@pytest.mark.parametrize("section", PARTS)
def test_every_field_of_a_section_or_model_has_a_meaning(section: type) -> None:
    assert [name for name, _, _, meaning in describe(section) if not meaning] == []


NUMBERS = [
    (section, f.name)
    for section in PARTS
    for f in dataclasses.fields(section)
    if type(f.default) in (int, float)
]


@pytest.mark.parametrize(("section", "name"), NUMBERS)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", float("nan"), float("inf"), "-999"])
def test_no_number_may_be_infinite_or_far_below_its_range(
    section: type, name: str, value: Any
) -> None:
    with pytest.raises(ValueError, match=rf"^part\.{name}=.*: needs a (whole|finite) number"):
        build(section, {name: value}, "part.")


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("train.ema=1", "train.ema='1': needs a finite number, at least 0 and below 1"),
        ("data.size=4", "data.size='4': needs a whole number from 8 to 4096"),
        ("batch=0", "train.batch='0': needs a whole number, at least 1"),
        ("judge.images=8,0", "each a whole number, at least 1"),
        ("judge.images=", "needs 1 or more values"),
        ("data.rafd_centre=3", "needs 2 values, comma-separated"),
        ("flip=1", "train.flip='1': needs true or false"),
        ("crop=left", "train.crop='left': needs one of none, shift, zoom"),
        ("seed=1.5", "train.seed='1.5': needs a whole number from 0"),
        (f"decay_images={LONGER}", f"train.decay_images={LONGER}: needs at most train.images="),
        (f"batch={LONGER}", f"needs at least one batch, train.batch={LONGER}"),
    ],
)
def test_a_wrong_value_is_refused_with_key_value_and_range(pair: str, message: str) -> None:
    with pytest.raises(ValueError, match="needs") as caught:
        configure.resolve("stargan", "demo", configure.parse(pair))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("model", "key", "candidates"),
    [
        ("stargan", "lr", "write model.g_lr or model.d_lr or judge.lr"),
        ("attgan", "lr", "write judge.lr or model.lr"),
        ("stargan", "floor", "write judge.floor"),
        ("stargan", "limit", "write data.limit or eval.limit"),
        ("stargan", "min_psnr", "write eval.min_psnr"),
        ("stargan", "size", "write data.size"),
    ],
)
def test_a_bare_key_changes_the_training_or_the_model_only(
    model: str, key: str, candidates: str
) -> None:
    with pytest.raises(ValueError, match=f"{candidates}$"):
        configure.resolve(model, "demo", {key: "1"})


def test_a_bare_key_of_both_train_and_judge_belongs_to_train() -> None:
    config = configure.resolve("stargan", "demo", {"seed": "4", "batch": "2", "lambda_rec": "3"})
    assert (config.train.seed, config.train.batch, config.model.lambda_rec) == (4, 2, 3.0)
    assert config.judge == configure.resolve("stargan", "demo").judge


def test_a_field_of_a_model_is_checked_against_its_own_bounds() -> None:
    @dataclasses.dataclass(frozen=True)
    class Toy:
        width: Annotated[int, Field(ge=2, le=8, description="channels")] = 4
        rate: Annotated[float, Field(gt=0, description="learning rate")] = 0.1

    assert build(Toy, {"width": "8", "rate": 1}) == Toy(8, 1.0)
    with pytest.raises(ValueError, match=r"model\.width=9: needs a whole number from 2 to 8"):
        build(Toy, {"width": 9}, "model.")
    with pytest.raises(ValueError, match=r"model\.rate='nan': needs a finite number, above 0"):
        build(Toy, {"rate": "nan"}, "model.")
    with pytest.raises(ValueError, match=r"unknown model\.depth; known: width, rate"):
        build(Toy, {"depth": 9}, "model.")


@given(st.builds(TrainConfig, images=st.integers(1), seed=st.integers(0, 2**63 - 1),
                 ema=st.floats(0, 1, exclude_max=True), flip=st.booleans()))  # fmt: skip
def test_a_section_round_trips_through_text(section: TrainConfig) -> None:
    """As JSON, and as `key=value` texts."""
    assert from_json(TrainConfig, to_json(section)) == section
    spelt = {name: str(value) for name, value in dataclasses.asdict(section).items()}
    assert build(TrainConfig, spelt) == section


def test_a_config_has_the_sections_that_keys_name() -> None:
    names = {f.name for f in dataclasses.fields(Config)}
    assert names == {"name", "preset", *SECTIONS}

"""Names made from free text are plain, unique, and those of before for ordinary text."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nasty import NASTY, texts
from training.core.names import named, plain_name
from training.registry.names import LIMIT, check_model_name, model_name
from training.tracking import client as tracking
from training.tracking import names

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow leaves SQLite pools open
]
many = settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True)
def mlflow(empty_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of a real MLflow store, an SQLite file."""
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    return tracking.client()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Black_Hair", "Black_Hair"), ("H+G", "H_G"), ("AU12", "AU12"), ("my-set", "my-set"),
        ("at_0.5", "at_0.5"), ("a__b", "a_b"), ("smile?", "smile-669046b2"),
        ("smile!", "smile-1b860dd7"), ("café & co", "cafe_co-c791fcc9"), ("开心", "6e067999"),
    ],
)  # fmt: skip
def test_an_ordinary_name_keeps_its_key_and_others_get_a_digest(text: str, name: str) -> None:
    assert plain_name(text) == name


@many
@given(st.lists(texts, unique=True, max_size=30))
def test_each_class_has_its_own_metric_that_mlflow_takes(mlflow: Any, classes: list[str]) -> None:
    numbers = named((("success", "faces", one), float(i)) for i, one in enumerate(classes))
    assert sorted(numbers.values()) == [float(i) for i in range(len(classes))]
    for name in numbers:
        assert re.fullmatch(r"success_faces(_[A-Za-z0-9_.-]+)?(-[0-9a-f]{8})?", name)
        assert names.key(name) == name


def test_every_nasty_class_is_recorded_under_its_own_metric(mlflow: Any) -> None:
    run_id = tracking.parent_run("faces")
    numbers = named((("success", "faces", one), float(i)) for i, one in enumerate(NASTY))
    tracking.log_results(run_id, numbers, {})
    assert mlflow.get_run(run_id).data.metrics == numbers
    assert len(numbers) == len(NASTY)


def test_parts_that_join_to_one_name_keep_two_metrics() -> None:
    rows = [(("success", "a_b", "c"), 1.0), (("success", "a", "b_c"), 2.0)]
    found = named(rows)
    assert found.pop("success_a_b_c") == 1
    assert list(found.values()) == [2]


def test_mlflow_takes_every_key_and_keeps_them_apart(mlflow: Any) -> None:
    """As the key of a metric, a parameter, a tag and a picture."""
    from PIL import Image

    given = [text for text in NASTY if text]
    keys = [names.key(text) for text in given]
    assert len(set(keys)) == len(given)
    run_id = tracking.parent_run("faces")
    entities = tracking.mlflow().entities
    for key in keys:
        mlflow.log_batch(
            run_id, [entities.Metric(key, 1.0, 0, 0)], [entities.Param(key, "x")],
            [entities.RunTag(key, "x")],
        )  # fmt: skip
    data = mlflow.get_run(run_id).data
    assert set(data.metrics) == set(data.params) == set(keys)
    pictures = {names.picture_key(text) for text in given}
    assert len(pictures) == len(given)
    for key in pictures:
        mlflow.log_image(run_id, Image.new("RGB", (4, 4)), key=key, step=0, synchronous=True)
    stored = [Path(each.path).name for each in mlflow.list_artifacts(run_id, "images")]
    assert len({name.partition("+step+")[0] for name in stored}) == len(pictures)


@many
@given(texts)
def test_a_filter_finds_the_run_that_it_names_or_is_refused(mlflow: Any, text: str) -> None:
    experiment = tracking.experiment_id("faces")
    run_id = mlflow.create_run(experiment, tags={"nasty": text}).info.run_id
    try:
        value = names.quoted(text)
    except ValueError as error:
        assert ("'" in text, '"' in text, "rename it" in str(error)) == (True,) * 3  # noqa: PT017
    else:
        found = mlflow.search_runs([experiment], f"tags.nasty = {value}", max_results=200)
        assert run_id in [run.info.run_id for run in found]
        assert {run.data.tags["nasty"] for run in found} == {text}


@many
@given(texts | texts.map(model_name))
def test_a_model_name_is_registered_or_refused_with_one_that_can_be(mlflow: Any, name: str) -> None:
    try:
        check_model_name(name)
    except ValueError as error:
        assert re.fullmatch(r"name=[^\n]+; write name=[^\n]+", str(error))  # noqa: PT017 - or taken
        name = str(error).rpartition("write name=")[2]
        check_model_name(name)
    api, errors = mlflow, tracking.mlflow().exceptions
    for each in (name, f"{name}.lock"):
        try:
            api.create_registered_model(each)
        except errors.MlflowException as error:
            assert error.error_code == "RESOURCE_ALREADY_EXISTS"  # noqa: PT017 - or it is new
    experiment = tracking.experiment_id("faces")
    run_id = api.create_run(experiment).info.run_id
    api.create_logged_model(experiment, name=name, source_run_id=run_id)
    api.create_model_version(name, "file:///x", run_id)
    api.set_registered_model_alias(name, "champion", "1")
    assert {v.name for v in api.search_model_versions(f"name = {names.quoted(name)}")} == {name}
    assert api.get_model_version_by_alias(name, "champion").name == name


@many
@given(st.lists(texts, unique=True, max_size=30))
def test_names_made_from_different_texts_differ_and_can_be_registered(texts: list[str]) -> None:
    made = [model_name(text) for text in texts]
    assert len(set(made)) == len(made)
    for name in made:
        check_model_name(f"compare-{name}")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("faces.v2", r"name=faces.v2: . cannot be in .*; write name=faces-v2"),
        ("50%", "name=50%: % cannot be in .*; write name=50"),
        ("it's mine", "name=it's mine: ' cannot be in .*; write name=it-s mine"),
        ("a/b:c", "/ : cannot be in .*; write name=a-b-c"),
        ("a\nb", r"name='a\\nb': .* one line of visible characters; write name=a-b"),
        ("", "not empty; write name=model"),
        (" a", "does not begin or end with a space"),
        ("x" * (LIMIT + 1), "251 characters; .* 250 at most"),
    ],
)
def test_a_refused_name_is_told_why_and_what_would_do(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_model_name(name)


@pytest.mark.parametrize("name", ["stargan", "stargan joint", "my_model-2", "开心", "x" * LIMIT])
def test_a_plain_name_is_taken(name: str) -> None:
    check_model_name(name)

"""What a pipeline run's parent says in MLflow: name, settings, view, links."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import training.tracking.tracker
from training.evaluation.headline import headline as scores
from training.tracking import client as tracking
from training.tracking import links
from training.tracking.described import SEEN, SHARED, describe, headline, parameters
from training.tracking.tracker import Tracker

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow leaves SQLite pools open
]
KFP = "2f0c6a1e-4b7d-4a52-9c3e-7d1f0a9b8c6d"
DATA = "celeba", "0517a801.dir"


@pytest.fixture(autouse=True)
def workdir(empty_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_mlflow, tmp_path / "runs" / "mlflow.db")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_UI_ENDPOINT",
                 "KF_PIPELINES_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    as_run("run-1", monkeypatch)
    return tmp_path


def as_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_RUN_ID", name)
    tracking.pipeline_run_id.cache_clear()


def settings(seed: int = 3, **changes: str) -> dict[str, str]:
    return parameters("stargan", "demo", changes, DATA, seed)


def parent() -> Any:
    return tracking.client().get_run(tracking.parent_run("faces"))


def train(folder: Path, params: dict[str, str]) -> None:
    tracker = Tracker.start("faces", "train", {"batch": 16}, {}, {}, folder=folder, parent=params)
    tracker.metrics({"loss": 1.0}, 16)
    assert tracker.close() == ""
    assert tracking.client().get_run(tracker.run_id).data.metrics == {"loss": 1.0}


def test_a_training_gives_its_parent_name_and_settings(workdir: Path) -> None:
    train(workdir / "t", settings(lambda_rec="14"))
    run = parent()
    assert run.info.run_name == "stargan demo lambda_rec=14 seed=3"
    assert run.data.params == {
        "model": "stargan", "preset": "demo", "data": "celeba", "data_version": "0517a801.dir",
        "seed": "3", "lambda_rec": "14",
    }  # fmt: skip
    assert (run.data.tags["model"], run.data.tags["preset"]) == ("stargan", "demo")


def test_a_later_step_adds_settings_and_changes_none(workdir: Path) -> None:
    """MLflow refuses another value of a parameter; a step must not fail on it."""
    run_id = tracking.parent_run("faces")
    describe(run_id, settings(lambda_rec="14"))
    describe(run_id, settings(seed=4, lambda_rec="9", **{"eval.limit": "8"}))
    run = parent()
    assert (run.data.params["lambda_rec"], run.data.params["seed"]) == ("14", "3")
    assert run.data.params["eval.limit"] == "8"
    assert run.info.run_name == "stargan demo eval.limit=8 lambda_rec=14 seed=3"


def test_a_name_that_a_person_gave_stays(workdir: Path) -> None:
    run_id = tracking.parent_run("faces")
    tracking.client().update_run(run_id, name="for the talk")
    describe(run_id, settings())
    assert parent().info.run_name == "for the talk"
    assert parent().data.params["preset"] == "demo"


def test_a_platforms_run_is_left_as_it_is(workdir: Path) -> None:
    where = tracking.experiment_id("platform")
    run_id = tracking.client().create_run(where, run_name="theirs").info.run_id
    describe(run_id, settings(lambda_rec="14"))
    run = tracking.client().get_run(run_id)
    assert (run.info.run_name, run.data.params) == ("theirs", {})


def test_a_refused_description_costs_no_record(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(run_id: str, params: object) -> None:
        tracking.client().set_experiment_tag("no such experiment", "key", "value")

    monkeypatch.setattr(training.tracking.tracker, "describe", refuse)
    codes = (*training.tracking.tracker.PERMANENT, "RESOURCE_DOES_NOT_EXIST")
    monkeypatch.setattr(training.tracking.tracker, "PERMANENT", codes)
    train(workdir / "t", settings())
    assert "did not take the name and settings" in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 9, 60])
def test_a_name_fits_however_many_settings_were_changed(count: int) -> None:
    changes = {f"data.attribute_{i:02}": "Wearing_Lipstick," * 5 for i in range(count)}
    name = headline(settings(**changes))
    assert len(name) <= 120
    assert name.startswith("stargan demo data.attribute_00=Wearing_Lipstick,")
    assert name.endswith(" seed=3")


def test_the_shared_view_has_every_changed_setting_as_far_as_its_tag_goes(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []
    for number, key in enumerate(["lambda_rec", "lambda_cls", *(f"k{i:0200}" for i in range(30))]):
        as_run(f"run-{number}", monkeypatch)
        describe(tracking.parent_run("faces"), settings(**{key: "1"}))
        api = tracking.client()
        text = api.get_experiment(tracking.experiment_id("faces")).tags[SHARED]
        columns = json.loads(text)["selectedColumns"]
        assert f"params.`{key}`" in columns
        assert {"metrics.`score/success`", *(f"params.`{name}`" for name in SEEN)} <= {*columns}
        held.append("params.`lambda_rec`" in columns)
        assert len(text) <= 5000
    assert (held[1], held[-1]) == (True, False)  # the oldest gives way


@pytest.mark.parametrize(
    ("endpoint", "tags"),
    [("", {"kfp_run": KFP}),
     ("https://kf.example/pipeline/",
      {"kfp_run": KFP, "kfp_url": f"https://kf.example/pipeline/#/runs/details/{KFP}"})],
)  # fmt: skip
def test_a_run_of_kubeflow_is_named_with_its_page_if_that_is_known(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str, tags: dict[str, str]
) -> None:
    as_run(KFP, monkeypatch)
    monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", endpoint)
    describe(tracking.parent_run("faces"), settings())
    assert {k: v for k, v in parent().data.tags.items() if k.startswith("kfp_")} == tags
    assert links.kubeflow_tags("stargan-20261130-101010-abcdef") == {}


def test_closing_tells_kubeflow_the_page_of_the_run(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty where nothing was logged, or MLflow is off."""
    assert links.close_parent("FINISHED", "faces") == ""
    run_id, where = tracking.parent_run("faces"), tracking.experiment_id("faces")
    monkeypatch.setenv("MLFLOW_UI_ENDPOINT", "https://user:secret@ml.example/")
    page = links.close_parent("FAILED", "faces")
    assert page.endswith(f"ml.example/#/experiments/{where}/runs/{run_id}"
                         "?workflowType=machine_learning")  # fmt: skip
    assert "secret" not in page
    assert parent().info.status == "FAILED"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    assert links.close_parent("FINISHED", "faces") == ""


def test_the_scores_of_a_run_are_those_that_were_measured() -> None:
    found = scores({"success_mean": 0.9, "kid_vgg_ratio": 0.5, "other": 1.0}, {"seconds": 90.0})
    assert found == {"score/success": 0.9, "realism/kid_ratio": 0.5, "cost/minutes": 1.5}

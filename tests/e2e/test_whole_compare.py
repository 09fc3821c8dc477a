"""Several models through the whole pipeline under one budget, in one report."""

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.compare import Budget, budgeted, parse_specs, planned
from training.engine.session import Session
from training.engine.throughput import measure_throughput
from training.evaluation.comparison.runs import ComparedRun
from training.models import MODELS, configure
from training.models.base import Losses

SHORT = ["preset=smoke", "images=64", "data.size=32", "judge.images=128", "train.batch=4",
         "raw=raw/celeba"]  # fmt: skip
SMALL = [*SHORT, "d_layers=3", "layers=3", "shortcut_layers=2", "inject_layers=2"]


@pytest.fixture
def workdir(tmp_path: Path, drawn: Path) -> Path:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "celeba").symlink_to(drawn)
    return tmp_path


@pytest.fixture
def compare(workdir: Path, run_pipeline: Callable[..., str]) -> Callable[..., str]:
    """`python -m pipelines compare` in the workdir."""
    return partial(run_pipeline, workdir, command="compare")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_models_are_compared_in_one_report_and_resume_from_the_cache(
    workdir: Path, compare: Callable[..., str]
) -> None:
    """Same judge and data within one label space; a smoke test is labelled as such."""
    output = compare("models=stargan,stgan", "d_repeat_num=3", *SHORT, code=2)
    assert "unknown key 'd_repeat_num'" in output  # of one of the two only
    models = "models=attgan,attgan:shortcut_layers=0"
    output = compare(models, *SMALL)
    assert output.count("judge: from cache") == 1
    (page,) = (workdir / "runs" / "report").glob("compare-*.html")
    text = page.read_text()
    assert "A smoke test: 64 images each, one seed" in text
    assert text.count("data:image/png;base64") == 2
    assert len(re.findall(r"<th[^>]*>(?:attgan|attgan:shortcut_layers=0)</th>", text)) == 2
    assert "did not learn" in text
    assert "cores" in text
    assert "D&#39;s lead over G in training" in text
    assert not re.search(r"<script|https?://", text)
    again = compare(models, *SMALL)
    assert again.count("train: from cache") == 2
    for plain, other in map(sorted, logged(workdir)):
        assert plain == "attgan"
        assert re.fullmatch("attgan_shortcut_layers_0-[0-9a-f]{8}", other)
    assert len(logged(workdir)) == 2


def logged(workdir: Path) -> list[set[str]]:
    """The systems whose success is logged in each comparison's MLflow run."""
    found: dict[str, set[str]] = {}
    with closing(sqlite3.connect(workdir / "runs" / "mlflow.db")) as database:
        for run, name in database.execute(
            "SELECT m.run_uuid, m.key FROM latest_metrics m JOIN tags t USING (run_uuid) "
            "WHERE t.key = 'role' AND t.value = 'comparison' AND m.key LIKE '%/success_mean'"
        ):
            found.setdefault(run, set()).add(name.removesuffix("/success_mean"))
    return list(found.values())


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_failed_system_is_listed_and_the_others_continue(
    workdir: Path, compare: Callable[..., str]
) -> None:
    """A judge with floor 1 is refused; the other system's judge is accurate enough."""
    output = compare("models=attgan:judge.floor=1.0,attgan", *SMALL, code=1)
    assert re.search(r"failed +attgan:judge.floor=1.0, seed 0: step judge failed", output)
    (page,) = (workdir / "runs" / "report").glob("compare-*.html")
    assert "Failed: attgan:judge.floor=1.0, seed 0" in page.read_text()


def test_systems_are_labelled_by_their_requested_text() -> None:
    (colon,) = parse_specs("stargan:datasets=mine:csv:g_lr=1e+3")
    assert colon.settings == {"datasets": "mine:csv", "g_lr": "1e+3"}
    plain, other = parse_specs("stgan, starganv2:domains=Black_Hair+Blond_Hair")
    assert (plain.label, plain.model, plain.settings) == ("stgan", "stgan", {})
    assert other.settings == {"domains": "Black_Hair,Blond_Hair"}
    refused = {"": "one or more", "stgan,stgan": "each once", "a": "unknown model a",
               "stgan:x": "'x' is not key=value"}  # fmt: skip
    for text, message in refused.items():
        with pytest.raises(ValueError, match=message):
            parse_specs(text)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"images": "0"}, "more than 0"), ({"minutes": "nan"}, "more than 0"),
     ({"seeds": "many"}, "a number"), ({"images": "9", "minutes": "1"}, "one budget")],
)  # fmt: skip
def test_an_invalid_budget_is_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Budget.read(given)


def test_systems_are_registered_under_separate_names(tmp_path: Path) -> None:
    """Whatever settings they share; a length that contradicts the budget is refused."""
    given = {"models": "stargan,attgan", "images": "64", "preset": "smoke", "name": "mine"}
    plan = planned(given, tmp_path)
    assert [arguments["name"] for _, _, arguments in plan] == ["mine-stargan", "mine-attgan"]
    with pytest.raises(ValueError, match=r"train\.images: .*budget as images="):
        planned({**given, "train.images": "99"}, tmp_path)


def test_seeds_differ_in_nothing_else(tmp_path: Path) -> None:
    """Two runs of each system, which differ only in the training's seed."""
    plan = planned({"models": "stargan", "images": "64", "preset": "smoke", "seeds": "2"}, tmp_path)
    (one, zero, first), (other, number, second) = plan
    assert (one, zero, number) == (other, 0, 1)
    assert first["overrides"].replace("train.seed=0", "train.seed=1") == second["overrides"]
    assert {k for k in first if first[k] != second[k]} == {"overrides"}


def test_minutes_are_converted_to_images_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rate is measured once and stored, so that the same command resumes with its length."""
    monkeypatch.setattr("training.engine.throughput.measure_throughput", lambda config: 10.0)
    given = {"models": "stargan", "minutes": "2", "preset": "smoke"}
    ((one, seed, arguments),) = planned(given, tmp_path)
    assert (one.label, seed) == ("stargan", 0)
    assert "train.images=1200" in arguments["overrides"]
    monkeypatch.setattr("training.engine.throughput.measure_throughput", lambda config: 99.0)
    assert planned(given, tmp_path)[0][2] == arguments


@pytest.mark.parametrize("name", MODELS)
def test_every_models_throughput_can_be_measured(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an image takes a hundredth of a second: 100 images a second."""
    advance, images = Session.advance, [0]

    def counted(session: Session) -> Losses:
        before, losses = session.state.images, advance(session)
        images[0] += session.state.images - before
        return losses

    monkeypatch.setattr(Session, "advance", counted)
    clock = SimpleNamespace(monotonic=lambda: images[0] / 100)
    monkeypatch.setattr("training.engine.throughput.time", clock)
    config = configure.resolve(
        name, "smoke", {"data.size": "32", "batch": "2"} | SMALLER.get(name, {})
    )
    assert measure_throughput(config, 0.05) == pytest.approx(100)


# At 32 px the smoke presets' networks have one stride too many.
SMALLER: dict[str, dict[str, str]] = {
    "attgan": {"layers": "3", "d_layers": "3", "shortcut_layers": "1", "inject_layers": "1"},
    "stgan": {"layers": "3", "d_layers": "3", "shortcut_layers": "2", "inject_layers": "2"},
}


def test_a_budget_scales_every_length_of_the_preset() -> None:
    for model in MODELS:
        pairs = budgeted(model, "demo", 700)
        short = configure.resolve(model, "demo", pairs).train
        long = configure.resolve(model, "demo").train
        assert short.images == 700
        for name in ("decay_images", "warmup_images"):
            assert getattr(short, name) == getattr(long, name) * 700 // long.images
    assert budgeted("stargan", "demo", 0) == {}


def test_an_unknown_model_is_refused_with_the_known_ones(
    compare: Callable[..., str],
) -> None:
    output = compare("models=stargan,pix2pix", code=2)
    assert f"unknown model pix2pix; known: {', '.join(MODELS)}" in output


def test_manifests_of_different_runs_are_refused(binary: Path, joint: Path, tmp_path: Path) -> None:
    from training.core.config import to_json
    from training.storage.store import Manifest
    from training.train import train

    config = configure.resolve("stargan", "smoke", {
        "images": 8, "decay_images": 4, "warmup_images": 0, "conv_dim": 4, "d_conv_dim": 4,
        "d_repeat_num": 2, "repeat_num": 1,
    })  # fmt: skip
    train(binary, tmp_path / "m.json", "stargan", to_json(config.model), to_json(config.train),
          run=tmp_path / "run")  # fmt: skip
    model = Manifest.read(tmp_path / "m.json")
    dataset = Manifest.read(joint).digest
    meta = {"identity": "i", "judge": "", "dataset": dataset, "model": model.digest}
    Manifest.build("evaluation", {}, meta).write(tmp_path / "e.json")
    with pytest.raises(ValueError, match="is not of this model and data"):
        ComparedRun.read("stargan", tmp_path / "m.json", tmp_path / "e.json", binary)

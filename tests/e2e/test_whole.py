"""The whole pipeline on this machine, with small numbers and drawn faces.

Each fixture is a run in the same registry, after the run of the fixture that it requests; each test
checks one run. The first run starts processes as a user does, the others use forks.
"""

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

import runevents
from forks import Forks
from project import SMALL
from training.storage.store import FolderStore, Manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

HEAVY = ["pull", "validate", "preprocess", "unify-labels", "judge", "train", "evaluate"]


@dataclass(frozen=True)
class Day:
    """A run: its output, the champion's version after it, and its folder."""

    output: str
    champion: str
    folder: Path

    @property
    def ran(self) -> list[str]:
        """The cacheable steps that were executed."""
        found = re.findall(r"^\[\d+/11\] ([\w-]+): done", self.output, re.MULTILINE)
        return [step for step in found if step in HEAVY]

    @property
    def report(self) -> Path:
        found = re.search(r"^report +(.*)/evaluate\.html$", self.output, re.MULTILINE)
        assert found, self.output[-3000:]
        return Path(found[1])

    @property
    def registered(self) -> tuple[dict[str, object], dict[str, object]]:
        """Version and verdict."""
        names = ("register.json", "promote.json")
        version, verdict = (json.loads((self.report / name).read_text()) for name in names)
        return version, verdict


Run = Callable[..., Day]
EVENTS = "runs/events.jsonl"
CHAMPION = "from training.registry.versions import champion; print(champion('stargan'))"


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, drawn: Path, forks: Forks,
    run_pipeline: Callable[..., str],
) -> Run:  # fmt: skip
    """Run the pipeline in a user's working folder with a small CelebA layout in it."""
    folder = tmp_path_factory.mktemp("whole")
    shutil.copytree(drawn, folder / "raw" / "celeba")

    def run(*pairs: str, code: int = 0, pipeline: Callable[..., str] = run_pipeline) -> Day:
        output = pipeline(folder, *SMALL, *pairs, code=code)
        status, champion = forks.run([sys.executable, "-c", CHAMPION], folder)
        assert status == 0, champion
        return Day(output, champion.split()[-1], folder)

    return run


@pytest.fixture(scope="module")
def first(run: Run, start_pipeline: Callable[..., str]) -> Day:
    return run(pipeline=partial(start_pipeline, environment={"OPENLINEAGE_FILE": EVENTS}))


@pytest.fixture(scope="module")
def again(run: Run, first: Day) -> Day:
    """The same command."""
    return run()


@pytest.fixture(scope="module")
def repaired(run: Run, again: Day) -> Day:
    """The same command, after a step's output was deleted."""
    (made,) = again.folder.glob("runs/kfp/*/preprocess")
    shutil.rmtree(made)
    return run()


@pytest.fixture(scope="module")
def rejected(run: Run, repaired: Day) -> Day:
    """Another model, which fails the gate."""
    return run("seed=1", "eval.min_success=1.0", "eval.min_psnr=99")


@pytest.fixture(scope="module")
def overridden(run: Run, rejected: Day) -> Day:
    """The same model, promoted by an override."""
    return run("seed=1", "eval.min_success=1.0", "eval.min_psnr=99", "override=shown to the jury")


@pytest.fixture(scope="module")
def contested(run: Run, overridden: Day) -> Day:
    """A third model with a second seed, compared with the champion."""
    return run("seed=2", "seeds=2", "compare=stargan@champion")


def test_raw_faces_become_a_promoted_model(first: Day) -> None:
    """The last lines name the paths of all results."""
    version, verdict = first.registered
    assert (version["version"], version["created"]) == ("1", True)
    assert verdict["promoted"] is True, verdict
    assert first.ran == HEAVY
    for word in ("metrics", "success_mean", "PROMOTED: ", "stargan 1 (new), @champion", "make ui"):
        assert word in first.output, word
    pictures = re.findall(r"^pictures +(.*\.png)$", first.output, re.MULTILINE)
    assert pictures
    pages = [first.report / f"{step}.html" for step in ("validate", "train", "evaluate", "promote")]
    for path in [*pictures, *pages]:
        assert Path(path).stat().st_size > 1_000, path


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # a warning of SQLAlchemy, caused by MLflow
def test_the_training_is_a_child_with_series_pictures_and_data_in_mlflow(first: Day) -> None:
    """The loop's logs: losses, rates, memory, throughput, grids, the data's digest."""
    from mlflow import MlflowClient

    api = MlflowClient(f"sqlite:///{first.folder / 'runs' / 'mlflow.db'}")
    (where,) = [e.experiment_id for e in api.search_experiments() if e.name == "stargan"]
    parents = [r for r in api.search_runs([where]) if r.data.tags.get("role") == "pipeline"]
    oldest = min(parents, key=lambda run: run.info.start_time)
    wanted = f"tags.`mlflow.parentRunId` = '{oldest.info.run_id}'"
    (child,) = api.search_runs([where], wanted)
    assert child.info.status == "FINISHED"
    series = {"d/gp", "g/rec", "lr/G", "lr/D", "images_per_second", "memory_mib"}
    assert series <= child.data.metrics.keys()
    assert len(api.get_metric_history(child.info.run_id, "g/rec")) > 1
    assert any("samples-celeba" in f.path for f in api.list_artifacts(child.info.run_id, "images"))
    (data,) = child.inputs.dataset_inputs
    assert data.dataset.digest.endswith(".dir")


def test_a_repeated_run_comes_from_the_cache_and_registers_nothing(again: Day) -> None:
    assert again.ran == []
    assert again.output.count(": from cache, ") == len(HEAVY)
    assert again.output.count(": done in ") == 4  # processes
    version, _ = again.registered
    assert (version["version"], version["created"]) == ("1", False)


def test_a_deleted_output_reruns_only_its_step(repaired: Day) -> None:
    """The same images come out, so that nothing after it runs."""
    assert repaired.ran == ["preprocess"]


def test_the_steps_say_in_openlineage_what_they_read_and_wrote(first: Day) -> None:
    """Each version that a step wrote is the one that the next step read; images are counted."""
    events = runevents.read(first.folder / EVENTS)
    jobs = ("train", "evaluate", "register", "promote")
    kinds = ("START", "COMPLETE")
    assert runevents.steps(events) == [(job, kind) for job in jobs for kind in kinds]
    train, evaluate, register, promote = events[1::2]
    written: dict[str, str] = {}
    for event in (train, evaluate, register):
        written |= runevents.versions(event["outputs"])
    for event in (evaluate, register, promote):
        read = runevents.versions(event["inputs"])
        known = {name: version for name, version in read.items() if name in written}
        assert known.items() <= written.items()
        assert len(known) > 0
    assert {"trained/stargan", "evaluation", "models/stargan"} == written.keys()
    assert runevents.versions(promote["outputs"]) == {"models/stargan@champion": first.champion}
    version, _ = first.registered
    (raw,) = {"raw/celeba"} & runevents.versions(train["inputs"]).keys()
    assert runevents.versions(register["inputs"])[raw].endswith(".dir")
    assert runevents.tags(register["outputs"][0])["content"] == version["content"]
    assert len({event["run"]["facets"]["parent"]["run"]["runId"] for event in events}) == 1
    (faces,) = [one for one in train["inputs"] if one["name"] == "dataset/celeba"]
    (data,) = (first.folder / "runs").glob("kfp/*/unify-labels/out")
    labels = FolderStore(first.folder / "runs/store").path(
        Manifest.read(data).entry("labels.parquet").sha256
    )
    assert faces["inputFacets"]["dataQualityMetrics"]["rowCount"] == len(pd.read_parquet(labels))


def test_a_failed_gate_never_promotes(first: Day, rejected: Day) -> None:
    """Another model below the floor stays a version without the alias, whatever its gain."""
    version, verdict = rejected.registered
    assert (version["version"], version["created"]) == ("2", True)
    assert verdict["promoted"] is False
    assert rejected.ran == ["train", "evaluate"]
    assert "not promoted: " in rejected.output
    assert str(verdict["reason"]) in rejected.output
    assert "stargan 2 (new), no alias" in rejected.output
    assert (first.champion, rejected.champion) == ("1", "1")


def test_an_override_promotes_and_is_recorded(overridden: Day) -> None:
    version, verdict = overridden.registered
    assert (version["version"], version["created"]) == ("2", False)
    assert verdict["promoted"] is True
    assert "shown to the jury" in str(verdict["reason"])
    assert overridden.champion == "2"


@pytest.mark.long
def test_seeds_are_in_the_verdict_and_the_champion_in_the_report(contested: Day) -> None:
    """The report compares the champion with the new model; two seeds estimate the noise."""
    _, verdict = contested.registered
    assert "seeds" in [check["name"] for check in verdict["checks"]]
    runs = contested.folder.glob("runs/kfp/*/train/replicates")
    made = max(runs, key=lambda path: path.stat().st_mtime)
    assert json.loads(made.read_text())["meta"] == {"seeds": [3]}
    page = (contested.report / "evaluate.html").read_text()
    assert "Fig. 6: the same held-out images of celeba" in page
    assert contested.champion == ("3" if verdict["promoted"] else "2")


@pytest.mark.long
def test_bad_data_stop_the_run_before_training(run: Run, contested: Day) -> None:
    """The message names step, fault and the report's path; the champion stays."""
    table = contested.folder / "raw/celeba/list_attr_celeba.txt"
    kept = table.read_bytes()
    lines = kept.decode().split("\n")
    table.write_text("\n".join([*lines[:5], lines[5].replace(" -1", "  7", 1), *lines[6:]]))
    try:
        day = run(code=1)
    finally:
        table.write_bytes(kept)
    assert day.ran == ["pull"]
    end = day.output[day.output.rindex("error: step validate failed") :]
    assert "000004.jpg" in end
    (report,) = re.findall(r"^report: (.*validate\.html)$", end, re.MULTILINE)
    assert "000004.jpg" in Path(report).read_text()
    assert day.champion == contested.champion

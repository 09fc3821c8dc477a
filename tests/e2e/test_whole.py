"""The whole pipeline on this machine, as a user runs it, with small numbers and drawn faces.

The tests build on each other: one after the other they are the first days of a registry.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SMALL = ["preset=smoke", "raw=raw/celeba", "data.size=32", "d_repeat_num=4", "train.images=160",
         "decay_images=80", "warmup_images=32", "log_images=64", "sample_images=160",
         "checkpoint_images=160", "judge.images=256"]  # fmt: skip
HEAVY = ["pull", "validate", "preprocess", "unify-labels", "judge", "train", "evaluate"]


class Place:
    """A user's working folder with a small CelebA layout in it."""

    def __init__(self, folder: Path, run: Callable[..., str]) -> None:
        self.folder, self.pipeline = folder, run

    def run(self, *pairs: str, code: int = 0) -> str:
        """Run the pipeline; what it said, which must end with this exit code."""
        return self.pipeline(self.folder, *SMALL, *pairs, code=code)

    def ran(self, said: str) -> list[str]:
        """The cached steps that did run."""
        found = re.findall(r"^\[\d+/11\] ([\w-]+): done", said, re.MULTILINE)
        return [step for step in found if step in HEAVY]

    def report(self, said: str) -> Path:
        found = re.search(r"^report +(.*)/evaluate\.html$", said, re.MULTILINE)
        assert found, said[-3000:]
        return Path(found[1])

    def registered(self, said: str) -> tuple[dict[str, object], dict[str, object]]:
        """Version and verdict."""
        folder = self.report(said)
        names = ("register.json", "promote.json")
        version, verdict = (json.loads((folder / name).read_text()) for name in names)
        return version, verdict


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, run_pipeline: Callable[..., str]) -> Place:
    from training.data.synthetic.faces import draw_celeba

    folder = tmp_path_factory.mktemp("whole")
    draw_celeba(folder / "raw" / "celeba", 200)
    return Place(folder, run_pipeline)


@pytest.fixture(scope="module")
def first(place: Place) -> str:
    """What the first run says."""
    return place.run()


def test_raw_faces_become_a_promoted_model(place: Place, first: str) -> None:
    """The end says where everything is."""
    version, verdict = place.registered(first)
    assert (version["version"], version["created"]) == ("1", True)
    assert verdict["promoted"] is True, verdict
    assert place.ran(first) == HEAVY
    for word in ("metrics", "success_mean", "PROMOTED: ", "stargan 1 (new), @champion", "make ui"):
        assert word in first, word
    pictures = re.findall(r"^pictures +(.*\.png)$", first, re.MULTILINE)
    assert pictures
    for path in [*pictures, place.report(first) / "validate.html"]:
        assert Path(path).stat().st_size > 1_000, path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # SQLAlchemy's, of MLflow's doing
def test_the_training_is_a_child_with_series_pictures_and_data_in_mlflow(
    place: Place, first: str
) -> None:
    """What the loop itself logs: losses, rates, memory, throughput, grids, the data's digest."""
    from mlflow import MlflowClient

    api = MlflowClient(f"sqlite:///{place.folder / 'runs' / 'mlflow.db'}")
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


def test_again_is_quick_and_registers_nothing(place: Place, first: str) -> None:
    start = time.monotonic()
    said = place.run()
    seconds = time.monotonic() - start
    assert place.ran(said) == []
    assert said.count(": from cache, ") == len(HEAVY)
    version, _ = place.registered(said)
    assert (version["version"], version["created"]) == ("1", False)
    assert seconds < 60  # 20 s on an idle machine; .ci/run measures that


def test_a_deleted_output_reruns_its_step_alone(place: Place, first: str) -> None:
    """The same images come out, so that nothing after it runs."""
    (made,) = place.folder.glob("runs/kfp/*/preprocess")
    shutil.rmtree(made)
    assert place.ran(place.run()) == ["preprocess"]


def test_a_failed_gate_never_promotes(place: Place, first: str) -> None:
    """Another model, better or not: below the floor it stays a version without the alias."""
    said = place.run("seed=1", "eval.min_success=1.0", "eval.min_psnr=99")
    version, verdict = place.registered(said)
    assert (version["version"], version["created"]) == ("2", True)
    assert verdict["promoted"] is False
    assert place.ran(said) == ["train", "evaluate"]
    assert "not promoted: " in said
    assert str(verdict["reason"]) in said
    assert "stargan 2 (new), no alias" in said
    assert champion(place) == "1"


def test_a_person_s_word_promotes_and_is_recorded(place: Place, first: str) -> None:
    said = place.run(
        "seed=1", "eval.min_success=1.0", "eval.min_psnr=99", "override=shown to the jury"
    )
    version, verdict = place.registered(said)
    assert (version["version"], version["created"]) == ("2", False)
    assert verdict["promoted"] is True
    assert "shown to the jury" in str(verdict["reason"])
    assert champion(place) == "2"


def test_seeds_enter_the_verdict_and_another_model_the_report(place: Place, first: str) -> None:
    """The champion stands beside the new model; two seeds say how much of the rise is chance."""
    said = place.run("seed=2", "seeds=2", "compare=stargan@champion")
    _, verdict = place.registered(said)
    assert "seeds" in [check["name"] for check in verdict["checks"]]
    made = max(place.folder.glob("runs/kfp/*/train/replicates"), key=lambda p: p.stat().st_mtime)
    assert json.loads(made.read_text())["meta"] == {"seeds": [3]}
    page = (place.report(said) / "evaluate.html").read_text()
    assert "Fig. 6: the same held-out images of celeba" in page
    assert champion(place) == ("3" if verdict["promoted"] else "2")


def test_bad_data_stop_the_run_before_anything_is_trained(place: Place, first: str) -> None:
    """The message names step and fault, and where the report lies; the champion stays."""
    before = champion(place)
    table = place.folder / "raw/celeba/list_attr_celeba.txt"
    kept = table.read_bytes()
    lines = kept.decode().split("\n")
    table.write_text("\n".join([*lines[:5], lines[5].replace(" -1", "  7", 1), *lines[6:]]))
    try:
        said = place.run(code=1)
    finally:
        table.write_bytes(kept)
    assert place.ran(said) == ["pull"]
    end = said[said.rindex("error: step validate failed") :]
    assert "000004.jpg" in end
    (report,) = re.findall(r"^report: (.*validate\.html)$", end, re.MULTILINE)
    assert "000004.jpg" in Path(report).read_text()
    assert champion(place) == before


def champion(place: Place) -> str:
    """The version that the alias names, asked in a process of its own."""
    code = "from training.registry import champion; print(champion('stargan'))"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=place.folder, capture_output=True, text=True, check=True
    )
    return out.stdout.strip()

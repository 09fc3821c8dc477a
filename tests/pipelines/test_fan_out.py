"""Preprocessing divided over a loop, in the local runner with the compiled pipeline.

The data steps and `resolve` are real; the steps after them only write what they were given.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from forks import Forks
from imitations import imitate
from pipelines import compiled
from training.storage.store import Manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

REAL = {"resolve", "pull", "preprocess-plan", "preprocess-part", "preprocess", "unify-labels"}
RUN = """
import json, sys
from pathlib import Path
from pipelines.local.run import StepError, execute
try:
    execute(json.loads(sys.argv[2]), Path(sys.argv[1]))
except StepError as error:
    sys.exit(f"error: {error}")
"""
Start = Callable[..., tuple[int, str]]


@pytest.fixture
def start(tmp_path: Path, drawn: Path, forks: Forks, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Run it in a new folder under `tmp_path`; gives the exit code and the output."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    monkeypatch.delenv("STORE_URI", raising=False)

    def run(
        name: str, *pairs: str, failing: str = "", source: Path = compiled.PARTS
    ) -> tuple[int, str]:
        package = imitate(tmp_path / "stargan.yaml", REAL - {failing}, {failing}, source)
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        overrides = ";".join(["data.size=32", "data.shard_rows=30", *pairs])
        arguments = {"preset": "smoke", "raw": str(drawn), "overrides": overrides}
        return forks.run([sys.executable, "-c", RUN, str(package), json.dumps(arguments)], folder)

    return run


def manifests(folder: Path) -> list[str]:
    """The digests of the preprocessed and of the unified data set."""
    steps = [("preprocess", "images"), ("unify-labels", "dataset")]
    found = [(*folder.glob(f"runs/kfp/*/{step}/out"), kind) for step, kind in steps]
    return [Manifest.read(path, kind).digest for path, kind in found]  # type: ignore[call-overload]


def test_two_parts_give_the_bytes_of_one(start: Start, tmp_path: Path) -> None:
    """Each crops its own shards, which the step after the loop takes from the store; the pipeline
    without the loop has one step."""
    for count, source in (("1", compiled.PACKAGE), ("2", compiled.PARTS)):
        code, output = start(count, f"preprocess.workers={count}", source=source)
        assert code == 0, output
        begun = re.findall(r"^\[\d+/(\d+)\] (preprocess[\w-]*)$", output, re.MULTILINE)
        total = {"1": "11", "2": "14"}[count]
        loop = ["preprocess-plan", "preprocess-part-1", "preprocess-part-2"]
        assert [name for _, name in begun] == [*(loop if count == "2" else ()), "preprocess"]
        assert begun[-1][0] == total
        assert f"[{total}/{total}] report-status" in output
    shards = re.findall(r"part (\d) of 2: (\d+)/\2 images", output)
    assert [(part, int(rows)) for part, rows in shards] == [("1", 110), ("2", 90)]
    one, two = (manifests(tmp_path / count) for count in ("1", "2"))
    assert one == two
    assert len(set(one)) == 2


def test_parts_of_a_pipeline_without_the_loop_are_refused_with_the_other_ones_name(
    start: Start,
) -> None:
    """Not cropped in one pod without a word."""
    code, output = start("plain", "preprocess.workers=16", source=compiled.PACKAGE)
    assert code == 1
    assert "preprocess.workers=16: this pipeline crops all images in one pod" in output
    assert "pipelines/stargan-parts.yaml" in output


@pytest.mark.long
def test_a_failed_part_stops_the_run_with_its_cause(start: Start) -> None:
    code, output = start("failed", "preprocess.workers=3", failing="preprocess-part")
    assert code == 1
    assert "error: step preprocess-part-1 failed: ValueError: torn" in output
    begun = re.findall(r"^\[\d+/15\] ([\w-]+)$", output, re.MULTILINE)
    assert begun == ["preprocess-part-1", "report-status"]

"""The check of the step on a GPU runs on a CPU, at a toy size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from training.models import stargan

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def test_every_part_is_measured_and_every_row_is_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # All of torch.compile but its code generator, which takes a minute.
    monkeypatch.setattr("training.engine.compiling.BACKEND", "aot_eager")
    out = tmp_path / "gpu.json"
    penalty = stargan.gradient_penalty
    gpu.main(["check", "--out", str(out)])
    said = capsys.readouterr().out
    facts = json.loads(out.read_text())
    assert "a toy size, whose numbers mean nothing" in said
    assert facts["not_measured"] == []
    titles = {row["title"] for row in facts["rows"] if row["section"] == "parts"}
    assert titles == {setup.title for setup in gpu.PARTS}
    whole = {row["title"]: row["images_per_second"] for row in facts["rows"]
             if row["section"] == "whole"}  # fmt: skip
    assert whole.keys() == {"plain fp32", *(s.title for s in (*gpu.WHOLE, gpu.COMPILED))}
    assert min(whole.values()) > 0
    kernels = {row["title"]: row["D_kernels"] for row in facts["rows"] if "D_kernels" in row}
    # The double backward is really run, and undone.
    assert kernels["double backward, op by op"] > kernels["op by op"]
    assert stargan.gradient_penalty is penalty
    tables = [line for line in said.splitlines() if line.startswith("| 2 |")]
    assert len(tables) == len(facts["rows"])


def test_what_does_not_fit_the_time_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu.main(["check", "--out", str(tmp_path / "gpu.json"), "--limit", "1e-9"])
    facts = json.loads((tmp_path / "gpu.json").read_text())
    assert facts["rows"] == []
    assert len(facts["not_measured"]) == len(gpu.PARTS) + 4 + 3  # G, and same, whole, compiled
    said = capsys.readouterr().out
    assert "not measured: G, batch 2, instance norm, NHWC: out of time" in said


def test_what_does_not_fit_the_memory_is_named(tmp_path: Path) -> None:
    report = gpu.Report(tmp_path / "gpu.json", 60.0)

    def run() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    report.measure("whole, batch 4096", run)
    assert report.facts["not_measured"] == ["whole, batch 4096: out of memory"]


@pytest.mark.long
def test_the_recipe_trains_and_scores_within_its_minutes(drawn: Path, tmp_path: Path) -> None:
    """By the pipeline's own programs, each in a process, as a user starts it."""
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "recipe", "--raw", str(drawn),
               "--folder", "out", "--minutes", "3"]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "STORE_URI"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "of the paper's length" in done.stdout
    assert "scores: success_mean" in done.stdout
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_time_that_is_too_short_is_refused_with_the_way_out(tmp_path: Path) -> None:
    from benchmarks.recipe import chosen_length
    from training.models import configure

    config = configure.resolve("stargan", "smoke", {"data.size": 16, "model.d_repeat_num": 2})
    with pytest.raises(ValueError, match="raise --minutes"):
        chosen_length(config, 0.0, 0.1)

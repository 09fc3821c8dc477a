"""Reports of users about names: a decimal in compare, classes in other scripts, name=faces.v2."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from project import ROOT

SHORT = (
    "preset=smoke", "judge.images=256", "judge.batch=32", "eval.limit=8", "eval.bootstrap=50",
)  # fmt: skip
LENGTHS = (
    "train.images=64", "decay_images=0", "warmup_images=0", "log_images=32", "sample_images=64",
    "checkpoint_images=64",
)  # fmt: skip


@pytest.fixture(scope="module")
def drawn_cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`f` and `fcjk`: three classes with odd names, and three in another script."""
    script = ROOT.parent / "shared" / "cases" / "02-odd-class-names" / "make.py"
    if not script.is_file():
        pytest.skip("no genuine reports beside this checkout")
    folder = tmp_path_factory.mktemp("cases")
    subprocess.run([sys.executable, str(script), str(folder / "f")], check=True)
    return folder


@pytest.mark.long
def test_compare_registers_a_system_with_a_decimal_setting(
    drawn_cases: Path, tmp_path: Path, run_pipeline: Callable[..., str]
) -> None:
    out = run_pipeline(
        tmp_path, "models=stargan:lambda_rec=0.5", "images=64", *SHORT, "datasets=f:folders",
        f"raw={drawn_cases / 'f'}", command="compare",
    )  # fmt: skip
    assert "failed" not in out
    (registered,) = (tmp_path / "runs" / "kfp").glob("*/register/out")
    record = json.loads(registered.read_text())
    assert record["name"] == "compare-stargan-lambda-rec-0-5-c2833d68"
    assert (record["version"], record["created"]) == ("1", True)


@pytest.mark.long
def test_three_classes_of_another_script_have_a_metric_each(
    drawn_cases: Path, tmp_path: Path, run_pipeline: Callable[..., str]
) -> None:
    out = run_pipeline(
        tmp_path, *SHORT, *LENGTHS, "datasets=faces:folders", f"raw={drawn_cases / 'fcjk'}",
        "name=cjk",
    )  # fmt: skip
    assert re.search(r"success_faces_6e067999 +[0-9.]+  开心\n", out)
    (path,) = (tmp_path / "runs" / "report").glob("*/metrics.json")
    names = [name for name in json.loads(path.read_text()) if name.startswith("success_faces_")]
    assert sorted(names) == [
        "success_faces_176c155e", "success_faces_3b637c63", "success_faces_6e067999",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "why"), [("faces.v2", "."), ("50%", "%"), ("it's mine", "'")]
)  # fmt: skip
def test_a_name_that_mlflow_refuses_is_refused_first(
    tmp_path: Path, run_pipeline: Callable[..., str], name: str, why: str
) -> None:
    """In the first step, with a name that would do; nothing was trained."""
    (tmp_path / "a" / "x").mkdir(parents=True)
    out = run_pipeline(
        tmp_path, "preset=smoke", f"name={name}", "datasets=a:folders", f"raw={tmp_path / 'a'}",
        code=1,
    )  # fmt: skip
    assert f"name={name}: {why} cannot be in a registered model's name; write name=" in out
    assert not (tmp_path / "runs" / "train").exists()

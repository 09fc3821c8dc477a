"""Versions in which somebody has added, removed, replaced or moved files."""

import importlib.util
import marshal
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from releases import flip_byte, register, registered_folder
from training import release, translate
from training.registry import lineage
from training.registry import versions as registry
from training.registry.lineage import LineageError
from training.tracking import client as tracking
from training.tracking import moved

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # MLflow's own
    pytest.mark.filterwarnings("ignore:.*type hints? :UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow leaves SQLite pools open
]


@pytest.fixture(autouse=True)
def working_folder(release_folder: Path) -> Path:
    """A working folder with the default stores."""
    return release_folder


def unchecked_bytecode(path: Path, text: str) -> None:
    """Bytecode that Python runs without comparing it with its source."""
    code = compile(text, "config.py", "exec")
    flags = (0b01).to_bytes(4, "little")  # by the source's hash, not checked
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(importlib.util.MAGIC_NUMBER + flags + bytes(8) + marshal.dumps(code))


def planted(folder: Path) -> None:
    """Bytecode in place of the file that keeps it out."""
    cache = folder / "code/training/core/__pycache__"
    cache.unlink()
    unchecked_bytecode(cache / f"config.{sys.implementation.cache_tag}.pyc", "raise SystemExit(9)")


def linked_file(folder: Path) -> None:
    path = folder / "artifacts/model/ema/G.safetensors"
    path.rename(folder.parents[1] / "moved.safetensors")
    path.symlink_to(folder.parents[1] / "moved.safetensors")


def linked_folder(folder: Path) -> None:
    (folder / "code/extra").symlink_to(folder / "artifacts")


def record_behind_a_link(folder: Path) -> None:
    path = folder / "release/lineage.json"
    path.rename(folder.parents[1] / "lineage.json")
    path.symlink_to(folder.parents[1] / "lineage.json")


TAMPERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "bytecode": (planted, r"code missing: code/training/core/__pycache__; bytecode added: 1 files"),
    "a file in a new __pycache__": (
        lambda f: unchecked_bytecode(f / "release/__pycache__/x.pkl", "1"),
        r"bytecode added: 1 files such as release/__pycache__/x.pkl.*: 1 differences",
    ),
    "a file for a link": (linked_file, r"1 entries of .* artifacts/model/ema/G.* \(a link\)"),
    "a linked folder": (linked_folder, r"code/extra \(a link\)"),
    "the record for a link": (record_behind_a_link, r"release/lineage.json \(a link\)"),
    "an empty folder": (lambda f: (f / "code/empty").mkdir(), r"code/empty \(an empty folder\)"),
    "a pipe": (lambda f: os.mkfifo(f / "code/pipe"), r"code/pipe \(a special file\)"),
    "an upload that MLflow hides": (
        lambda f: (f / ".artifact.uploading.x").write_text("x"),
        r"file added: \.artifact\.uploading\.x",
    ),
    "MLflow's note with other text": (
        lambda f: (f / "registered_model_meta").write_text("model_name: other\n"),
        "file added: registered_model_meta",
    ),
    "a removed file": (lambda f: (f / "README.md").unlink(), "file missing: README.md"),
    "six files": (
        lambda f: [(f / f"code/{i}.so").write_text("x") for i in range(6)],
        r"code/4.so and 1 more: 6 differences from what was registered",
    ),
}


def test_everything_added_removed_or_replaced_is_refused(binary: Path, tmp_path: Path) -> None:
    """By `release verify` and before use; each kind on its own, then the version is whole again."""
    register(binary)
    whole = tmp_path / "whole"
    shutil.copytree(registered_folder(), whole)
    folder = registered_folder()
    for change, says in TAMPERED.values():
        change(folder)
        for use in (lineage.verify, lineage.store_files):
            with pytest.raises(ValueError, match=rf"^stargan version 1: .*{says}"):
                use("stargan/1")
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)
    release.main(["verify", "stargan/1"])


def test_a_bare_folder_is_checked_for_links_too(binary: Path) -> None:
    """`lineage.check` itself, for callers that have not copied the version."""
    register(binary)
    tags = registry.version("stargan/1").tags
    linked_folder(registered_folder())
    linked_file(registered_folder())
    with pytest.raises(LineageError, match=r"weights replaced by a link: .*code added: code/extra"):
        lineage.check(registered_folder(), tags["lineage"])


LOADER = """
    import sys, warnings
    warnings.simplefilter("ignore")
    sys.path[:] = [p for p in sys.path if p != ROOT]
    import mlflow, numpy as np
    mlflow.set_tracking_uri(URI)
    model = mlflow.pyfunc.load_model("models:/stargan/1")
    image, label = np.zeros((1, 3, 16, 16), np.float32), np.zeros((1, 3), np.float32)
    print(model.predict({"image": image, "label": label}).shape)
"""


@pytest.mark.slow
def test_loading_in_place_changes_no_file_and_runs_no_bytecode(binary: Path) -> None:
    """After MLflow has loaded it, the version verifies; verify refuses planted bytecode first."""
    register(binary)
    root = str(Path(__file__).resolve().parents[2])
    script = (
        textwrap.dedent(LOADER).replace("ROOT", repr(root)).replace("URI", repr(tracking.uri()))
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def load() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-I", "-c", script], env=environment, capture_output=True, text=True
        )

    done = load()
    assert done.stdout.strip() == "(1, 3, 16, 16)", done.stderr[-2000:]
    release.main(["verify", "stargan/1"])
    planted(registered_folder())
    assert load().returncode == 9  # what the file that keeps bytecode out is for
    with pytest.raises(LineageError, match="bytecode added"):
        lineage.verify("stargan/1")


@pytest.mark.server
@pytest.mark.slow
def test_a_server_refuses_links_in_one_line(
    binary: Path, mlflow_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its artifacts verify, with the empty files among them; a link is named, not a traceback."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    register(binary)
    release.main(["verify", "stargan/1"])
    (weights,) = (mlflow_server.folder / "served").rglob("ema/G.safetensors")
    weights.rename(mlflow_server.folder / "G.safetensors")
    weights.symlink_to(mlflow_server.folder / "G.safetensors")
    with pytest.raises(ValueError, match=r"^stargan version 1: .*G\.safetensors"):
        lineage.verify("stargan/1")
    weights.unlink()
    with pytest.raises(ValueError, match=r"^stargan version 1: .*G\.safetensors"):
        lineage.verify("stargan/1")


def test_files_that_are_not_there_are_not_called_altered(binary: Path) -> None:
    register(binary)
    folder = registered_folder().absolute()
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(ValueError, match=rf"stargan version 1: its files are not found: {folder} "):
        lineage.verify("stargan/1")


@pytest.mark.parametrize("old_place", ["gone", "still there"])
def test_a_moved_project_keeps_its_versions(
    old_place: str, binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Verified, edited with, rolled back to and registered into from the new folder; said once."""
    register(binary)
    registry.move("stargan", None, "1", "promote", "by the test")
    new = tmp_path.with_name(f"{tmp_path.name} moved")
    shutil.copytree(tmp_path, new)
    altered = registered_folder().absolute() / "artifacts/model/ema/G.safetensors"
    if old_place == "gone":
        tmp_path.rename(tmp_path.with_name(f"{tmp_path.name} old"))
    else:
        flip_byte(altered)  # the old files are not what is read
    monkeypatch.chdir(new)
    monkeypatch.setenv("STORE_URI", f"file://{new / 'store'}")
    moved.follow.cache_clear()
    capsys.readouterr()
    release.main(["verify", "stargan@champion"])
    output = capsys.readouterr().out
    assert f"are now of {(new / 'runs/mlartifacts').as_uri()}" in output
    assert "files as registered" in output
    Image.fromarray(np.full((16, 16, 3), 128, np.uint8)).save(new / "face.png")
    translate.main(["stargan@champion", str(new / "face.png"), str(new / "out.png"), "Male"])
    assert register(new / binary.name, seed=1)["version"] == "2"
    assert len([*(new / "runs/mlartifacts/models").iterdir()]) == 2
    release.main(["verify", "stargan/2"])
    assert "moved or copied" not in capsys.readouterr().out
    if old_place == "still there":
        monkeypatch.chdir(tmp_path)
        flip_byte(altered)
        monkeypatch.setenv("STORE_URI", f"file://{tmp_path / 'store'}")
        release.main(["verify", "stargan/1"])  # the copy did not change the original


def test_another_projects_place_in_a_shared_database_is_kept(tmp_path: Path) -> None:
    """A project that records into our database but keeps its artifacts is no moved project."""
    theirs = tmp_path / "theirs/runs/mlartifacts"
    theirs.mkdir(parents=True)
    api = tracking.client()
    api.create_experiment("theirs", theirs.as_uri())
    (tmp_path / "runs/mlartifacts").mkdir(exist_ok=True)
    moved.follow.cache_clear()
    moved.follow(tmp_path / "runs/mlflow.db")
    assert tracking.client().get_experiment_by_name("theirs").artifact_location == theirs.as_uri()

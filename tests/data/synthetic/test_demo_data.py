"""data.dvc matches the drawn faces: draw, add, push, clone, pull, compare."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from training.core.temporary import whole_folder
from training.data import __main__ as program
from training.data.synthetic import faces
from training.data.versions import pin
from training.storage.dvc import dvc, tree_md5

ROOT = Path(__file__).resolve().parents[3]
GIT = ["git", "-c", "user.email=a@b", "-c", "user.name=t"]


def draw_few(out: Path, workers: int = 0) -> faces.Drawn:
    """A replacement of `faces.draw` with 12 faces and without the slow portraits."""
    with whole_folder(out) as folder:
        drawn = faces.draw_celeba(folder / "celeba", 12, workers=workers)
        (folder / "rafd").mkdir()
        shutil.copy(folder / "celeba" / "openface.csv", folder / "rafd")
    return drawn


def make_clone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository with only this project's DVC settings."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("DVC_REMOTE_URL", "STORE_URI"):
        monkeypatch.delenv(name, raising=False)
    subprocess.run(["git", "init", "-q", "."], check=True)
    (folder / ".dvc").mkdir()
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)


def commit() -> None:
    subprocess.run(["git", "add", "."], check=True)
    subprocess.run([*GIT, "commit", "-q", "-m", "data"], check=True)


def unchanged(name: str) -> bool:
    return subprocess.run(["git", "diff", "--exit-code", name], capture_output=True).returncode == 0


def push_and_pull_in_a_clone(tmp_path: Path, url: str) -> tuple[str, int]:
    """Push ./data to `url`, then run the pull step in a fresh clone that may not draw."""
    dvc("remote", "modify", "--quiet", "--local", "local", "url", url)
    dvc("push", "--quiet")
    fresh = tmp_path / "fresh"
    subprocess.run(["git", "clone", "-q", str(Path.cwd()), str(fresh)], check=True)
    env = dict(os.environ, DVC_REMOTE_URL=url, DRAW_DEMO="0", PYTHONPATH=str(ROOT))
    command = [
        sys.executable,
        "-m",
        "training.data.pull",
        "--datasets",
        "celeba",
        "--out",
        "r.json",
    ]
    done = subprocess.run(command, cwd=fresh, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tree_md5(fresh / "data")


def test_pin_writes_what_a_clone_pulls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a few faces, through a local remote; drawing again does not change data.dvc."""
    make_clone(tmp_path / "clone", monkeypatch)
    monkeypatch.setattr(faces, "draw", draw_few)
    monkeypatch.setattr(program, "DEMO_SETS", ("celeba",))
    program.main(["pin"])
    pinned = pin("data")
    assert pinned is not None
    assert len((tmp_path / "clone" / "data.pixels").read_text().strip()) == 64
    commit()
    shutil.rmtree("data")
    draw_few(Path("data"), workers=1)
    dvc("add", "--quiet", "data")
    assert unchanged("data.dvc")
    found = push_and_pull_in_a_clone(tmp_path, str(tmp_path / "remote"))
    assert found == (pinned.md5, pinned.nfiles)


def test_a_changed_drawing_changes_the_pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: changing one byte of one file changes data.dvc."""
    make_clone(tmp_path / "clone", monkeypatch)
    draw_few(Path("data"))
    dvc("add", "--quiet", "data")
    commit()
    with Path("data", "celeba", "openface.csv").open("a") as stream:
        stream.write(" ")
    dvc("add", "--quiet", "data")
    assert not unchanged("data.dvc")


@pytest.mark.long  # where DRAWN is not set, it draws 2,880 faces
@pytest.mark.server
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not (ROOT / "data.dvc").is_file(), reason="this checkout has no data.dvc")
def test_the_pin_of_this_checkout_is_drawn_and_pulled(
    tmp_path: Path, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the demo's faces, through a real S3 server; DRAWN is where these sources drew them."""
    make_clone(tmp_path / "clone", monkeypatch)
    for name in ("data.dvc", "data.pixels"):
        shutil.copy(ROOT / name, name)
    commit()
    if drawn := os.environ.get("DRAWN"):
        shutil.copytree(ROOT / drawn, "data")
    else:
        pixels = faces.draw(Path("data")).pixel_hash
        assert Path("data.pixels").read_text().strip() == pixels
    dvc("add", "--quiet", "data")
    assert unchanged("data.dvc")
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    pinned = pin("data")
    assert pinned is not None
    found = push_and_pull_in_a_clone(tmp_path, s3.bucket("demo-data"))
    assert found == (pinned.md5, pinned.nfiles)

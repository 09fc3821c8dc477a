"""The pull step delivers exactly the pinned raw data, whatever their source."""

import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from training.core.temporary import whole_folder
from training.data import archive as tree
from training.data.pull import pull
from training.data.synthetic import faces
from training.storage.dvc import tree_md5
from training.storage.meta import RawSet
from training.storage.s3 import RemoteError
from training.storage.store import Manifest

PIXELS = "f" * 64


class Drawing:
    """A fast replacement of faces.draw: copies `source` and counts its calls."""

    def __init__(self, source: Path) -> None:
        self.source, self.count, self.extra, self.pixels = source, 0, "", PIXELS

    def __call__(self, out: Path) -> faces.Drawn:
        self.count += 1
        with whole_folder(out) as folder:
            shutil.copytree(self.source, folder, dirs_exist_ok=True)
            if self.extra:
                (folder / "celeba" / "000.bin").write_text(self.extra)
        return faces.Drawn(13, self.pixels)


@pytest.fixture
def project(tmp_path: Path, pushed: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout without git and without data: data.dvc, data.pixels, an empty local remote."""
    folder = tmp_path / "project"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc" / "config").write_text(
        "[core]\n    remote = local\n['remote \"local\"']\n    url = ../runs/dvc-remote\n"
    )
    shutil.copy(pushed.clone / "data.dvc", folder)
    (folder / "data.pixels").write_text(f"{PIXELS}\n")
    monkeypatch.chdir(folder)
    for name in ("DVC_REMOTE_URL", "STORE_URI", "DRAW_DEMO"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def drawing(pushed: Any, monkeypatch: pytest.MonkeyPatch) -> Drawing:
    drawing = Drawing(pushed.clone / "data")
    monkeypatch.setattr(faces, "draw", drawing)
    return drawing


def run(datasets: str = "celeba", raw: str = "", revision: str = "", md5: str = "") -> Manifest:
    return pull(
        datasets=datasets, raw=raw, revision=revision, md5=md5, out=Path("runs") / "raw.json"
    )


def contents(manifest: Manifest) -> dict[str, dict[str, bytes]]:
    """Data set -> file name -> bytes, as read by the next steps."""
    trees = tree.open_raw(manifest)
    return {name: {f: tree.read(f) for f in tree.names()} for name, tree in trees.items()}


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def leftovers() -> list[Path]:
    return sorted(Path().rglob(".*.tmp"))


def test_a_verified_copy_is_used(project: Path, pushed: Any, drawing: Drawing) -> None:
    """No remote is accessed, and only the requested data sets are packed."""
    shutil.copytree(pushed.clone / "data", "data")
    manifest = run()
    assert contents(manifest) == {"celeba": files(pushed.clone / "data" / "celeba")}
    assert [entry.name for entry in manifest.entries] == ["celeba-00000.tar"]
    assert json.loads(json.dumps(manifest.meta.to_json())) == {
        "datasets": [{"name": "celeba", "kind": "celeba"}],
        "md5": pushed.facts[0],
        "nfiles": 13,
        "source": "dvc",
        "note": "",
    }
    assert manifest.about == {"revision": "data.dvc"}
    assert Manifest.read(Path("runs") / "raw.json", "raw") == manifest
    assert drawing.count == 0
    assert leftovers() == []


def test_the_remote_fills_the_data_folder(project: Path, pushed: Any, drawing: Drawing) -> None:
    shutil.copytree(pushed.remote, Path("runs") / "dvc-remote")
    manifest = run("celeba,rafd")
    assert contents(manifest)["rafd"] == files(pushed.clone / "data" / "rafd")
    assert tree_md5(Path("data")) == pushed.facts[:2]
    assert drawing.count == 0


def test_the_manifest_is_the_same_for_every_source(
    project: Path, pushed: Any, drawing: Drawing
) -> None:
    """Otherwise a second run would not find the first one's results."""
    drawn = run()
    at_hand = run()
    shutil.rmtree("data")
    shutil.copytree(pushed.remote, Path("runs") / "dvc-remote")
    fetched = run()
    assert drawing.count == 1
    assert drawn.digest == at_hand.digest == fetched.digest


def test_absent_demo_data_are_drawn(project: Path, pushed: Any, drawing: Drawing) -> None:
    assert contents(run())["celeba"] == files(pushed.clone / "data" / "celeba")
    assert tree_md5(Path("data")) == pushed.facts[:2]


def test_of_two_processes_at_once_one_draws_and_the_other_waits(
    project: Path, drawing: Drawing, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def slow(out: Path) -> faces.Drawn:
        time.sleep(0.5)
        return drawing(out)

    monkeypatch.setattr(faces, "draw", slow)
    outputs = [Path("runs", f"{name}.json") for name in "ab"]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda out: pull(datasets="celeba", out=out), outputs)
    assert drawing.count == 1
    assert first.digest == second.digest
    assert "another process fetches data into this folder; waiting" in capsys.readouterr().out


def test_with_drawing_disabled_absence_is_an_error(
    project: Path, drawing: Drawing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRAW_DEMO", "0")
    with pytest.raises(RemoteError) as caught:
        run()
    assert caught.value.code == "missing-remote"
    assert drawing.count == 0
    assert not Path("data").exists()
    assert not (Path("runs") / "raw.json").exists()
    assert leftovers() == []


def test_a_damaged_remote_is_an_error(project: Path, pushed: Any, drawing: Drawing) -> None:
    """Data are drawn only if they are missing."""
    shutil.copytree(pushed.remote, Path("runs") / "dvc-remote")
    victim = next(p for p in (Path("runs") / "dvc-remote").rglob("*") if len(p.name) == 30)
    victim.chmod(0o644)
    victim.write_bytes(b"!")
    with pytest.raises(RemoteError) as caught:
        run()
    assert caught.value.code in ("truncated", "corrupted")
    assert drawing.count == 0


def test_a_server_that_is_down_is_an_error(
    project: Path, drawing: Drawing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_REMOTE_URL", "s3://bucket/prefix")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with pytest.raises(RemoteError) as caught:
        run()
    assert caught.value.code == "unreachable"
    assert drawing.count == 0


def test_another_jpeg_encoder_is_accepted_by_its_pixels(
    project: Path, pushed: Any, drawing: Drawing
) -> None:
    """The manifest notes it, and the next run accepts the same folder without drawing."""
    drawing.extra = "other bytes, same pixels"
    first = run()
    assert first.meta.source == "drawn"
    assert "another JPEG encoder" in first.meta.note
    assert first.meta.md5 == pushed.facts[0]
    assert run().digest == first.digest
    assert drawing.count == 1


def test_other_pixels_are_refused(project: Path, drawing: Drawing) -> None:
    drawing.extra, drawing.pixels = "another face", "0" * 64
    with pytest.raises(ValueError, match="the pixels differ too"):
        run()
    assert not Path("data").exists()
    assert not (Path("runs") / "raw.json").exists()


def test_a_changed_data_folder_is_left_alone(project: Path, pushed: Any, drawing: Drawing) -> None:
    """The pinned data are taken from another source."""
    Path("data").mkdir()
    Path("data", "mine.txt").write_text("precious")
    assert contents(run())["celeba"] == files(pushed.clone / "data" / "celeba")
    assert files(Path("data")) == {"mine.txt": b"precious"}
    assert leftovers() == []


def test_an_earlier_version_comes_from_the_remote_not_from_drawing(
    project: Path, drawing: Drawing
) -> None:
    """Only the version that data.dvc pins can be drawn."""
    with pytest.raises(RemoteError) as caught:
        run(md5="0" * 32 + ".dir")
    assert caught.value.code in ("missing-remote", "missing-object")
    assert drawing.count == 0


def test_the_users_own_folder_is_packed(project: Path, tmp_path: Path) -> None:
    """The kind is given with the name."""
    own = tmp_path / "pets"
    (own / "cat").mkdir(parents=True)
    (own / "cat" / "1.jpg").write_text("x")
    manifest = run("pets:folders", raw=str(own))
    assert contents(manifest) == {"pets": {"cat/1.jpg": b"x"}}
    assert manifest.meta.source == "folder"
    assert manifest.meta.md5 == tree_md5(own)[0]
    assert str(tmp_path) not in (Path("runs") / "raw.json").read_text().replace(str(project), "")


def test_two_folders_of_the_same_bytes_are_both_packed(project: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "raw" / name / "cat").mkdir(parents=True)
        (tmp_path / "raw" / name / "cat" / "1.jpg").write_text("x")
    manifest = run("one:folders,two:folders", raw=str(tmp_path / "raw"))
    assert list(contents(manifest)) == ["one", "two"]
    assert manifest.meta.nfiles == 2


def test_a_folder_that_changed_since_resolve_is_refused(project: Path, tmp_path: Path) -> None:
    own = tmp_path / "pets"
    own.mkdir()
    (own / "1.jpg").write_text("x")
    md5 = tree_md5(own)[0]
    (own / "1.jpg").write_text("y")
    with pytest.raises(ValueError, match="start the run again"):
        run("pets:folders", raw=str(own), md5=md5)


def test_adopted_shards_are_used_unchanged(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "1.jpg").write_text("x")
    shards = tree.pack(tree.Folder(tmp_path / "files"), Path("raw") / "pets", "pets")
    md5, nfiles = tree_md5(Path("raw") / "pets")
    Path("pets.dvc").write_text(
        f"outs:\n- md5: {md5}\n  nfiles: {nfiles}\n  path: raw/pets\nmeta:\n  kind: csv\n"
    )

    def refuse(*arguments: object) -> None:
        raise AssertionError("packed again")

    monkeypatch.setattr(tree, "pack", refuse)
    manifest = run("pets")
    assert manifest.meta.datasets == (RawSet(name="pets", kind="csv"),)
    assert manifest.local("pets-00000.tar").read_bytes() == shards[0].read_bytes()


def test_data_of_two_sources_are_pulled_together(
    project: Path, pushed: Any, tmp_path: Path
) -> None:
    """Adopted CelebA and the demo's RaFD."""
    shutil.copytree(pushed.clone / "data", "data")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "1.jpg").write_text("genuine")
    tree.pack(tree.Folder(tmp_path / "files"), Path("raw") / "celeba", "celeba")
    md5, _ = tree_md5(Path("raw") / "celeba")
    Path("celeba.dvc").write_text(f"outs:\n- md5: {md5}\n  path: raw/celeba\n")
    manifest = run("celeba,rafd")
    assert contents(manifest) == {
        "celeba": {"1.jpg": b"genuine"},
        "rafd": files(pushed.clone / "data" / "rafd"),
    }
    assert manifest.meta.md5 == f"celeba={md5},rafd={pushed.facts[0]}"


@pytest.mark.parametrize("damage", [lambda md5: "zz", lambda md5: f"other={md5}"])
def test_an_invalid_version_text_is_refused(
    project: Path, pushed: Any, damage: Callable[[str], str]
) -> None:
    with pytest.raises(ValueError, match="md5="):
        run(md5=damage(pushed.facts[0]))

"""`release gc`: what it removes, and what it never removes."""

import os
import shutil
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from forks import Forks
from pipelines.local.cache import ContentCache, digest
from pipelines.search.trial import Stage
from releases import flip_byte, register, train
from runs import go
from toydata import SETS, dataset_of
from training.core.files import read_json, sha256_file, write_json
from training.data import forgotten
from training.engine import checkpoint
from training.inference.weights import seal
from training.registry import lineage
from training.registry import versions as registry
from training.retention import unneeded
from training.storage.store import Manifest, Store, open_store
from training.tracking import client as tracking
from training.tracking import parents, runners

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # MLflow's own
    pytest.mark.filterwarnings("ignore:.*type hints? :UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow leaves SQLite pools open
]


def backdate(root: Path, days: int = 40) -> None:
    """Make everything as old as if it was used last so many days ago."""
    then = time.time() - days * unneeded.DAY
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            os.utime(path, (then, then))


@pytest.fixture
def old(release_folder: Path, binary: Path) -> Path:
    """A registered model, and one that is not, both forty days old."""
    register(binary, 0)
    train(binary, 1)
    backdate(release_folder)
    return release_folder


def stored(manifest: Path) -> set[str]:
    return {entry.sha256 for entry in Manifest.read(manifest).entries}


def collect(days: float = 30) -> list[unneeded.Item]:
    """Remove what is found."""
    return unneeded.clear(open_store(), days)[0]


def output(name: str, manifest: Path, days: int = 40) -> Path:
    """A step's output, a manifest, in an old pipeline run."""
    path = Path("runs/kfp").absolute() / name / "out"
    path.parent.mkdir(parents=True)
    shutil.copy(manifest, path)
    backdate(Path("runs/kfp") / name.partition("/")[0], days)
    return path


def cached(key: str, path: Path) -> Path:
    """An old entry of the step cache with that output."""
    row = {"path": str(path), "sha256": digest(path), "manifest": True}
    file = Path("runs/cache") / f"{key}.json"
    write_json(file, {"outputs": {}, "files": [row]})
    backdate(file)
    return file


def training(name: str, model: Path, images: int = 320, init: str = "") -> Path:
    """The old folder of a training, with a checkpoint of a model's files."""
    folder = Path("runs/train").absolute() / name
    path = folder / "checkpoints" / f"{images:012d}"
    shutil.copytree(model, path)
    seal(path)
    write_json(folder / "config.json", {"init": init})
    backdate(folder)
    return folder


def unpublished(old: Path) -> Path:
    """The files of a model whose weights the store does not have."""
    folder = shutil.copytree(old / "model-1", old / "unpublished")
    flip_byte(folder / "ema" / "G.safetensors")
    return folder


def test_a_version_keeps_all_that_its_verification_and_its_ancestor_need(old: Path) -> None:
    kept, other = stored(old / "model-0.json"), stored(old / "model-1.json")
    removed = {Path(item.place).name for item in collect()}
    assert other - kept <= removed
    assert not removed & (kept | stored(old / "binary.json"))
    lineage.verify("stargan/1")
    assert collect() == []


def test_a_removal_that_failed_can_be_repeated(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each of its calls: the version is there as long as its files are."""
    number = registry.versions("stargan")[0].version
    files = registry.place(registry.version(f"stargan/{number}"))
    assert files is not None
    client = tracking.client()
    for call in ("delete_logged_model", "delete_model_version"):
        with monkeypatch.context() as patch:
            patch.setattr(type(client), call, failing)
            with pytest.raises(tracking.mlflow().exceptions.MlflowException, match="503"):
                registry.remove("stargan", number)
        assert [one.version for one in registry.versions("stargan")] == [number]
    registry.remove("stargan", number)
    assert not registry.versions("stargan")
    assert not files.exists()


def failing(*_: Any, **__: Any) -> None:
    raise tracking.mlflow().exceptions.MlflowException("503")


def test_people_who_are_to_be_forgotten_stay_forgotten(old: Path) -> None:
    """However old their list is."""
    store = open_store()
    entry = forgotten.add("celeba", [forgotten.pseudonym("celeba", "7")], store)
    backdate(old)
    collect()
    assert forgotten.current("celeba", store) == entry
    assert forgotten.read(entry, store)


def test_a_version_that_cannot_be_read_is_not_taken_for_one_that_needs_nothing(old: Path) -> None:
    folder = registry.place(registry.versions("stargan")[0])
    assert folder is not None
    (folder / lineage.RECORD).unlink()
    with pytest.raises(ValueError, match=r"nothing is removed: stargan/1 does not say") as caught:
        collect()
    assert "release verify stargan/1" in str(caught.value)
    assert "delete the version" in str(caught.value)


def test_what_is_used_again_stays(old: Path) -> None:
    """By a process that stores the same bytes, between the listing and the removal, too."""
    store, weights = open_store(), old / "model-1" / "nets" / "G.safetensors"
    listed = unneeded.find(store, 30)
    entry = store.put(weights)
    (item,) = [one for one in listed if one.place.endswith(entry.sha256)]
    assert not unneeded.remove(store, item)
    assert store.local(entry)
    assert item.place not in {one.place for one in unneeded.find(store, 30)}


def test_the_cache_keeps_what_it_lists_as_long_as_it_is_used(old: Path) -> None:
    file = cached("key", output("stargan-1/train", old / "model-1.json"))
    os.utime(file)
    assert collect() == []
    backdate(file)
    kinds = {item.kind for item in collect()}
    assert kinds == {"cache entry", "kfp", "stored file"}
    assert not Path("runs/kfp/stargan-1").exists()


def test_a_run_that_takes_an_entry_from_the_cache_meanwhile_finds_all_of_it(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hit comes after the listing, before the entry is removed; another old entry goes."""
    out = output("stargan-1/train", old / "model-1.json")
    used, other = cached("used", out), cached("other", output("stargan-2/train", out))
    hits = []

    def remove(store: Store, item: unneeded.Item) -> bool:
        if not hits:
            hits.append(ContentCache("runs/cache").get("used"))
        return really(store, item)

    really = unneeded.remove
    monkeypatch.setattr(unneeded, "remove", remove)
    removed, kept = unneeded.clear(open_store(), 30)
    assert hits == [{}]
    assert [item.place for item in kept] == [str(used.absolute())]
    assert {item.place for item in removed} == {
        str(other.absolute()), str(Path("runs/kfp/stargan-2").absolute())
    }  # fmt: skip
    assert Manifest.read(out).intact()


def test_an_entry_whose_step_is_computed_anew_is_not_removed_and_ends_no_removal(
    old: Path,
) -> None:
    out = output("stargan-1/train", old / "model-1.json")
    with FileLock(cached("key", out).with_suffix(".lock")):
        removed, kept = unneeded.clear(open_store(), 30)
    assert (removed, [item.kind for item in kept]) == ([], ["cache entry"])
    assert Manifest.read(out).intact()


def test_checkpoints_stay_while_a_training_has_them_or_started_from_them(old: Path) -> None:
    """Also the model that that one started from; in whatever order their names are."""
    trainings = old / "runs" / "train"
    for name in ("0-first", "1-parent", "2-child", "done", "running"):
        write_json(trainings / name / "config.json", {"init": ""})
        (trainings / name / ".lock").write_text("")
    write_json(trainings / "1-parent" / "config.json", {"init": str(trainings / "0-first")})
    for name in ("0-first", "1-parent", "done", "running"):
        backdate(trainings / name)
    write_json(trainings / "2-child" / "config.json", {"init": str(trainings / "1-parent")})
    with FileLock(trainings / "running" / ".lock"):
        collect()
    left = {path.name for path in trainings.iterdir()}
    assert left == {"running", "0-first", "1-parent", "2-child"}


def test_a_training_whose_newest_weights_are_not_in_the_store_is_never_removed(old: Path) -> None:
    """It was stopped: its checkpoints are their only copy. Of a finished one the store has them."""
    only = unpublished(old)
    done = old / "model-1"
    for name, models in {"done": (only, done), "stopped": (done, only)}.items():
        for images, model in enumerate(models, 1):
            folder = training(name, model, images)
    removed, kept = unneeded.clear(open_store(), 30)
    assert [item.kind for item in kept] == ["unfinished"]
    assert kept[0].size == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    assert kept[0].why.endswith(f"to delete it: rm -r -- {folder}")
    assert [item.place for item in removed if item.kind == "train"] == [str(folder.parent / "done")]
    assert [path.name for path in folder.parent.iterdir()] == ["stopped"]


def test_a_real_training_is_removed_and_one_that_was_killed_before_its_end_is_not(
    old: Path, binary: Path
) -> None:
    done, killed = (old / "runs" / "train" / name for name in ("done", "killed"))
    go(binary, done)
    shutil.copytree(done, killed)
    shutil.rmtree(checkpoint.saved(killed / "checkpoints")[0])
    backdate(old)
    removed, kept = unneeded.clear(open_store(), 30)
    assert str(done) in {item.place for item in removed}
    assert [(item.kind, item.place) for item in kept] == [("unfinished", str(killed))]
    assert not done.exists()
    assert checkpoint.latest(killed / "checkpoints")


def test_what_an_unfinished_training_started_from_stays(old: Path) -> None:
    start = output("stargan-1/train", old / "model-1.json")
    training("stopped", unpublished(old), init=str(start))
    assert collect() == []
    assert Manifest.read(start).intact()


@pytest.mark.parametrize("change", ["a new copy", "a renewed one"])
def test_copies_of_a_training_that_went_on_meanwhile_all_stay(old: Path, change: str) -> None:
    store = open_store()
    root = Path(store.uri.removeprefix("file://")) / "checkpoints" / "run"
    shutil.copytree(old / "model-1", root / "000000000320-1")
    seal(root / "000000000320-1")
    for name in ("log/0", "log/1"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(name)
    backdate(root)
    (item,) = [one for one in unneeded.find(store, 30) if one.kind == unneeded.CHECKPOINTS]
    (root / ("log/2" if change == "a new copy" else "log/1")).write_text("x")
    assert not unneeded.remove(store, item)
    assert {"checkpoints/run/log/0", "checkpoints/run/000000000320-1/config.json"} <= store.listing(
        "checkpoints/run/"
    ).keys()
    backdate(root)
    (item,) = [one for one in unneeded.find(store, 30) if one.kind == unneeded.CHECKPOINTS]
    assert unneeded.remove(store, item)


def test_copies_of_a_training_whose_newest_weights_are_not_in_the_store_stay(old: Path) -> None:
    store = open_store()
    root = Path(store.uri.removeprefix("file://")) / "checkpoints" / "run"
    shutil.copytree(old / "model-1", root / "000000000320-2")
    shutil.copytree(unpublished(old), root / "000000000320-10")
    for copy in root.iterdir():
        seal(copy)
    backdate(root)
    assert not [item for item in collect() if item.kind == unneeded.CHECKPOINTS]
    (item,) = [one for one in unneeded.find(store, 30) if one.place.endswith("checkpoints/run")]
    assert (item.kind, (root / "000000000320-10").exists()) == ("unfinished", True)
    assert item.why.endswith(f"to delete it: rm -r -- {root}")


def test_the_model_of_an_old_run_that_a_recent_training_started_from_stays(old: Path) -> None:
    """And the checkpoints that that model was started from, which only its settings name."""
    checkpoints = old / "runs" / "train" / "0" / "checkpoints" / "000000000320"
    shutil.copytree(old / "model-1", checkpoints)
    write_json(checkpoints / "config.json", {"init": ""})
    seal(checkpoints)
    config = old / "model-1" / "config.json"
    write_json(config, {**read_json(config), "init": f"by-name:{checkpoints}@sha256:{'0' * 64}"})
    made = Manifest.read(old / "model-1.json")
    weights = [one for one in made.entries if one.name != "config.json"]
    Manifest.build("model", {"config.json": config}, made.meta, keep=weights).write(
        old / "model-2.json"
    )
    backdate(old)
    out = output("stargan-1/train", old / "model-2.json")
    init = f"{out}@sha256:{Manifest.read(out).digest}"
    write_json(old / "runs" / "train" / "1" / "config.json", {"init": init})
    collect()
    assert Manifest.read(out).intact()
    assert checkpoints.exists()
    backdate(old / "runs" / "train" / "1")
    collect()
    assert not out.exists()
    assert not checkpoints.exists()


def test_what_the_trials_of_a_search_read_stays_while_it_goes_on(old: Path) -> None:
    """They leave no note of their own, and do not look into the cache."""
    data = output("stargan-1/unify-labels", old / "binary.json")
    judge = output("stargan-2/judge", old / "model-1.json")
    stage = Stage(str(data), str(judge), "stargan", "demo", "", "", "", "", "",
                  str(old / "runs" / "search" / "key" / "trial-0000" / "seed-0"))  # fmt: skip
    stage.write()
    assert collect() == []
    assert Manifest.read(judge).intact()
    backdate(old / "runs" / "search")
    assert {item.kind for item in collect()} == {"kfp", "stored file"}
    assert stage.path.exists()


def test_what_a_run_that_goes_on_may_have_read_stays(old: Path) -> None:
    """However long it takes: nothing is removed that was used since the day before its start.

    Each of its steps writes the note anew.
    """
    runner = f"another-host pid:[1] 7 {time.time() - 41 * unneeded.DAY:.2f}"
    parents.Note(old / "runs" / "parents" / "run.json", "e", runner, "u").write()
    assert unneeded.find(open_store(), 30) == []
    assert unneeded.find(open_store(), 43) == []
    parents.Note(old / "runs" / "parents" / "run.json", "e", runners.this(), "u").write()
    assert unneeded.find(open_store(), 30)


def test_the_command_lists_first_and_removes_with_yes(old: Path, forks: Forks) -> None:
    command = [sys.executable, "-m", "training.release", "gc"]
    code, output = forks.run(command, old)
    assert code == 0, output
    assert "nothing was removed; --yes removes it" in output
    assert "no version, judge, cache entry or recent run lists it" in output
    before = output.count("stored file")
    code, output = forks.run([*command, "--yes"], old)
    assert f"removed {before - 1} of {before - 1}" in output
    assert forks.run(command, old)[1].startswith("nothing to remove")
    code, output = forks.run(command, old, {**os.environ, "MLFLOW_TRACKING_URI": "off"})
    assert (code, "MLFLOW_TRACKING_URI=off" in output) == (2, True)


def test_the_command_says_how_to_delete_an_unfinished_training(old: Path, forks: Forks) -> None:
    folder = training("stopped", unpublished(old))
    command = [sys.executable, "-m", "training.release", "gc"]
    code, output = forks.run(command, old)
    assert code == 0, output
    assert "nothing was removed; --yes removes it, but for unfinished trainings" in output
    code, output = forks.run([*command, "--yes"], old)
    assert (code, folder.exists()) == (0, True)
    code, output = forks.run(command, old)
    assert f"the only weights; to delete it: rm -r -- {folder}\n" in output
    assert "nothing to remove: all else was used within 30 days or is needed" in output


@pytest.mark.server
def test_the_same_on_s3(
    s3: Any, release_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a real server, whose times cannot be set: everything counts as old."""
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    bucket = f"gc-{uuid.uuid4().hex[:8]}"
    s3.bucket(bucket)
    monkeypatch.setenv("STORE_URI", f"s3://{bucket}/store")
    monkeypatch.setenv("NODE_CACHE", str(tmp_path / "node"))
    data = dataset_of(tmp_path / "binary.json", SETS["binary"])
    register(data, 0)
    other = stored(train(data, 1)) - stored(tmp_path / "model-0.json")
    store = open_store()
    model = tmp_path / "model-0"
    seal(model)
    copies = ("run/0001-1/config.json", "run/0001-1/manifest.json", "stopped/0001-1/config.json")
    for name in copies:
        source = model / name.rpartition("/")[2]
        store.bucket.upload(f"checkpoints/{name}", source, sha256_file(source))  # type: ignore[attr-defined]
    store.refer("refusals/run/key", "row 3: 2")
    time.sleep(1.1)
    removed = collect(0.0)
    assert {Path(one.place).name for one in removed if one.kind == "stored file"} == other
    assert {one.kind for one in removed} == {"stored file", "checkpoints", "reference"}
    lineage.verify("stargan/1")
    assert store.reference("refusals/run/key") is None
    assert collect(0.0) == []
    assert [*store.listing("checkpoints/")] == ["checkpoints/stopped/0001-1/config.json"]

"""Names are resolved to versions, hashes and configurations before any long step."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import training.core.provenance
from training.core.provenance import code_hash, git_state, lock_hash
from training.data.labels import LabelSet, LabelSpace
from training.data.versions import data_version, find_pin, short_md5, split_md5
from training.models import configure
from training.resolve import Resolved, resolve
from training.storage.dvc import tree_md5
from training.storage.meta import ModelMeta
from training.storage.s3 import RemoteError
from training.storage.store import Manifest

ONE, TWO, OWN = (f"{digit * 32}.dir" for digit in "12a")
COMMIT = ["-c", "user.email=a@b", "-c", "user.name=t", "commit", "-q", "--allow-empty", "-m", "x"]


def pin_text(md5: str, path: str = "data", kind: str = "") -> str:
    meta = f"meta:\n  kind: {kind}\n" if kind else ""
    return f"outs:\n- md5: {md5}\n  size: 10\n  nfiles: 2\n  hash: md5\n  path: {path}\n{meta}"


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose tags v1 and 1234567 pin ONE, and whose working tree pins TWO."""
    folder = tmp_path / "clone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    git("init", "-q", ".")
    (folder / "data.dvc").write_text(pin_text(ONE))
    git("add", "data.dvc")
    git(*COMMIT)
    git("tag", "v1")
    git("tag", "1234567")
    (folder / "data.dvc").write_text(pin_text(TWO))
    return folder


def run(folder: Path, **changes: Any) -> Resolved:
    values: dict[str, Any] = {
        "datasets": "", "raw": "", "revision": "", "model": "stargan", "preset": "smoke",
        "overrides": "", **changes,
    }  # fmt: skip
    return resolve(**values, out=folder / "resolved.json")


def test_without_a_revision_the_current_file_is_used(clone: Path) -> None:
    found = run(clone)
    assert (found.data_md5, found.revision, found.datasets) == (TWO, "data.dvc", "celeba:celeba")


def test_a_model_is_registered_under_its_own_name_unless_one_is_given(clone: Path) -> None:
    assert run(clone).name == "stargan"
    assert run(clone, model="stgan").name == "stgan"
    assert run(clone, model="stgan", name="hair").name == "hair"


@pytest.mark.parametrize(
    ("launcher", "accelerators", "own"),
    [("local", 0, ""), ("local", 4, "4"), ("trainjob", 0, ""), ("trainjob", 4, "")],
)
def test_the_steps_pod_gets_accelerators_only_if_it_trains(
    clone: Path, launcher: str, accelerators: int, own: str
) -> None:
    """A pod that only starts a TrainJob would keep them from its pods."""
    requested = {"launcher": launcher, "accelerators": accelerators}
    assert run(clone, requested=requested).accelerator_count == own


@pytest.mark.parametrize(
    ("name", "found"),
    [("a/b", "/"), ("a:1@b", ": @"), ("faces.v2", "[.]"), ("50%", "%"), ("it's mine", "'")],
)
def test_an_invalid_registered_name_is_refused_before_training(
    clone: Path, name: str, found: str
) -> None:
    with pytest.raises(
        ValueError,
        match=f"name={name}: {found} cannot be in a registered model's name; write name=",
    ):
        run(clone, name=name)


@pytest.mark.parametrize("revision", ["v1", "1234567", "HEAD"])
def test_a_git_revision_gives_the_data_of_that_commit(clone: Path, revision: str) -> None:
    """One that looks like a number too."""
    found = run(clone, revision=revision)
    assert (found.data_md5, found.revision) == (ONE, git("rev-parse", "HEAD").strip())


def test_a_short_commit_is_accepted(clone: Path) -> None:
    assert run(clone, revision=git("rev-parse", "--short", "HEAD").strip()).data_md5 == ONE


@pytest.mark.parametrize("revision", ["v9", "0000000", "--help", "v1:data.dvc", " "])
def test_an_unknown_revision_is_refused(clone: Path, revision: str) -> None:
    with pytest.raises(RemoteError, match="neither a commit, tag or branch") as caught:
        run(clone, revision=revision)
    assert caught.value.code == "unknown-revision"


def test_a_revision_without_git_is_refused_and_an_md5_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that has no repository."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.dvc").write_text(pin_text(ONE))
    with pytest.raises(RemoteError, match="not a git repository"):
        run(tmp_path, revision="v1")
    assert run(tmp_path, revision=TWO).data_md5 == TWO
    assert run(tmp_path, revision=TWO.removesuffix(".dir")).data_md5 == TWO


def test_adopted_data_take_precedence_over_the_demos(clone: Path) -> None:
    """And the demo's other data set still comes from data.dvc."""
    (clone / "celeba.dvc").write_text(pin_text(OWN, "raw/celeba", "celeba"))
    assert run(clone).data_md5 == OWN
    both = run(clone, datasets="celeba,rafd")
    assert both.data_md5 == f"celeba={OWN},rafd={TWO}"
    assert both.revision == "celeba.dvc,data.dvc"


@pytest.mark.parametrize(
    ("preset", "own", "said"),
    [("celeba-128", False, True), ("celeba-128", True, False), ("demo", False, False)],
)
def test_drawn_faces_in_place_of_photographs_are_said(
    clone: Path, preset: str, own: bool, said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """A preset of the papers trains for days."""
    if own:
        (clone / "celeba.dvc").write_text(pin_text(OWN, "raw/celeba", "celeba"))
    run(clone, preset=preset)
    line = "celeba: there is no celeba.dvc, so these are the demo's DRAWN faces; for photographs"
    assert (line in capsys.readouterr().out) == said


def test_both_demo_sets_have_one_version(clone: Path) -> None:
    found = run(clone, datasets="celeba,rafd")
    assert (found.data_md5, found.datasets) == (TWO, "celeba:celeba,rafd:rafd")


def test_the_versions_of_several_sources_are_a_revision_themselves(clone: Path) -> None:
    text = f"celeba={OWN},rafd={TWO}"
    assert run(clone, datasets="rafd,celeba", revision=text).data_md5 == f"rafd={TWO},celeba={OWN}"
    assert split_md5(text, ["celeba", "rafd"]) == {"celeba": OWN, "rafd": TWO}
    with pytest.raises(ValueError, match="name=md5 is needed for each of celeba"):
        run(clone, revision=text)


def test_mlflow_has_room_for_the_version_of_several_sources() -> None:
    assert short_md5(ONE) == ONE
    assert len(short_md5(f"celeba={OWN},rafd={TWO}")) <= 36


def test_an_adopted_set_has_its_kind(clone: Path) -> None:
    (clone / "pets.dvc").write_text(pin_text(OWN, "raw/pets", "folders"))
    assert run(clone, datasets="pets").datasets == "pets:folders"


def test_without_dvc_files_the_projects_pin_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an image, where steps work in a folder without `.dvc` files."""
    monkeypatch.chdir(tmp_path)
    pinned = yaml.safe_load((Path(__file__).parents[2] / "data.dvc").read_text())["outs"][0]["md5"]
    assert run(tmp_path).data_md5 == pinned


def test_a_set_that_nothing_pins_is_refused(clone: Path) -> None:
    with pytest.raises(ValueError, match="adopt pets PATH, or give raw=PATH"):
        run(clone, datasets="pets:folders")


@pytest.mark.parametrize("text", ["", "outs: []", "outs:\n- path: data", "<html>", "- a"])
def test_a_broken_pin_is_named(clone: Path, text: str) -> None:
    (clone / "data.dvc").write_text(text)
    with pytest.raises(ValueError, match=r"data\.dvc: not a \.dvc file"):
        run(clone)


def test_the_users_own_folder_is_hashed(clone: Path, tmp_path: Path) -> None:
    """Given itself, or as one of several below a root."""
    raw = tmp_path / "raw"
    for name in ("celeba", "rafd"):
        (raw / name).mkdir(parents=True)
        (raw / name / "x").write_text(name)
    celeba, rafd = (tree_md5(raw / name)[0] for name in ("celeba", "rafd"))
    assert run(clone, raw=str(raw)).data_md5 == celeba
    assert run(clone, raw=str(raw / "celeba")).data_md5 == celeba
    both = data_version([("celeba", "celeba"), ("rafd", "rafd")], str(raw), "")
    assert both[:2] == (f"celeba={celeba},rafd={rafd}", "folder")
    with pytest.raises(ValueError, match="'pets': give its kind"):
        run(clone, raw=str(raw / "celeba"), datasets="pets")
    with pytest.raises(ValueError, match="no folder"):
        run(clone, raw=str(raw / "none"))


def test_a_path_may_contain_any_character(tmp_path: Path) -> None:
    """`#` and `?` end a path where a URI parser reads it: another folder would be taken."""
    from training.data.versions import raw_folder
    from training.storage.store import open_store

    for name in ("set#1", "set?a", "a b", "100%25"):
        (tmp_path / name).mkdir()
        assert raw_folder(str(tmp_path / name), "mine", True) == tmp_path / name
        assert raw_folder(f"file://{tmp_path / name}", "mine", True) == tmp_path / name
        assert open_store(f"file://{tmp_path / name}").root == tmp_path / name


def test_the_judge_hash_depends_only_on_its_settings_and_data(clone: Path) -> None:
    """Not on the length of a run, but on the data, their crops and the judge's settings."""
    name = run(clone).judge_hash
    assert run(clone, overrides="train.images=1600;lambda_rec=5").judge_hash == name
    assert run(clone, revision="v1").judge_hash != name
    assert run(clone, overrides="data.size=32").judge_hash != name
    assert run(clone, overrides="data.resize=fast").judge_hash != name
    assert run(clone, overrides="data.resize=exact").judge_hash == name
    assert run(clone, overrides="judge.images=2000").judge_hash != name


def test_the_file_lists_the_parameters_of_the_steps(clone: Path) -> None:
    found = run(clone, overrides="seed=7")
    written = json.loads((clone / "resolved.json").read_text())
    assert {name: written[name] for name in Resolved._fields} == found._asdict()
    assert json.loads(found.train_config)["seed"] == 7


@pytest.mark.parametrize(
    "name",
    ["training/resolve.py", "training/rendering/templates/base.html.j2", "components/pull.py",
     "requirements.lock"],
)  # fmt: skip
def test_the_code_hash_changes_with_one_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """In any source of the three packages, and in the lock."""
    root = Path(training.core.provenance.__file__).parents[2]
    for package in ("training", "components", "pipelines"):
        shutil.copytree(root / package, tmp_path / package)
    shutil.copy(root / "requirements.lock", tmp_path)
    expected = code_hash()
    monkeypatch.setattr(training.core.provenance, "ROOT", tmp_path)
    assert code_hash() == expected
    with (tmp_path / name).open("a") as stream:
        stream.write("#")
    assert code_hash() != expected


def test_without_a_lock_the_installed_versions_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version of one package changes the hash; the order of packages does not."""
    installed = [SimpleNamespace(name="torch", version="2"), SimpleNamespace(name="a", version="1")]
    monkeypatch.setattr("importlib.metadata.distributions", lambda: installed)
    with_lock = lock_hash()
    monkeypatch.setattr(training.core.provenance, "ROOT", tmp_path)
    first = lock_hash()
    assert first != with_lock
    installed.reverse()
    assert lock_hash() == first
    installed[0].version = "1.1"
    assert lock_hash() != first


def test_the_path_of_a_model_is_pinned_by_its_content(clone: Path) -> None:
    """So that overwritten weights miss the cache and are refused by a run already started."""
    from training.data.labels import LabelSet, LabelSpace
    from training.inference.weights import CheckpointError
    from training.models.configure import PRESETS
    from training.registry.references import model_files
    from training.storage.meta import ModelMeta
    from training.storage.store import Manifest

    def write(text: str) -> None:
        (clone / "G.safetensors").write_text(text)
        known = configure.resolve("stargan", "smoke")
        facts = {"name": "stargan", "size": known.data.size, "model": asdict(known.model)}
        (clone / "config.json").write_text(json.dumps(facts))
        labels = LabelSet("celeba", "binary", PRESETS["stargan", "smoke"].data.attributes)
        (clone / "label_space.json").write_text(json.dumps(LabelSpace((labels,)).to_json()))
        names = ("nets/G.safetensors", "config.json", "label_space.json")
        files = {name: clone / Path(name).name for name in names}
        meta = ModelMeta(model="", preset="", seed=0, images=0, dataset="", mlflow_run="")
        Manifest.build("model", files, meta).write(path)

    path = clone / "model.json"
    write("one")
    first = run(clone, init="model.json").init
    assert first == run(clone, init="model.json").init
    assert model_files(first)["nets/G.safetensors"].read_text() == "one"
    write("two")
    assert run(clone, init="model.json").init != first
    with pytest.raises(CheckpointError, match="changed since this run started"):
        model_files(first)


def test_other_widths_of_init_are_refused_before_the_run(clone: Path) -> None:
    """With the settings that differ, and not after the judge's training."""
    labels = LabelSet("celeba", "binary", configure.resolve("stargan", "smoke").data.attributes)
    config = {"name": "stargan", "size": 64, "model": {"conv_dim": 8}}
    (clone / "config.json").write_text(json.dumps(config))
    (clone / "label_space.json").write_text(json.dumps(LabelSpace((labels,)).to_json()))
    (clone / "G.safetensors").write_text("never read")
    names = ("nets/G.safetensors", "config.json", "label_space.json")
    meta = ModelMeta(model="", preset="", seed=0, images=0, dataset="", mlflow_run="")
    files = {name: clone / Path(name).name for name in names}
    Manifest.build("model", files, meta).write(clone / "model.json")
    with pytest.raises(ValueError, match=r"its network G has other .*conv_dim: 8 -> .*set them"):
        run(clone, init="model.json")


def test_an_image_reports_its_own_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SOURCE_REVISION", "abc-dirty")
    assert git_state() == ("abc", True)
    monkeypatch.setenv("SOURCE_REVISION", "abc")
    assert git_state() == ("abc", False)
    monkeypatch.delenv("SOURCE_REVISION")
    monkeypatch.setattr(training.core.provenance, "ROOT", tmp_path)
    (tmp_path / "training").mkdir()
    assert git_state() == ("unknown", True)


def test_a_repository_of_another_user_is_said_with_gits_own_fix(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commit of the lineage is unknown then. The command that is printed helps."""
    monkeypatch.delenv("SOURCE_REVISION", raising=False)
    monkeypatch.setattr(training.core.provenance, "ROOT", clone)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own, for its tests
    monkeypatch.setenv("HOME", str(clone.parent))
    run(clone)
    line = next(n for n in capsys.readouterr().out.splitlines() if "recorded as unknown" in n)
    assert f"{clone} belongs to another user" in line
    with pytest.raises(RemoteError, match="belongs to another user; to use it, run git config"):
        run(clone, revision="v1")
    subprocess.run(line.partition("to use it, run ")[2], shell=True, check=True)
    run(clone)
    assert "unknown" not in capsys.readouterr().out
    assert (
        json.loads((clone / "resolved.json").read_text())["commit"]
        == git("rev-parse", "HEAD").strip()
    )


def test_the_git_state_is_the_working_trees(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_REVISION", raising=False)
    monkeypatch.setattr(training.core.provenance, "ROOT", clone)
    commit = git("rev-parse", "HEAD").strip()
    assert git_state() == (commit, True)
    git("checkout", "-q", "data.dvc")
    assert git_state() == (commit, False)


def test_a_missing_set_at_a_commit_is_named(clone: Path) -> None:
    with pytest.raises(ValueError, match=r"no pets\.dvc at "):
        find_pin("pets", git("rev-parse", "HEAD").strip())


def test_it_imports_no_slow_module() -> None:
    """It runs before every pipeline run: neither MLflow nor DVC nor boto3."""
    heavy = "{'mlflow', 'dvc', 'boto3', 'great_expectations', 'pandas'}"
    code = f"import sys, training.resolve; print({heavy} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"

"""Forgetting people: the next data version, the earlier ones, and what has seen them."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import releases
from servers import MlflowServer
from toydata import pictures
from training.core.config import DataConfig, to_json
from training.core.files import read_json, write_json
from training.data import forgotten
from training.data.__main__ import main
from training.data.preprocess import preprocess, preprocess_part
from training.data.pull import pull
from training.data.unify import unify
from training.data.validate import validate
from training.evaluation.cache import ScoreCache
from training.evaluation.comparison import page as comparison
from training.evaluation.comparison.runs import ComparedRun
from training.evaluation.records import Scores
from training.registry import versions as registry
from training.resolve import resolve
from training.storage.store import Manifest, S3Store, open_store
from training.tracking import client as tracking
from training.tracking.tracker import Tracker

CONFIG = DataConfig(
    datasets=("mine:csv",), size=16, attributes=("Hat", "Male"), split="identity", test_share=0.3,
    shard_rows=16,
)  # fmt: skip
SETTINGS = to_json(CONFIG)
# Of the data version below, made before people could be forgotten.
GOLDEN = {
    "raw": "f4dc54d3bc763ac1a6e2137d7845b08d22da4e6a516be4cffb1a4718902148d8",
    "images": "f6c1cb68f054f6e4c22a1e683be4baf8d5945039d1efb3b8aa7831ee53764e5b",
    "dataset": "85621cb7e77165ced075f4febc6b1206296fb8e82550992484c37d35eedf6a90",
}


def version(name: str, **steps: bool) -> dict[str, Manifest]:
    """Run the data steps on ./mine as a pipeline run called `name`; gives their manifests."""
    folder = Path("runs/kfp") / name
    paths = {step: folder / step / "out" for step in ("pull", "preprocess", "unify-labels")}
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    raw = pull(datasets="mine:csv", raw="mine", out=paths["pull"])
    if steps.get("parts"):
        for part in range(3):
            preprocess_part(raw=paths["pull"], data_config=SETTINGS, part=part, parts=3)
    images = preprocess(raw=paths["pull"], data_config=SETTINGS, out=paths["preprocess"])
    data = unify(images=paths["preprocess"], data_config=SETTINGS, out=paths["unify-labels"])
    return {"raw": raw, "images": images, "dataset": data}


@pytest.fixture
def mine(store: Path, tmp_path: Path) -> Path:
    """A folder of 3 pictures of each of 20 people, 100 to 119, in the working folder."""
    return pictures(tmp_path / "mine", 100, 20)


def rows(manifest: Manifest, name: str) -> pd.DataFrame:
    return pd.read_parquet(manifest.local(name))


def test_without_forgotten_people_every_digest_is_the_golden_one(mine: Path) -> None:
    assert {kind: one.digest for kind, one in version("a").items()} == GOLDEN


def test_the_next_data_version_has_none_of_them_and_the_earlier_one_is_unchanged(
    mine: Path, tmp_path: Path
) -> None:
    first = version("first")
    before = rows(first["dataset"], "labels.parquet")
    main(["forget", "103", "117"])
    second = version("second", parts=True)
    for name in ("labels.parquet", "mine.parquet"):
        left = rows(second["dataset"], name)
        assert not set(left["identity"]) & {"103", "117"}
        assert len(left) == 54
        assert not left["file"].str.contains("103|117").any()
    after = rows(second["dataset"], "labels.parquet")
    others = before[~before["identity"].isin(["103", "117"])]
    assert after["split"].tolist() == others["split"].tolist()
    assert second["images"].meta.datasets[0].dropped == {"forgotten people": 6}
    assert (second["images"].meta.datasets[0].images, second["images"].meta.datasets[0].kept) == (
        60, 54,
    )  # fmt: skip
    assert second["dataset"].entry("mine.forgotten.json").sha256
    # the earlier version, made again from its own raw manifest
    again = preprocess(
        raw=Path("runs/kfp/first/pull/out"), data_config=SETTINGS, out=tmp_path / "again"
    )
    assert again.digest == first["images"].digest
    assert first["dataset"].intact()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Great Expectations
def test_validation_leaves_them_out_and_says_how_many_images_that_are(
    mine: Path, tmp_path: Path
) -> None:
    raw = version("first")["raw"]
    (mine / "103-0.png").write_bytes(b"no picture")
    forgotten.add("mine", [forgotten.pseudonym("mine", "103")], open_store())
    assert not forgotten.kept(raw)
    pull(datasets="mine:csv", raw="mine", out=tmp_path / "raw.json")
    metrics, report = tmp_path / "metrics.json", tmp_path / "report.html"
    validate(tmp_path / "raw.json", data_config=SETTINGS, report=report, metrics=metrics)
    numbers = json.loads(metrics.read_text())
    assert (numbers["mine_images"], numbers["mine_people"], numbers["mine_forgotten"]) == (
        57, 19, 3,
    )  # fmt: skip
    assert "3 images of people to be forgotten left out" in report.read_text()


def test_parts_a_resumed_run_and_another_machine_make_the_same_version(mine: Path) -> None:
    version("first")
    main(["forget", "110"])
    whole, parts = version("second"), version("third", parts=True)
    assert {k: m.digest for k, m in whole.items()} == {k: m.digest for k, m in parts.items()}


def test_the_same_command_again_changes_nothing(
    mine: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version("first")
    main(["forget", "110"])
    first = json.loads(Path("runs/forgotten.json").read_text())
    main(["forget", "110"])
    assert json.loads(Path("runs/forgotten.json").read_text()) == first
    assert len(list((store / "refs" / "forgotten" / "mine").glob("0*1"))) == 1
    main(["forget", "111"])
    lists = forgotten.lists(forgotten.parse(forgotten.references(["mine"], open_store())),
                            open_store())  # fmt: skip
    assert lists["mine"] == {forgotten.pseudonym("mine", one) for one in ("110", "111")}
    assert "1 people of mine are left out" in capsys.readouterr().out


def test_a_list_and_the_report_do_not_name_people(mine: Path, store: Path) -> None:
    version("first")
    main(["forget", "110"])
    entry = forgotten.current("mine", open_store())
    assert entry is not None
    texts = [open_store().local(entry).read_text(), Path("runs/forgotten.html").read_text(),
             Path("runs/forgotten.json").read_text()]  # fmt: skip
    assert not [text for text in texts if re.search(r"\b110\b", text)]
    assert forgotten.pseudonym("mine", "110") in texts[0]
    assert forgotten.pseudonym("mine", "110") != forgotten.pseudonym("yours", "110")


def test_unknown_identities_are_refused_with_near_ones_before_anything_is_written(
    mine: Path, store: Path
) -> None:
    with pytest.raises(ValueError, match="no data version with known people below runs"):
        main(["forget", "103"])
    version("first")
    with pytest.raises(ValueError, match=r"2 of 3 identities are not known in mine: '1O3' .*103"):
        main(["forget", "1O3", "104", "someone"])
    with pytest.raises(ValueError, match="no data set 'yours' with known people; mine"):
        main(["forget", "103", "--dataset", "yours"])
    assert not (store / "refs" / "forgotten").exists()
    assert not Path("runs/forgotten.json").exists()


def test_lists_written_at_the_same_time_are_both_kept(store: Path) -> None:
    names = [f"{i:03d}" for i in range(12)]
    threads = [
        threading.Thread(target=forgotten.add, args=("mine", [name], open_store()))
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entry = forgotten.current("mine", open_store())
    assert entry is not None
    assert forgotten.read(entry, open_store()) == set(names)


def test_a_run_resolves_the_list_and_another_judge(mine: Path) -> None:
    def resolved() -> tuple[str, str]:
        found = resolve(
            datasets="mine:csv", raw="mine", preset="smoke", overrides="data.attributes=Hat,Male;"
            "data.split=identity;data.test_share=0.3",
        )  # fmt: skip
        return found.forgotten, found.judge_hash

    none, judge = resolved()
    assert none == ""
    version("first")
    main(["forget", "110"])
    text, other = resolved()
    assert other != judge
    assert resolved() == (text, other)
    later = pull(datasets="mine:csv", raw="mine", out=Path("later.json"), forgotten=text)
    assert later.digest == version("second")["raw"].digest
    earlier = pull(datasets="mine:csv", raw="mine", out=Path("earlier.json"), forgotten="")
    assert earlier.digest == GOLDEN["raw"]


def tracked(data: Manifest) -> str:
    """A training's run in MLflow, below the pipeline's, with one picture; its id."""
    tracker = Tracker.start(
        tracking.EXPERIMENT, "train", {}, {"role": "training", "dataset": data.digest},
        {"name": "mine", "digest": data.digest[:36], "source": "x"}, Path("runs/tracking"),
    )  # fmt: skip
    tracker.image(np.zeros((8, 8, 3), np.uint8), "samples", 1)
    assert tracker.close() == ""
    return tracker.run_id


def run_commands(found: dict[str, Any]) -> None:
    """As a user does, in a shell; the project's programs are those of this installation."""
    commands = [line for line in found["commands"] if not line.startswith("#")]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["bash", "-ec", "\n".join(commands)], check=True,
                   env={**os.environ, "PATH": path})  # fmt: skip


def forget(person: str) -> dict[str, Any]:
    main(["forget", person])
    return dict(json.loads(Path("runs/forgotten.json").read_text()))


def seen(found: dict[str, Any]) -> dict[tuple[str, str], dict[str, int]]:
    return {(one["what"], one["where"]): one["images"] for one in found["seen"]}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of MLflow
def test_what_has_seen_them_is_listed_and_the_commands_delete_it(
    release_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The champion, its data and shards; a later version without them stays whole."""
    pictures(tmp_path / "mine", 100, 20)
    first = version("first")
    child = tracked(first["dataset"])
    parent = str(releases.register(Path("runs/kfp/first/unify-labels/out"))["run_id"])
    files = Path("runs/mlartifacts")
    assert tracking.client().get_run(child).data.tags["mlflow.parentRunId"] == parent
    assert len([*files.glob("*/artifacts/**/*.png")]) == 1
    assert (files / parent / "artifacts" / "evaluation" / "report.html").is_file()
    run = Path("runs/train/0123")
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"data_digest": first["dataset"].digest}))
    main(["forget", "103"])
    assert "registered version stargan/1: 3 mine train" in capsys.readouterr().out
    second = version("second")
    found = forget("103")
    images = {"mine train": 3}
    assert seen(found) == {
        ("data set", "runs/kfp/first/unify-labels/out"): images,
        ("images", "runs/kfp/first/preprocess/out"): images,
        ("registered version", "stargan/1"): images,
        (f"raw data {first['raw'].meta.md5}", "runs/kfp/first/pull/out"): images,
        ("model", "runs/kfp/first/unify-labels/model-0.json"): images,
        ("evaluation", "runs/kfp/first/unify-labels/evaluation-model-0.json"): images,
        ("training with checkpoints", "runs/train/0123"): images,
        ("MLflow run", child): images,
        ("MLflow run", parent): images,
    }
    frame = rows(first["images"], "mine.parquet")
    shards = set(frame.loc[frame["identity"] == "103", "shard"])
    listed = next(one for one in found["seen"] if one["what"] == "images")["objects"]
    assert {entry["name"] for entry in listed} == {*shards, "mine.parquet"}
    run_commands(found)
    assert registry.versions("stargan") == []
    assert [path for path in files.rglob("*") if path.is_file()] == []
    assert not Path("runs/kfp/first").exists()
    assert not run.exists()
    store = open_store()
    assert not [e for e in first["images"].entries if e.name in shards and store.exists(e)]
    assert second["dataset"].intact()
    assert second["raw"].intact()
    capsys.readouterr()
    main(["forget", "104"])
    out = capsys.readouterr().out
    assert "stargan/1" not in out
    assert "MLflow run" not in out


@pytest.mark.filterwarnings("ignore")  # of MLflow
def test_the_run_above_a_training_and_comparisons_are_listed(
    release_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a comparison of several data sets, too; not what was deleted already."""
    pictures(tmp_path / "mine", 100, 20)
    first = version("first")
    child = tracked(first["dataset"])
    api = tracking.client()
    parent = api.get_run(child).data.tags["mlflow.parentRunId"]
    forget("103")
    second = version("second")
    data = Path("runs/kfp/first/unify-labels/out")
    model = releases.train(data)
    evaluation = releases.evaluate(model, data)
    runs = [ComparedRun("a", Manifest.read(model), Manifest.read(evaluation), one["dataset"])
            for one in (first, second)]  # fmt: skip
    monkeypatch.setattr(comparison, "named", lambda _: {})  # no numbers
    Path("compare-1.html").write_text("wall")
    comparison.record(runs, Path("compare-1.html"), {})
    comparison.record(runs[1:], Path("compare-1.html"), {})
    found = {where for what, where in seen(forget("103")) if what == "MLflow run"}
    assert {child, parent} < found
    (compared,) = found - {child, parent}
    assert api.get_run(compared).data.tags["role"] == "comparison"
    api.delete_run(parent)
    assert {w for what, w in seen(forget("103")) if what == "MLflow run"} == {child, compared}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of MLflow
@pytest.mark.server
def test_the_same_on_a_server_that_has_a_version_of_another_project(
    release_folder: Path, tmp_path: Path, mlflow_server: MlflowServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What cannot be read is a note; the files of deleted runs go with `mlflow gc` there."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    pictures(tmp_path / "mine", 100, 20)
    first = version("first")
    child = tracked(first["dataset"])
    parent = str(releases.register(Path("runs/kfp/first/unify-labels/out"))["run_id"])
    api = tracking.client()
    api.create_registered_model("theirs")
    api.create_model_version("theirs", f"runs:/{parent}/evaluation", parent)
    found = forget("103")
    assert [note for note in found["notes"] if note.startswith("theirs/1: its data cannot be read")]
    assert {where for what, where in seen(found) if what == "MLflow run"} == {child, parent}
    run_commands(found)
    assert [api.get_run(one).info.lifecycle_stage for one in (child, parent)] == ["deleted"] * 2
    assert registry.versions("stargan") == []
    served = mlflow_server.folder / "served"
    left = [path for path in served.rglob("*") if path.is_file()]
    assert {path.relative_to(served).parts[1] for path in left} == {child, parent}
    (gc,) = [line for line in found["commands"] if "mlflow gc" in line]
    database = f"sqlite:///{mlflow_server.folder / 'server.db'}"
    line = gc.partition("where the server runs: ")[2].replace(
        "THE-DATABASE-OF-THE-SERVER", database
    )
    run_commands({"commands": [line]})
    assert [path for path in served.rglob("*") if path.is_file()] == []


@pytest.mark.filterwarnings("ignore")  # of MLflow
def test_models_that_started_from_one_that_has_seen_them_are_listed(
    release_folder: Path, tmp_path: Path
) -> None:
    """Though their own data have not: versions, manifests and run folders, one from another."""
    pictures(tmp_path / "mine", 100, 20)
    version("first")
    releases.register(Path("runs/kfp/first/unify-labels/out"))
    forget("103")
    version("second")
    data = Path("runs/kfp/second/unify-labels/out")
    releases.register(data, 1, init="stargan/1")
    later = data.with_name("model-1.json")
    pinned = f"by-name:{later}@sha256:{Manifest.read(later).digest}"
    folders = {"child": pinned, "grandchild": "runs/train/child/checkpoints/000000000320",
               "other": "", "unknown": "gone/9"}  # fmt: skip
    for name, init in folders.items():
        (Path("runs/train") / name).mkdir(parents=True)
        (Path("runs/train") / name / "config.json").write_text(json.dumps({"init": init}))
    releases.evaluate(releases.train(data, 2, init="runs/train/grandchild/checkpoints/1"), data)
    releases.evaluate(releases.train(data, 3), data)
    found = forget("103")
    images = {"mine train": 3}
    started = {(one["what"], one["where"]): one["start"] for one in found["seen"] if one["start"]}
    assert started == {
        ("registered version", "stargan/2"): "stargan/1",
        ("model", str(later)): "stargan/1",
        ("training with checkpoints", "runs/train/child"): str(later),
        ("training with checkpoints", "runs/train/grandchild"): folders["grandchild"],
        ("model", str(data.with_name("model-2.json"))): "runs/train/grandchild/checkpoints/1",
    }
    assert seen(found).items() >= dict.fromkeys(started, images).items()
    evaluations = {Path(where).name for what, where in seen(found) if what == "evaluation"}
    assert evaluations == {f"evaluation-model-{i}.json" for i in (0, 1, 2)}
    (note,) = found["notes"]
    assert note.startswith("runs/train/unknown: started from gone/9, which is not found here; see")
    page = Path("runs/forgotten.html").read_text()
    assert "stargan/2, started from stargan/1" in page
    deleted = [line for line in found["commands"] if line.startswith("rm -rf -- runs/")]
    assert deleted == [f"rm -rf -- runs/{name}" for name in (
        "train/child", "train/grandchild", "kfp/first", "kfp/second"
    )]  # fmt: skip
    assert sum("remove('\"'\"'stargan" in line for line in found["commands"]) == 2


def train_step(run: str, seed: int) -> Manifest:
    """The output of a pipeline run's training step, a model that is registered nowhere."""
    data = Path(f"runs/kfp/{run}/unify-labels/out")
    out = data.parents[1] / "train" / "out"
    out.parent.mkdir()
    releases.train(data, seed).rename(out)
    return Manifest.read(out, "model")


@pytest.mark.filterwarnings("ignore")  # of MLflow
def test_models_of_a_training_step_are_listed_and_their_files_deleted(
    release_folder: Path, tmp_path: Path
) -> None:
    """The model and those of other seeds, which are in the step's folder only."""
    pictures(tmp_path / "mine", 100, 20)
    first = version("first")
    model = train_step("first", 0)
    data = Path("runs/kfp/first/unify-labels/out")
    seed = Manifest.read(releases.train(data, 1))
    data.with_name("model-1.json").unlink()
    config = data.with_name("model-1") / "config.json"
    write_json(config, {**read_json(config), "data_digest": first["dataset"].digest})
    weights = [replace(e, name=f"1/{e.name}") for e in seed.entries if e.name != "config.json"]
    Manifest.build("replicates", {"1/config.json": config}, {"seeds": [1]}, keep=weights).write(
        Path("runs/kfp/first/train/replicates")
    )
    found = forget("103")
    images = {"mine train": 3}
    assert {one: n for one, n in seen(found).items() if "/train/" in one[1]} == {
        ("model", "runs/kfp/first/train/out"): images,
        ("replicates", "runs/kfp/first/train/replicates"): images,
    }
    run_commands(found)
    assert not [e.name for e in (*model.entries, *weights) if open_store().exists(e)]


@pytest.mark.filterwarnings("ignore")  # of MLflow
def test_a_model_of_a_training_step_that_has_not_seen_them_keeps_files_that_it_shares(
    release_folder: Path, tmp_path: Path
) -> None:
    pictures(tmp_path / "mine", 100, 20)
    version("first")
    shared = Manifest.read(releases.train(Path("runs/kfp/first/unify-labels/out")))
    forget("103")
    version("second")
    model = train_step("second", 0)
    assert {e.sha256 for e in model.entries} == {e.sha256 for e in shared.entries}
    run_commands(forget("103"))
    assert model.intact()


@pytest.mark.filterwarnings("ignore")  # of MLflow
def test_copied_pages_and_pictures_are_deleted_too(release_folder: Path, tmp_path: Path) -> None:
    """Known by their bytes; what is of nobody known is only named."""
    pictures(tmp_path / "mine", 100, 20)
    version("first")
    data = Path("runs/kfp/first/unify-labels/out")
    trial = Path("runs/search/key/trial-0000/seed-0")
    trial.mkdir(parents=True)
    for name, model in (("evaluate", data), ("search", trial / "x")):
        made = releases.train(data)
        evaluation = releases.evaluate(made, data)
        evaluation.rename(model.with_name(f"{name}.json"))
    (trial / "report.html").write_text("their faces")
    pages = {"runs/kfp/first/validate/report": "theirs", "runs/report/a/validate.html": "theirs",
             "runs/report/b/evaluate.html": "<p>report</p>", "runs/report/c/train.html": "gone",
             "runs/kfp/other/train/report": "others", "runs/report/d/train.html": "others",
             "runs/report/compare-1.html": "wall", "runs/report/e/step.log": "",
             "runs/drift.html": "nearest"}  # fmt: skip
    for name, text in pages.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    shown = {"reference": str(data.with_name("other")), "compared": str(data.absolute())}
    Path("runs/drift.json").write_text(json.dumps(shown))
    found = forget("103")
    unknown = [line.rpartition(" ")[2] for line in found["commands"] if "not known" in line]
    assert unknown == ["runs/report/c", "runs/report/compare-1.html"]
    run_commands(found)
    assert {path.name for path in Path("runs/report").iterdir()} == {
        "c",
        "d",
        "e",
        "compare-1.html",
    }
    assert not (trial / "report.html").exists()
    assert not Path("runs/drift.html").exists()
    assert Path("runs/kfp/other").exists()


@pytest.mark.parametrize("record", ["[1]", "", '{"reference": "gone", "compared": "photos"}'])
def test_a_page_of_drift_whose_pictures_are_of_no_known_data_set_is_named(
    mine: Path, record: str
) -> None:
    version("first")
    for name, text in (("json", record), ("html", "nearest")):
        Path(f"runs/drift.{name}").write_text(text)
    (line,) = [one for one in forget("103")["commands"] if "drift.html" in one]
    assert re.fullmatch(r"# whom it shows is not known.*: rm -f -- runs/drift\.html", line)


def test_raw_tars_that_nothing_else_needs_are_deleted_and_others_named(mine: Path) -> None:
    first = version("first")
    (tar,) = [entry for entry in first["raw"].entries if entry.name.endswith(".tar")]
    path = str(open_store().path(tar.sha256))
    assert f"rm -f -- {path}" in forget("103")["commands"]
    version("second")
    found = forget("103")
    assert f"rm -f -- {path}" not in found["commands"]
    assert f"#   rm -f -- {path}" in found["commands"]
    run_commands(found)
    assert Path(path).exists()


def naming(store: Path, name: str) -> list[Path]:
    """Stored files with this text, in the rows of tables, too."""
    found = []
    for path in (store / "sha256").glob("*/*"):
        data = path.read_bytes()
        table = data.startswith(b"PAR1")
        if name.encode() in (pd.read_parquet(path).to_csv().encode() if table else data):
            found.append(path)
    return found


def test_after_the_commands_no_stored_file_names_their_pictures(mine: Path, store: Path) -> None:
    """Not the scores that an evaluation cached, either, nor the list of what is in a tar."""
    data = version("first")["dataset"]
    table = rows(data, "labels.parquet")[["dataset", "identity", "file"]]
    cache = ScoreCache(open_store(), "f" * 64, "d" * 64)
    cache.keep({"nets/G.safetensors": "1" * 64}, Scores(table))
    others = Scores(table[table["identity"] != "103"])
    cache.keep({"nets/G.safetensors": "2" * 64}, others)
    assert len(naming(store, "103-0.png")) == 5  # tar, its list, two label tables, scores
    found = forget("103")
    scored = {place: n for place, n in seen(found).items() if place[0] == "cached scores"}
    assert [*scored.values()] == [{"mine scored": 3}]
    run_commands(found)
    assert naming(store, "103-0.png") == []
    kept = cache.find({"nets/G.safetensors": "2" * 64})
    assert kept is not None
    assert kept.table["file"].tolist() == others.table["file"].tolist()
    assert len(list((store / "refs" / "scores").glob("?" * 64))) == 1


def test_what_cannot_be_read_does_not_keep_people_from_being_forgotten(
    mine: Path, store: Path
) -> None:
    """Tars and scores that were removed, settings that are damaged: notes."""
    first = version("first")
    shutil.rmtree(store / "refs")
    for entry in first["raw"].entries:
        open_store().path(entry.sha256).unlink()
    run = Path("runs/train/0123")
    run.mkdir(parents=True)
    (run / "config.json").write_text("{")
    open_store().refer("scores/lost", f"{'0' * 64} 7")
    found = forget("103")
    assert forgotten.current("mine", open_store())
    assert [
        note for note in found["notes"] if "runs/kfp/first/pull/out: its tars cannot be" in note
    ]
    assert [note for note in found["notes"] if "runs/train/0123/config.json: not valid" in note]
    assert [note for note in found["notes"] if "refs/scores/lost: whom it names is not" in note]
    assert ("raw data " + first["raw"].meta.md5, "runs/kfp/first/pull/out") in seen(found)


@pytest.mark.server
def test_copies_in_an_object_store_are_listed(
    s3: Any, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of checkpoints, the newest of each training, this machine's of stored files; scores."""
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    bucket = f"people-{uuid.uuid4().hex[:8]}"
    s3.bucket(bucket)
    monkeypatch.setenv("STORE_URI", f"s3://{bucket}/store")
    monkeypatch.setenv("NODE_CACHE", str(tmp_path / "node"))
    first, store = version("first"), open_store()
    assert isinstance(store, S3Store)
    for run, digest in (("1", first["dataset"].digest), ("11", "other")):
        for folder, value in (("000000000160-1", "before"), ("000000000320-1", digest)):
            text = json.dumps({"data_digest": value}).encode()
            store.bucket.create(f"checkpoints/{run}/{folder}/config.json", text)
    table = rows(first["dataset"], "labels.parquet")[["dataset", "identity", "file"]]
    ScoreCache(store, "f" * 64, "d" * 64).keep({}, Scores(table))
    (scores,) = store.listing("refs/scores/")
    found = forget("103")
    where = f"s3://{bucket}/store/checkpoints/1"
    assert ("copies of checkpoints", where) in seen(found)
    assert f"aws s3 rm --recursive {where}/" in found["commands"]
    assert f"aws s3 rm s3://{bucket}/store/{scores}" in found["commands"]
    tables = [e for e in first["images"].entries if e.name == "mine.parquet"]
    (digest,) = [entry.sha256 for entry in tables]
    stored = f"s3://{bucket}/store/sha256/{digest[:2]}/{digest}"
    assert {f"aws s3 rm {stored}", f"rm -f -- {store.path(digest)}"} <= {*found["commands"]}
    if shutil.which("aws") is None:
        return
    run_commands(found)
    assert [*store.listing("checkpoints/")] == [
        f"checkpoints/11/{folder}/config.json" for folder in ("000000000160-1", "000000000320-1")
    ]
    assert not store.exists(tables[0])
    assert not store.listing("refs/scores/")
    assert not store.path(digest).exists()

"""Forgetting people: the next data version, the earlier ones, and what has seen them."""

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest

import releases
from toydata import pictures
from training.core.config import DataConfig, to_json
from training.data import forgotten
from training.data.__main__ import main
from training.data.preprocess import preprocess, preprocess_part
from training.data.pull import pull
from training.data.unify import unify
from training.data.validate import validate
from training.registry import versions as registry
from training.resolve import resolve
from training.storage.store import Manifest, open_store

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


@pytest.mark.filterwarnings("ignore")  # of MLflow
def test_what_has_seen_them_is_listed_and_the_commands_delete_it(
    release_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The champion, its data and shards; a later version without them stays whole."""
    pictures(tmp_path / "mine", 100, 20)
    first = version("first")
    releases.register(Path("runs/kfp/first/unify-labels/out"))
    run = Path("runs/train/0123")
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"data_digest": first["dataset"].digest}))
    main(["forget", "103"])
    assert "registered version stargan/1: 3 mine train" in capsys.readouterr().out
    second = version("second")
    main(["forget", "103", "--out", "again.json"])
    found = json.loads(Path("again.json").read_text())
    images = {"mine train": 3}
    assert {(one["what"], one["where"]): one["images"] for one in found["seen"]} == {
        ("data set", "runs/kfp/first/unify-labels/out"): images,
        ("images", "runs/kfp/first/preprocess/out"): images,
        ("registered version", "stargan/1"): images,
        (f"raw data {first['raw'].meta.md5}", "runs/kfp/first/pull/out"): images,
        ("model", "runs/kfp/first/unify-labels/model-0.json"): images,
        ("evaluation", "runs/kfp/first/unify-labels/evaluation-model-0.json"): images,
        ("training with checkpoints", "runs/train/0123"): images,
    }
    frame = rows(first["images"], "mine.parquet")
    shards = set(frame.loc[frame["identity"] == "103", "shard"])
    listed = next(one for one in found["seen"] if one["what"] == "images")["objects"]
    assert {entry["name"] for entry in listed} == {*shards, "mine.parquet"}
    commands = [line for line in found["commands"] if not line.startswith("#")]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["bash", "-ec", "\n".join(commands)], check=True,
                   env={**os.environ, "PATH": path})  # fmt: skip
    assert registry.versions("stargan") == []
    assert not Path("runs/kfp/first").exists()
    assert not run.exists()
    store = open_store()
    assert not [e for e in first["images"].entries if e.name in shards and store.exists(e)]
    assert second["dataset"].intact()
    assert second["raw"].intact()
    capsys.readouterr()
    main(["forget", "104"])
    assert "stargan/1" not in capsys.readouterr().out

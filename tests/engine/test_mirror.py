"""Checkpoints in a real object store: resumed from there alone, written by one process."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from training.core.config import to_json
from training.core.files import write_bytes
from training.engine.mirror import FencedError, LogEntry, Mirror
from training.models.configure import resolve
from training.storage.s3 import Bucket, RemoteError
from training.tracking import client as tracking
from training.tracking.tracker import Tracker
from training.train import train

pytestmark = pytest.mark.server


@pytest.fixture
def bucket(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    return Bucket(s3.bucket(f"mirror-{uuid.uuid4().hex[:8]}") + "/store")


def saved(folder: Path, images: int, content: str = "x") -> Path:
    """A folder with the layout of a checkpoint."""
    path = folder / f"{images:012d}"
    (path / "nets").mkdir(parents=True, exist_ok=True)
    (path / "nets" / "G.safetensors").write_text(f"{content} {images}")
    (path / "config.json").write_text("{}")
    return path


def test_a_server_that_deletes_no_older_copies_stops_no_training(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its key may not delete, or the objects are locked."""
    bucket.client.meta.events.register(
        "after-call.s3.DeleteObjects",
        lambda parsed, **_: parsed.update(Errors=[{"Key": "a", "Code": "AccessDenied"}]),
    )
    here = Mirror("r", bucket=bucket)
    here.claim()
    for images in (8, 16, 24, 32):
        here.push(saved(tmp_path, images))
    assert Mirror("r", bucket=bucket).claim().images == 32
    assert "an older copy of a checkpoint stays in the store" in caplog.text
    assert "first a (AccessDenied" in caplog.text


def test_a_pushed_checkpoint_is_restored_on_another_machine(bucket: Bucket, tmp_path: Path) -> None:
    here = Mirror("r", bucket=bucket)
    assert here.claim().images == -1
    for images in (8, 16, 24):
        here.push(saved(tmp_path / "here", images))
    there = Mirror("r", bucket=bucket)
    entry = there.claim()
    assert (entry.images, entry.generation) == (24, 2)
    path = there.fetch(entry, tmp_path / "there")
    assert (path / "nets" / "G.safetensors").read_text() == "x 24"
    assert path.name == f"{24:012d}"


@pytest.mark.parametrize("keep", [1, 2, 4, 5])
def test_the_last_checkpoints_are_kept_and_no_more(
    keep: int, bucket: Bucket, tmp_path: Path
) -> None:
    mirror = Mirror("r", keep=keep, bucket=bucket)
    mirror.claim()
    pushed = []
    for images in (8, 16, 24, 32, 40, 48):
        mirror.push(saved(tmp_path, images))
        pushed.append(f"{images:012d}-1")
        found = bucket.client.list_objects_v2(Bucket=bucket.name, Prefix=bucket.prefix)["Contents"]
        assert {row["Key"].split("/")[3] for row in found} == {*pushed[-keep:], "log"}


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 8, 20])
def test_the_newest_entry_is_found_in_a_log_of_any_length(bucket: Bucket, count: int) -> None:
    for _ in range(count):
        Mirror("r", bucket=bucket).claim()
    found = Mirror("r", bucket=bucket).newest()
    assert (found.generation if found else 0) == count


def test_a_fenced_writer_cannot_write(bucket: Bucket, tmp_path: Path) -> None:
    """Neither a new checkpoint nor one that would overwrite the successor's."""
    old, new = Mirror("r", bucket=bucket), Mirror("r", bucket=bucket)
    old.claim()
    old.push(saved(tmp_path / "old", 8, "old"))
    new.claim()
    new.push(saved(tmp_path / "new", 16, "new"))
    with pytest.raises(FencedError, match="claimed this run"):
        old.push(saved(tmp_path / "old", 16, "old"))
    entry = Mirror("r", bucket=bucket).claim()
    path = new.fetch(entry, tmp_path / "third")
    assert (path / "nets" / "G.safetensors").read_text() == "new 16"


def test_a_launch_that_was_overtaken_cannot_take_the_run_back(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor can its restarted processes; a new launch can."""

    def trainer(launch: str) -> Mirror:
        monkeypatch.setenv("LAUNCH_ID", launch)
        return Mirror("r", bucket=bucket)

    first = trainer("first")
    first.claim()
    assert trainer("first").claim().generation == 2  # a process started again
    second = trainer("second")
    second.claim()
    second.push(saved(tmp_path, 8))
    for again in (first, trainer("first")):
        with pytest.raises(FencedError, match=r"r: launch second has claimed .* first "):
            again.claim()
        with pytest.raises(FencedError, match="launch second has claimed"):
            again.push(saved(tmp_path, 16))
    second.push(saved(tmp_path, 16))
    third = trainer("third").claim()
    assert (third.images, third.overtaken) == (16, ["first", "second"])
    with pytest.raises(FencedError, match="launch third has claimed"):
        trainer("second").claim()


def test_a_writer_replaced_between_the_files_and_the_log_entry_is_fenced(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Mirror("r", bucket=bucket)
    old.claim()
    upload = bucket.upload

    def slow(*arguments: Any) -> None:
        upload(*arguments)
        monkeypatch.undo()
        Mirror("r", bucket=bucket).claim()

    monkeypatch.setattr(bucket, "upload", slow)
    with pytest.raises(FencedError):
        old.push(saved(tmp_path, 8))
    assert Mirror("r", bucket=bucket).claim().folder == ""


def test_altered_bytes_are_refused_and_leave_nothing(bucket: Bucket, tmp_path: Path) -> None:
    mirror = Mirror("r", bucket=bucket)
    mirror.claim()
    mirror.push(saved(tmp_path / "here", 8))
    bucket.client.put_object(
        Bucket=bucket.name,
        Key=f"{bucket.prefix}checkpoints/r/{8:012d}-1/nets/G.safetensors",
        Body=b"y 8",
    )
    with pytest.raises(
        RemoteError, match=r"G.safetensors: altered .* delete s3://.*checkpoints/r$"
    ):
        mirror.fetch(mirror.claim(), tmp_path / "there")
    assert not list((tmp_path / "there").glob("0*"))


ENTRY = {"generation": 1, "owner": "", "images": 8, "folder": "f", "files": {"a": "0"}}
DAMAGED = [
    {**ENTRY, "files": {"../../escaped": "0"}},
    {**ENTRY, "files": {"/tmp/escaped": "0"}},
    {**ENTRY, "files": ["a"]},
    {**ENTRY, "images": "8"},
    {**ENTRY, "overtaken": "x"},
    {},
    None,
]


@pytest.mark.parametrize("text", [*map(json.dumps, DAMAGED), "{", "[" * 100_000])
def test_a_damaged_log_entry_is_refused_by_its_address(bucket: Bucket, text: str) -> None:
    """Names that lead out of the run folder, other types, no JSON, deep nesting."""
    bucket.create("checkpoints/r/log/00000000", text.encode())
    with pytest.raises(RemoteError, match=r"s3://.*/checkpoints/r/log/00000000: .*to start over"):
        Mirror("r", bucket=bucket).claim()


def test_a_name_that_leads_out_of_the_checkpoint_is_not_downloaded(
    bucket: Bucket, tmp_path: Path
) -> None:
    entry = LogEntry(1, "", 8, "f", {"../escaped": "0"})
    with pytest.raises(ValueError, match="not the relative name of a file"):
        Mirror("r", bucket=bucket).fetch(entry, tmp_path / "checkpoints")
    assert not [*tmp_path.rglob("escaped")]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::ResourceWarning")
def test_training_resumes_on_another_machine_from_the_store_alone(
    bucket: Bucket, binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights, bit for bit, one log and one run in MLflow, as without the change."""
    monkeypatch.setenv("STORE_URI", bucket.url)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    config = resolve("stargan", "smoke", {
        "images": 48, "decay_images": 16, "warmup_images": 8, "checkpoint_images": 8,
        "log_images": 8, "sample_images": 48, "conv_dim": 4, "d_conv_dim": 4, "d_repeat_num": 2,
        "repeat_num": 1,
    })  # fmt: skip
    settings = (to_json(config.model), to_json(config.train))
    # So short a training ends before MLflow has answered.
    record = Tracker.metrics

    def recorded(tracker: Tracker, values: Mapping[str, float], step: int) -> None:
        record(tracker, values, step)
        answered(tracker)

    monkeypatch.setattr(Tracker, "metrics", recorded)
    publish = binary_in(bucket, binary, tmp_path)

    def fit(place: str) -> dict[str, Any]:
        folder = tmp_path / place
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        train(publish, folder / "model.json", "stargan", *settings, experiment="moved")
        (last,) = (folder / "runs" / "train").glob(f"*/checkpoints/{48:012d}")
        return load_file(last / "nets" / "G.safetensors")

    whole = fit("whole")
    run = next((tmp_path / "whole" / "runs" / "train").iterdir()).name
    mirror = Mirror(run, bucket=bucket)
    newest = mirror.claim()
    assert newest.images == 48
    # The store as it was after 24 images, and nothing on the second machine.
    half = next((tmp_path / "whole").glob(f"runs/train/*/checkpoints/{40:012d}"))
    log_file = half.parents[1] / "log.jsonl"
    rows = [json.loads(line) for line in log_file.read_text().splitlines()]
    write_bytes(log_file, "".join(f"{json.dumps(row)}\n" for row in rows[:-1]).encode())
    bucket.delete(f"checkpoints/{run}/")
    first = Mirror(run, bucket=bucket)
    first.claim()
    first.push(half, newest.mlflow_run)
    shutil.rmtree(tmp_path / "whole")
    moved = fit("second")
    (log_file,) = (tmp_path / "second" / "runs" / "train").glob("*/log.jsonl")
    again = [json.loads(line) for line in log_file.read_text().splitlines()]
    assert again[:-1] == rows[:-1]
    assert again[-1]["d/gp"] == rows[-1]["d/gp"]
    children = tracking.client().search_runs(
        [tracking.client().get_experiment_by_name("moved").experiment_id],
        "tags.role = 'training'",
    )  # fmt: skip
    assert [child.info.run_id for child in children] == [newest.mlflow_run]
    assert whole.keys() == moved.keys()
    assert all((whole[name] == moved[name]).all() for name in whole)


PARENT = "import subprocess, sys; subprocess.run(sys.argv[1:])"  # ends at a signal, as KFP's does


@pytest.mark.slow
@pytest.mark.long
def test_a_launch_that_ends_with_its_pod_is_resumed_by_the_next_attempt(
    bucket: Bucket, binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SIGTERM to the group, of which the parent is gone at once, and everything is killed within
    a second. Another pod has the store only: it goes on from a checkpoint that is not older than
    the last one before the signal, and ends with the weights of an uninterrupted training."""
    settings = {
        "images": 480, "decay_images": 160, "warmup_images": 8, "checkpoint_images": 40,
        "log_images": 40, "sample_images": 480, "conv_dim": 4, "d_conv_dim": 4, "d_repeat_num": 2,
        "repeat_num": 1, "precision": "fp32",  # "auto" measures, and its result may be noise
    }  # fmt: skip
    config = resolve("stargan", "smoke", settings)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    whole = tmp_path / "whole"
    train(binary, tmp_path / "whole.json", "stargan", to_json(config.model), to_json(config.train),
          run=whole, preset="smoke", experiment="")  # fmt: skip
    monkeypatch.setenv("STORE_URI", bucket.url)
    publish = binary_in(bucket, binary, tmp_path)
    changes = ";".join(f"{name}={value}" for name, value in settings.items())

    def launched(place: str) -> "subprocess.Popen[bytes]":
        (tmp_path / place).mkdir()
        line = ["-m", "training.launch", str(publish), "--preset", "smoke", "--experiment", "",
                "--set", changes, "--out", "model.json"]  # fmt: skip
        with (tmp_path / place / "output").open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-c", PARENT, sys.executable, *line], cwd=tmp_path / place,
                start_new_session=True, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    first = launched("first")
    while not (found := list((tmp_path / "first").glob("runs/train/*"))):
        assert first.poll() is None
        time.sleep(0.05)
    mirror = Mirror(found[0].name, bucket=bucket)
    while (newest := mirror.newest()) is None or newest.images < 80:
        assert first.poll() is None
        time.sleep(0.05)
    pod = psutil.Process(first.pid).children(recursive=True)
    os.killpg(first.pid, signal.SIGTERM)
    assert first.wait(5) == -signal.SIGTERM
    time.sleep(0.9)
    for one in pod:  # torchrun's workers have sessions of their own
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(pod, timeout=10)
    assert not (tmp_path / "first" / "model.json").exists()
    left = mirror.newest()
    assert left
    assert newest.images <= left.images < 480
    shutil.rmtree(tmp_path / "first")
    second = launched("second")
    assert second.wait(300) == 0
    said = (tmp_path / "second" / "output").read_text()
    assert re.search(rf"resuming from .*/{left.images:012d}", said), said[-3000:]
    (run,) = (tmp_path / "second").glob("runs/train/*")
    rows = [json.loads(line)["images"] for line in (run / "log.jsonl").read_text().splitlines()]
    # A process that was fast enough also logged where the signal met it.
    assert set(rows) >= set(range(40, 481, 40))
    assert len(rows) <= 480 // 40 + 1
    assert rows == sorted(rows)
    one, other = (
        load_file(path / "checkpoints" / f"{480:012d}" / "nets" / "G.safetensors")
        for path in (whole, run)
    )
    assert all((one[name] == other[name]).all() for name in one)
    assert (tmp_path / "second" / "model.json").is_file()


def answered(tracker: Tracker) -> None:
    end = time.monotonic() + 60
    while not tracker.run_id and time.monotonic() < end:
        time.sleep(0.05)


def binary_in(bucket: Bucket, dataset: Path, tmp_path: Path) -> Path:
    """The data set's files moved into the bucket's store."""
    from training.storage.store import Manifest, open_store

    local, remote = open_store(f"file://{tmp_path / 'store'}"), open_store()
    manifest = Manifest.read(dataset)
    for entry in manifest.entries:
        remote.put(local.local(entry), entry.name, entry.rows)
    return dataset

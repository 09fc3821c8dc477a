"""A damaged journal never stops a training: what is spoiled is said, set aside, and passed over."""

import json
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import training.tracking.__main__
from training.tracking import client as tracking
from training.tracking.journal import Journal
from training.tracking.tracker import Tracker, _png

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow leaves SQLite pools open
]
some = settings(deadline=None, max_examples=200)


@pytest.fixture(autouse=True)
def workdir(empty_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_mlflow, tmp_path / "runs" / "mlflow.db")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIPELINE_RUN_ID", "run-1")
    tracking.pipeline_run_id.cache_clear()
    return tmp_path


def trained(folder: Path) -> str:
    """A training with two losses, a picture and a file, delivered; the run's id."""
    tracker = Tracker.start("faces", "stargan demo", {"a": 1}, {"seed": "0"}, {}, folder=folder)
    tracker.metrics({"loss": 3.0}, 16)
    tracker.image(np.zeros((4, 4, 3), np.uint8), "samples", 16)
    tracker.metrics({"loss": 2.0}, 32)
    assert tracker.close("KILLED") == ""
    return tracker.run_id


def goes_on(folder: Path) -> Tracker:
    """The training resumed in the same folder: it records and ends as if nothing had happened."""
    tracker = Tracker.start("faces", "stargan demo", {"a": 1}, {"seed": "0"}, {}, folder=folder)
    tracker.metrics({"loss": 1.0}, 48)
    report = tracker.close()
    assert "did not reach" not in report
    return tracker


def losses(run_id: str) -> list[tuple[int, float]]:
    points = tracking.client().get_metric_history(run_id, "loss")
    return sorted((point.step, point.value) for point in points)


SPOILED = {
    "text": b"not JSON at all\n",
    "binary": b"\xff\x00\xfe\n",
    "cut": b'{"kind": "metrics", "step": 16, "val\n',
    "list": b"[1, 2]\n",
    "null": b"null\n",
    "deep": b"[" * 100_000 + b"\n",
    "unknown kind": b'{"kind": "dance", "time": 1}\n',
    "wrong types": b'{"kind": "metrics", "step": "x", "time": 1, "values": {"loss": null}}\n',
    "huge": b'{"kind": "metrics", "step": 1, "time": 1, "values": {"loss": 1'
    + b"0" * 400
    + b"}}\n",
    "a path": b'{"kind": "artifact", "name": "x", "folder": "", "file": "../../x", "time": 1}\n',
}


@pytest.mark.parametrize("line", SPOILED.values(), ids=SPOILED)
@pytest.mark.parametrize("delivered", [True, False])
def test_a_spoiled_line_in_the_middle_is_set_aside_and_the_rest_delivered(
    workdir: Path, line: bytes, delivered: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = trained(workdir / "t")
    path, mark = workdir / "t" / "journal.jsonl", workdir / "t" / "delivered"
    first, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([first, line, *rest]))
    mark.write_text(str(len(first) if not delivered else len(path.read_bytes())))
    tracker = goes_on(workdir / "t")
    assert tracker.run_id == run_id
    assert losses(run_id) == [(16, 3.0), (32, 2.0), (48, 1.0)]
    said = capsys.readouterr().err
    assert "1 unreadable lines were set aside in" in said
    (aside,) = (workdir / "t").glob("spoiled-*.jsonl")
    assert str(aside) in said
    assert aside.read_bytes() == line
    goes_on(workdir / "t")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("mark", ["", "x", "-1", "7", "99999999", "\x00"])
def test_a_damaged_mark_sends_all_again_without_doubling_a_metric(
    workdir: Path, mark: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = trained(workdir / "t")
    (workdir / "t" / "delivered").write_text(mark)
    goes_on(workdir / "t")
    assert losses(run_id) == [(16, 3.0), (32, 2.0), (48, 1.0)]
    assert "delivered is damaged: all records are sent again" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[]", "", "null", "{}", '{"run_id": 7}', "\x00", "[" * 99999])
def test_a_damaged_record_of_the_run_is_set_aside_and_a_new_run_begun(
    workdir: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = trained(workdir / "t")
    (workdir / "t" / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json: .*(move it away|delete it)"):
        training.tracking.__main__.deliver(workdir / "t")
    tracker = goes_on(workdir / "t")
    assert tracker.run_id != run_id
    assert losses(tracker.run_id) == [(48, 1.0)]
    assert "a new run is begun" in capsys.readouterr().err
    (aside,) = (workdir / "t").glob("run.json.*.spoiled")
    assert aside.read_text() == content


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"\x89PNG no")])
def test_a_picture_that_is_gone_or_damaged_does_not_hold_up_the_rest(
    workdir: Path, damage: Any
) -> None:
    first = Journal(workdir / "t")  # the records of a training that was killed
    first.add({"kind": "metrics", "step": 1, "values": {"loss": 3.0}, "time": 1})
    name = first.keep(_png(np.zeros((4, 4, 3), np.uint8)), ".png")
    first.add({"kind": "image", "key": "samples", "step": 1, "time": 1, "file": name})
    damage(first.file(name))
    first.close()
    tracker = Tracker.start("faces", "x", {}, {}, {}, folder=workdir / "t")
    tracker.metrics({"loss": 2.0}, 2)
    assert "1 records were refused" in tracker.close()
    assert losses(tracker.run_id) == [(1, 3.0), (2, 2.0)]


def test_a_folder_that_cannot_be_used_leaves_the_training_untracked(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workdir / "t" / "journal.jsonl").mkdir(parents=True)
    tracker = Tracker.start("faces", "x", {}, {}, {}, folder=workdir / "t")
    tracker.metrics({"loss": 2.0}, 2)
    assert (tracker.close(), tracker.run_id) == ("", "")
    assert "nothing is recorded" in capsys.readouterr().err


def test_a_line_that_a_full_disk_cuts_is_taken_back(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's size is limited to within the second line; the third record follows whole."""
    journal = Journal(workdir / "t")
    record = {"kind": "metrics", "step": 1, "values": {"loss": 1.0}, "time": 1}
    journal.add(record)
    size = journal.path.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
        with pytest.raises(OSError, match="File too large"):
            journal.add(record)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert journal.path.stat().st_size == size
    journal.add({**record, "step": 3})
    assert [one["step"] for _, one in journal.pending()] == [1, 3]


GOOD = st.builds(
    lambda step, value: {"kind": "metrics", "step": step, "time": 1, "values": {"loss": value}},
    st.integers(0, 10**9), st.floats(allow_nan=False),
)  # fmt: skip


@some
@given(
    st.lists(GOOD, max_size=8), st.lists(st.binary(max_size=60), max_size=4),
    st.randoms(use_true_random=False), st.binary(max_size=6) | st.integers(0, 999),
)  # fmt: skip
def test_any_bytes_between_records_leave_all_records_readable(
    tmp_path_factory: pytest.TempPathFactory,
    good: list[dict[str, Any]], bad: list[bytes], places: Any, mark: bytes | int,
) -> None:  # fmt: skip
    """Opening never fails; every whole record after the delivered ones comes, and no other."""
    folder = tmp_path_factory.mktemp("journal")
    lines = [json.dumps(record).encode() for record in good]
    for spoiled in bad:
        lines.insert(places.randint(0, len(lines)), spoiled.replace(b"\n", b" "))
    content = b"".join(line + b"\n" for line in lines)
    (folder / "journal.jsonl").write_bytes(content)
    (folder / "delivered").write_bytes(mark if isinstance(mark, bytes) else str(mark).encode())
    journal = Journal(folder)
    expected = [json.loads(line) for line in content[journal.done :].split(b"\n") if is_good(line)]
    assert [record for _, record in journal.pending()] == expected
    assert journal.path.stat().st_size == len(content)
    journal.close()
    again = Journal(folder)
    assert [record for _, record in again.pending()] == expected
    assert not [text for text in again.damage if "unreadable" in text]
    journal.pending()
    shutil.rmtree(folder)


def is_good(line: bytes) -> bool:
    return line.startswith(b'{"kind": "metrics"')

"""`python -m pipelines watch`: real folders, real runs."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from pipelines.watch import Last, Look, Watch, content_of, opened
from project import SMALL, clean_environment, heed_ctrl_c
from training.data import forgotten
from training.data.versions import data_version
from training.storage.store import open_store

PAIRS = [pair for pair in SMALL if not pair.startswith("raw=")]
FAILING = ["preset=smoke", "data.attributes=Absent"]  # the validation refuses it


@pytest.fixture
def faces(tmp_path: Path, drawn: Path) -> Path:
    shutil.copytree(drawn, tmp_path / "faces")
    return tmp_path / "faces"


@pytest.fixture
def once(tmp_path: Path, run_pipeline: Callable[..., str]) -> Callable[..., str]:
    """`watch faces --once` with what counts as quiet at once."""
    return partial(
        run_pipeline, tmp_path, "faces", "--once", "--quiet", "0.01", command="watch"
    )  # fmt: skip


def decisions(output: str) -> list[str]:
    return re.findall(r"^watch: \S+ \S+  (\w+)", output, re.MULTILINE)


def alter(path: Path) -> None:
    """Other bytes with the same size and the same times."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.slow
@pytest.mark.long
def test_new_content_is_trained_and_touched_files_are_not(
    faces: Path, once: Callable[..., str]
) -> None:
    output = once(*PAIRS)
    assert decisions(output) == ["watching", "run", "done"]
    assert "stargan 1 (new)" in output
    for path in faces.glob("*.txt"):
        path.touch()
    output = once(*PAIRS)
    assert decisions(output) == ["watching", "same"]
    assert "[1/" not in output


@pytest.mark.slow
def test_a_failed_run_is_tried_again_only_when_the_content_changes(
    faces: Path, once: Callable[..., str]
) -> None:
    output = once(*FAILING, code=1)
    assert decisions(output) == ["watching", "run", "failed", "report"]
    again = once(*FAILING, code=1)
    assert decisions(again) == ["watching", "failed"]
    assert "tried again when the content changes: step validate failed" in again
    alter(next(faces.glob("img_align_celeba/*.jpg")))
    output = once(*FAILING, code=1)
    assert decisions(output) == ["watching", "run", "failed", "report"]
    assert re.search(r"run .*content \w+\.dir: was \w+\.dir$", output, re.MULTILINE)


@pytest.fixture
def watching(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A watch without an end, started as a user does."""
    command = [sys.executable, "-m", "pipelines", "watch", "faces", "--every", "0.2",
               "--quiet", "0.5", *FAILING]  # fmt: skip
    with subprocess.Popen(
        command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**clean_environment(None), "PYTHONPATH": str(Path(__file__).parents[2])},
        preexec_fn=heed_ctrl_c,
    ) as process:  # fmt: skip
        yield process
        process.kill()


def until(process: "subprocess.Popen[str]", word: str) -> str:
    """The output up to the line with a word."""
    lines = []
    for line in process.stdout or ():
        lines.append(line)
        if word in line:
            return "".join(lines)
    raise AssertionError(f"ended without {word!r}: {''.join(lines)[-3000:]}")


@pytest.mark.slow
@pytest.mark.long
def test_changes_during_a_run_start_one_afterwards_and_a_killed_run_is_resumed(
    faces: Path, watching: "subprocess.Popen[str]", once: Callable[..., str]
) -> None:
    """The running one is not interrupted; another process does not run the same meanwhile."""
    until(watching, "[1/11] resolve: done")
    shutil.copy(next(faces.glob("img_align_celeba/*.jpg")), faces / "more.jpg")
    first = until(watching, "watch: ")
    assert "validate: FAILED" in first or "pull: FAILED" in first
    assert decisions(first) == ["failed"]
    until(watching, "[1/11] resolve: done")
    assert decisions(once(*FAILING)) == ["busy"]
    watching.kill()
    watching.wait()
    output = once(*FAILING, code=1)
    assert decisions(output) == ["watching", "resume", "failed", "report"]


def test_ctrl_c_ends_an_idle_watch(
    tmp_path: Path, faces: Path, watching: "subprocess.Popen[str]"
) -> None:
    """One line instead of a traceback; a folder that changes all the time is waited for."""
    (faces / "upload.part").write_text("")
    until(watching, "watching")
    watching.send_signal(signal.SIGINT)
    output = watching.stdout.read() if watching.stdout else ""
    assert watching.wait() == 130
    assert "stopped; the same command goes on" in output
    assert "Traceback" not in output


def test_a_finished_content_is_not_run_again(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the files' times are, also in the next process."""
    monkeypatch.chdir(tmp_path)
    content = data_version([("celeba", "celeba")], str(faces), "")[0]
    opened(faces, ["preset=smoke"], 0.001)._keep(Last(content, "done", "yesterday"))
    watch = opened(faces, ["preset=smoke"], 0.001)
    for _ in range(2):
        for path in faces.glob("*.txt"):
            path.touch()
        time.sleep(0.01)
        watch.step()
    assert decisions(capsys.readouterr().out) == ["same", "same"]


def test_people_to_be_forgotten_make_another_data_version(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the same files: the next run leaves them out, also in a watch that has looked before."""
    monkeypatch.chdir(tmp_path)
    content = data_version([("celeba", "celeba")], str(faces), "")[0]
    watch, ran = opened(faces, ["preset=smoke"], 0.001), []
    watch._keep(Last(content, "done", "yesterday"))
    monkeypatch.setattr(Watch, "_run", lambda _, content: ran.append(content))
    watch.step()
    for person in ("7", "8"):
        forgotten.add("celeba", [forgotten.pseudonym("celeba", person)], open_store())
        watch.step()
        watch.step()
        watch._keep(Last(ran[-1], "done", "now"))
    opened(faces, ["preset=smoke"], 0.001).step()
    output = capsys.readouterr().out
    assert decisions(output) == ["same", "run", "run", "same"]
    assert ran[1] == content_of(content, forgotten.references(["celeba"], open_store()))
    assert len({content, *ran}) == 3
    assert f"content {ran[0]}: was {content}" in output


def test_a_folder_is_judged_once_it_is_quiet(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also an empty one, which says so once and is read again when it has files."""
    monkeypatch.chdir(tmp_path)
    watch = opened(faces, ["preset=smoke"], 3600.0)
    watch.step()
    watch.step()
    assert (watch.judged, watch.last()) == (("", ""), None)
    assert decisions(capsys.readouterr().out) == ["changing"]
    shutil.rmtree(faces)
    faces.mkdir()
    watch.quiet = 0.0
    watch.step()
    watch.step()
    output = capsys.readouterr().out
    assert decisions(output) == ["unusable"]
    assert "no files in it; waiting for a change" in output
    assert Look.at([faces]).files == 0


def test_the_folder_is_the_data_and_settings_are_checked_first(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for pairs, message in (
        (["raw=other"], "raw=other: the watched folder is the data"),
        (["revision=v1"], "revision=v1: the watched folder"),
        (["preset=none"], "unknown preset"),
        (["datasets=pets"], "give its kind"),
    ):
        with pytest.raises(ValueError, match=message):
            opened(faces, pairs, 1.0)
    with pytest.raises(ValueError, match="no such folder"):
        opened(tmp_path / "absent", [], 1.0)


def test_a_damaged_state_names_its_file(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    watch = opened(faces, ["preset=smoke"], 0.0)
    watch._keep(Last("1.dir", "done", "now"))
    assert watch.last() == Last("1.dir", "done", "now")
    watch.state.write_text("{")
    with pytest.raises(ValueError, match=rf"{watch.state.name}: not valid JSON"):
        watch.last()

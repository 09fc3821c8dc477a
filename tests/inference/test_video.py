"""Edited videos: frames, times, sound, rotation and marks, compared with the input's."""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

import clips
from savedmodel import saved
from training import translate
from training.data.labels import LabelSet, LabelSpace
from training.inference import video
from training.inference.edit import Edit
from training.inference.paste import find_faces
from training.inference.record import NAME
from training.inference.track import follow
from training.inference.translator import translator_from_files
from training.models.base import EditOptions

SPACE = LabelSpace((LabelSet("celeba", "binary", ("Black_Hair", "Male"), ()),))
CLASSES = LabelSpace((LabelSet("rafd", "onehot", ("happy", "sad")),))
LOSS = 6.0  # grey levels of a frame's mean change by encoding twice
BOX = ("--box", "40,20,120,100")
Run = Callable[..., str]


@pytest.fixture
def run(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:  # fmt: skip
    """Translate in tmp_path by a saved model; gives what it printed."""
    files = saved(tmp_path / "model", "stargan", small["stargan"], SPACE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(translate, "registered_files", lambda reference: files)
    monkeypatch.setattr(translate, "pin", lambda reference: "stargan/3")

    def call(*arguments: str) -> str:
        translate.main(["stargan@champion", *arguments])
        return capsys.readouterr().out

    return call


def across(number: int) -> tuple[float, float]:
    return 14 + 2.5 * number, 26 + 8 * np.sin(number / 5)


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """Mean difference in grey levels."""
    return float(np.abs(a.astype(int) - b).mean())


def test_sound_and_times_are_the_inputs_and_the_face_is_edited(run: Run) -> None:
    """Of a variable frame rate: frames of 20 to 120 ms."""
    ticks = np.cumsum([0, *np.random.RandomState(0).choice([1800, 3600, 10800], 23)])
    frames = [clips.scene(across(n), seed=n) for n in range(24)]
    before = clips.read(clips.write(Path("in.mp4"), frames, [int(t) for t in ticks]))
    text = run("in.mp4", "out.mp4", "Male")
    after = clips.read(Path("out.mp4"))
    assert "synthetic video written to out.mp4: 24 frames\n" in text
    assert after.times == before.times
    assert len({b - a for a, b in zip(before.times, before.times[1:], strict=False)}) == 3
    assert after.sound == before.sound
    assert len(after.sound) > 20
    assert after.colours == before.colours == (1, 1, 1, 1)
    assert after.codecs == ["h264", "aac"]
    for number in range(24):
        x, y = (round(v) for v in across(number))
        middle = (slice(y + 30, y + 66), slice(x + 18, x + 54))
        assert apart(after.frames[number][middle], before.frames[number][middle]) > 15
        assert apart(after.frames[number][:, 178:], before.frames[number][:, 178:]) < LOSS


def test_frames_without_a_face_are_unchanged_and_counted(run: Run) -> None:
    clips.moving(Path("in.mp4"), lambda n: across(n) if n < 13 else None, 30)
    text = run("in.mp4", "out.mp4", "Male", "--no-visible-mark")
    before, after = clips.read(Path("in.mp4")), clips.read(Path("out.mp4"))
    changes = [apart(a, b) for a, b in zip(before.frames, after.frames, strict=True)]
    assert [change > LOSS for change in changes] == [number < 13 for number in range(30)]
    assert "30 frames, 17 of them without a face and unchanged" in text


def test_a_turned_video_is_edited_and_written_upright(run: Run) -> None:
    upright = [clips.scene(across(n), seed=n) for n in range(8)]
    ticks = range(0, 8 * 3600, 3600)
    clips.write(Path("plain.mp4"), upright, ticks)
    run("plain.mp4", "expected.mp4", "Male", *BOX)
    expected = clips.read(Path("expected.mp4"))
    for rotation in (-90, 90, 180):
        frames = [np.rot90(frame, -rotation // 90).copy() for frame in upright]
        clips.write(Path("in.mp4"), frames, ticks, rotation=rotation)
        text = run("in.mp4", "out.mp4", "Male", *BOX)
        after = clips.read(Path("out.mp4"))
        assert (after.rotation, after.frames[0].shape) == (0, (144, 192, 3))
        assert "written upright" in text
        assert apart(np.array(after.frames), np.array(expected.frames)) < LOSS


def test_the_box_of_a_detected_face_is_steady(tmp_path: Path) -> None:
    """Second differences: of the detector's boxes over 4 px, of those used under 0.9 px.

    Rounding a smooth movement to whole pixels alone gives 0.7 px.
    """
    frames = [clips.scene(across(n), seed=n) for n in range(40)]
    times = [n / 25 for n in range(40)]
    seen = [*range(0, 40, 2), 39]
    looked = [(times[n], find_faces(Image.fromarray(frames[n]))) for n in seen]
    boxes = follow(times, looked, clips.SIZE)

    def trembling(found: list[Any]) -> float:
        values = np.array([((b[0] + b[2]) / 2, (b[1] + b[3]) / 2, b[2] - b[0]) for b in found])
        return float(np.sqrt((np.diff(values, 2, axis=0) ** 2).mean()))

    assert all(found for _, found in looked)
    assert all(boxes)
    assert trembling([found[0] for _, found in looked]) > 4
    assert trembling(boxes) < 0.9
    middles = np.array([((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in boxes if b])
    moved = np.array([across(n) for n in range(40)])
    assert np.abs(np.diff(middles - moved, axis=0)).max() < 4  # it moves as the face does


def corner(frame: np.ndarray) -> np.ndarray:
    """The part of a frame of 192x144 px with the visible mark, and little else."""
    return frame[130:140, 5:90]


def test_the_visible_mark_is_in_every_frame_unless_switched_off(run: Run) -> None:
    clips.moving(Path("in.mp4"), lambda n: across(n) if n < 8 else None, 16)
    run("in.mp4", "marked.mp4", "Male", *BOX)
    run("in.mp4", "plain.mp4", "Male", "--no-visible-mark", *BOX)
    before = clips.read(Path("in.mp4")).frames
    marked, plain = (clips.read(Path(f"{name}.mp4")) for name in ("marked", "plain"))
    for number in range(16):
        part = corner(marked.frames[number])
        assert part.max() > 200, number  # white letters
        assert np.median(part) < 60, number  # on a dark box
        assert apart(corner(plain.frames[number]), corner(before[number])) < LOSS, number
    assert plain.metadata == marked.metadata  # the other marks stay


@pytest.mark.skipif(not shutil.which("exiftool"), reason="apt-get install libimage-exiftool-perl")
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_exiftool_reads_the_mark_of_a_video(suffix: str, run: Run) -> None:
    clips.moving(Path("in.mp4"), across, 4)
    run("in.mp4", f"out{suffix}", "Male", *BOX)
    asked = ["exiftool", "-j", "-G1", "-XMP:all", "-warning", "-error", f"out{suffix}"]
    [found] = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
    assert found["XMP-iptcExt:DigitalSourceType"].endswith("compositeWithTrainedAlgorithmicMedia")
    assert found["XMP-xmp:CreatorTool"].endswith("model stargan/3")
    assert not {name for name in found if name.endswith((":Warning", ":Error"))}


@pytest.mark.parametrize(("suffix", "sound"), [(".mkv", "aac"), (".webm", "libopus")])
def test_matroska_has_the_mark_as_tags(suffix: str, sound: str, run: Run) -> None:
    frames = [clips.scene(across(n), seed=n) for n in range(6)]
    clips.write(Path("in.mkv"), frames, range(0, 6 * 3600, 3600), audio=sound)
    run("in.mkv", f"out{suffix}", "Male", *BOX)
    before, after = clips.read(Path("in.mkv")), clips.read(Path(f"out{suffix}"))
    assert after.metadata["DIGITAL_SOURCE_TYPE"].endswith("compositeWithTrainedAlgorithmicMedia")
    assert "model stargan/3" in after.metadata["COMMENT"]
    assert (after.times, after.sound) == (before.times, before.sound)


def test_sound_that_the_file_cannot_hold_is_refused_with_the_fix(run: Run) -> None:
    clips.moving(Path("in.mp4"), across, 4)
    with pytest.raises(
        ValueError, match=r"in\.mp4: a \.webm file cannot hold its sound \(aac\); write \.mkv"
    ):
        run("in.mp4", "out.webm", "Male")
    assert sorted(path.name for path in Path().iterdir()) == ["in.mp4", "model"]


def test_a_video_without_a_face_is_refused_and_one_with_a_box_is_not(run: Run) -> None:
    clips.moving(Path("in.mp4"), lambda n: None, 8)
    with pytest.raises(ValueError, match=r"^in\.mp4: no face in any of 8 frames; give its box"):
        run("in.mp4", "out.mp4", "Male")
    assert not Path("out.mp4").exists()
    run("in.mp4", "out.mp4", "Male", "--box", "40,20,120,100")
    before, after = clips.read(Path("in.mp4")), clips.read(Path("out.mp4"))
    for a, b in zip(before.frames, after.frames, strict=True):
        assert apart(a[40:80, 60:100], b[40:80, 60:100]) > 15
        assert apart(a[:, 130:], b[:, 130:]) < LOSS


@pytest.mark.parametrize("name", ["starganv2", "munit", "drit", "stargan"])
def test_the_same_frame_gives_the_same_edit_so_that_nothing_flickers(
    name: str, small: dict[str, Any], tmp_path: Path
) -> None:
    """The style is drawn once for all frames: edits of equal frames are bit-equal."""
    space = CLASSES if name == "starganv2" else SPACE
    translator = translator_from_files(saved(tmp_path / name, name, small[name], space))
    source = torch.tensor([[1.0, 0.0]]) if name in ("munit", "drit") else None
    edit = Edit(translator, (source, torch.tensor([[0.0, 1.0]])))
    picture = Image.fromarray(clips.scene((50, 20)))
    made = [edit(picture, (40, 20, 120, 100)) for _ in range(2)]
    assert np.array_equal(*made)
    assert translator.options == EditOptions()


def test_a_killed_call_leaves_no_video_and_the_next_one_no_rest(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips.moving(Path("in.mp4"), across, 8)
    if (child := os.fork()) == 0:
        video.fsync = lambda path: os._exit(9)  # type: ignore[assignment]
        run("in.mp4", "out.mp4", "Male", *BOX)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = [path for path in Path().iterdir() if path.name.startswith(".out")]
    assert len(left) == 1
    assert not Path("out.mp4").exists()
    run("in.mp4", "out.mp4", "Male", *BOX)
    assert not list(Path().glob(".out*"))
    assert sorted(path.name for path in Path().glob("*.mp4")) == ["in.mp4", "out.mp4"]


def test_a_folder_of_videos_and_pictures_resumes(run: Run) -> None:
    Path("all").mkdir()
    clips.moving(Path("all/clip.mp4"), across, 6)
    Image.fromarray(clips.scene((50, 20))).save("all/face.png")
    text = run("all", "edited", "Male", *BOX)
    assert "1 synthetic images and 1 videos written to edited" in text
    assert "6 frames" in Path("edited", NAME).read_text()
    text = run("all", "edited", "Male", *BOX)
    assert "0 synthetic images written to edited; 2 were done before" in text
    assert "1 videos" in run("all", "edited", "Male", *BOX, "--no-visible-mark")


def test_damaged_videos_are_named(run: Run) -> None:
    whole = clips.moving(Path("in.mp4"), across, 8).read_bytes()
    for name, data in (("cut.mp4", whole[:4000]), ("empty.mp4", b""), ("text.mp4", b"x" * 5000)):
        Path(name).write_bytes(data)
        with pytest.raises(ValueError, match=rf"^{name}: cannot be read or written as a video"):
            run(name, "out.mp4", "Male")
        assert not Path("out.mp4").exists()


def test_without_the_package_the_fix_is_named_before_the_model_loads(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("in.mp4").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr(translate, "registered_files", None)
    with pytest.raises(ValueError, match=r"^videos need the package av: python -m pip install av"):
        run("in.mp4", "out.mp4", "Male")


@pytest.mark.parametrize(("suffix", "sound"), [("mp4", "aac"), ("mkv", "aac"), ("webm", "libopus")])
def test_a_video_that_says_it_is_synthetic_is_noted(
    suffix: str, sound: str, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    frames = [clips.scene(across(n), seed=n) for n in range(3)]
    clips.write(Path("in.mkv"), frames, range(0, 3 * 3600, 3600), audio=sound)
    run("in.mkv", f"once.{suffix}", "Male", *BOX)
    with caplog.at_level(logging.WARNING):
        text = run(f"once.{suffix}", f"twice.{suffix}", "Black_Hair", *BOX)
    assert "already marked as compositeWithTrainedAlgorithmicMedia" in caplog.text
    assert "already marked as compositeWithTrainedAlgorithmicMedia" in text
    assert b"already marked as compositeWithTrained" in Path(f"twice.{suffix}").read_bytes()


def test_a_sound_track_that_cannot_be_decoded_is_left_out_and_said(run: Run) -> None:
    """As Apple's spatial sound beside the usual track: here its name is one that nobody knows."""
    frames = [clips.scene(across(n), seed=n) for n in range(4)]
    clips.write(Path("in.mkv"), frames, range(0, 4 * 3600, 3600))
    data = Path("in.mkv").read_bytes()
    assert data.count(b"A_AAC") == 1
    Path("in.mkv").write_bytes(data.replace(b"A_AAC", b"A_XYZ"))
    assert "left out: audio" in run("in.mkv", "out.mkv", "Male", *BOX)
    with av.open("out.mkv") as made:
        assert [stream.type for stream in made.streams] == ["video"]

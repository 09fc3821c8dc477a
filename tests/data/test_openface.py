"""OpenFace's tables of pictures and of videos, whole and damaged."""

import numpy as np
import pandas as pd
import pytest

from steps import Memory
from training.core.config import DataConfig
from training.data.labels import UNITS
from training.data.sources import Source, SourceError, read_source

COUNT = 24
NAMES = [f"{i:05d}.jpg" for i in range(COUNT)]
BLOND = [i % 2 for i in range(COUNT)]
PICTURE_HEAD = ", ".join(
    ["face", "confidence", *(f"{u}_r" for u in UNITS), *(f"{u}_c" for u in UNITS)]
)


def face(number: int, value: float, confidence: float = 0.975) -> str:
    """A row of FaceLandmarkImg's output: the intensities of all units are `value`."""
    rest = [f"{value:.2f}"] * len(UNITS) + ["1.0"] * len(UNITS)
    return ", ".join([str(number), str(confidence), *rest])


def measured(files: dict[str, bytes], names: list[str] = NAMES) -> Source:
    tree = Memory({**dict.fromkeys(names, b""), **files})
    return read_source("csv", tree, DataConfig(attributes=("AU12", "AU25")))


def joined(rows: list[str], head: str = PICTURE_HEAD) -> dict[str, bytes]:
    return {"openface.csv": "\n".join([head, *rows, ""]).encode()}


VALUES = [i % 6 for i in range(COUNT)]


@pytest.mark.parametrize("named", [False, True])
def test_the_joined_output_for_pictures_needs_no_column_success(named: bool) -> None:
    rows = [face(0, v) for v in VALUES]
    if named:
        rows = [f"{n}, {row}" for n, row in zip(NAMES, rows, strict=True)][::-1]
    got = measured(joined(rows, "file, " * named + PICTURE_HEAD))
    assert got.frame["AU12"].tolist() == VALUES
    assert got.notes == ()


@pytest.mark.parametrize("folder", ["", "processed/"])
def test_one_csv_for_each_picture_is_read_by_its_name(folder: str) -> None:
    files = {
        f"{folder}{n[:-4]}.csv": f"{PICTURE_HEAD}\n{face(0, v)}\n".encode()
        for n, v in zip(NAMES, VALUES, strict=True)
    }
    del files[f"{folder}00003.csv"]  # OpenFace found no face
    got = measured(files)
    assert got.frame["AU25"].drop(3).tolist() == [v for i, v in enumerate(VALUES) if i != 3]
    assert np.isnan(got.frame["AU25"][3])
    assert got.notes == (
        f"action units come from 23 CSVs of OpenFace ({folder}00000.csv …), named after the images",
        "1 images have no measurement",
    )


PEOPLE = [f"p{k}/{n}" for k in (1, 2) for n in NAMES[:12]]


def test_a_csv_belongs_to_the_picture_of_its_own_folder() -> None:
    """Where people's pictures have the same names, and OpenFace wrote beside them."""
    files = {
        f"{name[:3]}processed/{name[3:-4]}.csv": f"{PICTURE_HEAD}\n{face(0, i % 6)}\n".encode()
        for i, name in enumerate(PEOPLE)
    }
    got = measured(files, PEOPLE)
    assert got.frame["AU12"].tolist() == [i % 6 for i in range(len(PEOPLE))]
    assert not any("several faces" in note for note in got.notes)


@pytest.mark.parametrize("joined_in_one", [False, True])
def test_a_name_that_several_pictures_have_is_no_ones(joined_in_one: bool) -> None:
    """It is not the first one's: action units of one person would be another's labels."""
    rows = [face(0, v) for v in VALUES[:12]]
    if joined_in_one:
        named = [f"{n}, {row}" for n, row in zip(NAMES[:12], rows, strict=True)]
        files = joined(named, "file, " + PICTURE_HEAD)
    else:
        files = {
            f"out/{n[:-4]}.csv": f"{PICTURE_HEAD}\n{row}\n".encode()
            for n, row in zip(NAMES[:12], rows, strict=True)
        }
    with pytest.raises(SourceError, match="name no image"):
        measured(files, PEOPLE)


def test_of_several_faces_in_a_picture_the_most_confident_is_used_and_counted() -> None:
    rows = [face(0, 1, 0.9), face(1, 4, 0.98), face(2, 2, 0.5)]
    for files in (
        {"00000.csv": "\n".join([PICTURE_HEAD, *rows]).encode(),
         "00001.csv": "\n".join([PICTURE_HEAD, face(0, 3)]).encode()},
        joined([*rows, face(0, 3)]),
        joined([*rows, PICTURE_HEAD, face(0, 3)]),  # as `cat *.csv` gives it
    ):  # fmt: skip
        got = measured(files, NAMES[:2])
        assert got.frame["AU12"].tolist() == [4, 3]
        assert any(
            "1 images have several faces; the most confident one is used" in n for n in got.notes
        )
        assert any("1 rows without a face or with a confidence under 0.88" in n for n in got.notes)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (f"{PICTURE_HEAD}\n{face(0, 1)}, 7\n", "1 rows of another width, first line 2"),
        (f"{PICTURE_HEAD.replace('AU45_r', 'x')}\n{face(0, 1)}\n", "no column AU45_r"),
        (f"{PICTURE_HEAD}\n{face(0, 7)}\n", r"1 values of AU01 .* first line 2 \(00005\.jpg\)"),
    ],
)
def test_a_damaged_csv_of_one_picture_is_named(data: str, message: str) -> None:
    good = f"{PICTURE_HEAD}\n{face(0, 1)}\n".encode()
    files = {f"{name[:-4]}.csv": good for name in NAMES} | {"00005.csv": data.encode()}
    with pytest.raises(SourceError, match=message) as error:
        measured(files)
    assert "00005" in str(error.value)


def test_a_face_of_infinite_confidence_is_left_out() -> None:
    got = measured(joined([face(0, 4, float("inf")), face(1, 2, 0.9)]), NAMES[:1])
    assert got.frame["AU12"].tolist() == [2]


VIDEO_HEAD = "frame, face_id, timestamp, confidence, success, " + ", ".join(f"{u}_r" for u in UNITS)


def frame_row(number: object, value: object = "1.00") -> str:
    return f"{number}, 0, 0.0, 0.98, 1, " + ", ".join([str(value)] * len(UNITS))


FRAMES = [frame_row(i + 1) for i in range(COUNT)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*FRAMES[:-1], frame_row("inf")], r"1 rows name no image, first line 25"),
        ([*FRAMES[:-1], frame_row("1.5")], r"1 rows name no image, first line 25"),
        ([*FRAMES, "inf"], r"1 rows of another width, first line 26 with 1 fields .*: 'inf'"),
        ([FRAMES[0] + ", 7", *FRAMES[1:]], r"1 rows of another width, first line 2 with 23 fields"),
        ([f"{row}, 7" for row in FRAMES], r"24 rows of another width, first line 2 with 23 fields"),
        ([], r"a header and no rows; run OpenFace on the images"),
        ([frame_row(1, "inf"), *FRAMES[1:]], r"1 values of AU01 are not in 0 … 5, first line 2"),
        ([face(0, 1)], r"1 rows of another width, first line 2 with 36 fields instead of 22"),
    ],
)  # fmt: skip
def test_a_damaged_openface_table_is_refused_with_file_and_row(
    rows: list[str], message: str
) -> None:
    with pytest.raises(SourceError, match=rf"^openface\.csv: {message}"):
        measured(joined(rows, VIDEO_HEAD))


def test_a_table_without_success_and_face_names_its_columns() -> None:
    head = PICTURE_HEAD.replace("face, ", "")
    with pytest.raises(SourceError, match=r"no column success \(it has confidence, AU01_r, "):
        measured(joined([face(0, 1).partition(", ")[2]] * COUNT, head))


def test_an_own_column_named_like_an_action_unit_does_not_meet_openfaces() -> None:
    frame = pd.DataFrame({"file": NAMES, "AU12": BLOND})
    rows = [face(0, v) for v in VALUES]
    got = measured({**joined(rows), "labels.csv": frame.to_csv(index=False).encode()})
    assert got.frame["AU12"].tolist() == VALUES

"""Damaged label files: a refusal that names the file, or rows that keep every promise."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steps import Memory
from training.core.config import DataConfig
from training.data.layouts import read_layout
from training.data.openface import UNITS
from training.data.sources import problem, read_source
from training.data.validation.runner import check, open_context

# Great Expectations imports modules that Python has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")
PIXEL = bytes.fromhex(  # a PNG of 1x1 px
    "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
    "53de0000000c49444154789c63606060000000040001f61738550000000049454e44ae426082"
)
NAMES = [f"{i:06d}.jpg" for i in range(1, 7)]
LABELS = ("Black_Hair", "Blond_Hair", "Male")
SIGNS = [[1, -1, 1], [-1, 1, -1], [-1, -1, 1], [1, -1, -1], [-1, 1, 1], [-1, -1, -1]]
HEAD = "frame, face_id, timestamp, confidence, success, " + ", ".join(f"{u}_r" for u in UNITS)
TOKENS = [
    b",", b";", b"\t", b'"', b"\n", b"\r\n", b"\r", b" ", b"-1", b"0", b"1", b"2", b"yes", b"true",
    b"happy", b"nan", b"inf", b"-", b"1e400", b"..", b"/", b"\\", b"\0", b"\xe9", b"\xc3\xa9",
    b"\xff\xfe", b"000001.jpg", b"file", b"Male", b"split", b"sep=;\n", b"<", b"",
]  # fmt: skip


def lines(rows: list[str], end: str = "\r\n") -> bytes:
    return "".join(row + end for row in rows).encode()


def celeba() -> dict[str, bytes]:
    rows = [f"{n} " + " ".join(map(str, v)) for n, v in zip(NAMES, SIGNS, strict=True)]
    return {
        **dict.fromkeys(NAMES, PIXEL),
        "list_attr_celeba.txt": lines(["6", " ".join(LABELS) + " ", *rows]),
        "list_eval_partition.txt": lines([f"{n} {i // 2}" for i, n in enumerate(NAMES)]),
        "identity_CelebA.txt": lines([f"{n} {i + 40}" for i, n in enumerate(NAMES)]),
    }


def table() -> dict[str, bytes]:
    rows = [
        f"{n},{v[0]},{v[1]},{v[2]},p{i},{('train', 'val', 'test')[i % 3]}"
        for i, (n, v) in enumerate(zip(NAMES, SIGNS, strict=True))
    ]
    head = "file,Black_Hair,Blond_Hair,Male,identity,split"
    return {**dict.fromkeys(NAMES, PIXEL), "labels.csv": lines([head, *rows], "\n")}


def words() -> dict[str, bytes]:
    rows = [f"{n};{('happy', 'sad')[i % 2]}" for i, n in enumerate(NAMES)]
    return {**dict.fromkeys(NAMES, PIXEL), "labels.csv": lines(["file;mood", *rows])}


def faces() -> dict[str, bytes]:
    rows = [
        f"{i}, 0, 0.000, 0.98, 1, " + ", ".join(f"{(i + k) % 5}.25" for k in range(len(UNITS)))
        for i in range(1, 7)
    ]
    return {**dict.fromkeys(NAMES, PIXEL), "openface.csv": lines([HEAD, *rows], "\n")}


Case = tuple[str, Callable[[], dict[str, bytes]], DataConfig]
TARGETS: dict[str, Case] = {
    "list_attr_celeba.txt": ("celeba", celeba, DataConfig(attributes=LABELS)),
    "list_eval_partition.txt": ("celeba", celeba, DataConfig(attributes=LABELS)),
    "identity_CelebA.txt": ("celeba", celeba, DataConfig(attributes=LABELS)),
    "labels.csv": ("csv", table, DataConfig(attributes=LABELS)),
    "labels.csv of words": ("csv", words, DataConfig(attributes=("mood",))),
    "openface.csv": ("csv", faces, DataConfig(attributes=UNITS[:2])),
}


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` after one to three changes of bytes, lines, separators or encoding."""
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["bytes", "line", "swap", "separator", "encoding", "cut"]))
        rows = data.splitlines(keepends=True) or [b""]
        at = draw(st.integers(0, len(rows) - 1))
        start = draw(st.integers(0, len(data)))
        if kind == "bytes":
            stop = start + draw(st.integers(0, 12))
            data = data[:start] + draw(st.sampled_from(TOKENS)) + data[stop:]
        elif kind == "line":
            rows[at : at + 1] = [rows[at]] * draw(st.sampled_from([0, 2]))
            data = b"".join(rows)
        elif kind == "swap":
            rows[at], rows[-1] = rows[-1], rows[at]
            data = b"".join(rows)
        elif kind == "separator":
            pair = draw(st.permutations([b",", b";", b"\t", b" "]))[:2]
            data = data.replace(pair[0], pair[1], draw(st.sampled_from([1, -1])))
        elif kind == "encoding":
            data = data.decode("latin-1").encode(draw(st.sampled_from(["utf-16", "utf-16-le"])))
        else:
            data = data[:start]
    return data


def damaged_tree(target: str, draw: st.DataObject) -> tuple[str, Memory, DataConfig]:
    kind, make, config = TARGETS[target]
    files = make()
    name = target.split(" ")[0]
    files[name] = draw.draw(damaged(files[name]))
    return kind, Memory(files), config


@pytest.mark.parametrize("target", TARGETS)
def test_a_damaged_file_is_refused_by_name_or_gives_right_rows(target: str) -> None:
    @settings(deadline=None, max_examples=200)
    @given(st.data())
    def holds(draw: st.DataObject) -> None:
        kind, tree, config = damaged_tree(target, draw)
        text = problem(read_layout(kind, tree, config), config.bad_share)
        if text:
            assert re.search(r"\.(txt|csv)\b", text), text
            assert "\n" not in text
            return
        got = read_source(kind, tree, config).frame
        assert set(got["file"]) == set(NAMES)
        assert got["file"].is_unique
        assert set(got["part"]) <= {"train", "val", "test", ""}
        people = got[got["identity"] != ""].groupby("identity")["part"].nunique()
        assert (people == 1).all()
        for column in config.attributes:
            if column == "mood":
                assert (got[column] != "").all()
                assert got[column].nunique() > 1
            elif column in UNITS:
                assert (got[column].isna() | got[column].between(0, 5)).all()
            else:
                assert got[column].isin([-1, 1]).all()

    holds()


IMAGES = (  # rules for pictures; the fuzzers' are all the same pixel
    "image_pixels", "image_decodes", "image_side", "image_mode", "image_decodes_all", "image_size",
    "image_resolution", "image_content_unique", "image_content_in_one_part", "image_shape",
    "image_format", "image_content_in_one_class", "class_balance", "hair_exclusive",
    "final_newline",
)  # fmt: skip
COUNT = iter(range(1_000_000))


@pytest.mark.parametrize("target", TARGETS)
def test_validate_and_read_source_accept_the_same_files(target: str) -> None:
    context = open_context()

    @settings(deadline=None, max_examples=15)
    @given(st.data())
    def holds(draw: st.DataObject) -> None:
        kind, tree, config = damaged_tree(target, draw)
        text = problem(read_layout(kind, tree, config), config.bad_share)
        outcome = check(
            f"set{next(COUNT)}", kind, tree, config, context=context, without=IMAGES, workers=1
        )
        failed = [str(finding) for finding in outcome.failed]
        assert bool(text) == bool(failed), f"read_source: {text!r}; validate: {failed}"

    holds()


FOLDERS = ["cat/0.jpg", "dog/0.jpg", "dog/x/1.jpg", "train/cat/1.jpg", "test/dog/2.jpg", "3.jpg"]
VIEWS = [
    f"Rafd{camera}_{person}_Kid_{gender}_{mood}_left.{end}"
    for camera in ("045", "090")
    for person in ("07", "7")
    for gender, mood, end in (
        ("male", "sad", "jpg"),
        ("male", "sad", "png"),
        ("female", "sad", "jpg"),
    )
]


@pytest.mark.parametrize(("kind", "names"), [("folders", FOLDERS), ("rafd", VIEWS)])
def test_validate_and_read_source_accept_the_same_names(kind: str, names: list[str]) -> None:
    context = open_context()

    @settings(deadline=None, max_examples=15)
    @given(st.sets(st.sampled_from(names)))
    def holds(chosen: set[str]) -> None:
        tree, config = Memory(dict.fromkeys(chosen, PIXEL)), DataConfig()
        text = problem(read_layout(kind, tree, config), config.bad_share)
        outcome = check(
            f"set{next(COUNT)}", kind, tree, config, context=context, without=IMAGES, workers=1
        )
        failed = [str(finding) for finding in outcome.failed]
        assert bool(text) == bool(failed), f"read_source: {text!r}; validate: {failed}"

    holds()

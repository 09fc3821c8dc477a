"""Label tables as spreadsheets and OpenFace write them: read right, or refused with the fix."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steps import Memory, Steps, draw
from training.core.config import DataConfig
from training.data.columns import INTERNAL, MARK, label_column
from training.data.sources import Source, SourceError, read_source

# Great Expectations imports modules that Python has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")
Run = Callable[..., Steps]
COUNT = 24


NAMES = [f"{i:05d}.jpg" for i in range(COUNT)]
BLOND = [i % 2 for i in range(COUNT)]
SMILE = [i // 2 % 2 for i in range(COUNT)]
ATTRIBUTES = ("Blond", "Smiling")


def table(
    separator: str = ",", head: tuple[str, ...] = ("file", *ATTRIBUTES), end: str = "\n",
    value: Callable[[int], object] = int, name: Callable[[str], str] = str, quoting: int = 0,
) -> str:  # fmt: skip
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, lineterminator=end, quoting=quoting)
    writer.writerow(head)
    for file, blond, smile in zip(NAMES, BLOND, SMILE, strict=True):
        writer.writerow([name(file), value(blond), value(smile)])
    return out.getvalue()


def source(
    data: bytes, attributes: tuple[str, ...] = ATTRIBUTES, names: list[str] = NAMES
) -> Source:
    files = {**dict.fromkeys(names, b""), "labels.csv": data}
    return read_source("csv", Memory(files), DataConfig(attributes=attributes))


SEMICOLON = "labels.csv: columns separated by semicolons"
# Dialect -> the file's bytes, and what is said about it.
DIALECTS = {
    "comma": (table().encode(), ()),
    "semicolon": (table(";", end="\r\n").encode(), (SEMICOLON,)),
    "semicolon, BOM": (table(";", end="\r\n").encode("utf-8-sig"), (SEMICOLON,)),
    "tab": (table("\t").encode(), ("labels.csv: columns separated by tabs",)),
    "bar": (table("|").encode(), ("labels.csv: columns separated by bars",)),
    "UTF-16 tab": (
        table("\t", end="\r\n").encode("utf-16"),
        ("labels.csv: read as UTF-16, columns separated by tabs",),
    ),
    "UTF-16 big-endian": (
        b"\xfe\xff" + table().encode("utf-16-be"),
        ("labels.csv: read as UTF-16",),
    ),
    "UTF-16 without BOM": (
        table().encode("utf-16-le"),
        ("labels.csv: read as UTF-16-LE without a byte order mark",),
    ),
    "UTF-32": (table().encode("utf-32"), ("labels.csv: read as UTF-32",)),
    "quotes": (table(quoting=csv.QUOTE_ALL).encode(), ()),
    "line ends of old Macs": (table(end="\r").encode(), ()),
    "Excel's sep=": (("sep=;\r\n" + table(";", end="\r\n")).encode(), (SEMICOLON,)),
    "True and False": (
        table(value=bool).encode(),
        ("labels.csv: true and false are read as 1 and 0: Blond, Smiling",),
    ),
    "YES and no": (
        table(value=lambda v: "YES" if v else "no").encode(),
        ("labels.csv: yes and no are read as 1 and 0: Blond, Smiling",),
    ),
    "-1 and 1": (table(value=lambda v: 2 * v - 1).encode(), ()),
    "Filename": (table(head=("Filename", *ATTRIBUTES)).encode(), ()),
    "image_path": (table(head=("image_path", *ATTRIBUTES)).encode(), ()),
    "names without suffix": (table(name=lambda n: n[:-4]).encode(), ()),
    "Windows path": (
        table(name=lambda n: f"C:\\Users\\me\\faces\\{n}").encode(),
        (f"labels.csv: {COUNT} names are read without their folder 'C:/Users/me/faces/'",),
    ),
    "relative Windows path": (
        table(name=lambda n: f".\\{n}").encode(),
        (f"labels.csv: {COUNT} names with backslashes are read with slashes",),
    ),
    "absolute path": (
        table(name=lambda n: f"/home/me/faces/{n}").encode(),
        (f"labels.csv: {COUNT} names are read without their folder '/home/me/faces/'",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_dialect_gives_the_labels_of_plain_csv(dialect: str) -> None:
    data, said = DIALECTS[dialect]
    got = source(data)
    assert got.frame["file"].tolist() == NAMES
    assert got.frame["Blond"].tolist() == [2 * v - 1 for v in BLOND]
    assert got.frame["Smiling"].tolist() == [2 * v - 1 for v in SMILE]
    assert got.notes == said


def test_windows_1252_is_read_and_said_to_be_a_guess() -> None:
    head = ("file", "Blond", "Lächeln")
    got = source(table(head=head).encode("cp1252"), ("Blond", "Lächeln"))
    assert got.frame["Lächeln"].tolist() == [2 * v - 1 for v in SMILE]
    (note,) = got.notes
    assert "read as Windows-1252, a guess" in note
    assert "first in line 1, 'file,Blond,Lächeln'" in note


REFUSED = {
    "damaged UTF-8": (
        table(head=("file", "Blond", "Lächeln")).encode() + b"\xe9.jpg,1,1\n",
        r"labels\.csv: a damaged UTF-8 text \(line 26, byte \d+\) file.*save it as comma-separated",
    ),
    "no known encoding": (
        b"file,Blond,Sm\x81iling\n" + table().encode(),
        r"neither in UTF-8 nor in Windows-1252 \(line 1, byte 13\)",
    ),
    "a workbook": (b"PK\x03\x04\x14\0\0\0\x08\0" + b"\x9c\xfa" * 99, r"save the spreadsheet"),
    "an empty text": ("\u00a0\n".encode(), r"labels\.csv: a empty file"),
    "a byte order mark": (b"\xef\xbb\xbf", r"labels\.csv: a empty file"),
    "an open quotation mark": (
        table().replace("Smiling", '"Smiling').encode(),
        r"broken \(a quotation mark in its first line is not closed\) file.*remove the mark",
    ),
    "no column": (b",,\n,,\n", r"no column holds the image names"),
    "spaces": (table(" ").encode(), r"\('file Blond Smiling' has no comma or semi.*save it"),
    "other absolute paths": (
        table(name=lambda n: f"/home/me/{n[4]}/x{n}").encode(),
        rf"{COUNT} names leave the data folder: line 2 .*write them as in the folder, like 00000",
    ),
    "numbers for names": (
        table(name=lambda n: str(int(n[:-4]))).encode(),
        rf"{COUNT} rows without an image, line 2 \(0\).*as in the folder, like 00000\.jpg",
    ),
    "a blank cell": (
        table().replace("00004.jpg,0,0", "00004.jpg,0,").encode(),
        r"1 values of Smiling are not 0 or 1: line 6 \(00004\.jpg\): ''; write 0 or 1 in every",
    ),
    "yes and 1": (
        table().replace("00004.jpg,0,0", "00004.jpg,0,yes").encode(),
        r"1 values of Smiling are not 0 or 1: line 6 \(00004\.jpg\): 'yes'",
    ),
    "another header": (
        table(head=("file", "blond", "Smile")).encode(),
        r"no label column Blond, Smiling \(Blond: absent; the columns are file, blond, Smile; "
        r"blond may be meant\)",
    ),
    "no column of names": (
        table(head=("face", *ATTRIBUTES)).encode(),
        r"no column holds the image names \(the columns are face, Blond, Smiling\); name that",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_another_table_is_refused_with_its_own_fault(fault: str) -> None:
    data, message = REFUSED[fault]
    with pytest.raises(SourceError, match=message) as error:
        source(data)
    assert "count" not in str(error.value)
    assert "annex" not in str(error.value)


@given(
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(
        st.text("abz äß;,\t'\"-_.%&|=", min_size=1, max_size=9).map(str.strip).filter(bool),
        min_size=1, max_size=4, unique_by=str.lower,
    ),
    st.booleans(),
)  # fmt: skip
@settings(deadline=None, max_examples=150)
def test_every_dialect_of_the_csv_module_is_read_back(
    separator: str, encoding: str, end: str, names: list[str], quoted: bool
) -> None:
    out = io.StringIO()
    quoting = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    writer = csv.writer(out, delimiter=separator, lineterminator=end, quoting=quoting)
    names = [f"a{name}" for name in names]  # no number, no file column
    writer.writerow(["file", *names])
    rows = [[NAMES[i], *((i >> k) & 1 for k in range(len(names)))] for i in range(8)]
    writer.writerows(rows)
    got = source(out.getvalue().encode(encoding), tuple(names), NAMES[:8]).frame
    assert got[names].to_numpy().tolist() == [[2 * v - 1 for v in row[1:]] for row in rows]


@given(st.lists(st.sampled_from([*sorted(INTERNAL), "a"]).flatmap(
    lambda n: st.integers(0, 3).map(lambda k: n + MARK * k)), unique=True))  # fmt: skip
def test_different_columns_keep_different_names(names: list[str]) -> None:
    columns = [label_column(name) for name in names]
    assert len(set(columns)) == len(names)
    assert not set(columns) & INTERNAL


ODD = ("label", "view", "name", "row", "base", "line", "image", "inside", "part", "sha256", "shard",
       "reason", "dataset", "table", "found", "class", "expression", "camera", "gaze", "AU99",
       "view (column)")  # fmt: skip


def test_columns_with_the_names_that_the_code_uses_are_labels(
    tmp_path: Path, run_steps: Run
) -> None:
    draw(tmp_path / "own", NAMES)
    values = {
        name: [(i + k) // (1 + k % 3) % 2 for i in range(COUNT)] for k, name in enumerate(ODD)
    }
    pd.DataFrame({"file": NAMES, **values}).to_csv(tmp_path / "own" / "labels.csv", index=False)
    done = run_steps("csv", tmp_path / "own", attributes=ODD, size=16)
    assert done.refusals() == []
    (labels,) = done.sets
    assert (labels["kind"], tuple(labels["names"])) == ("binary", ODD)
    rows = done.labels[["file", "label"]].itertuples(index=False)
    got = {file: list(label) for file, label in rows}
    assert got == {n: [values[name][i] for name in ODD] for i, n in enumerate(NAMES)}


@pytest.mark.parametrize("name", ["label", "class", "expression", "mood", "name"])
@pytest.mark.parametrize("field", ["attributes", "domains"])
def test_a_column_of_words_is_a_class_of_each_image(
    tmp_path: Path, run_steps: Run, name: str, field: str
) -> None:
    """The same labels as class folders give."""
    moods = ["happy", "sad", "angry"]
    words = [moods[i % 3] for i in range(COUNT)]
    draw(tmp_path / "own", NAMES)
    pd.DataFrame({"file": NAMES, name: words}).to_csv(tmp_path / "own" / "labels.csv", index=False)
    done = run_steps("csv", tmp_path / "own", size=16, **{field: (name,)})
    assert done.refusals() == []
    assert done.sets == [
        {"name": "set", "kind": "onehot", "names": ["angry", "happy", "sad"], "groups": []}
    ]
    assert "are 3 classes: 'angry' 8, 'happy' 8, 'sad' 8" in done.said
    got = dict(zip(done.labels["file"], done.labels["label"], strict=True))
    assert all(got[n].argmax() == sorted(moods).index(w) for n, w in zip(NAMES, words, strict=True))


@pytest.mark.parametrize(
    ("words", "attributes", "message"),
    [
        (["happy", ""], ("mood",), r"labels\.csv: 12 images without a class in mood: line 3"),
        (["happy", "happy"], ("mood",), r"labels\.csv: only one class, 'happy'; two or more"),
        (["happy", "1"], ("mood",), r"12 values of mood are not 0 or 1: line 2 .*: 'happy'"),
        (["2", "3"], ("mood",), r"mood are not 0 or 1: .*if mood names classes, write a word"),
        (["maybe", "no"], ("mood",), r"12 values of mood are not 0 or 1: line 2 .*: 'maybe'"),
        (["True", ""], ("mood",), r"12 values of mood are not 0 or 1: line 3 .*: ''"),
        (["yes", "false"], ("mood",), r"24 values of mood are .*not a number or yes, no"),
        (["happy", "sad"], ("mood", "Hat"), r"mood are not 0 or 1.*only one of data\.attributes"),
        (["happy", "sad"], ("Mood",), r"absent; the columns are file, mood, Hat; mood may be"),
        (["happy", "sad"], ("file",), r"it names the image and cannot be a label; rename"),
    ],
)  # fmt: skip
def test_a_column_that_is_neither_binary_nor_words_is_refused(
    words: list[str], attributes: tuple[str, ...], message: str
) -> None:
    frame = pd.DataFrame({"file": NAMES, "mood": words * (COUNT // 2), "Hat": BLOND})
    with pytest.raises(SourceError, match=message):
        source(frame.to_csv(index=False).encode(), attributes)


def test_words_beside_signed_labels_are_signed() -> None:
    frame = pd.DataFrame({"file": NAMES, "Blond": [2 * v - 1 for v in BLOND]})
    frame["Smiling"] = ["True" if v else "False" for v in SMILE]
    got = source(frame.to_csv(index=False).encode()).frame
    assert got["Smiling"].tolist() == [2 * v - 1 for v in SMILE]


def test_a_table_without_a_header_has_numbered_columns_and_says_so() -> None:
    data = table().partition("\n")[2].encode()
    got = source(data, ("column 2",))
    assert got.frame["column 2"].tolist() == [2 * v - 1 for v in SMILE]
    assert "line 1 is a row and not a header" in got.notes[0]


def test_paths_of_another_machine_that_could_be_two_images_are_refused() -> None:
    names = [*NAMES, *(f"faces/{name}" for name in NAMES)]
    with pytest.raises(SourceError, match=rf"{COUNT} names leave the data folder"):
        source(table(name=lambda n: f"D:/me/faces/{n}").encode(), names=names)


def test_other_csvs_beside_the_labels_are_said_not_to_be_read() -> None:
    files = {**dict.fromkeys(NAMES, b""), "labels.csv": table().encode(), "more.csv": b"a,b"}
    got = read_source("csv", Memory(files), DataConfig(attributes=ATTRIBUTES))
    assert got.notes == ("labels are read from labels.csv, not from more.csv",)


@pytest.mark.parametrize(("name", "what"), [("split", "the split"), ("identity", "the person")])
def test_a_column_with_a_role_is_no_label(name: str, what: str) -> None:
    frame = pd.DataFrame({"file": NAMES, name: ["train", "test"] * (COUNT // 2)})
    with pytest.raises(SourceError, match=f"it names {what} and cannot be a label; rename"):
        source(frame.to_csv(index=False).encode(), (name,))

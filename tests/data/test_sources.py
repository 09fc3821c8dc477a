"""Each raw layout and its known variants become one typed frame or are refused."""

import zipfile
from pathlib import Path

import pandas as pd
import pytest

from steps import Memory
from training.core.config import DataConfig
from training.data.archive import Folder
from training.data.layouts import ATTRIBUTES, EXPRESSIONS
from training.data.openface import UNITS
from training.data.sources import SourceError, read_source
from training.data.tables import read_table

ROWS = [[1 if (i + j) % 3 else -1 for j in range(40)] for i in range(4)]
FILES = [f"{i:06d}.jpg" for i in range(1, 5)]


def attribute_text(
    files: list[str] = FILES, rows: list[list[int]] = ROWS, end: str = "\r\n"
) -> bytes:
    """The official form: values two wide, but no pad before a leading positive."""
    lines = [str(len(files)), " ".join(ATTRIBUTES) + " "]
    lines += [
        f"{f} {r[0]} " + " ".join(f"{v:2d}" for v in r[1:])
        for f, r in zip(files, rows, strict=True)
    ]
    return "".join(f"{line}{end}" for line in lines).encode()


def celeba() -> Memory:
    files = {f"img_align_celeba/{file}": b"\xff\xd8\xff" + file.encode() for file in FILES}
    files["list_attr_celeba.txt"] = attribute_text()
    files["list_eval_partition.txt"] = b"".join(
        f"{file} {part}\r\n".encode() for file, part in zip(FILES, (0, 0, 1, 2), strict=True)
    )
    files["identity_CelebA.txt"] = b"".join(
        f"{file} {n}\r\n".encode() for file, n in zip(FILES, (7, 7, 8, 9), strict=True)
    )
    return Memory(files)


def frame(tree: Memory, kind: str = "celeba", config: DataConfig | None = None) -> pd.DataFrame:
    return read_source(kind, tree, config or DataConfig()).frame


def test_celeba_becomes_typed_rows_in_the_label_files_order() -> None:
    got = frame(celeba())
    assert list(got.columns) == ["file", "identity", "part", *ATTRIBUTES]
    assert list(got["file"]) == [f"img_align_celeba/{file}" for file in FILES]
    assert list(got["identity"]) == ["7", "7", "8", "9"]
    assert list(got["part"]) == ["train", "train", "val", "test"]
    assert got[list(ATTRIBUTES)].to_numpy().tolist() == ROWS
    assert {str(dtype) for dtype in got[list(ATTRIBUTES)].dtypes} == {"int8"}


def _lf(tree: Memory) -> None:
    tree.files["list_attr_celeba.txt"] = attribute_text(end="\n")


def _kaggle(low: int) -> bytes:
    lines = [",".join(["image_id", *ATTRIBUTES])]
    lines += [
        ",".join([f, *(str(v if v == 1 else low) for v in r)])
        for f, r in zip(FILES, ROWS, strict=True)
    ]
    return "\n".join(lines).encode() + b"\n"


def _kaggle_signed(tree: Memory) -> None:
    del tree.files["list_attr_celeba.txt"]
    tree.files["list_attr_celeba.csv"] = _kaggle(-1)


def _kaggle_binary(tree: Memory) -> None:
    del tree.files["list_attr_celeba.txt"], tree.files["list_eval_partition.txt"]
    tree.files["list_attr_celeba.csv"] = b"\xef\xbb\xbf" + _kaggle(0)
    tree.files["list_eval_partition.csv"] = b"image_id,partition\n" + b"".join(
        f"{file},{part}\n".encode() for file, part in zip(FILES, (0, 0, 1, 2), strict=True)
    )


def _images_at_top(tree: Memory) -> None:
    tree.files = {name.rpartition("/")[2]: data for name, data in tree.files.items()}


def _official_folders(tree: Memory) -> None:
    tree.files["Anno/list_attr_celeba.txt"] = tree.files.pop("list_attr_celeba.txt")
    tree.files["Eval/list_eval_partition.txt"] = tree.files.pop("list_eval_partition.txt")
    for file in FILES:
        name = f"img_align_celeba/{file}"
        tree.files[f"Img/img_align_celeba/{name}"] = tree.files.pop(name)
        tree.files[f"Img/img_celeba/{file}"] = b"\xff\xd8\xff"  # the uncropped originals


def _png_images(tree: Memory) -> None:
    for file in FILES:
        data = tree.files.pop(f"img_align_celeba/{file}")
        tree.files[f"img_align_celeba_png/{file[:-4]}.png"] = data


def _forks(tree: Memory) -> None:
    tree.files["__MACOSX/img_align_celeba/._000001.jpg"] = b"x"
    tree.files["img_align_celeba/.000001.jpg"] = b"x"


@pytest.mark.parametrize(
    "variant",
    [_lf, _kaggle_signed, _kaggle_binary, _images_at_top, _official_folders, _png_images, _forks],
)
def test_variants_of_celeba_give_the_same_labels(variant) -> None:  # type: ignore[no-untyped-def]
    tree = celeba()
    variant(tree)
    want, got = frame(celeba()), frame(tree)
    pd.testing.assert_frame_equal(got.drop(columns="file"), want.drop(columns="file"))
    assert [Path(name).stem for name in got["file"]] == [Path(name).stem for name in want["file"]]


def test_partition_and_identities_are_optional() -> None:
    tree = celeba()
    del tree.files["list_eval_partition.txt"], tree.files["identity_CelebA.txt"]
    got = frame(tree)
    assert set(got["part"]) == set(got["identity"]) == {""}


TEXT = attribute_text().decode()
FAULTS = {
    "a web page file": "<!DOCTYPE html><html>Quota exceeded</html>",
    "a git-lfs pointer file": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "a git-annex pointer file": "/annex/objects/SHA256E-s26721026--00.txt\n",
    "a empty file": " \n",
    "line 1 gives 4 rows, the file has 3": TEXT[: TEXT.index("000004.jpg")],
    "1 rows of another width, first line 6 with 2 fields": TEXT[: TEXT.index("000004.jpg") + 13],
    "line 1 is not the number of rows": TEXT[TEXT.index("5_o") :],
    "the column Male occurs twice": TEXT.replace("Big_Lips", "Male"),
    "no label column Male": TEXT.replace("Male", "male"),
    "1 rows without an image, line 3 (000009.jpg)": TEXT.replace("000001.jpg", "000009.jpg"),
    "1 images are listed more than once, line 4": TEXT.replace("000002.jpg", "000001.jpg"),
    "1 names leave the data folder: line 3 (x/../evil.jpg)": TEXT.replace(
        "000001.jpg", "x/../evil.jpg"
    ),
    "values of 5_o_Clock_Shadow are not -1 or 1: line 4 (000002.jpg): '7'": TEXT.replace(
        "000002.jpg 1", "000002.jpg 7"
    ),
}


@pytest.mark.parametrize("message", FAULTS)
def test_a_broken_label_file_is_refused_with_its_fault(message: str) -> None:
    tree = celeba()
    tree.files["list_attr_celeba.txt"] = FAULTS[message].encode()
    with pytest.raises(SourceError) as error:
        frame(tree)
    assert message in str(error.value)
    assert "list_attr_celeba.txt" in str(error.value)


def test_a_missing_label_file_an_unlabelled_image_and_an_unknown_part_are_refused() -> None:
    tree = celeba()
    del tree.files["list_attr_celeba.txt"]
    with pytest.raises(SourceError, match=r"no list_attr_celeba\.txt"):
        frame(tree)
    tree = celeba()
    tree.files["img_align_celeba/000005.jpg"] = b"\xff\xd8\xff"
    with pytest.raises(SourceError, match=r"1 images without a row, .*000005\.jpg"):
        frame(tree)
    for old, new in ((b"jpg 2", b"jpg 3"), (b"000004", b"000009")):
        tree = celeba()
        parts = tree.files["list_eval_partition.txt"]
        tree.files["list_eval_partition.txt"] = parts.replace(old, new)
        with pytest.raises(
            SourceError,
            match=r"partition\.txt: 1 images of list_attr.* without a valid split: line 6",
        ):
            frame(tree)
    tree = celeba()
    tree.files["identity_CelebA.txt"] = tree.files["identity_CelebA.txt"].replace(b"04.", b"09.")
    with pytest.raises(SourceError, match=r"1 images of .* without a valid identity: line 6"):
        frame(tree)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("list_eval_partition.txt", "000002.jpg 0", "000002.jpg 2", "1 persons are in more than"),
        ("list_eval_partition.txt", "000002.jpg", "000001.jpg", "1 images have several rows, .*2"),
        ("identity_CelebA.txt", "000004.jpg", "img/000003.png", "1 images have several rows, .*4"),
        ("identity_CelebA.txt", "000004.jpg 9", "000004.jpg 9 9", "1 rows of another width"),
    ],
)
def test_a_contradicting_partition_or_identity_is_refused(
    name: str, old: str, new: str, message: str
) -> None:
    tree = celeba()
    tree.files[name] = tree.files[name].replace(old.encode(), new.encode())
    with pytest.raises(SourceError, match=message):
        frame(tree)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="celeba, rafd, folders, csv"):
        frame(celeba(), "coco")


def test_every_genuine_rafd_name_is_read(shared_data: Path) -> None:
    names = (shared_data / "rafd_names.txt").read_text().split()
    got = frame(Memory(dict.fromkeys(names, b"\xff\xd8\xff")), "rafd")
    assert len(names) == len(got) == 175
    kid = got.set_index("file").loc["Rafd090_63_Kid_male_angry_frontal.jpg"]
    assert list(kid[["identity", "group", "gender", "expression", "camera", "gaze"]]) == [
        "63", "Kid", "male", "angry", "090", "frontal",
    ]  # fmt: skip
    assert set(got["expression"]) <= set(EXPRESSIONS)


@pytest.mark.parametrize("ending", ["jpg", "JPG", "png"])
def test_rafd_suffixes(ending: str) -> None:
    name = f"deep/Rafd180_07_Moroccan_male_sad_left.{ending}"
    assert frame(Memory({name: b""}), "rafd")["identity"].tolist() == ["07"]


@pytest.mark.parametrize(
    "name",
    [
        "Rafd046_01_Caucasian_female_angry_frontal.jpg",
        "Rafd090_1_Caucasian_female_angry_frontal.jpg",
        "Rafd090_01_Kid_Caucasian_female_angry_frontal.jpg",
        "Rafd090_01_Caucasian_female_angry_up.jpg",
        "Rafd090_01_Caucasian_female_Angry_frontal.jpg",
        "xRafd090_01_Caucasian_female_angry_frontal.jpg",
    ],
)
def test_other_names_are_not_rafd(name: str) -> None:
    good = "Rafd090_02_Caucasian_female_angry_frontal.jpg"
    with pytest.raises(SourceError, match="1 images of rafd without a valid identity"):
        frame(Memory({good: b"", name: b""}), "rafd")


def test_own_folders_are_classes() -> None:
    got = frame(Memory({"dog/b.jpg": b"", "cat/x/a.PNG": b"", "readme.txt": b""}), "folders")
    assert got[["file", "class", "part"]].to_numpy().tolist() == [
        ["cat/x/a.PNG", "cat", ""], ["dog/b.jpg", "dog", ""],
    ]  # fmt: skip
    tree = {"train/dog/b.jpg": b"", "train/cat/b.jpg": b"", "val/cat/a.png": b""}
    got = frame(Memory(tree), "folders")
    assert got[["class", "part"]].to_numpy().tolist() == [
        ["cat", "train"], ["dog", "train"], ["cat", "val"],
    ]  # fmt: skip
    with pytest.raises(SourceError, match=r"1 images outside a class folder: .*b\.jpg"):
        frame(Memory({"b.jpg": b"", "cat/a.png": b""}), "folders")


CSV = DataConfig(attributes=("smile", "hat"))


@pytest.mark.parametrize(("low", "end"), [("0", "\n"), ("-1", "\r\n"), ("0.0", "\n")])
def test_an_own_csv_has_0_1_or_signed_labels(low: str, end: str) -> None:
    lines = [
        "identity,file,smile,hat,split,remark",
        f'anna,"a, b.jpg",1,{low},train,"good, clear"',
        f"bert,sub/c.png,{low},{low},Valid,",
    ]
    files = {"own.csv": end.join(lines).encode(), "a, b.jpg": b"", "sub/c.png": b""}
    source = read_source("csv", Memory(files), CSV)
    assert source.frame.to_numpy().tolist() == [
        ["a, b.jpg", "anna", "train", 1, -1], ["sub/c.png", "bert", "val", -1, -1],
    ]  # fmt: skip
    assert source.notes == ("own.csv: neither 0/1 nor -1/1, left out: remark",)


def test_words_that_say_who_is_shown_are_kept_with_an_own_csvs_labels() -> None:
    """Numbers in such a column, and words in any other, are left out."""
    text = "file,smile,hat,Gender,age,race,remark\na.jpg,1,0,woman,34,,x\nb.jpg,0,1,man,51,r,y"
    files = {"labels.csv": text.encode(), "a.jpg": b"", "b.jpg": b""}
    source = read_source("csv", Memory(files), CSV)
    assert source.frame.columns[3:].tolist() == ["smile", "hat", "Gender", "race"]
    assert source.frame[["Gender", "race"]].to_numpy().tolist() == [["woman", ""], ["man", "r"]]
    assert source.notes == (
        "labels.csv: kept for scores by group of people: Gender, race",
        "labels.csv: neither 0/1 nor -1/1, left out: age, remark",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,smile,hat\na.jpg,1,0\nb.jpg,-1,1\n", "1 values of hat are not -1 or 1"),
        ("file,smile,hat\na.jpg,1,yes\nb.jpg,1,1\n", "values of hat are not 0 or 1: line 2"),
        ("file,smile\na.jpg,1\nb.jpg,1\n", "no label column hat"),
        ("file,smile,hat\n/etc/x.jpg,1,1\nb.jpg,1,1\n", "1 names leave the data folder"),
        ("file,smile,hat,split\na.jpg,1,1,dev\nb.jpg,1,1,test\n", "without a valid split"),
        ("file,smile,hat\na.jpg,1,1,1\nb.jpg,1,1\n", "1 rows of another width"),
    ],
)
def test_a_broken_csv_is_refused(text: str, message: str) -> None:
    with pytest.raises(SourceError) as error:
        frame(Memory({"labels.csv": text.encode(), "a.jpg": b"", "b.jpg": b""}), "csv", CSV)
    assert message in str(error.value)


def test_a_path_does_not_match_an_image_in_another_folder() -> None:
    """cats/1.jpg is missing: dogs/1.jpg is another picture; another suffix is accepted."""
    text = b"file,smile,hat\ncats/1.jpg,1,0\ndogs/2.jpg,0,1\n"
    files = {"labels.csv": text, "dogs/1.jpg": b"", "dogs/2.png": b"", "x/2.png": b""}
    with pytest.raises(SourceError, match=r"1 rows without an image, line 2 \(cats/1\.jpg\)"):
        read_source("csv", Memory(files), CSV)
    files = {"labels.csv": text, "cats/1.jpg": b"", "dogs/2.png": b""}
    got = read_source("csv", Memory(files), CSV).frame
    assert got["file"].tolist() == ["cats/1.jpg", "dogs/2.png"]


def test_several_csv_files_need_a_labels_csv() -> None:
    with pytest.raises(SourceError, match=r"no labels\.csv \(one of a\.csv, b\.csv\)"):
        frame(Memory({"a.csv": b"file", "b.csv": b"file", "a.jpg": b""}), "csv", CSV)


HEAD = "frame, face_id, timestamp, confidence, success, " + ", ".join(f"{unit}_r" for unit in UNITS)


def _units(rows: list[tuple[str, ...]], head: str = HEAD) -> bytes:
    return "\n".join([head, *(", ".join(row) for row in rows)]).encode() + b"\n"


def _row(
    number: int, confidence: str = "0.98", success: str = "1", value: str = ""
) -> tuple[str, ...]:
    values = [f"{number + i / 100:.2f}" for i in range(len(UNITS))]
    return (str(number), "0", "0.000", confidence, success, value or values[0], *values[1:])


@pytest.mark.parametrize("named", [True, False])
def test_action_units_join_by_file_or_by_sorted_order(named: bool) -> None:
    tree = celeba()
    rows = [_row(1), _row(2), _row(3, confidence="0.87"), _row(4, success="0")]
    if named:  # in another order than the images
        rows = [(*row, file) for row, file in zip(rows, FILES, strict=True)][::-1]
    tree.files["openface.csv"] = _units(rows, HEAD + (", file" if named else ""))
    got = frame(tree)
    assert list(got.columns[-17:]) == list(UNITS)
    assert got["AU01"].tolist()[:2] == [1.0, 2.0]
    assert got["AU45"].tolist()[:2] == [1.16, 2.16]
    assert got[list(UNITS)].isna().all(axis=1).tolist() == [False, False, True, True]


def test_the_most_confident_face_of_an_image_is_used() -> None:
    tree = celeba()
    rows = [(*_row(1, confidence="0.9"), FILES[0]), (*_row(2, confidence="0.99"), FILES[0])]
    tree.files["openface.csv"] = _units(rows, HEAD + ", file")
    assert frame(tree)["AU01"].tolist()[0] == 2.0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            _units([_row(1, value="5.5"), *map(_row, (2, 3, 4))]),
            "AU01 are not in 0 … 5, first line 2",
        ),
        (
            _units([_row(1, value="x"), *map(_row, (2, 3, 4))]),
            "AU01 are not in 0 … 5, first line 2",
        ),
        (_units([_row(1), _row(2)], HEAD.replace("frame", "f")), "2 rows for 4 images"),
        (_units([_row(1)], HEAD.replace("AU45_r", "AU45_c")), "no column AU45_r"),
        (b"<html>", "a web page file"),
    ],
)
def test_a_broken_openface_file_is_refused(data: bytes, message: str) -> None:
    tree = celeba()
    tree.files["openface.csv"] = data
    with pytest.raises(SourceError) as error:
        frame(tree)
    assert message in str(error.value)


@pytest.mark.parametrize("kind", ["celeba", "rafd", "csv"])
def test_requested_action_units_come_from_openface(kind: str) -> None:
    """No label column is then needed; without openface.csv the error says how to fix it."""
    tree = {"celeba": celeba(), "csv": Memory({"labels.csv": b"file,age\na.jpg,3\n", "a.jpg": b""}),
            "rafd": Memory({"Rafd090_01_Kid_male_sad_left.jpg": b""})}[kind]  # fmt: skip
    config = DataConfig(attributes=UNITS[:2])
    with pytest.raises(SourceError, match=r"attributes AU01, AU02 need openface\.csv"):
        frame(tree, kind, config)
    count = sum(name.endswith("jpg") for name in tree.files)
    tree.files["openface.csv"] = _units([_row(i + 1) for i in range(count)])
    assert frame(tree, kind, config)["AU02"].tolist() == [1.01 + i for i in range(count)]


def test_pictures_with_openface_alone_are_a_data_set() -> None:
    """If another attribute is requested too, a label table is needed."""
    tree = Memory({"a.jpg": b"", "b.jpg": b"", "openface.csv": _units([_row(1), _row(2)])})
    got = frame(tree, "csv", DataConfig(attributes=UNITS[:2]))
    assert got["file"].tolist() == ["a.jpg", "b.jpg"]
    assert got["AU02"].tolist() == [1.01, 2.01]
    with pytest.raises(SourceError, match=r"no labels\.csv among the files"):
        frame(tree, "csv", DataConfig(attributes=("AU01", "smile")))


@pytest.mark.parametrize(("domains", "wrong"), [(("smile",), ""), (("smile", "beard"), "beard")])
def test_with_domains_a_csv_needs_only_their_columns(domains: tuple[str, ...], wrong: str) -> None:
    """The preset's attributes, which the file does not have, are then not required."""
    files = {"labels.csv": b"file,smile\na.jpg,1\nb.jpg,0\n", "a.jpg": b"", "b.jpg": b""}
    config = DataConfig(domains=domains)
    if not wrong:
        assert frame(Memory(files), "csv", config)["smile"].tolist() == [1, -1]
        return
    with pytest.raises(SourceError, match="no label column beard"):
        frame(Memory(files), "csv", config)


def test_genuine_celeba_is_read(shared_data: Path) -> None:
    got = read_source("celeba", Folder(shared_data / "celeba"), DataConfig()).frame
    assert got["part"].value_counts().to_dict() == {"train": 1100, "val": 200, "test": 200}
    assert got.groupby("identity")["part"].nunique().max() == 1
    assert got[list(ATTRIBUTES)].isin([-1, 1]).all(axis=None)


def test_the_full_official_label_file_is_read(shared_data: Path) -> None:
    with zipfile.ZipFile(shared_data / "celeba_full_labels" / "list_attr_celeba.zip") as archive:
        data = archive.read("list_attr_celeba.txt")
    table = read_table("list_attr_celeba.txt", data)
    assert table.stated == table.count == 202_599
    assert (table.line_end, table.final_newline) == ("CRLF", True)
    assert table.columns == list(ATTRIBUTES)
    assert round((table.rows["Male"] == "1").mean(), 3) == 0.417
    assert round((table.rows["Young"] == "1").mean(), 3) == 0.774

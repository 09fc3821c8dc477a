"""Folders become classes and parts as their owner means them, or are refused with the fix."""

from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from training.core.config import DataConfig
from training.data.folders import arrange, part_of
from training.data.layouts import read_layout
from training.data.sources import SourceError, read_source


class Names:
    """A tree of empty files."""

    def __init__(self, names: list[str]) -> None:
        self.files = sorted(names)

    def names(self) -> list[str]:
        return self.files

    def read(self, name: str) -> bytes:
        return b""

    def size(self, name: str) -> int:
        return 0


def tree(**numbers: int) -> list[str]:
    """Names of pictures: `train__cat=2` is two of them in train/cat; `ROOT` is the root."""
    return [
        "/".join([*filter(None, folder.removesuffix("ROOT").split("__")), f"{i}.jpg"])
        for folder, n in numbers.items()
        for i in range(n)
    ]


def counted(names: list[str]) -> Counter[tuple[str, str]]:
    """Pictures of each class and part, as the steps read them."""
    frame = read_source("folders", Names(names), DataConfig()).frame
    return Counter(zip(frame["class"], frame["part"], strict=True))


# names, (class, part) -> pictures, text in the notes
GOOD = {
    "classes": (tree(cat=2, dog=3), {("cat", ""): 2, ("dog", ""): 3}, ""),
    "lower case": (
        tree(train__cat=2, train__dog=1, test__cat=1, val__dog=1),
        {("cat", "train"): 2, ("dog", "train"): 1, ("cat", "test"): 1, ("dog", "val"): 1},
        "folders are parts: test: test; train: train; val: val (train 3, val 1, test 1 pictures)",
    ),
    "capital": (
        tree(Train__a=2, Train__b=2, Test__a=1, Test__b=1),
        {("a", "train"): 2, ("b", "train"): 2, ("a", "test"): 1, ("b", "test"): 1},
        "folders are parts: Test: test; Train: train (train 4, test 2 pictures)",
    ),
    "ing": (
        tree(training__a=1, training__b=1, testing__a=1, validation__b=1),
        {("a", "train"): 1, ("b", "train"): 1, ("a", "test"): 1, ("b", "val"): 1},
        "classes without a picture in a part: b in test, a in val",
    ),
    "dev and eval": (
        tree(TRAIN__a=1, TRAIN__b=1, dev__a=1, dev__b=1),
        {("a", "train"): 1, ("b", "train"): 1, ("a", "val"): 1, ("b", "val"): 1},
        "val is used as the test part",
    ),
    "two names of one part": (
        tree(train__a=1, Training__b=1, test__a=1, test__b=1),
        {("a", "train"): 1, ("b", "train"): 1, ("a", "test"): 1, ("b", "test"): 1},
        "Training: train; test: test; train: train",
    ),
    "more words": (
        tree(seg_train__a=1, seg_train__b=1, seg_test__a=1, seg_test__b=1),
        {("a", "train"): 1, ("b", "train"): 1, ("a", "test"): 1, ("b", "test"): 1},
        "seg_test: test",
    ),
    "parts below the classes": (
        tree(cat__train=2, cat__test=1, dog__train=2, dog__test=1),
        {("cat", "train"): 2, ("cat", "test"): 1, ("dog", "train"): 2, ("dog", "test"): 1},
        "folders below the classes are parts: test, train",
    ),
    "cyclegan": (
        tree(trainA=3, trainB=2, testA=1, testB=1),
        {("A", "train"): 3, ("B", "train"): 2, ("A", "test"): 1, ("B", "test"): 1},
        "testA: class A, part test; testB: class B, part test; trainA: class A, part train",
    ),
    "cyclegan in other letters": (
        tree(Train_a=1, Train_b=1, Test_a=1, Test_b=1),
        {("A", "train"): 1, ("B", "train"): 1, ("A", "test"): 1, ("B", "test"): 1},
        "Train_a: class A, part train",
    ),
    "cyclegan without test": (
        tree(trainA=1, trainB=1), {("A", ""): 1, ("B", ""): 1}, "only one part is there",
    ),
    "one part": (
        tree(train__a=1, train__b=1), {("a", ""): 1, ("b", ""): 1},
        "folders are parts: train: train; only one part is there",
    ),
    "a class named like a part": (
        tree(train=1, bus=1, car=1), {("train", ""): 1, ("bus", ""): 1, ("car", ""): 1},
        "train taken for a class: no other folder is a part",
    ),
    "subfolders": (
        tree(cat__x=2, cat__y=1, dog=1), {("cat", ""): 3, ("dog", ""): 1},
        "3 pictures in subfolders (x, y) are of their first folder's class (cat)",
    ),
    "names that only begin so": (
        tree(trains=1, testimony=1, value=1, trained=1),
        {("trains", ""): 1, ("testimony", ""): 1, ("value", ""): 1, ("trained", ""): 1}, "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_folders_are_classes_and_parts_as_meant(case: str) -> None:
    names, expected, note = GOOD[case]
    assert counted(names) == expected
    notes = read_layout("folders", Names(names), DataConfig()).notes
    assert note in "; ".join(notes)
    assert bool(note) == bool(notes)


FAULTS = {
    "samples beside parts": (
        tree(train__a=2, train__b=2, test__a=1, test__b=1, samples=3),
        "test, train are parts of the data, and beside them are samples/ (3 pictures); move these",
    ),
    "samples beside one part": (tree(train__a=2, train__b=2, samples=3), "samples/ (3 pictures)"),
    "pictures beside parts": (
        tree(train__a=2, train__b=2, test__a=1, ROOT=4), "are 4 pictures without a folder",
    ),
    "samples beside cyclegan": (
        tree(trainA=2, trainB=2, testA=1, samples=3), "beside them are samples/ (3 pictures)",
    ),
    "one more domain's part": (tree(trainA=2, trainB=2, test=1), "beside them are test/"),
    "parts without classes": (
        tree(train=2, test=2), "pictures are directly in test, train, a part of the data",
    ),
    "one part without classes": (tree(train=2), "such as train/CLASS/0001.jpg"),
    "some pictures without a class": (
        tree(train=1, train__a=2, train__b=2, test__a=1), "pictures are directly in train,",
    ),
    "a class that train lacks": (
        tree(train__a=2, train__b=2, test__a=1, test__c=3),
        "1 classes are not in the train part: c (3 pictures; it has a, b)",
    ),
    "another case of a class": (
        tree(train__Happy=2, train__Sad=2, test__happy=1, test__Sad=1), "happy (1 pictures; it has",
    ),
    "a domain that train lacks": (tree(trainA=2, testA=1, testB=1), "not in the train part: B"),
    "no train": (tree(val__a=1, val__b=1, test__a=1), "a train part is missing"),
    "one level too deep": (
        tree(mydata__happy=2, mydata__sad=2),
        "its folders happy, sad are the classes or parts, give that folder, raw=PATH/mydata",
    ),
    "two levels too deep": (tree(a__b__happy=2, a__b__sad=2), "raw=PATH/a/b"),
    "parts too deep": (
        tree(mydata__train__a=1, mydata__train__b=1, mydata__test__a=1), "raw=PATH/mydata",
    ),
    "classes too deep in parts": (
        tree(train__x__a=1, train__x__b=1, test__x__a=1, test__x__b=1), "move them up by one level",
    ),
    "parts in parts": (
        tree(seg_train__seg_train__a=1, seg_train__seg_train__b=1, seg_test__seg_test__a=1),
        "seg_test/seg_test, seg_train/seg_train are parts inside of parts; move their folders up",
    ),
    "parts in one part": (
        tree(train__train__a=1, train__test__a=1), "train/test, train/train are parts inside",
    ),
    "parts below some classes": (
        tree(cat__train=1, cat__test=1, dog=1), "parts, such as train and test, and dog not",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_folders_that_do_not_fit_are_refused_with_the_fix(case: str) -> None:
    names, message = FAULTS[case]
    with pytest.raises(SourceError) as error:
        counted(names)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_one_domain_is_one_class() -> None:
    """CycleGAN's trainA and testA alone are not two classes."""
    with pytest.raises(SourceError, match="only one class, 'A'"):
        counted(tree(trainA=2, testA=1))


PICTURES = [*tree(cat=40, dog=40)]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["cat/1.heic"], "1 of 81 pictures are in formats that are not read .*: cat/1.heic; save"),
        (["bird/1.heic"], "1 class folders have no picture that is read: bird; save"),
        (["bird/a.mp4"], "1 class folders have no picture that is read: bird; save"),
        (["bird/a.zip", "horse/b.7z"], "2 class folders have no picture .*: bird, horse; save"),
    ],
)
def test_pictures_that_are_not_read_stop_the_steps(more: list[str], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        counted([*PICTURES, *more])


def test_what_is_left_out_is_noted_by_suffix_and_number() -> None:
    names = [*PICTURES, "cat/a.heic", "dog/b.HEIC", "cat/c.avif", "clip.mp4", "all.zip",
             "cat/meta.json", "LICENSE", "x.txt", ".DS_Store", "__MACOSX/cat/x.jpg"]  # fmt: skip
    raw = read_layout("folders", Names(names), DataConfig())
    assert raw.notes == (
        "left out: pictures that are not read (save it as JPEG or PNG): .avif 1, .heic 2, such as "
        "'cat/a.heic'",
        "left out: videos (take its pictures first, `ffmpeg -i VIDEO FOLDER/%05d.png`, and give "
        "that folder): .mp4 1, such as 'clip.mp4'",
        "left out: archives (unpack them there if they hold pictures): .zip 1, such as 'all.zip'",
        "left out: other files: .json 1, no suffix 1, such as 'LICENSE'",
    )
    frame = read_source("folders", Names(names), DataConfig(bad_share=0.05)).frame
    assert len(frame) == 80


@pytest.mark.parametrize("suffix", [".webp", ".bmp", ".TIF", ".tiff", ".gif", ".jfif", ".jpe"])
def test_other_formats_are_pictures_like_jpeg(suffix: str) -> None:
    names = [f"{c}/{i}{suffix}" for c in ("a", "b") for i in range(2)]
    assert counted(names) == {("a", ""): 2, ("b", ""): 2}


CLASSES = st.lists(
    st.sampled_from(["cat", "dog", "a b", "名", "x"]), min_size=2, max_size=4, unique=True
)
TRAIN = st.sampled_from(["train", "Train", "TRAINING", "train_set", "trainset"])
TEST = st.sampled_from(["test", "Test", "testing", "TEST-images"])
VAL = st.sampled_from(["val", "Valid", "validation", "dev", "Eval"])


@settings(deadline=None, max_examples=300)
@given(CLASSES, TRAIN, TEST, VAL, st.booleans(), st.integers(0, 2))
def test_parts_and_classes_are_told_apart(
    classes: list[str], train: str, test: str, val: str, below: bool, deeper: int
) -> None:
    """In every spelling, above or below the classes, with subfolders: the same classes."""
    expected = {}
    names = []
    for part, folder in (("train", train), ("test", test), ("val", val)):
        for kind in classes:
            path = [kind, folder] if below else [folder, kind]
            names.append("/".join([*path, *["sub", "z"][:deeper], "1.png"]))
            expected[(kind, part)] = 1
    assert counted(names) == expected


FOLDER = st.sampled_from(
    ["train", "Test", "val", "trainA", "testB", "cat", "dog", "samples", "e", "Train", ".x", "名"]
)
PATHS = st.lists(st.lists(FOLDER, max_size=3), min_size=1, max_size=12)


@settings(deadline=None, max_examples=400)
@given(PATHS)
def test_no_tree_gives_a_part_as_a_class_beside_another(paths: list[list[str]]) -> None:
    """A fault, or: every picture is placed, and no class has the name of a part beside parts."""
    names = ["/".join([*path, f"{i}.jpg"]) for i, path in enumerate(paths)]
    found = arrange(names)
    assert len(found.classes) == len(found.parts) == len(names)
    if found.fault:
        assert "\n" not in found.fault
        return
    classes = {c for c in found.classes if c is not None}
    if any(found.parts):
        assert all(found.parts)
        assert not any(part_of(c) for c in classes)
    else:
        assert len({part_of(c) for c in classes} - {""}) < 2


@settings(deadline=None, max_examples=200)
@given(st.lists(st.text(max_size=9), min_size=1, max_size=6))
@example(["", "/"])
def test_any_folder_names_are_arranged_or_refused(folders: list[str]) -> None:
    found = arrange([f"{folder}/{i}.jpg" for i, folder in enumerate(folders)])
    assert len(found.classes) == len(folders)

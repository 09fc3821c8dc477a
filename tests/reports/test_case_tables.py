"""Inputs of public reports about label tables and small sets, drawn by the reports' own scripts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from steps import Steps
from training.core.config import DataConfig
from training.data.archive import Folder
from training.data.sources import read_source

# Great Expectations imports modules that Python has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")
Run = Callable[..., Steps]
Draw = Callable[[str], Path]
ROWS = [(f"{i:05d}.jpg", i % 3 == 1, i // 3 % 2 == 0) for i in range(36)]  # Blond, Smiling
BINARY = {"name": "set", "kind": "binary", "groups": []}
HAPPY = {"name": "set", "kind": "onehot", "names": ["happy", "sad"], "groups": []}


def labels(done: Steps) -> dict[str, list[float]]:
    """The labels of each image by its base name."""
    pairs = done.labels[["file", "label"]].itertuples(index=False)
    return {file.rpartition("/")[2]: list(label) for file, label in pairs}


DIALECTS = (
    "semicolon", "semicolon-bom", "tab", "utf16", "utf16comma", "cp1252", "umlaut-utf8",
    "bom-quoted", "truefalse", "yesno", "capital-head", "path-head", "pandas-index", "odd-head",
    "comma-head", "mac-cr", "backslash", "absolute", "noext", "sep-line",
)  # fmt: skip
HEADS = {
    "cp1252": ("Blond", "Lächeln"), "umlaut-utf8": ("Blond", "Lächeln"),
    "odd-head": ("Blond?", "Smiling = yes"), "comma-head": ("hair, blond", "Smiling"),
}  # fmt: skip


def test_case_11_every_csv_dialect_gives_the_same_labels(draw_case: Draw, run_steps: Run) -> None:
    root = draw_case("11-csv-dialects")
    assert {p.name for p in root.iterdir()} == {*DIALECTS, "blank-cell", "excel-numbers"}
    for name in DIALECTS:
        heads = HEADS.get(name, ("Blond", "Smiling"))
        got = read_source("csv", Folder(root / name), DataConfig(attributes=heads)).frame
        assert got[["file", *heads]].to_numpy().tolist() == [
            [file, 2 * blond - 1, 2 * smile - 1] for file, blond, smile in ROWS
        ], name
    for name in ("utf16", "absolute"):  # the reports' worst two through every step
        done = run_steps("csv", root / name, attributes=("Blond", "Smiling"))
        assert done.refusals() == [], name
        assert labels(done) == {file: [blond, smile] for file, blond, smile in ROWS}, name
    done = run_steps("csv", root / "blank-cell", attributes=("Blond", "Smiling"))
    assert "1 values of Smiling are not 0 or 1: line 6 (00004.jpg): ''" in done.preprocess
    assert "label_values: label values other than 0 and 1: 1 of 36" in done.validate
    done = run_steps("csv", root / "excel-numbers", attributes=("Blond", "Smiling"))
    assert "36 rows without an image, line 2 (0): '0'" in done.preprocess
    assert "write the names as in the folder, like 00000.jpg" in done.validate


def test_case_31_any_name_is_a_label_and_words_are_classes(draw_case: Draw, run_steps: Run) -> None:
    root = draw_case("31-label-column")
    done = run_steps("csv", root / "zero-one", attributes=("label",))
    assert done.sets == [{**BINARY, "names": ["label"]}]
    assert labels(done) == {file: [smile] for file, _, smile in ROWS}
    for folder, name in (("words", "label"), ("expression", "expression")):
        done = run_steps("csv", root / folder, attributes=(name,))
        assert done.sets == [HAPPY]
        assert labels(done) == {file: [smile, not smile] for file, _, smile in ROWS}
        assert f"the words of {name} are 2 classes: 'happy' 18, 'sad' 18" in done.said
    done = run_steps("csv", root / "name-view", attributes=("view", "Smiling"))
    assert done.sets == [{**BINARY, "names": ["view", "Smiling"]}]
    assert labels(done) == {file: [blond, smile] for file, blond, smile in ROWS}
    done = run_steps("csv", root / "words")
    assert "Black_Hair: absent; the columns are file, label" in done.preprocess


def test_case_06_an_attribute_added_to_celeba_is_a_label(draw_case: Draw, run_steps: Run) -> None:
    root = draw_case("06-celeba-own-column")
    done = run_steps("celeba", root, attributes=("Black_Hair", "Red_Hair"))
    assert done.refusals() == []
    hair = {f"{i + 1:06d}.jpg": [i % 4 == 0, i % 4 == 3] for i in range(96)}
    assert labels(done) == hair


def test_case_21_openface_of_pictures_gives_intensities(draw_case: Draw, run_steps: Run) -> None:
    root = draw_case("21-openface-images")
    columns = ["AU12_r", "AU25_r"]
    want = {}
    for path in sorted((root / "perimage").glob("*.csv")):
        row = pd.read_csv(path, skipinitialspace=True)[columns].iloc[0]
        want[f"{path.stem}.jpg"] = list((row / 5).astype(np.float32))
    for name in ("perimage", "joined", "joined-file"):
        done = run_steps("csv", root / name, attributes=("AU12", "AU25"))
        assert done.refusals() == [], name
        assert done.sets[0]["kind"] == "continuous"
        assert labels(done) == want, name


def test_case_24_celeba_hq_is_a_data_set(draw_case: Draw, run_steps: Run) -> None:
    names = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Young")
    root = draw_case("24-celeba-hq")
    want = {
        f"{i}.jpg": [i % 3 == 0, i % 3 == 1, i % 3 == 2, i % 4 > 1, i % 5 > 1] for i in range(60)
    }
    for folder in (root, root.with_name(f"{root.name}renamed")):
        done = run_steps("csv", folder, attributes=names)
        assert done.refusals() == []
        assert labels(done) == want
    done = run_steps("celeba", root, attributes=names)
    assert "CelebA-HQ's: use kind csv" in done.preprocess


def test_case_04_one_class_is_refused(draw_case: Draw, run_steps: Run) -> None:
    done = run_steps("folders", draw_case("04-one-class"))
    assert "only one class, 'mine'; add a second class folder beside it" in done.preprocess
    assert "add a second class folder beside it" in done.validate


def test_case_05_tiny_sets_work_or_say_what_helps(draw_case: Draw, run_steps: Run) -> None:
    root = draw_case("05-tiny")
    for name, count in (("three", 6), ("ten", 20), ("uneven5", 205)):
        done = run_steps("folders", root / name)
        assert done.refusals() == []
        assert len(done.labels) == count
    assert "add images" in run_steps("folders", root / "one").preprocess
    done = run_steps("folders", root / "uneven")
    assert "of all 201 images 1 have it (0 train, 0 val, 1 test). Add such images" in done.unify


def test_case_16_a_picture_in_two_classes_is_refused(draw_case: Draw, run_steps: Run) -> None:
    done = run_steps("folders", draw_case("16-same-image-two-classes"))
    assert "images with the same bytes are in several classes: 24 of 60" in done.validate
    assert "use kind csv with a 0/1 column for each label" in done.validate

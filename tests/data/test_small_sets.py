"""Own columns beside CelebA's, CelebA-HQ, tiny sets, single classes, and copies."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from steps import Steps, draw

# Great Expectations imports modules that Python has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")
Run = Callable[..., Steps]
COUNT = 24
NAMES = [f"{i:05d}.jpg" for i in range(COUNT)]
BLOND = [i % 2 for i in range(COUNT)]
SMILE = [i // 2 % 2 for i in range(COUNT)]


def celeba_text(columns: dict[str, list[int]], names: list[str]) -> str:
    rows = [
        f"{n}  " + " ".join(str(2 * v[i] - 1) for v in columns.values())
        for i, n in enumerate(names)
    ]
    return "\n".join([str(len(names)), " ".join(columns) + " ", *rows, ""])


def test_an_attribute_added_to_celebas_file_is_a_label(tmp_path: Path, run_steps: Run) -> None:
    draw(tmp_path / "own" / "img_align_celeba", NAMES, (178, 218))
    text = celeba_text({"Black_Hair": BLOND, "Red_Hair": SMILE}, NAMES)
    (tmp_path / "own" / "list_attr_celeba.txt").write_text(text)
    done = run_steps("celeba", tmp_path / "own", attributes=("Black_Hair", "Red_Hair"))
    assert done.refusals() == []
    assert done.sets[0]["names"] == ["Black_Hair", "Red_Hair"]
    assert [list(label) for label in done.labels["label"]] == [
        [b, s] for b, s in zip(BLOND, SMILE, strict=True)
    ]


def test_celeba_hq_is_read_as_csv_with_its_square_pictures(tmp_path: Path, run_steps: Run) -> None:
    root, names = tmp_path / "CelebAMask-HQ", [f"{i}.jpg" for i in range(COUNT)]
    draw(root / "CelebA-HQ-img", names, (64, 64))
    draw(root / "CelebAMask-HQ-mask-anno", ["0/00000_hair.png"], (64, 64))
    text = celeba_text({"Blond_Hair": BLOND, "Male": SMILE}, names)
    (root / "CelebAMask-HQ-attribute-anno.txt").write_text(text)
    (root / "CelebA-HQ-to-CelebA-mapping.txt").write_text("idx orig_idx orig_file\n0 1 2.jpg\n")
    done = run_steps("csv", tmp_path, attributes=("Blond_Hair", "Male"))
    assert done.refusals() == []
    assert "only the 24 pictures of CelebA-HQ-img/, not 1 others" in done.said
    assert len(done.labels) == COUNT
    got = {file.rpartition("/")[2]: list(v) for file, v in zip(
        done.labels["file"], done.labels["label"], strict=True)}  # fmt: skip
    assert got == {n: [BLOND[i], SMILE[i]] for i, n in enumerate(names)}
    done = run_steps("celeba", tmp_path, attributes=("Blond_Hair", "Male"))
    assert "is CelebA-HQ's: use kind csv" in done.preprocess
    assert "is CelebA-HQ's: use kind csv" in done.validate


def test_an_offending_row_counts_once_whatever_its_columns(tmp_path: Path, run_steps: Run) -> None:
    draw(tmp_path / "own", NAMES)
    rows = [f"{n},5,6" for n in NAMES]
    (tmp_path / "own" / "labels.csv").write_text("\n".join(["file,Blond,Smiling", *rows]))
    done = run_steps("csv", tmp_path / "own", attributes=("Blond", "Smiling"))
    assert f"label_values: label values other than 0 and 1: {COUNT} of {COUNT}:" in done.validate


def test_a_picture_in_two_classes_is_refused_with_the_way_of_several_labels(
    tmp_path: Path, run_steps: Run
) -> None:
    """That way works: the same pictures as CSV."""
    root = tmp_path / "own"
    draw(root, [f"young/{n}" for n in NAMES])
    (root / "male").mkdir()
    for i in range(12):
        (root / "male" / f"m{i}.jpg").write_bytes((root / "young" / NAMES[i]).read_bytes())
    done = run_steps("folders", root)
    assert "image_content_in_one_class: images with the same bytes are in several" in done.validate
    assert "24 of 36" in done.validate
    assert "use kind csv with a 0/1 column for each label" in done.validate
    for path in (root / "male").iterdir():
        path.unlink()
    rows = [f"young/{n},1,{int(i < 12)}" for i, n in enumerate(NAMES)]
    (root / "labels.csv").write_text("\n".join(["file,young,male", *rows]))
    done = run_steps("csv", root, attributes=("male",))
    assert done.refusals() == []


def test_copies_are_in_one_split(tmp_path: Path, run_steps: Run) -> None:
    draw(tmp_path / "own", [f"{c}/{n}" for c in ("cat", "dog") for n in NAMES])
    for i, path in enumerate(sorted((tmp_path / "own").glob("*/*.jpg"))):
        path.with_name(f"copy{i}.jpg").write_bytes(path.read_bytes())
    done = run_steps("folders", tmp_path / "own")
    assert done.refusals() == []
    assert len(done.labels) == 4 * COUNT
    assert (done.labels.groupby("sha256")["split"].nunique() == 1).all()
    assert "copies of other images join their split" in done.said


def test_copies_of_a_persons_image_join_that_persons_split(tmp_path: Path, run_steps: Run) -> None:
    """Where the table names the person of one of them only."""
    draw(tmp_path / "own", NAMES)
    rows = [f"{name},{i % 2},p{i}" for i, name in enumerate(NAMES)]
    for name in NAMES:
        (tmp_path / "own" / f"copy{name}").write_bytes((tmp_path / "own" / name).read_bytes())
    rows += [f"copy{name},{i % 2}," for i, name in enumerate(NAMES)]
    (tmp_path / "own" / "labels.csv").write_text("\n".join(["file,Smiling,identity", *rows]))
    done = run_steps("csv", tmp_path / "own", attributes=("Smiling",))
    assert done.refusals() == []
    assert (done.labels.groupby("sha256")["split"].nunique() == 1).all()
    assert set(done.labels["split"]) == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("counts", "config", "message", "more"),
    [
        ((1, 1), {}, "2 persons or images are too few .* at least one for each split", (3, 3)),
        (
            (200, 1),
            {},
            r"of all 201 images 1 have it \(.*\)\. Add such images, at least 3",
            (200, 3),
        ),
    ],
)
def test_what_a_tiny_set_is_told_to_do_helps(
    tmp_path: Path, run_steps: Run, counts: tuple[int, int], config: dict[str, float],
    message: str, more: tuple[int, int],
) -> None:  # fmt: skip
    def drawn(name: str, numbers: tuple[int, int]) -> Path:
        files = [f"{c}/{i:04d}.jpg" for c, n in zip("ab", numbers, strict=True) for i in range(n)]
        draw(tmp_path / name, files)
        return tmp_path / name

    refused = run_steps("folders", drawn("few", counts), **config)
    (text,) = refused.refusals()
    assert re.search(message, text)
    assert run_steps("folders", drawn("more", more), **config).refusals() == []


def test_one_class_says_so_and_names_classes_one_folder_deeper(
    tmp_path: Path, run_steps: Run
) -> None:
    """Following the advice works."""
    draw(tmp_path / "own" / "data", [f"{c}/{n}" for c in ("cat", "dog") for n in NAMES])
    done = run_steps("folders", tmp_path / "own")
    advice = "if its folders cat, dog are the classes or parts, give that folder, raw=PATH/data"
    assert advice in done.validate
    assert advice in done.preprocess
    assert run_steps("folders", tmp_path / "own" / "data").refusals() == []

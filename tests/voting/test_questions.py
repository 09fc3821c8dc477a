"""What a study asks: faces, edits, words, traps, repeats."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import releases
from toydata import SETS, dataset_of
from training import vote
from training.data.dataset import Faces
from training.data.labels import LabelSet, LabelSpace
from training.data.order import generator
from training.evaluation.score import run
from training.inference.translator import load_translator
from training.voting.questions import MOST, describe, destroyed, own_state, rows_of
from training.voting.study import Key
from voters import NAMES, built

PEOPLE = LabelSet(
    "faces",
    "binary",
    ("Black_Hair", "Blond_Hair", "Male", "Young"),
    (("Black_Hair", "Blond_Hair"),),
)


def pictures(folder: Path) -> dict[str, np.ndarray]:
    """The pictures on a page, by id."""
    page = (folder / vote.PAGE).read_text()
    text = page.split('id="study">')[1].split("</script>")[0]
    found = json.loads(text)["pictures"]
    return {k: np.asarray(Image.open(io.BytesIO(base64.b64decode(v)))) for k, v in found.items()}


def test_hair_colours_share_a_row_as_in_the_paper() -> None:
    tasks = LabelSpace((PEOPLE,)).tasks(torch.eye(4), 0)
    rows = rows_of(PEOPLE, tasks)
    assert list(rows) == ["Hair", "Male", "Young", "H+G", "H+A", "G+A", "H+G+A"]
    assert [task.name for task in rows["Hair"]] == ["Black_Hair", "Blond_Hair"]


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ([1, 0, 1, 1], [0, 1, 1, 1], "Blond Hair"),
        ([1, 0, 1, 1], [1, 0, 0, 1], "female"),
        ([0, 0, 0, 1], [1, 0, 1, 0], "Black Hair, male, old"),
        ([1, 0, 0, 0], [0, 0, 0, 0], "not Black Hair"),
        ([1, 1, 0, 0], [0, 1, 0, 0], "Blond Hair"),
    ],
)
def test_an_edit_in_words(source: list[int], target: list[int], words: str) -> None:
    assert describe(PEOPLE, torch.tensor(source), torch.tensor(target)) == words


def test_classes_and_intensities_in_words() -> None:
    classes, units = SETS["classes"][0], SETS["units"][0]
    assert describe(classes, torch.tensor([1, 0, 0]), torch.tensor([0, 0, 1])) == "sad"
    assert describe(units, torch.tensor([0.1, 0.5]), torch.tensor([0.7, 0.5])) == "AU06 0.7"


def test_a_traps_words_are_true_of_the_face() -> None:
    row = torch.tensor([0.0, 1.0, 0.0, 1.0])
    seen = {own_state(PEOPLE, row, turn) for turn in range(9)}
    assert seen == {"Blond Hair", "female", "young"}


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("kind", range(MOST - 1))
def test_a_destroyed_picture_is_far_from_the_real_one(kind: int, size: int) -> None:
    at = np.linspace(0, 255, size)
    image = np.stack([at[:, None] + 0 * at, at + 0 * at[:, None], 128 + 0 * at * at[:, None]], 2)
    image = image.astype(np.uint8)
    made = destroyed(image, kind, generator(0, "t"))
    assert made.shape == image.shape
    assert made.dtype == np.uint8
    assert np.abs(made.astype(int) - image).mean() > 10


def test_every_question_shows_one_face_edited_by_every_model(study: Path, binary: Path) -> None:
    """Each picture is what the named model makes of that face and target."""
    key, shown = Key.read(study / vote.KEY), pictures(study)
    faces = Faces.open(binary, "test")
    part = faces.parts[0]
    makers = {name: load_translator(releases.train(binary, i)) for i, name in enumerate(NAMES)}
    tasks = {task.name: task for task in faces.space.tasks(part.labels, 0)}
    checked = [q for q in key.questions.values() if q.kind == "edit"]
    assert len(checked) == 9
    assert key.rows == ["Hair", "Male", "H+G"]
    for question in checked:
        row = part.files.index(question.face)
        before = part.images([row])
        assert (shown[question.input] == before[0].numpy()).all()
        task = tasks[question.task]
        assert task.changed[row]
        assert sorted(question.options.values()) == sorted(NAMES)
        x = before.permute(0, 3, 1, 2).float() / 127.5 - 1
        for option, name in question.options.items():
            made = run(makers[name], x, part.labels[[row]], task.target[[row]])[0].numpy()
            assert np.abs(shown[option].astype(int) - made).max() <= 1


def test_traps_have_one_real_picture_and_repeats_the_same_ones(study: Path) -> None:
    key, shown = Key.read(study / vote.KEY), pictures(study)
    questions = key.questions.values()
    traps = [q for q in questions if q.kind == "trap"]
    assert len(traps) == 3
    for trap in traps:
        assert (shown[trap.right] == shown[trap.input]).all()
        others = [shown[o] for o, what in trap.options.items() if what == "destroyed"]
        assert len(others) == 2
        assert all(np.abs(o.astype(int) - shown[trap.input]).mean() > 5 for o in others)
    repeats = [q for q in questions if q.kind == "repeat"]
    assert len(repeats) == 3
    assert all(q.options == key.questions[q.of].options for q in repeats)
    assert {q.of for q in repeats} <= {q.id for q in key.blocks[0]}
    assert {q.id for q in repeats} <= {q.id for q in key.blocks[2]}


def test_the_same_seed_makes_the_same_page_and_another_seed_other_questions(
    binary: Path, tmp_path: Path
) -> None:
    one, two, three = (
        built(binary, tmp_path / name, seed=seed)
        for name, seed in (("one", 0), ("two", 0), ("three", 1))
    )
    for name in (vote.PAGE, vote.KEY):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert Key.read(one / vote.KEY).study != Key.read(three / vote.KEY).study


def test_the_page_has_no_name_and_no_order_of_the_models(study: Path) -> None:
    """Ids are sorted, and the sorted places of the models differ."""
    page, key = (study / vote.PAGE).read_text(), Key.read(study / vote.KEY)
    words = [*NAMES, *(model.reference for model in key.models), *key.names]
    words += [q.face for q in key.questions.values()] + ["trap", "destroyed"]
    assert [word for word in words if word in page] == []
    assert "repeat" not in page.split('id="study">')[1].split("</script>")[0]
    edits = [q for q in key.questions.values() if q.kind == "edit"]
    orders = {tuple(q.options[o] for o in sorted(q.options)) for q in edits}
    assert len(orders) > 2


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"edits": "Hair,Beard"}, "Beard unknown; use Hair, Male, H"),
        ({"images": 9}, r"\d faces of celeba, split test, can be edited; --images 9"),
        ({"repeats": 9}, "there are 9 questions"),
        ({"labels": "rafd"}, "unknown data set 'rafd'"),
        ({"split": "nowhere"}, "no image in split"),
    ],
)
def test_what_cannot_be_asked_is_refused_and_nothing_is_written(
    binary: Path, tmp_path: Path, more: dict[str, object], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        built(binary, tmp_path / "study", **more)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("names", [["A"], ["A", "A"], list("ABCDEFG")])
def test_two_to_six_models_of_different_names_are_needed(
    binary: Path, tmp_path: Path, names: list[str]
) -> None:
    with pytest.raises(ValueError, match="2 to 6 models of different names"):
        vote.build(tmp_path / "study", binary, model=[(name, "model.json") for name in names])


def test_a_model_of_another_size_is_named(binary: Path, tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    large = dataset_of(tmp_path / "large" / "large.json", SETS["binary"], size=32)
    models = [("Small", releases.train(binary)), ("Large", releases.train(large))]
    with pytest.raises(ValueError, match="Large: the model takes images of 32 px"):
        vote.build(tmp_path / "s", binary, model=[(n, str(m)) for n, m in models], repeats=1)


def test_a_page_that_exists_is_not_replaced(study: Path, binary: Path) -> None:
    """Votes may belong to it."""
    with pytest.raises(ValueError, match="name a new folder"):
        built(binary, study)


@pytest.mark.parametrize("which", ["classes", "units", "joint"])
def test_classes_and_joint_data_can_be_voted_on(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    data = request.getfixturevalue(which)
    folder = built(data, tmp_path / "study", edits="", images=1, traps=2, repeats=1,
                   labels="rafd" if which == "joint" else "")  # fmt: skip
    questions = Key.read(folder / vote.KEY).questions.values()
    assert {q.row for q in questions if q.kind == "edit"} == (
        {"AU06", "AU12"} if which == "units" else {"angry", "happy", "sad"}
    )
    assert all(q.wanted for q in questions)

"""Editing a picture from the command line: supported options and refused requests."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from savedmodel import saved
from training import translate
from training.data.dataset import to_uint8
from training.data.labels import UNITS, LabelSet, LabelSpace
from training.inference.request import parse
from training.inference.translator import translator_from_files
from training.models import MODELS
from training.models.base import EditOptions

NAMES = ("Black_Hair", "Blond_Hair", "Male")
FACES = LabelSet("celeba", "binary", NAMES, (NAMES[:2],))
MOODS = LabelSet("rafd", "onehot", ("angry", "happy", "sad"))
BINARY, CLASSES, JOINT = LabelSpace((FACES,)), LabelSpace((MOODS,)), LabelSpace((FACES, MOODS))
AUS = LabelSpace((LabelSet("units", "continuous", UNITS),))
SPACES = dict.fromkeys(MODELS, BINARY) | {"ganimation": AUS, "starganv2": CLASSES}
Edit = Callable[..., np.ndarray]


@pytest.fixture
def edit(small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Edit:
    """Edit one drawn picture as a user does; gives the pixels written."""
    face, out = tmp_path / "face.png", tmp_path / "out.png"
    pixels = np.random.RandomState(0).randint(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(face)
    Image.fromarray(pixels[::-1]).save(tmp_path / "style.png")

    def run(name: str, *arguments: str, space: LabelSpace | None = None) -> np.ndarray:
        files = saved(tmp_path / name, name, small[name], space or SPACES[name])
        monkeypatch.setattr(translate, "registered_files", lambda reference: files)
        monkeypatch.setattr(translate, "pin", lambda reference: "stargan/1")
        translate.main([f"{name}@champion", str(face), str(out), *arguments])
        with Image.open(out) as picture:
            return np.asarray(picture)

    return run


def direct(tmp_path: Path, name: str, source: Any, target: Any, options: EditOptions) -> np.ndarray:
    """The same edit by the model that `edit` saved, of c̃ written out."""
    folder = tmp_path / name
    files = {f"nets/{path.name}": path for path in folder.glob("*.safetensors")}
    translator = translator_from_files(files | {p.name: p for p in folder.glob("*.json")})
    image = translate.center_square(translate.load_picture(tmp_path / "face.png"), 16)
    c = [None if v is None else torch.tensor([v], dtype=torch.float32) for v in (source, target)]
    return to_uint8(dataclasses.replace(translator, options=options)(image, *c))[0].numpy()  # type: ignore[arg-type]


def units(**values: float) -> list[float]:
    return [values.get(name, 0.0) for name in UNITS]


# model, command-line arguments, and the source c̃, target c̃ and options that they mean
EDITS: list[tuple[str, list[str], Any, Any, EditOptions]] = [
    ("stargan", ["Blond_Hair", "Male"], None, [0, 1, 1], EditOptions()),
    ("stargan", ["Blond_Hair", "--has", "Black_Hair", "--has", "Male"], None, [0, 1, 1],
     EditOptions()),
    ("attgan", ["Male", "--has", "Black_Hair"], [1, 0, 0], [1, 0, 1], EditOptions()),
    ("attgan", ["Blond_Hair", "--has", "celeba/Black_Hair", "--intensity", "1.5"],
     [1, 0, 0], [0, 1, 0], EditOptions(intensity=1.5)),
    ("stgan", ["Male=0", "--has", "Male", "--has", "Blond_Hair", "--intensity", "0.5"],
     [0, 1, 1], [0, 1, 0], EditOptions(intensity=0.5)),
    ("stgan", ["Male", "--has", "Male=0"], [0, 0, 0], [0, 0, 1], EditOptions()),
    ("cyclegan", ["Blond_Hair", "--has", "Black_Hair"], [1, 0, 0], [0, 1, 0], EditOptions()),
    ("ganimation", ["AU12=0.8", "AU06"], None, units(AU12=0.8, AU06=1), EditOptions()),
    ("ganimation", ["AU12=0.8", "--has", "AU06=0.5"], None, units(AU12=0.8, AU06=0.5),
     EditOptions()),
    ("ganimation", [], None, units(), EditOptions()),
    ("starganv2", ["happy", "--seed", "7"], None, [0, 1, 0], EditOptions(seed=7)),
    ("munit", ["Male", "--has", "Black_Hair", "--seed", "7"], [1, 0, 0], [1, 0, 1],
     EditOptions(seed=7)),
    ("drit", ["Blond_Hair", "--has", "Black_Hair", "--seed", "7"], [1, 0, 0], [0, 1, 0],
     EditOptions(seed=7)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "typed", "source", "target", "options"), EDITS)
def test_arguments_become_labels_and_options(
    name: str,
    typed: list[str],
    source: Any,
    target: Any,
    options: EditOptions,
    edit: Edit,
    tmp_path: Path,
) -> None:
    assert np.array_equal(edit(name, *typed), direct(tmp_path, name, source, target, options))


def test_each_option_changes_the_picture(edit: Edit, tmp_path: Path) -> None:
    """Otherwise the comparisons above would pass even if it were ignored."""
    has = ("Male", "--has", "Black_Hair")
    assert (edit("attgan", *has) != edit("attgan", *has, "--intensity", "0.5")).any()
    assert (edit("attgan", *has) != edit("attgan", "Male")).any()
    style = str(tmp_path / "style.png")
    pictures = [
        edit("starganv2", "happy", *more).tobytes()
        for more in ([], ["--seed", "7"], ["--reference", style])
    ]
    assert len(set(pictures)) == 3
    pictures = [
        edit("munit", "Male", "--has", "Black_Hair", *more).tobytes()
        for more in ([], ["--seed", "7"], ["--reference", style])
    ]
    assert len(set(pictures)) == 3


@pytest.mark.parametrize(
    ("typed", "target"),
    [
        (["Male"], [0, 0, 1, 0, 0, 0, 1, 0]),
        (["happy"], [0, 0, 0, 0, 1, 0, 0, 1]),
        (["rafd/sad"], [0, 0, 0, 0, 0, 1, 0, 1]),
        (["Male", "--has", "Black_Hair"], [1, 0, 1, 0, 0, 0, 1, 0]),
    ],
)
def test_a_joint_model_gets_the_mask_of_the_named_set(
    typed: list[str], target: list[int], edit: Edit, tmp_path: Path
) -> None:
    made = edit("stargan", *typed, space=JOINT)
    assert np.array_equal(made, direct(tmp_path, "stargan", None, target, EditOptions()))


WORDS: list[tuple[str, list[str], str]] = [
    (
        "stargan",
        ["Beard"],
        "'Beard': not a unique label name; use one of celeba/Black_Hair",
    ),
    ("stargan", ["Male=2"], "Male=2: a number between 0 and 1"),
    ("stargan", ["Blond_Hair=0.3"], "Blond_Hair=0.3: labels of celeba are binary"),
    ("stargan", ["Male", "Male=0"], "Male: given twice"),
    ("stargan", ["Male="], "Male=: a number between 0 and 1"),
    ("stargan", ["Black_Hair", "Blond_Hair"], "Black_Hair, Blond_Hair: mutually exclusive"),
    ("attgan", ["Male", "--intensity", "1.5"], "intensity scales .* picture with --has"),
    ("stgan", ["Male", "--intensity", "1.5"], "intensity scales .* picture with --has"),
    ("cyclegan", ["Blond_Hair"], "give the labels of the picture with --has"),
    ("munit", ["Blond_Hair"], "give the labels of the picture with --has"),
    ("starganv2", [], "rafd: no class is given; use one of angry, happy, sad"),
    ("starganv2", ["happy", "sad"], "happy, sad: mutually exclusive"),
    ("starganv2", ["happy=0.5"], "happy=0.5: a class has no intensity"),
    ("starganv2", ["happy=0"], "happy=0: a class has no intensity"),
    ("starganv2", ["happy", "--has", "sad"], "sad: this model does not use"),
    ("starganv2", ["happy", "--seed", "1", "--reference", "style.png"], "seed and reference: "),
    ("ganimation", ["AU12=1.5"], "AU12=1.5: a number between 0 and 1"),
]


@pytest.mark.parametrize("names", [["Bald", "Bangs"], ["Bangs", "Bald"]])
def test_labels_that_exclude_each_other_without_a_group_are_refused(names: list[str]) -> None:
    """In either order; the later one would have switched the first off."""
    labels = LabelSet("celeba", "binary", ("Bald", "Bangs"), conflicts=(("Bald", "Bangs"),))
    with pytest.raises(ValueError, match="Bald, Bangs: mutually exclusive labels; give only one"):
        parse(LabelSpace((labels,)), names)


@pytest.mark.parametrize(("name", "typed", "message"), WORDS)
def test_unsupported_requests_are_refused_and_write_nothing(
    name: str, typed: list[str], message: str, edit: Edit, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        edit(name, *typed)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("typed", ["nan", "inf"])
def test_an_intensity_that_is_no_number_is_refused(
    typed: str, edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"intensity={typed}: a finite number"):
        edit("attgan", *LABELS[BINARY], "--intensity", typed)


@pytest.mark.parametrize("typed", [2**64, -(2**63) - 1])
def test_a_seed_that_torch_does_not_take_is_refused(
    typed: int, edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^seed {typed}: out of range; give a number from 0 to"):
        edit("starganv2", *LABELS[CLASSES], f"--seed={typed}")
    assert edit("starganv2", *LABELS[CLASSES], f"--seed={2**64 - 1}").any()


# Arguments of each edit option, and labels that every model of a label space accepts.
FLAGS = {"intensity": "1.5", "seed": "3", "reference": "style.png"}
LABELS = {BINARY: ["Blond_Hair", "--has", "Black_Hair"], CLASSES: ["happy"], AUS: ["AU12=0.8"]}


def test_every_option_of_an_edit_is_an_argument_but_a_latent_itself() -> None:
    """It is an exported graph's input; people give the seed that it is drawn from."""
    assert {f.name for f in dataclasses.fields(EditOptions)} == {*FLAGS, "latent"}


@pytest.mark.parametrize("field", FLAGS)
@pytest.mark.parametrize("name", MODELS)
def test_each_option_is_used_or_refused_by_name(
    name: str, field: str, edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every model: another picture, or an error that lists the supported options."""
    monkeypatch.chdir(tmp_path)
    typed, supported = LABELS[SPACES[name]], MODELS[name]().supported_options
    plain = edit(name, *typed)
    (tmp_path / "out.png").unlink()
    more = (f"--{field}", FLAGS[field])
    if field in supported:
        assert (edit(name, *typed, *more) != plain).any()
        return
    message = f"{name} takes no {field}; it takes {', '.join(('labels', *supported))}"
    with pytest.raises(ValueError, match=f"^{message}$"):
        edit(name, *typed, *more)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            ["Male", "happy"],
            "Male, happy: of 2 data sets; use labels of one of celeba, rafd",
        ),
        ([], "no label: of 0 data sets"),
        (["happy", "--has", "Male"], "Male: this model does not use"),
    ],
)
def test_labels_of_no_or_two_sets_are_refused(typed: list[str], message: str, edit: Edit) -> None:
    with pytest.raises(ValueError, match=message):
        edit("stargan", *typed, space=JOINT)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    """Orientation 6: the first stored row is the right column of the upright picture."""
    stored = np.zeros((16, 16, 3), np.uint8)
    stored[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "photo.png", exif=exif)
    seen = np.asarray(translate.load_picture(tmp_path / "photo.png"))
    assert np.array_equal(seen, np.rot90(stored, -1))


@pytest.mark.parametrize(("name", "typed"), [("ganimation", "AU12=0.8"), ("stargan", "Male")])
def test_a_whole_picture_is_edited_only_within_its_box(
    name: str, typed: str, edit: Edit, tmp_path: Path
) -> None:
    """With the attention mask of a model that has one, else with soft edges."""
    wide = np.random.RandomState(5).randint(0, 256, (40, 64, 3), np.uint8)
    edit(name, typed)
    Image.fromarray(wide).save(tmp_path / "face.png")
    out = edit(name, typed, "--box", "8,4,40,36")
    inside = np.zeros((40, 64), bool)
    inside[4:36, 8:40] = True
    assert np.array_equal(out[~inside], wide[~inside])
    assert (out[inside] != wide[inside]).mean() > 0.5


def test_the_box_is_edited_like_a_separate_picture(edit: Edit, tmp_path: Path) -> None:
    """In its centre, without blending, at the model's image size."""
    face = np.asarray(Image.open(tmp_path / "face.png"))
    alone = edit("stargan", "Male")
    wide = np.full((30, 40, 3), 90, np.uint8)
    wide[5:21, 10:26] = face
    Image.fromarray(wide).save(tmp_path / "face.png")
    out = edit("stargan", "Male", "--box", "10,5,26,21")
    middle = (slice(3, 13), slice(3, 13))
    assert np.array_equal(out[5:21, 10:26][middle], alone[middle])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--box", "0,0,17,9"], "within the picture's 16x16 px"),
        (["--box", "1,2"], "a box is LEFT,TOP,RIGHT,BOTTOM"),
        (["--find"], "no face found; give its box with --box"),
    ],
)
def test_an_invalid_box_is_refused(
    more: list[str], message: str, edit: Edit, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        edit("stargan", "Male", *more)
    assert not (tmp_path / "out.png").exists()


COMMAS = LabelSpace((LabelSet("moods", "onehot", ("smile, open mouth", "café & co", "a=b")),))


def test_labels_with_a_comma_are_listed_in_quotes(edit: Edit) -> None:
    listed = "'moods/smile, open mouth', 'moods/café & co', 'moods/a=b'"
    with pytest.raises(ValueError, match=f"'smile': not a unique .* use one of {listed}$"):
        edit("stargan", "smile", space=COMMAS)
    with pytest.raises(ValueError, match=r"use one of 'smile, open mouth', 'café & co', 'a=b'$"):
        edit("stargan", space=COMMAS)
    with pytest.raises(ValueError, match=r"^'smile, open mouth', 'café & co': mutually exclusive"):
        edit("stargan", "smile, open mouth", "café & co", space=COMMAS)


def test_a_label_may_have_an_equals_sign(edit: Edit, tmp_path: Path) -> None:
    made = edit("stargan", "a=b", space=COMMAS)
    assert np.array_equal(made, direct(tmp_path, "stargan", None, [0, 0, 1], EditOptions()))

"""The whole pipeline on each kind of data, from the user's files to the gate's verdict."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from training.models.configure import resolve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SHORT = ["preset=smoke", "data.size=32", "train.images=96", "decay_images=32",
         "warmup_images=32", "log_images=32", "sample_images=96", "checkpoint_images=96",
         "judge.images=128"]  # fmt: skip
SHOWN = resolve("ganimation", "smoke").data.attributes
STARGAN = ["d_repeat_num=4"]  # D can halve 32 px at most this often
CLASSES = ("Black_Hair", "Blond_Hair", "Brown_Hair")
EXPRESSIONS = ["angry", "contemptuous", "disgusted", "fearful", "happy", "neutral", "sad",
               "surprised"]  # fmt: skip


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, drawn: Path) -> Path:
    """Drawn faces in both layouts; the same as folders by hair colour and with a CSV."""
    from training.data.synthetic import scenes
    from training.data.synthetic.faces import draw_rafd

    root = tmp_path_factory.mktemp("raw")
    (root / "celeba").symlink_to(drawn)
    draw_rafd(root / "rafd", 6, workers=1)
    scenes.draw(root / "scenes", ("summer", "winter"), 40)
    table = pd.read_csv(root / "celeba/list_attr_celeba.txt", sep=r"\s+", skiprows=1)
    images = root / "celeba" / "img_align_celeba"
    for name in CLASSES:
        for file in table.index[table[name] == 1]:
            path = root / "own" / "hair" / name / f"{Path(file).stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.open(images / file).save(path)
    (root / "own" / "mine" / "pictures").mkdir(parents=True)
    for file in table.index:
        (root / "own" / "mine" / "pictures" / file).write_bytes((images / file).read_bytes())
    labels = (table[["Male", "Young"]] == 1).astype(int).reset_index(drop=True)
    files = pd.Series([f"pictures/{file}" for file in table.index], name="file")
    pd.concat([files, labels], axis=1).to_csv(root / "own" / "mine" / "labels.csv", index=False)
    return root


@pytest.fixture
def folder(tmp_path: Path, empty_mlflow: Path) -> Path:
    """A working folder, whose MLflow has its tables."""
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_mlflow, tmp_path / "runs" / "mlflow.db")
    return tmp_path


@pytest.mark.parametrize(
    ("pairs", "edits"),
    [
        pytest.param(
            [*STARGAN, "datasets=rafd", "raw={raw}/rafd"], EXPRESSIONS, marks=pytest.mark.long
        ),
        (
            [
                *STARGAN,
                "datasets=hair:folders,mine:csv",
                "raw={raw}/own",
                "data.attributes=Male,Young",
            ],
            [*CLASSES, "Male", "Young"],
        ),
        ([*STARGAN, "model=ganimation", "raw={raw}/celeba"], [*SHOWN]),
        pytest.param(
            ["model=starganv2", "data.domains=Male", "datasets=mine:csv", "raw={raw}/own/mine"],
            ["not Male", "Male"],
            marks=pytest.mark.long,
        ),
        pytest.param(
            ["model=starganv2", "datasets=hair:folders", "raw={raw}/own"],
            [*CLASSES],
            marks=pytest.mark.long,
        ),
        (["model=cyclegan", "datasets=scenes:folders", "raw={raw}/scenes"], ["summer", "winter"]),
    ],
    ids=[
        "rafd",
        "folders-and-csv",
        "action-units",
        "one-attribute-as-classes",
        "classes-of-folders",
        "no-faces",
    ],
)
def test_every_kind_of_data_reaches_the_registry(
    raw: Path, folder: Path, run_pipeline: Callable[..., str], pairs: list[str], edits: list[str]
) -> None:
    """The scored edits are the data's own labels; a version is registered."""
    output = run_pipeline(folder, *SHORT, *(pair.format(raw=raw) for pair in pairs))
    shows(output, edits)


@pytest.mark.long
def test_genuine_celeba_reaches_the_registry(
    shared_data: Path, folder: Path, run_pipeline: Callable[..., str]
) -> None:
    (folder / "raw").mkdir()
    (folder / "raw" / "celeba").symlink_to(shared_data / "celeba")
    shows(run_pipeline(folder, *SHORT, *STARGAN, "raw=raw/celeba"), ["Black_Hair", "Male", "Young"])


def shows(output: str, edits: list[str]) -> None:
    """Check a run's results: scores of these edits, pictures, a version and a verdict."""
    found = re.search(r"^report +(.*)/evaluate\.html$", output, re.MULTILINE)
    assert found, output[-3000:]
    report = Path(found[1])
    version = json.loads((report / "register.json").read_text())
    assert (version["version"], version["created"]) == ("1", True)
    assert isinstance(json.loads((report / "promote.json").read_text())["promoted"], bool)
    page = (report / "evaluate.html").read_text()
    assert not [edit for edit in edits if edit not in page]
    assert re.findall(r"^pictures +(.*\.png)$", output, re.MULTILINE)

"""A registered version takes picture files and label names: from Python and over HTTP."""

import base64
import io
import json
import os
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from exports import tiny_translator
from pipelines.local.stack import free_ports
from releases import register
from toydata import CELEBA, RAFD
from training import translate
from training.data.dataset import to_uint8
from training.data.labels import LabelSpace
from training.inference.edit import center_square
from training.inference.translator import Translator
from training.models.base import EditOptions
from training.tracking import client as tracking

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # MLflow's own
    pytest.mark.filterwarnings("ignore:.*type hints? :UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow leaves SQLite pools open
]


def file_of(width: int = 40, height: int = 30, kind: str = "PNG") -> bytes:
    pixels = np.random.RandomState(0).randint(0, 256, (height, width, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def pixels_of(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def square_of(data: bytes, size: int = 16) -> torch.Tensor:
    with Image.open(io.BytesIO(data)) as picture:
        return center_square(picture.convert("RGB"), size)


def portable(translator: Translator) -> Any:
    """What MLflow loads, of a translator in memory."""
    tracking.mlflow()  # its imports warn
    from training.registry.portable import PortableTranslator

    made = PortableTranslator()
    made.torch, made.name, made.size = torch, translator.config["name"], translator.size
    made.model, made.nets, made.space = translator.model, translator.nets, translator.space
    return made


def test_files_and_names_give_what_translate_writes() -> None:
    """A JPEG as base64 and as bytes; the central square, as PNG that says it is synthetic."""
    translator = tiny_translator("stargan", LabelSpace((CELEBA, RAFD)))
    data = file_of(kind="JPEG")
    label = torch.tensor([[0.0, 1, 0, 0, 0, 0, 1, 0]])
    wanted = to_uint8(translator(square_of(data), None, label))[0].numpy()
    model = portable(translator)
    text = base64.b64encode(data).decode()
    (made,) = model.predict(None, {"image": [text], "label": [["Blond_Hair"]]})
    assert isinstance(made, str)
    assert np.array_equal(pixels_of(base64.b64decode(made)), wanted)
    assert b"compositeWithTrainedAlgorithmicMedia" in base64.b64decode(made)
    (made,) = model.predict(None, {"image": [data], "label": ["Blond_Hair"]})
    assert np.array_equal(pixels_of(made), wanted)
    (made,) = model.predict(None, {"image": [data], "label": [label[0].tolist()]})
    assert np.array_equal(pixels_of(made), wanted)


def test_the_pictures_own_labels_are_names_too() -> None:
    """AttGAN: the edit starts from them, and an intensity needs them."""
    translator = tiny_translator("attgan", LabelSpace((CELEBA,)))
    data, model = file_of(16, 16), portable(translator)
    given = {"image": [data], "label": [["Male"]], "source": [["Black_Hair"]]}
    source, target = torch.tensor([[1.0, 0, 0]]), torch.tensor([[1.0, 0, 1]])
    for params, options in (({}, EditOptions()), ({"intensity": 0.5}, EditOptions(0.5))):
        (made,) = model.predict(None, given, params)
        with torch.no_grad():
            x = square_of(data)
            out = translator.model.translate(translator.nets, x, source, target, options)
        assert np.array_equal(pixels_of(made), to_uint8(out)[0].numpy())


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"image": "no base64!"}, "row 1: image: .*base64|row 1: image: Only base64"),
        ({"image": base64.b64encode(b"text").decode()}, "row 1: image: not a picture"),
        ({"image": file_of()[:90]}, "row 1: image: does not decode"),
        ({"label": ["Beard"]}, "row 1: 'Beard': not a unique label name; use one of celeba/Bl"),
        (
            {"label": [1.0, 0.0], "source": [0.0] * 3},
            r"row 1: label: shape \(2,\); \(3,\), or names, is needed",
        ),
        (
            {"label": [1.0, "Male", 0], "source": [0.0] * 3},
            "row 1: label: numbers are needed",
        ),
        ({"source": [1.0, 0, 0]}, "row 1: label and source: names and numbers mixed"),
        (
            {"image": [[[0.5]]]},
            r"image: shape \(1, 1, 1, 1\); \(n, 3, 16, 16\), or files as base64",
        ),
    ],
)
def test_a_wrong_row_is_refused_with_its_number(row: dict[str, Any], says: str) -> None:
    model = portable(tiny_translator("attgan", LabelSpace((CELEBA,))))
    good = {"image": file_of(), "label": ["Male"], "source": ["Black_Hair"]}
    with pytest.raises(ValueError, match=says):
        model.predict(None, {key: [value] for key, value in (good | row).items()})


def test_a_source_in_some_rows_only_is_refused() -> None:
    model = portable(tiny_translator("attgan", LabelSpace((CELEBA,))))
    given = {"image": [file_of()] * 2, "label": [["Male"]] * 2, "source": [["Male"], float("nan")]}
    with pytest.raises(ValueError, match="source: in 1 of 2 rows; give it in all or none"):
        model.predict(None, given)
    with pytest.raises(ValueError, match="arrays and files mixed"):
        model.predict(None, {"image": [file_of(), np.zeros((3, 16, 16))], "label": [["Male"]] * 2})


@pytest.fixture
def served(binary: Path, release_folder: Path) -> Iterator[str]:
    """The address of `mlflow models serve` with stargan/1."""
    register(binary)
    (port,) = free_ports(1)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # uvicorn is there
    with (release_folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/stargan/1",
             "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)],
            env={**os.environ, "MLFLOW_TRACKING_URI": tracking.uri(), "PATH": path},
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    address, end = f"http://127.0.0.1:{port}", time.monotonic() + 300
    try:
        while True:
            try:
                urllib.request.urlopen(f"{address}/ping", timeout=1).close()
                break
            except OSError:
                text = (release_folder / "serve.log").read_text()[-2000:]
                assert process.poll() is None, text
                assert time.monotonic() < end, text
                time.sleep(0.2)
        yield address
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 15)
        process.wait(60)


DOCUMENT = Path(__file__).resolve().parents[2] / "docs/how-to/use-a-model.md"


def documented(address: str) -> str:
    """The document's shell command, for the server at `address`."""
    block = next(one for one in DOCUMENT.read_text().split("```") if "base64 -w0 face.jpg" in one)
    return block.replace("http://127.0.0.1:5001", address)


@pytest.mark.server
@pytest.mark.slow
def test_mlflow_serves_a_version_to_curl(served: str, binary: Path, tmp_path: Path) -> None:
    """As the documentation says; the result is what `translate` writes."""
    (tmp_path / "face.jpg").write_bytes(file_of(kind="JPEG"))
    shell = ["bash", "-euo", "pipefail", "-c", documented(served)]
    subprocess.run(shell, cwd=tmp_path, check=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        translate.main(["stargan/1", "face.jpg", "direct.png", "Blond_Hair", "Male"])
    made, direct = (pixels_of((tmp_path / n).read_bytes()) for n in ("edited.png", "direct.png"))
    assert np.array_equal(made, direct)
    wrong = json.dumps({"dataframe_records": [{"image": "x", "label": ["Blond_Hair"]}]})
    done = subprocess.run(
        ["curl", "-sS", "-H", "Content-Type: application/json", "-d", wrong,
         f"{served}/invocations"], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "row 1: image: " in json.loads(done.stdout)["message"] + done.stdout

"""What the server answers: the same pixels as `translate`, in every form of request."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from runs import RICHEST
from serving import Running, add_version, form, running
from toydata import SETS
from training import translate
from training.inference.paste import center_square
from training.inference.request import edit_labels
from training.models import MODELS
from training.serving import follow
from training.serving.served import Served

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


HAS = ["Black_Hair", "Male=0"]
# Model, labels, the words of `translate` and the fields of the form.
CASES: list[tuple[str, list[str], dict[str, Any]]] = [
    ("faces", ["Blond_Hair"], {"has": HAS, "find": True}),
    ("faces", ["Blond_Hair", "Male"], {"has": HAS, "intensity": 1.5, "box": "40,40,240,300"}),
    ("moods", ["happy"], {"seed": 7}),
    ("moods", ["happy"], {"seed": 7, "find": True}),
    ("moods", ["sad"], {"reference": True}),
    ("units", ["AU12=0.8"], {}),
    ("units", ["AU06=0.3", "AU12=1"], {"find": True}),
    ("joint", ["rafd/sad"], {}),
]


@pytest.mark.parametrize(("name", "labels", "options"), CASES)
def test_a_served_edit_is_that_of_translate(
    at_shelf: Path, photo: bytes, tmp_path: Path, name: str, labels: list[str],
    options: dict[str, Any],
) -> None:  # fmt: skip
    face, out, other = tmp_path / "face.png", tmp_path / "out.png", tmp_path / "other.png"
    face.write_bytes(photo)
    Image.new("RGB", (40, 60), "teal").save(other)
    words = options | ({"reference": other} if "reference" in options else {})
    translate.translate(f"{name}@champion", face, out, *labels, **words)
    frame = "face" if options.get("find") else options.get("box", "centre")
    texts = [("label", label) for label in labels] + [("frame", frame)]
    texts += [("has", one) for one in options.get("has", ())]
    texts += [(k, str(options[k])) for k in ("intensity", "seed") if k in options]
    files = {"reference": other.read_bytes()} if "reference" in options else {}
    with running(follow.first(f"{name}@champion")) as server:
        answer = server.edit(photo, *texts, **files)
    assert answer.status == 200, answer.body
    assert np.array_equal(pixels(answer.body), pixels(out.read_bytes()))
    assert answer.body == out.read_bytes()  # the mark of what made it, too


def test_an_answer_names_the_version_and_says_that_it_is_synthetic(
    server: Running, photo: bytes
) -> None:
    headers = server.edit(photo, ("label", "Male")).headers
    assert (headers["x-model"], headers["x-model-version"]) == ("faces", "1")
    assert "x-synthetic" in headers
    assert headers["x-faces"] == "1"
    left, top, right, bottom = map(int, headers["x-box"].split(","))
    assert right - left == bottom - top > 100
    assert headers["cache-control"] == "no-store"


def test_a_raw_body_with_its_options_in_the_query_is_the_same_edit(
    server: Running, photo: bytes
) -> None:
    texts = [("label", "Blond_Hair"), ("has", "Black_Hair"), ("frame", "centre")]
    query = "&".join(f"{name}={text}" for name, text in texts)
    raw = server.post(f"/translate?{query}", photo, **{"Content-Type": "image/png"})
    assert raw.status == 200
    assert raw.body == server.edit(photo, *texts).body


def tensor(name: str, values: torch.Tensor) -> dict[str, Any]:
    return {"name": name, "datatype": "FP32", "shape": list(values.shape),
            "data": values.flatten().tolist()}  # fmt: skip


def test_inference_of_tensors_is_the_models_own(server: Running, faces: Served) -> None:
    """With flat and with nested data; an id comes back."""
    torch.manual_seed(3)
    image = torch.rand(3, 3, 16, 16) * 2 - 1
    source, target = edit_labels(faces.space, ["Male"], ["Black_Hair"], reads_source=True)
    assert source is not None
    source, target = source.expand(3, -1), target.expand(3, -1)
    inputs = [tensor("image", image), tensor("label", target), tensor("source", source)]
    inputs[1]["data"] = target.tolist()
    answer = server.post("/v2/models/faces/infer", {"id": "a7", "inputs": inputs}).json
    (output,) = answer["outputs"]
    assert {k: answer[k] for k in ("id", "model_name", "model_version")} == {
        "id": "a7", "model_name": "faces", "model_version": "1"
    }  # fmt: skip
    assert (output["name"], output["datatype"], output["shape"]) == (
        "image",
        "FP32",
        [3, 3, 16, 16],
    )
    made = torch.tensor(output["data"]).reshape(3, 3, 16, 16)
    assert torch.allclose(made, faces.translator(image, source, target), atol=1e-6)


def test_inference_of_bytes_is_the_edit_of_the_form(server: Running, photo: bytes) -> None:
    picture = base64.b64encode(photo).decode()
    names = {"labels": ["Blond_Hair"], "has": ["Black_Hair", "Male"]}
    inputs = [{"name": "picture", "datatype": "BYTES", "shape": [1], "data": [picture]}]
    inputs += [{"name": n, "datatype": "BYTES", "shape": [len(v)], "data": v}
               for n, v in names.items()]  # fmt: skip
    body = {"inputs": inputs, "parameters": {"intensity": 0.5, "frame": "centre"}}
    answer = server.post("/v2/models/faces/versions/1/infer", body)
    (output,) = answer.json["outputs"]
    texts = [("label", "Blond_Hair"), ("has", "Black_Hair"), ("has", "Male"),
             ("intensity", "0.5"), ("frame", "centre")]  # fmt: skip
    assert base64.b64decode(output["data"][0]) == server.edit(photo, *texts).body
    assert answer.headers["x-model-version"] == "1"


def test_the_protocols_routes_tell_what_is_served(server: Running) -> None:
    assert server.get("/v2/health/live").json == {"live": True}
    assert server.get("/v2/health/ready").json == {"ready": True}
    assert server.get("/v2/models/faces/ready").status == 200
    assert server.get("/v2").json.keys() == {"name", "version", "extensions"}
    facts = server.get("/v2/models/faces").json
    assert facts == server.get("/v2/models/faces/versions/1").json
    assert (facts["name"], facts["versions"], facts["platform"]) == ("faces", ["1"], "pytorch")
    assert facts["inputs"][0] == {"name": "image", "datatype": "FP32", "shape": [-1, 3, 16, 16]}
    assert [one["name"] for one in facts["inputs"]] == [
        "image", "label", "source", "picture", "labels", "has"
    ]  # fmt: skip
    for path in ("/v2/models/other", "/v2/models/faces/versions/2", "/v2/models/other/ready"):
        assert server.get(path).status == 404
    assert "faces, version 1, is" in server.post("/v2/models/x/infer", {}).json["fix"]


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [("faces", ["intensity"], "binary"), ("moods", ["seed", "reference"], "onehot"),
     ("units", [], "continuous")],
)  # fmt: skip
def test_the_offer_is_what_the_model_takes(
    at_shelf: Path, name: str, options: list[str], kind: str
) -> None:
    with running(follow.first(f"{name}@champion")) as server:
        offer = server.get("/model").json
    assert sorted(offer["options"]) == sorted(options)
    assert [one["kind"] for one in offer["sets"]] == [kind]


def test_the_figures_count_requests_by_route_and_status(server: Running, photo: bytes) -> None:
    server.edit(photo, ("label", "Male"))
    server.edit(photo, ("label", "Nonsense"))
    server.get("/nowhere")
    server.post("/v2/models/faces/infer", {})
    found = server.figures()
    count = "stargan_serve_requests_total"
    assert found[f'{count}{{route="/translate",status="200"}}'] == 1
    assert found[f'{count}{{route="/translate",status="400"}}'] == 1
    assert found[f'{count}{{route="/v2/models/{{name}}/infer",status="400"}}'] == 1
    assert found[f'{count}{{route="none",status="404"}}'] == 1
    assert found['stargan_serve_version{model="faces",version="1"}'] == 1
    assert found['stargan_serve_batch_size_bucket{le="1.0"}'] == 1
    assert found['stargan_serve_request_seconds_count{route="/translate"}'] == 2
    assert (found["stargan_serve_queue_length"], found["stargan_serve_requests_inside"]) == (0, 0)
    assert found["stargan_serve_registry_answers"] == 1


def test_the_api_is_described_without_other_servers(server: Running) -> None:
    schema, page = server.get("/openapi.json").json, server.get("/docs").body.decode()
    paths = {"/translate", "/model", "/metrics", "/v2/models/{name}/infer", "/v2/health/ready"}
    assert paths <= schema["paths"].keys()
    for path in schema["paths"]:
        assert f"<code>{path}</code>" in page
    for text in (page, server.get("/").body.decode()):
        assert "https://" not in text
        assert "src=" not in text.replace(' src="blob', "")
    fields = schema["paths"]["/translate"]["post"]["requestBody"]["content"]
    assert "image" in fields["multipart/form-data"]["schema"]["properties"]


def test_pictures_of_phones_are_turned_upright(server: Running, portrait: Image.Image) -> None:
    """By their Exif data, before the centre is taken."""
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    lying = io.BytesIO()
    portrait.rotate(90, expand=True).save(lying, "PNG", exif=exif)
    upright = io.BytesIO()
    portrait.save(upright, "PNG")
    texts = (("label", "Male"), ("frame", "face"))
    assert (
        server.edit(lying.getvalue(), *texts).body == server.edit(upright.getvalue(), *texts).body
    )


def test_the_reference_is_a_square_of_its_centre(at_shelf: Path, photo: bytes) -> None:
    """As the translator is given it, for one image of an inference request, too."""
    served = follow.first("moods@champion")
    other = Image.new("RGB", (30, 20), (10, 200, 90))
    buffer = io.BytesIO()
    other.save(buffer, "PNG")
    with running(served) as server:
        kind, body = form([("label", "sad"), ("frame", "centre")], image=photo,
                          reference=buffer.getvalue())  # fmt: skip
        made = server.post("/translate", body, **{"Content-Type": kind})
        texts = [base64.b64encode(one).decode() for one in (photo, buffer.getvalue())]
        inputs = [{"name": name, "datatype": "BYTES", "shape": [1], "data": [text]}
                  for name, text in zip(("picture", "reference", "labels"), [*texts, "sad"],
                                        strict=True)]  # fmt: skip
        again = server.post("/v2/models/moods/infer", json.loads(json.dumps(
            {"inputs": inputs, "parameters": {"frame": "centre"}})))  # fmt: skip
    assert center_square(other, 16).shape == (1, 3, 16, 16)
    assert made.status == 200
    assert base64.b64decode(again.json["outputs"][0]["data"][0]) == made.body


@pytest.mark.parametrize(("name", "which"), RICHEST)
def test_a_version_of_every_model_is_served(
    name: str, which: str, own_shelf: Path, photo: bytes
) -> None:
    """Those of pairs of labels ask for the picture's own, as the page and `translate` do."""
    number = add_version(f"my-{name}", MODELS[name].tiny(), name, which)
    labels = SETS[which][0].names
    with running(follow.first(f"my-{name}/{number}")) as server:
        offer = server.get("/model").json
        plain = server.edit(photo, ("label", labels[0]), ("frame", "centre"))
        if offer["needs_source"]:
            assert plain.status == 400
            assert "give the labels of the picture as `has`" in plain.json["error"]
        else:
            assert plain.status == 200
        if offer["reads_source"]:
            words = [("label", labels[0]), ("has", labels[1]), ("frame", "centre")]
            assert server.edit(photo, *words).status == 200

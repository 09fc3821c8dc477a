"""Requests that are refused, with what is wrong, where, and the fix."""

import gc
import io
import json
import socket
import struct
import time
import zlib
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from serving import BLOND, TOKEN, Answer, Running, ask, form, running
from training import serve
from training.serving import guard, protocol
from training.serving.figures import Figures
from training.serving.problems import Problem, number
from training.serving.served import Served
from training.serving.service import Limits

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own
examples = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def bomb(width: int, height: int) -> bytes:
    """A small PNG whose header claims this many pixels."""
    rows = zlib.compress(bytes(10_000))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b"")):
        parts.append(struct.pack(">I", len(data)) + kind + data)
        parts.append(struct.pack(">I", zlib.crc32(kind + data)))
    return b"".join(parts)


def refusal(answer: Answer) -> tuple[int, str, str]:
    """Status, where and what; every answer also has the fix, and the line with all of it."""
    found = answer.json
    assert found.keys() == {"error", "what", "where", "fix"}
    assert found["fix"]
    assert found["what"] in found["error"]
    assert found["fix"] in found["error"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    return answer.status, found["where"], found["what"]


@pytest.mark.parametrize(
    ("texts", "status", "where", "what"),
    [
        ([("label", "Nose")], 400, "label or has", "'Nose': not a unique label name"),
        ([("label", "Male=2")], 400, "label or has", "a number between 0 and 1"),
        ([("label", "Black_Hair"), ("label", "Blond_Hair")], 400, "label or has", "exclusive"),
        ([("label", "Male"), ("intensity", "2")], 400, "options", "intensity scales the labels"),
        ([("label", "Male"), ("seed", "3")], 400, "options", "attgan takes no seed"),
        ([("label", "Male"), ("seed", "x")], 400, "field seed", "'x': not a whole number"),
        ([("label", "Male"), ("intensity", "nan")], 400, "field intensity", "not a number"),
        ([("label", "Male"), ("labels", "x")], 400, "field labels", "unknown"),
        ([("label", "Male"), ("frame", "face"), ("frame", "centre")], 400, "field frame", "twice"),
        ([("label", "Male"), ("frame", "left")], 400, "frame", "left: a box is LEFT,TOP"),
        ([("label", "Male"), ("frame", "0,0,9999,9999")], 400, "frame", "box 0,0,9999,9999"),
    ],
)
def test_a_wrong_field_is_named(
    server: Running, photo: bytes, texts: list[tuple[str, str]], status: int, where: str, what: str
) -> None:
    found = refusal(server.edit(photo, *texts))
    assert found[:2] == (status, where)
    assert what in found[2]


def test_options_in_the_query_of_a_form_count_as_its_fields(server: Running, photo: bytes) -> None:
    kind, body = form([("frame", "centre")], image=photo)

    def post(query: str) -> Answer:
        return server.post(f"/translate?{query}", body, **{"Content-Type": kind})

    whole = server.edit(photo, *BLOND)
    assert post("label=Blond_Hair&has=Black_Hair").body == whole.body
    assert refusal(post("label=Nose"))[1] == "label or has"
    assert refusal(post("labels=Male"))[1:] == ("field labels", "unknown")
    assert refusal(post("frame=face"))[1:] == ("field frame", "given twice")


@pytest.mark.parametrize(
    ("data", "status", "what"),
    [
        (b"", 400, "no picture"),
        (b"hello", 400, "not a picture"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), 400, "does not decode"),
        (b"\0\0\0\x18ftypheic" + bytes(40), 400, "HEIC is not read"),
        (bomb(30_000, 30_000), 413, "the limit is 16,000,000 pixels"),
        (bomb(5_000, 5_000), 413, "5000x5000 px; the limit is 16,000,000 pixels"),
    ],
    ids=["empty", "text", "cut", "heic", "bomb", "large"],
)
def test_a_wrong_picture_is_refused_before_it_takes_memory(
    server: Running, data: bytes, status: int, what: str
) -> None:
    start = time.monotonic()
    answer = server.post("/translate?label=Male", data, **{"Content-Type": "image/png"})
    found = refusal(answer)
    assert (found[0], what in found[2]) == (status, True), found
    assert time.monotonic() - start < 5


def test_a_photo_without_a_face_is_refused_with_the_fix(server: Running) -> None:
    grey = io.BytesIO()
    Image.new("RGB", (200, 200), "grey").save(grey, "PNG")
    answer = server.edit(grey.getvalue(), ("label", "Male"))
    assert refusal(answer) == (422, "image", "no face found")
    assert "frame=centre" in answer.json["fix"]
    assert server.edit(grey.getvalue(), ("label", "Male"), ("frame", "centre")).status == 200


@pytest.mark.parametrize("told", [True, False])
def test_a_body_over_the_limit_is_refused_also_without_its_length(
    faces: Served, told: bool
) -> None:
    """The client gets the answer, although it is still sending."""
    with running(faces, limits=Limits(bytes=2000)) as server:
        target = urlsplit(server.address)
        with socket.create_connection((target.hostname, target.port), 20) as link:
            length = "Content-Length: 900000" if told else "Transfer-Encoding: chunked"
            head = f"POST /translate HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}\r\n\r\n"
            link.sendall(head.encode())
            piece = bytes(1000) if told else b"3e8\r\n" + bytes(1000) + b"\r\n"
            for _ in range(3):
                link.sendall(piece)
            answer = link.recv(100)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert server.get("/v2/health/ready").status == 200


def given_inputs(**changed: Any) -> dict[str, Any]:
    """A good request of tensors, but for these."""
    image = {"name": "image", "datatype": "FP32", "shape": [1, 3, 16, 16], "data": [0.0] * 768}
    label = {"name": "label", "datatype": "FP32", "shape": [1, 3], "data": [1, 0, 0]}
    for key, value in changed.items():
        (image if key in ("shape", "data", "datatype") else label)[key.removeprefix("label_")] = (
            value
        )
    return {"inputs": [image, label]}


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"{", "the body"),
        (b"[]", "the body"),
        (b"[" * 100_000, "the body"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [{"name": "image"}]}, "inputs.0.datatype"),
        (given_inputs(shape=[1, 3, 8, 8]), "input image"),
        (given_inputs(shape=[2, 3, 16, 16]), "input image"),
        (given_inputs(shape=[0, 3, 16, 16]), "input image"),
        (given_inputs(data=["a"] * 768), "input image"),
        (given_inputs(data=[2.0] * 768), "input image"),
        (given_inputs(data=[float("nan")] * 768), "input image"),
        (given_inputs(datatype="INT8"), "inputs.0.datatype"),
        (given_inputs(label_shape=[3, 1]), "input label"),
        (given_inputs(label_name="other"), "input other"),
        ({**given_inputs(), "parameters": {"frame": "face"}}, "parameter frame"),
        ({**given_inputs(), "parameters": {"x": 1}}, "parameter x"),
        ({**given_inputs(), "parameters": {"seed": "x"}}, "parameter seed"),
        ({**given_inputs(), "parameters": {"seed": 1.9}}, "parameter seed"),
        ({**given_inputs(), "parameters": {"seed": True}}, "parameter seed"),
        ({**given_inputs(), "parameters": {"intensity": True}}, "parameter intensity"),
    ],
)
def test_a_wrong_inference_request_is_refused(server: Running, body: Any, where: str) -> None:
    answer = server.post("/v2/models/faces/infer", body)
    assert refusal(answer)[:2] == (400, where), answer.body


@pytest.mark.parametrize("piece", [b"[]", b"{}"])
def test_a_body_of_many_lists_is_refused_before_it_is_parsed(piece: bytes) -> None:
    """While Python makes them it answers nothing, liveness included."""
    body = b'{"inputs": [' + b",".join([piece] * 1_000_000) + b"]}"
    start = time.monotonic()
    with pytest.raises(Problem, match="lists and objects; the limit is 100,000") as refused:
        protocol.parse(body)
    assert (refused.value.status, "send flat data" in refused.value.fix) == (400, True)
    assert time.monotonic() - start < 0.5  # parsing takes seconds


def test_the_good_inference_request_is_answered(server: Running) -> None:
    """From which the wrong ones are made."""
    assert server.post("/v2/models/faces/infer", given_inputs()).status == 200


@examples
@given(
    data=st.binary(max_size=400),
    head=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0"]),
    kind=st.sampled_from(["image/png", "multipart/form-data; boundary=x", "multipart/form-data"]),
)  # fmt: skip
def test_any_bytes_are_refused_as_a_mistake_of_the_sender(
    server: Running, data: bytes, head: bytes, kind: str
) -> None:
    answer = server.post("/translate?label=Male", head + data, **{"Content-Type": kind})
    assert refusal(answer)[0] in (400, 413)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=8), one, max_size=3),
    max_leaves=8,
)  # fmt: skip
json_inputs = st.fixed_dictionaries({
    "name": st.sampled_from(["image", "label", "source", "picture", "labels", "has", "reference"]),
    "datatype": st.sampled_from(["FP32", "BYTES"]),
    "shape": st.lists(st.integers(-1, 2**40), max_size=4) | st.just([1, 3, 16, 16]) | st.just([1]),
    "data": st.lists(json_values, max_size=3),
})  # fmt: skip


@examples
@given(inputs=st.lists(json_inputs, max_size=3), parameters=json_values)
def test_any_inference_request_is_refused_as_a_mistake_of_the_sender(
    server: Running, inputs: list[Any], parameters: Any
) -> None:
    body = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
    assert refusal(server.post("/v2/models/faces/infer", body))[0] == 400


def test_unknown_routes_and_methods_are_named(server: Running) -> None:
    assert refusal(server.get("/admin"))[:2] == (404, "the path")
    answer = server.get("/translate")
    assert refusal(answer)[0] == 405
    assert answer.headers["allow"] == "POST"


# ---- who may ask


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", ""]
)
def test_a_name_that_another_site_points_here_is_refused(server: Running, host: str) -> None:
    """DNS rebinding: the browser then believes that the answer is that site's."""
    for path in ("/", "/model", "/metrics"):
        assert refusal(server.get(path, Host=host))[:2] == (421, "header Host")
    port = urlsplit(server.address).port
    for own in (f"localhost:{port}", f"LOCALHOST:{port}", "[::1]:1", "127.0.0.1"):
        assert server.get("/model", Host=own).status == 200


@pytest.mark.parametrize(
    ("host", "shown"),
    [("127.0.0.2", "127.0.0.2:8080"), ("::1", "[::1]:8080"), ("0:0:0:0:0:0:0:1", "[::1]:8080"),
     ("localhost", "127.0.0.1:8080"), ("localhost", "localhost:8080")],
)  # fmt: skip
def test_the_address_that_a_server_prints_is_one_of_its_names(
    host: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SERVE_TOKEN", raising=False)
    made = guard.Guard(FastAPI(), guard.access(host), 100, Figures())
    made.check("GET", "/", {"host": shown})
    with pytest.raises(Problem, match="not a name") as raised:
        made.check("GET", "/", {"host": "127.0.0.3:8080"})
    if host.startswith("127."):
        assert f"use {host}, or" in str(vars(raised.value))


@pytest.mark.parametrize("kind", [int, float])
def test_a_number_of_json_is_taken_as_it_is_or_refused(kind: type[int] | type[float]) -> None:
    for right in (2, 2.0, "2"):
        assert number(right, "here", kind) == 2
    for wrong in (True, False, None, [], "x", float("nan"), *([1.9] if kind is int else [])):
        with pytest.raises(Problem, match="not a"):
            number(wrong, "here", kind)


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"},
     {"Origin": "http://127.0.0.1:1"}, {"Sec-Fetch-Site": "same-site"}],
)  # fmt: skip
def test_what_another_sites_page_posts_is_refused(
    server: Running, photo: bytes, headers: dict[str, str]
) -> None:
    query = "/translate?label=Male&frame=centre"
    assert refusal(server.post(query, photo, **headers))[:2] == (403, "header Origin")
    own = {"Origin": server.address, "Sec-Fetch-Site": "same-origin"}
    assert server.post(query, photo, **own).status == 200


def test_with_a_token_only_the_page_and_the_health_are_open(faces: Served, photo: bytes) -> None:
    who = guard.Access((), TOKEN)
    with running(faces, who=who) as server:
        for path in ("/", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready"):
            answer = server.get(path)
            assert answer.status == 200
            assert TOKEN not in answer.body.decode()
        for path in ("/model", "/metrics", "/v2", "/v2/models/faces", "/v2/models/faces/ready"):
            for given_token in ("", TOKEN, f"Bearer {TOKEN}x", "Bearer ", f"Basic {TOKEN}"):
                answer = server.get(path, Authorization=given_token)
                assert refusal(answer)[:2] == (401, "header Authorization")
                assert answer.headers["www-authenticate"] == "Bearer"
            assert server.get(path, Authorization=f"Bearer {TOKEN}").status == 200
        query = "/translate?label=Male&frame=centre"
        assert server.post(query, photo).status == 401
        right = {"Authorization": f"bearer {TOKEN}", "Host": "any.example"}
        assert server.post(query, photo, **right).status == 200


@pytest.mark.parametrize(
    ("words", "token", "text"),
    [
        ({"host": "0.0.0.0"}, "", "0.0.0.0: others can reach this server"),
        ({"host": "::"}, "", "SERVE_TOKEN is not set"),
        ({"names": ["faces.example"]}, "", "faces.example: others can reach this server"),
        ({"host": "0.0.0.0"}, "short", "SERVE_TOKEN: 5 characters; 16 or more"),
        ({}, "", "moods/9: no such version"),
        ({}, "x" * 16, "moods/9: no such version"),
    ],
)
def test_a_server_that_others_could_use_does_not_start(
    at_shelf: Any, monkeypatch: pytest.MonkeyPatch, words: dict[str, Any], token: str, text: str
) -> None:
    monkeypatch.setenv("SERVE_TOKEN", token)
    with pytest.raises(ValueError, match=r"moods/9: no such version|SERVE_TOKEN") as refused:
        serve.serve("moods/9", port=0, **words)
    assert text in str(refused.value)
    del refused
    gc.collect()  # a socket that was left open would warn


def test_a_port_that_is_taken_is_named_with_the_fix(at_shelf: Any, server: Running) -> None:
    port = urlsplit(server.address).port
    assert port
    with pytest.raises(OSError, match="give another --port") as refused:
        serve.serve("faces@champion", port=port)
    assert refused.value.filename == f"127.0.0.1:{port}"


def test_a_token_that_is_not_the_variables_is_not_in_the_log(
    faces: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with running(faces, who=guard.Access((), TOKEN)) as server:
        ask(f"{server.address}/model?secret=abc", headers={"Authorization": "Bearer wrong"})
    assert "wrong" not in caplog.text
    assert "secret" not in caplog.text

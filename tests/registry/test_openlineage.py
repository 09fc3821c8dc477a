"""OpenLineage events of steps, at a real HTTP server and in a file."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import runevents
from jsonserver import answering
from releases import IDENTITY, MD5, evaluate, register, train
from training import launch, release
from training.core.cli import StoppedError
from training.registry import emit
from training.registry import versions as registry
from training.registry.openlineage import recorded, run_of
from training.storage.store import Manifest
from training.tracking import client as tracking

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # MLflow's own
    pytest.mark.filterwarnings("ignore:.*type hints? :UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow leaves SQLite pools open
]


@pytest.fixture(autouse=True)
def working_folder(release_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOURCE_URL", "https://me:secret@example.org/code.git")
    return release_folder


class Received(list[dict[str, Any]]):
    """The events that a server received; `url` is its address."""

    url = ""


@pytest.fixture
def server() -> Iterator[Received]:
    received = Received()

    def answer(method: str, path: str, body: bytes) -> tuple[int, Any]:
        if (method, path) != ("POST", "/api/v1/lineage"):
            return 404, {}
        received.append(runevents.checked(json.loads(body)))
        return 201, {}

    with answering(answer) as received.url:
        yield received


def test_a_step_sends_what_it_read_and_wrote(
    binary: Path, server: Received, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """To the server and the file: digests, data version, images, code, the pipeline's run."""
    monkeypatch.setenv("OPENLINEAGE_URL", server.url)
    monkeypatch.setenv("OPENLINEAGE_FILE", str(tmp_path / "events" / "lines.jsonl"))
    result = register(binary)
    assert runevents.steps(server) == [("register", "START"), ("register", "COMPLETE")]
    start, done = server
    assert runevents.read(tmp_path / "events" / "lines.jsonl") == [start, done]
    assert start["run"]["runId"] == done["run"]["runId"]
    assert start["eventTime"] < done["eventTime"]
    assert start["outputs"] == []
    data = Manifest.read(binary)
    digests = [Manifest.read(binary.parent / f"{name}.json").digest
               for name in ("model-0", "evaluation-model-0")]  # fmt: skip
    assert runevents.versions(done["inputs"]) == {
        "trained/stargan": digests[0], "evaluation": digests[1], "dataset/data": data.digest,
    }  # fmt: skip
    (faces,) = [one for one in done["inputs"] if one["name"] == "dataset/data"]
    quality = faces["inputFacets"]["dataQualityMetrics"]
    assert quality["fileCount"] == len(data.entries)
    assert quality["bytes"] == sum(entry.size for entry in data.entries)
    assert runevents.versions(done["outputs"]) == {"models/stargan": "1"}
    assert runevents.tags(done["outputs"][0])["content"] == result["content"]
    location = done["job"]["facets"]["sourceCodeLocation"]
    assert location["url"] == location["repoUrl"] == "https://example.org/code.git"
    assert location["version"] == registry.version("stargan/1").tags["git_commit"]
    assert done["job"]["facets"]["documentation"]["description"].startswith("Register a trained")
    assert done["run"]["facets"]["parent"]["run"]["runId"] == run_of("run-1")


def test_a_failed_step_sends_its_reason_and_a_stopped_one_that_it_was_stopped(
    binary: Path, server: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENLINEAGE_URL", server.url)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-key-of-s3")
    model = train(binary)
    scores = evaluate(train(binary, 1), binary)
    with pytest.raises(ValueError, match="the evaluation is of another model"):
        release.register(model, scores, binary, out=binary.parent / "version.json")
    with pytest.raises(ValueError, match="nproc"):
        launch.launch(binary, binary.parent / "out.json", "stargan", "{}", '{"seed": 0}', nproc=0)

    @recorded("train", ("dataset",))
    def stopped(dataset: Path) -> None:
        raise StoppedError("SIGTERM, a-key-of-s3")

    with pytest.raises(StoppedError):
        stopped(binary)
    assert runevents.steps(server) == [
        ("register", "START"), ("register", "FAIL"), ("train", "START"), ("train", "FAIL"),
        ("train", "START"), ("train", "ABORT"),
    ]  # fmt: skip
    failed = server[1]["run"]["facets"]["errorMessage"]
    assert failed["message"].startswith("the evaluation is of another model")
    assert failed["programmingLanguage"] == "python"
    assert "nproc" in server[3]["run"]["facets"]["errorMessage"]["message"]
    assert "a-key-of-s3" not in json.dumps(server)


@recorded("train", ("dataset",))
def step(dataset: Path) -> str:
    return "done"


def test_a_server_that_is_down_costs_a_step_one_line(
    binary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody listens, nobody answers, it answers an error, it is no address."""
    monkeypatch.setattr(emit, "PATIENCE", 0.5)

    def lines(url: str) -> list[str]:
        monkeypatch.setenv("OPENLINEAGE_URL", url)
        start = time.monotonic()
        assert step(binary) == "done"
        assert time.monotonic() - start < 5
        return capsys.readouterr().err.splitlines()

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{silent.getsockname()[1]}"
        (line,) = lines(closed)
        assert line.startswith(f"OpenLineage: 2 of 2 events were not received by {closed} (")
        assert "the step is not affected" in line
        silent.listen()
        (line,) = lines(closed)
        assert "no answer within" in line or "timed out" in line
    with answering(lambda *_: (500, {})) as url:
        (line,) = lines(url)
        assert "500 error responses" in line
    (line,) = lines("marquez:5000")
    assert line == "OpenLineage: marquez:5000: no http:// or https:// address; no events are sent"


def test_the_key_is_sent_with_each_event(binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    keys: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            keys.append(self.headers.get("Authorization"))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{running.server_port}")
        monkeypatch.setenv("OPENLINEAGE_API_KEY", "a key")
        step(binary)
        running.shutdown()
    assert keys == ["Bearer a key"] * 2


def test_a_registered_version_sends_its_past_once(
    binary: Path, server: Received, capsys: pytest.CaptureFixture[str]
) -> None:
    """Train, evaluate, register and promote, joined by versions; sent again, the same runs."""
    register(binary)
    registry.move("stargan", None, "1", "promote", "by the test")
    lineage = registry.version("stargan/1").tags
    file = binary.parent / "past.jsonl"
    for target in (server.url, str(file)):
        release.main(["lineage", "stargan@champion", "--openlineage", target])
        assert capsys.readouterr().out == f"stargan/1: 8 events sent to {target}\n"
    assert runevents.read(file) == list(server)
    jobs = [name for name in ("train", "evaluate", "register", "promote") for _ in range(2)]
    kinds = ["START", "COMPLETE"] * 4
    assert runevents.steps(server) == list(zip(jobs, kinds, strict=True))
    runs = [event["run"]["runId"] for event in server]
    assert len(set(runs)) == 4
    assert runs[::2] == runs[1::2]
    trained, evaluated, registered, promoted = server[1::2]
    assert runevents.versions(trained["inputs"])["dataset/data"] == lineage["dataset"]
    model, scores = runevents.versions(trained["outputs"]), runevents.versions(evaluated["outputs"])
    assert model.items() <= runevents.versions(evaluated["inputs"]).items()
    assert runevents.versions(evaluated["inputs"])["judge"] == lineage["judge"]
    assert (model | scores).items() <= runevents.versions(registered["inputs"]).items()
    assert runevents.tags(evaluated["run"])["success_mean"] == "0.8"
    assert runevents.tags(evaluated["outputs"][0])["fingerprint"] == IDENTITY
    assert runevents.versions(registered["outputs"]) == {"models/stargan": "1"}
    assert runevents.versions(promoted["inputs"]) == {"models/stargan": "1"}
    assert runevents.versions(promoted["outputs"]) == {"models/stargan@champion": "1"}
    assert runevents.tags(promoted["run"])["reason"] == "by the test"
    assert promoted["eventTime"] == registry.history("stargan")[0]["when"]
    assert lineage["data_md5"] == MD5
    with pytest.raises(ValueError, match="0 of 8 events were received"):
        release.main(["lineage", "stargan/1", "--openlineage", "http://127.0.0.1:9"])
    assert tracking.uri().startswith("sqlite")

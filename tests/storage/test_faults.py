"""Outages of real servers, which are killed and restarted while in use."""

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from training.core.config import to_json
from training.engine.mirror import Mirror
from training.models.configure import resolve
from training.storage import dvc as remote
from training.storage.s3 import Bucket, RemoteError
from training.storage.store import Manifest, open_store
from training.train import train

pytestmark = pytest.mark.server


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_PATIENCE", "60")


def away(
    weed: Any, seconds: float, when: Callable[[], bool], until: Callable[[], bool] = lambda: True
) -> threading.Thread:
    """Kill the server once `when` is true; start it some seconds after `until` is."""

    def run() -> None:
        while not when():
            time.sleep(0.01)
        weed.kill()
        while not until():
            time.sleep(0.01)
        time.sleep(seconds)
        weed.start()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_a_request_waits_for_a_server_that_is_down(weed: Any, tmp_path: Path) -> None:
    bucket = Bucket(weed.server.bucket("files"))
    file = tmp_path / "file"
    file.write_bytes(b"x" * 3000)
    bucket.upload("a", file, "0" * 64)
    weed.kill()
    back = away(weed, 2.0, lambda: True)
    assert bucket.read("a") == b"x" * 3000
    back.join()
    weed.kill()
    back = away(weed, 2.0, lambda: True)
    bucket.upload("b", file, "0" * 64)
    assert bucket.create("c", b"1") is True
    assert bucket.create("c", b"2") is False
    back.join()


def test_a_server_that_stays_down_is_reported(weed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After more attempts than one."""
    bucket = Bucket(weed.server.bucket("files"))
    weed.kill()
    monkeypatch.setenv("S3_PATIENCE", "8")  # more than the 7 s of boto3's own attempts
    attempts: list[str] = []
    bucket.client.meta.events.register(
        "before-call.s3.GetObject", lambda event_name, **_: attempts.append(event_name)
    )
    with pytest.raises(RemoteError, match=r"does not answer.*AWS_ENDPOINT_URL_S3"):
        bucket.read("a")
    assert len(attempts) > 1


@pytest.fixture
def torn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """An S3 server that breaks off as many responses as the list's only number says."""
    left, body = [0], b"x" * 3000

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            torn, left[0] = left[0] > 0, left[0] - 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"1"')
            self.end_headers()
            self.wfile.write(body[:1000] if torn else body)

        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"1"')
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        yield left
        server.shutdown()


def test_interrupted_downloads_are_retried(torn: list[int], tmp_path: Path) -> None:
    """Even after boto3 has used up its own retries."""
    torn[0] = 6
    Bucket("s3://files").download("a", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"x" * 3000
    torn[0] = 2
    assert Bucket("s3://files").read("a") == b"x" * 3000


def test_downloads_that_are_always_interrupted_are_an_unreachable_server(
    torn: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S3_PATIENCE", "0")
    torn[0] = 1000
    with pytest.raises(RemoteError, match="does not answer") as broken:
        Bucket("s3://files").download("a", tmp_path / "file")
    assert broken.value.code == "unreachable"
    with pytest.raises(RemoteError, match="does not answer"):
        Bucket("s3://files").read("a")
    assert not (tmp_path / "file").exists()


@pytest.mark.long
def test_a_pull_survives_a_restart_of_its_server(
    weed: Any, tmp_path: Path, pushed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes back after a whole request has failed; the pulled folder is the complete version."""
    url = f"{weed.server.bucket('dvc')}/data"
    md5, nfiles, _ = type(pushed).again(tmp_path / "clone", url)
    out = tmp_path / "out"

    def begun() -> bool:
        return any(tmp_path.glob(".out.*.tmp"))

    requests: list[str] = []
    size = Bucket.size

    def counted(bucket: Bucket, key: str) -> int | None:
        """What a pull asks first once DVC has failed."""
        if begun():
            bucket.client.meta.events.register(
                "before-call.s3.HeadObject", lambda event_name, **_: requests.append(event_name)
            )
        return size(bucket, key)

    monkeypatch.setattr(Bucket, "size", counted)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # else DVC itself waits for most of a minute
    back = away(weed, 0.0, begun, lambda: len(requests) > 1)
    assert remote.pull(md5, nfiles, out, url) == nfiles
    back.join()
    assert remote.tree_md5(out) == (md5, nfiles)


@pytest.mark.long
def test_training_continues_without_its_store_and_copies_later(
    weed: Any, binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """A checkpoint that cannot be copied stays local; the last one is in the store at the end."""
    local = open_store(f"file://{tmp_path / 'store'}")
    url = f"{weed.server.bucket('store')}/root"
    monkeypatch.setenv("STORE_URI", url)
    for entry in Manifest.read(binary).entries:
        open_store().put(local.local(entry), entry.name, entry.rows)
    config = resolve("stargan", "smoke", {
        "images": 400, "decay_images": 16, "warmup_images": 8, "checkpoint_images": 40,
        "log_images": 40, "sample_images": 400, "conv_dim": 4, "d_conv_dim": 4,
        "d_repeat_num": 2, "repeat_num": 1,
    })  # fmt: skip
    monkeypatch.setenv("S3_PATIENCE", "0")

    def passed(images: int) -> bool:
        return any(tmp_path.glob(f"runs/train/*/checkpoints/{images:012d}"))

    # The checkpoints of 160 and 200 images are written during the outage.
    back = away(weed, 0.0, lambda: passed(120), lambda: passed(240))

    def finish(*arguments: Any) -> dict[str, bytes]:
        back.join()
        monkeypatch.setenv("S3_PATIENCE", "60")
        return {}

    monkeypatch.setattr("training.engine.loop.sample_grids", finish)  # before the last checkpoint
    train(binary, tmp_path / "model.json", "stargan", to_json(config.model), to_json(config.train))
    assert "stays on this machine for now" in caplog.text
    (run,) = (tmp_path / "runs" / "train").iterdir()
    newest = Mirror(run.name).newest()
    assert newest is not None
    assert newest.images == 400
    made = Manifest.read(tmp_path / "model.json", "model")
    copied = Mirror(run.name).fetch(newest, tmp_path / "copy")
    stored, copy = made.local("nets/G.safetensors"), copied / "nets" / "G.safetensors"
    assert all((load_file(stored)[k] == v).all() for k, v in load_file(copy).items())

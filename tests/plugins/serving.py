"""Servers of tiny registered models on loopback."""

import dataclasses
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from toydata import SETS
from training.core.files import write_json
from training.core.temporary import temporary_folder
from training.data.labels import LabelSpace
from training.inference.translator import Translator
from training.models.base import Model
from training.registry import lineage
from training.registry import versions as registry
from training.registry.lineage import Lineage
from training.serving import follow, guard
from training.serving.app import application
from training.serving.figures import Figures
from training.serving.served import Served
from training.serving.server import Server, address, listener
from training.serving.service import Limits, Service
from training.tracking import client as tracking

PATIENCE = 60.0  # s that a server may take on a busy machine
TOKEN = "a-token-of-this-test"
BLOND = (("label", "Blond_Hair"), ("has", "Black_Hair"), ("frame", "centre"))  # an edit of "faces"


class Answer(NamedTuple):
    """A response, of any status."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def add_version(
    name: str, model: Model, kind: str, sets: str = "binary", size: int = 16, seed: int = 0
) -> str:
    """Register a model's initial weights for `seed`; returns the version's number.

    Without the pyfunc around them, which takes seconds and which the server does not read.
    """
    torch.manual_seed(seed)
    space = LabelSpace(SETS[sets])
    config = {"name": kind, "preset": "tiny", "size": size, "model": dataclasses.asdict(model)}
    with temporary_folder() as temporary:
        folder = Path(temporary) / "version"
        for net, module in model.networks(space, size).items():
            path = folder / lineage.MODEL / f"nets/{net}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(module.state_dict(), path)
        write_json(folder / lineage.MODEL / "config.json", config)
        write_json(folder / lineage.MODEL / "label_space.json", space.to_json())
        record = _record(seed, lineage.digests(folder))
        tags = {**record.tags(), "lineage": lineage.write(folder, record)}
        run = tracking.log_run(tracking.EXPERIMENT, "a test", {}, {}, {}, {})
        made = registry.log_model(name, folder, run, tags)
    return str(registry.add(name, made, run, record.content, tags, "of a test")[0].version)


def _record(seed: int, files: dict[str, str]) -> Lineage:
    """A record that names no data; so the version counts as imported."""
    missing = dataclasses.MISSING
    fields = dataclasses.fields(Lineage)
    needed = [f.name for f in fields if f.default is missing and f.default_factory is missing]
    pieces: dict[str, Any] = dict.fromkeys(needed, "")
    pieces |= {"git_dirty": False, "seed": seed, "data_md5": str(seed), "files": files}
    return Lineage(**pieces, imported={"test": f"{seed:064x} 1"})


def promote(name: str, to: str) -> None:
    registry.move(name, registry.champion(name), to, "promote", "by a test")


@dataclasses.dataclass
class Running:
    """A server in this process, and what its test asks of it."""

    address: str
    service: Service
    server: Server
    follower: follow.Follower

    def get(self, path: str, **headers: str) -> Answer:
        return ask(self.address + path, headers=headers)

    def post(self, path: str, body: bytes | dict[str, Any], **headers: str) -> Answer:
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        return ask(self.address + path, data, headers)

    def edit(self, image: bytes, *texts: tuple[str, str], **files: bytes) -> Answer:
        """POST a form to /translate."""
        kind, body = form(texts, image=image, **files)
        return self.post("/translate", body, **{"Content-Type": kind})

    def figures(self) -> dict[str, float]:
        """What Prometheus reads, by the text before each number."""
        lines = self.get("/metrics").body.decode().splitlines()
        rows = [line.rpartition(" ") for line in lines if not line.startswith("#")]
        return {name: float(value) for name, _, value in rows}


@contextmanager
def running(
    served: Served, reference: str = "faces@champion", limits: Limits | None = None,
    who: guard.Access | None = None,
) -> Iterator[Running]:  # fmt: skip
    """Serve a version on a free port; the follower looks when the test asks it to."""
    figures, limits = Figures(), limits or Limits()
    service = Service(served, limits, figures)
    follower = follow.Follower(reference, served, service.swap, 3600, figures)
    bound = listener("127.0.0.1", 0)
    server = Server(application(service, who or guard.Access()), service, 0)
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield Running(address(bound), service, server, follower)
    finally:
        server.should_exit = True
        thread.join()
        service.end()
        bound.close()


def wait_for(done: Any, seconds: float = PATIENCE) -> Any:
    """The first true value of a function."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := done():
            return found
        time.sleep(0.01)
    raise AssertionError("it did not happen in time")


def ask(url: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
    """A request without a proxy; connection errors are raised."""
    request = urllib.request.Request(url, data, headers or {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=PATIENCE) as response:
            return Answer(response.status, dict(response.headers), response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, dict(error.headers), error.read())


def form(texts: Any = (), **files: bytes) -> tuple[str, bytes]:
    """The content type and bytes of a multipart form."""
    line = "----a-boundary-of-this-test"
    parts = [
        f'--{line}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'.encode()
        for name, text in texts
    ]
    for name, data in files.items():
        head = f'--{line}\r\nContent-Disposition: form-data; name="{name}"; filename="x"\r\n\r\n'
        parts.append(head.encode() + data + b"\r\n")
    return f"multipart/form-data; boundary={line}", b"".join([*parts, f"--{line}--\r\n".encode()])


class Process:
    """`python -m training.serve` as a process."""

    def __init__(self, *arguments: str, log: Path) -> None:
        self.log = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "training.serve", *arguments],
                stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line.startswith("http://"), line + log.read_text()
        self.address = line.partition(": ")[0]

    def end(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        if self.process.stdout:
            self.process.stdout.close()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclasses.dataclass(frozen=True)
class Held(Translator):
    """A real translator that first waits until its test lets it go."""

    go: threading.Event = dataclasses.field(default_factory=threading.Event)
    passes: list[int] = dataclasses.field(default_factory=list)  # images of each pass

    def paint(
        self, image: Tensor, source: Tensor | None, target: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        self.passes.append(len(image))
        assert self.go.wait(60)
        return super().paint(image, source, target)


def held(served: Served) -> tuple[Served, Held]:
    own = served.translator
    made = Held(own.model, own.nets, own.space, own.size, own.config)
    return dataclasses.replace(served, translator=made), made

"""`python -m training.serve` as a process: promotions, signals and kills under load."""

import os
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving import Process, ask, form, free_port, promote, wait_for

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.server]
Start = Callable[..., Process]


@pytest.fixture
def start(own_shelf: Path) -> Iterator[Start]:
    """Start the server of faces@champion in a copy of the shelf."""
    made: list[Process] = []

    def begin(*more: str, port: int = 0) -> Process:
        words = ("faces@champion", "--every", "0.2", "--port", str(port), *more)
        made.append(Process(*words, log=own_shelf / "log"))
        return made[-1]

    yield begin
    for one in made:
        one.end()


class Load:
    """Clients that edit one photo after the other until they are stopped."""

    def __init__(self, address: str, photo: bytes, clients: int = 3) -> None:
        self.kind, self.body = form([("label", "Male"), ("frame", "centre")], image=photo)
        self.address, self.seen = address, Counter[str]()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(clients)
        for _ in range(clients):
            self._pool.submit(self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                url = f"{self.address}/translate"
                answer = ask(url, self.body, {"Content-Type": self.kind})
            except OSError as error:
                self.seen[f"no answer: {getattr(error, 'reason', error)!r}"] += 1
                time.sleep(0.05)
                continue
            key = f"version {answer.headers['x-model-version']}" if answer.status == 200 else ""
            self.seen[key or str(answer.status)] += 1

    def end(self) -> Counter[str]:
        self._stop.set()
        self._pool.shutdown()
        return self.seen


def nothing_is_kept(server: Process, photo: bytes) -> None:
    """The server may not write files above 100 kB here, and no file appears or grows."""
    body = photo + os.urandom(3_000_000)  # larger than what a form parser keeps in memory
    pid, kind_of_limit = server.process.pid, resource.RLIMIT_FSIZE
    old = resource.prlimit(pid, kind_of_limit, (100_000, resource.RLIM_INFINITY))

    def sizes() -> dict[Path, int]:
        return {path: path.stat().st_size for path in Path.cwd().rglob("*") if path.is_file()}

    before = sizes()
    kind = {"Content-Type": "image/png"}
    wanted = {"label=Male&frame=centre&has=Black_Hair": 200, "label=Quillon": 400}
    for query, status in wanted.items():
        assert ask(f"{server.address}/translate?{query}", body, kind).status == status
    name, data = form([("label", "Male"), ("frame", "centre")], image=body)
    assert ask(f"{server.address}/translate", data, {"Content-Type": name}).status == 200
    assert sizes() == before
    assert (Path.cwd() / "log").read_text() == ""
    resource.prlimit(pid, kind_of_limit, old)


def test_a_promotion_under_load_loses_no_request(start: Start, photo: bytes) -> None:
    """And a rollback; both are served within seconds. Nothing of a request is stored or logged."""
    server = start()
    nothing_is_kept(server, photo)
    load = Load(server.address, photo)
    wait_for(lambda: load.seen["version 1"] > 5)
    began = time.monotonic()
    promote("faces", "2")
    wait_for(lambda: load.seen["version 2"] > 5)
    took = time.monotonic() - began
    promote("faces", "1")
    before = load.seen["version 1"]
    wait_for(lambda: load.seen["version 1"] > before + 5)
    seen = load.end()
    assert seen.keys() == {"version 1", "version 2"}
    assert took < 20  # on a busy machine
    log = (Path.cwd() / "log").read_text()
    assert "version 2 is served in place of version 1" in log
    assert "version 1 is served in place of version 2" in log


def test_sigterm_under_load_answers_what_was_sent_and_ends_well(start: Start, photo: bytes) -> None:
    """Readiness goes first, and edits are still answered while a load balancer finds out."""
    server = start("--drain", "5")
    load = Load(server.address, photo)
    wait_for(lambda: load.seen["version 1"] > 5)
    server.process.send_signal(signal.SIGTERM)
    wait_for(lambda: ask(f"{server.address}/v2/health/ready").status == 503)
    assert ask(f"{server.address}/v2/health/live").status == 200
    before = load.seen["version 1"]
    wait_for(lambda: load.seen["version 1"] > before + 5)
    seen = load.end()
    assert server.process.wait(60) == 0
    assert server.process.stdout
    assert "no edit was lost" in server.process.stdout.read()
    assert seen.keys() == {"version 1"}


@pytest.mark.long
def test_a_killed_server_starts_again_where_it_was(start: Start, photo: bytes) -> None:
    """SIGKILL under load, then the same command on the same port; the champion is served."""
    port = free_port()
    server = start(port=port)
    load = Load(server.address, photo)
    wait_for(lambda: load.seen["version 1"] > 5)
    server.process.kill()
    server.process.wait(60)
    wait_for(lambda: any("no answer" in key for key in load.seen))
    promote("faces", "2")
    again = start(port=port)
    assert again.address == server.address
    wait_for(lambda: load.seen["version 2"] > 5)
    seen = load.end()
    assert [k for k in seen if not k.startswith(("version ", "no answer"))] == []

"""Real torch elastic: two agents with one worker each; workers, agents and the network fail."""

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from training.core.config import to_json
from training.engine.mirror import LogEntry, Mirror
from training.models.configure import resolve
from training.storage.store import Manifest, open_store

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]
KILLS = 20
SHORT = "last_call_timeout=1,keep_alive_interval=1,is_host=false"
# The rendezvous store runs in a separate process, so that it outlives any agent.
STORE = """
import sys, time
from torch.distributed import TCPStore
store = TCPStore(sys.argv[1], 0, is_master=True, wait_for_workers=False)
print(store.port, flush=True)
time.sleep(3600)
"""


class Host:
    """One agent of `torchrun` in its own folder, and in a network namespace if one is given."""

    def __init__(self, cluster: "Cluster", folder: Path, network: tuple[str, str] = ("", "")):
        self.cluster, self.folder, (self.space, self.address) = cluster, folder, network
        folder.mkdir(exist_ok=True)
        self.start()

    def start(self) -> None:
        enter = ["ip", "netns", "exec", self.space] if self.space else []
        local = ["--local-addr", self.address] if self.address else []
        command = [
            *enter, sys.executable, "-m", "torch.distributed.run", *self.cluster.rendezvous, *local,
            *self.cluster.training,
        ]  # fmt: skip
        names = {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        with (self.folder / "agent.log").open("ab") as log:
            self.agent = psutil.Popen(
                command, stdout=log, stderr=log, cwd=self.folder,
                env={**os.environ, **names, **self.cluster.environment},
            )  # fmt: skip

    def workers(self) -> list[psutil.Process]:
        try:
            return list(self.agent.children(recursive=True))
        except psutil.NoSuchProcess:
            return []

    def off(self) -> None:
        """Kill agent and workers at once, as in a power failure."""
        for process in [*self.workers(), self.agent]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.agent.wait(30)

    def log(self) -> str:
        return (self.folder / "agent.log").read_text(errors="replace")[-6000:]


class Cluster:
    """A store for the rendezvous, a training to run, and the hosts that run it."""

    def __init__(
        self, dataset: Path, folder: Path, images: int, nodes: str, address: str = "127.0.0.1"
    ) -> None:
        config = resolve("stargan", "smoke", {
            "images": images, "decay_images": 16, "warmup_images": 8, "checkpoint_images": 24,
            "log_images": 4, "sample_images": images, "conv_dim": 4, "d_conv_dim": 4,
            "d_repeat_num": 2, "repeat_num": 1,
        })  # fmt: skip
        folder.mkdir(exist_ok=True)
        self.folder, self.images, self.environment = folder, images, dict[str, str]()
        self.store = subprocess.Popen(
            [sys.executable, "-c", STORE, address], stdout=subprocess.PIPE, text=True
        )
        assert self.store.stdout
        port = int(self.store.stdout.readline())
        self.rendezvous = [
            "--nnodes", nodes, "--nproc-per-node", "1", "--rdzv-backend", "c10d",
            "--rdzv-endpoint", f"{address}:{port}", "--rdzv-id", "faces", "--rdzv-conf", SHORT,
            "--max-restarts", "99", "--monitor-interval", "0.1",
        ]  # fmt: skip
        self.training = [
            "-m", "training.train", str(dataset), "--out", str(folder / "model.json"),
            "--model-config", to_json(config.model), "--train-config", to_json(config.train),
            "--experiment", "",
        ]  # fmt: skip
        self.hosts: list[Host] = []

    def share(self) -> Path:
        """A checkpoint folder that all hosts share."""
        self.training += ["--folder", str(self.folder / "run")]
        return self.folder / "run"

    def host(self, name: str, network: tuple[str, str] = ("", "")) -> Host:
        self.hosts.append(Host(self, self.folder / name, network))
        return self.hosts[-1]

    def until(self, met: Callable[[], bool], seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while not met():
            assert time.monotonic() < end, "\n".join(host.log() for host in self.hosts)
            time.sleep(0.05)

    def close(self) -> None:
        for host in self.hosts:
            host.off()
        self.store.kill()
        self.store.communicate()


@pytest.fixture
def cluster(binary: Path, tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    made: list[Cluster] = []

    def make(name: str, **settings: Any) -> Cluster:
        made.append(Cluster(binary, tmp_path / name, **settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


def images(run: Path) -> int:
    """Images drawn at the newest checkpoint."""
    return max((int(p.name) for p in run.glob("checkpoints/0*") if p.name.isdigit()), default=0)


def weights(run: Path, count: int) -> dict[str, Any]:
    assert images(run) == count
    return dict(load_file(run / "checkpoints" / f"{count:012d}" / "nets" / "G.safetensors"))


def logged(run: Path) -> list[int]:
    """Images drawn at each row of the log; every batch of 4 has a row."""
    rows = (run / "log.jsonl").read_text().splitlines()
    return [json.loads(row)["images"] for row in rows]


def whole(seen: list[int], count: int) -> bool:
    """No batch is missing from the log and none is in it twice."""
    return seen[-1] == count and all(b - a == 4 for a, b in itertools.pairwise([0, *seen]))


def finish(cluster: Cluster, run: Path) -> None:
    cluster.until(lambda: images(run) == cluster.images)
    for host in cluster.hosts:
        assert host.agent.wait(120) == 0, host.log()


def test_kills_of_workers_and_agents_change_nothing(cluster: Callable[..., Cluster]) -> None:
    """At a fixed size of two: the same weights as of an undisturbed run, bit for bit."""
    count = 120 * KILLS  # some 50 images pass between two kills, so that the last one still hits
    calm = cluster("calm", images=count, nodes="2:2")
    quiet = calm.share()
    for name in "ab":
        calm.host(name)
    finish(calm, quiet)

    rough = cluster("rough", images=count, nodes="2:2")
    run = rough.share()
    hosts = [rough.host(name) for name in "ab"]
    chance = random.Random(5)
    for number in range(KILLS):
        before = images(run)
        assert before + 24 < count, f"the training ended before kill {number + 1} of {KILLS}"
        rough.until(lambda least=before + 24: images(run) >= least)  # type: ignore[misc]
        time.sleep(chance.random() * 0.3)
        victim = chance.choice(hosts)
        if number % 4 == 3:
            victim.off()
            victim.start()
        else:
            for process in victim.workers():
                process.kill()
    finish(rough, run)
    one, other = weights(run, count), weights(quiet, count)
    assert one.keys() == other.keys()
    assert all((one[name] == other[name]).all() for name in one)
    assert whole(logged(run), count)


def test_training_continues_without_a_lost_host_and_it_rejoins(
    cluster: Callable[..., Cluster],
) -> None:
    """One process continues from the last checkpoint; the returning one rejoins."""
    here = cluster("run", images=1200, nodes="1:2")
    run = here.share()
    kept, lost = here.host("a"), here.host("b")
    here.until(lambda: images(run) >= 96)
    lost.off()
    before = images(run)
    here.until(lambda: images(run) >= before + 48)
    lost.start()
    here.until(lambda: bool(lost.workers()))
    finish(here, run)
    assert whole(logged(run), 1200)
    assert "resuming from" in kept.log()
    assert kept.log().count("resuming from") >= 2  # without the other, and with it again


SPACES = (("stargan-a", "10.77.0.2"), ("stargan-b", "10.77.0.3"))


def ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True)


@pytest.fixture
def networks() -> Iterator[str]:
    """Two network namespaces on one bridge; gives the bridge's address, which both reach."""
    if os.getuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2")
    try:
        ip("link", "add", "stargan-br", "type", "bridge")
        ip("addr", "add", "10.77.0.1/24", "dev", "stargan-br")
        ip("link", "set", "stargan-br", "up")
        for space, address in SPACES:
            ip("netns", "add", space)
            ip("link", "add", space, "type", "veth", "peer", "name", "net0", "netns", space)
            ip("link", "set", space, "master", "stargan-br", "up")
            ip("-n", space, "addr", "add", f"{address}/24", "dev", "net0")
            for device in ("lo", "net0"):
                ip("-n", space, "link", "set", device, "up")
        yield "10.77.0.1"
    finally:
        for space, _ in SPACES:
            ip("netns", "del", space, check=False)
        ip("link", "del", "stargan-br", check=False)


def entries(mirror: Mirror) -> list[LogEntry]:
    """The run's whole log in the store."""
    mirror.newest()
    numbers = range(mirror.number + 1)
    keys = [f"{mirror.run}/log/{number:08d}" for number in numbers]
    return [LogEntry(**json.loads(mirror.bucket.read(key))) for key in keys]


@pytest.mark.server
def test_a_partitioned_host_is_fenced(
    cluster: Callable[..., Cluster], binary: Path, networks: str, make_weed: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    """Rank 0's link fails for a while: the other resumes from the store and stays the writer."""
    weed = make_weed(networks)
    for name, value in weed.server.env.items():
        monkeypatch.setenv(name, value)
    held = [(open_store().local(e), e) for e in Manifest.read(binary).entries]
    monkeypatch.setenv("STORE_URI", f"{weed.server.bucket('store')}/root")
    for path, entry in held:
        open_store().put(path, entry.name, entry.rows)

    here = cluster("net", images=960, nodes="1:2", address=networks)
    here.environment = {
        "GLOO_SOCKET_IFNAME": "net0", "COLLECTIVE_TIMEOUT": "10", "S3_PATIENCE": "60",
        "LAUNCH_ID": "faces",  # the same for both hosts, as in the TrainJob
    }  # fmt: skip
    hosts = [here.host(space, (space, address)) for space, address in SPACES]

    def run(host: Host) -> Path:
        return next(iter(host.folder.glob("runs/train/*")), host.folder)

    here.until(lambda: any(images(run(host)) >= 72 for host in hosts))
    first, second = sorted(hosts, key=lambda host: -images(run(host)))
    mirror = Mirror(run(first).name)
    ip("link", "set", first.space, "down")
    writer = entries(mirror)[-1].owner
    here.until(lambda: entries(mirror)[-1].owner != writer)
    taken = entries(mirror)[-1].images
    here.until(lambda: entries(mirror)[-1].images >= taken + 48)
    ip("link", "set", first.space, "up")
    here.until(lambda: entries(mirror)[-1].images == 960)
    assert second.agent.wait(120) == 0, second.log()

    found = entries(mirror)
    owners = [owner for owner, _ in itertools.groupby(entry.owner for entry in found)]
    assert len(owners) == len(set(owners)) >= 2  # a replaced process never writes again
    assert {(entry.launch, *entry.overtaken) for entry in found} == {("faces",)}
    assert [e.generation for e in found] == sorted(e.generation for e in found)
    counts = [e.images for e in found]
    assert counts == sorted(counts)
    copy = mirror.fetch(found[-1], tmp_path / "copy")
    assert load_file(copy / "nets" / "G.safetensors")

"""torch elastic, really: two agents with a worker each, whose workers and agents are killed."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from training.config import to_json
from training.presets import resolve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
IMAGES = 480


class Agents:
    """`torchrun` on what could be two machines: c10d rendezvous, one to two nodes."""

    def __init__(self, dataset: Path, folder: Path) -> None:
        config = resolve("stargan", "smoke", {
            "images": IMAGES, "decay_images": 16, "warmup_images": 8, "checkpoint_images": 24,
            "log_images": 8, "sample_images": IMAGES, "conv_dim": 4, "d_conv_dim": 4,
            "d_repeat_num": 2, "repeat_num": 1,
        })  # fmt: skip
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.folder, self.run = folder, folder / "run"
        self.command = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes", "1:2",
            "--nproc-per-node", "1", "--rdzv-backend", "c10d",
            "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "faces", "--max-restarts", "8",
            "-m", "training.train", str(dataset), "--out", str(folder / "model.json"),
            "--model-config", to_json(config.model), "--train-config", to_json(config.train),
            "--folder", str(self.run), "--experiment", "",
        ]  # fmt: skip
        folder.mkdir(exist_ok=True)
        self.agents = [self.add(), self.add()]

    def add(self) -> subprocess.Popen[bytes]:
        with (self.folder / "agents.log").open("ab") as log:
            return subprocess.Popen(
                self.command, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip

    def workers(self, agent: int) -> list[psutil.Process]:
        return psutil.Process(self.agents[agent].pid).children(recursive=True)

    def images(self) -> int:
        """Of the newest checkpoint."""
        found = [int(p.name) for p in self.run.glob("checkpoints/0*") if p.name.isdigit()]
        return max(found, default=0)

    def until(self, images: int) -> None:
        end = time.monotonic() + 240
        while self.images() < images:
            assert time.monotonic() < end, self.log()
            time.sleep(0.05)

    def log(self) -> str:
        return (self.folder / "agents.log").read_text(errors="replace")[-6000:]

    def weights(self) -> dict[str, object]:
        """Of the end, which every agent that is left reaches without an error."""
        for agent in self.agents:
            code = agent.wait(400)
            assert code in (0, -signal.SIGKILL), self.log()
        assert self.images() == IMAGES
        return dict(load_file(self.run / "checkpoints" / f"{IMAGES:012d}" / "nets/G.safetensors"))


def same(a: dict[str, object], b: dict[str, object]) -> bool:
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)  # type: ignore[attr-defined]


def test_killed_workers_change_nothing(binary: Path, tmp_path: Path) -> None:
    """Both agents' workers, one after the other: the same weights as undisturbed, bit for bit."""
    calm = Agents(binary, tmp_path / "calm").weights()
    agents = Agents(binary, tmp_path / "rough")
    for number, images in ((0, 96), (1, 240)):
        agents.until(images)
        agents.workers(number)[0].kill()
    assert same(agents.weights(), calm)


def power_off(agent: subprocess.Popen[bytes]) -> None:
    """The agent and its worker at once."""
    own = psutil.Process(agent.pid)
    for process in [own, *own.children(recursive=True)]:
        process.kill()
    agent.wait(30)


def test_a_lost_agent_is_done_without_and_joins_again(binary: Path, tmp_path: Path) -> None:
    """One process goes on from the last checkpoint, to the end; one that comes back takes part."""
    agents = Agents(binary, tmp_path / "run")
    agents.until(96)
    power_off(agents.agents[1])
    before = agents.images()
    agents.until(before + 48)
    agents.agents.append(agents.add())
    agents.weights()
    rows = [line for line in (agents.run / "log.jsonl").read_text().splitlines() if line]
    seen = [int(row.split('"images": ')[1].split(",")[0]) for row in rows]
    assert seen == sorted(set(seen))  # nothing twice, nothing left out
    assert seen[-1] == IMAGES
    assert all(b - a == 8 for a, b in itertools.pairwise(seen))

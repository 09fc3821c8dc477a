"""Benchmark the server of a model: one client alone, all that it can do, and twice that.

    python benchmarks/serve.py                         # StarGAN of preset celeba-128, 128 px
    python benchmarks/serve.py --seconds 20 --batch 1
    taskset -c 0,1 python benchmarks/serve.py --reference stargan@champion

Without --reference a model with untrained weights is registered in a temporary folder: their values
do not change the time. The server is a process of its own on loopback. Alone: one picture after
another. Capacity: as many clients as the queue has places, one picture after another each. Twice:
requests begin at twice that rate, whether or not earlier ones are answered, as those of many people
do; those that are refused (429) are counted, and any other error is exit code 2. CPU: seconds of
the server's CPU time for each answer, which other work on the machine hardly changes.
"""

import dataclasses
import http.client
import io
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

import numpy as np
import psutil
import torch
from PIL import Image
from pydantic import Field
from safetensors.torch import save_file

from training.core import cli
from training.core.cli import means
from training.core.files import write_json
from training.core.temporary import temporary_folder
from training.data.labels import LabelSet, LabelSpace
from training.models import configure
from training.models.shared_presets import CELEBA
from training.registry import lineage
from training.registry import versions as registry
from training.registry.lineage import Lineage
from training.tracking import client as tracking

main = cli.program("python benchmarks/serve.py", __doc__)
MOST = 2_000  # requests of a case, at most
PATIENCE = 120.0  # s of a client


class Case(NamedTuple):
    """What one case measured: seconds of the answers with 200, in order, and every status."""

    name: str
    seconds: list[float]
    statuses: Counter[str]
    wall: float
    cpu: float  # s of the server's CPU time

    @property
    def rate(self) -> float:
        return len(self.seconds) / self.wall

    def line(self) -> str:
        p50, p99 = (float(np.percentile(self.seconds, q)) * 1000 for q in (50, 99))
        counts = ", ".join(f"{status} {count}" for status, count in sorted(self.statuses.items()))
        return (
            f"{self.name:<10} {self.rate:7.2f} answers/s  p50 {p50:7.0f} ms  p99 {p99:7.0f} ms  "
            f"CPU {self.cpu / len(self.seconds):6.3f} s  {counts}"
        )


def register(preset: str, name: str) -> None:
    """Make version 1 of `name`, with untrained weights of StarGAN's preset, the champion."""
    config = configure.resolve("stargan", preset, {})
    names = tuple(config.data.attributes or CELEBA)
    space = LabelSpace((LabelSet("celeba", "binary", names),))
    values = {"name": "stargan", "preset": preset, "size": config.data.size,
              "model": dataclasses.asdict(config.model)}  # fmt: skip
    with temporary_folder() as temporary:
        folder = Path(temporary) / "version"
        for net, module in config.model.networks(space, config.data.size).items():
            path = folder / lineage.MODEL / f"nets/{net}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(module.state_dict(), path)
        write_json(folder / lineage.MODEL / "config.json", values)
        write_json(folder / lineage.MODEL / "label_space.json", space.to_json())
        record = Lineage(
            *("",) * 4, False, *("",) * 5, None, *("",) * 4, files=lineage.digests(folder),
            imported={"untrained": f"{0:064x} 0"},
        )  # fmt: skip
        tags = {**record.tags(), "lineage": lineage.write(folder, record)}
        run = tracking.log_run(tracking.EXPERIMENT, "benchmark", {}, {}, {}, {})
        made = registry.log_model(name, folder, run, tags)
    version, _ = registry.add(name, made, run, record.content, tags, "untrained weights")
    registry.move(name, None, str(version.version), "promote", "benchmark")


@contextmanager
def served(reference: str, words: list[str]) -> Iterator[tuple[str, psutil.Process]]:
    """The address of a server, and its process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "training.serve", reference, "--port", "0", *words],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        lines = process.stdout or ()
        line = next((line for line in lines if line.startswith("http://")), "")
        if not line:
            raise ValueError("the server did not start; its reason is above")
        print(line.strip(), flush=True)
        yield line.partition(": ")[0], psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(PATIENCE)


class Client:
    """One connection that is kept, and a request that is sent again and again."""

    def __init__(self, address: str, label: str, body: bytes) -> None:
        parts = urlsplit(address)
        self.host, self.port = parts.hostname or "", parts.port
        self.path, self.body = f"/translate?frame=centre&label={label}", body
        self.link = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)

    def ask(self) -> tuple[str, float]:
        """Status, or the error's name, and the seconds."""
        start = time.perf_counter()
        try:
            self.link.request("POST", self.path, self.body, {"Content-Type": "image/png"})
            answer = self.link.getresponse()
            answer.read()
            status = str(answer.status)
        except (OSError, http.client.HTTPException) as error:
            self.link.close()
            status = type(error).__name__
        return status, time.perf_counter() - start


def used(server: psutil.Process) -> float:
    """Seconds of CPU time until now."""
    return float(sum(server.cpu_times()[:2]))


def closed(name: str, server: psutil.Process, clients: list[Client], seconds: float) -> Case:
    """Each client sends its next request when the last one was answered."""
    end, answers = time.perf_counter() + seconds, list[tuple[str, float]]()

    def run(client: Client) -> None:
        while time.perf_counter() < end and len(answers) < MOST:
            answers.append(client.ask())

    start, before = time.perf_counter(), used(server)
    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(run, clients))
    return _case(name, answers, time.perf_counter() - start, used(server) - before)


def opened(
    name: str, server: psutil.Process, clients: list[Client], rate: float, seconds: float
) -> Case:
    """Requests begin `rate` times a second, on free connections."""
    count = min(MOST, round(rate * seconds))
    free, answers = list(clients), list[tuple[str, float]]()
    lock = threading.Lock()

    def run() -> None:
        with lock:
            client = free.pop()
        answers.append(client.ask())
        with lock:
            free.append(client)

    start, before = time.perf_counter(), used(server)
    with ThreadPoolExecutor(len(clients)) as pool:
        for number in range(count):
            time.sleep(max(0.0, start + number / rate - time.perf_counter()))
            pool.submit(run)
    return _case(name, answers, time.perf_counter() - start, used(server) - before)


def _case(name: str, answers: list[tuple[str, float]], wall: float, cpu: float) -> Case:
    good = [seconds for status, seconds in answers if status == "200"]
    return Case(name, good, Counter(status for status, _ in answers), wall, cpu)


@main.default
def command(
    *,
    reference: Annotated[str, means("NAME@champion; empty: untrained weights")] = "",
    preset: Annotated[str, means("StarGAN's preset of the untrained weights")] = "celeba-128",
    seconds: Annotated[float, Field(gt=0, le=600), means("seconds of each case")] = 30.0,
    queue: Annotated[int, Field(ge=1, le=256), means("the server's --queue")] = 16,
    batch: Annotated[int, Field(ge=1, le=256), means("the server's --batch")] = 8,
) -> None:
    with ExitStack() as stack:
        name = reference
        if not reference:
            os.chdir(stack.enter_context(temporary_folder()))
            register(preset, "benchmark")
            name = "benchmark@champion"
        words = ["--queue", str(queue), "--batch", str(batch), "--every", "600"]
        address, server = stack.enter_context(served(name, words))
        offer = _offer(address)
        size, label = offer["size"], offer["sets"][0]["labels"][0]["name"]
        buffer = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
        Image.fromarray(noise).save(buffer, "PNG")
        clients = [Client(address, label, buffer.getvalue()) for _ in range(4 * queue)]
        closed("warm-up", server, clients[:1], 2)
        alone = closed("alone", server, clients[:1], seconds)
        full = closed("capacity", server, clients[:queue], seconds)
        twice = opened("twice", server, clients, 2 * full.rate, seconds)
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    print(
        f"{platform.processor() or platform.machine()}, {cores} cores, load {load:.1f}, torch "
        f"{torch.__version__}; {offer['model']}, {size} px, queue {queue}, batch {batch}"
    )
    for case in (alone, full, twice):
        print(case.line())
    wrong = {s: n for one in (alone, full, twice) for s, n in one.statuses.items()
             if s not in ("200", "429")}  # fmt: skip
    if wrong:
        raise ValueError(f"answers other than 200 and 429: {wrong}")


def _offer(address: str) -> dict[str, Any]:
    with build_opener(ProxyHandler({})).open(f"{address}/model", timeout=PATIENCE) as answer:
        return dict(json.load(answer))


if __name__ == "__main__":
    cli.entry_point(main)

"""Where a training's time goes: for its log and MLflow, and for Prometheus where a port is named.

METRICS_PORT: the port on which rank 0 answers Prometheus; none by default.
"""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from training.core import environment

log = logging.getLogger(__name__)


class Telemetry:
    """Seconds spent on waiting for data and on writing checkpoints since the last `take`."""

    def __init__(self) -> None:
        self.waited = self.stalled = 0.0
        self.began = self.since = time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time in which a step waits for its batch."""
        start = time.monotonic()
        yield
        self.waited += time.monotonic() - start

    @contextmanager
    def stalling(self) -> Iterator[None]:
        """Time in which training stands still for a checkpoint."""
        start = time.monotonic()
        yield
        self.stalled += time.monotonic() - start

    def take(self, price: float = 0.0) -> dict[str, float]:
        """The shares since the last call, and what this start has cost at `price` an hour."""
        now = time.monotonic()
        facts = {
            "data_wait_share": self.waited / max(now - self.since, 1e-9),
            "checkpoint_seconds": self.stalled,
        }
        if price:
            facts["cost"] = price * (now - self.began) / 3600
        self.waited, self.stalled, self.since = 0.0, 0.0, now
        return facts


def usage(device: torch.device) -> dict[str, float]:
    """This process's memory and, on a GPU, its peak memory and how busy the device is (%)."""
    facts = {"memory_mib": psutil.Process().memory_info().rss / 2**20}
    if device.type == "cuda":
        facts["gpu_memory_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
        if (busy := _busy(device)) is not None:
            facts["gpu_utilisation"] = busy
    return facts


def _busy(device: torch.device) -> float | None:
    """Per cent of the last sample period with a kernel running; None where the driver is silent."""
    import pynvml  # type: ignore[import-untyped]

    try:
        return float(torch.cuda.utilization(device))
    except pynvml.NVMLError as error:
        log.warning("GPU utilisation is not logged: %s", error)
        return None


def summed(path: Path, price: float = 0.0) -> dict[str, float]:
    """What a training took, from its log.jsonl: of the parts that count, not of those redone.

    seconds, images, images_per_second, data_wait_share, checkpoint_seconds, peak memory, mean GPU
    utilisation (%) where there is one, the cost at `price` an hour, and of D's lead over G, where
    it was watched, the last value, the least and the most. Empty without a log.
    """
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    spans = []
    before = 0.0
    for row in rows:
        spans.append((row["images"] - before) / row["images_per_second"])
        before = row["images"]
    seconds = sum(spans)
    if not seconds:
        return {}

    def mean(name: str) -> float:
        return sum(row[name] * span for row, span in zip(rows, spans, strict=True)) / seconds

    facts = {
        "seconds": seconds,
        "images": before,
        "images_per_second": before / seconds,
        "data_wait_share": mean("data_wait_share"),
        "checkpoint_seconds": sum(row["checkpoint_seconds"] for row in rows),
    }
    for name in ("memory_mib", "gpu_memory_mib"):
        if known := [row[name] for row in rows if name in row]:
            facts[name] = max(known)
    if all("gpu_utilisation" in row for row in rows):
        facts["gpu_utilisation"] = mean("gpu_utilisation")
    if price:
        facts["cost"] = price * seconds / 3600
    if leads := [row["symptom/balance"] for row in rows if "symptom/balance" in row]:
        facts |= {"balance": leads[-1], "balance_least": min(leads), "balance_most": max(leads)}
    return facts


class Exporter:
    """The last facts of a training, as gauges that Prometheus reads."""

    def __init__(self, port: int) -> None:
        """Raises ValueError where the port is taken."""
        from prometheus_client import CollectorRegistry, Gauge, start_http_server

        registry = CollectorRegistry()
        names = ("images", "length", "images_per_second", "data_wait_share", "checkpoint_seconds",
                 "memory_mib", "gpu_memory_mib", "gpu_utilisation", "lr_scale", "cost")  # fmt: skip
        self.gauges = {n: Gauge(f"stargan_{n}", f"training: {n}", registry=registry) for n in names}
        self.moment = Gauge("stargan_logged_at", "when this was written, s", registry=registry)
        self.losses = Gauge("stargan_loss", "mean of a loss term", ["term"], registry=registry)
        try:
            self.server, self.thread = start_http_server(port, registry=registry)
        except OSError as error:
            raise ValueError(f"METRICS_PORT={port}: {error.strerror}; name another") from error

    def show(self, facts: Mapping[str, float]) -> None:
        for name, value in facts.items():
            if name in self.gauges:
                self.gauges[name].set(value)
            elif "/" in name and not name.startswith("lr/"):
                self.losses.labels(term=name).set(value)
        self.moment.set(time.time())

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@contextmanager
def exporter(rank: int) -> Iterator[Exporter | None]:
    """Rank 0's exporter, where the environment names a port."""
    if rank or not environment.METRICS_PORT.get():
        yield None
        return
    found = Exporter(environment.METRICS_PORT.count())
    try:
        yield found
    finally:
        found.close()

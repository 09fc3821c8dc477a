"""Time and resource metrics of a training, for its log, MLflow and, with a port, Prometheus.

METRICS_PORT: port of rank 0's Prometheus endpoint; none by default.
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
    """Seconds spent waiting for data and writing checkpoints since the last `take`."""

    def __init__(self) -> None:
        self.waited = self.stalled = 0.0
        self.began = self.since = time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Measure time in which a step waits for its batch."""
        start = time.monotonic()
        yield
        self.waited += time.monotonic() - start

    @contextmanager
    def stalling(self) -> Iterator[None]:
        """Measure time in which training is paused for a checkpoint."""
        start = time.monotonic()
        yield
        self.stalled += time.monotonic() - start

    def take(self, price: float = 0.0) -> dict[str, float]:
        """Metrics since the last call, and the cost of this process at `price` per hour."""
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
    """This process's memory (MiB) and, on a GPU, peak memory (MiB) and utilisation (%)."""
    facts = {"memory_mib": psutil.Process().memory_info().rss / 2**20}
    if device.type == "cuda":
        facts["gpu_memory_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
        if (busy := _busy(device)) is not None:
            facts["gpu_utilisation"] = busy
    return facts


def _busy(device: torch.device) -> float | None:
    """GPU utilisation (%) in the last sample period; None if the driver does not report it."""
    import pynvml

    try:
        return float(torch.cuda.utilization(device))
    except pynvml.NVMLError as error:
        log.warning("GPU utilisation is not logged: %s", error)
        return None


def summarise_log(path: Path, price: float = 0.0) -> dict[str, float]:
    """Totals of a training from its log.jsonl, without the parts that were repeated.

    seconds, images, images_per_second, data_wait_share, checkpoint_seconds, peak memory (MiB), mean
    GPU utilisation (%) if logged, cost at `price` per hour if > 0, and the last, lowest and highest
    balance of D and G if logged. Empty without a log.
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


NOT_LOSSES = ("lr/", "symptom/")  # beginnings of other names with a slash


def last_losses(path: Path) -> dict[str, float]:
    """The loss terms of the last row of a training's log.jsonl; empty without one."""
    lines = path.read_text().splitlines() if path.is_file() else []
    row = json.loads(lines[-1]) if lines else {}
    return {k: v for k, v in row.items() if "/" in k and not k.startswith(NOT_LOSSES)}


class Exporter:
    """Prometheus endpoint with the latest metrics of a training as gauges."""

    def __init__(self, port: int) -> None:
        """Serve on `port`. Raises ValueError if the port is in use."""
        from prometheus_client import CollectorRegistry, Gauge, start_http_server

        registry = CollectorRegistry()
        names = ("images", "length", "images_per_second", "data_wait_share", "checkpoint_seconds",
                 "memory_mib", "gpu_memory_mib", "gpu_utilisation", "lr_scale", "cost")  # fmt: skip
        self.gauges = {n: Gauge(f"stargan_{n}", f"training: {n}", registry=registry) for n in names}
        self.moment = Gauge("stargan_logged_at", "last update, Unix s", registry=registry)
        self.losses = Gauge("stargan_loss", "mean of a loss term", ["term"], registry=registry)
        try:
            self.server, self.thread = start_http_server(port, registry=registry)
        except OSError as error:
            raise ValueError(f"METRICS_PORT={port}: {error.strerror}; use another port") from error

    def show(self, facts: Mapping[str, float]) -> None:
        """Set the gauges to the latest metrics."""
        for name, value in facts.items():
            if name in self.gauges:
                self.gauges[name].set(value)
            elif "/" in name and not name.startswith(NOT_LOSSES):
                self.losses.labels(term=name).set(value)
        self.moment.set(time.time())

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@contextmanager
def exporter(rank: int) -> Iterator[Exporter | None]:
    """Yields rank 0's exporter if METRICS_PORT is set, else None."""
    if rank or not environment.METRICS_PORT.get():
        yield None
        return
    running = Exporter(environment.METRICS_PORT.count())
    try:
        yield running
    finally:
        running.close()

"""Time and resource metrics of a training, in its log and for Prometheus."""

import json
import re
import socket
import threading
import urllib.request
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from pipelines.compiled import PACKAGE
from training.cluster import kubernetes as cluster
from training.cluster.job import Request
from training.core.config import to_json
from training.engine.telemetry import Exporter, Telemetry, summarise_log
from training.models.configure import resolve
from training.storage.store import Manifest
from training.train import train

MONITORING = Path(__file__).parents[2] / "k8s" / "monitoring"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def read(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        rows = answer.read().decode().splitlines()
    return {row.rpartition(" ")[0]: float(row.rpartition(" ")[2]) for row in rows if row[0] != "#"}


def test_a_training_answers_prometheus_and_logs_its_waits(
    binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, seen, threads = free_port(), {}, set(threading.enumerate())
    monkeypatch.setenv("METRICS_PORT", str(port))
    config = resolve("stargan", "smoke", {
        "images": 64, "decay_images": 16, "warmup_images": 8, "log_images": 16,
        "checkpoint_images": 32, "sample_images": 64, "conv_dim": 4, "d_conv_dim": 4,
        "d_repeat_num": 2, "repeat_num": 1, "price_per_hour": 3600.0,
    })  # fmt: skip

    def look(*_: object) -> dict[str, bytes]:
        seen.update(read(port))
        return {}

    monkeypatch.setattr("training.engine.loop.sample_grids", look)  # at the end, still training
    train(binary, tmp_path / "m.json", "stargan", to_json(config.model), to_json(config.train),
          run=tmp_path / "run")  # fmt: skip
    assert (seen["stargan_images"], seen["stargan_length"]) == (64.0, 64.0)
    assert seen["stargan_images_per_second"] > 0
    assert {'stargan_loss{term="g/rec"}', 'stargan_loss{term="d/gp"}'} <= seen.keys()
    rows = [json.loads(row) for row in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(0 < row["data_wait_share"] < 1 for row in rows)
    assert all(a["cost"] < b["cost"] for a, b in pairwise(rows))
    assert [row["checkpoint_seconds"] > 0 for row in rows] == [False, False, True, False]
    mine = set(threading.enumerate()) - threads
    assert not [t for t in mine if "serve_forever" in repr(t)]
    took = Manifest.read(tmp_path / "m.json", "model").about["training"]
    assert took["images"] == 64
    assert took["cost"] == pytest.approx(took["seconds"])  # at 3,600 an hour
    assert took["checkpoint_seconds"] == pytest.approx(sum(r["checkpoint_seconds"] for r in rows))
    assert took["memory_mib"] == max(row["memory_mib"] for row in rows)


def test_a_log_is_summed_by_time(tmp_path: Path) -> None:
    """100 images in 10 s, then 100 in 40 s: 4 per second, and shares are weighted by time."""
    log = tmp_path / "log.jsonl"
    same = {"checkpoint_seconds": 1.5, "memory_mib": 7.0}
    rows = [
        {"images": 100, "images_per_second": 10.0, "data_wait_share": 0.5, "gpu_utilisation": 90.0},
        {"images": 200, "images_per_second": 2.5, "data_wait_share": 0.1, "gpu_utilisation": 40.0},
    ]
    for row, lead in zip(rows, (1.5, 0.25), strict=True):
        row["symptom/balance"] = lead
    log.write_text("".join(f"{json.dumps(same | row)}\n" for row in rows))
    assert summarise_log(log, price=72.0) == pytest.approx({
        "seconds": 50.0, "images": 200, "images_per_second": 4.0, "data_wait_share": 0.18,
        "checkpoint_seconds": 3.0, "memory_mib": 7.0, "gpu_utilisation": 50.0, "cost": 1.0,
        "balance": 0.25, "balance_least": 0.25, "balance_most": 1.5,
    })  # fmt: skip
    assert summarise_log(tmp_path / "absent") == {}


def test_a_taken_port_is_named() -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        with pytest.raises(ValueError, match=r"METRICS_PORT=.*in use; use another"):
            Exporter(other.getsockname()[1])


def test_shares_refer_to_the_time_since_the_last_take(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 3.0, 4.0, 10.0, 20.0])
    monkeypatch.setattr("training.engine.telemetry.time.monotonic", lambda: next(times))
    clock = Telemetry()
    with clock.waiting():
        pass
    with clock.stalling():
        pass
    assert clock.take(price=360.0) == {
        "data_wait_share": 0.1, "checkpoint_seconds": 6.0, "cost": 2.0,
    }  # fmt: skip


def test_no_alert_depends_on_a_value_that_is_never_exported() -> None:
    """A loss that is not finite ends training before it is exported: the failed job is watched."""
    *_, rules = yaml.safe_load_all((MONITORING / "alerts.yaml").read_text())
    alerts = {rule["alert"]: rule["expr"] for g in rules["spec"]["groups"] for rule in g["rules"]}
    assert "stargan_loss" not in "".join(alerts.values())
    names = re.findall(r'job_name=~"([^"]+)"', alerts["TrainingFailed"])
    request = Request(dataset="{}", model="stargan", model_config="{}", train_config="{}")
    assert [bool(re.fullmatch(name, f"{request.name}-node-0")) for name in names] == [True]


def test_dashboard_and_alerts_use_exported_metrics() -> None:
    exporter = Exporter(0)
    known = {*(f"stargan_{name}" for name in exporter.gauges), "stargan_logged_at", "stargan_loss"}
    exporter.close()
    *_, rules = yaml.safe_load_all((MONITORING / "alerts.yaml").read_text())
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    expressions += [rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]]
    watched = {name for text in expressions for name in re.findall(r"stargan_\w+", text)}
    assert watched <= known
    # the schedule, no measure of the training's health
    assert known - watched == {"stargan_lr_scale"}


def test_trainers_are_scraped_at_their_metrics_port() -> None:
    """In a pipeline's step and in jobs: the label, the container's name, the port."""
    monitor, *_ = yaml.safe_load_all((MONITORING / "alerts.yaml").read_text())
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    keep, address = endpoint["relabelings"]
    k8s = MONITORING.parent
    port = yaml.safe_load((k8s / "base" / "steps" / "environment.yaml").read_text())["data"][
        "METRICS_PORT"
    ]
    assert address["replacement"] == f"$1:{port}"
    label = monitor["spec"]["selector"]["matchLabels"]

    _, platform = yaml.safe_load_all(PACKAGE.read_text())
    step = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train"]
    keys = [pair["configMapKey"] for row in step["configMapAsEnv"] for pair in row["keyToEnv"]]
    found = [(step["podMetadata"]["labels"], cluster.MAIN, "METRICS_PORT" in keys)]
    runtime, job = (
        yaml.safe_load((k8s / "jobs" / name).read_text())["spec"]
        for name in ("runtime.yaml", "pytorchjob.yaml")
    )
    (node,) = runtime["template"]["spec"]["replicatedJobs"]
    worker = job["pytorchReplicaSpecs"]["Worker"]["template"]
    for template in (node["template"]["spec"]["template"], worker):
        (container,) = template["spec"]["containers"]
        keys = [source.get("configMapRef", {}).get("name") for source in container["envFrom"]]
        found.append(
            (template["metadata"]["labels"], container["name"], "stargan-environment" in keys)
        )
    for labels, name, knows in found:
        assert label.items() <= labels.items(), name
        assert re.fullmatch(keep["regex"], name)
        assert knows, name

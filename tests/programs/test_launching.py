"""The launching programs: the arguments that they pass on, and how they end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training import launch as launching
from training import train as training
from training import trainjob
from training.cluster.job import Request, Shape, manifest
from training.cluster.kubernetes import ClusterError
from training.core import pods
from training.core.cli import StoppedError
from training.core.retry import may_pass
from training.storage.meta import ModelMeta
from training.storage.store import Manifest, open_store

REQUEST = Request(dataset="{}", model="stargan", model_config="{}", train_config="{}")
SHAPE = Shape(template=str(Path(__file__).parents[2] / "k8s" / "jobs" / "trainjob.yaml"))


class Cluster:
    """A fake cluster whose job runs a test's function; records deletions."""

    during: Callable[[], None]
    deleted: list[str]

    patience = 0.0

    def itself(self) -> tuple[list[dict[str, Any]], str, dict[str, str]]:
        type(self).during()
        return [], "", {}

    def create(self, job: dict[str, Any]) -> bool:
        raise AssertionError(job)

    def delete(self, name: str) -> None:
        self.deleted.append(name)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> type[Cluster]:
    class Mine(Cluster):
        deleted: list[str] = []  # noqa: RUF012 - one a test

    monkeypatch.setattr(trainjob, "Cluster", Mine)
    return Mine


def stop() -> None:
    signal.raise_signal(signal.SIGTERM)
    raise AssertionError("the request goes on")


def test_a_stopped_job_is_deleted_and_reported_as_stopped(
    store: Path, tmp_path: Path, cluster: type[Cluster]
) -> None:
    """In the middle of a request; the signal handler is restored."""
    before = signal.getsignal(signal.SIGTERM)
    cluster.during = staticmethod(stop)
    with pytest.raises(StoppedError, match="deleted; run the same command to resume"):
        trainjob.launch(REQUEST, SHAPE, tmp_path / "model.json")
    assert cluster.deleted == [REQUEST.name]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("accelerators", "limits"), [(0, {}), (2, {"nvidia.com/gpu": "2"})])
def test_accelerators_are_those_of_each_node_of_a_trainjob(
    accelerators: int, limits: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 asks for none, as in the step's own pod, however many processes train."""
    monkeypatch.setenv("STORE_URI", "s3://bucket/store")
    (tmp_path / "dataset.json").write_text("{}")
    jobs: list[dict[str, Any]] = []

    def start(request: Request, shape: Shape, out: Path) -> None:
        jobs.append(manifest(request, shape, []))

    monkeypatch.setattr(trainjob, "shared_store", lambda _: None)
    monkeypatch.setattr(trainjob, "launch", start)
    launching.launch(
        tmp_path / "dataset.json", tmp_path / "model.json", "stargan", "{}", '{"seed": 1}',
        launcher="trainjob", nodes=3, nproc=2, accelerators=accelerators,
    )  # fmt: skip
    (spec,) = (job["spec"]["trainer"] for job in jobs)
    assert (spec["numNodes"], spec["numProcPerNode"]) == (3, 2)
    wanted = spec["resourcesPerNode"]["limits"]
    assert {name: number for name, number in wanted.items() if "/" in name} == limits


def test_a_failure_without_a_stop_deletes_nothing(
    store: Path, tmp_path: Path, cluster: type[Cluster]
) -> None:
    def during() -> None:
        raise ClusterError("no answer")

    cluster.during = staticmethod(during)
    with pytest.raises(ClusterError, match="no answer"):
        trainjob.launch(REQUEST, SHAPE, tmp_path / "model.json")
    assert cluster.deleted == []


def test_the_pods_train_the_stored_request(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the name of its pipeline run and the platform's run, set only during the training."""
    from training.core import environment

    request = Request(
        "{}", "stargan", "{}", "{}", pipeline_run="run-7", child=True, mlflow_run="platform-1"
    )
    assert request.name == Request("{}", "stargan", "{}", "{}").name
    open_store().refer(
        f"jobs/{request.name}/request", trainjob.json.dumps(trainjob.asdict(request))
    )
    for name in ("PIPELINE_RUN_ID", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    seen: dict[str, Any] = {}

    def train(*_: Any, **options: Any) -> None:
        seen.update(
            options, run=environment.PIPELINE_RUN_ID.get(), joins=environment.MLFLOW_RUN_ID.get()
        )

    monkeypatch.setattr(training, "train", train)
    trainjob.run(request.name)
    assert (seen["run"], seen["child"], seen["joins"]) == ("run-7", True, "platform-1")
    assert environment.PIPELINE_RUN_ID.get() == environment.MLFLOW_RUN_ID.get() == ""


def test_all_models_but_the_first_are_passed_as_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    class Torchrun:
        returncode = 0

        def __init__(self, command: list[str], **_: Any) -> None:
            commands.append(command)
            meta = ModelMeta(model="", preset="", seed=0, images=0, dataset="", mlflow_run="")
            Manifest("model", (), meta).write(Path(command[command.index("--out") + 1]))

        def __enter__(self) -> "Torchrun":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def poll(self) -> int:
            return 0

    monkeypatch.setattr("training.launch.subprocess.Popen", Torchrun)
    (tmp_path / "d.json").write_text("{}")
    out = tmp_path / "m.json"
    launching.launch(tmp_path / "d.json", out, "stargan", "{}", '{"seed": 0}', seeds=3)
    assert ["--child" in command for command in commands] == [False, True, True]


def test_a_mistake_of_a_training_process_ends_torchrun_before_its_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In place of torchrun: a program that goes on after a worker has written its refusal."""
    program = tmp_path / "torchrun"
    program.write_text('#!/bin/sh\nprintf "the mistake" > "$REFUSAL_FILE"\nexec sleep 100\n')
    program.chmod(0o755)
    monkeypatch.setattr(launching.sys, "executable", str(program))
    (tmp_path / "d.json").write_text("{}")
    start = time.monotonic()
    with pytest.raises(ValueError, match="the mistake"):
        launching.launch(
            tmp_path / "d.json", tmp_path / "m.json", "stargan", "{}", '{"seed": 0}', nproc=2
        )
    assert time.monotonic() - start < 60


def test_the_processes_share_the_cores_that_the_launcher_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of `taskset` or a cpuset, not the machine's."""
    seen: list[str] = []

    def start(command: list[str], env: dict[str, str]) -> None:
        seen.append(env["OMP_NUM_THREADS"])
        raise StoppedError("started")

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("training.launch.subprocess.Popen", start)
    (tmp_path / "d.json").write_text("{}")
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        with pytest.raises(StoppedError, match="started"):
            launching.launch(
                tmp_path / "d.json", tmp_path / "m.json", "stargan", "{}", '{"seed": 0}'
            )
    finally:
        os.sched_setaffinity(0, cores)
    assert seen == ["1"]


def test_torchrun_leaves_its_processes_the_time_to_save_that_the_launcher_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch reads it; its own default is shorter."""
    from torch.distributed.launcher.api import LaunchConfig

    name, given = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", {}

    def start(_: list[str], env: dict[str, str]) -> None:
        given.update(env)
        raise StoppedError("not started")

    monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("training.launch.subprocess.Popen", start)
    (tmp_path / "d.json").write_text("{}")
    with pytest.raises(StoppedError, match="not started"):
        launching.launch(tmp_path / "d.json", tmp_path / "m.json", "stargan", "{}", '{"seed": 0}')
    monkeypatch.setenv(name, given[name])
    assert LaunchConfig(1, 1, 1).shutdown_timeout == launching.GRACE > 30


def test_a_store_that_other_nodes_cannot_read_is_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the step is not tried again."""
    monkeypatch.setenv("STORE_URI", (tmp_path / "store").as_uri())
    (tmp_path / "d.json").write_text("{}")
    with pytest.raises(ValueError, match="other nodes cannot read it") as caught:
        launching.launch(
            tmp_path / "d.json", tmp_path / "m.json", "stargan", "{}", '{"seed": 0}',
            launcher="trainjob", nodes=2,
        )  # fmt: skip
    assert not may_pass(caught.value)


@pytest.mark.parametrize(
    ("options", "pod"),
    [
        ({"preset": "smoke"}, pods.SMOKE_TRAINER),
        ({"preset": "celeba-128", "train_memory": "32Gi"}, ("4", "32Gi")),
    ],
)
def test_a_trainjobs_pods_request_what_the_preset_or_the_parameters_say(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, str],
    pod: tuple[str, str],
) -> None:
    seen: list[Shape] = []
    monkeypatch.setattr(launching, "_trainjob", lambda _, shape, out: seen.append(shape))
    (tmp_path / "d.json").write_text("{}")
    launching.launch(
        tmp_path / "d.json", tmp_path / "m.json", "stargan", "{}", '{"seed": 0}',
        launcher="trainjob", **options,
    )  # fmt: skip
    assert [(shape.cpu, shape.memory) for shape in seen] == [pod]


def test_configurations_given_as_json_are_not_resolved_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown preset is not an error then."""
    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(training, "train", lambda *given, **_: seen.append(given))
    words = ["d.json", "--out", "m.json", "--preset", "none"]
    training.main([*words, "--model-config", "{}", "--train-config", '{"seed": 3}'])
    assert seen == [(Path("d.json"), Path("m.json"), "stargan", "{}", '{"seed": 3}')]
    with pytest.raises(ValueError, match="unknown preset 'none'"):
        training.main([*words, "--model-config", "{}"])


def test_a_stopped_step_ends_with_143(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise StoppedError("stopped; run the same command to resume")

    monkeypatch.setattr(launching, "launch", stopped)
    with pytest.raises(SystemExit) as ended:
        launching.step()
    assert ended.value.code == 143


def test_the_launcher_needs_no_torch() -> None:
    """The step that only starts a TrainJob needs little memory."""
    code = "import sys, training.launch; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"

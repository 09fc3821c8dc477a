"""The launcher against a fake Kubernetes API with state and faults; and its objects."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
import yaml
from kubeflow_trainer_api.models import TrainerV1alpha1TrainingRuntime, TrainerV1alpha1TrainJob

from jsonserver import kubeconfig
from training import trainjob
from training.cluster import ending
from training.cluster import kubernetes as cluster
from training.cluster import watch as follow
from training.cluster.job import Request, Shape, manifest
from training.storage.store import open_store
from training.trainjob import launch

JOBS = Path(__file__).parents[2] / "k8s" / "jobs"
REQUEST = Request(dataset="{}", model="stargan", model_config="{}", train_config="{}")
SHAPE = Shape(nodes=3, nproc=2, accelerators=1, image="stargan-train:0.2.0")
PATH = re.compile(r"/apis/trainer.kubeflow.org/v1alpha1/namespaces/faces/trainjobs/?([\w-]*)")
Phase = Callable[["Api", dict[str, Any]], None]
SILENT = -1  # a fault: the connection is open, and no answer comes


def right(method: str, path: str) -> tuple[str, str, str]:
    """(API group, resource, verb) that a request needs."""
    group, _, rest = path.partition("/namespaces/faces/")
    kind, *name = rest.split("/")
    verb = {"GET": "get" if name else "list", "POST": "create", "DELETE": "delete"}[method]
    group = group.split("/")[2] if group.startswith("/apis/") else ""
    return group, "/".join([kind, *name[1:]]), verb


class Api:
    """Jobs and pods as the operator would leave them; `faults` are answered first."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.pods: list[dict[str, Any]] = []
        self.log = ""
        self.logs: dict[str, str] = {}  # by pod, where it differs
        self.cuts: list[int] = []  # bytes after which the next log connections break
        self.mute = False  # the log request gets no answer
        self.unheard = False  # requests to create get no answer
        self.faults: list[int] = []  # HTTP status, 0 (close the connection) or SILENT
        self.closing = threading.Event()  # ends silent requests
        self.message = "a bad day"
        self.delete_faults: list[int] = []  # the same, for deletions only
        self.later: list[Phase] = []  # what the operator does at each further poll
        self.used: set[tuple[str, str, str]] = set()  # as a role would grant it
        self.ages: list[int | None] = []  # s of log that were requested
        self.made: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.workflows: dict[str, dict[str, Any]] = {"w": {"metadata": {"name": "w"}}}
        self.calls: list[tuple[str, str]] = []  # method and last part of the path
        self.on_delete: Callable[[], None] = lambda: None  # before a deletion is answered
        self.launchers: list[subprocess.Popen[str]] = []  # left behind by a failed test
        self.selector: dict[str, str] = {}  # of the nodes that the launcher's pod may run on

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        self.used.add(right(method, path.partition("?")[0]))
        self.calls.append((method, path.partition("?")[0].rpartition("/")[2]))
        if found := PATH.fullmatch(path.partition("?")[0]):
            if method == "GET" and not found[1]:
                return 200, {"items": self.labelled(path)}
            return self.trainjob(method, found[1], body)
        if "/workflows/" in path:
            workflow = self.workflows.get(path.rpartition("/")[2])
            return (200, workflow) if workflow else (404, {"message": "not found"})
        if "/log?" in path:
            if self.mute:
                self.closing.wait(60)
            age = re.search(r"sinceSeconds=(\d+)", path)
            self.ages.append(int(age[1]) if age else None)
            name = path.split("/")[-2]
            log = self.logs.get(f"{name} before" if "previous=True" in path else name, self.log)
            return 200, log
        if "/pods/launcher" in path:
            owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w",
                     "uid": "u"}  # fmt: skip
            main = {"name": "main", "image": "registry.example/stargan-train@sha256:0"}
            return 200, {
                "metadata": {"name": "launcher", "ownerReferences": [owner]},
                "spec": {
                    "containers": [{"name": "wait", "image": "argo"}, main],
                    "nodeSelector": self.selector,
                },
            }
        return 200, {"items": self.pods}

    def labelled(self, path: str) -> list[dict[str, Any]]:
        """The jobs that a request's selector of one label selects."""
        (selector,) = parse_qs(urlparse(path).query)["labelSelector"]
        key, _, value = selector.partition("=")
        return [job for job in self.jobs.values() if job["metadata"]["labels"].get(key) == value]

    def trainjob(self, method: str, name: str, body: bytes) -> tuple[int, Any]:
        if method == "POST":
            job = json.loads(body)
            name = job["metadata"]["name"]
            if name in self.jobs:
                return 409, {"reason": "AlreadyExists", "message": "exists"}
            self.jobs[name] = job
            self.made.append(job)
            if self.unheard:
                self.closing.wait(60)
            return 201, job
        if name not in self.jobs:
            return 404, {"message": "not found"}
        if method == "DELETE":
            self.deleted.append(name)
            self.jobs.pop(name)
            self.on_delete()
            return 200, {}
        if self.later:
            self.later.pop(0)(self, self.jobs[name])
        return 200, self.jobs[name]


def serve(api: Api) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if faults := api.faults or (self.command == "DELETE" and api.delete_faults):
                status, value = faults.pop(0), {"message": api.message}
                if status == SILENT:
                    api.closing.wait(60)
                if status in (0, SILENT):
                    self.connection.close()
                    return
            else:
                status, value = api.answer(self.command, self.path, body)
            data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            if api.cuts and "/log?" in self.path:
                self.wfile.write(data[: api.cuts.pop(0)])
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


def kill(group: int) -> None:
    """Kill a group of processes, if there is one, as the end of a container does."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


@pytest.fixture
def api(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """A cluster that KUBECONFIG reaches."""
    api = Api()
    server = serve(api)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("KUBECONFIG", kubeconfig(address, tmp_path, "faces"))
    monkeypatch.setattr(trainjob, "POLL", 0.02)
    yield api
    for process in api.launchers:
        kill(process.pid)
        process.kill()
        process.communicate(timeout=240)
    api.closing.set()
    server.shutdown()
    server.server_close()


def shape() -> Shape:
    """With the user's own template, since the store here is a folder."""
    return replace(SHAPE, template=str(JOBS / "trainjob.yaml"))


def pod(number: int, phase: str, **status: Any) -> dict[str, Any]:
    """One of the job's, as the operator leaves it."""
    of = {"name": f"j-node-0-{number}", "annotations": {cluster.INDEX: str(number)}}
    return {"metadata": of, "status": {"phase": phase, **status}}


def condition(kind: str, message: str = "") -> Phase:
    def change(api: Api, job: dict[str, Any]) -> None:
        job["status"] = {
            "conditions": [{"type": kind, "status": "True", "reason": kind, "message": message}]
        }

    return change


def queued(api: Api, job: dict[str, Any]) -> None:
    job["spec"]["suspend"] = True


def pending(api: Api, job: dict[str, Any]) -> None:
    """The job was admitted from the queue; one of its pods cannot be scheduled."""
    job["spec"]["suspend"] = False
    why = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/3 nodes have a GPU"}]  # fmt: skip
    api.pods = [pod(0, "Running"), pod(1, "Pending", conditions=why)]


def seen(api: Api, job: dict[str, Any]) -> None:
    """No change; the launcher has polled once more."""


def runs(api: Api, job: dict[str, Any]) -> None:
    job["spec"]["suspend"] = False
    api.pods = [pod(n, "Running") for n in range(3)]
    api.log += "2026-11-01T00:00:01Z train: 8/16 images\n"


def ends(api: Api, job: dict[str, Any]) -> None:
    """The pods have trained: the model is in the store."""
    api.log += "2026-11-01T00:00:02Z train: 16/16 images\n"
    open_store().refer(f"jobs/{job['metadata']['name']}/model", '{"the": "model"}')
    condition("Complete")(api, job)


def test_a_job_is_created_and_followed_and_its_model_written(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line of rank 0 once; a second call finds the model and starts nothing."""
    api.later = [runs, seen, ends]
    launch(REQUEST, shape(), tmp_path / "model.json")
    assert (tmp_path / "model.json").read_text() == '{"the": "model"}'
    output = capsys.readouterr().out
    assert output.count("train: 8/16 images") == 1
    assert output.count("train: 16/16 images") == 1
    assert f"{REQUEST.name}: running on 3 nodes" in output
    assert api.ages[0] is None
    assert all(age and age < 60 for age in api.ages[1:])  # not the whole log each time
    launch(REQUEST, shape(), tmp_path / "again.json")
    assert len(api.made) == 1
    assert (tmp_path / "again.json").read_text() == '{"the": "model"}'


def test_the_job_matches_the_request(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POD_NAME", "launcher")
    api.later = [ends]
    request = replace(REQUEST, pipeline_run="run-7")
    wanted = replace(shape(), queue="faces", deadline=60, image="")
    launch(request, wanted, tmp_path / "model.json")
    (job,) = api.made
    job.pop("status")
    assert kept(job, TrainerV1alpha1TrainJob.from_dict(job).to_dict()) == []
    assert job["metadata"]["name"] == REQUEST.name == request.name
    labels = job["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "faces"
    assert labels["stargan/pipeline-run"] == "run-7"
    (owner,) = job["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Workflow", "u")
    spec = job["spec"]
    assert (spec["activeDeadlineSeconds"], spec["trainer"]["numNodes"]) == (60, 3)
    assert spec["trainer"]["numProcPerNode"] == 2
    assert spec["trainer"]["image"] == "registry.example/stargan-train@sha256:0"
    assert spec["trainer"]["args"] == ["run", REQUEST.name]
    assert spec["trainer"]["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_pods_run_on_the_nodes_that_the_launchers_pod_may_run_on(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parameter node_selector is in its pod; the official model knows the patch's fields."""
    monkeypatch.setenv("POD_NAME", "launcher")
    api.later, api.selector = [ends], {"pool": "a100"}
    launch(REQUEST, shape(), tmp_path / "model.json")
    (job,) = api.made
    job.pop("status")
    assert kept(job, TrainerV1alpha1TrainJob.from_dict(job).to_dict()) == []
    (patch,) = job["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    runtime = yaml.safe_load((JOBS / "runtime.yaml").read_text())["spec"]["template"]["spec"]
    assert [node["name"]] == [one["name"] for one in runtime["replicatedJobs"]]
    assert node["template"]["spec"]["template"]["spec"] == {"nodeSelector": {"pool": "a100"}}


def test_a_job_reports_to_the_run_that_started_it_not_to_an_earlier_one(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run's job failed; the pods of the second's read what its launcher stored."""
    for number in ("7", "8"):
        api.later = [condition("Failed"), condition("Failed")]
        request = replace(REQUEST, pipeline_run=f"run-{number}", experiment=f"faces-{number}")
        with pytest.raises(ValueError, match="failed"):
            launch(request, shape(), tmp_path / "model.json")
    launches = {one["name"]: one["value"] for one in api.made[-1]["spec"]["trainer"]["env"]}
    monkeypatch.setenv("LAUNCH_ID", launches["LAUNCH_ID"])
    seen: list[tuple[str, str]] = []

    def train(*_: Any, experiment: str, **__: Any) -> None:
        seen.append((os.environ["PIPELINE_RUN_ID"], experiment))

    monkeypatch.setattr("training.train.train", train)
    trainjob.run(REQUEST.name)
    assert seen == [("run-8", "faces-8")]


WORKER = (
    "import sys; from training import train, trainjob; from training.core import environment as e;"
    "e.cores = lambda: 8; line = lambda: f'threads {e.OMP_NUM_THREADS.get()}\\n';"
    "train.train = lambda *_, **__: sys.stdout.write(line()); trainjob.run(sys.argv[1])"
)


@pytest.mark.parametrize(("chosen", "threads"), [({}, "4"), ({"OMP_NUM_THREADS": "1"}, "1")])
def test_the_processes_of_a_pod_share_its_cores_unless_the_user_has_chosen(
    store: Path, tmp_path: Path, chosen: dict[str, str], threads: str
) -> None:
    """Two under torchrun, which sets one thread itself, on eight cores."""
    open_store().refer(f"jobs/{REQUEST.name}/request", json.dumps(asdict(REQUEST)))
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
               "2", str(tmp_path / "worker.py"), REQUEST.name]  # fmt: skip
    given = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    given["PYTHONPATH"] = str(JOBS.parents[1])
    output = subprocess.run(command, env=given | chosen, cwd=tmp_path, check=True, text=True,
                            stdout=subprocess.PIPE).stdout  # fmt: skip
    assert output.splitlines() == [f"threads {threads}"] * 2


def by_hand(tmp_path: Path, command: str, *more: str) -> None:
    """The program with a hand-written request and a template for a folder store."""
    (tmp_path / "request.json").write_text(json.dumps(asdict(REQUEST)))
    template = str(JOBS / "trainjob.yaml")
    trainjob.main([command, str(tmp_path / "request.json"), *more, "--template", template])


def test_render_prints_the_job_and_stores_its_request(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing but YAML on stdout, without a cluster."""
    by_hand(tmp_path, "render", "--nodes", "5", "--queue", "faces", "--image", "mine:1",
            "--accelerator", "amd.com/gpu", "--cpu", "500m", "--memory", "3Gi")  # fmt: skip
    output = capsys.readouterr()
    job = yaml.safe_load(output.out)
    assert kept(job, TrainerV1alpha1TrainJob.from_dict(job).to_dict()) == []
    trainer = job["spec"]["trainer"]
    assert (job["metadata"]["name"], trainer["args"]) == (REQUEST.name, ["run", REQUEST.name])
    assert (trainer["numNodes"], trainer["image"]) == (5, "mine:1")
    assert trainer["resourcesPerNode"] == {
        "requests": {"cpu": "500m", "memory": "3Gi"},
        "limits": {"memory": "12Gi", "amd.com/gpu": "1"},
    }
    assert REQUEST.name in output.err
    stored = open_store().reference(f"jobs/{REQUEST.name}/request")
    assert stored
    assert Request(**json.loads(stored)) == REQUEST


def test_a_job_applied_by_hand_is_followed(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_hand(tmp_path, "render")
    api.jobs[REQUEST.name] = yaml.safe_load(capsys.readouterr().out)
    api.later = [runs, ends]
    by_hand(tmp_path, "submit", str(tmp_path / "model.json"))
    assert (tmp_path / "model.json").read_text() == '{"the": "model"}'
    assert api.made == []


def test_a_finished_model_is_read_without_a_cluster_and_not_rendered_again(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    open_store().refer(f"jobs/{REQUEST.name}/model", '{"the": "model"}')
    by_hand(tmp_path, "submit", str(tmp_path / "model.json"))
    assert (tmp_path / "model.json").read_text() == '{"the": "model"}'
    with pytest.raises(ValueError, match="trained already; `submit` the same request"):
        by_hand(tmp_path, "render")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("file", "model"),
    [
        ("trainjob.yaml", TrainerV1alpha1TrainJob),
        ("runtime.yaml", TrainerV1alpha1TrainingRuntime),
    ],
)
def test_the_job_files_match_the_official_model(file: str, model: Any) -> None:
    """No field is lost in a round trip, so that every field exists in the model."""
    given = yaml.safe_load((JOBS / file).read_text())
    assert kept(given, model.from_dict(given).to_dict()) == []


def test_the_pytorchjob_matches_the_official_model() -> None:
    from kubeflow.training.api_client import ApiClient

    given = yaml.safe_load((JOBS / "pytorchjob.yaml").read_text())
    client = ApiClient()
    answer = SimpleNamespace(data=json.dumps(given))
    made = client.sanitize_for_serialization(client.deserialize(answer, "KubeflowOrgV1PyTorchJob"))
    assert kept(given, made) == []
    elastic = given["spec"]["elasticPolicy"]
    replicas = given["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"]
    assert elastic["minReplicas"] <= replicas <= elastic["maxReplicas"]


def kept(given: Any, back: Any, path: str = "") -> list[str]:
    """The paths that are in `given` but not in `back`."""
    if isinstance(given, dict):
        return [p for k, v in given.items() for p in kept(v, (back or {}).get(k), f"{path}/{k}")]
    if isinstance(given, list):
        rows = back or [None] * len(given)
        return [p for n, v in enumerate(given) for p in kept(v, rows[n], f"{path}/{n}")]
    return [] if str(given) == str(back) else [path]


def test_the_pods_train_with_the_python_that_has_the_packages() -> None:
    """`torchrun` on the training image's PATH starts its base's Python, which has only torch."""
    job, elastic = (
        yaml.safe_load((JOBS / name).read_text())["spec"]
        for name in ("trainjob.yaml", "pytorchjob.yaml")
    )
    (container,) = elastic["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    for command in (job["trainer"]["command"], container["command"]):
        assert command == ["python", "-m", "torch.distributed.run", "-m", "training.trainjob"]


@pytest.mark.parametrize("file", ["runtime.yaml", "pytorchjob.yaml"])
def test_torchrun_lets_the_pods_save_until_shortly_before_kubernetes_kills_them(file: str) -> None:
    text = (JOBS / file).read_text()
    (granted,) = re.findall(r"terminationGracePeriodSeconds: (\d+)", text)
    (waits,) = re.findall(r'TORCH_ELASTIC_SHUTDOWN_TIMEOUT, value: "(\d+)"', text)
    assert 5 <= int(granted) - int(waits) <= 15


def test_a_failed_job_fails_the_step_with_its_reason(api: Api, tmp_path: Path) -> None:
    api.later = [runs, condition("Failed", "node 1 was lost")]
    with pytest.raises(ValueError, match="Failed: node 1 was lost"):
        launch(REQUEST, shape(), tmp_path / "model.json")
    assert not (tmp_path / "model.json").exists()


def test_a_job_that_failed_before_is_replaced(api: Api, tmp_path: Path) -> None:
    api.later = [condition("Failed")]
    with pytest.raises(ValueError, match="failed"):
        launch(REQUEST, shape(), tmp_path / "model.json")
    api.later = [lambda api, job: None, ends]
    launch(REQUEST, shape(), tmp_path / "model.json")
    assert (len(api.made), api.deleted) == (2, [REQUEST.name])


def test_the_role_grants_exactly_what_the_launcher_requests(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that failed, its deletion, another with its pods and logs; a stop, the run's end."""
    monkeypatch.setenv("POD_NAME", "launcher")
    api.jobs[REQUEST.name] = manifest(REQUEST, shape(), [])
    condition("Failed")(api, api.jobs[REQUEST.name])
    api.later = [lambda *_: None, runs, ends]
    launch(REQUEST, shape(), tmp_path / "model.json")
    assert cluster.Cluster().goes_on("w")  # as a launcher that is stopped asks
    ending.delete_jobs("run-1")
    accounts = yaml.safe_load_all((JOBS.parent / "base" / "steps" / "accounts.yaml").read_text())
    (rules,) = (one["rules"] for one in accounts if one["kind"] == "Role")
    granted = {
        (group, kind, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for kind in rule["resources"]
        for verb in rule["verbs"]
    }
    assert api.used == granted


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The watcher's clock in s, which stands still; phases move it."""
    now = [0.0]
    monkeypatch.setattr(follow, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def later(clock: list[float], seconds: float) -> Phase:
    """So many seconds pass."""

    def change(api: Api, job: dict[str, Any]) -> None:
        clock[0] += seconds

    return change


def test_queued_is_not_stuck(
    api: Api, tmp_path: Path, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """However long, and its deadline begins when it leaves the queue."""
    week = later(clock, 7 * 86_400)
    api.later = [queued, week, week, runs, later(clock, 60), ends]
    launch(REQUEST, shape(), tmp_path / "model.json")
    assert "queued: suspended until its queue has room" in capsys.readouterr().out


def test_a_job_whose_pods_cannot_run_is_given_up(
    api: Api, tmp_path: Path, clock: list[float]
) -> None:
    """With the cause; not before half an hour is over."""
    api.later = [pending, later(clock, 1_700), later(clock, 200), ends]
    with pytest.raises(
        ValueError, match=r"stuck .* 1 of 2 pods run .*0/3 nodes have a GPU.*deleted"
    ):
        launch(REQUEST, shape(), tmp_path / "model.json")
    assert clock == [1_900]
    assert api.deleted == [REQUEST.name]


def test_a_job_that_outlives_its_deadline_is_given_up(
    api: Api, tmp_path: Path, clock: list[float]
) -> None:
    """Half an hour after Kubernetes should have ended it."""
    api.later = [runs, later(clock, SHAPE.deadline), later(clock, 1_700), later(clock, 200), ends]
    with pytest.raises(ValueError, match=rf"not ended {SHAPE.deadline} s after its start"):
        launch(REQUEST, shape(), tmp_path / "model.json")
    assert clock == [SHAPE.deadline + 1_900]
    assert api.deleted == [REQUEST.name]


@pytest.mark.parametrize(
    "faults", [[429], [500, 503], [0], [409], [500, 0, 429, 502], [SILENT, 0, SILENT]]
)
def test_transient_failures_are_retried(
    api: Api, tmp_path: Path, faults: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "TIMEOUT", (0.5, 0.5))
    api.faults, api.later = list(faults), [runs, ends]
    launch(REQUEST, shape(), tmp_path / "model.json")
    assert (tmp_path / "model.json").is_file()
    assert len(api.made) == 1


def test_a_job_created_by_another_process_is_followed(api: Api, tmp_path: Path) -> None:
    api.later = [runs, ends]
    api.jobs[REQUEST.name] = manifest(REQUEST, shape(), [])
    launch(REQUEST, shape(), tmp_path / "model.json")
    assert (tmp_path / "model.json").is_file()
    assert api.made == []


def test_a_deletion_in_conflict_is_retried(api: Api, tmp_path: Path) -> None:
    """The operator writes to the job while it is being deleted."""
    api.delete_faults = [409, 409]
    api.jobs[REQUEST.name] = manifest(REQUEST, shape(), [])
    condition("Failed")(api, api.jobs[REQUEST.name])
    api.later = [lambda *_: None, ends]
    launch(REQUEST, shape(), tmp_path / "model.json")
    assert (len(api.made), api.deleted, api.delete_faults) == (1, [REQUEST.name], [])


def test_a_deletion_that_stays_in_conflict_is_reported_with_the_fix(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 1.0)
    api.delete_faults, api.message = [409] * 20, "the object has been modified"
    with pytest.raises(
        cluster.ClusterError,
        match=r"^faces/j: .* in conflict .*409: the object has been modified.*"
        r"kubectl -n faces delete trainjobs.trainer.kubeflow.org j$",
    ):
        cluster.Cluster().delete("j")


ROLE, QUOTA = "give the account the role", "request less"


@pytest.mark.parametrize(
    ("message", "fixes"),
    [
        ('User "system:serviceaccount:faces:x" cannot create resource "trainjobs"', [ROLE]),
        ("exceeded quota: stargan, requested: requests.nvidia.com/gpu=32, limited: 8", [QUOTA]),
        ('admission webhook "trainer" denied the request: runtimeRef stargan: not found', []),
    ],
)
def test_a_refusal_is_final_and_has_the_fix(
    api: Api, tmp_path: Path, message: str, fixes: list[str]
) -> None:
    api.faults, api.message = [403], message
    with pytest.raises(cluster.ClusterError, match=r"refused .*\(403\)") as refused:
        launch(REQUEST, shape(), tmp_path / "model.json")
    assert message in str(refused.value)
    assert [fix for fix in (ROLE, QUOTA) if fix in str(refused.value)] == fixes


def test_a_cluster_without_the_trainer_is_reported_with_the_fix(api: Api, tmp_path: Path) -> None:
    """A kind that is not installed gets the same answer as a missing job."""
    api.faults = [404]
    with pytest.raises(cluster.ClusterError, match=r"has no trainjobs.*install Kubeflow Trainer"):
        launch(REQUEST, shape(), tmp_path / "model.json")
    assert api.made == []


def test_an_api_that_stays_unavailable_is_reported(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 1.0)
    api.faults = [503] * 50
    with pytest.raises(cluster.ClusterError, match="API does not answer"):
        launch(REQUEST, shape(), tmp_path / "model.json")


REQUESTS: dict[str, Callable[[cluster.Cluster], object]] = {
    "create": lambda it: it.create(manifest(REQUEST, shape(), [])),
    "get": lambda it: it.get("j"),
    "delete": lambda it: it.delete("j"),
    "pods": lambda it: it.pods("j"),
    "itself": lambda it: it.itself(),
    "jobs": lambda it: it.jobs("run-1"),
    "goes_on": lambda it: it.goes_on("w"),
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_an_api_that_never_answers_is_reported(
    api: Api, monkeypatch: pytest.MonkeyPatch, request_: Callable[[cluster.Cluster], object]
) -> None:
    """Tried as often as the message says, with no extra retries by the HTTP library."""
    monkeypatch.setattr(cluster, "TIMEOUT", (0.2, 0.2))
    monkeypatch.setattr(cluster, "PATIENCE", 3.0)
    monkeypatch.setenv("POD_NAME", "launcher")
    api.faults = [SILENT] * 20
    with pytest.raises(cluster.ClusterError, match=r"^faces/.* does not answer") as named:
        request_(cluster.Cluster())
    found = re.search(r"tried (\d+) times in \d+ s, last .*timed out", str(named.value))
    assert found
    assert 1 < int(found[1]) == 20 - len(api.faults)


def test_a_missing_log_does_not_delay_the_job(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pods of a disconnected node are still listed."""
    monkeypatch.setattr(cluster, "TIMEOUT", (0.2, 0.2))
    api.mute, api.later = True, [runs, runs, ends]
    launch(REQUEST, shape(), tmp_path / "model.json")
    assert (tmp_path / "model.json").is_file()


def test_a_launcher_stopped_at_a_silent_api_exits_before_it_is_killed(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question on the run, then the deletion: in the 30 s that Kubernetes grants."""
    assert 2 * cluster.STOP_PATIENCE < 30
    api.faults = [SILENT] * 20
    stopped = cluster.Cluster()
    stopped.patience = 1.0
    limits: list[tuple[float, float]] = []
    delete = stopped.objects.delete_namespaced_custom_object

    def recorded(**given: Any) -> object:
        limits.append(given["_request_timeout"])
        return delete(**given)

    monkeypatch.setattr(stopped.objects, "delete_namespaced_custom_object", recorded)
    with pytest.raises(cluster.ClusterError, match="API does not answer"):
        stopped.delete("j")
    assert limits
    assert max(max(pair) for pair in limits) <= 1.0


def test_a_folder_store_is_refused_for_several_nodes(api: Api, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"other nodes cannot read it; set an s3:// URI"):
        launch(REQUEST, SHAPE, tmp_path / "model.json")


def test_a_recreated_job_has_another_launch_id() -> None:
    """So that it may claim a run that other launches have claimed in the meantime."""
    one, other = (
        {v["name"]: v["value"] for v in manifest(REQUEST, shape(), [])["spec"]["trainer"]["env"]}
        for _ in range(2)
    )
    assert one["LAUNCH_ID"] != other["LAUNCH_ID"]


def test_another_request_is_another_job() -> None:
    assert replace(REQUEST, train_config='{"seed": 1}').name != REQUEST.name
    assert replace(REQUEST, code="other").name != REQUEST.name
    assert replace(REQUEST, pipeline_run="b", experiment="c").name == REQUEST.name
    assert re.fullmatch(r"[a-z][a-z0-9-]{1,62}", REQUEST.name)


def test_a_model_of_other_code_is_not_reused(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same settings after a change of the sources: another job."""
    fields = ("{}", "stargan", "{}", "{}")
    api.later = [ends]
    launch(Request(*fields), shape(), tmp_path / "old.json")
    monkeypatch.setattr("training.core.provenance.lock_hash", lambda: "another")
    api.later = [ends]
    launch(Request(*fields), shape(), tmp_path / "new.json")
    assert len({job["metadata"]["name"] for job in api.made}) == 2


LAUNCHER = (
    "import sys; from dataclasses import replace; from pathlib import Path;"
    "from training import trainjob; from training.trainjob import *; trainjob.POLL = 0.05;"
    "request = Request('{}', 'stargan', '{}', '{}');"
    "cli.entry_point(lambda _: launch(request, Shape(template=sys.argv[1]), Path('m.json')))"
)


@pytest.mark.parametrize(("run", "deleted"), [("run-7", []), ("", [REQUEST.name])])
def test_a_stopped_launcher_deletes_no_job_of_another_run(
    api: Api, tmp_path: Path, run: str, deleted: list[str]
) -> None:
    """Both train the same; LAUNCHER is started by hand, as part of no run."""
    api.jobs[REQUEST.name] = manifest(replace(REQUEST, pipeline_run=run), shape(), [])
    api.later = [runs, seen, seen]
    process = start(api, tmp_path)
    until(lambda: not api.later)
    process.send_signal(signal.SIGTERM)
    assert process.wait(240) == 143
    assert (api.made, api.deleted) == ([], deleted)


def start(api: Api, tmp_path: Path) -> subprocess.Popen[str]:
    """The launcher as a separate process."""
    command = [sys.executable, "-c", LAUNCHER, str(JOBS / "trainjob.yaml")]
    process = subprocess.Popen(command, env=os.environ, cwd=tmp_path, text=True)
    api.launchers.append(process)
    return process


def until(done: Callable[[], object]) -> None:
    end = time.monotonic() + 240
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


STAGES: dict[str, list[Phase]] = {
    "made": [],
    "queued": [queued, seen, seen],
    "waiting": [queued, pending, seen, seen],
    "running": [queued, runs, seen, seen],
}


@pytest.mark.parametrize(
    ("stage", "faults"),
    [("made", []), ("made", [500]), ("queued", []), ("queued", [429, 0, 409]), ("waiting", [500]),
     ("running", []), ("running", [429, 0])],
)  # fmt: skip
def test_a_stopped_launcher_leaves_no_job(
    api: Api, tmp_path: Path, stage: str, faults: list[int]
) -> None:
    """Even if the API fails at that moment."""
    api.later, api.delete_faults = list(STAGES[stage]), list(faults)
    process = start(api, tmp_path)
    until(lambda: api.made and not api.later)
    process.send_signal(signal.SIGTERM)
    assert process.wait(240) == 143
    assert (api.deleted, api.jobs) == ([REQUEST.name], {})


def test_a_launcher_stopped_while_the_api_is_unavailable_leaves_no_job(
    api: Api, tmp_path: Path
) -> None:
    process = start(api, tmp_path)
    until(lambda: api.made)
    api.faults = [503] * 5
    until(lambda: len(api.faults) < 4)
    process.send_signal(signal.SIGTERM)
    assert process.wait(240) == 143
    assert (api.deleted, api.jobs) == ([REQUEST.name], {})


PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"


def start_as_in_a_pod(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The launcher under a parent that ends at once, as KFP's does; the id of their group."""
    monkeypatch.setenv("POD_NAME", "launcher")
    command = [sys.executable, "-c", PARENT, LAUNCHER, str(JOBS / "trainjob.yaml")]
    process = subprocess.Popen(
        command, cwd=tmp_path, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    api.launchers.append(process)
    return process.pid


def told_to_end(api: Api) -> None:
    """As KFP does it, before Argo stops the pods."""
    api.workflows["w"]["spec"] = {"activeDeadlineSeconds": 0}


def test_a_launcher_whose_run_is_ended_deletes_its_job_by_the_first_request(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parent is gone at once, the API hangs in another request, and the container ends as soon
    as the deletion has arrived: nothing after it is needed."""
    api.later = [runs, seen]
    group = start_as_in_a_pod(api, tmp_path, monkeypatch)
    until(lambda: api.made and not api.later)
    api.faults = [SILENT]
    until(lambda: not api.faults)  # the launcher waits for its answer
    told_to_end(api)
    api.on_delete = lambda: kill(group)
    api.calls.clear()
    began = time.monotonic()
    os.killpg(group, signal.SIGTERM)
    until(lambda: api.deleted)
    assert time.monotonic() - began < sum(cluster.TIMEOUT) / 2  # not after the pending request
    assert api.calls == [("GET", "w"), ("DELETE", REQUEST.name)]
    assert api.jobs == {}


def test_a_drained_launcher_leaves_its_job_to_the_next(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes on: the job trains on other nodes, and the step's next attempt follows it."""
    api.later = [runs, seen]
    group = start_as_in_a_pod(api, tmp_path, monkeypatch)
    until(lambda: api.made and not api.later)
    os.killpg(group, signal.SIGTERM)
    output = api.launchers[-1].communicate(timeout=240)[0]  # until the child has ended, too
    assert "left running, as its run goes on" in output
    assert api.deleted == []
    api.later = [runs, ends]
    launch(REQUEST, shape(), tmp_path / "m.json")
    assert (len(api.made), api.deleted) == (1, [])


@pytest.mark.parametrize(
    ("workflow", "runs_on"),
    [
        ({"spec": {}, "status": {"phase": "Running"}}, True),
        ({"spec": {"activeDeadlineSeconds": 86_400}}, True),  # a platform's limit
        ({"spec": {"activeDeadlineSeconds": 0}}, False),
        ({"spec": {"shutdown": "Terminate"}}, False),
        ({"status": {"phase": "Failed"}}, False),
        ({"metadata": {"deletionTimestamp": "2026-11-01T00:00:00Z"}}, False),
        (None, False),
    ],
)
def test_a_run_goes_on_until_its_workflow_ends_or_is_told_to(
    api: Api, workflow: dict[str, Any] | None, runs_on: bool
) -> None:
    api.workflows = {} if workflow is None else {"w": {"metadata": {}, **workflow}}
    assert cluster.Cluster().goes_on("w") is runs_on


@pytest.mark.parametrize("status", [403, 500])
def test_a_job_is_left_if_the_state_of_its_run_is_not_known(api: Api, status: int) -> None:
    """A role without the right, or an API that is away: the run's last step sees to it."""
    api.jobs[REQUEST.name] = manifest(REQUEST, shape(), [])
    api.faults = [status] * 20
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainjob, "STOP_PATIENCE", 1.0)
        told = trainjob._leave_or_delete(cluster.Cluster(), REQUEST.name, "w")
    assert told.startswith("left running, as the state of its run is not known (faces/w: ")
    assert api.deleted == []


def test_the_last_step_of_a_run_deletes_the_jobs_that_it_left(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that have not ended; none of another run."""
    monkeypatch.setenv("POD_NAME", "last")
    monkeypatch.setenv("PIPELINE_RUN_ID", "run-7")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    for name, run, ended in (
        ("a", "run-7", ""),
        ("b", "run-7", "Complete"),
        ("c", "run-7", "Failed"),
        ("d", "run-8", ""),
    ):
        job = manifest(replace(REQUEST, pipeline_run=run), shape(), [])
        job["metadata"]["name"] = name
        if ended:
            condition(ended)(api, job)
        api.jobs[name] = job
    ending.end_run("FAILED", "faces", "local")
    assert api.calls == []
    ending.end_run("FAILED", "faces", "trainjob")
    assert api.deleted == ["a"]
    assert capsys.readouterr().out == "a deleted: its run has ended\n"


def test_a_last_step_that_may_not_list_jobs_says_so_and_ends_well(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POD_NAME", "last")
    monkeypatch.setenv("PIPELINE_RUN_ID", "run-7")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    api.faults = [403]
    ending.end_run("SUCCEEDED", "faces", "trainjob")
    assert "TrainJobs of this run may still train: faces/TrainJobs: refused" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("stage", STAGES)
def test_a_launcher_that_died_finds_its_job_again(api: Api, tmp_path: Path, stage: str) -> None:
    api.later = list(STAGES[stage])
    process = start(api, tmp_path)
    until(lambda: api.made and not api.later)
    ends_well_after(process, api, tmp_path, [runs, ends])


def test_a_launcher_that_died_before_creating_its_job_creates_it_once(
    api: Api, tmp_path: Path
) -> None:
    """The request is in the store, and the API has not answered yet."""
    api.faults = [503] * 1000
    process = start(api, tmp_path)
    until(lambda: len(api.faults) < 1000)
    assert open_store().reference(f"jobs/{REQUEST.name}/request")
    ends_well_after(process, api, tmp_path, [runs, ends])


def test_a_launcher_that_died_while_creating_its_job_does_not_create_another(
    api: Api, tmp_path: Path
) -> None:
    """The job exists, and the launcher got no answer."""
    api.unheard = True
    process = start(api, tmp_path)
    until(lambda: api.made)
    ends_well_after(process, api, tmp_path, [runs, ends])


def test_a_launcher_that_died_at_the_end_of_its_job_writes_the_model(
    api: Api, tmp_path: Path
) -> None:
    def end_unheard(api: Api, job: dict[str, Any]) -> None:
        ends(api, job)
        api.closing.wait(60)

    api.later = [runs, end_unheard]
    process = start(api, tmp_path)
    until(lambda: open_store().reference(f"jobs/{REQUEST.name}/model"))
    ends_well_after(process, api, tmp_path, [])


def ends_well_after(
    process: subprocess.Popen[str], api: Api, tmp_path: Path, later: list[Phase]
) -> None:
    """Kill the launcher; the next one completes the same job."""
    process.kill()
    assert process.wait(240) == -signal.SIGKILL
    assert not (tmp_path / "m.json").exists()
    api.faults, api.unheard, api.later = [], False, later
    launch(REQUEST, shape(), tmp_path / "m.json")
    assert (len(api.made), api.deleted) == (1, [])
    assert (tmp_path / "m.json").read_text() == '{"the": "model"}'


def log(*lines: str) -> str:
    return "".join(f"2026-11-01T00:00:{line}\n" for line in lines)


def says(pod: str, *lines: str) -> Phase:
    def change(api: Api, job: dict[str, Any]) -> None:
        api.logs[pod] = api.logs.get(pod, "") + log(*lines)

    return change


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of rank 0's log in the step's output: they are one letter here."""
    return [line for line in capsys.readouterr().out.splitlines() if len(line) == 1]


ZERO = "j-node-0-0"


@pytest.mark.parametrize(
    "parts",
    [
        [["01Z a"], ["01Z b", "01Z b"], ["01Z b", "02Z c"]],  # the same moment
        [["01Z a", "03Z b"], ["02Z c"], ["04Z d"]],  # two writers, the slower one last
        [["01.5Z a"], ["02Z b"], ["02.5Z c"]],
    ],
)
def test_each_line_is_printed_once_and_in_the_order_of_the_log(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str], parts: list[list[str]]
) -> None:
    api.later = [runs, *[phase for part in parts for phase in (says(ZERO, *part), seen)], ends]
    api.logs[ZERO] = ""
    launch(REQUEST, shape(), tmp_path / "model.json")
    assert printed(capsys) == [line[-1] for part in parts for line in part]


@pytest.mark.parametrize("cuts", [[0], [26], [30, 55], [10**6] * 2, [200, 30]])
def test_reading_an_interrupted_log_resumes_at_the_same_place(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str], cuts: list[int]
) -> None:
    """The connection breaks within a line or between two; once complete, only news is read."""
    api.cuts, api.logs[ZERO] = list(cuts), log("01Z a", "02Z b", "03Z c", "03Z c")
    api.later = [runs, seen, seen, says(ZERO, "04Z d"), ends]
    launch(REQUEST, shape(), tmp_path / "model.json")
    assert printed(capsys) == ["a", "b", "c", "c", "d"]
    broken = len(list(takewhile(lambda cut: cut < 4 * len(log("01Z a")), cuts)))
    assert api.ages[: broken + 1] == [None] * (broken + 1)
    assert all(api.ages[broken + 1 :])


def test_a_log_interrupted_at_the_end_is_read_again(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def last(api: Api, job: dict[str, Any]) -> None:
        says(ZERO, "02Z b")(api, job)
        api.cuts = [30, 45]
        ends(api, job)

    api.logs[ZERO] = log("01Z a")
    api.later = [runs, last]
    launch(REQUEST, shape(), tmp_path / "model.json")
    assert printed(capsys) == ["a", "b"]


def test_the_log_of_a_replacement_pod_follows_that_of_the_old_one(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever their names: the failed pod is still listed, and the job counts as running."""

    def old_and_other(phase: str) -> list[dict[str, Any]]:
        old, other = pod(0, phase), pod(1, "Running")
        old["metadata"] |= {"name": "z", "uid": "1", "creationTimestamp": "2026-11-01T00:00:00Z"}
        return [other, old]

    def first(api: Api, job: dict[str, Any]) -> None:
        api.pods, api.logs = old_and_other("Running"), {"z": log("01Z a"), "j-node-0-1": "01Z x\n"}

    def replaced(api: Api, job: dict[str, Any]) -> None:
        new = pod(0, "Running")
        new["metadata"] |= {"name": "a", "uid": "2", "creationTimestamp": "2026-11-01T00:00:05Z"}
        api.pods = [new, *old_and_other("Failed")]
        api.logs |= {"z": log("01Z a", "02Z b"), "a": log("02Z b", "03Z c")}

    api.later = [first, seen, replaced, seen, ends]
    launch(REQUEST, shape(), tmp_path / "model.json")
    output = capsys.readouterr().out.splitlines()
    assert [line for line in output if len(line) == 1] == ["a", "b", "b", "c"]
    assert not [line for line in output if "waiting" in line]


def test_the_last_lines_of_a_restarted_container_are_printed(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def again(api: Api, job: dict[str, Any]) -> None:
        api.logs |= {f"{ZERO} before": log("01Z a", "02Z b"), ZERO: log("03Z c")}
        status = {"name": "node", "restartCount": 1, "ready": True, "image": "", "imageID": ""}
        api.pods[0] = pod(0, "Running", containerStatuses=[status])

    api.logs[ZERO] = log("01Z a")
    api.later = [runs, seen, again, seen, ends]
    launch(REQUEST, shape(), tmp_path / "model.json")
    assert printed(capsys) == ["a", "b", "c"]


def test_the_command_of_the_job_trains_a_model(
    api: Api, binary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The job's real command: the model that the launcher writes can be loaded."""
    from training.core.config import to_json
    from training.inference.translator import load_translator
    from training.models.configure import resolve

    config = resolve("stargan", "smoke", {
        "images": 16, "decay_images": 8, "warmup_images": 8, "conv_dim": 4, "d_conv_dim": 4,
        "d_repeat_num": 2, "repeat_num": 1,
    })  # fmt: skip
    request = replace(REQUEST, dataset=binary.read_text(), model_config=to_json(config.model),
                      train_config=to_json(config.train))  # fmt: skip

    commands: list[list[str]] = []

    def work(api: Api, job: dict[str, Any]) -> None:
        commands.append([*job["spec"]["trainer"]["command"], *job["spec"]["trainer"]["args"]])
        made = subprocess.run(
            [sys.executable, *commands[0][1:]],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "PET_NPROC_PER_NODE": "2"},  # as the operator reports it
        )  # fmt: skip
        api.pods = [pod(0, "Succeeded" if made.returncode == 0 else "Failed")]
        api.log = "".join(
            f"2026-11-01T00:00:{n:02d}Z {x}\n" for n, x in enumerate(made.stdout.splitlines())
        )
        condition("Complete" if made.returncode == 0 else "Failed", made.stdout[-2000:])(api, job)

    api.later = [work]
    launch(request, shape(), tmp_path / "model.json")
    assert [command[0] for command in commands] == ["python"]
    assert "16/16 images" in capsys.readouterr().out
    assert load_translator(tmp_path / "model.json").size == 16

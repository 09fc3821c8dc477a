"""Secrets, keys and permissions of the cluster's objects: each pod gets only its own."""

import copy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

from admission import refusals
from pipelines import resources
from pipelines.local.stack import SOURCES
from pipelines.manifests import build, check, faults
from training.cluster.job import Request, Shape, manifest

K8S = Path(__file__).parents[2] / "k8s"
POLICY, BINDING = yaml.safe_load_all((K8S / "admission" / "trainjobs.yaml").read_text())
RUNTIMES = list(yaml.safe_load_all((K8S / "admission" / "runtimes.yaml").read_text()))
REQUEST = Request(dataset="{}", model="stargan", model_config="{}", train_config="{}")
Job = dict[str, Any]


def admitted(job: Job, image: str = "stargan-train", policy: Job = POLICY) -> bool:
    """The policy's answer: an expression that fails denies, as `failurePolicy: Fail` says."""
    assert policy["spec"]["failurePolicy"] == "Fail"
    return not refusals(policy, job, image)


def test_the_launchers_jobs_are_admitted() -> None:
    pinned = f"stargan-train@sha256:{64 * 'a'}"
    for shape in (
        Shape(image="stargan-train:0.2.0"),
        Shape(nodes=3, nproc=4, accelerators=4, queue="gpu", image=pinned),
        Shape(accelerators=0),
    ):
        assert admitted(manifest(REQUEST, shape, [{"kind": "Pod"}], shape.image)), shape
    theirs = manifest(REQUEST, SHAPE := Shape(image="r.io/a/stargan-train:1"), [], SHAPE.image)
    assert admitted(theirs, "r.io/a/stargan-train")
    assert not admitted(theirs)


def secret(job: Job) -> None:
    reference = {"secretKeyRef": {"name": "mlflow-server", "key": "auth.ini"}}
    job["spec"]["trainer"]["env"] = [{"name": "LAUNCH_ID", "valueFrom": reference}]
    TrainerV1alpha1TrainJob.from_dict(job)  # the official model takes it


def patched(
    *, job: Job | None = None, template: Job | None = None, **pod: Any
) -> Callable[[Job], None]:
    """A runtime patch of a pod, and of the parts around it."""
    inner = {
        "name": "node",
        "template": {"spec": {"template": pod, **(template or {})}},
        **(job or {}),
    }
    patch = {"template": {"spec": {"replicatedJobs": [inner]}}}
    one = {"manager": "kueue.x-k8s.io/manager", "trainingRuntimeSpec": patch}

    def change(job: Job) -> None:
        job["spec"]["runtimePatches"] = [one]
        TrainerV1alpha1TrainJob.from_dict(job)

    return change


def overridden(**pod: Any) -> Callable[[Job], None]:
    override = {"targetJobs": [{"name": "node"}], **pod}
    return lambda job: job["spec"].update(podTemplateOverrides=[override])


PLACED = {
    "metadata": {"labels": {"kueue.x-k8s.io/podset": "node"},
                 "annotations": {"autoscaling.x-k8s.io/provisioning-class-name": "x"}},
    "spec": {"nodeSelector": {"pool": "gpu"}, "tolerations": [{"key": "gpu"}],
             "schedulingGates": [{"name": "kueue.x-k8s.io/topology"}]},
}  # fmt: skip


@pytest.mark.parametrize("change", [patched(**PLACED), overridden(**PLACED)])
def test_kueue_may_say_where_the_pods_of_a_queued_job_run(change: Callable[[Job], None]) -> None:
    job = copy.deepcopy(manifest(REQUEST, Shape(queue="gpu"), [], "stargan-train:0.2.0"))
    change(job)
    assert admitted(job)


def test_the_launcher_may_say_where_the_pods_of_its_job_run() -> None:
    assert admitted(manifest(REQUEST, Shape(), [], "stargan-train:0.2.0", {"pool": "gpu"}))


def initializer(job: Job) -> None:
    job["spec"]["initializer"] = {"dataset": {"secretRef": {"name": "mlflow-server"}}}


def set_trainer(**values: Any) -> Callable[[Job], None]:
    return lambda job: job["spec"]["trainer"].update(values)


def set_runtime(**values: Any) -> Callable[[Job], None]:
    return lambda job: job["spec"]["runtimeRef"].update(values)


@pytest.mark.parametrize(
    "change",
    [
        secret, initializer,
        lambda job: job["spec"].update(runtimePatches=[{"manager": "me"}]),
        lambda job: job["spec"].update(podSpecOverrides=[{}]),
        *(form(spec={name: value}) for form in (patched, overridden) for name, value in {
            "serviceAccountName": "mlflow", "volumes": [], "initContainers": [], "containers": [],
            "imagePullSecrets": [], "securityContext": {}}.items()),
        *(form(metadata={"labels": {"app": "mlflow"}}) for form in (patched, overridden)),
        patched(job={"replicas": 3}), patched(template={"parallelism": 3}),
        lambda job: job["spec"].pop("trainer"),
        lambda job: job["spec"].pop("runtimeRef"),
        lambda job: job["spec"]["trainer"].pop("image"),
        set_trainer(image="evil"), set_trainer(image="stargan-train-evil:1"),
        set_trainer(image="evil/stargan-train:1"), set_trainer(image=None),
        set_trainer(command=["sh", "-c", "env"]), set_trainer(command=None),
        set_trainer(args=["run", "train-other"]), set_trainer(args=["run"]),
        set_trainer(env=[{"name": "PYTHONPATH", "value": "/tmp"}]),
        set_runtime(name="other"), set_runtime(kind="ClusterTrainingRuntime"),
        set_runtime(apiGroup="evil.org"),
    ],
)  # fmt: skip
def test_any_other_job_is_denied(change: Callable[[Job], Any]) -> None:
    """Secrets of the namespace, other images, commands, runtimes, and changed pods."""
    job = copy.deepcopy(manifest(REQUEST, Shape(), [], "stargan-train:0.2.0"))
    assert admitted(job)
    change(job)
    assert not admitted(job)


def runtime() -> tuple[Job, Job]:
    """The runtime, and the pod that its jobs start."""
    found: Job = yaml.safe_load((K8S / "jobs" / "runtime.yaml").read_text())
    (node,) = found["spec"]["template"]["spec"]["replicatedJobs"]
    return found, node["template"]["spec"]["template"]["spec"]


def test_the_runtime_of_this_project_is_admitted() -> None:
    found, _ = runtime()
    assert admitted(found, policy=RUNTIMES[0])
    found["metadata"]["name"] = "another"  # no TrainJob here may use it
    found["spec"]["template"] = {}
    assert admitted(found, policy=RUNTIMES[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda pod: pod.update(serviceAccountName="mlflow"),
        lambda pod: pod.pop("serviceAccountName"),
        lambda pod: pod.update(automountServiceAccountToken=True),
        lambda pod: pod.pop("automountServiceAccountToken"),
        lambda pod: pod.update(initContainers=[{"name": "x", "image": "evil"}]),
        lambda pod: pod["containers"].append({"name": "x", "image": "evil"}),
        lambda pod: pod["containers"][0].update(name="x"),
        lambda pod: pod["containers"][0]["envFrom"].append({"secretRef": {"name": "admin-s3"}}),
        lambda pod: pod["containers"][0]["env"].append({"name": "K", "valueFrom": {
            "secretKeyRef": {"name": "mlflow-server", "key": "auth.ini"}}}),
        lambda pod: pod["volumes"].append({"name": "x", "secret": {"secretName": "backup-s3"}}),
        lambda pod: pod["volumes"].append({"name": "x", "projected": {"sources": [{
            "secret": {"name": "backup-s3"}}]}}),
        lambda pod: pod["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
    ],
)  # fmt: skip
def test_another_runtime_of_that_name_is_denied(change: Callable[[Job], Any]) -> None:
    """Other accounts, tokens, containers, secrets and volumes."""
    found, pod = runtime()
    change(pod)
    assert not admitted(found, policy=RUNTIMES[0])


def test_the_policies_cover_changes_and_every_version_of_the_api() -> None:
    for policy, binding, kind in (
        (POLICY, BINDING, "trainjobs"), (*RUNTIMES, "trainingruntimes")
    ):  # fmt: skip
        (rule,) = policy["spec"]["matchConstraints"]["resourceRules"]
        assert rule["operations"] == ["CREATE", "UPDATE"]
        assert (rule["apiVersions"], rule["resources"]) == (["*"], [kind])
        assert binding["spec"]["policyName"] == policy["metadata"]["name"]
        assert binding["spec"]["validationActions"] == ["Deny"]
    assert BINDING["spec"]["paramRef"]["parameterNotFoundAction"] == "Deny"


@pytest.fixture(scope="module")
def pods() -> dict[str, str]:
    """JSON of the specification of everything that runs in the overlay `dev`, by name."""
    if not shutil.which("kubectl"):
        pytest.skip("no genuine kustomize: kubectl is not installed")
    found = {}
    for item in yaml.safe_load_all(build(K8S / "overlays" / "dev")):
        if item["kind"] in ("Deployment", "StatefulSet", "CronJob"):
            found[item["metadata"]["name"]] = json.dumps(item["spec"])
    return found


def test_each_pod_gets_only_its_own_s3_key(pods: dict[str, str]) -> None:
    """SeaweedFS alone knows all; the steps' is in pipelines/resources.py."""
    names = {"stargan-s3", "mlflow-s3", "backup-s3", "admin-s3"}
    got = {pod: {n for n in names if f'"{n}"' in text} for pod, text in pods.items()}
    assert got == {
        "mlflow": {"mlflow-s3"}, "backup": {"backup-s3"}, "mlflow-gc": set(), "postgres": set(),
        "seaweedfs": names,
    }  # fmt: skip
    assert not set(resources.SECRETS) & (names - {"stargan-s3"})
    for path in (K8S / "jobs").iterdir():
        assert not {n for n in names - {"stargan-s3"} if n in path.read_text()}, path


def test_no_password_is_an_argument(pods: dict[str, str]) -> None:
    """Arguments are in the list of processes; secrets reach a command as files or variables."""
    for text in pods.values():
        for command in re.findall(r'"(?:command|args)": (\[[^\]]*\])', text):
            assert not re.search(r"\$\{?\w*(PASSWORD|SECRET|DATABASE|URI)\b", command), command


def test_the_server_refuses_sources_outside_its_store(pods: dict[str, str]) -> None:
    """With the expression that test_stack_access.py tries on a real server."""
    assert SOURCES in pods["mlflow"]


def run_check(auth: str, tmp_path: Path, **changed: str) -> str:
    """Errors of MLflow's init container."""
    deployment = next(yaml.safe_load_all((K8S / "base" / "mlflow.yaml").read_text()))
    (container,) = deployment["spec"]["template"]["spec"]["initContainers"]
    (tmp_path / "auth.ini").write_text(auth)
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_BACKEND_STORE_URI",
             "MLFLOW_FLASK_SERVER_SECRET_KEY")  # fmt: skip
    program, flags, script = container["command"]
    done = subprocess.run(
        [program, flags, script.replace("/etc/mlflow", str(tmp_path))], text=True,
        capture_output=True, env={**os.environ, **dict.fromkeys(names, "x"), **changed},
    )  # fmt: skip
    return done.stderr if done.returncode else ""


AUTH = (
    "[mlflow]\nadmin_password = x\nauthorization_function = training.tracking.server:authorized\n"
)


def test_mlflow_does_not_start_with_an_empty_secret(tmp_path: Path) -> None:
    assert run_check(AUTH, tmp_path) == ""
    assert "AWS_SECRET_ACCESS_KEY is empty" in run_check(AUTH, tmp_path, AWS_SECRET_ACCESS_KEY="")
    assert "has no line admin_password" in run_check("", tmp_path)
    assert "admin_password" in run_check(AUTH.replace("= x", "= "), tmp_path)
    other = AUTH.replace("training.tracking.server:authorized", "mlflow.server.auth:x")
    assert "authorization_function" in run_check(other, tmp_path)


def test_the_examples_of_the_overlays_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    if not shutil.which("kubectl"):
        pytest.skip("no genuine kustomize: kubectl is not installed")
    with pytest.raises(ValueError, match="to replace") as error:
        check(K8S / "overlays" / "prod")
    for part in ("s3.example.com", "203.0.113.0/24", "203.0.113.1/32", "a placeholder",
                 "registry.example"):  # fmt: skip
        assert part in str(error.value), part
    for one in ("dev", "standalone"):
        with pytest.raises(ValueError, match=r"1 to replace:\n.*203\.0\.113\.1/32: an example"):
            check(K8S / "overlays" / one, trial=True)
    assert capsys.readouterr().out == ""


def test_an_overlay_with_its_own_values_passes() -> None:
    text = build(K8S / "overlays" / "prod")
    for old, new in (
        ("s3.example.com", "s3.faces.org"), ("203.0.113.1/32", "10.0.0.1/32"),
        ("203.0.113.0/24", "10.1.0.0/16"), ("registry.example", "registry.faces.org"),
        ("0" * 64, "a1" * 32),
    ):  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    assert faults(text) == []
    untagged = text.replace(f"@sha256:{'a1' * 32}", ":1")
    assert len(faults(untagged)) == 5
    assert faults(untagged, trial=True) == []

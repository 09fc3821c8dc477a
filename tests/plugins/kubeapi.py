"""A Kubernetes API server with everything that a run needs, for `python -m pipelines doctor`."""

import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.images import STEPS_IMAGE, TRAIN_IMAGE
from jsonserver import answering, kubeconfig
from pipelines import compiled, doctor
from pipelines.credentials import drawn

K8S = Path(__file__).parents[2] / "k8s"
HERE = "/api/v1/namespaces/stargan"
TRAINER = "/apis/trainer.kubeflow.org/v1alpha1"
REVIEW = "/apis/authorization.k8s.io/v1/namespaces/stargan/localsubjectaccessreviews"
HEALTH = "/apis/v2beta1/healthz"
EVERY_DEPLOYMENT = "/apis/apps/v1/deployments"
DEPLOYMENTS = "/apis/apps/v1/namespaces/stargan/deployments"
SETS = "/apis/apps/v1/namespaces/stargan/statefulsets"
JOBS = "/apis/batch/v1/namespaces/stargan/cronjobs"
CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
CLAIMS = f"{HERE}/persistentvolumeclaims"
QUOTAS, RANGES, PODS = (f"{HERE}/{name}" for name in ("resourcequotas", "limitranges", "pods"))
VERSION = {
    "major": "1", "minor": "34+", "gitVersion": "v1.34.4", "gitCommit": "", "gitTreeState": "",
    "buildDate": "", "goVersion": "", "compiler": "", "platform": "",
}  # fmt: skip


def read(path: str, kind: str) -> dict[str, Any]:
    """The first object of a kind in a file of k8s/."""
    return next(dict(one) for one in yaml.safe_load_all((K8S / path).read_text())
                if one["kind"] == kind)  # fmt: skip


def items(*found: dict[str, Any]) -> dict[str, Any]:
    return {"items": list(found)}


def node(name: str, cpu: str, memory: str, gpus: str = "0", **spec: Any) -> dict[str, Any]:
    """A node that is ready and holds the two images, as containerd names them."""
    allocatable = {"cpu": cpu, "memory": memory, "nvidia.com/gpu": gpus, "pods": "110"}
    names = [f"docker.io/library/{image}" for image in (STEPS_IMAGE, TRAIN_IMAGE)]
    return {
        "metadata": {"name": name, "labels": {"pool": name}}, "spec": spec,
        "status": {"allocatable": allocatable, "images": [{"names": names, "sizeBytes": 1}],
                   "conditions": [{"type": "Ready", "status": "True"}]},
    }  # fmt: skip


def pod(on: str, cpu: str, ends: bool) -> dict[str, Any]:
    container = {"name": "c", "resources": {"requests": {"cpu": cpu}}}
    spec = {"nodeName": on, "restartPolicy": "Never" if ends else "Always"}
    return {"metadata": {"name": "p"}, "spec": {**spec, "containers": [container]}}


class Api:
    """A cluster on which a run would succeed; tests take something away."""

    def __init__(self) -> None:
        servers = [read("overlays/dev/postgres.yaml", "StatefulSet"),
                   read("overlays/dev/seaweedfs.yaml", "StatefulSet")]  # fmt: skip
        mlflow = read("base/mlflow.yaml", "Deployment")
        for one in (*servers, mlflow):
            one["status"] = {"replicas": 1, "readyReplicas": 1}
        kinds = [
            {"name": name, "kind": name, "namespaced": True, "singularName": "", "verbs": ["get"]}
            for name in ("trainjobs", "trainjobs/status", "trainingruntimes")
        ]
        marked = {"storageclass.kubernetes.io/is-default-class": "true"}
        standard = {"metadata": {"name": "standard", "annotations": marked}, "provisioner": "p"}
        addresses = read("base/steps/environment.yaml", "ConfigMap")
        for name in ("KF_PIPELINES_UI_ENDPOINT", "MLFLOW_UI_ENDPOINT"):
            addresses["data"][name] = "https://pages.org"
        self.objects: dict[str, Any] = {
            "/version/": VERSION,
            HERE: {"metadata": {"name": "stargan"}},
            f"{HERE}/configmaps/stargan-environment": addresses,
            f"{HERE}/configmaps/trainjobs": read("base/trainjobs.yaml", "ConfigMap"),
            f"{HERE}/serviceaccounts/pipeline-runner": {"metadata": {"name": "pipeline-runner"}},
            EVERY_DEPLOYMENT: items(),
            DEPLOYMENTS: items(mlflow),
            SETS: items(*servers),
            JOBS: items(read("base/backup.yaml", "CronJob")),
            CLASSES: items(standard),
            CLAIMS: items(),
            QUOTAS: items(read("base/quota.yaml", "ResourceQuota")),
            RANGES: items(read("base/quota.yaml", "LimitRange")),
            PODS: items(),
            "/apis/": {"groups": []},
            TRAINER: {"groupVersion": "trainer.kubeflow.org/v1alpha1", "resources": kinds},
            f"{TRAINER}/namespaces/stargan/trainingruntimes/stargan": {"kind": "TrainingRuntime"},
            "/api/v1/nodes": items(node("a", "16", "128Gi", "4"), node("b", "16", "128Gi", "4")),
            "/api/v1/pods": items(),
            HEALTH: {"multi_user": False, "tag_name": "2.17.0"},
        }  # fmt: skip
        for name, values in drawn("postgres:5432").items():
            data = {key: b64encode(value.encode()).decode() for key, value in values.items()}
            self.objects[f"{HERE}/secrets/{name}"] = {"metadata": {"name": name}, "data": data}
        self.statuses: dict[str, int] = {}  # by path, answered first
        self.denied: set[tuple[str, str]] = set()  # verb and resource of the steps' account
        self.review = REVIEW
        self.asked: set[str] = set()
        self.reviewed: list[dict[str, Any]] = []

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        path = path.partition("?")[0]
        self.asked.add(path)
        if path in self.statuses:
            return self.statuses[path], {"message": "no"}
        if path == self.review and method == "POST":
            review = json.loads(body)
            self.reviewed.append(review["spec"])
            wanted = review["spec"]["resourceAttributes"]
            allowed = (wanted["verb"], wanted["resource"]) not in self.denied
            return 201, {**review, "status": {"allowed": allowed}}
        if method == "GET" and path in self.objects:
            return 200, self.objects[path]
        return 404, {"message": "not found"}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """Served on loopback, with KUBECONFIG and KF_PIPELINES_ENDPOINT set to it."""
    api = Api()
    with answering(
        lambda how, path, body: api.answer(how, path.partition("?")[0], body)
    ) as address:
        monkeypatch.setenv("KUBECONFIG", kubeconfig(address, tmp_path))
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", address)
        yield api


def examined(namespace: str = "stargan", **changed: Any) -> list[tuple[str, str, str]]:
    """The findings for a run with these parameters."""
    defaults = {name: one.default for name, one in compiled.parameters().items()}
    return [tuple(one) for one in doctor.report(namespace, compiled.PACKAGE, defaults | changed)]

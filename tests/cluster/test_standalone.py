"""Kubeflow without profiles: the steps run beside its own pods, which nothing of ours touches."""

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
import yaml

from jsonserver import answering, kubeconfig
from kubeapi import EVERY_DEPLOYMENT, HERE, K8S, REVIEW, TRAINER, Api, examined, items, read
from pipelines import __main__ as program
from pipelines import compiled
from pipelines.manifests import build
from policies import Object, about, opened

THERE = "kubeflow"
KUBEFLOWS: list[dict[str, str]] = [  # pods of its namespace that are not this pipeline's
    {"app": "ml-pipeline", "application-crd-id": "kubeflow-pipelines"}, {"app": "mysql"},
    {"app": "workflow-controller"}, {"app": "seaweedfs"}, {"app": "metadata-grpc-deployment"},
    {"pipeline/runid": "1"}, {"app.kubernetes.io/component": "trainer"}, {},
]  # fmt: skip
pytestmark = pytest.mark.skipif(
    not shutil.which("kubectl"), reason="no genuine kustomize: kubectl is not installed"
)


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    return list(yaml.safe_load_all(build(K8S / "overlays" / "standalone")))


@pytest.fixture(scope="module")
def servers() -> list[Object]:
    """The overlay `dev`, whose servers the steps use."""
    return list(yaml.safe_load_all(build(K8S / "overlays" / "dev")))


def policies(*overlays: list[Object]) -> list[Object]:
    return [one for each in overlays for one in each if one["kind"] == "NetworkPolicy"]


def ours() -> dict[str, dict[str, str]]:
    """The labels of each pod that the pipeline starts, with Kubeflow's own on those of steps."""
    platform = list(yaml.safe_load_all(compiled.PARTS.read_text()))[1]["platforms"]["kubernetes"]
    found = {
        name.removeprefix("exec-"): {**one["podMetadata"]["labels"], "pipeline/runid": "1"}
        for name, one in platform["deploymentSpec"]["executors"].items()
    }
    (node,) = yaml.safe_load((K8S / "jobs" / "runtime.yaml").read_text())["spec"]["template"][
        "spec"
    ]["replicatedJobs"]
    job = yaml.safe_load((K8S / "jobs" / "pytorchjob.yaml").read_text())["spec"]
    worker = job["pytorchReplicaSpecs"]["Worker"]["template"]
    return found | {
        "trainjob": node["template"]["spec"]["template"]["metadata"]["labels"],
        "pytorchjob": worker["metadata"]["labels"],
    }


def test_nothing_closes_limits_or_labels_kubeflows_namespace(objects: list[Object]) -> None:
    """Two policies are in the namespace of the servers; nothing is the whole cluster's."""
    assert {one["kind"] for one in objects} == {
        "ConfigMap", "NetworkPolicy", "Role", "RoleBinding", "ServiceAccount"
    }  # fmt: skip
    elsewhere = {
        one["metadata"]["name"]: one["kind"] for one in objects
        if one["metadata"]["namespace"] != THERE
    }  # fmt: skip
    assert elsewhere == {
        "mlflow-from-kubeflow": "NetworkPolicy", "seaweedfs-from-kubeflow": "NetworkPolicy"
    }  # fmt: skip
    for labels in KUBEFLOWS:
        assert about(policies(objects), (THERE, labels)) == [], labels


def test_a_namespace_of_kubeflow_would_be_closed_by_the_other_overlay(
    servers: list[Object],
) -> None:
    """So that the test above sees what it looks for."""
    moved = json.loads(json.dumps(policies(servers)).replace('"stargan"', f'"{THERE}"'))
    assert all(about(moved, (THERE, labels)) for labels in KUBEFLOWS)


def test_each_pod_of_the_pipeline_is_known_by_its_label(objects: list[Object]) -> None:
    """Steps, also the one in the loop and the last one, and the pods of jobs."""
    pods = ours()
    assert {*compiled.steps(compiled.PARTS)} <= pods.keys()
    for name, labels in pods.items():
        chosen = {one["metadata"]["name"] for one in about(policies(objects), (THERE, labels))}
        assert "stargan-steps" in chosen, name
        assert ("stargan-steps-to-kubernetes" in chosen) == ("pipeline/runid" in labels), name
        assert ("stargan-ranks" in chosen) == ("component" in str(labels)), name


def test_the_pipelines_pods_reach_what_they_need_and_nobody_reaches_them(
    objects: list[Object], servers: list[Object]
) -> None:
    """MLflow and S3 in the other namespace, Kubeflow's servers in this one; no database."""
    found = policies(objects, servers)
    step, trainer = ours()["evaluate"], ours()["trainjob"]
    named = {name: ("stargan", {"app.kubernetes.io/name": name})
             for name in ("mlflow", "seaweedfs", "postgres")}  # fmt: skip
    ports = {"mlflow": 5000, "seaweedfs": 8333, "postgres": 5432}
    for labels in (step, trainer):
        reached = {n for n, pod in named.items() if opened(found, (THERE, labels), pod, ports[n])}
        assert reached == {"mlflow", "seaweedfs"}
        assert not opened(found, (THERE, labels), named["seaweedfs"], 8888)  # its filer
        assert opened(found, (THERE, labels), (THERE, KUBEFLOWS[0]), 8887)
        assert not opened(found, (THERE, labels), (THERE, {"app": "mysql"}), 3306)
        assert not any(opened(found, (THERE, other), (THERE, labels), 29500) for other in KUBEFLOWS)
    assert opened(found, (THERE, trainer), (THERE, trainer), 29500)
    for other in KUBEFLOWS:  # of Kubeflow's namespace only the pipeline's pods
        assert not any(opened(found, (THERE, other), named[n], ports[n]) for n in named), other
    assert not opened(found, ("default", step), named["mlflow"], 5000)


def test_the_account_is_kubeflows_and_the_addresses_are_those_of_the_servers(
    objects: list[Object], servers: list[Object]
) -> None:
    (bound,) = (one for one in objects if one["kind"] == "RoleBinding")
    subject = {"kind": "ServiceAccount", "name": "pipeline-runner", "namespace": THERE}
    assert bound["subjects"] == [subject]
    (given,) = (one["data"] for one in objects if one["kind"] == "ConfigMap")
    services = {
        f"{one['metadata']['name']}.{one['metadata']['namespace']}.svc": one["spec"]["ports"]
        for one in servers if one["kind"] == "Service"
    }  # fmt: skip
    for key in ("AWS_ENDPOINT_URL_S3", "MLFLOW_TRACKING_URI"):
        address = urlparse(given[key])
        assert address.port in [port["port"] for port in services[str(address.hostname)]], key
    (mlflow,) = (one for one in servers if one["kind"] == "Deployment")
    (container,) = mlflow["spec"]["template"]["spec"]["containers"]
    (hosts,) = (v["value"] for v in container["env"] if v["name"].endswith("ALLOWED_HOSTS"))
    assert urlparse(given["MLFLOW_TRACKING_URI"]).netloc in hosts.split(",")


def test_the_steps_secrets_are_drawn_for_both_namespaces(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Theirs, with the servers' values, and no other."""
    program.main(["secrets", "--steps", THERE])
    found = list(yaml.safe_load_all(capsys.readouterr().out))
    by = {(one["metadata"]["namespace"], one["metadata"]["name"]): one["stringData"]
          for one in found}  # fmt: skip
    assert {name for space, name in by if space == THERE} == {"stargan-s3", "stargan-mlflow"}
    assert len(by) == len(found) == 9
    for name in ("stargan-s3", "stargan-mlflow"):
        assert by[THERE, name] == by["stargan", name]


@pytest.fixture
def alone(api: Api, objects: list[Object]) -> Api:
    """Kubeflow without profiles in its own namespace, the servers in `stargan`."""
    there, own = f"/api/v1/namespaces/{THERE}", api.objects
    (addresses,) = (copy.deepcopy(one) for one in objects if one["kind"] == "ConfigMap")
    for name in ("KF_PIPELINES_UI_ENDPOINT", "MLFLOW_UI_ENDPOINT"):
        addresses["data"][name] = "https://pages.org"
    account = own.pop(f"{HERE}/serviceaccounts/pipeline-runner")
    server = {**read("base/mlflow.yaml", "Deployment"),
              "metadata": {"name": "ml-pipeline", "namespace": THERE}}  # fmt: skip
    runtime = f"{TRAINER}/namespaces/stargan/trainingruntimes/stargan"
    del own[f"{HERE}/configmaps/trainjobs"]
    own |= {
        there: {"metadata": {"name": THERE}},
        f"{there}/configmaps/stargan-environment": addresses,
        f"{there}/serviceaccounts/pipeline-runner": account,
        f"{there}/secrets/stargan-s3": own[f"{HERE}/secrets/stargan-s3"],
        f"{there}/secrets/stargan-mlflow": own[f"{HERE}/secrets/stargan-mlflow"],
        EVERY_DEPLOYMENT: items(server),
        f"/apis/apps/v1/namespaces/{THERE}/deployments": items(server),
        runtime.replace("stargan", THERE, 1): own.pop(runtime),
        **{f"{there}/{kind}": items() for kind in ("resourcequotas", "limitranges", "pods")},
    }
    api.review = REVIEW.replace("stargan", THERE)
    return api


def missing(namespace: str, **parameters: Any) -> list[tuple[str, str, str]]:
    return [one for one in examined(namespace, **parameters) if one[0] == "missing"]


def test_doctor_finds_the_servers_in_their_own_namespace(alone: Api) -> None:
    """It looks at both; TrainJobs need no config map of an admission policy that is not there."""
    found = examined(THERE, launcher="trainjob", nodes=2, accelerators=0)
    assert [one for one in found if one[0] != "ok"] == []
    assert {one[2].split(":")[0] for one in found if one[1] == "servers"} == {
        "mlflow", "postgres", "seaweedfs"
    }  # fmt: skip
    del alone.objects[f"{HERE}/secrets/mlflow-server"]  # of a server
    (one,) = missing(THERE)
    assert f"secrets -n stargan --steps {THERE} | kubectl create -f -" in one[2]


def test_doctor_says_where_the_steps_run_and_how_to_prepare_it(alone: Api) -> None:
    """In the namespace of the servers, where Kubeflow without profiles runs nothing."""
    (one,) = missing("stargan")
    assert one[1] == "account"
    for words in ("runs the steps in its own namespace, kubeflow:", "k8s/overlays/standalone",
                  f"doctor --namespace {THERE}"):  # fmt: skip
        assert words in one[2]
    alone.statuses[EVERY_DEPLOYMENT] = 403  # an editor of one namespace
    (one,) = missing("stargan")
    assert "its own namespace, that of its deployment ml-pipeline:" in one[2]


def test_before_the_overlay_is_applied_doctor_names_it_and_the_secrets_of_both(alone: Api) -> None:
    for path in list(alone.objects):
        if path.startswith((f"/api/v1/namespaces/{THERE}/configmaps", f"{HERE}/secrets",
                            f"/api/v1/namespaces/{THERE}/secrets")):  # fmt: skip
            del alone.objects[path]
    told = missing(THERE)
    assert {what for _, what, _ in told} == {"secrets", "addresses"}
    fix = {"secrets": f"python -m pipelines secrets -n stargan --steps {THERE} |",
           "addresses": "python -m pipelines.manifests k8s/overlays/standalone |"}  # fmt: skip
    assert all(fix[what] in text for _, what, text in told), told


def test_a_missing_secret_of_the_steps_is_copied_from_the_servers(
    alone: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new one would not be the servers'. The command is run, with the real kubectl."""
    del alone.objects[f"/api/v1/namespaces/{THERE}/secrets/stargan-s3"]
    (one,) = missing(THERE)
    command = one[2].partition("; ")[2]
    data = {"AWS_ACCESS_KEY_ID": "aWQ="}
    stored = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": data,
              "metadata": {"name": "stargan-s3", "namespace": "stargan", "uid": "1",
                           "resourceVersion": "7"}}  # fmt: skip
    kinds = [{"name": "secrets", "singularName": "", "kind": "Secret", "namespaced": True,
              "verbs": ["get", "create"]}]  # fmt: skip
    answers = {
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
        "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": kinds},
        f"{HERE}/secrets/stargan-s3": stored,
    }
    made: list[tuple[str, Object]] = []

    def answer(method: str, path: str, body: bytes) -> tuple[int, Any]:
        path = path.partition("?")[0]
        if method == "POST":
            made.append((path, json.loads(body)))
            return 201, made[-1][1]
        return (200, answers[path]) if path in answers else (404, {"message": "not found"})

    with answering(answer) as address:
        monkeypatch.setenv("KUBECONFIG", kubeconfig(address, tmp_path))
        monkeypatch.setenv("HOME", str(tmp_path))
        line = command.replace("create -f -", "create --validate=false -f -")
        subprocess.run(["sh", "-c", line], check=True, timeout=60)
    ((path, body),) = made
    assert path == f"/api/v1/namespaces/{THERE}/secrets"
    assert body["data"] == data
    assert body["metadata"]["namespace"] == THERE
    assert "resourceVersion" not in body["metadata"]


def test_the_guide_has_ten_lines_without_profiles_too_in_an_order_that_works() -> None:
    """Kubeflow's namespace gets the overlay for it, two secrets and the runtime, nothing else."""
    guide = (K8S.parent / "docs" / "how-to" / "cluster.md").read_text()
    block = guide.partition("### Without profiles")[2].partition("```\n")[2].partition("```")[0]
    assert 0 < len(block.splitlines()) <= 10
    order = ["make image", "apply -f k8s/base/namespace.yaml", "secrets --steps kubeflow",
             "endpointslice", "k8s/overlays/dev", "k8s/overlays/standalone",
             "k8s/jobs/runtime.yaml", "rollout status", f"doctor --namespace {THERE}",
             "pipelines submit"]  # fmt: skip
    places = [block.index(words) for words in order]
    assert places == sorted(places)
    applied = [line for line in block.splitlines() if "apply" in line and THERE in line]
    assert [re.sub(r" +#.*", "", line) for line in applied] == [
        f"kubectl -n {THERE} apply -f k8s/jobs/runtime.yaml"
    ]
    assert "--namespace" not in block.splitlines()[-1]  # `submit` takes that of a profile only

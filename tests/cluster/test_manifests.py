"""The output of `kubectl kustomize`: valid, restricted pods, closed network, known names."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import kubernetes_validate
import pytest
import yaml

from components.images import STEPS_IMAGE
from pipelines.compiled import DIGEST
from policies import selects
from training.storage.store import open_store

K8S = Path(__file__).parents[2] / "k8s"
OVERLAYS = ("dev", "prod")
every = pytest.mark.parametrize("objects", [*OVERLAYS, "standalone"], indirect=True)
CLUSTER = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")  # without a namespace
Object = dict[str, Any]


@pytest.fixture(scope="module", params=OVERLAYS)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    """All objects of an overlay: of each, unless the test names one."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed; it builds the overlays")
    command = ["kubectl", "kustomize", str(K8S / "overlays" / request.param)]
    built = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return list(yaml.safe_load_all(built))


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Name and pod specification of everything that runs."""
    for found in objects:
        spec = found.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "containers" in spec.get("template", {}).get("spec", {}):
            yield found["metadata"]["name"], spec["template"]["spec"]


def containers(pod: Object) -> list[Object]:
    return [*pod["containers"], *pod.get("initContainers", ())]


def named(objects: list[Object], kind: str) -> set[str]:
    return {found["metadata"]["name"] for found in objects if found["kind"] == kind}


@every
def test_every_object_is_valid_for_a_current_kubernetes(objects: list[Object]) -> None:
    for found in objects:
        kubernetes_validate.validate(found, kubernetes_validate.latest_version(), strict=True)


def test_every_object_is_in_the_namespace(objects: list[Object]) -> None:
    for found in objects:
        if found["kind"] in ("Namespace", *CLUSTER):
            assert "namespace" not in found["metadata"], found["metadata"]["name"]
        else:
            assert found["metadata"]["namespace"] == "stargan", found["metadata"]["name"]


def restricted(name: str, pod: Object) -> None:
    """Kubernetes' Pod Security Standards, profile restricted; plus a read-only root, no token."""
    allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral",
               "persistentVolumeClaim", "projected", "secret"}  # fmt: skip
    assert pod["automountServiceAccountToken"] is False, name
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
    assert pod["securityContext"]["runAsNonRoot"] is True, name
    assert pod["securityContext"]["runAsUser"] > 0, name
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", name
    for volume in pod.get("volumes", ()):
        assert volume.keys() - {"name"} <= allowed, (name, volume)
    for container in containers(pod):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        assert context["readOnlyRootFilesystem"] is True, name
        assert not any("hostPort" in port for port in container.get("ports", ())), name


def test_pods_meet_the_restricted_standard(objects: list[Object]) -> None:
    (space,) = (found for found in objects if found["kind"] == "Namespace")
    assert space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, pod in pods(objects):
        restricted(name, pod)


def test_pods_of_jobs_meet_it_too_and_mount_shared_memory() -> None:
    runtime, job = (
        yaml.safe_load((K8S / "jobs" / name).read_text())
        for name in ("runtime.yaml", "pytorchjob.yaml")
    )
    (node,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    for name, pod in (
        ("runtime", node["template"]["spec"]["template"]["spec"]),
        ("pytorchjob", job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]),
    ):
        restricted(name, pod)
        for container in containers(pod):
            assert {"mountPath": "/dev/shm", "name": "dshm"} in container["volumeMounts"], name


def test_pods_have_memory_requests_limits_and_probes(objects: list[Object]) -> None:
    for name, pod in pods(objects):
        for container in containers(pod):
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, name
            assert "memory" in container["resources"]["limits"], name
            ends = pod.get("restartPolicy") == "Never" or container not in pod["containers"]
            if not ends:  # what ends needs no probe
                assert {"readinessProbe", "livenessProbe"} <= container.keys(), name


@every
def test_the_build_contains_no_secret(objects: list[Object]) -> None:
    assert not named(objects, "Secret")
    for template in yaml.safe_load_all((K8S / "secrets.example.yaml").read_text()):
        assert not any(value.strip() for value in template["stringData"].values())


@every
def test_every_referenced_name_exists(objects: list[Object]) -> None:
    """Secrets with their keys, config maps, accounts."""
    templates = list(yaml.safe_load_all((K8S / "secrets.example.yaml").read_text()))
    secrets = {t["metadata"]["name"]: set(t["stringData"]) for t in templates}
    maps = named(objects, "ConfigMap")
    claims = {
        volume["persistentVolumeClaim"]["claimName"]
        for _, pod in pods(objects)
        for volume in pod.get("volumes", ())
        if "persistentVolumeClaim" in volume
    }
    assert claims == named(objects, "PersistentVolumeClaim")  # and none is unused
    for name, pod in pods(objects):
        account = pod.get("serviceAccountName", "default")
        assert account == "default" or account in named(objects, "ServiceAccount"), name
        for volume in pod.get("volumes", ()):
            for item in volume.get("secret", {}).get("items", ()):
                assert item["key"] in secrets[volume["secret"]["secretName"]], name
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps, name
        for container in containers(pod):
            for source in container.get("envFrom", ()):
                if "configMapRef" in source:
                    assert source["configMapRef"]["name"] in maps, name
                else:
                    assert source["secretRef"]["name"] in secrets, name
            for variable in container.get("env", ()):
                if key := variable.get("valueFrom", {}).get("secretKeyRef"):
                    assert key["key"] in secrets[key["name"]], (name, key)


def test_addresses_are_services_of_the_cluster_or_external(objects: list[Object]) -> None:
    """And the server accepts its own name: MLflow refuses hosts that are not configured."""
    services = {
        found["metadata"]["name"]: {port["port"] for port in found["spec"]["ports"]}
        for found in objects
        if found["kind"] == "Service"
    }
    maps = {f["metadata"]["name"]: f["data"] for f in objects if f["kind"] == "ConfigMap"}
    settings = maps["stargan-environment"]
    for key in ("AWS_ENDPOINT_URL_S3", "MLFLOW_TRACKING_URI"):
        address = urlparse(settings[key])
        assert address.hostname
        if "." not in address.hostname:
            assert address.port in services[address.hostname], key
    ((_, server),) = [pair for pair in pods(objects) if pair[0] == "mlflow"]
    variables = {v["name"]: v.get("value", "") for v in server["containers"][0]["env"]}
    host = urlparse(settings["MLFLOW_TRACKING_URI"]).netloc
    assert host in variables["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")


def test_no_label_takes_a_pod_out_of_the_policies(objects: list[Object]) -> None:
    """Whoever submits a run labels its pods; a dashboard's pod gains only Kubeflow's servers."""
    policies = [f["spec"] for f in objects if f["kind"] == "NetworkPolicy"]
    assert "NotIn" not in json.dumps(policies)
    dashboard = {"app": "ml-pipeline-ui-artifact"}
    for labels in ({}, {"app": "somebody"}, {"pipeline/runid": "1"}, dashboard):
        closed = {kind for spec in policies if selects(spec["podSelector"], labels)
                  for kind in spec["policyTypes"]}  # fmt: skip
        assert closed == {"Ingress", "Egress"}


@every
def test_every_open_direction_names_its_peers_and_ports(objects: list[Object]) -> None:
    """No policy opens a port to everywhere, or every port of another namespace or address."""
    for found in objects:
        if found["kind"] != "NetworkPolicy":
            continue
        for rule in found["spec"].get("egress", ()):
            assert rule.get("to"), found["metadata"]["name"]
            for peer in rule["to"]:
                assert "podSelector" in peer or rule.get("ports"), found["metadata"]["name"]
                assert peer.get("ipBlock", {}).get("cidr") != "0.0.0.0/0"
        for rule in found["spec"].get("ingress", ()):
            assert rule.get("from"), found["metadata"]["name"]


def test_traffic_is_closed_by_default_and_opened_for_each_server(objects: list[Object]) -> None:
    policies = {f["metadata"]["name"]: f["spec"] for f in objects if f["kind"] == "NetworkPolicy"}
    assert not policies["closed"].keys() & {"ingress", "egress"}
    for name in named(objects, "Service"):
        chosen = {"matchLabels": {"app.kubernetes.io/name": name}}
        assert any(
            spec["podSelector"] == chosen and spec.get("ingress") for spec in policies.values()
        ), name
        if name != "mlflow":
            assert any(
                peer.get("podSelector") == chosen
                for spec in policies.values()
                for rule in spec.get("egress", ())
                for peer in rule.get("to", ())
            ), name


def test_the_manifests_use_the_pipelines_image(objects: list[Object]) -> None:
    ((_, server),) = [pair for pair in pods(objects) if pair[0] == "mlflow"]
    name, image = STEPS_IMAGE.partition(":")[0], server["containers"][0]["image"]
    assert image == STEPS_IMAGE or image.startswith(f"registry.example/{name}@sha256:")


def test_every_image_names_its_version(objects: list[Object]) -> None:
    for name, pod in pods(objects):
        for container in containers(pod):
            if DIGEST.fullmatch(container["image"]):
                continue
            _, _, tag = container["image"].rpartition("/")[2].partition(":")
            assert tag not in ("", "latest"), (name, container["image"])


@pytest.mark.parametrize("objects", ["dev"], indirect=True)
def test_the_dev_overlay_creates_every_bucket_and_database(objects: list[Object]) -> None:
    """In the other overlay they are external."""
    servers = {name: pod["containers"][0] for name, pod in pods(objects)}
    (made,) = (v["value"] for v in servers["seaweedfs"]["env"] if v["name"] == "S3_BUCKET")
    used = set(re.findall(r"s3://([\w-]+)", json.dumps(objects)))
    assert used == set(made.split(","))
    mounted = {mount["mountPath"] for mount in servers["postgres"]["volumeMounts"]}
    assert "/docker-entrypoint-initdb.d" in mounted  # where the image looks for them


def test_the_guide_requests_no_more_than_the_quota_allows(objects: list[Object]) -> None:
    (quota,) = (found["spec"]["hard"] for found in objects if found["kind"] == "ResourceQuota")
    guide = (K8S.parent / "docs/how-to/cluster.md").read_text()
    wanted = [int(n) * int(p) for n, p in re.findall(r"nodes=(\d+) nproc=(\d+)", guide)]
    wanted += [int(n) for n in re.findall(r"accelerators=(\d+)", guide)]
    assert 0 < max(wanted) <= int(quota["requests.nvidia.com/gpu"])


def test_an_overlay_pins_every_image_to_its_digest(tmp_path: Path) -> None:
    """As in docs/how-to/cluster.md: the pods use the two images of the steps and Postgres's."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed; it builds the overlays")
    shutil.copytree(K8S, tmp_path / "k8s")
    guide = (K8S.parent / "docs/how-to/cluster.md").read_text()
    written = guide.partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "k8s/overlays/mine").mkdir()
    path = tmp_path / "k8s/overlays/mine/kustomization.yaml"
    path.write_text(written.replace("sha256:…", f"sha256:{'a' * 64}"))
    command = ["kubectl", "kustomize", str(path.parent)]
    built = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    objects = list(yaml.safe_load_all(built))
    found = {c["image"] for _, pod in pods(objects) for c in containers(pod)}
    (allowed,) = (f["data"]["image"] for f in objects if f["metadata"]["name"] == "trainjobs")
    assert allowed == "registry.example/stargan-train"
    assert len(found) == 2  # steps, Postgres
    assert all(DIGEST.fullmatch(image) for image in found), found


def test_the_accounts_of_the_steps_have_the_launchers_role(
    objects: list[Object],
) -> None:
    """The accounts that Kubeflow sets: in a profile, and in an installation without profiles."""
    (bound,) = (found for found in objects if found["kind"] == "RoleBinding")
    assert bound["roleRef"]["name"] in named(objects, "Role")
    assert [(one["name"], one["namespace"]) for one in bound["subjects"]] == [
        ("default-editor", "stargan"),
        ("pipeline-runner", "stargan"),
    ]


@every
def test_the_launcher_has_only_the_permissions_that_it_uses(objects: list[Object]) -> None:
    (role,) = (found for found in objects if found["kind"] == "Role")
    for rule in role["rules"]:
        assert "*" not in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
        if rule["resources"] != ["trainjobs"]:
            assert not {"create", "delete", "patch", "update"} & set(rule["verbs"])
    assert not named(objects, "ClusterRole")


def test_the_alerts_watch_the_backup_by_its_name_and_schedule() -> None:
    job = yaml.safe_load((K8S / "base" / "backup.yaml").read_text())
    *_, found = yaml.safe_load_all((K8S / "monitoring" / "alerts.yaml").read_text())
    alerts = {rule["alert"]: rule["expr"] for g in found["spec"]["groups"] for rule in g["rules"]}
    name = job["metadata"]["name"]
    assert set(re.findall(r'cronjob="([^"]*)"', alerts["BackupMissing"])) == {name}
    (pattern,) = re.findall(r'job_name=~"([^"]*)"', alerts["BackupFailed"])
    assert re.fullmatch(pattern, f"{name}-29401637")
    assert not re.fullmatch(pattern, "train-0123456789abcdef-node-0")
    assert re.fullmatch(r"\d+ \d+ \* \* \*", job["spec"]["schedule"])  # once a day
    for limit in re.findall(r"> (\d+)", alerts["BackupMissing"]):
        assert 86_400 + job["spec"]["startingDeadlineSeconds"] < int(limit) < 2 * 86_400
    (space,) = {s for text in alerts.values() for s in re.findall(r'namespace="([^"]*)"', text)}
    assert space == yaml.safe_load((K8S / "base" / "kustomization.yaml").read_text())["namespace"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_store_understands_the_clusters_address(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = K8S / ("overlays/prod" if overlay == "prod" else "base/steps") / "environment.yaml"
    uri = yaml.safe_load(path.read_text())["data"]["STORE_URI"]
    assert open_store(uri).uri.rstrip("/") == uri

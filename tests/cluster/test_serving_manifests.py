"""The server of a champion on a cluster: valid, restricted, closed, and its command understood."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from components.images import STEPS_IMAGE
from pipelines.compiled import DIGEST

K8S = Path(__file__).parents[2] / "k8s"
GUIDE = K8S.parent / "docs" / "how-to" / "serve.md"
KUBERNETES = kubernetes_validate.latest_version()
# Fields of a predictor beside a pod's: KServe's ComponentExtensionSpec (serving.kserve.io/v1beta1).
EXTENSION = {
    "minReplicas": int, "maxReplicas": int, "scaleMetric": str, "scaleTarget": int, "labels": dict,
}  # fmt: skip
Object = dict[str, Any]


def built(folder: str) -> dict[str, Object]:
    """The objects of a kustomization, by kind."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed; it builds the overlays")
    command = ["kubectl", "kustomize", str(K8S / folder)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {one["kind"]: one for one in yaml.safe_load_all(text)}


@pytest.fixture(params=["serving", "serving/kserve"])
def objects(request: pytest.FixtureRequest) -> dict[str, Object]:
    return built(request.param)


def pod(objects: dict[str, Object]) -> Object:
    """The server's pod, without the fields of KServe."""
    if "Deployment" in objects:
        return dict(objects["Deployment"]["spec"]["template"]["spec"])
    predictor = objects["InferenceService"]["spec"]["predictor"]
    return {name: value for name, value in predictor.items() if name not in EXTENSION}


def test_every_object_is_valid_and_in_the_namespace(objects: dict[str, Object]) -> None:
    """KServe's own kind has the pod of the official schema, and KServe's fields of their types."""
    for one in objects.values():
        assert one["metadata"]["namespace"] == "stargan"
        if one["kind"] != "InferenceService":
            kubernetes_validate.validate(one, KUBERNETES, strict=True)
    whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": pod(objects)}
    kubernetes_validate.validate(whole, KUBERNETES, strict=True)
    if found := objects.get("InferenceService"):
        predictor = found["spec"]["predictor"]
        for name, kind in EXTENSION.items():
            assert isinstance(predictor[name], kind), name
        assert predictor["containers"][0]["name"] == "kserve-container"  # required by KServe


def test_the_pod_meets_the_restricted_standard_and_holds_no_right(
    objects: dict[str, Object],
) -> None:
    """No token of Kubernetes, no key of the store, no password of MLflow's administrator."""
    spec = pod(objects)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    context = container["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert container["envFrom"] == [{"secretRef": {"name": "stargan-serve"}}]
    assert {"readinessProbe", "livenessProbe"} <= container.keys()
    assert container["resources"]["limits"].keys() == {"memory"}
    assert container["image"] == STEPS_IMAGE


def test_the_command_is_one_that_the_server_takes(objects: dict[str, Object]) -> None:
    """Its own parser reads it; the pod gets longer to end than the server takes."""
    from training.serve import main

    spec = pod(objects)
    command = spec["containers"][0]["command"]
    assert command[:3] == ["python", "-m", "training.serve"]
    _, bound, _ = main.parse_args(command[3:], exit_on_error=False)
    given = bound.arguments
    assert given["version"] == "stargan@champion"
    assert given["host"] == "0.0.0.0"
    default = main.default_command and 30.0
    assert spec["terminationGracePeriodSeconds"] > given["drain"] + (
        given.get("time_limit") or default
    )
    port = spec["containers"][0]["ports"][0]["containerPort"]
    assert given["port"] == port


def test_the_probes_ask_routes_that_need_no_token(objects: dict[str, Object]) -> None:
    from training.serving.guard import OPEN

    container = pod(objects)["containers"][0]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        if name in container:
            assert container[name]["httpGet"]["path"] in OPEN


def test_service_scaler_and_budget_select_the_server() -> None:
    objects = built("serving")
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert objects["Service"]["spec"]["selector"].items() <= labels.items()
    assert (
        objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    )
    scaler = objects["HorizontalPodAutoscaler"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == objects["Deployment"]["metadata"]["name"]
    assert "replicas" not in objects["Deployment"]["spec"]  # the scaler's


def test_only_a_gateway_and_prometheus_reach_the_server(objects: dict[str, Object]) -> None:
    policy = objects["NetworkPolicy"]["spec"]
    (rule,) = policy["ingress"]
    assert policy["policyTypes"] == ["Ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 8080}]
    peers = [one["namespaceSelector"]["matchLabels"] for one in rule["from"]]
    assert [next(iter(labels.values())) for labels in peers] == ["ingress-nginx", "monitoring"]


def test_an_image_is_pinned_in_both_forms(tmp_path: Path) -> None:
    """kustomize finds it in KServe's kind, too."""
    digest = "sha256:" + "5" * 63 + "4"
    for folder in ("serving", "serving/kserve"):
        shutil.copytree(K8S / "serving", tmp_path / folder.replace("/", "-") / "serving")
        where = tmp_path / folder.replace("/", "-") / folder / "kustomization.yaml"
        mine = f"newName: registry.org/steps\n    digest: {digest}"
        where.write_text(where.read_text().replace("newTag: 0.2.0", mine))
        text = subprocess.run(
            ["kubectl", "kustomize", str(where.parent)], check=True, capture_output=True, text=True
        ).stdout
        (image,) = re.findall(r"image: (\S+)", text)
        assert image == f"registry.org/steps@{digest}"
        assert DIGEST.fullmatch(image)


def test_the_guide_makes_the_secret_with_the_keys_that_the_pod_reads() -> None:
    """The server's token and MLflow's reader; the names are those of the environment."""
    made = re.search(r"create secret generic stargan-serve (.*)", GUIDE.read_text())
    assert made
    keys = re.findall(r"--from-literal=(\w+)=", made[1])
    assert keys == ["SERVE_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"]

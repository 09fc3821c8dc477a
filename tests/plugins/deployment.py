"""Deploy the overlay's servers, and take away again exactly what was made."""

from collections.abc import Iterator
from contextlib import contextmanager

import yaml

from clusterruns import python
from kubectl import Kubectl, Object, eventually
from trial import claims

SERVERS = ("statefulset/postgres", "statefulset/seaweedfs", "deployment/mlflow")


def kubeflows(kubectl: Kubectl) -> str:
    """A server of Kubeflow itself in the namespace, or an empty text."""
    found = ("ml-pipeline", "workflow-controller", "profiles-deployment")
    return next((f"deployment {name}" for name in found if kubectl.get("deployment", name)), "")


@contextmanager
def deployment(kubectl: Kubectl, objects: list[Object], env: dict[str, str]) -> Iterator[None]:
    """Apply an overlay with newly drawn secrets; at the end delete what was not there before."""
    drawn = kubectl.absent(*(every := secrets(kubectl.namespace, env)))
    if len(drawn) not in (0, len(every)):
        names = ", ".join(one["metadata"]["name"] for one in drawn)
        raise ValueError(f"{kubectl.namespace}: of the secrets only these are missing: {names}")
    made = [*kubectl.absent(*objects), *drawn]
    try:
        kubectl.apply(*(one for one in made if one["kind"] == "Namespace"))
        kubectl.create(*drawn)  # `apply` would keep the passwords in an annotation, too
        kubectl.apply(*objects)
        yield
    finally:
        kubectl.delete(*reversed(made), *claims(made))


def secrets(namespace: str, env: dict[str, str]) -> list[Object]:
    """All secrets of the overlay, newly drawn."""
    code, text = python(env, "-m", "pipelines", "secrets", "--namespace", namespace)
    if code:
        raise RuntimeError(text)
    return list(yaml.safe_load_all(text))


def restart(kubectl: Kubectl, server: str, within: float) -> None:
    """Delete a server's pods by force, and wait until others are ready in their place."""
    label = f"app.kubernetes.io/name={server}"
    before = {
        one["metadata"]["uid"]: one["metadata"]["name"] for one in kubectl.items("pods", label)
    }
    for pod in before.values():
        kubectl.kill(pod)

    def others() -> bool:
        return any(
            one["metadata"]["uid"] not in before and condition["type"] == "Ready"
            and condition["status"] == "True"
            for one in kubectl.items("pods", label)
            for condition in one["status"].get("conditions", ())
        )  # fmt: skip

    eventually(others, within, f"another pod of {server} is ready")


def ready(kubectl: Kubectl, within: float, *servers: str) -> None:
    """Wait until servers are ready. Raises KubectlError."""
    for server in servers or SERVERS:
        kubectl("rollout", "status", server, f"--timeout={within}s", timeout=within + 60)

"""Pods that try connections, and the table of what the network policies allow."""

import json

from kubectl import Kubectl, Object, eventually
from trial import nightly

OPEN, REFUSED, OWN = "open", "refused", "own node"  # a probe's answers
Targets = dict[str, tuple[str, int]]  # by name: host, port
RANKS = 29500  # port of a trainer that listens
# "Traffic to and from the node where a Pod is running is always allowed" (Kubernetes, Network
# Policies), though some agents refuse it: such an open connection says nothing.
PROGRAM = """
import json, os, socket, sys, time
time.sleep(float(sys.argv[1]))
def found(host, port):
    try:
        address = socket.getaddrinfo(host, port, proto=socket.IPPROTO_TCP)[0][4][0]
        socket.create_connection((address, port), 3).close()
    except OSError:
        return "refused"
    return "own node" if address == os.environ["NODE"] else "open"
targets = json.loads(sys.argv[2])
print(json.dumps({name: found(*target) for name, target in targets.items()}))
"""
LISTENING = ["python", "-m", "http.server", str(RANKS)]
# The labels of each kind of pod, and what it reaches.
KINDS: dict[str, tuple[dict[str, str], set[str]]] = {
    "any": ({}, {"mlflow", "s3"}),
    "step": ({"pipeline/runid": "live"}, {"mlflow", "s3", "kubernetes"}),
    "trainer": ({"app.kubernetes.io/component": "trainer"}, {"mlflow", "s3", "trainer"}),
    "backup": ({"app.kubernetes.io/name": "backup"}, {"mlflow", "postgres", "s3"}),
}


def trying(targets: Targets, delay: float) -> list[str]:
    """The command of a pod that prints as JSON which targets it reaches, `delay` s after start."""
    return ["python", "-c", PROGRAM, str(delay), json.dumps(targets)]


def pod(name: str, image: str, labels: dict[str, str], command: list[str]) -> Object:
    """A pod under the restricted standard, as the backup's."""
    template = nightly()["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = template["containers"]
    node = {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
        "spec": {
            "restartPolicy": "Never", "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0, "securityContext": template["securityContext"],
            "containers": [{
                "name": "probe", "image": image, "command": command, "env": [node],
                "resources": {"requests": {"cpu": "10m", "memory": "32Mi"},
                              "limits": {"memory": "256Mi"}},
                "securityContext": container["securityContext"],
            }],
        },
    }  # fmt: skip


def servers(namespace: str, api: tuple[list[str], int], nodes: list[str]) -> Targets:
    """What the table asks for, by the names that other namespaces use as well."""
    found = {
        "mlflow": (f"mlflow.{namespace}.svc", 5000),
        "postgres": (f"postgres.{namespace}.svc", 5432),
        "s3": (f"seaweedfs.{namespace}.svc", 8333),
        "filer": (f"seaweedfs.{namespace}.svc", 8888),
        "kubernetes": (api[0][0], api[1]),
    }
    return found | {f"kubelet {node}": (node, 10250) for node in nodes}


def differences(found: dict[str, str], allowed: set[str]) -> list[str]:
    """Where a probe's answers differ from the table, in words; its own node may be open."""
    return [
        f"{target}: {state}" for target, state in sorted(found.items())
        if (state == REFUSED if target in allowed else state == OPEN)
    ]  # fmt: skip


def address(kubectl: Kubectl, name: str, within: float) -> str:
    """A pod's address, once it runs."""

    def running() -> str:
        status = (kubectl.get("pod", name) or {}).get("status", {})
        return str(status.get("podIP", "")) if status.get("phase") == "Running" else ""

    return eventually(running, within, f"the pod {name} runs")


def answer(kubectl: Kubectl, name: str, within: float) -> dict[str, str]:
    """What a probe printed, once it has ended."""

    def ended() -> str:
        phase = (kubectl.get("pod", name) or {}).get("status", {}).get("phase", "")
        return phase if phase in ("Succeeded", "Failed") else ""

    phase, text = eventually(ended, within, f"the pod {name} ends"), kubectl("logs", name)
    assert phase == "Succeeded", text
    return dict(json.loads(text))

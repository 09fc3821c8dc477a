"""The table of k8s/base/network.yaml on a real cluster whose network enforces policies."""

from collections.abc import Iterator

import pytest

from kubectl import Kubectl, eventually
from probes import (
    KINDS,
    LISTENING,
    OPEN,
    RANKS,
    Targets,
    address,
    answer,
    differences,
    pod,
    servers,
    trying,
)
from trial import Address, Trial

pytestmark = pytest.mark.live
Answers = dict[str, dict[str, str]]  # by kind of pod and target


@pytest.fixture(scope="module")
def targets(
    kubectl: Kubectl, trial: Trial, deployed: bool, api: Address, name: str
) -> Iterator[Targets]:
    """The servers, the Kubernetes API, nodes, an address outside, and a trainer that listens."""
    nodes = [
        one["address"] for node in kubectl.items("nodes")
        for one in node["status"]["addresses"] if one["type"] == "InternalIP"
    ]  # fmt: skip
    found = servers(trial.namespace, api, nodes[:2])
    if trial.outside:
        host, _, port = trial.outside.rpartition(":")
        found["outside"] = (host, int(port))
    listener = pod(f"{name}-trainer", trial.steps_image, KINDS["trainer"][0], LISTENING)
    kubectl.apply(listener)
    try:
        host = address(kubectl, f"{name}-trainer", trial.ready)
        yield {**found, "trainer": (host, RANKS)}
    finally:
        kubectl.delete(listener)


@pytest.fixture(scope="module")
def outsider(kubectl: Kubectl, trial: Trial, targets: Targets, name: str) -> dict[str, str]:
    """What a pod of another namespace reaches; skips where nothing enforces policies.

    In that namespace are two servers; a policy closes one of them.
    """
    other = Kubectl(name)
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    closed = {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "closed"},
        "spec": {"podSelector": {"matchLabels": {"role": "closed"}}, "policyTypes": ["Ingress"]},
    }  # fmt: skip
    try:
        other.apply(space)
        eventually(lambda: other.get("serviceaccount", "default"), 60, "its default account")
        both = [pod(role, trial.steps_image, {"role": role}, LISTENING)
                for role in ("closed", "free")]  # fmt: skip
        other.apply(closed, *both)
        own = {role: (address(other, role, trial.ready), RANKS) for role in ("closed", "free")}
        command = trying({**targets, **own}, trial.settled)
        other.apply(pod("probe", trial.steps_image, {}, command))
        found = answer(other, "probe", trial.ready)
    finally:
        other.delete(space)
    assert found.pop("free") == OPEN, "pods of one namespace do not reach each other"
    if found.pop("closed") == OPEN:
        pytest.skip("no enforced policies: a pod that a NetworkPolicy closes was reached")
    return found


@pytest.fixture(scope="module")
def answers(
    kubectl: Kubectl, trial: Trial, targets: Targets, outsider: dict[str, str], name: str
) -> Answers:
    """What each kind of pod of the namespace reaches."""
    probes = {
        kind: pod(f"{name}-{kind}", trial.steps_image, labels, trying(targets, trial.settled))
        for kind, (labels, _) in KINDS.items()
    }
    try:
        kubectl.apply(*probes.values())
        return {kind: answer(kubectl, f"{name}-{kind}", trial.ready) for kind in probes}
    finally:
        kubectl.delete(*probes.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_pod_reaches_what_its_labels_allow_and_nothing_else(kind: str, answers: Answers) -> None:
    assert differences(answers[kind], KINDS[kind][1]) == []


def test_mlflow_reaches_its_database_and_store_only(
    kubectl: Kubectl, trial: Trial, targets: Targets, outsider: dict[str, str]
) -> None:
    import json

    (mlflow, *_) = kubectl.items("pods", "app.kubernetes.io/name=mlflow")
    command = trying(targets, 0)
    text = kubectl("exec", mlflow["metadata"]["name"], "--container=mlflow", "--",
                   "env", f"NODE={mlflow['status']['hostIP']}", *command)  # fmt: skip
    assert differences(json.loads(text), {"mlflow", "postgres", "s3"}) == []


def test_a_pod_of_another_namespace_reaches_no_server(outsider: dict[str, str]) -> None:
    """Its own connections to the Kubernetes API and outside are not this project's matter."""
    ours = {name: outsider[name] for name in ("mlflow", "postgres", "s3", "filer", "trainer")}
    assert differences(ours, set()) == []

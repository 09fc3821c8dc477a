"""The overlay and its policies on a real cluster, and what `doctor` says of it."""

import pytest

from kubectl import Kubectl, KubectlError, Object
from trial import Trial

pytestmark = pytest.mark.live


def test_the_server_accepts_every_object_of_the_overlay(
    kubectl: Kubectl, deployed: bool, overlay: list[Object]
) -> None:
    lines = kubectl.apply(*overlay, dry_run=True).splitlines()
    assert len(lines) == len(overlay)


def test_the_servers_become_ready(kubectl: Kubectl, deployed: bool) -> None:
    for kind, name in (("statefulset", "postgres"), ("statefulset", "seaweedfs"),
                       ("deployment", "mlflow")):  # fmt: skip
        found = kubectl.get(kind, name)
        assert found
        assert found["status"]["readyReplicas"] == found["spec"]["replicas"], name


def test_doctor_says_that_all_is_well(diagnosis: tuple[int, str]) -> None:
    code, output = diagnosis
    assert code == 0, output
    states = {line.partition(" ")[0] for line in output.splitlines()}
    assert "ok" in states
    assert "missing" not in states


def test_the_namespace_refuses_a_pod_that_may_run_as_root(
    kubectl: Kubectl, deployed: bool, trial: Trial, name: str
) -> None:
    with pytest.raises(KubectlError, match="violates PodSecurity"):
        kubectl("run", name, f"--image={trial.steps_image}", "--dry-run=server")

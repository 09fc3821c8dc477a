"""Training on two nodes by a real Kubeflow Trainer, whose pods are deleted by force."""

import re

import pytest

from clusterruns import (
    JOBSETS,
    TRAINJOBS,
    Followed,
    Runs,
    has_seed,
    jobs,
    ranks,
    step_pods,
    trains,
)
from kubectl import Kubectl, eventually
from training.cluster.kubernetes import STEP
from trial import Trial

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("trainer")]
TWO = ["launcher=trainjob", "nodes=2"]
KEPT = 640  # images after which a checkpoint is in the store


def pods(kubectl: Kubectl, followed: Followed) -> dict[int, str]:
    """The training pods by rank, once all have trained past a checkpoint."""
    run_id = followed.run_id()

    def asked() -> dict[int, str]:
        found = ranks(kubectl, run_id)
        return found if len(found) == 2 else {}

    return trains(followed, kubectl, asked, KEPT)


def resumed(kubectl: Kubectl, run_id: str, followed: Followed, gone: str) -> bool:
    """Whether another pod took the place of one that is gone, and the training resumed."""
    followed.require_going()
    found = ranks(kubectl, run_id)
    return gone not in found.values() and any(
        "resuming from" in kubectl("logs", pod) for pod in found.values()
    )


def test_two_nodes_train_on_cpus(submit: Runs, kubectl: Kubectl, fresh: list[str]) -> None:
    followed = submit(*TWO, *fresh[:1])
    followed.succeeds()
    (job,) = jobs(kubectl, followed.run_id())
    asked = job["spec"]["trainer"]
    assert asked["numNodes"] == 2
    assert "nvidia.com/gpu" not in asked["resourcesPerNode"]["limits"]


@pytest.mark.parametrize("rank", [1, 0])
def test_a_training_pod_that_is_lost_costs_no_run(
    submit: Runs, kubectl: Kubectl, trial: Trial, fresh: list[str], rank: int
) -> None:
    """Another pod takes its place, and the training resumes from its checkpoint."""
    followed = submit(*TWO, *fresh)
    victim = pods(kubectl, followed)[rank]
    kubectl.kill(victim)
    run_id = followed.run_id()
    eventually(lambda: resumed(kubectl, run_id, followed, victim), trial.ready, "it resumes")
    followed.succeeds()


def test_a_lost_launcher_costs_one_resubmission(
    submit: Runs, kubectl: Kubectl, env: dict[str, str], fresh: list[str], name: str
) -> None:
    """Argo ends the run; `--resubmit` goes on from the last checkpoint."""
    followed = submit("--resubmit", "2", *TWO, *fresh)
    pods(kubectl, followed)
    (launcher,) = step_pods(kubectl, followed.ids[0])
    kubectl.kill(launcher)
    followed.succeeds()
    assert len(followed.ids) == 2
    assert "submitted again, 1 of 2 times" in followed.output
    assert has_seed(env, name, fresh)


def test_a_terminated_run_leaves_no_training(
    submit: Runs, kubectl: Kubectl, trial: Trial, fresh: list[str]
) -> None:
    """No TrainJob, JobSet or training pod, and no pod of the run that goes on, after 60 s."""
    followed = submit(*TWO, *fresh)
    pods(kubectl, followed)
    run_id = followed.run_id()
    names = [job["metadata"]["name"] for job in jobs(kubectl, run_id)]
    submit.client.terminate_run(run_id)

    def gone() -> bool:
        left = [kubectl.get(kind, name) for kind in (TRAINJOBS, JOBSETS) for name in names]
        left += [pod for name in names for pod in kubectl.items("pods", f"{STEP}={name}")]
        left += [pod for pod in kubectl.items("pods", f"pipeline/runid={run_id}")
                 if pod["status"].get("phase") in ("Pending", "Running")]  # fmt: skip
        return not any(left)

    eventually(gone, trial.ended, f"nothing of the run {run_id} is left")
    assert followed.code() == 1
    assert re.search(r"^ended     by a user or the platform", followed.output, re.MULTILINE)

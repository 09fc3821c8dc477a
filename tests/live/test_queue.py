"""A TrainJob in a queue of a real Kueue."""

import time
from collections.abc import Iterator

import pytest

from clusterruns import Runs, jobs
from kubectl import Kubectl, eventually
from training.cluster.kubernetes import STEP
from trial import Trial, queue

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("trainer")]
GROUP = "kueue.x-k8s.io"


@pytest.fixture
def held(kubectl: Kubectl, name: str) -> Iterator[str]:
    """The cluster queue behind a local queue of the same name; it admits nothing."""
    version = kubectl.version(GROUP)
    if not version:
        pytest.skip(f"no Kueue: the cluster has no API group {GROUP}; install Kueue")
    objects = queue(name, kubectl.namespace, version)
    try:
        kubectl.apply(*objects)
        yield name
    finally:
        kubectl.delete(*objects)


def test_a_queued_training_waits_and_then_trains(
    submit: Runs, kubectl: Kubectl, trial: Trial, fresh: list[str], held: str
) -> None:
    followed = submit("launcher=trainjob", "nodes=2", f"queue={held}", *fresh[:1])
    run_id = followed.run_id()

    def waits() -> bool:
        followed.require_going()
        return any(job["spec"].get("suspend") for job in jobs(kubectl, run_id))

    eventually(waits, trial.run, "the TrainJob is suspended; does Kueue manage TrainJobs?")
    (job,) = jobs(kubectl, run_id)
    for _ in range(5):  # none exists, not even one that waits for a node
        assert kubectl.items("pods", f"{STEP}={job['metadata']['name']}") == []
        time.sleep(2)
    kubectl("patch", f"clusterqueue.{GROUP}", held, "--type=merge",
            "--patch", '{"spec": {"stopPolicy": "None"}}')  # fmt: skip
    followed.succeeds()

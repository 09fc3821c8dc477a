"""The admission policies of k8s/admission on a real API server; nothing is kept (`--dry-run`)."""

import pytest

from admission import JOBS, RUNTIMES, trainjob
from kubectl import Kubectl, KubectlError, eventually
from trial import Trial, runtime

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("trainer", "guarded")]


@pytest.fixture(scope="module")
def image(kubectl: Kubectl, trial: Trial, deployed: bool) -> str:
    """One that the cluster's config map allows."""
    found = kubectl.get("configmap", "trainjobs")
    assert found
    assert trial.train_image.startswith(found["data"]["image"]), "set LIVE_TRAIN_IMAGE"
    return trial.train_image


def refused(kubectl: Kubectl, image: str, change: str) -> str:
    """What the server says against a changed TrainJob; empty if it accepts it."""
    try:
        kubectl.create(trainjob(image, change), dry_run=True)
    except KubectlError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def guarded(kubectl: Kubectl, image: str) -> None:
    """Policies take a moment to be enforced after they are applied."""
    eventually(lambda: refused(kubectl, image, "image"), 60, "a foreign image is refused")


def test_the_launchers_job_is_accepted(kubectl: Kubectl, image: str) -> None:
    assert "created (server dry run)" in kubectl.create(trainjob(image), dry_run=True)


@pytest.mark.parametrize("change", JOBS)
def test_another_job_is_refused(kubectl: Kubectl, image: str, change: str) -> None:
    assert JOBS[change][1] in refused(kubectl, image, change)


@pytest.mark.parametrize("change", RUNTIMES)
def test_another_runtime_of_that_name_is_refused(
    kubectl: Kubectl, trial: Trial, change: str
) -> None:
    found = runtime(trial)
    (node,) = found["spec"]["template"]["spec"]["replicatedJobs"]
    alter, message = RUNTIMES[change]
    alter(node["template"]["spec"]["template"]["spec"])
    with pytest.raises(KubectlError) as error:
        kubectl.apply(found, dry_run=True)
    assert message in str(error.value)

"""MLflow, Postgres and S3 deleted during a training on a real cluster."""

import pytest

from clusterruns import Runs, python, step_pods, trains
from deployment import ready
from kubectl import Kubectl
from trial import Trial

pytestmark = pytest.mark.live
SERVERS = {"mlflow": "deployment", "postgres": "statefulset", "seaweedfs": "statefulset"}


def test_lost_servers_cost_no_run(
    submit: Runs, kubectl: Kubectl, trial: Trial, env: dict[str, str], fresh: list[str], name: str
) -> None:
    """One after another, each as soon as the one before is ready again; no resubmission."""
    followed = submit(*fresh)
    run_id = followed.run_id()
    trains(followed, kubectl, lambda: step_pods(kubectl, run_id), 160)
    for server, kind in SERVERS.items():
        for pod in kubectl.items("pods", f"app.kubernetes.io/name={server}"):
            kubectl.kill(pod["metadata"]["name"])
        ready(kubectl, trial.ready, f"{kind}/{server}")
    assert step_pods(kubectl, run_id), "the training ended before the servers; raise LIVE_IMAGES"
    followed.succeeds()
    assert len(followed.ids) == 1
    code, text = python(env, "-m", "training.release", "show", name)
    assert code == 0, text
    assert f"seed {fresh[0].partition('=')[2]} " in text

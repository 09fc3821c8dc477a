"""MLflow, Postgres and S3 deleted during a training on a real cluster."""

import pytest

from clusterruns import Runs, has_seed, step_pods, trains
from deployment import restart
from kubectl import Kubectl
from trial import Trial

pytestmark = pytest.mark.live


def test_lost_servers_cost_no_run(
    submit: Runs, kubectl: Kubectl, trial: Trial, env: dict[str, str], fresh: list[str], name: str
) -> None:
    """One after another, each as soon as the one before is ready again; no resubmission."""
    followed = submit(*fresh)
    run_id = followed.run_id()
    before = trains(followed, kubectl, lambda: step_pods(kubectl, run_id), 160)
    for server in ("mlflow", "postgres", "seaweedfs"):
        restart(kubectl, server, trial.ready)
    still = step_pods(kubectl, run_id)
    assert still == before, "the training ended before the last server was back; raise LIVE_IMAGES"
    followed.succeeds()
    assert len(followed.ids) == 1
    assert has_seed(env, name, fresh)

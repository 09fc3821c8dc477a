"""Why a step of a pipeline run failed, as a tag of the run's parent in MLflow.

Kubeflow Pipelines 2.17 tells a client that a step failed, not why, and its log endpoint wants the
name of a pod, which it does not tell either. Who follows the run reads the reason here.
"""

from training.core import environment
from training.core.shown import shown
from training.tracking import names, parents
from training.tracking.client import answered, client, parent_run, uri

LONGEST = 2000  # characters of a reason
ASKED = "failed_steps_asked"  # the tag of a run whose last step has looked for reasons
RETRIES = "2"  # of a request of a person who waits; MLflow's own seven take four minutes


def tag(step: str) -> str:
    """The tag's key."""
    return names.key(f"failed.{step}")


def write(experiment: str, found: dict[str, str]) -> None:
    """Tag this pipeline run's parent, which is made if there is none, with reasons by step.

    And with the fact that this was done: without it, no reason does not mean that none was left.
    """
    if uri() == "off":
        return
    run_id = parent_run(experiment)
    for step, reason in found.items():
        client().set_tag(run_id, tag(step), reason[:LONGEST])
    client().set_tag(run_id, ASKED, str(len(found)))


def read(pipeline_run: str, experiment: str, step: str) -> str:
    """Why a step of a pipeline run failed; empty if it left no reason.

    Raises TrackingError if MLflow does not answer or refuses, ValueError if the run's last step has
    not written to it.
    """
    with environment.changed(MLFLOW_HTTP_REQUEST_MAX_RETRIES=RETRIES), answered():
        api = client()
        where = api.get_experiment_by_name(experiment)
        run_id = parents.find(api, where.experiment_id, pipeline_run) if where else ""
        tags = api.get_run(run_id).data.tags if run_id else {}
    if tag(step) not in tags and ASKED not in tags:
        raise ValueError(
            "the run's last step, Report status, did not write to this MLflow whether a step left "
            f"a reason: see its log, and whether {shown(uri())} is the cluster's MLflow"
        )
    return str(tags.get(tag(step), ""))

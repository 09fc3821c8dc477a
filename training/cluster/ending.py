"""The end of a pipeline run: its state and reasons to MLflow, and no TrainJob is left."""

from training.cluster.kubernetes import Cluster, ClusterError
from training.cluster.watch import condition, say, terminating
from training.core import environment
from training.core.shown import shown
from training.storage import attempts
from training.tracking import reasons
from training.tracking.links import close_parent

STATES = {"SUCCEEDED": "FINISHED", "CANCELED": "KILLED", "CANCELLED": "KILLED"}


def end_run(state: str, experiment: str, launcher: str) -> str:
    """Close the pipeline run's parent in MLflow with Kubeflow's final `state`; its page's address.

    On a cluster the parent also gets the reasons that failed steps left, and the run's TrainJobs
    that have not ended are deleted: of a launcher that was ended before it could do so.
    """
    run = environment.PIPELINE_RUN_ID.get()
    if environment.POD_NAME.get():
        if launcher == "trainjob":
            delete_jobs(run)
        if state != "SUCCEEDED":
            write_reasons(run, experiment)
    return close_parent(STATES.get(state, "FAILED"), experiment)


def write_reasons(run: str, experiment: str) -> None:
    """Give the parent the reasons that failed steps left; a store without them is only printed."""
    try:
        found = attempts.failures(run)
    except (ValueError, OSError) as error:
        say(f"error: the reasons of failed steps are not known: {shown(error)}")
        return
    reasons.write(experiment, found)


def delete_jobs(run: str) -> None:
    """Delete the TrainJobs of a pipeline run that have not ended.

    A refusal is only printed: Kubernetes then deletes them with the run's workflow.
    """
    try:
        cluster = Cluster()
        for job in cluster.jobs(run):
            ended = condition(job, "Complete") or condition(job, "Failed")
            if not ended and not terminating(job):
                name = str(job["metadata"]["name"])
                cluster.delete(name)
                say(f"{name} deleted: its run has ended")
    except ClusterError as error:
        say(f"error: TrainJobs of this run may still train: {error}")

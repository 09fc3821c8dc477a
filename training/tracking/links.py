"""Addresses of pages: MLflow's, and Kubeflow's of a pipeline run.

MLflow 3.17 chooses between its two views, of language models and of training, by the browser's last
choice, at first the former; it does not read the experiment's tag. An address that names the view
opens it.
"""

import uuid
from urllib.parse import quote

from training.core import environment
from training.core.shown import shown
from training.tracking.client import end_parent, experiment_id, uri

TRAINING = "workflowType=machine_learning"
VIEW = "compare"  # the shared view of `training.tracking.described`
LOCAL = "http://127.0.0.1:5000"  # of `make ui`


def base() -> str:
    """MLflow's address in a browser, without a user and password."""
    served = uri() if uri().startswith("http") else LOCAL
    return shown(environment.MLFLOW_UI_ENDPOINT.get() or served).rstrip("/")


def runs(experiment: str) -> str:
    """The page, below `base()`, that compares the runs of an experiment, by id."""
    return f"/#/experiments/{experiment}/runs?{TRAINING}&viewStateShareKey={VIEW}"


def run(experiment: str, run_id: str, more: str = "") -> str:
    """The page of a run; `more` is a part of it, such as artifacts/report.html."""
    return f"/#/experiments/{experiment}/runs/{run_id}{quote(more)}?{TRAINING}"


def version(name: str, number: str) -> str:
    """The page of a registered version."""
    return f"/#/models/{quote(name, safe='')}/versions/{number}?{TRAINING}"


def kubeflow() -> str:
    """Address of Kubeflow Pipelines' UI, or else of its API; empty if none is set."""
    return environment.KF_PIPELINES_UI_ENDPOINT.get() or environment.KF_PIPELINES_ENDPOINT.get()


def kubeflow_run(run_id: str) -> str:
    """The page of a run of Kubeflow Pipelines."""
    return f"{shown(kubeflow()).rstrip('/')}/#/runs/details/{run_id}"


def kubeflow_tags(pipeline_run: str) -> dict[str, str]:
    """Tags that lead from a run in MLflow to that of Kubeflow, whose runs' ids are UUIDs."""
    try:
        uuid.UUID(pipeline_run)
    except ValueError:  # the local runner's, or a program's own
        return {}
    page = {"kfp_url": kubeflow_run(pipeline_run)} if kubeflow() else {}
    return {"kfp_run": pipeline_run, **page}


def close_parent(status: str, experiment: str) -> str:
    """`end_parent`; returns the address of the closed run's page, or empty text."""
    run_id = end_parent(status, experiment)
    return base() + run(experiment_id(experiment), run_id) if run_id else ""

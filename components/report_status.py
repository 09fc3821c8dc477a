"""The exit handler: record how the run ended."""

from kfp import dsl

from components.images import STEPS_IMAGE


@dsl.component(base_image=STEPS_IMAGE, install_kfp_package=False)
def report_status(experiment: str, status: dsl.PipelineTaskFinalStatus) -> str:
    """Close the pipeline's MLflow run with the pipeline's final state; returns its address."""
    from training.tracking.links import close_parent

    states = {"SUCCEEDED": "FINISHED", "CANCELED": "KILLED", "CANCELLED": "KILLED"}
    return close_parent(states.get(status.state, "FAILED"), experiment)

"""The exit handler: record how the run ended."""

from kfp import dsl

from components.images import STEPS_IMAGE


@dsl.component(base_image=STEPS_IMAGE, install_kfp_package=False)
def report_status(experiment: str, status: dsl.PipelineTaskFinalStatus) -> None:
    """Close the pipeline's MLflow run with the pipeline's final state."""
    from training.tracking.client import end_parent

    states = {"SUCCEEDED": "FINISHED", "CANCELED": "KILLED", "CANCELLED": "KILLED"}
    end_parent(states.get(status.state, "FAILED"), experiment)

"""The exit handler: record how the run ended, and end what it left."""

from kfp import dsl

from components.images import STEPS_IMAGE


@dsl.component(base_image=STEPS_IMAGE, install_kfp_package=False)
def report_status(experiment: str, launcher: str, status: dsl.PipelineTaskFinalStatus) -> str:
    """Close the pipeline's MLflow run with the final state and the reasons of failed steps.

    TrainJobs of the run that still train are deleted. Returns the address of the closed run.
    """
    from training.cluster.ending import end_run

    return end_run(status.state, experiment, launcher)

"""Step 3: validate the raw data."""

from kfp import dsl

from components.images import STEPS_IMAGE


@dsl.component(base_image=STEPS_IMAGE, install_kfp_package=False)
def validate(
    raw: dsl.Input[dsl.Dataset], data_config: str, code_hash: str,
    report: dsl.Output[dsl.HTML], metrics: dsl.Output[dsl.Metrics],
    docs: dsl.Output[dsl.Artifact],
) -> None:  # fmt: skip
    """Stop the run if the raw data are not usable; the report gives the reasons."""
    from pathlib import Path

    from training.core.files import read_json
    from training.data.validate import validate
    from training.storage.attempts import attempt

    attempt(
        validate, Path(raw.path), data_config=data_config, report=Path(report.path),
        metrics=Path(metrics.path), docs=Path(docs.path),
    )  # fmt: skip
    metrics.metadata.update(read_json(Path(metrics.path)))

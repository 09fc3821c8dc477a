"""Step 11: register the model as a version."""

from kfp import dsl

from components.images import STEPS_IMAGE


@dsl.component(base_image=STEPS_IMAGE, install_kfp_package=False)
def register(
    model: dsl.Input[dsl.Model], evaluation: dsl.Input[dsl.Artifact],
    dataset: dsl.Input[dsl.Dataset], name: str, data_md5: str, revision: str, code_hash: str,
    image: str, changes: str, out: dsl.Output[dsl.Artifact], summary: dsl.Output[dsl.Markdown],
) -> None:  # fmt: skip
    """Register the model with its lineage; the same content is never registered twice."""
    from pathlib import Path

    from training.release import register
    from training.storage.attempts import attempt

    attempt(
        register, Path(model.path), Path(evaluation.path), Path(dataset.path), name=name,
        data_md5=data_md5, revision=revision, code_hash=code_hash, image=image, changes=changes,
        out=Path(out.path), summary=Path(summary.path),
    )  # fmt: skip

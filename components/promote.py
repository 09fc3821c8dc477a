"""Step 12: make the version the champion if it passes the gate."""

from kfp import dsl

from components.images import TRAIN_IMAGE


@dsl.component(base_image=TRAIN_IMAGE, install_kfp_package=False)
def promote(
    version: dsl.Input[dsl.Artifact], dataset: dsl.Input[dsl.Dataset],
    judge: dsl.Input[dsl.Model], replicates: dsl.Input[dsl.Artifact], eval_config: str,
    override: str, out: dsl.Output[dsl.Artifact], report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:  # fmt: skip
    """Score champion and challenger on the same images; write the verdict with its reason."""
    from pathlib import Path

    from training.core.files import read_json
    from training.registry.promotion import promote
    from training.storage.attempts import attempt

    attempt(
        promote, Path(version.path), Path(dataset.path), Path(judge.path), eval_config, override,
        Path(out.path), Path(replicates.path), Path(report.path), Path(metrics.path),
    )  # fmt: skip
    metrics.metadata.update(read_json(Path(metrics.path)))

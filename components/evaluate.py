"""Step 10: evaluate the model on held-out images with the judge."""

from kfp import dsl

from components.images import TRAIN_IMAGE


@dsl.component(base_image=TRAIN_IMAGE, install_kfp_package=False)
def evaluate(
    model: dsl.Input[dsl.Model], dataset: dsl.Input[dsl.Dataset], judge: dsl.Input[dsl.Model],
    eval_config: str, compare: str, code_hash: str, out: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML], metrics: dsl.Output[dsl.Metrics],
) -> None:  # fmt: skip
    """Score every edit on held-out images; write metrics, pictures and the report."""
    from pathlib import Path

    from training.core.files import read_json
    from training.evaluate import evaluate
    from training.storage.attempts import attempt

    attempt(
        evaluate, Path(model.path), Path(dataset.path), Path(judge.path), eval_config=eval_config,
        compare=compare, out=Path(out.path), report=Path(report.path), metrics=Path(metrics.path),
    )  # fmt: skip
    metrics.metadata.update(read_json(Path(metrics.path)))

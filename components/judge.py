"""Step 8: the judge, frozen classifiers that score every translation."""

from kfp import dsl

from components.images import TRAIN_IMAGE


@dsl.component(base_image=TRAIN_IMAGE, install_kfp_package=False)
def judge(
    dataset: dsl.Input[dsl.Dataset], judge_config: str, judge_hash: str,
    out: dsl.Output[dsl.Model], metrics: dsl.Output[dsl.Metrics],
) -> None:  # fmt: skip
    """Reuse the stored judge of this hash, or train it."""
    from pathlib import Path

    from training.core.files import read_json
    from training.judge import judge
    from training.storage.attempts import attempt

    attempt(
        judge, Path(dataset.path), judge_config=judge_config, judge_hash=judge_hash,
        out=Path(out.path), metrics=Path(metrics.path),
    )  # fmt: skip
    metrics.metadata.update(read_json(Path(metrics.path)))

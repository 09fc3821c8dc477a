"""Step 6: the frozen classifiers that every translation is scored with."""

from kfp import dsl

from components.images import TRAIN_IMAGE


@dsl.component(base_image=TRAIN_IMAGE, install_kfp_package=False)
def judge(
    dataset: dsl.Input[dsl.Dataset], judge_config: str, judge_hash: str, out: dsl.Output[dsl.Model]
) -> None:
    """Take the judge that stands under this hash, or train it once."""
    from pathlib import Path

    from training.judge import judge

    judge(Path(dataset.path), judge_config, judge_hash, Path(out.path))

"""Step 7: the translation model."""

from kfp import dsl

from components.images import TRAIN_IMAGE


@dsl.component(base_image=TRAIN_IMAGE, install_kfp_package=False)
def train(
    dataset: dsl.Input[dsl.Dataset], model: str, preset: str, model_config: str,
    train_config: str, nproc: int, init: str, experiment: str, code_hash: str,
    out: dsl.Output[dsl.Model],
) -> None:  # fmt: skip
    """Train on `nproc` processes; an interrupted run goes on where it was saved."""
    from pathlib import Path

    from training.train import launch

    launch(
        Path(dataset.path), Path(out.path), model, model_config, train_config,
        nproc=nproc, init=init, experiment=experiment, preset=preset,
    )  # fmt: skip

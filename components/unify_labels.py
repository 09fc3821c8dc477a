"""Step 7: build one label space over all data sets."""

from kfp import dsl

from components.images import STEPS_IMAGE


@dsl.component(base_image=STEPS_IMAGE, install_kfp_package=False)
def unify_labels(
    images: dsl.Input[dsl.Dataset], data_config: str, code_hash: str, out: dsl.Output[dsl.Dataset]
) -> None:
    """Join the data sets' labels in one vector with a mask vector."""
    from pathlib import Path

    from training.data.unify import unify
    from training.storage.attempts import attempt

    attempt(unify, images=Path(images.path), data_config=data_config, out=Path(out.path))

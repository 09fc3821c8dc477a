"""Step 4: crop, resize and split the raw images, with their raw labels."""

from kfp import dsl

from components.images import STEPS_IMAGE


@dsl.component(base_image=STEPS_IMAGE, install_kfp_package=False)
def preprocess(
    raw: dsl.Input[dsl.Dataset], data_config: str, code_hash: str, out: dsl.Output[dsl.Dataset]
) -> None:
    """Crop, resize and split every raw image."""
    from pathlib import Path

    from training.data.preprocess import preprocess
    from training.storage.attempts import attempt

    attempt(preprocess, raw=Path(raw.path), data_config=data_config, out=Path(out.path))

"""Step 5, once for each part: crop and resize some of the raw images."""

from typing import Any

from kfp import dsl

from components.images import STEPS_IMAGE


@dsl.component(base_image=STEPS_IMAGE, install_kfp_package=False)
def preprocess_part(raw: dsl.Input[dsl.Dataset], item: dict[str, Any]) -> None:
    """Crop one part of the images into the store, where the next step finds them."""
    from pathlib import Path

    from training.data.preprocess import preprocess_part
    from training.storage.attempts import attempt

    attempt(preprocess_part, raw=Path(raw.path), **item)

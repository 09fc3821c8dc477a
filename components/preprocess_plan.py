"""Step 4: divide the preprocessing into parts."""

from typing import Any

from kfp import dsl

from components.images import STEPS_IMAGE


@dsl.component(base_image=STEPS_IMAGE, install_kfp_package=False)
def preprocess_plan(
    preprocess_config: str, data_config: str, code_hash: str
) -> list[dict[str, Any]]:
    """The inputs of each part; in a loop they must come from its items."""
    from training.data.parts import parts
    from training.storage.attempts import attempt

    return attempt(parts, preprocess_config, data_config, code_hash)

"""Step 6: split the images and join the parts with the raw labels."""

from kfp import dsl

from components.images import STEPS_IMAGE


@dsl.component(base_image=STEPS_IMAGE, install_kfp_package=False)
def preprocess(
    raw: dsl.Input[dsl.Dataset], data_config: str, code_hash: str, out: dsl.Output[dsl.Dataset]
) -> None:
    """Join the parts' images; what a part left undone is done here."""
    from pathlib import Path

    from training.data.preprocess import preprocess
    from training.storage.attempts import attempt

    attempt(
        preprocess, raw=Path(raw.path), data_config=data_config, code_hash=code_hash,
        out=Path(out.path),
    )  # fmt: skip

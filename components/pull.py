"""Step 2: fetch the raw data of the requested md5."""

from kfp import dsl

from components.images import STEPS_IMAGE


@dsl.component(base_image=STEPS_IMAGE, install_kfp_package=False)
def pull(
    datasets: str,
    raw: str,
    revision: str,
    md5: str,
    forgotten: str,
    code_hash: str,
    out: dsl.Output[dsl.Dataset],
) -> None:
    """Fetch the raw data sets of a DVC revision and verify them against their md5."""
    from pathlib import Path

    from training.data.pull import pull
    from training.storage.attempts import attempt

    attempt(
        pull, datasets=datasets, raw=raw, revision=revision, md5=md5, forgotten=forgotten,
        out=Path(out.path),
    )  # fmt: skip

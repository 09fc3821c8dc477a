"""Step 1: resolve the data, code, configuration and judge of this run."""

from typing import NamedTuple

from kfp import dsl

from components.images import STEPS_IMAGE


@dsl.component(base_image=STEPS_IMAGE, install_kfp_package=False)
def resolve(
    datasets: str, raw: str, revision: str, model: str, preset: str, overrides: str, init: str,
    compare: str, name: str, step_cpu: str, step_memory: str, train_cpu: str, train_memory: str,
    launcher: str, accelerators: int, parts: bool, out: dsl.Output[dsl.Artifact],
) -> NamedTuple(  # type: ignore[valid-type]
    "Resolved",
    [
        ("data_md5", str),
        ("revision", str),
        ("code_hash", str),
        ("data_config", str),
        ("preprocess_config", str),
        ("judge_config", str),
        ("train_config", str),
        ("model_config", str),
        ("eval_config", str),
        ("judge_hash", str),
        ("datasets", str),
        ("init", str),
        ("compare", str),
        ("name", str),
        ("changes", str),
        ("step_cpu", str),
        ("step_memory", str),
        ("step_memory_limit", str),
        ("train_cpu", str),
        ("train_memory", str),
        ("train_memory_limit", str),
        ("accelerator_count", str),
        ("step_accelerator_count", str),
        ("forgotten", str),
    ],
):  # fmt: skip
    """Resolve names to hashes and configurations, so that cache keys cover data and code."""
    from pathlib import Path

    from training.resolve import resolve
    from training.storage.attempts import attempt

    return attempt(
        resolve, datasets=datasets, raw=raw, revision=revision, model=model, preset=preset,
        overrides=overrides, init=init, compare=compare, name=name, out=Path(out.path),
        requested={"step_cpu": step_cpu, "step_memory": step_memory, "train_cpu": train_cpu,
                   "train_memory": train_memory, "launcher": launcher,
                   "accelerators": accelerators},
        parts=parts,
    )  # fmt: skip

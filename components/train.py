"""Step 9: train the translation model."""

from kfp import dsl

from components.images import TRAIN_IMAGE


@dsl.component(base_image=TRAIN_IMAGE, install_kfp_package=False)
def train(
    dataset: dsl.Input[dsl.Dataset], model: str, preset: str, model_config: str,
    train_config: str, nproc: int, seeds: int, init: str, experiment: str, launcher: str,
    nodes: int, queue: str, accelerator: str, accelerators: int, train_cpu: str,
    train_memory: str, code_hash: str,
    out: dsl.Output[dsl.Model], replicates: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML], metrics: dsl.Output[dsl.Metrics],
) -> None:  # fmt: skip
    """Train one model per seed on `nproc` processes; an interrupted training resumes."""
    from pathlib import Path

    from training.core.files import read_json
    from training.launch import step
    from training.storage.attempts import attempt

    attempt(
        step, Path(dataset.path), Path(out.path), model, model_config, train_config,
        nproc=nproc, init=init, experiment=experiment, preset=preset, seeds=seeds,
        replicates=Path(replicates.path), report=Path(report.path), metrics=Path(metrics.path),
        launcher=launcher, nodes=nodes, queue=queue, accelerator=accelerator,
        accelerators=accelerators, train_cpu=train_cpu, train_memory=train_memory,
    )  # fmt: skip
    metrics.metadata.update(read_json(Path(metrics.path)))

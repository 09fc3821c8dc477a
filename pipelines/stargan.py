"""The pipeline: from raw faces to a promoted model. It only connects the steps.

python -m pipelines compile     writes stargan.yaml and stargan-parts.yaml beside this file
"""

from typing import Any

from kfp import dsl

from components.evaluate import evaluate
from components.images import TRAIN_IMAGE
from components.judge import judge
from components.preprocess import preprocess
from components.preprocess_part import preprocess_part
from components.preprocess_plan import preprocess_plan
from components.promote import promote
from components.pull import pull
from components.register import register
from components.report_status import report_status
from components.resolve import resolve
from components.train import train
from components.unify_labels import unify_labels
from components.validate import validate
from pipelines import resources as cluster
from training.core.options import MODEL, TrainOptions, documented


def pipeline(parts: bool) -> Any:
    """The pipeline for kfp's compiler; the images are cropped in one pod, with `parts` in a loop.

    The loop is no condition inside one pipeline: Kubeflow 2.17 never starts the steps after a
    condition that does not hold, and four more pods would make each run from the cache some 40 s
    longer.
    """

    @dsl.pipeline(
        name="stargan",
        description="From raw faces to a promoted translation model.",
        pipeline_config=cluster.RUN_LIMITS,
    )
    @documented
    def stargan(
        datasets: str = "",
        raw: str = "",
        revision: str = "",
        model: str = MODEL,
        preset: str = TrainOptions.preset,
        overrides: str = "",
        init: str = TrainOptions.init,
        compare: str = "",
        nproc: int = TrainOptions.nproc,
        seeds: int = TrainOptions.seeds,
        launcher: str = TrainOptions.launcher,
        nodes: int = TrainOptions.nodes,
        queue: str = TrainOptions.queue,
        accelerator: str = TrainOptions.accelerator,
        accelerators: int = TrainOptions.accelerators,
        train_cpu: str = TrainOptions.train_cpu,
        train_memory: str = TrainOptions.train_memory,
        step_cpu: str = "",
        step_memory: str = "",
        node_selector: dict = {},  # noqa: B006 - kfp reads it as the default of the parameter
        name: str = "",
        experiment: str = TrainOptions.experiment,
        override: str = "",
        image: str = TRAIN_IMAGE,
    ) -> None:
        """The steps run one after another; a failed step stops those after it.

        Args:
            datasets: names, comma-separated, each `name` or `name:kind`; empty means the preset's.
            raw: folder of the raw data, which the pods must have; empty means DVC's data.
            revision: git revision of the `.dvc` files; empty means the current ones.
            model: the model to train.
            overrides: `key=value;key=value` on top of the preset.
            compare: model manifest or registered version to compare with the new one in the report
                (the paper's Fig. 6).
            node_selector: labels of the nodes for judge, train, evaluate and promote, as JSON.
            step_cpu: CPUs that the pod of each other step requests; empty: by the preset.
            step_memory: memory that the pod of each other step requests, limited to four times as
                much; empty: by the preset.
            name: name of the registered model; empty means the same as `model`.
            override: a reason to promote against the gate; recorded.
            image: the training image that the lineage records; a local run sets its own.
        """
        ended = report_status(experiment=experiment, launcher=launcher).set_caching_options(False)
        with dsl.ExitHandler(ended, name="steps"):
            start = resolve(
                parts=parts, datasets=datasets, raw=raw, revision=revision, model=model,
                preset=preset, overrides=overrides, init=init, compare=compare, name=name,
                step_cpu=step_cpu, step_memory=step_memory, train_cpu=train_cpu,
                train_memory=train_memory, launcher=launcher, accelerators=accelerators,
            ).set_caching_options(False)  # fmt: skip
            what = start.outputs
            code, data = {"code_hash": what["code_hash"]}, {"data_config": what["data_config"]}
            pulled = pull(
                datasets=what["datasets"], raw=raw, revision=what["revision"], md5=what["data_md5"],
                forgotten=what["forgotten"], **code,
            )  # fmt: skip
            valid = validate(raw=pulled.outputs["out"], **data, **code)
            divided = []
            if parts:
                plan = preprocess_plan(
                    preprocess_config=what["preprocess_config"], **data, **code
                ).after(valid)  # fmt: skip
                with dsl.ParallelFor(plan.output, name="parts") as item:
                    part = preprocess_part(raw=pulled.outputs["out"], item=item)
                divided = [plan, part]
            # The parts' results are in the store, which all pods share.
            images = preprocess(raw=pulled.outputs["out"], **data, **code)
            images.after(*divided[1:] or [valid])
            unified = unify_labels(images=images.outputs["out"], **data, **code)
            faces = {"dataset": unified.outputs["out"]}
            judged = judge(
                **faces, judge_config=what["judge_config"], judge_hash=what["judge_hash"]
            )
            # After the judge: one that is not accurate enough stops the run before the long step.
            trained = train(
                **faces, model=model, preset=preset, model_config=what["model_config"],
                train_config=what["train_config"], nproc=nproc, seeds=seeds, init=what["init"],
                experiment=experiment, launcher=launcher, nodes=nodes, queue=queue,
                accelerator=accelerator, accelerators=accelerators, train_cpu=train_cpu,
                train_memory=train_memory, **code,
            ).after(judged)  # fmt: skip
            scored = evaluate(
                model=trained.outputs["out"], judge=judged.outputs["out"], **faces,
                eval_config=what["eval_config"], compare=what["compare"], **code,
            )  # fmt: skip
            version = register(
                model=trained.outputs["out"], evaluation=scored.outputs["out"], **faces,
                name=what["name"], data_md5=what["data_md5"], revision=what["revision"], **code,
                image=image, changes=what["changes"],
            ).set_caching_options(False)  # fmt: skip
            verdict = promote(
                version=version.outputs["out"], judge=judged.outputs["out"], **faces,
                replicates=trained.outputs["replicates"], eval_config=what["eval_config"],
                override=override,
            ).set_caching_options(False)  # fmt: skip
        titles = {
            start: "Resolve configuration",
            pulled: "Pull raw data",
            valid: "Validate raw data",
            **dict(zip(divided, ("Divide preprocessing", "Preprocess part"), strict=False)),
            images: "Preprocess images",
            unified: "Unify labels",
            judged: "Train judge",
            trained: "Train model",
            scored: "Evaluate model",
            version: "Register version",
            verdict: "Promote through the gate",
            ended: "Report status",
        }
        for step, title in titles.items():
            step.set_display_name(title)
        cluster.add_env_and_security(*titles)
        cluster.set_fixed_resources(start, *divided[:1], ended)
        cluster.set_resources(
            what, pulled, valid, *divided[1:], images, unified, judged, scored, version, verdict
        )
        cluster.set_retries(pulled, valid, *divided[1:], images, unified, judged, scored, verdict)
        cluster.set_accelerator(trained, what, accelerator, node_selector)
        cluster.add_step_accelerators(what, accelerator, node_selector, judged, scored, verdict)
        cluster.add_run_identity(*titles)

    return stargan

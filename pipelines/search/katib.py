"""A search as a Katib Experiment: each trial is a job in the cluster that runs `trial`.

kubeflow.org/v1beta1 is Katib's only released API. optimizer.kubeflow.org/v1alpha1 (OptimizationJob)
is a proposal whose field names still change, and no release serves it.
"""

import shlex
from pathlib import Path
from typing import Any

import yaml
from optuna.distributions import CategoricalDistribution, IntDistribution

from components.images import TRAIN_IMAGE
from pipelines.resources import SECRETS
from pipelines.search.plan import Plan
from pipelines.search.space import Dimension
from training.core.files import write_bytes
from training.models import configure

METRIC = "validation_success"  # a trial prints METRIC=VALUE, which Katib's StdOut collector reads
LABELS = {"app.kubernetes.io/name": "search-trial"}
OURS = {"app.kubernetes.io/part-of": "stargan"}  # by which k8s/overlays/standalone selects pods
FAILED = 5  # trials that may fail
COLLECTED = 6789  # port of Katib's database manager, to which the collector sends


def write(plan: Plan, output: Path, namespace: str, accelerators: int) -> None:
    """Write the Experiment and the network policy of its trials. Raises ValueError for `raw`."""
    if plan.fixed.get("raw"):
        raise ValueError(
            f"raw={plan.fixed['raw']}: a pod has no such folder; python -m training.data adopt it, "
            "and push the data to DVC's remote"
        )
    if plan.own.seeds > 1:
        raise ValueError(f"seeds={plan.own.seeds}: a Katib trial has one; leave it out")
    if odd := [value for value in plan.fixed.values() if value and shlex.quote(value) != value]:
        raise ValueError(f"{odd[0]!r}: Katib runs a trial's command in a shell, which changes it")
    documents = [experiment(plan, namespace, accelerators), _policy(namespace)]
    write_bytes(output, yaml.safe_dump_all(documents, sort_keys=False).encode())


def experiment(plan: Plan, namespace: str, accelerators: int) -> dict[str, Any]:
    """The Experiment: the objective, the space, and the job of a trial."""
    names = {key: key.replace(".", "-").replace("_", "-") for key in plan.space}
    early: dict[str, Any] = {
        "earlyStopping": {
            "algorithmName": "medianstop",
            "algorithmSettings": [
                {"name": "min_trials_required", "value": "5"}, {"name": "start_step", "value": "1"},
            ],
        }
    }  # fmt: skip
    return {
        "apiVersion": "kubeflow.org/v1beta1",
        "kind": "Experiment",
        "metadata": {"name": plan.key, "namespace": namespace},
        "spec": {
            "objective": {
                "type": "maximize",
                "objectiveMetricName": METRIC,
                # Katib's default is the best value; a trial also prints those of its snapshots.
                "metricStrategies": [{"name": METRIC, "value": "latest"}],
            },
            "algorithm": {
                "algorithmName": "tpe",
                "algorithmSettings": [
                    {"name": "random_state", "value": str(plan.own.sampler_seed)}
                ],
            },
            **(early if plan.rungs else {}),
            "metricsCollectorSpec": {"collector": {"kind": "StdOut"}},
            "parallelTrialCount": plan.own.jobs,
            "maxTrialCount": plan.own.trials,
            "maxFailedTrialCount": FAILED,
            "parameters": [_parameter(names[key], one) for key, one in plan.space.items()],
            "trialTemplate": {
                "primaryContainerName": "trial",
                "trialParameters": [
                    {"name": names[key], "reference": names[key], "description": key}
                    for key in plan.space
                ],
                "trialSpec": _job(plan, names, accelerators),
            },
        },
    }


def _parameter(name: str, dimension: Dimension) -> dict[str, Any]:
    if isinstance(dimension, CategoricalDistribution):
        values = [str(choice) for choice in dimension.choices]
        return {
            "name": name, "parameterType": "categorical", "feasibleSpace": {"list": values}
        }  # fmt: skip
    whole = isinstance(dimension, IntDistribution)
    space = {"min": configure.text(dimension.low), "max": configure.text(dimension.high)}
    if dimension.step and not dimension.log:
        space["step"] = configure.text(dimension.step)
    if dimension.log:
        space["distribution"] = "logUniform"
    return {
        "name": name, "parameterType": "int" if whole else "double", "feasibleSpace": space
    }  # fmt: skip


def _job(plan: Plan, names: dict[str, str], accelerators: int) -> dict[str, Any]:
    fixed = {"model": plan.config.name, "preset": plan.config.preset, **plan.fixed}
    words = [f"{k}={v}" for k, v in fixed.items() if v and k != "train.images"]
    if plan.own.images:  # a trial refuses its length as train.images
        words.append(f"images={plan.own.images}")
    words.append(f"prune={','.join(map(str, plan.rungs)) or 'none'}")
    words += [f"{key}=${{trialParameters.{name}}}" for key, name in names.items()]
    gpus = {"nvidia.com/gpu": accelerators} if accelerators else {}
    tolerated = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    container = {
        "name": "trial",
        "image": TRAIN_IMAGE,
        "command": ["python", "-m", "pipelines", "trial", *words],
        "envFrom": [
            {"configMapRef": {"name": "stargan-environment", "optional": True}},
            *({"secretRef": {"name": name, "optional": True}} for name in SECRETS),
        ],
        "resources": {
            "requests": {"cpu": "2", "memory": "8Gi", **gpus}, "limits": {"memory": "32Gi", **gpus}
        },
        "securityContext": {
            "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}
        },
        "workingDir": "/work",
        "volumeMounts": [
            {"name": "work", "mountPath": "/work"}, {"name": "work", "mountPath": "/cache"},
        ],
    }  # fmt: skip
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "spec": {
            "backoffLimit": 2,
            "template": {
                "metadata": {
                    "labels": LABELS | OURS, "annotations": {"sidecar.istio.io/inject": "false"}
                },
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "securityContext": {
                        "runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001,
                        "fsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [container],
                    **({"tolerations": [tolerated]} if accelerators else {}),
                    "volumes": [{"name": "work", "emptyDir": {"sizeLimit": "100Gi"}}],
                },
            },
        },
    }  # fmt: skip


def _policy(namespace: str) -> dict[str, Any]:
    """The collector beside each trial sends to Katib, which the namespace forbids otherwise."""
    katib = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kubeflow"}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "search-trials", "namespace": namespace},
        "spec": {
            "podSelector": {"matchLabels": LABELS},
            "policyTypes": ["Egress"],
            "egress": [{"to": [katib], "ports": [{"protocol": "TCP", "port": COLLECTED}]}],
        },
    }

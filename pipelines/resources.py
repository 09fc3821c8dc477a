"""Resources that the steps request from a cluster: accelerators, memory, time, addresses, secrets.

The local runner ignores all of it. The config map and the secrets are those of k8s/; a cluster
without them must set the environment in some other way.
"""

from collections.abc import Mapping
from typing import Any

from kfp import dsl, kubernetes

RUN_LABEL = "metadata.labels['pipeline/runid']"  # Kubeflow's own, on every pod of a run
ADDRESSES = (
    "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3", "COLLECTIVE_TIMEOUT", "DVC_REMOTE_URL",
    "KF_PIPELINES_UI_ENDPOINT", "METRICS_PORT", "MLFLOW_TRACKING_URI", "MLFLOW_UI_ENDPOINT",
    "NODE_CACHE", "OPENLINEAGE_ENDPOINT", "OPENLINEAGE_NAMESPACE", "OPENLINEAGE_URL",
    "S3_PATIENCE", "SIGNING_PUBLIC_KEY", "STORE_URI",
)  # fmt: skip
SECRETS = {
    "stargan-s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    "stargan-mlflow": ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
    "stargan-openlineage": ("OPENLINEAGE_API_KEY",),
}
DAY = 86_400  # s
# Above the training step's four tries of three days. Argo's objects and pods of an ended run, with
# the pods' logs, are deleted after the second; Kubeflow keeps its record.
RUN_LIMITS = dsl.PipelineConfig(
    active_deadline_seconds=14 * DAY, ttl_seconds_after_finished=7 * DAY
)
USER = 10_001  # user id in the images


def add_env_and_security(*tasks: Any) -> None:
    """Give steps addresses, secrets, a cache volume and a non-root user."""
    for task in tasks:
        same = {name: name for name in ADDRESSES}
        kubernetes.use_config_map_as_env(task, "stargan-environment", same, optional=True)
        for secret, names in SECRETS.items():
            kubernetes.use_secret_as_env(task, secret, {n: n for n in names}, optional=True)
        # Required in a namespace with the restricted Pod Security Standard.
        kubernetes.set_security_context(
            task, run_as_user=USER, run_as_group=USER, run_as_non_root=True
        )
        # NODE_CACHE points here; the images' user cannot create folders under /.
        kubernetes.empty_dir_mount(task, "cache", "/cache", size_limit="100Gi")


def set_fixed_resources(*tasks: Any) -> None:
    """CPU and memory of steps that read names and settings only, whatever the preset."""
    for task in tasks:
        task.set_cpu_request("100m").set_memory_request("512Mi").set_memory_limit("2Gi")


def set_resources(resolved: Mapping[str, Any], *tasks: Any) -> None:
    """CPU and memory of the other steps, from the results of `resolve`."""
    for task in tasks:
        _set_pod(task, resolved, "step")


def set_retries(*tasks: Any) -> None:
    """Retries of steps that read images or run networks.

    KFP 2.17 gives Argo no `retryPolicy`: a step that fails is retried, a deleted pod is not.
    """
    for task in tasks:
        task.set_retry(2, backoff_duration="30s")


def _set_pod(task: Any, resolved: Mapping[str, Any], kind: str) -> None:
    """Requests of the kind "step" or "train" from the results of `resolve`."""
    cpu, memory, limit = (resolved[f"{kind}_{n}"] for n in ("cpu", "memory", "memory_limit"))
    task.set_cpu_request(cpu).set_memory_request(memory).set_memory_limit(limit)
    # kfp does not pass a value that only a resource uses into a loop.
    task.register_pipeline_channels([cpu, memory, limit])


def set_accelerator(task: Any, resolved: Mapping[str, Any], kind: Any, nodes: Any) -> None:
    """Training step: its requests, with accelerators of `kind`, and the nodes' labels (JSON)."""
    _set_pod(task, resolved, "train")
    _add_accelerators(task, kind, resolved["accelerator_count"], nodes)
    task.set_retry(3, backoff_duration="60s")  # resumes from the last checkpoint in the store
    kubernetes.set_timeout(task, 3 * DAY)
    # Kubernetes' default of 64 MiB makes NCCL and data loaders fail with a bus error.
    kubernetes.empty_dir_mount(task, "dshm", "/dev/shm", medium="Memory", size_limit="8Gi")  # noqa: S108
    # The label by which k8s/ selects trainers: for Prometheus, and for traffic among them.
    kubernetes.add_pod_label(task, "app.kubernetes.io/component", "trainer")


def add_step_accelerators(resolved: Mapping[str, Any], kind: Any, nodes: Any, *tasks: Any) -> None:
    """Other steps that run networks: one accelerator each, if the training has any."""
    for task in tasks:
        _add_accelerators(task, kind, resolved["step_accelerator_count"], nodes)


def _add_accelerators(task: Any, kind: Any, count: Any, nodes: Any) -> None:
    """Ask for `count`, a text, on nodes with these labels (JSON)."""
    task.set_accelerator_type(kind).set_accelerator_limit(count)
    kubernetes.add_toleration(task, key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")
    kubernetes.add_node_selector_json(task, nodes)


def add_run_identity(*tasks: Any) -> None:
    """Give steps the id of their run, the name of their pod, their own name, and our label.

    The first two from the pod's fields: as arguments they would give every run new cache keys. By
    the label k8s/overlays/standalone tells our pods from others of Kubeflow's namespace.
    """
    fields = {
        "PIPELINE_RUN_ID": RUN_LABEL, "POD_NAME": "metadata.name",
        "POD_NAMESPACE": "metadata.namespace",
    }  # fmt: skip
    for task in tasks:
        for name, path in fields.items():
            kubernetes.use_field_path_as_env(task, name, path)
        task.set_env_variable("PIPELINE_STEP", task.name)
        kubernetes.add_pod_label(task, "app.kubernetes.io/part-of", "stargan")

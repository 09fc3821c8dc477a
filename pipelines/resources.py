"""Resources that the steps request from a cluster: accelerators, memory, time, addresses, secrets.

The local runner ignores all of it. The config map and the secrets are those of k8s/; a cluster
without them must set the environment in some other way.
"""

from typing import Any

from kfp import kubernetes

RUN_LABEL = "metadata.labels['pipeline/runid']"  # Kubeflow's own, on every pod of a run
ADDRESSES = (
    "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3", "DVC_REMOTE_URL", "KF_PIPELINES_UI_ENDPOINT",
    "METRICS_PORT", "MLFLOW_TRACKING_URI", "MLFLOW_UI_ENDPOINT", "NODE_CACHE",
    "SIGNING_PUBLIC_KEY", "STORE_URI",
)  # fmt: skip
SECRETS = {
    "stargan-s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    "stargan-mlflow": ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
}
DAY = 86_400  # s
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


def set_resources(*tasks: Any) -> None:
    """CPU, memory and retries (for lost nodes) of steps that decode images or run networks."""
    for task in tasks:
        task.set_cpu_request("2").set_memory_request("4Gi").set_memory_limit("16Gi")
        task.set_retry(2, backoff_duration="30s")


def set_accelerator(task: Any, kind: Any, count: Any, nodes: Any) -> None:
    """Training step: `count` accelerators of `kind` on a node with the labels `nodes` (JSON)."""
    task.set_cpu_request("4").set_memory_request("16Gi").set_memory_limit("64Gi")
    task.set_accelerator_type(kind).set_accelerator_limit(count)
    task.set_retry(3, backoff_duration="60s")  # resumes from the last checkpoint in the store
    kubernetes.set_timeout(task, 3 * DAY)
    kubernetes.add_toleration(task, key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")
    kubernetes.add_node_selector_json(task, nodes)
    # Kubernetes' default of 64 MiB makes NCCL and data loaders fail with a bus error.
    kubernetes.empty_dir_mount(task, "dshm", "/dev/shm", medium="Memory", size_limit="8Gi")  # noqa: S108
    # The label by which k8s/ selects trainers: for Prometheus, and for traffic among them.
    kubernetes.add_pod_label(task, "app.kubernetes.io/component", "trainer")


def add_run_identity(*tasks: Any) -> None:
    """Give steps the id of their run and the name of their pod.

    From the pod's fields, not as an argument, which would give every run new cache keys.
    """
    fields = {
        "PIPELINE_RUN_ID": RUN_LABEL, "POD_NAME": "metadata.name",
        "POD_NAMESPACE": "metadata.namespace",
    }  # fmt: skip
    for task in tasks:
        for name, path in fields.items():
            kubernetes.use_field_path_as_env(task, name, path)

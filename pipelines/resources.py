"""What the steps ask of a cluster: accelerators, memory, time, addresses and secrets.

The local runner has no use for any of it. The config map and the secrets are those of k8s/; a
cluster without them gives the environment in some other way.
"""

from typing import Any

from kfp import kubernetes

RUN_LABEL = "metadata.labels['pipeline/runid']"  # Kubeflow's own, on every pod of a run
ADDRESSES = (
    "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3", "DVC_REMOTE_URL", "MLFLOW_TRACKING_URI",
    "METRICS_PORT", "NODE_CACHE", "STORE_URI",
)  # fmt: skip
SECRETS = {
    "stargan-s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    "stargan-mlflow": ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
}
DAY = 86_400  # s
USER = 10_001  # of the images


def reached(*tasks: Any) -> None:
    """Steps that read or write data and runs: addresses, secrets, a cache, no root."""
    for task in tasks:
        same = {name: name for name in ADDRESSES}
        kubernetes.use_config_map_as_env(task, "stargan-environment", same, optional=True)
        for secret, names in SECRETS.items():
            kubernetes.use_secret_as_env(task, secret, {n: n for n in names}, optional=True)
        # A namespace that keeps the restricted standard refuses pods that do not say so.
        kubernetes.set_security_context(
            task, run_as_user=USER, run_as_group=USER, run_as_non_root=True
        )
        # Where NODE_CACHE points; the images' user can make no folder at the root.
        kubernetes.empty_dir_mount(task, "cache", "/cache", size_limit="100Gi")


def sized(*tasks: Any) -> None:
    """Steps that decode images or run networks, and start again where a node is lost."""
    for task in tasks:
        task.set_cpu_request("2").set_memory_request("4Gi").set_memory_limit("16Gi")
        task.set_retry(2, backoff_duration="30s")


def accelerated(task: Any, kind: Any, count: Any, nodes: Any) -> None:
    """The training step: `count` accelerators of `kind` on a node that `nodes` selects (JSON)."""
    task.set_cpu_request("4").set_memory_request("16Gi").set_memory_limit("64Gi")
    task.set_accelerator_type(kind).set_accelerator_limit(count)
    task.set_retry(3, backoff_duration="60s")  # goes on from the last checkpoint in the store
    kubernetes.set_timeout(task, 3 * DAY)
    kubernetes.add_toleration(task, key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")
    kubernetes.add_node_selector_json(task, nodes)
    # Kubernetes' own 64 MiB end NCCL and data loaders with a bus error.
    kubernetes.empty_dir_mount(task, "dshm", "/dev/shm", medium="Memory", size_limit="8Gi")  # noqa: S108
    # By which k8s/ finds trainers: for Prometheus, and among each other.
    kubernetes.add_pod_label(task, "app.kubernetes.io/component", "trainer")


def known(*tasks: Any) -> None:
    """Steps that must know which run, and which pod, they are.

    By the pod's own fields and not by an argument, which would make every run new to the cache.
    """
    fields = {
        "PIPELINE_RUN_ID": RUN_LABEL, "POD_NAME": "metadata.name",
        "POD_NAMESPACE": "metadata.namespace",
    }  # fmt: skip
    for task in tasks:
        for name, path in fields.items():
            kubernetes.use_field_path_as_env(task, name, path)

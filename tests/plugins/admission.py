"""TrainJobs and runtimes that the admission policies refuse, each with the policy's message."""

from collections.abc import Callable
from typing import Any

from kubectl import Object
from training.cluster.job import Request, Shape, manifest

REQUEST = Request(dataset="{}", model="stargan", model_config="{}", train_config="{}")
Change = Callable[[Object], Any]
SECRET = {"secretKeyRef": {"name": "mlflow-server", "key": "auth.ini"}}


def _account(job: Object) -> None:
    """The job's pods run as another account, by way of a patch of its runtime."""
    pod = {"spec": {"serviceAccountName": "mlflow"}}
    node = {"name": "node", "template": {"spec": {"template": pod}}}
    patch = {"template": {"spec": {"replicatedJobs": [node]}}}
    job["spec"]["runtimePatches"] = [
        {"manager": "stargan.example.org/live", "trainingRuntimeSpec": patch}
    ]  # fmt: skip


# Of a TrainJob, and of a runtime's pod.
JOBS: dict[str, tuple[Change, str]] = {
    "image": (
        lambda job: job["spec"]["trainer"].update(image="registry.k8s.io/pause:3.10"),
        "the image is not the one of the config map trainjobs",
    ),
    "account": (_account, "a TrainJob here has no initializer and changes no pod"),
    "secret": (
        lambda job: job["spec"]["trainer"].update(env=[{"name": "KEY", "valueFrom": SECRET}]),
        "a TrainJob's environment is that of its runtime",
    ),
    "command": (
        lambda job: job["spec"]["trainer"].update(command=["sh", "-c", "env"]),
        "a TrainJob here runs the request of its own name",
    ),
}
RUNTIMES: dict[str, tuple[Change, str]] = {
    "account": (
        lambda pod: pod.update(serviceAccountName="mlflow"),
        "the pods of the runtime stargan run as the account trainer",
    ),
    "secret": (
        lambda pod: pod["containers"][0]["envFrom"].append({"secretRef": {"name": "admin-s3"}}),
        "the runtime stargan has no secrets but stargan-s3 and stargan-mlflow",
    ),
    "volume": (
        lambda pod: pod["volumes"].append({"name": "x", "secret": {"secretName": "backup-s3"}}),
        "the runtime stargan mounts empty volumes only",
    ),
}


def trainjob(image: str, change: str = "") -> Object:
    """The launcher's job for two nodes without accelerators, or one that is changed."""
    job = manifest(REQUEST, Shape(accelerators=0, image=image), [], image)
    if change:
        JOBS[change][0](job)
    return job

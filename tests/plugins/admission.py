"""TrainJobs and runtimes that the admission policies refuse, each with the policy's message."""

from collections.abc import Callable
from typing import Any

import cel

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
    "account": (_account, "of a TrainJob's pods only where they run may be changed"),
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


def refusals(policy: Object, found: Object, image: str = "stargan-train") -> set[str]:
    """The messages of a policy's expressions that are not true of an object, or fail on it."""
    spec = policy["spec"]
    context: dict[str, Any] = {"object": found, "params": {"data": {"image": image}}}
    if not all(cel.evaluate(one["expression"], context) for one in spec.get("matchConditions", ())):
        return set()
    context["variables"] = {
        one["name"]: cel.evaluate(one["expression"], context) for one in spec.get("variables", ())
    }
    messages = set()
    for rule in spec["validations"]:
        try:
            allowed = cel.evaluate(rule["expression"], context)
        except (KeyError, RuntimeError, TypeError, ValueError):
            allowed = False
        if allowed is not True:
            messages.add(rule["message"])
    return messages

"""What the live tests put on a cluster: the overlay, probes, a restore; each from k8s/ itself."""

import copy
import ipaddress
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.images import STEPS_IMAGE, TRAIN_IMAGE
from kubectl import Object
from pipelines import compiled
from pipelines.credentials import NAMESPACE
from pipelines.manifests import build, faults

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
WHERE = "kubernetes.io/metadata.name"  # label with a namespace's name
OUTSIDE = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "CronJob")
Address = tuple[list[str], int]  # of the Kubernetes API: hosts, port


@dataclass(frozen=True)
class Trial:
    """The cluster's peculiarities, each from the variable LIVE_NAME: tests/live/README.md."""

    namespace: str = NAMESPACE
    overlay: str = "k8s/overlays/dev"
    steps_image: str = STEPS_IMAGE
    train_image: str = TRAIN_IMAGE
    storage_class: str = ""
    parameters: str = ""
    outside: str = ""
    images: int = 6000
    ready: int = 600
    run: int = 3600
    cached: int = 180
    ended: int = 60
    settled: int = 10

    @classmethod
    def read(cls) -> "Trial":
        """From the environment; an empty variable counts as not set. Raises UsageError."""
        given: dict[str, Any] = {}
        for one in fields(cls):
            if text := os.environ.get(variable(one.name)):
                whole_number = isinstance(one.default, int)
                if whole_number and not text.isdecimal():
                    raise pytest.UsageError(f"{variable(one.name)}={text}: needs a whole number")
                given[one.name] = int(text) if whole_number else text
        return cls(**given)

    def package(self, folder: Path) -> Path:
        """The compiled pipeline with these images."""
        path = folder / compiled.PACKAGE.name
        path.write_text(self.named(compiled.PACKAGE.read_text()))
        return path

    def named(self, text: str) -> str:
        """A text with the images' names of this cluster."""
        return text.replace(STEPS_IMAGE, self.steps_image).replace(TRAIN_IMAGE, self.train_image)

    def objects(self, api: Address) -> list[Object]:
        """The overlay for this cluster. Raises ValueError for what is left as in the example."""
        found = list(yaml.safe_load_all(self.named(build(ROOT / self.overlay))))
        for one in found:
            kind, name = one["kind"], one["metadata"]["name"]
            if (kind, name) == ("NetworkPolicy", "steps-to-kubernetes"):
                (rule,) = one["spec"]["egress"]
                rule["to"] = [{"ipBlock": {"cidr": whole(host)}} for host in api[0]]
                rule["ports"][0]["port"] = api[1]
            if (kind, name) == ("ConfigMap", "trainjobs") and self.train_image != TRAIN_IMAGE:
                one["data"]["image"] = untagged(self.train_image)
            for claim in one.get("spec", {}).get("volumeClaimTemplates", ()):
                if self.storage_class:
                    claim["spec"]["storageClassName"] = self.storage_class
        moved = [elsewhere(one, self.namespace) for one in found]
        if wrong := faults(yaml.safe_dump_all(moved), trial=True):
            raise ValueError("\n".join(wrong))
        return moved


def variable(name: str) -> str:
    return f"LIVE_{name.upper()}"


def whole(host: str) -> str:
    """The network that is one address."""
    return str(ipaddress.ip_network(host))


def untagged(image: str) -> str:
    """An image's name without tag and digest."""
    name = image.partition("@")[0]
    return name.rpartition(":")[0] if ":" in name.rpartition("/")[2] else name


def elsewhere(value: Any, namespace: str) -> Any:
    """An object of the namespace `stargan` as one of another, with all that it says of it."""
    if isinstance(value, list):
        return [elsewhere(one, namespace) for one in value]
    if not isinstance(value, dict):
        return value
    found = {
        key: namespace if key in ("namespace", WHERE) and one == NAMESPACE
        else elsewhere(one, namespace)
        for key, one in value.items()
    }  # fmt: skip
    if found.get("kind") == "Namespace":
        found["metadata"]["name"] = namespace
    if str(found.get("kind")).startswith("ValidatingAdmissionPolicy"):  # of the whole cluster
        for holder, key in ((found["metadata"], "name"), (found["spec"], "policyName")):
            if key in holder:
                holder[key] = holder[key].replace(NAMESPACE, namespace, 1)
    return found


def claims(objects: list[Object]) -> list[Object]:
    """The volume claims of the stateful sets among objects, which outlive them."""
    return [
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
         "metadata": {"name": f"{claim['metadata']['name']}-{one['metadata']['name']}-{number}",
                      "namespace": one["metadata"]["namespace"]}}
        for one in objects for claim in one.get("spec", {}).get("volumeClaimTemplates", ())
        for number in range(one["spec"]["replicas"])
    ]  # fmt: skip


def second(trial: Trial, api: Address, namespace: str) -> list[Object]:
    """The overlay's servers in a namespace of their own; MLflow is stopped, nothing runs nightly.

    The policies on TrainJobs, which are the whole cluster's, are left out.
    """
    found = [one for one in replace(trial, namespace=namespace).objects(api)
             if one["kind"] not in OUTSIDE]  # fmt: skip
    for one in found:
        if (one["kind"], one["metadata"]["name"]) == ("Deployment", "mlflow"):
            one["spec"]["replicas"] = 0
    return found


def nightly() -> Object:
    """The CronJob of the backup."""
    return dict(yaml.safe_load((K8S / "base" / "backup.yaml").read_text()))


def restoring(cronjob: Object, name: str, backup: str) -> Object:
    """A job that restores a backup as docs/operate.md says, in the pods of the nightly one."""
    job = copy.deepcopy(cronjob["spec"]["jobTemplate"]["spec"])
    pod = job["template"]["spec"]
    (dump,), (save,) = pod["initContainers"], pod["containers"]
    lines = (ROOT / "docs" / "operate.md").read_text().splitlines()
    commands = [line for line in lines if line.startswith("pg_restore ")]
    save |= {
        "name": "load",
        "command": ["python", "-m", "training.backup", "load", "s3://stargan-backup", backup,
                    "/dump", "s3://stargan/mlflow"],
        "envFrom": [{"configMapRef": {"name": "stargan-environment"}},
                    {"secretRef": {"name": "admin-s3"}}],
    }  # fmt: skip
    dump |= {"name": "restore", "command": ["sh", "-ec", "\n".join(commands)]}
    pod["initContainers"], pod["containers"] = [save], [dump]
    job["backoffLimit"] = 0
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": job}


def runtime(trial: Trial) -> Object:
    """The TrainingRuntime with the cluster's image."""
    return dict(yaml.safe_load(trial.named((K8S / "jobs" / "runtime.yaml").read_text())))


def queue(name: str, namespace: str, version: str) -> list[Object]:
    """A local queue of Kueue that holds back what is put into it; `version` is the API's."""
    quotas = [{"name": "cpu", "nominalQuota": "64"}, {"name": "memory", "nominalQuota": "512Gi"}]
    group = {
        "coveredResources": ["cpu", "memory"],
        "flavors": [{"name": name, "resources": quotas}],
    }
    specs: dict[str, Object] = {
        "ResourceFlavor": {},
        "ClusterQueue": {"namespaceSelector": {"matchLabels": {WHERE: namespace}},
                         "stopPolicy": "Hold", "resourceGroups": [group]},
        "LocalQueue": {"clusterQueue": name},
    }  # fmt: skip
    return [
        {"apiVersion": version, "kind": kind, "spec": spec,
         "metadata": {"name": name, **({"namespace": namespace} if kind == "LocalQueue" else {})}}
        for kind, spec in specs.items()
    ]  # fmt: skip

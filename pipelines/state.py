"""A cluster, as far as its Kubernetes API tells this user, and what a run needs of it."""

import re
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from pipelines.credentials import NAMESPACE
from training.cluster.kubernetes import TIMEOUT, ClusterError, connect
from training.core.shown import shown

UNENDED = "status.phase!=Succeeded,status.phase!=Failed"  # pods that hold what they request
OURS = "app.kubernetes.io/part-of=stargan"
ADDRESSES = "stargan-environment"  # config map
INSIDE = re.compile(r"https?://[\w-]+\.([\w-]+)\.svc\b")  # a service in the namespace that is named


class Finding(NamedTuple):
    """One line of the report."""

    state: Literal["ok", "missing", "unchecked", "unneeded"]
    what: str
    text: str


class RefusedError(Exception):
    """The cluster's user may not read something."""


class State:
    """What is asked: the parts of the cluster, and what the run needs of them."""

    def __init__(self, namespace: str, package: Path, arguments: dict[str, Any]) -> None:
        from kubernetes import client

        self.namespace, self.arguments = namespace, arguments
        self.documents = list(yaml.safe_load_all(package.read_text()))
        self.api, _ = connect()
        self.core, self.apps = client.CoreV1Api(self.api), client.AppsV1Api(self.api)
        self.objects = client.CustomObjectsApi(self.api)
        self.profiles: bool | None = None  # whether Kubeflow has profiles, once it has answered

    def read(self, request: Callable[..., Any], *names: Any, **options: Any) -> Any:
        """The answer as JSON, or None for what does not exist.

        Raises RefusedError, and ClusterError if the cluster does not answer.
        """
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        host = shown(self.api.configuration.host)
        try:
            answer = request(*names, _request_timeout=TIMEOUT, **options)
        except ApiException as error:
            if error.status == 404:
                return None
            if error.status == 403:
                raise RefusedError from error
            if error.status == 401:
                raise ClusterError(f"no Kubernetes cluster: {host} refuses the login") from error
            raise ClusterError(f"{host}: {error.status} {error.reason}; try again") from error
        except HTTPError as error:
            raise ClusterError(
                f"no Kubernetes cluster: {host} does not answer; is KUBECONFIG right?"
            ) from error
        return self.api.sanitize_for_serialization(answer)

    def servers(self) -> list[Any]:
        """What starts pods in the servers' namespace: MLflow, its backup, S3, Postgres."""
        from kubernetes import client

        batch = client.BatchV1Api(self.api)
        lists = (
            self.apps.list_namespaced_deployment, self.apps.list_namespaced_stateful_set,
            batch.list_namespaced_cron_job,
        )  # fmt: skip
        asked = partial(self.read, label_selector=OURS)
        return [item for one in lists for item in asked(one, self.home)["items"]]

    @cached_property
    def addresses(self) -> dict[str, str] | None:
        """The steps' addresses; None without their config map."""
        found = self.read(self.core.read_namespaced_config_map, ADDRESSES, self.namespace)
        return None if found is None else found.get("data") or {}

    @cached_property
    def home(self) -> str:
        """The servers' namespace: the one in MLflow's address, else that of the steps, unless
        that is Kubeflow's own."""
        with suppress(RefusedError):
            if found := INSIDE.match((self.addresses or {}).get("MLFLOW_TRACKING_URI", "")):
                return found[1]
        return NAMESPACE if self.namespace in self.kubeflow else self.namespace

    @cached_property
    def kubeflow(self) -> list[str]:
        """Namespaces with Kubeflow Pipelines' own server, as far as this login may look."""
        everywhere = self.apps.list_deployment_for_all_namespaces
        here = partial(self.apps.list_namespaced_deployment, self.namespace)
        for request in (everywhere, here):
            with suppress(RefusedError):
                items = self.read(request, field_selector="metadata.name=ml-pipeline")["items"]
                return [
                    one["metadata"]["namespace"] for one in items
                    if one["metadata"]["name"] == "ml-pipeline"
                ]  # fmt: skip
        return []

    @property
    def overlay(self) -> str:
        """The command that applies what the steps' namespace lacks."""
        own = "k8s/overlays/standalone" if self.namespace in self.kubeflow else "OVERLAY"
        return f"python -m pipelines.manifests {own} | kubectl apply -f -"

    @property
    def trainjob(self) -> bool:
        return bool(self.arguments["launcher"] == "trainjob")

    def executors(self) -> dict[str, Any]:
        return dict(self.documents[0]["deploymentSpec"]["executors"])

"""A cluster, as far as its Kubernetes API tells this user, and what a run needs of it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from training.cluster.kubernetes import TIMEOUT, ClusterError, connect
from training.core.shown import shown

UNENDED = "status.phase!=Succeeded,status.phase!=Failed"  # pods that hold what they request
OURS = "app.kubernetes.io/part-of=stargan"


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
        """The namespace's objects that start pods: MLflow, its backup, S3, Postgres."""
        from kubernetes import client

        batch = client.BatchV1Api(self.api)
        lists = (
            self.apps.list_namespaced_deployment, self.apps.list_namespaced_stateful_set,
            batch.list_namespaced_cron_job,
        )  # fmt: skip
        asked = partial(self.read, label_selector=OURS)
        return [item for one in lists for item in asked(one, self.namespace)["items"]]

    @property
    def trainjob(self) -> bool:
        return bool(self.arguments["launcher"] == "trainjob")

    def executors(self) -> dict[str, Any]:
        return dict(self.documents[0]["deploymentSpec"]["executors"])

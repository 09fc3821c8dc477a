"""Kubernetes API client: TrainJobs of Kubeflow Trainer v2, pods, logs.

The address comes from the pod's service account or from KUBECONFIG; the namespace from the same, or
from POD_NAMESPACE. Transient failures (no answer in `TIMEOUT`, a conflict, 429, 5xx) are retried
for `PATIENCE` seconds.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from training.core import environment
from training.core.retry import retrying

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
WORKFLOWS = {"group": "argoproj.io", "version": "v1alpha1", "plural": "workflows"}
RUN = "stargan/pipeline-run"  # label of a TrainJob
MAIN = "main"  # Argo's name for the container that runs a step
PATIENCE = 600.0  # s that the API may be unavailable
TIMEOUT = (3.0, 10.0)  # s to connect, and to wait for the next byte of the answer
# The same for each of two requests while this process is being stopped, in s: together they stay
# below the 30 s that Kubernetes grants.
STOP_PATIENCE = 10.0
STEP = "jobset.sigs.k8s.io/jobset-name"  # label of a TrainJob's pods
INDEX = "batch.kubernetes.io/job-completion-index"  # annotation of each
CHUNK = 8192  # bytes of a log per read; those before a broken connection are kept
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
T = TypeVar("T")
Line = tuple[str, str]  # a log line: timestamp, text


class ClusterError(ValueError):
    """The API refuses a request, or stayed unavailable for too long."""

    transient = True


def _namespace(contexts: Any) -> str:
    if name := environment.POD_NAMESPACE.get():
        return name
    if ACCOUNT.is_file():
        return ACCOUNT.read_text().strip()
    return str(contexts["context"].get("namespace") or "default") if contexts else "default"


def connect() -> tuple[Any, str]:
    """A client of the API, which does not retry, and the namespace. Raises ClusterError."""
    from kubernetes import client, config

    active = None
    try:
        config.load_incluster_config()
    except config.ConfigException:
        try:
            # Given explicitly: the client reads the variable only at import.
            files = environment.KUBECONFIG.get() or None
            config.load_kube_config(files)
            active = config.list_kube_config_contexts(files)[1]
        except config.ConfigException as error:
            raise ClusterError(
                f"no Kubernetes cluster: {error}; run inside a pod, or set KUBECONFIG"
            ) from error
    settings = client.Configuration.get_default_copy()
    settings.retries = False  # `_request` retries; urllib3 would multiply each time-out
    return client.ApiClient(settings), _namespace(active)


class Cluster:
    """Client for one namespace of a cluster."""

    def __init__(self) -> None:
        from kubernetes import client

        self.patience = PATIENCE
        api, self.namespace = connect()
        self.objects, self.core = client.CustomObjectsApi(api), client.CoreV1Api(api)
        self.where = {
            "group": GROUP, "version": VERSION, "plural": PLURAL, "namespace": self.namespace,
        }  # fmt: skip

    def create(self, job: dict[str, Any]) -> bool:
        """Create a TrainJob; False if one of its name exists."""
        name = job["metadata"]["name"]
        try:
            self._request(
                name,
                partial(self.objects.create_namespaced_custom_object, **self.where, body=job),
            )
        except _ExistsError:
            return False
        except _AbsentError as error:  # the kind, not the job
            raise ClusterError(
                f"{self.namespace}/{name}: this cluster has no {PLURAL}.{GROUP}; install "
                "Kubeflow Trainer 2.3 or later, then k8s/jobs/runtime.yaml; or set launcher=local"
            ) from error
        return True

    def get(self, name: str) -> dict[str, Any] | None:
        """A TrainJob's current object, or None."""
        try:
            job: dict[str, Any] = self._request(
                name, partial(self.objects.get_namespaced_custom_object, **self.where, name=name)
            )
        except _AbsentError:
            return None
        return job

    def jobs(self, run: str) -> list[dict[str, Any]]:
        """The TrainJobs of a pipeline run; none if the cluster does not know the kind."""
        try:
            found: dict[str, Any] = self._request(
                "TrainJobs",
                partial(
                    self.objects.list_namespaced_custom_object,
                    **self.where, label_selector=f"{RUN}={run_label(run)}",
                ),
            )  # fmt: skip
        except _AbsentError:
            return []
        return list(found["items"])

    def goes_on(self, workflow: str) -> bool:
        """Whether a workflow runs and was not told to end.

        KFP ends a run by setting its workflow's deadline to 0 s; its pods are stopped after that.
        """
        try:
            found: dict[str, Any] = self._request(
                workflow,
                partial(
                    self.objects.get_namespaced_custom_object,
                    **WORKFLOWS, namespace=self.namespace, name=workflow,
                ),
            )  # fmt: skip
        except _AbsentError:
            return False
        spec, status = found.get("spec", {}), found.get("status", {})
        told = spec.get("activeDeadlineSeconds") == 0 or spec.get("shutdown")
        ended = status.get("phase") in ("Succeeded", "Failed", "Error")
        return not (told or ended or found["metadata"].get("deletionTimestamp"))

    def delete(self, name: str) -> None:
        """Delete a TrainJob and its pods; a missing job is not an error."""
        try:
            self._request(
                name,
                partial(
                    self.objects.delete_namespaced_custom_object,
                    **self.where, name=name, propagation_policy="Foreground",
                ),
            )  # fmt: skip
        except _AbsentError:
            return
        except ClusterError as error:
            fix = f"kubectl -n {self.namespace} delete {PLURAL}.{GROUP} {name}"
            raise ClusterError(f"{error}; if the job still exists: {fix}") from error

    def pods(self, job: str) -> list[Any]:
        """The pods of a TrainJob, by rank; a replaced pod comes before its successor."""
        pods = self._request(
            job,
            partial(self.core.list_namespaced_pod, self.namespace, label_selector=f"{STEP}={job}"),
        )
        return sorted(pods.items, key=lambda pod: (rank(pod), str(pod.metadata.creation_timestamp)))

    def itself(self) -> tuple[list[dict[str, Any]], str, dict[str, str]]:
        """For what this pod creates: its owner references (its workflow), its image, and the
        labels of the nodes that it may run on."""
        name = environment.POD_NAME.get()
        if not name:
            return [], "", {}
        pod = self._request(name, partial(self.core.read_namespaced_pod, name, self.namespace))
        owners = [
            {
                "apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name,
                "uid": owner.uid, "controller": False, "blockOwnerDeletion": False,
            }
            for owner in pod.metadata.owner_references or ()
        ]  # fmt: skip
        images = [c.image for c in pod.spec.containers if c.name == MAIN]
        return owners, images[0] if images else "", dict(pod.spec.node_selector or {})

    def logs(
        self, pod: str, age: int | None = None, previous: bool = False
    ) -> tuple[list[Line], bool]:
        """The lines of a pod's log of the last `age` seconds, and whether the read was complete.

        `previous`: the log of its container before the last restart. A log whose connection broke
        is cut after its last complete line.
        """
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        parts, whole = [], True
        try:
            stream = self.core.read_namespaced_pod_log(
                pod, self.namespace, follow=False, timestamps=True, _preload_content=False,
                _request_timeout=TIMEOUT, previous=previous,
                **({"since_seconds": age} if age else {}),
            )  # fmt: skip
            for part in stream.stream(CHUNK):
                parts.append(part)  # noqa: PERF402 - keeps the parts before a break
        except ApiException as error:  # 400 and 404: no log yet, or no longer
            whole = error.status in (400, 404)
        except HTTPError:
            whole = False
        rows = b"".join(parts).decode(errors="replace").split("\n")
        last = rows.pop()
        lines = [row.partition(" ") for row in ([*rows, last] if whole and last else rows)]
        return [(timestamp, text) for timestamp, _, text in lines], whole

    def _request(self, what: str, request: Callable[..., T]) -> T:
        """The answer to `request`; transient failures are retried with back-off."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        start = time.monotonic()

        def attempt() -> T:
            left = self.patience - (time.monotonic() - start)
            try:
                return request(_request_timeout=tuple(max(0.1, min(t, left)) for t in TIMEOUT))
            except ApiException as error:
                if error.status == 404:
                    raise _AbsentError from error
                if error.status == 409 and _details(error).get("reason") == "AlreadyExists":
                    raise _ExistsError from error
                if error.status and error.status not in (409, 429) and error.status < 500:
                    raise ClusterError(_refused(what, self.namespace, error)) from error
                # The conflict is with another writer, of the job or of the quota.
                how = "is in conflict" if error.status == 409 else "does not answer"
                raise _TransientError(
                    how, f"{error.status}: {_details(error)['message']}"
                ) from error
            except HTTPError as error:
                raise _TransientError("does not answer", str(error)) from error

        retry = retrying(
            lambda error: isinstance(error, _TransientError), lambda: self.patience, most=30.0
        )
        try:
            return retry(attempt)
        except _TransientError as error:
            how, last = error.args
            raise ClusterError(
                f"{self.namespace}/{what}: the Kubernetes API {how} (tried "
                f"{retry.statistics['attempt_number']} times in {time.monotonic() - start:.0f} s, "
                f"last {last}); try again later"
            ) from error


def run_label(run: str) -> str:
    """A pipeline run's id as the value of a label."""
    return run[:63] or "none"


def rank(pod: Any) -> int:
    """The index of a pod among its job's nodes."""
    return int((pod.metadata.annotations or {}).get(INDEX, 0))


class _AbsentError(Exception):
    pass


class _ExistsError(Exception):
    pass


class _TransientError(Exception):
    """The state of the API (`is in conflict`, `does not answer`), and its last error."""


def _details(error: Any) -> dict[str, str]:
    """The fields of an API error: always a message, mostly a reason."""
    try:
        return {"message": str(error.reason), **json.loads(error.body)}
    except (TypeError, ValueError):
        return {"message": str(error.reason)}


def _refused(what: str, namespace: str, error: Any) -> str:
    why, hint = _details(error)["message"], ""
    if "exceeded quota" in why:
        hint = "; request less, wait for other jobs to end, or raise k8s/base/quota.yaml"
    elif error.status == 403 and "admission webhook" not in why:
        hint = "; give the account the role in k8s/base/steps/accounts.yaml"
    return f"{namespace}/{what}: refused by Kubernetes ({error.status}): {why}{hint}"

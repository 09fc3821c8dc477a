"""Kubernetes: everything that talks to its API. TrainJobs of Kubeflow Trainer v2, pods, logs.

The address comes from the pod's service account or from KUBECONFIG; the namespace from the same, or
from POD_NAMESPACE. Whatever may heal (no answer in `TIMEOUT`, a conflict, 429, 5xx) is asked
again for `PATIENCE` seconds.
"""

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from training.core import environment
from training.core.retry import retrying

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
MAIN = "main"  # Argo's name for the container that runs a step
PATIENCE = 600.0  # s that the API may be away
TIMEOUT = (3.0, 10.0)  # s to connect, and without a byte of the answer
# s of PATIENCE for the deletion by a process that ends: with the request under way, below the 30 s
# that Kubernetes grants.
PARTING = 15.0
STEP = "jobset.sigs.k8s.io/jobset-name"  # label of a TrainJob's pods
INDEX = "batch.kubernetes.io/job-completion-index"  # annotation of each
CHUNK = 8192  # bytes of a log; what came before a break is kept
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
T = TypeVar("T")
Line = tuple[str, str]  # of a log: the moment, the text


class ClusterError(ValueError):
    """The API refuses a request, or does not answer for too long."""


def _namespace(contexts: Any) -> str:
    if name := environment.POD_NAMESPACE.get():
        return name
    if ACCOUNT.is_file():
        return ACCOUNT.read_text().strip()
    return str(contexts["context"].get("namespace") or "default") if contexts else "default"


class Cluster:
    """One namespace of a cluster."""

    def __init__(self, stops: Sequence[int] = ()) -> None:
        """`stops`: fills when this process is told to end; only `delete` then still asks twice."""
        from kubernetes import client, config

        active, self.stops = None, stops
        try:
            config.load_incluster_config()
        except config.ConfigException:
            try:
                files = (
                    environment.KUBECONFIG.get() or None
                )  # the client reads it once, when imported
                config.load_kube_config(files)
                active = config.list_kube_config_contexts(files)[1]
            except config.ConfigException as error:
                raise ClusterError(
                    f"no cluster here: {error}; run inside a pod, or set KUBECONFIG"
                ) from error
        self.namespace = _namespace(active)
        settings = client.Configuration.get_default_copy()
        settings.retries = False  # `_ask` does that; urllib3 would multiply each time-out
        api = client.ApiClient(settings)
        self.objects, self.core = client.CustomObjectsApi(api), client.CoreV1Api(api)
        self.where = {
            "group": GROUP, "version": VERSION, "plural": PLURAL, "namespace": self.namespace,
        }  # fmt: skip

    def create(self, job: dict[str, Any]) -> bool:
        """Create a TrainJob; False where one of its name stands already."""
        name = job["metadata"]["name"]
        try:
            self._ask(
                name,
                partial(self.objects.create_namespaced_custom_object, **self.where, body=job),
            )
        except _StandsError:
            return False
        except _AbsentError as error:  # the kind, not the job
            raise ClusterError(
                f"{self.namespace}/{name}: this cluster knows no {PLURAL}.{GROUP}; install "
                "Kubeflow Trainer 2.3 or later, then k8s/jobs/runtime.yaml; or set launcher=local"
            ) from error
        return True

    def get(self, name: str) -> dict[str, Any] | None:
        """A TrainJob as it stands, or None."""
        try:
            found: dict[str, Any] = self._ask(
                name, partial(self.objects.get_namespaced_custom_object, **self.where, name=name)
            )
        except _AbsentError:
            return None
        return found

    def delete(self, name: str) -> None:
        """Delete a TrainJob and its pods; one that is gone is no mistake."""
        try:
            self._ask(
                name,
                partial(
                    self.objects.delete_namespaced_custom_object,
                    **self.where, name=name, propagation_policy="Foreground",
                ),
                parting=PARTING,
            )  # fmt: skip
        except _AbsentError:
            return
        except ClusterError as error:
            mend = f"kubectl -n {self.namespace} delete {PLURAL}.{GROUP} {name}"
            raise ClusterError(f"{error}; if the job still stands: {mend}") from error

    def pods(self, job: str) -> list[Any]:
        """The pods of a TrainJob, by rank; one that was replaced comes before its successor."""
        found = self._ask(
            job,
            partial(self.core.list_namespaced_pod, self.namespace, label_selector=f"{STEP}={job}"),
        )
        return sorted(
            found.items, key=lambda pod: (rank(pod), str(pod.metadata.creation_timestamp))
        )

    def itself(self) -> tuple[list[dict[str, Any]], str]:
        """For what this pod makes: owner references (those of the pod: its workflow), its image."""
        pod = environment.POD_NAME.get()
        if not pod:
            return [], ""
        found = self._ask(pod, partial(self.core.read_namespaced_pod, pod, self.namespace))
        owners = [
            {
                "apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name,
                "uid": owner.uid, "controller": False, "blockOwnerDeletion": False,
            }
            for owner in found.metadata.owner_references or ()
        ]  # fmt: skip
        images = [c.image for c in found.spec.containers if c.name == MAIN]
        return owners, images[0] if images else ""

    def logs(
        self, pod: str, age: int | None = None, previous: bool = False
    ) -> tuple[list[Line], bool]:
        """The lines of a pod's log of the last `age` seconds; and whether no more can be had now.

        `previous`: those of its container before the last restart. A log that breaks off is cut
        after its last whole line.
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
                parts.append(part)  # noqa: PERF402 - all that came, where it breaks
        except ApiException as error:  # 400 and 404: nothing yet, or no longer
            whole = error.status in (400, 404)
        except HTTPError:
            whole = False
        rows = b"".join(parts).decode(errors="replace").split("\n")
        last = rows.pop()
        lines = [row.partition(" ") for row in ([*rows, last] if whole and last else rows)]
        return [(moment, text) for moment, _, text in lines], whole

    def _ask(self, what: str, request: Callable[..., T], parting: float = 0.0) -> T:
        """The answer; asked again with growing pauses where that may help.

        `parting`: for how many seconds even by a process that was told to end.
        """
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        start = time.monotonic()

        def patience() -> float:
            return parting if self.stops else PATIENCE

        def attempt() -> T:
            left = patience() - (time.monotonic() - start)
            try:
                return request(_request_timeout=tuple(max(0.1, min(t, left)) for t in TIMEOUT))
            except ApiException as error:
                if error.status == 404:
                    raise _AbsentError from error
                if error.status == 409 and _told(error).get("reason") == "AlreadyExists":
                    raise _StandsError from error
                if error.status and error.status not in (409, 429) and error.status < 500:
                    raise ClusterError(_refused(what, self.namespace, error)) from error
                # A conflict is with another writer, of the job or of the quota.
                how = "is in conflict" if error.status == 409 else "does not answer"
                raise _AwayError(how, f"{error.status}: {_told(error)['message']}") from error
            except HTTPError as error:
                raise _AwayError("does not answer", str(error)) from error

        retry = retrying(
            lambda error: isinstance(error, _AwayError), patience, most=30.0, sleep=self._sleep
        )
        try:
            return retry(attempt)
        except _AwayError as error:
            how, last = error.args
            raise ClusterError(
                f"{self.namespace}/{what}: the Kubernetes API {how} (asked "
                f"{retry.statistics['attempt_number']} times in {time.monotonic() - start:.0f} s, "
                f"last {last}); try again later"
            ) from error

    def _sleep(self, seconds: float) -> None:
        """Sleep, but no longer than until this process is told to end."""
        wake, told = time.monotonic() + seconds, bool(self.stops)
        while time.monotonic() < wake and bool(self.stops) == told:
            time.sleep(0.1)


def rank(pod: Any) -> int:
    """Which of a job's nodes a pod is."""
    return int((pod.metadata.annotations or {}).get(INDEX, 0))


class _AbsentError(Exception):
    pass


class _StandsError(Exception):
    pass


class _AwayError(Exception):
    """What the API does (`is in conflict`, `does not answer`), and its last words."""


def _told(error: Any) -> dict[str, str]:
    """What an API's error says of itself: always a message, mostly a reason."""
    try:
        return {"message": str(error.reason), **json.loads(error.body)}
    except (TypeError, ValueError):
        return {"message": str(error.reason)}


def _refused(what: str, namespace: str, error: Any) -> str:
    why, hint = _told(error)["message"], ""
    if "exceeded quota" in why:
        hint = "; ask for less, wait for others to end, or have k8s/base/quota.yaml raised"
    elif error.status == 403 and "admission webhook" not in why:
        hint = "; give the account the role in k8s/base/accounts.yaml"
    return f"{namespace}/{what}: refused by Kubernetes ({error.status}): {why}{hint}"

"""What a run needs of a cluster, each asked of the cluster itself: findings, each with its fix."""

import json
import re
import warnings
from collections.abc import Iterator
from typing import Any, Literal

from pipelines.manifests import example
from pipelines.state import ADDRESSES, Finding, State
from training.cluster.kubernetes import GROUP, TIMEOUT, VERSION
from training.core import environment
from training.core.shown import shown

LINKS = ("KF_PIPELINES_UI_ENDPOINT", "MLFLOW_UI_ENDPOINT")  # of it, for people only
# Without these a step's pod would use files of its own, which end with it.
NEEDED = ("DVC_REMOTE_URL", "MLFLOW_TRACKING_URI", "STORE_URI")
DEFAULT = re.compile(r"storageclass(\.beta)?\.kubernetes\.io/is-default-class")
OLDEST, OLDEST_KUBERNETES = (2, 17), (1, 30)  # Kubeflow Pipelines; the admission policy
KINDS = ("trainjobs", "trainingruntimes")
OPTIONAL = "stargan-openlineage"  # secret of those whose lineage server asks for a key


def pipelines(state: State | None) -> Iterator[Finding]:
    """Kubeflow Pipelines: its address and version."""
    from kfp import Client
    from kfp_server_api import ApiException
    from urllib3.exceptions import HTTPError

    address = environment.KF_PIPELINES_ENDPOINT.get()
    if not address:
        yield Finding(
            "missing", "pipelines", "KF_PIPELINES_ENDPOINT is not set; kubectl -n kubeflow "
            "port-forward svc/ml-pipeline 8888, then set it to http://127.0.0.1:8888",
        )  # fmt: skip
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # kfp's own, about versions before 2.0
            # With any namespace but the default the constructor asks nothing.
            client = Client(host=address, namespace="-")
        # The client's own method drops the version.
        raw = client._healthz_api.healthz_service_get_healthz(
            _preload_content=False, _request_timeout=TIMEOUT
        )
        health = json.loads(raw.data)
    except (ApiException, HTTPError, OSError, ValueError) as error:
        why = getattr(error, "status", None) or type(error).__name__
        yield Finding(
            "missing", "pipelines", f"{shown(address)} does not answer as Kubeflow Pipelines does "
            f"({why}); is KF_PIPELINES_ENDPOINT right?",
        )  # fmt: skip
        return
    if state:
        state.profiles = health.get("multi_user")
    found = re.match(r"v?(\d+)\.(\d+)", version := str(health.get("tag_name", "unknown")))
    if not found:
        yield Finding("unchecked", "pipelines", f"{shown(address)} answers; its version: {version}")
    elif (int(found[1]), int(found[2])) < OLDEST:
        yield Finding("missing", "pipelines", f"{version} is too old; upgrade it to 2.17 or later")
    else:
        yield Finding("ok", "pipelines", f"{version} at {shown(address)}")


def kubernetes(state: State) -> Iterator[Finding]:
    """The cluster's version; ends the report if it does not answer."""
    from kubernetes import client

    found = state.read(client.VersionApi(state.api).get_code)
    version = tuple(int(re.sub(r"\D.*", "", found[key])) for key in ("major", "minor"))
    text = f"{found['gitVersion']} at {shown(state.api.configuration.host)}"
    if version < OLDEST_KUBERNETES:
        yield Finding("missing", "kubernetes", f"{text} is too old; upgrade it to 1.30 or later")
    else:
        yield Finding("ok", "kubernetes", text)


def namespace(state: State) -> Iterator[Finding]:
    if state.read(state.core.read_namespace, state.namespace):
        yield Finding("ok", "namespace", state.namespace)
    else:
        yield Finding(
            "missing", "namespace", f"{state.namespace}; create a Kubeflow profile of this name, "
            "or kubectl apply -f k8s/base/namespace.yaml",
        )  # fmt: skip


def referenced(value: Any) -> Iterator[tuple[str, str]]:
    """Every secret that an object names, with each key that it names or an empty text."""
    if isinstance(value, list):
        for one in value:
            yield from referenced(one)
    if not isinstance(value, dict):
        return
    for one in value.values():
        yield from referenced(one)
    if key := value.get("secretKeyRef"):
        yield key["name"], key["key"]
    if source := value.get("secretRef"):
        yield source["name"], ""
    if "secretName" in (volume := value.get("secret") or {}):
        yield from ((volume["secretName"], one["key"]) for one in volume.get("items") or [])
    for row in value.get("secretAsEnv", ()):
        yield from ((row["secretName"], pair["secretKey"]) for pair in row["keyToEnv"])


def secrets(state: State) -> Iterator[Finding]:
    """Of the steps and of the servers that the overlay has started."""
    wanted: dict[tuple[str, str], set[str]] = {}
    for space, one in ((state.namespace, state.documents[1]), (state.home, state.servers())):
        for name, key in referenced(one):
            if name == OPTIONAL:
                continue
            wanted.setdefault((name, space), set()).update({key} - {""})
    whole = True
    for (name, space), keys in sorted(wanted.items()):
        found = state.read(state.core.read_namespaced_secret, name, space)
        data = (found or {}).get("data") or {}
        lacks = sorted(key for key in keys if not data.get(key))
        if found is None:
            yield Finding("missing", "secrets", f"{name}; {_draw_or_copy(state, name, space)}")
        elif lacks:
            yield Finding(
                "missing", "secrets", f"{name}: {', '.join(lacks)} absent or empty; "
                f"kubectl -n {space} edit secret {name}",
            )  # fmt: skip
        whole = whole and not lacks and found is not None
    if whole:
        yield Finding("ok", "secrets", ", ".join(sorted({name for name, _ in wanted})))


def _draw_or_copy(state: State, name: str, space: str) -> str:
    """The command that makes a secret; new passwords would not be those that the servers have."""
    home = state.home
    if space != home and state.read(state.core.read_namespaced_secret, name, home):
        return (
            f"kubectl -n {home} get secret {name} -o yaml | sed 's/^  namespace: {home}$/  "
            f"namespace: {space}/' | kubectl create -f -"
        )
    steps = "" if state.namespace == home else f" --steps {state.namespace}"
    return f"python -m pipelines secrets -n {home}{steps} | kubectl create -f -"


def addresses(state: State) -> Iterator[Finding]:
    """The config map that names store, data and MLflow, and whether the servers run."""
    data = state.addresses
    if data is None:
        yield Finding("missing", "addresses", f"the config map {ADDRESSES}; {state.overlay}")
        return
    if lacks := [name for name in NEEDED if not data.get(name)]:
        yield Finding(
            "missing", "addresses", f"{ADDRESSES}: {', '.join(lacks)} absent or empty; set it in "
            "your overlay's environment.yaml",
        )  # fmt: skip
    else:
        yield Finding("ok", "addresses", f"{ADDRESSES}: store {shown(data['STORE_URI'])}")
        if lacks := [name for name in LINKS if not data.get(name)]:
            yield Finding(
                "unneeded", "addresses", f"{ADDRESSES}: {', '.join(lacks)} empty: Kubeflow's and "
                "MLflow's pages of a run do not lead to each other; set it to what a browser opens",
            )  # fmt: skip
    for server in state.servers():
        if "jobTemplate" in server["spec"]:
            continue
        name, status = server["metadata"]["name"], server.get("status") or {}
        ready, wanted = status.get("readyReplicas") or 0, server["spec"].get("replicas", 1)
        text = f"{name}: {ready} of {wanted} pods ready"
        if wanted and not ready:
            fix = f"kubectl -n {state.home} describe pods -l app.kubernetes.io/name={name}"
            yield Finding("missing", "servers", f"{text}; for the reason: {fix}")
        else:
            yield Finding("ok", "servers", text)


def storage(state: State) -> Iterator[Finding]:
    """A default class, for claims that name none: those of the overlay `dev`."""
    from kubernetes import client

    classes = state.read(client.StorageV1Api(state.api).list_storage_class)["items"]
    default = [
        one["metadata"]["name"] for one in classes
        for key, value in (one["metadata"].get("annotations") or {}).items()
        if DEFAULT.fullmatch(key) and value == "true"
    ]  # fmt: skip
    asked = state.read(state.core.list_namespaced_persistent_volume_claim, state.home)
    claims, servers = asked["items"], state.servers()
    waiting = [
        one["metadata"]["name"] for one in claims if one["status"].get("phase") != "Bound"
    ]  # fmt: skip
    names = ", ".join(one["metadata"]["name"] for one in classes) or "none exists"
    whose = ", ".join(waiting) or "the volumes of k8s/overlays/dev"
    if default:
        yield Finding("ok", "storage", f"default class {default[0]}")
    elif claims and not waiting:
        yield Finding("ok", "storage", f"no default class, but all {len(claims)} claims are bound")
    elif not claims and servers and not any("volumeClaimTemplates" in s["spec"] for s in servers):
        yield Finding("unneeded", "storage", "no default class, and no server claims a volume")
    else:
        yield Finding(
            "missing", "storage", f"no default StorageClass ({names}): {whose} would wait for "
            "ever; install one, or kubectl annotate storageclass NAME "
            "storageclass.kubernetes.io/is-default-class=true",
        )  # fmt: skip


def trainer(state: State) -> Iterator[Finding]:
    """Kubeflow Trainer's kinds, the runtime and the admission policy's image."""
    lacking: Literal["missing", "unneeded"] = "missing" if state.trainjob else "unneeded"
    asked = state.read(state.objects.get_api_resources, GROUP, VERSION)
    kinds = {one["name"] for one in (asked or {"resources": []})["resources"]}
    if lacks := sorted(set(KINDS) - kinds):
        kinds_text = ", ".join(f"{one}.{GROUP}" for one in lacks)
        fix = "install Kubeflow Trainer 2.3 or later for launcher=trainjob"
        yield Finding(lacking, "trainer", f"{kinds_text}; {fix}")
        return
    runtime = state.read(
        state.objects.get_namespaced_custom_object,
        GROUP, VERSION, state.namespace, "trainingruntimes", "stargan",
    )  # fmt: skip
    if runtime is None:
        fix = f"kubectl -n {state.namespace} apply -f k8s/jobs/runtime.yaml for launcher=trainjob"
        yield Finding(lacking, "trainer", f"the TrainingRuntime stargan; {fix}")
    else:
        yield Finding("ok", "trainer", "Kubeflow Trainer's kinds and the runtime stargan")
    if state.namespace in state.kubeflow:  # no admission policy there: k8s/overlays/standalone
        return
    image = state.executors()["exec-train"]["container"]["image"]
    found = state.read(state.core.read_namespaced_config_map, "trainjobs", state.namespace)
    allowed = ((found or {}).get("data") or {}).get("image", "")
    if image.partition("@")[0].rpartition(":")[0] != allowed and image.partition("@")[0] != allowed:
        yield Finding(
            lacking, "trainer", f"the config map trainjobs allows {allowed or 'no image'}, the "
            f"pipeline's is {image}; set its name there, or launcher=trainjob is denied",
        )  # fmt: skip


def images(state: State) -> Iterator[Finding]:
    """Names of the pipeline's images; those without a registry must be on the nodes."""
    names = sorted({one["container"]["image"] for one in state.executors().values()})
    fix = "push it and pin it: python -m pipelines pin-images, then -f FILE"
    held: set[str] | None = None
    for name in names:
        if fault := example(name):
            yield Finding("missing", "images", f"{fault}; {fix}")
            continue
        host = name.partition("/")[0]
        if "/" in name and ("." in host or ":" in host or host == "localhost"):
            yield Finding("ok", "images", name)
            continue
        if held is None:
            items = state.read(state.core.list_node)["items"]
            held = {
                text.removeprefix("docker.io/").removeprefix("library/").removeprefix("localhost/")
                for item in items for one in item["status"].get("images") or ()
                for text in one.get("names") or ()
            }  # fmt: skip
        if name in held:
            yield Finding("ok", "images", f"{name}, which a node holds")
        else:
            yield Finding("missing", "images", f"{name} names no registry; {fix}")

"""Environment variables: addresses, credentials and switches. No other module reads them.

    python -m training.core > docs/environment.md

A variable is read at the time of use, so that a program may set one for the code that it calls. An
unset or empty variable has its default.
"""

import math
import os
import re
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

YOU = "you; a cluster's config map `stargan-environment`"
CREDENTIALS = "you; a cluster's secret `{}`"
TORCHRUN = "torchrun"
STEP = "the local runner; on a cluster the step's pod"


@dataclass(frozen=True)
class Variable:
    """A variable that the project, or a library under it, reads."""

    name: str
    meaning: str
    set_by: str
    default: str = ""
    computed: str = ""  # description of a default that is computed at run time

    def get(self) -> str:
        """The variable's text, or the default."""
        return os.environ.get(self.name) or self.default

    def number(self) -> float:
        """The value as a finite, non-negative number; ValueError for anything else."""
        try:
            value = float(self.get())
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise ValueError(f"{self.name}={self.get()}: needs a finite number, at least 0")
        return value

    def count(self) -> int:
        """The value as a non-negative integer; ValueError for anything else."""
        if not self.get().isdecimal():
            raise ValueError(f"{self.name}={self.get()}: needs a whole number, at least 0")
        return int(self.get())


STORE_URI = Variable(
    "STORE_URI", "root of the store: `file:///folder` or `s3://bucket/prefix`", YOU,
    computed="`file://` and the working folder's `runs/store`",
)  # fmt: skip
NODE_CACHE = Variable(
    "NODE_CACHE", "cache folder for files read from an `s3://` store", YOU,
    computed="the working folder's `runs/node-cache`",
)  # fmt: skip
DVC_REMOTE_URL = Variable(
    "DVC_REMOTE_URL", "DVC remote of the raw data, instead of the default one of `.dvc/config`", YOU
)
DRAW_DEMO = Variable(
    "DRAW_DEMO",
    "`0`: fail instead of drawing demo faces that are missing in the remote",
    "you",
    "1",
)
S3_PATIENCE = Variable(
    "S3_PATIENCE", "seconds to keep retrying an S3 server that does not answer", YOU, "60"
)
AWS_ENDPOINT_URL_S3 = Variable(
    "AWS_ENDPOINT_URL_S3", "address of the S3 server; read by boto3 and DVC", YOU, computed="AWS"
)
AWS_DEFAULT_REGION = Variable(
    "AWS_DEFAULT_REGION", "region of the S3 server; read by boto3 and DVC", YOU
)
AWS_ACCESS_KEY_ID = Variable(
    "AWS_ACCESS_KEY_ID", "S3 credentials; read by boto3 and DVC", CREDENTIALS.format("stargan-s3")
)
AWS_SECRET_ACCESS_KEY = Variable(
    "AWS_SECRET_ACCESS_KEY",
    "S3 credentials; read by boto3 and DVC",
    CREDENTIALS.format("stargan-s3"),
)
MLFLOW_TRACKING_URI = Variable(
    "MLFLOW_TRACKING_URI", "address of MLflow: a server, an SQLite file, or `off`", YOU,
    computed="`sqlite:///` and the working folder's `runs/mlflow.db`",
)  # fmt: skip
MLFLOW_UI_ENDPOINT = Variable(
    "MLFLOW_UI_ENDPOINT", "address of MLflow's pages in a browser, for links", YOU,
    computed="`MLFLOW_TRACKING_URI`, or that of `make ui`",
)  # fmt: skip
MLFLOW_TRACKING_USERNAME = Variable(
    "MLFLOW_TRACKING_USERNAME", "MLflow user name; also recorded as the author of changes",
    CREDENTIALS.format("stargan-mlflow"), computed="none; in records the system's user",
)  # fmt: skip
MLFLOW_TRACKING_PASSWORD = Variable(
    "MLFLOW_TRACKING_PASSWORD",
    "MLflow password; read by MLflow",
    CREDENTIALS.format("stargan-mlflow"),
)
MLFLOW_RUN_ID = Variable(
    "MLFLOW_RUN_ID", "MLflow run that this step joins instead of starting one, if this MLflow has "
    "it", "a platform that starts MLflow runs",
)  # fmt: skip
SIGNING_PUBLIC_KEY = Variable(
    "SIGNING_PUBLIC_KEY",
    "public key, PEM text or its file; registered versions that are not signed with its private "
    "key are neither promoted nor used", YOU, computed="no signature is required",
)  # fmt: skip
SIGNING_KEY_PASSWORD = Variable(
    "SIGNING_KEY_PASSWORD", "password of the private key of `release sign`", "you"
)
WEBHOOK_SECRET = Variable(
    "WEBHOOK_SECRET", "secret with which MLflow signs the messages of `release webhook`; the "
    "receiver has the same", "you",
)  # fmt: skip
OPENLINEAGE_URL = Variable(
    "OPENLINEAGE_URL", "address of a server that receives OpenLineage events, such as "
    "`http://marquez:5000`", YOU, computed="no events are sent",
)  # fmt: skip
OPENLINEAGE_ENDPOINT = Variable(
    "OPENLINEAGE_ENDPOINT", "path of the events at that address", YOU, "api/v1/lineage"
)
OPENLINEAGE_API_KEY = Variable(
    "OPENLINEAGE_API_KEY", "key for that server", CREDENTIALS.format("stargan-openlineage")
)
OPENLINEAGE_FILE = Variable(
    "OPENLINEAGE_FILE", "file to which OpenLineage events are added, one JSON line each", "you",
    computed="no events are written",
)  # fmt: skip
OPENLINEAGE_NAMESPACE = Variable(
    "OPENLINEAGE_NAMESPACE", "namespace of the jobs and data in OpenLineage events", YOU,
    "stargan",
)  # fmt: skip
SOURCE_URL = Variable(
    "SOURCE_URL", "address of the code's repository, for OpenLineage events and provenance", "you",
    computed="git's remote `origin`",
)  # fmt: skip
C2PA_CERT = Variable(
    "C2PA_CERT", "certificate chain in PEM, the file, of the C2PA manifests of `translate`", "you",
    computed="no manifests",
)  # fmt: skip
C2PA_KEY = Variable("C2PA_KEY", "private key in PEM, the file, of that certificate", "you")
C2PA_KEY_PASSWORD = Variable("C2PA_KEY_PASSWORD", "password of that private key", "you")
SERVE_TOKEN = Variable(
    "SERVE_TOKEN", "token that every request to `training.serve` must have; needed to listen on "
    "other addresses than loopback", CREDENTIALS.format("stargan-serve"),
    computed="none is asked for",
)  # fmt: skip
METRICS_PORT = Variable(
    "METRICS_PORT", "port of the trainer's Prometheus metrics", YOU, computed="no metrics"
)
PIPELINE_RUN_ID = Variable(
    "PIPELINE_RUN_ID", "id that groups the steps of one pipeline run in MLflow", STEP,
    computed="a random one",
)  # fmt: skip
PIPELINE_STEP = Variable(
    "PIPELINE_STEP", "name of the step in the pipeline, under which a failed one leaves its reason",
    "the step's pod",
)  # fmt: skip
PIPELINE_RUNNER = Variable(
    "PIPELINE_RUNNER", "process that runs the pipeline on this machine; after a kill the next run "
    "closes its record in MLflow", "the local runner", computed="outside a pipeline the program",
)  # fmt: skip
SOURCE_REVISION = Variable(
    "SOURCE_REVISION", "git commit of the code, with `-dirty` if files differ from it",
    "the container images", computed="read from git",
)  # fmt: skip
LAUNCH_ID = Variable(
    "LAUNCH_ID", "id of the launch of a training process; restarts keep it",
    "`training.launch`, `training.trainjob`", computed="a random one",
)  # fmt: skip
REFUSAL_FILE = Variable(
    "REFUSAL_FILE", "file in which a training process writes the mistake that ended it",
    "`training.launch`", computed="none",
)  # fmt: skip
OMP_NUM_THREADS = Variable(
    "OMP_NUM_THREADS", "threads of each training process; read by torch",
    "you; else `training.launch`, `training.trainjob`",
    computed="the cores that it may use, shared by the processes",
)  # fmt: skip
OMP_WAIT_POLICY = Variable(
    "OMP_WAIT_POLICY",
    "what a thread does that waits for the others of a computation: `passive` sleeps, `active` "
    "spins, which is slightly faster on an idle machine and many times slower on a shared one; "
    "read by OpenMP when torch is loaded", "you; else every program here", "passive",
)  # fmt: skip
GOMP_SPINCOUNT = Variable(
    "GOMP_SPINCOUNT", "turns that such a thread spins before it sleeps; read likewise",
    "you; else every program here, if `OMP_WAIT_POLICY` is not set either", "3000",
)  # fmt: skip
COLLECTIVE_TIMEOUT = Variable(
    "COLLECTIVE_TIMEOUT",
    "seconds without an answer after which a training process counts as lost; must exceed the "
    "time to write and copy a checkpoint", YOU, "600",
)  # fmt: skip
CUDA_VISIBLE_DEVICES = Variable(
    "CUDA_VISIBLE_DEVICES", "GPUs that a process may use, by number; read by CUDA",
    "you; for each of several trials `pipelines search`", computed="all",
)  # fmt: skip
WORLD_SIZE = Variable("WORLD_SIZE", "number of training processes", TORCHRUN, "1")
RANK = Variable("RANK", "number of this training process among all", TORCHRUN, "0")
LOCAL_RANK = Variable(
    "LOCAL_RANK", "number of this training process among those of its machine", TORCHRUN, "0"
)
LOCAL_WORLD_SIZE = Variable(
    "LOCAL_WORLD_SIZE", "number of training processes of this machine", TORCHRUN, "1"
)
KF_PIPELINES_ENDPOINT = Variable(
    "KF_PIPELINES_ENDPOINT", "address of the Kubeflow Pipelines API, to submit runs", "you"
)
KF_PIPELINES_UI_ENDPOINT = Variable(
    "KF_PIPELINES_UI_ENDPOINT", "address of the Kubeflow Pipelines UI, for links", YOU,
    computed="as `KF_PIPELINES_ENDPOINT`",
)  # fmt: skip
KUBECONFIG = Variable(
    "KUBECONFIG", "Kubernetes credentials outside a pod", "you", computed="`~/.kube/config`"
)
POD_NAME = Variable("POD_NAME", "name of the step's pod", "the step's pod")
POD_NAMESPACE = Variable(
    "POD_NAMESPACE",
    "namespace of the step's pod",
    "the step's pod",
    computed="that of the service account",
)
_SECRET = re.compile(r"(PASSWORD|PASSWD|SECRET|TOKEN|ACCESS_KEY|SECRET_KEY|API_KEY)$", re.I)
VARIABLES = tuple(value for value in globals().copy().values() if isinstance(value, Variable))


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def new_launch() -> str:
    """A unique name for a launch: the host name and a random suffix."""
    return f"{socket.gethostname()}-{uuid.uuid4().hex[:12]}"


def runs(*parts: str) -> Path:
    """A path under `runs`, the folder in the working folder for all outputs."""
    return Path("runs", *parts)


def whole() -> dict[str, str]:
    """The whole environment, to pass to a child process."""
    return dict(os.environ)


def proxied(address: str) -> str:
    """What to add to a message about a server that does not answer: a proxy in between, or none."""
    from urllib import parse, request  # 0.1 s that only a failure needs

    parts = parse.urlsplit(address)
    host, proxies = parts.hostname or "", request.getproxies_environment()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not host or not proxy or request.proxy_bypass(host):
        return ""
    return (
        f"; requests to {host} go through the proxy of {parts.scheme.upper()}_PROXY: if it must be "
        f"reached directly, add {host} to NO_PROXY"
    )


def secrets() -> list[str]:
    """The values of all variables that are named as passwords, keys or tokens are."""
    return [value for name, value in os.environ.items() if _SECRET.search(name)]


def addresses() -> list[str]:
    """The values of all variables that hold an address."""
    return [value for value in os.environ.values() if "://" in value]


def put_default(**values: str) -> None:
    """Set variables that are not set or empty, for libraries that read the environment."""
    for name, value in values.items():
        if not os.environ.get(name):
            os.environ[name] = value


def put_waiting() -> None:
    """Let waiting threads of OpenMP sleep after a brief spin, unless the user has chosen."""
    both = OMP_WAIT_POLICY, GOMP_SPINCOUNT
    if not any(os.environ.get(variable.name) for variable in both):
        put(**{variable.name: variable.default for variable in both})


def share_cores() -> None:
    """Under torchrun: give each process of this machine its share of the cores.

    torchrun gives each of several one thread, unless the user has chosen in torchrun's environment.
    """
    import psutil

    processes, name = LOCAL_WORLD_SIZE.count(), OMP_NUM_THREADS.name
    if processes > 1 and not psutil.Process(os.getppid()).environ().get(name):
        put(**{name: str(max(1, cores() // processes))})


def put(**values: str) -> None:
    """Set variables for the rest of this process."""
    os.environ.update(values)


@contextmanager
def changed(**values: str) -> Iterator[None]:
    """Set variables for the duration of a block, then restore them."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def table() -> str:
    """The Markdown page that lists every variable."""
    rows = []
    for one in sorted(VARIABLES, key=lambda one: one.name):
        default = one.computed or (f"`{one.default}`" if one.default else "none")
        rows.append(f"| `{one.name}` | {one.meaning} | {default} | {one.set_by} |")
    head = [
        "# Environment variables", "",
        "Generated by `python -m training.core`. An empty variable counts as not set.",
        "",
        "| variable | meaning | default | set by |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    return "\n".join([*head, *rows, ""])

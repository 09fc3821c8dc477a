"""The cluster of the live tests: reached, deployed, and left as it was found."""

import os
import random
import secrets
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from clusterruns import FORGET, TRAINJOBS, Followed, Runs, kubeflow, python
from deployment import deployment, kubeflows, ready
from kubectl import Kubectl, KubectlError, Object
from trial import Address, Trial, runtime

HERE = Path(__file__).parent
NEEDED = ("KUBECONFIG", "KF_PIPELINES_ENDPOINT")
ANSWERS = 10  # s that a server has for its first answer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test may take as long as two runs and three times the servers."""
    trial = Trial.read()
    limit = pytest.mark.timeout(2 * trial.run + 3 * trial.ready)
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(limit)


@pytest.fixture(scope="session")
def trial() -> Trial:
    return Trial.read()


@pytest.fixture(scope="session")
def kubectl(trial: Trial) -> Kubectl:
    """The cluster that is named; if it does not answer, or if the overlay would close Kubeflow's
    own servers, the session ends before anything is applied."""
    if lacks := [name for name in NEEDED if not os.environ.get(name)]:
        pytest.skip(f"no cluster: {' and '.join(lacks)} not set (tests/live/README.md)")
    if not shutil.which("kubectl"):
        pytest.skip("no cluster: kubectl is not installed")
    found, address = Kubectl(trial.namespace), os.environ["KF_PIPELINES_ENDPOINT"]
    try:
        found("get", "--raw", "/readyz", f"--request-timeout={ANSWERS}s", timeout=3 * ANSWERS)
        answers(f"{address.rstrip('/')}/apis/v2beta1/healthz")
    except (KubectlError, OSError, ValueError) as error:
        pytest.exit(
            f"no answer: {error} (KUBECONFIG={os.environ['KUBECONFIG']}, "
            f"KF_PIPELINES_ENDPOINT={address})", returncode=1,
        )  # fmt: skip
    if server := kubeflows(found):
        pytest.exit(
            f"LIVE_NAMESPACE={trial.namespace} holds Kubeflow's own servers ({server}), which the "
            "overlay's policies, quota and pod standard would stop; name another namespace",
            returncode=1,
        )  # fmt: skip
    return found


def answers(address: str) -> None:
    """Raise OSError unless a server answers, if only that it wants a login, which kfp knows."""
    try:
        urllib.request.urlopen(address, timeout=ANSWERS).close()
    except HTTPError as error:
        if error.code not in (401, 403):
            raise


@pytest.fixture(scope="session")
def name() -> str:
    """Of all that this session makes: experiment, model, pods, queues."""
    return f"live-{secrets.token_hex(3)}"


@pytest.fixture(scope="session")
def api(kubectl: Kubectl) -> Address:
    """The address and port of the Kubernetes API, as pods reach it."""
    label = "kubernetes.io/service-name=kubernetes"
    slices = Kubectl("default").items("endpointslices", label)
    hosts = {host for one in slices for end in one["endpoints"] for host in end["addresses"]}
    return sorted(hosts), int(slices[0]["ports"][0]["port"])


@pytest.fixture(scope="session")
def overlay(trial: Trial, api: Address) -> list[Object]:
    return trial.objects(api)


@pytest.fixture(scope="session")
def deployed(kubectl: Kubectl, trial: Trial, overlay: list[Object]) -> Iterator[bool]:
    """The servers, ready; whether they were deployed here, and so end with the session.

    Servers that are there are left as they are.
    """
    if kubectl.get("deployment", "mlflow"):
        ready(kubectl, trial.ready)
        yield False
        return
    with deployment(kubectl, overlay, dict(os.environ)):
        ready(kubectl, trial.ready)
        yield True


@pytest.fixture(scope="session")
def env(kubectl: Kubectl, deployed: bool) -> Iterator[dict[str, str]]:
    """The environment of a user who reaches the cluster's MLflow."""
    with kubectl.forward("service/mlflow", 5000) as address:
        login = kubectl.secret("stargan-mlflow")
        yield {**os.environ, **login, "MLFLOW_TRACKING_URI": address}


@pytest.fixture(scope="session")
def pairs(trial: Trial, deployed: bool, name: str) -> list[str]:
    """The parameters of every run."""
    found = ["preset=smoke", f"name={name}", f"experiment={name}", *trial.parameters.split()]
    if deployed and "step_memory=" not in trial.parameters:
        # Part of the cache's keys: results of a store that is gone must not be found.
        found.append(f"step_memory={random.randint(1281, 1535)}Mi")
    return found


@pytest.fixture(scope="session")
def package(trial: Trial, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(trial.package(tmp_path_factory.mktemp("package")))


@pytest.fixture(scope="session")
def diagnosis(trial: Trial, env: dict[str, str], pairs: list[str], package: str) -> tuple[int, str]:
    """Exit code and output of `python -m pipelines doctor` on the ready cluster."""
    where = ["--namespace", trial.namespace, "--package-file", package]
    return python(env, "-m", "pipelines", "doctor", *where, *pairs)


@pytest.fixture(scope="session")
def client(kubectl: Kubectl, trial: Trial) -> Any:
    """Of Kubeflow Pipelines; its namespace is empty if there are no profiles."""
    address = os.environ["KF_PIPELINES_ENDPOINT"]
    profiles = kubeflow(address, "-").get_kfp_healthz().multi_user
    return kubeflow(address, trial.namespace if profiles else "")


@pytest.fixture(scope="session")
def words(client: Any, pairs: list[str], package: str, name: str) -> list[str]:
    """What `submit` and `schedule` are given for every run."""
    space = client.get_user_namespace()
    where = ["--namespace", space] if space else []
    return ["--experiment-name", name, "--package-file", package, *where, *pairs]


@pytest.fixture(scope="session")
def session_runs(
    kubectl: Kubectl, trial: Trial, env: dict[str, str], client: Any, words: list[str], name: str,
    diagnosis: tuple[int, str], tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Runs]:  # fmt: skip
    """Starts runs that are kept until the session's end, then also model and experiments."""
    if diagnosis[0]:
        pytest.fail(f"runs would fail; python -m pipelines doctor:\n{diagnosis[1]}")
    runs = Runs(kubectl, client, env, words, tmp_path_factory.mktemp("runs"), trial.run)
    yield runs
    runs.forget()
    client.delete_experiment(client.get_experiment(experiment_name=name).experiment_id)
    code, text = python(env, "-c", FORGET, name)
    assert code == 0, text


@pytest.fixture(scope="session")
def promoted(session_runs: Runs) -> Followed:
    """The first run, followed to its end: version 1."""
    followed = session_runs()
    followed.succeeds()
    return followed


@pytest.fixture
def submit(promoted: Followed, session_runs: Runs, tmp_path: Path) -> Iterator[Runs]:
    """Starts runs that end with the test; what they share is in the cache by then."""
    one = session_runs
    runs = Runs(one.kubectl, one.client, one.env, one.words, tmp_path, one.limit)
    yield runs
    runs.forget()


@pytest.fixture
def fresh(trial: Trial) -> list[str]:
    """Parameters of a training that nothing keeps yet, long enough to interfere with."""
    return [f"train.seed={random.randrange(10**9)}", f"train.images={trial.images}"]


@pytest.fixture(scope="session")
def trainer(kubectl: Kubectl, trial: Trial, deployed: bool) -> Iterator[None]:
    """Kubeflow Trainer with this project's runtime."""
    if not kubectl.knows(TRAINJOBS):
        pytest.skip(f"no Trainer: the cluster has no {TRAINJOBS}; install Kubeflow Trainer 2.3")
    made = kubectl.absent(mine := runtime(trial))
    if made:
        kubectl.apply(mine)
    yield
    kubectl.delete(*made)

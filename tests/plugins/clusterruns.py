"""Runs on a cluster: `python -m pipelines submit --wait` as a user starts it, and what it says."""

import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from kubectl import Kubectl, Object, eventually
from pipelines.follow import ENDED, WIDTH
from training.cluster.kubernetes import GROUP, INDEX, PLURAL, RUN, STEP, run_label
from trial import ROOT

RUN_ID = re.compile(r"^run       ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$", re.MULTILINE)
CHANGE = re.compile(rf"^\d\d:\d\d:\d\d  (.{{{WIDTH}}}) (.+)$", re.MULTILINE)
SEEN = re.compile(r"train: (\d+)/\d+ images")
TRAINJOBS, JOBSETS = f"{PLURAL}.{GROUP}", "jobsets.jobset.x-k8s.io"
CACHED = "from the cache"
# They read names and settings, or the registry, which others change as well.
ALWAYS = {"Resolve configuration", "Register version", "Promote through the gate", "Report status"}

# Its model and experiment, of a registry that stays.
FORGET = """
import sys
from mlflow import MlflowClient
client, name = MlflowClient(), sys.argv[1]
for model in client.search_registered_models(f"name = '{name}'"):
    client.delete_registered_model(model.name)
if found := client.get_experiment_by_name(name):
    client.delete_experiment(found.experiment_id)
"""


def states(output: str) -> dict[str, str]:
    """The last that was told of each step, by its name for people."""
    return {title.strip(): what for title, what in CHANGE.findall(output)}


def seen(log: str) -> int:
    """How many images a training's log says that it has seen."""
    return max(map(int, SEEN.findall(log)), default=0)


def python(env: dict[str, str], *words: str, timeout: float = 300) -> tuple[int, str]:
    """Exit code and output of Python with these arguments."""
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=env, text=True, timeout=timeout,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.returncode, done.stdout


def released(env: dict[str, str], command: str, name: str) -> list[str]:
    """What `release show` or `release history` prints of a registered model, without messages."""
    code, text = python(env, "-m", "training.release", command, name)
    assert code == 0, text
    return [line for line in text.splitlines() if line.startswith((f"{name}/", "{"))]


def has_seed(env: dict[str, str], name: str, fresh: list[str]) -> bool:
    """Whether a version of a model was trained with the seed in a run's parameters."""
    seed = next(word.partition("=")[2] for word in fresh if word.startswith("train.seed="))
    return any(f"  seed {seed}  " in line for line in released(env, "show", name))


def kubeflow(address: str, namespace: str) -> Any:
    """A client of Kubeflow Pipelines, in a profile's namespace if there are profiles."""
    from kfp import Client

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kfp's own, about versions before 2.0
        return Client(host=address, **({"namespace": namespace} if namespace else {}))


class Followed:
    """A `submit --wait` that goes on while a test interferes."""

    def __init__(self, words: list[str], env: dict[str, str], output: Path, limit: float) -> None:
        self.path, self.limit = output, limit
        with output.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipelines", "submit", "--wait", *words], cwd=ROOT, env=env,
                stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip

    @property
    def output(self) -> str:
        return self.path.read_text()

    @property
    def ids(self) -> list[str]:
        """Of the runs that were submitted, the last one at the end."""
        return RUN_ID.findall(self.output)

    def run_id(self) -> str:
        """The id of the latest run, once it is submitted; the test fails if it never is."""

        def submitted() -> str:
            self.require_going()
            return self.ids[-1] if self.ids else ""

        return eventually(submitted, 120, f"the run is submitted: {self.output}")

    def require_going(self) -> None:
        if self.process.poll() is not None:
            pytest.fail(f"the run ended too early; raise LIVE_IMAGES?\n{self.output[-4000:]}")

    def code(self) -> int:
        """The exit code, once it has ended."""
        try:
            return self.process.wait(self.limit)
        except subprocess.TimeoutExpired:
            pytest.fail(f"no end within {self.limit} s (LIVE_RUN):\n{self.output[-4000:]}")

    def succeeds(self) -> dict[str, str]:
        """The last state of each step of a run that ends well."""
        if self.code():
            pytest.fail(f"the run failed:\n{self.output[-6000:]}")
        return states(self.output)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def step_pods(kubectl: Kubectl, run_id: str) -> list[str]:
    """The running pods of a run's training step: the one that trains, or the launcher."""
    pods = kubectl.items("pods", f"pipeline/runid={run_id},app.kubernetes.io/component=trainer")
    return [one["metadata"]["name"] for one in pods if one["status"].get("phase") == "Running"]


def jobs(kubectl: Kubectl, run_id: str) -> list[Object]:
    return kubectl.items(TRAINJOBS, f"{RUN}={run_label(run_id)}")


def ranks(kubectl: Kubectl, run_id: str) -> dict[int, str]:
    """The names of the running pods of a run's TrainJob, by rank."""
    pods = [pod for job in jobs(kubectl, run_id)
            for pod in kubectl.items("pods", f"{STEP}={job['metadata']['name']}")]  # fmt: skip
    return {
        int(pod["metadata"]["annotations"][INDEX]): pod["metadata"]["name"]
        for pod in pods if pod["status"].get("phase") == "Running"
    }  # fmt: skip


def trains(followed: Followed, kubectl: Kubectl, pods: Any, images: int) -> Any:
    """What `pods()` answers, names or names by rank, once its first has trained on `images`."""

    def asked() -> Any:
        followed.require_going()
        found = pods()
        first = (found.get(0) if isinstance(found, dict) else found[0]) if found else None
        return (
            found if first and seen(kubectl("logs", first, "--all-containers")) >= images else None
        )

    return eventually(asked, followed.limit, f"training on {images} images: {followed.output}")


class Runs:
    """Starts runs under one name, and forgets what it started."""

    def __init__(
        self, kubectl: Kubectl, client: Any, env: dict[str, str], words: list[str], folder: Path,
        limit: float,
    ) -> None:  # fmt: skip
        self.kubectl, self.client, self.env = kubectl, client, env
        self.words, self.folder, self.limit = words, folder, limit
        self.started: list[Followed] = []

    def __call__(self, *words: str) -> Followed:
        """Submit a run with more parameters or options, and follow it."""
        output = self.folder / f"run-{len(self.started)}.txt"
        self.started.append(Followed([*self.words, *words], self.env, output, self.limit))
        return self.started[-1]

    def forget(self) -> None:
        """End what goes on, and delete the runs with their TrainJobs."""
        for followed in self.started:
            followed.stop()
            for run_id in followed.ids:
                self.delete(run_id)
        self.started.clear()

    def delete(self, run_id: str) -> None:
        if self.client.get_run(run_id).state not in ENDED:
            self.client.terminate_run(run_id)
        if self.kubectl.knows(TRAINJOBS):
            self.kubectl.delete(*jobs(self.kubectl, run_id))
        self.client.delete_run(run_id)

"""Without a cluster: the live tests read what is said rightly, and say why they do not run."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import clusterruns
from jsonserver import answering, kubeconfig
from kfpruns import recorded
from kubectl import Kubectl, KubectlError, Object
from pipelines import compiled, submit
from training.core.progress import Progress
from trial import ROOT

STEPS = compiled.steps()


def said(name: str) -> str:
    """What `submit --wait` prints of a recorded run."""
    lines: list[str] = []
    run = submit.follow(iter(recorded(name)).__next__, lines.append, STEPS, every=0)
    ended, _ = submit.end(run, STEPS, lambda _: "")
    return "\n".join([f"run       {run.run_id}", "page      -", *lines, *ended, ""])


def test_a_runs_output_is_read_for_its_id_and_the_state_of_each_step() -> None:
    text = said("sequence")
    told = clusterruns.states(text)
    assert told["Train model"] == "succeeded in 48 s"
    assert told["Pull raw data"] == "from the cache"
    assert clusterruns.RUN_ID.findall(text) == [recorded("sequence")[-1].run_id]


def test_all_but_four_steps_of_a_repeated_run_come_from_the_cache() -> None:
    told = clusterruns.states(said("from-cache"))
    assert {title for title, what in told.items() if what != clusterruns.CACHED} == (
        clusterruns.ALWAYS
    )
    assert set(STEPS.values()) >= clusterruns.ALWAYS


def test_a_trainings_progress_is_read_from_its_log(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("train", 640, "images", 0)
    for _ in range(2):
        progress.step(320)
        progress.line()
    log = capsys.readouterr().out
    assert clusterruns.seen(log) == 640
    assert clusterruns.seen(log.splitlines()[0]) == 320
    assert clusterruns.seen("nothing yet") == 0


REGISTER = """
from mlflow import MlflowClient
client = MlflowClient()
client.create_experiment("live-1")
for name in ("live-1", "live-10"):
    client.create_registered_model(name)
    client.create_model_version(name, "file:///none", tags={"seed": "70" if name[6:] else "7"})
    client.set_registered_model_alias(name, "champion", "1")
"""


@pytest.mark.slow
@pytest.mark.long
def test_versions_are_read_from_the_registry_and_forgotten(tmp_path: Path) -> None:
    """Of this name only; a seed that begins alike is another."""
    env = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    code, text = clusterruns.python(env, "-c", REGISTER)
    assert code == 0, text
    (line,) = clusterruns.released(env, "show", "live-1")
    assert line.startswith("live-1/1 @champion ")
    assert clusterruns.has_seed(env, "live-1", ["train.images=9", "train.seed=7"])
    assert not clusterruns.has_seed(env, "live-10", ["train.seed=7"])
    code, text = clusterruns.python(env, "-c", clusterruns.FORGET, "live-1")
    assert code == 0, text
    assert clusterruns.released(env, "show", "live-1") == []
    assert len(clusterruns.released(env, "show", "live-10")) == 1


def test_the_commands_of_the_tests_are_those_of_submit(tmp_path: Path) -> None:
    """Options before, between and after the parameters; a mistyped one would end with 2."""
    words = ["--experiment-name", "live-1", "--package-file", str(compiled.PACKAGE), "preset=smoke",
             "name=live-1", "--resubmit", "2", "launcher=trainjob", "nodes=2", "train.seed=7",
             "train.images=6000", "step_memory=1300Mi", "--dry-run"]  # fmt: skip
    env = {**os.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    followed = clusterruns.Followed(words, env, tmp_path / "output", 120)
    assert followed.code() == 0, followed.output
    assert "'overrides=train.seed=7;train.images=6000'" in followed.output
    assert followed.ids == []
    with pytest.raises(pytest.fail.Exception, match="the run ended too early"):
        followed.require_going()


LISTS = {
    "/readyz": {},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [{
        "name": "kueue.x-k8s.io",
        "versions": [{"groupVersion": "kueue.x-k8s.io/v1beta2", "version": "v1beta2"}],
        "preferredVersion": {"groupVersion": "kueue.x-k8s.io/v1beta2", "version": "v1beta2"},
    }]},
    "/apis/kueue.x-k8s.io/v1beta2": {
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "kueue.x-k8s.io/v1beta2",
        "resources": [{"name": "localqueues", "kind": "LocalQueue", "namespaced": True,
                       "singularName": "", "verbs": ["get"]}],
    },
    "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [
        {"name": name, "singularName": "", "kind": kind, "namespaced": kind != "Namespace",
         "verbs": ["get", "list", "delete"]}
        for name, kind in (("namespaces", "Namespace"), ("secrets", "Secret"))
    ]},
}  # fmt: skip
HERE = "/api/v1/namespaces/faces/secrets"


def stored(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "faces"},
            "data": {"KEY": "c2VjcmV0"}}  # fmt: skip


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an API server with the secrets a and b, which kubectl asks."""
    if not shutil.which("kubectl"):
        pytest.skip("no genuine kubectl: it is not installed")

    def answer(method: str, path: str, body: bytes) -> tuple[int, Any]:
        path = path.partition("?")[0]
        if path in LISTS:
            return 200, LISTS[path]
        if path == HERE:
            return 200, {"kind": "SecretList", "apiVersion": "v1",
                         "items": [stored("a"), stored("b")]}  # fmt: skip
        name = path.removeprefix(f"{HERE}/")
        if name in ("a", "b"):
            return 200, stored(name)
        return 404, {
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
            "reason": "NotFound", "message": f"{name} not found",
            "details": {"name": name, "kind": "secrets"},
        }  # fmt: skip

    with answering(answer) as address:
        monkeypatch.setenv("KUBECONFIG", kubeconfig(address, tmp_path))
        monkeypatch.setenv("HOME", str(tmp_path))  # kubectl's cache of what a server knows
        yield address


def test_kubectl_tells_what_is_there(cluster: str) -> None:
    """The real program; of several objects, of one and of none."""
    kubectl = Kubectl("faces")
    assert kubectl.absent(stored("a"), stored("x"), stored("b")) == [stored("x")]
    assert kubectl.absent(stored("a")) == []
    assert kubectl.absent(stored("x")) == [stored("x")]
    assert kubectl.secret("a") == {"KEY": "secret"}
    assert kubectl.get("secret", "x") is None
    assert [one["metadata"]["name"] for one in kubectl.items("secrets")] == ["a", "b"]
    assert kubectl.version("kueue.x-k8s.io") == "kueue.x-k8s.io/v1beta2"
    assert kubectl.knows("localqueues.kueue.x-k8s.io")
    assert not kubectl.knows("clusterqueues.kueue.x-k8s.io")
    assert not kubectl.knows("trainjobs.trainer.kubeflow.org")
    with pytest.raises(
        KubectlError, match=r'kubectl .*: error: .*doesn\'t have a resource type "x"'
    ):
        kubectl("get", "x")


def live(*options: str) -> subprocess.CompletedProcess[str]:
    """The live tests as `make test-live` starts them."""
    line = [sys.executable, "-m", "pytest", "-m", "live", "-p", "no:cacheprovider", *options]
    return subprocess.run([*line, "tests/live"], cwd=ROOT, capture_output=True, text=True)


def test_without_a_cluster_each_live_test_is_skipped_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "http://127.0.0.1:9")
    done = live()
    assert done.returncode == 0, done.stdout
    reasons = set(re.findall(r"^SKIPPED .*?: (.*)$", done.stdout, re.MULTILINE))
    assert reasons == {"no cluster: KUBECONFIG not set (tests/live/README.md)"}
    assert re.search(r"^=+ \d+ skipped in", done.stdout, re.MULTILINE)


def test_kubeflows_own_namespace_is_refused_before_anything_is_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named by LIVE_NAMESPACE; the overlay would cut its servers off."""
    if not shutil.which("kubectl"):
        pytest.skip("no genuine kubectl: it is not installed")
    asked: list[str] = []
    apps = {"groupVersion": "apps/v1", "version": "v1"}
    kinds = [{"name": "deployments", "singularName": "deployment", "kind": "Deployment",
              "namespaced": True, "verbs": ["get"]}]  # fmt: skip
    name = "/apis/apps/v1/namespaces/kubeflow/deployments/ml-pipeline"
    answers: dict[str, Any] = LISTS | {
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [
            {"name": "apps", "versions": [apps], "preferredVersion": apps}]},
        "/apis/apps/v1": {"kind": "APIResourceList", "apiVersion": "v1",
                          "groupVersion": "apps/v1", "resources": kinds},
        "/apis/v2beta1/healthz": {"multi_user": False},
        name: {"kind": "Deployment", "apiVersion": "apps/v1",
               "metadata": {"name": "ml-pipeline", "namespace": "kubeflow"}},
    }  # fmt: skip

    def answer(method: str, path: str, body: bytes) -> tuple[int, Any]:
        asked.append(f"{method} {(path := path.partition('?')[0])}")
        return (200, answers[path]) if path in answers else (404, {"message": "not found"})

    with answering(answer) as address:
        monkeypatch.setenv("KUBECONFIG", kubeconfig(address, tmp_path))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", address)
        monkeypatch.setenv("LIVE_NAMESPACE", "kubeflow")
        done = live("--timeout=60")
    assert done.returncode == 1, done.stdout
    (line,) = re.findall(r"^!+ _pytest.outcomes.Exit: (.*) !+$", done.stdout, re.MULTILINE)
    assert line.startswith("LIVE_NAMESPACE=kubeflow holds Kubeflow's own servers (deployment ml-")
    assert f"GET {name}" in asked
    assert {one.split()[0] for one in asked} == {"GET"}


@pytest.mark.parametrize("kubernetes", [False, True])
def test_a_cluster_that_does_not_answer_ends_the_session_with_one_line(
    kubernetes: bool, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubernetes, or only Kubeflow; within seconds, and no test fails for it."""
    if not kubernetes:
        monkeypatch.setenv("KUBECONFIG", kubeconfig("http://127.0.0.1:9", tmp_path))
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "http://127.0.0.1:9")
    done = live("--timeout=60")
    assert done.returncode == 1
    (line,) = re.findall(r"^!+ _pytest.outcomes.Exit: (.*) !+$", done.stdout, re.MULTILINE)
    assert line.startswith("no answer: ")
    assert "KF_PIPELINES_ENDPOINT=http://127.0.0.1:9" in line

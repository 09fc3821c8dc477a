"""`python -m pipelines doctor` against an API server: what it lacks, refuses or does not answer."""

import os
import re
import shutil
import subprocess
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.images import STEPS_IMAGE, TRAIN_IMAGE
from jsonserver import kubeconfig
from kubeapi import (
    CLAIMS,
    CLASSES,
    DEPLOYMENTS,
    EVERY_DEPLOYMENT,
    HEALTH,
    HERE,
    JOBS,
    K8S,
    PODS,
    QUOTAS,
    RANGES,
    REVIEW,
    SETS,
    TRAINER,
    VERSION,
    Api,
    examined,
    items,
    node,
    pod,
    read,
)
from pipelines import __main__ as program
from pipelines.credentials import drawn


def test_a_complete_cluster_lacks_nothing(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Every line is ok and the program ends with 0; every right of the role is asked for."""
    program.main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith("ok ")] == []
    whats = ["kubernetes", "pipelines", "namespace", "secrets", "addresses", "servers", "storage",
             "trainer", "rights", "quota", "nodes", "images"]  # fmt: skip
    assert list(dict.fromkeys(line.split()[1] for line in lines)) == whats
    role = read("base/steps/accounts.yaml", "Role")
    rights = {
        (rule["apiGroups"][0], kind, verb)
        for rule in role["rules"] for kind in rule["resources"] for verb in rule["verbs"]
    }  # fmt: skip
    asked = set()
    for spec in api.reviewed:
        assert spec["user"] == "system:serviceaccount:stargan:pipeline-runner"
        wanted = spec["resourceAttributes"]
        kind = "/".join(filter(None, (wanted["resource"], wanted["subresource"])))
        asked.add((wanted["group"], kind, wanted["verb"]))
    assert asked == rights


def without(*paths: str) -> Callable[[Api], None]:
    def change(api: Api) -> None:
        for path in paths:
            del api.objects[path]

    return change


def having(path: str, value: Any) -> Callable[[Api], None]:
    return lambda api: api.objects.update({path: value})


def without_key(secret: str, key: str) -> Callable[[Api], None]:
    return lambda api: api.objects[f"{HERE}/secrets/{secret}"]["data"].update({key: ""})


def stopped(api: Api) -> None:
    api.objects[DEPLOYMENTS]["items"][0]["status"]["readyReplicas"] = 0


PAPER = {"preset": "celeba-128"}  # requests 4 CPUs and 16 GiB for training, the demo little
LACKS: list[tuple[Callable[[Api], None], dict[str, Any], str, list[str]]] = [
    (having(HEALTH, {"multi_user": False, "tag_name": "2.16.1"}), {}, "pipelines",
     ["2.16.1 is too old", "2.17"]),
    (without(HEALTH), {}, "pipelines", ["does not answer as Kubeflow Pipelines", "(404)"]),
    (having("/version/", {**VERSION, "minor": "29"}), {}, "kubernetes", ["1.30"]),
    (without(f"{HERE}/secrets/stargan-s3"), {}, "secrets",
     ["stargan-s3;", "python -m pipelines secrets -n stargan | kubectl create -f -"]),
    (without_key("mlflow-server", "auth.ini"), {}, "secrets",
     ["mlflow-server: auth.ini absent or empty", "edit secret mlflow-server"]),
    (without(f"{HERE}/configmaps/stargan-environment"), {}, "addresses",
     ["stargan-environment", "pipelines.manifests"]),
    (having(f"{HERE}/configmaps/stargan-environment", {"data": {"STORE_URI": "s3://a"}}), {},
     "addresses", ["DVC_REMOTE_URL, MLFLOW_TRACKING_URI absent or empty"]),
    (stopped, {}, "servers", ["mlflow: 0 of 2 pods ready", "describe pods"]),
    (having(CLASSES, items()), {}, "storage", ["no default StorageClass", "none exists"]),
    (without(TRAINER), {"launcher": "trainjob"}, "trainer",
     ["trainjobs.trainer.kubeflow.org", "Kubeflow Trainer 2.3"]),
    (without(f"{TRAINER}/namespaces/stargan/trainingruntimes/stargan"), {"launcher": "trainjob"},
     "trainer", ["the TrainingRuntime stargan", "k8s/jobs/runtime.yaml"]),
    (having(f"{HERE}/configmaps/trainjobs", {"data": {"image": "other"}}),
     {"launcher": "trainjob"}, "trainer", ["allows other", TRAIN_IMAGE]),
    (without(f"{HERE}/serviceaccounts/pipeline-runner"), {}, "account", ["pipeline-runner;"]),
    (lambda api: api.denied.add(("create", "trainjobs")), {"launcher": "trainjob"}, "rights",
     ["pipeline-runner may not create trainjobs", "k8s/base/steps/accounts.yaml"]),
    (having("/api/v1/nodes", items(node("a", "1", "128Gi"))), PAPER, "nodes",
     ["4 CPUs, 16 GiB", "a has 1 CPUs, 128 GiB", "add nodes"]),
    (lambda api: api.objects.update({"/api/v1/pods": items(pod("a", "13", False),
                                                           pod("b", "13", False))}),
     PAPER, "nodes", ["4 CPUs", "a has 3 CPUs"]),
    (lambda api: None, {"accelerators": 8}, "nodes", ["8 nvidia.com/gpu", "a has", "4 nvidia"]),
    (lambda api: None, {"accelerators": 1, "node_selector": {"pool": "gpu"}}, "nodes", ["train:"]),
    (lambda api: None, {"preset": "smoke", "node_selector": {"pool": "gpu"}}, "nodes",
     ["evaluate:"]),
    (lambda api: None, {"launcher": "trainjob", "accelerators": 1,
                        "node_selector": {"pool": "gpu"}}, "nodes", ["TrainJob:"]),
    (having("/api/v1/nodes", items(node("a", "16", "128Gi"))), {"accelerators": 1}, "nodes",
     ["evaluate:", "1 nvidia.com/gpu"]),
    (having(QUOTAS, items()), {"launcher": "trainjob", "nodes": 3, "nproc": 4, "accelerators": 4},
     "nodes", ["TrainJob:", "4 nvidia.com/gpu for each of 3 pods"]),
    (having("/api/v1/nodes", items(node("a", "16", "128Gi", taints=[
        {"key": "own", "effect": "NoSchedule"}]))), {}, "nodes", ["the taint own"]),
    (having("/api/v1/nodes", items(node("a", "16", "128Gi", unschedulable=True))), {}, "nodes",
     ["no node takes pods"]),
]  # fmt: skip


@pytest.mark.parametrize(("change", "parameters", "what", "words"), LACKS)
def test_what_is_missing_is_one_line_with_its_fix(
    change: Callable[[Api], None],
    parameters: dict[str, Any],
    what: str,
    words: list[str],
    api: Api,
) -> None:
    change(api)
    missing = [one for one in examined(**parameters) if one[0] == "missing"]
    assert {one[1] for one in missing} == {what}
    assert any(all(word in one[2] for word in words) for one in missing), missing
    assert not any("\n" in one[2] for one in missing)


def test_the_demos_small_requests_fit_a_small_node(api: Api) -> None:
    """And larger ones given as parameters do not."""
    api.objects["/api/v1/nodes"] = items(node("a", "2", "4Gi"))
    assert [one for one in examined() if one[0] == "missing"] == []
    (one,) = [one for one in examined(train_memory="6Gi") if one[0] == "missing"]
    assert "6 GiB" in one[2]


def test_a_training_on_cpus_needs_no_accelerator_with_either_launcher(api: Api) -> None:
    api.objects["/api/v1/nodes"] = items(node("a", "16", "128Gi"))
    for launcher in ("local", "trainjob"):
        found = examined(launcher=launcher, nodes=2, nproc=2, accelerators=0)
        assert [one for one in found if one[0] != "ok"] == []


def test_images_without_a_registry_must_be_on_a_node(api: Api) -> None:
    for one in api.objects["/api/v1/nodes"]["items"]:
        one["status"]["images"] = []
    missing = [one for one in examined() if one[0] == "missing"]
    assert [one[2].split()[0] for one in missing] == [STEPS_IMAGE, TRAIN_IMAGE]
    assert all("pin-images" in one[2] for one in missing)


def test_what_only_a_trainjob_needs_is_not_missing_without_one(api: Api) -> None:
    without(TRAINER)(api)
    api.denied.add(("create", "trainjobs"))
    found = [one for one in examined() if one[0] != "ok"]
    assert [one[:2] for one in found] == [("unneeded", "trainer"), ("unneeded", "rights")]


def test_pods_that_end_by_themselves_only_make_a_step_wait(api: Api) -> None:
    api.objects["/api/v1/pods"] = items(pod("a", "13", True), pod("b", "13", True))
    (found,) = [one for one in examined(**PAPER) if one[0] != "ok"]
    assert found[:2] == ("unchecked", "nodes")
    assert "wait until other pods have ended" in found[2]


def test_without_a_default_class_bound_claims_are_enough(api: Api) -> None:
    """And the overlay `prod`, whose servers claim nothing, needs none."""
    api.objects[CLASSES] = items()
    claim = {"metadata": {"name": "data"}, "spec": {}, "status": {"phase": "Bound"}}
    api.objects[CLAIMS] = items(claim)
    assert [one for one in examined() if one[0] == "missing"] == []
    claim["status"] = {"phase": "Pending"}
    assert [one[1] for one in examined() if one[0] == "missing"] == ["storage"]
    api.objects[CLAIMS], api.objects[SETS] = items(), items()
    assert [one[1] for one in examined() if one[0] == "unneeded"] == ["storage"]


def test_an_empty_cluster_is_told_what_to_do_first(api: Api) -> None:
    """In a namespace that does not exist, nothing else of it is asked."""
    without(HERE)(api)
    found = examined()
    assert [one[1] for one in found if one[0] == "missing"] == ["namespace"]
    assert not {"secrets", "addresses", "rights"} & {one[1] for one in found}


def test_what_this_login_may_not_read_is_unchecked(api: Api) -> None:
    """As for somebody who may only edit the namespace; nothing is missing, and 0 is the end."""
    for path in ("/api/v1/nodes", CLASSES, REVIEW):
        api.statuses[path] = 403
    found = [one for one in examined() if one[0] != "ok"]
    assert {one[0] for one in found} == {"unchecked"}
    assert [one[1] for one in found] == ["storage", "rights", "nodes", "images"]
    program.main(["doctor"])


READ = {  # what `doctor` asks the cluster for, and the lines that are unchecked without it
    "/version/": {"kubernetes"},
    HERE: {"namespace"},
    f"{HERE}/configmaps/stargan-environment": {"addresses"},
    f"{HERE}/configmaps/trainjobs": {"trainer"},
    f"{HERE}/serviceaccounts/pipeline-runner": {"rights"},
    **{f"{HERE}/secrets/{name}": {"secrets"} for name in drawn("postgres:5432")
       if name != "admin-s3"},
    f"{HERE}/secrets/admin-s3": {"secrets"},
    DEPLOYMENTS: {"secrets", "addresses", "storage"},
    SETS: {"secrets", "addresses", "storage"},
    JOBS: {"secrets", "addresses", "storage"},
    EVERY_DEPLOYMENT: set(),  # then only the own namespace is looked at
    CLASSES: {"storage"},
    CLAIMS: {"storage"},
    TRAINER: {"trainer"},
    f"{TRAINER}/namespaces/stargan/trainingruntimes/stargan": {"trainer"},
    REVIEW: {"rights"},
    QUOTAS: {"quota"},
    RANGES: {"quota"},
    PODS: set(),  # what a quota has left is then not known to last: the worst is assumed
    "/api/v1/nodes": {"nodes", "images"},
    "/api/v1/pods": {"nodes"},
}  # fmt: skip


@pytest.mark.parametrize("path", READ)
def test_whatever_this_login_may_not_read_is_unchecked_and_nothing_is_missing(
    path: str, api: Api
) -> None:
    """Each alone; the rest is examined as before."""
    before = {one for one in examined() if one[0] == "ok"}
    assert path in api.asked
    api.statuses[path] = 403
    found = examined()
    assert {one[1] for one in found if one[0] == "unchecked"} == READ[path]
    assert {one[0] for one in found} <= {"ok", "unchecked"}
    kept = {one for one in before if one[1] not in READ[path] | {"servers"}}
    assert kept <= set(found)


def test_the_table_of_what_is_read_is_complete(api: Api) -> None:
    """Every path that a run of `doctor` asks for, with a TrainJob as well."""
    for launcher in ("local", "trainjob"):
        examined(launcher=launcher, nodes=2, accelerators=0)
    assert api.asked - {HEALTH} == set(READ)


def test_profiles_have_another_account(api: Api) -> None:
    api.objects[HEALTH] = {"multi_user": True, "tag_name": "2.17.0"}
    (found,) = [one for one in examined() if one[0] == "missing"]
    assert found[1:] == ("account", found[2])
    assert found[2].startswith("default-editor;")


@pytest.mark.parametrize("kind", ["none", "closed", "login"])
def test_without_a_cluster_one_line_says_so(
    kind: str,
    api: Api,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT")
    if kind == "none":
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    elif kind == "closed":
        monkeypatch.setenv("KUBECONFIG", kubeconfig("http://127.0.0.1:9", tmp_path))
    else:
        api.statuses["/version/"] = 401
    with pytest.raises(SystemExit) as ended:
        program.main(["doctor"])
    assert ended.value.code == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("missing    kubernetes  no Kubernetes cluster: ")
    assert {"none": "KUBECONFIG", "closed": "does not answer", "login": "refuses the login"}[
        kind
    ] in line


def test_without_an_address_of_kubeflow_the_fix_is_named(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT")
    (found,) = [one for one in examined() if one[0] == "missing"]
    assert found[1] == "pipelines"
    assert "KF_PIPELINES_ENDPOINT is not set" in found[2]


def test_a_server_that_fails_ends_the_report(api: Api) -> None:
    """No traceback: the failure is the last line."""
    api.statuses[CLASSES] = 500
    assert examined()[-1][:2] == ("missing", "kubernetes")


def test_no_secret_is_printed(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    without_key("mlflow-server", "auth.ini")(api)
    with pytest.raises(SystemExit):
        program.main(["doctor"])
    said = capsys.readouterr().out
    for one in (value for key, value in api.objects.items() if "/secrets/" in key):
        for value in one["data"].values():
            assert not value or value not in said


def test_pages_that_do_not_lead_to_each_other_are_told_and_are_no_fault(api: Api) -> None:
    api.objects[f"{HERE}/configmaps/stargan-environment"]["data"]["MLFLOW_UI_ENDPOINT"] = ""
    found = [one for one in examined() if one[0] != "ok"]
    assert [one[:2] for one in found] == [("unneeded", "addresses")]
    assert "MLFLOW_UI_ENDPOINT empty: Kubeflow's and MLflow's pages" in found[0][2]
    assert "KF_PIPELINES" not in found[0][2]


def test_the_guide_takes_ten_lines_in_an_order_that_works() -> None:
    """Secrets after their namespace and before the servers; `kubectl apply` of a namespace that
    `kubectl create` has made would warn."""
    guide = (K8S.parent / "docs" / "how-to" / "cluster.md").read_text()
    block = guide.partition("## In ten lines")[2].partition("```\n")[2].partition("```")[0]
    assert 0 < len(block.splitlines()) <= 10
    order = ["make image", "apply -f k8s/base/namespace.yaml", "pipelines secrets", "endpointslice",
             "pipelines.manifests", "k8s/jobs/runtime.yaml", "rollout status", "pipelines doctor",
             "port-forward svc/mlflow", "export MLFLOW_TRACKING_URI",
             "pipelines submit"]  # fmt: skip
    places = [block.index(words) for words in order]
    assert places == sorted(places)
    assert "create namespace" not in block


def test_the_guides_line_exports_the_login_of_mlflow_that_was_drawn(
    api: Api, tmp_path: Path
) -> None:
    """With the real kubectl, which first asks an API server what it has."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    guide = (K8S.parent / "docs" / "how-to" / "cluster.md").read_text()
    line = re.search(r"export MLFLOW_TRACKING_URI=.*", guide)
    assert line is not None
    api.objects["/api"] = {"kind": "APIVersions", "versions": ["v1"]}
    api.objects["/apis"] = {"kind": "APIGroupList", "apiVersion": "v1", "groups": []}
    secrets = {"name": "secrets", "kind": "Secret", "namespaced": True, "verbs": ["get"]}
    api.objects["/api/v1"] = {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [secrets],
    }
    drawn = api.objects[f"{HERE}/secrets/stargan-mlflow"]
    drawn |= {"apiVersion": "v1", "kind": "Secret"}
    said = "echo $MLFLOW_TRACKING_URI $MLFLOW_TRACKING_USERNAME $MLFLOW_TRACKING_PASSWORD"
    done = subprocess.run(["bash", "-c", f"{line[0]}; {said}"], check=False, capture_output=True,
                          text=True, env={**os.environ, "HOME": str(tmp_path)})  # fmt: skip
    values = {key: b64decode(value).decode() for key, value in drawn["data"].items()}
    expected = [values["MLFLOW_TRACKING_USERNAME"], values["MLFLOW_TRACKING_PASSWORD"]]
    assert done.stdout.split() == ["http://127.0.0.1:5000", *expected], done.stderr

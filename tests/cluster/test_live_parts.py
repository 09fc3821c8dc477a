"""Without a cluster: what the live tests apply is valid, and they read what is said rightly."""

import json
import re
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

import admission
import probes
from kubectl import Object
from pipelines.credentials import drawn
from policies import opened
from trial import K8S, ROOT, Trial, claims, nightly, restoring, runtime, second, untagged, variable

API = (["10.0.0.1", "fd00::1"], 16443)
OTHER = Trial(
    namespace="faces", steps_image="r.io:5000/steps@sha256:0", train_image="r.io:5000/train:7",
    storage_class="fast",
)  # fmt: skip
pytestmark = pytest.mark.skipif(
    subprocess.run(["sh", "-c", "command -v kubectl"], capture_output=True).returncode != 0,
    reason="no genuine kustomize: kubectl is not installed",
)


def valid(*objects: Object) -> None:
    for one in objects:
        kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("trial", [Trial(), OTHER], ids=["default", "other"])
def test_the_overlay_of_any_cluster_is_valid(trial: Trial) -> None:
    objects = trial.objects(API)
    valid(*objects, *claims(objects))
    assert len(claims(objects)) == 2
    policies = {one["metadata"]["name"]: one["spec"] for one in objects
                if one["kind"] == "NetworkPolicy"}  # fmt: skip
    (rule,) = policies["steps-to-kubernetes"]["egress"]
    assert [peer["ipBlock"]["cidr"] for peer in rule["to"]] == ["10.0.0.1/32", "fd00::1/128"]
    assert [port["port"] for port in rule["ports"]] == [16443]


def test_nothing_of_another_namespaces_overlay_is_of_stargan() -> None:
    """Namespaces, images and storage classes; the runtime and the pipeline name its images."""
    text = yaml.safe_dump_all(OTHER.objects(API), width=10_000)
    assert not re.search(r"(namespace|kubernetes.io/metadata.name): stargan$", text, re.MULTILINE)
    assert not re.search(r"(image|policyName): stargan", text)
    assert text.count("storageClassName: fast") == 2
    assert re.search(r"^  image: r.io:5000/train$", text, re.MULTILINE)  # the admission policy's
    assert "image: r.io:5000/train:7" in yaml.safe_dump(runtime(OTHER))


def test_the_pipeline_is_submitted_with_the_clusters_images(tmp_path: Path) -> None:
    spec = next(yaml.safe_load_all(OTHER.package(tmp_path).read_text()))
    images = {one["container"]["image"] for one in spec["deploymentSpec"]["executors"].values()}
    assert images == {OTHER.steps_image, OTHER.train_image}


@pytest.mark.parametrize(
    ("image", "name"),
    [("a:1", "a"), ("r.io:5000/a", "r.io:5000/a"), ("r.io:5000/a:1@sha256:0", "r.io:5000/a")],
)
def test_an_images_name_has_no_tag_and_no_digest(image: str, name: str) -> None:
    assert untagged(image) == name


def test_a_placeholder_is_not_applied() -> None:
    with pytest.raises(ValueError, match=r"203\.0\.113\.1/32: an example"):
        Trial().objects((["203.0.113.1"], 6443))


def test_the_second_namespace_has_only_servers_and_mlflow_is_stopped() -> None:
    objects = second(OTHER, API, "live-restore")
    valid(*objects)
    outside = {one["kind"] for one in objects if "namespace" not in one["metadata"]}
    assert outside == {"Namespace"}
    assert {one["metadata"].get("namespace", "live-restore") for one in objects} == {"live-restore"}
    (mlflow,) = (one for one in objects if one["kind"] == "Deployment")
    assert mlflow["spec"]["replicas"] == 0


def test_a_restore_runs_the_guides_commands_with_the_administrators_key() -> None:
    """In the pods of the nightly backup, which reach Postgres and S3."""
    job = restoring(nightly(), "live-1", "20260101T000000Z@sha256:0")
    valid(job)
    pod = job["spec"]["template"]["spec"]
    (load,), (restore,) = pod["initContainers"], pod["containers"]
    guide = (ROOT / "docs" / "operate.md").read_text()
    assert " ".join(load["command"]).replace("20260101T000000Z@sha256:0", "LATEST") in guide
    assert len(restore["command"][-1].splitlines()) == 2
    assert all(line in guide for line in restore["command"][-1].splitlines())
    keys = {one["secretRef"]["name"] for one in load["envFrom"] if "secretRef" in one}
    assert keys == {"admin-s3"} <= drawn("postgres:5432").keys()
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert labels == probes.KINDS["backup"][0]


def test_a_probe_is_valid_under_the_restricted_standard() -> None:
    one = probes.pod("live-1", "stargan-steps:0.2.0", {"role": "free"}, probes.LISTENING)
    valid(one)
    (container,) = one["spec"]["containers"]
    assert one["spec"]["securityContext"]["runAsNonRoot"] is True
    assert one["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_a_probe_tells_open_refused_and_its_own_node() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        targets = {"free": server.getsockname(), "closed": unused.getsockname(),
                   "nobody": ("no.such.host.invalid", 1)}  # fmt: skip
        found = []
        for node in ("10.0.0.1", "127.0.0.1"):
            line = [sys.executable, *probes.trying(targets, 0)[1:]]
            found.append(json.loads(subprocess.check_output(line, env={"NODE": node})))
    assert found[0] == {"free": "open", "closed": "refused", "nobody": "refused"}
    assert found[1] == {"free": "own node", "closed": "refused", "nobody": "refused"}
    assert probes.differences(found[0], {"closed"}) == ["closed: refused", "free: open"]
    assert probes.differences(found[1], {"free"}) == probes.differences(found[1], set()) == []


def test_the_table_of_connections_is_what_the_policies_say() -> None:
    """Among the pods of the namespace; the labels of the servers are those of their services."""
    policies = [one for one in Trial().objects(API) if one["kind"] == "NetworkPolicy"]
    named = {"mlflow": "mlflow", "postgres": "postgres", "s3": "seaweedfs", "filer": "seaweedfs"}
    targets = {
        target: (("stargan", {"app.kubernetes.io/name": named[target]}), port)
        for target, (_, port) in probes.servers("stargan", API, []).items() if target in named
    }  # fmt: skip
    targets["trainer"] = (("stargan", probes.KINDS["trainer"][0]), probes.RANKS)
    for kind, (labels, reached) in probes.KINDS.items():
        source = ("stargan", labels)
        found = {name for name, target in targets.items() if opened(policies, source, *target)}
        assert found == reached - {"kubernetes"}, kind


@pytest.mark.parametrize("change", ["", *admission.JOBS])
def test_a_changed_job_is_denied_with_the_message_that_is_expected(change: str) -> None:
    """By the policy's own expressions; Trainer's official model has every field that changes."""
    job = admission.trainjob("stargan-train:0.2.0", change)
    assert TrainerV1alpha1TrainJob.from_dict(job).to_dict()["spec"] == job["spec"]
    policy = next(yaml.safe_load_all((K8S / "admission" / "trainjobs.yaml").read_text()))
    found = admission.refusals(policy, job)
    assert len(found) == bool(change)
    assert all(message.startswith(admission.JOBS[change][1]) for message in found)


@pytest.mark.parametrize("change", admission.RUNTIMES)
def test_a_changed_runtime_is_denied_with_the_message_that_is_expected(change: str) -> None:
    policy = next(yaml.safe_load_all((K8S / "admission" / "runtimes.yaml").read_text()))
    found = runtime(Trial())
    assert admission.refusals(policy, found) == set()
    alter, message = admission.RUNTIMES[change]
    (node,) = found["spec"]["template"]["spec"]["replicatedJobs"]
    alter(node["template"]["spec"]["template"]["spec"])
    (told,) = admission.refusals(policy, found)
    assert told.startswith(message)


def test_every_variable_and_its_default_are_in_the_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "tests" / "live" / "README.md").read_text()
    rows = dict(re.findall(r"^\| `(LIVE_\w+)` \| .* \| `?(.*?)`? \|$", text, re.MULTILINE))
    assert rows == {variable(f.name): str(f.default) or "empty" for f in fields(Trial)}
    monkeypatch.setenv("LIVE_RUN", "60")
    monkeypatch.setenv("LIVE_NAMESPACE", "")
    assert Trial.read() == Trial(run=60)
    monkeypatch.setenv("LIVE_RUN", "an hour")
    with pytest.raises(pytest.UsageError, match="LIVE_RUN=an hour: needs a whole number"):
        Trial.read()

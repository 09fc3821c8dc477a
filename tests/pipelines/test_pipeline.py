"""The compiled pipeline: up to date, valid, a straight line; and its command line."""

import dataclasses
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
import yaml
from google.protobuf import json_format
from kfp import components
from kfp.kubernetes import kubernetes_executor_config_pb2 as kubernetes_pb2
from kfp.pipeline_spec import pipeline_spec_pb2 as spec_pb2

from components.images import STEPS_IMAGE, TRAIN_IMAGE
from kfpruns import recorded
from pipelines import __main__ as program
from pipelines import compiled
from pipelines import submit as watch
from pipelines.arguments import parse
from pipelines.local.run import StepError
from training.core.config import Config
from training.core.files import sha256_bytes

ROOT = Path(__file__).parents[2]
CONTAINERFILE = ROOT / "components" / "Containerfile"
LOOP, PART = "for-loop-2", "preprocess-part"
LINE = ["resolve", "pull", "validate", "preprocess-plan", LOOP, "preprocess", "unify-labels",
        "judge", "train", "evaluate", "register", "promote"]  # fmt: skip
DIVIDED = ("preprocess-plan", LOOP)  # only in the pipeline with parts
DIGEST = "registry.example/stargan@sha256:" + "0" * 64


@pytest.fixture(scope="module", params=[compiled.PACKAGE, compiled.PARTS], ids=lambda p: p.stem)
def package(request: pytest.FixtureRequest) -> Path:
    """Each committed YAML."""
    path: Path = request.param
    return path


plainly = pytest.mark.parametrize("package", [compiled.PACKAGE], indirect=True)
divided = pytest.mark.parametrize("package", [compiled.PARTS], indirect=True)


@pytest.fixture(scope="module")
def documents(package: Path) -> list[dict[str, Any]]:
    """The pipeline and what Kubernetes adds."""
    found = list(yaml.safe_load_all(package.read_text()))
    assert len(found) == 2
    return found


@pytest.fixture(scope="module")
def line(package: Path) -> list[str]:
    """The tasks in their order."""
    return [name for name in LINE if package == compiled.PARTS or name not in DIVIDED]


@pytest.fixture(scope="module")
def steps(line: list[str]) -> list[str]:
    return [*(PART if name == LOOP else name for name in line), "report-status"]


@pytest.fixture(scope="module")
def tasks(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """The steps inside the exit handler."""
    pipeline = documents[0]
    handled = pipeline["root"]["dag"]["tasks"]["exit-handler-1"]["componentRef"]["name"]
    return dict(pipeline["components"][handled]["dag"]["tasks"])


@pytest.fixture(scope="module")
def part(documents: list[dict[str, Any]], tasks: dict[str, Any]) -> dict[str, Any]:
    """The only step inside the loop."""
    body = documents[0]["components"][tasks[LOOP]["componentRef"]["name"]]["dag"]["tasks"]
    assert list(body) == [PART]
    return dict(body[PART])


def test_the_committed_yaml_is_what_the_source_compiles_to(package: Path, tmp_path: Path) -> None:
    """In a fresh process with another hash seed; fix: python -m pipelines compile."""
    out = tmp_path / "stargan.yaml"
    parts = ["--parts"] if package == compiled.PARTS else []
    command = [sys.executable, "-m", "pipelines", "compile", *parts, "-o", str(out)]
    subprocess.run(command, check=True, cwd=tmp_path, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert out.read_bytes() == package.read_bytes()


def validate(documents: list[dict[str, Any]]) -> None:
    """Parse every part with the protobufs of the platform; raises ParseError."""
    pipeline, platform = documents
    json_format.ParseDict(pipeline, spec_pb2.PipelineSpec())
    for executor in pipeline["deploymentSpec"]["executors"].values():
        json_format.ParseDict(executor, spec_pb2.PipelineDeploymentConfig.ExecutorSpec())
    json_format.ParseDict(platform, spec_pb2.PlatformSpec())
    for executor in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        json_format.ParseDict(executor, kubernetes_pb2.KubernetesExecutorConfig())


def test_the_yaml_is_valid_for_the_platform(package: Path, documents: list[dict[str, Any]]) -> None:
    validate(documents)
    components.load_component_from_file(str(package))


@pytest.mark.parametrize("where", [(0,), (0, "deploymentSpec", "executors", "exec-train"), (1,)])
def test_the_validation_sees_an_unknown_field(
    documents: list[dict[str, Any]], where: tuple[Any, ...]
) -> None:
    broken = json.loads(json.dumps(documents))
    part = broken
    for key in where:
        part = part[key]
    part["surprise"] = 1
    with pytest.raises(json_format.ParseError, match="surprise"):
        validate(broken)


def test_the_steps_are_one_straight_line(tasks: dict[str, Any], line: list[str]) -> None:
    """Each waits for the one before, so that there is only one order; none is conditional."""
    assert set(tasks) == set(line)
    for before, step in itertools.pairwise(line):
        assert before in tasks[step]["dependentTasks"], step
        assert not tasks[step].get("triggerPolicy"), step
    assert "dependentTasks" not in tasks["resolve"]


@divided
def test_what_a_part_reads_comes_from_its_item_or_is_an_artifact(
    documents: list[dict[str, Any]], tasks: dict[str, Any], part: dict[str, Any]
) -> None:
    """An outer step's parameter inside a loop is silently another value in the local runner (only
    a cluster reads those for its pod), and a loop over a named output fails there."""
    items = {"pipelinechannel--preprocess-plan-Output": {"taskOutputParameter": {
        "outputParameterKey": "Output", "producerTask": "preprocess-plan"}}}  # fmt: skip
    given = tasks[LOOP]["inputs"]["parameters"]
    assert {name: given[name] for name in given if "-resolve-step_" not in name} == items
    assert part["inputs"]["artifacts"] == {
        "raw": {"componentInputArtifact": "pipelinechannel--pull-out"}
    }
    declared = documents[0]["components"]["comp-preprocess-part"]["inputDefinitions"]["parameters"]
    assert {name: part["inputs"]["parameters"][name] for name in declared} == {
        "item": {"componentInputParameter": "pipelinechannel--preprocess-plan-Output-loop-item"}
    }


@divided
def test_a_part_is_tried_again_and_cached_like_the_other_data_steps(
    tasks: dict[str, Any], part: dict[str, Any]
) -> None:
    for key in ("retryPolicy", "cachingOptions"):
        assert part[key] == tasks["preprocess"][key]


def test_artifacts_connect_the_steps(tasks: dict[str, Any], line: list[str]) -> None:
    """The source of each step's input artifacts."""
    edges = set()
    for step, task in tasks.items():
        for name, source in task.get("inputs", {}).get("artifacts", {}).items():
            output = source["taskOutputArtifact"]
            edges.add((output["producerTask"], output["outputArtifactKey"], step, name))
    assert edges == {
        ("pull", "out", "validate", "raw"),
        *(("pull", "out", LOOP, "pipelinechannel--pull-out") for one in line if one == LOOP),
        ("pull", "out", "preprocess", "raw"),
        ("preprocess", "out", "unify-labels", "images"),
        *(("unify-labels", "out", s, "dataset")
          for s in ("judge", "train", "evaluate", "register", "promote")),
        ("judge", "out", "evaluate", "judge"),
        ("judge", "out", "promote", "judge"),
        ("train", "out", "evaluate", "model"),
        ("train", "out", "register", "model"),
        ("train", "replicates", "promote", "replicates"),
        ("evaluate", "out", "register", "evaluation"),
        ("register", "out", "promote", "version"),
    }  # fmt: skip


POD = 10.1  # s for each pod of a cached run: 172 s for 17 (tests/plugins/kfp_runs/from-cache.json)


def pods_from_cache(pipeline: dict[str, Any], dag: dict[str, Any]) -> int:
    """Pods of a run whose steps all come from the cache, one after another.

    Kubeflow starts a driver for each graph, for each iteration of a loop (here one) and for each
    step; a step that is not cached has a second pod.
    """
    pods = 1
    for task in dag["tasks"].values():
        component = pipeline["components"][task["componentRef"]["name"]]
        if "dag" in component:
            pods += pods_from_cache(pipeline, component["dag"]) + ("parameterIterator" in task)
        else:
            pods += 1 if task["cachingOptions"].get("enableCache") else 2
    return pods


def test_a_run_from_the_cache_has_few_enough_pods_for_three_minutes(
    package: Path, documents: list[dict[str, Any]]
) -> None:
    """Argo looks at a workflow every 10 s. The loop has four pods more, for its plan, itself, its
    iteration and the part, and takes longer."""
    pods = pods_from_cache(documents[0], documents[0]["root"]["dag"])
    assert pods == {compiled.PACKAGE: 17, compiled.PARTS: 21}[package]
    assert (pods * POD <= 180) == (package == compiled.PACKAGE)


@plainly
def test_the_pods_of_a_real_run_from_the_cache_are_counted_so(
    documents: list[dict[str, Any]],
) -> None:
    """A recorded run of this pipeline on a real cluster; its length is that of its pods."""
    run = recorded("from-cache")[-1]
    nodes = run.run_details.task_details
    drivers = [one for one in nodes if str(one.display_name).endswith("-driver")]
    ran = [one for one in nodes if one.display_name == "executor" and one.state != "SKIPPED"]
    pods = pods_from_cache(documents[0], documents[0]["root"]["dag"])
    assert len(drivers) + len(ran) == pods
    assert (run.finished_at - run.created_at).total_seconds() == pytest.approx(pods * POD, abs=2)


def resolved(task: dict[str, Any]) -> dict[str, str]:
    """Parameter -> output of `resolve` that it comes from."""
    return {
        name: source["taskOutputParameter"]["outputParameterKey"]
        for name, source in task["inputs"].get("parameters", {}).items()
        if source.get("taskOutputParameter", {}).get("producerTask") == "resolve"
    }


def test_steps_that_must_always_run_are_never_cached(
    documents: list[dict[str, Any]], tasks: dict[str, Any]
) -> None:
    final = documents[0]["root"]["dag"]["tasks"]["report-status"]
    fresh = {
        name
        for name, task in tasks.items()
        if name != LOOP and not task["cachingOptions"].get("enableCache")
    }
    assert fresh == {"resolve", "register", "promote"}
    assert not final["cachingOptions"].get("enableCache")


def test_cache_keys_cover_data_and_code(tasks: dict[str, Any], line: list[str]) -> None:
    """The image's code is not part of the key, so its hash is an argument of each cached step."""
    assert resolved(tasks["pull"])["md5"] == "data_md5"
    for step in (
        "pull",
        "validate",
        *(one for one in line if one == "preprocess-plan"),
        "preprocess",
        "unify-labels",
        "train",
        "evaluate",
    ):
        assert resolved(tasks[step])["code_hash"] == "code_hash", step
    # The judge's hash covers its recipe: other code must not replace a frozen judge. Kubeflow's key
    # has the values of the pod's requests as well.
    given = {
        k for k in resolved(tasks["judge"]) if not k.startswith("pipelinechannel--resolve-step_")
    }
    assert given == {"judge_config", "judge_hash"}


def test_the_exit_handler_gets_the_final_status(documents: list[dict[str, Any]]) -> None:
    task = documents[0]["root"]["dag"]["tasks"]["report-status"]
    assert task["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    assert task["inputs"]["parameters"]["status"]["taskFinalStatus"] == {
        "producerTask": "exit-handler-1"
    }


def test_the_steps_run_in_the_two_images(documents: list[dict[str, Any]]) -> None:
    executors = documents[0]["deploymentSpec"]["executors"]
    found = {name.removeprefix("exec-"): e["container"]["image"] for name, e in executors.items()}
    train = {name for name, image in found.items() if image == TRAIN_IMAGE}
    assert train == {"judge", "train", "evaluate", "promote"}
    assert {image for name, image in found.items() if name not in train} == {STEPS_IMAGE}


def test_steps_get_the_name_of_the_run_from_their_pod(documents: list[dict[str, Any]]) -> None:
    """For MLflow and for what an earlier attempt refused; an argument would give every run new
    cache keys."""
    executors = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    label = {"name": "PIPELINE_RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"}
    named = {n for n, e in executors.items() if label in e.get("fieldPathAsEnv", ())}
    assert named == set(documents[0]["deploymentSpec"]["executors"])


def test_steps_get_their_own_name(package: Path, documents: list[dict[str, Any]]) -> None:
    """Under which a failed one leaves its reason: that of `submit --wait`."""
    for name, one in documents[0]["deploymentSpec"]["executors"].items():
        step = {"name": "PIPELINE_STEP", "value": name.removeprefix("exec-")}
        assert step in one["container"]["env"]
    assert {f"exec-{step}" for step in compiled.steps(package)} == set(
        documents[0]["deploymentSpec"]["executors"]
    )


def settings(documents: list[dict[str, Any]], step: str) -> dict[str, Any]:
    """The Kubernetes settings of a step."""
    return dict(
        documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"][f"exec-{step}"]
    )


def test_the_training_requests_accelerators_memory_and_time(
    documents: list[dict[str, Any]], tasks: dict[str, Any]
) -> None:
    """Kind and number are parameters; NCCL's shared memory is mounted; a lost pod is retried."""
    wanted = documents[0]["deploymentSpec"]["executors"]["exec-train"]["container"]["resources"]
    assert "pipelinechannel--accelerator" in wanted["accelerator"]["resourceType"]
    count = wanted["accelerator"]["resourceCount"]
    assert "pipelinechannel--resolve-accelerator_count" in count
    # kfp does not pass a parameter that only a resource uses through the exit handler.
    inner = documents[0]["components"]["comp-exit-handler-1"]["inputDefinitions"]["parameters"]
    assert {f"pipelinechannel--{n}" for n in ("accelerator", "node_selector")} <= (inner.keys())
    given = settings(documents, "train")
    memory = {"mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "8Gi", "volumeName": "dshm"}
    assert memory in given["emptyDirMounts"]
    tolerated = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert given["tolerations"] == [tolerated]
    assert "node_selector" in json.dumps(given["nodeSelector"])
    assert int(given["activeDeadlineSeconds"]) == 3 * 86_400
    assert tasks["train"]["retryPolicy"]["maxRetryCount"] == 3


@pytest.mark.parametrize("step", ["judge", "evaluate", "promote"])
def test_other_steps_that_run_networks_go_to_the_same_nodes(
    documents: list[dict[str, Any]], step: str
) -> None:
    given, training = settings(documents, step), settings(documents, "train")
    for key in ("tolerations", "nodeSelector"):
        assert given[key] == training[key]


@pytest.mark.parametrize(
    ("step", "number"),
    [("train", "accelerator_count"),
     *((step, "step_accelerator_count") for step in ("judge", "evaluate", "promote"))],
)  # fmt: skip
def test_kind_and_number_of_accelerators_reach_kubeflow_as_texts(
    documents: list[dict[str, Any]], tasks: dict[str, Any], step: str, number: str
) -> None:
    """Its driver takes the text of the input that a placeholder names; a number has none, and the
    pod would silently get no accelerator."""
    wanted = documents[0]["deploymentSpec"]["executors"][f"exec-{step}"]["container"]["resources"]
    inputs = tasks[step]["inputs"]["parameters"]
    given = documents[0]["root"]["inputDefinitions"]["parameters"]
    for field, source in (("resourceType", "accelerator"), ("resourceCount", number)):
        (name,) = re.findall(r"inputs\.parameters\['(.+?)'\]", wanted["accelerator"][field])
        if producer := inputs[name].get("taskOutputParameter"):
            assert producer == {"outputParameterKey": source, "producerTask": "resolve"}
            made = documents[0]["components"]["comp-resolve"]["outputDefinitions"]["parameters"]
            kind = made[source]["parameterType"]
        else:
            assert inputs[name]["componentInputParameter"] == f"pipelinechannel--{source}"
            kind = given[source]["parameterType"]
        assert kind == "STRING", field


def test_secrets_come_only_from_named_secrets(
    documents: list[dict[str, Any]], steps: list[str]
) -> None:
    """The names, and their keys, are those of k8s/."""
    given = yaml.safe_load_all((ROOT / "k8s" / "secrets.example.yaml").read_text())
    secrets = {one["metadata"]["name"]: one["stringData"] for one in given}
    addresses = yaml.safe_load((ROOT / "k8s" / "base" / "steps" / "environment.yaml").read_text())
    for step in steps:
        found = settings(documents, step)
        for row in found["secretAsEnv"]:
            keys = {pair["secretKey"] for pair in row["keyToEnv"]}
            assert keys <= secrets[row["secretName"]].keys(), step
        (row,) = found["configMapAsEnv"]
        assert row["configMapName"] == addresses["metadata"]["name"]
        assert {pair["configMapKey"] for pair in row["keyToEnv"]} == addresses["data"].keys()


def test_a_run_ends_and_its_objects_are_deleted(
    documents: list[dict[str, Any]], tasks: dict[str, Any]
) -> None:
    """But not before every try of the training step has had its time."""
    limits = documents[1]["platforms"]["kubernetes"]["pipelineConfig"]
    tries = tasks["train"]["retryPolicy"]["maxRetryCount"] + 1
    assert limits["activeDeadlineSeconds"] > tries * int(
        settings(documents, "train")["activeDeadlineSeconds"]
    )
    assert limits["resourceTtlOnCompletion"] == 7 * 86_400


def test_no_step_runs_as_root(documents: list[dict[str, Any]], steps: list[str]) -> None:
    """As the images' user; a restricted namespace refuses pods that do not set it."""
    users = set(re.findall(r"^USER (\d+):(\d+)$", CONTAINERFILE.read_text(), re.MULTILINE))
    ((user, group),) = users
    wanted = {"runAsUser": user, "runAsGroup": group, "runAsNonRoot": True}
    for step in steps:
        assert settings(documents, step)["securityContext"] == wanted, step


def test_a_step_with_a_node_cache_variable_mounts_the_cache(
    documents: list[dict[str, Any]], steps: list[str]
) -> None:
    """The images' user cannot create folders under /."""
    place = yaml.safe_load((ROOT / "k8s" / "base" / "steps" / "environment.yaml").read_text())
    place = place["data"]["NODE_CACHE"]
    informed = set()
    for step in steps:
        given = settings(documents, step)
        keys = {pair["configMapKey"] for row in given["configMapAsEnv"] for pair in row["keyToEnv"]}
        if "NODE_CACHE" in keys:
            informed.add(step)
            assert place in {mount["mountPath"] for mount in given["emptyDirMounts"]}, step
    assert "register" in informed


@pytest.mark.parametrize("bad", ["gpu", "[1]", "{"])
def test_a_node_selector_is_a_json_object(bad: str) -> None:
    assert arguments('node_selector={"pool": "gpu"}')["node_selector"] == {"pool": "gpu"}
    with pytest.raises(ValueError, match="a JSON object is needed"):
        arguments(f"node_selector={bad}")


def test_a_release_changes_the_images_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "pinned.yaml"
    steps, train = DIGEST, DIGEST.replace("/stargan@", "/train@")
    program.main(["pin-images", "--steps", steps, "--train", train, "-o", str(out)])
    text = out.read_text()
    assert text.replace(steps, STEPS_IMAGE).replace(train, TRAIN_IMAGE) == (
        compiled.PACKAGE.read_text()
    )
    assert STEPS_IMAGE not in text
    assert TRAIN_IMAGE not in text
    validate(list(yaml.safe_load_all(text)))


@plainly
def test_the_objects_for_kubernetes_are_the_same_pipeline_pinned_or_not(
    documents: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Kubeflow's two kinds, by name; a version's name is that of its content."""
    plain, pinned = tmp_path / "objects.yaml", tmp_path / "pinned.yaml"
    program.main(["compile", "--kubernetes", "faces", "-o", str(plain)])
    program.main(["pin-images", "--steps", DIGEST, "--train", DIGEST, "-f", str(plain),
                  "-o", str(pinned)])  # fmt: skip
    pipeline, version = yaml.safe_load_all(plain.read_text())
    for one, kind in ((pipeline, "Pipeline"), (version, "PipelineVersion")):
        assert (one["apiVersion"], one["kind"]) == ("pipelines.kubeflow.org/v2beta1", kind)
        assert one["metadata"]["namespace"] == "faces"
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"] == "stargan"
    name = f"stargan-{sha256_bytes(compiled.PACKAGE.read_bytes())[:12]}"
    assert version["metadata"]["name"] == name
    given = [version["spec"]["pipelineSpec"], version["spec"]["platformSpec"]]
    validate(given)
    assert given == documents
    text = pinned.read_text()
    assert DIGEST in text
    _, version = yaml.safe_load_all(text)
    text = text.replace(version["metadata"]["name"], name).replace(DIGEST, "")
    assert text == plain.read_text().replace(STEPS_IMAGE, "").replace(TRAIN_IMAGE, "")


def test_a_pinned_version_has_a_name_of_its_own_for_each_pair_of_images(tmp_path: Path) -> None:
    """Kubernetes refuses another content of an applied version's name; the same keeps its name."""
    plain, names = tmp_path / "objects.yaml", []
    compiled.write(kubernetes="faces", output=plain)
    other = DIGEST.replace(64 * "0", 64 * "1")
    for number, steps in enumerate((DIGEST, other, DIGEST)):
        pinned = tmp_path / f"{number}.yaml"
        compiled.pin(steps=steps, train=DIGEST, output=pinned, package=plain)
        _, version = yaml.safe_load_all(pinned.read_text())
        names.append(version["metadata"]["name"])
        assert version["spec"]["displayName"] == names[-1]
    assert names[0] == names[2] != names[1]
    assert plain.read_text().count(names[0]) == 0
    assert all(re.fullmatch("stargan-[0-9a-f]{12}", name) for name in names)


def test_the_committed_pipeline_is_not_replaced_by_objects() -> None:
    with pytest.raises(ValueError, match="give --output"):
        compiled.write(kubernetes="faces")


def test_a_release_pins_every_image_that_it_uses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"--train '': not a digest.* for {TRAIN_IMAGE}"):
        compiled.pin(steps=DIGEST, output=tmp_path / "x.yaml")
    with pytest.raises(ValueError, match="give --steps and --train"):
        compiled.pin(output=tmp_path / "x.yaml")
    assert not (tmp_path / "x.yaml").exists()


@pytest.mark.parametrize("bad", ["stargan:latest", "stargan@sha256:12", "@sha256:" + "0" * 64])
def test_a_release_without_a_digest_is_refused(tmp_path: Path, bad: str) -> None:
    with pytest.raises(ValueError, match="not a digest"):
        compiled.pin(steps=bad, train=DIGEST, output=tmp_path / "x.yaml")
    assert not (tmp_path / "x.yaml").exists()


# The command line


def arguments(*pairs: str) -> dict[str, Any]:
    return parse(list(pairs), compiled.parameters())


def test_parameters_get_their_types_and_fields_become_overrides() -> None:
    given = arguments("nproc=2", "name=faces", "batch=8", "model.lambda_rec=5", "data.size=32")
    assert given == {
        "nproc": 2,
        "name": "faces",
        "overrides": "train.batch=8;model.lambda_rec=5;data.size=32",
    }


def test_a_field_is_added_to_overrides() -> None:
    given = arguments("overrides=train.batch=8; train.seed=3", "train.batch=4")
    assert given["overrides"] == "train.batch=4;train.seed=3"


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("epochs=3", ["unknown key 'epochs'", "images", "lambda_rec", "parameters: ", "nproc"]),
        ("train.lambda_rec=3", ["unknown key 'train.lambda_rec'"]),
        ("nproc=two", ["nproc='two'", "a whole number"]),
        ("batch=many", ["train.batch='many'", "a whole number, at least 1"]),
        ("preset=huge", ["unknown preset 'huge'", "demo-joint", "celeba-128"]),
        ("model=gan", ["unknown model 'gan'", "stargan"]),
        ("overrides=epochs=3", ["unknown key 'epochs'"]),
        ("data.interpolation=a;b", ["semicolon"]),
        ("nproc", ["key=value"]),
        ("data.split=random", ["split='random'", "official"]),
    ],
)
def test_a_wrong_key_is_refused_with_the_known_ones(pair: str, words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"(?s)" + ".*".join(map(re.escape, words))):
        arguments(pair)


def test_overrides_take_bare_names_of_settings() -> None:
    """As the guide says of the plain `kfp` command, which passes only `overrides` itself."""
    given = arguments("overrides=seed=1;batch=8")
    shown = json.loads(program.describe(given, compiled.parameters()))
    assert (shown["config"]["train"]["seed"], shown["config"]["train"]["batch"]) == (1, 8)


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="nproc is given twice"):
        arguments("nproc=1", "nproc=2")


def test_a_dry_run_prints_the_whole_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    program.main(["run", "--dry-run", "preset=demo-joint", "datasets=rafd", "seed=4"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["config"].keys() == {f.name for f in dataclasses.fields(Config)}
    assert shown["config"]["data"]["datasets"] == ["rafd"]
    assert shown["config"]["train"]["seed"] == 4
    assert shown["parameters"]["nproc"] == 1


def test_a_usage_error_is_one_line_and_exit_code_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "run", "epochs=3"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown key 'epochs'")
    assert done.stderr.count("\n") == 1


def test_a_failed_run_ends_with_1_and_names_step_and_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failed validation's report is copied to the report folder."""
    from pipelines.local import run as local

    folder = tmp_path / "kfp" / "validate"
    folder.mkdir(parents=True)
    (folder / "report").write_text("<html>why</html>")
    run = local.LocalRun("r", tmp_path, 11, failure="step validate failed: ValueError: 3 torn")
    run.folders["validate"] = folder

    def fail(*_: object, **__: object) -> None:
        raise StepError(run)

    monkeypatch.setattr(local, "execute", fail)
    with pytest.raises(SystemExit) as ended:
        program.run()
    assert ended.value.code == 1
    output = capsys.readouterr().err
    assert "error: step validate failed: ValueError: 3 torn" in output
    assert f"report: {tmp_path}/report/r/validate.html" in output
    assert (tmp_path / "report/r/validate.html").read_text() == "<html>why</html>"


@pytest.mark.timeout(120)
def test_a_default_changed_in_the_yaml_changes_what_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Only the compiled file has defaults: none is in the program that runs it."""
    text = compiled.PACKAGE.read_text()
    assert text.count("defaultValue: demo\n") == 1
    edited = tmp_path / "edited.yaml"
    edited.write_text(text.replace("defaultValue: demo\n", "defaultValue: dome\n"))
    monkeypatch.setattr(compiled, "PACKAGE", edited)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        program.run()
    assert ended.value.code == 1
    output = capfd.readouterr().err
    assert "step resolve failed: unknown preset 'dome' of stargan; known: demo," in output


# Submission, with the real `kfp` program against a server that implements what it needs.


class Server(BaseHTTPRequestHandler):
    """Health, experiments and runs of the Kubeflow Pipelines API; records the created run."""

    runs: list[dict[str, Any]]
    later: list[dict[str, Any]]  # the run at each further poll; the last one stays
    calls: list[str]  # paths with their queries
    NOW = "2026-11-01T00:00:00Z"

    def experiment(self) -> dict[str, str]:
        return {"experiment_id": "e1", "display_name": "faces", "created_at": self.NOW}

    def created(self) -> dict[str, Any]:
        name = f"r{len(self.runs)}"
        made = {**self.runs[-1], "run_id": name, "state": "PENDING", "created_at": self.NOW}
        if self.command == "GET" and self.later:
            made |= self.later.pop(0) if len(self.later) > 1 else self.later[0]
        return made

    def answer(self, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.calls.append(self.path)
        path = self.path.split("?")[0]
        if path.endswith("/healthz"):
            self.answer({"multi_user": False})
        elif path.endswith("/experiments"):
            self.answer({"experiments": [self.experiment()]})
        elif "/experiments/" in path:
            self.answer(self.experiment())
        else:
            self.answer(self.created())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.runs.append(body)
        self.answer(self.created())

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def later() -> list[dict[str, Any]]:
    """The server's run at each poll."""
    return []


@pytest.fixture
def calls() -> list[str]:
    """Requested paths with their queries."""
    return []


@pytest.fixture
def server(
    later: list[dict[str, Any]], calls: list[str]
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    runs: list[dict[str, Any]] = []
    handler = type("Handler", (Server,), {"runs": runs, "later": later, "calls": calls})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}", runs
        http.shutdown()


def submit(endpoint: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines", "submit", *words],
        capture_output=True, text=True, cwd=ROOT, timeout=300,
        env={**os.environ, "KF_PIPELINES_ENDPOINT": endpoint},
    )  # fmt: skip


@pytest.mark.server
def test_submit_sends_the_committed_pipeline(
    server: tuple[str, list[dict[str, Any]]], package: Path, documents: list[dict[str, Any]]
) -> None:
    """Text that looks like a number arrives as text, numbers as numbers; the pipeline with parts
    is sent if there are several."""
    endpoint, runs = server
    more = {compiled.PACKAGE: "", compiled.PARTS: ";preprocess.workers=3"}[package]
    done = submit(
        endpoint, "-e", "faces", "revision=1e5", "name=1.0", "nproc=2", "batch=8", "override=true",
        *more.split(";")[1:],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = runs
    assert run["runtime_config"]["parameters"] == {
        "revision": "1e5",
        "name": "1.0",
        "nproc": 2,
        "overrides": f"train.batch=8{more}",
        "override": "true",
    }
    assert run["pipeline_spec"] == {"pipeline_spec": documents[0], "platform_spec": documents[1]}
    assert run["experiment_id"] == "e1"
    assert done.stdout.startswith(f"kfp run submit -e faces -f pipelines/{package.name} ")


@pytest.mark.server
def test_submit_creates_the_run_in_the_namespace_of_a_profile(
    server: tuple[str, list[dict[str, Any]]], calls: list[str]
) -> None:
    """The experiment is looked up there; the run is its experiment's."""
    done = submit(server[0], "--namespace", "faces", "preset=smoke")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("kfp --namespace faces run submit ")
    (looked,) = [path for path in calls if "/experiments?" in path]
    assert parse_qs(urlparse(looked).query)["namespace"] == ["faces"]
    assert len(server[1]) == 1


@pytest.mark.server
def test_the_documented_kfp_commands_are_accepted_by_the_real_program(
    server: tuple[str, list[dict[str, Any]]],
) -> None:
    """Those of README and guide; the YAML pinned to digests is submitted like the committed one."""
    pages = ((ROOT / name).read_text().replace("\\\n", " ") for name in ("README.md",
             "docs/how-to/cluster.md"))  # fmt: skip
    lines = [line for page in pages for line in re.findall(r"^kfp .*", page, re.MULTILINE)]
    assert len(lines) == 2
    for line in lines:
        words = shlex.split(line, comments=True)
        words[words.index("-f") + 1] = str(compiled.PACKAGE)
        done = subprocess.run(
            [str(Path(sys.executable).with_name(words[0])), *words[1:]],
            capture_output=True, text=True, timeout=120,
            env={**os.environ, "KF_PIPELINES_ENDPOINT": server[0]},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        sent = server[1][-1]["runtime_config"]["parameters"]
        assert (sent["preset"], sent["nproc"]) == ("celeba-128", 4)


@pytest.mark.server
def test_submit_refuses_unknown_keys_before_anything_is_sent(
    server: tuple[str, list[dict[str, Any]]],
) -> None:
    done = submit(server[0], "epochs=3")
    assert (done.returncode, server[1]) == (2, [])
    assert "unknown key 'epochs'" in done.stderr


def task(name: str, state: str, message: str = "") -> dict[str, Any]:
    return {"display_name": name, "state": state, "error": {"code": 2, "message": message}}


@pytest.mark.server
@pytest.mark.parametrize(
    ("end", "code"), [("SUCCEEDED", 0), ("SKIPPED", 0), ("FAILED", 1), ("CANCELED", 1)]
)
def test_submit_waits_for_the_end_and_exits_by_it(
    server: tuple[str, list[dict[str, Any]]], later: list[dict[str, Any]], end: str, code: int
) -> None:
    """Failed tasks are named with the server's message; the run's page is printed at once."""
    failed = end == "FAILED"
    last = task("train", end, "out of memory" if failed else "")
    later += [
        {"state": "PENDING"},
        {"state": "RUNNING", "run_details": {"task_details": [task("pull", "RUNNING")]}},
        {"state": end, "run_details": {"task_details": [task("pull", "SUCCEEDED"), last]}},
    ]
    done = submit(server[0], "--wait", "preset=smoke")
    assert done.returncode == code, done.stderr
    lines = done.stdout.splitlines()
    assert f"page      {server[0]}/#/runs/details/r1" in lines
    changes = [line[10:] for line in lines if re.match(r"\d\d:\d\d:\d\d  ", line)]
    assert [(line[:24].strip(), line[25:]) for line in changes] == [
        ("Pull raw data", "running"),
        ("Pull raw data", "succeeded"),
        ("Train model", end.lower()),
    ]
    assert f"run       {end.lower()}" in lines
    assert ("failed    Train model (train): out of memory" in lines) == failed


def test_an_unavailable_server_is_retried_and_a_refusal_is_final() -> None:
    from kfp_server_api import ApiException, V2beta1Run

    answers: list[Any] = [OSError("refused"), ApiException(status=503), V2beta1Run(state="FAILED")]
    reported: list[str] = []

    def get_run() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert watch.follow(get_run, reported.append, {}, every=0.0).state == "FAILED"
    assert [line for line in reported if "retrying" in line] == reported[:2]
    answers += [ApiException(status=403), V2beta1Run(state="SUCCEEDED")]
    with pytest.raises(ApiException):
        watch.follow(get_run, reported.append, {}, every=0.0)
    answers[:] = [OSError("refused")] * 4
    with pytest.raises(OSError, match="refused"):
        watch.follow(get_run, reported.append, {}, every=0.001, patience=0.002)


@pytest.mark.server
def test_a_lost_run_is_submitted_again_and_a_mistake_is_not(
    server: tuple[str, list[dict[str, Any]]], later: list[dict[str, Any]],
    empty_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """In MLflow the first run's last step found no reason, the second's one."""
    from mlflow import MlflowClient

    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.create_experiment("stargan")
    for name, found in (("r1", {}), ("r2", {"failed.train": "labels.csv: row 3"})):
        tags = {"pipeline_run": name, "role": "pipeline", "failed_steps_asked": str(len(found))}
        client.create_run(experiment, tags=tags | found)
    lost = {"state": "FAILED", "run_details": {"task_details": [
        {"display_name": "train", "state": "FAILED"}]}}  # fmt: skip
    later += [{"state": "PENDING"}, lost, {"state": "PENDING"}, lost]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    done = submit(server[0], "--wait", "--resubmit", "3", "preset=smoke")
    assert done.returncode == 1, done.stderr
    assert len(server[1]) == 2
    first, _, second = done.stdout.partition("submitted again, 1 of 3 times")
    assert "failed    Train model (train): it left no reason" in first
    assert "failed    Train model (train): labels.csv: row 3\n" in second


@pytest.mark.parametrize(
    ("words", "uri", "fix"),
    [([], "http://mlflow", "add --wait"), (["--wait"], "", "set MLFLOW_TRACKING_URI")],
)
def test_resubmit_is_refused_if_it_could_not_tell_a_mistake(
    words: list[str], uri: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ValueError, match=fix):
        program.main(["submit", "--resubmit", "1", *words, "preset=smoke"])


def test_submit_without_a_server_reports_the_address() -> None:
    done = submit("http://127.0.0.1:9", "preset=smoke")
    assert done.returncode == 2
    assert "http://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr

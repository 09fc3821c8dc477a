"""What a run asks of a cluster: by its preset or as told, as text, and within a small node."""

import functools
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.utils.quantity import parse_quantity

from pipelines import compiled
from pipelines.arguments import parse
from pipelines.local.cache import ContentCache
from pipelines.manifests import build
from training.core import pods

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "how-to" / "cluster.md"
PLACEHOLDER = re.compile(r"\{\{\$\.inputs\.parameters\['pipelinechannel--(?:resolve-)?(\w+)'\]\}\}")
WANTED = ("step_cpu", "step_memory", "train_cpu", "train_memory", "launcher", "accelerators")
# Kubeflow Pipelines (backend/src/v2/compiler/argocompiler/container.go): beside a step's container
# an init container and Argo's `init` and `wait`, which request nothing; before it a driver.
LAUNCHER = {"requests": {"cpu": "0.1"}, "limits": {"memory": "128Mi"}}
DRIVER = {"requests": {"cpu": "0.1", "memory": "64Mi"}}
Object = dict[str, Any]
Sum = tuple[float, float]  # CPUs, GiB


@pytest.fixture(scope="module", params=[compiled.PACKAGE, compiled.PARTS], ids=lambda p: p.stem)
def pipeline(request: pytest.FixtureRequest) -> Object:
    found: Object = next(yaml.safe_load_all(request.param.read_text()))
    return found


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    """The overlay `dev`."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed; it builds the overlays")
    return list(yaml.safe_load_all(build(ROOT / "k8s" / "overlays" / "dev")))


def executors(pipeline: Object) -> Iterator[tuple[str, Object]]:
    for name, executor in pipeline["deploymentSpec"]["executors"].items():
        yield name.removeprefix("exec-"), executor["container"]["resources"]


def requested(resources: Object, defaults: Object) -> Sum:
    """Of one container: Kubernetes takes a limit for a missing request, then the LimitRange."""
    asked = defaults | resources.get("limits", {}) | resources.get("requests", {})
    return float(parse_quantity(asked["cpu"])), float(parse_quantity(asked["memory"])) / 2**30


def total(parts: Iterable[Sum]) -> Sum:
    rows = list(parts)
    return sum(cpu for cpu, _ in rows), sum(memory for _, memory in rows)


def pod(containers: list[Object], first: list[Object], defaults: Object) -> Sum:
    """Of a pod: its containers together, or its largest init container."""
    rows = [total(requested(one, defaults) for one in containers)]
    rows += [requested(one, defaults) for one in first]
    return max(cpu for cpu, _ in rows), max(memory for _, memory in rows)


def servers(objects: list[Object], defaults: Object) -> Iterator[Sum]:
    """Every pod of the overlay, that of the nightly backup included."""
    for item in objects:
        spec = item.get("spec", {})
        template = spec.get("jobTemplate", {}).get("spec", spec).get("template", {})
        if containers := template.get("spec", {}).get("containers"):
            first = template["spec"].get("initContainers", ())
            one = pod(
                [c["resources"] for c in containers], [c["resources"] for c in first], defaults
            )
            for _ in range(spec.get("replicas", 1)):
                yield one


def step_pods(pipeline: Object, values: dict[str, str], defaults: Object) -> Iterator[Sum]:
    """The pods of each step, and of a driver; only one of them exists at a time."""
    yield pod([DRIVER, {}], [{}], defaults)
    for _, found in executors(pipeline):
        filled = {
            key: values[match[1]] if (match := PLACEHOLDER.fullmatch(str(text))) else text
            for key, text in found.items()
        }
        main = {
            "requests": {"cpu": filled["resourceCpuRequest"],
                         "memory": filled["resourceMemoryRequest"]},
            "limits": {"memory": filled["resourceMemoryLimit"]},
        }  # fmt: skip
        yield pod([main, {}], [LAUNCHER, {}], defaults)


def requests(*pairs: str) -> dict[str, str]:
    """What `resolve` returns for these arguments of the committed pipeline."""
    known = compiled.parameters()
    given = {name: p.default for name, p in known.items()} | parse(list(pairs), known)
    return pods.requests(given["preset"], **{n: given[n] for n in WANTED})._asdict()


def default_requests(objects: list[Object]) -> Object:
    (limits,) = (item["spec"]["limits"][0] for item in objects if item["kind"] == "LimitRange")
    found: Object = limits["defaultRequest"]
    return found


def said(cpu: float, memory: float, *, where: str) -> bool:
    """Whether the guide gives these sums after the words `where`, and they are small enough."""
    found = re.search(rf"{where} at most ([\d.]+) CPUs and ([\d.]+) GiB", GUIDE.read_text())
    assert found
    assert (f"{cpu:.2f}", f"{memory:.2f}") == found.groups()
    return cpu <= 2 and memory <= 4


@pytest.mark.parametrize("preset", ["smoke", "demo"])
def test_all_that_the_namespace_requests_at_once_is_two_cpus_and_four_gib_at_most(
    pipeline: Object, objects: list[Object], preset: str
) -> None:
    """Servers, backup and the largest step of a run that trains in its pod: as the guide says."""
    defaults = default_requests(objects)
    steps = list(step_pods(pipeline, requests(f"preset={preset}"), defaults))
    largest = max(cpu for cpu, _ in steps), max(memory for _, memory in steps)
    cpu, memory = total([*servers(objects, defaults), largest])
    assert said(cpu, memory, where=f"with `preset={preset}`")


def test_so_it_is_with_a_trainjob_of_one_node(pipeline: Object, objects: list[Object]) -> None:
    """The step's pod follows the training pod; the other steps run before and after."""
    defaults = default_requests(objects)
    follower = requests("preset=smoke", "launcher=trainjob")
    steps = list(step_pods(pipeline, follower, defaults))
    one = pods.trainer("smoke")
    node = requested({"requests": {"cpu": one.cpu, "memory": one.memory}}, defaults)
    main = {"cpu": follower["train_cpu"], "memory": follower["train_memory"]}
    training = total([pod([{"requests": main}, {}], [LAUNCHER, {}], defaults), node])
    largest = max(cpu for cpu, _ in [*steps, training]), max(m for _, m in [*steps, training])
    cpu, memory = total([*servers(objects, defaults), largest])
    assert said(cpu, memory, where="with one node of a TrainJob")


@pytest.mark.parametrize(("column", "preset"), [(2, "demo"), (3, "smoke")])
def test_no_measured_peak_is_above_what_its_pod_requests(column: int, preset: str) -> None:
    """The peaks of the guide's table, MiB, of a step's processes together."""
    rows = re.findall(
        r"^\| ([a-z][\w-]+)[^|]*\|([^|]*)\|([^|]*)\|([^|]*)\|$", GUIDE.read_text(), re.M
    )
    peaks = [
        (name, int(number.replace(",", "")))
        for name, *cells in rows
        if name in {"resolve", "judge", "train", "evaluate", "register", "promote"}
        for number in re.findall(r"\b\d[\d,]*\b", re.sub(r"\(.*?\)", "", cells[column - 1]))[:1]
    ]
    assert {name for name, _ in peaks} >= {"judge", "train", "evaluate"}
    for name, peak in peaks:
        pod = pods.trainer(preset) if name == "train" else pods.step(preset)
        assert 40 < peak < parse_quantity(pod.memory) / 2**20, name


def test_the_larger_presets_do_not_fit_there(pipeline: Object) -> None:
    """The sum sees what a step requests."""
    defaults = {"cpu": "50m", "memory": "64Mi"}
    steps = list(step_pods(pipeline, requests("preset=celeba-128"), defaults))
    assert max(steps) == (4.05, 16.0625)


def test_every_step_requests_cpu_and_memory_and_limits_its_memory(pipeline: Object) -> None:
    for name, found in executors(pipeline):
        keys = {"resourceCpuRequest", "resourceMemoryRequest", "resourceMemoryLimit"}
        assert keys <= found.keys(), name
        assert ("accelerator" in found) == (name in {"judge", "train", "evaluate", "promote"})


def test_kubeflow_gets_every_resource_as_text(pipeline: Object) -> None:
    """Its driver takes a number for empty text, and then asks for no accelerator at all."""
    results = pipeline["components"]["comp-resolve"]["outputDefinitions"]["parameters"]
    inputs = pipeline["root"]["inputDefinitions"]["parameters"]
    kinds = {n: row["parameterType"] for n, row in {**inputs, **results}.items()}
    used = set(PLACEHOLDER.findall(str([found for _, found in executors(pipeline)])))
    assert used == {*pods.Requests._fields, "accelerator"}
    assert {kinds[name] for name in used} == {"STRING"}


def test_a_resources_value_reaches_the_step_in_the_loop() -> None:
    pipeline = next(yaml.safe_load_all(compiled.PARTS.read_text()))
    loop = pipeline["components"]["comp-for-loop-2"]
    given = loop["dag"]["tasks"]["preprocess-part"]["inputs"]["parameters"]
    for name in ("step_cpu", "step_memory", "step_memory_limit"):
        channel = f"pipelinechannel--resolve-{name}"
        assert given[channel] == {"componentInputParameter": channel}
        assert channel in loop["inputDefinitions"]["parameters"]


def test_a_parameter_replaces_the_presets_request() -> None:
    found = requests("preset=smoke", "step_memory=3Gi", "train_cpu=6", "accelerators=2", "nproc=2")
    assert (found["step_memory"], found["step_memory_limit"]) == ("3Gi", "12Gi")
    assert (found["train_cpu"], found["accelerator_count"]) == ("6", "2")
    assert found["step_cpu"] == requests("preset=demo-joint")["step_cpu"]


@pytest.mark.parametrize("launcher", ["local", "trainjob"])
def test_a_step_that_runs_networks_gets_one_accelerator_if_the_training_has_any(
    launcher: str,
) -> None:
    found = requests(f"launcher={launcher}", "accelerators=4", "nproc=4")
    assert found["step_accelerator_count"] == "1"
    assert requests(f"launcher={launcher}")["step_accelerator_count"] == ""


def test_a_request_is_no_part_of_a_local_results_key(pipeline: Object, tmp_path: Path) -> None:
    """Nothing that the compiler adds to a step for its pod is; what its program reads is."""
    tasks = pipeline["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    key = functools.partial(ContentCache(str(tmp_path)).compute_key, "train", "image", [])
    for name, task in tasks.items():
        component = pipeline["components"][task["componentRef"]["name"]]
        read = set(component.get("inputDefinitions", {}).get("parameters", ()))
        for one in task.get("inputs", {}).get("parameters", ()):
            if "dag" not in component:
                assert (key({one: "a"}) != key({one: "b"})) == (one in read), (name, one)


def test_a_pod_that_only_follows_a_trainjob_is_small() -> None:
    found = requests("preset=celeba-128", "launcher=trainjob", "nodes=2", "train_memory=32Gi")
    assert (found["train_cpu"], found["train_memory"]) == pods.FOLLOWER


@pytest.mark.parametrize(
    "pair", ["step_cpu=lots", "train_cpu=0", "step_memory=3GB", "train_memory=0Gi"]
)
def test_what_is_no_quantity_is_refused_before_the_run(pair: str) -> None:
    with pytest.raises(ValueError, match=r"needs a value such as (500m or 2|768Mi or 16Gi), or"):
        parse([pair], compiled.parameters())


def test_kubernetes_reads_every_quantity_as_meant() -> None:
    every = (pods.STEP, pods.TRAINER, pods.SMALL_STEP, pods.SMALL_TRAINER, pods.SMOKE_TRAINER)
    for one in (*every, pods.FOLLOWER):
        assert parse_quantity(one.memory_limit) == pods.HEADROOM * parse_quantity(one.memory)
        assert parse_quantity(one.cpu) > 0

"""The Katib Experiment of a search, and the trial that its jobs run."""

import re
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import kubernetes_validate
import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from pipelines import __main__ as program
from pipelines.search import run as searching
from pipelines.search.katib import METRIC
from pipelines.search.plan import Plan
from pipelines.search.study import Data
from training.core.config import JudgeConfig, to_json
from training.core.files import read_json
from training.judge import judge

K8S = Path(__file__).parents[2] / "k8s"
Text = Annotated[str, Field(min_length=1)]


class Strict(BaseModel):
    """Only the fields that are listed."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Setting(Strict):
    name: Text
    value: Text


class Algorithm(Strict):
    algorithmName: Text  # noqa: N815
    algorithmSettings: list[Setting] = []  # noqa: N815


class Strategy(Strict):
    name: Text
    value: Literal["min", "max", "latest"]


class Objective(Strict):
    type: Literal["maximize", "minimize"]
    objectiveMetricName: Text  # noqa: N815
    metricStrategies: list[Strategy]  # noqa: N815


class Collector(Strict):
    kind: Literal["StdOut", "File", "TensorFlowEvent", "PrometheusMetric", "Custom", "None"]


class Metrics(Strict):
    collector: Collector


class Feasible(Strict):
    min: Text = "0"
    max: Text = "0"
    step: Text = "0"
    list: tuple[Text, ...] = Field((), strict=False)
    distribution: Literal["uniform", "logUniform", "normal", "logNormal"] = "uniform"


class Parameter(Strict):
    name: Text
    parameterType: Literal["double", "int", "discrete", "categorical"]  # noqa: N815
    feasibleSpace: Feasible  # noqa: N815


class TrialParameter(Strict):
    name: Text
    reference: Text
    description: str = ""


class Template(Strict):
    primaryContainerName: Text  # noqa: N815
    trialParameters: list[TrialParameter]  # noqa: N815
    trialSpec: dict[str, Any]  # noqa: N815


class Spec(Strict):
    objective: Objective
    algorithm: Algorithm
    earlyStopping: Algorithm | None = None  # noqa: N815
    metricsCollectorSpec: Metrics  # noqa: N815
    parallelTrialCount: Annotated[int, Field(ge=1)]  # noqa: N815
    maxTrialCount: Annotated[int, Field(ge=1)]  # noqa: N815
    maxFailedTrialCount: Annotated[int, Field(ge=0)]  # noqa: N815
    parameters: Annotated[list[Parameter], Field(min_length=1)]
    trialTemplate: Template  # noqa: N815


class Experiment(Strict):
    """The fields that we use, with the names and types of Katib's documentation.

    https://www.kubeflow.org/docs/components/katib/experiment/
    https://www.kubeflow.org/docs/components/katib/trial-template/
    https://www.kubeflow.org/docs/components/katib/user-guides/metrics-collector/
    """

    apiVersion: Literal["kubeflow.org/v1beta1"]  # noqa: N815
    kind: Literal["Experiment"]
    metadata: dict[str, str]
    spec: Spec


# Katib's default filter of a line of output, from the page on the metrics collector.
FILTER = r"([\w|-]+)\s*=\s*([+-]?\d*(\.\d+)?([Ee][+-]?\d+)?)"
TOY = ["preset=smoke", "images=64", "train.batch=8", "conv_dim=4", "repeat_num=1", "d_conv_dim=4",
       "d_repeat_num=2", "n_critic=2", "eval.limit=4", "eval.bootstrap=20", "prune=16"]  # fmt: skip
SPACE = ["lambda_rec=1..20 log", "train.batch=4..16 step 4", "upsampling=resize,transposed",
         "lambda_cls=0.5..2"]  # fmt: skip


def test_the_experiment_fits_katibs_documented_fields(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its job is valid for Kubernetes, takes each parameter once and trains as a search does."""
    out, pairs = tmp_path / "search.yaml", ["preset=smoke", "images=320", "trials=30", *SPACE]
    program.main(["search", "--katib", str(out), "jobs=3", *pairs])
    assert f"kubectl apply -f {out}" in capsys.readouterr().out
    experiment, policy = yaml.safe_load_all(out.read_text())
    Experiment.model_validate(experiment)
    kubernetes_validate.validate(policy, kubernetes_validate.latest_version(), strict=True)
    spec = experiment["spec"]
    job = {**spec["trialTemplate"]["trialSpec"], "metadata": {"name": "t"}}
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
    spaces = {one["name"]: one["feasibleSpace"] for one in spec["parameters"]}
    assert spaces == {
        "lambda-rec": {"min": "1", "max": "20", "distribution": "logUniform"},
        "train-batch": {"min": "4", "max": "16", "step": "4"},
        "upsampling": {"list": ["resize", "transposed"]},
        "lambda-cls": {"min": "0.5", "max": "2"},
    }
    pod = job["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    command = container["command"]
    used = re.findall(r"\$\{trialParameters\.([\w-]+)\}", " ".join(command))
    assert sorted(used) == sorted(spaces)
    assert {p["name"] for p in spec["trialTemplate"]["trialParameters"]} == set(spaces)
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    # Of several printed values the last is the trial's: that of the whole training.
    assert spec["objective"] == {
        "type": "maximize", "objectiveMetricName": METRIC,
        "metricStrategies": [{"name": METRIC, "value": "latest"}],
    }  # fmt: skip
    # Katib fills in values and joins the words for a shell.
    middle = {"lambda-rec": "4.47", "train-batch": "8", "upsampling": "resize", "lambda-cls": "1"}
    line = re.sub(r"\$\{trialParameters\.([\w-]+)\}", lambda m: middle[m[1]], " ".join(command))
    words = shlex.split(line)
    assert words[:4] == ["python", "-m", "pipelines", "trial"]
    whole, trial = Plan.read(pairs), Plan.read(words[4:], needs_space=False)
    values = {"lambda_rec": 4.47, "train.batch": 8, "upsampling": "resize", "lambda_cls": 1.0}
    assert trial.settings({}) == whole.settings(values)
    assert (trial.config.train.images, trial.rungs) == (320, whole.rungs)


def trial_pod(path: Path, *options: str) -> dict[str, Any]:
    """The pod of a trial in the file that a search writes."""
    program.main(["search", "--katib", str(path), *options, "preset=smoke", "lambda_rec=1..9"])
    experiment = next(yaml.safe_load_all(path.read_text()))
    found: dict[str, Any] = experiment["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]
    return found


def test_a_trial_with_accelerators_tolerates_the_taint_of_their_nodes(tmp_path: Path) -> None:
    """As the pods of the runtime do, with the same taint."""
    runtime = yaml.safe_load((K8S / "jobs" / "runtime.yaml").read_text())
    (node,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    tolerated = node["template"]["spec"]["template"]["spec"]["tolerations"]
    assert trial_pod(tmp_path / "s", "--accelerators", "1")["spec"]["tolerations"] == tolerated
    assert "tolerations" not in trial_pod(tmp_path / "s")["spec"]


def test_the_policies_without_profiles_select_a_trials_pod(tmp_path: Path) -> None:
    """Its own policy isolates it, so that it needs theirs to reach the store and MLflow."""
    labels = trial_pod(tmp_path / "s")["metadata"]["labels"]
    path = K8S / "overlays" / "standalone" / "steps" / "network.yaml"
    (steps,) = (
        one["spec"]["podSelector"]["matchLabels"]
        for one in yaml.safe_load_all(path.read_text())
        if one["metadata"]["name"] == "stargan-steps"
    )
    assert steps.items() <= labels.items()


def test_a_search_is_pinned_to_the_digest_of_its_only_image(tmp_path: Path) -> None:
    plain, pinned = tmp_path / "search.yaml", tmp_path / "pinned.yaml"
    (container,) = trial_pod(plain)["spec"]["containers"]
    digest = f"registry.example/train@sha256:{'0' * 64}"
    program.main(["pin-images", "--train", digest, "-f", str(plain), "-o", str(pinned)])
    assert pinned.read_text() == plain.read_text().replace(container["image"], digest)
    with pytest.raises(ValueError, match=r"does not use stargan-steps:.*leave --steps out"):
        program.main(["pin-images", "--steps", digest, "--train", digest, "-f", str(plain),
                      "-o", str(pinned)])  # fmt: skip


@pytest.mark.parametrize(
    ("pairs", "message"),
    [(["raw=faces"], "a pod has no such folder"), (["seeds=2"], "a Katib trial has one"),
     (["overrides=lambda_cls=2;n_critic=2"], "in a shell")],
)  # fmt: skip
def test_what_a_pod_cannot_do_is_refused(
    pairs: list[str], message: str, tmp_path: Path, drawn: Path
) -> None:
    pairs = [pair.replace("faces", str(drawn)) for pair in pairs]
    with pytest.raises(ValueError, match=message):
        program.main(["search", "--katib", str(tmp_path / "o"), "preset=smoke", "lambda_rec=1..9",
                      *pairs])  # fmt: skip


@pytest.mark.slow
def test_a_trials_output_is_what_the_collector_reads(
    binary: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A real trial on toy data: the snapshot's score, then the final one, in Katib's format."""
    path = tmp_path / "judge.json"
    judge(binary, judge_config=to_json(JudgeConfig(images=(96,), batch=16, floor=0.0)), out=path)
    monkeypatch.setattr(searching, "prepare", lambda *_: Data(binary, path, "code"))
    program.main(["trial", *TOY, "lambda_rec=3.2"])
    output = capsys.readouterr().out
    found = [m[1] for m in re.findall(FILTER, output) if m[0] == METRIC]
    (end,) = tmp_path.glob("runs/search/*/seed-0/end.result.json")
    assert len(found) == 2
    assert float(found[-1]) == pytest.approx(read_json(end)["score"], abs=1e-6)

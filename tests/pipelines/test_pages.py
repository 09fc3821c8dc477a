"""What Kubeflow's page of each step shows: the files that real steps on toy data leave."""

import importlib
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format, struct_pb2
from kfp import dsl

from pipelines.local import outcome
from pipelines.local.cache import ContentCache
from pipelines.local.run import LocalRun
from runs import QUICK
from steps import draw
from toydata import SETS, dataset_of
from training.core.config import EvalConfig, JudgeConfig, to_json
from training.core.metrics import write_metrics
from training.data.archive import Folder, pack
from training.models import MODELS
from training.storage.meta import RawMeta, RawSet
from training.storage.store import Manifest
from training.tracking import client as tracking

# Great Expectations imports modules that Python has deprecated; the others are MLflow's.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SHOWN = {
    "validate": {"report": "HTML", "metrics": "Metrics"},
    "judge": {"metrics": "Metrics"},
    "train": {"report": "HTML", "metrics": "Metrics"},
    "evaluate": {"report": "HTML", "metrics": "Metrics"},
    "register": {"summary": "Markdown"},
    "promote": {"report": "HTML", "metrics": "Metrics"},
}
MOST = 8 << 20  # bytes of a page, which the browser loads whole
Outputs = dict[str, dsl.Artifact]


def component(step: str) -> Any:
    return getattr(importlib.import_module(f"components.{step}"), step)


def shown(step: str) -> dict[str, str]:
    """The outputs of a step's component that Kubeflow's page shows, by name."""
    types = {n: o.type for n, o in (component(step).component_spec.outputs or {}).items()}
    kinds = {n: re.match(r"system\.(HTML|Metrics|Markdown)@", kind) for n, kind in types.items()}
    return {name: kind[1] for name, kind in kinds.items() if kind}


def run(step: str, folder: Path, **inputs: Any) -> Outputs:
    """Call a step's component as Kubeflow's executor does; its output artifacts by name."""
    (folder / step).mkdir(exist_ok=True)
    kinds = shown(step)
    outputs: Outputs = {
        name: getattr(dsl, kinds.get(name, "Artifact"))(name=name, uri=str(folder / step / name))
        for name in component(step).component_spec.outputs
    }
    given = {
        name: dsl.Artifact(uri=str(value)) if isinstance(value, Path) else value
        for name, value in inputs.items()
    }
    component(step).python_func(**given, **outputs)
    return outputs


def in_this_process(nproc: int, dataset: Path, request: Any, out: Path, logs: Path) -> None:
    """In place of torchrun: 10 s less."""
    del nproc, logs
    from training.train import train

    train(
        dataset, out, request.model, request.model_config, request.train_config,
        experiment=request.experiment, preset=request.preset,
    )  # fmt: skip


def raw_manifest(folder: Path) -> Path:
    """Two classes of four pictures."""
    draw(folder / "raw", [f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(4)])
    files = {path.name: path for path in pack(Folder(folder / "raw"), folder, "pets")}
    sets = (RawSet(name="pets", kind="folders"),)
    meta = RawMeta(datasets=sets, md5="", nfiles=0, source="folder", note="")
    Manifest.build("raw", files, meta).write(folder / "raw.json")
    return folder / "raw.json"


@pytest.fixture(scope="module")
def steps(
    empty_mlflow: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Outputs]]:
    """The outputs of every step that shows something, of one run; promote's also of a second."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORE_URI", f"file://{folder / 'store'}")
        patch.setenv("PIPELINE_RUN_ID", "run-1")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(folder)
        patch.setattr("training.launch._torchrun", in_this_process)
        tracking.pipeline_run_id.cache_clear()
        (folder / "runs").mkdir()
        (folder / "runs" / "mlflow.db").write_bytes(empty_mlflow.read_bytes())
        yield chain(folder)


def chain(folder: Path) -> dict[str, Outputs]:
    raw, data = raw_manifest(folder), dataset_of(folder / "data.json", SETS["binary"])
    made = {"validate": run("validate", folder, raw=raw, data_config='{"size": 64}', code_hash="")}
    quick = to_json(JudgeConfig(images=(32,), batch=16, lr=3e-3, floor=0.0))
    made["judge"] = run("judge", folder, dataset=data, judge_config=quick, judge_hash="")
    made["train"] = run(
        "train", folder, dataset=data, model="stargan", preset="",
        model_config=to_json(MODELS["stargan"].tiny()), train_config=to_json(QUICK), nproc=1,
        seeds=1, init="", experiment="stargan", launcher="local", nodes=1, queue="",
        accelerator="", accelerators=0, train_cpu="", train_memory="", code_hash="",
    )  # fmt: skip
    judge, model = made["judge"]["out"], made["train"]["out"]
    config = to_json(EvalConfig(bootstrap=50))
    made["evaluate"] = run(
        "evaluate", folder, model=model, dataset=data, judge=judge, eval_config=config, compare="",
        code_hash="",
    )  # fmt: skip
    made["register"] = run(
        "register", folder, model=model, evaluation=made["evaluate"]["out"], dataset=data,
        name="stargan", data_md5="", revision="", code_hash="", image="", changes="{}",
    )  # fmt: skip
    version = {"version": made["register"]["out"], "dataset": data, "judge": judge,
               "replicates": made["train"]["replicates"], "eval_config": config}  # fmt: skip
    made["promote"] = run("promote", folder, **version, override="for the test")
    (folder / "again").mkdir()
    made["again"] = run("promote", folder / "again", **version, override="")
    return made


class Loads(HTMLParser):
    """What a page would load or lead to, and its pictures' sizes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [
            str(value) for name, value in attrs
            if name in ("src", "srcset", "href", "data", "action", "poster", "background")
        ]  # fmt: skip


def test_the_steps_that_have_something_to_show_show_it() -> None:
    """The list here is that of the components."""
    names = sorted(path.stem for path in Path("components").glob("[a-z]*.py"))
    found = {step: shown(step) for step in names if step != "images"}
    assert {step: outputs for step, outputs in found.items() if outputs} == SHOWN


@pytest.mark.parametrize("step", [step for step in SHOWN if "report" in SHOWN[step]])
def test_a_page_is_self_contained(step: str, steps: dict[str, Outputs]) -> None:
    """Kubeflow shows it in a frame of its own, which has no files beside it."""
    page = Path(steps[step]["report"].path).read_text()
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    assert len(page.encode()) < MOST
    loads = Loads(page)
    assert not {"script", "link", "iframe", "object", "embed"} & loads.tags
    assert [a for a in loads.addresses if not a.startswith(("data:image/", "#"))] == []
    assert "url(" not in page
    assert "@import" not in page


@pytest.mark.parametrize("step", [step for step in SHOWN if "metrics" in SHOWN[step]])
def test_metrics_are_finite_numbers_that_kubeflow_can_keep(
    step: str, steps: dict[str, Outputs]
) -> None:
    """In the metadata, which the page shows, and in the file, without which nothing is cached."""
    metrics = steps[step]["metrics"]
    assert metrics.metadata
    assert json.loads(Path(metrics.path).read_text()) == metrics.metadata
    assert {type(value) for value in metrics.metadata.values()} <= {int, float}
    assert all(re.fullmatch(r"[\w.-]+", name, re.ASCII) for name in metrics.metadata)
    text = json.dumps(metrics.metadata, allow_nan=False)
    kept = json_format.Parse(text, struct_pb2.Struct())
    assert dict(kept) == metrics.metadata


@pytest.mark.parametrize("step", SHOWN)
def test_a_step_from_the_cache_shows_the_same(
    step: str, steps: dict[str, Outputs], tmp_path: Path
) -> None:
    """By the local runner's cache; a page that was altered is made again."""
    made = steps[step]
    cache = ContentCache(str(tmp_path))
    assert cache.get("key") is None
    cache.put("key", made)
    found = cache.get("key")
    assert found is not None
    for name, one in made.items():
        assert (type(found[name]), found[name].uri) == (type(one), one.uri)
        assert found[name].metadata == one.metadata
    page = Path(made[next(iter(SHOWN[step]))].path)
    before = page.read_bytes()
    page.write_bytes(before + b" ")
    assert cache.get("key") is None
    cache.release()
    page.write_bytes(before)


def test_validate_counts_what_was_found(steps: dict[str, Outputs]) -> None:
    found = steps["validate"]["metrics"].metadata
    assert (found["pets_images"], found["pets_failed"]) == (8, 0)


def test_judge_shows_the_accuracy_of_every_label(steps: dict[str, Outputs]) -> None:
    names = steps["judge"]["metrics"].metadata
    (labels,) = SETS["binary"]
    for label in labels.names:
        assert {f"accuracy_celeba_{label}", f"balanced_celeba_{label}"} <= names.keys()


def test_train_shows_the_last_pictures_times_and_losses(steps: dict[str, Outputs]) -> None:
    """The pictures are those of the model's manifest, the losses those of the log's last row."""
    model = Manifest.read(Path(steps["train"]["out"].path), "model")
    pictures = [e.name for e in model.entries if e.name.startswith("samples/")]
    page = Path(steps["train"]["report"].path).read_text()
    assert pictures
    assert page.count("<img ") == len(pictures)
    (log,) = Path.cwd().glob("runs/train/*/log.jsonl")
    last = json.loads(log.read_text().splitlines()[-1])
    found = steps["train"]["metrics"].metadata
    losses = {n.partition("_")[2]: v for n, v in found.items() if n.startswith("loss_")}
    terms = ("d_cls", "d_fake", "d_gp", "d_real", "g_cls", "g_fake", "g_rec")
    assert losses == {name: last[name.replace("_", "/")] for name in terms}
    assert (found["images"], found["seconds"] > 0) == (QUICK.images, True)


def test_register_says_name_version_and_use(steps: dict[str, Outputs]) -> None:
    text = Path(steps["register"]["summary"].path).read_text()
    assert text.startswith("# stargan 1\n")
    assert "python -m training.translate stargan/1 face.png out.png LABEL" in text
    assert r"Labels: Black\_Hair, Blond\_Hair, Male" in text
    assert "| score/success | " in text
    assert "<" not in text  # Kubeflow shows no HTML in it


def test_promote_shows_the_gates_conditions(steps: dict[str, Outputs]) -> None:
    verdict = json.loads(Path(steps["promote"]["out"].path).read_text())
    found = steps["promote"]["metrics"].metadata
    assert found["promoted"] == 1
    assert found["conditions"] == len(verdict["checks"])
    first = verdict["checks"][0]
    assert found[first["name"]] == first["value"]
    assert found[f"{first['name']}_bound"] == first["bound"]
    assert "override: for the test" in Path(steps["promote"]["report"].path).read_text()


def test_a_version_that_is_the_champion_already_has_a_page_too(steps: dict[str, Outputs]) -> None:
    page = Path(steps["again"]["report"].path).read_text()
    assert "stargan: version 1, the champion" in page
    assert "It was not scored again." in page
    assert steps["again"]["metrics"].metadata == {"promoted": 1, "conditions": 0, "failed": 0}


def test_a_local_run_copies_every_page_into_one_folder(
    steps: dict[str, Outputs], tmp_path: Path
) -> None:
    run = LocalRun("r", tmp_path, len(steps), outputs=dict(steps))
    copied = {path.stem: path for path in outcome.collect(run) if path.suffix == ".html"}
    assert list(copied) == [step for step in SHOWN if "report" in SHOWN[step]]
    for step, path in copied.items():
        assert path.read_bytes() == Path(steps[step]["report"].path).read_bytes()
    shutil.rmtree(run.report)
    run.folders = {"train": Path(steps["train"]["report"].path).parent}  # the step that failed next
    assert [path.name for path in outcome.rescue(run)] == ["train.html"]


def test_a_number_that_is_not_finite_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kubeflow fails a step whose metadata is not JSON."""
    rows = [(("a",), 1.5), (("b", "c"), float("nan")), (("d",), float("inf"))]
    write_metrics(tmp_path / "metrics", rows)
    assert json.loads((tmp_path / "metrics").read_text()) == {"a": 1.5}
    assert "left out, as not finite: b_c, d" in capsys.readouterr().err

"""Registration, loading, verification, promotion and rollback of versions."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from releases import IDENTITY, MD5, evaluate, flip_byte, register, registered_folder, train
from training import release, translate
from training.core.config import EvalConfig, JudgeConfig, TrainConfig, to_json
from training.core.files import read_json, write_json
from training.data.dataset import Faces, to_float, to_uint8
from training.evaluation.fingerprint import fingerprint
from training.evaluation.records import Kid, Scores
from training.evaluation.score import BrokenModelError
from training.inference.translator import load_translator, translator_from_files
from training.models import MODELS, configure
from training.registry import gate, lineage, promotion, pyfunc
from training.registry import versions as registry
from training.registry.lineage import LineageError
from training.registry.note import describe_version
from training.registry.references import model_facts, pin, registered_files
from training.resolve import check
from training.storage.store import Manifest, StoreError, open_store
from training.tracking import client as tracking

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # MLflow's own
    pytest.mark.filterwarnings("ignore:.*type hints? :UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow leaves SQLite pools open
]


@pytest.fixture(autouse=True)
def working_folder(release_folder: Path) -> Path:
    """A working folder with the default stores, as in a step of a pipeline run."""
    return release_folder


def test_the_labels_of_a_version_are_read_without_its_weights(binary: Path) -> None:
    """And a start from it with other labels is refused by the first step, from its registry."""
    register(binary)
    for reference in ("stargan/1", str(binary.parent / "model-0.json")):
        config, space = model_facts(reference)
        assert (config["name"], space) == ("stargan", Faces.open(binary, "test").space)
    with pytest.raises(
        ValueError, match=r"init=stargan/1: its labels are \[Black_Hair, Blond_Hair"
    ):
        check(configure.resolve("stargan", "smoke"), init="stargan/1")


def test_a_registered_model_is_a_version_with_card_lineage_and_metrics(binary: Path) -> None:
    result = register(binary)
    assert result["created"]
    assert result == read_json(binary.parent / "version-0.json")
    found = registry.version("stargan/1")
    assert found.run_id == result["run_id"] == tracking.parent_run()
    assert found.tags["data_md5"] == MD5
    assert found.tags["content"] == result["content"]
    assert len(found.tags["lock_hash"]) == 64
    assert "synthetic" in found.description
    assert "| celeba | 3 | binary | 24 | 8 | 8 |" in found.description
    run = tracking.client().get_run(found.run_id)
    assert run.data.metrics["success_mean"] == 0.8
    assert run.inputs.dataset_inputs[0].dataset.digest == MD5
    assert [m.model_id for m in run.outputs.model_outputs] == [found.source.split("/")[-1]]
    files = tracking.client().list_artifacts(found.run_id, "evaluation")
    assert [f.path for f in files] == ["evaluation/metrics.json", "evaluation/report.html"]


def test_the_versions_run_has_settings_scores_pictures_and_a_description(binary: Path) -> None:
    """What a person needs who compares runs; a description that a person wrote stays."""
    model = train(binary)
    evaluation = evaluate(model, binary, success_worst=0.5)
    scored, png = Manifest.read(evaluation), binary.parent / "grid.png"
    Image.new("RGB", (8, 8)).save(png)
    files = {e.name: scored.local(e.name) for e in scored.entries}
    files |= {f"grids/{name}.png": png for name in ("samples", "worst_celeba", "fig7")}
    Manifest.build("evaluation", files, scored.meta).write(evaluation)
    changes, out = '{"lambda_rec": "14"}', binary.parent / "version-0.json"
    release.register(model, evaluation, binary, changes=changes, out=out)
    api = tracking.client()
    run = api.get_run(tracking.parent_run())
    assert run.info.run_name == "stargan demo lambda_rec=14 seed=0"
    assert run.data.params.items() >= {"lambda_rec": "14", "data": "data", "seed": "0"}.items()
    assert run.data.metrics.items() >= {"score/success": 0.8, "edits/worst": 0.5}.items()
    shown = {re.split("[%+]", f.path)[0] for f in api.list_artifacts(run.info.run_id, "images")}
    assert shown == {"images/samples", "images/worst_celeba"}
    assert run.data.tags["mlflow.note.content"].startswith("**stargan 1**: not judged yet\n")
    describe_version(run.info.run_id, "stargan", "1", "promoted: it is better")
    tags = api.get_run(run.info.run_id).data.tags
    assert tags["verdict"] == "promoted"
    note = tags["mlflow.note.content"]
    assert note.startswith("**stargan 1**: promoted: it is better\n")
    assert "python -m training.translate stargan/1 " in note
    api.set_tag(run.info.run_id, "mlflow.note.content", "mine")
    describe_version(run.info.run_id, "stargan", "1", "not promoted: it is worse")
    tags = api.get_run(run.info.run_id).data.tags
    assert (tags["mlflow.note.content"], tags["verdict"]) == ("mine", "not promoted")


def test_the_same_content_is_registered_once_and_other_content_anew(binary: Path) -> None:
    first, again = register(binary), register(binary)
    assert (first["version"], again["version"]) == ("1", "1")
    assert not again["created"]
    assert register(binary, image="steps:2")["version"] == "1"
    assert register(binary, seed=1)["version"] == "2"
    assert register(binary, code_hash="d" * 64)["version"] == "3"
    assert len(registry.versions("stargan")) == 3


def test_of_two_registrations_at_once_the_losers_files_are_deleted(binary: Path) -> None:
    """One found no version of its content before it wrote its files, and one when it registered."""
    first = register(binary)
    models = Path("runs/mlartifacts/models")
    model_id = registry.log_model("stargan", registered_folder(), first["run_id"], {})
    assert len([*models.iterdir()]) == 2
    found, created = registry.add(
        "stargan", model_id, first["run_id"], first["content"], {}, "the same"
    )
    assert (str(found.version), created) == ("1", False)
    assert len([*models.iterdir()]) == 1
    lineage.verify("stargan/1")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_that_is_not_finite_is_refused(binary: Path, value: float) -> None:
    model = train(binary)
    evaluation = evaluate(model, binary)
    manifest = Manifest.read(evaluation)
    bad = binary.parent / "bad.json"
    bad.write_text(json.dumps({"success_mean": 0.5, "self_psnr": value}))
    Manifest.build("evaluation", {"metrics.json": bad}, manifest.meta).write(evaluation)
    with pytest.raises(ValueError, match="self_psnr not finite"):
        release.register(model, evaluation, binary, out=binary.parent / "o.json")


def test_manifests_of_different_runs_are_refused(binary: Path) -> None:
    model, other = train(binary), train(binary, seed=1)
    with pytest.raises(ValueError, match="the evaluation is of another model"):
        release.register(model, evaluate(other, binary), binary, out=binary.parent / "o.json")


def test_registered_files_load_as_the_trained_model(joint: Path) -> None:
    """Through the store, verified, without running code from the registry."""
    register(joint)
    files = registered_files("stargan/1")
    assert sorted(files) == [
        "config.json", "ema/G.safetensors", "label_space.json", "nets/D.safetensors",
        "nets/G.safetensors",
    ]  # fmt: skip
    mine, theirs = load_translator(joint.parent / "model-0.json"), translator_from_files(files)
    image, label = torch.rand(2, 3, 16, 16) * 2 - 1, torch.rand(2, mine.space.dim_g)
    assert torch.equal(mine(image, label, label), theirs(image, label, label))


STRANGER = """
    import sys, warnings
    warnings.simplefilter("ignore")

    class Hidden:
        '''The project is not installed: only the model's own code may answer to its names.'''
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("components", "pipelines"):
                raise ModuleNotFoundError(name)

    sys.meta_path.insert(0, Hidden())
    sys.path[:] = [p for p in sys.path if p != ROOT]
    try:
        import training
    except ModuleNotFoundError:
        pass
    else:
        raise SystemExit(f"the project is importable: {training.__file__}")
    import mlflow, numpy as np
    from PIL import Image
    mlflow.set_tracking_uri(URI)
    model = mlflow.pyfunc.load_model("models:/stargan/1")
    import training
    print("code from", training.__file__)
    face = Image.open("face.png").convert("RGB")
    image = np.asarray(face, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
    label = np.array([[1, 0, 0]], np.float32)
    out = model.predict({"image": image, "label": label})
    assert out.shape == image.shape and out.dtype == np.float32, (out.shape, out.dtype)
    np.save("edited.npy", out)
    edited = ((out[0].transpose(1, 2, 0) + 1) * 127.5).round().astype(np.uint8)
    Image.fromarray(edited).save("edited.png")
    many = model.predict({"image": np.repeat(image, 5, 0), "label": np.repeat(label, 5, 0)})
    assert np.allclose(many[4], out[0], atol=1e-5)
    wrong = {
        "no label": {"image": image},
        "size": {"image": image[..., :8, :8], "label": label},
        "channels": {"image": image[:, :1], "label": label},
        "width": {"image": image, "label": label[:, :2]},
        "words": {"image": image.astype(str), "label": label},
        "unknown": {"image": image, "label": [["Beard"]]},
        "count": {"image": image, "label": np.repeat(label, 2, 0)},
        "range": {"image": image * 128, "label": label},
    }
    for name, value in wrong.items():
        try:
            model.predict(value)
        except Exception as error:
            print("refused", name, "-", str(error).rpartition("Error: ")[2])
        else:
            raise SystemExit(f"{name} was taken")
    try:
        model.predict({"image": image, "label": label}, params={"seed": 7})
    except Exception as error:
        print("says", error)
"""


@pytest.mark.slow
def test_a_version_loads_without_this_project(binary: Path, tmp_path: Path) -> None:
    """A new process without this project translates a PNG to the same result."""
    register(binary)
    away = tmp_path / "away"
    away.mkdir()
    pixels = np.random.RandomState(0).randint(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(away / "face.png")
    root = str(Path(__file__).resolve().parents[2])
    script = textwrap.dedent(STRANGER).replace("ROOT", repr(root))
    script = script.replace("URI", repr(tracking.uri()))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", script],
        cwd=away, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "mlartifacts" in done.stdout.split("code from", 1)[1].splitlines()[0]
    assert [line for line in done.stdout.splitlines() if line.startswith("refused")] == [
        "refused no label - Model is missing inputs ['label'].",
        "refused size - image: shape (1, 3, 8, 8); (n, 3, 16, 16), or files as base64, is needed",
        "refused channels - image: shape (1, 1, 16, 16); (n, 3, 16, 16), or files as base64, is "
        "needed",
        "refused width - row 1: label: shape (2,); (3,), or names, is needed",
        "refused words - image: numbers are needed",
        "refused unknown - row 1: 'Beard': not a unique label name; use one of celeba/Black_Hair, "
        "celeba/Blond_Hair, celeba/Male",
        "refused count - This model contains a column-based signature, which suggests a DataFrame "
        "input. There was an error casting the input data to a DataFrame: All arrays must be of "
        "the same length",
        "refused range - image: values must be between -1 and 1",
    ]
    assert "says stargan takes no seed; it takes labels" in done.stdout
    translator = translator_from_files(registered_files("stargan/1"))
    label = torch.tensor([[1.0, 0.0, 0.0]])
    ours = translator(to_float(torch.from_numpy(pixels)[None]), label, label)
    np.testing.assert_allclose(np.load(away / "edited.npy"), ours.numpy(), atol=1e-5)


OTHERS = """
    import sys, warnings
    warnings.simplefilter("ignore")
    sys.path[:] = [p for p in sys.path if p != ROOT]
    import mlflow, numpy as np
    attgan, v2 = (mlflow.pyfunc.load_model(name) for name in ("attgan", "starganv2"))
    import training
    assert not training.__file__.startswith(ROOT), training.__file__
    image = np.random.RandomState(0).uniform(-1, 1, (2, 3, 16, 16)).astype(np.float32)
    on, off = (np.array([row, row], np.float32) for row in ([1, 0, 0], [0, 1, 0]))
    given = {"image": image, "label": on, "source": off}
    style = {"reference": image[1].ravel().tolist()}
    np.savez(
        "out.npz", image=image,
        plain=attgan.predict(given), half=attgan.predict(given, params={"intensity": 0.5}),
        latent=v2.predict({"image": image, "label": on}),
        seven=v2.predict({"image": image, "label": on}, params={"seed": 7}),
        style=v2.predict({"image": image, "label": on}, params=style),
    )
    for model, params in ((attgan, style), (v2, {"intensity": 1.5}), (v2, style | {"seed": 7}),
                          (v2, {"reference": [0.5]}), (v2, {"reference": [2.0] * 768})):
        try:
            model.predict(given, params=params)
        except Exception as error:
            print(error)
"""


@pytest.mark.slow
def test_edit_options_work_without_this_project(
    binary: Path, classes: Path, tmp_path: Path
) -> None:
    """In a process without this project; unsupported options are refused with a message."""
    from training.models.attgan import AttGAN
    from training.models.base import EditOptions
    from training.models.starganv2 import StarGANv2

    small = {
        "attgan": (AttGAN(dim=4, layers=2, d_dim=4, d_layers=2, d_fc=8), binary),
        "starganv2": (StarGANv2(dim=4, max_dim=8, hidden=8), classes),
    }
    nets = {}
    for name, (model, dataset) in small.items():
        space, root = Faces.open(dataset, "test").space, tmp_path / "files" / name
        nets[name] = model.networks(space, 16)
        files = {}
        for net, module in nets[name].items():
            files[f"nets/{net}.safetensors"] = root / f"{net}.safetensors"
            root.mkdir(parents=True, exist_ok=True)
            save_file(module.state_dict(), root / f"{net}.safetensors")
            module.eval()
        config = {"name": name, "size": 16, "model": dataclasses.asdict(model)}
        for file, value in (("config.json", config), ("label_space.json", space.to_json())):
            write_json(root / file, value)
            files[file] = root / file
        reads = model.reads_source
        pyfunc.save(tmp_path / name, files, space, 16, {}, source=reads)
    script = textwrap.dedent(OTHERS).replace("ROOT", repr(str(Path(__file__).resolve().parents[2])))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", script],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == [
        "attgan takes no reference; it takes labels, intensity",
        "starganv2 takes no intensity; it takes labels, seed, reference",
        "seed and reference: the style comes from one of them; give only one",
        "reference: 1 numbers; one image of (3, 16, 16), 768 numbers, required",
        "reference: values must be between -1 and 1",
    ]
    made = np.load(tmp_path / "out.npz")
    x = torch.from_numpy(made["image"])
    on, off = (torch.tensor([row, row]) for row in ([1.0, 0, 0], [0, 1.0, 0]))
    style = EditOptions(reference=x[1:].expand_as(x))
    for key, name, options in (
        ("plain", "attgan", EditOptions()), ("half", "attgan", EditOptions(intensity=0.5)),
        ("latent", "starganv2", EditOptions()), ("seven", "starganv2", EditOptions(seed=7)),
        ("style", "starganv2", style),
    ):  # fmt: skip
        source = off if name == "attgan" else None
        with torch.no_grad():
            ours = small[name][0].translate(nets[name], x, source, on, options)
        np.testing.assert_allclose(made[key], ours.numpy(), atol=1e-5)
    assert np.abs(made["plain"] - made["half"]).max() > 1e-3
    assert np.abs(made["latent"] - made["seven"]).max() > 1e-3


# model -> data set, target labels, source labels of a test edit
EDITS = dict.fromkeys(MODELS, ("binary", ["Male", "Black_Hair=0"], ["Black_Hair"])) | {
    "ganimation": ("units", ["AU12=0.8"], []), "starganv2": ("classes", ["happy"], []),
}  # fmt: skip


@pytest.fixture
def predicts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., np.ndarray]:
    """Predictions of MLflow's own loader for a version; sys.path is restored afterwards."""

    def predict(reference: str, given: dict[str, np.ndarray]) -> np.ndarray:
        with (
            monkeypatch.context() as patch,
            tracking.as_default(),
            warnings.catch_warnings(record=True),  # MLflow undoes the filters above
        ):
            patch.setattr(sys, "path", [*sys.path])
            model = tracking.mlflow().pyfunc.load_model(f"models:/{reference}")
            return np.asarray(model.predict(given))

    return predict


def released(name: str, network: Any, dataset: Path, folder: Path) -> Path:
    """Train, evaluate and register NAME/1; returns the path of the model's manifest."""
    from training.evaluate import evaluate as real_evaluate
    from training.judge import judge as train_judge
    from training.train import train as real_train

    words = ("model", "judge", "evaluation", "page", "metrics", "version")
    model, judge, scores, page, metrics, version = (folder / f"{word}.json" for word in words)
    config = TrainConfig(images=32, decay_images=0, batch=8, log_images=8, sample_images=32,
                         checkpoint_images=32, precision="fp32")  # fmt: skip
    real_train(dataset, model, name, to_json(network), to_json(config), run=folder / "run")
    brief = to_json(JudgeConfig(images=(16,), batch=16, floor=0.0))
    train_judge(dataset, judge_config=brief, out=judge)
    settings = to_json(EvalConfig(limit=4, bootstrap=20))
    real_evaluate(
        model, dataset, judge, eval_config=settings, out=scores, report=page, metrics=metrics
    )
    if network.adversarial:
        assert "symptom_balance" in read_json(metrics)
    release.main(["register", str(model), str(scores), str(dataset), "--name", name,
                  "--out", str(version)])  # fmt: skip
    return model


BRIEF = ("stargan", "attgan", "fader", "starganv2", "ganimation")  # in `make test`, too


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in BRIEF else pytest.mark.long) for n in MODELS]
)
def test_every_model_trains_registers_and_edits(
    name: str, small: dict[str, Any], predicts: Callable[..., np.ndarray], tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    """Evaluated, registered and verified; the edited picture equals MLflow's prediction."""
    which, target_labels, has = EDITS[name]
    model = released(name, small[name], request.getfixturevalue(which), tmp_path)
    release.main(["verify", f"{name}/1"])
    pixels = np.random.RandomState(0).randint(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "face.png")
    has_options = [word for label in has for word in ("--has", label)]
    places = (str(tmp_path / "face.png"), str(tmp_path / "out.png"))
    translate.main([f"{name}/1", *places, *target_labels, *has_options])
    reads = MODELS[name].reads_source
    source, target = translate.edit_labels(
        load_translator(model).space, target_labels, has or None, reads_source=reads
    )
    given = {"image": to_float(torch.from_numpy(pixels)[None]), "label": target}
    given |= {"source": source} if reads else {}
    made = predicts(f"{name}/1", {key: value.numpy() for key, value in given.items()})
    with Image.open(tmp_path / "out.png") as picture:
        assert np.array_equal(np.asarray(picture), to_uint8(torch.from_numpy(made))[0].numpy())


def test_saved_code_is_what_the_model_needs() -> None:
    """The saved code is the import closure of portable.py: no tracking, no training loop."""
    names = [p.relative_to(pyfunc.PACKAGE).as_posix() for p in pyfunc.modules(pyfunc.ENTRY)]
    assert {"__init__.py", "core/config.py", "data/labels.py", "models/stargan.py"} <= set(names)
    assert not {"tracking/client.py", "engine/loop.py", "storage/store.py", "release.py"} & set(
        names
    )


CHANGES = {
    "weights": ("weights altered: artifacts/model/ema/G", "artifacts/model/ema/G.safetensors"),
    "config": ("config altered", "artifacts/model/config.json"),
    "label space": ("label space altered", "artifacts/model/label_space.json"),
    "lock": ("lock altered: release/requirements.lock", "release/requirements.lock"),
    "dataset": ("data altered: release/dataset.json", "release/dataset.json"),
    "code": ("code altered: code/training/models/stargan.py", "code/training/models/stargan.py"),
    "record": ("lineage record altered", "release/lineage.json"),
    "MLmodel": ("file altered: MLmodel", "MLmodel"),
}


def test_one_changed_byte_in_the_registry_is_detected_and_named(binary: Path) -> None:
    """Each kind of file in turn, restored afterwards."""
    register(binary)
    for says, name in CHANGES.values():
        assert lineage.verify("stargan/1").data_md5 == MD5
        flip_byte(registered_folder() / name)
        with pytest.raises(LineageError, match=f"stargan version 1: .*{says}"):
            lineage.verify("stargan/1")
        with pytest.raises(LineageError, match=says):
            registered_files("stargan/1")
        flip_byte(registered_folder() / name)


def test_one_changed_byte_in_the_stored_data_is_detected_and_named(binary: Path) -> None:
    register(binary)
    for name in ("celeba-00000.npy", "labels.parquet", "label_space.json"):
        path = open_store().path(Manifest.read(binary).entry(name).sha256)
        flip_byte(path)
        with pytest.raises(LineageError, match=f"data altered or missing: {name}"):
            lineage.verify("stargan/1")
        assert lineage.verify("stargan/1", data=False).seed == 0
        flip_byte(path)
    path.unlink()
    with pytest.raises(LineageError, match=r"data altered or missing: label_space\.json"):
        lineage.verify("stargan/1")


def test_an_added_or_missing_file_is_detected(binary: Path) -> None:
    register(binary)
    (registered_folder() / "code/training/extra.py").write_text("")
    with pytest.raises(LineageError, match=r"code added: code/training/extra\.py"):
        lineage.verify("stargan/1")
    (registered_folder() / "code/training/extra.py").unlink()
    (registered_folder() / lineage.LOCK).unlink()
    with pytest.raises(LineageError, match="lock missing"):
        lineage.verify("stargan/1")


def test_an_unknown_version_is_refused_by_its_reference(working_folder: Path) -> None:
    for reference, says in (
        ("stargan@champion", "no such version"),
        ("stargan/7", "no such version in .*; python -m training.release show stargan lists"),
        ("stargan", "NAME@champion or NAME/VERSION"),
    ):
        with pytest.raises(ValueError, match=says):
            lineage.verify(reference)
    assert registry.champion("stargan") is None


@pytest.fixture
def promote(binary: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """`promote` with the judge replaced by a fixed success per seed."""
    success = {0: 0.6, 1: 0.8, 2: 0.81, 3: 0.3, 4: 0.95}
    judge = binary.parent / "judge.json"
    Manifest.build("judge", {}, {"recipe": "1", "dataset": "", "accuracy": {}}).write(judge)
    calls: list[str] = []

    def score(seed: int, *_: Any) -> tuple[Scores, None]:
        calls.append(str(seed))
        if seed in run.broken:  # type: ignore[attr-defined]
            raise BrokenModelError("the model's output is not finite; the model is broken")
        images = np.repeat(np.arange(80), 2)
        table = pd.DataFrame(
            {
                "dataset": "celeba", "index": images, "identity": [f"p{i // 2}" for i in images],
                "task": ["Black_Hair", "Male"] * 80, "single": True, "changed": True,
                "success": (images * 7 % 80 < 80 * success[seed]).astype(float),
                "copy_success": (images == 0).astype(float), "blind_success": 0.0,
                "preservation": 0.9, "identity_cosine": 0.8, "self_psnr": 22.0, "raster": 0.1,
                "background": 0.2, "likeness": 0.6,
            }
        )  # fmt: skip
        kid = Kid("kid_vgg", "celeba", 160, 40, (), ratio=0.5, low=0.4, high=0.6, inputs_low=0.1)
        return Scores(table, (kid,)), None

    seed_of: Callable[..., int] = lambda files: read_json(files["config.json"])["seed"]  # noqa: E731
    evaluation, fake_judge = "training.evaluation", SimpleNamespace(require=lambda: None)
    monkeypatch.setattr("training.inference.translator.translator_from_files", seed_of)
    monkeypatch.setattr(f"{evaluation}.judges.judge.load_judge", lambda *_: fake_judge)
    monkeypatch.setattr(f"{evaluation}.realism.scored", score)
    monkeypatch.setattr(f"{evaluation}.drift_sides.of_scored", lambda *_: [])
    monkeypatch.setattr(f"{evaluation}.fingerprint.fingerprint", lambda *_: IDENTITY)

    def run(
        seed: int, override: str = "", *, protocol: Any = "ours", **more: Any
    ) -> dict[str, Any]:
        config = to_json(EvalConfig(bootstrap=200, protocol=protocol))
        if not (binary.parent / f"version-{seed}.json").is_file():
            register(binary, seed)
        out = binary.parent / f"verdict-{seed}.json"
        version = binary.parent / f"version-{seed}.json"
        result = promotion.promote(version, binary, judge, config, override, out, **more)
        assert result == read_json(out)
        return result

    run.calls, run.dataset, run.broken = calls, binary, set()  # type: ignore[attr-defined]
    return run


def test_the_first_model_above_the_floors_becomes_champion(promote: Any) -> None:
    result = promote(0)
    assert result["promoted"]
    assert registry.champion("stargan") == "1"
    assert "first champion" in result["reason"]
    assert registry.version("stargan@champion").tags["verdict"].startswith("promoted: ")
    run = registry.version("stargan@champion").run_id
    names = [f.path for f in tracking.client().list_artifacts(run, "promotion")]
    assert names == ["promotion/verdict.html", "promotion/verdict.json"]


def test_a_model_that_makes_no_pictures_is_refused_with_a_reason(promote: Any) -> None:
    """As challenger; as champion it can be replaced with a reason to override."""
    promote.broken.add(1)
    assert promote(1)["reason"].startswith("refused: challenger: the model's output is not finite")
    promote(1, override="to have a broken champion")
    verdict = promote(2)
    assert not verdict["promoted"]
    assert "the champion, cannot be compared: the model's output is not finite" in verdict["reason"]
    assert promote(2, override="the champion is broken")["promoted"]


def test_a_first_model_below_the_floors_does_not(promote: Any) -> None:
    result = promote(3)
    assert not result["promoted"]
    assert "floor 0.500" in result["reason"]
    assert registry.champion("stargan") is None
    assert registry.history("stargan") == []
    page = (promote.dataset.parent / "verdict-3.json.html").read_text()
    assert "Not promoted" in page
    assert "floor 0.500" in page


def test_a_better_challenger_takes_over_and_a_worse_or_equal_one_does_not(promote: Any) -> None:
    promote(0)
    assert promote(1)["promoted"]
    assert registry.champion("stargan") == "2"
    assert not promote(0)["promoted"]
    near = promote(2)
    assert not near["promoted"]
    assert "at least +0.020 is required" in near["reason"]
    assert registry.champion("stargan") == "2"
    moves = [(m["from"], m["to"], m["kind"]) for m in registry.history("stargan")]
    assert moves == [(None, "1", "promote"), ("1", "2", "promote")]


def test_repeated_promotion_changes_and_scores_nothing(promote: Any) -> None:
    promote(0)
    promote(1)
    calls = len(promote.calls)
    again = promote(1)
    assert again["promoted"]
    assert not again["changed"]
    assert "version 2 is champion since" in again["reason"]
    assert not promote(0)["promoted"]
    assert len(promote.calls) == calls
    assert len(registry.history("stargan")) == 2


def test_a_champion_is_scored_again_on_another_crop_of_the_same_pictures(promote: Any) -> None:
    """Whose fingerprint is equal, as it is of the source files."""
    promote(0)
    data = Manifest.read(promote.dataset, "dataset")
    other = dataclasses.replace(
        data, meta=dataclasses.replace(data.meta, data={"interpolation": "lanczos"})
    )
    judge = Manifest.read(promote.dataset.parent / "judge.json", "judge")
    before, after = (fingerprint(one, judge, EvalConfig()) for one in (data, other))
    assert before == after
    other.write(promote.dataset)
    assert promote(1)["promoted"]
    assert promote.calls == ["0", "1", "0"]  # champion, challenger, champion


def test_an_override_records_its_reason(promote: Any) -> None:
    promote(1)
    result = promote(0, override="demo for the board")
    assert result["promoted"]
    last = registry.history("stargan")[-1]
    assert last["kind"] == "override"
    assert "demo for the board (gate: " in last["why"]
    assert last["who"]
    assert last["when"].startswith("20")
    assert any(not check["passed"] for check in result["checks"])


def test_rollback_restores_the_previous_champion(promote: Any) -> None:
    for seed in (0, 1, 4):
        promote(seed)
    assert promotion.rollback("stargan", "worse on dark pictures") == "2"
    assert promotion.rollback("stargan", "this one too") == "1"
    assert registry.champion("stargan") == "1"
    with pytest.raises(ValueError, match="no earlier champion"):
        promotion.rollback("stargan", "once more")
    assert [m["kind"] for m in registry.history("stargan")] == ["promote"] * 3 + ["rollback"] * 2


def test_rollbacks_pass_through_a_champion_that_was_promoted_twice(promote: Any) -> None:
    for seed in (0, 1, 4):
        promote(seed)
    for before, to in (("3", "1"), ("1", "3")):
        registry.move("stargan", before, to, "promote", "again")
    ends = [promotion.rollback("stargan", "back") for _ in range(4)]
    assert ends == ["1", "3", "2", "1"]


@pytest.mark.parametrize(("by_hand", "back"), [("1", None), ("2", "1"), ("4", "3")])
def test_a_rollback_starts_where_the_alias_was_moved_by_hand(
    promote: Any, by_hand: str, back: str | None
) -> None:
    """In MLflow's page, after versions 1, 2 and 3: to an earlier champion, or to a new one."""
    for seed in (0, 1, 4):
        promote(seed)
    register(promote.dataset, 2)
    tracking.client().set_registered_model_alias("stargan", registry.ALIAS, by_hand)
    if back:
        assert promotion.rollback("stargan", "back") == back
    else:
        with pytest.raises(ValueError, match="no earlier champion"):
            promotion.rollback("stargan", "back")
    assert registry.champion("stargan") == (back or by_hand)


def test_a_rollback_passes_over_a_promotion_that_died_before_the_alias_moved(
    promote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (0, 1):
        promote(seed)
    register(promote.dataset, 4)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tracking.mlflow().MlflowClient, "set_registered_model_alias", die)
        with pytest.raises(KeyboardInterrupt):
            registry.move("stargan", "2", "3", "promote", "dies")
    assert promotion.rollback("stargan", "back") == "1"
    assert [m["to"] for m in registry.history("stargan")] == ["1", "2", "1"]


def test_an_altered_version_is_neither_promoted_nor_rolled_back_to(promote: Any) -> None:
    promote(0)
    flip_byte(registered_folder() / "artifacts/model/nets/G.safetensors")
    with pytest.raises(LineageError, match="weights altered"):
        promote(1)  # the altered version is the champion
    assert registry.champion("stargan") == "1"
    assert promote(1, override="the champion is broken")["promoted"]
    with pytest.raises(LineageError, match="weights altered"):
        promotion.rollback("stargan", "back")
    assert registry.champion("stargan") == "2"


def test_a_champion_whose_files_are_lost_can_be_replaced_with_a_reason(promote: Any) -> None:
    promote(0)
    shutil.rmtree(registered_folder())
    with pytest.raises(ValueError, match=r"stargan version 1: its files are not found: .* another "
                       "version with a reason to override$"):  # fmt: skip
        promote(1)
    reason = promote(1, override="its disk is lost")["reason"]
    assert "(gate: the champion cannot be compared: stargan version 1: its files are not" in reason
    assert registry.champion("stargan") == "2"


def test_a_version_whose_files_are_lost_is_registered_anew_once_it_is_deleted(binary: Path) -> None:
    """As the error says; without the deletion the same content is not published again."""
    register(binary)
    shutil.rmtree(registered_folder())
    assert register(binary)["version"] == "1"
    with pytest.raises(ValueError, match="delete this version in MLflow and register the model"):
        lineage.verify("stargan/1")
    tracking.client().delete_model_version("stargan", "1")
    assert register(binary)["version"] == "2"
    lineage.verify("stargan/2")


def test_a_challenger_whose_training_data_changed_is_not_promoted(promote: Any) -> None:
    register(promote.dataset, 0)
    flip_byte(open_store().path(Manifest.read(promote.dataset).entry("celeba-00000.npy").sha256))
    with pytest.raises(LineageError, match="data altered"):
        promote(0)
    assert registry.champion("stargan") is None


@pytest.mark.slow
def test_promotion_with_a_real_judge_caches_its_scores(
    binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An untrained model did not learn; the verdict is the same with cached and new scores, and its
    page has the drift that the evaluation's page has."""
    from training.evaluate import evaluate as real_evaluate
    from training.judge import judge as train_judge

    folder, model = binary.parent, train(binary)
    config = to_json(
        EvalConfig(
            limit=8, bootstrap=50, min_success=0.0, min_psnr=0.0, max_kid=0.0, max_raster=0.0,
            max_background=0.0, min_identity=0.0,
        )
    )  # fmt: skip
    brief = to_json(JudgeConfig(images=(96,), batch=16, floor=0.0))
    words = ("judge", "evaluation", "report", "metrics", "version")
    judge, scores, page, metrics, version = (folder / f"{word}.json" for word in words)
    train_judge(binary, judge_config=brief, out=judge)
    real_evaluate(
        model, binary, judge, eval_config=config, out=scores, report=page, metrics=metrics
    )
    release.register(model, scores, binary, data_md5=MD5, out=version)

    def verdict() -> dict[str, Any]:
        out = folder / "verdict.json"
        return promotion.promote(version, binary, judge, config, "", out)

    def drift(path: Path) -> list[str]:
        written = path.read_text()
        return re.findall(r"<td>.*", written[written.index("<h2>Scored and training images") :])[:1]

    for kept in ("scores", "drifts"):
        assert [*open_store().listing(f"refs/{kept}/")]
    with monkeypatch.context() as patch:  # what evaluate kept is used
        patch.setattr("training.evaluation.realism.scored", None)
        patch.setattr("training.evaluation.drift_sides.of_scored", None)
        first = verdict()
    shown = drift(folder / "verdict.json.html")
    assert shown == drift(page)
    assert re.search(r"binary|faces|celeba", shown[0])
    for kept in ("scores", "drifts"):
        shutil.rmtree(open_store().root / "refs" / kept)
    with monkeypatch.context() as patch:  # for information: it holds nothing up, and is not kept
        patch.setattr("training.evaluation.drift_sides.of_scored", lost)
        assert verdict() == first
    assert "it could not be measured: the judge is lost" in drift(folder / "verdict.json.html")[0]
    assert verdict() == first
    assert drift(folder / "verdict.json.html") == shown
    assert not first["promoted"]
    assert "did not learn" in first["reason"]
    success = next(c["value"] for c in first["checks"] if c["name"] == "success")
    assert success == pytest.approx(read_json(metrics)["success_mean"])


def lost(*_: Any) -> None:
    raise StoreError("the judge is lost")


def replicates_of(dataset: Path, *seeds: int) -> Path:
    """The manifest of models from these seeds."""
    entries = [
        entry.named(f"{seed}/{entry.name}")
        for seed in seeds
        for entry in Manifest.read(train(dataset, seed)).entries
    ]
    path = dataset.parent / "replicates.json"
    Manifest("replicates", tuple(entries), {"seeds": list(seeds)}).write(path)
    return path


def test_replicates_count_in_the_decision(promote: Any) -> None:
    """A gain of 0.2 is within the spread of seeds at 0.3 and 0.95."""
    promote(0)
    result = promote(1, replicates=replicates_of(promote.dataset, 3, 4))
    assert not result["promoted"]
    assert [c["name"] for c in result["checks"] if not c["passed"]] == ["seeds"]


def test_a_broken_replicate_is_named_by_its_seed_and_refused(promote: Any) -> None:
    """Unless there is a reason to override."""
    replicates = replicates_of(promote.dataset, 3, 4)
    promote.broken.add(4)
    verdict = promote(1, replicates=replicates)
    assert not verdict["promoted"]
    assert verdict["reason"] == (
        "refused: seed 4 of the replicates: the model's output is not finite; the model is broken"
    )
    assert promote(1, override="one seed of two", replicates=replicates)["promoted"]


def test_a_champion_of_other_labels_is_not_compared(promote: Any, joint: Path) -> None:
    register(joint, 1)
    registry.move("stargan", None, "1", "promote", "by the test")
    result = promote(0)
    assert not result["promoted"]
    assert "other labels" in result["reason"]


def test_versions_judged_by_different_protocols_are_not_compared(promote: Any) -> None:
    """Before anything is scored; a reason overrides it, and then the protocol is the new one's."""
    promote(0)
    assert "protocol" not in registry.version("stargan/1").tags
    calls = len(promote.calls)
    verdict = promote(1, protocol="paper")
    assert not verdict["promoted"]
    assert verdict["reason"] == (
        "refused: stargan/1, the champion, was judged with eval.protocol=ours, this run judges "
        "with paper; run with eval.protocol=ours, or promote with a reason to override"
    )
    assert len(promote.calls) == calls
    assert promote(1, override="numbers beside the paper's", protocol="paper")["promoted"]
    assert registry.version("stargan/2").tags["protocol"] == "paper"
    assert "judged with eval.protocol=paper, this run judges with ours" in promote(4)["reason"]
    assert promote(4, protocol="paper")["promoted"]


def test_a_refusal_before_scoring_leaves_the_protocol_of_the_version(promote: Any) -> None:
    """Else a rollback to it would make the next run of the same protocol be refused."""
    promote(0)
    promote(1)
    assert "judged with eval.protocol=ours" in promote(0, protocol="paper")["reason"]
    assert promotion.rollback("stargan", "back") == "1"
    assert promote(4)["promoted"]


def test_a_promotion_that_died_after_the_alias_moved_is_told_by_the_next(
    promote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version says its verdict and protocol, and its run's description the verdict."""
    client = tracking.mlflow().MlflowClient
    set_alias = client.set_registered_model_alias

    def die(*given: Any) -> None:
        set_alias(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(client, "set_registered_model_alias", die)
        with pytest.raises(KeyboardInterrupt):
            promote(0, protocol="paper")
    assert registry.version("stargan@champion").tags["protocol"] == "paper"
    assert not promote(0, protocol="paper")["changed"]
    found = registry.version("stargan@champion")
    said = "promoted: the first champion: every floor is reached"
    assert found.tags["verdict"] == said
    run = tracking.client().get_run(found.run_id)
    assert run.data.tags["mlflow.note.content"].startswith(f"**stargan 1**: {said}\n")


def test_an_overtaken_promotion_compares_with_the_new_champion(
    promote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is better than the first champion, but not than the one promoted meanwhile."""
    promote(0)
    register(promote.dataset, 4)
    decide = gate.decide

    def slow(*scores: Any) -> Any:
        if registry.champion("stargan") == "1":
            registry.move("stargan", "1", "2", "promote", "another promoter")
        return decide(*scores)

    monkeypatch.setattr(gate, "decide", slow)
    assert not promote(1)["promoted"]
    assert registry.champion("stargan") == "2"


@pytest.mark.server
@pytest.mark.slow
def test_a_server_in_another_process_serves_the_same_registry(
    promote: Any, mlflow_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Register, promote, verify and load over HTTP, with artifacts on the server."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    assert promote(0)["promoted"]
    assert promote(1)["promoted"]
    assert not register(promote.dataset, 1)["created"]
    assert promotion.rollback("stargan", "over HTTP") == "1"
    assert [m["to"] for m in registry.history("stargan")] == ["1", "2", "1"]
    assert "ema/G.safetensors" in registered_files("stargan@champion")
    weights = sorted((mlflow_server.folder / "served").rglob("ema/G.safetensors"))
    for path in weights:
        flip_byte(path)
    with pytest.raises(LineageError, match="weights altered"):
        lineage.verify("stargan@champion")
    assert os.environ["MLFLOW_TRACKING_URI"] == mlflow_server.uri


RACER = """
    import sys, time, warnings
    warnings.simplefilter("ignore")
    from training.registry import versions as registry
    registry.champion("stargan")
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        registry.move("stargan", None, sys.argv[1], "promote", f"racer {sys.argv[1]}")
        print("won")
    except registry.OvertakenError as error:
        print("overtaken", error)
"""


@pytest.mark.slow
def test_of_two_promoters_at_once_one_wins(binary: Path) -> None:
    """Two processes that both saw no champion: the history has only the winner's change."""
    register(binary, 0)
    register(binary, 1)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(RACER), number],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in ("1", "2")
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    ends = []
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        out, err = racer.communicate(timeout=120)
        assert racer.returncode == 0, err[-2000:]
        ends.append(out.split()[0])
    assert sorted(ends) == ["overtaken", "won"]
    winner = str(ends.index("won") + 1)
    assert registry.champion("stargan") == winner
    assert [m["to"] for m in registry.history("stargan")] == [winner]


def test_an_unfinished_change_of_the_alias_is_overwritten(
    binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A promoter that dies between the record and the alias."""
    register(binary, 0)
    register(binary, 1)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tracking.mlflow().MlflowClient, "set_registered_model_alias", die)
        with pytest.raises(KeyboardInterrupt):
            registry.move("stargan", None, "1", "promote", "dies")
    assert [m["why"] for m in registry.history("stargan")] == ["dies"]
    assert registry.champion("stargan") is None
    registry.move("stargan", None, "2", "promote", "lives")
    assert [m["why"] for m in registry.history("stargan")] == ["lives"]


def test_a_lock_whose_holder_died_is_broken_after_its_time(
    working_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = {"holder": f"dead-host {'0' * 32}"}
    tracking.client().create_registered_model("stargan.lock", tags=dead)
    monkeypatch.setattr(registry, "PATIENCE", 0.3)
    with pytest.raises(TimeoutError, match="another process"):
        registry.move("stargan", None, "1", "promote", "waits for the lock")
    monkeypatch.setattr(registry, "PATIENCE", 60.0)
    monkeypatch.setattr(registry, "STALE", 0.0)
    with registry.lock("stargan") as held:
        held()
    with registry.lock("stargan") as held:
        tracking.client().delete_registered_model("stargan.lock")
        with pytest.raises(registry.OvertakenError, match="lock was lost"):
            held()


def test_command_lines_show_verify_and_translate(
    promote: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    promote(0)
    release.main(["show", "stargan"])
    assert "stargan/1 @champion" in capsys.readouterr().out
    release.main(["history", "stargan"])
    assert json.loads(capsys.readouterr().out)["to"] == "1"
    release.main(["verify", "stargan@champion"])
    assert "files as registered" in capsys.readouterr().out
    face = promote.dataset.parent / "face.png"
    Image.fromarray(np.full((40, 30, 3), 128, np.uint8)).save(face)
    edited = promote.dataset.parent / "edited.png"
    translate.main(["stargan@champion", str(face), str(edited), "Blond_Hair", "Male"])
    with Image.open(edited) as picture:
        assert picture.size == (16, 16)
    with pytest.raises(ValueError, match="made with different code"):
        release.main(["verify", "stargan@champion", "--here"])
    with pytest.raises(
        ValueError, match=r"'Beard': not a unique label name; use one of .*celeba/Male"
    ):
        translate.main(["stargan@champion", str(face), str(edited), "Beard"])
    with pytest.raises(ValueError, match="stargan takes no seed; it takes labels"):
        translate.main(["stargan@champion", str(face), str(edited), "Male", "--seed", "3"])
    with pytest.raises(ValueError, match=r"Male=2: a number between 0 and 1"):
        translate.main(["stargan@champion", str(face), str(edited), "Male=2"])
    assert registry.champion("stargan") == "1"


def test_an_alias_is_pinned_to_its_current_version(binary: Path) -> None:
    """Cached training steps would not notice a changed alias."""
    for seed in (0, 1):
        register(binary, seed)
        number = str(seed + 1)
        registry.move("stargan", registry.champion("stargan"), number, "promote", "by the test")
        assert pin("stargan@champion") == f"stargan/{number}"
    assert [pin(text) for text in ("", "stargan/1")] == ["", "stargan/1"]
    for text in ("nobody@champion", "stargan/9"):
        with pytest.raises(ValueError, match="no such version"):
            pin(text)
    with pytest.raises(ValueError, match=r"none\.json: no such file"):
        pin("none.json")

"""Published weights become a version that is evaluated, used and promoted as any other."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from PIL import Image
from torch import Tensor, nn

import runevents
from published import fan, fan_state, random, stargan, stargan_v2, states
from runs import QUICK, go, session_of
from training import convert, release, translate
from training.core.config import EvalConfig, JudgeConfig, to_json
from training.core.files import read_json, sha256_file
from training.engine.warm_start import warm_start
from training.evaluate import evaluate
from training.evaluation.comparison.page import report, system
from training.evaluation.comparison.runs import ComparedRun
from training.inference import published
from training.inference.translator import load_translator, translator_from_files
from training.judge import judge
from training.models import MODELS, configure
from training.models.landmarks import face_masks
from training.models.layers import place
from training.models.stargan import StarGAN
from training.models.styles import fixed_latent
from training.registry import lineage, promotion
from training.registry import versions as registry
from training.registry.imported import label_space
from training.registry.references import registered_files
from training.storage.meta import ModelMeta
from training.storage.store import Manifest
from training.tracking import client as tracking

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # MLflow's own
    pytest.mark.filterwarnings("ignore:.*type hints? :UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow leaves SQLite pools open
]
TINY = "conv_dim=4;repeat_num=1;d_conv_dim=4;d_repeat_num=2;data.size=16"  # as StarGAN.tiny
NARROW = "conv_dim=4;repeat_num=1;d_conv_dim=2"  # six strided layers, as published
TINY_V2 = "dim=4;max_dim=8;hidden=8;data.size=16"  # as StarGANv2.tiny
LABELS = "Black_Hair,Blond_Hair,Male"
FILES = ("200000-G.ckpt", "200000-D.ckpt")
OPEN = EvalConfig(  # a gate that lets every model pass
    limit=8, bootstrap=50, min_success=0, min_psnr=0, max_kid=0, max_raster=0, max_background=0,
    min_identity=0, must_learn=False,
)  # fmt: skip


@pytest.fixture(autouse=True)
def working_folder(release_folder: Path) -> Path:
    """A working folder with the default stores, as in a step of a pipeline run."""
    return release_folder


def bring(*arguments: str | Path) -> None:
    release.main(["import", *map(str, arguments), "--manifest", "model.json", "--out", "v.json"])


def stargan_files(labels: int = 3, size: int = 16, width: int = 4, layers: int = 2) -> None:
    """Files of the published names, from networks that are not this project's."""
    torch.manual_seed(0)
    for net, path in zip(stargan(labels, size, width, 1, layers).values(), FILES, strict=True):
        torch.save(net.state_dict(), path)


def bring_stargan() -> None:
    stargan_files()
    bring(*FILES, "--model", "stargan", "--preset", "celeba-128", "--set", TINY,
          "--labels", LABELS, "--name", "paper")  # fmt: skip


def bring_v2() -> None:
    torch.manual_seed(0)
    nets = stargan_v2(3, 16, 4, 8, 8)
    values = states(nets, "generator", "mapping_network", "style_encoder")
    torch.save(values, "100000_nets_ema.ckpt")
    bring("100000_nets_ema.ckpt", "--model", "starganv2", "--preset", "afhq", "--set",
          f"{TINY_V2};data.datasets=rafd:folders", "--labels", "angry,happy,sad")  # fmt: skip


@pytest.mark.parametrize(
    ("model", "preset", "changes"),
    [
        ("stargan", "celeba-128", NARROW),
        ("stargan", "celeba-256", NARROW),
        ("stargan", "rafd-128", NARROW),
        ("stargan", "joint-128", NARROW),
        ("starganv2", "afhq", TINY_V2),
        ("starganv2", "celeba-hq", TINY_V2),
    ],
)
def test_networks_written_as_published_come_back_with_the_same_bits(
    model: str, preset: str, changes: str
) -> None:
    """And with the preset's labels: CelebA's five, RaFD's eight, both, cat, dog and wild."""
    config = configure.resolve(model, preset, configure.parse(changes))
    space, size = label_space(config), config.data.size
    torch.manual_seed(0)
    nets = config.model.networks(space, size)
    sections: dict[str, dict[str, Any]] = {}
    for key, layout in published.layouts(config.model, space, size).items():
        own = random(nets[key]).state_dict()
        state = {theirs: own[name] for theirs, name in layout.names.items()}
        sections[published.SECTIONS[key]] = state
    if model == "stargan":
        paths = list(FILES)
        for path, state in zip(paths, sections.values(), strict=True):
            torch.save(state, path)
    else:
        paths = ["100000_nets.ckpt"]
        torch.save(sections, paths[0])
    bring(*paths, "--model", model, "--preset", preset, "--set", changes)
    found = translator_from_files(registered_files(f"{model}/1"))
    x = torch.rand(2, 3, size, size) * 2 - 1
    target = space.encode(torch.eye(len(space.sets[0].names))[:2], 0)
    assert (found.space, found.size) == (space, size)
    for key, net in nets.items():
        state, stored = net.state_dict(), found.nets[key].state_dict()
        assert all(torch.equal(value, stored[name]) for name, value in state.items())
        net.eval()
        place(net, torch.device("cpu"))
    with torch.no_grad():
        expected = config.model.translate(nets, x, None, target)
    assert torch.equal(found(x, None, target), expected)


def test_the_labels_of_published_models_are_known() -> None:
    def names(model: str, preset: str, *labels: str) -> list[tuple[str, ...]]:
        return [part.names for part in label_space(configure.find(model, preset), labels).sets]

    celeba = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Young")
    faces = (
        "angry",
        "contemptuous",
        "disgusted",
        "fearful",
        "happy",
        "neutral",
        "sad",
        "surprised",
    )
    assert names("stargan", "celeba-256") == [celeba]
    assert names("stargan", "joint-128") == [celeba, faces]
    assert names("starganv2", "afhq") == [("cat", "dog", "wild")]
    assert names("starganv2", "celeba-hq") == [("female", "male")]
    assert names("stargan", "celeba-128", "Male", "Bald") == [("Male", "Bald")]
    assert names("stargan", "rafd-128", "sad", "happy") == [("sad", "happy")]
    with pytest.raises(ValueError, match="--labels: male: no attributes of CelebA"):
        names("stargan", "celeba-128", "male")
    with pytest.raises(ValueError, match="preset joint-128 has 2 data sets; leave --labels out"):
        names("stargan", "joint-128", "Male")


def test_its_lineage_is_the_files_it_came_from(capsys: pytest.CaptureFixture[str]) -> None:
    """Training data, seed and images are recorded as unknown, not as 0."""
    bring_stargan()
    said = capsys.readouterr().out
    assert "200000-G.ckpt: network G: " in said
    assert said.endswith("registered as paper/1\n")
    record = lineage.verify("paper/1")
    sizes = {name: f"{sha256_file(Path(name))} {Path(name).stat().st_size}" for name in FILES}
    assert record.imported == sizes
    assert (record.seed, record.dataset, record.data_md5, record.training_run) == (None, "", "", "")
    meta = Manifest.read(Path("model.json"), "model").meta
    assert (meta.seed, meta.images, meta.imported) == (None, None, sizes)
    found = registry.version("paper/1")
    assert found.tags["seed"] == "unknown"
    for name in FILES:
        assert f"{name} (sha256 {sizes[name].split()[0]}, " in found.tags["imported"]
    text = found.description
    assert "Imported from 200000-" in text
    assert "not trained with this project" in text
    assert "their licence applies" in text
    assert "| celeba | 3 | binary | unknown | unknown | unknown |" in text
    assert "seed None" not in text
    release.main(["verify", "paper/1"])
    release.main(["show", "paper"])
    out = capsys.readouterr().out
    assert "files as registered, imported from 200000-" in out
    assert "imported from 200000-" in out.splitlines()[-1]
    run = tracking.client().get_run(found.run_id)
    assert (run.data.tags["role"], run.info.status) == ("import", "FINISHED")


def test_its_provenance_materials_and_events_name_the_published_files() -> None:
    """And no data, judge or metrics, which are not known."""
    bring_stargan()
    for command in ("provenance", "bom"):
        release.main([command, "paper/1", "--out", f"{command}.json"])
    release.main(["lineage", "paper/1", "--openlineage", "events.jsonl"])
    build = read_json(Path("provenance.json"))["predicate"]["buildDefinition"]
    needed = {one["name"]: one["digest"].get("sha256") for one in build["resolvedDependencies"]}
    assert needed.keys() - {"code"} == {*FILES, "requirements.lock"}
    assert all(needed[name] == sha256_file(Path(name)) for name in FILES)
    materials = Path("bom.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(materials) is None
    card = json.loads(materials)["metadata"]["component"]["modelCard"]
    assert "datasets" not in card["modelParameters"]
    assert card["quantitativeAnalysis"] == {"performanceMetrics": []}
    events = runevents.read(Path("events.jsonl"))
    assert runevents.steps(events) == [("register", "START"), ("register", "COMPLETE")]
    assert runevents.versions(events[1]["inputs"]).keys() == {"imported"}


def test_the_same_files_are_registered_once() -> None:
    bring_stargan()
    first = read_json(Path("v.json"))
    bring_stargan()
    assert read_json(Path("v.json")) == {**first, "created": False}
    assert len(registry.versions("paper")) == 1


def test_an_altered_weight_is_refused(working_folder: Path) -> None:
    bring_stargan()
    path = next(Path("runs/mlartifacts/models").glob("m-*/artifacts/artifacts/model/nets/G*"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(lineage.LineageError, match="weights altered: artifacts/model/nets/G"):
        registered_files("paper/1")


def test_it_is_evaluated_compared_and_promoted(binary: Path, tmp_path: Path) -> None:
    """By the gate, on the data of whoever imports it; a data set of other labels is refused."""
    bring_stargan()
    judge(binary, judge_config=to_json(JudgeConfig(images=(320,), batch=16, lr=3e-3, floor=0.0)),
          out=tmp_path / "judge.json")  # fmt: skip
    paths = {name: tmp_path / f"e-{name}" for name in ("out", "report", "metrics")}
    evaluate(
        Path("model.json"), binary, tmp_path / "judge.json", eval_config=to_json(OPEN), **paths
    )
    assert 0 <= read_json(paths["metrics"])["success_mean"] <= 1
    run = ComparedRun.read("paper", Path("model.json"), paths["out"], binary)
    assert system("paper", [run]).images is None
    assert system("paper", [run]).seeds == {}
    page = report([run], "one")
    assert "nan" not in page.lower().partition("<h1")[2].partition("<img")[0]
    verdict = promotion.promote(
        Path("v.json"), binary, tmp_path / "judge.json", to_json(OPEN), "", tmp_path / "verdict"
    )
    assert verdict["promoted"], verdict["reason"]
    assert registry.champion("paper") == "1"
    with pytest.raises(ValueError, match=r"^imported from 200000-.*`import` registered it already"):
        release.register(Path("model.json"), paths["out"], binary, out=tmp_path / "again.json")


def test_the_gate_refuses_it_on_data_of_other_labels(joint: Path, tmp_path: Path) -> None:
    bring_stargan()
    judge(joint, judge_config=to_json(JudgeConfig(images=(16,), batch=16, floor=0.0)),
          out=tmp_path / "judge.json")  # fmt: skip
    verdict = promotion.promote(
        Path("v.json"), joint, tmp_path / "judge.json", to_json(OPEN), "", tmp_path / "verdict"
    )
    assert verdict["reason"] == (
        "the challenger has other labels or another image size than the data set"
    )


def test_mlflows_own_loader_gives_the_published_networks_outputs() -> None:
    bring_stargan()
    torch.manual_seed(0)
    generator = stargan(3, 16, 4, 1, 2)["G"]  # the weights of the files
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    label = torch.tensor([[0.0, 1, 0], [1, 0, 1]])
    with torch.no_grad():
        expected = generator.train()(x, label).clamp(-1, 1)
    with tracking.as_default():
        loaded = tracking.mlflow().pyfunc.load_model("models:/paper/1")
    found = loaded.predict({"image": x.numpy(), "label": label.numpy()})
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


def test_it_translates_pictures(tmp_path: Path) -> None:
    bring_stargan()
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(tmp_path / "face.png")
    translate.main(["paper/1", "face.png", "out.png", "Male"])
    assert np.asarray(Image.open("out.png")).std() > 0


def test_a_training_starts_from_it(binary: Path, tmp_path: Path) -> None:
    """All of G and D: before a first step its weights are the file's."""
    bring_stargan()
    state = session_of(MODELS["stargan"].tiny(), binary).state
    go(binary, tmp_path / "b", QUICK, init="paper/1")
    theirs = load_translator(Path("model.json"))
    job = session_of(MODELS["stargan"].tiny(), binary).job
    job = replace(job, config={"name": "stargan", "model": {}, "size": 16})
    said = warm_start("paper/1", registered_files("paper/1"), state, job)
    assert said == "started from paper/1: G, D"
    for key, net in theirs.nets.items():
        for name, value in net.state_dict().items():
            assert torch.equal(state.nets[key].state_dict()[name], value)


def test_averages_without_a_discriminator_are_used_and_d_starts_fresh(
    classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """StarGAN v2's `nets_ema`, also by MLflow's own loader."""
    bring_v2()
    assert "network D: in no file; training from this version starts it fresh" in (
        capsys.readouterr().out
    )
    found = translator_from_files(registered_files("starganv2/1"))
    assert sorted(found.nets) == ["E", "F", "G"]
    image, label = torch.rand(2, 3, 16, 16) * 2 - 1, torch.eye(3)[:2]
    ours = found(image, None, label)
    with tracking.as_default():
        loaded = tracking.mlflow().pyfunc.load_model("models:/starganv2/1")
    given = {"image": image.numpy(), "label": label.numpy()}
    np.testing.assert_allclose(loaded.predict(given), ours.numpy(), atol=1e-5)
    for how in ("", "by-name:"):
        with caplog.at_level("INFO"):
            go(classes, tmp_path / f"b{how[:2]}", QUICK, "starganv2", init=f"{how}starganv2/1")
        assert "started from starganv2/1: G, F, E; fresh, as it has none: D" in caplog.text
        caplog.clear()


class Marks(nn.Module):
    """A landmark network of two masks: the left half at 32 px, the bright pixels above."""

    def forward(self, x: Tensor) -> Tensor:
        left = torch.zeros_like(x[:, 0])
        left[:, :, : x.shape[3] // 2] = 1
        return torch.stack([left, (x.mean(1) > 0).to(x.dtype)], 1)


def landmarks_of(kind: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The setting of a TorchScript file, or of the published network as the command prints it."""
    if kind == "torchscript":
        path = folder / "marks.pt"
        torch.jit.script(Marks()).save(str(path))
        return f"landmarks={path}@{sha256_file(path)}"
    convert.main(["landmarks", "100000_nets_ema.ckpt", str(folder / "marks.safetensors")])
    return capsys.readouterr().out.splitlines()[-1]


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", ["torchscript", "published"])
def test_celeba_hqs_model_uses_its_landmark_network_wherever_it_is_served(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """High-pass skips: imported, verified, and the published function's edits by each way of use.

    Without the landmark network, which is in no version, the version is refused.
    """
    torch.manual_seed(0)
    nets: dict[str, Any] = stargan_v2(2, 64, 4, 8, 8, 1.0)
    with torch.no_grad():
        for value in nets["generator"].to_rgb[2].parameters():
            value *= 0.2  # most colours between black and white
    values = states(nets, "generator", "mapping_network", "style_encoder")
    torch.save(values | {"fan": fan_state()}, "100000_nets_ema.ckpt")
    setting = landmarks_of(kind, tmp_path, capsys)
    bring("100000_nets_ema.ckpt", "--model", "starganv2", "--preset", "celeba-hq", "--set",
          f"dim=4;max_dim=8;hidden=8;data.size=64;w_hpf=1;{setting}")  # fmt: skip
    assert "fan: 336 tensors left out: the landmark network" in capsys.readouterr().out
    release.main(["verify", "starganv2/1"])
    faces = (np.random.default_rng(0).random((2, 64, 64, 3)) * 255).round().astype(np.uint8)
    x = torch.from_numpy(faces).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        own = Marks()(x) if kind == "torchscript" else face_masks(fan(fan_state(), x), 64)
        style = nets["mapping_network"](fixed_latent(x, 16), torch.tensor([1, 1]))
        expected, plain = (nets["generator"](x, style, m).clamp(-1, 1) for m in (own, None))
    assert (expected - plain).abs().mean() > 0.02  # the skips are part of the function
    assert (expected.abs() < 1).float().mean() > 0.5
    label = torch.eye(2)[[1, 1]]
    found = translator_from_files(registered_files("starganv2/1"))(x, None, label)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    with tracking.as_default():
        loaded = tracking.mlflow().pyfunc.load_model("models:/starganv2/1")
    given = {"image": x.numpy(), "label": label.numpy()}
    np.testing.assert_allclose(loaded.predict(given), found.numpy(), atol=1e-5)
    Image.fromarray(faces[0]).save("face.png")
    translate.main(["starganv2/1", "face.png", "out.png", "male"])
    picture = (expected[0] + 1) * 127.5
    np.testing.assert_allclose(
        np.asarray(Image.open("out.png")), picture.permute(1, 2, 0), atol=1.1
    )
    Path(setting.partition("=")[2].partition("@")[0]).unlink()
    with pytest.raises(ValueError, match=r"landmarks=.*: no file .* on this machine"):
        translator_from_files(registered_files("starganv2/1"))


@pytest.mark.parametrize(
    ("labels", "size", "preset", "says"),
    [
        (8, 128, "celeba-128", "main.0.weight is (4, 11, 7, 7), not (4, 8, 7, 7)"),
        (5, 256, "celeba-128", "conv2.weight is (5, 128, 4, 4), not (5, 128, 2, 2)"),
    ],
)
def test_other_shapes_are_refused_with_the_first_of_them(
    labels: int, size: int, preset: str, says: str
) -> None:
    stargan_files(labels, size, 4, 6)
    with pytest.raises(published.MisfitError) as caught:
        bring(*FILES, "--model", "stargan", "--preset", preset,
              "--set", "conv_dim=4;repeat_num=1;d_conv_dim=4")  # fmt: skip
    assert says in str(caught.value)
    assert not Path("model.json").exists()
    assert not Path("v.json").exists()


def test_the_presets_that_fit_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """And of the published widths the number of labels, if it is another."""
    small = StarGAN(conv_dim=4, repeat_num=1, d_conv_dim=4)
    rows = {
        ("stargan", name): replace(configure.find("stargan", name), model=small)
        for name in ("celeba-128", "celeba-256", "rafd-128")
    }
    monkeypatch.setattr(configure, "PRESETS", rows)
    for labels, size, says in (
        (8, 128, r"of 5 labels; the files fit rafd-128$"),
        (5, 256, r"of 5 labels; the files fit celeba-256$"),
        (4, 256, r"of 5 labels; the files fit celeba-256 with 4 labels: give --labels$"),
        (5, 64, r"of 5 labels; no preset has these tensors$"),
    ):
        stargan_files(labels, size, 4, 6)
        with pytest.raises(published.MisfitError, match=says):
            bring(*FILES, "--model", "stargan", "--preset", "celeba-128")


def test_tensorflows_checkpoints_are_refused_by_model() -> None:
    with pytest.raises(ValueError, match="stgan: its published weights are TensorFlow's checkpoin"):
        bring("model.ckpt", "--model", "stgan", "--preset", "celeba-128")


def test_a_training_without_seed_is_no_manifest(binary: Path) -> None:
    with pytest.raises(ValueError, match="seed and images are needed"):
        ModelMeta(model="stargan", preset="", dataset="", mlflow_run="")

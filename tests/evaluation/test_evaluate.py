"""Evaluation on toy data, where colours show the labels and a perfect editor can be written."""

import io
import json
import math
import re
from base64 import b64encode
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from training.core.config import EvalConfig, JudgeConfig, TrainConfig, to_json
from training.core.files import canonical_json, sha256_bytes, sha256_file, write_json
from training.data.dataset import Faces, Part, to_float, to_uint8
from training.data.labels import LabelSet, LabelSpace
from training.engine.checkpoint import as_dict
from training.evaluate import evaluate
from training.evaluate import main as evaluate_main
from training.evaluation.cache import ScoreCache, weight_digests
from training.evaluation.diversity import diversity
from training.evaluation.fingerprint import fingerprint
from training.evaluation.frechet import Distances
from training.evaluation.judges.judge import Judge, load_judge
from training.evaluation.judges.training import _clean
from training.evaluation.measure import sweep
from training.evaluation.metrics import PSNR_CAP
from training.evaluation.score import margin, score
from training.evaluation.summary import summarise
from training.inference.translator import Translator
from training.judge import judge
from training.models.base import DEFAULT_OPTIONS, EditOptions
from training.models.stargan import StarGAN
from training.models.torchscript import pinned
from training.storage.meta import ModelMeta
from training.storage.store import Entry, Manifest, open_store
from training.tracking.tracker import Tracker
from training.train import train

JUDGE = to_json(JudgeConfig(images=(800,), batch=16, lr=3e-3, floor=0.7))
EVAL = to_json(EvalConfig(limit=8, bootstrap=50))


class CopyInput:
    """The translator that changes nothing: the floor of every comparison."""

    def __call__(self, image: Tensor, source: Tensor, target: Tensor) -> Tensor:
        return image


class Painter:
    """Knows how the toy data show their labels, and redraws the bands that a target asks for."""

    def __init__(self, space: LabelSpace, size: int) -> None:
        self.space, self.size = space, size

    def __call__(self, image: Tensor, source: Tensor, target: Tensor) -> Tensor:
        pixels = to_uint8(image).float()
        for i in range(len(self.space.sets)):
            part = self.space.slice(i)
            change = (target - source)[:, part]
            band = self.size // change.shape[1]
            active = target[:, self.space.dim_d + i] if len(self.space.sets) > 1 else 1
            for k in range(change.shape[1]):
                rows = slice(k * band, (k + 1) * band)
                pixels[:, rows, :, k % 3] += (change[:, k] * active)[:, None, None] * 90
        return to_float(pixels.clamp(0, 255).to(torch.uint8))


Frozen = tuple[Path, Judge]


@pytest.fixture(scope="module")
def trained() -> dict[str, bytes]:
    """Files of the judges of both toy data sets, by name; the first test that asks trains them."""
    return {}


@pytest.fixture
def frozen(joint: Path, tmp_path: Path, trained: dict[str, bytes]) -> Frozen:
    """The judges in the test's own store: their manifest, and ready for use."""
    path = tmp_path / "judge.json"
    if not trained:
        made = judge(joint, JUDGE, "", path)
        trained |= {e.name: made.local(e.name).read_bytes() for e in made.entries}
    files = {}
    for name, content in trained.items():
        files[name] = tmp_path / f"copy-{name}"
        files[name].write_bytes(content)
    Manifest.build("judge", files, {"recipe": "", "dataset": "", "accuracy": {}}).write(path)
    return path, load_judge(path)


@pytest.fixture
def scene(binary: Path, frozen: Frozen) -> tuple[Faces, Judge]:
    return Faces.open(binary, "test"), frozen[1]


def model(dataset: Path, path: Path) -> Path:
    """A manifest of kind "model" with untrained weights."""
    from safetensors.torch import save_file

    faces = Faces.open(dataset, "test")
    settings = StarGAN(conv_dim=4, repeat_num=1, d_conv_dim=4, d_repeat_num=2)
    config = {
        "name": "stargan",
        "model": as_dict(settings),
        "size": faces.size,
        "preset": "<b>toy</b>",
    }
    torch.manual_seed(0)
    files = {}
    for name, net in settings.networks(faces.space, faces.size).items():
        files[f"nets/{name}.safetensors"] = path.parent / f"{name}.safetensors"
        save_file(dict(net.state_dict()), files[f"nets/{name}.safetensors"])
    for name, value in (("config.json", config), ("label_space.json", faces.space.to_json())):
        files[name] = path.parent / f"model-{name}"
        write_json(files[name], value)
    meta = ModelMeta(model="stargan", preset="", seed=0, images=0, dataset="", mlflow_run="")
    Manifest.build("model", files, meta).write(path)
    return path


def test_a_perfect_editor_succeeds_and_a_copy_does_not(scene: tuple[Faces, Judge]) -> None:
    faces, words = scene
    table = score(Painter(faces.space, faces.size), faces, words, EvalConfig(bootstrap=50))
    numbers, tasks = summarise(table, EvalConfig(bootstrap=200))
    assert numbers.success_mean > 0.9
    assert numbers.copy_success_mean < 0.1
    assert numbers.learned
    assert numbers.self_psnr == pytest.approx(PSNR_CAP)
    assert numbers.cycle_psnr > 30
    assert {t.task for t in tasks} == {"Black_Hair", "Blond_Hair", "Male", "H+G"}


def test_a_copied_input_did_not_learn(scene: tuple[Faces, Judge]) -> None:
    faces, words = scene
    numbers, _ = summarise(score(CopyInput(), faces, words, EvalConfig()), EvalConfig(bootstrap=50))
    assert not numbers.learned
    assert numbers.success_mean == numbers.copy_success_mean
    assert numbers.preservation_mean == 1
    assert numbers.identity_cosine == pytest.approx(1, abs=1e-5)


def test_the_copy_columns_are_what_the_copying_translator_scores(
    scene: tuple[Faces, Judge],
) -> None:
    faces, words = scene
    painted = score(Painter(faces.space, faces.size), faces, words, EvalConfig())
    copied = score(CopyInput(), faces, words, EvalConfig())
    for column, own in (("copy_success", "success"), ("copy_margin", "margin")):
        pd.testing.assert_series_equal(painted[column], copied[own], rtol=1e-5, check_names=False)


def test_an_output_that_ignores_the_labels_did_not_learn(scene: tuple[Faces, Judge]) -> None:
    """One face for all: where it differs from the input it "succeeds", without any editing."""
    faces, words = scene
    labels = faces.parts[0].labels
    black = int((labels[:, 0] > labels[:, 1]).nonzero()[0])
    face = to_float(faces.parts[0].images([black]))

    class Stuck(Painter):
        def __call__(self, image: Tensor, source: Tensor, target: Tensor) -> Tensor:
            return face.expand_as(image)

    table = score(Stuck(faces.space, faces.size), faces, words, EvalConfig())
    numbers, _ = summarise(table, EvalConfig(bootstrap=200))
    assert numbers.success_mean > 0.2 > numbers.copy_success_mean
    assert numbers.blind_success_mean == numbers.success_mean
    assert not numbers.learned


def test_scores_are_one_row_an_image_and_task_and_the_same_again(
    scene: tuple[Faces, Judge],
) -> None:
    faces, words = scene
    first, again = (
        score(Painter(faces.space, faces.size), faces, words, EvalConfig(limit=5)) for _ in range(2)
    )
    pd.testing.assert_frame_equal(first, again)
    assert len(first) == 5 * 4
    assert not first.duplicated(["dataset", "index", "task"]).any()
    assert len(set(first["index"])) == 5


def test_only_single_edits_that_change_something_have_a_cycle(scene: tuple[Faces, Judge]) -> None:
    faces, words = scene
    table = score(Painter(faces.space, faces.size), faces, words, EvalConfig())
    expected = table["single"] & table["changed"]
    for column in ("cycle_psnr", "cycle_ssim", "cycle_ssim_gaussian"):
        assert (table[column].notna() == expected).all()


def test_an_edit_that_spoils_another_label_loses_preservation(scene: tuple[Faces, Judge]) -> None:
    """Switches Male on whatever is asked: hair edits still succeed, Male is not preserved."""
    faces, words = scene

    class Spoiler(Painter):
        def __call__(self, image: Tensor, source: Tensor, target: Tensor) -> Tensor:
            target = target.clone()
            target[:, 2] = 1 - source[:, 2]
            return super().__call__(image, source, target)

    table = score(Spoiler(faces.space, faces.size), faces, words, EvalConfig())
    hair = table[table["task"].isin(["Black_Hair", "Blond_Hair"]) & table["changed"]]
    assert hair["success"].mean() > 0.9
    assert hair["preservation"].mean() < 0.1


def test_a_model_of_other_data_with_the_same_labels_is_scored_alike(
    scene: tuple[Faces, Judge],
) -> None:
    """Transfer: what the model was trained on has another name."""
    faces, words = scene
    labels = replace(faces.space.sets[0], name="elsewhere")
    other = LabelSpace((LabelSet("rafd", "onehot", ("a", "b")), labels))
    own = score(Painter(faces.space, faces.size), faces, words, EvalConfig())
    there = score(Painter(other, faces.size), faces, words, EvalConfig())
    assert there["success"].equals(own["success"])
    wrong = LabelSpace((replace(labels, names=("X", *labels.names[1:]), groups=()),))
    with pytest.raises(ValueError, match="the model has other labels than the data set's binary"):
        score(Painter(wrong, faces.size), faces, words, EvalConfig())


class Toy:
    """A model in name: brightens by the seed or takes the reference, and says what it takes."""

    supported_options = ("seed", "reference")
    edits_own_labels = True

    def translate(
        self,
        nets: object,
        image: Tensor,
        source: Tensor,
        target: Tensor,
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        if options.reference is not None:
            return options.reference
        return (image + 0.1 * (options.seed or 0)).clamp(-1, 1)


def toy(faces: Faces, model: object) -> Translator:
    return Translator(model, {}, faces.space, faces.size, {"name": "toy"})  # type: ignore[arg-type]


def test_styles_that_make_no_difference_have_no_diversity(scene: tuple[Faces, Judge]) -> None:
    faces, words = scene

    class Deaf(Toy):
        def translate(self, nets: object, image: Tensor, *rest: object) -> Tensor:
            return image

    rows, _ = diversity(toy(faces, Deaf()), faces, words, EvalConfig(limit=4))
    assert {row.way for row in rows} == {"latent", "reference"}
    assert all(row.apart == row.from_input == 0 for row in rows)
    rows, seen = diversity(toy(faces, Toy()), faces, words, EvalConfig(limit=4))
    assert all(row.apart > 0 and row.distance == "diversity_vgg" for row in rows)
    assert set(seen) == {"latent", "reference"}
    assert diversity(toy(faces, object()), faces, words, EvalConfig(limit=4)) == ([], {})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_lpips_is_named_only_where_its_weights_are_given(
    scene: tuple[Faces, Judge], tmp_path: Path
) -> None:
    faces, words = scene

    class Plain(torch.nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return (a - b).abs().mean((1, 2, 3))

    path = tmp_path / "lpips.pt"
    torch.jit.script(Plain()).save(str(path))
    config = EvalConfig(limit=4, lpips=f"{path}@{sha256_file(path)}")
    rows, _ = diversity(toy(faces, Toy()), faces, words, config)
    assert {row.distance for row in rows} == {"lpips"}
    with pytest.raises(ValueError, match="fetch the file again"):
        diversity(toy(faces, Toy()), faces, words, replace(config, lpips=f"{path}@{'0' * 64}"))


def test_the_way_back_takes_the_inputs_own_style(scene: tuple[Faces, Judge]) -> None:
    """A model that copies its reference comes back to the input itself: its cycle is exact."""
    faces, words = scene
    table = score(toy(faces, Toy()), faces, words, EvalConfig(limit=4))
    assert (table["cycle_psnr"].dropna() == PSNR_CAP).all()


def test_a_model_without_self_translation_is_measured_by_its_reconstruction(
    scene: tuple[Faces, Judge],
) -> None:
    """A chain that crosses no pair would be a copy, which hides that both paint the same face."""
    faces, words = scene
    one = to_float(faces.parts[0].images([0]))

    class Pairs(Toy):
        supported_options = ()
        edits_own_labels = False

        def translate(
            self,
            nets: object,
            image: Tensor,
            source: Tensor,
            target: Tensor,
            options: EditOptions = DEFAULT_OPTIONS,
        ) -> Tensor:
            same = (source == target).all(1)[:, None, None, None]
            return torch.where(same, image, one)

        def reconstruct(self, nets: object, image: Tensor, source: Tensor) -> Tensor:
            return one.expand_as(image)

    table = score(toy(faces, Pairs()), faces, words, EvalConfig())
    assert table[table["file"] != faces.parts[0].files[0]]["self_psnr"].max() < PSNR_CAP
    edits = table[table["changed"]]
    assert (edits["blind_success"] == edits["success"]).all()
    assert edits["success"].mean() > edits["copy_success"].mean()
    assert not summarise(table, EvalConfig(bootstrap=50))[0].learned


def test_the_sweep_scores_every_intensity(scene: tuple[Faces, Judge]) -> None:
    """Of one who edits from 1.5 on."""
    faces, words = scene
    paint = Painter(faces.space, faces.size)

    class Strong(Toy):
        supported_options = ("intensity",)

        def translate(
            self,
            nets: object,
            image: Tensor,
            source: Tensor,
            target: Tensor,
            options: EditOptions = DEFAULT_OPTIONS,
        ) -> Tensor:
            return paint(image, source, target) if (options.intensity or 1) >= 1.5 else image

    weak, strong, stronger = sweep(toy(faces, Strong()), faces, words, EvalConfig())
    assert (weak.intensity, strong.intensity, stronger.intensity) == (1, 1.5, 2)
    assert weak.success_mean < 0.1 < 0.9 < strong.success_mean == stronger.success_mean
    assert sweep(toy(faces, Toy()), faces, words, EvalConfig()) == []


def test_a_perfect_editor_of_intensities_has_the_judges_own_error(
    units: Path, tmp_path: Path
) -> None:
    """Beside the copied input's; a label outside the edit that is moved is seen, too."""
    path = tmp_path / "judge.json"
    judge(units, JUDGE.replace("0.7", "0.0"), "", path)
    words, faces = load_judge(path), Faces.open(units, "test")
    numbers, tasks = summarise(
        score(Painter(faces.space, faces.size), faces, words, EvalConfig()),
        EvalConfig(bootstrap=50),
    )
    assert numbers.error_mean < 0.7 * numbers.copy_error_mean
    assert numbers.error_low <= numbers.error_mean <= numbers.error_high
    assert all(task.error_others < task.copy_error for task in tasks)
    assert words.facts["datasets"][0]["error"] < 0.25


def test_a_judge_that_always_says_zero_is_half_right(units: Path) -> None:
    """Most intensities are small: plain accuracy would call it good."""
    part, labels = Faces.open(units, "test").parts[0], Faces.open(units, "test").space.sets[0]
    rare = replace_labels(part, part.labels * (part.labels > 0.8))

    class Zero(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), len(labels.names)), -20.0)

    facts = _clean(Zero(), rare, labels, torch.device("cpu"))  # type: ignore[arg-type]
    assert facts["accuracy"] == pytest.approx(0.5)


def replace_labels(part: Part, labels: Tensor) -> Part:
    other = copy(part)
    other.labels = labels
    return other


def test_success_asks_for_the_whole_group() -> None:
    """Black on with blond still on is no success; the label outside the group is not asked."""
    logits = torch.tensor([[3.0, -2.0, -9.0], [3.0, 2.0, 5.0]])
    target = torch.tensor([[1.0, 0, 1], [1, 0, 1]])
    assert margin("binary", logits, target, [0, 1]).tolist() == [2, -2]
    onehot = torch.tensor([[0.0, 1, 0], [0, 1, 0]])
    assert margin("onehot", logits, onehot, [0, 1, 2]).tolist() == [-5, -3]
    assert margin("continuous", torch.tensor([[0.9]]), torch.tensor([[1.0]]), [0]).item() > 0
    assert margin("continuous", torch.tensor([[0.6]]), torch.tensor([[1.0]]), [0]).item() < 0


def test_a_model_of_other_labels_or_size_is_refused(scene: tuple[Faces, Judge]) -> None:
    faces, words = scene
    with pytest.raises(ValueError, match="the model takes images of 32 px"):
        score(Painter(faces.space, 32), faces, words, EvalConfig())
    other = LabelSpace((LabelSet("celeba", "binary", ("Black_Hair", "Blond_Hair", "Smiling")),))
    with pytest.raises(ValueError, match="celeba: the model has other labels"):
        score(Painter(other, faces.size), faces, words, EvalConfig())


def test_a_model_that_gives_nan_is_refused(scene: tuple[Faces, Judge]) -> None:
    faces, words = scene
    words.nets[0].head.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"not finite: margin"):
        score(CopyInput(), faces, words, EvalConfig())


def test_the_judges_floor_is_enforced(binary: Path, tmp_path: Path) -> None:
    path = tmp_path / "judge.json"
    config = to_json(JudgeConfig(images=(16,), batch=16, lr=1e-9, floor=0.99))
    with pytest.raises(ValueError, match=r"celeba: clean test accuracy .* below its floor 0.99"):
        judge(binary, config, "", path)  # before anybody trains for days
    paths = [tmp_path / n for n in ("o.json", "r.html", "m.json")]
    with pytest.raises(ValueError, match=r"celeba: clean test accuracy .* below its floor 0.99"):
        evaluate(model(binary, tmp_path / "model.json"), binary, path, EVAL, *paths)
    assert not any(p.exists() for p in paths)


def outputs(dataset: Path, path: Path, tmp_path: Path) -> tuple[Manifest, str, dict[str, float]]:
    paths = [tmp_path / n for n in ("o.json", "r.html", "m.json")]
    made = evaluate(model(dataset, tmp_path / "model.json"), dataset, path, EVAL, *paths)
    assert Manifest.read(paths[0], "evaluation").digest == made.digest
    return made, paths[1].read_text(), json.loads(paths[2].read_text())


def test_evaluate_writes_finite_numbers_pictures_and_one_escaped_page(
    joint: Path, frozen: Frozen, tmp_path: Path
) -> None:
    made, page, numbers = outputs(joint, frozen[0], tmp_path)
    names = {e.name for e in made.entries}
    assert {"metrics.json", "details.json", "scores.parquet", "report.html"} <= names
    assert {
        "grids/samples.png",
        "grids/samples_rafd.png",
        "grids/worst_celeba.png",
        "grids/fig7_proper_celeba_rafd.png",
        "grids/fig7_wrong_celeba_rafd.png",
    } <= names
    assert all(np.isfinite(v) for v in numbers.values())
    assert numbers == json.loads(made.local("metrics.json").read_text())
    assert {"success_celeba_H_G", "success_rafd_happy", "mask_proper_celeba_rafd"} <= set(numbers)
    assert numbers["parameters"] < numbers["parameters_total"]
    assert numbers["judge_accuracy_celeba"] >= 0.7
    assert "verification_rate_celeba" not in numbers
    pairs = f"{numbers['verification_impostors_celeba']:.0f} impostor pairs (of 4 people)"
    assert f"unknown: {pairs}, 1,000 required" in page
    assert "&lt;b&gt;toy&lt;/b&gt;" in page
    assert "<b>toy" not in page
    assert made.local("report.html").read_text() == page
    assert "Did not learn" in page


@pytest.mark.parametrize(("d_lr", "gp", "alarm"), [(1e-4, 10.0, False), (0.3, 0.0, True)])
def test_a_training_whose_critic_ran_away_is_an_alarm_on_the_page(
    d_lr: float, gp: float, alarm: bool, binary: Path, frozen: Frozen, tmp_path: Path
) -> None:
    """Without the penalty and at a high rate D leaves G behind; as published it does not."""
    network = StarGAN(conv_dim=4, repeat_num=1, d_conv_dim=4, d_repeat_num=2, d_lr=d_lr,
                      lambda_gp=gp)  # fmt: skip
    config = TrainConfig(images=64, decay_images=0, batch=8, log_images=8, sample_images=64,
                         checkpoint_images=64, precision="fp32")  # fmt: skip
    train(binary, tmp_path / "model.json", "stargan", to_json(network), to_json(config),
          run=tmp_path / "run")  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    leads = [row["symptom/balance"] for row in rows]
    assert (max(leads) > 1) == alarm
    worst = max(leads) if alarm else min(leads)  # 0 is nearer to the lower end
    paths = [tmp_path / name for name in ("o.json", "r.html", "m.json")]
    evaluate(tmp_path / "model.json", binary, frozen[0], EVAL, *paths)
    page, numbers = paths[1].read_text(), json.loads(paths[2].read_text())
    assert numbers["symptom_balance"] == worst
    said = f"balance {worst:.3g}: D has left G behind in training; at its end {leads[-1]:.3g}"
    assert (f'<div class="note bad">{said}</div>' in page) == alarm
    assert re.search(rf"<td>balance</td>.*{re.escape(f'{worst:.3g}')}</td>", page)


@pytest.mark.parametrize(
    ("name", "which", "known", "drawn"),
    [("ganimation", "units", ["attention", "attention_where_painted"],
      ["celeba_attention", "celeba_interpolation", "celeba_sweep"]),
     ("starganv2", "classes", ["diversity"], ["rafd_styles_1", "rafd_styles_2", "rafd_styles_3"])],
)  # fmt: skip
def test_a_models_own_symptoms_and_pictures_are_logged_and_on_the_page(
    name: str, which: str, known: list[str], drawn: list[str], small: dict[str, Any],
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Symptoms with every checkpoint, as metrics of the run; the moving picture moves."""
    logged: dict[str, float] = {}
    monkeypatch.setattr(Tracker, "metrics", lambda _, facts, step: logged.update(facts))
    dataset, words = request.getfixturevalue(which), tmp_path / "judge.json"
    judge(dataset, JUDGE.replace("0.7", "0.0").replace("800", "32"), "", words)
    config = TrainConfig(images=16, decay_images=0, batch=8, log_images=8, sample_images=16,
                         checkpoint_images=16, precision="fp32")  # fmt: skip
    train(dataset, tmp_path / "model.json", name, to_json(small[name]), to_json(config),
          run=tmp_path / "run")  # fmt: skip
    paths = [tmp_path / file for file in ("o.json", "r.html", "m.json")]
    made = evaluate(tmp_path / "model.json", dataset, words, EVAL, *paths)
    page, numbers = paths[1].read_text(), json.loads(paths[2].read_text())
    for picture in drawn:
        content = made.local(f"grids/samples_{picture}.png").read_bytes()
        assert b64encode(content).decode() in page
        with Image.open(io.BytesIO(content)) as opened:
            assert getattr(opened, "is_animated", False) == picture.endswith("interpolation")
    for symptom in known:
        assert math.isfinite(logged[f"symptom/{symptom}"])  # of the validation split
        assert math.isfinite(numbers[f"symptom_{symptom}"])
        assert f"<td>{symptom}</td>" in page


def test_promotion_finds_the_scores_in_the_store(
    binary: Path, frozen: Frozen, tmp_path: Path
) -> None:
    made, _, _ = outputs(binary, frozen[0], tmp_path)
    weights = weight_digests(Manifest.read(tmp_path / "model.json"))
    cache = ScoreCache(open_store(), made.meta.identity)
    table = cache.find(weights)
    assert table is not None
    assert len(table) == 8 * 4
    assert cache.find(dict(reversed(weights.items()))) is not None
    assert cache.find(weights | {"nets/G.safetensors": "0" * 64}) is None


def test_the_key_of_stored_scores_is_that_of_older_versions(
    binary: Path, frozen: Frozen, tmp_path: Path
) -> None:
    """So that what was scored before is not scored again."""
    made, _, _ = outputs(binary, frozen[0], tmp_path)
    weights = weight_digests(Manifest.read(tmp_path / "model.json"))
    name = sha256_bytes(canonical_json([dict(sorted(weights.items())), made.meta.identity]))
    stored = open_store().reference(f"scores/{name}")
    assert stored is not None
    table = pd.read_parquet(open_store().local(Entry.parse("scores.parquet", stored)))
    assert len(table) == 8 * 4


def test_the_fingerprint_follows_images_judge_and_number_of_images(
    binary: Path, frozen: Frozen
) -> None:
    data, words = Manifest.read(binary), Manifest.read(frozen[0])
    first = fingerprint(data, words, EvalConfig(limit=4))
    assert first == fingerprint(data, words, EvalConfig(limit=4, min_success=0.9))
    assert first != fingerprint(data, words, EvalConfig(limit=5))
    assert first != fingerprint(data, data, EvalConfig(limit=4))
    assert first != fingerprint(data, words, EvalConfig(limit=4, eval_split="val"))


def test_settings_can_be_chosen_without_a_look_at_the_test_split(
    binary: Path, frozen: Frozen, tmp_path: Path
) -> None:
    path, config = (
        model(binary, tmp_path / "model.json"),
        EvalConfig(bootstrap=50, eval_split="val"),
    )
    outs = [tmp_path / name for name in ("v.json", "v.html", "v.metrics.json")]
    made = evaluate(path, binary, frozen[0], to_json(config), *outs)
    scored = set(pd.read_parquet(made.local("scores.parquet"))["file"])
    rows = pd.read_parquet(Manifest.read(binary).local("labels.parquet"))
    assert scored == set(rows.loc[rows["split"] == "val", "file"])


def test_a_second_model_gives_fig_6(joint: Path, frozen: Frozen, tmp_path: Path) -> None:
    one = model(joint, tmp_path / "one.json")
    out, report, metrics = (tmp_path / n for n in ("o.json", "r.html", "m.json"))
    made = evaluate(one, joint, frozen[0], EVAL, out, report, metrics, str(one))
    details = json.loads(made.local("details.json").read_text())
    assert "grids/fig6_rafd.png" in {e.name for e in made.entries}
    assert details["compare"]["dataset"] == "rafd"
    first, second = details["compare"]["numbers"].values()
    assert first == second


def test_masks_of_a_perfect_joint_editor_exceed_chance_only_when_proper(
    joint: Path, frozen: Frozen
) -> None:
    from training.evaluation.gallery import mask_figures
    from training.evaluation.score import views

    faces, (_, words) = Faces.open(joint, "test"), frozen

    class Expressive(Painter):
        """Draws a pure expression over the whole face if the mask says so."""

        def __call__(self, image: Tensor, source: Tensor, target: Tensor) -> Tensor:
            out = torch.zeros_like(image)
            part, band = self.space.slice(1), self.size // 3
            for k in range(3):
                on = (target[:, part][:, k] * target[:, self.space.dim_d + 1])[:, None, None]
                out[:, k, k * band : (k + 1) * band] = on.expand(-1, band, self.size) * 0.7
            return out

    painter = Expressive(faces.space, faces.size)
    asked = views(painter, faces, words, EvalConfig())
    pictures, (result,) = mask_figures(painter, faces, words, asked, EvalConfig(bootstrap=100))
    assert [p.name.split("_")[1] for p in pictures] == ["proper", "wrong"]
    assert result.exceeds_chance
    assert result.wrong == pytest.approx(result.chance)


def test_distances_stand_beside_a_floor_at_the_same_number(binary: Path, frozen: Frozen) -> None:
    """A perfect editor lies near real faces; one that paints grey lies far away."""
    faces, (_, words) = Faces.open(binary, "train"), frozen

    class Grey(Painter):
        def __call__(self, image: Tensor, source: Tensor, target: Tensor) -> Tensor:
            return torch.zeros_like(image)

    means = []
    for kind in (Painter, Grey):
        far = Distances(words)
        score(kind(faces.space, faces.size), faces, words, EvalConfig(), hook=far.add)
        rows = far.table(faces, Faces.open(binary, "test"), faces)
        found = [r.distances["frechet_vgg"] for r in rows]
        for d in found:  # from faces that it saw, too
            assert d.train is not None
            assert abs(d.train - d.value) < d.value
        assert {r.domain for r in rows} <= {"Black_Hair", "Blond_Hair", "Male", "not_Male"}
        assert all(8 <= r.images <= 32 for r in rows)
        assert all(d.floor > 0 for d in found)
        means.append([np.mean([d.value for d in found]), np.mean([d.floor for d in found])])
    (good, floor), (bad, same) = means
    assert floor == same
    assert bad > 2 * good


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fid_needs_weights_with_the_stated_checksum(
    binary: Path, frozen: Frozen, tmp_path: Path
) -> None:
    class Net(torch.nn.Module):
        def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
            h = x.float().mean((2, 3))
            return h if return_features else h[:, :1]

    path = tmp_path / "inception.pt"
    torch.jit.save(torch.jit.script(Net()), str(path))
    digest = sha256_file(path)
    with pytest.raises(ValueError, match="not 0000"):
        pinned(f"{path}@{'0' * 64}", "inception")
    with pytest.raises(ValueError, match="PATH@SHA256"):
        pinned(str(path), "inception")
    faces, (_, words) = Faces.open(binary, "train"), frozen
    far = Distances(words, f"{path}@{digest}")
    score(CopyInput(), faces, words, EvalConfig(), hook=far.add)
    assert far.edited[0, "Male"]["fid"][0].shape[1] == 3
    real = Faces.open(binary, "test")
    assert set(far.table(faces, real)[0].distances) == {"fid", "frechet_vgg"}
    config = EvalConfig(limit=8, inception=f"{path}@{digest}")
    _, styles = diversity(toy(faces, Toy()), faces, words, config)
    for way in ("latent", "reference"):  # of every domain that either way paints
        rows = styles[way].table(faces, real)
        assert rows, way
        assert all("fid" in row.distances for row in rows)


def test_the_program_evaluates_from_paths_to_paths(
    binary: Path, frozen: Frozen, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(model(binary, tmp_path / "model.json")), str(binary), str(frozen[0])]
    ends = [f"--{n}={tmp_path / n}" for n in ("out", "report", "metrics")]
    evaluate_main([*names, *ends, "--config", EVAL])
    assert "success_mean" in capsys.readouterr().out

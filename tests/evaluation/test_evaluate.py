"""Evaluation on toy data whose colours encode the labels, so that a perfect editor exists."""

import io
import json
import math
import re
import shutil
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

from toydata import HAIR
from training.core.config import EvalConfig, JudgeConfig, TrainConfig, to_json
from training.core.files import sha256_file, write_json
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
from training.evaluation.judges.training import clean_accuracy
from training.evaluation.measure import sweep
from training.evaluation.metrics import PSNR_CAP
from training.evaluation.realism import LOOKS
from training.evaluation.records import Scores
from training.evaluation.score import margin, score
from training.evaluation.summary import summarise
from training.inference.translator import Translator
from training.judge import judge
from training.models.base import DEFAULT_OPTIONS, EditOptions
from training.models.stargan import StarGAN
from training.models.torchscript import pinned
from training.storage.meta import ModelMeta
from training.storage.store import Manifest, open_store
from training.tracking.tracker import Tracker
from training.train import train

JUDGE = to_json(JudgeConfig(images=(800,), batch=16, lr=3e-3, floor=0.7))
EVAL = to_json(EvalConfig(limit=8, bootstrap=50))


def written(folder: Path) -> dict[str, Path]:
    """What an evaluation writes: manifest, page and numbers."""
    return {name: folder / f"{name}.txt" for name in ("out", "report", "metrics")}


class CopyInput:
    """A translator that returns its input: the baseline."""

    def __call__(self, image: Tensor, source: Tensor, target: Tensor) -> Tensor:
        return image


class Painter:
    """A perfect editor: redraws the bands that encode the changed labels."""

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
    """Judge files of both toy data sets by name, trained on first use."""
    return {}


@pytest.fixture
def frozen(joint: Path, tmp_path: Path, trained: dict[str, bytes]) -> Frozen:
    """Manifest path and loaded judges, in the test's own store."""
    path = tmp_path / "judge.json"
    if not trained:
        manifest = judge(joint, judge_config=JUDGE, out=path)
        trained |= {e.name: manifest.local(e.name).read_bytes() for e in manifest.entries}
    files = {}
    for name, content in trained.items():
        files[name] = tmp_path / f"copy-{name}"
        files[name].write_bytes(content)
    Manifest.build("judge", files, {"recipe": "", "dataset": "", "accuracy": {}}).write(path)
    return path, load_judge(path)


@pytest.fixture
def faces_and_judge(binary: Path, frozen: Frozen) -> tuple[Faces, Judge]:
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


def test_a_perfect_editor_succeeds_and_a_copy_does_not(
    faces_and_judge: tuple[Faces, Judge],
) -> None:
    faces, frozen_judge = faces_and_judge
    table = score(Painter(faces.space, faces.size), faces, frozen_judge, EvalConfig(bootstrap=50))
    numbers, tasks = summarise(table, EvalConfig(bootstrap=200))
    assert numbers.success_mean > 0.9
    assert numbers.copy_success_mean < 0.1
    assert numbers.learned
    assert numbers.self_psnr == pytest.approx(PSNR_CAP)
    assert numbers.cycle_psnr > 30
    assert {t.task for t in tasks} == {"Black_Hair", "Blond_Hair", "Male", "H+G"}


def test_a_copied_input_did_not_learn(faces_and_judge: tuple[Faces, Judge]) -> None:
    faces, frozen_judge = faces_and_judge
    numbers, _ = summarise(
        score(CopyInput(), faces, frozen_judge, EvalConfig()), EvalConfig(bootstrap=50)
    )
    assert not numbers.learned
    assert numbers.success_mean == numbers.copy_success_mean
    assert numbers.preservation_mean == 1
    assert numbers.identity_cosine == pytest.approx(1, abs=1e-5)


def test_copy_columns_equal_the_scores_of_copied_inputs(
    faces_and_judge: tuple[Faces, Judge],
) -> None:
    faces, frozen_judge = faces_and_judge
    painted = score(Painter(faces.space, faces.size), faces, frozen_judge, EvalConfig())
    copied = score(CopyInput(), faces, frozen_judge, EvalConfig())
    for column, own in (("copy_success", "success"), ("copy_margin", "margin")):
        pd.testing.assert_series_equal(painted[column], copied[own], rtol=1e-5, check_names=False)


def test_an_output_that_ignores_the_labels_did_not_learn(
    faces_and_judge: tuple[Faces, Judge],
) -> None:
    """A constant output "succeeds" where it differs from the input, without any editing."""
    faces, frozen_judge = faces_and_judge
    labels = faces.parts[0].labels
    black = int((labels[:, 0] > labels[:, 1]).nonzero()[0])
    face = to_float(faces.parts[0].images([black]))

    class Stuck(Painter):
        def __call__(self, image: Tensor, source: Tensor, target: Tensor) -> Tensor:
            return face.expand_as(image)

    table = score(Stuck(faces.space, faces.size), faces, frozen_judge, EvalConfig())
    numbers, _ = summarise(table, EvalConfig(bootstrap=200))
    assert numbers.success_mean > 0.2 > numbers.copy_success_mean
    assert numbers.blind_success_mean == numbers.success_mean
    assert not numbers.learned


def test_scores_have_one_row_per_image_and_task_and_are_deterministic(
    faces_and_judge: tuple[Faces, Judge],
) -> None:
    faces, frozen_judge = faces_and_judge
    first, again = (
        score(Painter(faces.space, faces.size), faces, frozen_judge, EvalConfig(limit=5))
        for _ in range(2)
    )
    pd.testing.assert_frame_equal(first, again)
    assert len(first) == 5 * 4
    assert not first.duplicated(["dataset", "index", "task"]).any()
    assert len(set(first["index"])) == 5


def test_only_single_edits_that_change_something_have_a_cycle(
    faces_and_judge: tuple[Faces, Judge],
) -> None:
    faces, frozen_judge = faces_and_judge
    table = score(Painter(faces.space, faces.size), faces, frozen_judge, EvalConfig())
    expected = table["single"] & table["changed"]
    for column in ("cycle_psnr", "cycle_ssim", "cycle_ssim_gaussian"):
        assert (table[column].notna() == expected).all()


def test_changing_another_label_lowers_preservation(faces_and_judge: tuple[Faces, Judge]) -> None:
    """Flips Male in every edit: hair edits still succeed, Male is not preserved."""
    faces, frozen_judge = faces_and_judge

    class Spoiler(Painter):
        def __call__(self, image: Tensor, source: Tensor, target: Tensor) -> Tensor:
            target = target.clone()
            target[:, 2] = 1 - source[:, 2]
            return super().__call__(image, source, target)

    table = score(Spoiler(faces.space, faces.size), faces, frozen_judge, EvalConfig())
    hair = table[table["task"].isin(["Black_Hair", "Blond_Hair"]) & table["changed"]]
    assert hair["success"].mean() > 0.9
    assert hair["preservation"].mean() < 0.1


def test_model_of_another_data_set_with_the_same_labels_is_scored(
    faces_and_judge: tuple[Faces, Judge],
) -> None:
    """Transfer to a data set with the same labels under another name."""
    faces, frozen_judge = faces_and_judge
    labels = replace(faces.space.sets[0], name="elsewhere")
    other = LabelSpace((LabelSet("rafd", "onehot", ("a", "b")), labels))
    own = score(Painter(faces.space, faces.size), faces, frozen_judge, EvalConfig())
    there = score(Painter(other, faces.size), faces, frozen_judge, EvalConfig())
    assert there["success"].equals(own["success"])
    wrong = LabelSpace((replace(labels, names=("X", *labels.names[1:]), groups=()),))
    with pytest.raises(ValueError, match="the model has other labels than the data set's binary"):
        score(Painter(wrong, faces.size), faces, frozen_judge, EvalConfig())


class Toy:
    """A fake model that brightens by the seed or returns the reference."""

    supported_options = ("seed", "reference")
    edits_own_labels, needs_source = True, False

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


def test_ineffective_styles_have_zero_diversity(faces_and_judge: tuple[Faces, Judge]) -> None:
    faces, frozen_judge = faces_and_judge

    class NoStyle(Toy):
        def translate(self, nets: object, image: Tensor, *rest: object) -> Tensor:
            return image

    rows, _ = diversity(toy(faces, NoStyle()), faces, frozen_judge, EvalConfig(limit=4))
    assert {row.way for row in rows} == {"latent", "reference"}
    assert all(row.apart == row.from_input == 0 for row in rows)
    rows, seen = diversity(toy(faces, Toy()), faces, frozen_judge, EvalConfig(limit=4))
    assert all(row.apart > 0 and row.distance == "diversity_vgg" for row in rows)
    assert set(seen) == {"latent", "reference"}
    assert diversity(toy(faces, StarGAN.tiny()), faces, frozen_judge, EvalConfig(limit=4)) == (
        [],
        {},
    )


def test_styles_are_of_the_target_domain_and_only_of_what_changes(
    faces_and_judge: tuple[Faces, Judge],
) -> None:
    """A flip has two target domains; an image that is in its own already would be copied."""
    faces, frozen_judge = faces_and_judge
    labels_of = {
        image.numpy().tobytes(): label
        for part in faces.parts
        for image, label in zip(part.images(list(range(len(part)))), part.labels, strict=True)
    }
    asked: list[tuple[Tensor, Tensor, Tensor]] = []

    class Seen(Toy):
        supported_options = ("reference",)

        def translate(
            self, nets: object, image: Tensor, source: Tensor, target: Tensor,
            options: EditOptions = DEFAULT_OPTIONS,
        ) -> Tensor:  # fmt: skip
            assert options.reference is not None
            shown = [labels_of[one.numpy().tobytes()] for one in to_uint8(options.reference)]
            asked.append((source, target, torch.stack(shown)))
            return image

    rows, _ = diversity(toy(faces, Seen()), faces, frozen_judge, EvalConfig(limit=20))
    flips = [task for task in faces.space.tasks(faces.parts[0].labels, 0) if task.single]
    assert {row.domain for row in rows} <= {task.name for task in flips}
    assert asked
    flipped, male = [], HAIR.index("Male")
    for source, target, shown in asked:
        assert (source != target).any(1).all()
        gained = (target > source).any(0)  # hair is only switched on, gender goes both ways
        assert torch.equal(shown[:, gained], target[:, gained])
        if (source != target)[:, male].all():
            flipped.append(float(target[:, male].mean()))
    assert any(0 < share < 1 for share in flipped)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_lpips_is_used_only_with_its_weights(
    faces_and_judge: tuple[Faces, Judge], tmp_path: Path
) -> None:
    faces, frozen_judge = faces_and_judge

    class Plain(torch.nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return (a - b).abs().mean((1, 2, 3))

    path = tmp_path / "lpips.pt"
    torch.jit.script(Plain()).save(str(path))
    config = EvalConfig(limit=4, lpips=f"{path}@{sha256_file(path)}")
    rows, _ = diversity(toy(faces, Toy()), faces, frozen_judge, config)
    assert {row.distance for row in rows} == {"lpips"}
    with pytest.raises(ValueError, match="download the file again"):
        diversity(
            toy(faces, Toy()), faces, frozen_judge, replace(config, lpips=f"{path}@{'0' * 64}")
        )


def test_cycle_uses_the_style_of_the_input(faces_and_judge: tuple[Faces, Judge]) -> None:
    """A model that returns its reference restores the input: its cycle is exact."""
    faces, frozen_judge = faces_and_judge
    table = score(toy(faces, Toy()), faces, frozen_judge, EvalConfig(limit=4))
    assert (table["cycle_psnr"].dropna() == PSNR_CAP).all()


def test_a_model_without_self_translation_is_measured_by_its_reconstruction(
    faces_and_judge: tuple[Faces, Judge],
) -> None:
    """Without label changes this model copies its input, which hides its constant output."""
    faces, frozen_judge = faces_and_judge
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

    table = score(toy(faces, Pairs()), faces, frozen_judge, EvalConfig())
    assert table[table["file"] != faces.parts[0].files[0]]["self_psnr"].max() < PSNR_CAP
    edits = table[table["changed"]]
    assert (edits["blind_success"] == edits["success"]).all()
    assert edits["success"].mean() > edits["copy_success"].mean()
    assert not summarise(table, EvalConfig(bootstrap=50))[0].learned


def test_the_sweep_scores_every_intensity(faces_and_judge: tuple[Faces, Judge]) -> None:
    """With a model that edits only at intensities of at least 1.5."""
    faces, frozen_judge = faces_and_judge
    paint = Painter(faces.space, faces.size)

    class HighOnly(Toy):
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

    weak, strong, stronger = sweep(toy(faces, HighOnly()), faces, frozen_judge, EvalConfig())
    assert (weak.intensity, strong.intensity, stronger.intensity) == (1, 1.5, 2)
    assert weak.success_mean < 0.1 < 0.9 < strong.success_mean == stronger.success_mean
    assert sweep(toy(faces, Toy()), faces, frozen_judge, EvalConfig()) == []


def test_a_perfect_editor_of_intensities_has_the_judges_own_error(
    units: Path, tmp_path: Path
) -> None:
    """The error is below that of copied inputs, also on labels outside the edit."""
    path = tmp_path / "judge.json"
    judge(units, judge_config=JUDGE.replace("0.7", "0.0"), out=path)
    frozen_judge, faces = load_judge(path), Faces.open(units, "test")
    numbers, tasks = summarise(
        score(Painter(faces.space, faces.size), faces, frozen_judge, EvalConfig()),
        EvalConfig(bootstrap=50),
    )
    assert numbers.error_mean < 0.7 * numbers.copy_error_mean
    assert numbers.error_low <= numbers.error_mean <= numbers.error_high
    assert all(task.error_others < task.copy_error for task in tasks)
    assert frozen_judge.facts["datasets"][0]["error"] < 0.25


def test_accuracy_of_a_constant_judge_of_intensities_is_one_half(units: Path) -> None:
    """Most intensities are small, so plain accuracy would be high."""
    part, labels = Faces.open(units, "test").parts[0], Faces.open(units, "test").space.sets[0]
    rare = replace_labels(part, part.labels * (part.labels > 0.8))

    class Zero(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), len(labels.names)), -20.0)

    facts = clean_accuracy(Zero(), rare, labels, torch.device("cpu"))  # type: ignore[arg-type]
    assert facts["accuracy"] == pytest.approx(0.5)


def replace_labels(part: Part, labels: Tensor) -> Part:
    other = copy(part)
    other.labels = labels
    return other


def test_success_needs_the_whole_group() -> None:
    """Black on with blond still on is no success; labels outside the group do not count."""
    logits = torch.tensor([[3.0, -2.0, -9.0], [3.0, 2.0, 5.0]])
    target = torch.tensor([[1.0, 0, 1], [1, 0, 1]])
    assert margin("binary", logits, target, [0, 1]).tolist() == [2, -2]
    onehot = torch.tensor([[0.0, 1, 0], [0, 1, 0]])
    assert margin("onehot", logits, onehot, [0, 1, 2]).tolist() == [-5, -3]
    assert margin("continuous", torch.tensor([[0.9]]), torch.tensor([[1.0]]), [0]).item() > 0
    assert margin("continuous", torch.tensor([[0.6]]), torch.tensor([[1.0]]), [0]).item() < 0


def test_a_model_of_other_labels_or_size_is_refused(faces_and_judge: tuple[Faces, Judge]) -> None:
    faces, frozen_judge = faces_and_judge
    with pytest.raises(ValueError, match="the model takes images of 32 px"):
        score(Painter(faces.space, 32), faces, frozen_judge, EvalConfig())
    other = LabelSpace((LabelSet("celeba", "binary", ("Black_Hair", "Blond_Hair", "Smiling")),))
    with pytest.raises(ValueError, match="celeba: the model has other labels"):
        score(Painter(other, faces.size), faces, frozen_judge, EvalConfig())


def test_a_model_that_gives_nan_is_refused(faces_and_judge: tuple[Faces, Judge]) -> None:
    faces, frozen_judge = faces_and_judge

    class Broken(CopyInput):
        def __call__(self, image: Tensor, source: Tensor, target: Tensor) -> Tensor:
            return torch.where((source == target).all(1)[:, None, None, None], image, torch.nan)

    with pytest.raises(ValueError, match="the model's output is not finite"):
        score(Broken(), faces, frozen_judge, EvalConfig())


def test_a_judge_that_gives_nan_is_refused(faces_and_judge: tuple[Faces, Judge]) -> None:
    faces, frozen_judge = faces_and_judge
    frozen_judge.nets[0].head.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"not finite: margin"):
        score(CopyInput(), faces, frozen_judge, EvalConfig())


def test_the_judges_floor_is_enforced(binary: Path, tmp_path: Path) -> None:
    path = tmp_path / "judge.json"
    config = to_json(JudgeConfig(images=(16,), batch=16, lr=1e-9, floor=0.99))
    with pytest.raises(ValueError, match=r"celeba: clean test accuracy .* below its floor 0.99"):
        judge(binary, judge_config=config, out=path)  # before any GAN is trained
    with pytest.raises(ValueError, match=r"celeba: clean test accuracy .* below its floor 0.99"):
        evaluate(model(binary, tmp_path / "model.json"), binary, path, **written(tmp_path))
    assert not any(p.exists() for p in written(tmp_path).values())


def outputs(dataset: Path, path: Path, tmp_path: Path) -> tuple[Manifest, str, dict[str, float]]:
    made, trained = written(tmp_path), model(dataset, tmp_path / "model.json")
    manifest = evaluate(trained, dataset, path, eval_config=EVAL, **made)
    assert Manifest.read(made["out"], "evaluation").digest == manifest.digest
    return manifest, made["report"].read_text(), json.loads(made["metrics"].read_text())


def test_evaluate_writes_finite_numbers_pictures_and_one_escaped_page(
    joint: Path, frozen: Frozen, tmp_path: Path
) -> None:
    manifest, page, numbers = outputs(joint, frozen[0], tmp_path)
    names = {e.name for e in manifest.entries}
    assert {"metrics.json", "details.json", "scores.parquet", "report.html"} <= names
    assert {
        "grids/samples.png",
        "grids/samples_rafd.png",
        "grids/worst_celeba.png",
        "grids/fig7_proper_celeba_rafd.png",
        "grids/fig7_wrong_celeba_rafd.png",
    } <= names
    assert all(np.isfinite(v) for v in numbers.values())
    assert numbers == json.loads(manifest.local("metrics.json").read_text())
    assert {"success_celeba_H_G", "success_rafd_happy", "mask_proper_celeba_rafd"} <= set(numbers)
    assert numbers["parameters"] < numbers["parameters_total"]
    assert numbers["judge_accuracy_celeba"] >= 0.7
    assert "verification_rate_celeba" not in numbers
    pairs = f"{numbers['verification_impostors_celeba']:.0f} impostor pairs (of 4 people)"
    assert f"unknown: {pairs}, 1,000 required" in page
    assert "&lt;b&gt;toy&lt;/b&gt;" in page
    assert "<b>toy" not in page
    assert manifest.local("report.html").read_text() == page
    assert "Did not learn" in page


@pytest.mark.parametrize(("d_lr", "gp", "alarm"), [(1e-4, 10.0, False), (0.3, 0.0, True)])
def test_page_warns_of_a_dominant_discriminator(
    d_lr: float, gp: float, alarm: bool, binary: Path, frozen: Frozen, tmp_path: Path
) -> None:
    """D leaves G behind without gradient penalty at a high rate, but not as published."""
    network = StarGAN(conv_dim=4, repeat_num=1, d_conv_dim=4, d_repeat_num=2, d_lr=d_lr,
                      lambda_gp=gp)  # fmt: skip
    config = TrainConfig(images=64, decay_images=0, batch=8, log_images=8, sample_images=64,
                         checkpoint_images=64, precision="fp32")  # fmt: skip
    train(binary, tmp_path / "model.json", "stargan", to_json(network), to_json(config),
          run=tmp_path / "run")  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    leads = [row["symptom/balance"] for row in rows]
    assert (max(leads) > 1) == alarm
    worst = max(leads) if alarm else min(leads)  # 0 is closer to the lower limit
    made = written(tmp_path)
    evaluate(tmp_path / "model.json", binary, frozen[0], eval_config=EVAL, **made)
    page, numbers = made["report"].read_text(), json.loads(made["metrics"].read_text())
    assert numbers["symptom_balance"] == worst
    message = f"balance {worst:.3g}: D has left G behind in training; at its end {leads[-1]:.3g}"
    assert (f'<div class="note bad">{message}</div>' in page) == alarm
    assert re.search(rf"<td>balance</td>.*{re.escape(f'{worst:.3g}')}</td>", page)


@pytest.mark.parametrize(
    ("name", "which", "known", "drawn"),
    [("ganimation", "units", ["attention", "attention_where_painted"],
      ["celeba_attention", "celeba_interpolation", "celeba_sweep"]),
     ("starganv2", "classes", ["diversity"], ["rafd_styles_1", "rafd_styles_2", "rafd_styles_3"])],
)  # fmt: skip
def test_symptoms_and_previews_of_models_are_logged_and_on_the_page(
    name: str, which: str, known: list[str], drawn: list[str], small: dict[str, Any],
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Symptoms are logged with every checkpoint; the interpolation is animated."""
    logged: dict[str, float] = {}
    monkeypatch.setattr(Tracker, "metrics", lambda _, facts, step: logged.update(facts))
    dataset, judge_path = request.getfixturevalue(which), tmp_path / "judge.json"
    brief = JUDGE.replace("0.7", "0.0").replace("800", "32")
    judge(dataset, judge_config=brief, out=judge_path)
    config = TrainConfig(images=16, decay_images=0, batch=8, log_images=8, sample_images=16,
                         checkpoint_images=16, precision="fp32")  # fmt: skip
    train(dataset, tmp_path / "model.json", name, to_json(small[name]), to_json(config),
          run=tmp_path / "run")  # fmt: skip
    made = written(tmp_path)
    manifest = evaluate(tmp_path / "model.json", dataset, judge_path, eval_config=EVAL, **made)
    page, numbers = made["report"].read_text(), json.loads(made["metrics"].read_text())
    for picture in drawn:
        content = manifest.local(f"grids/samples_{picture}.png").read_bytes()
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
    manifest, _, _ = outputs(binary, frozen[0], tmp_path)
    weights = weight_digests(Manifest.read(tmp_path / "model.json"))
    cache = ScoreCache(open_store(), manifest.meta.identity, Manifest.read(binary).digest)
    found = cache.find(weights)
    assert found is not None
    assert len(found.table) == 8 * 4
    assert [kid.kind for kid in found.kids] == ["kid_vgg"]
    assert set(LOOKS) <= set(found.table)
    pictures = {f"grids/looks_{kind}_celeba.png" for kind in ("raster", "background", "kid")}
    assert pictures <= {entry.name for entry in manifest.entries}
    assert cache.find(dict(reversed(weights.items()))) is not None
    assert cache.find(weights | {"nets/G.safetensors": "0" * 64}) is None


@pytest.mark.usefixtures("store")
def test_scores_whose_kernel_distances_are_lost_are_not_found() -> None:
    """The gate would refuse the table alone."""
    weights = {"nets/G.safetensors": "1" * 64, "config.json": "2" * 64}
    cache = ScoreCache(open_store(), "3" * 64, "4" * 64)
    cache.keep(weights, Scores(pd.DataFrame({"success": [0.25]})))
    found = cache.find(weights)
    assert found is not None
    assert found.table["success"].tolist() == [0.25]
    shutil.rmtree(open_store().root / "refs" / "kids")
    assert cache.find(weights) is None


def relabelled(dataset: Path, column: str, value: Any, split: str) -> Manifest:
    """The data set with another value in one row of a split."""
    manifest = Manifest.read(dataset)
    rows = pd.read_parquet(manifest.local("labels.parquet"))
    rows.at[rows.index[rows["split"] == split][0], column] = value
    rows.to_parquet(dataset.parent / "other.parquet")
    files = {e.name: manifest.local(e.name) for e in manifest.entries}
    files["labels.parquet"] = dataset.parent / "other.parquet"
    rows_of = {e.name: e.rows for e in manifest.entries}
    return Manifest.build("dataset", files, manifest.meta, rows=rows_of)


def test_the_fingerprint_follows_images_judge_and_number_of_images(
    binary: Path, frozen: Frozen
) -> None:
    data, judge_manifest = Manifest.read(binary), Manifest.read(frozen[0])
    first = fingerprint(data, judge_manifest, EvalConfig(limit=4))
    assert first == fingerprint(data, judge_manifest, EvalConfig(limit=4, min_success=0.9))
    assert first != fingerprint(data, judge_manifest, EvalConfig(limit=5))
    assert first != fingerprint(data, data, EvalConfig(limit=4))
    assert first != fingerprint(data, judge_manifest, EvalConfig(limit=4, eval_split="val"))


@pytest.mark.parametrize(
    ("column", "value"),
    [("sha256", "f" * 64), ("label", np.float32([0, 0, 0])), ("identity", "somebody")],
)
def test_the_fingerprint_follows_each_scored_image_its_labels_and_its_person(
    binary: Path, frozen: Frozen, column: str, value: Any
) -> None:
    """One other value in one row; in a row of another split it changes nothing."""
    data, judge_manifest = Manifest.read(binary), Manifest.read(frozen[0])
    first = fingerprint(data, judge_manifest, EvalConfig())
    other = relabelled(binary, column, value, "test")
    assert fingerprint(other, judge_manifest, EvalConfig()) != first
    other = relabelled(binary, column, value, "train")
    assert fingerprint(other, judge_manifest, EvalConfig()) == first


def test_eval_split_val_scores_validation_images(
    binary: Path, frozen: Frozen, tmp_path: Path
) -> None:
    path, config = (
        model(binary, tmp_path / "model.json"),
        EvalConfig(bootstrap=50, eval_split="val"),
    )
    manifest = evaluate(path, binary, frozen[0], eval_config=to_json(config), **written(tmp_path))
    scored = set(pd.read_parquet(manifest.local("scores.parquet"))["file"])
    rows = pd.read_parquet(Manifest.read(binary).local("labels.parquet"))
    assert scored == set(rows.loc[rows["split"] == "val", "file"])


def test_the_papers_numbers_come_beside_ours_which_stay_as_they_are(
    joint: Path, frozen: Frozen, tmp_path: Path
) -> None:
    """Scores, metrics and details of both protocols, in manifests that cannot be mixed up."""
    path = model(joint, tmp_path / "model.json")
    config = EvalConfig(limit=4, bootstrap=20)
    found = []
    for name in ("ours", "paper"):
        (tmp_path / name).mkdir()
        settings = to_json(replace(config, protocol=name))
        ends = written(tmp_path / name)
        manifest = evaluate(path, joint, frozen[0], eval_config=settings, **ends)
        found.append((manifest, json.loads(ends["metrics"].read_text()), ends["report"]))
    (ours, plain, page), (paper, more, other_page) = found
    timed = {key for key in plain if key.startswith("images_per_second")}
    assert {k: v for k, v in more.items() if k in plain and k not in timed} == {
        k: v for k, v in plain.items() if k not in timed
    }
    new = sorted(set(more) - set(plain))
    assert all(key.startswith("paper_") for key in new)
    assert {key.split("_")[1] for key in new} == {"stgan", "stargan", "starganv2"}
    tables = [pd.read_parquet(one.local("scores.parquet")) for one in (ours, paper)]
    pd.testing.assert_frame_equal(*tables)
    assert (ours.meta.protocol, paper.meta.protocol) == (None, "paper")
    assert ours.meta.identity != paper.meta.identity
    assert "By the protocol of" not in page.read_text()
    assert other_page.read_text().count("By the protocol of") == 3


def test_a_second_model_gives_fig_6(joint: Path, frozen: Frozen, tmp_path: Path) -> None:
    one = model(joint, tmp_path / "one.json")
    manifest = evaluate(
        one, joint, frozen[0], eval_config=EVAL, compare=str(one), **written(tmp_path)
    )
    details = json.loads(manifest.local("details.json").read_text())
    assert "grids/fig6_rafd.png" in {e.name for e in manifest.entries}
    assert details["compare"]["dataset"] == "rafd"
    first, second = details["compare"]["numbers"].values()
    assert first == second


def test_masks_of_a_perfect_joint_editor_exceed_chance_only_when_proper(
    joint: Path, frozen: Frozen
) -> None:
    from training.evaluation.gallery import mask_figures
    from training.evaluation.score import views

    faces, (_, frozen_judge) = Faces.open(joint, "test"), frozen

    class Expressive(Painter):
        """Draws the expression over the whole face under its mask."""

        def __call__(self, image: Tensor, source: Tensor, target: Tensor) -> Tensor:
            out = torch.zeros_like(image)
            part, band = self.space.slice(1), self.size // 3
            for k in range(3):
                on = (target[:, part][:, k] * target[:, self.space.dim_d + 1])[:, None, None]
                out[:, k, k * band : (k + 1) * band] = on.expand(-1, band, self.size) * 0.7
            return out

    painter = Expressive(faces.space, faces.size)
    data_views = views(painter, faces, frozen_judge, EvalConfig())
    pictures, (result,) = mask_figures(
        painter, faces, frozen_judge, data_views, EvalConfig(bootstrap=100)
    )
    assert [p.name.split("_")[1] for p in pictures] == ["proper", "wrong"]
    assert result.exceeds_chance
    assert result.wrong == pytest.approx(result.chance)


def test_distances_have_a_floor_at_the_same_sample_size(binary: Path, frozen: Frozen) -> None:
    """A perfect editor is close to real faces; grey outputs are far away."""
    faces, (_, frozen_judge) = Faces.open(binary, "train"), frozen

    class Grey(Painter):
        def __call__(self, image: Tensor, source: Tensor, target: Tensor) -> Tensor:
            return torch.zeros_like(image)

    means = []
    for kind in (Painter, Grey):
        distances = Distances(frozen_judge)
        score(kind(faces.space, faces.size), faces, frozen_judge, EvalConfig(), hook=distances.add)
        rows = distances.table(faces, Faces.open(binary, "test"), faces)
        frechet = [r.distances["frechet_vgg"] for r in rows]
        for d in frechet:  # to training images, too
            assert d.train is not None
            assert abs(d.train - d.value) < d.value
        assert {r.domain for r in rows} <= {"Black_Hair", "Blond_Hair", "Male", "not_Male"}
        assert all(8 <= r.images <= 32 for r in rows)
        assert all(d.floor > 0 for d in frechet)
        means.append([np.mean([d.value for d in frechet]), np.mean([d.floor for d in frechet])])
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
    faces, (_, frozen_judge) = Faces.open(binary, "train"), frozen
    distances = Distances(frozen_judge, f"{path}@{digest}")
    score(CopyInput(), faces, frozen_judge, EvalConfig(), hook=distances.add)
    assert distances.edited[0, "Male"]["fid"][0].shape[1] == 3
    real = Faces.open(binary, "test")
    assert set(distances.table(faces, real)[0].distances) == {"fid", "frechet_vgg"}
    config = EvalConfig(limit=8, inception=f"{path}@{digest}")
    _, styles = diversity(toy(faces, Toy()), faces, frozen_judge, config)
    for way in ("latent", "reference"):  # of every target domain
        rows = styles[way].table(faces, real)
        assert rows, way
        assert all("fid" in row.distances for row in rows)


def test_command_line_evaluates_a_model(
    binary: Path, frozen: Frozen, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(model(binary, tmp_path / "model.json")), str(binary), str(frozen[0])]
    ends = [f"--{n}={tmp_path / n}" for n in ("out", "report", "metrics")]
    evaluate_main([*names, *ends, "--config", EVAL])
    assert "success_mean" in capsys.readouterr().out

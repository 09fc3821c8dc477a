"""The judges: architecture, training, accuracy and caching."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from training.core.config import JudgeConfig, to_json
from training.data.dataset import Faces
from training.evaluation.judges.judge import load_judge
from training.evaluation.judges.nets import ResNet18, SmallVGG
from training.evaluation.judges.training import agree, decide
from training.judge import judge
from training.judge import main as judge_main
from training.storage.store import Manifest, open_store

QUICK = to_json(JudgeConfig(images=(32,), batch=16, lr=3e-3, floor=0.0))


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("outputs", [5, 8, 13, 40])
def test_resnet18_has_the_expected_number_of_parameters(outputs: int) -> None:
    with torch.device("meta"):
        assert count(ResNet18(outputs)) == 11_176_512 + 513 * outputs


def test_resnet18_halves_the_image_five_times_and_gives_logits() -> None:
    net = ResNet18(5).eval()
    x = torch.zeros(2, 3, 64, 64)
    assert net.main(net.stem(x)).shape == (2, 512, 2, 2)
    assert net(x).shape == (2, 5)


def test_the_second_judge_is_of_another_architecture() -> None:
    net = SmallVGG(5, 7)
    kinds = {type(m).__name__ for m in net.modules()}
    assert "Block" not in kinds
    x = torch.randn(2, 3, 32, 32)
    assert net.features(x).shape == (2, 128)
    torch.testing.assert_close(net.embed(net.features(x)).norm(dim=1), torch.ones(2))
    assert SmallVGG(5, 0).embed(net.features(x)).shape == (2, 128)  # no known identities


def test_decisions_by_kind_of_label() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [-3.0, -2.0, -1.0]])
    assert decide("binary", logits).tolist() == [[1, 0, 1], [0, 0, 0]]
    assert decide("onehot", logits).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert decide("continuous", logits) is logits
    near = agree("continuous", torch.tensor([[0.9, 0.5]]), torch.tensor([[1.0, 1.0]]))
    assert near.tolist() == [[True, False]]


@pytest.fixture
def quick(binary: Path, tmp_path: Path) -> tuple[Path, Path, Manifest]:
    """(dataset, manifest's path, manifest) of judges trained for two steps."""
    out = tmp_path / "judge.json"
    return binary, out, judge(binary, judge_config=QUICK, judge_hash="frozen", out=out)


def test_stored_judges_load_with_their_facts(quick: tuple[Path, Path, Manifest]) -> None:
    dataset, out, manifest = quick
    assert {e.name for e in manifest.entries} == {
        "celeba-resnet18.safetensors",
        "celeba-second.safetensors",
        "judge.json",
    }
    loaded = load_judge(out)
    assert loaded.digest == manifest.digest
    assert loaded.space == Faces.open(dataset, "test").space
    x = torch.rand(3, 3, 16, 16)
    assert loaded.predict(0, x).shape == (3, 3)
    assert loaded.features(0, x).shape == (3, 128)
    assert loaded.embed(0, loaded.features(0, x)).shape == (3, 64)
    fact = loaded.facts["datasets"][0]
    assert fact["people"] == 12  # 24 training images in pairs
    assert fact["test_images"] == 8
    assert loaded.facts["trained_on"]["split"] == "train"
    faces = Faces.open(dataset, "test")
    correct = decide("binary", loaded.predict(0, _images(faces))) == faces.parts[0].labels
    assert loaded.accuracy(0) == pytest.approx(float(correct.float().mean()))
    each = [v["accuracy"] for v in fact["labels"].values()]
    assert each == pytest.approx(correct.float().mean(0).tolist())


def _images(faces: Faces) -> torch.Tensor:
    from training.data.dataset import to_float

    return to_float(faces.parts[0].images(list(range(len(faces.parts[0])))))


def test_a_frozen_judge_is_never_trained_again(
    quick: tuple[Path, Path, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even with another configuration under the same hash."""
    dataset, _, manifest = quick
    monkeypatch.setattr("training.judge.train", lambda *_: pytest.fail("trained again"))
    longer = to_json(JudgeConfig(images=(64,), batch=16, floor=0.0))
    out = tmp_path / "again.json"
    again = judge(dataset, judge_config=longer, judge_hash="frozen", out=out)
    assert again.digest == manifest.digest
    assert Manifest.read(tmp_path / "again.json", "judge").digest == manifest.digest


def test_lost_judges_are_retrained_bit_for_bit(
    quick: tuple[Path, Path, Manifest], tmp_path: Path
) -> None:
    dataset, _, manifest = quick
    before = torch.random.get_rng_state()
    open_store().path(manifest.entry("celeba-resnet18.safetensors").sha256).unlink()
    out = tmp_path / "again.json"
    again = judge(dataset, judge_config=QUICK, judge_hash="frozen", out=out)
    assert again.digest == manifest.digest
    assert again.intact()
    assert torch.equal(before, torch.random.get_rng_state())  # the global random state is unchanged


def test_lost_judges_that_retrain_differently_are_an_error(
    quick: tuple[Path, Path, Manifest], tmp_path: Path
) -> None:
    dataset, _, manifest = quick
    open_store().path(manifest.entry("celeba-resnet18.safetensors").sha256).unlink()
    other = to_json(JudgeConfig(images=(32,), batch=16, lr=3e-3, floor=0.0, seed=1))
    with pytest.raises(ValueError, match="retraining gave different ones"):
        judge(dataset, judge_config=other, judge_hash="frozen", out=tmp_path / "again.json")
    assert not (tmp_path / "again.json").exists()


def test_only_the_train_split_is_used_in_training(binary: Path, tmp_path: Path) -> None:
    """Other test images give other accuracies, but identical weights."""
    manifest = judge(binary, judge_config=QUICK, out=tmp_path / "one.json")
    source = Manifest.read(binary)
    import pandas as pd

    table = pd.read_parquet(source.local("labels.parquet"))
    table.loc[table["split"] != "train", "row"] = 0
    table.to_parquet(tmp_path / "other.parquet")
    files = {"labels.parquet": tmp_path / "other.parquet"}
    keep = [e for e in source.entries if e.name != "labels.parquet"]
    Manifest.build("dataset", files, source.meta, keep=keep).write(tmp_path / "other.json")
    other = judge(tmp_path / "other.json", judge_config=QUICK, out=tmp_path / "two.json")
    weights = [n.name for n in manifest.entries if n.name.endswith(".safetensors")]
    assert [manifest.entry(n).sha256 for n in weights] == [other.entry(n).sha256 for n in weights]
    assert manifest.entry("judge.json").sha256 != other.entry("judge.json").sha256


def test_judge_below_its_floor_is_an_error(quick: tuple[Path, Path, Manifest]) -> None:
    loaded = load_judge(quick[1])
    loaded.require()
    loaded.facts["config"]["floor"] = 1.1
    with pytest.raises(ValueError, match=r"judge of celeba: clean test accuracy 0\.\d+ .*1.1"):
        loaded.require()


def test_both_data_sets_are_learned(joint: Path, tmp_path: Path) -> None:
    """Sixty steps on coloured toy data are enough for an accuracy of 0.85."""
    config = to_json(JudgeConfig(images=(960,), batch=16, lr=3e-3, floor=0.0))
    judge(joint, judge_config=config, out=tmp_path / "judge.json")
    facts = load_judge(tmp_path / "judge.json").facts["datasets"]
    assert [f["name"] for f in facts] == ["celeba", "rafd"]
    for fact in facts:
        assert fact["accuracy"] >= 0.85
        assert np.isfinite(fact["verification_auc"])


def test_command_line_trains_judges(
    binary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge_main([str(binary), "--out", str(tmp_path / "j.json"), "--config", QUICK])
    assert list(json.loads(capsys.readouterr().out.splitlines()[-1])) == ["celeba"]
    assert Manifest.read(tmp_path / "j.json", "judge").intact()

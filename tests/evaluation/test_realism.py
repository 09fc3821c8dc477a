"""Measures of realism on toy pictures, from data set to verdict; the judges are untrained."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from training.core.config import EvalConfig
from training.core.files import sha256_file
from training.data.dataset import Faces, to_float
from training.data.labels import LabelSet, LabelSpace
from training.evaluation.evidence import evidence
from training.evaluation.frechet import Distances
from training.evaluation.judges.judge import Judge
from training.evaluation.judges.nets import ResNet18, SmallVGG
from training.evaluation.raster import excess
from training.evaluation.realism import Realism, scored
from training.evaluation.records import Kid, Scores
from training.registry.gate import decide
from training.storage.store import Manifest

CELEBA = LabelSet("celeba", "binary", ("Blond_Hair", "Male"))
RAFD = LabelSet("rafd", "onehot", ("angry", "happy", "sad"))
UNITS = LabelSet("units", "continuous", ("AU06", "AU12"))
# the floors of realism alone
REALISM = EvalConfig(bootstrap=20, min_success=0.0, min_psnr=0.0, must_learn=False)


def brighter(image: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """A translator that only brightens, by 26 grey levels."""
    return (image + 26 / 127.5).clamp(-1, 1)


def untrained(faces: Faces, auc: float | None = None) -> Judge:
    """With the fact that its vectors tell people apart with `auc`; None: people are unknown."""
    torch.manual_seed(0)
    nets: tuple[list[Any], list[Any]] = ([], [])
    for labels in faces.space.sets:
        nets[0].append(ResNet18(len(labels.names)).eval())
        nets[1].append(SmallVGG(len(labels.names), 4).eval())
    facts = {"datasets": [{"verification_auc": auc} for _ in faces.space.sets]}
    return Judge(faces.space, faces.size, *nets, facts=facts, digest="", device=torch.device("cpu"))


def measured(
    dataset: Path, inception: str = "", auc: float | None = None, **config: Any
) -> tuple[Scores, Faces, Faces]:
    """Scores of `brighter` with the scored images and those of validation."""
    test, validation, train = (Faces.open(dataset, s) for s in ("test", "val", "train"))
    settings = replace(REALISM, **config)
    judge = untrained(test, auc)
    found = scored(brighter, test, validation, train, judge, settings, inception)[0]
    return found, test, validation


def relabelled(dataset: Path, change: Callable[[pd.DataFrame], None]) -> Path:
    """The data set with other rows of labels.parquet."""
    manifest = Manifest.read(dataset)
    rows = pd.read_parquet(manifest.local("labels.parquet"))
    change(rows)
    rows.to_parquet(dataset.parent / "changed.parquet")
    files = {e.name: manifest.local(e.name) for e in manifest.entries}
    files["labels.parquet"] = dataset.parent / "changed.parquet"
    rows_of = {e.name: e.rows for e in manifest.entries}
    path = dataset.parent / "changed.json"
    Manifest.build("dataset", files, manifest.meta, rows=rows_of).write(path)
    return path


def published(x: np.ndarray, x_people: list[str], y: np.ndarray, y_people: list[str]) -> float:
    """Unbiased MMD² (Bińkowski et al. 2018, eq. 4) by double sums, without pairs of a person."""

    def mean(a: np.ndarray, names: list[str], b: np.ndarray, others: list[str]) -> float:
        return float(
            np.mean(
                [
                    (float(u @ v) / len(u) + 1) ** 3
                    for u, p in zip(a, names, strict=True)
                    for v, q in zip(b, others, strict=True)
                    if p != q
                ]
            )
        )

    one, two = (x, x_people), (y, y_people)
    return mean(*one, *one) + mean(*two, *two) - 2 * mean(*one, *two)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit
def test_kid_by_inception_is_the_published_estimator_on_the_networks_features(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    """A TorchScript network of mean colours; the features are computed anew with NumPy."""

    class Net(torch.nn.Module):
        def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
            h = x.float().mean((2, 3)) / 255
            return h if return_features else h[:, :1]

    net = tmp_path / "inception.pt"
    torch.jit.save(torch.jit.script(Net()), str(net))
    labels = LabelSet("celeba", "binary", ("Male",))
    dataset = make_dataset(tmp_path / "d.json", (labels,), count=80)
    found, test, validation = measured(dataset, f"{net}@{sha256_file(net)}")
    assert [kid.kind for kid in found.kids] == ["kid_vgg", "kid"]
    rows = {row.domain: row for row in found.kids[1].domains}
    assert set(rows) == {"Male", "not_Male"}

    def colours(images: Tensor) -> np.ndarray:
        return np.asarray(images.double().mean((1, 2)) / 255)

    parts = [test.parts[0], validation.parts[0]]
    reals = np.concatenate([colours(p.images(list(range(len(p))))) for p in parts])
    names = [name for p in parts for name in p.identity]
    shown = torch.cat([p.labels[:, 0] for p in parts]).numpy() > 0.5
    images = test.parts[0].images(list(range(len(test.parts[0])))).double()
    after = colours((images + 26).round().clamp(0, 255))
    edited = ~shown[: len(images)]  # those without the label gain it
    people = [n for n, e in zip(names[: len(images)], edited, strict=True) if e]
    real = reals[shown], [n for n, s in zip(names, shown, strict=True) if s]
    for value, features in ((rows["Male"].value, after), (rows["Male"].inputs, colours(images))):
        expected = published(features[edited], people, *real)
        assert value == pytest.approx(expected, rel=1e-5)


def reason(found: Scores, **config: Any) -> str:
    return decide(None, found.table, replace(REALISM, **config), kids=found.kids).reason


@pytest.mark.parametrize("sets", [(CELEBA,), (RAFD,), (UNITS,), (CELEBA, RAFD), (CELEBA, UNITS)])
def test_every_kind_of_labels_has_a_verdict(
    make_dataset: Callable[..., Path], tmp_path: Path, sets: tuple[LabelSet, ...]
) -> None:
    """A distance for each data set with target domains, a sentence for each without, pictures."""
    dataset = make_dataset(tmp_path / "d.json", sets, count=80)
    found, test, _ = measured(dataset)
    with_domains = [s.name for s in sets if s.kind != "continuous"]
    assert [kid.dataset for kid in found.kids] == with_domains
    text = reason(found)
    train = Faces.open(dataset, "train")
    pictures = evidence(brighter, test, train, untrained(test), REALISM, found)
    assert {p.name for p in pictures if "kid" in p.name} == {
        f"looks_kid_{name}.png" for name in with_domains
    }
    for labels in sets:
        said = f"kid is not judged for {labels.name}: intensities" in text
        assert said == (labels.kind == "continuous")


@pytest.mark.parametrize(("size", "lines"), [(16, 3), (17, 0), (50, 3), (100, 9)])
def test_images_of_any_size_are_measured_or_the_verdict_says_why_not(
    make_dataset: Callable[..., Path], tmp_path: Path, size: int, lines: int
) -> None:
    found, _, _ = measured(make_dataset(tmp_path / "d.json", (CELEBA,), size=size))
    edits = found.table[found.table["single"] & found.table["changed"]]
    if lines:
        assert {len(power) for power in edits["raster"]} == {lines}
    else:
        assert "raster is unknown for every edit: sides that are odd" in reason(found)
    assert edits["likeness"].notna().all()


@pytest.mark.parametrize(("auc", "judged"), [(0.55, False), (0.59, False), (0.61, True)])
def test_identity_is_judged_only_by_a_judge_that_tells_people_apart(
    auc: float, judged: bool, make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    """Otherwise the model is refused, and the reason names what to do."""
    found, _, _ = measured(make_dataset(tmp_path / "d.json", (CELEBA,)), auc=auc)
    edits = found.table[found.table["single"] & found.table["changed"]]
    assert edits["likeness"].notna().all() == judged
    assert edits["likeness"].isna().all() != judged
    says = "likeness is unknown for every edit: the second judge does not tell people apart"
    assert (says in reason(found)) != judged


def test_a_joint_judge_is_asked_about_the_scored_data_set(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    """Whose place among the judge's sets is another than among the scored ones."""
    faces = Faces.open(make_dataset(tmp_path / "d.json", (RAFD,)), "test")
    joint = Faces("test", LabelSpace((CELEBA, RAFD)), faces.size, [])
    for celeba, rafd in ((0.9, 0.5), (0.5, 0.9)):
        judge = untrained(joint)
        judge.facts["datasets"] = [{"verification_auc": auc} for auc in (celeba, rafd)]
        found = Realism(Distances(judge), faces, None, None)
        assert found._tells(0) == (rafd == 0.9)


def test_a_target_without_real_images_is_named(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    """No image outside the train split shows Male; no training image is Blond."""

    def change(rows: pd.DataFrame) -> None:
        for i, (split, label) in enumerate(zip(rows["split"], rows["label"], strict=True)):
            train = split == "train"
            rows.at[i, "label"] = np.float32([label[0] * (not train), label[1] * train])

    dataset = relabelled(make_dataset(tmp_path / "d.json", (CELEBA,), count=80), change)
    found, _, _ = measured(dataset)
    text = reason(found)
    assert "kid is not judged for celeba Male: edits and real images of three people" in text
    assert "background is not judged for celeba/Blond_Hair: it needs 8 training images" in text


def test_few_images_are_too_few_and_the_verdict_says_how_many_people_are_needed(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    """Two scored images and eight of validation, four people."""
    found, _, _ = measured(make_dataset(tmp_path / "d.json", (CELEBA,)), limit=2)
    text = reason(found, max_raster=0.0)
    assert "too few images to judge realism" in text
    assert "eval.limit" in text


def everyone_shows_everything(dataset: Path) -> Path:
    """The data set with four people a split, each of whom shows every class equally often."""

    def change(rows: pd.DataFrame) -> None:
        for split in rows["split"].unique():
            for n, i in enumerate(rows.index[rows["split"] == split]):
                rows.at[i, "label"] = np.eye(3, dtype=np.float32)[n % 3]
                rows.at[i, "identity"] = f"{split}{n // 3 % 4}"

    return relabelled(dataset, change)


def test_people_who_show_every_target_are_compared_with_themselves(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    """The distance by loops over the judge's features; page, picture and verdict say what it is."""
    dataset = everyone_shows_everything(make_dataset(tmp_path / "d.json", (RAFD,), count=80))
    found, test, _ = measured(dataset)
    kid = found.kids[0]
    assert kid.paired
    assert kid.people == 4
    part, judge = test.parts[0], untrained(test)
    images = part.images(list(range(len(part))))
    after = (images.double() + 26).round().clamp(0, 255).to(torch.uint8)
    real, edit = (judge.features(0, to_float(side)).double().numpy() for side in (images, after))
    label, who = part.labels.argmax(1).numpy(), np.array(part.identity)
    for t, row in enumerate(kid.domains):
        assert row.domain == RAFD.names[t]
        for value, features in ((row.value, edit), (row.inputs, real)):
            away = [
                np.mean(np.square(features[i] - real[(who == who[i]) & (label == t)]))
                for i in range(len(part))
                if label[i] != t
            ]
            assert value == pytest.approx(np.mean(away), rel=1e-4)
    reasons = {c.name: c.why for c in decide(None, found.table, REALISM, kids=found.kids).checks}
    assert "of the same person with their target labels as the unedited inputs" in reasons["kid"]
    pictures = evidence(brighter, test, Faces.open(dataset, "train"), judge, REALISM, found)
    assert any("nearest real image of the same person" in p.caption for p in pictures)


def test_images_of_unknown_people_count_as_people(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    def change(rows: pd.DataFrame) -> None:
        rows["identity"] = ""

    dataset = relabelled(make_dataset(tmp_path / "d.json", (CELEBA,), count=80), change)
    found, test, validation = measured(dataset)
    kid = next(k for k in found.kids if isinstance(k, Kid))
    assert kid.people == len(test.parts[0]) + len(validation.parts[0])


def test_the_raster_of_fewer_than_30_real_images_is_no_reference(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    """Sixteen real images: what is subtracted is their mean, not that of each target."""
    found, test, validation = measured(make_dataset(tmp_path / "d.json", (CELEBA,)))
    parts = (test.parts[0], validation.parts[0])
    real = np.concatenate([excess(p.images(list(range(len(p))))) for p in parts])
    before = test.parts[0].images(list(range(len(test.parts[0])))).double()
    after = excess((before + 26).round().clamp(0, 255).to(torch.uint8))
    edits = found.table[found.table["single"] & found.table["changed"]]
    expected = after[edits["index"]] - real.mean(0).clip(min=0)
    assert np.allclose(np.stack(edits["raster"].to_list()), expected, rtol=1e-3)


@pytest.mark.parametrize("noise", [0, 20])
def test_grey_pictures_are_measured_and_plain_ones_refused_with_the_cause(
    make_dataset: Callable[..., Path], tmp_path: Path, noise: int
) -> None:
    """Grey: three equal channels; plain: every image is the same grey."""
    manifest = Manifest.read(make_dataset(tmp_path / "d.json", (CELEBA,), count=80))
    grey = 128 + np.random.default_rng(0).integers(0, noise + 1, (80, 16, 16, 1))
    np.save(tmp_path / "grey.npy", grey.repeat(3, 3).astype(np.uint8))
    files = {e.name: manifest.local(e.name) for e in manifest.entries}
    files["celeba-00000.npy"] = tmp_path / "grey.npy"
    rows_of = {e.name: e.rows for e in manifest.entries}
    Manifest.build("dataset", files, manifest.meta, rows=rows_of).write(tmp_path / "grey.json")
    text = reason(measured(tmp_path / "grey.json")[0])
    plain = "likeness is unknown for every edit: the second judge does not tell people" in text
    assert plain == (noise == 0)
    assert noise == 0 or "edits change" in text

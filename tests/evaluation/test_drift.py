"""Drift: the permutation test against enumeration and loops, and the program on real folders."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toydata import pictures
from training.core.config import DataConfig, JudgeConfig, to_json
from training.data.__main__ import main
from training.data.preprocess import preprocess
from training.data.pull import pull
from training.data.unify import unify
from training.drift import EXIT_DRIFT
from training.evaluation.drift import (
    Side,
    TooFewError,
    difference,
    discrepancies,
    divisions,
    drift,
    least_p,
    nearest,
)
from training.evaluation.kid import kernel
from training.evaluation.metrics import wilson
from training.judge import judge
from training.storage.dvc import tree_md5

CONFIG = DataConfig(
    datasets=("mine:csv",), size=16, attributes=("Hat", "Male"), split="identity", test_share=0.3
)


def side(rng: np.random.Generator, name: str, people: int, images: int, shift: float = 0) -> Side:
    """Images of people, alike among each other, in 4 features."""
    who = np.repeat(np.arange(people), images)
    looks = rng.normal(shift, 1, (people, 4))[who]
    return Side(looks + rng.normal(0, 0.3, looks.shape), np.array([f"{name}{i}" for i in who]))


def test_the_discrepancy_is_that_of_loops_over_pairs_of_different_people() -> None:
    rng = np.random.default_rng(0)
    a, b = side(rng, "a", 5, 2), side(rng, "b", 4, 3, 0.5)
    b.people[:2] = "a1"  # somebody who is on both sides

    def mean(one: Side, two: Side) -> float:
        return float(np.mean([
            (sum(p * q for p, q in zip(x, y, strict=True)) / 4 + 1) ** 3
            for x, who in zip(*one, strict=True)
            for y, other in zip(*two, strict=True)
            if who != other
        ]))  # fmt: skip

    found = drift("d", a, b, permutations=9, level=0.5)
    assert found.distance == pytest.approx(mean(a, a) + mean(b, b) - 2 * mean(a, b))
    assert (found.reference_images, found.images) == (10, 12)
    assert (found.reference_people, found.people) == (5, 5)


def test_the_p_value_is_that_of_every_division_of_the_people() -> None:
    rng = np.random.default_rng(3)
    a, b = side(rng, "a", 4, 2), side(rng, "b", 4, 2, 0.7)
    features = np.concatenate([a.features, b.features])
    person = np.repeat(np.arange(8), 2)
    every = np.stack([np.isin(person, who) for who in itertools.combinations(range(8), 4)], 1)
    values = kernel(features, features)
    all_found = discrepancies(values, person[:, None] != person, every)
    observed = discrepancies(values, person[:, None] != person, (person >= 4)[:, None])[0]
    exact = float((all_found >= observed - 1e-9).mean())
    found = drift("d", a, b, permutations=1999, level=0.03)
    assert 0.01 < exact < 0.99
    assert found.p == pytest.approx(exact, abs=4 * found.error)
    assert found.error == pytest.approx(np.sqrt(exact * (1 - exact) / 2000), rel=0.2)
    assert least_p(person, person >= 4) == pytest.approx(2 / every.shape[1])


@pytest.mark.parametrize(("one", "two", "both"), [
    (2, 2, 0), (3, 3, 0), (3, 2, 0), (1, 1, 2), (2, 1, 2), (0, 0, 3), (0, 1, 2),
])  # fmt: skip
def test_the_lowest_p_value_is_that_of_the_rarest_of_all_divisions(
    one: int, two: int, both: int
) -> None:
    """Of images at random, so that no other divisions than complements give one distance."""
    people = one + two + both
    person = np.repeat(np.arange(people), 2)
    first = np.arange(2 * people) % 2 == 0  # of each person's images
    every = np.stack([
        np.isin(person, who) | (np.isin(person, swapped) ^ first) & (person >= one + two)
        for who in itertools.combinations(range(one + two), two)
        for count in range(both + 1)
        for swapped in itertools.combinations(range(one + two, people), count)
    ], 1)  # fmt: skip
    features = np.random.default_rng(7).normal(size=(2 * people, 4))
    apart = person[:, None] != person
    found = discrepancies(kernel(features, features), apart, every)
    assert len({tuple(column) for column in every.T}) == every.shape[1]
    rarest = float((found >= found.max() - 1e-9).mean())
    assert rarest == pytest.approx(least_p(person, every[:, 0]))


def test_p_values_of_equal_distributions_are_uniform_where_images_of_people_are_alike() -> None:
    """Images moved one by one would call nearly every second pair of sets different."""
    kept, single = [], []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        a, b = side(rng, "a", 12, 4), side(rng, "b", 12, 4)
        kept.append(drift("d", a, b, permutations=99, level=0.05, seed=seed).p)
        alone = [Side(s.features, np.arange(48) + 48 * k) for k, s in enumerate((a, b))]
        single.append(drift("d", *alone, permutations=99, level=0.05, seed=seed).p)
    assert 0.4 < np.mean(kept) < 0.6
    assert np.mean(np.array(kept) <= 0.1) < 0.2
    assert np.mean(np.array(single) <= 0.1) > 0.3


def test_a_shifted_set_is_found() -> None:
    rng = np.random.default_rng(1)
    found = drift("d", side(rng, "a", 40, 2), side(rng, "b", 30, 2, 1.0), permutations=199)
    assert found.p == pytest.approx(1 / 200)
    assert found.found()


def test_the_same_images_on_both_sides_are_no_drift() -> None:
    a = side(np.random.default_rng(2), "a", 20, 2)
    assert drift("d", a, a, permutations=199).p == 1


def test_divisions_move_people_whole_and_exchange_those_who_are_on_both_sides() -> None:
    person = np.array([0, 0, 1, 2, 2, 3, 3])  # the last one is on both sides
    now = np.array([False, False, False, True, True, False, True])
    found = divisions(person, now, 64, 0)
    assert found.shape == (7, 64)
    assert (found[0] == found[1]).all()
    assert (found[3] == found[4]).all()
    assert (found[[0, 2, 3]].sum(0) == 1).all()
    assert (found[5] != found[6]).all()
    assert len(np.unique(found, axis=1).T) == 6  # 3 places of the one person, 2 of the exchange


@pytest.mark.parametrize("people", [2, 4])
def test_too_few_people_are_refused_with_the_lowest_possible_p(people: int) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(TooFewError, match=rf"8 people .* with {people}; .* add images of other"):
        drift("d", side(rng, "a", 8, 1), side(rng, "b", people, 3), level=0.001)


def test_a_difference_of_shares_has_newcombes_interval() -> None:
    """Newcombe (1998), method 10, with Wilson's intervals where every value is the same."""
    zeros, ones, who = np.zeros(10), np.ones(20), np.arange(20).astype(str)
    found = difference("x", (zeros, who[:10]), (ones, who), share=True)
    (_, high), (low, _) = wilson(0, 10), wilson(20, 20)
    assert (found.reference, found.value, found.difference) == (0, 1, 1)
    assert found.low == pytest.approx(1 - np.hypot(1 - low, high))
    assert found.high == pytest.approx(1)
    assert found.clear


def test_the_nearest_row_is_found() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(6, 3)), rng.normal(size=(9, 3))
    index, away = nearest(a, b)
    loops = [[float(np.linalg.norm(x - y)) for y in b] for x in a]
    assert index.tolist() == [int(np.argmin(row)) for row in loops]
    assert away == pytest.approx([min(row) for row in loops])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set from real files, its small judge, and their store."""
    folder = tmp_path_factory.mktemp("drift")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORE_URI", f"file://{folder / 'store'}")
        patch.chdir(folder)
        config = to_json(CONFIG)
        pull(datasets="mine:csv", raw=str(pictures(folder / "mine", 0, 60)), out=Path("raw.json"))
        preprocess(raw=Path("raw.json"), data_config=config, out=Path("images.json"))
        unify(images=Path("images.json"), data_config=config, out=Path("dataset.json"))
        settings = to_json(JudgeConfig(images=(400,), batch=16, lr=3e-3, floor=0.5))
        judge(Path("dataset.json"), judge_config=settings, out=Path("judge.json"))
    return folder


@pytest.fixture
def run(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """Run the program in its own working folder; gives what it wrote."""
    monkeypatch.setenv("STORE_URI", f"file://{made / 'store'}")
    monkeypatch.setattr("training.evaluation.drift_sides.FACES", 4)  # each takes 30 ms
    monkeypatch.chdir(tmp_path)

    def call(other: object, *more: str, code: int = 0) -> dict[str, Any]:
        words = ["drift", f"{made}/dataset.json", str(other), "--judge", f"{made}/judge.json"]
        ending: object = 0
        try:
            main([*words, "--permutations", "199", *more])
        except SystemExit as ended:
            ending = ended.code
        assert ending == code
        return dict(json.loads(Path("runs/drift.json").read_text()))

    return call


Run = Callable[..., dict[str, Any]]


def test_a_folder_like_the_training_data_is_no_drift(
    run: Run, tmp_path: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also as a raw manifest, and nothing is put into the store."""
    new = pictures(tmp_path / "new", 500, 40)
    before = sorted(path for path in (made / "store").rglob("*") if path.is_file())
    found = run(new)
    assert sorted(path for path in (made / "store").rglob("*") if path.is_file()) == before
    assert "no difference found from the training set: p = " in capsys.readouterr().out
    assert not found["found"]
    assert found["drift"]["p"] > 0.01
    assert [row["name"] for row in found["labels"]] == ["Hat", "Male"]
    assert not any(row["low"] > 0 or row["high"] < 0 for row in found["labels"])
    assert found["sides"] == [24, 24, 24]
    assert found["drift"]["people"] == 40
    pull(datasets="mine:csv", raw=str(new), out=tmp_path / "other.json")
    assert run(tmp_path / "other.json")["drift"] == found["drift"]


def test_dark_pictures_are_drift_with_its_own_exit_code(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dark = pictures(tmp_path / "dark", 700, 40, dark=0.5)
    found = run(dark, code=EXIT_DRIFT)
    assert EXIT_DRIFT == 3
    brightness = next(row for row in found["facts"] if row["name"].startswith("brightness"))
    assert brightness["high"] < -30
    page = Path("runs/drift.html").read_text()
    assert "Different from the training set: p = 0.005 ± 0.005" in page
    assert 'src="http' not in page
    (dark / "labels.csv").unlink()
    assert run(dark, code=EXIT_DRIFT)["labels"] == []
    assert "only the pictures are compared" in capsys.readouterr().out


def test_a_version_of_a_dvc_file_is_fetched(run: Run, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "new", 900, 30)
    (tmp_path / "raw").mkdir()
    folder.rename(tmp_path / "raw" / "newer")
    md5 = tree_md5(tmp_path / "raw" / "newer")[0]
    text = f"outs:\n- md5: {md5}\n  path: raw/newer\nmeta:\n  kind: csv\n"
    (tmp_path / "newer.dvc").write_text(text)
    assert run("newer")["drift"]["people"] == 30


def test_what_cannot_be_compared_is_named(run: Run, made: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no picture among 0 files; give a folder of pictures"):
        run(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"no other.dvc in"):
        run("other")
    with pytest.raises(ValueError, match="unknown data set 'yours'; this label space has mine"):
        run(tmp_path / "empty", "--name", "yours")
    with pytest.raises(ValueError, match="a manifest of kind 'judge'; a folder, or one of"):
        run(made / "judge.json")


@pytest.mark.parametrize("other", [{"size": 32}, {"interpolation": "bilinear"}])
def test_a_data_set_that_was_cropped_otherwise_is_refused_and_its_raw_data_are_not(
    run: Run, made: Path, tmp_path: Path, other: dict[str, Any]
) -> None:
    """The judge takes images of any size, and would find the size."""
    config = to_json(replace(CONFIG, **other))
    raw, images, data = (tmp_path / f"{name}.json" for name in ("raw", "images", "data"))
    new = pictures(tmp_path / "new", 500, 40)
    pull(datasets="mine:csv", raw=str(new), out=raw)
    preprocess(raw=raw, data_config=config, out=images)
    unify(images=images, data_config=config, out=data)
    ((name, value),) = other.items()
    with pytest.raises(ValueError, match=f"with data.{name}={value}, the training images with "
                       f"data.{name}={getattr(CONFIG, name)}; give its raw data"):  # fmt: skip
        run(data)
    assert run(raw)["drift"]["p"] > 0.01


def test_the_train_split_is_not_unlike_the_whole_data_set(run: Run, made: Path) -> None:
    assert run(made / "dataset.json", "--train")["drift"]["p"] > 0.01

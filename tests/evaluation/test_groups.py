"""Scores by group of people, against pandas and a bootstrap written anew."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from toydata import CELEBA, RAFD, pictures
from training.core.config import DataConfig, EvalConfig, to_json
from training.data.dataset import Faces
from training.data.labels import LabelSpace
from training.data.preprocess import preprocess
from training.data.pull import pull
from training.data.unify import unify
from training.evaluation.groups import by_group
from training.evaluation.metrics import wilson
from training.registry.card import MOST, card, description
from training.registry.lineage import Lineage
from training.storage.meta import DatasetMeta
from training.storage.store import Manifest, Store, open_store

CONFIG = EvalConfig(bootstrap=2000)


def table(people: int = 24, seed: int = 0) -> pd.DataFrame:
    """Two images of each person under two edits; men's Blond_Hair succeeds less often."""
    rng = np.random.default_rng(seed)
    rows = []
    for person in range(people):
        male = person % 2
        for image in range(2):
            for task in ("Blond_Hair", "Black_Hair", "Male"):
                success = rng.random() < (0.5 if male and task == "Blond_Hair" else 0.9)
                rows.append(
                    {"dataset": "celeba", "index": 2 * person + image, "identity": f"{person}",
                     "file": f"{person}-{image}.jpg", "task": task, "single": True,
                     "changed": bool(rng.random() < 0.9), "success": float(success),
                     "preservation": float(rng.random()), "others": 2,
                     "identity_cosine": float(rng.random()), "background": float(rng.random()),
                     "man": male}
                )  # fmt: skip
    return pd.DataFrame(rows)


def dataset(frame: pd.DataFrame, folder: Path, name: str = "celeba") -> Manifest[Any]:
    """A manifest with a data set's own label table."""
    path = folder / f"{name}.parquet"
    frame.to_parquet(path)
    meta = DatasetMeta(data={}, source="", datasets=(), images="", dim_g=0)
    return Manifest.build("dataset", {path.name: path}, meta)


def faces(*sets: Any) -> Any:
    return SimpleNamespace(
        space=SimpleNamespace(sets=sets), parts=[SimpleNamespace(files=[]) for _ in sets]
    )


@pytest.fixture
def scored(store: Path, tmp_path: Path) -> Callable[..., Any]:
    def call(rows: pd.DataFrame, labels: pd.DataFrame, *sets: Any) -> Any:
        made = dataset(labels, tmp_path)
        return by_group(rows, made, faces(*(sets or (CELEBA,))), CONFIG, open_store())

    return call


def labels_of(rows: pd.DataFrame, **more: Any) -> pd.DataFrame:
    one = rows.drop_duplicates("file")
    return pd.DataFrame({"file": one["file"], "Male": np.where(one["man"] == 1, 1, -1), **more})


def test_values_are_those_of_pandas(scored: Callable[..., Any]) -> None:
    """Means over the other labels' edits of the means over images that the edit changes."""
    rows = table()
    groups, gaps = scored(rows, labels_of(rows, Smiling=1))
    assert [(g.label, g.group) for g in groups] == [("Male", "Male"), ("Male", "not Male")]
    used = rows[rows["changed"] & (rows["task"] != "Male")]
    for group in groups:
        mine = used[used["man"] == (group.group == "Male")]
        assert (group.images, group.people) == (len(mine), mine["identity"].nunique())
        for measure, column in (
            ("success", "success"),
            ("preservation", "preservation"),
            ("identity", "identity_cosine"),
            ("background", "background"),
        ):
            wanted = mine.groupby("task")[column].mean().mean()
            assert group.scores[measure][0] == pytest.approx(wanted)
    success = {g.group: g.scores["success"][0] for g in groups}
    gap = next(g for g in gaps if g.measure == "success")
    assert (gap.above, gap.below, gap.compared) == ("not Male", "Male", 1)
    assert gap.value == pytest.approx(success["not Male"] - success["Male"])


def test_intervals_are_those_of_drawing_people_again(scored: Callable[..., Any]) -> None:
    rows = table()
    groups, gaps = scored(rows, labels_of(rows))
    used = rows[rows["changed"] & (rows["task"] != "Male")]
    people = dict(list(used.groupby("identity")))
    rng = np.random.default_rng(9)
    means = []
    for _ in range(400):
        drawn = pd.concat([people[who] for who in rng.choice([*people], len(people))])
        by_task = drawn.groupby(["man", "task"])["success"].mean()
        means.append([by_task[man].mean() for man in (1, 0)])
    drawn_means = np.array(means)
    for k, group in enumerate(groups):
        low, high = np.percentile(drawn_means[:, k], [2.5, 97.5])
        assert group.scores["success"][1:] == pytest.approx((low, high), abs=0.04)
    low, high = np.percentile(drawn_means[:, 1] - drawn_means[:, 0], [2.5, 97.5])
    gap = next(g for g in gaps if g.measure == "success")
    assert (gap.low, gap.high) == pytest.approx((low, high), abs=0.04)


def test_groups_of_fewer_than_three_people_are_named_without_scores(
    scored: Callable[..., Any],
) -> None:
    rows = table(people=5)  # two men
    groups, gaps = scored(rows, labels_of(rows))
    assert {g.group: (g.people, bool(g.scores)) for g in groups} == {
        "Male": (2, False), "not Male": (3, True),
    }  # fmt: skip
    assert gaps == []


def test_the_interval_of_the_largest_of_many_gaps_is_wider(scored: Callable[..., Any]) -> None:
    rows = table()
    one = scored(rows, labels_of(rows))[1]
    kinds = np.resize(["a", "b", "c", "d"], 48)
    several = scored(rows, labels_of(rows, group=kinds))[1]
    assert {gap.compared for gap in several} == {7}  # 1 of Male, 6 of four groups
    first, second = (next(g for g in found if g.label == "Male" and g.measure == "success")
                     for found in (one, several))  # fmt: skip
    assert first.value == second.value
    assert second.high - second.low > 1.1 * (first.high - first.low)


def test_groups_that_always_succeed_have_wilsons_interval(scored: Callable[..., Any]) -> None:
    rows = table().assign(success=1.0)
    groups, gaps = scored(rows, labels_of(rows))
    for group in groups:
        assert group.scores["success"][1] == pytest.approx(wilson(12, 12)[0])
    gap = next(g for g in gaps if g.measure == "success")
    assert (gap.value, gap.low < -0.1, gap.high > 0.1) == (0, True, True)


def test_groups_of_rafd_are_those_of_the_file_names(scored: Callable[..., Any]) -> None:
    rows = table().assign(dataset="rafd", task="happy")
    made = labels_of(rows, gender=np.resize(["female", "male"], 48), group="Kid")
    groups, _ = by_group(
        rows, dataset(made.drop(columns="Male"), Path(), "rafd"), faces(RAFD), CONFIG,
        open_store(),
    )  # fmt: skip
    assert {(g.label, g.group) for g in groups} == {
        ("gender", "female"), ("gender", "male"), ("group", "Kid"),
    }  # fmt: skip


def test_columns_of_words_in_an_own_table_are_groups(store: Path, tmp_path: Path) -> None:
    """Through the data steps; ages in years, other words and empty cells are none."""
    lines = (pictures(tmp_path / "mine", 100, 20) / "labels.csv").read_text().splitlines()
    words = {f"{who}": ("north", "south", "")[who % 3] for who in range(100, 120)}
    rows = [f"{lines[0]},Ethnicity,age,remark"]
    for line in lines[1:]:
        who = line.split(",")[1]
        rows.append(f"{line},{words[who]},{int(who) - 80},seen")
    (tmp_path / "mine" / "labels.csv").write_text("\n".join(rows) + "\n")
    config = DataConfig(
        datasets=("mine:csv",), size=16, attributes=("Hat",), split="identity", test_share=0.5
    )
    pull(datasets="mine:csv", raw="mine", out=Path("raw"))
    preprocess(raw=Path("raw"), data_config=to_json(config), out=Path("images"))
    data = unify(images=Path("images"), data_config=to_json(config), out=Path("data"))
    test = Faces.open(data, "test")
    (part,) = test.parts
    scores = pd.DataFrame({"identity": part.identity, "file": part.files})
    scores = scores.assign(
        dataset="mine", task="Hat", single=True, changed=True, success=1.0, preservation=1.0,
        others=0, identity_cosine=1.0, background=0.0, index=range(len(part)),
    )  # fmt: skip
    groups, _ = by_group(scores, data, test, CONFIG, open_store())
    found = {group.group: group.people for group in groups if group.label == "Ethnicity"}
    shown = [words[who] for who in set(part.identity)]
    assert found == {word: shown.count(word) for word in ("north", "south")}
    assert {group.label for group in groups} == {"Ethnicity", "Male"}


def test_a_data_set_without_a_table_has_the_groups_of_its_labels(binary: Path) -> None:
    faces = Faces.open(binary, "test")
    rows = table(8).assign(file=np.resize(faces.parts[0].files, 48))
    store: Store = open_store()
    groups, _ = by_group(rows, Manifest.read(binary, "dataset"), faces, CONFIG, store)
    assert {g.label for g in groups} == {"Male"}


def test_the_card_has_a_row_for_each_group() -> None:
    space = LabelSpace((CELEBA,))
    record = Lineage(*[""] * 3, "", False, *[""] * 5, 0, *[""] * 4)
    rows = [
        {"dataset": "celeba", "label": "Pale_Skin", "group": "not Pale_Skin", "people": 12,
         "scores": {"success": [0.5, 0.4, 0.6]}},
    ]  # fmt: skip
    config = {"name": "stargan", "preset": "demo", "size": 16, "train": {"images": 1}}
    text = card("m", config, space, record, {"success_mean": 0.5}, {}, {}, groups=rows)
    assert (
        "| celeba | Pale\\_Skin | not Pale\\_Skin | 12 | 0.500 [0.400 – 0.600] | – | – | – |\n"
        in text
    )
    assert "differs between groups of people (see above)." in text
    assert "By group" not in card("m", config, space, record, {}, {}, {})
    many = {f"metric_{n}": 0.5 for n in range(300)}
    whole = card("m", config, space, record, many, {}, {}, groups=rows * 40)
    assert len(whole) > MOST
    kept = description(whole)
    assert len(kept) <= MOST
    assert description(text) == text
    assert re.search(r"\| metric_\d+ \| 0.5000 \|\n\n\*More in README.md among this", kept)
    for heading in ("## Use", "## Data", "## Limits", "## Licence note", "## Provenance"):
        start = whole.index(heading)
        assert whole[start : whole.find("\n## ", start)] in kept

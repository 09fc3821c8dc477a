"""Splits: disjoint in persons, of the configured shares, independent of the order of rows."""

import re
from collections import Counter
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.core.config import DataConfig
from training.data.split import SPLITS, assign, select_limited


def people(count: int, each: int, part: str = "") -> pd.DataFrame:
    rows = [(f"{i:03d}_{j}.jpg", f"p{i}", part) for i in range(count) for j in range(each)]
    return pd.DataFrame(rows, columns=["file", "identity", "part"])


def shared(frame: pd.DataFrame, split: pd.Series) -> bool:
    return bool((split.groupby(frame["identity"]).nunique() > 1).any())


@given(st.integers(10, 80), st.integers(1, 4), st.sampled_from([0.1, 0.2, 0.25, 0.4]))
def test_a_split_by_identity_shares_no_person_and_has_the_configured_sizes(
    n: int, each: int, share: float
) -> None:
    frame = people(n, each)
    split, by = assign(frame, "a", DataConfig(split="identity", test_share=share))
    assert by == "identity"
    assert not shared(frame, split)
    sizes = split.groupby(frame["identity"]).first().value_counts()
    assert set(sizes.index) == set(SPLITS)
    assert abs(sizes["test"] - n * share) <= 1
    assert abs(sizes["val"] - n * 0.05) <= 1


@given(st.integers(10, 70), st.sampled_from([0.1, 0.2, 0.25]))
def test_each_person_is_in_the_test_split_of_one_fold(n: int, share: float) -> None:
    frame, tested = people(n, 1), Counter[str]()
    for fold in range(round(1 / share)):
        split, _ = assign(frame, "a", DataConfig(split="identity", test_share=share, fold=fold))
        tested.update(frame.loc[split == "test", "identity"])
        assert not shared(frame, split)
    assert tested == Counter(frame["identity"])


@given(st.randoms(use_true_random=False), st.sampled_from(["official", "identity", "paper"]))
def test_the_order_of_rows_does_not_matter(random: object, how: str) -> None:
    frame = people(30, 3)
    order = list(frame.index)
    random.shuffle(order)  # type: ignore[attr-defined]
    config = DataConfig(split=how)  # type: ignore[arg-type]
    split, _ = assign(frame, "a", config)
    mixed, _ = assign(frame.loc[order], "a", config)
    assert mixed.sort_index().equals(split)


def test_two_data_sets_are_shuffled_differently() -> None:
    frame = people(60, 1)
    config = DataConfig(split="identity")
    assert not assign(frame, "a", config)[0].equals(assign(frame, "b", config)[0])


def test_the_official_partition_is_kept() -> None:
    frame = pd.concat([people(3, 2, part) for part in SPLITS], ignore_index=True)
    split, by = assign(frame, "a", DataConfig())
    assert by == "official"
    assert split.equals(frame["part"].rename(split.name))


def test_a_missing_validation_part_is_taken_from_the_training_people() -> None:
    frame = pd.concat([people(40, 2, "train"), people(5, 2, "val")], ignore_index=True)
    frame.loc[frame["part"] == "val", "identity"] += "x"
    split, _ = assign(frame, "a", DataConfig())
    assert (split[frame["part"] == "val"] == "test").all()
    assert split.value_counts().to_dict() == {"train": 76, "test": 10, "val": 4}
    assert not shared(frame, split)


def test_the_papers_option_is_random_images_2000_at_most() -> None:
    few, _ = assign(people(100, 10), "a", DataConfig(split="paper"))
    many, by = assign(people(3000, 10), "a", DataConfig(split="paper"))
    assert (few == "test").sum() == 100
    assert (many == "test").sum() == 2000
    assert by == "image"


def test_images_without_identity_are_split_one_by_one() -> None:
    split, by = assign(people(50, 1).assign(identity=""), "a", DataConfig())
    assert by == "image"
    assert split.value_counts().to_dict() == {"train": 42, "test": 5, "val": 3}


def test_impossible_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="gives 0…9"):
        assign(people(50, 1), "a", DataConfig(split="identity", fold=10))
    with pytest.raises(ValueError, match="at least one for each split"):
        assign(people(2, 5), "a", DataConfig(split="identity"))
    half = people(10, 1, "train")
    half.loc[3, "part"] = ""
    with pytest.raises(ValueError, match=r"1 images have no split.*003_0\.jpg"):
        assign(half, "a", DataConfig())


@given(st.integers(3, 40), st.floats(0.01, 0.99), st.integers(0, 3))
def test_the_share_that_a_refusal_proposes_gives_every_split(
    n: int, share: float, fold: int
) -> None:
    frame, config = people(n, 1), DataConfig(split="identity", test_share=share, fold=fold)
    refused = ""
    try:
        assign(frame, "a", config)
    except ValueError as error:
        refused = str(error)
    proposed = re.search(r"set data\.test_share=(\S+) and data\.fold=0", refused)
    if proposed:
        split, _ = assign(frame, "a", replace(config, test_share=float(proposed[1]), fold=0))
        assert set(split) == set(SPLITS)
    else:
        assert not refused or "gives 0…" in refused


@given(st.lists(st.sampled_from(SPLITS), min_size=3, max_size=200), st.integers(3, 220))
def test_a_limit_takes_the_first_of_each_split_in_proportion(parts: list[str], limit: int) -> None:
    split = pd.Series(parts)
    chosen = select_limited(split, limit)
    assert chosen.sum() == min(limit, len(parts))
    for name in set(parts):
        mine = chosen[split == name].tolist()
        assert mine == sorted(mine, reverse=True), "a later image was taken before an earlier one"
        assert mine[0]
        assert abs(sum(mine) - len(mine) * min(1, limit / len(parts))) <= 3

"""Unifying raw labels in one label space, by kind of data set, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.core.config import DataConfig, to_json
from training.core.files import read_json
from training.data.labels import LabelSet, LabelSpace
from training.data.unify import UnifyError, read_labels, unify
from training.storage.meta import ImageSet, ImagesMeta
from training.storage.store import Manifest, open_store

FIVE = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Young")


def frame(count: int = 12, **labels: object) -> pd.DataFrame:
    """Rows as preprocessing writes them: the third dropped, splits in turn, raw labels last."""
    table = pd.DataFrame(
        {
            "file": [f"{i:03d}.jpg" for i in range(count)],
            "sha256": [f"{i:064x}" for i in range(count)],
            "shard": "a-00000.npy",
            "row": np.arange(count, dtype=np.int32),
            "split": ["train", "val", "test"] * (count // 3),
            "identity": [str(i) for i in range(count)],
            "reason": "",
        }
    )
    table.loc[2, ["shard", "row", "reason"]] = ["", -1, "too small"]
    return table.assign(**labels)


def bits(seed: int, count: int = 12) -> np.ndarray:
    column = np.random.default_rng(seed).integers(0, 2, count) * 2 - 1
    column[:6:3], column[6::3] = -1, 1  # both among the training rows
    return column.astype(np.int8)


def celeba() -> pd.DataFrame:
    return frame(**{name: bits(i) for i, name in enumerate((*FIVE, "Smiling"))})


def faces(column: str = "expression") -> pd.DataFrame:
    return frame(**{column: ["sad", "happy", "sad", "angry", "sad", "sad", "happy"] + ["sad"] * 5})


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Manifest]:
    """Unify frames given as name_kind=frame; returns the manifest (store in tmp_path/store)."""

    def call(config: DataConfig = DataConfig(), **frames: pd.DataFrame) -> Manifest:  # noqa: B008
        store, files, datasets = open_store(f"file://{tmp_path / 'store'}"), {}, []
        for key, table in frames.items():
            name, kind = key.split("_")
            path = tmp_path / f"{name}.parquet"
            table.to_parquet(path, index=False)
            files[path.name] = path
            datasets.append(
                ImageSet(name=name, kind=kind, split_by="", images=0, kept=0, splits={}, dropped={})
            )
        meta = ImagesMeta(data={}, source="", datasets=tuple(datasets))
        images = Manifest.build("images", files, meta, store=store)
        images.write(tmp_path / "images.json", store)
        images, out = tmp_path / "images.json", tmp_path / "set.json"
        return unify(images=images, data_config=to_json(config), out=out, store=store)

    return call


def table(manifest: Manifest, tmp_path: Path) -> pd.DataFrame:
    return pd.read_parquet(
        manifest.local("labels.parquet", open_store(f"file://{tmp_path / 'store'}"))
    )


def test_two_data_sets_become_one_space_and_one_table(tmp_path: Path, make: Callable) -> None:
    manifest = make(celeba_celeba=celeba(), rafd_rafd=faces())
    store = open_store(f"file://{tmp_path / 'store'}")
    space = LabelSpace.from_json(read_json(manifest.local("label_space.json", store)))
    assert space.sets == (
        LabelSet("celeba", "binary", FIVE, (FIVE[:3],)),
        LabelSet("rafd", "onehot", ("angry", "happy", "sad")),
    )
    rows = table(manifest, tmp_path)
    assert list(rows.columns) == [
        "dataset", "shard", "row", "split", "identity", "file", "sha256", "label",
    ]  # fmt: skip
    assert rows["dataset"].tolist() == ["celeba"] * 11 + ["rafd"] * 11
    assert "002.jpg" not in set(rows["file"]), "a dropped image came back"
    raw = celeba().drop(index=2)
    expected = (raw[list(FIVE)] == 1).to_numpy(np.float32)
    assert np.array_equal(np.stack(rows["label"][:11].tolist()), expected)
    assert [list(v) for v in rows["label"][11:14]] == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert [e.name for e in manifest.entries] == [
        "celeba.parquet", "rafd.parquet", "labels.parquet", "label_space.json",
    ]  # fmt: skip
    assert manifest.entry("labels.parquet").rows == 22
    assert Manifest.read(tmp_path / "set.json", "dataset") == manifest


@given(st.lists(st.sampled_from("hgfedcba"), min_size=6, max_size=30))
def test_onehot_rows_name_their_class(classes: list[str]) -> None:
    classes = ["a", "b", *classes]
    source = pd.DataFrame({"class": classes, "reason": "", "file": "x"})
    labels, values = read_labels("own", "folders", source, DataConfig())
    assert labels.names == tuple(sorted(set(classes)))
    assert [labels.names[i] for i in values.argmax(1)] == classes
    assert (values.sum(1) == 1).all()


def test_0_1_and_signed_labels_are_equivalent(tmp_path: Path, make: Callable) -> None:
    signs = bits(3)
    config = DataConfig(attributes=("Young",))
    one = table(make(config, own_csv=frame(Young=signs)), tmp_path)["label"].tolist()
    two = table(make(config, own_csv=frame(Young=(signs + 1) // 2)), tmp_path)["label"].tolist()
    assert np.array_equal(one, two)


def test_hair_is_a_group_only_with_two_configured_colours() -> None:
    for names, groups in (
        (("Blond_Hair", "Male"), ()),
        (("Male", "Blond_Hair", "Black_Hair"), (("Blond_Hair", "Black_Hair"),)),
    ):
        labels, _ = read_labels("celeba", "celeba", celeba(), DataConfig(attributes=names))
        assert labels.groups == groups
        assert labels.names == names


def test_action_units_are_continuous_and_unmeasured_images_are_left_out(
    tmp_path: Path, make: Callable
) -> None:
    units = np.linspace(0, 5, 12)
    other = units[::-1].copy()
    other[4] = np.nan
    config = DataConfig(attributes=("AU12", "AU01"))
    manifest = make(config, rafd_rafd=faces().assign(AU01=units, AU12=other))
    rows = table(manifest, tmp_path)
    assert len(rows) == 10
    assert "004.jpg" not in set(rows["file"])
    assert np.allclose(rows["label"][0], [1, 0])
    space = read_json(
        manifest.local("label_space.json", open_store(f"file://{tmp_path / 'store'}"))
    )
    assert space["sets"][0]["kind"] == "continuous"


def test_an_unknown_attribute_is_refused_with_the_known_ones(make: Callable) -> None:
    with pytest.raises(
        UnifyError, match=r'celeba: no attribute "Yong"; known: Black_Hair, .*Young'
    ):
        make(DataConfig(attributes=("Male", "Yong")), celeba_celeba=celeba())


def test_a_value_outside_its_domain_is_refused_with_file_and_row(make: Callable) -> None:
    wrong = celeba()
    wrong.loc[[4, 7], "Male"] = 3
    with pytest.raises(
        UnifyError, match=r"2 of 12 values of Male are not -1 or 1: 004\.jpg \(row 5\): .*3"
    ):
        make(celeba_celeba=wrong)
    wrong = celeba()
    wrong.loc[2, "Male"] = 3  # a dropped image's label does not matter
    make(celeba_celeba=wrong)
    with pytest.raises(UnifyError, match=r"AU12 are not within 0…5: 001\.jpg \(row 2\)"):
        make(DataConfig(attributes=("AU12",)), a_rafd=frame(AU12=[1.0, 5.5] + [2.0] * 10))


def test_a_label_that_cannot_be_learned_is_refused(make: Callable) -> None:
    lonely = faces()
    lonely.loc[1, "expression"] = "surprised"  # a validation image
    with pytest.raises(UnifyError, match=r"rafd: no training image \(of 4\) has surprised"):
        make(rafd_rafd=lonely)
    with pytest.raises(UnifyError, match=r"every training image .* has Young"):
        make(celeba_celeba=celeba().assign(Young=1))
    with pytest.raises(UnifyError, match=r"only one class \(cat\)"):
        make(own_folders=frame(**{"class": ["cat"] * 12}))


def test_the_same_input_gives_the_same_bytes(make: Callable) -> None:
    assert make(celeba_celeba=celeba()).digest == make(celeba_celeba=celeba()).digest


def test_attributes_can_be_classes(tmp_path: Path, make: Callable) -> None:
    """Of several: the one that an image has, else it is left out; of one: with and without it."""
    hair = np.array([[1, -1], [-1, 1], [1, 1], [-1, -1]] * 3, np.int8)
    source = frame(**{"Black_Hair": hair[:, 0], "Blond_Hair": hair[:, 1]})
    config = DataConfig(domains=("Black_Hair", "Blond_Hair"))
    labels, values = read_labels("celeba", "celeba", source, config)
    assert labels == LabelSet("celeba", "onehot", ("Black_Hair", "Blond_Hair"))
    assert values[:2].tolist() == [[1, 0], [0, 1]]
    assert np.isnan(values[2:4]).all()
    labels, values = read_labels("celeba", "celeba", source, DataConfig(domains=("Black_Hair",)))
    assert labels.names == ("not Black_Hair", "Black_Hair")
    assert values[:4].tolist() == [[0, 1], [1, 0], [0, 1], [1, 0]]
    manifest = make(config, celeba_celeba=source)
    rows = table(manifest, tmp_path)
    assert sorted(set(rows["file"])) == ["000.jpg", "001.jpg", "004.jpg", "005.jpg", "008.jpg",
                                         "009.jpg"]  # fmt: skip
    with pytest.raises(UnifyError, match='no attribute "Hat"'):
        read_labels("celeba", "celeba", source, DataConfig(domains=("Hat",)))

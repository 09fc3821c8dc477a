"""A training starts from another model: of the same labels exactly, of others by name only."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from runs import QUICK, RICHEST, go
from toydata import CELEBA, HAIR, RAFD, SETS
from training.core.config import TrainConfig, to_json
from training.data.labels import LabelSet, LabelSpace
from training.engine import warm_start
from training.engine.checkpoint import averages
from training.engine.warm_start import Layout, matches
from training.inference.weights import CheckpointError
from training.models import MODELS
from training.storage.store import Manifest
from training.train import train

STILL = TrainConfig(**{**vars(QUICK), "images": 8, "decay_images": 8, "warmup_images": 0})
ATTRIBUTES = LabelSet("mine", "binary", ("Male", "Hat", "Blond_Hair"))
Datasets = Callable[..., Path]


def made(datasets: Datasets, tmp_path: Path, *sets: LabelSet) -> Path:
    folder = tmp_path / f"data-{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    return datasets(folder / "dataset.json", sets)


def test_other_labels_are_refused_with_both_lists(make_dataset: Datasets, tmp_path: Path) -> None:
    """Of the same number; and with the command that matches them by name."""
    first = go(made(make_dataset, tmp_path, CELEBA), tmp_path / "a", STILL)
    other = made(make_dataset, tmp_path, replace(CELEBA, names=("Hat", "Beard", "Male"), groups=()))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        go(other, tmp_path / "b", STILL, init=str(first))
    assert str(caught.value) == (
        f"init={first}: its labels are [Black_Hair, Blond_Hair, Male] (binary), those of this run "
        "[Hat, Beard, Male] (binary); give the same ones in the same order, or "
        f"init=by-name:{first} to start labels of the same name from it and all others fresh"
    )


@pytest.mark.parametrize("names", [HAIR[::-1], HAIR[:2], (*HAIR, "Hat")])
def test_another_order_or_number_is_refused_likewise(
    make_dataset: Datasets, tmp_path: Path, names: tuple[str, ...]
) -> None:
    first = go(made(make_dataset, tmp_path, CELEBA), tmp_path / "a", STILL)
    other = made(make_dataset, tmp_path, LabelSet("celeba", "binary", names))
    with pytest.raises(ValueError, match="give the same ones in the same order, or init=by-name:"):
        go(other, tmp_path / "b", STILL, init=str(first))


def test_another_model_is_refused_in_one_line(classes: Path, tmp_path: Path) -> None:
    first = go(classes, tmp_path / "a", STILL)
    with pytest.raises(ValueError, match=r"a model of stargan cannot start a training of cyclegan"):
        go(classes, tmp_path / "b", STILL, "cyclegan", init=str(first))


def test_other_widths_are_named_by_their_setting(classes: Path, tmp_path: Path) -> None:
    """And not as tensors of a file in the store."""
    first = go(classes, tmp_path / "a", STILL)
    wide = to_json(replace(MODELS["stargan"].tiny(), conv_dim=8))  # type: ignore[call-arg]
    for init in (str(first), f"by-name:{first}"):
        with pytest.raises(CheckpointError) as caught:
            train(classes, tmp_path / "b.json", "stargan", wide, to_json(STILL),
                  run=tmp_path / "b", init=init)  # fmt: skip
        assert "(conv_dim: 4 -> 8; set them as there)" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "sha256" not in str(caught.value)


@pytest.mark.parametrize(("name", "which"), RICHEST)
def test_networks_are_compared_before_any_weight_is_read(name: str, which: str) -> None:
    """Those of the same settings fit, and other widths do not; here of every model."""
    model, space = MODELS[name].tiny(), LabelSpace(SETS[which])
    width = next(field for field in ("conv_dim", "dim") if hasattr(model, field))
    wide = replace(model, **{width: 2 * (getattr(model, width) or 4)})
    stored = {"name": name, "model": json.loads(json.dumps(asdict(model))), "size": 16}
    warm_start.check_networks("m/1", stored, model, 16, space)
    with pytest.raises(
        ValueError, match=rf"^init=m/1: its network \w+ .*\({width}: .* as there\)$"
    ):
        warm_start.check_networks("m/1", stored, wide, 16, space)


def test_labels_that_cannot_be_matched_by_name_are_refused_before_the_run() -> None:
    model, space = MODELS["diat"].tiny(), LabelSpace((RAFD,))
    stored = {"name": "diat", "model": asdict(model), "size": 16}
    with pytest.raises(ValueError, match="init=by-name:m/1: DIAT has networks of its own for each"):
        warm_start.check_networks("by-name:m/1", stored, model, 16, space)


@pytest.mark.parametrize("how", ["", "by-name:"])
def test_a_network_that_the_model_lacks_is_named(how: str, classes: Path, tmp_path: Path) -> None:
    first = go(classes, tmp_path / "a", STILL)
    whole = Manifest.read(first, "model")
    entries = tuple(one for one in whole.entries if one.name != "nets/D.safetensors")
    replace(whole, entries=entries).write(first)
    with pytest.raises(CheckpointError, match=r"its network D has other .*\(it has no network D\)"):
        go(classes, tmp_path / "b", STILL, init=f"{how}{first}")


def test_labels_of_the_same_name_start_from_it_and_the_rest_is_said(
    make_dataset: Datasets, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = go(made(make_dataset, tmp_path, CELEBA), tmp_path / "a", STILL)
    with caplog.at_level("INFO"):
        go(made(make_dataset, tmp_path, ATTRIBUTES), tmp_path / "b", STILL, init=f"by-name:{first}")
    assert (
        f"started from {first}: G, D; labels matched by name: Male, Blond_Hair; fresh: Hat; "
        "not used: Black_Hair"
    ) in caplog.text


def test_by_name_without_a_common_label_is_refused(
    make_dataset: Datasets, classes: Path, tmp_path: Path
) -> None:
    first = go(classes, tmp_path / "a", STILL)
    other = made(make_dataset, tmp_path, ATTRIBUTES)
    with pytest.raises(ValueError, match=r"none of its labels \[angry, happy, sad\] \(onehot\)"):
        go(other, tmp_path / "b", STILL, init=f"by-name:{first}")


def test_networks_of_single_pairs_are_not_matched_by_name(
    make_dataset: Datasets, classes: Path, tmp_path: Path
) -> None:
    first = go(classes, tmp_path / "a", STILL, "diat")
    other = made(make_dataset, tmp_path, replace(RAFD, names=("angry", "happy", "new")))
    with pytest.raises(ValueError, match="DIAT has networks of its own for each pair of labels"):
        go(other, tmp_path / "b", STILL, "diat", init=f"by-name:{first}")


@pytest.mark.parametrize("which", ["binary", "joint"])
def test_attributes_of_two_categories_are_not_matched_by_name(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Fader Networks: each attribute has two places on an axis, also beside classes, of one."""
    dataset = request.getfixturevalue(which)
    first = go(dataset, tmp_path / "a", STILL, "fader")
    with pytest.raises(ValueError, match="Fader has two categories for each attribute; only the"):
        go(dataset, tmp_path / "b", STILL, "fader", init=f"by-name:{first}")
    go(dataset, tmp_path / "c", STILL, "fader", init=str(first))


SHARED = ("attgan", "ganimation", "icgan", "stargan", "starganv2", "stgan")


def started(
    name: str, old: LabelSpace, new: LabelSpace, tmp_path: Path
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The model, and its networks for `old` and for `new`, these started from those by name."""
    from types import SimpleNamespace

    from safetensors.torch import save_file

    model = MODELS[name].tiny()
    torch.manual_seed(0)
    first = model.networks(old, 16)
    files = {}
    for key, net in first.items():
        files[f"nets/{key}.safetensors"] = tmp_path / f"{key}.safetensors"
        save_file({k: v.contiguous() for k, v in net.state_dict().items()},
                  files[f"nets/{key}.safetensors"])  # fmt: skip
    config = {"name": name, "model": vars(model), "size": 16}
    for file, value in (("config.json", config), ("label_space.json", old.to_json())):
        files[file] = tmp_path / file
        files[file].write_text(json.dumps(value))
    nets = model.networks(new, 16)
    state = SimpleNamespace(nets=nets, ema=averages(nets, ("G",)))
    job = SimpleNamespace(model=model, config=config, faces=SimpleNamespace(space=new, size=16))
    warm_start.warm_start("by-name:x", files, state, job)  # type: ignore[arg-type]
    return model, first, nets


@pytest.mark.parametrize("name", SHARED)
def test_the_same_labels_in_another_order_give_the_same_networks(name: str, tmp_path: Path) -> None:
    """Translating to a label gives bit-equal pictures, and D the label's own logits."""
    kind = MODELS[name].label_kinds[0]
    names, order = ("a", "b", "c", "d"), [2, 0, 3, 1]
    old = LabelSpace((LabelSet("s", kind, names),))
    new = LabelSpace((LabelSet("t", kind, tuple(names[i] for i in order)),))
    model, first, nets = started(name, old, new, tmp_path)
    for one in (first, nets):
        for net in one.values():
            net.eval()
    image, target = torch.rand(4, 3, 16, 16) * 2 - 1, torch.eye(4)
    source = target.roll(1, 0)
    with torch.no_grad():
        before = model.translate(first, image, source, target)
        after = model.translate(nets, image, source[:, order], target[:, order])
    assert torch.allclose(before, after, atol=1e-5)
    if name in ("attgan", "ganimation", "stargan", "stgan"):
        with torch.no_grad():
            assert torch.allclose(first["D"](image)[1][:, order], nets["D"](image)[1], atol=1e-5)


@pytest.mark.parametrize("name", [n for n in SHARED if n != "starganv2"])
def test_a_second_data_set_keeps_the_meaning_of_the_first(name: str, tmp_path: Path) -> None:
    """The mask of a single data set is new, so that pictures need not be equal: tensors are."""
    kind = MODELS[name].label_kinds[0]
    old = LabelSpace((LabelSet("s", kind, ("a", "b")), LabelSet("t", kind, ("c",))))
    new = LabelSpace((LabelSet("t", kind, ("x", "c")), LabelSet("s", kind, ("b", "a"))))
    model, first, nets = started(name, old, new, tmp_path)
    assert matches(old, new).labels == {1: 2, 2: 1, 3: 0}
    assert matches(old, new).sets == {0: 1, 1: 0}
    for one in (first, nets):
        for net in one.values():
            net.eval()
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    row = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    with torch.no_grad():
        before = model.translate(first, image, None, old.encode(row, 0))
        after = model.translate(nets, image, None, new.encode(row[:, [1, 0]], 1))
    assert torch.allclose(before, after, atol=1e-5)


@pytest.mark.parametrize("name", SHARED)
def test_every_tensor_that_depends_on_the_labels_is_found(name: str) -> None:
    """None has two label axes, and each grows by one for one label."""
    kind = MODELS[name].label_kinds[0]
    space = LabelSpace((LabelSet("s", kind, ("a", "b", "c")),))
    layout = Layout.of(MODELS[name].tiny(), space, 16)
    assert layout.shared
    assert layout.single
    assert layout.axes or any(layout.lists.values())

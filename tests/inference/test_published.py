"""Published checkpoints become this project's networks, tensor by tensor, or are refused."""

import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from published import random, stargan, stargan_v2, states
from toydata import CELEBA, RAFD
from training.data.labels import LabelSpace
from training.inference import published
from training.inference.published import MisfitError
from training.inference.weights import CheckpointError
from training.models.base import Model, Nets
from training.models.stargan import StarGAN
from training.models.starganv2 import Generator, StarGANv2

BINARY, CLASSES = LabelSpace((CELEBA,)), LabelSpace((RAFD,))
SMALL = StarGAN(conv_dim=4, repeat_num=2, d_conv_dim=4, d_repeat_num=3)
V2 = StarGANv2(dim=4, max_dim=8, hidden=8)


def ours(model: Model, space: LabelSpace, size: int, *paths: Path) -> Nets:
    """Networks loaded from published files; the averages where there are some."""
    taken = published.take(
        [published.read(path) for path in paths], published.layouts(model, space, size)
    )
    nets = model.networks(space, size)
    for part in ("nets", "ema"):
        for key, net in nets.items():
            if state := taken.weights.get(f"{part}/{key}"):
                net.load_state_dict(state)
    return nets


def pictures(size: int, seed: int = 0) -> Tensor:
    return torch.rand((2, 3, size, size), generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture
def theirs(tmp_path: Path) -> tuple[dict[str, nn.Module], Path, Path]:
    """StarGAN's published networks, and their files."""
    torch.manual_seed(0)
    nets = stargan(3, 32, 4, 2, 3)
    paths = tmp_path / "200000-G.ckpt", tmp_path / "200000-D.ckpt"
    for net, path in zip(nets.values(), paths, strict=True):
        # the format of PyTorch when they were published
        torch.save(net.state_dict(), path, _use_new_zipfile_serialization=False)
    return nets, *paths


def test_stargans_published_networks_are_the_same_functions(
    theirs: tuple[dict[str, nn.Module], Path, Path],
) -> None:
    """In training mode, in which the published code tests; files are given in any order."""
    published_nets, g, d = theirs
    nets = ours(SMALL, BINARY, 32, d, g)
    x, c = pictures(32), torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    with torch.no_grad():
        for net in nets.values():
            net.eval()
        expected = published_nets["G"](x, c)
        torch.testing.assert_close(nets["G"](x, c), expected, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(nets["D"](x), published_nets["D"](x), atol=2e-5, rtol=1e-4)
        published_nets["G"].eval()
        apart = (published_nets["G"](x, c) - expected).abs().mean()
    assert apart > 0.01  # its running statistics are another function: left out


@pytest.mark.parametrize("w_hpf", [0.0, 1.0])
def test_stargan_v2s_published_networks_are_the_same_functions(
    tmp_path: Path, w_hpf: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With w_hpf > 0 without masks, whose filter has a test of its own."""
    torch.manual_seed(0)
    theirs_nets = stargan_v2(3, 32, 4, 8, 8, w_hpf)
    path = tmp_path / "100000_nets.ckpt"
    fan = {"fan": {"conv1.weight": torch.zeros(2, 3)}} if w_hpf else {}
    torch.save(states(theirs_nets) | fan, path)
    monkeypatch.setattr("training.models.starganv2.Landmarks", lambda _: object())
    model = StarGANv2(dim=4, max_dim=8, hidden=8, w_hpf=w_hpf)
    nets = ours(model, CLASSES, 32, path)
    generator = nets["G"]
    assert isinstance(generator, Generator)
    generator.landmarks = None
    x, y = pictures(32), torch.tensor([2, 0])
    z = torch.randn((2, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for key, section, given in (
            ("F", "mapping_network", z), ("E", "style_encoder", x), ("D", "discriminator", x),
        ):  # fmt: skip
            own = nets[key](given, y)
            torch.testing.assert_close(own, theirs_nets[section](given, y), atol=1e-4, rtol=1e-4)
        s = torch.randn((2, 64), generator=torch.Generator().manual_seed(2))
        expected = theirs_nets["generator"](x, s)
        torch.testing.assert_close(generator(x, s), expected, atol=1e-4, rtol=1e-4)


def test_what_is_left_out_is_said_by_name_and_number(tmp_path: Path) -> None:
    torch.manual_seed(0)
    nets = stargan_v2(3, 32, 4, 8, 8, 2.0)
    path = tmp_path / "100000_nets_ema.ckpt"
    values = states(nets, "generator", "mapping_network", "style_encoder")
    torch.save(values | {"fan": {"a": torch.zeros(1), "b": torch.zeros(1)}}, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.models.starganv2.Landmarks", lambda _: object())
        right = published.layouts(StarGANv2(dim=4, max_dim=8, hidden=8, w_hpf=2), CLASSES, 32)
        wrong = published.layouts(StarGANv2(dim=4, max_dim=8, hidden=8, w_hpf=1), CLASSES, 32)
    taken = published.take([published.read(path)], right)
    assert taken.absent == ("D",)
    assert sorted(taken.weights) == ["ema/E", "ema/F", "ema/G"]
    text = "\n".join(taken.notes)
    assert "generator: 71 tensors, 1 left out: 1x1 convolutions" in text
    assert "1 left out: the high-pass kernel, which w_hpf gives" in text
    assert "fan: 2 tensors left out: the landmark network" in text
    with pytest.raises(MisfitError, match=r"hpf\.filter is not the high-pass kernel"):
        published.take([published.read(path)], wrong)


def test_running_statistics_are_left_out_by_name(
    theirs: tuple[dict[str, nn.Module], Path, Path],
) -> None:
    taken = published.take([published.read(theirs[1])], published.layouts(SMALL, BINARY, 32))
    norms = 1 + 2 + 4 + 2
    assert taken.notes == (
        f"{theirs[1]}: network G: 28 tensors, {2 * norms} left out: running statistics of instance "
        f"norm, which the published code never reads, {norms} left out: batch counts of those "
        "statistics",
    )


def test_the_prefix_of_data_parallel_is_removed(
    theirs: tuple[dict[str, nn.Module], Path, Path], tmp_path: Path
) -> None:
    path = tmp_path / "parallel.ckpt"
    torch.save(nn.DataParallel(theirs[0]["G"]).state_dict(), path)
    layouts = published.layouts(SMALL, BINARY, 32)
    plain, parallel = (published.take([published.read(p)], layouts) for p in (theirs[1], path))
    state = parallel.weights["nets/G"]
    assert all(torch.equal(v, state[k]) for k, v in plain.weights["nets/G"].items())


def file_of(sections: dict[str, Any], tmp: Path = Path("x.ckpt")) -> published.File:
    return published.File(tmp, "0" * 64, 1, sections)


torch.manual_seed(0)
WHOLE: list[tuple[Model, LabelSpace, dict[str, dict[str, Tensor]]]] = [
    (SMALL, BINARY, {"": stargan(3, 32, 4, 2, 3)["G"].state_dict()}),
    (SMALL, BINARY, {"": stargan(3, 32, 4, 2, 3)["D"].state_dict()}),
    (V2, CLASSES, states(stargan_v2(3, 32, 4, 8, 8))),
]
LAYOUTS = [published.layouts(model, space, 32) for model, space, _ in WHOLE]


@settings(max_examples=150)
@given(data=st.data())
def test_any_one_tensor_dropped_renamed_or_reshaped_is_refused_by_its_name(
    data: st.DataObject,
) -> None:
    """Of those that are left out, too."""
    which = data.draw(st.sampled_from(range(len(WHOLE))))
    sections, layouts = WHOLE[which][2], LAYOUTS[which]
    section = data.draw(st.sampled_from(sorted(sections)))
    name = data.draw(st.sampled_from(sorted(sections[section])))
    state = dict(sections[section])
    tensor = state.pop(name)
    how = data.draw(st.sampled_from(["dropped", "renamed", "one more", "transposed", "scalar"]))
    if how == "renamed":
        state[data.draw(st.text(min_size=1).filter(lambda n: n not in sections[section]))] = tensor
    elif how == "one more":
        state[name] = torch.zeros((len(tensor) + 1, *tensor.shape[1:]) if tensor.dim() else (1,))
    elif how == "transposed":
        state[name] = tensor[..., None]
    elif how == "scalar":
        state[name] = torch.zeros(7)
    with pytest.raises(CheckpointError) as caught:
        published.take([file_of({**sections, section: state})], layouts)
    assert name in str(caught.value)


def test_whole_files_are_taken_by_the_same_check() -> None:
    """The property above is not of files that are refused anyway; D needs a G beside it."""
    published.take([file_of(WHOLE[0][2]), file_of(WHOLE[1][2])], LAYOUTS[0])
    published.take([file_of(WHOLE[2][2])], LAYOUTS[2])


class Trap:
    """Runs code if it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("trapped",)


def test_a_file_with_other_objects_is_refused_without_running_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "G.ckpt"
    for new in (True, False):
        torch.save({"G": Trap()}, path, _use_new_zipfile_serialization=new)
        with pytest.raises(CheckpointError, match=r"not read: it holds a posix\.mkdir, which"):
            published.read(path)
    torch.save(random(nn.Conv2d(1, 1, 1)), path)
    with pytest.raises(
        CheckpointError, match=r"it holds a torch\.nn\.modules\.conv\.Conv2d, which"
    ):
        published.read(path)
    assert not Path("trapped").exists()


def test_the_old_tar_format_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "old.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(0)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    with pytest.raises(CheckpointError, match=r"the tar format of PyTorch before 0\.2"):
        published.read(path)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([torch.zeros(1)], "holds a list; a state dict is needed"),
        ({}, "holds nothing"),
        (
            {"epoch": 7, "w": torch.zeros(1)},
            r"1 of 2 entries are no named tensors \(epoch: a int\)",
        ),
        ({"w": torch.zeros(2).half()}, r"w is torch\.float16; 32-bit weights are needed"),
        ({"w": torch.tensor([1.0, float("nan")])}, "w: 1 of 2 values not finite"),
        ({"main.0.weight": torch.zeros(1, 1).to_sparse()}, "main.0.weight is torch.float32"),
    ],
    ids=["list", "empty", "number", "half", "nan", "sparse"],
)
def test_what_is_no_state_dict_is_refused_with_the_reason(
    tmp_path: Path, value: Any, says: str
) -> None:
    torch.save(value, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=says):
        published.read(tmp_path / "x.ckpt")


@settings(max_examples=60)
@given(cut=st.integers(0, 3_000), new=st.booleans(), junk=st.binary(max_size=40))
def test_damaged_bytes_are_one_error(
    tmp_path_factory: pytest.TempPathFactory, cut: int, new: bool, junk: bytes
) -> None:
    """Never another one, and never other numbers; the older form has no checksum of them."""
    path = tmp_path_factory.mktemp("damaged") / "x.ckpt"
    torch.save({"w": torch.zeros(9)}, path, _use_new_zipfile_serialization=new)
    whole = path.read_bytes()
    place = cut % len(whole)
    path.write_bytes(whole[:place] + junk)
    try:
        (state,) = published.read(path).sections.values()
    except CheckpointError as error:
        says = str(error)
    else:
        says = f"{path}: read"
        assert not new or state["w"].equal(torch.zeros(9))
    assert "x.ckpt: " in says


def test_files_of_the_wrong_networks_are_refused() -> None:
    g, d = file_of(WHOLE[0][2], Path("G.ckpt")), file_of(WHOLE[1][2], Path("D.ckpt"))
    with pytest.raises(CheckpointError, match=r"^D\.ckpt: no network G; give the file that has it"):
        published.take([d], LAYOUTS[0])
    with pytest.raises(CheckpointError, match=r"G is in G\.ckpt and in G\.ckpt; give one"):
        published.take([g, g], LAYOUTS[0])
    with pytest.raises(CheckpointError, match="has one state dict; this model's files have gener"):
        published.take([g], LAYOUTS[2])
    with pytest.raises(CheckpointError, match="has the sections generator, mapping_network"):
        published.take([file_of(WHOLE[2][2])], LAYOUTS[0])
    with pytest.raises(CheckpointError, match="unknown networks generater; known: generator"):
        published.take([file_of({"generater": {"a": torch.zeros(1)}})], LAYOUTS[2])
    with pytest.raises(CheckpointError, match="no name in it is G's or D's: layer"):
        published.take([file_of({"": {"layer": torch.zeros(1)}})], LAYOUTS[0])


def test_networks_other_than_the_published_ones_are_refused() -> None:
    from training.models.attgan import AttGAN

    with pytest.raises(ValueError, match="upsampling=resize: not the published networks"):
        published.layouts(StarGAN(upsampling="resize"), BINARY, 64)
    with pytest.raises(ValueError, match="AttGAN: no layout of published weights is known"):
        published.layouts(AttGAN(), BINARY, 64)

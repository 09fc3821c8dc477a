"""StarGAN v2's landmark network from its published file: layout, outputs, refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from published import fan, fan_shapes, fan_state
from training.convert import main as convert
from training.core.files import sha256_file
from training.inference.published import MisfitError
from training.inference.weights import CheckpointError
from training.models.fan import FAN
from training.models.landmarks import Landmarks, face_masks


@pytest.fixture
def converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The setting that the command prints for a file with other networks beside this one."""
    path = tmp_path / "100000_nets_ema.ckpt"
    torch.save({"generator": {"w": torch.zeros(1)}, "fan": fan_state()}, path)
    convert(["landmarks", str(path), str(tmp_path / "landmarks.safetensors")])
    said, setting = capsys.readouterr().out.splitlines()
    numbers = sum(torch.Size(shape).numel() for shape in fan_shapes().values())
    assert said == f"fan: {len(fan_shapes())} tensors, {numbers:,} numbers"
    return setting.removeprefix("landmarks=")


def test_it_has_the_published_files_tensors() -> None:
    """336, of which 6,333,603 numbers were trained."""
    with torch.device("meta"):
        net = FAN()
    assert {name: tuple(v.shape) for name, v in net.state_dict().items()} == fan_shapes()
    assert len(fan_shapes()) == 336
    assert sum(p.numel() for p in net.parameters()) == 6_333_603


@pytest.mark.parametrize("size", [64, 256])
def test_a_converted_file_gives_the_published_networks_heat_maps(converted: str, size: int) -> None:
    """In evaluation mode, and of pictures of any size; then the masks of the 98 maps."""
    x = torch.rand((2, 3, size, size), generator=torch.Generator().manual_seed(1)) * 2 - 1
    marks = Landmarks(converted)
    with torch.no_grad():
        expected = fan(fan_state(), x)
        found = marks.net(x)
    assert found.shape == (2, 98, 64, 64)
    assert float(expected[:, [24, 96]].std((2, 3)).min()) > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    masks = face_masks(expected, size)
    assert float(masks.std((2, 3)).min()) > 0.1
    torch.testing.assert_close(marks(x), masks, rtol=0, atol=1e-3)
    assert not marks.net.training
    assert not any(p.requires_grad for p in marks.net.parameters())


def test_the_same_file_gives_the_same_bytes(converted: str, tmp_path: Path) -> None:
    path, _, digest = converted.rpartition("@")
    assert sha256_file(Path(path)) == digest
    convert(["landmarks", str(tmp_path / "100000_nets_ema.ckpt"), str(tmp_path / "b.safetensors")])
    assert Path(path).read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_network_built_for_shapes_alone_still_loads_its_numbers(converted: str) -> None:
    with torch.device("meta"):
        marks = Landmarks(converted)
    expected, found = fan_state(), marks.net.state_dict()
    assert all(found[name].equal(value) for name, value in expected.items())


def without(state: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name not in names}


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        ({"generator": {"w": torch.zeros(1)}}, CheckpointError, "no network fan in it, but gener"),
        (fan_state(), CheckpointError, "no network fan in it, but one state dict; give the file"),
        ({"fan": without(fan_state(), "l0.bias")}, MisfitError, "fan: 1 tensors missing: l0.bias"),
        ({"fan": fan_state() | {"a": torch.zeros(1)}}, MisfitError, "1 tensors left over: a"),
        ({"fan": fan_state() | {"l0.bias": torch.zeros(98)}}, MisfitError,
         r"of another shape: l0\.bias is \(98,\), not \(99,\)"),
        ({"fan": fan_state() | {"l0.bias": torch.full((99,), torch.nan)}}, CheckpointError,
         r"l0\.bias: 99 of 99 values not finite"),
    ],
)  # fmt: skip
def test_a_file_of_something_else_is_refused(
    content: Any, error: type[Exception], says: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(error, match=says):
        convert(["landmarks", str(tmp_path / "x.ckpt"), str(tmp_path / "out.safetensors")])
    assert not (tmp_path / "out.safetensors").exists()


def test_tensors_of_another_network_are_no_landmark_network(tmp_path: Path) -> None:
    from training.evaluation.perception import stored

    path = tmp_path / "lpips.safetensors"
    digest = stored.write(path, "lpips-alex", {"w": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"not the tensors of .* make it with python -m training"):
        Landmarks(f"{path}@{digest}")
    path.write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"not the tensors of .* make it with python -m training"):
        Landmarks(f"{path}@{sha256_file(path)}")

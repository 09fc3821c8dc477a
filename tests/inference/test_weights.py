"""Damaged checkpoints: passed over or refused by name, before they take time or memory."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runs import session_of
from training.core.files import canonical_json, sha256_file
from training.data.memory_format import memory_order
from training.engine import checkpoint
from training.engine.checkpoint import State
from training.inference.translator import load_translator
from training.inference.weights import (
    CheckpointError,
    check_fit,
    load_weights,
    read_tensors,
    seal,
    verify,
    write_tensors,
)
from training.models import MODELS
from training.models.stargan import StarGAN

FUZZ = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([10**9, 10**6, -1, 0, "64", "../x", "stargan", [], {}, "nan"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=3,
)  # fmt: skip


@pytest.fixture
def state(binary: Path) -> State:
    session = session_of(StarGAN.tiny(), binary)
    session.advance()
    return session.state


@pytest.fixture
def saved(binary: Path, state: State, tmp_path: Path) -> Path:
    """A real checkpoint."""
    session = session_of(StarGAN.tiny(), binary)
    config = {"name": "stargan", "size": 16, "model": checkpoint.as_dict(StarGAN.tiny())}
    return checkpoint.save(tmp_path / "run", state, config, session.job.faces.space)


def resealed(path: Path) -> None:
    """With a manifest that agrees with the files."""
    (path / "manifest.json").unlink()
    seal(path)


def test_a_whole_checkpoint_is_found_and_translates(saved: Path, state: State) -> None:
    assert checkpoint.latest(saved.parent, state) == saved
    image = torch.zeros(1, 3, 16, 16)
    assert load_translator(saved)(image, torch.zeros(1, 3), torch.zeros(1, 3)).shape == image.shape


def test_loaded_weights_have_the_memory_format_of_images(saved: Path) -> None:
    """In another one each convolution reorders them: translation took 1.2 times as long."""
    order = memory_order(torch.device("cpu"))
    assert order is torch.channels_last
    weights = [w for w in load_translator(saved).nets["G"].parameters() if w.ndim == 4]
    assert all(w.is_contiguous(memory_format=order) for w in weights)
    assert not all(w.is_contiguous() for w in weights)


def without(name: str) -> Callable[[Path], object]:
    """Delete a file, and its line in the manifest."""

    def change(path: Path) -> None:
        (path / name).unlink()
        resealed(path)

    return change


def write(name: str, text: str, *, seal: bool = False) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        (path / name).write_text(text)
        if seal:
            resealed(path)

    return change


def linked(path: Path) -> None:
    weights = path / "nets/G.safetensors"
    shutil.copy(weights, path.parent / "elsewhere")
    weights.unlink()
    weights.symlink_to(path.parent / "elsewhere")


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no files": (write("manifest.json", '{"files": {}}'), "does not list config.json"),
    "null": (write("manifest.json", "null"), "manifest.json: record: Input should be"),
    "brackets": (write("manifest.json", "[" * 100_000), "manifest.json: record: "),
    "a list": (write("manifest.json", '{"files": ["config.json"]}'), "files: Input should be"),
    "numbers": (write("manifest.json", '{"files": {"config.json": 1}}'), "valid string"),
    "no optimiser": (without("optim/G.safetensors"), "does not list optim/G.safetensors"),
    "no average": (without("ema/G.safetensors"), "does not list ema/G.safetensors"),
    "no counters": (without("extra/state.json"), "does not list extra/state.json"),
    "an unlisted file": (write("nets/X.safetensors", ""), "nets/X.safetensors: added since"),
    "a link": (linked, "nets/G.safetensors: a link"),
    "counters without a step": (
        write("extra/state.json", '{"images": 8, "bf16": false}', seal=True),
        "extra/state.json: step: Field required",
    ),
    "counters as text": (
        write("extra/state.json", '{"step": "1", "images": 8, "bf16": false}', seal=True),
        "step: Input should be a valid integer",
    ),
    "a list for the configuration": (
        write("config.json", "[]", seal=True), "config.json: record: Input should be"
    ),
    "a deep configuration": (
        write("config.json", "[" * 100_000, seal=True), "config.json: record: "
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_checkpoint_is_passed_over_by_name(
    kind: str, saved: Path, state: State, caplog: pytest.LogCaptureFixture
) -> None:
    change, says = DAMAGED[kind]
    older = saved.with_name(f"{4:012d}")
    shutil.copytree(saved, older)
    change(saved)
    assert checkpoint.latest(saved.parent, state) == older
    (message,) = [record.getMessage() for record in caplog.records]
    assert str(saved) in message
    assert says in message
    assert message.endswith("; using the previous checkpoint")


@FUZZ
@given(st.data())
def test_a_changed_manifest_is_refused_unless_it_lists_every_file(
    saved: Path, state: State, data: st.DataObject
) -> None:
    """Names and digests replaced, removed and added, other shapes, cut text."""
    whole = saved.with_name("whole.json")
    if not whole.exists():
        shutil.copy(saved / "manifest.json", whole)
    content: Any = json.loads(whole.read_text())
    files = content["files"]
    kind = data.draw(st.sampled_from(["digest", "name", "less", "more", "shape", "cut"]))
    name = data.draw(st.sampled_from(sorted(files)))
    if kind == "digest":
        files[name] = data.draw(ODD)
    elif kind == "name":
        files[data.draw(st.text(max_size=8) | st.just(f"../{saved.name}/{name}"))] = files.pop(name)
    elif kind == "less":
        del files[name]
    elif kind == "more":
        files[data.draw(st.text(max_size=8))] = data.draw(ODD)
    elif kind == "shape":
        content = data.draw(ODD | ODD.map(lambda value: {"files": value}))
    text = json.dumps(content)
    cut = data.draw(st.integers(0, len(text) - 1)) if kind == "cut" else len(text)
    (saved / "manifest.json").write_text(text[:cut])
    assert checkpoint.latest(saved.parent, state) is None


@FUZZ
@given(st.data())
def test_a_changed_configuration_is_refused_by_name_or_fits_the_weights(
    saved: Path, data: st.DataObject
) -> None:
    """Any field of config.json, the model's included, with any value; then it translates."""
    whole = saved.with_name("whole.json")
    if not whole.exists():
        shutil.copy(saved / "config.json", whole)
    config: Any = json.loads(whole.read_text())
    place = data.draw(st.sampled_from([config, config["model"]]))
    field = data.draw(st.sampled_from(sorted(place)) | st.just("new"))
    place[field] = data.draw(ODD)
    (saved / "config.json").write_text(json.dumps(config))
    begun = time.monotonic()
    try:
        translator = load_translator(saved)
    except CheckpointError as error:
        assert str(saved) in str(error)  # noqa: PT017
    else:
        image = torch.zeros(1, 3, 16, 16)
        assert translator(image, torch.zeros(1, 3), torch.zeros(1, 3)).shape == image.shape
    assert time.monotonic() - begun < 20


HUGE = [
    {"repeat_num": 10**9}, {"conv_dim": 10**6}, {"conv_dim": 16_384}, {"repeat_num": 100},
    {"d_conv_dim": 16_384}, {"conv_dim": -1}, {"conv_dim": "8"}, {"d_repeat_num": 100},
]  # fmt: skip


@pytest.mark.parametrize("change", HUGE, ids=str)
def test_a_network_that_the_weights_do_not_have_takes_no_memory(
    change: dict[str, Any], saved: Path
) -> None:
    """Even if every value is allowed: 16,384 channels would be 150 GB."""
    config = json.loads((saved / "config.json").read_text())
    config["model"] |= change
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"conv_dim|repeat_num|has shape|size="):
        load_translator(saved)


@pytest.mark.parametrize("name", MODELS)
def test_the_check_before_loading_knows_every_models_tensors(
    name: str, small: dict[str, Any], tmp_path: Path
) -> None:
    """It accepts a model's own weights, and names a tensor of another shape."""
    from runs import richest
    from toydata import SETS
    from training.data.labels import LabelSpace

    space = LabelSpace(SETS[richest(MODELS[name])])
    nets = small[name].networks(space, 16)
    files = {net: tmp_path / f"{net}.safetensors" for net in nets}
    for net, module in nets.items():
        write_tensors({k: v.contiguous() for k, v in module.state_dict().items()}, files[net])
    check_fit(lambda: small[name].networks(space, 16), files)
    net, key = next((net, key) for net, m in nets.items() for key in m.state_dict())
    values = read_tensors(files[net])
    write_tensors(values | {key: torch.zeros(3, 5, 7)}, files[net])
    with pytest.raises(CheckpointError, match=rf"{net}\.safetensors: does not fit.* {key} has sha"):
        check_fit(lambda: small[name].networks(space, 16), files)


def test_unreadable_weights_name_their_file(saved: Path, state: State) -> None:
    path = saved / "nets/G.safetensors"
    for content in (b"", b"x" * 100, path.read_bytes()[:-1], (2**60).to_bytes(8, "little")):
        path.write_bytes(content)
        for read in (lambda: read_tensors(path), lambda: load_weights(state.nets["G"], path)):
            with pytest.raises(CheckpointError, match=r"nets/G\.safetensors: not readable weights"):
                read()
    with pytest.raises(CheckpointError, match=r"none\.safetensors: not readable weights"):
        read_tensors(saved / "none.safetensors")


TOO_LARGE = """
import resource, signal, sys, torch
from pathlib import Path
from training.inference.weights import write_tensors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    write_tensors({"a": torch.zeros(100_000)}, Path("G.safetensors"))
except OSError as error:
    print(error)
"""


def test_a_disk_that_takes_no_more_is_named_with_the_file(tmp_path: Path) -> None:
    """The system's own error, here for a limit on the size of files."""
    done = subprocess.run(
        [sys.executable, "-c", TOO_LARGE], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "[Errno 27] File too large: 'G.safetensors'\n", done.stderr
    with pytest.raises(FileNotFoundError, match=r"none/G\.safetensors"):
        write_tensors({"a": torch.zeros(1)}, tmp_path / "none/G.safetensors")


def test_a_seal_is_over_every_file(saved: Path) -> None:
    verify(saved)
    digests = json.loads((saved / "manifest.json").read_text())["files"]
    names = {p.relative_to(saved).as_posix() for p in saved.rglob("*") if p.is_file()}
    assert set(digests) == names - {"manifest.json"}
    assert canonical_json({"files": digests}) == (saved / "manifest.json").read_bytes()
    assert all(sha256_file(saved / name) == digest for name, digest in digests.items())

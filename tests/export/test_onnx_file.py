"""ONNX files of every model, run by onnxruntime against torch; the command that writes them."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from benchmarks.onnx_parity import untrained
from exports import SPACES, VERSION, tiny_translator
from releases import flip_byte, register, registered_folder
from toydata import CELEBA, RAFD
from training import release
from training.core.files import sha256_file
from training.data.labels import LabelSpace, label_names
from training.export import onnx_file
from training.export.graph import STYLES, drawn, inputs
from training.inference.translator import Translator, load_translator
from training.models import MODELS
from training.models.base import EditOptions
from training.registry.lineage import LineageError

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # MLflow's own
    pytest.mark.filterwarnings("ignore:.*type hints? :UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow leaves SQLite pools open
]
# Exporting a branch of the graph takes seconds; these models have one for each direction.
BRANCHED = [name for name, model in MODELS.items() if not model.edits_own_labels]
PLAIN = [name for name in MODELS if name not in BRANCHED]


def check(translator: Translator, style: onnx_file.Style = "latent") -> Any:
    """Export; compare with `Model.translate` on other values than the exporter's own check."""
    made = onnx_file.export(translator, VERSION, style)
    session = onnxruntime.InferenceSession(made.data, providers=["CPUExecutionProvider"])
    wanted = inputs(translator, style)
    assert [one.name for one in session.get_inputs()] == [one.name for one in wanted]
    for n in (1, 4):
        values = drawn(wanted, translator.space, n, seed=100 + n)
        options = EditOptions(
            intensity=values.get("intensity", torch.tensor(0.0)).item() or None,
            latent=values.get("latent"), reference=values.get("reference"),
        )  # fmt: skip
        with torch.no_grad():
            ours = translator.model.translate(
                translator.nets, values["image"], values.get("source"), values["label"], options
            )
        (theirs,) = session.run(None, {key: value.numpy() for key, value in values.items()})
        assert np.abs(theirs - ours.numpy()).max() <= onnx_file.LIMIT
        assert np.abs(theirs - values["image"].numpy()).max((1, 2, 3)).min() > 1e-3  # all edits
    return made


@pytest.mark.parametrize("name", PLAIN)
def test_a_models_file_computes_what_torch_does(name: str) -> None:
    check(tiny_translator(name))


def test_a_file_takes_only_the_networks_that_an_edit_crosses() -> None:
    """CycleGAN: rows of one batch go different ways, and a row without an edit is copied."""
    translator = tiny_translator("cyclegan")
    made = check(translator)
    kinds = [node.op_type for node in onnx.load_from_string(made.data).graph.node]
    assert kinds.count("If") == 2  # the directions of one pair
    values = drawn(inputs(translator), translator.space, 2)
    values["source"] = values["label"]
    assert np.array_equal(onnx_file.run(made.session, values), values["image"].numpy())


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in BRANCHED if name != "cyclegan"])
def test_a_branched_models_file_computes_what_torch_does(name: str) -> None:
    check(tiny_translator(name))


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [name for name, model in MODELS.items() if "reference" in model.tiny().supported_options],
)
def test_a_style_can_come_from_a_picture(name: str) -> None:
    check(tiny_translator(name), "reference")


@pytest.mark.long
@pytest.mark.parametrize("name", MODELS)
def test_every_demo_is_exported(name: str) -> None:
    """In its demo's size, with all of its labels."""
    assert onnx_file.export(untrained(name, "demo"), VERSION).difference <= onnx_file.LIMIT


@pytest.mark.long
def test_edits_of_several_labels_are_chained() -> None:
    check(tiny_translator("cyclegan", LabelSpace((CELEBA,))))


@pytest.mark.long
def test_a_hubs_edits_pass_through_it() -> None:
    """CycleGAN with a hub: from one expression to another over the third."""
    translator = tiny_translator("cyclegan", LabelSpace((RAFD,)))
    model = replace(MODELS["cyclegan"].tiny(), hub="angry")  # type: ignore[call-arg]
    nets = model.networks(translator.space, 16)
    check(replace(translator, model=model, nets={k: v.eval() for k, v in nets.items()}))


def test_the_file_says_what_it_is() -> None:
    """Version, digests, size, labels, inputs with shapes, ranges and meanings; the notice."""
    translator = tiny_translator("attgan")
    made = onnx.load_from_string(onnx_file.export(translator, VERSION).data)
    facts = {one.key: one.value for one in made.metadata_props}
    assert (facts["name"], facts["version"], facts["model"]) == ("tiny", "3", "attgan")
    assert (facts["content_sha256"], facts["lineage_sha256"]) == ("c" * 64, "1" * 64)
    assert facts["image_size"] == "16"
    assert json.loads(facts["labels"]) == label_names(SPACES["attgan"])
    assert json.loads(facts["label_space"]) == SPACES["attgan"].to_json()["sets"]
    shapes = {one["name"]: (one["shape"], one["range"]) for one in json.loads(facts["inputs"])}
    assert shapes == {
        "image": (["n", 3, 16, 16], "-1 to 1"), "label": (["n", 3], "0 to 1"),
        "source": (["n", 3], "0 to 1"), "intensity": ([], "any number"),
    }  # fmt: skip
    assert facts["digital_source_type"].endswith("/compositeWithTrainedAlgorithmicMedia")
    assert "synthetic" in facts["notice"]
    assert [(one.domain, one.version) for one in made.opset_import] == [("", onnx_file.OPSET)]


def test_the_values_that_are_compared_are_valid() -> None:
    """Mutually exclusive labels are not both on; one mask is 1; pictures are in range."""
    for name in MODELS:
        translator = tiny_translator(name)
        for style in STYLES:
            if style == "reference" and "reference" not in translator.model.supported_options:
                with pytest.raises(ValueError, match=f"{name} takes no reference"):
                    inputs(translator, style)
                continue
            values = drawn(inputs(translator, style), translator.space, 9)
            assert values["image"].abs().max() <= 1
            sets, labels = translator.space.sets, values["label"]
            if len(sets) > 1:
                assert (labels[:, translator.space.dim_d :].sum(1) == 1).all()
            for index, part in enumerate(sets):
                own = labels[:, translator.space.slice(index)]
                for group in [part.names] if part.kind == "onehot" else part.exclusive:
                    members = [part.names.index(one) for one in group]
                    assert (own[:, members].sum(1) <= 1).all()


class _Halves(nn.Module):
    """Two masks, in place of a landmark network."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 0], x[:, 1]], 1).clamp(0, 1)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_landmark_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "marks.pt"
    torch.jit.script(_Halves()).save(str(path))
    tiny = tiny_translator("starganv2")
    setting = f"{path}@{sha256_file(path)}"
    model = replace(tiny.model, w_hpf=1.0, landmarks=setting)  # type: ignore[call-arg]
    nets = {k: v.eval() for k, v in model.networks(tiny.space, 32).items()}
    with pytest.raises(ValueError, match=r"tiny/3 cannot be exported: the exporter fixes the ba"):
        onnx_file.export(replace(tiny, model=model, nets=nets, size=32), VERSION)


class _Off(nn.Module):
    """Adds what an exporter's mistake would."""

    def __init__(self, net: nn.Module, by: float) -> None:
        super().__init__()
        self.net, self.by = net, by

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        out: Tensor = self.net(x, c)
        return out + self.by if torch.compiler.is_exporting() else out


@pytest.mark.parametrize(("by", "says"), [(3e-4, "3.0e-04"), (float("nan"), "nan")])
def test_a_file_that_differs_from_torch_is_not_written(by: float, says: str) -> None:
    translator = tiny_translator("stargan")
    broken = replace(translator, nets={"G": _Off(translator.nets["G"], by).eval()})
    with pytest.raises(ValueError, match=rf"tiny/3: the ONNX file differs from torch by {says}"):
        onnx_file.export(broken, VERSION)


class _Reads(nn.Module):
    """Decides by a value, which no graph can."""

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return x if c.sum().item() > 1 else -x


def test_a_model_that_cannot_be_exported_is_refused_with_the_reason() -> None:
    broken = replace(tiny_translator("stargan"), nets={"G": _Reads()})
    with pytest.raises(ValueError, match=r"tiny/3 cannot be exported: \w+: .*"):
        onnx_file.export(broken, VERSION)


def test_without_the_extra_the_command_to_install_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"python -m pip install onnx onnxruntime onnxscript$"):
        onnx_file.require_packages()


def test_the_command_writes_a_verified_versions_file(
    binary: Path, release_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its edits are those of the version's averaged weights; times are printed."""
    register(binary)
    path = release_folder / "made" / "stargan.onnx"
    release.main(["export", "stargan/1", "--onnx", str(path), "--time"])
    said = capsys.readouterr().out
    assert "stargan/1: " in said
    assert "differs from torch by at most" in said
    assert "batch 8: torch " in said
    translator = load_translator(binary.parent / "model-0.json")
    values = drawn(inputs(translator), translator.space, 3, seed=9)
    session = onnxruntime.InferenceSession(path)
    (theirs,) = session.run(None, {key: value.numpy() for key, value in values.items()})
    ours = translator(values["image"], None, values["label"]).numpy()
    assert np.abs(theirs - ours).max() <= onnx_file.LIMIT
    assert session.get_modelmeta().custom_metadata_map["version"] == "1"
    with pytest.raises(
        ValueError, match="nothing to write: give --onnx PATH, --web FOLDER or both"
    ):
        release.main(["export", "stargan/1"])
    with pytest.raises(ValueError, match=r"made: a folder; name a file, such as .*model\.onnx"):
        release.main(["export", "stargan/1", "--onnx", str(path.parent)])


def test_an_altered_version_is_not_exported(binary: Path, release_folder: Path) -> None:
    register(binary)
    flip_byte(registered_folder() / "artifacts/model/ema/G.safetensors")
    path = release_folder / "stargan.onnx"
    with pytest.raises(LineageError, match="weights altered"):
        release.main(["export", "stargan/1", "--onnx", str(path)])
    assert not path.exists()

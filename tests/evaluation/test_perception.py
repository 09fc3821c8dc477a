"""Public weight files turned into the networks of FID and LPIPS.

No genuine weights: files have the public files' names, shapes and layout (`golden`), with random
numbers. Distances are compared with plain derivations and, where they import, with torchvision, the
`lpips` package and torch-fidelity.
"""

import importlib
import json
import os
from collections import defaultdict
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from training.convert import main as convert
from training.core.config import Config, EvalConfig
from training.core.files import sha256_file
from training.data.dataset import Faces, to_float, to_uint8
from training.data.labels import LabelSet, LabelSpace
from training.engine import preflight
from training.evaluation.diversity import PerceptualDistance
from training.evaluation.frechet import inception_features
from training.evaluation.metrics import frechet
from training.evaluation.papers import by_papers
from training.evaluation.perception import public, stored
from training.inference.translator import Translator
from training.models.base import DEFAULT_OPTIONS, EditOptions
from training.models.stargan import StarGAN

GOLDEN = Path(__file__).parent / "golden" / "public_weights.json"
LAYOUTS: dict[str, dict[str, list[int]]] = json.loads(GOLDEN.read_text())
State = dict[str, Tensor]
CPU = torch.device("cpu")


def random_state(layout: str, seed: int = 0) -> State:
    """A state dict of a public file's names and shapes; scaled so that activations stay alive."""
    stream = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in LAYOUTS[layout].items():
        value = torch.rand(shape, generator=stream)
        if name.endswith("num_batches_tracked"):
            value = torch.tensor(7)
        elif name.endswith(("running_mean", "bias")):
            value = value - 0.5
        elif name.endswith("running_var") or "bn.weight" in name:
            value = value + 0.5
        elif not layout.startswith("lpips"):  # heads are positive
            value = (value - 0.5) * (12 / max(1, value[0].numel())) ** 0.5
        state[name] = value
    return state


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """A file of `torch.save`, as the public ones."""

    def save(state: Any, name: str = "weights.pth", **how: Any) -> Path:
        torch.save(state, tmp_path / name, **how)
        return tmp_path / name

    return save


def pinned_by(converted: public.Converted, path: Path) -> str:
    return f"{path}@{stored.write(path, converted.network, converted.tensors)}"


def pictures(count: int, side: int, seed: int = 0) -> Tensor:
    """Smooth uint8 images (n, side, side, 3), unlike noise also after resizing."""
    stream = torch.Generator().manual_seed(seed)
    rough = torch.rand(count, 3, 6, 6, generator=stream) * 255
    smooth = F.interpolate(rough, (side, side), mode="bicubic").clamp(0, 255)
    return smooth.round().to(torch.uint8).permute(0, 2, 3, 1)


def plain_inception(state: State, x: Tensor, *, fid: bool) -> Tensor:
    """Inception v3's features, written out one layer after another from the paper's figures."""

    def unit(name: str, y: Tensor, stride: int = 1, padding: Any = 0) -> Tensor:
        y = F.conv2d(y, state[f"{name}.conv.weight"], None, stride, padding)
        mean, var, weight, bias = (
            state[f"{name}.bn.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return torch.relu((y - mean) / torch.sqrt(var + 0.001) * weight + bias)

    def average(y: Tensor) -> Tensor:
        total = F.conv2d(y, torch.ones(y.shape[1], 1, 3, 3), None, 1, 1, groups=y.shape[1])
        ones = torch.ones(1, 1, *y.shape[2:])
        inside = F.conv2d(ones, torch.ones(1, 1, 3, 3), None, 1, 1)
        return total / (inside if fid else 9)

    x = unit("Conv2d_1a_3x3", x, 2)
    x = unit("Conv2d_2a_3x3", x)
    x = F.max_pool2d(unit("Conv2d_2b_3x3", x, 1, 1), 3, 2)
    x = unit("Conv2d_4a_3x3", unit("Conv2d_3b_1x1", x))
    x = F.max_pool2d(x, 3, 2)
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        one = unit(f"{name}.branch1x1", x)
        five = unit(f"{name}.branch5x5_2", unit(f"{name}.branch5x5_1", x), 1, 2)
        three = unit(f"{name}.branch3x3dbl_2", unit(f"{name}.branch3x3dbl_1", x), 1, 1)
        three = unit(f"{name}.branch3x3dbl_3", three, 1, 1)
        x = torch.cat([one, five, three, unit(f"{name}.branch_pool", average(x))], 1)
    three = unit("Mixed_6a.branch3x3dbl_2", unit("Mixed_6a.branch3x3dbl_1", x), 1, 1)
    three = unit("Mixed_6a.branch3x3dbl_3", three, 2)
    x = torch.cat([unit("Mixed_6a.branch3x3", x, 2), three, F.max_pool2d(x, 3, 2)], 1)
    for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        one = unit(f"{name}.branch1x1", x)
        seven = unit(f"{name}.branch7x7_2", unit(f"{name}.branch7x7_1", x), 1, (0, 3))
        seven = unit(f"{name}.branch7x7_3", seven, 1, (3, 0))
        long = unit(f"{name}.branch7x7dbl_2", unit(f"{name}.branch7x7dbl_1", x), 1, (3, 0))
        long = unit(f"{name}.branch7x7dbl_3", long, 1, (0, 3))
        long = unit(f"{name}.branch7x7dbl_4", long, 1, (3, 0))
        long = unit(f"{name}.branch7x7dbl_5", long, 1, (0, 3))
        x = torch.cat([one, seven, long, unit(f"{name}.branch_pool", average(x))], 1)
    three = unit("Mixed_7a.branch3x3_2", unit("Mixed_7a.branch3x3_1", x), 2)
    seven = unit("Mixed_7a.branch7x7x3_2", unit("Mixed_7a.branch7x7x3_1", x), 1, (0, 3))
    seven = unit("Mixed_7a.branch7x7x3_3", seven, 1, (3, 0))
    x = torch.cat([three, unit("Mixed_7a.branch7x7x3_4", seven, 2), F.max_pool2d(x, 3, 2)], 1)
    for name in ("Mixed_7b", "Mixed_7c"):
        one = unit(f"{name}.branch1x1", x)
        three = unit(f"{name}.branch3x3_1", x)
        wide = unit(f"{name}.branch3x3dbl_2", unit(f"{name}.branch3x3dbl_1", x), 1, 1)
        split = [
            unit(f"{name}.{branch}{side}", y, 1, padding)
            for branch, y in (("branch3x3_2", three), ("branch3x3dbl_3", wide))
            for side, padding in (("a", (0, 1)), ("b", (1, 0)))
        ]
        pooled = F.max_pool2d(x, 3, 1, 1) if fid and name == "Mixed_7c" else average(x)
        x = torch.cat([one, *split, unit(f"{name}.branch_pool", pooled)], 1)
    return x.mean((2, 3))


@pytest.mark.parametrize(("layout", "network", "tensors", "unused"), [
    ("inception_v3", "inception-torchvision", 470, 110),
    ("pt_inception", "inception-fid", 470, 96),
])  # fmt: skip
def test_inception_of_a_public_file_has_the_published_networks_features(
    layout: str, network: str, tensors: int, unused: int, saved: Callable[..., Path]
) -> None:
    """From 94 convolutions with their norms; on pictures scaled as each published code does."""
    state = random_state(layout)
    path = saved(state)
    found = public.inception(path)
    assert (found.network, len(found.tensors), found.unused) == (network, tensors, unused)
    assert tensors + unused == len(state)
    setting = pinned_by(found, path.parent / "inception.safetensors")
    net = stored.network(setting, "inception", CPU)
    images = pictures(2, 75)
    features = inception_features(net, images)
    x = images.permute(0, 3, 1, 2).float()
    if layout == "pt_inception":
        shown = F.interpolate(x / 255, (299, 299), mode="bilinear", align_corners=False) * 2 - 1
    else:
        resized = [Image.fromarray(one).resize((299, 299), Image.Resampling.BILINEAR)
                   for one in images.numpy()]  # fmt: skip
        shown = torch.from_numpy(np.stack([np.asarray(one) for one in resized])) / 255
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        shown = ((shown - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = plain_inception(state, shown, fid=layout == "pt_inception").numpy()
    assert features.shape == (2, 2048)
    scale = np.abs(expected).mean()
    assert scale > 1e-3
    # PIL's resize in fixed point differs from torch's by a level in a few places
    rest = 1e-4 if layout == "pt_inception" else 2e-2
    assert np.abs(features - expected).max() < rest * np.abs(expected).max()


def plain_lpips(backbone: State, heads: State, x: np.ndarray, y: np.ndarray, kind: str) -> float:
    """LPIPS (Zhang et al. 2018, eq. 1) of two images (3, H, W) in [-1, 1], in NumPy."""
    plan = {
        "alex": "0/4/2 c p 3/1/2 c p 6/1/1 c 8/1/1 c 10/1/1 c",
        "vgg": "0/1/1 2/1/1 c p 5/1/1 7/1/1 c p 10/1/1 12/1/1 14/1/1 c p 17/1/1 19/1/1 21/1/1 c p "
        "24/1/1 26/1/1 28/1/1 c",
    }[kind]
    side = 3 if kind == "alex" else 2

    def windows(v: np.ndarray, size: int, stride: int) -> np.ndarray:
        view = np.lib.stride_tricks.sliding_window_view(v, (size, size), (1, 2))
        return np.asarray(view[:, ::stride, ::stride])

    def compared(v: np.ndarray) -> list[np.ndarray]:
        shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
        v = (v - shift[:, None, None]) / scale[:, None, None]
        out = []
        for word in plan.split():
            if word == "p":
                v = windows(v, side, 2).max((-2, -1))
            elif word == "c":
                out.append(v / np.sqrt((v**2).sum(0)))
            else:
                number, stride, padding = map(int, word.split("/"))
                weight = backbone[f"features.{number}.weight"].double().numpy()
                bias = backbone[f"features.{number}.bias"].double().numpy()
                v = np.pad(v, ((0, 0), (padding, padding), (padding, padding)))
                v = np.einsum("chwij,ocij->ohw", windows(v, weight.shape[2], stride), weight,
                              optimize=True)  # fmt: skip
                v = np.maximum(v + bias[:, None, None], 0)
        return out

    total = 0.0
    for k, (a, b) in enumerate(zip(compared(x), compared(y), strict=True)):
        weight = heads[f"lin{k}.model.1.weight"].double().numpy()[0, :, 0, 0]
        total += np.tensordot(weight, (a - b) ** 2, 1).mean()
    return float(total)


@pytest.mark.parametrize(("kind", "layout", "tensors", "unused"), [
    ("alex", "alexnet", 15, 6), ("vgg", "vgg16", 31, 6),
])  # fmt: skip
def test_lpips_of_public_files_is_the_papers_formula(
    kind: str, layout: str, tensors: int, unused: int, saved: Callable[..., Path]
) -> None:
    backbone, heads = random_state(layout), random_state(f"lpips_{kind}")
    path = saved(backbone, "backbone.pth")
    # the package's files are of the older layout
    old = saved(heads, "heads.pth", _use_new_zipfile_serialization=False)
    found = public.lpips(path, old)
    assert (found.network, len(found.tensors), found.unused) == (f"lpips-{kind}", tensors, unused)
    setting = pinned_by(found, path.parent / "lpips.safetensors")
    images = pictures(3, 48)

    class OnTheCpu:
        device = CPU

    distance = PerceptualDistance(OnTheCpu(), setting)  # type: ignore[arg-type]
    assert distance.name == "lpips"
    measured = distance(0, images[:2], images[1:])
    x = to_float(images).double().numpy()
    expected = [plain_lpips(backbone, heads, x[i], x[i + 1], kind) for i in (0, 1)]
    assert measured.shape == (2,)
    assert measured == pytest.approx(expected, rel=1e-4)
    assert measured.min() > 1e-3
    assert distance(0, images, images).max() == 0


def imported(*names: str) -> list[Any]:
    """The modules, or a skip with the reason; they are no dependencies of the project."""
    out = []
    for name in names:
        try:
            out.append(importlib.import_module(name))
        except (ImportError, RuntimeError) as error:
            pytest.skip(f"no genuine {name} to compare with, it does not import here: {error}")
    return out


@pytest.mark.filterwarnings("ignore")  # of packages that are not the project's
def test_inception_equals_torchvisions(saved: Callable[..., Path]) -> None:
    (models,) = imported("torchvision.models")
    theirs = models.inception_v3(weights=None, init_weights=False, transform_input=False).eval()
    theirs.load_state_dict(state := random_state("inception_v3"))
    theirs.fc = nn.Identity()
    path = saved(state)
    setting = pinned_by(public.inception(path), path.parent / "inception.safetensors")
    net = stored.network(setting, "inception", CPU)
    images = pictures(2, 299)
    with torch.inference_mode():
        expected = theirs(net.shown(images.permute(0, 3, 1, 2))).numpy()
    assert inception_features(net, images) == pytest.approx(expected, rel=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "layout"), [("alex", "alexnet"), ("vgg", "vgg16")])
def test_lpips_equals_the_packages(kind: str, layout: str, saved: Callable[..., Path]) -> None:
    """With the package's own heads."""
    _, package = imported("torchvision.models", "lpips")
    theirs = package.LPIPS(net=kind, pnet_rand=True, verbose=False, eval_mode=True)
    backbone = random_state(layout)
    own = {f"{name.partition('.')[2]}": name for name in theirs.net.state_dict()}
    theirs.net.load_state_dict({name: backbone[f"features.{k}"] for k, name in own.items()})
    heads = Path(package.__file__).parent / "weights" / "v0.1" / f"{kind}.pth"
    path = saved(backbone)
    setting = pinned_by(public.lpips(path, heads), path.parent / "lpips.safetensors")
    net = stored.network(setting, "lpips", CPU)
    x = to_float(pictures(4, 64))
    with torch.inference_mode():
        expected = theirs(x[:2], x[2:]).flatten().numpy()
        assert net(x[:2], x[2:]).numpy() == pytest.approx(expected, rel=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_the_fid_equals_torch_fidelitys_on_the_same_features() -> None:
    fid = imported("torch_fidelity.metric_fid")[0]
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(300, 64)), rng.normal(size=(280, 64)) @ rng.normal(size=(64, 64))
    one, two = (fid.fid_features_to_statistics(torch.from_numpy(v)) for v in (a, b))
    found = fid.fid_statistics_to_metric(one, two, verbose=False)
    expected = next(iter(found.values()))
    assert frechet(a, b) == pytest.approx(expected, rel=1e-6)


def test_the_fid_equals_scipys_square_root_on_the_same_features(saved: Callable[..., Path]) -> None:
    """v2's published form, on features of a converted network: tr (C₁C₂)^½ by scipy's sqrtm."""
    path = saved(random_state("inception_v3"))
    setting = pinned_by(public.inception(path), path.parent / "inception.safetensors")
    net = stored.network(setting, "inception", CPU)
    a, b = (inception_features(net, pictures(8, 32, seed)).astype(np.float64) for seed in (1, 2))
    # of three features that vary, eight pictures give covariances of full rank
    most = np.argsort(a.std(0) * b.std(0))[-3:]
    a, b = a[:, most], b[:, most]
    c1, c2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(c1 @ c2).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * root)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-5)


class Styled:
    """A model that mixes an image with the target's colour and a latent's; keeps all outputs."""

    edits_own_labels, needs_source = True, False
    supported_options = ("seed",)

    def __init__(self) -> None:
        self.outputs: dict[tuple[int, int, bytes], list[Tensor]] = defaultdict(list)

    def translate(
        self, nets: object, image: Tensor, source: Tensor, target: Tensor,
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> Tensor:  # fmt: skip
        seeds = options.seed if isinstance(options.seed, tuple) else (0,) * len(image)
        styles = torch.stack([torch.rand(3, generator=torch.Generator().manual_seed(seed))
                              for seed in seeds])  # fmt: skip
        tint = 0.4 * styles + 0.3 * target[:, :1] - 0.3
        out = to_uint8((0.6 * image + tint[:, :, None, None]).clamp(-1, 1))
        for i in range(len(image)):
            if isinstance(options.seed, tuple):
                key = int(source[i].argmax()), int(target[i].argmax())
                self.outputs[(*key, image[i].numpy().tobytes())].append(out[i])
        return to_float(out)


class Plain:
    """A judge without knowledge; its features are not compared here."""

    device = CPU

    def __init__(self, space: LabelSpace, size: int) -> None:
        self.space, self.size = space, size

    def predict(self, dataset: int, images: Tensor) -> Tensor:
        return images.mean((2, 3))[:, :2]

    def features(self, dataset: int, images: Tensor) -> Tensor:
        return images.mean((2, 3))


@pytest.mark.long
def test_stargan_v2s_protocol_gives_the_fid_and_lpips_of_converted_files(
    saved: Callable[..., Path], make_dataset: Callable[..., Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Of every ordered pair, from the outputs themselves, by networks written out above."""
    inception, alex, heads = map(random_state, ("pt_inception", "alexnet", "lpips_alex"))
    convert(["inception", str(saved(inception, "i.pth")), str(tmp_path / "i.safetensors")])
    convert(["lpips", str(saved(alex, "a.pth")), str(saved(heads, "h.pth")),
             str(tmp_path / "l.safetensors")])  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    given = dict(line.removeprefix("eval.").split("=", 1) for line in lines if "=" in line)
    config = EvalConfig(protocol="paper", bootstrap=20, **given)
    labels = LabelSet("rafd", "onehot", ("happy", "sad"))
    data = make_dataset(tmp_path / "d.json", (labels,), 48, 10)
    faces, train = Faces.open(data, "test"), Faces.open(data, "train")
    model = Styled()
    translator = Translator(model, {}, faces.space, 48, {"name": "toy"})  # type: ignore[arg-type]
    found = by_papers(translator, faces, train, Plain(faces.space, 48), config)  # type: ignore[arg-type]
    (paper,) = [one for one in found if one.protocol == "starganv2"]
    numbers = {(n.measure, n.part): n.value for n in paper.numbers}

    @torch.inference_mode()
    def features(images: Tensor) -> np.ndarray:
        x = images.permute(0, 3, 1, 2).float() / 255
        x = F.interpolate(x, (299, 299), mode="bilinear", align_corners=False) * 2 - 1
        return plain_inception(inception, x, fid=True).double().numpy()

    whole: dict[str, list[float]] = {"fid": [], "lpips": []}
    part = train.parts[0]
    for a, b in ((0, 1), (1, 0)):
        mine = [outputs for (*key, _), outputs in model.outputs.items() if key == [a, b]]
        assert len(mine) == int((faces.parts[0].labels.argmax(1) == a).sum()) > 0
        assert all(len(outputs) == 10 for outputs in mine)
        rows = (part.labels.argmax(1) == b).nonzero().flatten().tolist()
        made = features(torch.cat([torch.stack(outputs) for outputs in mine]))
        real = features(part.images(rows))
        # tr (C₁C₂)^½ is the sum of the singular values of the centred features' products
        ours, theirs = (v - v.mean(0) for v in (made, real))
        root = scipy.linalg.svdvals(ours @ theirs.T).sum()
        root /= ((len(ours) - 1) * (len(theirs) - 1)) ** 0.5
        trace = ours.var(0, ddof=1).sum() + theirs.var(0, ddof=1).sum() - 2 * root
        shift = made.mean(0) - real.mean(0)
        pairs = [to_float(torch.stack(pair)).double().numpy()
                 for outputs in mine for pair in combinations(outputs, 2)]  # fmt: skip
        apart = [plain_lpips(alex, heads, x, y, "alex") for x, y in pairs]
        expected = {"fid": float(shift @ shift + trace), "lpips": float(np.mean(apart))}
        for measure, number in expected.items():
            at = measure, f"{labels.names[a]} to {labels.names[b]}"
            assert numbers[at] == pytest.approx(number, rel=1e-3), at
            whole[measure].append(number)
    for measure, values in whole.items():
        assert numbers[measure, ""] == pytest.approx(np.mean(values), rel=1e-3)
        assert min(values) > 0


def without(name: str) -> Callable[[State], State]:
    return lambda state: {k: v for k, v in state.items() if k != name}


def instead(name: str, value: Tensor) -> Callable[[State], State]:
    return lambda state: {**state, name: value}


STEM = "Conv2d_1a_3x3.conv.weight"
FAULTS: dict[str, tuple[Callable[[State], Any], str]] = {
    "a missing tensor": (without(STEM), rf"1 of 470 tensors are missing .*: {STEM};"),
    "a tensor of another network": (
        instead("layer1.0.weight", torch.ones(1)), r"1 of 581 tensors are unknown .*layer1\.0",
    ),
    "another shape": (
        instead(STEM, torch.ones(32, 3, 5, 5)), r"have another shape .*\(32, 3, 5, 5\), not",
    ),
    "a number that is not finite": (
        instead(STEM, torch.full((32, 3, 3, 3), torch.nan)), "1 of 580 tensors are not finite",
    ),
    "another number of classes": (
        instead("fc.bias", torch.ones(10)), "no Inception v3 with 1000 .* it has 10",
    ),
    "no classifier": (without("fc.bias"), "it has no layer fc"),
    "more than tensors": (lambda state: {**state, "epoch": 3}, "holds more than tensors by name"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_of_something_else_is_refused(fault: str, saved: Callable[..., Path]) -> None:
    change, says = FAULTS[fault]
    path = saved(change(random_state("inception_v3")))
    with pytest.raises(ValueError, match=says) as refused:
        public.inception(path)
    assert str(path) in str(refused.value)


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mknod, (str(self.path),)


def test_nothing_but_tensors_is_unpickled(saved: Callable[..., Path], tmp_path: Path) -> None:
    path = saved({"fc.bias": Trap(tmp_path / "sprung")})
    with pytest.raises(ValueError, match="nothing else is unpickled"):
        public.inception(path)
    assert not (tmp_path / "sprung").exists()
    path.write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match="not a plain file of weights"):
        public.read(path)


def test_heads_of_another_backbone_are_refused(saved: Callable[..., Path]) -> None:
    heads = saved(random_state("lpips_vgg"), "heads.pth")
    with pytest.raises(ValueError, match="have another shape for lpips-alex: lin1"):
        public.lpips(saved(random_state("alexnet")), heads)
    half = {k: v for k, v in random_state("lpips_alex").items() if "lin4" not in k}
    with pytest.raises(ValueError, match=r"1 of 15 tensors are missing .*heads\.4"):
        public.lpips(saved(random_state("alexnet")), saved(half, "heads.pth"))


def test_the_command_writes_the_same_bytes_and_prints_the_setting(
    saved: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = saved(random_state("alexnet"), "alexnet.pth")
    heads = saved(random_state("lpips_alex"), "alex.pth")
    outs = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for out in outs:
        convert(["lpips", str(backbone), str(heads), str(out)])
    assert outs[0].read_bytes() == outs[1].read_bytes()
    said = capsys.readouterr().out
    assert "lpips-alex: 15 tensors, 2,470,848 numbers; 6 of the classifier left out" in said
    assert f"eval.lpips={outs[1]}@{sha256_file(outs[1])}" in said
    with pytest.raises(ValueError, match=r"three\.pt: the name must end in \.safetensors"):
        convert(["lpips", str(backbone), str(heads), str(tmp_path / "three.pt")])
    assert not (tmp_path / "three.pt").exists()


def test_a_file_of_another_network_is_refused_before_the_run(
    saved: Callable[..., Path], tmp_path: Path
) -> None:
    path = saved(random_state("alexnet"), "backbone.pth")
    found = public.lpips(path, saved(random_state("lpips_alex"), "heads.pth"))
    setting = pinned_by(found, tmp_path / "lpips.safetensors")
    space = LabelSpace((LabelSet("celeba", "binary", ("Male",)),))
    right = Config("stargan", "demo", model=StarGAN.tiny(), eval=EvalConfig(lpips=setting))
    preflight.check(right, space)
    wrong = Config("stargan", "demo", model=StarGAN.tiny(), eval=EvalConfig(inception=setting))
    with pytest.raises(ValueError, match="holds lpips-alex, not one of inception-torchvision"):
        preflight.check(wrong, space)
    less = {k: v for k, v in found.tensors.items() if k != "heads.0.weight"}
    digest = stored.write(tmp_path / "less.safetensors", found.network, less)
    with pytest.raises(ValueError, match=r"does not fit lpips-alex: heads\.0\.weight"):
        stored.network(f"{tmp_path / 'less.safetensors'}@{digest}", "lpips", CPU)

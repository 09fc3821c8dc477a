"""StarGAN v2 against the paper: sizes, blocks, reimplemented loss terms, references."""

import copy
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.core.config import TrainConfig, to_json
from training.core.files import sha256_file
from training.data.batch import Batch
from training.data.dataset import Faces
from training.data.labels import LabelSet, LabelSpace
from training.data.order import Order
from training.models.base import EditOptions, check_options
from training.models.landmarks import Landmarks, face_masks
from training.models.layers import normal
from training.models.starganv2 import Generator, StarGANv2, StyledBlock
from training.storage.store import Manifest
from training.train import train

SMALL = StarGANv2(dim=4, max_dim=8, hidden=8, lambda_reg=2, lambda_sty=3, lambda_ds=5, lambda_cyc=7)


def space(count: int) -> LabelSpace:
    return LabelSpace((LabelSet("faces", "onehot", tuple(f"d{i}" for i in range(count))),))


@pytest.mark.parametrize(
    ("size", "domains", "golden"),
    [
        (128, 2, {"G": 33_632_003, "F": 2_438_272, "E": 20_799_744, "D": 20_735_106}),
        (256, 3, {"G": 33_892_995, "F": 3_259_072, "E": 20_949_760, "D": 20_852_803}),
        (256, 2, {"G": 33_892_995, "F": 2_438_272, "E": 20_916_928, "D": 20_852_290}),
    ],
)
def test_parameter_counts_are_the_golden_ones(
    size: int, domains: int, golden: dict[str, int]
) -> None:
    with torch.device("meta"):
        nets = StarGANv2().networks(space(domains), size)
    assert {n: sum(p.numel() for p in net.parameters()) for n, net in nets.items()} == golden


@pytest.mark.parametrize(("size", "golden"), [(256, 43_467_395), (128, 43_206_403)])
def test_with_high_pass_skips_g_has_the_golden_count(size: int, golden: int) -> None:
    """Without the 1×1 convolutions of the published code for skips that its blocks do not use.

    At 256 px they map 128 to 64 channels and so on up to 512, at 128 px from 256.
    """
    with torch.device("meta"):
        net = Generator(size, 2**14 // size, 512, 1.0)
    unused = sum(a * 2 * a for a in (64, 128, 256) if a >= 2**14 // size)
    assert sum(p.numel() for p in net.parameters()) == golden - unused


class Halves(nn.Module):
    """A fake landmark network: the left half is kept at 32 px, the lower half above."""

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.zeros(x.shape[0], 2, x.shape[2], x.shape[3])
        maps[:, 0, :, : x.shape[3] // 2] = 1
        maps[:, 1, x.shape[2] // 2 :] = 1
        return maps


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_high_pass_skips_are_the_papers(tmp_path: Path) -> None:
    """hpf(m∘h) of the encoder's input at 32 and 64 px, by a sum over neighbours."""
    path = tmp_path / "marks.pt"
    torch.jit.script(Halves()).save(str(path))
    model = replace(SMALL, w_hpf=2.0, landmarks=f"{path}@{sha256_file(path)}")
    torch.manual_seed(0)
    g: Any = model.networks(space(2), 64)["G"]
    assert not [name for name in g.state_dict() if "landmark" in name]
    assert copy.deepcopy(g).landmarks is g.landmarks
    x, s = torch.rand(2, 3, 64, 64) * 2 - 1, torch.randn(2, 64)
    h, seen = g.enter(x), {}
    for block in g.encode:
        seen[h.shape[2]] = h
        h = block(h)
    assert h.shape[2] == 8
    for block in g.decode:
        h = F.leaky_relu(block.norm1(h, s), 0.2)
        if block.upsample:
            h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
        h = block.conv2(F.leaky_relu(block.norm2(block.conv1(h), s), 0.2))
        if h.shape[2] in (32, 64):
            kept, side = seen[h.shape[2]].clone(), h.shape[2]
            if side == 32:
                kept[..., side // 2 :] = 0
            else:
                kept[:, :, : side // 2] = 0
            ring = F.pad(kept, (1, 1, 1, 1))
            around = sum(ring[..., i : i + side, j : j + side] for i in range(3) for j in range(3))
            h = h + (9 * kept - around) / 2
    torch.testing.assert_close(g(x, s), g.leave(h), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_high_pass_skips_train_and_resume_to_the_same_bits(
    make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    """No checkpoint contains the landmark network; it is loaded again from its path."""
    path = tmp_path / "marks.pt"
    torch.jit.script(Halves()).save(str(path))
    model = replace(SMALL, w_hpf=1.0, landmarks=f"{path}@{sha256_file(path)}")
    labels = LabelSet("rafd", "onehot", ("angry", "happy", "sad"))
    data = make_dataset(tmp_path / "data.json", (labels,), 32)
    config = TrainConfig(images=32, decay_images=0, batch=8, log_images=8, sample_images=32,
                         checkpoint_images=16, precision="fp32", ema=0.9, keep=9)  # fmt: skip

    def go(name: str) -> dict[str, str]:
        out = tmp_path / f"{name}.json"
        train(data, out, "starganv2", to_json(model), to_json(config), run=tmp_path / name)
        entries = Manifest.read(out, "model").entries
        return {e.name: e.sha256 for e in entries if e.name.endswith(".safetensors")}

    whole = go("whole")
    assert {name.rpartition("/")[2] for name in whole} == {
        f"{net}.safetensors" for net in "GFED"}  # fmt: skip
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / f"{32:012d}")
    assert go("cut") == whole


def published(point: int) -> list[tuple[int, int, bool]]:
    """Of the published code, for each copy of a landmark: rows up, exponent, grows with the map."""
    if point in (*range(8), *range(25, 33), 33, 46, 76, 82):
        return []  # left out
    if 60 <= point < 76:  # eyes: down 8, sharpened, and down 24 as they are
        return [(-8, 3, False), (-24, 1, False)]
    parts = {(8, 24): (0, 3), (33, 50): (-7, 2), (52, 54): (4, 1), (55, 59): (8, 4),
             (77, 81): (-8, 4), (83, 87): (8, 4), (88, 95): (-2, 3)}  # fmt: skip
    found = [move for (first, last), move in parts.items() if first <= point <= last]
    return [(*(found or [(0, 1)])[0], True)]


COARSE = {*range(8, 25), *range(33, 51), *range(76, 96)}  # landmarks of the 32 px mask only


@pytest.mark.parametrize("size", [256, 512])
def test_each_landmark_of_a_heat_map_moves_as_in_the_published_code(size: int) -> None:
    """A pixel at row 100, another at row 3 that leaves the map at the top; one below 0.1."""
    for point in range(98):
        heat = torch.zeros(1, 98, size, 32)
        heat[0, point, 200, 7], heat[0, point, 100, 9] = 0.8, 0.4
        heat[0, point, 3, 20], heat[0, point, 100, 30] = 0.4, 0.09
        copies = [
            (up * (size // 256 if grows else 1), 0.5**power)
            for up, power, grows in published(point)
        ]
        rows = {(row - up) % size: value for row in (100, 3) for up, value in copies}
        maps = face_masks(heat, size)[0]
        for found, expected in zip(maps, (rows, {} if point in COARSE else rows), strict=True):
            assert not found[:, 30].any()
            values = found[:, 9] + found[:, 20]
            at = {int(row): float(values[row]) for row in values.nonzero()}
            assert at == pytest.approx(expected, abs=1e-5), point


@pytest.mark.parametrize(("side", "size"), [(64, 256), (64, 512), (64, 128)])
def test_masks_of_smooth_heat_maps_equal_the_published_ones(side: int, size: int) -> None:
    """Gaussian maps, enlarged between the corners' centres, in numpy and float64.

    Of images of 128 px they have 256 px: the published code is for 256 px and more.
    """
    rng = np.random.default_rng(1)
    grid = np.arange(side)
    y, x = rng.uniform(0, side, (2, 98, 1, 1))
    heat = np.exp(-((grid[:, None] - y) ** 2 + (grid - x) ** 2) / (2 * (side / 30) ** 2))
    heat *= rng.uniform(0.2, 1.1, (98, 1, 1))
    whole = max(size, 256)
    at = np.linspace(0, side - 1, whole)
    low = np.minimum(at.astype(int), side - 2)
    part = at - low
    tall = heat[:, low] * (1 - part)[:, None] + heat[:, low + 1] * part[:, None]
    large = tall[:, :, low] * (1 - part) + tall[:, :, low + 1] * part
    large[large < 0.1] = 0
    masks = np.zeros((2, whole, whole))
    for point, one in enumerate(large):
        one = (one - one.min()) / (one.max() - one.min() + 1e-6)
        for up, power, grows in published(point):
            rows = (np.arange(whole) + up * (whole // 256 if grows else 1)) % whole
            masks[: 1 if point in COARSE else 2] += one[rows] ** power
    found = face_masks(torch.from_numpy(heat)[None], size)[0]
    np.testing.assert_allclose(found.numpy(), masks.clip(0, 1), rtol=0, atol=1e-9)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_landmark_network_with_another_number_of_points_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "marks.pt"
    torch.jit.trace(nn.Conv2d(3, 68, 1), torch.zeros(1, 3, 8, 8)).save(str(path))
    with pytest.raises(ValueError, match="68 maps; 98 heat-maps or 2"):
        Landmarks(f"{path}@{sha256_file(path)}")(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("setting", "message"),
    [("", "landmarks=: PATH@SHA256"), ("gone.pt@" + "0" * 64, "no file gone")],
)
def test_high_pass_skips_without_their_network_are_refused(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, w_hpf=1.0, landmarks=setting).networks(space(2), 64)


def test_unsupported_sizes_and_label_spaces_are_refused() -> None:
    with pytest.raises(ValueError, match="size=96: a power of two"):
        StarGANv2().networks(space(2), 96)
    binary = LabelSpace((LabelSet("celeba", "binary", ("Male",)),))
    with pytest.raises(ValueError, match=r"data\.domains"):
        StarGANv2().networks(binary, 64)


def test_a_styled_block_equals_the_papers() -> None:
    torch.manual_seed(0)
    block: Any = StyledBlock(4, 2, upsample=True)
    x, s = torch.randn(3, 4, 5, 5), torch.randn(3, 64)

    def adain(x: Tensor, layer: Any) -> Tensor:
        gamma, beta = layer.affine(s)[..., None, None].split(x.shape[1], 1)
        mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), unbiased=False, keepdim=True)
        return (1 + gamma) * (x - mean) / (var + 1e-5).sqrt() + beta

    def leaky(x: Tensor) -> Tensor:
        return torch.maximum(x, 0.2 * x)

    def grown(x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    h = block.conv1(grown(leaky(adain(x, block.norm1))))
    h = block.conv2(leaky(adain(h, block.norm2)))
    expected = (h + block.short(grown(x))) / math.sqrt(2)
    torch.testing.assert_close(block(x, s), expected)


def setup() -> tuple[dict[str, Any], Batch, dict[str, Tensor]]:
    torch.manual_seed(4)
    noises = {"z0": torch.rand(4, 16), "z1": torch.rand(4, 16)}
    y, target = torch.eye(3)[[0, 1, 2, 2]], torch.eye(3)[[1, 1, 0, 2]]
    batch = Batch(
        torch.rand(4, 3, 16, 16) * 2 - 1, y, target, 0, lambda name, shape: noises[name],
        torch.tensor(0.25, dtype=torch.float64),
        torch.rand(4, 2, 3, 16, 16) * 2 - 1,
    )  # fmt: skip
    return SMALL.networks(space(3), 16), batch, noises


@pytest.mark.parametrize("latent", [True, False])
def test_every_loss_term_equals_the_papers(latent: bool) -> None:
    nets, batch, noises = setup()
    g, f, e, d = (nets[n] for n in "GFED")
    x, y, t = batch.image, torch.tensor([0, 1, 2, 2]), torch.tensor([1, 1, 0, 2])
    assert batch.reference is not None
    if latent:
        quantile = torch.distributions.Normal(0.0, 1.0).icdf
        s, s2 = f(quantile(noises["z0"]), t), f(quantile(noises["z1"]), t)
    else:
        s, s2 = e(batch.reference[:, 0], t), e(batch.reference[:, 1], t)
    fake, other = g(x, s), g(x, s2)

    def bce(score: Tensor, truth: float) -> Tensor:
        return F.binary_cross_entropy(score.sigmoid(), torch.full_like(score, truth))

    real = x.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(d(real, y).sum(), real)
    expected = {
        "real": bce(d(x, y), 1),
        "fake": bce(d(fake, t), 0),
        "r1": 2 * 0.5 * slope.pow(2).sum() / 4,
    }
    close(SMALL.d_loss(nets, batch, latent=latent), expected)
    expected = {
        "adv": bce(d(fake, t), 1),
        "sty": 3 * (e(fake, t) - s).abs().mean(),
        "ds": -5 * 0.75 * (fake - other).abs().mean(),  # a quarter of the schedule is over
        "cyc": 7 * (x - g(fake, e(x, y))).abs().mean(),
    }
    close(SMALL.g_loss(nets, batch, latent=latent), expected)


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_latents_are_normal() -> None:
    u = torch.linspace(0.001, 0.999, 99)
    torch.testing.assert_close(normal(u), torch.distributions.Normal(0.0, 1.0).icdf(u))
    assert torch.isfinite(normal(torch.tensor([0.0, 1 - 2**-24]))).all()


def test_f_learns_at_a_hundredth_of_the_other_networks_rate() -> None:
    """1e-6 against 1e-4, β (0, 0.99), weight decay 1e-4."""
    optim = StarGANv2().optim(space(2))
    assert {n: o.lr for n, o in optim.items()} == {"G": 1e-4, "E": 1e-4, "D": 1e-4, "F": 1e-6}
    assert {(o.betas, o.weight_decay) for o in optim.values()} == {((0.0, 0.99), 1e-4)}


def test_references_show_the_targets_class_at_any_world_size(classes: Path) -> None:
    """All classes are equally likely; rows and images do not depend on the process."""
    faces = Faces.open(classes, "train")
    order = Order(faces, 3, 8, flip=True, length=64, references=2)
    device = torch.device("cpu")
    batch = order.batch(0, 16, 16, slice(0, 8), device)
    assert batch.reference is not None
    assert batch.reference.shape == (8, 2, 3, 16, 16)
    halves = [order.batch(0, 16, 16, part, device) for part in (slice(0, 3), slice(3, 8))]
    assert torch.equal(torch.cat([h.reference for h in halves if h.reference is not None]),
                       batch.reference)  # fmt: skip
    rows = order.balanced(0, 16, "reference", 2)
    labels = faces.parts[0].labels
    assert torch.equal(labels[rows[:, 0]], labels[rows[:, 1]])
    assert torch.equal(faces.space.encode(labels[rows[:, 0]], 0), batch.target)
    plain = Order(faces, 3, 8, flip=True, length=64).batch(0, 16, 16, slice(0, 8), device)
    assert plain.reference is None


def test_source_and_target_classes_are_drawn_uniformly_and_independently(classes: Path) -> None:
    """From a data set of which five sixths are one class."""
    faces = Faces.open(classes, "train")
    part = faces.parts[0]
    part.labels = torch.eye(3)[[0] * 20 + [1, 1, 2, 2]]
    order = Order(faces, 3, 8, flip=True, length=64, references=2)
    pairs = torch.zeros(3, 3)
    for i in range(150):
        batch = order.batch(0, 8 * i, 8 * i, slice(0, 8), torch.device("cpu"))
        assert batch.reference is not None
        pairs += batch.source.T @ batch.target
    assert (pairs / pairs.sum() - 1 / 9).abs().max() < 0.04


@pytest.mark.parametrize(
    ("more", "without"),
    [({"lambda_ds": 0.0}, "ds"), ({"lambda_reg": 0.0}, "r1"), ({"style": "latent"}, ""),
     ({"style": "label"}, "ds"), ({"style": "label"}, "sty")],
)  # fmt: skip
def test_the_ablations_train_without_the_removed_parts(more: dict[str, Any], without: str) -> None:
    """Its term is 0 and costs no pass; every network still learns."""
    model = replace(SMALL, **more)
    _, batch, _ = setup()
    nets: dict[str, Any] = model.networks(space(3), 16)
    calls = [0]
    nets["G"].register_forward_pre_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    for phase in model.phases(space(3)):
        for net in nets.values():
            net.zero_grad()
        terms = phase.loss(nets, batch)
        assert not without or without not in terms or float(terms[without]) == 0
        torch.stack(list(terms.values())).sum().backward()
        for name in phase.trains:
            slopes = [p.grad for p in nets[name].parameters() if p.grad is not None]
            assert any(slope.any() for slope in slopes), (phase.name, name)
    alike = without == "ds" or more.get("style") == "label"
    assert calls[0] == (2 * 2 + 2 if alike else 2 * 3 + 2)


def test_without_styles_g_is_conditioned_on_the_domain_only() -> None:
    """For every latent; there is no E, and style options are refused."""
    torch.manual_seed(0)
    model, (_, batch, _) = replace(SMALL, style="label"), setup()
    nets: dict[str, Any] = model.networks(space(3), 16)
    assert set(nets) == {"G", "F", "D"}
    y = torch.tensor([0, 1, 2, 2])
    w, b = nets["F"].affine.weight, nets["F"].affine.bias
    torch.testing.assert_close(nets["F"](torch.randn(4, 16), y), w.T[y] + b)
    assert not model.diagnostics(nets, batch.image, batch.target)
    for options in (EditOptions(seed=1), EditOptions(reference=batch.image)):
        with pytest.raises(ValueError, match=r"starganv2 takes no .*; it takes labels$"):
            check_options(model, "starganv2", batch.source, options)


def test_without_style_codes_g_is_conditioned_on_the_latent() -> None:
    """One affine map of z and the domain for all domains: far fewer weights than F's."""
    torch.manual_seed(0)
    f: Any = replace(SMALL, style="latent").networks(space(3), 16)["F"]
    z, y = torch.randn(4, 16), torch.tensor([0, 1, 2, 2])
    w, b = f.affine.weight, f.affine.bias
    torch.testing.assert_close(f(z, y), z @ w[:, :16].T + w[:, 16:].T[y] + b)


def test_latents_that_give_the_same_image_are_a_symptom() -> None:
    nets, batch, _ = setup()
    (found,) = SMALL.diagnostics(nets, batch.image, batch.target)
    assert not found.bad
    nets["F"].forward = lambda z, y: torch.zeros(len(z), 64)
    (found,) = SMALL.diagnostics(nets, batch.image, batch.target)
    assert found.value == 0
    assert found.bad

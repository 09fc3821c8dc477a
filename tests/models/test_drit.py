"""DRIT and MSGAN against the papers and the published code: sizes, losses, noise, styles."""

import statistics
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from runs import QUICK, session_of
from training.data.batch import Batch
from training.data.dataset import Faces
from training.data.labels import LabelSet, LabelSpace
from training.evaluation.diagnostics import balance
from training.models import configure
from training.models.base import EditOptions, Losses
from training.models.drit import DRIT
from training.models.layers import normal, spread
from training.models.losses import mode_seeking
from training.models.msgan import MSGAN
from training.models.starganv2 import StarGANv2
from training.models.styles import fixed_latent

FIVE = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Young")
CELEBA = LabelSpace((LabelSet("celeba", "binary", FIVE, (FIVE[:3],)),))
GENDER = LabelSpace((LabelSet("faces", "onehot", ("female", "male")),))
SMALL = DRIT(dim=3, blocks=2, latent=2, d_dim=3, d_layers=2, dc_layers=0)
VARIANTS = [
    (replace(SMALL, concat=concat, lambda_ms=weight, ms_clip=clip), 16)
    for concat, weight, clip in ((True, 0.0, 0.0), (True, 0.7, 0.0), (False, 0.0, 0.0),
                                 (False, 0.7, 100.0))
]  # fmt: skip
VARIANTS += [(replace(SMALL, dc_layers=1, lambda_ms=0.7), 64)]
IDS = ["concat", "concat-ms", "feature-wise", "feature-wise-ms-clipped", "strided-content-d"]


@pytest.mark.parametrize(
    ("model", "ea", "g", "total"),
    [
        (DRIT(), 2_688_160, 9_564_710, 65_039_315),
        (MSGAN(), 2_688_160, 9_564_710, 65_039_315),
        (DRIT(concat=False), 5_529_872, 17_146_374, 75_462_691),
    ],
)
def test_parameter_counts_are_the_golden_ones(model: DRIT, ea: int, g: int, total: int) -> None:
    with torch.device("meta"):
        nets: dict[str, Any] = model.networks(GENDER, 216)
    counts = {name: sum(p.numel() for p in net.parameters()) for name, net in nets.items()}
    ds = dict.fromkeys(("Da0", "Db0", "Ra0", "Rb0"), 8_271_171)
    assert counts == {"Ec0": 9_018_112, "Ea0": ea, "G0": g, "Dc0": 10_683_649, **ds}
    assert sum(counts.values()) == total
    shared = sum(p.numel() for p in nets["Ec0"].shared.parameters())
    assert shared == 1_180_160
    assert not model.concat or sum(p.numel() for p in nets["G0"].shared.parameters()) == shared


@pytest.mark.parametrize(("size", "layers", "scores"), [
    (216, 3, 1), (240, 3, 1), (248, 3, 4), (256, 3, 4), (128, 2, 4), (64, 1, 9),
])  # fmt: skip
def test_the_content_ds_scores_by_size(size: int, layers: int, scores: int) -> None:
    with torch.device("meta"):
        nets = DRIT(dc_layers=layers).networks(GENDER, size)
        found = nets["Dc0"](torch.empty(1, 256, size // 4, size // 4))
        patches = [s.shape[2] for s in nets["Da0"](torch.empty(1, 3, size, size))]
    assert found.shape[1] == 1
    assert found.numel() == scores
    assert patches == [size >> 4, size >> 5, size >> 6]


@pytest.mark.parametrize("size", range(160, 216, 8))
def test_sizes_below_216_px_need_fewer_strided_layers(size: int) -> None:
    with pytest.raises(ValueError, match=f"size={size}: too small for a .* 3 .*; set dc_layers=2"):
        DRIT().networks(GENDER, size)
    with torch.device("meta"):
        nets = DRIT(dc_layers=2).networks(GENDER, size)
        assert nets["Dc0"](torch.empty(1, 256, size // 4, size // 4)).numel() >= 1


@pytest.mark.parametrize("size", [66, 32])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"size={size}: a multiple of 4, at least 64, is needed"):
        DRIT(dc_layers=1).networks(GENDER, size)


Weights = dict[str, Tensor]


def padded(x: Tensor, w: Weights, name: str, stride: int, padding: int) -> Tensor:
    """Convolution after mirroring at the border, without repeating its pixels."""
    if padding:
        rows = [abs(i) for i in range(-padding, x.shape[2])]
        rows += [x.shape[2] - 2 - i for i in range(padding)]
        x = x[:, :, rows][:, :, :, rows]
    return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride)


def inorm(x: Tensor) -> Tensor:
    mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), unbiased=False, keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt()


def leaky(x: Tensor, slope: float) -> Tensor:
    return torch.where(x > 0, x, slope * x)


def block(x: Tensor, w: Weights, name: str) -> Tensor:
    h = inorm(padded(x, w, f"{name}.body.1", 1, 1)).clamp_min(0)
    return x + inorm(padded(h, w, f"{name}.body.5", 1, 1))


def content(w: Weights, x: Tensor, side: int) -> Tensor:
    name = f"own.{side}"
    x = leaky(padded(x, w, f"{name}.0", 1, 3), 0.01)
    for i in (2, 5):
        x = inorm(padded(x, w, f"{name}.{i}", 2, 1)).clamp_min(0)
    for i in (8, 9):
        x = block(x, w, f"{name}.{i}")
    return block(x, w, "shared")


def attribute(w: Weights, x: Tensor, side: int, concat: bool) -> tuple[Tensor, Tensor | None]:
    """μ and log σ², or z and nothing."""
    name = f"own.{side}"
    if not concat:
        name = f"{name}.main"
        x = padded(x, w, f"{name}.0", 1, 3).clamp_min(0)
        for i in (2, 4, 6, 8):
            x = padded(x, w, f"{name}.{i}", 2, 1).clamp_min(0)
        x = x.mean((2, 3), keepdim=True)
        return F.conv2d(x, w[f"{name}.11.weight"], w[f"{name}.11.bias"])[:, :, 0, 0], None
    x = padded(x, w, f"{name}.0", 2, 1)
    for i in (1, 2, 3):
        h = leaky(padded(leaky(x, 0.2), w, f"{name}.{i}.main.1", 1, 1), 0.2)
        h = F.avg_pool2d(padded(h, w, f"{name}.{i}.main.3", 1, 1), 2)
        x = h + padded(F.avg_pool2d(x, 2), w, f"{name}.{i}.short.1", 1, 0)
    x = leaky(x, 0.2).mean((2, 3))
    mean, log_var = (x @ w[f"{name}.7.weight"].T + w[f"{name}.7.bias"]).chunk(2, 1)
    return mean, log_var


def with_planes(x: Tensor, z: Tensor) -> Tensor:
    return torch.cat([x, z[:, :, None, None] * torch.ones(1, 1, *x.shape[2:])], 1)


def doubled(x: Tensor, w: Weights, name: str) -> Tensor:
    """Transposed 3×3 convolution, layer norm over the image with a weight a channel, ReLU."""
    x = F.conv_transpose2d(x, w[f"{name}.0.weight"], w[f"{name}.0.bias"], 2, 1, output_padding=1)
    mean, var = (f((1, 2, 3), keepdim=True) for f in (x.mean, lambda d, keepdim: x.var(
        d, unbiased=False, keepdim=keepdim)))  # fmt: skip
    x = (x - mean) / (var + 1e-5).sqrt()
    x = x * w[f"{name}.1.weight"][:, None, None] + w[f"{name}.1.bias"][:, None, None]
    return x.clamp_min(0)


def generate(w: Weights, c: Tensor, z: Tensor, side: int, concat: bool) -> Tensor:
    if concat:
        name = f"own.{side}"
        x = with_planes(block(c, w, "shared"), z)
        for i in (0, 1):
            x = block(x, w, f"{name}.0.{i}")
        x = doubled(with_planes(x, z), w, f"{name}.1")
        x = with_planes(doubled(with_planes(x, z), w, f"{name}.2"), z)
        return torch.tanh(F.conv_transpose2d(x, w[f"{name}.3.0.weight"], w[f"{name}.3.0.bias"]))
    name = f"maps.{side}"
    for i in (0, 2, 4):
        z = z.clamp_min(0) if i else z
        z = z @ w[f"{name}.{i}.weight"].T + w[f"{name}.{i}.bias"]
    x = c
    for i, part in enumerate(z.chunk(3, 1)):
        h = x
        for j in (0, 1):
            h = with_planes(inorm(padded(h, w, f"blocks.{side}.{i}.convs.{j}.0", 1, 1)), part)
            for layer in (0, 2):
                h = padded(h, w, f"blocks.{side}.{i}.mixes.{j}.{layer}", 1, 0).clamp_min(0)
        x = x + h
    x = doubled(doubled(x, w, f"ends.{side}.0"), w, f"ends.{side}.1")
    name = f"ends.{side}.2"
    return torch.tanh(F.conv_transpose2d(x, w[f"{name}.weight"], w[f"{name}.bias"]))


def halved(x: Tensor) -> Tensor:
    """3×3 averages of every second pixel, of the pixels that exist."""
    ones = torch.ones_like(x[:, :1])
    kernel = torch.ones(1, 1, 3, 3)
    sums = F.conv2d(x.flatten(0, 1)[:, None], kernel, None, 2, 1).unflatten(0, x.shape[:2])[:, :, 0]
    return sums / F.conv2d(ones, kernel, None, 2, 1)


def scores(w: Weights, x: Tensor) -> list[Tensor]:
    out = []
    for scale in range(3):
        h = x
        for i in (0, 2):
            h = leaky(padded(h, w, f"scales.{scale}.{i}", 2, 1), 0.01)
        out.append(padded(h, w, f"scales.{scale}.4", 1, 0))
        x = halved(x)
    return out


def content_score(w: Weights, c: Tensor, strided: int) -> Tensor:
    """7×7 layers that halve and mirror one pixel, one of 4×4 without a border, the score."""
    for i in range(strided):
        assert w[f"main.{2 * i}.weight"].shape[2:] == (7, 7)
        c = leaky(padded(c, w, f"main.{2 * i}", 2, 1), 0.01)
    assert w[f"main.{2 * strided}.weight"].shape[2:] == (4, 4)
    c = leaky(padded(c, w, f"main.{2 * strided}", 1, 0), 0.01)
    return padded(c, w, f"main.{2 * strided + 2}", 1, 0)


def bce(logits: Tensor | list[Tensor], truth: float) -> Tensor:
    """Cross entropy, a mean per scale, summed over scales."""
    total = torch.zeros(())
    for s in logits if isinstance(logits, list) else [logits]:
        p = torch.sigmoid(s)
        total = total - (truth * p.log() + (1 - truth) * (1 - p).log()).mean()
    return total


def split_mix(state: int) -> Any:
    """SplitMix64's stream: whole numbers of 64 bits."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        yield mixed(state)


def mixed(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def normals(uniform: Tensor) -> Tensor:
    curve = statistics.NormalDist()
    flat = [curve.inv_cdf(min(max(u, 5e-7), 1 - 5e-7)) for u in uniform.flatten().tolist()]
    return torch.tensor(flat).view(uniform.shape)


def map_noise(key: Tensor, shape: tuple[int, ...]) -> Tensor:
    rows = []
    for high, low in key.tolist():
        start = mixed(int(high * 2**24) * 2**24 + int(low * 2**24))
        count = torch.Size(shape).numel()
        rows.append([(bits >> 40) / 2**24 for bits in islice(split_mix(start), count)])
    return normals(torch.tensor(rows).view(len(key), *shape))


def test_the_stream_of_a_map_is_split_mix_of_its_key() -> None:
    """The known first numbers of seed 1234567, then `spread` of keys of 24 bits."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert list(islice(split_mix(1234567), 3)) == known
    key = torch.rand(3, 2, generator=torch.Generator().manual_seed(5))
    found = spread(key, (5, 2, 3))
    assert found.dtype == torch.float32
    torch.testing.assert_close(normal(found), map_noise(key, (5, 2, 3)), rtol=1e-4, atol=1e-4)
    assert torch.equal(spread(key[1:2], (5, 2, 3)), found[1:2])


def test_the_numbers_of_neighbouring_keys_are_uniform_and_independent() -> None:
    """Keys that differ in one bit: 16 equal classes, no correlation between rows or places."""
    key = torch.tensor([[0.0, k / 2**24] for k in range(8)])
    rows = spread(key, (1 << 15,))
    counts = torch.stack([torch.histc(row, 16, 0, 1) for row in rows])
    assert (counts - 2048).abs().max() < 5 * 2048**0.5
    assert (rows >= 0).all()
    assert (rows < 1).all()
    both = torch.cat([rows, rows.roll(1, 1)])
    off = torch.corrcoef(both) - torch.eye(16)
    assert off.abs().max() < 5 / (1 << 15) ** 0.5
    assert len(rows.unique()) > 0.98 * rows.numel() * (1 - rows.numel() / 2**25)


def setting(model: DRIT, size: int = 16) -> tuple[dict[str, Any], Batch]:
    """Networks with larger weights than at the start, and a batch of two images a domain."""
    torch.manual_seed(2)
    nets: dict[str, Any] = model.networks(GENDER, size)
    # Less for 7×7 layers, whose scores would be certain, and for what is an exponent.
    less = {"Dc0": 0.06 if model.dc_layers else 0.3, "Ea0": 0.15 if model.concat else 0.3}
    for name, net in nets.items():
        for p in net.parameters():
            torch.nn.init.normal_(p, 0.0, less.get(name, 0.3))
    a, b = torch.rand(2, 3, 2, 3, size, size) * 2 - 1
    kept: dict[str, Tensor] = {}

    def noise(name: str, shape: tuple[int, ...]) -> Tensor:
        return kept.setdefault(name, torch.rand(3, *shape))

    none = torch.zeros(3, 2)
    batch = Batch(a[:, 0], none, none, 0, noise, torch.zeros(()), reference=b, peers=a[:, 1:])
    return nets, batch


def close(found: Losses, expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=2e-4, atol=1e-5, msg=name)


def same_slopes(found: Losses, expected: dict[str, Any], *weights: Weights) -> None:
    """Of the sum of the terms: nothing is detached that the formulas do not detach."""
    # A convolution's bias before an instance norm has no slope but rounding.
    over = [p for net in weights for name, p in net.items() if name.endswith("weight")]
    ours, theirs = (
        torch.autograd.grad(sum(terms.values()), over, retain_graph=True, allow_unused=True)  # type: ignore[arg-type]
        for terms in (found, expected)
    )
    assert any(two is not None for two in theirs)
    for one, two in zip(ours, theirs, strict=True):
        assert (one is None) == (two is None)
        if one is not None and two is not None:
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3 * float(two.abs().max()))


@pytest.mark.parametrize(("model", "size"), VARIANTS, ids=IDS)
def test_every_loss_term_and_its_slopes_equal_the_papers(model: DRIT, size: int) -> None:
    nets, batch = setting(model, size)
    w = {name[:-1]: dict(net.named_parameters()) for name, net in nets.items()}
    assert batch.reference is not None
    assert batch.peers is not None
    x = [batch.image, batch.reference[:, 0]]
    other = [batch.peers[:, 0], batch.reference[:, 1]]
    dc, d, eg, alone = (phase.loss(nets, batch) for phase in model.phases(GENDER))

    def gauss(name: str) -> Tensor:
        return normals(batch.noise(name, (2,)))

    def noisy(images: list[Tensor], name: str) -> list[Tensor]:
        shape = (12, size // 4, size // 4)
        return [content(w["Ec"], images[s], s) + map_noise(batch.noise(f"{name}_{'ab'[s]}", (2,)),
                                                           shape) for s in (0, 1)]  # fmt: skip

    def style(image: Tensor, s: int, name: str) -> tuple[Tensor, Tensor]:
        """Sampled z, and its divergence."""
        mean, log_var = attribute(w["Ea"], image, s, model.concat)
        if log_var is None:
            return mean, mean.square().mean()
        sigma = log_var.exp().sqrt()
        divergence = 0.5 * (mean**2 + sigma**2 - 1 - log_var)
        return mean + sigma * gauss(f"eps_{name}{'ab'[s]}"), divergence.sum() / 3

    def g(c: Tensor, z: Tensor, s: int) -> Tensor:
        return generate(w["G"], c, z, s, model.concat)

    c, z = noisy(x, "content"), [gauss("z0"), *([gauss("z1")] if model.lambda_ms else [])]
    own = [style(x[s], s, "") for s in (0, 1)]
    cross = [g(c[1 - s], own[s][0], s) for s in (0, 1)]
    drawn = [[g(c[1 - s], one, s) for one in z] for s in (0, 1)]
    judge = [content_score(w["Dc"], c[s], model.dc_layers) for s in (0, 1)]
    expected: dict[str, Any] = {"a": bce(judge[0], 0), "b": bce(judge[1], 1)}
    close(dc, expected)
    same_slopes(dc, expected, w["Dc"])
    expected = {}
    for s, n in enumerate("ab"):
        expected[f"{n}_real"] = bce(scores(w[f"D{n}"], x[s]), 1)
        expected[f"{n}_fake"] = bce(scores(w[f"D{n}"], cross[s]), 0)
        # A real image for each latent.
        expected[f"{n}2_real"] = sum(bce(scores(w[f"R{n}"], other[s]), 1) for _ in z)
        expected[f"{n}2_fake"] = sum(bce(scores(w[f"R{n}"], fake), 0) for fake in drawn[s])
    close(d, expected)
    same_slopes(d, expected, w["Da"], w["Db"], w["Ra"], w["Rb"])
    back = noisy(cross, "back")
    again = [g(back[1 - s], style(cross[s], s, "back_")[0], s) for s in (0, 1)]
    copies = [g(c[s], own[s][0], s) for s in (0, 1)]
    expected = {
        "gan_a": bce(scores(w["Da"], cross[0]), 1),
        "gan_b": bce(scores(w["Db"], cross[1]), 1),
        "content": bce(judge[0], 0.5) + bce(judge[1], 0.5),
        "cyc": 10 * sum((again[s] - x[s]).abs().mean() for s in (0, 1)),
        "rec": 10 * sum((copies[s] - x[s]).abs().mean() for s in (0, 1)),
        "kl": 0.01 * (own[0][1] + own[1][1]),
        "l2": 0.01 * (c[0].square().mean() + c[1].square().mean()),
    }
    close(eg, expected)
    same_slopes(eg, expected, w["Ec"], w["Ea"], w["G"])
    copied = [(made - x[1 - s]).abs().mean() for s in (0, 1) for made in (cross[s], drawn[s][0])]
    warm, kept = model.copy_loss(nets, batch, 0), {name: expected[name] for name in ("rec", "kl")}
    close(warm, {**kept, "copy": 10 * sum(copied) / 2})
    same_slopes(warm, {**kept, "copy": 10 * sum(copied) / 2}, w["Ec"], w["Ea"], w["G"])
    means = [attribute(w["Ea"], drawn[s][0], s, model.concat)[0] for s in (0, 1)]
    expected = {
        "gan_a": sum(bce(scores(w["Ra"], image), 1) for image in drawn[0]),
        "gan_b": sum(bce(scores(w["Rb"], image), 1) for image in drawn[1]),
        "latent": 10 * sum((mean - z[0]).abs().mean() for mean in means),
    }
    if model.lambda_ms:
        ratios = [(one - two).abs().mean() / (z[0] - z[1]).abs().mean() for one, two in drawn]
        at = model.ms_clip + 1e-5
        terms = [1 / at - (r + 1e-5 - at) / at**2 if model.ms_clip else 1 / (r + 1e-5)
                 for r in ratios]  # fmt: skip
        expected["ms"] = 0.7 * sum(terms)
    close(alone, expected)
    same_slopes(alone, expected, w["Ec"], w["G"])


def test_the_second_update_has_its_own_forward_pass_and_spares_the_attribute_encoder(
    classes: Path,
) -> None:
    """After the first update its images differ; Ea passes on a gradient and gets none."""
    model = replace(SMALL, d_iter=1, lambda_ms=1.0)
    session = session_of(model, classes)
    nets = session.state.nets
    before = {n: {k: v.clone() for k, v in net.state_dict().items()} for n, net in nets.items()}
    batch = session.order.show(session.draw(0, 0, 0, 0))
    phases = [p for p in session.phases if p.round_robin_index == 0]
    moved = []
    for phase in phases:
        session.update(phase, batch, ("Ec0", "Ea0", "G0") if phase.keep_grad else ())
        moved.append({n for n, net in nets.items() if any(
            not torch.equal(v, before[n][k]) for k, v in net.state_dict().items())})  # fmt: skip
        before = {n: {k: v.clone() for k, v in net.state_dict().items()} for n, net in nets.items()}
    assert moved == [{"Dc0"}, {"Da0", "Db0", "Ra0", "Rb0"}, {"Ec0", "Ea0", "G0"}, {"Ec0", "G0"}]
    # The images that G makes now are not those that the first update shared.
    stale = model.parts(batch.shared["made_a"])[2]
    content_now = model.contents(nets, (batch.image, batch.reference[:, 0]), batch, 0, "content")
    now = nets["G0"](content_now.chunk(2)[1], model.latents(batch)[0], 0)
    assert not torch.allclose(stale, now, atol=1e-6)


def test_two_of_three_iterations_of_a_pair_train_the_content_d_alone(binary: Path) -> None:
    """Pairs take turns; each one's third iteration trains all networks."""
    model = replace(SMALL, d_iter=3)
    session = session_of(model, binary, replace(QUICK, warmup_images=0, batch=2))
    pairs = len(model.pairs(session.job.faces.space))
    due = [[(p.name, p.round_robin_index) for p in session.due(step)[0]]
           for step in range(3 * pairs)]  # fmt: skip
    for step, found in enumerate(due):
        names = ("dc", "d", "eg", "alone") if step >= 2 * pairs else ("dc",)
        assert found == [(name, step % pairs) for name in names]


def test_a_batch_holds_two_different_images_of_each_domain(binary: Path) -> None:
    session = session_of(SMALL, binary)
    faces = Faces.open(binary, "train")
    for index, pair in enumerate(SMALL.pairs(faces.space)):
        batch = session.order.show(session.draw(0, 8, 8, index))
        assert batch.peers is not None
        assert batch.reference is not None
        members = SMALL.domain_masks(faces.parts[0].labels, faces.space, index)
        groups = zip(members, ((batch.image, batch.peers[:, 0]), batch.reference.unbind(1)),
                     strict=True)  # fmt: skip
        for mask, (first, second) in groups:
            known = faces.parts[0].images(mask.nonzero()[:, 0])
            known = {bytes(one.numpy()) for one in torch.cat([known, known.flip(2)])}
            for shown in (first, second):
                pixels = ((shown.permute(0, 2, 3, 1) + 1) * 127.5).round().byte().contiguous()
                assert {bytes(one.numpy()) for one in pixels} <= known
            assert not torch.equal(first, second)
        assert pair.name


def test_optimisers_are_the_published_ones() -> None:
    """Only the content D is clipped; its rate is 1 / 2.5 of the others'."""
    found = DRIT().optim(GENDER)
    assert {name for name, one in found.items() if one.clip} == {"Dc0"}
    assert (found["Dc0"].clip, found["Dc0"].lr) == (5, 4e-5)


def test_msgan_is_drit_with_mode_seeking() -> None:
    assert MSGAN().lambda_ms == 1
    assert DRIT().lambda_ms == 0
    assert {**vars(MSGAN()), "lambda_ms": 0.0} == vars(DRIT())
    for preset in ("yosemite-216", "cat2dog-216", "celeba-216"):
        one, two = (configure.resolve(name, preset) for name in ("drit", "msgan"))
        assert (one.train, one.data) == (two.train, two.data)
        assert vars(two.model) == {**vars(one.model), "lambda_ms": 1.0}


@pytest.mark.parametrize("weight", [0.0, 1.0], ids=["one latent", "two latents"])
def test_ds_that_output_a_half_have_no_lead(weight: float) -> None:
    """Over three scales, and with two latents, whose terms the second Ds sum."""
    model = replace(SMALL, lambda_ms=weight)
    nets, batch = setting(model)
    for name in ("Da0", "Db0", "Ra0", "Rb0"):
        for scale in nets[name].scales:
            torch.nn.init.zeros_(scale[-1].weight)
            torch.nn.init.zeros_(scale[-1].bias)
    means = {f"d/{k}": float(v.detach()) for k, v in model.d_loss(nets, batch, 0).items()}
    (found,) = balance(model, means, 16)
    assert found.value == pytest.approx(0, abs=1e-5)
    # Each of the four Ds' two terms has the same share.
    for name in means:
        (found,) = balance(model, means | {name: 0.0}, 16)
        assert found.value == pytest.approx(1 / 8, abs=1e-5)


def test_mode_seeking_is_the_published_ratio_and_its_tangent_below_the_clip() -> None:
    z = torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 1.0]])  # mean distance 1
    one = torch.zeros(2, 3, 4, 4)

    def term(distance: float, clip: float) -> tuple[float, float]:
        """Value, and slope with respect to the distance."""
        other = torch.full_like(one, distance, requires_grad=True)
        value = mode_seeking((one, other), z, clip)
        (slope,) = torch.autograd.grad(value, other)
        return float(value.detach()), float(slope.sum())

    for distance in (0.5, 0.02):
        value = 1 / (distance + 1e-5)
        assert term(distance, 0.0) == pytest.approx((value, -(value**2)), rel=1e-4)
        assert term(distance, 0.01) == term(distance, 0.0)
    top = 1 / (0.01 + 1e-5)
    for distance in (0.009, 1e-4, 1e-7):  # bounded by twice the value at the clip, never flat
        value, slope = term(distance, 0.01)
        assert value == pytest.approx(top + (0.01 - distance) * top**2, rel=1e-4)
        assert slope == pytest.approx(-(top**2), rel=1e-4)
    assert term(1e-7, 0.0)[0] == pytest.approx(1e5, rel=0.02)
    same = mode_seeking((one, one), z, 0.0)
    assert float(same) == pytest.approx(1e5, rel=1e-3)


def test_the_means_are_taken_over_the_batch_before_the_ratio() -> None:
    first, second = torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 2, 2)
    second[0] = 1.0  # one lively image, one dead
    z = torch.zeros(2, 4), torch.ones(2, 4)
    assert float(mode_seeking((first, second), z, 0.0)) == pytest.approx(2, rel=1e-3)


V2 = StarGANv2(dim=4, max_dim=8, hidden=8)


def v2_setting(model: StarGANv2) -> tuple[dict[str, Any], Batch]:
    torch.manual_seed(3)
    nets: dict[str, Any] = model.networks(GENDER, 16)
    kept: dict[str, Tensor] = {}

    def noise(name: str, shape: tuple[int, ...]) -> Tensor:
        return kept.setdefault(name, torch.rand(3, *shape))

    y = torch.eye(2)[[0, 1, 1]]
    image, reference = torch.rand(3, 3, 16, 16), torch.rand(3, 2, 3, 16, 16)
    return nets, Batch(image, y, y.flip(1), 0, noise, torch.tensor(0.5), reference=reference)


@pytest.mark.parametrize("lambda_ds", [0.0, 1.0])
def test_stargan_v2_takes_mode_seeking_of_its_latents(lambda_ds: float) -> None:
    """Beside or instead of the diversity loss, whose value it leaves; not of references."""
    model = replace(V2, lambda_ms=0.5, lambda_ds=lambda_ds)
    nets, batch = v2_setting(model)
    plain = replace(V2, lambda_ds=lambda_ds).g_loss(nets, batch, latent=True)
    found = model.g_loss(nets, batch, latent=True)
    y, z = batch.target.argmax(1), [normals(batch.noise(f"z{i}", (16,))) for i in (0, 1)]
    images = [nets["G"](batch.image, nets["F"](one, y)) for one in z]
    ratio = (images[0] - images[1]).abs().mean() / (z[0] - z[1]).abs().mean()
    assert ratio > 0.01
    torch.testing.assert_close(found.pop("ms"), 0.5 / (ratio + 1e-5), rtol=1e-3, atol=0)
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[name], plain[name]) for name in plain)
    assert "ms" not in model.g_loss(nets, batch, latent=False)
    assert "ms" not in plain


def test_stargan_v2s_mode_seeking_moves_both_images() -> None:
    """Unlike the diversity loss, which holds the second one fixed."""
    model = replace(V2, lambda_ms=1.0)
    nets, batch = v2_setting(model)
    made: list[Tensor] = []

    def keep(_: Any, given: Any, out: Tensor) -> None:
        if out.requires_grad:
            out.retain_grad()
        made.append(out)

    handle = nets["G"].register_forward_hook(keep)
    model.g_loss(nets, batch, latent=True)["ms"].backward()
    handle.remove()
    slopes = [image.grad for image in made[:2]]
    assert slopes[0] is not None
    torch.testing.assert_close(slopes[0], -slopes[1])  # type: ignore[operator]
    assert slopes[0].abs().sum() > 0


def still(model: DRIT, space: LabelSpace) -> tuple[dict[str, Any], list[tuple[str, Tensor]]]:
    """Networks, and a record of the attributes that each G gets."""
    torch.manual_seed(7)
    nets: dict[str, Any] = model.networks(space, 16)
    seen: list[tuple[str, Tensor]] = []
    for name, net in nets.items():
        net.eval()
        if name.startswith("G"):
            net.register_forward_pre_hook(
                lambda _, given, name=name: seen.append((f"{name[1:]}{'ab'[given[2]]}", given[1]))
            )
    return nets, seen


@pytest.mark.parametrize("model", [SMALL, replace(SMALL, concat=False)], ids=["concat", "feature"])
@torch.no_grad()
def test_an_edit_takes_its_attribute_from_a_seed_or_a_reference(model: DRIT) -> None:
    """Black-haired woman to blond man: both pairs; each row with its own reference's mean."""
    nets, seen = still(model, CELEBA)
    x, style = torch.rand(2, 2, 3, 16, 16) * 2 - 1
    source = torch.tensor([[0.0, 1, 0, 1, 1], [1.0, 0, 0, 0, 1]])
    target = torch.tensor([[0.0, 1, 0, 1, 1], [0.0, 1, 0, 1, 1]])
    plain = model.translate(nets, x, source, target)
    assert [place for place, _ in seen] == ["0b", "3a"]  # pair 3: male, then not male
    assert all(torch.equal(z, fixed_latent(x[1:], 2)) for _, z in seen)
    assert torch.equal(plain[0], x[0])
    content_of = nets["Ec0"](x[1:], 0)
    first = nets["G0"](content_of, fixed_latent(x[1:], 2), 1)
    torch.testing.assert_close(plain[1:], nets["G3"](nets["Ec3"](first, 1), seen[0][1], 0))
    seen.clear()
    other = model.translate(nets, x, source, target, EditOptions(seed=4))
    assert all(torch.equal(z, fixed_latent(x[1:], 2, 4)) for _, z in seen)
    assert not torch.equal(other[1], plain[1])
    seen.clear()
    both = model.translate(nets, x, source, target, EditOptions(seed=(9, 4)))  # one for each row
    assert torch.equal(both, other)
    seen.clear()
    styled = model.translate(nets, x, source, target, EditOptions(reference=style))
    assert styled.shape == x.shape
    for (place, z), side in zip(seen, (1, 0), strict=True):
        torch.testing.assert_close(z, nets[f"Ea{place[0]}"](style[1:], side)[:, :2])
    with pytest.raises(ValueError, match="give the labels of the picture"):
        model.translate(nets, x, None, target)


@torch.no_grad()
def test_self_reconstruction_stays_in_a_domain_of_the_image_with_its_own_attribute() -> None:
    nets, seen = still(SMALL, CELEBA)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    own = torch.tensor([[0.0, 1, 0, 0, 1], [0, 0, 0, 1, 0]])  # blond; neither colour, male
    back = SMALL.reconstruct(nets, x, own)
    assert [place for place, _ in seen] == ["0b", "3a"]
    for row, (k, side) in enumerate(((0, 1), (3, 0))):
        one = x[row : row + 1]
        z = nets[f"Ea{k}"](one, side)[:, :2]
        torch.testing.assert_close(
            back[row : row + 1], nets[f"G{k}"](nets[f"Ec{k}"](one, side), z, side)
        )
    assert torch.equal(SMALL.translate(nets, x, own, own), x)


def test_a_g_that_ignores_its_attribute_is_reported() -> None:
    nets, _ = still(SMALL, GENDER)
    x, target = torch.rand(2, 3, 16, 16), torch.eye(2)
    (found,) = SMALL.diagnostics(nets, x, target)
    assert found.value > 0
    nets["G0"].forward = lambda c, z, side: c[:, :3]
    (found,) = SMALL.diagnostics(nets, x, target)
    assert found.bad
    assert "ignores the attribute" in found.says

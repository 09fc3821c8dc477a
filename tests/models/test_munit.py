"""MUNIT against the paper: sizes, reimplemented networks and losses, styles, pairs."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from training.data.batch import Batch
from training.data.labels import LabelSet, LabelSpace
from training.evaluation.diagnostics import balance
from training.models import configure
from training.models.base import EditOptions
from training.models.kernels import ToImage
from training.models.layers import normal
from training.models.munit import MUNIT, LayerNorm
from training.models.styles import fixed_latent

GENDER = LabelSpace((LabelSet("faces", "onehot", ("female", "male")),))
HAIR = LabelSpace((LabelSet("celeba", "binary", ("Black_Hair", "Blond_Hair", "Male"),
                            (("Black_Hair", "Blond_Hair"),)),))  # fmt: skip
SMALL = MUNIT(dim=4, blocks=2, style_dim=3, hidden=5, d_dim=4, d_layers=2, d_scales=3,
              lambda_rec=11, lambda_sty=2, lambda_con=3, lambda_cyc=7)  # fmt: skip


def count(net: Any) -> int:
    return sum(p.numel() for p in net.parameters())


def test_parameter_counts_are_the_golden_ones() -> None:
    """Of one domain, and of a pair."""
    with torch.device("meta"):
        nets: dict[str, Any] = MUNIT().networks(GENDER, 256)
    mlp = count(nets["Ga0"].mlp)
    found = {n: count(nets[f"{n}0"]) for n in ("Ca", "Sa", "Ga", "Da")}
    assert (mlp, found["Ga"] - mlp) == (1_120_768, 5_754_627)
    assert (found["Ca"], found["Sa"], found["Da"]) == (5_385_856, 2_764_936, 8_271_171)
    assert [count(net) for net in nets["Da0"].scales] == [2_757_057] * 3
    assert sum(map(count, nets.values())) == 46_594_716


@pytest.mark.parametrize(
    ("size", "maps", "giga"),
    [
        (256, [16, 8, 4], (24.24, 6.25, 46.79, 2.18)),
        (128, [8, 4, 2], (6.06, 1.56, 11.70, 0.55)),
        (64, [4, 2, 1], (1.51, 0.39, 2.92, 0.14)),
    ],
)
def test_score_maps_and_multiplications_are_the_golden_ones(
    size: int, maps: list[int], giga: tuple[float, ...]
) -> None:
    """An image through content encoder, style encoder, decoder and D, in 1e9."""
    with torch.device("meta"):
        nets: dict[str, Any] = MUNIT().networks(GENDER, size)
        x = torch.empty(1, 3, size, size)
        content, style = nets["Ca0"](x), nets["Sa0"](x)
    assert content.shape == (1, 256, size // 4, size // 4)
    assert style.shape == (1, 8)
    assert [tuple(one.shape) for one in nets["Da0"](x)] == [(1, 1, side, side) for side in maps]
    runs = (("Ca0", (x,)), ("Sa0", (x,)), ("Ga0", (content, style)), ("Da0", (x,)))
    found = []
    with ToImage.as_published():
        for name, given in runs:
            with FlopCounterMode(display=False) as counter:
                nets[name](*given)
            found.append(counter.get_total_flops() / 2e9)
    assert found == pytest.approx(giga, abs=0.006)


W = dict[str, Tensor]


def reflected(x: Tensor, by: int) -> Tensor:
    n = x.shape[2]
    rows = [*range(by, 0, -1), *range(n), *range(n - 2, n - 2 - by, -1)]
    return x[:, :, rows][:, :, :, rows]


def conv(w: W, name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = w[f"{name}.weight"]
    by = (weight.shape[2] - 1) // 2
    return F.conv2d(reflected(x, by), weight, w[f"{name}.bias"], stride)


def standard(x: Tensor) -> Tensor:
    """Instance norm."""
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) / ((x - mean).square().mean((2, 3), keepdim=True) + 1e-5).sqrt()


def layer_norm(w: W, name: str, x: Tensor) -> Tensor:
    rows = []
    for one in x:
        n = one.numel()
        mean = one.sum() / n
        std = ((one - mean).square().sum() / (n - 1)).sqrt()
        z = (one - mean) / (std + 1e-5)
        rows.append(w[f"{name}.weight"][:, None, None] * z + w[f"{name}.bias"][:, None, None])
    return torch.stack(rows)


def content(w: W, x: Tensor) -> Tensor:
    for place, stride in ((0, 1), (3, 2), (6, 2)):
        x = standard(conv(w, f"main.{place}", x, stride)).clamp_min(0)
    for place in (9, 10):
        h = reflected(x, 1)
        h = F.conv2d(h, w[f"main.{place}.body.1.weight"], w[f"main.{place}.body.1.bias"])
        h = reflected(standard(h).clamp_min(0), 1)
        h = F.conv2d(h, w[f"main.{place}.body.5.weight"], w[f"main.{place}.body.5.bias"])
        x = x + standard(h)
    return x


def style(w: W, x: Tensor) -> Tensor:
    """Without norms; four halvings."""
    for place, stride in ((0, 1), (2, 2), (4, 2), (6, 2), (8, 2)):
        x = conv(w, f"main.{place}", x, stride).clamp_min(0)
    return x.mean((2, 3)) @ w["main.11.weight"][:, :, 0, 0].T + w["main.11.bias"]


def decode(w: W, x: Tensor, s: Tensor) -> Tensor:
    """The map's numbers are, norm after norm, a mean for each channel, then a std."""
    for place in (0, 2):
        s = (s @ w[f"mlp.{place}.weight"].T + w[f"mlp.{place}.bias"]).clamp_min(0)
    numbers = (s @ w["mlp.4.weight"].T + w["mlp.4.bias"])[:, :, None, None]
    c = x.shape[1]
    assert numbers.shape[1] == 2 * 2 * 2 * c  # blocks, norms, mean and std
    for block in range(2):
        h = x
        for norm, name in enumerate(("first", "second")):
            at = (2 * block + norm) * 2 * c
            mean, std = numbers[:, at : at + c], numbers[:, at + c : at + 2 * c]
            h = std * standard(conv(w, f"blocks.{block}.{name}", h)) + mean
            if norm == 0:
                h = h.clamp_min(0)
        x = x + h
    for place in (1, 5):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = layer_norm(w, f"main.{place + 1}", conv(w, f"main.{place}", x)).clamp_min(0)
    return torch.tanh(conv(w, "main.9", x))


def judge(w: W, x: Tensor) -> list[Tensor]:
    """Three scales; each halving is the mean of the up to 3 × 3 pixels inside of the image."""
    out = []
    for scale in range(3):
        if scale:
            ones = torch.ones(3, 1, 3, 3)
            inside = F.conv2d(torch.ones_like(x), ones, None, 2, 1, groups=3)
            x = F.conv2d(x, ones, None, 2, 1, groups=3) / inside
        h = x
        for place in (0, 2):
            h = conv(w, f"scales.{scale}.{place}", h, 2)
            h = torch.where(h > 0, h, 0.2 * h)
        out.append(conv(w, f"scales.{scale}.4", h))
    return out


def l1(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).abs().mean()


def setup(size: int = 16) -> tuple[dict[str, Any], Batch, dict[str, Tensor]]:
    """Networks with layer norms of weights of their own, a batch, and the noise asked for."""
    torch.manual_seed(0)
    nets = SMALL.networks(GENDER, size)
    for net in nets.values():
        for layer in net.modules():
            if isinstance(layer, LayerNorm):
                torch.nn.init.normal_(layer.bias)
    kept: dict[str, Tensor] = {}

    def noise(name: str, shape: tuple[int, ...]) -> Tensor:
        assert name not in kept
        return kept.setdefault(name, torch.rand(3, *shape))

    a, b = (torch.rand(3, 3, size, size) * 2 - 1 for _ in range(2))
    none = torch.zeros(3, 2)
    return dict(nets), Batch(a, none, none, 0, noise, torch.zeros(()), b[:, None]), kept


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)


def same_slopes(found: Tensor, expected: Tensor, weights: list[Tensor]) -> None:
    """Nothing is detached that the paper's formulas do not detach, and the other way round."""
    ours, theirs = (torch.autograd.grad(loss, weights) for loss in (found, expected))
    for one, two in zip(ours, theirs, strict=True):
        assert two.abs().max() > 0
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4 * float(two.abs().max()))


def test_every_loss_term_of_d_equals_the_papers() -> None:
    nets, batch, kept = setup()
    w: dict[str, W] = {n: dict(net.named_parameters()) for n, net in nets.items()}
    assert batch.reference is not None
    a, b = batch.image, batch.reference[:, 0]
    found = SMALL.d_loss(nets, batch, 0)
    assert list(kept) == ["d_a", "d_b"]
    with torch.no_grad():
        fake_a = decode(w["Ga0"], content(w["Cb0"], b), normal(kept["d_a"]))
        fake_b = decode(w["Gb0"], content(w["Ca0"], a), normal(kept["d_b"]))
    expected = {}
    for side, real, fake in (("a", a, fake_a), ("b", b, fake_b)):
        d = w[f"D{side}0"]
        expected[f"{side}_real"] = sum((s - 1).square().mean() for s in judge(d, real))
        expected[f"{side}_fake"] = sum(s.square().mean() for s in judge(d, fake))
    close(found, expected)  # type: ignore[arg-type]
    weights = [p for n in ("Da0", "Db0") for p in w[n].values()]
    same_slopes(sum(found.values()), sum(expected.values()), weights)  # type: ignore[arg-type]


def test_every_loss_term_of_the_auto_encoders_equals_the_papers() -> None:
    """And its gradients; with styles of its own, not those that D's step drew."""
    nets, batch, kept = setup()
    w: dict[str, W] = {n: dict(net.named_parameters()) for n, net in nets.items()}
    assert batch.reference is not None
    a, b = batch.image, batch.reference[:, 0]
    found = SMALL.g_loss(nets, batch, 0)
    assert list(kept) == ["g_a", "g_b"]
    z_a, z_b = normal(kept["g_a"]), normal(kept["g_b"])
    c_a, c_b, s_a, s_b = (content(w["Ca0"], a), content(w["Cb0"], b), style(w["Sa0"], a),
                          style(w["Sb0"], b))  # fmt: skip
    x_ba, x_ab = decode(w["Ga0"], c_b, z_a), decode(w["Gb0"], c_a, z_b)
    aba, bab = (
        decode(w["Ga0"], content(w["Cb0"], x_ab), s_a),
        decode(w["Gb0"], content(w["Ca0"], x_ba), s_b),
    )
    expected = {
        "gan_ab": sum((s - 1).square().mean() for s in judge(w["Db0"], x_ab)),
        "gan_ba": sum((s - 1).square().mean() for s in judge(w["Da0"], x_ba)),
        "rec": 11 * (l1(decode(w["Ga0"], c_a, s_a), a) + l1(decode(w["Gb0"], c_b, s_b), b)),
        "sty": 2 * (l1(style(w["Sa0"], x_ba), z_a) + l1(style(w["Sb0"], x_ab), z_b)),
        "con": 3 * (l1(content(w["Ca0"], x_ba), c_b) + l1(content(w["Cb0"], x_ab), c_a)),
        "cyc": 7 * (l1(aba, a) + l1(bab, b)),
    }
    close(found, expected)  # type: ignore[arg-type]
    # A convolution's bias before an instance norm has no slope but rounding.
    weights = [p for n in ("Ca0", "Cb0", "Sa0", "Sb0", "Ga0", "Gb0") for k, p in w[n].items()
               if k.endswith("weight")]  # fmt: skip
    same_slopes(sum(found.values()), sum(expected.values()), weights)  # type: ignore[arg-type]
    batch = setup()[1]
    plain = replace(SMALL, lambda_cyc=0).g_loss(nets, batch, 0)
    assert plain.keys() == found.keys() - {"cyc"}


def test_the_warm_up_copies_with_the_own_style_and_with_a_random_one_of_the_other_domain() -> None:
    nets, batch, kept = setup()
    w: dict[str, W] = {n: dict(net.named_parameters()) for n, net in nets.items()}
    assert batch.reference is not None
    found = SMALL.copy_loss(nets, batch, 0)
    rec, copy = torch.zeros(()), torch.zeros(())
    for side, other, x in (("a", "b", batch.image), ("b", "a", batch.reference[:, 0])):
        code = content(w[f"C{side}0"], x)
        rec = rec + l1(decode(w[f"G{side}0"], code, style(w[f"S{side}0"], x)), x)
        copy = copy + l1(decode(w[f"G{other}0"], code, normal(kept[f"g_{other}"])), x)
    close(found, {"rec": 11 * rec, "copy": 11 * copy})


def test_a_decoder_keeps_nothing_of_an_earlier_style() -> None:
    """Each row has the style given with it, in any order and company."""
    nets, _, _ = setup()
    g = nets["Ga0"]
    c, s = torch.randn(1, 16, 4, 4).expand(3, -1, -1, -1), torch.randn(3, 3)
    with torch.no_grad():
        together = g(c, s)
        for row in (2, 0, 1):
            torch.testing.assert_close(g(c[:1], s[row : row + 1])[0], together[row], rtol=1e-4,
                                       atol=1e-5)  # fmt: skip
    assert (together[0] - together[1]).abs().max() > 1e-3
    assert not list(g.buffers())


def test_layer_norm_divides_by_the_unbiased_std_and_a_constant_map_has_a_slope() -> None:
    """Few values, so that n − 1 for n shows; the 1e-5 is beside the root, not in it."""
    norm = LayerNorm(2)
    x = torch.tensor([[[[1.0, 2.0]], [[3.0, 6.0]]]])
    std = (((x - 3) ** 2).sum() / 3).sqrt()
    expected = norm.weight[:, None, None] * (x - 3) / (std + 1e-5)
    torch.testing.assert_close(norm(x), expected)
    narrow = x * 1e-5
    expected = norm.weight[:, None, None] * (x - 3) / (std + 1)
    torch.testing.assert_close(norm(narrow), expected, rtol=1e-3, atol=1e-6)
    constant = torch.full((1, 2, 4, 4), 0.5, requires_grad=True)
    norm(constant).sum().backward()
    assert constant.grad is not None
    assert constant.grad.isfinite().all()


def test_layer_norms_start_with_uniform_scales() -> None:
    torch.manual_seed(0)
    low, high = LayerNorm(4096).weight.detach().aminmax()
    assert 0 <= low < 0.01
    assert 0.99 < high < 1


@pytest.mark.parametrize(
    ("scores", "lead", "bad"), [(0.5, 0.0, False), (0.0, -1.0, False), (1.0, 1.0, True)]
)
def test_the_balance_counts_three_scales_of_whole_squares(
    scores: float, lead: float, bad: bool
) -> None:
    """A D that gives ½, or 0, everywhere, and one that is certain of both."""
    certain = scores == 1.0
    real, fake = 3 * (scores - 1) ** 2, 0.0 if certain else 3 * scores**2
    means = {f"d/{side}_{k}": v for side in "ab" for k, v in (("real", real), ("fake", fake))}
    (found,) = balance(MUNIT(), means, 256)
    assert (found.value, found.bad) == (pytest.approx(lead), bad)
    assert SMALL.adversarial.factor == MUNIT().adversarial.factor == pytest.approx(1 / 6)


@pytest.mark.parametrize("preset", ["edges2shoes", "yosemite", "celeba-256"])
def test_the_rate_is_halved_each_100_000_iterations(preset: str) -> None:
    config = configure.resolve("munit", preset)
    train, model = config.train, config.model
    assert (train.batch, train.images, config.data.size) == (1, 1_000_000, 256)
    scales = [model.lr_scale(i, train.images, train.decay_images)
              for i in (0, 99_999, 100_000, 250_000, 999_999)]  # fmt: skip
    assert scales == [1, 1, 0.5, 0.25, 0.5**9]
    assert model.lambda_cyc == (0 if preset == "edges2shoes" else 10)
    weights = (model.lambda_rec, model.lambda_sty, model.lambda_con)
    assert weights == (10, 1, 1)


def test_each_pair_of_domains_has_auto_encoders_of_its_own() -> None:
    """Hair colour and gender; three classes have three pairs."""
    names = {f"{part}{side}{k}" for part in "CSGD" for side in "ab" for k in (0, 1)}
    assert set(SMALL.networks(HAIR, 16)) == names == set(SMALL.optim(HAIR))
    three = LabelSpace((LabelSet("rafd", "onehot", ("angry", "happy", "sad")),))
    assert len(SMALL.networks(three, 16)) == 3 * 8
    assert [p.round_robin_index for p in SMALL.phases(three)] == [0, 0, 1, 1, 2, 2]
    trained = {name for phase in SMALL.phases(HAIR) for name in phase.trains}
    assert trained == names


def recorded(nets: dict[str, Any]) -> list[tuple[str, list[float]]]:
    """Calls of networks that add 1 to the image; a style is the reference's mean; by rows."""
    calls: list[tuple[str, list[float]]] = []
    for name, net in nets.items():

        def forward(x: Tensor, s: Tensor | None = None, name: str = name) -> Tensor:
            given = x if s is None else s
            calls.append((name, given.flatten(1).mean(1).tolist()))
            if name[0] == "S":
                return given.flatten(1).mean(1, keepdim=True)
            return x + 1 if name[0] == "G" else x

        net.forward = forward
    return calls


def test_an_edits_styles_are_those_of_each_rows_own_reference() -> None:
    """Of three rows, two cross the hair's pair in opposite directions, two that of gender."""
    nets: dict[str, Any] = dict(SMALL.networks(HAIR, 16))
    calls = recorded(nets)
    source = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 1]])
    target = torch.tensor([[0.0, 1, 1], [1, 0, 0], [1, 0, 0]])
    x = torch.zeros(3, 3, 16, 16)
    reference = torch.arange(1.0, 4)[:, None, None, None].expand_as(x)
    out = SMALL.translate(nets, x, source, target, EditOptions(reference=reference))
    assert out.amax((1, 2, 3)).tolist() == [2, 1, 1]
    # The pair of Male is 1: a is Male, b is its absence.
    assert [call for call in calls if call[0][0] != "C"] == [
        ("Sb0", [1]), ("Gb0", [1]), ("Sa0", [2]), ("Ga0", [2]),
        ("Sb1", [3]), ("Gb1", [3]), ("Sa1", [1]), ("Ga1", [1]),
    ]  # fmt: skip
    assert [name for name, _ in calls if name[0] == "C"] == ["Ca0", "Cb0", "Ca1", "Cb1"]
    with pytest.raises(ValueError, match="give the labels of the picture"):
        SMALL.translate(nets, x, None, target)


def test_a_seed_is_a_style_and_the_default_is_seed_0() -> None:
    """The same numbers for every image, whatever is edited beside it."""
    nets, batch, _ = setup()
    x = batch.image
    female, male = torch.eye(2)[[0, 0, 0]], torch.eye(2)[[1, 1, 1]]
    with torch.no_grad():
        for seed in (0, 7):
            style = fixed_latent(x, 3, seed)
            assert torch.equal(style[0], style[2])
            expected = nets["Gb0"](nets["Ca0"](x), style)
            found = SMALL.translate(nets, x, female, male, EditOptions(seed=seed))
            assert torch.equal(found, expected)
        assert not torch.equal(found, SMALL.translate(nets, x, female, male))
        first = SMALL.translate(nets, x, female, male, EditOptions(seed=0))
        assert torch.equal(first, SMALL.translate(nets, x, female, male))
        assert torch.equal(SMALL.translate(nets, x, male, male, EditOptions(seed=7)), x)


def test_self_reconstruction_is_the_auto_encoder_of_the_images_domain() -> None:
    nets, batch, _ = setup()
    x, labels = batch.image, torch.eye(2)[[0, 1, 1]]
    with torch.no_grad():
        found = SMALL.reconstruct(nets, x, labels)
        for row, side in enumerate("abb"):
            c, s = (nets[f"{part}{side}0"](x[row : row + 1]) for part in "CS")
            torch.testing.assert_close(found[row], nets[f"G{side}0"](c, s)[0])


def test_the_validation_score_is_that_of_the_way_back_with_the_own_style() -> None:
    nets, batch, _ = setup()
    labels = torch.eye(2)[[0, 0, 0]]
    held = replace(batch, source=labels, target=1 - labels)
    with torch.no_grad():
        x = batch.image
        there = nets["Gb0"](nets["Ca0"](x), fixed_latent(x, 3))
        back = nets["Ga0"](nets["Cb0"](there), nets["Sa0"](x))
        assert float(SMALL.validate(nets, held, GENDER)) == pytest.approx(-float(l1(back, x)))


@pytest.mark.parametrize(
    ("model", "size", "message"),
    [(MUNIT(), 32, "at least 64"), (MUNIT(), 66, "a multiple of 4"), (SMALL, 12, "at least 16")],
)
def test_unsupported_sizes_are_refused(model: MUNIT, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.networks(GENDER, size)


@pytest.mark.parametrize(("model", "size"), [(MUNIT(), 64), (MUNIT(d_scales=1), 20)])
def test_the_smallest_size_passes_through_every_network(model: MUNIT, size: int) -> None:
    with torch.device("meta"):
        nets: dict[str, Any] = model.networks(GENDER, size)
        x = torch.empty(1, 3, size, size)
        assert nets["Ga0"](nets["Ca0"](x), nets["Sa0"](x)).shape == x.shape
        assert len(nets["Da0"](x)) == model.d_scales


def test_several_data_sets_are_refused() -> None:
    both = LabelSpace((*HAIR.sets, *GENDER.sets))
    with pytest.raises(ValueError, match="MUNIT takes one data set of attributes or classes"):
        MUNIT().networks(both, 64)

"""AttGAN and STGAN against their papers: sizes, conditioning and reimplemented loss terms."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.batch import Batch
from training.data.labels import LabelSet, LabelSpace
from training.models.attgan import AttGAN
from training.models.stgan import STGAN

THIRTEEN = LabelSet("celeba", "binary", tuple(f"a{i}" for i in range(13)))
CELEBA = LabelSet("celeba", "binary", ("Black_Hair", "Blond_Hair", "Male"))
RAFD = LabelSet("rafd", "onehot", ("angry", "happy"))
SMALL = {"dim": 4, "layers": 3, "d_dim": 4, "d_layers": 2, "d_fc": 8}
ATTGAN = AttGAN(**SMALL)  # type: ignore[arg-type]
STGAN_ = STGAN(**SMALL, shortcut_layers=2, inject_layers=2)  # type: ignore[arg-type]


def count(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("model", "size", "g", "d"),
    [
        (AttGAN(), 128, 43_459_203, 44_718_990),
        (AttGAN(inject_layers=0), 128, 43_352_707, 44_718_990),
        (AttGAN(), 256, 43_459_203, 145_382_286),
        (AttGAN(dim=48, d_dim=48, d_fc=512), 384, 24_508_899, 119_526_574),
        (STGAN(), 128, 74_998_771, 44_718_990),
        (STGAN(dim=48, stu_dim=64, d_dim=48, d_fc=512), 384, 52_040_019, 119_526_574),
    ],
)
def test_parameter_counts_are_the_golden_ones(model: AttGAN, size: int, g: int, d: int) -> None:
    with torch.device("meta"):
        nets = model.networks(LabelSpace((THIRTEEN,)), size)
    assert (count(nets["G"]), count(nets["D"])) == (g, d)


def test_norms_hide_a_colour_cast_from_d() -> None:
    """The same cast on every pixel changes a D without norms five times as much."""
    x, cast = torch.rand(16, 3, 64, 64) * 0.8 - 0.4, torch.tensor([0.3, -0.3, 0.2])
    x = F.interpolate(F.avg_pool2d(x, 8), 64, mode="bilinear")  # smooth, as faces are
    change = {}
    for norms in (True, False):
        torch.manual_seed(0)
        model = AttGAN(dim=8, layers=4, d_dim=16, d_layers=4, d_fc=32, d_norms=norms)
        d = model.networks(LabelSpace((CELEBA,)), 64)["D"]
        with torch.no_grad():
            before, after = (d.main(images) for images in (x, x + cast[:, None, None]))
        change[norms] = float((after - before).norm() / (before - before.mean(0)).norm())
    assert change[False] > 5 * change[True]


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        (STGAN(), (11_148_160, 30_145_280, 33_705_331)),
        (STGAN(dim=48, stu_dim=64), (6_272_160, 25_698_048, 20_069_811)),
    ],
)
def test_stgans_parts_have_the_golden_counts(model: STGAN, parts: tuple[int, ...]) -> None:
    with torch.device("meta"):
        g: Any = model.generator(LabelSpace((THIRTEEN,)))
    assert (count(g.encoder), count(g.stu), count(g.decoder)) == parts


@pytest.mark.parametrize(
    ("more", "units"),
    [({"use_stu": False}, 0), ({"stu_state": "gru"}, 2), ({"stu_state": "direct"}, 2),
     ({"stu_dim": 2}, 2)],
)  # fmt: skip
def test_stgans_variants_differ_and_train(more: dict[str, Any], units: int) -> None:
    """The ablations of the skip connections, starting from the weights of the published form."""
    space = LabelSpace((CELEBA,))
    torch.manual_seed(1)
    nets: dict[str, Any] = STGAN_.networks(space, 16)
    variant = replace(STGAN_, **more)
    torch.manual_seed(1)
    other: dict[str, Any] = variant.networks(space, 16)
    assert len(other["G"].stu) == units
    if "stu_state" in more:
        other["G"].load_state_dict(nets["G"].state_dict())
    batch = batch_of(space, 0)
    plain, found = (n["G"](batch.image, batch.source, batch.target) for n in (nets, other))
    assert not torch.allclose(plain, found)
    terms = variant.g_loss(other, batch, space)
    torch.stack(list(terms.values())).sum().backward()
    slopes = [p.grad for p in other["G"].parameters()]
    idle = [n for n, p in other["G"].named_parameters() if p.grad is None]
    assert not idle
    assert all(torch.isfinite(slope).all() for slope in slopes)


@pytest.mark.parametrize(
    ("more", "size", "message"),
    [
        ({}, 48, "size=48: a multiple of 32"),
        ({}, 32, "at least 64"),
        ({"shortcut_layers": 5}, 128, "shortcut_layers=5: between 0 and"),
    ],
)
def test_unsupported_sizes_and_depths_are_refused(
    more: dict[str, Any], size: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        AttGAN(**more).networks(LabelSpace((THIRTEEN,)), size)


def batch_of(space: LabelSpace, dataset: int) -> Batch:
    torch.manual_seed(3)
    labels = torch.randint(0, 2, (4, 3)).float() if dataset == 0 else torch.eye(2)[[0, 1, 1, 0]]
    alpha = torch.rand(4, 1, 1, 1)
    return Batch(
        torch.rand(4, 3, 16, 16) * 2 - 1,
        space.encode(labels, dataset),
        space.encode(labels[[2, 0, 3, 1]], dataset),
        dataset,
        lambda name, shape: alpha,
        0.0,
    )


def norm(x: Tensor, w: dict[str, Tensor], name: str, axes: tuple[int, ...], eps: float) -> Tensor:
    mean, var = x.mean(axes, keepdim=True), x.var(axes, unbiased=False, keepdim=True)
    scale, shift = w[f"{name}.weight"], w[f"{name}.bias"]
    return (x - mean) / (var + eps).sqrt() * scale[:, None, None] + shift[:, None, None]


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def planes(labels: Tensor, like: Tensor) -> Tensor:
    return labels[:, :, None, None] * torch.ones(1, 1, *like.shape[2:])


def encode(w: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    out = []
    for i in range(3):
        x = F.conv2d(x, w[f"encoder.layers.{i}.0.weight"], None, 2, 1)
        x = leaky(norm(x, w, f"encoder.layers.{i}.1", (0, 2, 3), 1e-3))
        out.append(x)
    return out


def decode(w: dict[str, Tensor], z: list[Tensor], b: Tensor, depth: int) -> Tensor:
    x = torch.cat([z[2], planes(b, z[2])], 1)
    for i in range(3):
        name = f"decoder.layers.{i}.0"
        x = F.conv_transpose2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), 2, 1)
        if i == 2:
            return torch.tanh(x)
        x = norm(x, w, f"decoder.layers.{i}.1", (0, 2, 3), 1e-3).clamp_min(0)
        if i < depth:
            x = torch.cat([x, z[1 - i], planes(b, x)], 1)
    raise AssertionError


def critic(w: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    for i in (0, 3):
        x = F.conv2d(x, w[f"main.{i}.weight"], None, 2, 1)
        x = leaky(norm(x, w, f"main.{i + 1}", (2, 3), 1e-6))  # slim's ε
    x = x.flatten(1)
    heads = []
    for head in ("src", "cls"):
        h = leaky(x @ w[f"{head}.0.weight"].T + w[f"{head}.0.bias"])
        heads.append(h @ w[f"{head}.2.weight"].T + w[f"{head}.2.bias"])
    return heads[0], heads[1]


def edited(w: dict[str, Tensor], x: Tensor, a: Tensor, b: Tensor, name: str) -> Tensor:
    """G(x, b) of one data set, as the papers write it; a, b in {0, 1}."""
    z = encode(w, x)
    if name == "attgan":
        return decode(w, z, 2 * b - 1, 1)
    diff, state, skips = b - a, z[2], [*z]
    for i in range(2):  # selective transfer units, innermost first
        f, unit = z[1 - i], f"stu.{i}"
        both = torch.cat([state, planes(diff, state)], 1)
        s = F.conv_transpose2d(both, w[f"{unit}.up.weight"], w[f"{unit}.up.bias"], 2, 1)

        def conv(x: Tensor, name: str, unit: str = unit) -> Tensor:
            return F.conv2d(x, w[f"{unit}.{name}.weight"], w[f"{unit}.{name}.bias"], 1, 1)

        r = torch.sigmoid(conv(torch.cat([f, s], 1), "reset"))
        gate = torch.sigmoid(conv(torch.cat([f, s], 1), "update"))
        state = r * s
        h = torch.tanh(conv(torch.cat([f, state], 1), "hidden"))
        skips[1 - i] = (1 - gate) * s + gate * h
    return decode(w, skips, diff, 2)


@pytest.mark.parametrize("name", ["attgan", "stgan"])
def test_every_loss_term_equals_the_papers(name: str) -> None:
    model = ATTGAN if name == "attgan" else STGAN_
    space = LabelSpace((CELEBA,))
    torch.manual_seed(1)
    nets, batch = model.networks(space, 16), batch_of(space, 0)
    g, d = (nets[n].state_dict() for n in "GD")
    x, a, b = batch.image, batch.source, batch.target
    fake, again = edited(g, x, a, b, name), edited(g, x, a, a, name)
    alpha = batch.noise("alpha", (1, 1, 1))
    mixed = (alpha * x + (1 - alpha) * fake).requires_grad_(True)
    (slope,) = torch.autograd.grad(critic(d, mixed)[0].sum(), mixed)
    bce = F.binary_cross_entropy
    expected = {
        "real": -critic(d, x)[0].mean(),
        "fake": critic(d, fake)[0].mean(),
        "cls": bce(critic(d, x)[1].sigmoid(), a),
        "gp": 10 * ((slope.pow(2).sum((1, 2, 3)).sqrt() - 1) ** 2).mean(),
    }
    close(model.d_loss(nets, batch, space), expected)
    expected = {
        "fake": -critic(d, fake)[0].mean(),
        "cls": 10 * bce(critic(d, fake)[1].sigmoid(), b),
        "rec": 100 * (again - x).abs().mean(),
    }
    close(model.g_loss(nets, batch, space), expected)


@pytest.mark.parametrize("model", [ATTGAN, STGAN_], ids=["attgan", "stgan"])
def test_on_images_of_little_contrast_the_critic_has_the_published_epsilon(model: AttGAN) -> None:
    """There the scores are those of ε = 1e-6, not those of torch's 1e-5."""
    space = LabelSpace((CELEBA,))
    torch.manual_seed(1)
    d = model.networks(space, 16)["D"]
    x = 0.002 * torch.randn(2, 3, 16, 16)
    wanted = critic(d.state_dict(), x)
    torch.testing.assert_close(d(x), wanted, rtol=1e-4, atol=1e-5)
    for layer in d.modules():
        if isinstance(layer, torch.nn.GroupNorm):
            layer.eps = 1e-5
    assert not torch.allclose(d(x)[0], wanted[0], rtol=0.01)


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("model", [ATTGAN, STGAN_], ids=["attgan", "stgan"])
def test_a_label_of_another_data_set_is_unknown_not_absent(model: AttGAN) -> None:
    """c̃ of faces: expressions 0; of a target from another set: its own part alone."""
    space = LabelSpace((CELEBA, RAFD))
    g: Any = model.generator(space)
    face = space.encode(torch.tensor([[1.0, 0.0, 1.0]]), 0)
    happy = space.encode(torch.tensor([[0.0, 1.0]]), 1)
    assert g.signed(face).tolist() == [[1, -1, 1, 0, 0, 1, 0]]
    assert g.signed(happy).tolist() == [[0, 0, 0, -1, 1, 0, 1]]
    assert g.signed.edited(face, happy).tolist() == [[False] * 4 + [True] + [False] * 2]
    if isinstance(model, STGAN):
        assert g.difference(face, face, 2.0).tolist() == [[0, 0, 0, 0, 0, 1, 0]]


def test_the_label_difference_at_test_time_is_one_and_a_half() -> None:
    """b − a is in {−1, 0, 1} in training and ±1.5 with test_int 2."""
    g: Any = STGAN_.generator(LabelSpace((CELEBA,)))
    a, b = torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[0.0, 1.0, 1.0]])
    assert g.difference(a, b, 1.0).tolist() == [[-1, 1, 0]]
    assert g.difference(a, b, 2.0).tolist() == [[-1.5, 1.5, 0]]


def test_only_the_requested_label_is_scaled() -> None:
    """Blond hair is added at 2, black hair removed as in training; removing a label also counts."""
    hair = LabelSet("celeba", "binary", CELEBA.names, (CELEBA.names[:2],))
    space = LabelSpace((hair, RAFD))
    a = space.encode(torch.tensor([[1.0, 0, 1], [0, 1, 1]]), 0)
    b = space.encode(torch.tensor([[0.0, 1, 1], [0, 1, 0]]), 0)
    g: Any = STGAN_.generator(space)
    assert g.difference(a, b, 2.0)[:, :3].tolist() == [[-1, 1.5, 0], [0, 0, -1.5]]
    labels_seen: list[Tensor] = []
    g = ATTGAN.generator(space)
    g.decoder.forward = lambda image, features, labels: labels_seen.append(labels)
    g(torch.zeros(2, 3, 16, 16), a, b, 2.0)
    assert labels_seen[0][:, :3].tolist() == [[-1, 2, 1], [-1, 1, -2]]
    angry, happy = (space.encode(row[None], 1) for row in torch.eye(2))
    assert g.signed.requested(angry, happy).tolist() == [[False] * 4 + [True] + [False] * 2]


@pytest.mark.parametrize(("before", "after"), [(0.0, 0.2), (0.0, 0.5), (0.6, 0.3), (0.5, 1.0)])
def test_an_intensity_scales_the_change_of_a_label_with_degrees(
    before: float, after: float
) -> None:
    """Also to one half, which is 0 in ±1, and below it; at 1 it is the target."""
    space = LabelSpace((LabelSet("units", "continuous", ("AU12", "AU06")),))
    a, b = (torch.tensor([[value, 0.4]]) for value in (before, after))
    g: Any = STGAN_.generator(space)
    for intensity in (1.0, 2.0):
        wanted = torch.tensor([[intensity * (after - before), 0.0]])
        torch.testing.assert_close(g.difference(a, b, intensity), wanted)
        scaled = g.signed.scaled(a, b, intensity)
        torch.testing.assert_close(scaled, g.signed(a) + 2 * wanted)
    assert g.signed.edited(a, b).tolist() == [[True, False]]


def test_schedules_are_the_published_ones() -> None:
    assert [AttGAN().lr_scale(i, 60, 30) for i in (0, 30, 45, 60)] == [1, 1, 0.5, 0]
    assert [STGAN().lr_scale(i, 200, 100) for i in (0, 99, 100, 199)] == [1, 1, 0.1, 0.1]
    phases = AttGAN().phases(LabelSpace((THIRTEEN,)))
    assert [(p.name, p.every, p.new_batch) for p in phases] == [("d", 1, False), ("g", 5, True)]


def test_running_statistics_do_not_change_in_evaluation_mode() -> None:
    space = LabelSpace((CELEBA,))
    nets, batch = ATTGAN.networks(space, 16), batch_of(space, 0)
    before = {k: v.clone() for k, v in nets["G"].state_dict().items()}
    nets["G"].eval()
    ATTGAN.translate(nets, batch.image, batch.source, batch.target)
    assert all((before[k] == v).all() for k, v in nets["G"].state_dict().items())
    nets["G"].train()
    ATTGAN.g_loss(nets, batch, space)
    moved = {k for k, v in nets["G"].state_dict().items() if not (before[k] == v).all()}
    assert moved
    assert all("running" in k or "tracked" in k for k in moved)

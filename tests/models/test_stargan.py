"""StarGAN against the paper: sizes, loss terms, schedule."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.batch import Batch
from training.data.labels import LabelSet, LabelSpace
from training.models.stargan import StarGAN

CELEBA = LabelSet("celeba", "binary", ("Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Young"))
FACES = ("angry", "contemptuous", "disgusted", "fearful", "happy", "neutral", "sad", "surprised")
RAFD = LabelSet("rafd", "onehot", FACES)


def count(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("sets", "size", "g", "d"),
    [
        ((CELEBA,), 128, 8_430_528, 44_762_048),
        ((RAFD,), 128, 8_439_936, 44_786_624),
        ((CELEBA, RAFD), 128, 8_461_888, 44_827_584),
        ((CELEBA,), 256, 8_430_528, 44_884_928),
        ((RAFD,), 256, 8_439_936, 44_983_232),
        ((CELEBA, RAFD), 256, 8_461_888, 45_147_072),
    ],
)
def test_parameter_counts_are_the_golden_ones(
    sets: tuple[LabelSet, ...], size: int, g: int, d: int
) -> None:
    with torch.device("meta"):
        nets = StarGAN().networks(LabelSpace(sets), size)
    assert (count(nets["G"]), count(nets["D"])) == (g, d)


@pytest.mark.parametrize(("size", "patch"), [(128, 2), (256, 4)])
def test_the_critic_scores_patches(size: int, patch: int) -> None:
    nets = StarGAN(conv_dim=4, d_conv_dim=4).networks(LabelSpace((CELEBA,)), size)
    src, cls = nets["D"](torch.zeros(1, 3, size, size))
    assert src.shape == (1, 1, patch, patch)
    assert cls.shape == (1, 5)


def test_a_size_that_the_critic_cannot_halve_is_refused() -> None:
    with pytest.raises(ValueError, match="size=100: a multiple of 64 is needed"):
        StarGAN().networks(LabelSpace((CELEBA,)), 100)


def test_the_label_affects_the_output() -> None:
    """With reflection padding the norm would remove it."""
    torch.manual_seed(0)
    net = StarGAN(conv_dim=8, repeat_num=1, d_repeat_num=2).networks(LabelSpace((CELEBA,)), 16)["G"]
    x = torch.rand(1, 3, 16, 16)
    difference = net(x, torch.zeros(1, 5)) - net(x, torch.ones(1, 5))
    assert difference.abs().max() > 0.05


def test_training_and_test_mode_are_the_same_function() -> None:
    torch.manual_seed(0)
    net = StarGAN(conv_dim=8, repeat_num=1, d_repeat_num=2).networks(LabelSpace((CELEBA,)), 16)["G"]
    x, c = torch.rand(2, 3, 16, 16), torch.rand(2, 5)
    assert torch.equal(net.train()(x, c), net.eval()(x, c))
    assert not list(net.buffers())


def setup(dataset: int, **more: Any) -> tuple[StarGAN, LabelSpace, dict[str, Any], Batch]:
    torch.manual_seed(1)
    model = StarGAN(conv_dim=4, repeat_num=1, d_conv_dim=4, d_repeat_num=2, **more)
    space = LabelSpace((CELEBA, RAFD))
    labels = torch.randint(0, 2, (4, 5)).float() if dataset == 0 else torch.eye(8)[[0, 3, 5, 5]]
    alpha = torch.rand(4, 1, 1, 1)
    batch = Batch(
        torch.rand(4, 3, 16, 16) * 2 - 1,
        space.encode(labels, dataset),
        space.encode(labels[[2, 0, 3, 1]], dataset),
        dataset,
        lambda name, shape: alpha,
        0.0,
    )
    return model, space, model.networks(space, 16), batch


def critic(nets: dict[str, Any], x: Tensor) -> tuple[Tensor, Tensor]:
    """D reimplemented from its weights."""
    weights = nets["D"].state_dict()
    for i in (0, 2):
        x = F.conv2d(x, weights[f"main.{i}.weight"], weights[f"main.{i}.bias"], 2, 1)
        x = torch.where(x > 0, x, 0.01 * x)
    return F.conv2d(x, weights["src.weight"], None, 1, 1), F.conv2d(x, weights["cls.weight"])[
        ..., 0, 0
    ]


def cls_loss(logits: Tensor, c: Tensor, dataset: int) -> Tensor:
    """Eqs 2 and 3 on the data set's own part of the label vector, written out."""
    if dataset == 0:
        p, y = torch.sigmoid(logits[:, :5]), c[:, :5]
        return -(y * p.log() + (1 - y) * (1 - p).log()).sum() / len(y)
    p = torch.softmax(logits[:, 5:13], 1)
    return -(c[:, 5:13] * p.log()).sum() / len(p)


@pytest.mark.parametrize("dataset", [0, 1])
@pytest.mark.parametrize("patches", ["sum", "mean"])
def test_every_term_of_d_equals_the_papers(dataset: int, patches: str) -> None:
    model, space, nets, batch = setup(dataset, gp_patches=patches)
    x, fake = batch.image, nets["G"](batch.image, batch.target).detach()
    alpha = batch.noise("alpha", (1, 1, 1))
    mixed = (alpha * x + (1 - alpha) * fake).requires_grad_(True)
    scores = critic(nets, mixed)[0]
    total = scores.sum() if patches == "sum" else scores.sum() / 16
    (slope,) = torch.autograd.grad(total, mixed)
    penalty = sum((slope[i].square().sum().sqrt() - 1) ** 2 for i in range(4)) / 4
    expected = {
        "real": -critic(nets, x)[0].mean(),
        "fake": critic(nets, fake)[0].mean(),
        "cls": cls_loss(critic(nets, x)[1], batch.source, dataset),
        "gp": 10 * penalty,
    }
    terms = model.d_loss(nets, batch, space)
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name].detach(), value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dataset", [0, 1])
def test_every_term_of_g_equals_the_papers(dataset: int) -> None:
    model, space, nets, batch = setup(dataset)
    fake = nets["G"](batch.image, batch.target)
    src, cls = critic(nets, fake)
    expected = {
        "fake": -src.mean(),
        "cls": cls_loss(cls, batch.target, dataset),
        "rec": 10 * (batch.image - nets["G"](fake, batch.source)).abs().mean(),
    }
    terms = model.g_loss(nets, batch, space)
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dataset", [0, 1])
@pytest.mark.parametrize("patches", ["sum", "mean"])
def test_the_projection_and_r1_equal_their_papers_terms(dataset: int, patches: str) -> None:
    """f(x, c) = ψ(φ(x)) + Σ ±v_k(φ(x)) (Miyato & Koyama 2018, eq. 5); unknown labels count 0."""
    model, space, nets, batch = setup(
        dataset,
        gp_patches=patches,
        d_projection=True,
        loss="logistic-r1",
        lambda_r1=3.0,
        lambda_adv=2.0,
    )
    known = range(5) if dataset == 0 else range(5, 13)

    def score(x: Tensor, c: Tensor) -> Tensor:
        maps = critic(nets, x)[0]
        assert maps.shape == (4, 14, 4, 4)
        rows = [
            maps[i, 0] + sum(maps[i, 1 + k] * (1 if c[i, k] == 1 else -1) for k in known)
            for i in range(4)
        ]
        return torch.stack(rows)

    x = batch.image.clone().requires_grad_(True)
    total = score(x, batch.source).sum() * (1 if patches == "sum" else 1 / 16)
    (slope,) = torch.autograd.grad(total, x)
    fake = nets["G"](batch.image, batch.target).detach()
    expected = {
        "real": (1 + (-score(x, batch.source)).exp()).log().mean(),
        "fake": (1 + score(fake, batch.target).exp()).log().mean(),
        "cls": cls_loss(critic(nets, x)[1], batch.source, dataset),
        "r1": 1.5 * slope.square().sum((1, 2, 3)).mean(),
    }
    terms = model.d_loss(nets, batch, space)
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name].detach(), value.detach(), rtol=1e-4, atol=1e-6)
    wanted = 2 * (1 + (-score(fake, batch.target)).exp()).log().mean()
    torch.testing.assert_close(model.g_loss(nets, batch, space)["fake"], wanted)


def test_resize_leaves_no_raster_on_a_constant_picture() -> None:
    """The published transposed convolutions give one of period 2 or 4."""
    torch.manual_seed(0)
    space, flat, c = LabelSpace((CELEBA,)), torch.full((1, 3, 128, 128), 0.3), torch.ones(1, 5)
    raster = {}
    for upsampling in ("transposed", "resize"):
        g = StarGAN(conv_dim=8, repeat_num=1, upsampling=upsampling).networks(space, 64)["G"]
        inner = g(flat, c)[..., 48:80, 48:80]
        raster[upsampling] = float((inner - inner.mean((2, 3), True)).detach().abs().max())
    assert raster["resize"] < 1e-3 < raster["transposed"]


def test_different_targets_are_those_of_other_images() -> None:
    """In each term; where a batch has none, as in an evaluation, its targets."""
    model, space, nets, batch = setup(0, targets="different", d_projection=True)
    plain = replace(model, targets="permuted")
    other = batch.source[[1, 2, 3, 0]]
    for terms in (StarGAN.d_loss, StarGAN.g_loss):
        found = terms(model, nets, replace(batch, other=other, shared={}), space)
        expected = terms(plain, nets, replace(batch, target=other, shared={}), space)
        assert all(torch.equal(found[name], value) for name, value in expected.items())
        alone = terms(model, nets, replace(batch, shared={}), space)
        expected = terms(plain, nets, replace(batch, shared={}), space)
        assert all(torch.equal(alone[name], value) for name, value in expected.items())


def test_branches_and_projection_exclude_each_other() -> None:
    model = StarGAN(d_branches=True, d_projection=True)
    with pytest.raises(ValueError, match="leave one out"):
        model.networks(LabelSpace((CELEBA,)), 64)


def test_the_fake_of_the_d_step_has_no_graph() -> None:
    model, space, nets, batch = setup(0)
    sum(model.d_loss(nets, batch, space).values()).backward()
    assert all(p.grad is None for p in nets["G"].parameters())
    assert all(p.grad is not None for p in nets["D"].parameters())


def test_the_papers_rate_is_constant_and_then_falls_to_zero() -> None:
    model = StarGAN()
    scale = [model.lr_scale(n, 3_200_000, 1_600_000) for n in (0, 1_600_000, 2_400_000, 3_200_000)]
    assert scale == [1.0, 1.0, 0.5, 0.0]


def test_the_reference_codes_decay_hardly_changes_the_rate() -> None:
    """From 1e-4 it ends at 9.99e-5."""
    model = StarGAN(fidelity="repo")
    assert 1e-4 * model.lr_scale(3_200_000, 3_200_000, 1_600_000) == pytest.approx(9.99e-5)


def test_penalty_and_heads_stay_in_full_precision() -> None:
    """D's heads take float32 and compute without autocast, while its trunk runs in bfloat16."""
    model, space, nets, batch = setup(0)
    seen: dict[str, set[tuple[torch.dtype, bool]]] = {
        name: set() for name in ("main", "src", "cls")
    }

    def look(name: str) -> Any:
        def hook(layer: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            given = output.dtype if name == "main" else inputs[0].dtype
            seen[name].add((given, torch.is_autocast_enabled("cpu")))

        return hook

    for name in seen:
        getattr(nets["D"], name).register_forward_hook(look(name))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.d_loss(nets, batch, space)
    assert seen["src"] == seen["cls"] == {(torch.float32, False)}
    assert (torch.bfloat16, True) in seen["main"]
    assert all(v.dtype == torch.float32 for v in mixed.values())


@pytest.mark.parametrize("term", ["gp", "real"])
def test_terms_in_mixed_precision_are_close_to_those_in_full(term: str) -> None:
    model, space, nets, batch = setup(0)
    plain = model.d_loss(nets, batch, space)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.d_loss(nets, batch, space)
    torch.testing.assert_close(mixed[term], plain[term], rtol=0.05, atol=0.02)


def test_with_branches_each_class_has_its_own_critic() -> None:
    """B of StarGAN v2's ablation: −E[D_y(x)] + E[D_y'(G(x, y'))] and no label loss."""
    torch.manual_seed(0)
    model = StarGAN(conv_dim=4, repeat_num=1, d_conv_dim=4, d_repeat_num=2, d_branches=True)
    space = LabelSpace((LabelSet("hair", "onehot", ("black", "blond", "brown")),))
    nets = model.networks(space, 16)
    x, (y, other) = torch.rand(3, 3, 16, 16) * 2 - 1, (torch.eye(3), torch.eye(3)[[1, 2, 0]])
    batch = Batch(x, y, other, 0, lambda name, shape: torch.full((3, *shape), 0.3), 0.0)
    made = nets["G"](x, other)
    real, fake = nets["D"](x)[0], nets["D"](made)[0]
    assert real.shape == (3, 3, 4, 4)
    wrong = torch.stack([fake[i, (i + 1) % 3] for i in range(3)]).mean()
    mixed = (0.3 * x + 0.7 * made.detach()).requires_grad_()
    own = sum(nets["D"](mixed)[0][i, i].sum() for i in range(3))
    (slope,) = torch.autograd.grad(own, mixed)
    found = model.d_loss(nets, batch, space)
    assert found.keys() == {"real", "fake", "gp"}
    expected = -torch.stack([real[i, i] for i in range(3)]).mean()
    torch.testing.assert_close(found["real"], expected)
    torch.testing.assert_close(found["fake"], wrong)
    penalty = 10 * (slope.flatten(1).norm(dim=1) - 1).square().mean()
    torch.testing.assert_close(found["gp"], penalty)
    g = model.g_loss(nets, batch, space)
    assert g.keys() == {"fake", "rec"}
    torch.testing.assert_close(g["fake"], -wrong)
    assert torch.isfinite(model.validate(nets, batch, space))
    with pytest.raises(ValueError, match="d_branches: one data set of classes"):
        model.networks(LabelSpace((CELEBA,)), 16)

"""The critics' slopes, written out, equal those of autograd, and need no double backward."""

import copy
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from runs import richest, session_of
from toydata import SETS, dataset_of
from training.data.labels import LabelSpace
from training.models import MODELS, slope
from training.models.base import Model, Nets
from training.models.kernels import Norm, Wide
from training.models.losses import gradient_penalty
from training.models.slope import NoRuleError, double_backward, pull, scores_and_slope

Slope = Callable[..., tuple[Tensor, Tensor]]


def penalised(nets: Nets) -> list[nn.Module]:
    return [net for net in nets.values() if hasattr(net, "score_path")]


def tiny(name: str, size: int = 16) -> tuple[Model, LabelSpace, Nets]:
    model = MODELS[name].tiny()
    space = LabelSpace(SETS[richest(MODELS[name])])
    torch.manual_seed(0)
    return model, space, model.networks(space, size)


PENALISED = [name for name in MODELS if penalised(tiny(name)[2])]


@pytest.fixture(autouse=True)
def _told_anew() -> Iterator[None]:
    slope._warn_of_double_backward.cache_clear()
    yield
    slope._warn_of_double_backward.cache_clear()


@pytest.fixture
def no_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every slope as it was before: by autograd's double backward."""
    monkeypatch.setattr(slope, "RULES", {})


NORMED = ("attgan", "cyclegan", "stgan")  # models whose D has norms
# Models whose papers have no penalty: with R3GAN's two.
R3GAN = {name: {"loss": "r3gan"} for name in ("cyclegan", "drit", "msgan", "munit")}


def test_the_models_with_a_penalty_are_those_of_the_papers_and_of_r3gan() -> None:
    papers = {"attgan", "diat", "ganimation", "stargan", "starganv2", "stgan"}
    assert set(PENALISED) == papers | R3GAN.keys()


def penalty(slope_of: Slope, path: nn.Module, x: Tensor, weights: Tensor | float) -> Tensor:
    """WGAN-GP's and R1's terms together."""
    rows = slope_of(path, x, weights)[1].flatten(1)
    return (rows.norm(2, dim=1) - 1).square().mean() + rows.square().sum(1).mean() / 2


class Critic(nn.Module):
    """A critic that consists of a path."""

    def __init__(self, path: nn.Module) -> None:
        super().__init__()
        self.path = path

    def score_path(self) -> nn.Module:
        return self.path


def explicit(path: nn.Module, x: Tensor, weights: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    return scores_and_slope(Critic(path), x, weights, graph=False)


def gradients(loss: Tensor, net: nn.Module) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
    return [
        torch.zeros_like(p) if g is None else g
        for p, g in zip(net.parameters(), found, strict=True)
    ]


def far(path: nn.Module, reference: nn.Module, x: Tensor, weights: Tensor | float = 1.0) -> float:
    """Largest relative difference from `reference` by autograd: slope, value, every gradient."""
    ours = penalty(explicit, path, x, weights)
    theirs = penalty(double_backward, reference, x, weights)
    pairs = [
        (explicit(path, x, weights)[1], double_backward(reference, x, weights)[1]),
        (ours, theirs),
        *zip(gradients(ours, path), gradients(theirs, reference), strict=True),
    ]
    norms = [(float((a - b).detach().norm()), float(b.detach().norm())) for a, b in pairs]
    # A bias before a norm has a gradient of 0: what both give are rounding errors.
    least = 1e-3 * max(size for _, size in norms)
    norms = [(off, max(size, least)) for off, size in norms]
    return max(off / size if size else math.inf for off, size in norms if off or size)


class WrittenOut(nn.GroupNorm):
    """An instance norm without torch's kernel, which rounds more coarsely."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
        hat = (x - mean) / (variance + self.eps).sqrt()
        if not self.affine:
            return hat
        return hat * self.weight[:, None, None] + self.bias[:, None, None]


def written_out(path: nn.Module) -> nn.Module:
    """A copy with the same weights whose norms are written out."""
    path = copy.deepcopy(path)
    for layer in path.modules():
        if isinstance(layer, nn.GroupNorm):
            layer.__class__ = WrittenOut
    return path


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("name", PENALISED)
def test_value_and_every_gradient_equal_autograds_in_float64(name: str, size: int) -> None:
    """To 1e-12; torch's kernel of the norm limits models with norms to 1e-9."""
    _, _, nets = tiny(name, size)
    for net in penalised(nets):
        path = net.double().score_path()
        x = torch.rand(3, 3, size, size, dtype=torch.float64) * 2 - 1
        scores = path(x)
        weights = torch.rand(3, *scores.shape[1:2], *[1] * (scores.ndim - 2)).double()
        normed = any(isinstance(layer, nn.GroupNorm) for layer in path.modules())
        assert normed == (name in NORMED)
        for factor in (1.0, 0.25, weights):
            assert far(path, path, x, factor) <= (1e-9 if normed else 1e-12)
            assert far(path, written_out(path), x, factor) <= 1e-12


@pytest.mark.parametrize("name", PENALISED)
def test_the_path_gives_the_scores_of_the_critic(name: str) -> None:
    _, _, nets = tiny(name)
    x, y = torch.rand(3, 3, 16, 16) * 2 - 1, torch.tensor([0, 2, 1])
    for net in penalised(nets):
        scores = net.score_path()(x)
        for same in (scores_and_slope(net, x)[0], scores_and_slope(net, x, graph=False)[0]):
            torch.testing.assert_close(same, scores, rtol=1e-5, atol=1e-6)
        if name == "starganv2":
            assert torch.equal(net(x, y), scores.flatten(1)[torch.arange(3), y])
        else:
            out = net(x)
            if isinstance(out, list):
                out = torch.stack([one.mean((1, 2, 3)) for one in out]).sum(0)
                torch.testing.assert_close(out, scores)
            else:
                assert torch.equal(out[0] if isinstance(out, tuple) else out, scores)


@pytest.mark.parametrize("name", PENALISED)
def test_only_norms_need_the_graph_of_the_forward_pass(name: str) -> None:
    _, _, nets = tiny(name)
    for net in penalised(nets):
        scores, _ = scores_and_slope(net, torch.rand(2, 3, 16, 16), graph=False)
        assert scores.requires_grad == (name in NORMED)
        assert scores_and_slope(net, torch.rand(2, 3, 16, 16))[0].requires_grad


@st.composite
def chains(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """A critic of random layers and a batch for it."""
    torch.manual_seed(draw(st.integers(0, 10**6)))
    height, width = draw(st.integers(5, 14)), draw(st.integers(5, 14))
    x = torch.rand(draw(st.integers(1, 3)), 3, height, width).double() * 2 - 1
    if draw(st.booleans()):
        x = x.contiguous(memory_format=torch.channels_last)
    layers: list[nn.Module] = []
    channels, y = 3, x
    for _ in range(draw(st.integers(1, 3))):
        kernel, stride, dilation = (draw(st.integers(1, k)) for k in (4, 3, 2))
        padding, groups = draw(st.integers(0, 2)), draw(st.sampled_from([1, channels]))
        if min(y.shape[2:]) + 2 * padding < dilation * (kernel - 1) + 1:
            continue
        out = groups * draw(st.integers(1, 3))
        bias = draw(st.booleans())
        wide = dilation == groups == 1 and draw(st.booleans())
        form: tuple[Any, ...] = (channels, out, kernel, stride, padding, dilation, groups, bias)
        if not wide and min(y.shape[2:]) > padding and draw(st.booleans()):
            form += ("reflect",)
        block = [Wide(*form) if wide else nn.Conv2d(*form)]
        y, channels = block[0].double()(y), out
        if min(y.shape[2:]) >= 4 and draw(st.booleans()):
            norm = Norm(out) if draw(st.booleans()) else nn.GroupNorm(out, out)
            norm.eps = 1e-2
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
            block.append(norm)
        steep, inplace = draw(st.floats(0.01, 0.9)), draw(st.booleans())
        block.append(
            draw(st.sampled_from([nn.LeakyReLU(steep, inplace), nn.ReLU(inplace), nn.Identity()]))
        )
        if min(y.shape[2:]) >= 3 and draw(st.booleans()):
            pad = draw(st.booleans())
            size = draw(st.integers(2, 3))
            block.append(nn.AvgPool2d(size, 2, int(pad), draw(st.booleans()), draw(st.booleans())))
            y = block[-1](y)
        layers.append(nn.Sequential(*block) if draw(st.booleans()) else block[0])
        layers += [] if isinstance(layers[-1], nn.Sequential) else block[1:]
    if draw(st.booleans()):
        layers += [nn.Flatten(), nn.Linear(y[0].numel(), 2)]
    return nn.Sequential(*layers).double(), x


@settings(deadline=None, max_examples=300)
@given(chains())
def test_any_chain_of_layers_has_autograds_slope(case: tuple[nn.Module, Tensor]) -> None:
    """Over sizes, widths, strides, paddings, dilations, groups, memory formats and batches."""
    path, x = case
    weights = torch.rand_like(path(x).detach())
    ours, theirs = (f(path, x, weights)[1] for f in (explicit, double_backward))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    mine, wanted = (rows.square().sum() for rows in (ours, theirs))
    if wanted.requires_grad and wanted.item() > 1e-12:  # below, dead layers' rounding
        for a, b in zip(gradients(mine, path), gradients(wanted, path), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9 * wanted.item())


class Scaled(nn.Conv2d):
    """Another function than its class's rule: it must not be used."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


UNKNOWN: dict[str, Callable[[], nn.Module]] = {
    "ELU": nn.ELU,
    "Scaled": lambda: Scaled(4, 4, 3, 1, 1),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(4),
    "Conv2d(padding='same'": lambda: nn.Conv2d(4, 4, 3, padding="same"),
    "'circular'": lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
    "computed weight": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3, 1, 1)),
    "MaxPool2d": lambda: nn.MaxPool2d(3, 1, 1),
}


@pytest.mark.parametrize("says", UNKNOWN)
def test_a_layer_without_a_rule_falls_back_to_autograd_and_is_named_once(
    says: str, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    path = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), UNKNOWN[says](), nn.Conv2d(4, 1, 8)).double()
    x = torch.rand(2, 3, 8, 8).double()
    with pytest.raises(NoRuleError) as error:
        pull(path, x)
    assert says in str(error.value)
    with caplog.at_level(logging.WARNING):
        loss = penalty(explicit, path, x, 0.5)
        penalty(explicit, path, x, 0.5)
    wanted = penalty(double_backward, path, x, 0.5)
    assert torch.equal(loss, wanted)
    assert all(map(torch.equal, gradients(loss, path), gradients(wanted, path)))
    (line,) = caplog.messages
    assert says in line
    assert "double backward: the same numbers, in up to twice the time" in line


def test_a_subclass_has_the_rule_of_its_class_or_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The most specific rule, whatever the order in which they are registered."""

    class Named(nn.LeakyReLU):
        pass

    path, x = nn.Sequential(nn.Conv2d(3, 2, 3), Named(0.3)), torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(explicit(path, x)[1], double_backward(path, x)[1])
    monkeypatch.setattr(
        slope, "RULES", {Named: lambda layer, x: (x, lambda g: 7 * g)} | slope.RULES
    )
    flat = nn.Sequential(path[0], nn.Identity())
    torch.testing.assert_close(explicit(path, x)[1], 7 * double_backward(flat, x)[1])


def test_the_penalty_is_the_same_under_autocast() -> None:
    _, _, nets = tiny("stargan")
    real, fake, alpha = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16), torch.rand(2, 1, 1, 1)
    plain = gradient_penalty(nets["D"], real, fake, alpha)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gradient_penalty(nets["D"], real, fake, alpha), plain)


class Kernels(TorchDispatchMode):
    """Records the largest spatial side of a convolution's kernel, forward and backward."""

    side = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = str(func)
        if "conv" in name:
            kernel = args[2] if "backward" in name else args[1]
            self.side = max(self.side, *kernel.shape[2:])
        return func(*args, **(kwargs or {}))


def largest_kernel(name: str, tmp_path: Path, seen: set[str], **more: Any) -> int:
    """Of one update of every phase on images of 32 px; adds the penalties' names to `seen`."""
    model = replace(MODELS[name].tiny(), **more)
    which = "classes" if more.get("d_branches") else richest(MODELS[name])
    session = session_of(model, dataset_of(tmp_path / "dataset.json", SETS[which], size=32))
    with Kernels() as kernels:
        for phase in session.phases:
            batch = session.order.show(session.draw(0, 0, 0, max(0, phase.round_robin_index)))
            terms = session.update(phase, batch)
            seen.update(term for term in terms if term.endswith(("gp", "r1", "r2")))
    return kernels.side


@pytest.mark.parametrize(
    ("name", "more"),
    [
        *((name, R3GAN.get(name, {})) for name in PENALISED),
        ("stargan", {"d_branches": True, "gp_patches": "mean"}),
        ("stargan", {"d_projection": True, "loss": "logistic-r1"}),
    ],
)
def test_no_convolution_has_a_feature_map_as_kernel(
    name: str, more: dict[str, Any], store: Path, tmp_path: Path
) -> None:
    """No kernel is larger than the 8 px of G's last layer, in one update of every phase, forward
    and backward; D's first feature map has 16 px."""
    seen: set[str] = set()
    assert largest_kernel(name, tmp_path, seen, **more) <= 8
    assert seen


@pytest.mark.parametrize("name", PENALISED)
def test_a_double_backward_has_feature_maps_as_kernels(
    name: str, store: Path, tmp_path: Path, no_rules: None
) -> None:
    """What the test above forbids, found by the same watcher."""
    assert largest_kernel(name, tmp_path, set(), **R3GAN.get(name, {})) >= 16

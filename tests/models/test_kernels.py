"""The faster layers compute the same functions as torch's, with the same parameters."""

from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from training.models import kernels
from training.models.kernels import FromImage, Norm, ToImage, Wide, few_outputs, wide_conv

LAYOUTS = (torch.contiguous_format, torch.channels_last)
SIDES = st.integers(2, 9)
FEW = settings(deadline=None, max_examples=25)


def results(net: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, and the gradients of a curved loss with respect to image and parameters."""
    x = x.clone().requires_grad_(True)
    y = net(x)
    parameters = list(net.parameters())
    return [y.detach(), *torch.autograd.grad(y.pow(3).sum(), [x, *parameters])]


def compare(ours: nn.Module, theirs: nn.Module, x: Tensor, tolerance: float = 1e-11) -> None:
    """Value and every gradient in float64, relative to their norms."""
    ours, theirs = ours.double(), theirs.double()
    for value in ours.parameters():
        nn.init.normal_(value)
    theirs.load_state_dict(ours.state_dict())
    for a, b in zip(results(ours, x.double()), results(theirs, x.double()), strict=True):
        assert a.shape == b.shape
        assert float((a - b).norm()) <= tolerance * float(b.norm())


@pytest.mark.parametrize("cached", [0, kernels.CACHED])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("affine", [True, False])
@FEW
@given(n=st.integers(1, 3), c=st.integers(1, 6), h=SIDES | st.just(120), w=SIDES)
def test_norm_equals_torchs_instance_norm(
    layout: torch.memory_format, affine: bool, cached: int, n: int, c: int, h: int, w: int
) -> None:
    x = torch.randn(n, c, h, w).to(memory_format=layout)
    with mock.patch.object(kernels, "CACHED", cached):
        compare(Norm(c, affine=affine), nn.InstanceNorm2d(c, affine=affine), x, 1e-9)


def test_norms_backward_is_our_own_in_channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's takes four times as long there."""
    seen = []
    backward = kernels._InstanceNorm.backward
    monkeypatch.setattr(
        kernels._InstanceNorm,
        "backward",
        staticmethod(lambda ctx, grad: seen.append(grad.shape) or backward(ctx, grad)),
    )
    for layout in LAYOUTS:
        x = torch.randn(2, 3, 4, 4).to(memory_format=layout).requires_grad_(True)
        Norm(3)(x).square().sum().backward()
    assert seen == [(2, 3, 4, 4)]


@pytest.mark.parametrize("side", [4, 40])
def test_norms_output_may_change_in_place(side: int) -> None:
    x = torch.randn(2, 3, side, side).to(memory_format=torch.channels_last)
    results_of = [results(nn.Sequential(Norm(3), nn.ReLU(inplace)), x) for inplace in (False, True)]
    for a, b in zip(*results_of, strict=True):
        assert torch.equal(a, b)


def test_norms_second_derivative_is_torchs() -> None:
    """For a gradient penalty by double backward."""
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64).to(memory_format=torch.channels_last)
    gamma, beta = torch.randn(2, 3, dtype=torch.float64).requires_grad_(True)
    assert torch.autograd.gradgradcheck(
        lambda x, g, b: kernels.instance_norm(x, g, b), (x.requires_grad_(True), gamma, beta)
    )


@pytest.mark.parametrize("side", [16, 64])
@pytest.mark.parametrize("affine", [True, False])
def test_norm_keeps_bfloat16_and_its_statistics_are_exact(affine: bool, side: int) -> None:
    """CUDA's autocast would run a group norm in fp32; the mean of many pixels needs fp32."""
    torch.manual_seed(0)
    net = Norm(4, affine=affine)
    x = (torch.randn(2, 4, side, side) + 3).bfloat16().to(memory_format=torch.channels_last)
    half, exact = x.clone().requires_grad_(True), x.double().requires_grad_(True)
    y, wanted = net(half), F.instance_norm(exact)
    assert y.dtype == torch.bfloat16
    seed = torch.randn(x.shape)
    pairs = [
        (y, wanted),
        (torch.autograd.grad(y, half, seed.bfloat16())[0],
         torch.autograd.grad(wanted, exact, seed.double())[0]),
    ]  # fmt: skip
    for a, b in pairs:
        a, b = a.detach().double(), b.detach()
        assert float((a - b).norm() / b.norm()) < 6e-3  # bfloat16 has 8 bits


def test_norm_refuses_one_pixel() -> None:
    with pytest.raises(ValueError, match="one pixel; use larger images"):
        Norm(3)(torch.ones(2, 3, 1, 1))


@pytest.mark.parametrize("layout", LAYOUTS)
@FEW
@given(
    n=st.integers(1, 3), a=st.integers(1, 5), b=st.integers(1, 5), h=st.integers(4, 9),
    w=st.integers(4, 9), form=st.sampled_from([(4, 2, 1), (4, 1, 0), (3, 1, 1), (3, 2, 1)]),
    bias=st.booleans(),
)  # fmt: skip
def test_wide_equals_the_convolution(
    layout: torch.memory_format, n: int, a: int, b: int, h: int, w: int, form: tuple[int, ...],
    bias: bool,
) -> None:  # fmt: skip
    """Also its transpose, which a gradient penalty uses."""
    x = torch.randn(n, a, h, w).to(memory_format=layout)
    ours, theirs = Wide(a, b, *form, bias=bias), nn.Conv2d(a, b, *form, bias=bias)
    ours = ours.to(memory_format=layout)
    compare(ours, theirs, x)
    x = x.double().requires_grad_(True)
    y = theirs(x)
    seed = torch.randn_like(y)
    (gradient,) = torch.autograd.grad(y, x, seed)
    torch.testing.assert_close(ours.input_gradient(seed, x.shape[2:]), gradient)


@pytest.mark.parametrize("transposed", [False, True])
@FEW
@given(n=st.integers(1, 3), m=st.integers(1, 4), k=st.integers(1, 9), out=st.integers(1, 9))
def test_onednns_product_equals_torchs(transposed: bool, n: int, m: int, k: int, out: int) -> None:
    """In fp32, with both gradients and a second derivative; in float64 it is torch's."""
    x = torch.randn(n, m, k, requires_grad=True)
    weight = torch.randn((k, out) if transposed else (out, k), requires_grad=True)
    found, wanted = [], []
    for into, y in (
        (found, kernels.product(x, weight, transposed=transposed)),
        (wanted, x @ (weight if transposed else weight.t())),
    ):
        into += [y, *torch.autograd.grad(y.pow(3).sum(), (x, weight), retain_graph=True)]
        (first,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        into += torch.autograd.grad(first.pow(2).sum(), (x, weight))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3 * float(b.detach().abs().max()))


def test_wide_layers_use_onednns_product_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, and both gradients, where this torch has it."""
    calls: list[torch.Size] = []
    multiply = kernels._multiply
    monkeypatch.setattr(kernels, "_multiply", lambda a, b: calls.append(a.shape) or multiply(a, b))
    net = Wide(3, 5, 4, 2, 1)
    net(torch.randn(2, 3, 8, 8, requires_grad=True)).square().sum().backward()
    assert len(calls) == (3 if kernels._ONE_DNN else 0)


def test_a_convolution_is_wide_from_four_million_weights_on() -> None:
    with torch.device("meta"):
        assert type(wide_conv(1024, 2048, 4, 2, 1)) is Wide
        assert type(wide_conv(256, 512, 4, 2, 1)) is nn.Conv2d


def test_wide_weights_in_channels_last_are_a_matrix_without_a_copy() -> None:
    net = Wide(6, 8, 4, 2, 1).to(memory_format=torch.channels_last)
    assert net.matrix().data_ptr() == net.weight.data_ptr()
    assert net.matrix().is_contiguous()


@pytest.mark.parametrize("layout", LAYOUTS)
@FEW
@given(
    n=st.integers(1, 2), c=st.integers(1, 5), outputs=st.integers(1, 4), h=st.integers(7, 12),
    w=st.integers(7, 12), padding=st.sampled_from([0, 3]), bias=st.booleans(),
)  # fmt: skip
def test_a_generators_last_convolution_equals_torchs(
    layout: torch.memory_format, n: int, c: int, outputs: int, h: int, w: int, padding: int,
    bias: bool,
) -> None:  # fmt: skip
    """At odd sides too, which two by two pixels do not divide."""
    x = torch.randn(n, c, h, w).to(memory_format=layout)
    ours = ToImage(c, outputs, padding, bias=bias)
    compare(ours, nn.Conv2d(c, outputs, 7, 1, padding, bias=bias), x)


@pytest.mark.parametrize("layout", LAYOUTS)
@FEW
@given(n=st.integers(1, 2), c=st.integers(1, 9), outputs=st.integers(1, 6), h=SIDES, w=SIDES)
def test_a_generators_first_convolution_equals_torchs(
    layout: torch.memory_format, n: int, c: int, outputs: int, h: int, w: int
) -> None:
    x = torch.randn(n, c, h, w).to(memory_format=layout)
    compare(FromImage(c, outputs), nn.Conv2d(c, outputs, 7, 1, 3, bias=False), x)


def test_the_four_pixels_of_few_outputs_are_one_convolution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Any] = []
    conv = F.conv2d
    monkeypatch.setattr(
        F, "conv2d", lambda x, w, *a, **k: calls.append(w.shape) or conv(x, w, *a, **k)
    )
    few_outputs(torch.randn(1, 5, 8, 8), torch.randn(3, 5, 7, 7), 3)
    assert calls == [(12, 5, 8, 8)]


def test_first_convolution_under_autocast() -> None:
    """In bfloat16, with gradients of the parameters' type near those in fp32."""
    torch.manual_seed(0)
    net = FromImage(5, 4)
    x = torch.randn(2, 5, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        half = results(net, x)
    full = results(net, x)
    assert [v.dtype for v in half] == [torch.bfloat16, torch.float32, torch.float32]
    for a, b in zip(half, full, strict=True):
        assert float((a.float() - b).norm() / b.norm()) < 0.03

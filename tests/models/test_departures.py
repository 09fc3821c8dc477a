"""What the demos' G may have in place of the papers' form, in every model that offers it."""

from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.data.labels import LabelSet, LabelSpace
from training.models import MODELS
from training.models.base import Model
from training.models.layers import Upsample

SPACE = LabelSpace((LabelSet("celeba", "binary", ("Blond_Hair", "Male"), (("Blond_Hair",),)),))


def offering(setting: str) -> list[str]:
    return [name for name, kind in MODELS.items() if setting in {f.name for f in fields(kind)}]


def generator(model: Model) -> nn.Module:
    torch.manual_seed(0)
    nets = model.networks(SPACE, 32)
    return next(net for name, net in nets.items() if name.startswith("G"))


def edited(model: Model, x: Tensor) -> Tensor:
    torch.manual_seed(0)
    nets = model.networks(SPACE, 32)
    source, target = torch.tensor([[0.0, 1.0, 1.0]] * 2), torch.tensor([[1.0, 0.0, 1.0]] * 2)
    width = SPACE.dim_g
    return model.translate(nets, x, source[:, :width], target[:, :width])


def test_models_with_a_residual_output_and_those_with_resize() -> None:
    assert offering("output") == [
        "attgan", "cyclegan", "diat", "ganimation", "stargan", "stgan",
    ]  # fmt: skip
    assert offering("upsampling") == offering("output")


@pytest.mark.parametrize("name", offering("output"))
def test_a_residual_output_starts_as_a_copy(name: str) -> None:
    """To 2.5 of 255 levels at each pass of a G; the published form starts far from its input."""
    model = replace(MODELS[name].tiny(), output="residual")
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    assert (edited(model, x) - x).abs().max() <= 0.0201
    assert (edited(replace(model, output="image"), x) - x).abs().mean() > 0.2


@pytest.mark.parametrize("name", offering("upsampling"))
def test_resize_replaces_every_transposed_convolution(name: str) -> None:
    """Each doubling is nearest neighbour and a 3×3 convolution, in as many places."""
    tiny = MODELS[name].tiny()
    published, resized = generator(tiny), generator(replace(tiny, upsampling="resize"))
    count = sum(isinstance(layer, nn.ConvTranspose2d) for layer in published.modules())
    assert count > 0
    assert not any(isinstance(layer, nn.ConvTranspose2d) for layer in resized.modules())
    doubled = [layer for layer in resized.modules() if isinstance(layer, Upsample)]
    assert len(doubled) == count
    layer = doubled[0]
    x = torch.rand(1, layer[1].in_channels, 5, 6)
    twice = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(layer(x), F.conv2d(twice, layer[1].weight, layer[1].bias, padding=1))

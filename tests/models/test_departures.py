"""What the demos' G may have in place of the papers' form, in every model that offers it."""

from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.data.labels import LabelSet, LabelSpace
from training.models import MODELS
from training.models.base import Model
from training.models.layers import Labelled, LabelNorm, Upsample, tiled
from training.models.stargan import trunk

SPACE = LabelSpace((LabelSet("celeba", "binary", ("Blond_Hair", "Male"), (("Blond_Hair",),)),))
CLASSES = LabelSpace((LabelSet("hair", "onehot", ("black", "blond")),))


def offering(setting: str) -> list[str]:
    return [name for name, kind in MODELS.items() if setting in {f.name for f in fields(kind)}]


def generator(model: Model) -> nn.Module:
    torch.manual_seed(0)
    nets = model.networks(SPACE, 32)
    return next(net for name, net in nets.items() if name.startswith("G"))


def edited(model: Model, x: Tensor) -> Tensor:
    torch.manual_seed(0)
    space = SPACE if "binary" in model.label_kinds else CLASSES
    nets = model.networks(space, 32)
    source, target = torch.tensor([[0.0, 1.0, 1.0]] * 2), torch.tensor([[1.0, 0.0, 1.0]] * 2)
    width = space.dim_g
    return model.translate(nets, x, source[:, :width], target[:, :width])


def test_models_with_a_residual_output_and_those_with_resize() -> None:
    assert offering("output") == [
        "attgan", "cyclegan", "diat", "ganimation", "stargan", "starganv2", "stgan",
    ]  # fmt: skip
    both = set(offering("output")) - {"starganv2"}  # its paper resizes
    assert set(offering("upsampling")) == both | {"drit", "fader", "icgan", "msgan"}


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

    def doubling(net: nn.Module) -> int:
        layers = (layer for layer in net.modules() if isinstance(layer, nn.ConvTranspose2d))
        return sum(layer.stride == (2, 2) for layer in layers)  # DRIT's last one is 1×1

    count = doubling(published)
    assert count > 0
    assert doubling(resized) == 0
    doubled = [layer for layer in resized.modules() if isinstance(layer, Upsample)]
    assert len(doubled) == count
    layer = doubled[0]
    x = torch.rand(1, layer[1].in_channels, 5, 6)
    twice = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(layer(x), F.conv2d(twice, layer[1].weight, layer[1].bias, padding=1))


def test_a_label_norm_is_the_conditional_instance_norm_of_its_paper() -> None:
    """Dumoulin et al. 2017, eq. 5, with scale and shift linear in the labels."""
    torch.manual_seed(0)
    norm, h, c = LabelNorm(4, 3), torch.rand(2, 4, 5, 6), torch.rand(2, 3)
    z = (h - h.mean((2, 3), True)) / (h.var((2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
    weight, bias = norm.affine.weight, norm.affine.bias
    for row in range(2):
        for channel in range(4):
            gamma = 1 + weight[channel] @ c[row] + bias[channel]
            beta = weight[4 + channel] @ c[row] + bias[4 + channel]
            torch.testing.assert_close(
                norm(h, c)[row, channel], gamma * z[row, channel] + beta, rtol=1e-4, atol=1e-5
            )


def test_labels_reach_the_middle_of_the_picture_through_label_norms() -> None:
    """The published norm removes the constant planes but at the border."""
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    reach = {}
    for norms in (False, True):
        torch.manual_seed(0)
        layers = trunk(2, 8, 1, norms=norms)[:2]
        maps = []
        for c in (torch.zeros(1, 2), torch.ones(1, 2)):
            h = layers[0](torch.cat([x, tiled(c, x)], 1))
            maps.append(layers[1](h, c) if norms else layers[1](h))
        reach[norms] = float((maps[1] - maps[0]).abs()[..., 8:-8, 8:-8].mean().detach())
    assert reach[False] < 0.1 * reach[True]


def test_a_trunk_with_label_norms_is_the_published_one_where_they_are_zero() -> None:
    torch.manual_seed(0)
    plain, labelled = nn.Sequential(*trunk(2, 4, 1)), Labelled(trunk(2, 4, 1, norms=True))
    theirs = [
        layer for layer in labelled.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    ]
    ours = [layer for layer in plain.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    for mine, other in zip(ours, theirs, strict=True):
        other.load_state_dict(mine.state_dict())
    for layer in labelled.modules():
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    h = torch.rand(2, 5, 16, 16)
    torch.testing.assert_close(labelled(h, torch.rand(2, 2)), plain(h), rtol=1e-4, atol=1e-5)

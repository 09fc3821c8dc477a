"""DIAT as in StarGAN's comparison: sizes, directions and reimplemented loss terms."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from training.data.batch import Batch
from training.data.labels import LabelSet, LabelSpace
from training.models.diat import DIAT

GENDER = LabelSpace((LabelSet("faces", "onehot", ("female", "male")),))
SMALL = DIAT(dim=4, blocks=1, d_dim=4, d_repeat_num=2, lambda_id=3.0)


def test_parameter_counts_are_those_of_stargans_table() -> None:
    """52.6 million per direction."""
    with torch.device("meta"):
        nets = DIAT().networks(GENDER, 128)
    counts = {name: sum(p.numel() for p in net.parameters()) for name, net in nets.items()}
    one = {"G": 7_837_699, "D": 44_721_088}
    assert counts == {f"{kind}{way}0": n for kind, n in one.items() for way in ("ab", "ba")}


def test_the_two_directions_alternate() -> None:
    labels = torch.eye(2)[[0, 1, 1]]
    there = SMALL.domain_masks(labels, GENDER, 0)
    back = SMALL.domain_masks(labels, GENDER, 1)
    assert [side.tolist() for side in there] == [[True, False, False], [False, True, True]]
    assert [side.tolist() for side in back] == [[False, True, True], [True, False, False]]
    phases = [(p.name, p.trains, p.every, p.round_robin_index) for p in DIAT().phases(GENDER)]
    assert phases == [("d", ("Dab0",), 1, 0), ("g", ("Gab0",), 5, 0),
                      ("d", ("Dba0",), 1, 1), ("g", ("Gba0",), 5, 1)]  # fmt: skip


def test_every_loss_term_is_as_stated() -> None:
    torch.manual_seed(0)
    nets: dict[str, Any] = SMALL.networks(GENDER, 16)
    x, y = torch.rand(3, 3, 16, 16) * 2 - 1, torch.rand(3, 3, 16, 16) * 2 - 1
    none, alpha = torch.zeros(3, 2), torch.rand(3, 1, 1, 1)
    batch = Batch(x, none, none, 0, lambda *_: alpha, 0.0, y[:, None])
    g, d = nets["Gab0"], nets["Dab0"]
    fake = g(x)
    mixed = (alpha * y + (1 - alpha) * fake).detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(d(mixed).sum(), mixed)
    expected = {
        "real": -d(y).mean(),
        "fake": d(fake).mean(),
        "gp": 10 * ((slope.pow(2).sum((1, 2, 3)).sqrt() - 1) ** 2).mean(),
    }
    close(SMALL.d_loss(nets, batch, "ab0"), expected)
    expected = {"fake": -d(fake).mean(), "id": 3 * (d.main(fake) - d.main(x)).abs().mean()}
    close(SMALL.g_loss(nets, batch, "ab0"), expected)


def test_the_logistic_loss_with_r1_is_that_of_its_paper() -> None:
    """Mescheder et al. 2018, eqs 1 and 9, with the slope of the mean score at real images."""
    torch.manual_seed(0)
    model = replace(SMALL, loss="logistic-r1", lambda_r1=4.0)
    nets: dict[str, Any] = model.networks(GENDER, 16)
    x, y = torch.rand(3, 3, 16, 16) * 2 - 1, torch.rand(3, 3, 16, 16) * 2 - 1
    none = torch.zeros(3, 2)
    batch = Batch(x, none, none, 0, lambda *_: none, 0.0, y[:, None])
    g, d = nets["Gab0"], nets["Dab0"]
    at = y.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(d(at).mean((1, 2, 3)).sum(), at)
    expected = {
        "real": -torch.sigmoid(d(y)).log().mean(),
        "fake": -torch.sigmoid(-d(g(x))).log().mean(),
        "r1": 2 * slope.square().sum((1, 2, 3)).mean(),
    }
    close(model.d_loss(nets, batch, "ab0"), expected)
    wanted = -torch.sigmoid(d(g(x))).log().mean()
    torch.testing.assert_close(model.g_loss(nets, batch, "ab0")["fake"], wanted)


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)

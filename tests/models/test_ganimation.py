"""GANimation against the paper: sizes, mask and reimplemented loss terms."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from runs import session_of
from training.core.config import TrainConfig
from training.data.batch import Batch
from training.data.labels import LabelSet, LabelSpace
from training.data.openface import UNITS
from training.models.ganimation import GANimation, total_variation

FACES = LabelSet("faces", "continuous", UNITS)
SMALL = GANimation(conv_dim=4, repeat_num=1, d_conv_dim=4, d_repeat_num=2)


def test_parameter_counts_are_the_golden_ones() -> None:
    with torch.device("meta"):
        nets = GANimation().networks(LabelSpace((FACES,)), 128)
    counts = {name: sum(p.numel() for p in net.parameters()) for name, net in nets.items()}
    assert counts == {"G": 8_471_296, "D": 44_860_352}


def setup() -> tuple[LabelSpace, Any, Batch, dict[str, Tensor]]:
    torch.manual_seed(2)
    space = LabelSpace((FACES,))
    noises = {"alpha": torch.rand(4, 1, 1, 1), "y_g": torch.rand(4, 17)}
    labels = torch.rand(4, 17)
    batch = Batch(
        torch.rand(4, 3, 16, 16) * 2 - 1, labels, labels[[0, 2, 3, 1]], 0,
        lambda name, shape: noises[name], 0.0, other=labels[[1, 2, 3, 0]],
    )  # fmt: skip
    return space, SMALL.networks(space, 16), batch, noises


def masked(g: Any, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """A∘I + (1 − A)∘C from the three parts of G."""
    h = g.main(torch.cat([x, c[:, :, None, None].expand(-1, -1, 16, 16)], 1))
    mask = 1 / (1 + (-g.attention(h)).exp())
    return mask * x + (1 - mask) * g.colour(h).tanh(), mask


def test_every_loss_term_equals_the_papers() -> None:
    space, nets, batch, noises = setup()
    g, d = nets["G"], nets["D"]
    x, y_r = batch.image, batch.source
    assert batch.other is not None
    y_g = batch.other + 0.2 * noises["y_g"] - 0.1
    fake, mask = masked(g, x, y_g)
    back, again = masked(g, fake, y_r)
    alpha = noises["alpha"]
    mixed = (alpha * x + (1 - alpha) * fake).detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(d(mixed)[0].sum(), mixed)
    expected = {
        "real": -d(x)[0].mean(),
        "fake": d(fake)[0].mean(),
        "cond": 160 * ((d(x)[1] - y_r) ** 2).mean(),
        "gp": 10 * ((slope.pow(2).sum((1, 2, 3)).sqrt() - 1) ** 2).mean(),
    }
    found = SMALL.d_loss(nets, batch, space)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)

    def variation(a: Tensor) -> Tensor:
        """4.1 times the mean; the code's 1e-5 times the sum is this at its batch and size."""
        along = [a.diff(dim=axis).abs().mean() for axis in (2, 3)]
        return along[0] + along[1]

    expected = {
        "fake": -d(fake)[0].mean(),
        "cond": 160 * ((d(fake)[1] - y_g) ** 2).mean(),
        "cyc": 10 * (back - x).abs().mean(),
        "mask": 0.1 * (mask.mean() + again.mean()),
        "tv": 4.1 * (variation(mask) + variation(again)),
    }
    found = SMALL.g_loss(nets, batch, space)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fidelity", ["paper", "repo"])
@pytest.mark.parametrize("projection", [False, True])
def test_the_logistic_loss_with_r1_is_that_of_its_paper(fidelity: Any, projection: bool) -> None:
    """Mescheder et al. 2018, eqs 1 and 9, with the slope of the mean score at real images.

    With the projection f(x, y) = ψ(φ(x)) + Σ (2·y_k − 1)·v_k(φ(x)) (Miyato & Koyama 2018, eq. 5).
    """
    space, _, batch, noises = setup()
    model = replace(
        SMALL, loss="logistic-r1", lambda_r1=4.0, fidelity=fidelity, d_projection=projection
    )
    nets: Any = model.networks(space, 16)

    def score(x: Tensor, y: Tensor) -> Tensor:
        maps = nets["D"](x)[0]
        assert maps.shape == (4, 18 if projection else 1, 4, 4)
        rows = [
            maps[i, 0] + sum((2 * y[i, k] - 1) * maps[i, 1 + k] for k in range(17 * projection))
            for i in range(4)
        ]
        return torch.stack(rows)

    x, y_r = batch.image, batch.source
    assert batch.other is not None
    y_g = batch.other + 0.2 * noises["y_g"] - 0.1
    fake = model.fake(nets, batch, space)[0]
    at = x.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(score(at, y_r).mean((1, 2)).sum(), at)
    expected = {
        "real": -torch.sigmoid(score(x, y_r)).log().mean(),
        "fake": -torch.sigmoid(-score(fake, y_g)).log().mean(),
        "r1": 2 * slope.square().sum((1, 2, 3)).mean(),
    }
    found = model.d_loss(nets, batch, space)
    if fidelity == "repo":
        assert "r1" not in found
        found |= model.p_loss(nets, batch, space)
    assert found.keys() == {*expected, "cond"}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    wanted = -torch.sigmoid(score(fake, y_g)).log().mean()
    torch.testing.assert_close(model.g_loss(nets, batch, space)["fake"], wanted)


def published_steps(
    nets: Any, batches: list[Batch], space: LabelSpace
) -> tuple[list[float], list[float]]:
    """D's losses and its label loss in a loop as published: two steps of one Adam, then G's.

    Before the penalty's backward pass gradients are set to 0, as torch 0.3 did, not removed.
    """
    d_adam, g_adam = (torch.optim.Adam(nets[n].parameters(), 1e-4, (0.5, 0.999)) for n in "DG")
    losses, cond = [], []
    for step, batch in enumerate(batches, 1):
        x, y_g = batch.image, SMALL.noisy_target(batch, space)
        fake = nets["G"](x, y_g)[0].detach()
        (real, found), (made, _) = nets["D"](x), nets["D"](fake)
        cond.append(160 * ((found - batch.source) ** 2).mean())
        losses.append(made.mean() - real.mean() + cond[-1])
        d_adam.zero_grad(set_to_none=False)
        losses[-1].backward()
        d_adam.step()
        alpha = batch.noise("alpha", (1, 1, 1))
        mixed = (alpha * x + (1 - alpha) * fake).requires_grad_(True)
        (slope,) = torch.autograd.grad(nets["D"](mixed)[0].sum(), mixed, create_graph=True)
        d_adam.zero_grad(set_to_none=False)
        (10 * ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()).backward()
        d_adam.step()
        if step % 2 == 0:
            g_adam.zero_grad()
            torch.stack([*SMALL.g_loss(nets, batch, space).values()]).sum().backward()
            g_adam.step()
    return [float(v.detach()) for v in losses], [float(v.detach()) for v in cond]


@pytest.mark.parametrize(("fidelity", "equal"), [("repo", True), ("paper", False)])
def test_two_steps_of_d_are_the_published_ones(fidelity: str, equal: bool, units: Path) -> None:
    """Losses of D over six batches; the paper's one step gives others from the second on."""
    model = GANimation(conv_dim=4, repeat_num=1, d_conv_dim=4, d_repeat_num=2, n_critic=2,
                       fidelity=fidelity)  # type: ignore[arg-type]  # fmt: skip
    config = TrainConfig(images=48, decay_images=0, batch=8, precision="fp32")
    session = session_of(model, units, config)
    nets, space = copy.deepcopy(session.state.nets), session.job.faces.space
    batches = [session.order.show(session.draws(step)[0]) for step in range(6)]
    expected, expected_cond = published_steps(nets, batches, space)
    found = [session.advance() for _ in range(6)]
    cond = [float(terms["d/cond"]) for terms in found]
    losses = [float(sum(terms[f"d/{k}"] for k in ("real", "fake", "cond"))) for terms in found]
    assert (losses == pytest.approx(expected, rel=1e-4)) is equal
    assert (cond == pytest.approx(expected_cond, rel=1e-4)) is equal
    assert ("p/gp" in found[0]) is equal


def test_weights_on_means_equal_the_published_ones_at_their_batch_and_size() -> None:
    """(4000/B)·MSE and 1e-5·Σ|ΔA| at B = 25 and 128 px."""
    mask = torch.rand(25, 1, 128, 128)
    summed = 1e-5 * (mask.diff(dim=2).abs().sum() + mask.diff(dim=3).abs().sum())
    ours = GANimation().lambda_tv * total_variation(mask)
    torch.testing.assert_close(ours, summed, rtol=0.02, atol=0)
    assert GANimation().lambda_cond == 4000 / 25


@pytest.mark.parametrize(("logit", "kept"), [(20.0, 1.0), (-20.0, 0.0)])
def test_a_white_mask_keeps_the_input_and_a_black_one_replaces_it(
    logit: float, kept: float
) -> None:
    _, nets, batch, _ = setup()
    g: Any = nets["G"]
    h = torch.zeros(4, 4, 16, 16)
    g.main = torch.nn.Module()
    g.main.forward = lambda x: h
    g.attention.forward = lambda h: torch.full((4, 1, 16, 16), logit)
    out, mask = g(batch.image, batch.source)
    torch.testing.assert_close(mask, torch.full_like(mask, kept))
    torch.testing.assert_close(out, kept * batch.image)


def test_uniform_targets_move_half_of_the_units_and_keep_the_rest() -> None:
    """Of 4,000 images, without noise: a unit is its own, or spread evenly over [0, 1]."""
    n, space = 4000, LabelSpace((LabelSet("faces", "continuous", ("AU12", "AU25")),))
    own = torch.full((n, 2), -5.0)  # no intensity, so that what moved is seen
    stream = torch.Generator().manual_seed(0)
    batch = Batch(torch.zeros(n, 3, 1, 1), own, own, 0,
                  lambda name, shape: torch.rand(n, *shape, generator=stream), 0.0)  # fmt: skip
    found = replace(SMALL, targets="uniform", noise=0.0).noisy_target(batch, space)
    moved = found > -1
    assert moved.float().mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.03)
    assert (moved[:, 0] & moved[:, 1]).float().mean() == pytest.approx(0.25, abs=0.03)
    assert (found[~moved] == -5).all()
    shares = torch.histc(found[moved], 4, 0, 1) / moved.sum()
    assert shares.tolist() == pytest.approx([0.25] * 4, abs=0.03)


def test_labels_that_are_no_intensities_get_no_noise() -> None:
    space = LabelSpace((LabelSet("faces", "binary", ("Male", "Young")),))
    target = torch.tensor([[0.0, 1.0]])
    batch = Batch(torch.zeros(1, 3, 16, 16), target, target, 0, lambda *_: 1 / 0, 0.0)  # type: ignore[arg-type,return-value]
    assert SMALL.noisy_target(batch, space) is target


@pytest.mark.parametrize(("logit", "message"), [(9.0, "near 1"), (-9.0, "near 0"), (0.0, "")])
def test_a_saturated_mask_is_a_symptom(logit: float, message: str) -> None:
    _, nets, batch, _ = setup()
    g: Any = nets["G"]
    g.attention.forward = lambda h: torch.full((4, 1, 16, 16), logit)
    bad = [sign.says for sign in SMALL.diagnostics(nets, batch.image, batch.target) if sign.bad]
    assert len(bad) == bool(message)
    assert all(message in says for says in bad)
    model = replace(SMALL, output="residual")  # whose colours keep the input as well
    bad = [sign.says for sign in model.diagnostics(nets, batch.image, batch.target) if sign.bad]
    assert len(bad) == (message == "near 1")


def test_a_mask_that_edits_a_small_region_is_healthy() -> None:
    """16 × 16 pixels, of which four are edited."""
    _, nets, batch, _ = setup()
    g: Any = nets["G"]
    logits = torch.full((4, 1, 16, 16), 9.0)
    logits[:, :, 4:6, 4:6] = -9.0
    g.attention.forward = lambda h: logits
    assert not [sign for sign in SMALL.diagnostics(nets, batch.image, batch.target) if sign.bad]

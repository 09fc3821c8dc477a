"""R3GAN's objective in every model whose discriminator judges single images."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from runs import QUICK, RICHEST, losses, session_of
from training.core.config import to_json
from training.data.batch import Batch
from training.engine.session import Session
from training.evaluation.diagnostics import balance
from training.models import MODELS
from training.models.base import Model, Phase
from training.models.stargan import projected
from training.train import train

MEMBERS = [
    "attgan", "cyclegan", "diat", "drit", "ganimation", "msgan", "munit", "stargan", "starganv2",
    "stgan",
]  # fmt: skip
SPACES = dict(RICHEST)
ADVERSARIAL = ("fake", "adv", "gan_ab", "gan_ba", "gan_a", "gan_b")  # G's terms
CRITICS = ("D", "Dab0", "Da0", "Db0", "Ra0", "Rb0")  # of the first pair or direction; not Dc


def model_of(name: str, loss: str = "r3gan") -> Any:
    """The smallest form, with weights that differ where the model has them."""
    given: Any = MODELS[name].tiny()
    known = {f.name for f in fields(given)}
    weight = {"lambda_reg": 0.7} if "lambda_reg" in known else {"lambda_r1": 0.7}
    return replace(given, loss=loss, **weight)


@pytest.fixture
def opened(request: pytest.FixtureRequest) -> Callable[[Model, str], Session]:
    def of(model: Model, name: str) -> Session:
        return session_of(model, request.getfixturevalue(SPACES[name]))

    return of


def first_batch(session: Session) -> Batch:
    return session.order.show(session.draw(0, 0, 0, 0))


def kind(phase: Phase) -> str:
    """ "d" for updates of the critics, "g" for those of networks that they judge."""
    if set(phase.trains) <= set(CRITICS):
        return "d"
    return "" if phase.name in ("dc", "ey", "ez") else "g"


def first_turn(model: Model, session: Session, which: str) -> list[Phase]:
    found = [p for p in model.phases(session.job.faces.space) if kind(p) == which]
    return [p for p in found if p.round_robin_index in (-1, 0)]


@contextmanager
def recorded(nets: dict[str, nn.Module]) -> Iterator[dict[str, list[tuple[bool, Tensor, Any]]]]:
    """Each critic's calls: with gradients or not, images, further arguments."""
    calls: dict[str, list[tuple[bool, Tensor, Any]]] = {}
    hooks = []
    for name in nets.keys() & set(CRITICS):

        def note(_: nn.Module, given: tuple[Any, ...], name: str = name) -> None:
            seen = torch.is_grad_enabled(), given[0], given[1:]
            calls.setdefault(name, []).append(seen)

        hooks.append(nets[name].register_forward_pre_hook(note))
    yield calls
    for hook in hooks:
        hook.remove()


def scores_of(d: nn.Module, x: Tensor, more: tuple[Any, ...] = ()) -> list[Tensor]:
    """Score maps, one for each scale."""
    out = d(x, *more)
    if isinstance(out, list):
        return out
    return [out[0] if isinstance(out, tuple) else out]


def softplus(x: Tensor) -> Tensor:
    return torch.log1p(torch.exp(x))


def squared_slope(d: nn.Module, x: Tensor, more: tuple[Any, ...], *, whole: bool) -> Tensor:
    """E‖∇ₓ s‖² by autograd, with s the sum of an image's patches, or their mean, over scales."""
    x = x.clone().requires_grad_()
    parts = [s.flatten(1) if s.dim() > 1 else s[:, None] for s in scores_of(d, x, more)]
    total = sum((p.sum(1) if whole else p.mean(1)).sum() for p in parts)
    (slope,) = torch.autograd.grad(total, x)  # type: ignore[arg-type]
    return slope.square().flatten(1).sum(1).mean()


def test_the_members_are_all_but_those_without_such_a_discriminator() -> None:
    """Fader's D judges latents; IcGAN's has batch norm, so an image has no slope of its own."""
    offer = [name for name, given in MODELS.items() if _offers(given)]
    assert offer == MEMBERS
    assert sorted(set(MODELS) - set(offer)) == ["fader", "icgan"]


def _offers(given: type[Model]) -> bool:
    hints = given.__dataclass_fields__.get("loss")
    return hints is not None and "r3gan" in str(hints.type)


@pytest.mark.parametrize("name", MEMBERS)
def test_d_terms_are_pairs_with_both_penalties(
    name: str, opened: Callable[[Model, str], Session]
) -> None:
    """E[softplus(s(G) − s(x))] and λ/2·(R1 + R2), from the images that each critic was shown."""
    model = model_of(name)
    session = opened(model, name)
    nets, weight = session.state.nets, 0.7
    for phase in first_turn(model, session, "d"):
        batch = first_batch(session)
        n = len(batch.image)
        with recorded(nets) as calls:
            found = phase.loss(nets, batch)
        pair = r1 = r2 = torch.zeros(())
        for d, seen in calls.items():
            # A penalty's own pass, where it is one, has images with gradients.
            images = torch.cat([x for _, x, _ in seen if not x.requires_grad])
            own, asked = (), ()
            if name == "starganv2":  # its real scores come with R1's slope
                images = torch.cat([batch.image, images])
                own, asked = (batch.source.argmax(1),), (batch.target.argmax(1),)
            real, *fakes = images.split(n)
            assert any(torch.equal(real, x) for x in sources(batch))
            assert not any(torch.equal(fake, x) for fake in fakes for x in sources(batch))
            for fake in fakes:
                maps = scores_of(nets[d], real, own), scores_of(nets[d], fake, asked)
                pair = pair + sum(softplus(f - r).mean() for r, f in zip(*maps, strict=True))
                whole = name == "stargan"
                r1 = r1 + weight / 2 * squared_slope(nets[d], real, own, whole=whole)
                r2 = r2 + weight / 2 * squared_slope(nets[d], fake, asked, whole=whole)
        for word, value in (("pair", pair), ("r1", r1), ("r2", r2)):
            total = sum(term for key, term in found.items() if key.endswith(word))
            torch.testing.assert_close(total, value, rtol=1e-4, atol=1e-6)
        assert not any(key.endswith(("real", "fake", "gp")) for key in found)


def sources(batch: Batch) -> list[Tensor]:
    """The batch's real images, by the place that they have in it."""
    more = [x for x in (batch.reference, batch.peers) if x is not None]
    return [batch.image, *(group[:, i] for group in more for i in range(group.shape[1]))]


@pytest.mark.parametrize("name", MEMBERS)
def test_g_terms_are_pairs_with_the_same_real_images(
    name: str, opened: Callable[[Model, str], Session]
) -> None:
    """E[softplus(s(x) − s(G))]; the scores of real images carry no gradient."""
    model = model_of(name)
    session = opened(model, name)
    nets = session.state.nets
    for phase in first_turn(model, session, "g"):
        batch = first_batch(session)
        n = len(batch.image)
        with recorded(nets) as calls:
            found = phase.loss(nets, batch)
        value = torch.zeros(())
        for d, seen in calls.items():
            made = [(x.detach(), more) for grad, x, more in seen if grad]
            shown = [(x, more) for grad, x, more in seen if not grad]
            real, own = shown[-1]
            assert any(torch.equal(real, x) for x in sources(batch))
            fakes, more = made[0]
            for fake in fakes.split(n):
                maps = scores_of(nets[d], real, own), scores_of(nets[d], fake, more)
                value = value + sum(softplus(r - f).mean() for r, f in zip(*maps, strict=True))
        total = sum(term for key, term in found.items() if key in ADVERSARIAL)
        torch.testing.assert_close(total, value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", MEMBERS)
def test_an_offset_of_all_scores_changes_no_loss(
    name: str, opened: Callable[[Model, str], Session]
) -> None:
    """Only differences count; the published objectives change."""
    for loss, same in (("r3gan", True), (MODELS[name].tiny().loss, False)):  # type: ignore[attr-defined]
        model = model_of(name, loss)
        session = opened(model, name)
        nets = session.state.nets
        before = terms(model, session)
        hooks = [h.register_forward_hook(lambda _, __, y: y + 3) for h in heads(nets)]
        after = terms(model, session)
        for hook in hooks:
            hook.remove()
        moved = [k for k in before if not torch.allclose(before[k], after[k], atol=1e-3)]
        assert (moved == []) is same, moved


def terms(model: Model, session: Session) -> dict[str, Tensor]:
    """All losses of the first turn but the penalties', which an offset never changes."""
    out = {}
    for which in "dg":
        for phase in first_turn(model, session, which):
            found = phase.loss(session.state.nets, first_batch(session))
            out |= {f"{phase.name}/{k}": v.detach() for k, v in found.items()}
    return out


def heads(nets: dict[str, nn.Module]) -> list[nn.Module]:
    """The last layer of each critic, or of each of its scales."""
    out = []
    for name in nets.keys() & set(CRITICS):
        d: Any = nets[name]
        parts = d.scales if hasattr(d, "scales") else [d.score_path()]
        for part in parts:
            layers = [m for m in part.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
            out.append(layers[-1])
    return out


@pytest.mark.parametrize("name", MEMBERS)
def test_an_undecided_d_has_no_lead(name: str, opened: Callable[[Model, str], Session]) -> None:
    """Critics with all scores 0: log 2 for each pair."""
    model = model_of(name)
    session = opened(model, name)
    for head in heads(session.state.nets):
        for parameter in head.parameters():
            nn.init.zeros_(parameter)
    logged = {}
    for phase in first_turn(model, session, "d"):
        found = phase.loss(session.state.nets, first_batch(session))
        logged |= {f"{phase.name}/{k}": float(v.detach()) for k, v in found.items()}
    (lead,) = balance(model, logged, 16)
    assert lead.value == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", ["stargan", "drit"])
def test_it_trains_and_logs_its_terms(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    dataset = request.getfixturevalue(SPACES[name])
    config = replace(QUICK, images=32, decay_images=0, warmup_images=0)
    run = tmp_path / "run"
    train(dataset, tmp_path / "m.json", name, to_json(model_of(name)), to_json(config), run=run)
    logged = losses(run)[-1]
    prefix = "d/" if name == "stargan" else "d/a2_"
    assert {f"{prefix}pair", f"{prefix}r1", f"{prefix}r2"} <= logged.keys()


@pytest.mark.parametrize(("name", "label_in_d"), [
    ("stargan", {"d_projection": True}),
    ("ganimation", {"d_projection": True}),
    ("stargan", {"d_branches": True}),
])  # fmt: skip
def test_each_image_is_scored_and_penalised_for_its_own_labels(
    name: str, label_in_d: dict[str, bool], request: pytest.FixtureRequest
) -> None:
    """Real ones for theirs, generated ones for the labels that they were made for."""
    which = "classes" if "d_branches" in label_in_d else SPACES[name]
    model: Any = replace(model_of(name), **label_in_d)
    session = session_of(model, request.getfixturevalue(which))
    nets, batch, space = session.state.nets, first_batch(session), session.job.faces.space
    (phase,) = first_turn(model, session, "d")
    with recorded(nets) as calls:
        found = phase.loss(nets, batch)
    real, fake = (x.clone().requires_grad_() for x in calls["D"][0][1].chunk(2))
    asked = batch.target if name == "stargan" else model.noisy_target(batch, space)
    scored = []
    for x, labels in ((real, batch.source), (fake, asked)):
        maps = nets["D"](x)[0]
        if name == "ganimation":
            scored.append(projected(maps, labels, batch.dataset, space))
        else:
            scored.append(model.score(maps, labels, batch, space))
    pair = softplus(scored[1] - scored[0]).mean()
    torch.testing.assert_close(found["pair"], pair, rtol=1e-4, atol=1e-6)
    for word, x, scores in (("r1", real, scored[0]), ("r2", fake, scored[1])):
        parts = scores.flatten(1)
        total = (parts.sum(1) if name == "stargan" else parts.mean(1)).sum()
        (slope,) = torch.autograd.grad(total, x)
        value = 0.7 / 2 * slope.square().flatten(1).sum(1).mean()
        torch.testing.assert_close(found[word], value, rtol=1e-4, atol=1e-6)

"""Fakes of the steps between two updates of G, made in one pass of G."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from runs import QUICK, RICHEST, Calls, session_of, static, takes
from toydata import SETS
from training.data.labels import LabelSpace
from training.engine import checkpoint
from training.engine.ahead import MOST, group
from training.engine.session import Session
from training.models import MODELS
from training.models.base import Ahead, Phase
from training.models.layers import BatchNorm

LONG = replace(QUICK, images=800, decay_images=0, warmup_images=16)
AHEAD = [
    (name, which)
    for name, model in MODELS.items()
    for which in SETS
    if takes(model, which) and any(p.ahead for p in model.tiny().phases(LabelSpace(SETS[which])))
]


def sessions(name: str, dataset: Path, critic: int = 5) -> tuple[Session, Session]:
    """Without and with passes ahead."""
    model = replace(MODELS[name].tiny(), n_critic=critic)  # type: ignore[call-arg]
    return tuple(  # type: ignore[return-value]
        session_of(model, dataset, replace(LONG, ahead=ahead)) for ahead in (False, True)
    )


def calls_of(session: Session) -> list[int]:
    """The batch size of each call of G."""
    calls: list[int] = []
    session.state.nets["G"].register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    return calls


@pytest.mark.parametrize(("name", "which"), AHEAD)
def test_a_pass_ahead_changes_losses_by_rounding_only(
    name: str, which: str, request: pytest.FixtureRequest
) -> None:
    """Every loss of a cycle and a half; over time Adam amplifies rounding, as for any change."""
    one, other = sessions(name, request.getfixturevalue(which))
    sets = one.schedule.sets
    plain, ahead = calls_of(one), calls_of(other)
    for _ in range(8 * sets):
        torch.testing.assert_close(one.advance(), other.advance(), rtol=1e-5, atol=1e-5)
    assert plain.count(8) > ahead.count(8)
    assert max(ahead) > 8
    assert max(plain) == 8
    torch.testing.assert_close(
        [p for net in other.state.nets.values() for p in net.parameters()],
        [p for net in one.state.nets.values() for p in net.parameters()],
        rtol=1e-3, atol=1e-4,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "which"), [("stargan", "joint"), ("ganimation", "units")])
@pytest.mark.parametrize("cut", [5, 7, 12])
def test_a_training_resumed_in_the_middle_of_a_group_has_the_same_bits(
    cut: int, name: str, which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    dataset = request.getfixturevalue(which)
    _, whole = sessions(name, dataset)
    _, resumed = sessions(name, dataset)
    passes = calls_of(whole)
    for _ in range(cut):
        whole.advance()
    path = checkpoint.save(tmp_path, whole.state, {}, whole.job.faces.space)
    for _ in range(3):
        resumed.advance()  # leaves draws and fakes of its own
    checkpoint.load(path, resumed.state)
    calls = calls_of(resumed)
    for _ in range(24):
        torch.testing.assert_close(whole.advance(), resumed.advance(), rtol=0, atol=0)
    assert set(calls) <= set(passes)  # also the cut group is one whole pass
    for net, weights in whole.state.nets.items():
        torch.testing.assert_close(
            weights.state_dict(), resumed.state.nets[net].state_dict(), rtol=0, atol=0
        )


def test_recorded_steps_read_the_prepared_tensors(joint: Path) -> None:
    """Each copied into a static tensor: the bits of steps that are not recorded."""
    _, plain = sessions("stargan", joint)
    graphs = Calls()
    recorded = static(sessions("stargan", joint)[1], graphs)
    for _ in range(40):
        torch.testing.assert_close(plain.advance(), recorded.advance(), rtol=0, atol=0)
    assert graphs.replayed
    assert recorded.recorder
    assert {key.prepared for key in recorded.recorder.kept} == {(), ("fake",)}


@pytest.mark.parametrize(("name", "which"), RICHEST)
def test_networks_read_ahead_treat_rows_independently(name: str, which: str) -> None:
    """No batch norm, whose result depends on the whole batch, and no dropout."""
    model, space = MODELS[name].tiny(), LabelSpace(SETS[which])
    nets = model.networks(space, 16)
    for phase in model.phases(space):
        for net in phase.ahead.reads if phase.ahead else ():
            kinds = {type(layer) for layer in nets[net].modules()}
            assert not kinds & {BatchNorm, torch.nn.BatchNorm2d, torch.nn.Dropout}


def test_a_model_that_makes_nothing_ahead_is_refused(binary: Path) -> None:
    with pytest.raises(ValueError, match="AttGAN has no phase whose images can be made ahead"):
        session_of(MODELS["attgan"].tiny(), binary, replace(LONG, ahead=True))


def test_a_group_is_a_function_of_the_step_and_bounded() -> None:
    """Every member has the same group; no member moves what is read; data sets keep apart."""

    def loss(*_: Any) -> Any:
        raise AssertionError

    ahead = Ahead(("G",), lambda *_: {})
    for sets in (1, 2, 3):
        for critic in (1, 2, 5, 30):
            d, g = Phase("d", ("D",), loss, ahead=ahead), Phase("g", ("G",), loss)

            def due(
                step: int, sets: int = sets, critic: int = critic, d: Phase = d, g: Phase = g
            ) -> list[Phase]:
                iteration = step // sets
                if iteration < 3:
                    return [g]
                return [d, g] if (iteration + 1) % critic == 0 else [d]

            seen = set()
            for step in range(sets * 3 * critic):
                members, _ = group(step, sets, due)
                assert members == [] if g in due(step) else step in members
                assert len(members) <= MOST
                assert {at % sets for at in members} <= {step % sets}
                assert all(g not in due(at) for at in members)
                assert all(group(at, sets, due)[0] == members for at in members)
                seen.add(len(members))
            assert max(seen) == min(critic - 1, MOST) or critic == 1

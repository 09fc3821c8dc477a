"""Losses compiled by torch.compile, here without its code generator, which takes minutes."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from runs import QUICK, Calls, session_of, static
from training.engine import compiling
from training.engine.distributed import World, freeze
from training.models.cyclegan import CycleGAN
from training.models.stargan import StarGAN

pytestmark = pytest.mark.slow
LONG = replace(QUICK, images=800, decay_images=0, warmup_images=0)


@pytest.fixture(autouse=True)
def front_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")


def gradients(session: Any, compile_: bool) -> list[tuple[dict[str, Any], list[Any]]]:
    """Losses and gradients of each phase on a batch that the phases share."""
    phases = compiling.compiled(session.phases, 1) if compile_ else session.phases
    nets, found = session.state.nets, []
    for turn in (0, 0, 1):  # compiled from the second call on
        batch = session.order.show(session.draws(turn)[0])
        for phase in phases:
            if phase.round_robin_index > 0:
                continue
            freeze(nets, phase.trains)
            terms = phase.loss(nets, batch)
            torch.stack(list(terms.values())).sum().backward()
            slopes = [p.grad for n in phase.trains for p in nets[n].parameters()]
            found.append(({k: v.detach() for k, v in terms.items()}, slopes))
            for net in nets.values():
                net.zero_grad()
    if compile_:
        used = [p.loss for p in phases if p.round_robin_index <= 0]
        assert all(loss.noises is not None for loss in used)
    return found


def test_compiled_losses_have_the_gradients_of_plain_ones(binary: Path) -> None:
    """Both phases of CycleGAN, which share fakes; two batches."""
    session = session_of(CycleGAN.tiny(), binary, LONG)
    plain, compiled = gradients(session, False), gradients(session, True)
    # Compiled, norms run as torch's own, with other rounding.
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=5e-5)


def test_a_compiled_training_trains_as_a_plain_one(
    binary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With noise and a penalty; on static tensors as well. Says what it could not compile."""
    sessions = [
        session_of(StarGAN.tiny(), binary, replace(LONG, compile=compile_))
        for compile_ in (False, True)
    ]
    graphs = Calls()
    static(sessions[1], graphs)
    for _ in range(10):
        one, other = (session.advance() for session in sessions)
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    assert graphs.replayed
    refused = {p.name for p in sessions[1].phases if p.loss.refused}  # type: ignore[attr-defined]
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(lines) == len(refused)
    assert all(
        line.startswith(f"phase {p} is not compiled")
        for line, p in zip(lines, refused, strict=True)
    )
    assert "g" not in refused


def test_what_cannot_be_compiled_runs_as_it_is_and_is_named(
    binary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A loss that reads a value: found before anything ran."""
    session = session_of(CycleGAN.tiny(), binary, LONG)
    (phase, *_) = session.phases

    def reads(nets: Any, batch: Any) -> Any:
        terms = phase.loss(nets, batch)
        return terms if terms["cyc"] >= 0 else {}

    (changed,) = compiling.compiled([phase._replace(loss=reads)], 1)
    batch = session.order.show(session.draws(0)[0])
    first, second = (changed.loss(session.state.nets, batch) for _ in "ab")
    torch.testing.assert_close(first, second)
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert line.startswith("phase g is not compiled and runs as it is: ")


def test_several_processes_are_refused(binary: Path) -> None:
    world = World(0, 2, torch.device("cpu"))
    with pytest.raises(ValueError, match="compile=true: one process only"):
        session_of(StarGAN.tiny(), binary, replace(LONG, compile=True), world)

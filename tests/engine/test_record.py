"""Recorded steps: host decisions and a function of static tensors give the numbers of plain steps.

A CUDA graph replays what ran once; here the function is called again instead, on the same tensors.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from runs import CPU, QUICK, RICHEST, Calls, session_of, static
from training.core.config import TrainConfig
from training.engine import checkpoint
from training.engine.record import EAGER, Body, Slots
from training.engine.session import Session
from training.engine.throughput import _settle
from training.models import MODELS
from training.models.base import Model
from training.models.stargan import StarGAN

LONG = replace(QUICK, images=800, decay_images=400, warmup_images=64, crop="zoom")


def tensors(session: Session) -> dict[str, Tensor]:
    """Weights, averages and moments by name."""
    state = session.state
    found = {
        f"{part}/{n}/{k}": v
        for part, nets in (("nets", state.nets), ("ema", state.ema))
        for n, net in nets.items()
        for k, v in net.state_dict().items()
    }
    for n, net in state.nets.items():
        found |= {f"optim/{n}/{k}": v for k, v in checkpoint._adam(net, state.optim[n]).items()}
    return found


def same(one: Session, other: Session, steps: int) -> None:
    """Run both; losses, weights, averages and moments are equal bit for bit."""
    for _ in range(steps):
        torch.testing.assert_close(one.advance(), other.advance(), rtol=0, atol=0)
    torch.testing.assert_close(tensors(one), tensors(other), rtol=0, atol=0)


@pytest.mark.parametrize(("name", "which"), RICHEST)
def test_static_tensors_give_the_bits_of_plain_steps(
    name: str, which: str, request: pytest.FixtureRequest
) -> None:
    """With warm-up, averages, mirroring and crops, and a learning rate that falls."""
    dataset, model, graphs = request.getfixturevalue(which), MODELS[name].tiny(), Calls()
    recorded = static(session_of(model, dataset, LONG), graphs)
    same(session_of(model, dataset, LONG), recorded, 32)
    assert graphs.replayed > 0
    assert recorded.recorder
    assert graphs.recorded == sum(k.steps > EAGER for k in recorded.recorder.kept.values())


def test_one_graph_is_recorded_for_each_set_of_due_phases_and_data_set(joint: Path) -> None:
    graphs = Calls()
    session = static(session_of(StarGAN.tiny(), joint, LONG), graphs)
    for _ in range(40):
        session.advance()
    assert session.recorder
    kept = {
        (key.dataset, key.warming, *(name for name, _ in key.due)) for key in session.recorder.kept
    }
    assert kept == {
        (dataset, *rest)
        for rest in ((True, "warmup"), (False, "d"), (False, "d", "g"))
        for dataset in (0, 1)
    }
    assert graphs.recorded == 6


@pytest.mark.parametrize("kept", [True, False])
def test_images_in_memory_are_gathered_from_static_rows(kept: bool, binary: Path) -> None:
    """Only row numbers are sent where the data set is on the device, else the pixels."""
    graphs = Calls()
    sessions = [session_of(StarGAN.tiny(), binary, LONG) for _ in range(2)]
    if kept:
        for session in sessions:
            session.job.faces.parts[0].move(CPU)
    same(sessions[0], static(sessions[1], graphs), 20)
    recorder = sessions[1].recorder
    assert recorder
    for recording in recorder.kept.values():
        assert recording.slots
        pixels = recording.slots.tensors[0, "image"]
        assert (pixels.dtype, pixels.dim()) == ((torch.int64, 1) if kept else (torch.uint8, 4))


def test_a_recorded_training_resumes_bit_for_bit(binary: Path, tmp_path: Path) -> None:
    """Into existing tensors, which a graph reads: also in the middle, after a plain part."""
    whole = session_of(StarGAN.tiny(), binary, LONG)
    cut = static(session_of(StarGAN.tiny(), binary, LONG), Calls())
    for _ in range(20):
        whole.advance()
    checkpoint.save(tmp_path, whole.state, {}, whole.job.faces.space)
    for _ in range(24):
        cut.advance()  # further, and then back

    def addresses() -> list[int]:
        adams = cut.state.optim.values()
        moments = [v for adam in adams for state in adam.state.values() for v in state.values()]
        weights = [p for net in cut.state.nets.values() for p in net.parameters()]
        return [tensor.data_ptr() for tensor in (*weights, *moments)]

    before = addresses()
    checkpoint.load(tmp_path / f"{whole.state.images:012d}", cut.state)
    assert addresses() == before
    same(whole, cut, 12)


@pytest.mark.parametrize(("name", "which"), RICHEST)
def test_a_cycle_of_steps_meets_every_set_of_due_phases(
    name: str, which: str, request: pytest.FixtureRequest
) -> None:
    """So that a measurement of the speed starts when all are recorded."""
    session = session_of(MODELS[name].tiny(), request.getfixturevalue(which), LONG)
    begin = session.schedule.sets * session.schedule.warmup_iterations

    def keys(first: int, count: int) -> set[Any]:
        return {
            (step % session.schedule.sets, *((p.name, p.round_robin_index) for p in due))
            for step in range(first, first + count)
            for due in [session.due(step)[0]]
        }

    assert keys(begin, session.cycle) == keys(begin + 3, 3 * session.cycle)


def test_the_speed_is_measured_when_every_graph_is_recorded(binary: Path) -> None:
    session = static(session_of(StarGAN.tiny(), binary, replace(LONG, warmup_images=0)), Calls())
    _settle(session)
    assert session.recorder
    assert session.recorder.settled
    assert len(session.recorder.kept) == 2
    done = session.state.step
    _settle(session)
    assert session.state.step == done + session.cycle


def changed(model: Model, change: Callable[..., Any]) -> Model:
    """The model with its first phase's loss wrapped."""
    cls = type(model)

    class Changed(cls):  # type: ignore[misc,valid-type]
        def phases(self, space: Any) -> Any:
            first, *rest = super().phases(space)
            return [first._replace(loss=change(first.loss)), *rest]

    return Changed(**vars(model))  # type: ignore[no-any-return]


@pytest.mark.parametrize("from_call", [EAGER - 1, EAGER + 1])
def test_noise_of_some_steps_only_is_refused_and_said_and_the_step_is_right(
    from_call: int, binary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A graph would freeze it: found in the first steps, or when the step is recorded."""

    def change(loss: Any) -> Any:
        calls = [0]

        def late(nets: Any, batch: Any) -> Any:
            calls[0] += 1
            terms = loss(nets, batch)
            if calls[0] >= from_call:
                terms["late"] = batch.noise("late", (1,)).mean()
            return terms

        return late

    class Trying(Calls):
        def record(self, body: Body) -> Body:
            before = {k: v.clone() for k, v in tensors(sessions[1]).items()}
            body()  # raises before anything is written
            torch.testing.assert_close(tensors(sessions[1]), before, rtol=0, atol=0)
            return super().record(body)

    config = replace(LONG, warmup_images=0)
    model = replace(StarGAN.tiny(), n_critic=1000)
    sessions = [session_of(changed(model, change), binary, config) for _ in range(2)]
    static(sessions[1], Trying())
    if from_call <= EAGER:
        same(*sessions, 12)
    else:  # the refused recording counts as a call
        for _ in range(12):
            sessions[1].advance()
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert lines == [
        "steps of d on data set 0 are not recorded and run op by op: the noise late (1,) is asked "
        "for in some steps only"
    ]


def test_what_cannot_be_recorded_runs_op_by_op_with_one_line_in_the_log(
    binary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing(Calls):
        def record(self, body: Body) -> Body:
            try:
                raise RuntimeError("operation not permitted when stream is capturing\nmore")
            finally:
                raise RuntimeError("the recording is invalid")  # as CUDA says on its end

    one, other = (session_of(StarGAN.tiny(), binary, replace(LONG, warmup_images=0)) for _ in "ab")
    same(one, static(other, Refusing()), 16)
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert lines == [
        f"steps of {due} on data set 0 are not recorded and run op by op: operation not permitted "
        "when stream is capturing"
        for due in ("d", "d, g")
    ]


def test_learning_rates_that_are_tensors_are_set_in_place(binary: Path) -> None:
    """As on a GPU; in float32, so that weights differ by rounding only."""
    config = TrainConfig(**{**vars(LONG), "warmup_images": 0, "decay_images": 800, "images": 64})
    one, other = (session_of(StarGAN.tiny(), binary, config) for _ in "ab")
    rates = {}
    for name, optimiser in other.state.optim.items():
        rates[name] = optimiser.param_groups[0]["lr"] = torch.zeros(())
    for _ in range(2):
        expected = other.rates()
        one.advance(), other.advance()
        for name, rate in expected.items():
            assert other.state.optim[name].param_groups[0]["lr"] is rates[name]
            assert float(rates[name]) == pytest.approx(rate)
    assert 0 < expected["G"] < one.settings["G"].lr
    torch.testing.assert_close(tensors(other), tensors(one), rtol=1e-4, atol=1e-6)


def test_slots_hold_every_kind_of_tensor_unchanged() -> None:
    """One block, each tensor on its own boundary, bits as given, addresses fixed."""
    stream = torch.Generator().manual_seed(0)
    like: dict[object, Tensor] = {
        "scalar": torch.tensor(0.3, dtype=torch.float64),
        "bools": torch.rand(5, generator=stream) < 0.5,
        "pixels": torch.randint(0, 256, (3, 4, 4, 3), generator=stream).to(torch.uint8),
        "rows": torch.arange(7),
        "none": torch.zeros(0, 2),
        "turned": torch.rand(3, 5, generator=stream).T,
    }
    slots = Slots(like, CPU)
    addresses = {name: tensor.data_ptr() for name, tensor in slots.tensors.items()}
    for _ in range(2):
        slots.fill(like)
        for name, tensor in like.items():
            assert torch.equal(slots.tensors[name], tensor), name
        like = {name: tensor.flip(0) if tensor.dim() else tensor for name, tensor in like.items()}
    assert {name: tensor.data_ptr() for name, tensor in slots.tensors.items()} == addresses

"""The training loop: reproducibility, phases, precision and errors."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from runs import CASES, QUICK, RICHEST, go, losses, session_of, weights
from toydata import SETS
from training.core.config import TrainConfig, to_json
from training.core.files import read_json, sha256_file
from training.data.batch import Batch
from training.data.labels import LabelSpace
from training.engine import checkpoint
from training.engine.distributed import World, freeze
from training.engine.loop import Meter, NonFiniteError
from training.engine.session import Session
from training.inference.translator import load_translator
from training.models import MODELS
from training.models.stargan import StarGAN
from training.storage.store import Manifest
from training.train import train


@pytest.mark.parametrize(("name", "which"), CASES)
def test_two_runs_with_the_same_seed_are_bit_equal(
    name: str, which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    dataset = request.getfixturevalue(which)
    first, second = go(dataset, tmp_path / "a", name=name), go(dataset, tmp_path / "b", name=name)
    assert weights(first) == weights(second)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_an_unsupported_label_space_is_refused(joint: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"celeba: binary, rafd: onehot: .* one data set of classes"
    ):
        go(joint, tmp_path / "run", name="starganv2")


def test_another_seed_gives_another_model(binary: Path, tmp_path: Path) -> None:
    other = TrainConfig(**{**vars(QUICK), "seed": 1})
    assert weights(go(binary, tmp_path / "a")) != weights(go(binary, tmp_path / "b", other))


def test_other_code_trains_in_another_folder(
    binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise weights trained before a fix would be published as those of the fixed code."""
    monkeypatch.chdir(tmp_path)
    texts = (to_json(StarGAN.tiny()), to_json(replace(QUICK, images=16)))
    for code in ("a", "b", "b"):
        monkeypatch.setattr("training.train.code_hash", lambda code=code: code * 64)
        train(binary, tmp_path / "model.json", "stargan", *texts)
    runs = [read_json(p / "config.json")["code"] for p in (tmp_path / "runs/train").iterdir()]
    assert sorted(runs) == ["a" * 64, "b" * 64]


def test_two_trainings_never_share_a_folder(
    binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    monkeypatch.setattr("training.train.LOCK_TIMEOUT", 0.1)
    (tmp_path / "run").mkdir()
    with (
        FileLock(tmp_path / "run" / ".lock"),
        pytest.raises(ValueError, match="another process trains there"),
    ):
        go(binary, tmp_path / "run")


@pytest.mark.parametrize(("name", "which"), RICHEST)
def test_every_phase_trains_only_its_networks(
    name: str, which: str, request: pytest.FixtureRequest
) -> None:
    session = session_of(MODELS[name].tiny(), request.getfixturevalue(which))
    nets, logged = session.state.nets, set()
    for dataset in range(len(session.job.faces.parts)):
        for phase in (*session.warmup, *session.phases):
            batch = session.order.show(session.draw(dataset, 0, 0, max(0, phase.round_robin_index)))
            before = {n: [p.clone() for p in net.parameters()] for n, net in nets.items()}
            terms = session.update(phase, batch)
            assert all(torch.isfinite(v) for v in terms.values())
            logged |= terms.keys()
            moved = {
                n
                for n, net in nets.items()
                if not all(map(torch.equal, before[n], net.parameters()))
            }
            assert moved == set(phase.trains)
    if adversarial := session.job.model.adversarial:
        assert {term for terms in adversarial.terms for term in terms} <= logged


@pytest.mark.parametrize(("name", "which"), RICHEST)
def test_bf16_gives_losses_and_gradients_near_those_of_fp32(
    name: str, which: str, request: pytest.FixtureRequest
) -> None:
    """The losses themselves are in full precision; averages start equal to their networks."""
    session = session_of(MODELS[name].tiny(), request.getfixturevalue(which))
    state = session.state
    for net, average in state.ema.items():
        for key, value in average.state_dict().items():
            assert torch.equal(value, state.nets[net].state_dict()[key])
    for phase in (*session.warmup, *session.phases):
        found = []
        for bf16 in (False, True):
            freeze(state.nets, phase.trains)
            batch = session.order.show(session.draw(0, 0, 0, max(0, phase.round_robin_index)))
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                terms = phase.loss(state.nets, batch)
            assert {term.dtype for term in terms.values()} == {torch.float32}
            torch.stack(list(terms.values())).sum().backward()
            slopes = [
                p.grad
                for n in phase.trains
                for p in state.nets[n].parameters()
                if p.grad is not None
            ]
            assert slopes
            assert all(torch.isfinite(slope).all() for slope in slopes)
            for net in state.nets.values():
                net.zero_grad()
            found.append({key: float(term.detach()) for key, term in terms.items()})
        assert found[1] == pytest.approx(found[0], rel=0.1, abs=0.05), phase.name


def eight_steps(name: str, dataset: Path, *, keep_grad: bool, shared: bool) -> tuple[Any, int]:
    """Losses and weights after eight steps without a warm-up, and how often a network ran."""
    session = session_of(MODELS[name].tiny(), dataset, replace(QUICK, warmup_images=0))
    calls = [0]
    for net in session.state.nets.values():
        net.register_forward_pre_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    if not keep_grad:
        session.phases = [phase._replace(keep_grad=()) for phase in session.phases]
    if not shared:
        draw = session.update

        def forgetful(phase: Any, batch: Batch, retained: tuple[str, ...] = ()) -> Any:
            return draw(phase, replace(batch, shared={}), retained)

        session.update = forgetful  # type: ignore[method-assign]
    found = [session.advance() for _ in range(8)]
    return (found, {n: net.state_dict() for n, net in session.state.nets.items()}), calls[0]


KEEPING = [
    (name, which)
    for name, which in RICHEST
    if any(phase.keep_grad for phase in MODELS[name].tiny().phases(LabelSpace(SETS[which])))
]


@pytest.mark.parametrize(("name", "which"), KEEPING)
def test_sharing_between_phases_saves_work_and_changes_no_result(
    name: str, which: str, request: pytest.FixtureRequest
) -> None:
    """A graph kept for a later phase of the batch, against a recomputed one."""
    dataset = request.getfixturevalue(which)
    kept, few = eight_steps(name, dataset, keep_grad=True, shared=True)
    anew, many = eight_steps(name, dataset, keep_grad=False, shared=True)
    torch.testing.assert_close(kept, anew, rtol=0, atol=0)
    assert few < many


def test_cyclegans_d_trains_on_the_fakes_of_gs_step_or_recomputes_them(binary: Path) -> None:
    """Shared fakes are those before G's step; recomputed ones differ and cost more work."""
    shared, few = eight_steps("cyclegan", binary, keep_grad=True, shared=True)
    anew, many = eight_steps("cyclegan", binary, keep_grad=True, shared=False)
    assert few < many
    first, other = shared[0][0], anew[0][0]
    assert {k for k in first if not torch.equal(first[k], other[k])} == {"d/a_fake", "d/b_fake"}


def test_the_error_for_a_loss_that_is_not_finite_names_term_images_and_checkpoint(
    binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true, calls = StarGAN.g_loss, []

    def broken(self: StarGAN, nets: Any, batch: Any, space: Any) -> Any:
        calls.append(torch.is_grad_enabled())  # not in validation
        terms = true(self, nets, batch, space)
        return (
            {**terms, "rec": terms["rec"] * float("nan")} if calls[-1] and sum(calls) > 2 else terms
        )

    monkeypatch.setattr(StarGAN, "g_loss", broken)
    with pytest.raises(
        NonFiniteError, match=r"g/rec is not finite after \d+ images; last good .*0000"
    ):
        go(binary, tmp_path / "run")


def test_a_loss_that_is_not_finite_in_another_process_is_said_to_be(tmp_path: Path) -> None:
    """This one's values are finite: the image count is a range."""

    class Elsewhere(World):
        def mean(self, values: torch.Tensor, batch: int) -> torch.Tensor:
            return values * float("nan")

    meter = Meter()
    for images in (8, 16, 24):
        meter.add({"g/rec": torch.tensor(0.5)}, images)
    where = "g/rec is not finite in another process, after 8 to 24 images; last good"
    with pytest.raises(NonFiniteError, match=where):
        meter.flush(Elsewhere(0, 2, torch.device("cpu")), 8, tmp_path)


@pytest.mark.parametrize(
    ("name", "named"), [("G", "G"), ("D", "D"), ("ema", "G's average")]
)  # fmt: skip
def test_weights_that_became_non_finite_in_the_last_step_are_not_saved(
    name: str, named: str, binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losses before the step are finite, the weights after it are not."""
    true = Session.advance

    def broken(self: Session) -> Any:
        terms = true(self)
        if self.state.images >= 64:
            net = self.state.ema["G"] if name == "ema" else self.state.nets[name]
            weight = next(net.parameters())
            weight.data.fill_(float("nan"))
        return terms

    monkeypatch.setattr(Session, "advance", broken)
    run = tmp_path / "run"
    with pytest.raises(NonFiniteError, match=rf"weights of {named} are not finite after 64 .*0048"):
        go(binary, run)
    assert max(int(p.name) for p in checkpoint.saved(run / "checkpoints")) == 48


def test_a_validation_score_that_is_not_finite_saves_no_checkpoint(
    binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = StarGAN.validate

    def broken(self: StarGAN, nets: Any, batch: Any, space: Any) -> Any:
        return true(self, nets, batch, space) * float("nan")

    monkeypatch.setattr(StarGAN, "validate", broken)
    with pytest.raises(NonFiniteError, match=r"validation score .* after 16 images; .* none"):
        go(binary, tmp_path / "other")
    assert not checkpoint.saved(tmp_path / "other" / "checkpoints")


def test_length_is_counted_over_all_data_sets(joint: Path, tmp_path: Path) -> None:
    go(joint, tmp_path / "run")
    state = read_json(tmp_path / "run" / "checkpoints" / f"{64:012d}" / "extra" / "state.json")
    assert (state["images"], state["step"]) == (64, 8)


def test_the_manifest_lists_what_is_in_the_store(binary: Path, tmp_path: Path) -> None:
    manifest = Manifest.read(go(binary, tmp_path / "run"), "model")
    assert {"nets/G.safetensors", "ema/G.safetensors", "config.json"} <= {
        e.name for e in manifest.entries
    }
    for entry in manifest.entries:
        assert sha256_file(manifest.local(entry.name)) == entry.sha256


def test_translator_uses_the_averaged_weights(binary: Path, tmp_path: Path) -> None:
    manifest = Manifest.read(go(binary, tmp_path / "run"), "model")
    translator = load_translator(manifest)
    averaged = load_file(manifest.local("ema/G.safetensors"))
    for key, value in translator.nets["G"].state_dict().items():
        assert torch.equal(value, averaged[key])
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    label = torch.zeros(2, translator.space.dim_g)
    out = translator(image, label, label)
    assert out.shape == image.shape
    assert out.abs().max() <= 1

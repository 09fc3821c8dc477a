"""Training: order, resume, crashes, processes."""

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from training import launch as launching
from training.cluster.job import Request
from training.core.config import TrainConfig, to_json
from training.core.files import read_json, sha256_file
from training.data.dataset import Faces, Order, generator
from training.engine import checkpoint
from training.launch import launch
from training.models import MODELS
from training.models.attgan import AttGAN
from training.models.cyclegan import CycleGAN
from training.models.diat import DIAT
from training.models.ganimation import GANimation
from training.models.icgan import IcGAN
from training.models.stargan import StarGAN
from training.models.starganv2 import StarGANv2
from training.models.stgan import STGAN
from training.storage.store import Manifest
from training.train import train

ROOT = Path(__file__).resolve().parents[2]
_ATTGAN: dict[str, Any] = {
    "dim": 4, "layers": 2, "d_dim": 4, "d_layers": 2, "d_fc": 8, "n_critic": 2, "averages": True,
}  # fmt: skip
SMALL = {
    "attgan": AttGAN(**_ATTGAN),
    "stgan": STGAN(**_ATTGAN, shortcut_layers=1, inject_layers=1),
    "cyclegan": CycleGAN(dim=4, blocks=1, d_dim=4, d_layers=1, averages=True),
    "diat": DIAT(dim=4, blocks=1, d_dim=4, d_repeat_num=2, n_critic=1, averages=True),
    "icgan": IcGAN(dim=4, latent=4, e_dim=4, z_hidden=8, y_hidden=8),
    "starganv2": StarGANv2(dim=4, max_dim=8, hidden=8),
    "ganimation": GANimation(
        conv_dim=4, repeat_num=1, d_conv_dim=4, d_repeat_num=2, n_critic=2, averages=True
    ),
    "stargan": StarGAN(conv_dim=4, repeat_num=1, d_conv_dim=4, d_repeat_num=2, n_critic=2),
}
# The label spaces that a model takes, the richest last.
TAKES = dict.fromkeys(MODELS, ("binary", "joint")) | {
    "stargan": ("binary", "units", "joint"),
    "ganimation": ("joint", "units"),
    "starganv2": ("classes",),
    "cyclegan": ("classes", "binary"),
    "diat": ("classes", "binary"),
}
CASES = [(name, which) for name in MODELS for which in TAKES[name]]
RICHEST = [(name, TAKES[name][-1]) for name in MODELS]
QUICK = TrainConfig(
    images=64, decay_images=32, warmup_images=16, batch=8, log_images=8, sample_images=64,
    checkpoint_images=16, precision="fp32", ema=0.9, keep=9,
)  # fmt: skip


def go(
    dataset: Path, run: Path, config: TrainConfig = QUICK, name: str = "stargan", **more: Any
) -> Path:
    out = run.parent / f"{run.name}.json"
    train(dataset, out, name, to_json(SMALL[name]), to_json(config), run=run, **more)
    return out


def weights(manifest: Path) -> dict[str, str]:
    """Digest of every network, average and optimiser."""
    entries = Manifest.read(manifest, "model").entries
    return {e.name: e.sha256 for e in entries if e.name.endswith(".safetensors")}


def losses(run: Path) -> list[dict[str, float]]:
    keys = ("images_per_second", "memory_mib", "data_wait_share", "checkpoint_seconds")  # of time
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in keys} for line in lines]


@pytest.mark.parametrize(("name", "which"), CASES)
def test_two_runs_with_the_same_seed_are_bit_equal(
    name: str, which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    dataset = request.getfixturevalue(which)
    first, second = go(dataset, tmp_path / "a", name=name), go(dataset, tmp_path / "b", name=name)
    assert weights(first) == weights(second)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_a_label_space_that_a_model_does_not_take_is_refused_in_words(
    joint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"celeba: binary, rafd: onehot: .* one data set whose"):
        go(joint, tmp_path / "run", name="starganv2")


def test_another_seed_gives_another_model(binary: Path, tmp_path: Path) -> None:
    other = TrainConfig(**{**vars(QUICK), "seed": 1})
    assert weights(go(binary, tmp_path / "a")) != weights(go(binary, tmp_path / "b", other))


def test_other_code_trains_in_another_folder(
    binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what was trained before a mend would be published as the mended code's."""
    monkeypatch.chdir(tmp_path)
    texts = (to_json(SMALL["stargan"]), to_json(replace(QUICK, images=16)))
    for code in ("a", "b", "b"):
        monkeypatch.setattr("training.train.code_hash", lambda code=code: code * 64)
        train(binary, tmp_path / "model.json", "stargan", *texts)
    runs = [read_json(p / "config.json")["code"] for p in (tmp_path / "runs/train").iterdir()]
    assert sorted(runs) == ["a" * 64, "b" * 64]


def test_two_trainings_never_share_a_folder(
    binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    monkeypatch.setattr("training.train.ELSEWHERE", 0.1)
    (tmp_path / "run").mkdir()
    with (
        FileLock(tmp_path / "run" / ".lock"),
        pytest.raises(ValueError, match="another process trains there"),
    ):
        go(binary, tmp_path / "run")


def test_the_schedule_counts_what_the_phases_draw() -> None:
    """Against a plain count, with a warm-up that draws once and phases that draw again."""
    from training.engine.schedule import Schedule
    from training.models.base import Phase

    def loss(*_: Any) -> Any:
        raise AssertionError

    for sets, every, warmup in itertools.product((1, 2, 3), (1, 2, 5), (0, 8, 24, 50)):
        phases = [Phase("a", (), loss), Phase("b", (), loss, every, fresh=True)]
        schedule, seen, drawn = Schedule(phases, sets, 4, warmup), 0, [0] * sets
        warm = -(-warmup // (4 * sets))
        for step in range(60):
            iteration, dataset = divmod(step, sets)
            assert (schedule.images(step), schedule.drawn(iteration)) == (seen, drawn[dataset])
            again = iteration >= warm and (iteration + 1) % every == 0
            drawn[dataset] += 8 if again else 4
            seen += 8 if again else 4


@pytest.mark.parametrize("part", [{"turn": 0}, {"span": (0.5, 1.0)}])
def test_a_fresh_phase_of_a_turn_or_a_stage_is_refused(part: dict[str, Any]) -> None:
    """The loop would draw for it less often than the schedule counts."""
    from training.engine.schedule import Schedule
    from training.models.base import Phase

    with pytest.raises(ValueError, match="b: a fresh phase of a turn"):
        Schedule([Phase("b", (), lambda *_: {}, fresh=True, **part)], 1, 4)


def order_of(name: str, faces: Faces) -> Order:
    references = getattr(SMALL[name], "references", 0)
    return Order(faces, 0, QUICK.batch, flip=True, length=QUICK.images, references=references)


@pytest.mark.parametrize(("name", "which"), RICHEST)
def test_every_phase_moves_only_its_networks(
    name: str, which: str, request: pytest.FixtureRequest
) -> None:
    from training.engine.distributed import World
    from training.engine.loop import Job, build_state, update
    from training.tracking.tracker import Tracker

    faces = Faces.open(request.getfixturevalue(which), "train")
    world = World(0, 1, torch.device("cpu"))
    job = Job(SMALL[name], QUICK, faces, faces, Path(), {}, world, Tracker())
    order = order_of(name, faces)
    state, logged = build_state(job), set()
    for dataset in range(len(faces.parts)):
        look = getattr(job.model, "sides", None)
        for phase in (*job.model.warmup(faces.space), *job.model.phases(faces.space)):
            labels = faces.parts[dataset].labels
            sides = look(labels, faces.space, phase.turn) if look else None
            batch = order.batch(dataset, 0, 0, slice(0, 8), world.device, sides)
            before = {n: [p.clone() for p in net.parameters()] for n, net in state.nets.items()}
            terms = update(state, state.nets, phase, batch, job)
            assert all(torch.isfinite(v) for v in terms.values())
            logged |= terms.keys()
            moved = {
                n
                for n, net in state.nets.items()
                if any(
                    not torch.equal(a, b) for a, b in zip(before[n], net.parameters(), strict=True)
                )
            }
            assert moved == set(phase.trains)
    assert {term for terms in job.model.adversarial.terms for term in terms} <= logged


@pytest.mark.parametrize(("name", "which"), RICHEST)
def test_bf16_gives_losses_and_gradients_near_those_of_fp32(
    name: str, which: str, request: pytest.FixtureRequest
) -> None:
    """Each loss is itself of full precision; averages start as the networks they are of."""
    from training.engine.distributed import World, freeze
    from training.engine.loop import Job, build_state
    from training.tracking.tracker import Tracker

    faces = Faces.open(request.getfixturevalue(which), "train")
    world = World(0, 1, torch.device("cpu"))
    job = Job(SMALL[name], QUICK, faces, faces, Path(), {}, world, Tracker())
    order, state = order_of(name, faces), build_state(job)
    for net, average in state.ema.items():
        for key, value in average.state_dict().items():
            assert torch.equal(value, state.nets[net].state_dict()[key])
    look = getattr(job.model, "sides", None)
    for phase in (*job.model.warmup(faces.space), *job.model.phases(faces.space)):
        sides = look(faces.parts[0].labels, faces.space, phase.turn) if look else None
        found = []
        for bf16 in (False, True):
            freeze(state.nets, phase.trains)
            batch = order.batch(0, 0, 0, slice(0, 8), world.device, sides)
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


@pytest.mark.parametrize(("name", "which"), RICHEST)
def test_what_phases_share_changes_the_work_and_no_number(
    name: str, which: str, request: pytest.FixtureRequest
) -> None:
    from training.engine.distributed import World
    from training.engine.loop import Job, advance, build_state
    from training.tracking.tracker import Tracker

    faces = Faces.open(request.getfixturevalue(which), "train")
    world = World(0, 1, torch.device("cpu"))
    job = Job(SMALL[name], QUICK, faces, faces, Path(), {}, world, Tracker())
    order = order_of(name, faces)
    results, passes = [], []
    for sharing in (True, False):
        state, calls = build_state(job), [0]
        for net in state.nets.values():
            net.register_forward_pre_hook(
                lambda *_, calls=calls: calls.__setitem__(0, calls[0] + 1)
            )
        phases = job.model.phases(faces.space)
        if not sharing:
            phases = [p._replace(keeps=()) for p in phases]
        losses = [advance(state, state.nets, order, job, phases) for _ in range(8)]
        results.append((losses, {n: net.state_dict() for n, net in state.nets.items()}))
        passes.append(calls[0])
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    assert passes[0] < passes[1] or not any(p.keeps for p in job.model.phases(faces.space))


def test_an_epoch_holds_every_image_once_and_the_next_another_order(binary: Path) -> None:
    faces = Faces.open(binary, "train")
    order = Order(faces, 3, 8, flip=True, length=1)
    count = len(faces.parts[0])
    seen = torch.cat([order.rows(0, start) for start in range(0, 2 * count, 8)])
    assert sorted(seen[:count].tolist()) == list(range(count))
    assert sorted(seen[count:].tolist()) == list(range(count))
    assert seen[:count].tolist() != seen[count:].tolist()
    assert torch.equal(Order(faces, 3, 8, flip=True, length=1).rows(0, count), order.rows(0, count))


def test_parts_of_any_world_make_the_same_global_batch(joint: Path) -> None:
    faces, cpu = Faces.open(joint, "train"), torch.device("cpu")
    order = Order(faces, 5, 8, flip=True, length=64)
    whole = order.batch(1, 16, 0, slice(0, 8), cpu)
    for cuts in ([0, 4, 8], [0, 2, 5, 8]):
        parts = [order.batch(1, 16, 0, slice(a, b), cpu) for a, b in itertools.pairwise(cuts)]
        for key in ("image", "source", "target"):
            assert torch.equal(torch.cat([getattr(p, key) for p in parts]), getattr(whole, key))
        joined = torch.cat([p.noise("alpha", (1, 1, 1)) for p in parts])
        assert torch.equal(joined, whole.noise("alpha", (1, 1, 1)))


def test_targets_are_a_permutation_of_the_batch_labels(joint: Path) -> None:
    order = Order(Faces.open(joint, "train"), 5, 8, flip=True, length=64)
    for start in (0, 8, 24):
        batch = order.batch(0, start, 0, slice(0, 8), torch.device("cpu"))
        assert sorted(map(tuple, batch.source.tolist())) == sorted(
            map(tuple, batch.target.tolist())
        )


@pytest.mark.parametrize("which", ["joint", "classes", "units"])
def test_other_labels_are_another_images_at_any_world_size(
    which: str, request: pytest.FixtureRequest
) -> None:
    """Also in a batch whose images are all alike."""
    faces, cpu = Faces.open(request.getfixturevalue(which), "train"), torch.device("cpu")
    for index, part in enumerate(faces.parts):
        for alike in (False, True):
            if alike:
                part.labels[:20] = part.labels[0]
                part.labels[20] = part.labels[20:][(part.labels[20:] != part.labels[0]).any(1)][0]
            order = Order(faces, 5, 8, flip=True, length=64)
            known = {tuple(row) for row in faces.space.encode(part.labels, index).tolist()}
            for start in (0, 8, 24):
                whole = order.batch(index, start, 0, slice(0, 8), cpu)
                assert whole.other is not None
                assert (whole.other != whole.source).any(1).all()
                assert {tuple(row) for row in whole.other.tolist()} <= known
                pieces = [order.batch(index, start, 0, s, cpu).other
                          for s in (slice(0, 3), slice(3, 8))]  # fmt: skip
                joined = torch.cat([piece for piece in pieces if piece is not None])
                assert torch.equal(joined, whole.other)


def test_random_streams_differ_by_key() -> None:
    streams = [
        torch.rand(4, generator=generator(0, *k)).tolist() for k in (("a", 1), ("a", 2), ("b", 1))
    ]
    assert len({tuple(s) for s in streams}) == 3


@pytest.mark.parametrize(("name", "which"), RICHEST)
def test_resume_gives_the_weights_of_the_uninterrupted_run(
    name: str, which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    dataset = request.getfixturevalue(which)
    whole = go(dataset, tmp_path / "whole", name=name)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for path in checkpoint.saved(tmp_path / "cut" / "checkpoints")[:-1]:
        shutil.rmtree(path)
    assert weights(go(dataset, tmp_path / "cut", name=name)) == weights(whole)


def test_the_log_of_a_resumed_run_has_each_moment_once(binary: Path, tmp_path: Path) -> None:
    """As that of the uninterrupted one, whatever a kill left behind."""
    go(binary, tmp_path / "whole")
    run = tmp_path / "cut"
    go(binary, run)
    for folder in checkpoint.saved(run / "checkpoints")[-2:]:
        shutil.rmtree(folder)
    with (run / "log.jsonl").open("a") as stream:
        stream.write('{"images": 6')
    go(binary, run)
    assert losses(run) == losses(tmp_path / "whole")


@pytest.mark.parametrize("lost", ["optim", "ema", "step"])
def test_a_resume_that_forgets_something_is_not_bit_equal(
    lost: str, binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above: it can see a wrong resume."""
    expected = weights(go(binary, tmp_path / "whole"))
    for path in checkpoint.saved(tmp_path / "whole" / "checkpoints")[:-1]:
        shutil.rmtree(path)
    true_load = checkpoint.load

    def forgetful(path: Path, state: checkpoint.State) -> None:
        if lost == "optim":
            monkeypatch.setattr(checkpoint, "_restore_adam", lambda *a: None)
        averages = {
            n: {k: v.clone() for k, v in m.state_dict().items()} for n, m in state.ema.items()
        }
        true_load(path, state)
        if lost == "ema":
            for name, values in averages.items():
                state.ema[name].load_state_dict(values)
        if lost == "step":
            state.step += 1

    monkeypatch.setattr(checkpoint, "load", forgetful)
    assert weights(go(binary, tmp_path / "whole")) != expected


def test_a_damaged_checkpoint_is_passed_over(
    binary: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = weights(go(binary, tmp_path / "run"))
    newest = checkpoint.saved(tmp_path / "run" / "checkpoints")[0]
    path = newest / "nets" / "G.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    again = go(binary, tmp_path / "run")
    assert "altered since it was saved" in caplog.text
    assert weights(again) == expected


def test_other_settings_are_refused_and_named(binary: Path, tmp_path: Path) -> None:
    go(binary, tmp_path / "run")
    other = TrainConfig(**{**vars(QUICK), "seed": 1})
    with pytest.raises(checkpoint.CheckpointError, match=r"train\.seed: 0 -> 1"):
        go(binary, tmp_path / "run", other)


def test_only_the_last_checkpoints_and_the_best_are_kept(binary: Path, tmp_path: Path) -> None:
    go(binary, tmp_path / "run", TrainConfig(**{**vars(QUICK), "keep": 2}))
    names = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["000000000048", "000000000064", "best"]


def test_a_loss_that_is_not_finite_names_term_moment_and_checkpoint(
    binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.engine.loop import NonFiniteError

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


def test_weights_that_broke_in_the_last_step_are_not_saved(
    binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its losses were finite; what the step made of the weights is not."""
    from training.engine.loop import NonFiniteError

    true = StarGAN.validate

    def broken(self: StarGAN, nets: Any, batch: Any, space: Any) -> Any:
        return true(self, nets, batch, space) * float("nan")

    monkeypatch.setattr(StarGAN, "validate", broken)
    with pytest.raises(NonFiniteError, match=r"validation score .* after 16 images; .* none"):
        go(binary, tmp_path / "other")
    assert not checkpoint.saved(tmp_path / "other" / "checkpoints")


def test_warm_start_begins_with_the_given_networks(binary: Path, tmp_path: Path) -> None:
    first = go(binary, tmp_path / "a")
    still = TrainConfig(**{**vars(QUICK), "images": 8, "decay_images": 8, "warmup_images": 0})
    short = go(binary, tmp_path / "b", still, init=str(first))
    # n_critic = 2: the first batch trains D alone, so G is still the one that was given.
    name = "nets/G.safetensors"
    assert weights(short)[name] == weights(first)[name]


def test_the_best_checkpoint_is_verified_too(binary: Path, tmp_path: Path) -> None:
    """A run may start from it; one changed byte is refused."""
    go(binary, tmp_path / "run")
    best = tmp_path / "run/checkpoints/best"
    assert "nets/G.safetensors" in checkpoint.model_files(str(best))
    with (best / "nets/G.safetensors").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(checkpoint.CheckpointError, match="altered since it was saved"):
        checkpoint.model_files(str(best))


def test_length_is_counted_over_all_data_sets(joint: Path, tmp_path: Path) -> None:
    go(joint, tmp_path / "run")
    state = read_json(tmp_path / "run" / "checkpoints" / f"{64:012d}" / "extra" / "state.json")
    assert (state["images"], state["step"]) == (64, 8)


def command(dataset: Path, run: Path, name: str = "stargan") -> list[str]:
    return [
        sys.executable, "-m", "training.train", str(dataset), "--model", name,
        "--model-config", to_json(SMALL[name]), "--train-config", to_json(QUICK),
        "--folder", str(run), "--experiment", "", "--out", str(run.parent / f"{run.name}.json"),
    ]  # fmt: skip


def torchrun(processes: int, dataset: Path, run: Path, name: str = "stargan") -> list[str]:
    head = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    return [*head, str(processes), *command(dataset, run, name)[1:]]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again_ends_the_same(binary: Path, tmp_path: Path) -> None:
    whole = go(binary, tmp_path / "whole")
    for trial in range(3):
        run = tmp_path / f"cut{trial}"
        for attempt in range(40):
            process = subprocess.Popen(command(binary, run), env=environment())
            folder, before = run / "checkpoints", len(checkpoint.saved(run / "checkpoints"))
            while process.poll() is None and len(checkpoint.saved(folder)) == before:
                time.sleep(0.005 * (trial + 1))
            if process.poll() is not None:
                break
            time.sleep(0.013 * attempt)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert process.returncode == 0
        assert attempt > 0
        assert weights(tmp_path / f"cut{trial}.json") == weights(whole)


def test_sigterm_saves_and_the_same_command_goes_on(binary: Path, tmp_path: Path) -> None:
    whole, run = go(binary, tmp_path / "whole"), tmp_path / "cut"
    code = (
        "import os, signal, sys, training.engine.loop as loop, training.train as t\n"
        "true = loop.advance\n"
        "def advance(state, *rest):\n"
        "    out = true(state, *rest)\n"
        "    if state.images == 40: os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return out\n"
        "loop.advance = advance\n"
        "t.main(sys.argv[1:])\n"
    )
    first = subprocess.run(
        [sys.executable, "-c", code, *command(binary, run)[3:]], env=environment()
    )
    assert first.returncode == 143
    assert checkpoint.latest(run / "checkpoints") == run / "checkpoints" / f"{40:012d}"
    assert subprocess.run(command(binary, run), env=environment()).returncode == 0
    assert weights(tmp_path / "cut.json") == weights(whole)


SWEEP = """
import json, os, pathlib, sys, training.core.files as files
places, arguments = json.loads(sys.argv[1]), sys.argv[2:]
count = [0]

def around(name, kill):
    true = getattr(files, name)
    def call(*args):
        for moment in (0, 1):
            count[0] += 1
            if count[0] == kill: os._exit(9)
            if moment == 0: out = true(*args)
        return out
    setattr(files, name, call)

def tear(kill):  # half of the bytes, then death
    true = pathlib.Path.write_bytes
    def call(path, data):
        count[0] += 1
        if count[0] == kill:
            true(path, data[: len(data) // 2])
            os._exit(9)
        return true(path, data)
    pathlib.Path.write_bytes = call

import training.engine.checkpoint, training.engine.loop, training.train as train

def attempt(folder, kill):
    pid = os.fork()  # the imports are paid for once
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    for name in ("fsync", "rename"): around(name, kill)
    tear(kill)
    train.main([*arguments, "--folder", folder, "--out", folder + ".json"])
    os.write(2, f"MOMENTS {count[0]}\\n".encode())
    os._exit(0)

for kill, folder in places:
    first = attempt(folder, kill) if kill else 0
    print(kill, first, attempt(folder, 0), flush=True)
"""


@pytest.mark.slow
def test_killed_at_every_write_fsync_and_rename_ends_the_same(binary: Path, tmp_path: Path) -> None:
    """One short run a moment: killed before or after an fsync or rename, or half through a write.

    Every thirteenth of some two hundred moments, which meets each kind of file; all of them take
    ten minutes. The last ones lie in the store, which has the bytes from the run before.
    """
    short = to_json(replace(QUICK, images=24, decay_images=8, warmup_images=8, sample_images=24))
    line = command(binary, tmp_path / "unused")[3:]
    line[line.index("--train-config") + 1] = short
    for option in ("--folder", "--out"):
        del line[line.index(option) : line.index(option) + 2]

    def sweep(kills: range) -> subprocess.CompletedProcess[str]:
        places = json.dumps([(kill, str(tmp_path / f"at{kill}")) for kill in kills])
        run = [sys.executable, "-c", SWEEP, places, *line]
        return subprocess.run(run, env=environment(), capture_output=True, text=True)

    moments = int(sweep(range(1)).stderr.split("MOMENTS")[1].split()[0])
    assert moments > 60
    shutil.rmtree(tmp_path / "at0")
    kills = range(0, moments, 13)
    ends = [row.split() for row in sweep(kills).stdout.splitlines() if row[:1].isdigit()]
    assert {row[2] for row in ends} == {"0"}
    assert [row[1] for row in ends[1 : len(kills) * 3 // 4]] == ["9"] * (len(kills) * 3 // 4 - 1)
    assert len(ends) == len(kills)
    whole = weights(tmp_path / "at0.json")
    assert all(weights(tmp_path / f"at{i}.json") == whole for i in kills)


SLOPES = """
import json, sys
from pathlib import Path
import torch
from training.core.config import TrainConfig
from training.data.dataset import Faces, Order
from training.engine.distributed import World, world
from training.engine.loop import Job, build_state, update
from training.models.presets import model_from_json
from training.tracking.tracker import Tracker

train = TrainConfig(images=64, decay_images=0, batch=8, precision="fp32")

def slopes(model, faces, phase, here):
    # Adam's first moments after one update: of the gradients, and of nothing else
    job = Job(model, train, faces, faces, Path(), {}, here, Tracker())
    state = build_state(job)
    references = getattr(model, "references", 0)
    order = Order(faces, 0, 8, flip=True, length=64, references=references)
    look = getattr(model, "sides", None)
    sides = look(faces.parts[0].labels, faces.space, phase.turn) if look else None
    batch = order.batch(0, 0, 0, here.share(8), here.device, sides)
    update(state, here.wrap(state.nets), phase, batch, job)
    return {n: torch.cat([state.optim[n].state[p]["exp_avg"].flatten() for p in net.parameters()
                          if p in state.optim[n].state])
            for n, net in state.nets.items() if n in phase.trains}

with world() as here:
    alone = World(0, 1, here.device)
    for name, config, dataset in json.loads(sys.argv[1]):
        model, faces = model_from_json(name, config), Faces.open(Path(dataset), "train")
        for phase in (*model.warmup(faces.space), *model.phases(faces.space)):
            whole, parts = (slopes(model, faces, phase, w) for w in (alone, here))
            far = {n: float((parts[n] - g).norm() / g.norm()) for n, g in whole.items()}
            if here.rank == 0:
                print(json.dumps([name, phase.name, far]), flush=True)
"""


@pytest.mark.slow
def test_more_processes_give_the_gradients_of_one(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Of every phase of every model, before any step lets rounding grow."""
    asked = [(name, dataclasses.asdict(SMALL[name]), str(request.getfixturevalue(which)))
             for name, which in RICHEST]  # fmt: skip
    script = tmp_path / "slopes.py"
    script.write_text(SLOPES)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               "--nproc-per-node", "3", str(script), json.dumps(asked)]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {name for name, _, _ in found} == set(MODELS)
    assert [row for row in found if not max(row[2].values()) <= 1e-4] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "which", "processes"), [*((*case, 3) for case in RICHEST), ("stargan", "joint", 2)]
)
def test_more_processes_give_the_losses_and_weights_of_one(
    name: str, which: str, processes: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """3 does not divide the global batch of 8: local means are weighted by their counts."""
    dataset = request.getfixturevalue(which)
    go(dataset, tmp_path / "one", name=name)
    run = tmp_path / "many"
    subprocess.run(
        torchrun(processes, dataset, run, name=name),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    for one, many in zip(losses(tmp_path / "one"), losses(run), strict=True):
        assert one.keys() == many.keys()
        # Rounding, which is another on each kind of processor, grows from step to step.
        rel = 2e-3 if one["images"] <= 16 else 1e-2 if one["images"] <= 32 else 5e-2
        for key, value in one.items():
            assert many[key] == pytest.approx(value, rel=rel, abs=rel / 10), (one["images"], key)
    # Adam's first moment is a sum of gradients; weights would amplify rounding where it is near 0.
    last = checkpoint.saved(run / "checkpoints")[-2].name  # early, before Adam amplifies
    networks = {p.stem for p in (run / "checkpoints" / last / "optim").glob("*.safetensors")}
    for net in networks:
        path = Path("checkpoints") / last / "optim" / f"{net}.safetensors"
        one, many = load_file(tmp_path / "one" / path), load_file(run / path)
        moments = [k for k in one if k.endswith("/exp_avg")]
        if moments:
            whole, parts = (torch.cat([m[k].flatten() for k in moments]) for m in (one, many))
            assert (parts - whole).norm() <= 0.05 * whole.norm(), net


@pytest.mark.slow
def test_each_launch_tells_its_processes_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By which the store knows a restarted process from a rival; a shell's would be everybody's."""
    seen = []

    class Torchrun:
        returncode = 0

        def __init__(self, command: list[str], env: dict[str, str]) -> None:
            seen.append(env["LAUNCH_ID"])

        def __enter__(self) -> "Torchrun":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def poll(self) -> int:
            return 0

    monkeypatch.setenv("LAUNCH_ID", "the shell's")
    monkeypatch.setattr("training.launch.subprocess.Popen", Torchrun)
    request = Request(dataset="{}", model="stargan", model_config="{}", train_config="{}")
    for _ in range(2):
        launching._torchrun(1, tmp_path / "d.json", request, tmp_path / "m.json", tmp_path)
    assert len({"the shell's", *seen}) == 3


def test_a_stopped_launch_saves_and_leaves_nobody_behind(binary: Path, tmp_path: Path) -> None:
    """The signal comes to the launcher alone, as Kubernetes sends it; exit code 143."""
    import psutil

    line = [
        sys.executable, "-m", "training.launch", str(binary), "--preset", "smoke", "--experiment",
        "", "--set", "images=1000000;d_repeat_num=3", "--out", str(tmp_path / "model.json"),
    ]  # fmt: skip
    process = subprocess.Popen(line, env=environment(), cwd=tmp_path)
    found: list[Path] = []
    while not found and process.poll() is None:
        found = list(tmp_path.glob("runs/train/*/log.jsonl"))
        time.sleep(0.1)
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert not [p for p in started if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    saved = checkpoint.latest(found[0].parent / "checkpoints")
    assert saved is not None
    assert int(saved.name) % 320 != 0  # not one that was due: it was saved for the signal
    assert not (tmp_path / "model.json").exists()


@pytest.mark.slow
def test_a_launch_with_two_seeds_gives_a_model_and_its_replicate(
    binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is what its seed alone gives; the same command again trains nothing."""
    monkeypatch.chdir(tmp_path)
    out, replicates = tmp_path / "model.json", tmp_path / "replicates.json"
    texts = (to_json(SMALL["stargan"]), to_json(QUICK))
    for _ in range(2):
        launch(binary, out, "stargan", *texts, seeds=2, experiment="", replicates=replicates)
    second = Manifest.read(replicates, "replicates")
    assert second.meta.seeds == (1,)
    alone = tmp_path / "alone.json"
    second_seed = to_json(replace(QUICK, seed=1))
    train(binary, alone, "stargan", texts[0], second_seed, run=tmp_path / "r", preset="demo")
    for entry in Manifest.read(alone).entries:
        assert second.entry(f"1/{entry.name}").sha256 == entry.sha256
    weights = "nets/G.safetensors"
    assert Manifest.read(out).entry(weights).sha256 != second.entry(f"1/{weights}").sha256


def test_the_manifest_lists_what_lies_in_the_store(binary: Path, tmp_path: Path) -> None:
    manifest = Manifest.read(go(binary, tmp_path / "run"), "model")
    assert {"nets/G.safetensors", "ema/G.safetensors", "config.json"} <= {
        e.name for e in manifest.entries
    }
    for entry in manifest.entries:
        assert sha256_file(manifest.local(entry.name)) == entry.sha256


def test_translator_uses_the_averaged_weights(binary: Path, tmp_path: Path) -> None:
    manifest = Manifest.read(go(binary, tmp_path / "run"), "model")
    translator = checkpoint.load_translator(manifest)
    averaged = load_file(manifest.local("ema/G.safetensors"))
    for key, value in translator.nets["G"].state_dict().items():
        assert torch.equal(value, averaged[key])
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    label = torch.zeros(2, translator.space.dim_g)
    out = translator(image, label, label)
    assert out.shape == image.shape
    assert out.abs().max() <= 1

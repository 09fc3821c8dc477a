"""Any number of processes trains the same model; the launcher starts and stops them."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from runs import QUICK, RICHEST, command, environment, go, losses
from training.core.config import TrainConfig, to_json
from training.engine import checkpoint
from training.engine.distributed import world
from training.launch import launch
from training.models import MODELS
from training.models.fader import Fader
from training.models.ganimation import GANimation
from training.models.msgan import MSGAN
from training.models.stargan import StarGAN
from training.storage.store import Manifest
from training.train import train

ROOT = Path(__file__).resolve().parents[2]


def torchrun(processes: int, dataset: Path, run: Path, name: str = "stargan") -> list[str]:
    head = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    return [*head, str(processes), *command(dataset, run, name)[1:]]


SLOPES = """
import json, sys
from pathlib import Path
import torch
from training.core.config import TrainConfig
from training.data.dataset import Faces
from training.engine.distributed import World, world
from training.engine.session import Job, Session
from training.models import model_from_json

train = TrainConfig(images=64, decay_images=0, batch=8, precision="fp32")

def slopes(model, faces, phase, here):
    # Adam's first moments after one update: of the gradients, and of nothing else
    session = Session.open(Job(model, train, faces, faces, Path(), {}, here))
    draw = torch.Generator().manual_seed(1)
    for net in session.state.nets.values():  # a residual G starts with gradients of 0
        for p in net.parameters():
            p.data += 0.02 * torch.randn(p.shape, generator=draw)
    batch = session.order.show(session.draw(0, 0, 0, max(0, phase.round_robin_index)))
    session.update(phase, batch)
    state = session.state
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


def slopes_of(processes: int, cases: list[Any], folder: Path) -> list[Any]:
    """Model, phase, and by network how far its gradient is from that of one process."""
    script = folder / "slopes.py"
    script.write_text(SLOPES)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               "--nproc-per-node", str(processes), str(script), json.dumps(cases)]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_gradients_are_clipped_after_they_are_averaged(binary: Path, tmp_path: Path) -> None:
    """By two processes as by one: each one's own part has another norm and another direction."""
    model = replace(Fader.tiny(), clip=1e-3)
    cases = [("fader", dataclasses.asdict(model), str(binary))]
    found = slopes_of(2, cases, tmp_path)
    assert [(phase, list(far)) for _, phase, far in found] == [("d", ["D"]), ("ae", ["G"])]
    assert [row for row in found if not max(row[2].values()) <= 1e-4] == []


def test_mode_seeking_and_noise_of_maps_are_those_of_one_process(
    binary: Path, tmp_path: Path
) -> None:
    """A ratio of means over the global batch, and noise that is a function of the row."""
    cases = [("msgan", dataclasses.asdict(MSGAN.tiny()), str(binary))]
    found = slopes_of(2, cases, tmp_path)
    assert {phase for _, phase, _ in found} == {"warmup", "dc", "d", "eg", "alone"}
    assert [row for row in found if not max(row[2].values()) <= 1e-4] == []


MEASURED = """
import json, sys
from dataclasses import replace
from pathlib import Path
from training.core.config import TrainConfig
from training.data.dataset import Faces
from training.engine.distributed import world
from training.engine.precision import use_bf16
from training.engine.session import Job
from training.models import model_from_json

with world() as here:
    for name, config, dataset in json.loads(sys.argv[1]):
        model, faces = model_from_json(name, config), Faces.open(Path(dataset), "train")
        chosen = use_bf16(Job(model, TrainConfig(batch=4), faces, faces, Path(), {}, here))
        print(f"{name} {chosen}\\n", end="", flush=True)
"""


def test_every_rank_gets_the_precision_that_one_measures(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The default `auto`: layers and losses over the global batch do not wait for the others."""
    script = tmp_path / "measured.py"
    script.write_text(MEASURED)
    models = {"attgan": MODELS["attgan"].tiny(), "msgan": MSGAN.tiny()}
    cases = [(name, dataclasses.asdict(model), str(request.getfixturevalue(which)))
             for name, which in RICHEST if (model := models.get(name))]  # fmt: skip
    assert TrainConfig().precision == "auto"
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(script), json.dumps(cases)],
        capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
             "COLLECTIVE_TIMEOUT": "60"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = Counter(done.stdout.splitlines())
    assert {line.split()[0] for line in found} == set(models)
    assert set(found.values()) == {2}


@pytest.mark.slow
def test_more_processes_give_the_gradients_of_one(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """For every phase of every model, before optimiser steps amplify rounding."""
    branches = replace(StarGAN.tiny(), d_branches=True, gp_patches="mean")
    projection = replace(
        StarGAN.tiny(),
        d_projection=True,
        loss="logistic-r1",
        upsampling="resize",
        output="residual",
        label_norms=True,
    )
    models = [*((MODELS[name].tiny(), name, which) for name, which in RICHEST),
              (branches, "stargan", "classes"), (projection, "stargan", "joint"),
              (replace(GANimation.tiny(), fidelity="repo"), "ganimation", "units")]  # fmt: skip
    cases = [(name, dataclasses.asdict(model), str(request.getfixturevalue(which)))
             for model, name, which in models]  # fmt: skip
    found = slopes_of(3, cases, tmp_path)
    assert {name for name, _, _ in found} == set(MODELS)
    assert [row for row in found if not max(row[2].values()) <= 1e-4] == []


ORDER = """
import json, sys
from pathlib import Path
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from training.core.config import TrainConfig
from training.data.dataset import Faces
from training.engine.distributed import world
from training.engine.session import Job, Session
from training.models.stargan import StarGAN

# D's wide last layers fill a bucket of their own, as at the paper's size.
model = StarGAN(conv_dim=4, repeat_num=1, d_conv_dim=64, d_repeat_num=4, n_critic=1)
train = TrainConfig(images=64, decay_images=0, batch=4, precision="fp32")
events = []

def sent(group, bucket):
    events.append(f"bucket {bucket.index()}")
    return allreduce_hook(group, bucket)

with world() as here:
    faces = Faces.open(Path(sys.argv[1]), "train")
    session = Session.open(Job(model, train, faces, faces, Path(), {}, here))
    session.nets["D"].register_comm_hook(None, sent)
    first = session.state.nets["D"].main[0].weight
    first.register_post_accumulate_grad_hook(lambda parameter: events.append("first layer"))
    session.advance()  # buckets are in the order of the first backward pass from the second on
    events.clear()
    session.advance()
    if here.rank == 0:
        print(json.dumps(events))
"""


def test_gradients_are_sent_before_the_backward_pass_ends(binary: Path, tmp_path: Path) -> None:
    """By two processes, in D's step; each bucket once, although D is called several times."""
    script = tmp_path / "order.py"
    script.write_text(ORDER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               "--nproc-per-node", "2", str(script), str(binary)]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == ["bucket 0", "first layer", "bucket 1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "which", "processes"),
    [
        *(pytest.param(*case, 3, marks=pytest.mark.long) for case in RICHEST),
        ("stargan", "joint", 2),
    ],
)
def test_more_processes_give_the_losses_and_moments_of_one(
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
        # Rounding differs between processors and grows from step to step.
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
def test_each_launch_passes_its_own_id_to_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It distinguishes restarts from other launches, so one set in the shell is replaced."""
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
    (tmp_path / "d.json").write_text("{}")
    for _ in range(2):
        launch(tmp_path / "d.json", tmp_path / "m.json", "stargan", "{}", '{"seed": 0}')
    assert len({"the shell's", *seen}) == 3


STOPS = """
import json, sys, time
from training.engine.distributed import world
from training.engine.loop import Stopping

with world() as here:
    found = []
    for pause, steps in ((0.0, 60), (1.2, 6)):
        flag, asked = [False], [0]
        stopped = Stopping(here, flag)
        true = type(here).most
        type(here).most = lambda *a: asked.__setitem__(0, asked[0] + 1) or true(*a)
        for step in range(steps):
            time.sleep(pause)
            flag[0] = here.rank == 1 and step >= steps // 2
            if stopped(): break
        found.append([step, asked[0]])
        type(here).most = true
    open(f"{sys.argv[1]}/{here.rank}.json", "w").write(json.dumps(found))
"""


@pytest.mark.slow
def test_processes_agree_to_stop_and_ask_at_most_every_16th_step(tmp_path: Path) -> None:
    """One of two is told at half: both end at the same step; slow steps are asked about sooner."""
    (tmp_path / "stops.py").write_text(STOPS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               "--nproc-per-node", "2", str(tmp_path / "stops.py"), str(tmp_path)]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert one == other
    (fast, few), (slow, _) = one
    assert 30 <= fast <= 46
    assert few <= 4
    assert slow == 3


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_stopped_launch_saves_and_leaves_no_process_behind(
    processes: str, binary: Path, tmp_path: Path
) -> None:
    """The signal is sent to the launcher only, as by Kubernetes; exit code 143."""
    import psutil

    line = [
        sys.executable, "-m", "training.launch", str(binary), "--preset", "smoke", "--experiment",
        "", "--out", str(tmp_path / "model.json"), "--nproc", processes,
        "--set", "images=1000000;checkpoint_images=1000000;log_images=16;d_repeat_num=3",
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
    assert saved is not None  # saved on the signal: no checkpoint was scheduled
    assert not (tmp_path / "model.json").exists()


def test_more_processes_than_gpus_are_refused_with_their_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a machine of two GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    said = "nproc: process 3 of this machine, which has 2 GPUs; give nproc=2"
    with pytest.raises(ValueError, match=said), world():
        raise AssertionError("it starts")


@pytest.mark.slow
@pytest.mark.long
def test_a_launch_with_two_seeds_gives_a_model_and_its_replicate(
    binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each equals a training of its seed alone; the same command again trains nothing."""
    monkeypatch.chdir(tmp_path)
    out, replicates = tmp_path / "model.json", tmp_path / "replicates.json"
    texts = (to_json(MODELS["stargan"].tiny()), to_json(QUICK))
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

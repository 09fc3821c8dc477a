"""Resume: from a checkpoint, after a signal, after a kill at any point."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from runs import QUICK, RICHEST, command, environment, go, losses, session_of, weights
from training.core.config import TrainConfig, to_json
from training.core.files import read_json, write_json
from training.engine import checkpoint
from training.inference.weights import CheckpointError
from training.models.ganimation import GANimation
from training.models.stargan import StarGAN


def test_unknown_keys_of_a_checkpoint_are_ignored(binary: Path, tmp_path: Path) -> None:
    """Version 0.1 also wrote the best validation score."""
    session = session_of(StarGAN.tiny(), binary)
    session.advance()
    path = checkpoint.save(tmp_path, session.state, {}, session.job.faces.space)
    state = path / "extra" / "state.json"
    assert read_json(state) == {"step": 1, "images": 8, "bf16": False}
    write_json(state, {"best": -1.25, "bf16": True, "images": 8, "step": 1})
    other = session_of(StarGAN.tiny(), binary).state
    checkpoint.load(path, other)
    assert (other.step, other.images, other.bf16) == (1, 8, True)


def test_a_setting_newer_than_the_checkpoint_had_its_default() -> None:
    """`record` is free to change; a changed length is named."""
    now = checkpoint.as_dict(QUICK)
    then = {k: v for k, v in now.items() if k not in ("record", "compile", "ahead")}
    path = Path("checkpoint")
    checkpoint.check_config({"train": then}, {"train": now}, path)
    checkpoint.check_config({"train": now}, {"train": {**now, "record": False}}, path)
    for changed in ({"images": 7}, {"ahead": True}):
        (name,) = changed
        with pytest.raises(CheckpointError, match=rf"train\.{name}: .* -> {changed[name]}"):
            checkpoint.check_config({"train": then}, {"train": {**now, **changed}}, path)


def test_another_model_to_start_from_is_named() -> None:
    """Weights of one start under the name of another would give a false lineage."""
    path = Path("checkpoint")
    checkpoint.check_config({"init": ""}, {}, path)
    checkpoint.check_config({"init": "old/1"}, {"init": "old/1"}, path)
    for there, here in (("old/1", "other/2"), ("", "other/2"), ("old/1", "")):
        with pytest.raises(CheckpointError, match=f"init: {there or 'none'} -> {here or 'none'}"):
            checkpoint.check_config({"init": there}, {"init": here}, path)


def test_changed_settings_are_refused_also_where_they_need_other_files(
    binary: Path, tmp_path: Path
) -> None:
    """Averages that the checkpoints lack: the training does not start over beside them."""
    go(binary, tmp_path / "run", QUICK)
    with pytest.raises(CheckpointError, match=r"started with other settings .*train.ema: "):
        go(binary, tmp_path / "run", replace(QUICK, ema=0.5))
    with pytest.raises(
        CheckpointError, match=r"started with other settings .*name: stargan -> stgan"
    ):
        go(binary, tmp_path / "run", QUICK, "stgan")
    assert go(binary, tmp_path / "run", QUICK).is_file()


def test_checkpoints_that_were_skipped_as_damaged_do_not_push_out_later_ones(
    binary: Path, tmp_path: Path
) -> None:
    session = session_of(StarGAN.tiny(), binary)
    for images in (8, 16, 24, 320):
        session.state.images = images
        checkpoint.save(tmp_path, session.state, {}, session.job.faces.space)
    checkpoint.prune(tmp_path, 2, 24)
    assert [int(path.name) for path in checkpoint.saved(tmp_path)] == [320, 24, 16]
    checkpoint.prune(tmp_path, 2, 320)
    assert [int(path.name) for path in checkpoint.saved(tmp_path)] == [320, 24]


def test_a_setting_of_a_model_newer_than_the_checkpoint_had_its_default() -> None:
    now = checkpoint.as_dict(GANimation(n_critic=2))
    then = {k: v for k, v in now.items() if k != "fidelity"}
    path, old = Path("checkpoint"), {"name": "ganimation", "model": then}
    checkpoint.check_config(old, {"name": "ganimation", "model": now}, path)
    for changed in ({"fidelity": "repo"}, {"n_critic": 5}):
        with pytest.raises(CheckpointError, match=rf"model\.{next(iter(changed))}: "):
            checkpoint.check_config(old, {"name": "ganimation", "model": {**now, **changed}}, path)


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


def test_a_training_in_parts_is_that_of_one_piece(binary: Path, tmp_path: Path) -> None:
    """Stopped by `until`, which need not be a multiple of the batch, and told to go on."""
    whole = go(binary, tmp_path / "whole")
    for until in (5, 10):
        go(binary, tmp_path / "parts", until=until)
        assert int(checkpoint.saved(tmp_path / "parts" / "checkpoints")[0].name) >= until
        assert weights(tmp_path / "parts.json") != weights(whole)
    assert weights(go(binary, tmp_path / "parts")) == weights(whole)


def test_the_log_of_a_resumed_run_has_each_moment_once(binary: Path, tmp_path: Path) -> None:
    """Like that of the uninterrupted run, whatever a kill left behind."""
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
def test_an_incomplete_resume_is_not_bit_equal(
    lost: str, binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control of the test above: it detects a wrong resume."""
    expected = weights(go(binary, tmp_path / "whole"))
    for path in checkpoint.saved(tmp_path / "whole" / "checkpoints")[:-1]:
        shutil.rmtree(path)
    true_load = checkpoint.load

    def forgetful(path: Path, state: checkpoint.State) -> None:
        averages = {
            n: {k: v.clone() for k, v in m.state_dict().items()} for n, m in state.ema.items()
        }
        true_load(path, state)
        if lost == "optim":
            for optimiser in state.optim.values():
                optimiser.state.clear()
        if lost == "ema":
            for name, values in averages.items():
                state.ema[name].load_state_dict(values)
        if lost == "step":
            state.step += 1

    monkeypatch.setattr(checkpoint, "load", forgetful)
    assert weights(go(binary, tmp_path / "whole")) != expected


def test_a_damaged_checkpoint_is_skipped(
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


def test_only_the_last_checkpoints_are_kept(binary: Path, tmp_path: Path) -> None:
    go(binary, tmp_path / "run", TrainConfig(**{**vars(QUICK), "keep": 2}))
    names = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["000000000048", "000000000064"]


def test_warm_start_begins_with_the_given_networks(binary: Path, tmp_path: Path) -> None:
    first = go(binary, tmp_path / "a")
    still = TrainConfig(**{**vars(QUICK), "images": 8, "decay_images": 8, "warmup_images": 0})
    short = go(binary, tmp_path / "b", still, init=str(first))
    # n_critic = 2: the first batch trains D alone, so G is still the one that was given.
    name = "nets/G.safetensors"
    assert weights(short)[name] == weights(first)[name]


@pytest.mark.slow
@pytest.mark.long
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


def test_sigterm_saves_and_the_same_command_resumes(binary: Path, tmp_path: Path) -> None:
    whole, run = go(binary, tmp_path / "whole"), tmp_path / "cut"
    code = (
        "import os, signal, training.core.cli as cli, training.engine.session as session\n"
        "import training.train as train\n"
        "true = session.Session.advance\n"
        "def advance(self):\n"
        "    out = true(self)\n"
        "    if self.state.images == 40: os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return out\n"
        "session.Session.advance = advance\n"
        "cli.entry_point(train.main)\n"
    )
    first = subprocess.run(
        [sys.executable, "-c", code, *command(binary, run)[3:]], env=environment()
    )
    assert first.returncode == 143
    assert checkpoint.latest(run / "checkpoints") == run / "checkpoints" / f"{40:012d}"
    assert subprocess.run(command(binary, run), env=environment()).returncode == 0
    assert weights(tmp_path / "cut.json") == weights(whole)


SWEEP = """
import json, os, pathlib, sys
places, arguments = json.loads(sys.argv[1]), sys.argv[2:]
count = [0]

def around(name, kill):
    true = getattr(os, name)
    def call(*args, **more):
        for moment in (0, 1):
            count[0] += 1
            if count[0] == kill: os._exit(9)
            if moment == 0: out = true(*args, **more)
        return out
    setattr(os, name, call)

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
    for name in ("fsync", "replace"): around(name, kill)
    tear(kill)
    train.main([*arguments, "--folder", folder, "--out", folder + ".json"])
    os.write(2, f"MOMENTS {count[0]}\\n".encode())
    os._exit(0)

for kill, folder in places:
    first = attempt(folder, kill) if kill else 0
    print(kill, first, attempt(folder, 0), flush=True)
"""


@pytest.mark.slow
def test_killed_at_a_write_fsync_or_rename_ends_the_same(binary: Path, tmp_path: Path) -> None:
    """One short run per kill: before or after an fsync or rename, or halfway through a write.

    Every thirteenth of about two hundred points, which covers each kind of file; all of them would
    take ten minutes. The last ones are in the store, where a run finds files of the run before: a
    kill after a run's last point does not happen.
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
    killed = [row[1] == "9" for row in ends]
    assert {row[1] for row in ends} == {"0", "9"}
    assert killed[1:] == sorted(killed[1:], reverse=True)
    assert sum(killed) >= len(kills) * 3 // 4 - 1
    assert len(ends) == len(kills)
    whole = weights(tmp_path / "at0.json")
    assert all(weights(tmp_path / f"at{i}.json") == whole for i in kills)

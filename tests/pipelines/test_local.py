"""The local runner: cache hits and misses, and failed runs."""

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kfp
import pytest
from filelock import FileLock
from kfp import compiler, dsl
from kfp.dsl import Artifact, Dataset, Input, Output
from kfp.local import cache, subprocess_task_handler
from kfp.local.orchestrator import task_executor

from forks import Forks
from pipelines.local import containers
from pipelines.local import run as local
from pipelines.local.cache import ContentCache
from pipelines.local.run import StepError, execute
from training.core.files import read_json
from training.storage.store import Manifest

IMAGE = {"base_image": "nowhere/tiny:1", "install_kfp_package": False}


@dsl.component(**IMAGE)
def source(text: str, code_hash: str, out: Output[Dataset]) -> None:
    """Store a text and list it in a manifest."""
    import os
    import tempfile
    from pathlib import Path

    from training.storage.store import Manifest

    with Path("ran.txt").open("a") as log:
        log.write("source\n")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text"
        path.write_text(text)
        Manifest.build("replicates", {"text": path}, {"seeds": []}).write(Path(out.path))
    out.metadata["when"] = os.times().elapsed


@dsl.component(**IMAGE)
def middle(data: Input[Dataset], code_hash: str, fail: str, out: Output[Artifact]) -> None:
    """Upper case, so that different inputs can give the same bytes."""
    import time
    from pathlib import Path

    from training.storage.store import Manifest

    with Path("ran.txt").open("a") as log:
        log.write("middle\n")
    if fail == "sleep":
        Path("asleep").write_text("")
        time.sleep(60)
    if fail:
        raise ValueError(f"table.txt: {fail}\nfix it")
    text = Manifest.read(Path(data.path)).local("text").read_text()
    Path(out.path).write_text(text.upper())


@dsl.component(**IMAGE)
def sink(data: Input[Artifact], out: Output[Artifact]) -> None:
    """A copy."""
    from pathlib import Path

    with Path("ran.txt").open("a") as log:
        log.write("sink\n")
    Path(out.path).write_text(Path(data.path).read_text())


@dsl.component(**IMAGE)
def ended(status: dsl.PipelineTaskFinalStatus) -> None:
    """Write the state and the environment."""
    import os
    import tempfile
    from pathlib import Path

    with Path("ended.txt").open("a") as log:
        log.write(f"{status.state} {os.environ['PIPELINE_RUN_ID']} {tempfile.mkdtemp()}\n")


@dsl.pipeline(name="tiny")
def tiny(text: str = "one", code_hash: str = "c0", fail: str = "") -> None:
    last = ended().set_caching_options(False)
    with dsl.ExitHandler(last):
        first = source(text=text, code_hash=code_hash)
        second = middle(data=first.outputs["out"], code_hash=code_hash, fail=fail)
        sink(data=second.outputs["out"])


@dsl.component(**IMAGE)
def mistaken(kind: str) -> None:
    """Fail as a step does: by a mistake of the user, or by an error that may pass."""
    from pathlib import Path

    from training.storage.attempts import attempt

    def fail() -> None:
        with Path("ran.txt").open("a") as log:
            log.write("tried\n")
        raise ValueError("row 3: 2") if kind == "mistake" else OSError(28, "No space left")

    attempt(fail)


@dsl.pipeline(name="retried")
def retried(kind: str = "mistake") -> None:
    mistaken(kind=kind).set_retry(2, backoff_duration="1s")


Start = Callable[..., local.LocalRun]


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.yaml"
    compiler.Compiler().compile(tiny, str(path))
    return path


EXECUTE = """
import json, sys
from pathlib import Path
from pipelines.local.run import StepError, execute
try:
    run = execute(json.loads(sys.argv[2]), Path(sys.argv[1]))
except StepError as error:
    run = error.run
uris = {step: {name: value.uri for name, value in outputs.items() if hasattr(value, "uri")}
        for step, outputs in run.outputs.items()}
state = {"id": run.id, "steps": run.steps, "cached": run.cached, "failure": run.failure}
Path("run.json").write_text(json.dumps({**state, "uris": uris}))
"""


@pytest.fixture
def start(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forks: Forks) -> Start:
    """`execute` in a fork, whose steps are forks as well: imports run once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STORE_URI", raising=False)

    def run(package: Path = package, **arguments: Any) -> local.LocalRun:
        Path("ran.txt").unlink(missing_ok=True)
        line = [sys.executable, "-c", EXECUTE, str(package), json.dumps(arguments)]
        code, output = forks.run(line)
        sys.stdout.write(output)
        assert code == 0, output
        state = read_json(Path("run.json"))
        uris = state.pop("uris")
        outputs = {
            step: {name: Artifact(uri=uri) for name, uri in artifacts.items()}
            for step, artifacts in uris.items()
        }
        made = local.LocalRun(root=tmp_path / "runs", outputs=outputs, **state)
        if made.failure:
            raise StepError(made)
        return made

    return run


@pytest.mark.parametrize("end", ["sys.exit(3)", "sys.exit('no')", "raise OSError('full')", "pass"])
def test_a_fork_behaves_like_a_started_process(forks: Forks, tmp_path: Path, end: str) -> None:
    """Arguments, folder, environment, child processes, exit code, last output."""
    code = (
        "import os, subprocess, sys, atexit; atexit.register(print, 'bye')\n"
        "print(sys.argv, os.getcwd(), os.environ, __name__, flush=True)\n"
        "again = [sys.executable, '-c', 'import os; print(os.environ); raise SystemExit(4)']\n"
        "print(subprocess.run(again, env={'A': 'b', 'LC_CTYPE': 'C.UTF-8'}, capture_output=True))\n"
        f"{end}\n"
    )
    line = [sys.executable, "-c", code, "one", "two words"]
    env = {"HOME": str(tmp_path), "LC_CTYPE": "C.UTF-8"}
    started = subprocess.run(
        line, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    status, output = forks.run(line, tmp_path, env)
    assert status == started.returncode
    frames = re.compile(r"^( *File |Traceback| {4}).*\n", re.MULTILINE)
    one, other = (sorted(frames.sub("", text).splitlines()) for text in (output, started.stdout))
    assert one == other


@pytest.fixture
def start_here(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """`execute` in this process, whose steps are started as for a user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STORE_URI", raising=False)
    return lambda **arguments: execute(arguments, package)


def ran() -> list[str]:
    path = Path("ran.txt")
    return path.read_text().split() if path.exists() else []


def test_the_same_run_again_comes_from_cache_with_its_first_files(start: Start) -> None:
    first = start()
    assert ran() == ["source", "middle", "sink"]
    again = start()
    assert ran() == []
    assert again.cached == ["source", "middle", "sink"]
    assert again.file("sink", "out") == first.file("sink", "out")
    assert again.file("sink", "out").read_text() == "ONE"


def test_each_hit_is_printed(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    first = start()
    capfd.readouterr()
    start()
    out = capfd.readouterr().out
    for number, name in enumerate(("source", "middle", "sink"), 1):
        folder = first.file(name, "out").parent
        assert f"[{number}/4] {name}: from cache, {folder}" in out


@pytest.mark.parametrize("step", ["source", "middle", "sink"])
def test_a_deleted_output_reruns_only_its_step(
    start: Start, step: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The steps after it find the same bytes and stay cached."""
    path = start().file(step, "out")
    path.unlink()
    start()
    assert ran() == [step]
    assert f"not from cache: {path} is missing" in capfd.readouterr().out
    start()
    assert ran() == []


def test_an_altered_output_is_a_miss(start: Start) -> None:
    path = start().file("middle", "out")
    path.write_text("NOT")
    assert start().file("sink", "out").read_text() == "ONE"
    assert ran() == ["middle"]


@pytest.mark.parametrize("harm", ["alter", "delete"])
def test_lost_stored_bytes_are_a_miss_and_are_written_again(
    start: Start, harm: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The manifest still exists; the files that it lists do not."""
    manifest = Manifest.read(start().file("source", "out"))
    stored = manifest.local("text")
    stored.unlink() if harm == "delete" else stored.write_text("TWO")
    start()
    assert ran() == ["source"]
    assert "text is missing in the store or altered" in capfd.readouterr().out
    assert stored.read_text() == "one"


def test_only_what_depends_on_changed_bytes_runs(start: Start) -> None:
    """`one` and `One` give different first outputs and equal second ones."""
    start(text="one")
    start(text="One")
    assert ran() == ["source", "middle"]


def test_another_code_hash_reruns_the_steps_that_take_it(start: Start) -> None:
    start()
    start(code_hash="c1")
    assert ran() == ["source", "middle"]


def test_the_image_is_not_part_of_the_key(start: Start, package: Path) -> None:
    """Locally the code is the working tree's whatever the image is called."""
    start()
    other = Path("other.yaml")
    other.write_text(package.read_text().replace("nowhere/tiny:1", "elsewhere/big:2"))
    assert start(other).cached == ["source", "middle", "sink"]
    assert ran() == []


def test_a_damaged_cache_entry_is_a_miss(start: Start) -> None:
    start()
    for entry in Path("runs/cache").glob("*.json"):
        entry.write_text("{")
    start()
    assert ran() == ["source", "middle", "sink"]


def test_concurrent_runs_do_the_work_once(start: Start, package: Path) -> None:
    code = "import sys; from pathlib import Path; from pipelines.local.run import execute; "
    code += "execute({}, Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(package)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert ran() == ["source", "middle", "sink"]


def test_a_failed_step_is_reported_with_its_cause(start: Start) -> None:
    """The steps after it do not run; the exit handler does."""
    with pytest.raises(StepError) as caught:
        start(fail="12 of 40 rows are torn")
    assert str(caught.value).splitlines()[:2] == [
        "step middle failed: ValueError: table.txt: 12 of 40 rows are torn",
        "fix it",
    ]
    assert ran() == ["source", "middle"]
    assert Path("ended.txt").read_text().startswith("FAILED ")
    assert "ValueError" in (caught.value.run.report / "middle.log").read_text()


@pytest.fixture(scope="session")
def retried_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("retried") / "retried.yaml"
    compiler.Compiler().compile(retried, str(path))
    return path


def test_a_mistake_of_the_user_is_tried_once(start: Start, retried_package: Path) -> None:
    """Its line is the cause, without a traceback."""
    with pytest.raises(StepError) as caught:
        start(retried_package, kind="mistake")
    assert ran() == ["tried"]
    assert caught.value.run.failure == "step mistaken failed: row 3: 2"
    assert "Traceback" not in (caught.value.run.report / "mistaken.log").read_text()


def test_an_error_that_may_pass_is_tried_again_and_said(
    start: Start, retried_package: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As often and after the pauses that the step's retry policy says."""
    began = time.monotonic()
    with pytest.raises(StepError, match="No space left"):
        start(retried_package, kind="disk")
    assert ran() == ["tried"] * 3
    assert time.monotonic() - began > 1 + 2
    out = capfd.readouterr().out
    assert "mistaken: attempt 1 of 3 failed; the next starts in 1 s" in out
    assert "mistaken: attempt 2 of 3 failed; the next starts in 2 s" in out


def test_a_path_reaches_the_steps_shell_as_one_word() -> None:
    """Whatever it contains; and an argument that contains `python3` is left alone."""
    odd = "/a b'c$(touch PWNED)/é\n/python3"
    command = ["sh", "-ec", 'echo python3 "$@"', "import python3", "--x", "/data/python3"]
    quoted = local.with_python(command, odd)
    assert quoted[3:] == command[3:]
    assert subprocess.run(quoted, capture_output=True, text=True, check=True).stdout == (
        f"{odd} --x /data/python3\n"
    )


def test_a_failed_step_releases_its_lock(start: Start) -> None:
    with pytest.raises(StepError):
        start(fail="torn")
    locks = list(Path("runs/cache").glob("*.lock"))
    assert locks
    for path in locks:
        FileLock(path).acquire(blocking=False).lock.release()


def test_a_failed_step_is_not_cached(start: Start) -> None:
    for _ in range(2):
        with pytest.raises(StepError):
            start(fail="torn")
        assert ran()[-1] == "middle"


def test_started_steps_get_the_run_id_and_nothing_is_left_behind(start_here: Start) -> None:
    """No temporary files and no variable, and kfp is restored."""
    run = start_here()
    assert ran() == ["source", "middle", "sink"]
    state, name, scratch = Path("ended.txt").read_text().split()
    assert (state, name) == ("SUCCEEDED", run.id)
    assert not Path(scratch).exists()
    assert "PIPELINE_RUN_ID" not in os.environ
    assert cache.LocalCache is not ContentCache
    assert task_executor.execute_single_task.__module__ == task_executor.__name__


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_can_be_run_again(
    start: Start, package: Path, number: signal.Signals
) -> None:
    """SIGTERM and Ctrl-C reach the step's processes; after kill -9 nothing stays locked."""
    code = "import signal, sys; from pathlib import Path; from pipelines.local.run import execute; "
    code += "signal.signal(15, lambda *_: sys.exit(143)); "
    # A shell starts background processes with Ctrl-C ignored.
    code += "signal.signal(2, signal.default_int_handler); "
    code += "execute({'fail': 'sleep'}, Path(sys.argv[1]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(package)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 240
    while not Path("asleep").exists() and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(number)
    code_ = process.wait(240)
    assert code_ == {signal.SIGTERM: 143, signal.SIGINT: -2, signal.SIGKILL: -9}[number]
    assert number == signal.SIGKILL or not sleepers(Path.cwd())
    start()
    assert ran() == ["middle", "sink"]


WORKER = """
import signal, sys, time, pathlib
def save(*_):
    for _ in range(3):  # output without a reader must not interrupt the saving
        print("saving", flush=True)
        time.sleep(0.3)
    pathlib.Path("saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
pathlib.Path("asleep").touch()
time.sleep(100)
"""
AGENT = f"""
import signal, subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", {WORKER!r}], start_new_session=True)
signal.signal(signal.SIGTERM, lambda *_: worker.terminate())
sys.exit(worker.wait())
"""


def test_stopping_a_step_waits_for_workers_that_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under kfp and torchrun: a shell that exits at once, an agent, a worker in its session."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agent.py").write_text(AGENT)
    with subprocess.Popen(
        ["sh", "-c", f"{sys.executable} agent.py; true"],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        while not Path("asleep").exists():
            time.sleep(0.05)
        local.stop(process)
        assert Path("saved").exists()


def test_a_step_that_does_not_stop_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "GRACE", 0.5)
    monkeypatch.chdir(tmp_path)
    deaf = "import pathlib, signal, time; signal.signal(15, signal.SIG_IGN); "
    deaf += "pathlib.Path('asleep').touch(); time.sleep(100)"
    with subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True) as process:
        while not Path("asleep").exists():
            time.sleep(0.05)
        local.stop(process)  # type: ignore[arg-type]
        assert process.wait(5) == -signal.SIGKILL


def sleepers(folder: Path) -> list[str]:
    """Component processes that still run in `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            here = (entry / "cwd").readlink() == folder
            words = (entry / "cmdline").read_text()
        except OSError:
            continue
        if here and "executor_main" in words and entry.name != str(os.getpid()):
            found.append(words)
    return found


@pytest.mark.parametrize(("end", "code"), [("os.kill(os.getpid(), 9)", -9), ("sys.exit(137)", 137)])
def test_a_step_killed_for_memory_is_reported_as_killed(
    end: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a signal, or by an exit code above 128, which stands for one."""
    monkeypatch.chdir(tmp_path)
    run = local.LocalRun("id", tmp_path, 1, current="step")
    assert run.stream([sys.executable, "-c", f"import os, sys; {end}"]) == code
    assert list(run.tail) == ["ended by signal 9 (Killed)"]


def test_the_cause_is_the_message_of_the_last_traceback() -> None:
    lines = ["Traceback (most recent call last):", '  File "a"', "KeyError: 'first'", "",
             "Traceback (most recent call last):", '  File "b"', "    x()",
             "training.storage.store.StoreError: gone", "second line"]  # fmt: skip
    assert local.cause(lines) == "training.storage.store.StoreError: gone\nsecond line"


def test_the_error_of_a_started_program_comes_first() -> None:
    lines = ["error: loss d/gp is nan at image 640", "Traceback (most recent call last):",
             '  File "b"', "ValueError: training ended with exit code 2"]  # fmt: skip
    assert local.cause(lines) == (
        "loss d/gp is nan at image 640\nValueError: training ended with exit code 2"
    )


def test_another_kfp_is_refused(monkeypatch: pytest.MonkeyPatch, package: Path) -> None:
    monkeypatch.setattr(kfp, "__version__", "2.18.0")
    with pytest.raises(RuntimeError, match=r"kfp 2\.18\.0 is installed; .* exactly 2\.17\.0"):
        execute({}, package)


def test_kfp_still_uses_the_patched_attributes() -> None:
    """Read these files again before changing this test: kfp/local/cache.py and its users."""
    assert kfp.__version__ == local.KFP
    names = ["component_name", "image", "full_command", "arguments", "env_vars", "custom_cache_key"]
    for one in (cache.LocalCache, ContentCache):
        assert list(inspect.signature(one.compute_key).parameters) == ["self", *names]
        assert list(inspect.signature(one.get).parameters) == ["self", "key"]
        assert list(inspect.signature(one.put).parameters) == ["self", "key", "outputs"]
    body = inspect.getsource(task_executor.execute_single_task)
    assert "cache_module.get_local_cache()" in body
    assert "local_cache.get(cache_key)" in body
    assert "local_cache.put(cache_key, outputs)" in body
    assert "LocalCache(cache_root=cache_root)" in inspect.getsource(cache.get_local_cache)
    run = subprocess_task_handler.run_local_subprocess
    assert list(inspect.signature(run).parameters) == ["full_command", "env_vars"]
    assert "return_code = run_local_subprocess(" in inspect.getsource(
        subprocess_task_handler.SubprocessTaskHandler.run
    )


def test_cache_entries_are_readable(start: Start) -> None:
    """One JSON file per result, with the digest of every output file."""
    run = start()
    entries = [json.loads(p.read_text()) for p in Path("runs/cache").glob("*.json")]
    paths = {row["path"]: row["manifest"] for entry in entries for row in entry["files"]}
    assert paths == {
        str(run.file("source", "out")): True,
        str(run.file("middle", "out")): False,
        str(run.file("sink", "out")): False,
    }


def test_steps_get_only_addresses_and_secrets() -> None:
    given = {"AWS_SECRET_ACCESS_KEY": "s", "STORE_URI": "u", "PATH": "/bin", "HOME": "/h",
             "MLFLOW_TRACKING_URI": "m", "GITHUB_TOKEN": "t"}  # fmt: skip
    assert containers.environment(given).keys() == {
        "AWS_SECRET_ACCESS_KEY", "STORE_URI", "MLFLOW_TRACKING_URI",
    }  # fmt: skip


def test_steps_in_containers_get_the_settings_of_steps_without() -> None:
    """Time limits, threads, and the whole address of a lineage server."""
    given = dict.fromkeys(
        ("COLLECTIVE_TIMEOUT", "OMP_NUM_THREADS", "OPENLINEAGE_API_KEY", "OPENLINEAGE_ENDPOINT",
         "OPENLINEAGE_NAMESPACE", "OPENLINEAGE_URL", "S3_PATIENCE"), "1",
    )  # fmt: skip
    assert containers.environment(given) == given


def test_a_containers_lines_are_complete_whatever_the_pieces() -> None:
    """With its exit code; and it is removed."""
    pieces = [b"one\ntw", b"o\n", b"", b"\xff three"]
    removed: list[bool] = []
    container = SimpleNamespace(
        logs=lambda **_: pieces, wait=lambda: {"StatusCode": 3},
        remove=lambda *, force: removed.append(force),
    )  # fmt: skip
    client = SimpleNamespace(
        images=SimpleNamespace(get=lambda name: SimpleNamespace(id=f"id of {name}")),
        containers=SimpleNamespace(run=lambda **_: container),
    )
    lines: list[str] = []
    assert containers.run_in(lines.extend)(client, "steps:1", ["true"], {}) == 3
    assert lines == ["one\n", "two\n", "\ufffd three\n"]
    assert removed == [True]

"""Run the compiled pipeline on this machine: kfp.local's subprocesses, own cache, live progress.

All files of a run are under one folder (default ./runs): `kfp/` outputs of the steps, `cache/`
entries for later runs, `report/<run>/` each step's log, reports and pictures. Seven module
attributes of kfp are replaced, for exactly version `KFP`; other versions are refused, since a
silent change there could return a wrong result from the cache.
"""

import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import uuid
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kfp
import psutil
from kfp import components, dsl, local
from kfp.local import cache, docker_task_handler, logging_utils, subprocess_task_handler
from kfp.local.orchestrator import enhanced_dag_orchestrator, task_executor
from kfp.local.status import Status

from pipelines.local import containers
from pipelines.local.cache import ContentCache
from training.core import environment
from training.core.cli import EXIT_MISTAKE
from training.core.shown import shown
from training.core.temporary import temporary_folder
from training.tracking import runners

KFP = "2.17.0"
GRACE = 60.0  # s that a stopped step has to save its state
TAIL = 400  # last lines of a step from which the cause of its failure is taken
ITERATION = re.compile(r"-iteration-(\d+)$")  # end of the name of a loop's iteration
ECHO = re.compile(r"^\[KFP Executor")  # prefix of the executor's own log lines
DUMP = "Got executor_input:"


class StepError(RuntimeError):
    """A step of a local run failed; the message has its name, the cause and the log folder."""

    def __init__(self, run: "LocalRun") -> None:
        super().__init__(f"{run.failure}\nlogs: {run.report}")
        self.run = run


@dataclass
class LocalRun:
    """One run: its folders, its state and the outputs of its steps."""

    id: str
    root: Path
    steps: int
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    cached: list[str] = field(default_factory=list)
    folders: dict[str, Path] = field(default_factory=dict)  # of the steps that ran
    failure: str = ""
    began: int = 0
    current: str = ""
    streamed: bool = False
    code: int = 0  # exit code of the current step's last attempt
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL))

    @property
    def report(self) -> Path:
        return self.root / "report" / self.id

    def file(self, step: str, output: str) -> Path:
        """Path of an output artifact of a finished step."""
        return Path(self.outputs[step][output].uri)

    def step(self, **task: Any) -> tuple[dict[str, Any], Status]:
        """Replaces kfp's `execute_single_task`: adds headings and the cause of a failure."""
        loop = ITERATION.search(task["pipeline_resource_name"])
        name = f"{task['task_name']}-{int(loop[1]) + 1}" if loop else task["task_name"]
        self.began += 1
        self.current, self.streamed = name, False
        self.tail.clear()
        self.folders[name] = (
            Path(task["pipeline_root"])
            / task["pipeline_resource_name"]
            / task["task_spec"].component_ref.name.removeprefix("comp-")
        )
        head, start = f"[{self.began}/{self.steps}] {name}", time.monotonic()
        say(head)
        outputs, status = self._attempts(head, task)
        seconds = f"{time.monotonic() - start:.1f} s"
        if status != Status.SUCCESS:
            self.failure = self.failure or f"step {name} failed: {cause(list(self.tail))}"
            say(f"{head}: FAILED after {seconds}")
        elif self.streamed:
            say(f"{head}: done in {seconds}")
        else:
            self.cached.append(name)
            say(f"{head}: from cache, {where(outputs)}")
        self.outputs[name] = outputs
        return outputs, status

    def iterate(
        self, _: Any, tasks: list[tuple[str, Any]], fail_stack: list[str],
        parallelism_limit: int = 0, **shared: Any,
    ) -> tuple[dict[str, Any], Status]:  # fmt: skip
        """Replaces kfp's `execute_parallel_tasks`: a loop's iterations run one after another.

        A step uses every core; kfp's threads would mix the output of two, and would keep Ctrl-C
        from them.
        """
        del parallelism_limit
        self.steps += len(tasks) - 1
        found = {}
        for name, spec in tasks:
            found[name], status = enhanced_dag_orchestrator.execute_task(
                task_name=name, task_spec=spec, fail_stack=fail_stack, **shared
            )
            if status != Status.SUCCESS:
                fail_stack.append(name)
                return {}, status
        return found, Status.SUCCESS

    def _attempts(self, head: str, task: dict[str, Any]) -> tuple[dict[str, Any], Status]:
        """Run a step and repeat it as its retry policy says; a mistake of the user is not repeated.

        Replaces kfp's own loop, which repeats any failure and says nothing.
        """
        spec = type(task["task_spec"])()
        spec.CopyFrom(task["task_spec"])
        policy = task["task_spec"].retry_policy
        spec.ClearField("retry_policy")
        pause, factor = policy.backoff_duration.seconds, policy.backoff_factor or 2.0
        for number in range(policy.max_retry_count + 1):
            self.code = 0
            try:
                outputs, status = _execute(**{**task, "task_spec": spec})
            finally:
                store = cache.get_local_cache()
                if isinstance(store, ContentCache):
                    store.release()
            if status == Status.SUCCESS or self.code == EXIT_MISTAKE:
                break
            if number < policy.max_retry_count:
                say(f"{head}: attempt {number + 1} of {policy.max_retry_count + 1} failed; "
                    f"the next starts in {pause:.0f} s")  # fmt: skip
                time.sleep(pause)
                pause *= factor
        return outputs, status

    def follow(self, lines: Iterable[str]) -> None:
        """Print a step's lines as they arrive, and write them to its log, without passwords."""
        self.streamed = True
        self.report.mkdir(parents=True, exist_ok=True)
        quiet = Quiet()
        with (self.report / f"{self.current}.log").open("a") as copy:  # an attempt after another
            for line in map(shown, lines):
                copy.write(line)
                copy.flush()
                if text := quiet(line):
                    self.tail.append(text)
                    say(f"  {text}")

    def ended(self, code: int) -> int:
        """The exit code of a step, which is kept; a signal is named in the output."""
        self.code = code
        if code < 0 or code > 128:
            number = -code if code < 0 else code - 128
            self.tail.append(f"ended by signal {number} ({signal.strsignal(number)})")
        return code

    def stream(self, full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        """Replaces kfp's `run_local_subprocess`: live output, a log, a clean stop."""
        variables = {**environment.whole(), "PYTHONUNBUFFERED": "1", **(env_vars or {})}
        # In a new session, so that stopping the step also reaches its workers.
        with subprocess.Popen(
            full_command, env=variables, text=True, errors="replace", bufsize=1,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        ) as process:  # fmt: skip
            try:
                self.follow(process.stdout or ())
                return self.ended(process.wait())
            except BaseException:
                stop(process)
                raise

    def contain(self, *arguments: Any, **settings: Any) -> int:
        """Replaces kfp's `run_docker_container`, likewise."""
        return self.ended(containers.run_in(self.follow)(*arguments, **settings))


_execute = task_executor.execute_single_task


def with_python(full_command: list[str], new_executable: str) -> list[str]:
    """Replaces kfp's `replace_python_executable`: quoted, and in the step's shell text only.

    kfp pastes the path unquoted, so that a shell reads it, and also into arguments that happen to
    contain `python3`.
    """
    script = full_command.index("-ec") + 1  # `sh -ec SCRIPT CODE ARGUMENTS`
    text = full_command[script].replace("python3", shlex.quote(new_executable))
    return [*full_command[:script], text, *full_command[script + 1 :]]


class Quiet:
    """Filter for the executor's own lines, including the dump of a step's inputs."""

    def __init__(self) -> None:
        self.dump = False

    def __call__(self, line: str) -> str:
        """The line without its line break, or empty text if it is filtered out."""
        text, dumped = line.rstrip(), self.dump
        own = bool(ECHO.match(text))
        self.dump = (dumped and text != "}") or (own and text.endswith(DUMP))
        return "" if dumped or own else text


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def stop(process: "subprocess.Popen[str]") -> None:
    """Stop a step and its workers with SIGTERM, so that they save; kill them after `GRACE` seconds.

    The step's shell exits at once and torchrun's workers have their own sessions, so all its child
    processes are awaited: once our end of the pipe is closed, a worker's next line kills it.
    """
    try:
        own = psutil.Process(process.pid)
        started = [own, *own.children(recursive=True)]
        os.killpg(process.pid, signal.SIGTERM)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return
    end = time.monotonic() + GRACE
    while (alive := [p for p in started if _lives(p)]) and time.monotonic() < end:
        process.poll()
        time.sleep(0.1)
    for one in alive:
        with suppress(psutil.NoSuchProcess):
            one.kill()


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def cause(lines: list[str]) -> str:
    """Why a step failed: the message of its last traceback, else its last line.

    An `error: ...` line that a program of the step printed before comes first. After the last
    traceback, it is the message itself, with the lines that follow it.
    """
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    marks = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    last = lines[-1] if lines else "it printed nothing"
    starts = [i for i, line in enumerate(lines) if line.startswith("Traceback (most recent call")]
    if marks and marks[-1] > (starts[-1] if starts else -1):
        return "\n".join([errors[-1], *lines[marks[-1] + 1 :]])
    for i in range(starts[-1] + 1 if starts else len(lines), len(lines)):
        if re.match(r"[A-Za-z_][\w.]*(: |$)", lines[i]):
            last = "\n".join(lines[i:])
            break
    return f"{errors[-1]}\n{last}" if errors else last


def where(outputs: Mapping[str, Any]) -> str:
    folders = {str(Path(v.uri).parent) for v in outputs.values() if isinstance(v, dsl.Artifact)}
    return ", ".join(sorted(folders)) or "no files"


@contextmanager
def patched(run: LocalRun) -> Iterator[None]:
    """Patch kfp.local with our cache, headings and streams in the block."""
    patches: list[tuple[Any, str, Any]] = [
        (cache, "LocalCache", ContentCache),
        (task_executor, "execute_single_task", run.step),
        (subprocess_task_handler, "run_local_subprocess", run.stream),
        (subprocess_task_handler, "replace_python_executable", with_python),
        (docker_task_handler, "run_docker_container", run.contain),
        (logging_utils, "print_horizontal_line", lambda: None),
        (
            enhanced_dag_orchestrator.ParallelExecutor,
            "execute_parallel_tasks",
            lambda *kfp, **task: run.iterate(*kfp, **task),
        ),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in patches]
    disabled = logging.root.manager.disable
    try:
        for module, name, value in patches:
            setattr(module, name, value)
        logging.disable(logging.INFO)
        yield
    finally:
        logging.disable(disabled)
        for module, name, value in before:
            setattr(module, name, value)


@contextmanager
def step_environment(run: LocalRun) -> Iterator[None]:
    """Set the steps' environment: the run's id, this process, a folder for temporary files."""
    with (
        temporary_folder() as scratch,
        environment.changed(
            PIPELINE_RUN_ID=run.id, PIPELINE_RUNNER=runners.this(), TMPDIR=str(scratch)
        ),
    ):
        yield


def execute(
    arguments: Mapping[str, Any],
    package: Path,
    root: Path | None = None,
    *,
    in_containers: bool = False,
) -> LocalRun:
    """Run `package` (compiled YAML) with `arguments`; outputs go under `root` (default ./runs).

    The steps are subprocesses in this environment, or containers of their images. Raises StepError
    once a step has failed and the exit handler has run, and RuntimeError for another kfp version.
    """
    if kfp.__version__ != KFP:
        raise RuntimeError(
            f"kfp {kfp.__version__} is installed; the local runner needs exactly {KFP}"
        )
    root = (root or environment.runs()).absolute()
    pipeline = components.load_component_from_file(str(package))
    spec = pipeline.pipeline_spec
    stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    run = LocalRun(
        id=f"{spec.pipeline_info.name}-{stamp}",
        root=root,
        steps=len(spec.deployment_spec["executors"]),
    )
    local.init(
        runner=containers.runner(root, str(arguments.get("raw", "")))
        if in_containers
        else local.SubprocessRunner(use_venv=False),
        pipeline_root=str(root / "kfp"),
        workspace_root=str(root / "kfp" / f"workspace-{run.id}"),  # kfp deletes it at the end
        raise_on_error=True,
        enable_caching=True,
        cache_root=str(root / "cache"),
    )
    with warnings.catch_warnings(), patched(run), step_environment(run):
        # kfp warns of images without "python" in the name, and of cluster-only settings.
        warnings.filterwarnings("ignore", "You may be attemping to run", RuntimeWarning)
        warnings.filterwarnings("ignore", ".*no effect in the current local runner", UserWarning)
        try:
            pipeline(**arguments)
        except RuntimeError as error:
            if not run.failure:
                raise
            raise StepError(run) from error
    return run

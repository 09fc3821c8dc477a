"""Run the project's programs as forks of one process that has imported torch, kfp and MLflow.

A newly started program spends 5 to 10 s of CPU on imports before its own work begins; a pipeline
starts eleven of them. A fork is still a separate process with its own environment, working
folder, output and exit code. It does not test a cold start, which some tests do.
"""

import atexit
import builtins
import contextlib
import inspect
import json
import logging
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest

from pipelines.preload import PACKAGES, preload

PRINT, HANDLERS = builtins.print, [*logging.root.handlers]
AT_END: list[Callable[..., Any]] = []  # functions that this fork registered with atexit
_register = atexit.register


def at_end(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
    """Replaces `atexit.register` in a fork."""
    AT_END.append(function)
    return _register(function, *args, **kwargs)


def program(command: Sequence[str]) -> Callable[[], object] | None:
    """The function of a command: one of our programs, a kfp step or Python code; else None."""
    words = [str(word) for word in command]
    if words[0] == "sh" and "kfp.dsl.executor_main" in words[2]:
        return lambda: step(words[3], words[4:])
    if words[0] != sys.executable:
        return None
    if words[1] == "-c":
        return lambda: code(words[2], words[3:])
    # torchrun with one process trains as without it.
    if words[1:3] == ["-m", "torch.distributed.run"] and words[6:8] == ["--nproc-per-node", "1"]:
        words = [words[0], *words[words.index("-m", 3) :]]
    if words[1] == "-m" and words[2].partition(".")[0] in PACKAGES:
        return lambda: module(words[2], words[3:])
    return None


def module(name: str, arguments: list[str]) -> None:
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def code(text: str, arguments: list[str]) -> None:
    sys.argv = ["-c", *arguments]
    exec(compile(text, "<string>", "exec"), {"__name__": "__main__"})


def step(source: str, arguments: list[str]) -> None:
    """Like kfp's shell lines: write the component's source to a file for the executor."""
    path = Path(tempfile.mkdtemp()) / "ephemeral_component.py"
    path.write_text(source)
    os.environ["_KFP_RUNTIME"] = "true"
    module("kfp.dsl.executor_main", ["--component_module_path", str(path), *arguments])


def become(start: Callable[[], object], env: dict[str, str] | None, cwd: Any) -> NoReturn:
    """Run the program and exit with its exit code, as the interpreter would."""
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # kfp.local indents its output and has its own logger.
        builtins.print = PRINT
        logging.disable(logging.NOTSET)
        logging.root.handlers[:] = HANDLERS
        logging.root.setLevel(logging.WARNING)
        # The parent's exit functions must not run in the fork.
        weakref.finalize._registry.clear()  # type: ignore[attr-defined]
        for function in AT_END:
            atexit.unregister(function)
        AT_END.clear()
        atexit.register = at_end
        tempfile.tempdir = None
        if env is not None:
            os.environ.clear()
            os.environ.update(env)
        if cwd:
            os.chdir(cwd)
        sys.path[0] = str(Path.cwd())
        subprocess.Popen = Forked  # type: ignore[misc]
        start()
        status = 0
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            sys.stderr.write(f"{end.code}\n")
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


class Forked(subprocess.Popen):  # type: ignore[type-arg]
    """Replaces Popen in a fork: our own programs are forked, others start as usual."""

    def _execute_child(self, *given: Any) -> None:
        request = inspect.signature(super()._execute_child).bind(*given).arguments  # type: ignore[misc]
        args = request["args"]
        start = None if isinstance(args, (str, bytes, os.PathLike)) else program(args)
        if start is None:
            super()._execute_child(*given)  # type: ignore[misc]
            return
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            if request["start_new_session"]:
                os.setsid()
            wire(*(request[name] for name in ("p2cread", "c2pwrite", "errwrite")))
            become(start, request["env"], request["cwd"])
        self._child_created = True
        names = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(request[name] for name in names))  # type: ignore[attr-defined]


def wire(*ends: int) -> None:
    """Make these the standard streams (-1: as they are) and close everything else."""
    for number, end in enumerate(ends):
        if end not in (-1, number):
            os.dup2(end, number)
    os.closerange(3, 4096)


def serve() -> None:
    """Run the commands on stdin, one JSON line each; answer with each exit code."""
    preload()
    HANDLERS[:] = logging.root.handlers
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        start = program(request["command"])
        if start is None:
            raise ValueError(f"{request['command']}: not one of our programs")
        pid = os.fork()
        if not pid:
            os.setsid()
            out = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            wire(os.open(os.devnull, os.O_RDONLY), out, out)
            sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
            become(start, request["env"], request["cwd"])
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


class Forks:
    """The process that forks, started at the first command."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "output"
        self.server: subprocess.Popen[str] | None = None

    def run(
        self, command: Sequence[str], cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """Exit code of the command and its output, stdout and stderr together."""
        if self.server is None:
            self.server = subprocess.Popen(
                [sys.executable, "-W", "ignore", __file__], text=True, start_new_session=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2],
            )  # fmt: skip
            assert self.answer() == "ready"
        assert self.server.stdin
        self.output.write_bytes(b"")
        request = {"command": [str(word) for word in command], "cwd": str(cwd or Path.cwd()),
                 "env": env or dict(os.environ), "output": str(self.output)}  # fmt: skip
        try:
            self.server.stdin.write(f"{json.dumps(request)}\n")
            self.server.stdin.flush()
            return int(self.answer()), self.output.read_text(errors="replace")
        except BaseException:  # a timeout: the next one must not take this one's answer
            self.close()
            raise

    def answer(self) -> str:
        assert self.server
        assert self.server.stdout
        line = self.server.stdout.readline().strip()
        assert line, "the process that forks has ended"
        return line

    def close(self) -> None:
        if self.server:
            started = psutil.Process(self.server.pid)
            for process in [*started.children(recursive=True), started]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self.server.communicate()
            self.server = None


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Run our programs without their import time."""
    made = Forks(tmp_path_factory.mktemp("forks"))
    yield made
    made.close()


if __name__ == "__main__":
    sys.modules["forks"] = sys.modules["__main__"]  # survives a program that becomes __main__
    sys.path[0] = str(Path.cwd())
    serve()

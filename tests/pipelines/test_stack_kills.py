"""`make stack`, killed at any moment of its first start, comes up when it is run again."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.local.stack import SERVERS, Stack
from servers import run_stack

pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.fixture
def new() -> Iterator[Stack]:
    """A stack that was never started, in a folder that Postgres' own user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="stack-"))
    folder.chmod(0o755)
    made = Stack(folder / "stack")
    yield made
    run_stack(made, "down")
    shutil.rmtree(folder)


def kill_when(stack: Stack, appears: str, *, children: bool, pause: float = 0) -> None:
    """Start the stack; kill the command when a file appears, alone or with its children."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.local.stack", "up", "--folder", str(stack.folder)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    end = time.monotonic() + 180
    while not list(stack.folder.glob(appears)) and time.monotonic() < end:
        time.sleep(0.002)
    assert list(stack.folder.glob(appears)), appears
    time.sleep(pause)
    if children:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait(30)


# Files that appear one after another: settings, S3, initdb's, Postgres', MLflow's.
MOMENTS = [
    [("up.lock", 0), ("settings.json", 0), ("s3/identities.json", 0)],
    [("s3/grpc.key", 0), ("s3.pid", 0), ("postgres.password", 0)],
    [("postgres.new/PG_VERSION", 0), ("postgres.new/base/1/PG_VERSION", 0)],
    [("postgres.new/base/1/PG_VERSION", 0.5), ("postgres/PG_VERSION", 0), ("mlflow.pid", 0)],
]


@pytest.mark.parametrize(
    ("moments", "children"),
    [
        pytest.param(MOMENTS[2], False, id="initdb-alone"),
        *(
            pytest.param(
                moments, children, id=f"{moments[0][0]}-{children}", marks=pytest.mark.long
            )
            for moments in MOMENTS
            for children in (True, False)
            if (moments, children) != (MOMENTS[2], False)
        ),
    ],
)
def test_a_killed_first_start_is_made_up_for(
    new: Stack, moments: list[tuple[str, float]], children: bool
) -> None:
    for appears, pause in moments:
        kill_when(new, appears, children=children, pause=pause)
    run_stack(new, "up")
    assert new.load()
    assert all(new.process(name) for name in SERVERS)
    left = [path.name for path in new.folder.iterdir()]
    assert not [name for name in left if name in ("postgres.new", "postgres.password")]


def test_a_server_whose_starter_was_killed_is_found_again(new: Stack) -> None:
    """It records itself, so that it is neither started twice nor left behind by `down`."""
    kill_when(new, "s3.pid", children=False)
    end = time.monotonic() + 30
    while not (running := new.process("s3")) and time.monotonic() < end:
        time.sleep(0.05)
    assert running
    run_stack(new, "down")
    assert not running.is_running()


@pytest.mark.long
def test_a_port_that_another_program_took_is_replaced(new: Stack) -> None:
    run_stack(new, "up")
    new.load()
    before = dict(new.settings)
    run_stack(new, "down")
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", before["mlflow"]))
        stranger.listen()
        run_stack(new, "up")
    new.load()
    assert {k for k in before if before[k] != new.settings[k]} == {"mlflow"}


def test_settings_of_an_older_stack_keep_their_values_and_get_the_new_ones(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(
        json.dumps({"access_key": "a", "secret_key": "b", "s3": 21000, "postgres_password": "c"})
    )
    stack = Stack(tmp_path)
    stack.load()
    stack.complete_settings()
    assert stack.keys("steps")["AWS_ACCESS_KEY_ID"] == "a"
    assert stack.keys("steps")["AWS_SECRET_ACCESS_KEY"] == "b"
    assert (stack.settings["s3"], stack.settings["postgres_password"]) == (21000, "c")
    assert all(stack.keys(role)["AWS_SECRET_ACCESS_KEY"] for role in ("admin", "mlflow", "backup"))
    again = Stack(tmp_path)
    again.load()
    assert again.settings == stack.settings

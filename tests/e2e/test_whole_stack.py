"""The whole pipeline on real servers: S3 with keys, MLflow with passwords on Postgres."""

import contextlib
import json
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from forks import Forks
from pipelines.local.stack import SERVERS, Stack
from servers import run_stack
from training.storage import dvc as remote
from training.storage.s3 import Bucket
from training.storage.store import Manifest

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.long]

AWAY = 4.0  # s of an outage: longer than a registration takes without one
SHORT = ["preset=smoke", "data.size=32", "d_repeat_num=4", "train.images=96", "decay_images=32",
         "warmup_images=32", "log_images=32", "sample_images=96", "checkpoint_images=32",
         "judge.images=128"]  # fmt: skip


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory, drawn: Path) -> Path:
    folder = tmp_path_factory.mktemp("workdir")
    shutil.copytree(drawn, folder / "raw" / "celeba")
    return folder


class Ended(NamedTuple):
    """A pipeline run: its output, and the name of its training's folder."""

    output: str
    training: str


@pytest.fixture(scope="module")
def ended(stack: Stack, workdir: Path, run_pipeline: Callable[..., str]) -> Ended:
    """A run on the servers, whose model, evaluation and data the tests use."""
    output = run_pipeline(workdir, *SHORT, "raw=raw/celeba", environment=stack.exports())
    (folder,) = workdir.glob("runs/train/*")  # before any test trains here
    return Ended(output, folder.name)


Program = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def program(stack: Stack, workdir: Path, ended: Ended, forks: Forks) -> Program:
    """Exit code and output of `python -m training.…` in the workdir, on the servers."""

    def run(*words: str, **more: str) -> tuple[int, str]:
        line = [sys.executable, "-m", f"training.{words[0]}", *words[1:]]
        return forks.run(line, workdir, {**os.environ, **stack.exports(), **more})

    return run


@pytest.fixture(scope="module")
def release(program: Program) -> Program:
    return partial(program, "release")


@pytest.mark.usefixtures("there")
def test_the_run_ends_on_the_servers_and_no_secret_is_left_anywhere(
    stack: Stack, workdir: Path, ended: Ended, forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version, artifacts and checkpoints are remote; keys and passwords are in no output."""
    assert "stargan 1 (new)" in ended.output
    bucket = Bucket("s3://stargan")
    assert bucket.folders(f"store/checkpoints/{ended.training}/")
    code = (
        "from mlflow import MlflowClient as C; v = C().search_model_versions(\"name='stargan'\");"
        "print(len(v), C().get_run(v[0].run_id).info.artifact_uri)"
    )
    _, found = forks.run([sys.executable, "-c", code])
    assert found.startswith("1 mlflow-artifacts:"), found

    words = [v.encode() for v in stack.settings.values() if isinstance(v, str)]
    assert not [word for word in words if word in ended.output.encode()]
    for path in workdir.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [word for word in words if word in content], path
    for name, value in stack.keys("admin").items():
        monkeypatch.setenv(name, value)
    bucket = Bucket("s3://stargan")  # as the administrator: the steps' key does not read all
    pages = bucket.client.get_paginator("list_objects_v2").paginate(Bucket="stargan")
    keys = [row["Key"] for page in pages for row in page.get("Contents", ())]
    assert any(key.startswith("mlflow/") for key in keys)
    for key in keys:
        content = bucket.client.get_object(Bucket="stargan", Key=key)["Body"].read()
        assert not [word for word in words if word in content], key
    line = [sys.executable, "-c", DUMP, json.dumps(words, default=bytes.decode)]
    _, found = forks.run(line, env={**os.environ, "DATABASE": stack.database("mlflow")})
    assert found == "searched\n"


@pytest.fixture
def there(stack: Stack, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process works in the workdir and reaches the servers."""
    for name, value in stack.exports().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(workdir)


def training(workdir: Path, images: int, out: Path) -> list[str]:
    """A training on the run's data, with a checkpoint every few seconds."""
    config = (
        f"images={images};decay_images=32;warmup_images=32;log_images=32;sample_images={images};"
        "checkpoint_images=160;d_repeat_num=4;seed=1"
    )
    return ["train", manifests(workdir)[2], "--preset", "smoke", "--set", config,
            "--experiment", "faults", "--out", str(out)]  # fmt: skip


def manifests(workdir: Path) -> list[str]:
    """The model's, its evaluation's and the data's."""
    found = {}
    for path in workdir.glob("runs/**/*"):
        if path.is_file() and path.read_bytes()[:200].lstrip().startswith(b"{"):
            try:
                found[Manifest.read(path).kind] = str(path)
            except (ValueError, KeyError, AttributeError):
                continue
    return [found[kind] for kind in ("model", "evaluation", "dataset")]


def kill(stack: Stack, name: str) -> None:
    """Kill the server and its workers at once."""
    gone = stack.process(name)
    assert gone
    for process in [*gone.children(recursive=True), gone]:
        with contextlib.suppress(psutil.NoSuchProcess):  # one may have ended because of another
            process.kill()
    gone.wait(30)


def hung_up(port: int) -> bool:
    """Wait for a connection to a server that is away, and hang up."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.settimeout(120)
        listener.accept()[0].close()
    return True


def up(forks: Forks, stack: Stack) -> None:
    """Start the servers, as `make stack` does."""
    command = [sys.executable, "-m", "pipelines.local.stack", "up", "--folder", str(stack.folder)]
    status, output = forks.run(command)
    assert status == 0, output


@pytest.mark.parametrize("name", SERVERS)
def test_a_registration_waits_for_a_server_that_is_briefly_down(
    stack: Stack, workdir: Path, release: Program, name: str
) -> None:
    """Killed as it begins, restarted some seconds after the first request: one complete version."""
    kill(stack, name)
    refused: list[bool] = []

    def outage() -> None:
        try:
            refused.append(hung_up(stack.settings[name]))
            time.sleep(AWAY)
        finally:
            run_stack(stack, "up")

    again = threading.Thread(target=outage)
    again.start()
    given = ["register", *manifests(workdir), "--name", f"after-{name}", "--out", f"{name}.json"]
    code, output = release(*given)
    again.join()
    assert refused, "nothing needed the server while it was away"
    assert code == 0, output
    assert json.loads((workdir / f"{name}.json").read_text())["version"] == "1"
    code, output = release("verify", f"after-{name}/1")
    assert code == 0, output


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_that_stays_down_is_reported_and_nothing_partial_is_left(
    stack: Stack, workdir: Path, release: Program, forks: Forks, name: str
) -> None:
    """The same command, after the outage, registers one complete version."""
    kill(stack, name)
    given = ["register", *manifests(workdir), "--name", f"without-{name}", "--out", f"{name}.json"]
    few = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "S3_PATIENCE": "1"}
    code, output = release(*given, **few)
    up(forks, stack)
    assert code == 2, output
    assert f"MLflow at http://127.0.0.1:{stack.settings['mlflow']}: API request to" in output
    assert "Traceback" not in output
    assert release("show", f"without-{name}")[1].count("\n") <= 1
    code, output = release(*given)
    assert code == 0, output
    assert release("verify", f"without-{name}/1")[0] == 0


@pytest.mark.usefixtures("there")
def test_a_training_survives_restarts_of_mlflow_and_postgres(
    stack: Stack, workdir: Path, program: Program, forks: Forks, tmp_path: Path
) -> None:
    """Both killed in the middle, restarted some seconds later: one run has every step."""
    before = set(workdir.glob("runs/train/*"))

    def fail() -> None:
        while not [new for run in set(workdir.glob("runs/train/*")) - before
                   for new in run.glob(f"checkpoints/{320:012d}")]:  # fmt: skip
            time.sleep(0.05)
        kill(stack, "mlflow")
        kill(stack, "postgres")
        time.sleep(AWAY)
        run_stack(stack, "up")

    away = threading.Thread(target=fail, daemon=True)
    away.start()
    code, output = program(*training(workdir, 3200, tmp_path / "model.json"))
    assert code == 0, output  # otherwise the servers may not have been killed
    away.join()
    assert "training continues" in output, output
    made = Manifest.read(tmp_path / "model.json", "model")
    _, sent = forks.run([sys.executable, "-c", STEPS, made.meta.mlflow_run])
    assert sent == f"FINISHED {list(range(32, 3201, 32))}\n"


def test_wrong_keys_are_reported_wherever_the_store_is_needed(
    workdir: Path, program: Program, release: Program, tmp_path: Path
) -> None:
    """On a machine that has none of the bytes yet; and the output does not contain the keys."""
    wrong = {"AWS_SECRET_ACCESS_KEY": "not-the-secret", "NODE_CACHE": str(tmp_path / "cache")}
    out = tmp_path / "out.json"
    for words in (
        ["release", "register", *manifests(workdir), "--name", "keyless", "--out", str(out)],
        training(workdir, 1632, out),
    ):
        code, output = program(*words, **wrong)
        assert code == 2, output
        assert "the credentials are refused" in output
        assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in output
        assert "not-the-secret" not in output
        assert "Traceback" not in output
        assert not out.exists()
    assert release("show", "keyless")[1].count("\n") <= 1


def test_a_wrong_password_is_named(workdir: Path, release: Program) -> None:
    given = ["register", *manifests(workdir), "--name", "denied", "--out", "denied.json"]
    code, output = release(*given, MLFLOW_TRACKING_PASSWORD="wrong")
    assert code == 2, output
    assert "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in output
    assert "Traceback" not in output


STEPS = """
import sys
from mlflow import MlflowClient
run = MlflowClient().get_run(sys.argv[1])
points = MlflowClient().get_metric_history(sys.argv[1], "lr_scale")
print(run.info.status, sorted(p.step for p in points))
"""

DUMP = """
import json, os, sys
from sqlalchemy import MetaData, create_engine, select
engine = create_engine(os.environ["DATABASE"])
tables = MetaData()
tables.reflect(engine)
with engine.connect() as connection:
    for table in tables.sorted_tables:
        for row in connection.execute(select(table)):
            for word in json.loads(sys.argv[1]):
                assert word not in str(tuple(row)), table.name
print("searched")
"""


@pytest.mark.usefixtures("there")
def test_what_was_pushed_to_s3_is_pulled_by_another_machine(workdir: Path, tmp_path: Path) -> None:
    """`training.data push` and the pull step share one DVC remote; a second push sends nothing."""
    folder = workdir / "raw" / "celeba"
    before = remote.tree_md5(folder)
    assert remote.push(folder) == (before[0], True)
    assert remote.push(folder) == (before[0], False)
    assert remote.tree_md5(folder) == before
    assert remote.pull(before[0], before[1], tmp_path / "out") == before[1]
    assert remote.tree_md5(tmp_path / "out") == before

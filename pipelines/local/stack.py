"""Run a cluster's servers on loopback: S3 (SeaweedFS), Postgres, MLflow with authentication.

    eval "$(python -m pipelines.local.stack up)"    start the servers; print exports for a shell
    python -m pipelines.local.stack down            stop the servers; the data are kept

Data and logs are in runs/stack, as is settings.json with ports and generated passwords, which only
its owner can read. Postgres comes from Debian's package, SeaweedFS from its wheel. The exported S3
key is that of the pipeline's steps; MLflow and the backups have their own (`exports --role`).
"""

import contextlib
import os
import pwd
import secrets
import shlex
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
from filelock import FileLock, Timeout

from pipelines.credentials import ADMIN, auth_ini
from pipelines.local import postgres, seaweed
from training.core import cli
from training.core.cli import means
from training.core.environment import runs, whole
from training.core.files import read_json, write_json
from training.storage.s3 import Bucket, RemoteError

main = cli.program("python -m pipelines.local.stack", __doc__)
FOLDER = runs("stack")
WAIT = 180.0  # s for a server to answer
SOURCES = "^(models|runs|mlflow-artifacts):/"  # of MLflow's versions: its own store
SERVERS = ("s3", "postgres", "mlflow")  # in the order in which they are started


def say(text: str) -> None:
    sys.stderr.write(f"stack: {text}\n")


class Stack:
    """The three servers and their settings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.settings: dict[str, Any] = {}

    def load(self) -> bool:
        """Read the settings. Raises ValueError for an empty one: it would let anybody in."""
        path = self.folder / "settings.json"
        if path.is_file():
            self.settings = read_json(path)
            if empty := sorted(name for name, value in self.settings.items() if not value):
                raise ValueError(
                    f"{path}: {', '.join(empty)}: empty, so that anybody could write; remove the "
                    "line and a new value is chosen"
                )
        return bool(self.settings)

    def complete_settings(self) -> None:
        """Choose missing ports and passwords and save them."""
        ports = [
            name for name in (*seaweed.PORTS, "postgres", "mlflow") if name not in self.settings
        ]
        chosen: dict[str, Any] = dict(zip(ports, free_ports(len(ports)), strict=True))
        former = {"access_key": "steps_access_key_id", "secret_key": "steps_secret_access_key"}
        chosen |= {
            new: self.settings.pop(old) for old, new in former.items() if old in self.settings
        }
        names = [f"{role}_secret_access_key" for role in seaweed.ROLES]
        for name in (*names, *seaweed.TOKENS, "postgres_password", "mlflow_password", "flask_key"):
            chosen.setdefault(name, secrets.token_urlsafe(24))
        for role in seaweed.ROLES:
            chosen.setdefault(f"{role}_access_key_id", secrets.token_hex(10))
        if set(chosen) - set(self.settings):
            self.settings = chosen | self.settings
            self.save_settings()

    def save_settings(self) -> None:
        write_json(self.folder / "settings.json", self.settings)

    def keys(self, role: str) -> dict[str, str]:
        """Environment variables with a role's S3 keys: admin, steps, mlflow or backup."""
        return {
            "AWS_ACCESS_KEY_ID": self.settings[f"{role}_access_key_id"],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self.settings['s3']}",
            "AWS_SECRET_ACCESS_KEY": self.settings[f"{role}_secret_access_key"],
        }

    def exports(self) -> dict[str, str]:
        """Environment variables for using the stack."""
        return self.keys("steps") | {
            "DVC_REMOTE_URL": f"s3://{seaweed.BUCKET}/dvc",
            "MLFLOW_TRACKING_PASSWORD": self.settings["mlflow_password"],
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self.settings['mlflow']}",
            "MLFLOW_TRACKING_USERNAME": ADMIN,
            "STORE_URI": f"s3://{seaweed.BUCKET}/store",
        }

    def up(self) -> None:
        """Start missing servers and wait until all answer. ValueError with a server's log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.close_folder()
        lock = FileLock(self.folder / "up.lock")
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            say(f"another `up` is starting the servers of {self.folder}; waiting for it")
            held = lock.acquire()
        with held:
            self.load()
            self.complete_settings()
            for name in SERVERS:
                if self.process(name) is None:
                    self.free_ports_of(name)
                    getattr(self, f"start_{name}")()
                self.wait(name)
                say(f"{name} answers on 127.0.0.1:{self.settings[name]}")

    def close_folder(self) -> None:
        """Let only the owner in; where root owns it, Postgres' user may pass through."""
        os.umask(0o077)
        if os.getuid() == 0:
            try:
                os.chown(self.folder, 0, pwd.getpwnam("postgres").pw_gid)
            except KeyError:
                raise ValueError("no user `postgres`: apt-get install postgresql") from None
        self.folder.chmod(0o710 if os.getuid() == 0 else 0o700)

    def free_ports_of(self, name: str) -> None:
        """Choose other ports than those that a stranger took since the last start."""
        self.sweep(name)
        for port in seaweed.PORTS if name == "s3" else (name,):
            if not is_free(self.settings[port], grpc=name == "s3"):
                taken, self.settings[port] = self.settings[port], free_ports(1)[0]
                say(
                    f"port {taken} is taken by another program; {port} is now {self.settings[port]}"
                )
                self.save_settings()

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
            recorded = (self.folder / f"{name}.pid").read_text()
            process = psutil.Process(int(recorded.split()[0]))
            now = Path(f"/proc/{process.pid}/stat").read_text()
            same = _started(recorded) == _started(now) and process.status() != "zombie"
        except (OSError, ValueError, IndexError, psutil.NoSuchProcess):
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
        # The server's own process records itself: if this one is killed, the next finds it.
        record = 'read -r line <"/proc/$$/stat"; echo "$line" >&0; exec "$@" <"/dev/null"'
        with (
            (self.folder / f"{name}.log").open("ab") as log,
            (self.folder / f"{name}.pid").open("wb") as pid,
        ):
            process = subprocess.Popen(
                ["sh", "-c", record, name, *command], env=whole() | environment, stdin=pid,
                stdout=log, stderr=log, start_new_session=True, cwd=self.folder,
                user=user or None, group=user or None,
            )  # fmt: skip
        while process.poll() is None and self.process(name) is None:
            time.sleep(0.01)

    def start_s3(self) -> None:
        data = self.folder / "s3"
        seaweed.prepare(self.settings, data)
        variables = seaweed.environment(self.settings, data)
        self.start("s3", seaweed.command(self.settings, data), variables)

    def start_postgres(self) -> None:
        """Start Postgres; it refuses to run as root, so root starts it as the user `postgres`."""
        data, user = self.folder / "postgres", "postgres" if os.getuid() == 0 else ""
        if not data.is_dir():
            if postgres.temporary(data).exists():
                say("the last start was interrupted in initdb; starting that again")
            postgres.create(data, self.settings["postgres_password"], user)
        command = [
            postgres.program("postgres"), "-D", str(data), "-p", str(self.settings["postgres"]),
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
        auth.write_text(auth_ini(s["mlflow_password"], self.database("mlflow_auth")))
        host = f"127.0.0.1:{s['mlflow']}"
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
            "--port", str(s["mlflow"]), "--workers", "1", "--app-name", "basic-auth",
            "--artifacts-destination", f"s3://{seaweed.BUCKET}/mlflow",
            "--allowed-hosts", f"{host},localhost:{s['mlflow']}",
        ]  # fmt: skip
        self.start("mlflow", command, {
            **self.keys("mlflow"), "MLFLOW_BACKEND_STORE_URI": self.database("mlflow"),
            "MLFLOW_AUTH_CONFIG_PATH": str(auth), "MLFLOW_FLASK_SERVER_SECRET_KEY": s["flask_key"],
            "MLFLOW_CREATE_MODEL_VERSION_SOURCE_VALIDATION_REGEX": SOURCES,
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
        keys = self.keys("steps")
        options = {
            "endpointurl": keys["AWS_ENDPOINT_URL_S3"],
            "access_key_id": keys["AWS_ACCESS_KEY_ID"],
            "secret_access_key": keys["AWS_SECRET_ACCESS_KEY"],
        }
        try:
            bucket = Bucket(f"s3://{seaweed.BUCKET}/store", options)
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
        login = b64encode(f"{ADMIN}:{s['mlflow_password']}".encode()).decode()
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


def _started(stat: str) -> int:
    """When the process of a line of /proc/PID/stat started, in clock ticks after the boot."""
    return int(stat.rpartition(")")[2].split()[19])


def is_free(port: int, *, grpc: bool = True) -> bool:
    """Whether a port of loopback is free, and port + 10000, which SeaweedFS uses for gRPC."""
    try:
        for number in (port, port + 10000) if grpc else (port,):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one just closed is
                probe.bind(("127.0.0.1", number))
    except OSError:
        return False
    return True


def free_ports(count: int) -> list[int]:
    """Free ports on loopback, each with its port + 10000."""
    ports: list[int] = []
    port = 21000 + secrets.randbelow(9000)  # random, so that two stacks rarely try the same ports
    while len(ports) < count:
        port += 1
        if is_free(port):
            ports.append(port)
    return ports


@main.default
def command(
    command: Annotated[
        Literal["up", "down", "exports"],
        means("start the servers, stop them, or print a role's S3 keys"),
    ],
    /,
    *,
    role: Annotated[Literal["admin", "mlflow", "backup"] | None, means("of `exports`")] = None,
    folder: Annotated[Path, means("folder of data, logs and settings")] = FOLDER,
) -> None:
    stack = Stack(folder)
    if (role is None) is (command == "exports"):
        raise ValueError("--role belongs to `exports`, which needs it")
    if command == "down":
        stack.down()
        return
    if command == "up":
        stack.up()
    elif not stack.load():
        raise ValueError(f"{folder}: nothing was started here; run `up` first")
    for name, value in (stack.keys(role) if role else stack.exports()).items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")


if __name__ == "__main__":
    cli.entry_point(main)

"""The servers of the overlay `dev`, started here with the manifests' own commands."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import psutil
import psycopg2
import pytest
import yaml
from botocore.exceptions import ClientError

from pipelines.local import seaweed
from pipelines.local.stack import Stack, free_ports

pytestmark = [pytest.mark.server, pytest.mark.slow]
DEV = Path(__file__).parents[2] / "k8s" / "overlays" / "dev"
KEYS = {
    f"{role}_{kind}": f"{role.lower()}{number}"
    for role in ("ADMIN", "STEPS", "MLFLOW", "BACKUP")
    for number, kind in enumerate(("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"))
}


def pod(name: str) -> dict[str, Any]:
    """The specification of the pod of a stateful set."""
    for item in yaml.safe_load_all((DEV / f"{name}.yaml").read_text()):
        if item["kind"] == "StatefulSet":
            return dict(item["spec"]["template"]["spec"])
    raise AssertionError(name)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[tuple[int, list[psutil.Process]]]:
    """The pod of SeaweedFS: the port of S3 and the processes of its containers."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert weed
    spec, ports = pod("seaweedfs"), free_ports(5)
    (tmp_path / "data").mkdir()
    moved = {
        "/identities/": f"{tmp_path}/", "/policies": str(seaweed.POLICIES), "/tmp/": f"{tmp_path}/",
        "/data": f"{tmp_path}/data", "8333": str(ports[0]), "8888": str(ports[1]),
    }  # fmt: skip

    def here(text: str) -> str:
        return re.sub("|".join(moved), lambda found: moved[found[0]], text)

    (identities,) = spec["initContainers"]
    command = [here(word) for word in identities["command"]]
    subprocess.run(command, env={**os.environ, **KEYS}, check=True)
    more = {
        "store": [f"-filer.port={ports[1]}", f"-master.port={ports[2]}", f"-volume.port={ports[3]}",
                  f"-admin.port={ports[4]}"],
        "s3": [],
    }  # fmt: skip
    running = []
    for container in spec["containers"]:
        command = [weed, *map(here, container["command"][1:]), *more[container["name"]]]
        env = {v["name"]: v["value"] for v in container["env"]}
        with (tmp_path / f"{container['name']}.log").open("wb") as log:
            env = {**os.environ, **env}
            running.append(psutil.Popen(command, env=env, stdout=log, stderr=log, cwd=tmp_path))
    yield ports[0], running
    for process in running:
        process.send_signal(signal.SIGKILL)
        process.wait(30)


def test_only_s3_leaves_the_pod_and_wants_a_key(
    store: tuple[int, list[psutil.Process]],
) -> None:
    """The store's own ports, which have no password, are bound to the pod's loopback."""
    port, running = store

    def client(key: str, secret: str) -> Any:
        return boto3.client(
            "s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1",
            aws_access_key_id=key, aws_secret_access_key=secret,
        )  # fmt: skip

    steps, end = client("steps0", "steps1"), time.monotonic() + 120
    while True:
        try:
            steps.put_object(Bucket="stargan", Key="store/a", Body=b"1")
        except Exception:
            assert time.monotonic() < end
            time.sleep(0.5)
        else:
            break
    with pytest.raises(ClientError, match="AccessDenied"):
        steps.put_object(Bucket="stargan-backup", Key="a", Body=b"1")
    with pytest.raises(ClientError, match=r"SignatureDoesNotMatch|AccessDenied"):
        client("steps0", "other").put_object(Bucket="stargan", Key="store/a", Body=b"1")
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        client("x", "x").put_object(Bucket="stargan", Key="store/a", Body=b"1")
    open_to_all = {
        place.laddr.port
        for process in running
        for place in process.net_connections("tcp")
        if place.status == psutil.CONN_LISTEN and place.laddr.ip not in ("127.0.0.1", "::1")
    }
    assert open_to_all == {port, port + 10000}  # the second is gRPC, which the policy closes


def test_postgres_gives_mlflow_a_role_that_is_no_superuser(stack: Stack, tmp_path: Path) -> None:
    """By the config map's own script; an empty password gives a role that cannot log in."""
    configured = next(yaml.safe_load_all((DEV / "postgres.yaml").read_text()))
    (script,) = configured["data"].values()
    where = {"host": "127.0.0.1", "port": stack.settings["postgres"]}
    login = {**os.environ, "PGHOST": where["host"], "PGPORT": str(where["port"]),
             "PGUSER": "stargan", "PGDATABASE": "postgres",
             "PGPASSWORD": stack.settings["postgres_password"]}  # fmt: skip
    for name, password in (("devflow", "it's one"), ("emptyflow", "")):
        path = tmp_path / "mlflow.sql"
        path.write_text(re.sub(r"\bmlflow(?=\b|_auth)", name, script))
        done = subprocess.run(
            ["psql", "-v", "ON_ERROR_STOP=1", "-f", str(path)], capture_output=True, text=True,
            env=login | {"MLFLOW_PASSWORD": password},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    login = {"user": "devflow", "password": "it's one", **where}
    with psycopg2.connect(dbname="devflow_auth", **login) as one:
        cursor = one.cursor()
        cursor.execute("SELECT rolsuper, rolcreaterole FROM pg_roles WHERE rolname = current_user")
        assert cursor.fetchone() == (False, False)
        cursor.execute("CREATE TABLE own (a int)")
    for password in ("", "x"):
        with pytest.raises(psycopg2.OperationalError):
            psycopg2.connect(dbname="emptyflow", user="emptyflow", password=password, **where)

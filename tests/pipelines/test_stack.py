"""`make stack`: real servers, started once, stopped without side effects, data kept."""

import base64
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import boto3
import psutil
import pytest
from botocore.exceptions import ClientError

from pipelines.local.stack import SERVERS, Stack
from servers import run_stack

READ = (".json", ".ini", ".log", ".pid")
pytestmark = [pytest.mark.server, pytest.mark.slow]


def client(stack: Stack, secret: str = "") -> object:
    given = stack.keys("admin")
    return boto3.client(
        "s3", endpoint_url=given["AWS_ENDPOINT_URL_S3"], region_name="us-east-1",
        aws_access_key_id=given["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=secret or given["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip


def query(
    stack: Stack, method: str, body: object = None, password: str = "", host: str = ""
) -> dict[str, Any]:
    """MLflow's answer; `host` replaces the address in the request's Host header."""
    given = stack.exports()
    word = f"admin:{password or given['MLFLOW_TRACKING_PASSWORD']}".encode()
    request = urllib.request.Request(
        f"{given['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/{method}",
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "Authorization": f"Basic {base64.b64encode(word).decode()}",
            "Content-Type": "application/json",
            **({"Host": host} if host else {}),
        },
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return dict(json.load(answer))


def experiments(stack: Stack, **settings: str) -> int:
    """The status of MLflow's answer."""
    try:
        query(stack, "experiments/search?max_results=1", **settings)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def test_all_three_accept_only_their_passwords(stack: Stack) -> None:
    client(stack).put_object(Bucket="stargan", Key="a", Body=b"1")
    with pytest.raises(ClientError, match=r"SignatureDoesNotMatch|403"):
        client(stack, "wrong").put_object(Bucket="stargan", Key="a", Body=b"1")
    assert (experiments(stack), experiments(stack, password="wrong")) == (200, 401)
    import psycopg2

    where = {"host": "127.0.0.1", "port": stack.settings["postgres"], "user": "stargan"}
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(dbname="mlflow", password="wrong", **where)


def test_mlflow_answers_only_to_its_own_name(stack: Stack) -> None:
    """A page that makes a browser think it is this server (DNS rebinding) gets nothing."""
    own = urlparse(stack.exports()["MLFLOW_TRACKING_URI"]).netloc
    assert [experiments(stack, host=name) for name in (own, "evil.example")] == [200, 403]


def test_no_secret_is_readable_by_others_or_seen_in_the_process_list(stack: Stack) -> None:
    words = [value for name, value in stack.settings.items()
             if not isinstance(value, int) and not name.endswith("access_key_id")]  # fmt: skip
    assert len(words) == 11
    for path in stack.folder.rglob("*"):
        text = path.read_text(errors="replace") if path.suffix in READ and path.is_file() else ""
        if any(word in text for word in words):
            assert path.stat().st_mode & 0o077 == 0, path
            assert path.suffix != ".log"
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        assert not any(word in line for word in words), line


def test_up_again_starts_nothing(stack: Stack) -> None:
    before = {name: stack.process(name) for name in SERVERS}
    printed = run_stack(stack, "up")
    assert {name: stack.process(name) for name in SERVERS} == before
    assert all(f"export {name}={value}" in printed for name, value in stack.exports().items())


@pytest.mark.long
def test_down_and_up_keep_the_data_and_a_killed_server_comes_back(stack: Stack) -> None:
    client(stack).put_object(Bucket="stargan", Key="kept", Body=b"2")
    made = query(stack, "experiments/create", {"name": "kept"})["experiment_id"]
    for name in ("postgres", "mlflow"):
        killed = stack.process(name)
        assert killed
        workers = killed.children(recursive=True)
        killed.kill()
        killed.wait(30)
        run_stack(stack, "up")
        assert not [worker for worker in workers if worker.is_running()]
    run_stack(stack, "down")
    assert all(stack.process(name) is None for name in SERVERS)
    run_stack(stack, "up")
    body = client(stack).get_object(Bucket="stargan", Key="kept")["Body"].read()
    assert body == b"2"
    found = query(stack, "experiments/get-by-name?experiment_name=kept")["experiment"]
    assert found["experiment_id"] == made


def test_down_stops_only_its_own_servers(stack: Stack, tmp_path: Path) -> None:
    """A pid that now belongs to another process is not taken for the server's."""
    other = Stack(tmp_path / "other")
    other.folder.mkdir()
    (other.folder / "settings.json").write_text(json.dumps(stack.settings))
    running = stack.process("s3")
    assert running
    line = (stack.folder / "s3.pid").read_text()
    started = line.rpartition(")")[2].split()[19]
    (other.folder / "s3.pid").write_text(line.replace(f" {started} ", " 1 "))
    run_stack(other, "down")
    assert stack.process("s3") == running

"""What each role may do on the local stack's servers, and that there is no other way in."""

import json
import os
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from pipelines.local import seaweed
from pipelines.local.stack import Stack

pytestmark = [pytest.mark.server, pytest.mark.slow]
SCRIPT = seaweed.POLICIES / "identities.sh"


def client(stack: Stack, role: str) -> Any:
    keys = stack.keys(role)
    return boto3.client(
        "s3", endpoint_url=keys["AWS_ENDPOINT_URL_S3"], region_name="us-east-1",
        aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip


def statuses(stack: Stack, role: str, bucket: str, key: str) -> dict[str, int]:
    """HTTP status of each action of a role on one object, which exists."""
    s3, where = client(stack, role), {"Bucket": bucket, "Key": key}
    client(stack, "admin").put_object(**where, Body=b"1")
    actions = {
        "get": lambda: s3.get_object(**where),
        "put": lambda: s3.put_object(**where, Body=b"2"),
        "list": lambda: s3.list_objects_v2(Bucket=bucket, Prefix=key),
        "upload": lambda: s3.create_multipart_upload(**where),
        "delete": lambda: s3.delete_object(**where),
    }
    found = {}
    for name, action in actions.items():
        try:
            found[name] = action()["ResponseMetadata"]["HTTPStatusCode"] // 100 * 100
        except ClientError as error:
            found[name] = error.response["ResponseMetadata"]["HTTPStatusCode"]
    return found


ALL = {"get": 200, "put": 200, "list": 200, "upload": 200, "delete": 200}
NONE = dict.fromkeys(ALL, 403)
NAMES_ONLY = NONE | {"list": 200}


@pytest.mark.parametrize(
    ("role", "bucket", "key", "expected"),
    [
        ("steps", "stargan", "store/a", ALL),
        ("steps", "stargan", "dvc/files/a", ALL),
        ("steps", "stargan", "mlflow/a", NAMES_ONLY),
        ("steps", "stargan-backup", "backups/a", NONE),
        ("mlflow", "stargan", "mlflow/1/a", ALL),
        ("mlflow", "stargan", "store/a", NONE),
        ("mlflow", "stargan", "dvc/a", NONE),
        ("mlflow", "stargan-backup", "backups/a", NONE),
        ("backup", "stargan-backup", "backups/a", ALL | {"delete": 403}),
        ("backup", "stargan", "mlflow/a", NAMES_ONLY | {"get": 200}),
        ("backup", "stargan", "store/a", NAMES_ONLY),
    ],
)
def test_each_role_may_only_what_it_needs(
    stack: Stack, role: str, bucket: str, key: str, expected: dict[str, int]
) -> None:
    assert statuses(stack, role, bucket, key) == expected


def test_no_role_of_a_server_changes_buckets_or_their_versions(stack: Stack) -> None:
    for role in ("steps", "mlflow", "backup"):
        s3 = client(stack, role)
        for change in (
            lambda s3=s3: s3.create_bucket(Bucket="other"),
            lambda s3=s3: s3.delete_bucket(Bucket="stargan-backup"),
            lambda s3=s3: s3.put_bucket_versioning(
                Bucket="stargan-backup", VersioningConfiguration={"Status": "Suspended"}
            ),
        ):
            with pytest.raises(ClientError, match="AccessDenied"):
                change()


def answer(port: int, path: str, data: bytes | None = None) -> int:
    """Status of a request without credentials."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=data)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_store_has_no_way_in_beside_s3(stack: Stack) -> None:
    """Without credentials: S3, and the HTTP of the filer, the master and the volume server."""
    client(stack, "admin").put_object(Bucket="stargan", Key="store/x", Body=b"1")
    s = stack.settings
    for port, path in (
        (s["s3"], "/stargan/store/planted"), (s["filer"], "/buckets/stargan/store/planted"),
        (s["master"], "/submit"), (s["volume"], "/3,01637037d6"),
    ):  # fmt: skip
        assert answer(port, path, b"x" * 10) in (401, 403, 404, 405), (port, path)
    for port, path in (
        (s["s3"], "/stargan/store/x"), (s["filer"], "/buckets/stargan/store/x"),
        (s["filer"], "/buckets/stargan/?limit=5"), (s["master"], "/dir/assign"),
        (s["master"], "/dir/lookup?fileId=3,01637037d6"), (s["volume"], "/3,01637037d6"),
    ):  # fmt: skip
        assert answer(port, path) in (401, 403, 404), (port, path)
    listed = client(stack, "admin").list_objects_v2(Bucket="stargan", Prefix="store/planted")
    assert listed["KeyCount"] == 0


def greets(port: int, certificate: Path | None) -> bool:
    """Whether the gRPC port answers HTTP/2 to a client with this certificate, or with none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if certificate:
        context.load_cert_chain(certificate / "grpc.crt", certificate / "grpc.key")
    with socket.create_connection(("127.0.0.1", port + 10000), timeout=20) as plain:
        try:
            with context.wrap_socket(plain) as secure:
                secure.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
                return secure.recv(9) != b""
        except OSError:
            return False


@pytest.mark.parametrize("name", ["master", "volume", "filer", "s3"])
def test_grpc_wants_the_stacks_certificate(stack: Stack, name: str) -> None:
    """With it, `weed shell` reads and deletes everything."""
    port = stack.settings[name]
    assert not greets(port, None)
    assert greets(port, stack.folder / "s3")


@pytest.mark.skipif(os.getuid() != 0, reason="no genuine second user without root")
def test_another_user_reads_no_file_of_the_stack(stack: Stack) -> None:
    for folder in (stack.folder, stack.folder / "s3", stack.folder / "postgres"):
        done = subprocess.run(
            ["/usr/bin/env", "ls", str(folder)], capture_output=True, text=True, user=65534,
            group=65534, extra_groups=[], cwd="/",
        )  # fmt: skip
        assert "Permission denied" in done.stderr, (folder, done.stdout)


KEYS = {
    f"{role}_{kind}": f"{role}{kind}x"
    for role in ("ADMIN", "STEPS", "MLFLOW", "BACKUP")
    for kind in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY")
}


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("value", ["", 'a"b', "a\nb"])
def test_the_store_does_not_start_with_an_empty_or_unfit_key(name: str, value: str) -> None:
    """The script of the cluster's init container; without identities anybody may write."""
    done = subprocess.run(
        ["sh", str(SCRIPT), str(seaweed.POLICIES)], env={**os.environ, **KEYS, name: value},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert "an S3 key is empty" in done.stderr or "a character other than" in done.stderr


@pytest.mark.parametrize("name", ["admin_secret_access_key", "mlflow_password", "filer_write"])
def test_the_stack_refuses_an_empty_setting(stack: Stack, tmp_path: Path, name: str) -> None:
    """And starts nothing."""
    (tmp_path / "s").mkdir()
    path = tmp_path / "s" / "settings.json"
    path.write_text(json.dumps(stack.settings | {name: ""}))
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.local.stack", "up", "--folder", str(path.parent)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"settings.json: {name}: empty, so that anybody could write" in done.stderr
    assert not list(path.parent.glob("*.pid"))


@pytest.fixture(scope="module")
def user(stack: Stack) -> str:
    """The Authorization of a user without special rights."""
    query(stack, "users/create", {"username": "plain", "password": "correct horse 1"}, "")
    return f"Basic {b64encode(b'plain:correct horse 1').decode()}"


def query(stack: Stack, method: str, body: object, login: str) -> tuple[int, str]:
    """Status and text of MLflow's answer to this user, or to the administrator."""
    given = stack.exports()
    admin = f"admin:{given['MLFLOW_TRACKING_PASSWORD']}".encode()
    request = urllib.request.Request(
        f"{given['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/{method}", json.dumps(body).encode(),
        {"Content-Type": "application/json",
         "Authorization": login or f"Basic {b64encode(admin).decode()}"},
    )  # fmt: skip
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return int(response.status), response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize(
    "source",
    ["s3://stargan/backups", "s3://stargan-backup/backups", "s3://stargan/store", "file:///etc",
     "/etc", "https://example.com/x", "xmodels:/m-1"],
)  # fmt: skip
def test_a_version_cannot_point_outside_mlflows_store(stack: Stack, user: str, source: str) -> None:
    query(stack, "registered-models/create", {"name": "mal"}, user)
    body = {"name": "mal", "source": source}
    status, text = query(stack, "model-versions/create", body, user)
    assert (status, "Invalid model version source" in text) == (400, True), text


@pytest.mark.parametrize("name", ["artifact_location", "artifactLocation"])
@pytest.mark.parametrize(
    "place", ["s3://stargan/store", "s3://stargan-backup", "file:///etc", "/etc", "etc", "ftp://a"]
)
def test_an_experiment_cannot_keep_its_artifacts_elsewhere(
    stack: Stack, user: str, name: str, place: str
) -> None:
    body = {"name": f"{name} {place}", name: place}
    for sent in (body, json.dumps(body)):  # MLflow reads both
        status, text = query(stack, "experiments/create", sent, user)
        assert status == 400, text
        assert "keeps artifacts in its own store only; leave artifact_location out" in text


def test_an_experiment_of_the_servers_store_is_accepted(stack: Stack, user: str) -> None:
    status, text = query(stack, "experiments/create", {"name": "own"}, user)
    assert status == 200, text
    body = {"experiment_id": json.loads(text)["experiment_id"], "max_results": 1}
    _, found = query(stack, "experiments/search", body, user)
    assert '"artifact_location": "mlflow-artifacts:/' in found

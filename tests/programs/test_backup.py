"""Backup and restore of MLflow's database and artifacts: real Postgres, real S3."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from botocore.exceptions import ClientError

from forks import Forks
from pipelines.local.stack import Stack
from servers import run_stack, started_stack
from training import backup
from training.core.files import sha256_bytes
from training.storage.s3 import Bucket, RemoteError

pytestmark = [pytest.mark.server, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
ARTIFACTS, BACKUP = "s3://stargan/mlflow", "s3://stargan-backup"
OTHER = f"{BACKUP}/other"
KEEPER = "of an ordinary role"  # a password
WRITE = """
import mlflow, os, sys
mlflow.set_experiment("faces")
with mlflow.start_run() as run:
    mlflow.log_metric("score", 0.5)
    mlflow.log_text(sys.argv[1], "note.txt")
print(run.info.run_id)
"""
READ = """
import json, mlflow
runs = mlflow.search_runs(experiment_names=["faces"], output_format="list")
print(json.dumps({r.info.run_id: [r.data.metrics["score"], mlflow.artifacts.load_text(
    f"{r.info.artifact_uri}/note.txt")] for r in runs}))
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """One of these tests' own: they lose its data."""
    with started_stack() as made:
        yield made


def client(forks: Forks, stack: Stack, code: str, *arguments: str) -> str:
    """The output of a program that uses the MLflow server."""
    line = [sys.executable, "-c", code, *arguments]
    status, output = forks.run(line, env={**os.environ, **stack.exports()})
    assert status == 0, output[-3000:]
    return output.strip().splitlines()[-1]


def address(stack: Stack, name: str) -> str:
    return stack.database(name).replace("+psycopg2", "")


def use(monkeypatch: pytest.MonkeyPatch, stack: Stack, role: str) -> None:
    """This process has the S3 keys of a role."""
    for name, value in stack.keys(role).items():
        monkeypatch.setenv(name, value)


def shell(stack: Stack, command: str, dumps: Path, user: str = "stargan") -> None:
    """Run a command of the CronJob or of the guide, its /dump being `dumps`."""
    programs = ":".join(map(str, Path("/usr/lib/postgresql").glob("*/bin")))  # as Debian has them
    services = dumps.with_name("pg_service.conf")
    login = f"host=127.0.0.1\nport={stack.settings['postgres']}\nuser={user}\npassword="
    login += KEEPER if user == "keeper" else stack.settings["postgres_password"]
    services.write_text(f"[mlflow]\ndbname=mlflow\n{login}\n[auth]\ndbname=mlflow_auth\n{login}\n")
    names = {"PGSERVICEFILE": str(services)}
    done = subprocess.run(
        ["sh", "-ec", command.replace("/dump/", f"{dumps}/")], capture_output=True, text=True,
        env={**os.environ, **names, "PATH": f"{programs}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def nightly() -> str:
    """The command that the CronJob runs in Postgres' image."""
    job = yaml.safe_load((ROOT / "k8s" / "base" / "backup.yaml").read_text())
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["initContainers"]
    return str(container["command"][-1])


def restoring() -> str:
    """The guide's command to restore the dumps."""
    lines = (ROOT / "docs" / "operate.md").read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("pg_restore"))


def empty_databases(stack: Stack) -> None:
    """As for a restore: the two databases, new, of a role that is no superuser."""
    connection = stack.connect_postgres()
    with connection.cursor() as cursor:
        cursor.execute("CREATE ROLE keeper LOGIN PASSWORD %s", [KEEPER])
        for name in ("mlflow", "mlflow_auth"):
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
            cursor.execute(f"CREATE DATABASE {name} OWNER keeper")
    connection.close()


def test_a_restored_backup_is_consistent(
    forks: Forks, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two backups share their artifacts; the second, restored, has both runs and nothing later."""
    use(monkeypatch, stack, "backup")
    seconds = iter(["20260101T000000Z", "20260101T000001Z"])
    clock = SimpleNamespace(strftime=lambda *_: next(seconds), gmtime=time.gmtime)
    monkeypatch.setattr(backup, "time", clock)  # two backups in one second have one name
    names = []
    for word in ("first", "second"):
        client(forks, stack, WRITE, word)
        (tmp_path / word).mkdir()
        shell(stack, nightly(), tmp_path / word)
        names.append(backup.save(tmp_path / word, ARTIFACTS, BACKUP))
    expected = json.loads(client(forks, stack, READ))
    assert len(expected) == 2
    client(forks, stack, WRITE, "after the backup")

    server = stack.process("mlflow")
    assert server
    server.terminate()
    server.wait(60)
    empty_databases(stack)
    use(monkeypatch, stack, "admin")
    Bucket(ARTIFACTS).delete("")
    assert backup.latest(BACKUP) == names[1].partition("@")[0]
    backup.load(BACKUP, names[1], tmp_path / "back", ARTIFACTS)
    shell(stack, restoring(), tmp_path / "back", user="keeper")
    run_stack(stack, "up")
    assert json.loads(client(forks, stack, READ)) == expected


def test_an_incomplete_backup_is_ignored(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, stack, "backup")
    bucket = Bucket(f"{BACKUP}/broken")
    bucket.create("backups/29990101T000000Z/mlflow.dump", b"half")
    with pytest.raises(ValueError, match="no backup there"):
        backup.latest(f"{BACKUP}/broken")


def test_a_protected_bucket_keeps_what_is_overwritten_and_expires_old_backups(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backup's own key can neither delete nor destroy; only the administrator protects."""
    use(monkeypatch, stack, "backup")
    with pytest.raises(RemoteError, match="credentials are refused"):
        backup.protect(BACKUP)
    use(monkeypatch, stack, "admin")
    assert "backups/ expires after 30 days" in backup.protect(BACKUP, days=30)
    use(monkeypatch, stack, "backup")
    client, where = Bucket(BACKUP).client, {"Bucket": "stargan-backup", "Key": "backups/v"}
    first = client.put_object(**where, Body=b"first")["VersionId"]
    client.put_object(**where, Body=b"second")
    use(monkeypatch, stack, "admin")
    admin = Bucket(BACKUP).client
    assert admin.get_object(**where, VersionId=first)["Body"].read() == b"first"
    (rule,) = admin.get_bucket_lifecycle_configuration(Bucket="stargan-backup")["Rules"]
    assert rule["Expiration"]["Days"] == 30
    for version in ({}, {"VersionId": first}):
        with pytest.raises(ClientError, match="AccessDenied"):
            client.delete_object(**where, **version)


@pytest.fixture
def saved(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backup of one dump in OTHER: NAME@sha256:DIGEST."""
    use(monkeypatch, stack, "backup")
    (tmp_path / "dumps").mkdir()
    (tmp_path / "dumps" / "mlflow.dump").write_bytes(b"rows")
    seconds = f"{time.time_ns()}"
    clock = SimpleNamespace(strftime=lambda *_: seconds, gmtime=time.gmtime)
    monkeypatch.setattr(backup, "time", clock)
    return backup.save(tmp_path / "dumps", ARTIFACTS, OTHER)


def put(name: str, body: bytes) -> None:
    """Replace an object of a backup, as whoever has the bucket's key can."""
    bucket = Bucket(OTHER)
    key = f"{bucket.prefix}backups/{name}"
    bucket.client.put_object(Bucket="stargan-backup", Key=key, Body=body)


def test_an_altered_dump_is_refused(saved: str, tmp_path: Path) -> None:
    put(f"{saved.partition('@')[0]}/mlflow.dump", b"rowz")
    with pytest.raises(RemoteError, match="altered; restore another backup"):
        backup.load(OTHER, saved, tmp_path / "back", ARTIFACTS)
    assert not any((tmp_path / "back").iterdir())


def test_a_replaced_dump_and_manifest_are_noticed_by_the_noted_digest(
    saved: str, tmp_path: Path
) -> None:
    name, target = saved.partition("@")[0], OTHER
    manifest = {"files": {"mlflow.dump": sha256_bytes(b"rowz")}, "artifacts": {}}
    put(f"{name}/mlflow.dump", b"rowz")
    put(f"{name}/manifest.json", json.dumps(manifest).encode())
    text = backup.load(target, name, tmp_path / "plain", ARTIFACTS)
    assert text.startswith(f"{name} (not compared with a digest from elsewhere): next, pg_restore")
    with pytest.raises(RemoteError, match=r"manifest\.json: altered; restore another backup"):
        backup.load(target, saved, tmp_path / "back", ARTIFACTS)
    with pytest.raises(ValueError, match="plain: not empty; give a new folder"):
        backup.load(target, name, tmp_path / "plain", ARTIFACTS)


DIGEST = sha256_bytes(b"rows")
DAMAGED = [
    {"files": {"../escaped": DIGEST}, "artifacts": {}},
    {"files": {"/tmp/escaped": DIGEST}, "artifacts": {}},
    {"files": {"a/b": DIGEST}, "artifacts": {}},
    {"files": {"x": 1}, "artifacts": {}},
    {"files": {}},
    {"files": [], "artifacts": {}},
    {"files": {}, "artifacts": {"a": "b"}},
    None,
    [],
]


def test_a_damaged_manifest_is_refused_and_nothing_is_written(saved: str, tmp_path: Path) -> None:
    """Names that lead out of the folder, other types, no JSON, deep nesting."""
    name = saved.partition("@")[0]
    for number, text in enumerate([*map(json.dumps, DAMAGED), "{", "[" * 100_000]):
        put(f"{name}/manifest.json", text.encode())
        with pytest.raises(RemoteError, match=rf"^s3://.*{name}/manifest\.json: .*another"):
            backup.load(OTHER, name, tmp_path / f"{number}", ARTIFACTS)
        assert not (tmp_path / f"{number}").exists()


def test_saving_without_a_dump_is_refused(stack: Stack, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no dump in it; run pg_dump first"):
        backup.save(tmp_path, ARTIFACTS, f"{BACKUP}/other")

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


@pytest.mark.long
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


def test_the_buckets_other_rules_stay(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of another folder of backups; its own, also of an earlier name, is replaced."""
    use(monkeypatch, stack, "admin")
    client = Bucket(BACKUP).client
    theirs = {"ID": "logs", "Status": "Enabled", "Filter": {"Prefix": "logs/"},
              "Expiration": {"Days": 3}}  # fmt: skip
    first = {**theirs, "ID": "expire", "Filter": {"Prefix": "backups/"}}
    client.put_bucket_lifecycle_configuration(
        Bucket="stargan-backup", LifecycleConfiguration={"Rules": [theirs, first]}
    )
    for target, days in ((BACKUP, 90), (OTHER, 60), (BACKUP, 30)):
        backup.protect(target, days=days)
    rules = client.get_bucket_lifecycle_configuration(Bucket="stargan-backup")["Rules"]
    assert {(one["Filter"]["Prefix"], one["Expiration"]["Days"]) for one in rules} == {
        ("logs/", 3), ("other/backups/", 60), ("backups/", 30)
    }  # fmt: skip
    assert len(rules) == 3


@pytest.fixture
def saved(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backup of one dump in OTHER: NAME@sha256:DIGEST."""
    return save(stack, tmp_path, monkeypatch)


def save(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    use(monkeypatch, stack, "backup")
    (tmp_path / "dumps").mkdir(exist_ok=True)
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


def test_a_folder_with_another_backups_dumps_is_refused(saved: str, tmp_path: Path) -> None:
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "mlflow.dump").write_bytes(b"other rows")
    with pytest.raises(ValueError, match=r"back: not empty \(mlflow.dump is not of .*a new folder"):
        backup.load(OTHER, saved, tmp_path / "back", ARTIFACTS)
    assert (tmp_path / "back" / "mlflow.dump").read_bytes() == b"other rows"


def write(stack: Stack, monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    """Write one artifact as MLflow does."""
    use(monkeypatch, stack, "mlflow")
    Bucket(ARTIFACTS).client.put_object(Bucket="stargan", Key="mlflow/verdict.json", Body=body)


def restored(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, name: str, dumps: Path
) -> tuple[bytes, str]:
    """That artifact after a load, and what the load says."""
    use(monkeypatch, stack, "admin")
    said = backup.load(OTHER, name, dumps, ARTIFACTS)
    return Bucket(ARTIFACTS).read("verdict.json"), said


def test_an_artifact_that_was_overwritten_is_copied_again(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by as many bytes; an earlier backup has it as the latest one has, and says so."""
    write(stack, monkeypatch, b"not promoted")
    time.sleep(1.1)  # times are whole seconds: what is written in a copy's second is copied again
    first = save(stack, tmp_path, monkeypatch)
    before = Bucket(OTHER).listing("artifacts/")
    time.sleep(1.1)
    save(stack, tmp_path, monkeypatch)
    assert Bucket(OTHER).listing("artifacts/") == before
    write(stack, monkeypatch, b"now promoted")
    second = save(stack, tmp_path, monkeypatch)
    write(stack, monkeypatch, b"not any more")
    body, said = restored(stack, monkeypatch, second, tmp_path / "second")
    assert (body, "another size" in said) == (b"now promoted", False)
    write(stack, monkeypatch, b"promoted")
    save(stack, tmp_path, monkeypatch)
    body, said = restored(stack, monkeypatch, first, tmp_path / "first")
    assert body == b"promoted"
    assert "(1 artifacts have another size, from a later backup)" in said


def test_a_missing_artifact_is_named_before_anything_is_written(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(stack, monkeypatch, b"promoted")
    name = save(stack, tmp_path, monkeypatch)
    use(monkeypatch, stack, "admin")
    Bucket(OTHER).delete("artifacts/verdict.json")
    count = len(Bucket(ARTIFACTS).listing(""))
    with pytest.raises(
        RemoteError, match=rf"/verdict\.json: missing, as 1 of {count} are; restore"
    ):
        backup.load(OTHER, name, tmp_path / "back", ARTIFACTS)
    assert not (tmp_path / "back").exists()
    said = backup.load(OTHER, name, tmp_path / "back", ARTIFACTS, without_missing=True)
    assert "(1 artifacts are missing, such as verdict.json)" in said
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["mlflow.dump"]


def test_what_was_restored_is_not_copied_again(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by the same load again nor into the next backup; large objects, too."""
    write(stack, monkeypatch, b"promoted")
    large = os.urandom(9 << 20)  # in more than one part
    Bucket(ARTIFACTS).client.put_object(Bucket="stargan", Key="mlflow/weights", Body=large)
    name = save(stack, tmp_path, monkeypatch)
    use(monkeypatch, stack, "admin")
    Bucket(ARTIFACTS).delete("")
    restored(stack, monkeypatch, name, tmp_path / "back")
    assert Bucket(ARTIFACTS).read("weights") == large
    copied: list[str] = []
    monkeypatch.setattr(Bucket, "copy", lambda _, key, *__: copied.append(key))
    restored(stack, monkeypatch, name, tmp_path / "back")
    save(stack, tmp_path, monkeypatch)
    assert copied == []


def test_a_load_that_was_killed_is_repeated(
    saved: str, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once while it downloaded the dump, once while it copied artifacts."""
    part, dump = tmp_path / "back" / ".load.killed.tmp", tmp_path / "back" / "mlflow.dump"
    part.mkdir(parents=True)
    (part / "mlflow.dump").write_bytes(b"ro")
    use(monkeypatch, stack, "admin")

    class Killed(BaseException):
        pass

    def copy(*_: object) -> None:
        raise Killed

    write(stack, monkeypatch, b"changed, so that it is copied")
    use(monkeypatch, stack, "admin")
    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "copy", copy)
        with pytest.raises(Killed):
            backup.load(OTHER, saved, dump.parent, ARTIFACTS)
    before = dump.stat().st_mtime_ns
    backup.load(OTHER, saved, dump.parent, ARTIFACTS)
    assert dump.read_bytes() == b"rows"
    assert dump.stat().st_mtime_ns == before
    assert [*dump.parent.iterdir()] == [dump]


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

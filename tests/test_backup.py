"""MLflow's database and artifacts, saved, lost and brought back: real Postgres, real S3."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psycopg2
import pytest

from pipelines.stack import Stack, _postgres
from training import backup
from training.s3 import Bucket, RemoteError

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(600)]
ARTIFACTS = "s3://stargan/mlflow"
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


def client(stack: Stack, code: str, *arguments: str) -> str:
    """What a program says that speaks to the MLflow server."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env={**os.environ, **stack.exports()},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


def postgres(stack: Stack, program: str, *arguments: str) -> None:
    address = stack.database("mlflow").replace("+psycopg2", "")
    done = subprocess.run(
        [_postgres(program), *arguments, "--dbname", address], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_what_was_lost_comes_back_and_agrees(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two backups share their artifacts; the second, restored, has both runs and nothing later."""
    for name, value in stack.exports().items():
        monkeypatch.setenv(name, value)
    Bucket("s3://stargan").client.create_bucket(Bucket="backup")
    names = []
    for word in ("first", "second"):
        client(stack, WRITE, word)
        (tmp_path / word).mkdir()
        dump = tmp_path / word / "mlflow.dump"
        postgres(stack, "pg_dump", "--format=custom", "--file", str(dump))
        names.append(backup.save(tmp_path / word, ARTIFACTS, "s3://backup/faces"))
        time.sleep(1.1)  # names are seconds
    expected = json.loads(client(stack, READ))
    assert len(expected) == 2
    client(stack, WRITE, "after the backup")

    with psycopg2.connect(stack.database("mlflow").replace("+psycopg2", "")) as connection:
        connection.cursor().execute("DELETE FROM metrics; DELETE FROM latest_metrics")
    Bucket(ARTIFACTS).delete("")
    assert backup.latest("s3://backup/faces") == names[1]
    backup.load("s3://backup/faces", names[1], tmp_path / "back", ARTIFACTS)
    postgres(stack, "pg_restore", "--clean", "--if-exists", str(tmp_path / "back" / "mlflow.dump"))
    assert json.loads(client(stack, READ)) == expected


def test_a_backup_without_its_end_is_none(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in stack.exports().items():
        monkeypatch.setenv(name, value)
    bucket = Bucket("s3://stargan/broken")
    bucket.create("backups/29990101T000000Z/mlflow.dump", b"half")
    with pytest.raises(ValueError, match="no backup there"):
        backup.latest("s3://stargan/broken")


def test_an_altered_dump_is_refused(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in stack.exports().items():
        monkeypatch.setenv(name, value)
    (tmp_path / "dumps").mkdir()
    (tmp_path / "dumps" / "mlflow.dump").write_bytes(b"rows")
    name = backup.save(tmp_path / "dumps", ARTIFACTS, "s3://stargan/other")
    bucket = Bucket("s3://stargan/other")
    key = f"{bucket.prefix}backups/{name}/mlflow.dump"
    bucket.client.put_object(Bucket="stargan", Key=key, Body=b"rowz")
    with pytest.raises(RemoteError, match="altered; take another"):
        backup.load("s3://stargan/other", name, tmp_path / "back", ARTIFACTS)


def test_nothing_to_save_is_said(stack: Stack, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no dump in it; run pg_dump first"):
        backup.save(tmp_path, ARTIFACTS, "s3://stargan/other")

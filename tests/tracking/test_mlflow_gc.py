"""The cron job `mlflow-gc`: its own command on the real Postgres, S3 and MLflow of `make stack`."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from forks import Forks
from pipelines.local.stack import Stack
from training.storage.s3 import Bucket

GC = Path(__file__).parents[2] / "k8s" / "base" / "gc.yaml"
pytestmark = [pytest.mark.server, pytest.mark.slow]
WRITE = """
import sys
from mlflow import MlflowClient
api = MlflowClient()
found = api.create_experiment("gc")
runs = [api.create_run(found).info.run_id for _ in range(2)]
for run in runs:
    api.log_text(run, "a note", "note.txt")
api.delete_run(runs[1])
print(*runs)
"""
READ = """
import sys
from mlflow import MlflowClient
from mlflow.entities import ViewType
api = MlflowClient()
found = api.get_experiment_by_name("gc").experiment_id
print(*sorted(r.info.run_id for r in api.search_runs([found], run_view_type=ViewType.ALL)))
"""


@pytest.mark.long
def test_the_cron_jobs_command_removes_what_was_deleted_long_ago(
    stack: Stack, forks: Forks, tmp_path: Path
) -> None:
    """Of a deleted run record and artifacts, once its time has passed; nothing of another one."""
    job = yaml.safe_load(GC.read_text())["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = job["containers"]
    program, *words = container["command"]
    services = tmp_path / "pg_service.conf"
    services.write_text(
        f"[mlflow]\ndbname=mlflow\nhost=127.0.0.1\nport={stack.settings['postgres']}\n"
        f"user=stargan\npassword={stack.settings['postgres_password']}\n"
    )
    login = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    environment = {name: stack.exports()[name] for name in login}  # of the two `envFrom`
    environment |= {e["name"]: e["value"] for e in container["env"]}
    environment |= {"PGSERVICEFILE": str(services), "PATH": os.environ["PATH"],
                    "HOME": str(tmp_path)}  # fmt: skip

    def client(code: str) -> list[str]:
        env = {**os.environ, **stack.exports()}
        status, output = forks.run([sys.executable, "-c", code], tmp_path, env)
        assert status == 0, output
        return output.splitlines()[-1].split()

    def collect(*given: str) -> list[str]:
        command = [sys.executable, "-W", "ignore", "-m", program, *given]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return client(READ)

    kept, deleted = client(WRITE)
    assert collect(*words) == sorted([kept, deleted])  # deleted just now: 30 days are left
    time.sleep(1.1)
    assert collect(*(word.replace("30d", "1s") for word in words)) == [kept]
    notes = [key for key in stack_objects(stack) if key.endswith("note.txt")]
    assert [key for key in notes if deleted in key] == []
    assert [key for key in notes if kept in key]


def stack_objects(stack: Stack) -> list[str]:
    """The keys of MLflow's artifacts in the stack's S3."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in stack.keys("mlflow").items():
            patch.setenv(name, value)
        return [*Bucket("s3://stargan/mlflow").listing("")]

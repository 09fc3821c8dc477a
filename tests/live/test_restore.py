"""The nightly backup on a real cluster, and its restore into an empty namespace."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterruns import Followed, python, released
from deployment import deployment, ready
from kubectl import Kubectl, eventually
from servers import S3Server
from training.core.files import sha256_file
from trial import Address, Trial, nightly, restoring, second

pytestmark = pytest.mark.live
BUCKET = "stargan-backup"
SAVED = re.compile(r"^(\w+)@sha256:[0-9a-f]{64}$", re.MULTILINE)


def ended(kubectl: Kubectl, job: str, within: float) -> None:
    """Wait until a job has succeeded; the test fails with its log if it has not."""

    def state() -> Any:
        return (kubectl.get("job", job) or {}).get("status", {}).get("conditions")

    def over() -> list[str]:
        return [one["type"] for one in state() or () if one["status"] == "True"]

    eventually(lambda: {"Complete", "Failed"} & set(over()), within, f"the job {job} ends")
    if "Complete" not in over():
        pytest.fail(kubectl("logs", f"job/{job}", "--all-containers", "--tail=50"))


@pytest.fixture
def backup(kubectl: Kubectl, trial: Trial, promoted: Followed, name: str) -> Iterator[str]:
    """NAME@sha256:DIGEST of a backup that the CronJob has made now."""
    kubectl("create", "job", name, "--from=cronjob/backup")
    try:
        ended(kubectl, name, trial.ready)
        (found,) = SAVED.finditer(kubectl("logs", f"job/{name}", "--container=save"))
        yield found[0]
    finally:
        kubectl("delete", "job", name)


@pytest.fixture
def empty(
    kubectl: Kubectl, trial: Trial, deployed: bool, api: Address, name: str
) -> Iterator[Kubectl]:
    """A namespace of its own with the overlay's servers, without data; MLflow is stopped."""
    other = Kubectl(f"{name}-restore")
    with deployment(other, second(trial, api, other.namespace), dict(os.environ)):
        ready(other, trial.ready, "statefulset/postgres", "statefulset/seaweedfs")
        yield other


def storage(kubectl: Kubectl, address: str) -> Any:
    """A client of a namespace's S3 with the administrator's key."""
    key = kubectl.secret("admin-s3")
    return S3Server(address, key["AWS_ACCESS_KEY_ID"], key["AWS_SECRET_ACCESS_KEY"]).client()


def carried(source: Kubectl, target: Kubectl, backup: str) -> None:
    """Copy a backup between two namespaces' S3, which do not reach each other."""
    with source.forward("service/seaweedfs", 8333) as one, \
            target.forward("service/seaweedfs", 8333) as other:  # fmt: skip
        old, new = storage(source, one), storage(target, other)
        for prefix in ("artifacts/", f"backups/{backup.partition('@')[0]}/"):
            pages = old.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
            for key in [item["Key"] for page in pages for item in page.get("Contents", ())]:
                body = old.get_object(Bucket=BUCKET, Key=key)["Body"].read()
                new.put_object(Bucket=BUCKET, Key=key, Body=body)


def registered(env: dict[str, str], name: str, folder: Path) -> tuple[list[str], dict[str, str]]:
    """A model's versions and the changes of its alias; the SHA-256 of its champion's files."""
    lines = released(env, "show", name) + released(env, "history", name)
    options = ["--no-data", "--out", str(folder)]
    code, text = python(env, "-m", "training.release", "verify", f"{name}@champion", *options)
    assert code == 0, text
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return lines, {str(p.relative_to(folder)): sha256_file(p) for p in files}


def test_a_restored_backup_has_versions_alias_and_weights(
    kubectl: Kubectl, trial: Trial, env: dict[str, str], backup: str, empty: Kubectl, name: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    before = registered(env, name, tmp_path / "before")
    carried(kubectl, empty, backup)
    cronjob = kubectl.get("cronjob", "backup") or nightly()
    empty.apply(restoring(cronjob, name, backup))
    ended(empty, name, trial.ready)
    empty("scale", "deployment/mlflow", "--replicas=1")
    ready(empty, trial.ready, "deployment/mlflow")
    with empty.forward("service/mlflow", 5000) as address:  # its users are restored, too
        after = registered({**env, "MLFLOW_TRACKING_URI": address}, name, tmp_path / "after")
    assert after == before
    assert any(" @champion " in line for line in before[0])
    assert any(path.endswith("G.safetensors") for path in after[1])

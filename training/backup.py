"""Back up and restore MLflow's artifacts together with a consistent dump of its database.

    pg_dump --format=custom --file /dump/mlflow.dump service=mlflow
    python -m training.backup save /dump s3://stargan/mlflow s3://stargan-backup
    python -m training.backup load s3://stargan-backup LATEST /dump s3://stargan/mlflow
    pg_restore --no-owner --exit-on-error --dbname service=mlflow /dump/mlflow.dump
    python -m training.backup protect s3://stargan-backup --days 90     (once, as administrator)

The database is dumped first: artifacts are only ever added, so that all those that the dump refers
to are copied after it. Artifacts are stored once for all backups; `backups/<time>/manifest.json` is
written last, and a backup without one is ignored.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from training.core import cli
from training.core.cli import means
from training.core.config import Positive
from training.core.entries import check_name, inside
from training.core.files import sha256_bytes, sha256_file
from training.core.records import parse_record
from training.core.references import split_digest, with_digest
from training.storage.s3 import Bucket, RemoteError, explained

main = cli.program("python -m training.backup", __doc__)
Artifacts = Annotated[str, means("s3://… of MLflow's artifacts")]
Target = Annotated[str, means("s3://… of the backups")]


@main.command
def save(
    dumps: Annotated[Path, means("folder with the dumps")], artifacts: Artifacts, target: Target, /
) -> str:
    """Copy the files in `dumps` and every object below `artifacts`; returns NAME@sha256:DIGEST.

    The digest is that of the backup's manifest. Noted in another place than `target`, it lets
    `load` notice a backup that somebody with access to `target` has replaced.

    Raises ValueError if there is no dump, RemoteError if a server fails.
    """
    source, backup = Bucket(artifacts), Bucket(target)
    files = sorted(path for path in dumps.iterdir() if path.is_file() and path.stat().st_size)
    if not files:
        raise ValueError(f"{dumps}: no dump in it; run pg_dump first")
    name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    have, sizes = backup.objects("artifacts/"), source.objects("")
    for key, size in sizes.items():
        if have.get(f"artifacts/{key}") != size:
            backup.copy(f"artifacts/{key}", source, key)
    digests = {path.name: sha256_file(path) for path in files}
    for path in files:
        backup.upload(f"backups/{name}/{path.name}", path, digests[path.name])
    text = json.dumps({"files": digests, "artifacts": sizes}, sort_keys=True).encode()
    if not backup.create(f"backups/{name}/manifest.json", text):
        raise ValueError(f"{target}/backups/{name}: exists already; run it again")
    return with_digest(name, sha256_bytes(text))


def latest(target: str) -> str:
    """The newest complete backup. Raises ValueError if there is none."""
    backup = Bucket(target)
    for name in sorted(backup.folders("backups/"), reverse=True):
        if backup.size(f"backups/{name}/manifest.json") is not None:
            return name
    raise ValueError(f"{target}: no backup there; run save first")


@main.command
def load(
    target: Target,
    name: Annotated[str, means("NAME, or NAME@sha256:DIGEST as save printed it, or LATEST")],
    dumps: Annotated[Path, means("empty folder for its dumps")],
    artifacts: Artifacts,
    /,
) -> str:
    """Restore a backup: its dumps into `dumps`, its artifacts to `artifacts`; returns what is next.

    Without a DIGEST the dumps are compared only with the manifest beside them, which finds damage
    but no deliberate change. Raises RemoteError if a file is missing or altered, ValueError if
    `dumps` is not empty.
    """
    backup, source = Bucket(target), Bucket(artifacts)
    name, expected = split_digest(latest(target) if name == "LATEST" else name)
    where = f"{target}/backups/{name}"
    text = backup.read(f"backups/{name}/manifest.json")
    if expected and sha256_bytes(text) != expected:
        raise RemoteError("corrupted", f"{where}/manifest.json: altered; restore another backup")
    manifest = _parse(text, f"{where}/manifest.json")
    dumps.mkdir(parents=True, exist_ok=True)
    if any(dumps.iterdir()):
        raise ValueError(f"{dumps}: not empty; give a new folder")
    for file, digest in manifest.files.items():
        path = inside(dumps, file)
        backup.download(f"backups/{name}/{file}", path)
        if sha256_file(path) != digest:
            path.unlink()
            raise RemoteError("corrupted", f"{where}/{file}: altered; restore another backup")
    have = source.objects("")
    for key, size in manifest.artifacts.items():
        if have.get(key) != size:
            source.copy(key, backup, f"artifacts/{key}")
    note = "" if expected else " (not compared with a digest from elsewhere)"
    return f"{name}{note}: next, pg_restore the dumps in {dumps}"


@dataclass(frozen=True)
class _Manifest:
    files: dict[str, str]  # name -> SHA-256 of the dumps
    artifacts: dict[str, int]  # key -> size


def _parse(text: bytes, where: str) -> _Manifest:
    """A backup's manifest. Raises RemoteError if it is damaged or names files elsewhere."""
    try:
        manifest = parse_record(_Manifest, text, "damaged")
        if odd := [name for name in manifest.files if "/" in check_name(name)]:
            raise ValueError(f"{odd[0]!r}: dumps are not in folders")
    except ValueError as error:
        message = f"{where}: {error}; restore another backup"
        raise RemoteError("corrupted", message) from error
    return manifest


@main.command
def protect(
    target: Target,
    /,
    *,
    days: Annotated[Positive, means("days that an old backup is kept")] = 90,
) -> str:
    """Keep overwritten backups as versions, and let old ones expire; returns what was set.

    Needs an administrator's key. Raises RemoteError if the server refuses.
    """
    backup = Bucket(target)
    where, text = {"Bucket": backup.name}, f"{target}: set versioning and expiry"
    rules = [
        {
            "ID": "expire", "Status": "Enabled", "Filter": {"Prefix": f"{backup.prefix}backups/"},
            "Expiration": {"Days": days}, "NoncurrentVersionExpiration": {"NoncurrentDays": days},
        }
    ]  # fmt: skip
    with explained(text):
        backup.client.put_bucket_versioning(**where, VersioningConfiguration={"Status": "Enabled"})
        backup.client.put_bucket_lifecycle_configuration(
            **where, LifecycleConfiguration={"Rules": rules}
        )
    return (
        f"{target}: versions are kept, backups/ expires after {days} days; artifacts/, which all "
        "backups share, does not"
    )


if __name__ == "__main__":
    cli.entry_point(main)

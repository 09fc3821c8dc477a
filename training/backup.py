"""Back up and restore MLflow's artifacts together with a consistent dump of its database.

    pg_dump --format=custom --file /dump/mlflow.dump service=mlflow
    python -m training.backup save /dump s3://stargan/mlflow s3://stargan-backup
    python -m training.backup load s3://stargan-backup LATEST /dump s3://stargan/mlflow
    pg_restore --no-owner --exit-on-error --dbname service=mlflow /dump/mlflow.dump
    python -m training.backup protect s3://stargan-backup --days 90     (once, as administrator)

The database is dumped first, so that all artifacts that the dump refers to are copied after it.
Artifacts are stored once for all backups, as the latest one found them: few are ever overwritten,
such as the verdict of a version that is judged again. An object is copied unless one of its size is
there that is newer or has its ETag, as after `load`. `backups/<time>/manifest.json` is written
last, and a backup without one is ignored.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from training.core import cli
from training.core.cli import means
from training.core.config import Positive
from training.core.entries import check_name, inside
from training.core.files import rename, sha256_bytes, sha256_file
from training.core.records import parse_record
from training.core.references import split_digest, with_digest
from training.core.temporary import temporary_folder
from training.storage.s3 import Bucket, Listed, RemoteError, explained

main = cli.program("python -m training.backup", __doc__)
Artifacts = Annotated[str, means("s3://… of MLflow's artifacts")]
PART = ".load."  # begins the folder in which a dump is downloaded
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
    have, found = backup.listing("artifacts/"), source.listing("")
    for key, one in found.items():
        if not _copied(one, have.get(f"artifacts/{key}")):
            backup.copy(f"artifacts/{key}", source, key)
    digests = {path.name: sha256_file(path) for path in files}
    for path in files:
        backup.upload(f"backups/{name}/{path.name}", path, digests[path.name])
    sizes = {key: one.size for key, one in found.items()}
    text = json.dumps({"files": digests, "artifacts": sizes}, sort_keys=True).encode()
    if not backup.create(f"backups/{name}/manifest.json", text):
        raise ValueError(f"{target}/backups/{name}: exists already; run it again")
    return with_digest(name, sha256_bytes(text))


def _copied(one: Listed, copy: Listed | None) -> bool:
    """Whether `copy` has the bytes of `one`. Times are whole seconds: of one second may differ."""
    if copy is None or copy.size != one.size:
        return False
    return one.written < copy.written or one.etag == copy.etag


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
    dumps: Annotated[Path, means("empty folder for its dumps, or that of a stopped load")],
    artifacts: Artifacts,
    /,
    *,
    without_missing: Annotated[
        bool, means("restore the rest if artifacts are missing, as those of forgotten people are")
    ] = False,
) -> str:
    """Restore a backup: its dumps into `dumps`, its artifacts to `artifacts`; returns what is next.

    Artifacts that were overwritten later are restored as the latest backup has them; the text says
    how many have another size. Without a DIGEST the dumps are compared only with the manifest
    beside them, which finds damage but no deliberate change. Stopped, the same command goes on.
    Raises RemoteError if an artifact is missing, before anything is written, or a dump is missing
    or altered, and ValueError if `dumps` has other files than this backup's.
    """
    backup, source = Bucket(target), Bucket(artifacts)
    name, expected = split_digest(latest(target) if name == "LATEST" else name)
    where = f"{target}/backups/{name}"
    text = backup.read(f"backups/{name}/manifest.json")
    if expected and sha256_bytes(text) != expected:
        raise RemoteError("corrupted", f"{where}/manifest.json: altered; restore another backup")
    manifest = _parse(text, f"{where}/manifest.json")
    stored = backup.listing("artifacts/")
    lost = [key for key in manifest.artifacts if f"artifacts/{key}" not in stored]
    if lost and not without_missing:
        share = f"{len(lost)} of {len(manifest.artifacts)}"
        raise RemoteError(
            "missing-object",
            f"{target}/artifacts/{lost[0]}: missing, as {share} are; restore another backup, or "
            "the rest of this one with --without-missing",
        )
    _load_dumps(backup, name, manifest, dumps)
    have, other = source.listing(""), 0
    for key in sorted(manifest.artifacts.keys() - lost):
        copy = stored[f"artifacts/{key}"]
        other += copy.size != manifest.artifacts[key]
        if key not in have or not _copied(have[key], copy):
            source.copy(key, backup, f"artifacts/{key}")
    notes = "" if expected else " (not compared with a digest from elsewhere)"
    if lost:
        notes += f" ({len(lost)} artifacts are missing, such as {lost[0]})"
    if other:
        notes += f" ({other} artifacts have another size, from a later backup)"
    return f"{name}{notes}: next, pg_restore the dumps in {dumps}"


def _load_dumps(backup: Bucket, name: str, manifest: "_Manifest", dumps: Path) -> None:
    """Download the dumps that are not in the folder yet."""
    dumps.mkdir(parents=True, exist_ok=True)
    left = [path for path in dumps.iterdir() if not path.name.startswith(PART)]
    whole = {p.name for p in left if p.is_file() and sha256_file(p) == manifest.files.get(p.name)}
    if others := sorted(path.name for path in left if path.name not in whole):
        raise ValueError(f"{dumps}: not empty ({others[0]} is not of {name}); give a new folder")
    with temporary_folder(dumps, PART) as folder:
        for file, digest in manifest.files.items():
            if file in whole:
                continue
            path = inside(folder, file)
            backup.download(f"backups/{name}/{file}", path)
            if sha256_file(path) != digest:
                where = f"{backup.url}/backups/{name}/{file}"
                raise RemoteError("corrupted", f"{where}: altered; restore another backup")
            rename(path, inside(dumps, file))


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

    The bucket's other lifecycle rules stay. Needs an administrator's key. Raises RemoteError if the
    server refuses.
    """
    backup = Bucket(target)
    where, text = {"Bucket": backup.name}, f"{target}: set versioning and expiry"
    prefix = f"{backup.prefix}backups/"
    rule = {
        "ID": f"expire {prefix}", "Status": "Enabled", "Filter": {"Prefix": prefix},
        "Expiration": {"Days": days}, "NoncurrentVersionExpiration": {"NoncurrentDays": days},
    }  # fmt: skip
    with explained(text):
        others = [one for one in _rules(backup) if not _same(one, rule)]
        backup.client.put_bucket_versioning(**where, VersioningConfiguration={"Status": "Enabled"})
        backup.client.put_bucket_lifecycle_configuration(
            **where, LifecycleConfiguration={"Rules": [*others, rule]}
        )
    return (
        f"{target}: versions are kept, backups/ expires after {days} days; artifacts/, which all "
        "backups share, does not"
    )


def _rules(bucket: Bucket) -> list[dict[str, Any]]:
    """A bucket's lifecycle rules."""
    from botocore.exceptions import ClientError

    try:
        found = bucket.client.get_bucket_lifecycle_configuration(Bucket=bucket.name)
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") != "NoSuchLifecycleConfiguration":
            raise
        return []
    return list(found["Rules"])


def _same(one: Mapping[str, Any], rule: Mapping[str, Any]) -> bool:
    """Whether a rule is an earlier one of `protect`; the first were called "expire"."""
    return one.get("ID") == rule["ID"] or (
        one.get("ID") == "expire" and one.get("Filter") == rule["Filter"]
    )


if __name__ == "__main__":
    cli.entry_point(main)

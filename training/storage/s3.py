"""S3 objects through boto3, with errors that name the cause and the fix.

Endpoint and credentials come from the environment: AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION. Requests to a server that is down or busy are retried
with back-off for S3_PATIENCE seconds (60).
"""

import errno
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast
from urllib.parse import urlparse

from training.core import environment
from training.core.retry import retrying
from training.core.shown import has_login, shown

Code = Literal[
    "wrong-credentials", "no-credentials", "unreachable", "missing-bucket", "missing-remote",
    "missing-object", "corrupted", "truncated", "tampered-listing", "disk-full",
    "unknown-revision", "failed",
]  # fmt: skip
_WRONG = {
    "403", "AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch",
    "ExpiredToken", "InvalidToken",
}  # fmt: skip
_BUSY = {"InternalError", "ServiceUnavailable", "SlowDown"}
_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


class RemoteError(ValueError):
    """Stored data are not available; `code` is the cause, the message has the fix."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


class UnreachableError(RemoteError):
    """The server does not answer or fails; a retry may succeed."""

    transient = True

    def __init__(self, message: str) -> None:
        super().__init__("unreachable", message)


def disk_full(where: Path, error: OSError) -> RemoteError:
    return RemoteError("disk-full", f"{where}: {error.strerror}; free some space and run again")


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Convert boto3's exceptions in the block into a RemoteError about `what`."""
    from boto3.exceptions import RetriesExceededError, S3UploadFailedError
    from botocore import exceptions as aws

    try:
        yield
    except (aws.NoCredentialsError, aws.PartialCredentialsError) as error:
        raise RemoteError("no-credentials", f"{what}: no credentials; {_KEYS}") from error
    except (
        aws.HTTPClientError, aws.ConnectionError, aws.IncompleteReadError, RetriesExceededError,
    ) as error:  # fmt: skip
        hint = environment.proxied(environment.AWS_ENDPOINT_URL_S3.get() or "https://amazonaws.com")
        message = (
            f"{what}: the S3 server does not answer ({shown(error)}); "
            f"check AWS_ENDPOINT_URL_S3{hint}"
        )
        raise UnreachableError(message) from error
    except aws.ClientError as error:
        raise _refusal(what, error) from error
    except (aws.BotoCoreError, S3UploadFailedError) as error:
        if isinstance(error.__context__, aws.ClientError):  # the cause of a failed managed upload
            raise _refusal(what, error.__context__) from error
        raise RemoteError("failed", f"{what}: {shown(error)}") from error


F = TypeVar("F", bound=Callable[..., Any])


def patient(request: F) -> F:
    """Retry `request` while it raises UnreachableError, for S3_PATIENCE seconds."""

    @functools.wraps(request)
    def repeated(*arguments: Any, **named: Any) -> Any:
        seconds = environment.S3_PATIENCE.number()
        retry = retrying(lambda error: isinstance(error, UnreachableError), lambda: seconds)
        return retry(request, *arguments, **named)

    return cast(F, repeated)


def _refusal(what: str, error: Any) -> RemoteError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
        return UnreachableError(f"{what}: the S3 server fails ({code}); see its log")
    if code in _WRONG:
        return RemoteError(
            "wrong-credentials",
            f"{what}: the credentials are refused ({code}); {_KEYS} to a pair that may use it",
        )
    if code == "NoSuchBucket":
        return RemoteError(
            "missing-bucket", f"{what}: no such bucket; create it or correct the URL"
        )
    if code in ("NoSuchKey", "404"):
        return RemoteError("missing-object", f"{what}: no such object")
    return RemoteError("failed", f"{what}: {shown(error)}")


def _kept(url: str, errors: list[dict[str, str]], count: int) -> RemoteError:
    """What the server did not delete of `count` objects, though its answer was 200."""
    first = errors[0]
    code = first.get("Code", "")
    what = (
        f"{url}: {len(errors)} of {count} objects were not deleted, first {first.get('Key')} "
        f"({code}: {first.get('Message', '')})"
    )
    if code in _BUSY:
        return UnreachableError(what)
    if code in _WRONG:
        return RemoteError(
            "wrong-credentials",
            f"{what}; {_KEYS} to a pair that may delete, or lift the objects' lock",
        )
    return RemoteError("failed", what)


class Listed(NamedTuple):
    """An object in a listing."""

    size: int  # bytes
    written: float  # s, a whole number
    etag: str  # equal for equal bytes written alike


class Bucket:
    """The objects below `s3://bucket/prefix`, by key relative to the prefix."""

    def __init__(self, url: str, options: Mapping[str, str] | None = None) -> None:
        """`options` as in a DVC remote: endpointurl, region, profile, access_key_id, …"""
        import boto3
        from botocore.config import Config

        parts = urlparse(url)
        options = options or {}
        endpoint = options.get("endpointurl") or environment.AWS_ENDPOINT_URL_S3.get()
        for address, where in ((url, "the bucket's"), (endpoint, "the S3 server's")):
            if has_login(address):
                raise ValueError(
                    f"{shown(address)}: {where} address has a user or password in it; remove it "
                    f"and {_KEYS}"
                )
        if parts.scheme != "s3" or not parts.netloc:
            raise ValueError(f"{shown(url)}: s3://bucket/prefix is needed")
        logging.getLogger("botocore").setLevel(logging.WARNING)  # INFO names credential sources
        self.url, self.name = url.rstrip("/"), parts.netloc
        self.prefix = f"{parts.path.strip('/')}/" if parts.path.strip("/") else ""
        with explained(self.url):
            session = boto3.Session(profile_name=options.get("profile"))
            self.client = session.client(
                "s3",
                endpoint_url=options.get("endpointurl"),
                region_name=options.get("region") or session.region_name or "us-east-1",
                aws_access_key_id=options.get("access_key_id"),
                aws_secret_access_key=options.get("secret_access_key"),
                aws_session_token=options.get("session_token"),
                config=Config(connect_timeout=5, retries={"max_attempts": 3, "mode": "standard"}),
            )

    def _where(self, key: str) -> dict[str, str]:
        return {"Bucket": self.name, "Key": self.prefix + key}

    @patient
    def read(self, key: str) -> bytes:
        """All bytes of a small object. Raises RemoteError, "missing-object" if it is missing."""
        with explained(f"{self.url}/{key}"):
            data: bytes = self.client.get_object(**self._where(key))["Body"].read()
        return data

    @patient
    def head(self, key: str) -> dict[str, Any] | None:
        """Size and metadata of an object, or None if it is missing; a missing bucket raises."""
        try:
            with explained(f"{self.url}/{key}"):
                response: dict[str, Any] = self.client.head_object(**self._where(key))
        except RemoteError as error:
            if error.code != "missing-object":
                raise
            self.check()  # a HEAD answers 404 for a missing bucket too
            return None
        return response

    def size(self, key: str) -> int | None:
        """Size of an object in bytes, or None if it is missing."""
        response = self.head(key)
        return None if response is None else int(response["ContentLength"])

    @patient
    def check(self) -> None:
        """Raise RemoteError unless the bucket exists and the credentials give access to it."""
        try:
            with explained(f"s3://{self.name}"):
                self.client.head_bucket(Bucket=self.name)
        except RemoteError as error:
            if error.code == "missing-object":
                message = f"s3://{self.name}: no such bucket; create it or correct the URL"
                raise RemoteError("missing-bucket", message) from error
            raise

    @patient
    def upload(self, key: str, source: Path, sha256: str) -> None:
        """Upload a file of any size; the server verifies its checksum and keeps `sha256`."""
        extra = {"Metadata": {"sha256": sha256}, "ChecksumAlgorithm": "SHA256"}
        with explained(f"{self.url}/{key}"):
            self.client.upload_file(str(source), self.name, self.prefix + key, ExtraArgs=extra)

    @patient
    def download(self, key: str, target: Path) -> None:
        """Download an object of any size into a file."""
        try:
            with explained(f"{self.url}/{key}"):
                self.client.download_file(self.name, self.prefix + key, str(target))
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise disk_full(target, error) from error
            raise

    @patient
    def listing(self, key: str) -> dict[str, Listed]:
        """Every object whose key begins with `key`."""
        where = {"Bucket": self.name, "Prefix": self.prefix + key}
        with explained(f"{self.url}/{key}"):
            pages = self.client.get_paginator("list_objects_v2").paginate(**where)
            return {
                row["Key"].removeprefix(self.prefix): Listed(
                    int(row["Size"]), row["LastModified"].timestamp(), row["ETag"]
                )
                for page in pages
                for row in page.get("Contents", ())
            }

    @patient
    def copy(self, key: str, source: "Bucket", old: str) -> None:
        """Copy an object of any size from another bucket, on the server's side."""
        with explained(f"{self.url}/{key}"):
            where = {"Bucket": source.name, "Key": source.prefix + old}
            self.client.copy(where, self.name, self.prefix + key, SourceClient=source.client)

    @patient
    def folders(self, key: str) -> list[str]:
        """The names between `key` and the next slash of the objects below it."""
        where = {"Bucket": self.name, "Prefix": self.prefix + key, "Delimiter": "/"}
        with explained(f"{self.url}/{key}"):
            pages = self.client.get_paginator("list_objects_v2").paginate(**where)
            prefixes = [row["Prefix"] for page in pages for row in page.get("CommonPrefixes", ())]
        return [name.rstrip("/").rpartition("/")[2] for name in prefixes]

    @patient
    def delete(self, key: str) -> None:
        """Delete every object whose key begins with `key`. Raises RemoteError if one is kept."""
        with explained(f"{self.url}/{key}"):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.name, Prefix=self.prefix + key
            )
            for page in pages:
                rows = [{"Key": row["Key"]} for row in page.get("Contents", ())]
                if rows:
                    done = self.client.delete_objects(Bucket=self.name, Delete={"Objects": rows})
                    if kept := done.get("Errors"):
                        raise _kept(self.url, kept, len(rows))

    @patient
    def remove(self, key: str) -> None:
        """Delete the object of exactly this key."""
        with explained(f"{self.url}/{key}"):
            self.client.delete_object(**self._where(key))

    @patient
    def create(self, key: str, data: bytes) -> bool:
        """Write a small object if the key is free, atomically; whether this call wrote it."""
        from botocore.exceptions import ClientError

        with explained(f"{self.url}/{key}"):
            try:
                self.client.put_object(**self._where(key), Body=data, IfNoneMatch="*")
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") not in _EXISTS:
                    raise
                return False
        return True


_EXISTS = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}

"""Objects that an S3 server keeps although it answers a deletion with 200."""

from collections.abc import Iterator

import pytest
from botocore.stub import Stubber

from training.storage.s3 import Bucket, RemoteError

KEYS = ["store/refs/a", "store/refs/b"]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Bucket, Stubber]]:
    """A bucket of two objects; boto3 checks the answers against S3's own description."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.setenv("S3_PATIENCE", "5")
    bucket = Bucket("s3://data/store")
    with Stubber(bucket.client) as stubber:
        yield bucket, stubber


def answer(stubber: Stubber, *errors: dict[str, str]) -> None:
    """Expect a listing and a deletion, and answer the latter with these errors."""
    rows = [{"Key": key} for key in KEYS]
    stubber.add_response("list_objects_v2", {"Contents": rows, "IsTruncated": False})
    sent = {"Bucket": "data", "Delete": {"Objects": rows}}
    stubber.add_response("delete_objects", {"Errors": list(errors)}, sent)


@pytest.mark.parametrize(
    ("code", "cause"), [("AccessDenied", "wrong-credentials"), ("InvalidArgument", "failed")]
)
def test_objects_that_are_kept_are_counted_and_the_first_is_named(
    stub: tuple[Bucket, Stubber], code: str, cause: str
) -> None:
    bucket, stubber = stub
    answer(stubber, *({"Key": key, "Code": code, "Message": "locked"} for key in KEYS))
    with pytest.raises(RemoteError, match="2 of 2 objects were not deleted") as error:
        bucket.delete("refs/")
    assert error.value.code == cause
    assert f"first store/refs/a ({code}: locked)" in str(error.value)


def test_a_busy_server_is_asked_again(stub: tuple[Bucket, Stubber]) -> None:
    bucket, stubber = stub
    answer(stubber, {"Key": KEYS[0], "Code": "SlowDown", "Message": "later"})
    answer(stubber)
    bucket.delete("refs/")
    stubber.assert_no_pending_responses()

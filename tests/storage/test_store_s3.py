"""The content-addressed store on a real S3 server behaves like the one on a disk."""

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from training.storage.meta import ReplicatesMeta
from training.storage.s3 import RemoteError
from training.storage.store import Entry, Manifest, S3Store, StoreError, open_store

pytestmark = pytest.mark.server


@pytest.fixture
def bucket(s3: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    name = f"store-{uuid.uuid4().hex[:8]}"
    s3.bucket(name)
    monkeypatch.setenv("STORE_URI", f"s3://{name}/prefix")
    monkeypatch.setenv("NODE_CACHE", str(tmp_path / "node"))
    return name


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(range(256)) * 100)
    return path


def object_key(entry: Entry) -> str:
    return f"prefix/sha256/{entry.sha256[:2]}/{entry.sha256}"


def test_the_environment_opens_it(bucket: str) -> None:
    assert isinstance(open_store(), S3Store)
    assert open_store().uri == f"s3://{bucket}/prefix"


def test_stored_bytes_are_read_back(bucket: str, source: Path, tmp_path: Path) -> None:
    """Through a manifest, in the node's cache."""
    Manifest.build("replicates", {"G": source}, ReplicatesMeta(seeds=()), rows={"G": 3}).write(
        tmp_path / "m.json"
    )
    manifest = Manifest.read(tmp_path / "m.json", "replicates")
    assert manifest.intact()
    assert manifest.entry("G").rows == 3
    assert manifest.local("G").read_bytes() == source.read_bytes()
    assert manifest.local("G").is_relative_to(tmp_path / "node")
    assert f'"uri": "s3://{bucket}/prefix/sha256/' in (tmp_path / "m.json").read_text()


def test_a_large_file_goes_up_in_parts(bucket: str, tmp_path: Path, s3: Any) -> None:
    """32 MiB are four of boto3's parts, as counted in the object's ETag."""
    path = tmp_path / "large"
    path.write_bytes(bytes(range(256)) * 2**17)
    entry = open_store().put(path)
    assert open_store().exists(entry)
    assert open_store().local(entry).read_bytes() == path.read_bytes()
    tag = s3.client().head_object(Bucket=bucket, Key=object_key(entry))["ETag"]
    assert tag.strip('"').endswith("-4")


def test_existing_bytes_are_not_uploaded_again(bucket: str, source: Path, s3: Any) -> None:
    """An object of the same size and metadata is left as it is; an upload would mend its bytes."""
    entry = open_store().put(source)
    where, other = {"Bucket": bucket, "Key": object_key(entry)}, b"!" * entry.size
    s3.client().put_object(**where, Body=other, Metadata={"sha256": entry.sha256})
    assert open_store().put(source, "again") == replace(entry, name="again")
    assert s3.client().get_object(**where)["Body"].read() == other


def test_cached_bytes_are_not_downloaded_again(bucket: str, source: Path, s3: Any) -> None:
    entry = open_store().put(source)
    open_store().local(entry)
    s3.client().delete_object(Bucket=bucket, Key=object_key(entry))
    assert open_store().local(entry).read_bytes() == source.read_bytes()
    assert not open_store().exists(entry)


def test_an_altered_cache_is_fetched_again(bucket: str, source: Path) -> None:
    entry = open_store().put(source)
    open_store().local(entry).write_bytes(b"altered")
    assert open_store().local(entry).read_bytes() == source.read_bytes()


def test_missing_bytes_are_named(bucket: str) -> None:
    entry = Entry("gone.npy", "0" * 64, 10)
    assert not open_store().exists(entry)
    with pytest.raises(StoreError, match=r"gone\.npy .* is missing; run the step again"):
        open_store().local(entry)


def test_altered_bytes_are_refused_and_not_kept(bucket: str, source: Path, s3: Any) -> None:
    """Same size and metadata, other bytes; then a new upload replaces a shorter object."""
    entry = open_store().put(source)
    where = {"Bucket": bucket, "Key": object_key(entry)}
    s3.client().put_object(**where, Body=b"!" * entry.size, Metadata={"sha256": entry.sha256})
    with pytest.raises(StoreError, match="delete that object"):
        open_store().local(entry)
    assert [
        p for p in open_store().path(entry.sha256).parent.iterdir() if p.suffix != ".lock"
    ] == []
    s3.client().put_object(**where, Body=b"!" * 5, Metadata={"sha256": entry.sha256})
    assert not open_store().exists(entry)
    assert open_store().local(open_store().put(source)).read_bytes() == source.read_bytes()


def test_exists_can_read_the_bytes_themselves(bucket: str, source: Path, s3: Any) -> None:
    """An object of the same size and metadata with other bytes exists, but not once it is read."""
    store = open_store()
    entry = store.put(source)
    assert store.exists(entry, read=True)
    where = {"Bucket": bucket, "Key": object_key(entry)}
    s3.client().put_object(**where, Body=b"x" * entry.size, Metadata={"sha256": entry.sha256})
    assert store.exists(entry)
    assert not store.exists(entry, read=True)
    assert not list(Path(store.root).glob("check-*"))


def test_a_reference_is_set_once(bucket: str) -> None:
    store = open_store()
    assert store.reference("judges/a") is None
    assert store.refer("judges/a", "first") == "first"
    assert store.refer("judges/a", "second") == "first"
    assert store.reference("judges/a") == "first"


def test_removing_a_reference_leaves_those_whose_names_begin_with_its_own(bucket: str) -> None:
    store = open_store()
    for number in ("1", "10", "1x"):
        store.refer(f"failures/run/{number}", number)
    assert store.remove("refs/failures/run/1", time.time() + 60)
    assert store.reference("failures/run/1") is None
    assert store.reference("failures/run/10") == "10"
    assert store.reference("failures/run/1x") == "1x"


def test_of_many_writers_one_wins(bucket: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        stood = set(pool.map(lambda value: open_store().refer("judges/b", str(value)), range(16)))
    assert stood == {open_store().reference("judges/b")}


def test_a_missing_bucket_is_an_error_not_an_absence(
    bucket: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a mistyped STORE_URI would look like an empty cache."""
    store = open_store("s3://mistyped/prefix")
    with pytest.raises(RemoteError) as caught:
        store.exists(Entry("x", "0" * 64, 1))
    assert caught.value.code == "missing-bucket"


def test_another_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match="s3://bucket/prefix is needed"):
        open_store("ftp://host/folder")

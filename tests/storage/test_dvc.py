"""A pull of raw data from a folder or a real S3 server is complete, or fails."""

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from training.storage.dvc import configured, key, listing, pull, tree_md5
from training.storage.s3 import RemoteError


@dataclass
class Version:
    """One pushed data version, with functions to damage its remote."""

    md5: str
    nfiles: int
    size: int
    url: str
    source: Path
    put: Callable[[str, bytes], None]
    get: Callable[[str], bytes]
    remove: Callable[[str], None]

    def object_key(self, name: str = "celeba/000.bin") -> str:
        return key(listing(configured(self.url), self.md5)[name])


def folder_version(pushed: Any, tmp: Path) -> Version:
    store = tmp / "remote"
    shutil.copytree(pushed.remote, store)

    def put(name: str, data: bytes) -> None:
        (store / name).chmod(0o644)
        (store / name).write_bytes(data)

    def get(name: str) -> bytes:
        return (store / name).read_bytes()

    def remove(name: str) -> None:
        (store / name).unlink()

    source = pushed.clone / "data"
    return Version(*pushed.facts, str(store), source, put, get, remove)


def s3_version(pushed: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> Version:
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    bucket, client = f"data-{uuid.uuid4().hex[:8]}", server.client()
    server.bucket(bucket)

    def put(name: str, data: bytes) -> None:
        client.put_object(Bucket=bucket, Key=f"some/prefix/{name}", Body=data)

    def get(name: str) -> bytes:
        data: bytes = client.get_object(Bucket=bucket, Key=f"some/prefix/{name}")["Body"].read()
        return data

    def remove(name: str) -> None:
        client.delete_object(Bucket=bucket, Key=f"some/prefix/{name}")

    store = pushed.remote
    for path in store.rglob("*"):
        if path.is_file():
            put(path.relative_to(store).as_posix(), path.read_bytes())
    source = pushed.clone / "data"
    return Version(*pushed.facts, f"s3://{bucket}/some/prefix", source, put, get, remove)


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.server)])
def version(
    request: pytest.FixtureRequest, pushed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Version:
    """A version pushed to a local folder, and one pushed to SeaweedFS."""
    if request.param == "folder":
        return folder_version(pushed, tmp_path)
    return s3_version(pushed, request.getfixturevalue("s3"), monkeypatch)


def refused(version: Version, out: Path, **changes: object) -> RemoteError:
    """The error of a pull that must fail and leave no files."""
    facts = {"md5": version.md5, "nfiles": version.nfiles, "url": version.url, **changes}
    with pytest.raises(RemoteError) as caught:
        pull(out=out, size=version.size, **facts)
    assert not out.exists()
    assert list(out.parent.iterdir()) == []
    return caught.value


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "raw"


def test_the_directory_md5_is_dvcs(pushed: Any) -> None:
    """Nested folders and names outside ASCII included."""
    assert tree_md5(pushed.clone / "data") == pushed.facts[:2]


def test_a_pulled_version_is_the_pushed_one(version: Version, out: Path) -> None:
    """Same names and bytes, of one owner, writable, without temporary files."""
    pull(version.md5, version.nfiles, out, version.url, version.size)
    assert tree_md5(out) == tree_md5(version.source)
    assert list(out.parent.iterdir()) == [out]
    first = (out / "celeba" / "000.bin").stat()
    assert first.st_nlink == 1
    assert first.st_mode & 0o200


def test_a_corrupted_object_is_named(version: Version, out: Path) -> None:
    """The same number of bytes, one of them different: DVC alone would deliver it."""
    name = version.object_key()
    data = version.get(name)
    version.put(name, b"!" + data[1:])
    error = refused(version, out)
    assert error.code == "corrupted"
    assert "celeba/000.bin" in str(error)


def test_a_failure_of_dvc_itself_blames_no_object(
    version: Version, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's own DVC configuration is broken; every object in the remote is right."""
    (tmp_path / "dvc").mkdir()
    (tmp_path / "dvc" / "config").write_text("[nonsense]\nx = 1\n")
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "dvc"))
    error = refused(version, out)
    assert error.code == "failed"
    assert "nonsense" in str(error)
    assert "delete" not in str(error)


def test_a_truncated_object_is_named(version: Version, out: Path) -> None:
    name = version.object_key()
    version.put(name, version.get(name)[:100])
    error = refused(version, out)
    assert error.code == "truncated"
    assert "celeba/000.bin" in str(error)


def test_a_missing_object_is_named(version: Version, out: Path) -> None:
    version.remove(version.object_key())
    error = refused(version, out)
    assert error.code == "missing-object"
    assert "celeba/000.bin" in str(error)


def test_a_version_never_pushed_is_named(version: Version, out: Path) -> None:
    error = refused(version, out, md5="0" * 32 + ".dir")
    assert error.code == "missing-object"
    assert "python -m training.data push" in str(error)


def test_a_listing_that_lost_a_file_is_refused(version: Version, out: Path) -> None:
    """DVC alone delivers fewer files with exit code 0, even with verify."""
    name = key(version.md5)
    version.put(name, json.dumps(json.loads(version.get(name))[1:]).encode())
    assert refused(version, out).code == "tampered-listing"


def test_a_listing_of_garbage_is_refused(version: Version, out: Path) -> None:
    version.put(key(version.md5), b"\x00garbage")
    assert refused(version, out).code == "tampered-listing"


def test_a_wrong_file_count_is_refused(version: Version, out: Path) -> None:
    with pytest.raises(ValueError, match="has 13 files, not the 99 stated"):
        pull(version.md5, 99, out, version.url)


def test_a_missing_folder_is_named(pushed: Any, tmp_path: Path, out: Path) -> None:
    error = refused(folder_version(pushed, tmp_path), out, url=str(tmp_path / "nowhere"))
    assert error.code == "missing-remote"


def test_a_pull_that_would_fill_the_disk_is_refused(pushed: Any, tmp_path: Path, out: Path) -> None:
    version = folder_version(pushed, tmp_path)
    version.size = 2**60
    assert refused(version, out).code == "disk-full"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk")
def test_a_disk_that_fills_up_leaves_no_partial_folder(pushed: Any, tmp_path: Path) -> None:
    """Even if the version's size is unknown."""
    version = folder_version(pushed, tmp_path)
    version.size = 0
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this machine does not let root mount a small disk")
    try:
        assert refused(version, disk / "raw").code == "disk-full"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.server
class TestS3:
    """Causes that only a server has, each with its own code."""

    @pytest.fixture
    def version(self, pushed: Any, s3: Any, monkeypatch: pytest.MonkeyPatch) -> Version:
        return s3_version(pushed, s3, monkeypatch)

    def test_what_dvc_pushes_to_s3_is_pulled(
        self, version: Version, pushed: Any, tmp_path: Path, out: Path
    ) -> None:
        """A real push to the server, with nothing but the environment's settings."""
        md5, nfiles, size = pushed.again(tmp_path / "clone", f"{version.url}/again")
        pull(md5, nfiles, out, f"{version.url}/again", size)
        assert (md5, nfiles) == tree_md5(out)

    @pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
    def test_wrong_credentials(
        self, version: Version, out: Path, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        monkeypatch.setenv(variable, "wrong")
        error = refused(version, out)
        assert error.code == "wrong-credentials"
        assert "testadminsecret" not in str(error)

    def test_no_credentials(
        self, version: Version, out: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        assert refused(version, out).code == "no-credentials"

    def test_server_down(
        self, version: Version, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
        error = refused(version, out)
        assert error.code == "unreachable"
        assert "AWS_ENDPOINT_URL_S3" in str(error)

    def test_a_server_with_a_name_is_reached(
        self, version: Version, out: Path, s3: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As in a cluster, where no DNS knows `bucket.server`."""
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint.replace("127.0.0.1", "localhost"))
        pull(version.md5, version.nfiles, out, version.url)
        assert tree_md5(out)[0] == version.md5

    def test_missing_bucket(self, version: Version, out: Path) -> None:
        error = refused(version, out, url="s3://not-made")
        assert error.code == "missing-bucket"
        assert "create it" in str(error)


def test_the_environment_names_the_remote_before_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text(
        "[core]\n    remote = store\n['remote \"store\"']\n    url = ../kept\n    verify = true\n"
    )
    monkeypatch.delenv("DVC_REMOTE_URL", raising=False)
    assert configured(root=tmp_path).url == str(tmp_path / "kept")
    monkeypatch.setenv("DVC_REMOTE_URL", "s3://bucket/prefix")
    assert configured(root=tmp_path).url == "s3://bucket/prefix"


def test_local_configuration_adds_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `dvc remote modify --local` writes them; secrets stay out of git this way."""
    monkeypatch.delenv("DVC_REMOTE_URL", raising=False)
    folder = tmp_path / ".dvc"
    folder.mkdir()
    (folder / "config").write_text("[core]\n    remote = a\n['remote \"a\"']\n    url = s3://b/c\n")
    (folder / "config.local").write_text("['remote \"a\"']\n    access_key_id = me\n")
    remote = configured(root=tmp_path)
    assert (remote.url, dict(remote.options)) == ("s3://b/c", {"access_key_id": "me"})


def test_no_configured_remote_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_REMOTE_URL", raising=False)
    with pytest.raises(RemoteError, match="set DVC_REMOTE_URL") as caught:
        configured(root=tmp_path)
    assert caught.value.code == "missing-remote"

"""The served version follows the alias; what cannot be verified is never served."""

import logging
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from releases import flip_byte
from serving import BLOND, Running, add_version, free_port, held, promote, running, wait_for
from training.models import MODELS
from training.registry import signature
from training.registry import versions as registry
from training.serving import follow
from training.serving.served import Served

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own


@pytest.fixture
def following(own_shelf: Path) -> Iterator[Running]:
    """A server of faces@champion, version 1; version 2 is there, too."""
    with running(follow.first("faces@champion"), "faces@champion") as server:
        yield server


def version(server: Running, photo: bytes) -> str:
    answer = server.edit(photo, *BLOND)
    assert answer.status == 200
    return answer.headers["x-model-version"]


def files_of(number: int) -> Path:
    """The folder of a version's files."""
    place = registry.place(registry.version(f"faces/{number}"))
    assert place
    return place


def test_a_promotion_and_a_rollback_are_followed(following: Running, photo: bytes) -> None:
    first = following.edit(photo, *BLOND).body
    for number in ("2", "1"):
        promote("faces", number)
        following.follower.look()
        assert version(following, photo) == number
        assert following.get("/v2/models/faces").json["versions"] == [number]
        assert (
            following.figures()[f'stargan_serve_version{{model="faces",version="{number}"}}'] == 1
        )
        same = following.edit(photo, *BLOND).body == first
        assert same is (number == "1")
    assert 'version="2"' not in following.get("/metrics").body.decode()


def test_an_edit_that_has_begun_finishes_on_the_version_it_began_with(
    own_shelf: Path, photo: bytes
) -> None:
    served, translator = held(follow.first("faces@champion"))
    with running(served) as server, ThreadPoolExecutor(2) as clients:
        old = [clients.submit(version, server, photo) for _ in range(2)]
        wait_for(lambda: server.service.inside == 2)
        promote("faces", "2")
        server.follower.look()
        new = clients.submit(version, server, photo)
        wait_for(lambda: server.service.inside == 2 or server.service.served.version == "2")
        translator.go.set()
        assert [future.result() for future in old] == ["1", "1"]
        assert new.result() == "2"


def test_a_damaged_version_is_refused_and_the_old_one_stays(
    following: Running, photo: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    flip_byte(next(files_of(2).rglob("*.safetensors")))
    promote("faces", "2")
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            following.follower.look()
    assert version(following, photo) == "1"
    (line,) = [r.message for r in caplog.records if "refused" in r.message]
    assert line.startswith("version 2 refused: faces version 2: weights altered: artifacts/model/")
    assert line.endswith("; version 1 stays")
    assert following.figures()["stargan_serve_refused_versions_total"] == 1  # not tried each time
    promote("faces", "1")
    following.follower.look()
    assert version(following, photo) == "1"


def test_a_version_that_is_not_signed_is_refused_where_signatures_are_asked_for(
    following: Running, photo: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    make = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(private)]
    subprocess.run(make, check=True, capture_output=True)
    subprocess.run(["openssl", "ec", "-in", str(private), "-pubout", "-out", str(public)],
                   check=True, capture_output=True)  # fmt: skip
    monkeypatch.setenv("SIGNING_PUBLIC_KEY", str(public))
    promote("faces", "2")
    following.follower.look()
    assert version(following, photo) == "1"
    assert "version 2 refused: faces version 2: not signed" in caplog.text
    with pytest.raises(signature.SignatureError):
        follow.first("faces@champion")
    folder = tmp_path / signature.subject(registry.version("faces/2"))
    shutil.copytree(files_of(2), folder)
    signature.sign(registry.version("faces/2"), folder, private)
    following.follower._tried = 0.0  # a minute later
    following.follower.look()
    assert version(following, photo) == "2"


def test_a_registry_that_is_down_changes_nothing(
    following: Running, photo: bytes, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    promote("faces", "2")
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        for _ in range(2):
            following.follower.look()
        assert version(following, photo) == "1"
        assert following.figures()["stargan_serve_registry_answers"] == 0
    (line,) = [r.message for r in caplog.records if r.name == follow.__name__]
    assert line.startswith("MLflow at http://127.0.0.1:")
    assert line.endswith("; version 1 stays")
    following.follower.look()
    assert version(following, photo) == "2"
    assert following.figures()["stargan_serve_registry_answers"] == 1


def test_an_alias_that_is_gone_changes_nothing(following: Running, photo: bytes) -> None:
    from training.tracking import client as tracking

    tracking.client().delete_registered_model_alias("faces", "champion")
    following.follower.look()
    assert version(following, photo) == "1"


def test_a_version_with_other_labels_is_offered_with_them(following: Running, photo: bytes) -> None:
    number = add_version("faces", MODELS["ganimation"].tiny(), "ganimation", "units", seed=5)
    promote("faces", number)
    following.follower.look()
    assert following.get("/model").json["sets"][0]["kind"] == "continuous"
    assert following.edit(photo, *BLOND).status == 400
    assert following.edit(photo, ("label", "AU12=1"), ("frame", "centre")).status == 200


def test_a_named_version_stays(own_shelf: Path, photo: bytes) -> None:
    with running(follow.first("faces/1"), "faces/1") as server:
        promote("faces", "2")
        server.follower.look()
        assert version(server, photo) == "1"


def test_a_loaded_version_leaves_no_files(faces: Served, tmp_path: Path) -> None:
    """Its weights are in memory; the verified copy is gone."""
    import tempfile

    left = Path(tempfile.gettempdir()).glob("stargan-*/faces*")
    assert [path for path in left if path.exists()] == []

"""Messages of a real MLflow server about a promotion, to the documented receiver."""

import importlib.util
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from releases import register
from servers import MlflowServer
from training import release
from training.registry import versions as registry

ROOT = next(path for path in Path(__file__).parents if (path / "pyproject.toml").is_file())
EXAMPLE = ROOT / "docs" / "examples" / "receive_promotions.py"
SECRET = "a secret of the test, 32 characters"
OPEN = {"MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "https,http", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true"}

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # MLflow's own
    pytest.mark.filterwarnings("ignore:.*type hints? :UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow leaves SQLite pools open
]


@pytest.fixture
def served(
    release_folder: Path, binary: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MlflowServer]:
    """A server that may post to loopback, over the file in which two versions were registered."""
    for seed in range(2):
        register(binary, seed)
    folder = release_folder / "server"
    folder.mkdir()
    shutil.copy("runs/mlflow.db", folder / "server.db")
    key = Fernet.generate_key().decode()
    running = MlflowServer(folder, MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY=key, **OPEN)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", running.uri)
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    yield running
    running.kill()


class Receiver:
    """The documented receiver as a process on a free port."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(EXAMPLE), "--port", "0"],
            env={**os.environ, "WEBHOOK_SECRET": SECRET},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout
        assert self.process.stderr
        self.lines, self.errors = self.process.stdout, self.process.stderr
        self.url = self.errors.readline().split()[-1]

    def event(self) -> Any:
        return json.loads(self.lines.readline())

    def post(self, body: bytes, **headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url, body, named)) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.end()


def webhook(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    release.main(["webhook", *words])
    return capsys.readouterr().out


@pytest.mark.server
@pytest.mark.slow
def test_a_promotion_and_a_rollback_arrive_with_name_version_and_alias(
    served: MlflowServer, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a receiver that is down delays neither."""
    capsys.readouterr()
    made = webhook(capsys, "create", receiver.url)
    number = made.split()[0]
    assert "signed with WEBHOOK_SECRET" in made
    assert SECRET not in made + webhook(capsys, "list")
    assert webhook(capsys, "test", number) == f"{number}: the receiver answered 204\n"
    for before, version in ((None, "1"), ("1", "2")):
        registry.move("stargan", before, version, "promote", "by the test")
        sent = {"action": "created", "name": "stargan", "alias": "champion", "version": version}
        assert receiver.event() == sent
    release.main(["rollback", "stargan", "--reason", "by the test"])
    capsys.readouterr()
    assert receiver.event() == {**sent, "version": "1"}

    assert webhook(capsys, "create", receiver.url).startswith(f"{number} was there; now sends")
    receiver.end()
    start = time.monotonic()
    registry.move("stargan", "1", "2", "promote", "while the receiver is down")
    assert time.monotonic() - start < 5
    assert registry.champion("stargan") == "2"
    with pytest.raises(ValueError, match=r"not received: .*Connection refused.*start the receiver"):
        webhook(capsys, "test", number)

    for words, says in (
        (("create", "ftp://localhost/x"), "scheme: 'ftp'.*MLFLOW_WEBHOOK_ALLOWED_SCHEMES"),
        (("create", "http://x", "--name", "a b"), "'a b' is invalid.*correct it"),
        (("create", "http://x", "--events", "champion"), "Invalid event string format: champion"),
        (("test", "none"), "none not found.; `webhook list` has the ids"),
    ):
        with pytest.raises(ValueError, match=says):
            webhook(capsys, *words)
    assert webhook(capsys, "remove", number).endswith("is sent to " + receiver.url + " any more\n")
    assert "no webhook" in webhook(capsys, "list")


@pytest.mark.server
@pytest.mark.long
def test_a_server_that_lost_its_key_is_told_with_the_way_out(
    served: MlflowServer, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    number = webhook(capsys, "create", receiver.url).split()[0]
    key = served.more.pop("MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY")
    served.kill()
    served.start()
    for words in (("list",), ("create", receiver.url), ("remove", number)):
        with pytest.raises(ValueError, match="MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY of before"):
            webhook(capsys, *words)
    with closing(sqlite3.connect(served.folder / "server.db")) as database:
        database.execute("DELETE FROM webhook_events")
        database.execute("DELETE FROM webhooks")
        database.commit()
    served.more["MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"] = key
    served.kill()
    served.start()
    number = webhook(capsys, "create", receiver.url).split()[0]
    served.kill()
    served.start()
    assert number in webhook(capsys, "list")


def test_messages_need_a_server_and_a_secret(
    release_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", "")
    with pytest.raises(ValueError, match=r"WEBHOOK_SECRET is not set.*openssl rand"):
        webhook(capsys, "create", "https://example.com")
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    for action, needs in (("create", "an address"), ("test", "an id"), ("remove", "an id")):
        with pytest.raises(ValueError, match=f"webhook {action} needs {needs}"):
            webhook(capsys, action)
    says = r"runs/mlflow\.db is a database.*only a server sends.*make ui"
    for words in (("create", "https://example.com"), ("list",), ("test", "x"), ("remove", "x")):
        with pytest.raises(ValueError, match=says):
            webhook(capsys, *words)


def test_the_receiver_refuses_what_mlflow_did_not_sign(receiver: Receiver) -> None:
    """Signed by MLflow's own function: other text, another time, another secret, an old one."""
    from mlflow.webhooks.delivery import _generate_hmac_signature as sign

    body = json.dumps({
        "entity": "model_version_alias", "action": "created", "timestamp": "now",
        "data": {"name": "stargan", "alias": "champion", "version": "3"},
    })  # fmt: skip
    now, old = str(int(time.time())), str(int(time.time()) - 600)

    def post(text: str, sent: str, signature: str) -> int:
        return receiver.post(
            text.encode(), X_MLflow_Timestamp=sent, X_MLflow_Delivery_Id="id-1",
            X_MLflow_Signature=signature,
        )  # fmt: skip

    assert post(body, now, sign("forged", "id-1", now, body)) == 401
    assert post(body, now, "") == 401
    assert post(body.replace("3", "4"), now, sign(SECRET, "id-1", now, body)) == 401
    assert post(body, f"{now}0", sign(SECRET, "id-1", now, body)) == 401
    assert post(body, old, sign(SECRET, "id-1", old, body)) == 401
    assert [post(body, now, sign(SECRET, "id-1", now, body)) for _ in range(2)] == [204, 204]
    receiver.process.terminate()
    out, errors = receiver.process.communicate()
    assert [json.loads(line)["version"] for line in out.splitlines()] == ["3"]  # once
    assert re.findall("refused: (.*)", errors) == ["not signed with this secret"] * 4 + ["too old"]


@given(st.binary(), st.text(st.characters(codec="ascii")), st.text(st.characters(codec="ascii")))
def test_the_receiver_survives_any_message(body: bytes, signature: str, sent: str) -> None:
    headers = {"X-MLflow-Timestamp": sent, "X-MLflow-Signature": signature}
    assert example().refusal(headers, body, SECRET, 0.0) == "not signed with this secret"


def example() -> Any:
    spec = importlib.util.spec_from_file_location("receive_promotions", EXAMPLE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

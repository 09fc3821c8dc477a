"""A model's lock that somebody else has created is recognised and said."""

import shutil
import threading
from pathlib import Path

import pytest
import requests

from servers import MlflowServer
from training.registry import versions as registry
from training.tracking import client as tracking

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow leaves SQLite pools open
]


@pytest.fixture(autouse=True)
def workdir(empty_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_mlflow, tmp_path / "runs" / "mlflow.db")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize("tags", [{}, {"holder": ""}, {"holder": "me"}, {"owner": "x"}])
def test_a_registered_model_that_is_no_lock_is_named_at_once(tags: dict[str, str]) -> None:
    tracking.client().create_registered_model("stargan.lock", tags=tags)
    with (
        pytest.raises(
            registry.ForeignLockError,
            match=r"sqlite:.*: the registered model 'stargan.lock' is no lock .* rename or delete",
        ),
        registry.lock("stargan"),
    ):
        raise AssertionError
    tracking.client().rename_registered_model("stargan.lock", "my model")  # the fix
    with registry.lock("stargan") as held:
        held()


def test_a_lock_whose_tag_is_gone_while_it_is_deleted_is_waited_for() -> None:
    """MLflow reads a registered model, then its tags: a deletion in between leaves none."""
    tracking.client().create_registered_model("stargan.lock")
    end = threading.Timer(0.5, tracking.client().delete_registered_model, ["stargan.lock"])
    end.start()
    with registry.lock("stargan") as held:
        held()
    end.join()


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.long
def test_a_lock_that_this_user_may_not_delete_is_named_with_who_can(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a server with passwords, a user left a lock, or took the name, that another one needs."""
    ini = workdir / "auth.ini"
    ini.write_text(
        "[mlflow]\ndefault_permission = READ\n"
        "admin_username = admin\nadmin_password = long-enough-1\n"
        f"database_uri = sqlite:///{workdir}/auth.db\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    server = MlflowServer(workdir, ini)
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        for name in ("mallory", "carol"):
            answer = requests.post(
                f"{server.uri}/api/2.0/mlflow/users/create", auth=("admin", "long-enough-1"),
                json={"username": name, "password": "long-enough-2"}, timeout=30,
            )  # fmt: skip
            assert answer.status_code == 200, answer.text
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "long-enough-2")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "mallory")
        tracking.client().create_registered_model(
            "stargan.lock", tags={"holder": f"her-host {'0' * 32}"}
        )
        monkeypatch.setattr(registry, "STALE", 0.0)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "carol")
        with (
            pytest.raises(
                registry.ForeignLockError,
                match=r"her-host left the lock 'stargan.lock' behind, and carol may not delete it",
            ),
            registry.lock("stargan"),
        ):
            raise AssertionError
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")  # the fix
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "long-enough-1")
        tracking.client().delete_registered_model("stargan.lock")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "carol")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "long-enough-2")
        with registry.lock("stargan") as held:
            held()
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "mallory")
        tracking.client().create_registered_model("stargan")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "carol")
        with (
            pytest.raises(tracking.TrackingError, match="carol may not do this: let its owner or"),
            tracking.answered(),
        ):
            tracking.client().set_registered_model_tag("stargan", "a", "b")
    finally:
        server.kill()

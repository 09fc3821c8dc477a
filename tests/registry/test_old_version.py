"""A version registered by 0.1.0 (commit a0f92b4) still verifies, edits and loads.

Its files, training data (16 px, drawn faces) and tags are stored unchanged in version_0_1, with the
code of a0f92b4 that was saved with it.
"""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import release, translate
from training.registry import lineage
from training.registry import versions as registry
from training.registry.lineage import LineageError
from training.tracking import client as tracking

OLD = Path(__file__).with_name("version_0_1")
NAME = "stargan/1"

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow leaves SQLite pools open
]


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a new registry that contains the old version."""
    working_folder = tmp_path_factory.mktemp("old")
    uri = f"sqlite:///{working_folder / 'runs' / 'mlflow.db'}"
    (working_folder / "runs").mkdir()
    shutil.copytree(OLD / "store", working_folder / "runs" / "store")
    facts = json.loads((OLD / "registry.json").read_text())
    mlflow = tracking.mlflow()
    api = mlflow.MlflowClient(uri, uri)
    experiment = api.create_experiment("old", (working_folder / "runs" / "mlartifacts").as_uri())
    run_id = api.create_run(experiment).info.run_id
    model = api.create_logged_model(experiment, name=facts["name"], source_run_id=run_id)
    api.log_model_artifacts(model.model_id, str(OLD / "version"))
    api.finalize_logged_model(model.model_id, mlflow.entities.LoggedModelStatus.READY)
    api.create_registered_model(facts["name"], tags=facts["model_tags"])
    mlflow.set_tracking_uri(uri)  # source is resolved at MLflow's global tracking URI
    try:
        version = api.create_model_version(
            facts["name"], f"models:/{model.model_id}", run_id, tags=facts["tags"],
            description=(OLD / "version" / "README.md").read_text(), model_id=model.model_id,
        )  # fmt: skip
    finally:
        mlflow.set_tracking_uri(None)
    assert str(version.version) == facts["version"]
    for alias in facts["aliases"]:
        api.set_registered_model_alias(facts["name"], alias, facts["version"])
    return working_folder


@pytest.fixture(autouse=True)
def working_folder(registered: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use the default stores in the working folder."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "STORE_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(registered)
    return registered


def expected() -> dict[str, object]:
    return dict(json.loads((OLD / "expected.json").read_text()))


def test_files_and_training_data_are_verified(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`release verify` including data; the record names the commit."""
    release.main(["verify", NAME])
    files = len([p for p in (OLD / "version").rglob("*") if p.is_file()]) - 1  # without the record
    output = capsys.readouterr().out
    assert f"{NAME}: {files} files as registered" in output
    assert lineage.verify(NAME).git_commit.startswith("a0f92b4")


def test_an_altered_old_version_is_still_refused(
    registered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One changed weight is detected and named."""
    download = registry.download

    def altered(found: object, folder: Path) -> Path:
        path = download(found, folder) / "artifacts" / "model" / "ema" / "G.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
        return folder

    monkeypatch.setattr(registry, "download", altered)
    with pytest.raises(LineageError, match=r"weights altered: artifacts/model/ema/G\.safetensors"):
        lineage.verify(NAME)


def test_it_is_the_champion_with_its_history() -> None:
    assert registry.champion("stargan") == "1"
    assert [(m["kind"], m["to"]) for m in registry.history("stargan")] == [("promote", "1")]


@pytest.mark.parametrize("reference", [NAME, "stargan@champion"])
def test_edit_is_unchanged(reference: str, tmp_path: Path) -> None:
    """No output value is close to a rounding step, so the result is the same on other CPUs."""
    out = tmp_path / "edited.png"
    translate.main([reference, str(OLD / "input.png"), str(out), *expected()["labels"]])
    with Image.open(out) as mine, Image.open(OLD / "edited.png") as then:
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(then))


ELSEWHERE = """
    import sys, warnings
    warnings.simplefilter("ignore")
    sys.path[:] = [p for p in sys.path if p not in ROOTS]
    try:
        import training
    except ModuleNotFoundError:
        pass
    else:
        raise SystemExit(f"the project is importable: {training.__file__}")
    import mlflow, numpy as np
    from PIL import Image
    mlflow.set_tracking_uri(URI)
    model = mlflow.pyfunc.load_model("models:/stargan@champion")
    import training
    print("code from", training.__file__)
    picture = Image.open(INPUT).convert("RGB")
    image = np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
    np.save("edited.npy", model.predict({"image": image, "label": np.array([LABEL], np.float32)}))
"""


def test_it_loads_with_its_saved_code(registered: Path, tmp_path: Path) -> None:
    """Without this project on the path it predicts the same array as under a0f92b4."""
    root = str(Path(translate.__file__).resolve().parents[1])
    values = {
        "ROOTS": [root, str(Path.cwd()), ""], "URI": tracking.uri(), "LABEL": expected()["label"],
        "INPUT": str(OLD / "input.png"),
    }  # fmt: skip
    script = textwrap.dedent(ELSEWHERE)
    for name, value in values.items():
        script = script.replace(name, repr(value))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", script],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert str(registered) in done.stdout.split("code from", 1)[1].splitlines()[0]
    mine, then = np.load(tmp_path / "edited.npy"), np.load(OLD / "edited.npy")
    np.testing.assert_allclose(mine, then, rtol=0, atol=1e-5)

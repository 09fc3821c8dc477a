"""The environment is read in one module, from which its page is generated."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines import resources
from pipelines.local import containers
from training.core import environment

ROOT = Path(__file__).parents[2]
NAMES = {variable.name for variable in environment.VARIABLES}
SOURCES = sorted(
    path
    for package in ("training", "components", "pipelines")
    for path in (ROOT / package).rglob("*.py")
    if path != ROOT / "training" / "core" / "environment.py"
)


def test_no_other_module_reads_the_environment() -> None:
    """Neither os.environ, os.getenv nor os.putenv, under whatever name it is imported."""
    forbidden = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.attr] if isinstance(node, ast.Attribute) else []
            if isinstance(node, ast.ImportFrom) and node.module == "os":
                names = [alias.name for alias in node.names]
            found += [(path.relative_to(ROOT), name) for name in names if name in forbidden]
    assert found == []


def test_no_other_module_names_a_variable_that_it_could_read() -> None:
    """Except modules that set them, or name a cluster's: its settings and secrets, the local
    stack's exports, MLflow's."""
    cluster = {f"pipelines/{name}.py" for name in ("resources", "checks", "credentials", "state")}
    setters = {*cluster, "pipelines/local/stack.py"}
    spelt = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and node.value in NAMES:
                spelt.add(path.relative_to(ROOT).as_posix())
    assert spelt <= setters


def test_the_documented_variables_are_those_of_the_module() -> None:
    """To update it: python -m training.core > docs/environment.md"""
    assert (ROOT / "docs" / "environment.md").read_text() == environment.table()


def test_variables_of_clusters_and_containers_are_documented() -> None:
    (settings,) = [
        document["data"]
        for document in yaml.safe_load_all((ROOT / "k8s/base/steps/environment.yaml").read_text())
        if document["kind"] == "ConfigMap"
    ]
    given = {*resources.ADDRESSES, *settings, *containers.NAMES}
    given |= {name for names in resources.SECRETS.values() for name in names}
    assert given <= NAMES


def test_the_steps_get_every_variable_that_a_clusters_config_map_may_set() -> None:
    """As a TrainJob's pods do, which take the whole map."""
    told = {one.name for one in environment.VARIABLES if one.set_by == environment.YOU}
    assert told == set(resources.ADDRESSES) >= {"COLLECTIVE_TIMEOUT", "S3_PATIENCE"}


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_PATIENCE", "")
    assert environment.S3_PATIENCE.number() == 60.0
    monkeypatch.setenv("S3_PATIENCE", "2.5")
    assert environment.S3_PATIENCE.number() == 2.5


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_wrong_number_is_refused_with_its_variable(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLECTIVE_TIMEOUT", text)
    with pytest.raises(ValueError, match=f"^COLLECTIVE_TIMEOUT={text}: needs a finite number"):
        environment.COLLECTIVE_TIMEOUT.number()
    monkeypatch.setenv("RANK", text)
    with pytest.raises(ValueError, match=f"^RANK={text}: needs a whole number"):
        environment.RANK.count()


def test_a_block_restores_the_variables_that_it_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the block sets, removes or keeps a variable, and if it fails."""
    monkeypatch.setenv("LAUNCH_ID", "mine")
    monkeypatch.delenv("PIPELINE_RUN_ID", raising=False)

    def block() -> None:
        with environment.changed(LAUNCH_ID="other", PIPELINE_RUN_ID="run"):
            assert environment.LAUNCH_ID.get() == "other"
            assert environment.PIPELINE_RUN_ID.get() == "run"
            del os.environ["PIPELINE_RUN_ID"]
            raise KeyError

    with pytest.raises(KeyError):
        block()
    assert environment.LAUNCH_ID.get() == "mine"
    assert environment.PIPELINE_RUN_ID.get() == ""


COMPUTING = ("judge", "train", "evaluate", "translate", "launch", "inference.translator")


def _waiting(module: str, **given: str) -> tuple[str, str]:
    """Wait policy and spins that the OpenMP runtime reports after `module` has been imported."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    result = subprocess.run(
        [sys.executable, "-c", f"import {module}, torch"], text=True, capture_output=True,
        check=True,
        env={k: v for k, v in os.environ.items() if k not in names}
        | {"OMP_DISPLAY_ENV": "verbose", **given},
    )  # fmt: skip
    policy, spins = (re.findall(rf"{name} = '(\w+)'", result.stderr) for name in names)
    return str(policy[0]), str(spins[0])


@pytest.mark.parametrize("module", COMPUTING)
def test_waiting_threads_sleep_in_every_program_that_computes(module: str) -> None:
    """OpenMP reads the setting when torch is loaded: it must be set before."""
    assert _waiting(f"training.{module}") == ("PASSIVE", "3000")


def test_waiting_threads_sleep_in_a_step_of_the_pipeline() -> None:
    assert _waiting("components.train, training.launch") == ("PASSIVE", "3000")


def test_a_way_of_waiting_that_the_user_chose_is_kept() -> None:
    policy, spins = _waiting("training.train", OMP_WAIT_POLICY="active")
    assert policy == "ACTIVE"
    assert int(spins) > 10**6
    assert _waiting("training.train", OMP_WAIT_POLICY="passive") == ("PASSIVE", "0")
    assert _waiting("training.train", GOMP_SPINCOUNT="70")[1] == "70"


def test_an_empty_wait_policy_counts_as_not_set() -> None:
    assert _waiting("training.train", OMP_WAIT_POLICY="") == ("PASSIVE", "3000")


def test_an_unreachable_server_behind_a_proxy_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until its host is in NO_PROXY, as the text says."""
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    address = "http://bob:secret@mlflow.local:5000/x"
    assert environment.proxied(address) == ""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    text = environment.proxied(address)
    assert text.endswith("add mlflow.local to NO_PROXY")
    assert "secret" not in text
    assert environment.proxied("https://mlflow.local") == ""
    assert environment.proxied("sqlite:///x.db") == ""
    monkeypatch.setenv("NO_PROXY", "localhost,mlflow.local")
    assert environment.proxied(address) == ""

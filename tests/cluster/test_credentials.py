"""`python -m pipelines secrets`: every secret that something of the cluster reads, newly drawn."""

import configparser
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest
import yaml

from pipelines import __main__ as program
from pipelines import compiled
from pipelines.manifests import build

K8S = Path(__file__).parents[2] / "k8s"
OPTIONAL = "stargan-openlineage"  # no key that can be drawn: of somebody's lineage server
OPTIONS = {"dev": (), "prod": ("--overlay", "prod", "--database", "db.faces.org")}
Values = dict[str, dict[str, str]]


def draw(capsys: pytest.CaptureFixture[str], *options: str) -> Values:
    """The printed secrets, by name and key."""
    program.main(["secrets", *options])
    found = list(yaml.safe_load_all(capsys.readouterr().out))
    assert {(one["apiVersion"], one["kind"]) for one in found} == {("v1", "Secret")}
    return {one["metadata"]["name"]: one["stringData"] for one in found}


def referenced(value: Any) -> list[tuple[str, set[str]]]:
    """Every secret that a Kubernetes object names, with the keys that it names."""
    if isinstance(value, list):
        return [pair for one in value for pair in referenced(one)]
    if not isinstance(value, dict):
        return []
    found = [pair for one in value.values() for pair in referenced(one)]
    if "secretKeyRef" in value:
        found.append((value["secretKeyRef"]["name"], {value["secretKeyRef"]["key"]}))
    if "secretRef" in value:
        found.append((value["secretRef"]["name"], set()))
    if "secret" in value and "secretName" in value["secret"]:
        keys = {item["key"] for item in value["secret"].get("items", ())}
        found.append((value["secret"]["secretName"], keys))
    if "secretAsEnv" in value:  # Kubeflow's, in the compiled pipeline
        found += [
            (row["secretName"], {pair["secretKey"] for pair in row["keyToEnv"]})
            for row in value["secretAsEnv"]
        ]
    return found


@pytest.mark.parametrize("overlay", OPTIONS)
def test_all_that_the_cluster_reads_is_drawn_and_nothing_else(
    overlay: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the built overlay, the jobs' pods and the compiled pipeline."""
    if not shutil.which("kubectl"):
        pytest.skip("no genuine kustomize: kubectl is not installed")
    texts = [build(K8S / "overlays" / overlay), compiled.PACKAGE.read_text()]
    texts += [path.read_text() for path in sorted((K8S / "jobs").iterdir())]
    wanted: dict[str, set[str]] = {}
    for text in texts:
        for name, keys in referenced(list(yaml.safe_load_all(text))):
            wanted[name] = wanted.get(name, set()) | keys
    assert wanted.pop(OPTIONAL)  # another's key
    made = draw(capsys, *OPTIONS[overlay])
    assert made.keys() == wanted.keys()
    for name, keys in wanted.items():
        assert keys <= made[name].keys(), name
        assert all(made[name].values()), name


def test_the_names_and_keys_are_those_of_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    example = list(yaml.safe_load_all((K8S / "secrets.example.yaml").read_text()))
    keys = {one["metadata"]["name"]: one["stringData"].keys() for one in example}
    del keys[OPTIONAL]
    assert {name: values.keys() for name, values in draw(capsys).items()} == keys


def test_no_secret_is_printed_twice(capsys: pytest.CaptureFixture[str]) -> None:
    """Where the steps run in the same namespace; kubectl create would refuse the second."""
    for more, count in (([], 7), (["--steps", "stargan"], 7), (["--steps", "kubeflow"], 9)):
        program.main(["secrets", *more])
        found = list(yaml.safe_load_all(capsys.readouterr().out))
        places = {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in found}
        assert (len(found), len(places)) == (count, count), more


def passwords(values: Values) -> list[str]:
    """Every drawn text that opens something, without user names and addresses."""
    return [
        value for keys in values.values() for key, value in keys.items()
        if re.search(r"PASSWORD|SECRET", key)
    ]  # fmt: skip


def test_two_draws_share_no_password_and_none_is_guessable(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At least 128 random bits: 22 characters of 64; the owner of the databases has one."""
    one, two = draw(capsys), draw(capsys)
    assert not set(passwords(one)) & set(passwords(two))
    ids = [[v["AWS_ACCESS_KEY_ID"] for n, v in x.items() if n.endswith("-s3")] for x in (one, two)]
    assert len({*ids[0], *ids[1]}) == 8
    assert len(set(passwords(one))) == len(passwords(one)) == 8
    for value in passwords(one):
        assert re.fullmatch(r"[\w-]{22,}", value, re.ASCII), value


def test_a_login_is_the_same_wherever_it_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    """MLflow's administrator in auth.ini and for the steps; the databases' owner in four places."""
    made = draw(capsys)
    auth = configparser.ConfigParser()
    auth.read_string(made["mlflow-server"]["auth.ini"])
    assert auth["mlflow"]["admin_username"] == made["stargan-mlflow"]["MLFLOW_TRACKING_USERNAME"]
    assert auth["mlflow"]["admin_password"] == made["stargan-mlflow"]["MLFLOW_TRACKING_PASSWORD"]
    places = {
        "mlflow": urlsplit(made["mlflow-server"]["MLFLOW_BACKEND_STORE_URI"]),
        "mlflow_auth": urlsplit(auth["mlflow"]["database_uri"]),
    }
    services = configparser.ConfigParser()
    services.read_string(made["mlflow-server"]["pg_service.conf"])
    owner = made["postgres"]["MLFLOW_PASSWORD"]
    for name, service in (("mlflow", "mlflow"), ("mlflow_auth", "auth")):
        url = places[name]
        assert (url.username, url.password, url.path) == ("mlflow", owner, f"/{name}")
        assert (url.hostname, url.port) == ("postgres", 5432)
        assert dict(services[service]) == {
            "host": "postgres", "port": "5432", "dbname": name, "user": "mlflow",
            "password": owner,
        }  # fmt: skip


def test_the_servers_own_checks_accept_what_is_drawn(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """MLflow's init container and the script that makes SeaweedFS's identities."""
    made = draw(capsys)
    deployment = next(yaml.safe_load_all((K8S / "base" / "mlflow.yaml").read_text()))
    (container,) = deployment["spec"]["template"]["spec"]["initContainers"]
    (tmp_path / "auth.ini").write_text(made["mlflow-server"]["auth.ini"])
    program, flags, script = container["command"]
    server = {k: v for k, v in made["mlflow-server"].items() if re.fullmatch(r"[A-Z_]+", k)}
    subprocess.run(
        [program, flags, script.replace("/etc/mlflow", str(tmp_path))], check=True,
        env={"PATH": os.environ["PATH"], **made["mlflow-s3"], **server},
    )  # fmt: skip
    keys = {
        f"{role.upper()}_{key.removeprefix('AWS_')}": value
        for role, name in (("admin", "admin-s3"), ("steps", "stargan-s3"),
                           ("mlflow", "mlflow-s3"), ("backup", "backup-s3"))
        for key, value in made[name].items()
    }  # fmt: skip
    made_of = subprocess.run(
        ["sh", str(K8S / "s3" / "identities.sh"), str(K8S / "s3")], check=True,
        capture_output=True, text=True, env={"PATH": os.environ["PATH"], **keys},
    )  # fmt: skip
    assert len(json.loads(made_of.stdout)["identities"]) == 4


def test_the_dump_finds_the_database_of_prod(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libpq reads host and port from pg_service.conf; nothing listens on port 1."""
    made = draw(capsys, "--overlay", "prod", "--database", "127.0.0.1:1")
    (tmp_path / "pg_service.conf").write_text(made["mlflow-server"]["pg_service.conf"])
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "pg_service.conf"))
    for service in ("mlflow", "auth"):
        with pytest.raises(psycopg2.OperationalError, match=r'"127\.0\.0\.1", port 1 failed'):
            psycopg2.connect(f"service={service}")
    assert ":1/mlflow" in made["mlflow-server"]["MLFLOW_BACKEND_STORE_URI"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--overlay", "prod"], "needs the address of your Postgres"),
        (["--database", "db.faces.org"], "the overlay dev has its own"),
        (["--overlay", "prod", "--database", "postgres://u@db/x"], "HOST or HOST:PORT is needed"),
    ],
)
def test_a_wrong_address_draws_nothing(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=said):
        program.main(["secrets", *options])
    assert capsys.readouterr().out == ""


def test_kubectl_reads_the_whole_output_without_a_namespace_option(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own parser, which takes 12e4 for a number: every value is still a text."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    monkeypatch.setattr("pipelines.credentials.secrets.token_hex", lambda _: "12345678901234567e12")
    program.main(["secrets", "--namespace", "faces"])
    text = capsys.readouterr().out
    command = ["kubectl", "label", "--local", "-f", "-", "drawn=yes", "-o", "json"]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = re.findall(r'"AWS_ACCESS_KEY_ID": (\S+?),?\n', done.stdout)
    assert found == ['"12345678901234567e12"'] * 4
    assert done.stdout.count('"namespace": "faces"') == 7

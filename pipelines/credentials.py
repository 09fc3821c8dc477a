"""Draw the passwords and keys of an overlay of k8s/ and write them as Kubernetes secrets.

    python -m pipelines secrets | kubectl create -f -
    python -m pipelines secrets --overlay prod --database db.faces.org >/somewhere/else.yaml
    python -m pipelines secrets --steps kubeflow | kubectl create -f -  # without profiles

Every call draws new ones and nothing is stored here: `kubectl create` refuses secrets that exist,
`kubectl apply` would replace them, and the databases keep their former passwords.
"""

import re
import secrets
import sys
from typing import Annotated, Any, Literal

import yaml

from training.core.cli import means

NAMESPACE = "stargan"  # of k8s/base
ADMIN = "admin"  # MLflow's user, as whom the steps log in
STEPS = ("stargan-s3", "stargan-mlflow")  # the steps' own
ADDRESS = re.compile(r"[\w.-]+(?::\d+)?")
Secrets = dict[str, dict[str, str]]


class _Value(str):
    """A text that is quoted: kubectl reads 12e4 as a number, where Python's YAML does not."""


class _Dumper(yaml.SafeDumper):
    pass


def _quoted(dumper: Any, value: _Value) -> Any:
    style = "|" if "\n" in value else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(value), style=style)


_Dumper.add_representer(_Value, _quoted)


def password() -> str:
    """192 random bits in letters, digits, - and _: no address and no .ini file quotes them."""
    return secrets.token_urlsafe(24)


def s3_key() -> dict[str, str]:
    """An S3 key: its public id and its secret."""
    return {"AWS_ACCESS_KEY_ID": secrets.token_hex(10), "AWS_SECRET_ACCESS_KEY": password()}


def auth_ini(admin_password: str, database: str) -> str:
    """MLflow's auth.ini; `database` is the URI of its users' database."""
    return (
        f"[mlflow]\ndefault_permission = READ\nadmin_username = {ADMIN}\n"
        f"admin_password = {admin_password}\n"
        f"database_uri = {database.replace('%', '%%')}\n"
        "authorization_function = training.tracking.server:authorized\n"
    )


def drawn(database: str) -> Secrets:
    """New values of all secrets of the overlay `dev`, by secret and key.

    `database` is host:port of Postgres, where the role `mlflow` owns `mlflow` and `mlflow_auth`.
    """
    admin, owner = password(), password()
    host, _, port = database.partition(":")

    def uri(name: str) -> str:
        return f"postgresql+psycopg2://mlflow:{owner}@{database}/{name}"

    def service(name: str, base: str) -> str:
        where = f"host={host}\nport={port}\ndbname={base}\n"
        return f"[{name}]\n{where}user=mlflow\npassword={owner}\n"

    return {
        "stargan-s3": s3_key(),
        "mlflow-s3": s3_key(),
        "backup-s3": s3_key(),
        "admin-s3": s3_key(),
        "stargan-mlflow": {"MLFLOW_TRACKING_USERNAME": ADMIN, "MLFLOW_TRACKING_PASSWORD": admin},
        "mlflow-server": {
            "MLFLOW_BACKEND_STORE_URI": uri("mlflow"),
            "pg_service.conf": service("mlflow", "mlflow") + service("auth", "mlflow_auth"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": password(),
            "auth.ini": auth_ini(admin, uri("mlflow_auth")),
        },
        "postgres": {
            "POSTGRES_USER": "stargan", "POSTGRES_PASSWORD": password(), "MLFLOW_PASSWORD": owner,
        },
    }  # fmt: skip


def write(
    *,
    overlay: Annotated[Literal["dev", "prod"], means("of k8s/overlays")] = "dev",
    database: Annotated[str, means("HOST or HOST:PORT of your Postgres, for prod")] = "",
    namespace: Annotated[str, means("of the secrets", "--namespace", "-n")] = NAMESPACE,
    steps: Annotated[str, means("namespace of the steps if it is another: theirs go to both")] = "",
) -> None:
    """Draw all passwords and keys; print them as Kubernetes secrets."""
    if (overlay == "prod") is not bool(database):
        raise ValueError(
            "--overlay prod needs the address of your Postgres as --database HOST; "
            "the overlay dev has its own"
        )
    if database and not ADDRESS.fullmatch(database):
        raise ValueError(f"--database {database}: HOST or HOST:PORT is needed")
    host, _, port = (database or "postgres").partition(":")
    found = drawn(f"{host}:{port or 5432}")
    if overlay == "prod":
        for name in ("admin-s3", "postgres"):
            del found[name]
        sys.stderr.write(
            "secrets: S3 must know the keys of stargan-s3, mlflow-s3 and backup-s3 (on AWS, put in "
            "IAM's instead), and Postgres the role `mlflow` with the password in mlflow-server\n"
        )
    objects = [
        {
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": name, "namespace": space},
            "stringData": {key: _Value(value) for key, value in values.items()},
        }
        for name, values in found.items()
        for space in dict.fromkeys([namespace, *([steps] if steps and name in STEPS else [])])
    ]  # fmt: skip
    sys.stdout.write(yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False))

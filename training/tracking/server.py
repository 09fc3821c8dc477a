"""MLflow's check of a login, which also refuses artifact locations outside the server's store.

`authorization_function = training.tracking.server:authorized` in auth.ini. A user who may choose
the location makes the server read and write there with its own keys. The sources of versions have
MLflow's own setting, MLFLOW_CREATE_MODEL_VERSION_SOURCE_VALIDATION_REGEX.
"""

import json
from typing import Any

from flask import Response, jsonify, request

OWN = "mlflow-artifacts:/"  # the store behind the server
NAMES = ("artifact_location", "artifactLocation")  # both are the same field to MLflow


def authorized() -> Any:
    """The login, or the response that refuses the request."""
    from mlflow.server.auth import authenticate_request_basic_auth

    login = authenticate_request_basic_auth()
    return login if isinstance(login, Response) else _refusal() or login


def _refusal() -> Response | None:
    if not request.path.endswith("/mlflow/experiments/create"):
        return None
    try:
        body = _body()
    except (ValueError, RecursionError):
        body = []
    if not isinstance(body, dict):
        return _refused("the request's body: a JSON object is needed")
    given = [body[name] for name in NAMES if body.get(name)]
    if all(str(place).startswith(OWN) for place in given):
        return None
    return _refused(
        f"artifact_location={given[0]!r}: this server keeps artifacts in its own store "
        "only; leave artifact_location out"
    )


def _body() -> Any:
    """The body as MLflow reads it: a JSON text within a JSON text is decoded, too; {} for none."""
    body = request.get_json(force=True, silent=True)
    if isinstance(body, str):
        body = json.loads(body)
    return {} if body is None else body


def _refused(message: str) -> Response:
    answer = jsonify(error_code="INVALID_PARAMETER_VALUE", message=message)
    answer.status_code = 400
    return answer

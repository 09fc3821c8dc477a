"""MLflow's check of a login, which also refuses artifact locations outside the server's store.

`authorization_function = training.tracking.server:authorized` in auth.ini. A user who may choose
the location makes the server read and write there with its own keys. The sources of versions have
MLflow's own setting, MLFLOW_CREATE_MODEL_VERSION_SOURCE_VALIDATION_REGEX.
"""

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
    body = request.get_json(force=True, silent=True)
    given = [body[name] for name in NAMES if body.get(name)] if isinstance(body, dict) else []
    if all(str(place).startswith(OWN) for place in given):
        return None
    answer = jsonify(
        error_code="INVALID_PARAMETER_VALUE",
        message=f"artifact_location={given[0]!r}: this server keeps artifacts in its own store "
        "only; leave artifact_location out",
    )
    answer.status_code = 400
    return answer

"""What MLflow's server is asked for is read as MLflow itself reads it."""

import json

import pytest
from flask import Flask, Response

from training.tracking.server import NAMES, _refusal

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")
APP = Flask(__name__)
PATH = "/api/2.0/mlflow/experiments/create"


def answered(body: str) -> tuple[Response | None, str]:
    """The refusal of a request with this body, and the location that MLflow reads from it."""
    from mlflow.protos.service_pb2 import CreateExperiment
    from mlflow.server.handlers import _get_request_message

    sent = {"method": "POST", "data": body, "content_type": "application/json"}
    with APP.test_request_context(PATH, **sent):
        return _refusal(), _get_request_message(CreateExperiment()).artifact_location


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("times", [1, 2])
def test_a_location_elsewhere_is_refused_however_often_the_body_is_encoded(
    name: str, times: int
) -> None:
    """MLflow decodes twice what older clients send, and would use the location."""
    body = json.dumps({"name": "x", name: "s3://stargan-backup"})
    refusal, read = answered(body if times == 1 else json.dumps(body))
    assert read == "s3://stargan-backup"
    assert refusal is not None
    assert refusal.status_code == 400
    assert "keeps artifacts in its own store only" in refusal.get_json()["message"]


@pytest.mark.parametrize("place", ["", "mlflow-artifacts:/1"])
@pytest.mark.parametrize("times", [1, 2])
def test_the_servers_own_store_is_accepted(place: str, times: int) -> None:
    body = json.dumps({"name": "x", "artifact_location": place})
    refusal, read = answered(body if times == 1 else json.dumps(body))
    assert (refusal, read) == (None, place)


@pytest.mark.parametrize("body", ["[1]", "7", '"no JSON"', '"[]"', json.dumps("[" * 100_000)])
def test_a_body_that_is_no_object_is_refused(body: str) -> None:
    with APP.test_request_context(PATH, method="POST", data=body):
        refusal = _refusal()
    assert refusal is not None
    assert refusal.get_json()["message"] == "the request's body: a JSON object is needed"


@pytest.mark.parametrize("body", ["", "null", "no JSON"])
def test_a_body_that_mlflow_takes_for_an_empty_one_is_left_to_it(body: str) -> None:
    assert answered(body) == (None, "")

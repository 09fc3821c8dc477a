"""Answers of a real Kubeflow server on six runs: how each ended, and the step that failed."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from kfp_server_api import ApiClient

from pipelines.submit import follow
from project import ROOT

ANSWERS = ROOT.parent / "shared" / "cases" / "kfp-runs"


def answers(name: str) -> list[Any]:
    """The server's answers to one run, in order, as the client library reads them."""
    path = ANSWERS / f"{name}.json"
    if not path.is_file():
        pytest.skip("no genuine reports beside this checkout")
    content = json.loads(path.read_text())
    api = ApiClient()
    return [
        api.deserialize(SimpleNamespace(data=json.dumps(one)), "V2beta1Run")
        for one in (content if isinstance(content, list) else [content])
    ]


@pytest.mark.parametrize("name", ["succeeded", "from-cache", "sequence"])
def test_a_run_that_succeeded_is_told_as_such(name: str) -> None:
    lines: list[str] = []
    assert follow(iter(answers(name)).__next__, lines.append, every=0)
    assert lines[-1] == "run SUCCEEDED"
    assert "promote: SUCCEEDED" in lines


@pytest.mark.parametrize(
    ("name", "step"),
    [("failed-by-mistake", "resolve"), ("pod-deleted", "train"), ("terminated", "train")],
)
def test_a_run_that_failed_names_the_step(name: str, step: str) -> None:
    lines: list[str] = []
    assert not follow(iter(answers(name)).__next__, lines.append, every=0)
    assert "run FAILED" in lines
    steps = {"resolve", "pull", "validate", "preprocess", "train", "evaluate", "promote"}
    assert {line for line in lines if line.removeprefix("failed: ") in steps} == {f"failed: {step}"}

"""Answers of a real Kubeflow server on runs, recorded on 2026-11-28 (KFP 2.17.0, Argo 4.0.5).

`pipelines/kfp_runs/*.json` has of each answer the fields that are read, and only the nodes that are
new or changed since the answer before; ids are cut to eight characters.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FOLDER = Path(__file__).parents[1] / "pipelines" / "kfp_runs"


def read(answers: Iterable[dict[str, Any]]) -> list[Any]:
    """Answers as the client library reads them."""
    from kfp_server_api import ApiClient

    api = ApiClient()
    return [api.deserialize(SimpleNamespace(data=json.dumps(one)), "V2beta1Run") for one in answers]


def whole(name: str) -> list[dict[str, Any]]:
    """The server's answers to one run, in order, each with all its nodes."""
    nodes: dict[str, dict[str, Any]] = {}
    found = []
    for one in json.loads((FOLDER / f"{name}.json").read_text()):
        nodes |= {node["task_id"]: node for node in one.pop("nodes")}
        found.append({**one, "run_details": {"task_details": list(nodes.values())}})
    return found


def recorded(name: str) -> list[Any]:
    """The same as the client library reads them."""
    return read(whole(name))

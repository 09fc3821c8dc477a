"""OpenLineage events checked against the client's classes and the specification's required fields.

openlineage-python ships no JSON schema. The fields are those that spec/OpenLineage.json 2-0-2 of
https://github.com/OpenLineage/OpenLineage requires; the classes are generated from it.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from openlineage.client import event_v2, facet_v2

SPEC = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
FACETS = {
    kind._get_schema(): kind
    for module in vars(facet_v2).values()
    if isinstance(module, ModuleType)
    for kind in vars(module).values()
    if hasattr(kind, "__attrs_attrs__") and hasattr(kind, "_get_schema")
}


def read(path: Path) -> list[dict[str, Any]]:
    """The events of a file, each checked."""
    return [checked(json.loads(line)) for line in path.read_text().splitlines()]


def checked(event: dict[str, Any]) -> dict[str, Any]:
    """The event, if each of its parts is one that OpenLineage defines."""
    assert event["schemaURL"] == SPEC
    assert event["producer"]
    run, job = event["run"], event["job"]
    made = event_v2.RunEvent(
        eventTime=event["eventTime"],
        run=event_v2.Run(**run),
        job=event_v2.Job(**job),
        inputs=[event_v2.InputDataset(**one) for one in event["inputs"]],
        outputs=[event_v2.OutputDataset(**one) for one in event["outputs"]],
    )
    assert event["eventType"] in {state.value for state in event_v2.RunState}
    assert event.keys() <= {field.name for field in made.__attrs_attrs__}
    for part in (run, job, *event["inputs"], *event["outputs"]):
        for name in ("facets", "inputFacets", "outputFacets"):
            for values in part.get(name, {}).values():
                _check_facet(values)
    return event


def _check_facet(values: dict[str, Any]) -> None:
    assert values["_producer"]
    kind = FACETS[values["_schemaURL"]]
    own = {key: value for key, value in values.items() if not key.startswith("_")}
    kind(**own)  # a TypeError names what is missing or unknown
    for one in own.get("tags", ()):
        assert all(isinstance(value, str) for value in one.values())


def steps(events: Iterable[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(event["job"]["name"], event["eventType"]) for event in events]


def versions(parts: Iterable[dict[str, Any]]) -> dict[str, str]:
    """The versions of an event's inputs or outputs, by name."""
    return {one["name"]: one["facets"]["version"]["datasetVersion"] for one in parts}


def tags(part: dict[str, Any]) -> dict[str, str]:
    return {one["key"]: one["value"] for one in part["facets"]["tags"]["tags"]}

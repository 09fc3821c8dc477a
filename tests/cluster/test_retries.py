"""The policy that lets Argo try lost pods again: its own expressions on a workflow like KFP's."""

import copy
import re
from pathlib import Path
from typing import Any

import cel
import kubernetes_validate
import pytest
import yaml

RETRIES = Path(__file__).parents[2] / "k8s" / "platform" / "retries.yaml"
POLICY, BINDING = yaml.safe_load_all(RETRIES.read_text())
Object = dict[str, Any]


def workflow() -> Object:
    """The kinds of templates that Kubeflow Pipelines 2.17 compiles: drivers, steps with a limit and
    pauses from their inputs, steps without, and graphs."""
    pauses = {"duration": "{{inputs.parameters.retry-backoff-duration}}", "factor": "2"}
    retry = {"limit": "{{inputs.parameters.retry-max-count}}", "backoff": pauses}
    templates: list[Object] = [
        {"name": "system-container-driver", "container": {"command": ["driver"]}},
        {"name": "system-container-executor", "dag": {"tasks": [
            {"name": "executor", "template": "system-container-impl"}]}},
        {"name": "system-container-impl", "container": {"command": ["launcher"]}},
        {"name": "retry-system-container-impl", "container": {"command": ["launcher"]},
         "retryStrategy": retry},
        {"name": "graph", "dag": {"tasks": []}, "retryStrategy": retry},
        {"name": "told", "container": {}, "retryStrategy": {**retry, "retryPolicy": "OnError"}},
        {"name": "for-ever", "container": {}, "retryStrategy": {}},
    ]  # fmt: skip
    return {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow",
            "metadata": {"generateName": "stargan-"},
            "spec": {"entrypoint": "entrypoint", "templates": templates}}  # fmt: skip


def patches(found: Object) -> list[Object]:
    """What the policy's expression gives. Kubernetes' type JSONPatch is a map for this evaluator,
    which gets `indexOf` of Kubernetes' library of lists from here."""
    spec = POLICY["spec"]
    context: dict[str, Any] = {"object": found, "indexOf": lambda many, one: many.index(one)}
    if not all(cel.evaluate(one["expression"], context) for one in spec["matchConditions"]):
        return []
    context["variables"] = {
        one["name"]: cel.evaluate(one["expression"], context) for one in spec["variables"]
    }
    (mutation,) = spec["mutations"]
    assert mutation["patchType"] == "JSONPatch"
    text = mutation["jsonPatch"]["expression"].replace("JSONPatch{", "{")
    text = re.sub(r"\b(op|path|value):", r'"\1":', text)
    return list(cel.evaluate(text, context))


@pytest.mark.parametrize("found", [POLICY, BINDING], ids=["policy", "binding"])
def test_the_objects_are_valid_for_a_current_kubernetes(found: Object) -> None:
    kubernetes_validate.validate(found, kubernetes_validate.latest_version(), strict=True)


def test_only_steps_with_a_limit_and_no_policy_are_tried_again_if_their_pod_is_lost() -> None:
    """No graph, which would run again as a whole; nothing without a limit, which would not end."""
    found = workflow()
    (patch,) = patches(found)
    assert patch == {
        "op": "add", "path": "/spec/templates/3/retryStrategy/retryPolicy", "value": "Always"
    }  # fmt: skip
    changed = copy.deepcopy(found)
    changed["spec"]["templates"][3]["retryStrategy"]["retryPolicy"] = "Always"
    assert patches(changed) == []  # the same again changes nothing


def test_a_workflow_of_a_template_is_left() -> None:
    assert patches({"spec": {"workflowTemplateRef": {"name": "other"}}}) == []


def test_the_policy_is_for_new_workflows_of_this_namespace_and_refuses_none() -> None:
    (rule,) = POLICY["spec"]["matchConstraints"]["resourceRules"]
    assert (rule["apiGroups"], rule["resources"]) == (["argoproj.io"], ["workflows"])
    assert rule["operations"] == ["CREATE"]
    assert POLICY["spec"]["failurePolicy"] == "Ignore"
    assert BINDING["spec"]["policyName"] == POLICY["metadata"]["name"]
    selector = BINDING["spec"]["matchResources"]["namespaceSelector"]
    assert selector == {"matchLabels": {"kubernetes.io/metadata.name": "stargan"}}

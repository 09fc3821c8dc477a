"""The account that Kubeflow runs the steps as, and what it may do."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Literal

import yaml

from pipelines.state import Finding, State

ROLE = Path(__file__).parents[1] / "k8s" / "base" / "steps" / "accounts.yaml"
ACCOUNTS = {True: "default-editor", False: "pipeline-runner"}  # with profiles and without


def rights(state: State) -> Iterator[Finding]:
    """The account of the steps, and that it may do what starts and follows a TrainJob."""
    lacking: Literal["missing", "unneeded"] = "missing" if state.trainjob else "unneeded"
    likely = [ACCOUNTS[state.profiles]] if state.profiles is not None else [*ACCOUNTS.values()]
    account = next(
        (name for name in likely
         if state.read(state.core.read_namespaced_service_account, name, state.namespace)), "",
    )  # fmt: skip
    if not account:
        yield Finding("missing", "account", f"{' or '.join(likely)}; {_homeless(state)}")
        return
    denied = list(_denied(state, account))
    if denied:
        fix = f"the role in k8s/base/steps/accounts.yaml: {state.overlay}"
        yield Finding(lacking, "rights", f"{account} may not {', '.join(denied)}; {fix}")
    else:
        yield Finding("ok", "rights", f"{account} may start and follow TrainJobs")


def _homeless(state: State) -> str:
    """Why Kubeflow runs no step in the namespace, and where it would."""
    profile = f"create a Kubeflow profile named {state.namespace}, which brings it"
    where = state.kubeflow[0] if state.kubeflow else "that of its deployment ml-pipeline"
    alone = (
        f"Kubeflow without profiles runs the steps in its own namespace, {where}: python -m "
        "pipelines.manifests k8s/overlays/standalone | kubectl apply -f -, then doctor --namespace "
        f"{state.kubeflow[0] if state.kubeflow else 'NAME'} (docs/how-to/cluster.md)"
    )
    return {True: profile, False: alone, None: f"{profile}; {alone}"}[state.profiles]


def _denied(state: State, account: str) -> Iterator[str]:
    """What the launcher's role allows, and an account may not do."""
    from kubernetes import client

    role = next(one for one in yaml.safe_load_all(ROLE.read_text()) if one["kind"] == "Role")
    review = client.AuthorizationV1Api(state.api).create_namespaced_local_subject_access_review
    group = "system:serviceaccounts"
    subject = {
        "user": f"system:serviceaccount:{state.namespace}:{account}",
        "groups": [group, f"{group}:{state.namespace}", "system:authenticated"],
    }
    for rule in role["rules"]:
        for kind, verb in product(rule["resources"], rule["verbs"]):
            resource, _, part = kind.partition("/")
            wanted = {
                "namespace": state.namespace, "group": rule["apiGroups"][0], "resource": resource,
                "subresource": part, "verb": verb,
            }  # fmt: skip
            body = {
                "apiVersion": "authorization.k8s.io/v1", "kind": "LocalSubjectAccessReview",
                "metadata": {"namespace": state.namespace},
                "spec": {**subject, "resourceAttributes": wanted},
            }  # fmt: skip
            if not state.read(review, state.namespace, body)["status"]["allowed"]:
                yield f"{verb} {kind}"

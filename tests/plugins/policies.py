"""What network policies allow, worked out from their text as the NetworkPolicy API defines it."""

from typing import Any

WHERE = "kubernetes.io/metadata.name"  # label with a namespace's name
Object = dict[str, Any]
Pod = tuple[str, dict[str, str]]  # namespace, labels


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a selector matches these labels of a pod; NotIn also matches a missing label."""
    for rule in selector.get("matchExpressions", ()):
        value = labels.get(rule["key"])
        fits = {
            "In": value in rule.get("values", ()),
            "NotIn": value not in rule.get("values", ()),
            "Exists": value is not None,
        }
        if not fits[rule["operator"]]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def about(policies: list[Object], pod: Pod) -> list[Object]:
    """The policies that select a pod; others leave it as it is."""
    return [
        one for one in policies if one["metadata"]["namespace"] == pod[0]
        and selects(one["spec"]["podSelector"], pod[1])
    ]  # fmt: skip


def opened(policies: list[Object], source: Pod, target: Pod, port: int) -> bool:
    """Whether pods may connect: both sides must allow it."""
    return _one_side(policies, "egress", source, target, port) and _one_side(
        policies, "ingress", target, source, port
    )


def _one_side(policies: list[Object], side: str, own: Pod, other: Pod, port: int) -> bool:
    peers = {"egress": "to", "ingress": "from"}[side]
    chosen = [
        one["spec"] for one in about(policies, own)
        if side.capitalize() in one["spec"]["policyTypes"]
    ]  # fmt: skip
    return not chosen or any(
        any(_is(peer, own[0], other) for peer in rule[peers])
        and port in [one["port"] for one in rule.get("ports", ({"port": port},))]
        for spec in chosen for rule in spec.get(side, ())
    )  # fmt: skip


def _is(peer: Object, here: str, pod: Pod) -> bool:
    """Whether a peer of a policy in the namespace `here` is this pod; an address is none."""
    if "ipBlock" in peer:
        return False
    space = {WHERE: pod[0]}
    fits = (
        selects(peer["namespaceSelector"], space) if "namespaceSelector" in peer else pod[0] == here
    )
    return fits and selects(peer.get("podSelector", {}), pod[1])

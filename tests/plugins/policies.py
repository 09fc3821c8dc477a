"""What network policies allow, worked out from their text as the NetworkPolicy API defines it."""

from typing import Any

Object = dict[str, Any]


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


def opened(
    policies: list[Object], source: dict[str, str], target: dict[str, str], port: int
) -> bool:
    """Whether pods of one namespace with these labels may connect: both sides must allow it."""
    return _one_side(policies, "egress", source, target, port) and _one_side(
        policies, "ingress", target, source, port
    )


def _one_side(
    policies: list[Object], side: str, own: dict[str, str], other: dict[str, str], port: int
) -> bool:
    peers = {"egress": "to", "ingress": "from"}[side]
    about = [one for one in policies if side.capitalize() in one["policyTypes"]]
    chosen = [one for one in about if selects(one["podSelector"], own)]
    return not chosen or any(
        any("podSelector" in peer and "namespaceSelector" not in peer
            and selects(peer["podSelector"], other) for peer in rule[peers])
        and port in [one["port"] for one in rule.get("ports", ({"port": port},))]
        for policy in chosen for rule in policy.get(side, ())
    )  # fmt: skip

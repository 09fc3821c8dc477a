"""Whether a namespace's ResourceQuotas and LimitRanges let the pods of a run be created.

Only the steps' own containers are counted: those that Kubeflow adds are small, and their size is
the platform's.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from pipelines.capacity import Amounts, Need, amounts, requested, words
from pipelines.state import Finding

LESS = "or ask for less (step_cpu, step_memory, train_cpu, train_memory, accelerators, nodes)"
REQUIRED = ("cpu", "memory")  # a quota of these refuses a container that does not state them
NONE = Decimal(0)


def _limits(ranges: Iterable[Any], *kinds: str) -> Iterator[tuple[str, Any]]:
    """The name of each LimitRange, with each of its limits on `kinds`."""
    for one in ranges:
        yield from ((one["metadata"]["name"], limit) for limit in one["spec"]["limits"]
                    if limit["type"] in kinds)  # fmt: skip


def with_defaults(need: Need, ranges: Iterable[Any]) -> Need:
    """The need with the limits that a container gets which has none: the default, else the most."""
    given: Amounts = {}
    for _, limit in _limits(ranges, "Container"):
        given |= amounts({**(limit.get("max") or {}), **(limit.get("default") or {})})
    return replace(need, limits={**given, **need.limits})


def refused(ranges: Sequence[Any], needs: Sequence[Need], edit: str) -> Iterator[Finding]:
    """The worst pod for each bound of a LimitRange that refuses one; `edit` is the command."""
    for name, limit in _limits(ranges, "Container", "Pod"):
        for rule in ("max", "min", "default", "maxLimitRequestRatio"):
            for resource, bound in amounts(limit.get(rule) or {}).items():
                beyond = [
                    (value, need) for need in needs
                    if (value := _beyond(rule, resource, bound, need)) is not None
                ]  # fmt: skip
                if beyond:
                    pick = min if rule == "min" else max
                    value, need = pick(beyond, key=lambda pair: pair[0])
                    yield Finding(
                        "missing", "quota", f"limit range {name}: {need.name}: "
                        f"{_said(rule, resource, value, bound)}; {edit} limitrange {name}, {LESS}",
                    )  # fmt: skip


def _beyond(rule: str, resource: str, bound: Decimal, need: Need) -> Decimal | None:
    """What a pod has beyond a bound; None if it keeps it."""
    asked, most = need.amounts.get(resource, NONE), need.limits.get(resource, NONE)
    if rule == "max":
        value = max(asked, most)
    elif rule == "min":
        return asked if NONE < asked < bound else None
    elif rule == "default":  # is its limit if it has none, which the request may not exceed
        value = NONE if most else asked
    else:
        value = most / asked if asked else NONE
    return value if value > bound else None


def _said(rule: str, resource: str, value: Decimal, bound: Decimal) -> str:
    has, limit = words({resource: value}), words({resource: bound})
    return {
        "max": f"{has}, at most {limit} allowed",
        "min": f"{has}, at least {limit} required",
        "default": f"requests {has}, above the default limit of {limit}",
        "maxLimitRequestRatio": f"its limit of {resource} is {value:.3g} times its request, at "
        f"most {bound:.3g} times allowed",
    }[rule]


def used(pods: Iterable[Any]) -> Amounts:
    """What pods use, by the names of a quota."""
    total: Amounts = {}
    for pod in pods:
        asked, most = requested(pod), requested(pod, "limits")
        one = Need("", asked, most)
        for key in ("pods", *(f"requests.{n}" for n in asked), *(f"limits.{n}" for n in most)):
            total[key] = total.get(key, NONE) + (_counted(key, one) or NONE)
    return total


def _counted(key: str, need: Need) -> Decimal | None:
    """How much of a quota's resource `need` takes; None if it does not state it."""
    if key in ("pods", "count/pods"):
        return Decimal(need.pods)
    if key.startswith("limits."):
        value = need.limits.get(key.removeprefix("limits."))
    else:
        value = need.amounts.get(key.removeprefix("requests."))
    return None if value is None else value * need.pods


def exceeded(
    quota: Any, needs: Sequence[Need], lasting: Amounts | None, edit: str
) -> Iterator[Finding]:
    """What of a ResourceQuota does not suffice, for the largest pod or, of a TrainJob, pods.

    `lasting`: what pods use that do not end by themselves; None: all that is used.
    """
    from kubernetes.utils.quantity import parse_quantity

    name, spec, status = quota["metadata"]["name"], quota["spec"], quota.get("status") or {}
    scopes = {*(spec.get("scopes") or ()), *(["a selector"] if spec.get("scopeSelector") else [])}
    if scopes - {"NotBestEffort"}:
        yield Finding("unchecked", "quota", f"{name} is for some pods only: {', '.join(scopes)}")
        return
    busy = {key: parse_quantity(text) for key, text in (status.get("used") or {}).items()}
    for key, text in (status.get("hard") or spec.get("hard") or {}).items():
        unstated = [need.name for need in needs if _counted(key, need) is None]
        plain = key.removeprefix("limits.").removeprefix("requests.")
        if unstated and plain in REQUIRED:
            kind = "limit" if key.startswith("limits.") else "request"
            yield Finding(
                "missing", "quota", f"{name}: {key}: refuses pods without a {kind} of {plain}, as "
                f"{unstated[0]}'s; add a LimitRange with a default {kind}, as k8s/base/quota.yaml "
                "has for memory",
            )  # fmt: skip
            continue
        least, who = _largest(key, needs)
        if not least:  # claims, services and the like
            continue
        hard, now = parse_quantity(text), busy.get(key, NONE)
        kept = now if lasting is None else lasting.get(_name(key), NONE)
        says = f"{name}: {key}: {who} needs {words({plain: least})}"
        if least > hard - kept:
            yield Finding(
                "missing", "quota", f"{says}, {words({plain: max(NONE, hard - kept)})} of "
                f"{words({plain: hard})} are free; {edit} resourcequota {name}, {LESS}",
            )  # fmt: skip
        elif least > hard - now:
            yield Finding("unchecked", "quota", f"{says}; it waits until other pods have ended")


def _name(key: str) -> str:
    """The name by which `used` counts."""
    return {"cpu": "requests.cpu", "memory": "requests.memory", "count/pods": "pods"}.get(key, key)


def _largest(key: str, needs: Sequence[Need]) -> tuple[Decimal, str]:
    """The most that is used at once: by one step, or by a TrainJob and the step that started it."""
    by_name = {need.name: _counted(key, need) or NONE for need in needs}
    if "TrainJob" in by_name:
        by_name["TrainJob"] += by_name["train"]
    who = max(by_name, key=lambda name: by_name[name])
    return by_name[who], who

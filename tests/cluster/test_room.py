"""`python -m pipelines doctor` on quotas, limit ranges and Kueue: what would keep a pod from being
created, and what could never be admitted."""

from collections.abc import Callable
from typing import Any

import pytest

from kubeapi import PODS, QUOTAS, RANGES, Api, examined, items, pod, read

PAPER = {"preset": "celeba-128"}  # requests 4 CPUs and 16 GiB for training, 2 and 4 for a step
JOB = {**PAPER, "launcher": "trainjob", "nodes": 2, "nproc": 1, "accelerators": 1}
KUEUE = "/apis/kueue.x-k8s.io/v1beta2"
LOCAL, CLUSTER = f"{KUEUE}/namespaces/stargan/localqueues", f"{KUEUE}/clusterqueues"
ACTIVE = {"conditions": [{"type": "Active", "status": "True", "reason": "Ready"}]}
Change = Callable[[Api], None]


def found(what: str, **parameters: Any) -> list[tuple[str, str]]:
    """State and text of the findings on `what`."""
    return [(one[0], one[2]) for one in examined(**parameters) if one[1] == what]


def quota(hard: dict[str, str], used: dict[str, str] | None = None, **spec: Any) -> Change:
    """Of the namespace, instead of k8s/base/quota.yaml's."""
    status = {"hard": hard, "used": used or {}}
    one = {"metadata": {"name": "team"}, "spec": {"hard": hard, **spec}, "status": status}
    return lambda api: api.objects.update({QUOTAS: items(one)})


def limits(**limit: Any) -> Change:
    one = {"metadata": {"name": "team"}, "spec": {"limits": [{"type": "Container", **limit}]}}
    return lambda api: api.objects.update({RANGES: items(one)})


REFUSED: list[tuple[Change, dict[str, Any], list[str]]] = [
    (quota({"requests.cpu": "3"}), PAPER,
     ["team: requests.cpu: train needs 4 CPUs, 3 CPUs of 3 CPUs are free",
      "kubectl -n stargan edit resourcequota team", "train_cpu"]),
    (quota({"memory": "12Gi"}), PAPER, ["memory: train needs 16 GiB, 12 GiB of 12 GiB"]),
    (quota({"limits.memory": "48Gi"}), PAPER, ["limits.memory: train needs 64 GiB"]),
    (quota({"requests.nvidia.com/gpu": "2"}), {**PAPER, "accelerators": 4},
     ["train needs 4 nvidia.com/gpu, 2 nvidia.com/gpu of 2"]),
    (quota({"requests.nvidia.com/gpu": "0"}), {**PAPER, "accelerators": 1}, ["0 nvidia.com/gpu"]),
    (quota({"requests.cpu": "8"}), JOB, ["TrainJob needs 8.1 CPUs, 8 CPUs of 8 CPUs"]),
    (quota({"pods": "2"}), JOB, ["pods: TrainJob needs 3 pods, 2 pods of 2 pods are free"]),
    (quota({"limits.cpu": "64"}), PAPER,
     ["limits.cpu: refuses pods without a limit of cpu", "LimitRange with a default limit"]),
    (limits(max={"memory": "8Gi"}), PAPER,
     ["limit range team: train: 64 GiB, at most 8 GiB allowed", "edit limitrange team"]),
    (limits(max={"cpu": "3"}), PAPER, ["train: 4 CPUs, at most 3 CPUs allowed"]),
    (limits(min={"memory": "1Gi"}), PAPER, ["0.5 GiB, at least 1 GiB required"]),
    (limits(default={"cpu": "1"}), PAPER, ["requests 4 CPUs, above the default limit of 1 CPUs"]),
    (limits(maxLimitRequestRatio={"memory": "2"}), PAPER,
     ["its limit of memory is 4 times its request, at most 2 times allowed"]),
]  # fmt: skip


@pytest.mark.parametrize(("change", "parameters", "words"), REFUSED)
def test_a_bound_that_refuses_a_pod_is_one_line_with_its_fix(
    change: Change, parameters: dict[str, Any], words: list[str], api: Api
) -> None:
    change(api)
    lines = [text for state, text in found("quota", **parameters) if state == "missing"]
    assert any(all(word in line for word in words) for line in lines), lines
    assert len(lines) == 1
    assert "\n" not in lines[0]


def test_the_quota_of_the_overlay_leaves_room_for_a_trainjob(api: Api) -> None:
    """The one line counts the objects."""
    text = "every step has room (quotas: 1, limit ranges: 1)"
    assert found("quota", **JOB) == [("ok", text)]
    api.objects[QUOTAS], api.objects[RANGES] = items(), items()
    assert found("quota", **JOB)[0][0] == "ok"


def test_a_limit_ranges_default_counts_as_the_limit_of_a_container_without_one(api: Api) -> None:
    """So that a quota of CPU limits refuses nothing, until it is too small."""
    api.objects[RANGES] = items(read("base/quota.yaml", "LimitRange"))
    api.objects[RANGES]["items"][0]["spec"]["limits"][0]["default"]["cpu"] = "8"
    quota({"limits.cpu": "8"})(api)
    assert [state for state, _ in found("quota", **PAPER)] == ["ok"]
    quota({"limits.cpu": "7"})(api)
    ((state, text),) = found("quota", **PAPER)
    assert (state, "needs 8 CPUs" in text) == ("missing", True)


@pytest.mark.parametrize(("ends", "expected"), [(True, "unchecked"), (False, "missing")])
def test_what_other_pods_use_is_missing_only_if_they_do_not_end_by_themselves(
    api: Api, ends: bool, expected: str
) -> None:
    """Argo tries again to create a pod that a quota has no room for now."""
    quota({"requests.cpu": "6"}, {"requests.cpu": "3"})(api)
    api.objects[PODS] = items(pod("a", "3", ends))
    ((state, text),) = found("quota", **PAPER)
    assert state == expected
    assert ("wait" in text) is ends
    api.statuses[PODS] = 403  # then all that is used counts as lasting
    ((state, text),) = found("quota", **PAPER)
    assert state == "missing"
    assert "3 CPUs of 6 CPUs are free" in text


def test_a_quota_for_some_pods_only_is_not_judged(api: Api) -> None:
    quota({"requests.cpu": "1"}, scopes=["BestEffort"])(api)
    assert found("quota") == [("unchecked", "team is for some pods only: BestEffort")]
    quota({"requests.cpu": "1"}, scopes=["NotBestEffort"])(api)
    assert [state for state, _ in found("quota", **PAPER)] == ["missing"]


def test_quotas_that_may_not_be_read_are_unchecked(api: Api) -> None:
    api.statuses[QUOTAS] = 403
    ((state, text),) = found("quota")
    assert (state, "may not read" in text) == ("unchecked", True)


def cluster_queue(nominal: dict[str, str], more: dict[str, Any] | None = None) -> dict[str, Any]:
    resources = [{"name": name, "nominalQuota": value} for name, value in nominal.items()]
    group = {"coveredResources": [*nominal], "flavors": [{"name": "a100", "resources": resources}]}
    spec = {"namespaceSelector": {}, "resourceGroups": [group], **(more or {})}
    return {"metadata": {"name": "gpus"}, "spec": spec, "status": ACTIVE}


ENOUGH = {"cpu": "64", "memory": "256Gi", "nvidia.com/gpu": "8"}


@pytest.fixture
def kueue(api: Api) -> Api:
    """The cluster with Kueue, a local queue and its cluster queue."""
    version = {"groupVersion": "kueue.x-k8s.io/v1beta2", "version": "v1beta2"}
    group = {"name": "kueue.x-k8s.io", "versions": [version], "preferredVersion": version}
    faces = {"metadata": {"name": "faces"}, "spec": {"clusterQueue": "gpus"}, "status": ACTIVE}
    api.objects |= {
        "/apis/": {"groups": [group]}, LOCAL: items(faces), f"{LOCAL}/faces": faces,
        f"{CLUSTER}/gpus": cluster_queue(ENOUGH),
    }  # fmt: skip
    return api


QUEUED = {**JOB, "queue": "faces"}


def changed(path: str, *keys: str, value: Any) -> Change:
    """Set a part of an object."""

    def change(api: Api) -> None:
        part = api.objects[path]
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value

    return change


def holding(**more: Any) -> Change:
    nominal = {**ENOUGH, "nvidia.com/gpu": "1"}
    return lambda api: api.objects.update({f"{CLUSTER}/gpus": cluster_queue(nominal, more)})


def gone(path: str) -> Change:
    return lambda api: api.objects.pop(path)


INACTIVE = {"conditions": [{"type": "Active", "status": "False", "reason": "FlavorNotFound",
                            "message": "Can't admit new workloads"}]}  # fmt: skip
LACKS: list[tuple[Change, str]] = [
    (changed("/apis/", "groups", value=[]), "kueue.x-k8s.io; install Kueue, or leave out queue="),
    (gone(f"{LOCAL}/faces"), "the LocalQueue faces in stargan; there is faces: give its name"),
    (gone(f"{CLUSTER}/gpus"), "the ClusterQueue gpus of the LocalQueue faces"),
    (changed(f"{LOCAL}/faces", "status", value=INACTIVE), "LocalQueue faces: not active (Flavor"),
    (changed(f"{CLUSTER}/gpus", "status", value=INACTIVE), "ClusterQueue gpus: not active"),
    (changed(f"{CLUSTER}/gpus", "spec", "stopPolicy", value="Hold"), "stopPolicy is Hold; set"),
    (changed(f"{CLUSTER}/gpus", "spec", "namespaceSelector", value=None), "selects no namespace"),
    (changed(f"{CLUSTER}/gpus", "spec", "namespaceSelector",
             value={"matchLabels": {"team": "a"}}), "kubectl label namespace stargan team=a"),
    (lambda api: api.objects.update({f"{CLUSTER}/gpus": cluster_queue({"cpu": "64"})}),
     "do not cover memory, nvidia.com/gpu"),
    (lambda api: api.objects.update({f"{CLUSTER}/gpus": cluster_queue({**ENOUGH, "pods": "1"})}),
     "2 pods, 2 nvidia.com/gpu (2 pods): a100 1 pods; raise nominalQuota"),
    (holding(), "no flavor could ever hold 8 CPUs, 32 GiB, 2 nvidia.com/gpu (2 pods): a100 1 "
                "nvidia.com/gpu; raise nominalQuota"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), LACKS)
def test_a_queue_that_could_never_admit_the_job_is_one_line_with_its_fix(
    change: Change, words: str, kueue: Api
) -> None:
    change(kueue)
    ((state, text),) = found("queue", **QUEUED)
    assert state == "missing"
    assert words in text


def test_a_queue_that_admits_the_job_is_ok(kueue: Api) -> None:
    """By the older version of Kueue's kinds, too, if the server prefers it."""
    expected = [("ok", "faces, of ClusterQueue gpus, could admit the TrainJob")]
    assert found("queue", **QUEUED) == expected
    for path in [path for path in kueue.objects if path.startswith(KUEUE)]:
        kueue.objects[path.replace("v1beta2", "v1beta1")] = kueue.objects.pop(path)
    for key in ("versions", "preferredVersion"):
        version = {"groupVersion": "kueue.x-k8s.io/v1beta1", "version": "v1beta1"}
        kueue.objects["/apis/"]["groups"][0][key] = [version] if key == "versions" else version
    assert found("queue", **QUEUED) == expected


def test_what_a_cohort_lends_counts(kueue: Api) -> None:
    """Without a limit anything may be borrowed; `cohort` is the older version's name."""
    for name in ("cohortName", "cohort"):
        holding(**{name: "all"})(kueue)
        assert [state for state, _ in found("queue", **QUEUED)] == ["ok"]
    resources = kueue.objects[f"{CLUSTER}/gpus"]["spec"]["resourceGroups"][0]["flavors"][0]
    resources["resources"][2]["borrowingLimit"] = "1"
    assert [state for state, _ in found("queue", **QUEUED)] == ["ok"]
    resources["resources"][2]["borrowingLimit"] = "0"
    assert [state for state, _ in found("queue", **QUEUED)] == ["missing"]


def test_a_cluster_queue_that_may_not_be_read_is_unchecked(kueue: Api) -> None:
    """As for most users of a namespace."""
    kueue.statuses[f"{CLUSTER}/gpus"] = 403
    ((state, text),) = found("queue", **QUEUED)
    assert (state, "may not read" in text) == ("unchecked", True)


def test_without_a_queue_or_a_trainjob_kueue_is_not_asked(api: Api) -> None:
    assert found("queue", **JOB) == []
    assert found("queue", **{**QUEUED, "launcher": "local", "nodes": 1}) == []

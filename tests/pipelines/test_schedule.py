"""`python -m pipelines schedule` with the real client against a server of recurring runs."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from jsonserver import answering
from pipelines import __main__ as program
from pipelines import compiled

RUNS = "/apis/v2beta1/recurringruns"
NOW = "2026-11-01T00:00:00Z"
NIGHTLY = "0 0 3 * * *"
EXPERIMENT = {"experiment_id": "e1", "display_name": "faces", "created_at": NOW}
pytestmark = pytest.mark.server


class Kubeflow:
    """Recurring runs, in pages of one; `calls` has what was asked, in order."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.status = 200

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        place, _, query = path.partition("?")
        if place == "/apis/v2beta1/experiments":
            return 200, {"experiments": [EXPERIMENT]}
        if not place.startswith(RUNS):
            return 200, {"multi_user": False}
        self.calls.append(f"{method} {place.removeprefix(RUNS)}".strip())
        if self.status != 200:
            return self.status, {"message": "no cron"}
        if method == "POST":
            made = {**json.loads(body), "recurring_run_id": f"r{len(self.calls)}"}
            self.kept.append(made)
            return 200, made
        if method == "DELETE":
            name = place.rpartition("/")[2]
            self.kept = [one for one in self.kept if one["recurring_run_id"] != name]
            return 200, {}
        assert "experiment_id=e1" in query
        start = int(query.partition("page_token=")[2].partition("&")[0] or 0)
        more = {"next_page_token": str(start + 1)} if len(self.kept) > start + 1 else {}
        return 200, {"recurringRuns": self.kept[start : start + 1], **more}


@pytest.fixture
def kubeflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kubeflow]:
    state = Kubeflow()
    with answering(state.answer) as address:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", address)
        yield state


def test_a_schedule_runs_the_committed_pipeline_with_the_data_of_then(kubeflow: Kubeflow) -> None:
    """No revision is sent, one run at a time, and a missed one is not made up for."""
    given = ["datasets=faces", "launcher=trainjob", "queue=7"]
    program.main(["schedule", "--cron", NIGHTLY, "-e", "faces", *given])
    (made,) = kubeflow.kept
    documents = list(yaml.safe_load_all(compiled.PACKAGE.read_text()))
    assert made["pipeline_spec"] == {"pipeline_spec": documents[0], "platform_spec": documents[1]}
    assert made["runtime_config"]["parameters"] == dict(pair.split("=") for pair in given)
    assert made["trigger"] == {"cron_schedule": {"cron": NIGHTLY}}
    assert (made["mode"], made["no_catchup"], int(made["max_concurrency"])) == ("ENABLE", True, 1)
    assert (made["experiment_id"], made["display_name"]) == ("e1", "stargan")
    assert compiled.parameters()["revision"].default == ""


def test_the_same_name_is_replaced_and_never_missing(
    kubeflow: Kubeflow, capsys: pytest.CaptureFixture[str]
) -> None:
    """The new one is created before the former ones are deleted, on whatever page they are."""
    kubeflow.kept = [
        {"recurring_run_id": name, "display_name": shown}
        for name, shown in (("a", "other"), ("b", "stargan"), ("c", "stargan"))
    ]
    program.main(["schedule", "--cron", NIGHTLY])
    assert kubeflow.calls == ["GET", "GET", "GET", "POST", "DELETE /b", "DELETE /c"]
    assert [one["recurring_run_id"] for one in kubeflow.kept] == ["a", "r4"]
    assert "kfp recurring-run delete r4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([NIGHTLY, "revision=v1"], "every run would train the same data"),
        (["0 3 * * *"], "six fields are needed"),
        ([NIGHTLY, "epochs=3"], "unknown key 'epochs'"),
    ],
)
def test_a_wrong_schedule_is_refused_before_anything_is_sent(
    words: list[str], said: str, kubeflow: Kubeflow
) -> None:
    with pytest.raises(ValueError, match=said):
        program.main(["schedule", "--cron", *words])
    assert kubeflow.calls == []


def test_a_refusal_is_told_and_the_former_schedule_stays(
    kubeflow: Kubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeflow.status = 400
    with pytest.raises(ValueError, match=r"Kubeflow refuses \(400\): .*no cron"):
        program.main(["schedule", "--cron", NIGHTLY])
    assert not any(call.startswith("DELETE") for call in kubeflow.calls)
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"does not answer; is KF_PIPELINES_ENDPOINT \(http"):
        program.main(["schedule", "--cron", NIGHTLY, "-n", "faces"])

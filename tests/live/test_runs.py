"""Runs of `preset=smoke` on a real cluster: promoted, from the cache, mistaken, scheduled."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from clusterruns import ALWAYS, CACHED, Followed, Runs, python, released
from kubectl import eventually
from pipelines import compiled, follow
from trial import Trial

pytestmark = pytest.mark.live


def test_a_run_ends_with_a_promoted_version(
    promoted: Followed, env: dict[str, str], name: str
) -> None:
    told = promoted.succeeds()
    assert set(compiled.steps().values()) <= told.keys(), promoted.output
    first, *_ = released(env, "history", name)
    assert json.loads(first)["to"] == "1"


def test_the_same_again_comes_from_the_cache(promoted: Followed, submit: Runs) -> None:
    told = submit().succeeds()
    assert {title for title, what in told.items() if what != CACHED} == ALWAYS


def test_a_mistake_that_only_a_step_finds_is_told_with_step_and_reason(
    promoted: Followed, submit: Runs, name: str
) -> None:
    """The version to start from is not in the cluster's registry; the exit code is 1."""
    followed = submit(f"init={name}-absent@champion")
    assert followed.code() == 1
    told = [line for line in followed.output.splitlines() if line[:6] in ("failed", "fix   ")]
    where = f"failed    Resolve configuration (resolve): {name}-absent@champion: no such version "
    assert told[0].startswith(where), followed.output
    assert told[1].startswith("fix       correct this"), followed.output


@pytest.fixture
def scheduled(
    promoted: Followed, session_runs: Runs, client: Any, words: list[str], name: str
) -> Iterator[str]:
    """The id of a recurring run with the parameters of the first run."""
    options = ["--cron", "*/20 * * * * *", "--name", name]
    code, text = python(session_runs.env, "-m", "pipelines", "schedule", *options, *words)
    assert code == 0, text
    (made,) = re.findall(r"^schedule  (\S+)$", text, re.MULTILINE)
    yield made
    client.disable_recurring_run(made)
    for one in _of(client, made):
        session_runs.delete(one.run_id)
    client.delete_recurring_run(made)


def _of(client: Any, recurring: str) -> list[Any]:
    """The runs that a recurring run has started."""
    group = client.get_recurring_run(recurring).experiment_id
    found = client.list_runs(page_size=100, experiment_id=group).runs or []
    return [one for one in found if one.recurring_run_id == recurring]


def test_a_schedule_on_unchanged_data_trains_nothing(
    scheduled: str, client: Any, trial: Trial
) -> None:
    """`revision` is empty: each run takes the data of then. It ends within LIVE_CACHED seconds."""
    started = eventually(lambda: _of(client, scheduled), 120, "the schedule starts a run")
    client.disable_recurring_run(scheduled)  # deleted, it would end the run

    def ended() -> Any:
        run = client.get_run(started[-1].run_id)
        return run if run.state in follow.ENDED else None

    run = eventually(ended, trial.run, "the scheduled run ends")
    assert run.state == "SUCCEEDED"
    cached = {one.title for one in follow.tasks(run, compiled.steps()) if one.cached}
    assert cached == set(compiled.steps().values()) - ALWAYS
    assert (run.finished_at - run.created_at).total_seconds() <= trial.cached

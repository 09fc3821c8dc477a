"""A search in MLflow: a parent run, and a child for each trial, which its training joins.

A server that does not answer is reported and left out; the search goes on.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipelines.search import space as spaces
from pipelines.search.plan import Plan
from pipelines.search.trial import Result
from training.evaluation.headline import headline
from training.tracking import client as tracking
from training.tracking import names
from training.tracking.parents import PARENT

EXPERIMENT, TRIAL = "search", "trial"  # the experiment; the tag with a trial's state


@contextmanager
def _reported(what: str) -> Iterator[None]:
    try:
        with tracking.answered():
            yield
    except (ValueError, OSError) as error:
        sys.stderr.write(f"search: {what} is not recorded in MLflow: {error}\n")


def begin(plan: Plan) -> str:
    """Create the search's run; its id, empty without MLflow."""
    run_id = ""
    if tracking.uri() == "off":
        return run_id
    with _reported("the search"):
        api = tracking.client()
        tags = {"role": "search", "model": plan.config.name, "preset": plan.config.preset,
                "mlflow.user": tracking.user()}  # fmt: skip
        run = api.create_run(
            tracking.experiment_id(EXPERIMENT), tags=tags, run_name=f"search {plan.key}"
        )
        run_id = str(run.info.run_id)
        for key, dimension in plan.space.items():
            api.log_param(run_id, names.key(f"space.{key}"), spaces.shown(dimension))
        for key, value in plan.fixed.items():
            api.log_param(run_id, names.key(key), value)
    return run_id


def begin_trial(parent: str, name: str, params: Mapping[str, str]) -> str:
    """Create a trial's run; its id, empty if the search has none."""
    run_id = ""
    if not parent:
        return run_id
    with _reported(name):
        api = tracking.client()
        # The training that joins it adds the role.
        tags = {PARENT: parent, TRIAL: "running", "mlflow.user": tracking.user()}
        run = api.create_run(tracking.experiment_id(EXPERIMENT), tags=tags, run_name=name)
        run_id = str(run.info.run_id)
        # With a prefix: the training logs its whole configuration under the bare names.
        for key, value in params.items():
            api.log_param(run_id, names.key(f"search.{key}"), value)
    return run_id


def end_trial(run_id: str, state: str, results: Sequence[Result], score: float | None) -> None:
    """Close a trial's run with its state and, if it is complete, its numbers."""
    if not run_id:
        return
    with _reported(f"run {run_id}"):
        api = tracking.client()
        numbers = headline(results[0].numbers, {}) if results else {}
        if score is not None:
            numbers = {**numbers, "search/score": score}
        floors = "; ".join(one.floors for one in results if one.floors)
        tracking.log_results(run_id, numbers, {})
        api.set_tag(run_id, TRIAL, state)
        if results:
            api.set_tag(run_id, "floors", floors or "reached")
        api.set_terminated(run_id, {"failed": "FAILED", "pruned": "KILLED"}.get(state, "FINISHED"))


def end(run_id: str, numbers: Mapping[str, float], tags: Mapping[str, str], page: Path) -> None:
    """Log a search's numbers, tags and page, and close its run."""
    if not run_id:
        return
    with _reported("the search's end"):
        for key, value in tags.items():
            tracking.client().set_tag(run_id, key, value)
        tracking.log_results(run_id, numbers, {page.name: page})
        tracking.client().set_terminated(run_id, "FINISHED")

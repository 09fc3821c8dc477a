"""MLflow's runs of trainings, and those that have them as children: they show pictures, too."""

from collections.abc import Iterable, Mapping
from typing import Any

from training.retention.seen import TRACKED, Seen, pages
from training.tracking import client as tracking
from training.tracking.parents import PARENT


def runs(
    data: Mapping[str, dict[str, int]], others: Iterable[tuple[str, dict[str, int]]]
) -> list[Seen]:
    """The runs of trainings on these data sets, by digest, others by their ids, and all above them.

    A pipeline's run has the pages and pictures of its evaluation. Runs that were deleted are left
    out.
    """
    if tracking.uri() == "off":
        return []
    waiting = [
        (run, images)
        for digest, images in data.items()
        for run in _tagged(f"tags.dataset LIKE '%{digest}%'")
    ]
    waiting += [(run, images) for name, images in others if name and (run := _run(name))]
    found: dict[str, Seen] = {}
    while waiting:
        run, images = waiting.pop(0)
        if (name := run.info.run_id) in found:
            continue
        found[name] = Seen(TRACKED, name, "", images)
        parent = run.data.tags.get(PARENT, "")
        if parent and parent not in found and (above := _run(parent)):
            waiting.append((above, images))
    return [*found.values()]


def _tagged(query: str) -> list[Any]:
    api = tracking.client()
    experiments = [one.experiment_id for one in pages(api.search_experiments)]
    return pages(lambda **page: api.search_runs(experiments, query, **page))


def _run(name: str) -> Any:
    """The run with this id; None if MLflow does not have it, or it is deleted."""
    try:
        run = tracking.client().get_run(name)
    except tracking.mlflow().exceptions.MlflowException as error:
        if error.error_code not in tracking.UNKNOWN:
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None

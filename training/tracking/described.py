"""What a pipeline run's parent says in MLflow: its name, its settings and its place in a table.

Parameters are those that the preset does not have, beside model, preset, data and seed: few enough
to be columns. A shared view of the experiment, kept as a tag as MLflow's own page does, has them
beside the scores.
"""

import json
from collections.abc import Mapping
from typing import Any

from training.tracking import links, names
from training.tracking.client import client, mlflow

PRIMARY = "score/success"  # the metric by which runs are sorted
SCORES = (PRIMARY, "edits/worst", "kept/identity", "realism/kid_ratio", "cost/minutes")
FIRST = ("model", "preset", "data", "data_version", "seed")  # parameters of every parent
SEEN = ("data", "seed")  # those of them in the table; the name has model and preset
VALUE = 6000  # characters of a parameter, MLflow's limit
TAG = 5000  # of an experiment's tag, likewise
NAME = 120  # characters of a run's name
SHARED = f"mlflow.sharedViewState.{links.VIEW}"


def parameters(
    model: str, preset: str, changes: Mapping[str, str], data: tuple[str, str], seed: object
) -> dict[str, str]:
    """A parent's parameters: `changes` of the preset, and `data` with its name and version."""
    first = (model, preset or "none", *data, str(seed))
    return {**dict(zip(FIRST, first, strict=True)), **changes}


def headline(params: Mapping[str, str]) -> str:
    """The run's name: `stargan demo lambda_rec=14 seed=3`; long values are cut."""
    changed = [f"{k}={v[:24]}" for k, v in sorted(params.items()) if k not in FIRST]
    start, end = f"{params['model']} {params['preset']}", f"seed={params['seed']}"
    while changed and len(" ".join([start, *changed, end])) > NAME:
        changed = [*changed[:-2], "…"] if len(changed) > 1 else []
    return " ".join([start, *changed, end])


def describe(run_id: str, params: Mapping[str, str]) -> None:
    """Name a parent run of ours and add the parameters that it does not have yet.

    A name that a person gave stays, and so does a platform's run as a whole.
    """
    api, entities = client(), mlflow().entities
    run = api.get_run(run_id)
    tags, known = run.data.tags, run.data.params
    if tags.get("role") != "pipeline":
        return
    given = {names.key(k): v[:VALUE] for k, v in params.items()}
    new = [entities.Param(k, v) for k, v in given.items() if k not in known]
    own = {k: params[k] for k in ("model", "preset")}  # to filter runs by
    own |= links.kubeflow_tags(tags.get("pipeline_run", ""))
    api.log_batch(
        run_id,
        params=new[:100],
        tags=[entities.RunTag(k, v) for k, v in own.items() if tags.get(k) != v],
    )
    before = f"pipeline {tags.get('pipeline_run')}"
    if run.info.run_name in (before, headline(known) if known.keys() >= {*FIRST} else before):
        api.update_run(run_id, name=headline({**given, **known}))
    _share(api, run.info.experiment_id, sorted(given.keys() - {*FIRST}))


def _share(api: Any, experiment: str, changed: list[str]) -> None:
    """Let the experiment's shared view have a column for each setting that a run changed."""
    before = api.get_experiment(experiment).tags.get(SHARED, "")
    first = [*(f"metrics.`{name}`" for name in SCORES), "tags.`verdict`"]
    first += [f"params.`{name}`" for name in SEEN]
    more = [f"params.`{name}`" for name in changed]
    try:
        kept = [one for one in json.loads(before)["selectedColumns"] if one not in first]
    except (ValueError, KeyError, TypeError):  # there is none, or it is not ours any more
        kept = []
    if before and set(more) <= set(kept):
        return
    columns = [*first, *dict.fromkeys([*more, *kept])]
    while len(text := _view(columns)) > TAG:
        columns.pop()  # the oldest settings
    api.set_experiment_tag(experiment, SHARED, text)


def _view(columns: list[str]) -> str:
    """The state of MLflow's page of runs: one row for each pipeline run, the best first."""
    return json.dumps({
        "selectedColumns": columns,
        "searchFilter": "tags.role = 'pipeline'",
        "orderByKey": f"metrics.`{PRIMARY}`",
        "orderByAsc": False,
    })  # fmt: skip

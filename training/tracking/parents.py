"""Parent runs in MLflow, found by the tag `pipeline_run`, and those that a kill left open.

A parent that is begun on this machine has a note, `runs/parents/<pipeline run>.json`, until it is
closed: with the process that runs the pipeline, so that the next run closes what a kill left open.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from training.core.files import read_json, write_json
from training.tracking import names, runners

PARENT = "mlflow.parentRunId"  # tag of a child
ALONE = "alone-"  # begins the name of a program's run outside a pipeline


class Note(NamedTuple):
    """An open parent run: its experiment's name, the process that began it, and MLflow's URI."""

    path: Path
    experiment: str
    runner: str
    uri: str

    def write(self) -> None:
        write_json(self.path, {"experiment": self.experiment, "runner": self.runner,
                               "uri": self.uri})  # fmt: skip


def note(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def killed(folder: Path, uri: str, but: str) -> list[Note]:
    """Notes for this MLflow of runs, except `but`, whose process has ended without closing them."""
    found = []
    for path in sorted(folder.glob("*.json")):
        with suppress(ValueError, OSError, TypeError):  # removed meanwhile, damaged, or older
            one = Note(path, **read_json(path))
            if path.stem != but and one.uri == uri and runners.ended(one.runner):
                found.append(one)
    return found


def find(api: Any, experiment: str, name: str) -> str:
    """Id of the oldest parent run of a pipeline run in an experiment (by id), or empty."""
    runs = api.search_runs(
        [experiment],
        f"tags.pipeline_run = {names.quoted(name)} AND tags.role = 'pipeline'",
        order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
        max_results=1,
    )
    return str(runs[0].info.run_id) if runs else ""


def close(api: Any, notes: list[Note]) -> None:
    """Close the parents of runs whose process has ended; KILLED, if it did not end by itself."""
    for one in notes:
        experiment = api.get_experiment_by_name(one.experiment)
        run_id = find(api, experiment.experiment_id, one.path.stem) if experiment else ""
        if run_id and api.get_run(run_id).info.status == "RUNNING":
            status = "KILLED"
            if one.path.stem.startswith(ALONE):  # nothing closes it when its program ends
                query = f"tags.`{PARENT}` = {names.quoted(run_id)}"
                children = api.search_runs([experiment.experiment_id], query)
                states = {child.info.status for child in children}
                if "RUNNING" in states:  # restarted in another process
                    continue
                status = "FINISHED" if states <= {"FINISHED"} else "KILLED"
            api.set_terminated(run_id, status)
        one.path.unlink(missing_ok=True)

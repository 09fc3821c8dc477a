"""Training tracker: records go to a journal on disk first and to MLflow in the background.

python -m training.tracking deliver runs/train/tracking    # pending records, after a server outage
python -m training.tracking end --status FINISHED          # close the pipeline run's parent
"""

import io
import math
import shlex
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tenacity import RetryCallState

from training.core import environment
from training.core.files import read_json, write_json
from training.core.retry import retrying
from training.core.shown import shown
from training.core.temporary import temporary_folder
from training.tracking import names
from training.tracking.client import (
    PARENT,
    alone,
    client,
    end_parent,
    injected,
    log_dataset,
    mlflow,
    now,
    parent_run,
    read_png,
    uri,
    user,
)
from training.tracking.described import describe
from training.tracking.journal import Journal

INTERVAL = 2.0  # s between deliveries
PATIENCE = 20.0  # s that close() waits for a failing server
BACKOFF = 60.0  # s between attempts, at most
# Errors for which a retry is pointless. Permission may be given later.
PERMANENT = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


PLAN: dict[str, type] = {
    "experiment": str, "child": bool, "name": str, "params": dict, "tags": dict, "dataset": dict,
    "run_id": str, "joined": bool, "described": bool, "parent": dict,
}  # fmt: skip


class RecordError(ValueError):
    """A record cannot be sent: its file is gone or damaged."""


def read_plan(path: Path) -> dict[str, Any]:
    """The plan of a run that `Delivery` stored. Raises ValueError for anything else."""
    try:
        plan = {"child": False, "parent": {}, **read_json(path)}  # which older ones do not have
    except (TypeError, RecursionError) as error:
        raise ValueError(f"{path}: not the record of a run; move it away") from error
    wrong = [name for name, kind in PLAN.items() if type(plan.get(name)) is not kind]
    if wrong:
        raise ValueError(f"{path}: {', '.join(wrong)} missing or wrong; move it away")
    return plan


class Delivery(threading.Thread):
    """Sends a journal's records to one run in the background, with retries."""

    def __init__(self, journal: Journal, plan: dict[str, Any]) -> None:
        super().__init__(name="tracking", daemon=True)
        self.journal, self.plan = journal, plan
        self.refused, self.error = 0, ""
        self._closing, self._opened, self._away = threading.Event(), False, False
        self._given_up = False
        for text in journal.damage:
            sys.stderr.write(f"tracking: {text}\n")
        self._remember()
        self.start()

    def finish(self) -> str:
        """Send the remaining records; returns what was not delivered and the fix, or empty text.

        Waits 20 s for a failing server, six times that for a slow one.
        """
        begin = time.monotonic()
        self._closing.set()
        while self.is_alive() and time.monotonic() - begin < 6 * PATIENCE:
            self.join(0.1)
            if self._away and time.monotonic() - begin > PATIENCE:
                break
        self._given_up = True
        text = f"{self.refused} records were refused ({self.error}). " if self.refused else ""
        if not self.journal.empty:
            text += (
                f"{len(self.journal.pending(10**9))} records did not reach {shown(uri())} "
                f"({self.error or 'no answer'}); send them with: "
                f"python -m training.tracking deliver {shlex.quote(str(self.journal.folder))}"
            )
        return text.strip()

    def run(self) -> None:
        try:
            self._deliver_all()
        finally:
            self.journal.close()

    def _deliver_all(self) -> None:
        retry = retrying(
            lambda error: isinstance(error, Exception),  # no server error may stop the training
            lambda: -1.0 if self._given_up else math.inf,
            first=1.0,
            most=BACKOFF,
            sleep=self._pause,
            failed=self._failed,
        )
        closing = False
        while not closing:
            closing = self._closing.is_set()  # read first: all records before it are then sent
            try:
                retry(self._deliver)
            except Exception:  # refused for good; finish() reports `error`
                return
            if self._away:
                self._report("accepts records again; all were delivered")
            self._away = False
            if not closing:
                self._closing.wait(INTERVAL)

    def _pause(self, seconds: float) -> None:
        """Wait for the next attempt; at most half a second once the training has ended."""
        if self._closing.wait(seconds):
            time.sleep(0.5)

    def _failed(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self.error = shown(f"{type(error).__name__}: {error}").splitlines()[0][:500]
        if not self._away:
            self._report(
                f"accepts no records ({self.error}); "
                f"training continues, the records wait in {self.journal.folder}"
            )
        self._away = True

    @staticmethod
    def _report(text: str) -> None:
        sys.stderr.write(f"tracking: {shown(uri())} {text}\n")

    def _deliver(self) -> None:
        if not self._opened:
            self._open()
        while batch := self.journal.pending():
            group = [batch[0]]
            for item in batch[1:]:
                points = sum(len(record.get("values", ())) for _, record in group)
                if {group[0][1]["kind"], item[1]["kind"]} != {"metrics"} or points > 500:
                    break
                group.append(item)
            records = [record for _, record in group]
            try:
                self._send(records)
            except (mlflow().exceptions.MlflowException, RecordError) as error:
                if getattr(error, "error_code", PERMANENT[0]) not in PERMANENT:
                    raise
                self.refused, self.error = self.refused + len(records), shown(error)[:200]
            self.journal.delivered(group[-1][0], [r["file"] for r in records if "file" in r])

    def _remember(self, **facts: Any) -> None:
        self.plan.update(facts)
        write_json(self.journal.folder / "run.json", self.plan)

    def _open(self) -> None:
        """Create or join the run and log its parameters, tags and data set."""
        api, entities, plan = client(), mlflow().entities, self.plan
        step, parent = injected()
        if plan["run_id"] and not self._known(plan["run_id"]):
            self._remember(run_id="", joined=False, described=False)
        if not plan["run_id"]:
            if step and parent and not plan.get("child"):  # the platform's run for this step
                self._remember(run_id=step, joined=True)
            else:
                self._remember(run_id=self._child(step or parent_run(plan["experiment"])))
        elif plan["run_id"] == step:
            self._remember(joined=True)
        elif not plan["joined"]:
            api.update_run(plan["run_id"], status="RUNNING")
            if not alone():
                self._leave_killed_parent()
        if not plan["described"]:
            params = [entities.Param(names.key(k), v[:6000]) for k, v in plan["params"].items()]
            for start in range(0, len(params), 100):
                api.log_batch(plan["run_id"], params=params[start : start + 100])
            tags = [entities.RunTag(names.key(k), v) for k, v in plan["tags"].items()]
            api.log_batch(plan["run_id"], tags=tags)
            if plan["dataset"]:
                log_dataset(plan["run_id"], **plan["dataset"])
            self._remember(described=True)
        self._opened = True

    def _leave_killed_parent(self) -> None:
        """Make the resumed training a child of this pipeline run, if its own was killed."""
        api, run_id = client(), self.plan["run_id"]
        parent = parent_run(self.plan["experiment"])  # closes those that were killed
        before = api.get_run(run_id).data.tags.get(PARENT, "")
        if before and before != parent and api.get_run(before).info.status == "KILLED":
            api.set_tag(run_id, PARENT, parent)
            self._describe(parent)

    @staticmethod
    def _known(run_id: str) -> bool:
        """Whether the server has this run; it may be another server, or the run deleted."""
        try:
            return bool(client().get_run(run_id).info.lifecycle_stage == "active")
        except mlflow().exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False

    def _child(self, parent: str) -> str:
        api = client()
        experiment = api.get_run(parent).info.experiment_id
        tags = {PARENT: parent, "role": "training", "mlflow.user": user()}
        self._describe(parent)
        return str(api.create_run(experiment, tags=tags, run_name=self.plan["name"]).info.run_id)

    def _describe(self, parent: str) -> None:
        """Give the parent its name and settings; the records do not depend on it."""
        if not self.plan["parent"]:
            return
        try:
            describe(parent, self.plan["parent"])
        except mlflow().exceptions.MlflowException as error:
            if error.error_code not in (*PERMANENT, "PERMISSION_DENIED"):  # may be another user's
                raise
            self._report(f"did not take the name and settings of run {parent} ({shown(error)})")

    def _send(self, records: list[dict[str, Any]]) -> None:
        """Send a batch of metrics, or one picture, file or status."""
        api, run_id, first = client(), self.plan["run_id"], records[0]
        if first["kind"] == "metrics":
            points = [
                mlflow().entities.Metric(names.key(key), value, record["time"], record["step"])
                for record in records
                for key, value in record["values"].items()
            ]
            for start in range(0, len(points), 1000):
                api.log_batch(run_id, points[start : start + 1000])
        elif first["kind"] == "status":
            if not self.plan["joined"]:
                api.set_terminated(run_id, first["status"])
            if alone():
                end_parent(first["status"], self.plan["experiment"])
        elif first["kind"] == "image":
            self._send_image(first)
        else:
            with temporary_folder() as folder:
                named = Path(folder) / first["name"]
                named.write_bytes(self._kept(first))
                api.log_artifact(run_id, str(named), first["folder"] or None)

    def _send_image(self, record: dict[str, Any]) -> None:
        try:
            picture = read_png(self._kept(record))
        except (OSError, SyntaxError, ValueError) as error:
            raise RecordError(f"{record['key']}: {error}") from error
        client().log_image(
            self.plan["run_id"],
            picture,
            key=names.picture_key(record["key"]),
            step=record["step"],
            timestamp=record["time"],
            synchronous=True,
        )

    def _kept(self, record: dict[str, Any]) -> bytes:
        try:
            return self.journal.file(record["file"]).read_bytes()
        except OSError as error:
            raise RecordError(f"{error.filename}: {error.strerror}") from error


class Tracker:
    """The tracker of one training. It never blocks on a server and never fails the training.

    Records go to a journal on disk first; a thread delivers them, retries while the server is down,
    and resumes when the same folder is opened again. A tracker that is off has the same methods and
    does nothing.
    """

    def __init__(self, delivery: Delivery | None = None) -> None:
        self._delivery = delivery
        self._seen = delivery.journal.last_steps() if delivery else {}
        self._lost = 0

    @classmethod
    def start(
        cls,
        experiment: str,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        dataset: Mapping[str, str],
        folder: Path,
        run_id: str = "",
        child: bool = False,
        parent: Mapping[str, str] | None = None,
    ) -> "Tracker":
        """Start the run of one training, or rejoin it with `run_id` or a used `folder`.

        `dataset` has name, digest and source, or is empty. `folder` holds the journal. Returns at
        once, unless `deliver` is sending that folder's records. With MLFLOW_TRACKING_URI=off the
        tracker is off. A `child` is one of several models of a step: it gets its own run even if
        the platform created one for the step. `parent` are the parameters of the pipeline run's
        parent, as `described.parameters` gives them.
        """
        if uri() == "off":
            return cls()
        bound_requests()
        try:
            journal = Journal(folder, wait=7 * PATIENCE)  # longer than `deliver` takes
            before = _plan_before(folder / "run.json")
            run_id = run_id or before.get("run_id", "")
            plan = {
                "experiment": experiment,
                "child": child,
                "name": name,
                "params": {k: str(v) for k, v in params.items()},
                "tags": {k: str(v) for k, v in tags.items()},
                "dataset": dict(dataset),
                "run_id": run_id,
                "joined": before.get("joined", False),
                "described": before.get("described", bool(run_id)),
                "parent": dict(parent or {}),
            }
            return cls(Delivery(journal, plan))
        except OSError as error:
            sys.stderr.write(f"tracking: nothing is recorded ({error}); the training goes on\n")
            return cls()

    @property
    def run_id(self) -> str:
        """The MLflow run's id; empty until the server has answered, and if tracking is off."""
        return str(self._delivery.plan["run_id"]) if self._delivery else ""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record scalars at `step` (real images seen); steps of before a restart are skipped."""
        new = {k: float(v) for k, v in values.items() if step > self._seen.get(k, -1)}
        if new:
            self._add({"kind": "metrics", "step": step, "values": new})

    def image(self, picture: Any, key: str, step: int) -> None:
        """Record a picture, PNG bytes or uint8 (H, W, 3), in the series `key` at `step`."""
        if step > self._seen.get(f"image {key}", -1):
            self._add({"kind": "image", "key": key, "step": step}, lambda: _png(picture), ".png")

    def artifact(self, path: Path, folder: str = "") -> None:
        """Record a file's current content, under its name in the run's `folder`."""
        record = {"kind": "artifact", "name": path.name, "folder": folder}
        self._add(record, path.read_bytes, path.suffix)

    def close(self, status: str = "FINISHED") -> str:
        """End the run as FINISHED, FAILED or KILLED, waiting 20 s at most for a failing server.

        Returns what could not be delivered and how to send it later; empty if all was delivered.
        """
        if self._delivery is None:
            return ""
        self._add({"kind": "status", "status": status})
        lost = f"{self._lost} records could not be written to the journal. " if self._lost else ""
        return (lost + self._delivery.finish()).strip()

    def _add(
        self, record: dict[str, Any], data: Callable[[], bytes] | None = None, suffix: str = ""
    ) -> None:
        if self._delivery is None:
            return
        try:
            kept = {"file": self._delivery.journal.keep(data(), suffix)} if data else {}
            self._delivery.journal.add({**record, "time": now(), **kept})
        except OSError:  # a full disk is reported by the checkpoint
            self._lost += 1


def _plan_before(path: Path) -> dict[str, Any]:
    """The plan of the training that used the folder before; empty if none, or if it is damaged."""
    try:
        return read_plan(path)
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        aside = path.with_name(f"{path.name}.{now()}.spoiled")
        with suppress(OSError):
            path.rename(aside)
        sys.stderr.write(f"tracking: {error}; set aside as {aside}, a new run is begun\n")
        return {}


def bound_requests() -> None:
    """Limit MLflow's requests to 10 s and one retry, unless the environment sets other limits.

    This holds for the whole process: MLflow reads its time-outs only from the environment.
    """
    environment.put_default(MLFLOW_HTTP_REQUEST_TIMEOUT="10", MLFLOW_HTTP_REQUEST_MAX_RETRIES="1")


def _png(picture: Any) -> bytes:
    if isinstance(picture, bytes):
        return picture
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()

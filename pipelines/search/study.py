"""Run a search with Optuna: trials in batches, judged on the way, kept in the search's folder.

The folder `runs/search/<key>` has the study's journal, each trial's stages and logs, and the page.
Each trial is drawn by a sampler that is seeded by the search and the trial's number, from earlier
batches, so that a search that was stopped goes on with the trials that it would have had.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from pipelines import compiled
from pipelines.local.run import execute, say
from pipelines.search import record
from pipelines.search import space as spaces
from pipelines.search.jobs import Job, run_all
from pipelines.search.plan import Plan, config_texts
from pipelines.search.trial import Result, Stage
from training.core.files import write_bytes
from training.core.provenance import code_hash
from training.storage.store import Manifest

DONE = (TrialState.COMPLETE, TrialState.PRUNED)


class Data(NamedTuple):
    """What all trials share: the manifests of data set and judge, and the code's hash."""

    dataset: Path
    judge: Path
    code: str

    @property
    def identity(self) -> dict[str, str]:
        """What scores must share to be comparable."""
        return {
            "dataset": Manifest.read(self.dataset, "dataset").digest,
            "judge": Manifest.read(self.judge, "judge").digest,
        }


@dataclass
class Search:
    """A search that is open: its plan, folder, study and data."""

    plan: Plan
    folder: Path
    study: optuna.Study
    data: Data

    @property
    def finished(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=DONE)

    @property
    def failed(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))

    @property
    def outdated(self) -> list[int]:
        """Numbers of the finished trials that ran with other code than this."""
        code = self.data.code
        return [one.number for one in self.finished if one.user_attrs.get("code") != code]

    def batch(self) -> list[Trial]:
        """The next trials: those that a stopped process left, with new ones if none had begun."""
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        trials = [Trial(self.study, one._trial_id) for one in running]
        if any("code" in one.user_attrs for one in running):
            return trials  # the next batch is drawn from the scores of all of this one
        room = max(1, self.plan.own.jobs // self.plan.own.seeds)
        wanted = min(room, self.plan.own.trials - len(self.finished)) - len(trials)
        return [*trials, *(self._ask() for _ in range(wanted))]

    def _ask(self) -> Trial:
        """Draw a trial; the first is the preset.

        `Study.ask` writes one value after another, so it is called on a copy in memory: a kill
        leaves the whole trial in the journal, or none.
        """
        plan, earlier = self.plan, self.study.get_trials(deepcopy=False)
        values = None if earlier else spaces.preset_point(plan.config, plan.space)
        if values is None:
            seed = plan.own.sampler_seed * 1_000_003 + len(earlier)
            sampler = optuna.samplers.TPESampler(seed=seed % 2**32)
            copy = optuna.create_study(direction="maximize", sampler=sampler)
            copy.add_trials(earlier)
            values = copy.ask(dict(plan.space)).params
        whole = create_trial(
            state=TrialState.RUNNING, params=values, distributions=dict(plan.space)
        )  # fmt: skip
        self.study.add_trial(whole)
        return Trial(self.study, self.study.get_trials(deepcopy=False)[-1]._trial_id)

    def run(self, trials: Sequence[Trial]) -> None:
        """Train and score trials stage by stage; tell the study how each ended."""
        left = list(trials)
        for trial in trials:
            trial.set_user_attr("code", self.data.code)
            if not trial.user_attrs.get("mlflow_run"):
                parent = self.study.user_attrs.get("mlflow_run", "")
                written = spaces.written(trial.params)
                run_id = record.begin_trial(parent, f"trial {trial.number}", written)
                trial.set_user_attr("mlflow_run", run_id)
        for until in (*self.plan.rungs, 0):
            left = self._stage(left, until)

    def _stage(self, trials: list[Trial], until: int) -> list[Trial]:
        """One stage of each trial and seed; returns the trials that go on."""
        plan, jobs, owners, left = self.plan, [], [], []
        for trial in trials:
            try:
                folder = self.folder / f"trial-{trial.number:04d}"
                own = stages(plan, self.data, trial.params, folder, until)
            except ValueError as error:  # values that contradict each other
                self._fail(trial, str(error))
                continue
            logs = [self.folder / f"trial-{trial.number:04d}-{i}.log" for i in range(len(own))]
            run_id = str(trial.user_attrs.get("mlflow_run", ""))
            jobs += [Job(stage, log, run_id) for stage, log in zip(own, logs, strict=True)]
            owners += [trial] * len(own)
        began = time.monotonic()
        found = run_all(jobs, plan.own.jobs)
        for trial in dict.fromkeys(owners):
            before = float(trial.user_attrs.get("seconds", 0.0))
            trial.set_user_attr("seconds", before + time.monotonic() - began)
            results = [r for r, owner in zip(found, owners, strict=True) if owner is trial]
            if reasons := [r for r in results if isinstance(r, str)]:
                self._fail(trial, reasons[0])
            elif self._judged(trial, [r for r in results if isinstance(r, Result)], until):
                left.append(trial)
        return left

    def _judged(self, trial: Trial, results: list[Result], until: int) -> bool:
        """Report the mean over seeds; whether the trial goes on."""
        score = sum(one.score for one in results) / len(results)
        if not until:
            floors = [one.floors for one in results if one.floors]
            trial.set_user_attr("scores", [one.score for one in results])
            trial.set_user_attr("floors", floors[0] if floors else "")
            trial.set_user_attr("report", results[0].report)
            self._tell(trial, TrialState.COMPLETE, score)
            record.end_trial(trial.user_attrs["mlflow_run"], "complete", results, score)
            return False
        if until <= trial.user_attrs.get("passed", 0) or not all(one.known for one in results):
            return True
        known = self.study.trials[trial.number].intermediate_values
        if until not in known:
            trial.report(score, until)
        if trial.should_prune():
            self._tell(trial, TrialState.PRUNED)
            record.end_trial(trial.user_attrs["mlflow_run"], "pruned", [], score)
            return False
        trial.set_user_attr("passed", until)  # not judged again by trials that completed since
        return True

    def _fail(self, trial: Trial, reason: str) -> None:
        trial.set_user_attr("reason", reason)
        self._tell(trial, TrialState.FAIL)
        record.end_trial(trial.user_attrs.get("mlflow_run", ""), "failed", [], None)

    def _tell(self, trial: Trial, state: TrialState, score: float | None = None) -> None:
        self.study.tell(trial, score, state=state)
        say(line(self, self.study.trials[trial.number]))


def stages(
    plan: Plan, data: Data, params: Mapping[str, Any], folder: Path, until: int
) -> list[Stage]:
    """A stage of each seed. Raises ValueError for values that contradict each other."""
    config = plan.settings(params)
    found = []
    for number in range(plan.own.seeds):
        seed = config.train.seed + number
        one = replace(config, train=replace(config.train, seed=seed))
        found.append(
            Stage(
                str(data.dataset), str(data.judge), config.name, config.preset,
                **config_texts(one), init=plan.fixed.get("init", ""), code=data.code,
                folder=str(folder / f"seed-{seed}"), until=until, child=number > 0,
            )
        )  # fmt: skip
    return found


def line(search: Search, trial: FrozenTrial) -> str:
    """One trial in a line of the output."""
    text = " ".join(f"{k}={v}" for k, v in spaces.written(trial.params).items())
    if trial.state == TrialState.COMPLETE:
        floors = trial.user_attrs["floors"]
        how = (
            f"score {trial.value:.4f}, {f'below a floor: {floors}' if floors else 'floors reached'}"
        )
    elif trial.state == TrialState.PRUNED:
        images, score = max(trial.intermediate_values.items())
        how = f"pruned after {images:,} images with {score:.4f}"
    else:
        how = f"FAILED: {trial.user_attrs.get('reason', '')}"
    done = f"{len(search.finished)} of {search.plan.own.trials}"
    return f"search: trial {trial.number} ({done}): {text}: {how}"


def winner(study: optuna.Study) -> FrozenTrial | None:
    """The trial with the best score among those that reach the floors; if none does, among all."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    sound = [one for one in complete if not one.user_attrs["floors"]]
    # Of equal scores the first: max keeps it.
    return max(sound or complete, key=lambda one: float(one.value or 0.0), default=None)


@contextmanager
def opened(plan: Plan, root: Path) -> Iterator[Search]:
    """The search in its folder, its data and judge made. Raises ValueError if another process has
    it, or if its data changed since it began, and StepError if a step of the pipeline fails."""
    folder = root / "search" / plan.key
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise ValueError(f"{folder}: another process runs this search; wait for it") from error
    try:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        data = prepare(plan, folder, root)
        study = _study(plan, folder, data)
        yield Search(plan, folder, study, data)
    finally:
        lock.release()


def prepare(plan: Plan, folder: Path, root: Path) -> Data:
    """Run the pipeline's steps up to the judge, or take them from its cache."""
    package = folder / "pipeline.yaml"
    compiled.write_until("judge", package, compiled.fitting(plan.arguments))
    done = execute(plan.arguments, package, root)
    return Data(done.file("unify-labels", "out"), done.file("judge", "out"), code_hash())


def _study(plan: Plan, folder: Path, data: Data) -> optuna.Study:
    study = optuna.create_study(
        storage=_storage(folder / "study.jsonl"),
        study_name=plan.key,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(),
        load_if_exists=True,
    )
    before = study.user_attrs.get("data")
    if before and before != data.identity:
        changed = ", ".join(k for k, v in data.identity.items() if before[k] != v)
        raise ValueError(
            f"{folder}: the {changed} changed since this search began, so that its trials cannot "
            "be compared with new ones; move the folder away to start over"
        )
    if not before:
        study.set_user_attr("data", data.identity)
    if not study.user_attrs.get("mlflow_run"):
        study.set_user_attr("mlflow_run", record.begin(plan))
    return study


def _storage(path: Path) -> JournalStorage:
    """The study's journal. The caller holds the folder, so that what a kill left can be removed:
    a line that is not whole, which would spoil the next one, and the journal's own lock."""
    if path.is_file() and not path.read_bytes().endswith(b"\n"):
        write_bytes(path, b"".join(path.read_bytes().rpartition(b"\n")[:2]))
    backend = JournalFileBackend(str(path))
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    return JournalStorage(backend)

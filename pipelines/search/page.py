"""The page of a search: curve of the best score, trials, importance, the settings that won."""

import warnings
from datetime import date
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipelines.search import space as spaces
from pipelines.search.study import Search, winner
from training.core.provenance import machine
from training.rendering import html
from training.rendering.charts import Try, search_curve

NEEDED = 4  # complete trials without which no importance is shown


def render(search: Search) -> str:
    """Self-contained HTML page of a search as far as it is."""
    plan, trials = search.plan, search.study.get_trials(deepcopy=False)
    best, own = winner(search.study), plan.own
    return html.render(
        "search",
        title=f"Search: {plan.config.name}, preset {plan.config.preset}",
        made=f"{date.today():%Y-%m-%d}, {machine()}",
        best=best and {"number": best.number, "score": best.value,
                       "floors": best.user_attrs["floors"],
                       "again": best.number in search.outdated},
        outdated=search.outdated,
        command=plan.command(best.params) if best else "",
        failed=len(search.failed),
        curve=search_curve([_try(one) for one in trials if _score(one) is not None]),
        importance=_importance(search, best),
        needed=NEEDED,
        names=list(plan.space),
        rungs=[f">at {n:,} images" for n in plan.rungs],
        trials=[_row(search, one) for one in trials],
        seeds=own.seeds,
        facts=[
            ("key", plan.key),
            *((f"searched: {key}", spaces.shown(one)) for key, one in plan.space.items()),
            *((f"fixed: {key}", value) for key, value in plan.fixed.items()),
            ("length of a training, images", plan.config.train.images),
            ("finished, of", f"{len(search.finished)}, {own.trials}"),
            ("seeds of each trial", own.seeds),
            ("code", search.data.code),
            ("sampler", f"TPE, seed {own.sampler_seed}"),
            *search.data.identity.items(),
        ],
    )  # fmt: skip


def summary(search: Search) -> list[str]:
    """The last lines of the output."""
    best = winner(search.study)
    states = search.study.get_trials(deepcopy=False)
    count = {s: sum(t.state == s for t in states) for s in TrialState}
    lines = [f"trials    {count[TrialState.COMPLETE]} complete, {count[TrialState.PRUNED]} pruned, "
             f"{count[TrialState.FAIL]} failed"]  # fmt: skip
    lines += [f"failed    trial {one.number}: {one.user_attrs.get('reason', '')}"
              for one in search.failed]  # fmt: skip
    if search.outdated:
        lines.append(f"code      other for trials {', '.join(map(str, search.outdated))}: their "
                     "scores may not be comparable")  # fmt: skip
    if best is None:
        return [*lines, "best      none: no trial is complete"]
    floors = best.user_attrs["floors"]
    sound = f"below a floor as all are: {floors}" if floors else "floors reached"
    lines.append(f"best      trial {best.number}, validation score {best.value:.4f}, {sound}")
    return [*lines, f"run it    {search.plan.command(best.params)}"]


def _score(trial: FrozenTrial) -> float | None:
    """The final score, or a pruned trial's last."""
    if trial.state == TrialState.COMPLETE:
        return trial.value
    if trial.state == TrialState.PRUNED:
        return max(trial.intermediate_values.items())[1]
    return None


def _try(trial: FrozenTrial) -> Try:
    complete = trial.state == TrialState.COMPLETE
    return Try(
        trial.number, float(_score(trial) or 0.0), complete, not trial.user_attrs.get("floors")
    )


def _row(search: Search, trial: FrozenTrial) -> dict[str, Any]:
    attrs, complete = trial.user_attrs, trial.state == TrialState.COMPLETE
    text = attrs.get("reason", "")
    if complete:
        text = attrs["floors"] or "reached"
    seconds = attrs.get("seconds")
    known = trial.intermediate_values
    written = spaces.written(trial.params)
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "params": [written.get(name, "–") for name in search.plan.space],
        "score": html.hundredths(trial.value) if complete and trial.value is not None else "–",
        "rungs": [html.hundredths(known[n]) if n in known else "–" for n in search.plan.rungs],
        "minutes": "–" if seconds is None else f"{seconds / 60:.1f}",
        "text": text,
    }


def _importance(search: Search, best: FrozenTrial | None) -> list[dict[str, Any]]:
    """Each setting's share of the variance; empty if the trials are too few or all alike."""
    complete = search.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if best is None or len(complete) < NEEDED or len({t.value for t in complete}) < 2:
        return []
    varied = [n for n in search.plan.space if len({t.params[n] for t in complete}) > 1]
    if not varied:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shares = optuna.importance.get_param_importances(
            search.study, params=varied,
            evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
        )  # fmt: skip
    written = spaces.written(best.params)
    return [
        {"name": name, "share": share, "range": spaces.shown(search.plan.space[name]),
         "best": written[name]}
        for name, share in shares.items()
    ]  # fmt: skip

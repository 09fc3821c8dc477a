"""Run a search to its number of finished trials, and write its page."""

from pathlib import Path

from optuna.trial import TrialState

from pipelines.local.run import say
from pipelines.search import page, record
from pipelines.search.plan import Plan
from pipelines.search.study import Search, opened, prepare, stages, winner
from pipelines.search.trial import run as run_stage
from training.core import environment
from training.core.files import write_bytes

FAILURES = 5  # failed trials, one after another, that end a search


class SearchError(RuntimeError):
    """A search that cannot go on: its trials fail."""


def search(pairs: list[str], root: Path | None = None) -> tuple[Path, list[str]]:
    """Run a search to its number of finished trials; the page and its last lines.

    Raises ValueError for a wrong search, StepError if the data's steps fail, and SearchError if
    trials fail one after another or none completes.
    """
    plan = Plan.read(pairs)
    root = root or environment.runs().resolve()
    with opened(plan, root) as found:
        say("\n".join(plan.describe()))
        out = found.folder / "search.html"
        while len(found.finished) < plan.own.trials:
            found.run(found.batch())
            write_bytes(out, page.render(found).encode())
            _check_failures(found, out)
        write_bytes(out, page.render(found).encode())
        _record(found, out)
        return out, page.summary(found)


def trial(pairs: list[str], metric: str, root: Path | None = None) -> float:
    """Run one trial with these settings here, and print its scores as `metric=value` lines.

    For Katib, which chooses the settings and reads the lines; raises what the trial does.
    """
    plan = Plan.read(pairs, needs_space=False)
    root = root or environment.runs().resolve()
    folder = root / "search" / plan.key
    data = prepare(plan, folder, root)
    score = 0.0
    for until in (*plan.rungs, 0):
        stage = stages(plan, data, {}, folder, until)[0]
        done = stage.done()
        if done is None:
            stage.write()
            done = run_stage(stage)
        if done.known:
            score = done.score
            say(f"{metric}={score:.6f}")
        if not until:
            say(f"floors {done.floors or 'reached'}")
    return score


def _check_failures(found: Search, out: Path) -> None:
    ended = [t for t in found.study.get_trials(deepcopy=False) if t.state.is_finished()]
    last = ended[-FAILURES:]
    if len(last) == FAILURES and all(one.state == TrialState.FAIL for one in last):
        raise SearchError(
            f"{FAILURES} trials failed one after another, the last: "
            f"{last[-1].user_attrs.get('reason', '')}\nlogs: {found.folder}\npage: {out}\n"
            "correct the cause; the same command goes on"
        )


def _record(found: Search, out: Path) -> None:
    """The end of a search in MLflow."""
    best = winner(found.study)
    numbers = {
        "search/finished": float(len(found.finished)), "search/failed": float(len(found.failed))
    }  # fmt: skip
    tags = {}
    if best is not None:
        numbers["search/score"] = float(best.value or 0.0)
        tags = {"best": str(best.number), "command": found.plan.command(best.params)}
    record.end(found.study.user_attrs["mlflow_run"], numbers, tags, out)

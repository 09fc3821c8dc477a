"""What a count found: tables as text, JSON, HTML, and numbers for MLflow."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from training.core.provenance import machine
from training.evaluation.metrics import Interval
from training.rendering import html
from training.tracking import client as tracking
from training.voting.ballots import Ballot, Bounds, Reliability, edits, excluded, reliability
from training.voting.study import Key
from training.voting.tally import Estimate, Votes, agreement, estimates

ALL = "all"


@dataclass(frozen=True)
class Row:
    """One type of edit: each model's share of the votes and its strength, and the agreement."""

    name: str
    single: bool
    questions: int
    votes: int
    shares: list[Estimate]
    strengths: list[Estimate]
    alpha: float | None
    alpha_interval: Interval | None


@dataclass(frozen=True)
class Count:
    """All results of one study."""

    study: str
    title: str
    models: list[str]
    references: list[str]
    rows: list[Row]
    total: Row
    voters: list[str]
    excluded: dict[str, str]  # voter -> reason
    bounds: Bounds
    traps: float | None  # mean shares of the voters that count
    repeats: float | None
    seconds: float  # median of an answer
    draws: int

    @property
    def tables(self) -> list[tuple[str, list[Row]]]:
        """The tables that have rows: single attributes, then several at once."""
        parts = (("One attribute edited", True), ("Several attributes edited at once", False))
        found = [(name, [r for r in self.rows if r.single is single]) for name, single in parts]
        return [(name, rows) for name, rows in found if rows]

    @property
    def superiority(self) -> list[list[float]]:
        """P(row's model is preferred to the column's) = sᵢ / (sᵢ + sⱼ), of all edits."""
        beta = np.array([one.value for one in self.total.strengths])
        return (1 / (1 + np.exp(beta[None, :] - beta[:, None]))).tolist()


def count(key: Key, ballots: Sequence[Ballot], bounds: Bounds, draws: int) -> Count:
    """Count the votes. Raises ValueError, with the reasons, if no voter is left."""
    why = {ballot.voter: excluded(ballot, key, bounds) for ballot in ballots}
    used = [ballot for ballot in ballots if not why[ballot.voter]]
    out = {voter: reason for voter, reason in why.items() if reason}
    if not used:
        reasons = "\n".join(f"  {voter}: {reason}" for voter, reason in out.items())
        raise ValueError(f"none of {len(ballots)} voters counts; collect more votes\n{reasons}")
    questions = edits(key)
    numbers = {name: number for number, name in enumerate(key.names)}
    choices = [ballot.choices(key) for ballot in used]
    votes = Votes(
        np.array([[numbers[chosen[q.id]] for q in questions] for chosen in choices]),
        np.array([q.person for q in questions]),
    )
    single = {q.row: q.single for q in questions}
    rows = [
        _row(name, single[name], votes.of(np.array([q.row == name for q in questions])), key, draws)
        for name in key.rows
    ]
    found = [reliability(ballot, key) for ballot in used]
    return Count(
        study=key.study,
        title=key.title,
        models=key.names,
        references=[model.reference for model in key.models],
        rows=rows,
        total=_row(ALL, True, votes, key, draws),
        voters=[ballot.voter for ballot in used],
        excluded=out,
        bounds=bounds,
        traps=_mean(found, "traps"),
        repeats=_mean(found, "repeats"),
        seconds=median(answer.seconds for ballot in used for answer in ballot.answers),
        draws=draws,
    )


def _mean(found: Sequence[Reliability], name: str) -> float | None:
    known = [value for one in found if (value := getattr(one, name)) is not None]
    return mean(known) if known else None


def _row(name: str, single: bool, votes: Votes, key: Key, draws: int) -> Row:
    shares, rated = estimates(votes, len(key.models), draws)
    value, interval = agreement(votes, draws)
    return Row(
        name, single, votes.chosen.shape[1], votes.chosen.size, shares, rated, value, interval
    )


def text(found: Count) -> str:
    """The tables as plain text, shares in per cent."""
    tables = [*found.tables, ("All edits", [found.total])]
    blocks = [_text_table(name, rows, found) for name, rows in tables]
    lines = ["Bradley-Terry strength (log, mean 0), all edits"]
    lines += [
        f"  {model}  {s.value:+.2f} [{s.low:+.2f}, {s.high:+.2f}]"
        for model, s in zip(found.models, found.total.strengths, strict=True)
    ]
    lines += ["", f"{len(found.voters)} voters counted, {len(found.excluded)} excluded"]
    lines += [f"  {voter}: {reason}" for voter, reason in found.excluded.items()]
    return "\n".join([*blocks, *lines])


def _text_table(title: str, rows: Sequence[Row], found: Count) -> str:
    """Models below one another, edits side by side, as in the paper's tables 1 and 2."""
    cells = [["model", *(row.name for row in rows)]]
    for i, model in enumerate(found.models):
        shares = [row.shares[i] for row in rows]
        percents = [f"{100 * s.value:.1f} [{100 * s.low:.1f}–{100 * s.high:.1f}]" for s in shares]
        cells.append([model, *percents])
    cells.append(["votes", *(str(row.votes) for row in rows)])
    cells.append(["alpha", *("–" if row.alpha is None else f"{row.alpha:.2f}" for row in rows)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *(map(str.rjust, line[1:], widths[1:]))])
        for line in cells
    ]
    return "\n".join([f"{title}, % of votes", *lines, ""])


def to_json(found: Count) -> dict[str, Any]:
    """All numbers; shares in 0..1."""
    return {**asdict(found), "superiority": found.superiority}


def page(found: Count) -> str:
    """The results as one HTML page."""
    made = f"{date.today():%Y-%m-%d}, {machine()}"
    return html.render("votes", count=found, made=made)


def metrics(found: Count) -> dict[str, float]:
    """Numbers for MLflow: `model/row/share` and so on."""
    numbers: dict[str, float] = {
        "voters": len(found.voters), "excluded": len(found.excluded), "seconds": found.seconds
    }  # fmt: skip
    for name in ("traps", "repeats"):
        if (value := getattr(found, name)) is not None:
            numbers[name] = value
    for row in (*found.rows, found.total):
        if row.alpha is not None:
            numbers[f"alpha/{row.name}"] = row.alpha
        pairs = (("share", row.shares), ("strength", row.strengths))
        for kind, values in pairs:
            for model, one in zip(found.models, values, strict=True):
                for suffix in ("", "_low", "_high"):
                    value = getattr(one, suffix[1:] or "value")
                    numbers[f"{model}/{row.name}/{kind}{suffix}"] = value
    return numbers


def record(found: Count, experiment: str, files: Mapping[str, Path]) -> str:
    """Log a count as one MLflow run with its files; returns the run's id."""
    facts = {"study": found.study, "machine": machine(), "draws": str(found.draws)}
    facts |= {
        f"model/{name}": ref for name, ref in zip(found.models, found.references, strict=True)
    }
    return tracking.log_run(experiment, found.title, {"role": "vote"}, facts, metrics(found), files)

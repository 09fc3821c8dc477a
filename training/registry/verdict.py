"""The verdict of the promotion gate, its conditions, and the files in which it is written."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from training.core.files import write_bytes, write_json
from training.core.metrics import write_metrics

if TYPE_CHECKING:
    from training.evaluation.records import Drift, Figure, Untold


class Check(NamedTuple):
    """One condition: `value` must reach `bound`, or with `most` not exceed it.

    `why` is the reason given if it fails; `low` and `high` are a 95 % interval if there is one.
    """

    name: str
    value: float
    bound: float
    passed: bool
    why: str
    most: bool = False
    low: float | None = None
    high: float | None = None


class Verdict(NamedTuple):
    """The decision with its reason in one sentence and all conditions."""

    promoted: bool
    reason: str
    checks: tuple[Check, ...] = ()


class VerdictFiles(NamedTuple):
    """Where a verdict is written: as JSON, as an HTML page, and its figures as flat JSON."""

    verdict: Path
    report: Path
    metrics: Path | None

    def write(
        self,
        result: Mapping[str, Any],
        champion: str | None,
        verdict: Verdict,
        pictures: "Sequence[Figure]" = (),
        drifts: "Sequence[Drift | Untold]" = (),
    ) -> None:
        """Write `result`, with `verdict` on its page; `champion` is the version compared with."""
        from training.rendering import html

        write_json(self.verdict, result)
        page = html.render(
            "promotion",
            name=result["name"],
            version=result["version"],
            champion=champion,
            verdict=verdict,
            pictures=pictures,
            drifts=drifts,
        )
        write_bytes(self.report, page.encode())
        if self.metrics:
            write_metrics(self.metrics, _figures(verdict))


def _figures(verdict: Verdict) -> Iterator[tuple[tuple[str, ...], float]]:
    """Each condition's value, its bound, and its interval if it has one."""
    yield ("promoted",), int(verdict.promoted)
    yield ("conditions",), len(verdict.checks)
    yield ("failed",), sum(not check.passed for check in verdict.checks)
    for check in verdict.checks:
        ends = {"": check.value, "bound": check.bound, "low": check.low, "high": check.high}
        for end, value in ends.items():
            if value is not None:
                yield (*check.name.split(), end), value

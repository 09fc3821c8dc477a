"""Tables of the numbers by papers' protocols: one protocol a table, one measure a column."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from training.evaluation.protocol import PUBLISHED
from training.evaluation.records import PaperNumber, PaperResult

Column = tuple[str, str]  # measure and style source


class Row(NamedTuple):
    """A line of a table: its name, and a text for each column."""

    name: str
    cells: list[str]


class Table(NamedTuple):
    """Numbers by one protocol on one data set; `head` names the columns for a template."""

    title: str
    dataset: str
    sources: str
    images: int
    remark: str
    head: list[str]
    rows: list[Row]

    @property
    def caption(self) -> str:
        more = f"; {self.remark}" if self.remark else ""
        return f"Protocol: {self.title}, on {self.dataset}; edited: {self.sources}{more}"


def of_evaluation(results: Sequence[PaperResult]) -> list[Table]:
    """A table for each result: the mean first, then each attribute, class or pair of domains."""
    out = []
    for found in results:
        by = {(n.measure, n.way, n.part): n for n in found.numbers}
        columns = _columns(found)
        rows = [
            Row(
                part or "all",
                [_cell(found.protocol, by.get((*column, part))) for column in columns],
            )
            for part in dict.fromkeys(number.part for number in found.numbers)
        ]
        out.append(_table(found, "", columns, rows))
    return out


def of_systems(systems: Mapping[str, Sequence[Sequence[PaperResult]]]) -> list[Table]:
    """A table for each protocol and data set: the means of each system over its seeds.

    `systems` has the results of every seed by the system's name. A system with a seed that was not
    measured has dashes; an incomplete mean could not be compared.
    """
    every = [found for seeds in systems.values() for seed in seeds for found in seed]
    out = []
    for key in dict.fromkeys((found.protocol, found.dataset) for found in every):
        mine = [found for found in every if (found.protocol, found.dataset) == key]
        columns = list(dict.fromkeys(column for found in mine for column in _columns(found)))
        rows = []
        for name, seeds in systems.items():
            means = [_mean(seeds, key, column) for column in columns]
            rows.append(Row(name, [_cell(key[0], mean) for mean in means]))
        out.append(_table(mine[0], "model", columns, rows))
    return out


def _mean(
    seeds: Sequence[Sequence[PaperResult]], key: tuple[str, str], column: Column
) -> PaperNumber | None:
    found = [
        number
        for seed in seeds
        for result in seed
        if (result.protocol, result.dataset) == key
        for number in result.numbers
        if (number.measure, number.way, number.part) == (*column, "")
    ]
    if len(found) < len(seeds) or not found:
        return None
    if len(found) == 1:
        return found[0]
    return PaperNumber(column[0], fmean(n.value for n in found), found[0].outputs, way=column[1])


def _columns(found: PaperResult) -> list[Column]:
    return list(dict.fromkeys((number.measure, number.way) for number in found.numbers))


def _table(found: PaperResult, first: str, columns: list[Column], rows: list[Row]) -> Table:
    published = PUBLISHED[found.protocol]
    names = [
        f">{published.measures[measure].meaning}" + (f", {way}" if way else "")
        for measure, way in columns
    ]
    return Table(
        published.title, found.dataset, found.sources, found.images, found.remark,
        [first, *names], rows,
    )  # fmt: skip


def _cell(protocol: str, number: PaperNumber | None) -> str:
    """The value, with its interval if it is known."""
    if number is None:
        return "–"
    measure = PUBLISHED[protocol].measures[number.measure]

    def shown(value: float) -> str:
        return measure.form % (measure.factor * value)

    if number.low is None or number.high is None:
        return shown(number.value)
    return f"{shown(number.value)} [{shown(number.low)} – {shown(number.high)}]"

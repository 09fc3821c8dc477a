"""Vote files: read, checked against the key, and voters whose answers cannot be trusted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.core.records import parse_record
from training.voting.study import SCHEMA, SEEDS, Key, Question, plan

LONGEST = 200  # characters of a voter's name


@dataclass(frozen=True)
class Answer:
    """One row of a vote file: the options in the order shown, the chosen one, seconds it took."""

    question: str
    shown: list[str]
    chosen: str
    seconds: float


@dataclass(frozen=True)
class Ballot:
    """One voter's file, as the page saves it."""

    schema: int
    study: str
    voter: str
    seed: int
    answers: list[Answer]

    def choices(self, key: Key) -> dict[str, str]:
        """What was chosen, by question: the model's name; in a trap REAL or DESTROYED."""
        questions = key.questions
        return {a.question: questions[a.question].options[a.chosen] for a in self.answers}


@dataclass(frozen=True)
class Bounds:
    """The lowest shares with which a voter counts."""

    traps: float
    repeats: float


@dataclass(frozen=True)
class Reliability:
    """Shares of traps passed and repeats answered alike; None without any."""

    traps: float | None
    repeats: float | None


def read_ballot(path: Path, key: Key) -> Ballot:
    """Read a vote file. Raises ValueError with the file and, for an answer, its row from 0."""
    ballot = parse_record(Ballot, path.read_bytes(), str(path))
    if ballot.schema != SCHEMA:
        raise ValueError(f"{path}: schema: {ballot.schema}; this program reads {SCHEMA}")
    if ballot.study != key.study:
        raise ValueError(
            f"{path}: study: votes of another page ({ballot.study[:12]!r}; the key's is "
            f"{key.study[:12]}); give that page's key, or leave the file out"
        )
    if not ballot.voter.strip() or len(ballot.voter) > LONGEST:
        raise ValueError(f"{path}: voter: a name of 1 to {LONGEST} characters is needed")
    if not 0 < ballot.seed < SEEDS:
        raise ValueError(f"{path}: seed: {ballot.seed} is not from 1 to {SEEDS - 1}")
    expected = plan(key, ballot.seed)
    if len(ballot.answers) > len(expected):
        raise ValueError(
            f"{path}: answers: {len(ballot.answers)}, but the page has {len(expected)} questions"
        )
    for row, answer in enumerate(ballot.answers):
        if fault := _fault(answer, *expected[row]):
            raise ValueError(
                f"{path}: answers.{row}: {fault}; ask {ballot.voter!r} for the file as the page "
                "saved it"
            )
    return ballot


def _fault(answer: Answer, question: str, shown: list[str]) -> str:
    """What is wrong with an answer, given what the voter's seed showed; empty if nothing is."""
    if answer.question != question:
        return f"question {answer.question!r} where the voter's seed puts {question}"
    if answer.shown != shown:
        return f"shown is {answer.shown} where the voter's seed gives {shown}"
    if answer.chosen not in shown:
        return f"chosen is {answer.chosen!r}, none of the options {', '.join(shown)}"
    if not (math.isfinite(answer.seconds) and answer.seconds >= 0):
        return f"seconds is {answer.seconds}, no length of time"
    return ""


def read_ballots(paths: Sequence[Path], key: Key) -> list[Ballot]:
    """Read vote files and folders of them, sorted by voter.

    Raises ValueError with every file that cannot be read, or else with every voter who is there
    twice, by name or by seed.
    """
    files = [file for path in paths for file in _files(path)]
    found: list[tuple[Path, Ballot]] = []
    faults = []
    for file in files:
        try:
            found.append((file, read_ballot(file, key)))
        except ValueError as error:
            faults.append(str(error))
    if not files:
        raise ValueError(
            f"{', '.join(map(str, paths))}: no vote file; the page saves them as .json"
        )
    faults = faults or _twice(found)
    if faults:
        raise ValueError("\n".join([f"{len(faults)} of {len(files)} vote files refused", *faults]))
    return sorted((ballot for _, ballot in found), key=lambda ballot: ballot.voter)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.glob("*.json") if file.name != "key.json")


def _twice(found: Sequence[tuple[Path, Ballot]]) -> list[str]:
    """Every file whose voter, by name or seed, is in an earlier one."""
    first: dict[str, Path] = {}
    faults = []
    for file, ballot in found:
        name, seed = ballot.voter.strip().casefold(), f"seed {ballot.seed}"
        for mark in (name, seed):
            if mark in first:
                what = f"voter {ballot.voter!r}" if mark == name else mark
                faults.append(f"{file}: {what} is also in {first[mark]}; leave one of them out")
                break
        else:
            first |= {name: file, seed: file}
    return faults


def reliability(ballot: Ballot, key: Key) -> Reliability:
    """How the voter did on traps and repeats."""
    chosen = {answer.question: answer.chosen for answer in ballot.answers}
    questions = [question for question in key.questions.values() if question.id in chosen]
    traps = [chosen[q.id] == q.right for q in questions if q.kind == "trap"]
    repeats = [
        chosen[q.id] == chosen[q.of] for q in questions if q.kind == "repeat" and q.of in chosen
    ]
    return Reliability(_share(traps), _share(repeats))


def _share(passed: Sequence[bool]) -> float | None:
    return sum(passed) / len(passed) if passed else None


def excluded(ballot: Ballot, key: Key, bounds: Bounds) -> str:
    """Why a voter does not count; empty for one who does."""
    total, found = len(key.questions), reliability(ballot, key)
    if len(ballot.answers) < total:
        return f"incomplete: {len(ballot.answers)} of {total} questions answered"
    if found.traps is not None and found.traps < bounds.traps:
        return (
            f"traps passed: {100 * found.traps:.0f} %, at least {100 * bounds.traps:.0f} % needed"
        )
    if found.repeats is not None and found.repeats < bounds.repeats:
        return (
            f"repeats answered alike: {100 * found.repeats:.0f} %, at least "
            f"{100 * bounds.repeats:.0f} % needed"
        )
    return ""


def edits(key: Key) -> list[Question]:
    """The questions that are counted."""
    return [question for question in key.questions.values() if question.kind == "edit"]

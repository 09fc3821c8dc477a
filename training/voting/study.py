"""A study: what voters see, and the key that says what it was.

Voters get a *payload* without names: questions with picture ids, in three blocks, and the pictures.
The key beside it names models and kinds of questions. `study`, the SHA-256 of the payload, ties
page, key and vote files together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from training.core.files import canonical_json, sha256_bytes
from training.core.records import parse_record

SCHEMA = 1
SEEDS = 2**32  # a voter's seed is from 1 to SEEDS - 1
WARM_UP = 16  # first numbers of a stream that are left out: those of small seeds are alike
REAL, DESTROYED = "real", "destroyed"  # options of a trap
T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """One question of the key."""

    id: str
    kind: Literal["edit", "trap", "repeat"]
    row: str  # of the tables: the type of edit
    single: bool  # whether one attribute is edited
    task: str
    wanted: str  # the edit as voters read it
    face: str  # file name of the input
    person: str  # who is on it; a cluster of the bootstrap
    input: str  # id of the input's picture
    options: dict[str, str]  # picture id -> the model's name; in a trap REAL or DESTROYED
    of: str = ""  # of a repeat: the id of the question that is repeated

    @property
    def right(self) -> str:
        """A trap's right option."""
        return next(option for option, what in self.options.items() if what == REAL)


@dataclass(frozen=True)
class Compared:
    """One model of a study: its name in the tables, and the pinned reference."""

    name: str
    reference: str


@dataclass(frozen=True)
class Key:
    """What the voters do not see."""

    schema: int
    study: str  # hex SHA-256 of the payload
    title: str
    seed: int
    models: list[Compared]
    dataset: str  # digest of the data set's manifest
    split: str
    rows: list[str]  # of the tables, in their order
    blocks: list[list[Question]]

    @property
    def questions(self) -> dict[str, Question]:
        return {question.id: question for block in self.blocks for question in block}

    @property
    def names(self) -> list[str]:
        return [model.name for model in self.models]

    @classmethod
    def read(cls, path: Path) -> "Key":
        """Read a key. Raises ValueError, naming the file, if it is none or contradicts itself."""
        key = parse_record(cls, path.read_bytes(), str(path))
        if key.schema != SCHEMA:
            raise ValueError(f"{path}: schema {key.schema}; this program reads {SCHEMA}")
        for where, fault in _faults(key):
            raise ValueError(f"{path}: {where}: {fault}; take the key.json that `build` wrote")
        return key

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _faults(key: Key) -> list[tuple[str, str]]:
    """What is wrong in a key of the right types: where, and what."""
    count, names = sum(map(len, key.blocks)), set(key.names)
    found = []
    if len(names) < 2 or len(names) != len(key.models):
        found.append(("models", "two or more different names are needed"))
    if len(key.questions) != count:
        found.append(("blocks", "a question's id is there twice"))
    for question in key.questions.values():
        shown = sorted(question.options.values())
        expected = sorted(names)
        if question.kind == "trap":
            expected = [*[DESTROYED] * (len(names) - 1), REAL]
        if shown != expected:
            found.append((f"question {question.id}", f"its options are {shown}, not {expected}"))
        first = key.questions.get(question.of)
        if question.kind == "repeat" and (first is None or first.options != question.options):
            found.append((f"question {question.id}", "repeats none with the same options"))
    asked = {question.row for question in key.questions.values() if question.kind == "edit"}
    if asked != set(key.rows) or len(asked) != len(key.rows):
        found.append(("rows", f"they are {key.rows}, but the edits' {sorted(asked)}"))
    if not asked:
        found.append(("blocks", "no question about an edit"))
    return found


def token(seed: int, *what: object) -> str:
    """An id that says nothing: 12 hex digits."""
    return sha256_bytes(canonical_json([seed, *map(str, what)]))[:12]


def payload(
    title: str, blocks: Sequence[Sequence[Question]], pictures: Mapping[str, str]
) -> dict[str, Any]:
    """What the page holds: sorted by ids, so that no order tells anything.

    `pictures`: id -> PNG in base64.
    """
    return {
        "schema": SCHEMA,
        "title": title,
        "blocks": [
            [
                {"id": q.id, "input": q.input, "wanted": q.wanted, "options": sorted(q.options)}
                for q in sorted(block, key=lambda q: q.id)
            ]
            for block in blocks
        ],
        "pictures": dict(sorted(pictures.items())),
    }


def digest(shown: Mapping[str, Any]) -> str:
    """The `study` of a payload."""
    return sha256_bytes(canonical_json(shown))


def stream(seed: int) -> Callable[[int], int]:
    """Whole numbers below a bound, as the page draws them: a 32-bit xorshift (Marsaglia 2003)."""
    state = seed

    def draw(bound: int) -> int:
        nonlocal state
        state ^= state << 13 & 0xFFFFFFFF
        state ^= state >> 17
        state ^= state << 5 & 0xFFFFFFFF
        return state % bound

    for _ in range(WARM_UP):
        draw(1)
    return draw


def _shuffled(items: Sequence[T], draw: Callable[[int], int]) -> list[T]:
    out = list(items)
    for last in range(len(out) - 1, 0, -1):
        other = draw(last + 1)
        out[last], out[other] = out[other], out[last]
    return out


def plan(key: Key, seed: int) -> list[tuple[str, list[str]]]:
    """The questions of the voter with `seed` (1 to 2³² − 1) in order, each with its options'.

    Blocks follow each other, each shuffled, so that a repeat never follows its question at once.
    """
    draw = stream(seed)
    order = [
        question for block in key.blocks for question in _shuffled(sorted(block, key=_id), draw)
    ]
    return [(question.id, _shuffled(sorted(question.options), draw)) for question in order]


def _id(question: Question) -> str:
    return question.id

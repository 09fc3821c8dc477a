"""Vote files: what is refused and how it is said; voters who are left out."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training import vote
from training.core.files import read_json, write_json
from training.voting.ballots import Ballot, Bounds, excluded, read_ballot, read_ballots, reliability
from training.voting.study import Compared, Key, Question, plan, stream
from voters import always, ballot, careless, cast

MODELS = ("A", "B")
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def small_key(edits: int = 5, traps: int = 2, repeats: int = 2) -> Key:
    """A key without pictures."""

    def options(name: str, what: tuple[str, ...]) -> dict[str, str]:
        return {f"{name}{i}": one for i, one in enumerate(what)}

    asked = [
        Question(f"e{i}", "edit", "Male", True, "Male", "male", f"{i}.jpg", f"p{i}", f"x{i}",
                 options(f"e{i}-", MODELS))
        for i in range(edits)
    ]  # fmt: skip
    tricks = [
        Question(f"t{i}", "trap", "", True, "", "male", "t.jpg", "p", f"y{i}",
                 options(f"t{i}-", ("real", "destroyed")))
        for i in range(traps)
    ]  # fmt: skip
    again = [replace(one, id=f"r{one.id}", kind="repeat", of=one.id) for one in asked[:repeats]]
    models = [Compared(name, f"{name}/1") for name in MODELS]
    return Key(1, "5" * 64, "t", 0, models, "d" * 64, "test", ["Male"], [asked, tricks, again])


KEY = small_key()
GOOD = ballot(KEY, "Anna", 7, always("A"))


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Any], Any]:
    """Write a value or bytes as a vote file and read it."""

    def go(value: Any) -> Any:
        path = tmp_path / "votes.json"
        path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
        return read_ballot(path, KEY)

    return go


def test_a_key_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_json(tmp_path / "key.json", KEY.to_json())
    assert Key.read(tmp_path / "key.json") == KEY


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema": 2}, "schema 2; this program reads 1"),
        ({"models": [{"name": "A", "reference": "A/1"}]}, "models: two or more"),
        ({"blocks": [[]], "rows": []}, "no question about an edit"),
        ({"rows": ["Hair"]}, "rows: they are"),
        ({"blocks": "x"}, "blocks: Input should be a valid array"),
        ({"blocks": KEY.to_json()["blocks"][2:]}, "repeats none with the same options"),
        ({"blocks": KEY.to_json()["blocks"][:1] * 2}, "a question's id is there twice"),
        ({"models": [{"name": n, "reference": "r"} for n in "AC"]}, "its options are"),
    ],
)
def test_a_key_that_contradicts_itself_is_refused(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    path = tmp_path / "key.json"
    write_json(path, KEY.to_json() | change)
    with pytest.raises(ValueError, match=says) as raised:
        Key.read(path)
    assert str(path) in str(raised.value)


def test_a_good_file_gives_the_choices(read: Callable[[Any], Any]) -> None:
    choices = read(GOOD).choices(KEY)
    assert {choices[f"e{i}"] for i in range(5)} == {"A"}
    assert choices["t0"] == "real"


def changed(row: int, **fields: Any) -> dict[str, Any]:
    answers = [dict(answer) for answer in GOOD["answers"]]
    answers[row] |= fields
    return GOOD | {"answers": answers}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"", "record: Invalid JSON"),
        (b"\xff\xfe", "record: Invalid JSON"),
        (b"[" * 5000, "record: Invalid JSON"),
        ([], "record: Input should be an object"),
        (GOOD | {"schema": 9}, "schema: 9; this program reads 1"),
        (GOOD | {"study": "4" * 64}, "study: votes of another page"),
        (GOOD | {"voter": " "}, "voter: a name of 1 to 200"),
        (GOOD | {"voter": "x" * 201}, "voter: a name of 1 to 200"),
        (GOOD | {"seed": 0}, "seed: 0 is not from 1"),
        (GOOD | {"seed": 2**32}, "seed: 4294967296 is not from 1"),
        (GOOD | {"seed": "7"}, "seed: Input should be a valid integer"),
        (GOOD | {"seed": 8}, r"answers\.0: question"),
        (GOOD | {"answers": GOOD["answers"] * 2}, "answers: 18, but the page has 9 questions"),
        (GOOD | {"answers": [1]}, r"answers\.0: Input should be an object"),
        (changed(3, question="e9"), r"answers\.3: question 'e9' where"),
        (changed(3, shown=["e9"]), r"answers\.3: shown is"),
        (changed(3, chosen="?"), r"answers\.3: chosen is '\?', none of the options"),
        (changed(3, chosen=None), r"answers\.3\.chosen: Input should be a valid string"),
        (changed(3, seconds=-1), r"answers\.3: seconds is -1"),
        (changed(3, seconds=float("nan")), r"answers\.3: seconds is nan"),
    ],
)
def test_a_bad_file_is_refused_with_the_file_the_row_and_the_fault(
    read: Callable[[Any], Any], tmp_path: Path, value: Any, says: str
) -> None:
    with pytest.raises(ValueError, match=says) as raised:
        read(value)
    assert str(raised.value).startswith(f"{tmp_path / 'votes.json'}: ")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)


@same_folder
@given(st.binary(max_size=200) | json_values)
def test_no_file_makes_the_reader_fail_without_its_name(
    tmp_path: Path, read: Callable[[Any], Any], value: Any
) -> None:
    with pytest.raises(ValueError, match=r"votes\.json: "):
        read(value)


@same_folder
@given(st.data())
def test_any_value_changed_is_refused_by_its_row_or_read_as_it_is(
    tmp_path: Path, read: Callable[[Any], Any], data: st.DataObject
) -> None:
    """One field of one answer becomes any JSON value, or the answer goes or moves."""
    answers = [dict(answer) for answer in GOOD["answers"]]
    row = data.draw(st.integers(0, len(answers) - 1))
    what = data.draw(st.sampled_from(["field", "lost", "row", "moved"]))
    if what == "field":
        field = data.draw(st.sampled_from(sorted(answers[row])))
        answers[row][field] = data.draw(json_values)
    elif what == "lost":
        del answers[row][data.draw(st.sampled_from(sorted(answers[row])))]
    elif what == "row":
        answers[row] = data.draw(json_values)
    else:
        answers[row - 1], answers[row] = answers[row], answers[row - 1]
    found, fault = read_or_fault(read, GOOD | {"answers": answers})
    if found is None:
        assert fault.startswith(f"{tmp_path / 'votes.json'}: ")
        assert "answers." in fault
    else:
        assert found.answers[row].seconds >= 0
        assert found.answers[row].chosen in found.answers[row].shown


def read_or_fault(read: Callable[[Any], Any], value: Any) -> tuple[Ballot | None, str]:
    try:
        return read(value), ""
    except ValueError as error:
        return None, str(error)


def test_the_faults_of_all_files_are_named_at_once(tmp_path: Path) -> None:
    for name, value in (("a", "1"), ("b", "{"), ("c", json.dumps(GOOD))):
        (tmp_path / f"{name}.json").write_text(value)
    with pytest.raises(ValueError, match=r"2 of 3 vote files refused") as raised:
        read_ballots([tmp_path], KEY)
    assert f"{tmp_path / 'a.json'}: " in str(raised.value)
    assert f"{tmp_path / 'b.json'}: " in str(raised.value)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (ballot(KEY, " anna ", 8, always("B")), "voter ' anna ' is also in"),
        (ballot(KEY, "Bert", 7, always("A")), "seed 7 is also in"),
    ],
)
def test_a_voter_who_is_there_twice_is_named_with_both_files(
    tmp_path: Path, other: dict[str, Any], says: str
) -> None:
    write_json(tmp_path / "a.json", GOOD)
    write_json(tmp_path / "b.json", other)
    with pytest.raises(ValueError, match=says) as raised:
        read_ballots([tmp_path], KEY)
    assert "a.json" in str(raised.value)
    assert "b.json" in str(raised.value)


def test_a_folder_without_votes_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "key.json", KEY.to_json())
    with pytest.raises(ValueError, match="no vote file"):
        read_ballots([tmp_path], KEY)


@pytest.mark.parametrize(
    ("taste", "bounds", "reason"),
    [
        (always("A"), Bounds(1.0, 1.0), ""),
        (careless, Bounds(0.5, 0), "traps passed: 0 %, at least 50 % needed"),
        (careless, Bounds(0, 0), ""),
        (
            lambda q: "real" if q.kind == "trap" else "AB"[q.kind == "repeat"],
            Bounds(1, 0.5),
            "repeats answered alike: 0 %, at least 50 % needed",
        ),
    ],
)
def test_voters_below_a_bound_are_left_out_with_the_reason(
    tmp_path: Path, taste: Callable[[Question], str], bounds: Bounds, reason: str
) -> None:
    names = {"Quillon": "A"}  # careless() likes the first model of another study
    path = cast(tmp_path, KEY, "Anna", 7, lambda q: names.get(taste(q), taste(q)))
    assert excluded(read_ballot(path, KEY), KEY, bounds) == reason


def test_an_incomplete_file_is_read_and_left_out(read: Callable[[Any], Any]) -> None:
    found = read(GOOD | {"answers": GOOD["answers"][:4]})
    assert excluded(found, KEY, Bounds(0, 0)) == "incomplete: 4 of 9 questions answered"


def test_a_study_without_traps_and_repeats_leaves_nobody_out(tmp_path: Path) -> None:
    key = small_key(traps=0, repeats=0)
    found = read_ballot(cast(tmp_path, key, "Anna", 7, always("B")), key)
    assert (reliability(found, key).traps, reliability(found, key).repeats) == (None, None)
    assert excluded(found, key, Bounds(1, 1)) == ""


def test_orders_differ_between_voters_and_repeats_stay_apart() -> None:
    plans = [plan(KEY, seed) for seed in range(1, 200)]
    assert len({str(one) for one in plans}) > 190
    for one in plans:
        place = {question: i for i, (question, _) in enumerate(one)}
        assert place["re0"] - place["e0"] > len(KEY.blocks[1])
    first = [options[0] for one in plans for q, options in one if q == "e0"]
    assert 70 < first.count("e0-0") < 130  # of 199: no place for a model


def test_the_streams_numbers_are_even() -> None:
    draw = stream(1)
    found = [draw(4) for _ in range(4000)]
    assert all(900 < found.count(value) < 1100 for value in range(4))


def test_count_refuses_to_write_where_the_votes_are(tmp_path: Path) -> None:
    write_json(tmp_path / "key.json", KEY.to_json())
    with pytest.raises(ValueError, match="the votes are there"):
        vote.count(tmp_path / "key.json", tmp_path, out=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key.json"]
    assert read_json(tmp_path / "key.json")["study"] == KEY.study

"""Counts: from vote files to tables, pages and MLflow."""

import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training import vote
from training.core.files import read_json, write_json
from training.tracking import client as tracking
from training.voting import ballots, results
from training.voting.ballots import Ballot, Bounds
from training.voting.study import REAL, Compared, Key, Question
from voters import NAMES, always, answers, built, careless, cast

ROWS = {"Hair": True, "Male": True, "Young": True, "H+G": False, "H+A": False}
STRENGTHS = np.array([1.0, 0.0, -1.0])


def key_of(images: int = 30) -> Key:
    """A key of three models and five rows, without pictures."""

    def question(row: str, single: bool, i: int) -> Question:
        options = {f"{row}{i}{name}": name for name in NAMES}
        return Question(
            f"{row}{i}", "edit", row, single, row, row, f"{i}.jpg", f"p{i}", "x", options
        )

    asked = [question(row, single, i) for row, single in ROWS.items() for i in range(images)]
    models = [Compared(name, f"{name}/1") for name in NAMES]
    return Key(1, "5" * 64, "Faces", 0, models, "d" * 64, "test", list(ROWS), [asked[::-1]])


def voters(key: Key, count: int, seed: int = 0) -> list[Ballot]:
    """Voters whose first choices follow Plackett and Luce with `STRENGTHS`."""
    rng = np.random.default_rng(seed)
    chances = np.exp(STRENGTHS) / np.exp(STRENGTHS).sum()

    def taste(question: Question) -> str:
        return NAMES[rng.choice(3, p=chances)]

    def ballot(i: int) -> Ballot:
        given = [ballots.Answer(**one) for one in answers(key, i + 1, taste)]
        return Ballot(1, key.study, f"v{i}", i + 1, given)

    return [ballot(i) for i in range(count)]


@pytest.fixture(scope="module")
def found() -> results.Count:
    key = key_of()
    return results.count(key, voters(key, 12), Bounds(0.8, 0.3), 300)


def test_the_voters_strengths_are_found_again(found: results.Count) -> None:
    for one, true in zip(found.total.strengths, STRENGTHS, strict=True):
        assert one.value == pytest.approx(true, abs=0.15)
        assert one.low < true < one.high


def test_superiority_is_the_logistic_function_of_the_difference(found: results.Count) -> None:
    table = np.array(found.superiority)
    assert table + table.T == pytest.approx(np.ones((3, 3)))
    beta = [one.value for one in found.total.strengths]
    assert table[0, 2] == pytest.approx(1 / (1 + np.exp(beta[2] - beta[0])))


def test_the_tables_have_the_papers_form(found: results.Count) -> None:
    """Single attributes, then several: rows of models, columns of edits that add up to 100 %."""
    assert [(name, [row.name for row in rows]) for name, rows in found.tables] == [
        ("One attribute edited", ["Hair", "Male", "Young"]),
        ("Several attributes edited at once", ["H+G", "H+A"]),
    ]
    text = results.text(found).split("\n\n")
    for block, names in zip(
        text, (["Hair", "Male", "Young"], ["H+G", "H+A"], ["all"]), strict=False
    ):
        _, head, *lines = block.splitlines()
        assert head.split() == ["model", *names]
        assert [line.split()[0] for line in lines] == [*NAMES, "votes", "alpha"]
        shares = [[float(s) for s in re.findall(r"([\d.]+) \[", line)] for line in lines[:3]]
        assert np.array(shares).sum(0) == pytest.approx(np.full(len(names), 100), abs=0.2)
        assert lines[3].split()[1:] == [str(360 * (5 if names == ["all"] else 1))] * len(names)
    first = found.rows[1].shares[2]
    assert f"{100 * first.value:.1f} [" in text[0].splitlines()[4].split("]")[1]


class Cells(HTMLParser):
    """The tables of a page: rows of texts."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_data(self, data: str) -> None:
        if self.tables and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data.strip()


def test_the_page_has_the_same_tables_with_all_edits_last(found: results.Count) -> None:
    seen = Cells()
    seen.feed(results.page(found))
    one, several = seen.tables[:2]
    assert [line[0] for line in one] == ["model", *NAMES, "questions", "votes", "agreement α"]
    assert one[0][1:] == ["Hair", "Male", "Young"]
    assert several[0][1:] == ["H+G", "H+A", "all"]
    assert one[2][3].startswith(f"{100 * found.rows[2].shares[1].value:.1f}")
    assert several[3][3].startswith(f"{100 * found.total.shares[2].value:.1f}")
    assert several[4][1:] == ["30", "30", "150"]
    assert several[5][1:] == ["360", "360", "1800"]


def test_the_total_is_over_all_votes(found: results.Count) -> None:
    assert found.total.votes == sum(row.votes for row in found.rows) == 12 * 5 * 30
    shares = np.array([[s.value * row.votes for s in row.shares] for row in found.rows]).sum(0)
    assert [s.value for s in found.total.shares] == pytest.approx(shares / found.total.votes)


class Links(HTMLParser):
    found: list[str]
    tags: set[str]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        self.tags.add(tag)
        self.found += [value for name, value in attrs if name in ("src", "href")]


def test_the_page_is_self_contained_and_has_the_numbers(found: results.Count) -> None:
    page, seen = results.page(found), Links()
    seen.found, seen.tags = [], set()
    seen.feed(page)
    assert seen.found == []
    assert "script" not in seen.tags
    share = found.rows[0].shares[0]
    assert f"{100 * share.value:.1f}\n[{100 * share.low:.1f} – {100 * share.high:.1f}]" in page
    assert "too few" not in page


@pytest.fixture
def counted(study: Path, tmp_path: Path) -> Callable[..., str]:
    """Count the files in `votes`; returns the text."""
    folder = tmp_path / "votes"
    folder.mkdir()
    key = Key.read(study / vote.KEY)
    for seed, name in enumerate(("Ada", "Ben", "Cy"), 1):
        cast(folder, key, name, seed, always(NAMES[seed % 2]))

    def go(**more: Any) -> str:
        return vote.count(study / vote.KEY, folder, out=tmp_path / "out", draws=100, **more)

    return go


def test_the_files_agree_with_the_text(counted: Callable[..., str], tmp_path: Path) -> None:
    text = counted()
    assert (tmp_path / "out" / "votes.txt").read_text() == f"{text}\n"
    result = read_json(tmp_path / "out" / "votes.json")
    assert [round(s["value"], 3) for s in result["total"]["shares"]] == [0.333, 0.667, 0]
    assert result["voters"] == ["Ada", "Ben", "Cy"]
    assert "33.3 [" in text
    assert (tmp_path / "out" / "votes.html").read_text().count("too few to say") == 1


def test_who_is_left_out_is_named_with_the_reason(
    counted: Callable[..., str], study: Path, tmp_path: Path
) -> None:
    key = Key.read(study / vote.KEY)
    cast(tmp_path / "votes", key, "Dan", 9, careless)
    text = counted()
    assert "3 voters counted, 1 excluded" in text
    assert "Dan: traps passed: 0 %, at least 80 % needed" in text
    assert "Dan" in (tmp_path / "out" / "votes.html").read_text()


def test_without_a_voter_that_counts_nothing_is_written(study: Path, tmp_path: Path) -> None:
    file = cast(tmp_path, Key.read(study / vote.KEY), "Dan", 9, careless)
    with pytest.raises(ValueError, match=r"none of 1 voters counts[^\n]*\n  Dan: traps passed"):
        vote.count(study / vote.KEY, file, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_page_whose_key_cannot_be_written_is_not_there(
    binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(vote, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        built(binary, tmp_path / "study")
    assert not (tmp_path / "study").exists()
    assert not list(tmp_path.glob(".study*"))


def test_mlflow_gets_the_numbers_and_the_files(
    counted: Callable[..., str], release_folder: Path
) -> None:
    counted(experiment="people")
    api = tracking.client()
    experiment = api.get_experiment_by_name("people")
    (run,) = api.search_runs([experiment.experiment_id])
    assert run.data.tags["role"] == "vote"
    metrics = run.data.metrics
    assert metrics["Brackish/all/share"] == pytest.approx(2 / 3)
    assert metrics["Brackish/all/share_low"] <= 2 / 3 <= metrics["Brackish/all/share_high"]
    assert metrics["traps"] == 1
    assert run.data.params["model/Quillon"].partition("@sha256:")[2]
    files = {file.path for file in api.list_artifacts(run.info.run_id)}
    assert files == {"votes.txt", "votes.json", "votes.html"}


def test_a_bad_vote_file_is_one_error_and_exit_code_2(study: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "bad.json", {"schema": 1})
    done = subprocess.run(
        [sys.executable, "-m", "training.vote", "count", str(study / vote.KEY),
         str(tmp_path / "bad.json"), "--out", str(tmp_path / "out")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"{tmp_path / 'bad.json'}: study: Field required" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_traps_count_for_nothing_but_the_voter(study: Path, tmp_path: Path) -> None:
    """The votes are those of the edits, each asked once."""
    key = Key.read(study / vote.KEY)

    def taste(question: Question) -> str:
        return {"trap": REAL, "repeat": NAMES[1]}.get(question.kind, NAMES[0])

    file = cast(tmp_path, key, "Ada", 4, taste)
    ballot = ballots.read_ballots([file], key)
    found = results.count(key, ballot, Bounds(1, 0), 100)
    assert found.total.votes == 9
    assert [s.value for s in found.total.shares] == [1, 0, 0]
    assert found.repeats == 0

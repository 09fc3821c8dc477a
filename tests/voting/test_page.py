"""The voters' page in a real browser, and what its votes say."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from browser import CONTRAST, Browser
from training import vote
from training.core.files import read_json
from training.voting.ballots import read_ballot
from training.voting.study import Key, Question, plan
from voters import NAMES, Taste, always, built, careless, option_of


@pytest.fixture
def key(study: Path) -> Key:
    return Key.read(study / vote.KEY)


@pytest.fixture
def page(browser: Browser, study: Path) -> Browser:
    """The start of the page."""
    browser.open((study / vote.PAGE).as_uri())
    return browser


def shown(page: Browser) -> dict[str, Any]:
    """What the page shows: its texts, and the ids of its pictures in their order on the screen."""
    seen = page.run("""({
      place: byId("place").textContent,
      wanted: byId("wanted").textContent,
      ended: !byId("end").hidden,
      sources: [...document.querySelectorAll("#input, #options img")].map((image) => image.src),
      planned: plan.slice(state.answers.length)[0],
    })""")
    ids, planned = [], seen.pop("planned", None)
    if not seen["ended"]:
        ids = [planned["question"]["input"], *planned["shown"]]
        expected = page.run(f"{json.dumps(ids)}.map(source)")
        assert seen.pop("sources") == expected
        seen |= {"input": ids[0], "options": ids[1:]}
    return dict(seen)


def enter(page: Browser, name: str) -> None:
    """Type a name and press Enter."""
    page.run("byId('voter').focus()")
    for letter in name:
        page.press(letter)
    page.press("Enter", 13)


def answer_all(page: Browser, key: Key, taste: Taste, most: int = 99) -> None:
    """Answer by digits what is seen on the screen."""
    questions = {frozenset(q.options): q for q in key.questions.values()}
    for _ in range(most):
        seen = shown(page)
        if seen["ended"]:
            break
        question = questions[frozenset(seen["options"])]
        assert (seen["wanted"], seen["input"]) == (question.wanted, question.input)
        page.press(str(seen["options"].index(option_of(question, taste(question))) + 1))


def save(page: Browser, folder: Path) -> Path:
    """Click "Save votes"; the file, moved to `folder`."""
    page.run("byId('save').click()")
    file = page.downloaded()
    return file.rename(folder / file.name)


def test_what_voters_like_is_what_the_count_finds(
    page: Browser, key: Key, study: Path, tmp_path: Path
) -> None:
    """Three voters, and one who fails the traps, through page, files and count."""
    folder = tmp_path / "votes"
    folder.mkdir()

    def by_row(question: Question) -> str:
        return always({"Hair": NAMES[0], "Male": NAMES[1]}.get(question.row, NAMES[0]))(question)

    tastes = {"Ada": always(NAMES[0]), "Ben": by_row, "Cy": always(NAMES[2]), "Dan": careless}
    for name, taste in tastes.items():
        enter(page, name)
        answer_all(page, key, taste)
        assert save(page, folder).name == f"votes-{name}.json"
        page.run("localStorage.clear()")
        page.reload()
    text = vote.count(study / vote.KEY, folder, out=tmp_path / "counted", draws=200)
    result = read_json(tmp_path / "counted" / "votes.json")
    assert result["excluded"] == {"Dan": "traps passed: 0 %, at least 80 % needed"}
    shares = {row["name"]: [round(s["value"], 3) for s in row["shares"]] for row in result["rows"]}
    assert shares == {
        "Hair": [0.667, 0, 0.333], "Male": [0.333, 0.333, 0.333], "H+G": [0.667, 0, 0.333]
    }  # fmt: skip
    assert "Quillon" in text
    assert (tmp_path / "counted" / "votes.html").read_text().count("Tessera") > 2


def test_a_reload_goes_on_where_the_voter_was(page: Browser, key: Key, tmp_path: Path) -> None:
    enter(page, "Ada")
    answer_all(page, key, always(NAMES[1]), most=4)
    before = shown(page)
    page.reload()
    assert shown(page) == before
    assert before["place"] == "5 of 15"
    answer_all(page, key, always(NAMES[1]))
    ballot = read_ballot(save(page, tmp_path), key)
    assert set(ballot.choices(key).values()) == {NAMES[1], "real"}
    assert len(ballot.answers) == 15


def test_the_order_is_that_of_the_files_seed(page: Browser, key: Key, tmp_path: Path) -> None:
    """The page's JavaScript and `plan` draw the same numbers."""
    page.run("crypto.getRandomValues = (a) => a.fill(4294967295)")
    enter(page, "Ada")
    seen = []
    for _ in key.questions:
        seen.append(shown(page)["options"])
        page.press("2")
    assert seen == [options for _, options in plan(key, 4294967295)]
    plans = page.run(
        "[1, 2, 77, 2147483648].map((s) => planOf(s).map((p) => [p.question.id, p.shown]))"
    )
    for seed, found in zip((1, 2, 77, 2147483648), plans, strict=True):
        assert [tuple(one) for one in found] == plan(key, seed)


@pytest.mark.parametrize("undo", ["Backspace", "button"])
def test_an_answer_can_be_taken_back(page: Browser, key: Key, tmp_path: Path, undo: str) -> None:
    enter(page, "Ada")
    first = shown(page)
    page.press("1")
    if undo == "button":
        page.run("byId('back').click()")
    else:
        page.press("Backspace", 8)
    assert shown(page) == first
    page.press("2")
    answer_all(page, key, always(NAMES[0]))
    page.press("Backspace", 8)  # from the end to the last question
    assert shown(page)["place"] == "15 of 15"
    page.press("3")
    answers = read_ballot(save(page, tmp_path), key).answers
    assert answers[0].chosen == first["options"][1]
    assert answers[-1].chosen == answers[-1].shown[2]


def test_arrows_move_between_the_pictures_and_enter_chooses(page: Browser, key: Key) -> None:
    enter(page, "Ada")
    focus = "document.activeElement.id || document.activeElement.textContent"
    assert page.run(focus) == "question"  # no picture is marked at first
    visited = []
    for name, code in (("ArrowRight", 39), ("ArrowRight", 39), ("ArrowLeft", 37),
                       ("ArrowUp", 38), ("ArrowDown", 40), ("ArrowDown", 40)):  # fmt: skip
        page.press(name, code)
        visited.append(page.run(focus))
    assert visited == ["1", "2", "1", "3", "1", "2"]
    second = shown(page)["options"][1]
    page.press("Enter", 13)
    assert page.run("state.answers[0].chosen") == second
    assert page.run(focus) == "question"


def test_a_held_key_and_a_double_click_answer_once(page: Browser) -> None:
    enter(page, "Ada")
    for repeat in (False, True, True):
        page.call("Input.dispatchKeyEvent", type="keyDown", key="1", text="1", autoRepeat=repeat)
    assert shown(page)["place"] == "2 of 15"
    box = page.run("document.querySelector('.option').getBoundingClientRect().toJSON()")
    for clicks in (1, 2):
        for kind in ("mousePressed", "mouseReleased"):
            page.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=clicks,
                      x=box["x"] + 20, y=box["y"] + 20)  # fmt: skip
    assert shown(page)["place"] == "3 of 15"


def test_a_phone_shows_all_pictures_and_takes_taps(page: Browser) -> None:
    page.phone()
    enter(page, "Ada")
    assert page.run("document.documentElement.scrollWidth") <= 390
    least = page.run(
        "Math.min(...[...document.querySelectorAll('button')].filter((b) => b.checkVisibility())"
        ".map((b) => Math.min(b.offsetWidth, b.offsetHeight)))"
    )
    assert least >= 44
    third = shown(page)["options"][2]
    page.tap(".option:nth-child(3)")
    assert page.run("state.answers.map((a) => a.chosen)") == [third]


FOUR = (*NAMES, "Umbral")


@pytest.mark.parametrize(("screen", "size"), [("desktop", (1280, 800)), ("tablet", (768, 1024)),
                                              ("phone", (390, 844))])  # fmt: skip
def test_the_papers_choice_of_four_pictures(
    browser: Browser, binary: Path, tmp_path: Path, screen: str, size: tuple[int, int]
) -> None:
    """All four and the face before fit on the screen, are chosen by keys or taps, and counted."""
    folder = built(binary, tmp_path / "study", FOUR, images=2, traps=1, repeats=1, edits="Hair,H+G")
    key = Key.read(folder / vote.KEY)
    wide, high = size
    if screen == "phone":
        browser.phone()
    else:
        browser.call("Emulation.setDeviceMetricsOverride", width=wide, height=high,
                     deviceScaleFactor=1, mobile=False)  # fmt: skip
    browser.open((folder / vote.PAGE).as_uri())
    taste = always("Umbral")

    def places(seed: int) -> set[int]:
        asked = key.questions
        return {
            shown.index(option_of(asked[q], taste(asked[q]))) + 1 for q, shown in plan(key, seed)
        }

    seed = next(seed for seed in range(1, 999) if places(seed) == {1, 2, 3, 4})
    browser.run(f"crypto.getRandomValues = (a) => a.fill({seed})")
    enter(browser, "Ada")
    boxes = browser.run(
        "[...document.querySelectorAll('#input, #options img')]"
        ".map((e) => e.getBoundingClientRect().toJSON())"
    )
    assert browser.run("[innerWidth, innerHeight]") == [wide, high]
    assert len(boxes) == 5
    assert browser.run("document.documentElement.scrollWidth") <= wide
    for box in boxes:
        assert box["left"] >= 0
        assert box["right"] <= wide
        assert box["bottom"] <= high
        assert min(box["width"], box["height"]) >= 100
    corners = {(round(box["left"]), round(box["top"])) for box in boxes[1:]}
    rows = {top for _, top in corners}
    assert len(corners) == 4
    assert len(rows) == (1 if screen == "desktop" else 2)
    questions = {frozenset(q.options): q for q in key.questions.values()}
    while not (seen := shown(browser))["ended"]:
        question = questions[frozenset(seen["options"])]
        place = seen["options"].index(option_of(question, taste(question))) + 1
        if screen == "phone":
            browser.tap(f".option:nth-child({place})")
        else:
            browser.press(str(place))
    votes = save(browser, tmp_path)
    vote.count(folder / vote.KEY, votes, out=tmp_path / "counted", draws=50)
    result = read_json(tmp_path / "counted" / "votes.json")
    assert [one["value"] for one in result["total"]["shares"]] == [0, 0, 0, 1]


def test_everything_that_can_be_used_has_a_name_for_screen_readers(page: Browser) -> None:
    names: list[str] = []
    for step in (lambda: None, lambda: enter(page, "Ada")):
        step()
        for node in page.call("Accessibility.getFullAXTree")["nodes"]:
            role = node.get("role", {}).get("value")
            if role in ("button", "textbox", "image", "progressbar") and not node["ignored"]:
                names.append(node["name"]["value"])
    assert all(names)
    assert {"Start", "Your name or code", "Back", "Questions answered"} <= set(names)
    assert {"Picture 1", "Picture 2", "Picture 3", "The face before the change"} <= set(names)


def test_text_has_the_contrast_of_wcag(page: Browser) -> None:
    seen = page.run(CONTRAST)
    enter(page, "Ada")
    page.press("1")
    seen += page.run(CONTRAST)
    assert len(seen) > 10
    assert [one for one in seen if one[1] < 4.5] == []


def test_the_page_asks_no_network(page: Browser, study: Path) -> None:
    """It may not: its own policy says so."""
    enter(page, "Ada")
    asked = [e["params"]["request"]["url"] for e in page.events
             if e["method"] == "Network.requestWillBeSent"]  # fmt: skip
    assert asked[0] == (study / vote.PAGE).as_uri()
    assert all(address.startswith("data:") for address in asked[1:])
    refused = "fetch('http://127.0.0.1:9/').then(() => 'sent', (e) => e.name)"
    assert page.run(refused) == "TypeError"
    assert any("Content Security Policy" in json.dumps(event) for event in page.events)


def test_a_browser_that_keeps_nothing_says_so(page: Browser, key: Key, tmp_path: Path) -> None:
    page.run("Storage.prototype.setItem = () => { throw new Error('full') }")
    enter(page, "Ada")
    assert page.run("byId('unkept').checkVisibility()")
    answer_all(page, key, always(NAMES[0]))
    assert len(read_ballot(save(page, tmp_path), key).answers) == 15


def test_a_name_in_the_address_is_filled_in(browser: Browser, study: Path) -> None:
    browser.open((study / vote.PAGE).as_uri() + "#voter=Group%20B%2F7")
    assert browser.run("byId('voter').value") == "Group B/7"
    browser.run("byId('enter').requestSubmit()")
    assert browser.run("state.voter") == "Group B/7"


def test_labels_and_titles_are_text_on_the_page(
    browser: Browser, binary: Path, tmp_path: Path
) -> None:
    evil = "</script><script>document.title = 'taken'</script>"
    folder = built(binary, tmp_path / "evil", title=evil)
    browser.open((folder / vote.PAGE).as_uri())
    assert browser.run("document.title") == evil
    assert browser.run("document.querySelector('h1').textContent") == evil
    assert re.fullmatch(r"[0-9a-f]{64}", browser.run("study.study"))

"""The page in a real browser: photos in, controls of each model, results out."""

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from browser import CONTRAST, Browser
from serving import TOKEN, Running, promote, running, wait_for
from training.serving import follow, guard
from training.serving.service import Limits

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own
Open = Callable[..., Running]
# What a screen reader is told of each control that can be reached: role and name.
CONTROLS = """
[...document.querySelectorAll("button, input, a, dialog")].filter((e) => e.checkVisibility()
  && e.tabIndex >= 0 && !e.disabled && e.getAttribute("aria-hidden") !== "true")
  .map((e) => [e.tagName, e.id || e.name || e.textContent,
    (e.ariaLabel || [...e.labels || []].map((l) => l.textContent).join() || e.textContent).trim()])
"""


@pytest.fixture
def visit(own_shelf: Path, browser: Browser) -> Iterator[Open]:
    """Open the page of a server of a model's champion."""
    with ExitStack() as stack:

        def begin(name: str = "faces", **more: Any) -> Running:
            reference = f"{name}@champion"
            server = stack.enter_context(running(follow.first(reference), reference, **more))
            browser.open(server.address)
            return server

        yield begin
        browser.open("about:blank")  # no connection is left to the server


@pytest.fixture
def file(photo: bytes, tmp_path: Path) -> Path:
    (tmp_path / "photo.png").write_bytes(photo)
    return tmp_path / "photo.png"


def shown(page: Browser, text: str) -> str:
    """The status, once it has this text."""
    return str(wait_for(lambda: text in (s := str(page.run("byId('status').textContent"))) and s))


def ready(page: Browser) -> None:
    """The controls are there."""
    wait_for(lambda: page.run("byId('edit').elements.length"))


def results(page: Browser) -> int:
    return int(page.run("results.length"))


def on(page: Browser, selector: str) -> None:
    """Click a control, as its label's click does."""
    page.run(f"document.querySelector(`{selector}`).click()")


def test_a_dropped_photo_is_edited_compared_and_downloaded(
    visit: Open, browser: Browser, file: Path
) -> None:
    """With the history of results, of which an earlier one can be shown again."""
    server = visit()
    ready(browser)
    assert "faces, version 1 (attgan, 16 px)" in browser.run("byId('about').textContent")
    browser.drop("#drop", file)
    shown(browser, "synthetic picture by version 1")
    assert browser.run("byId('before').naturalWidth") == 356
    for number, name in ((2, "Black_Hair"), (3, "Blond_Hair")):
        side = "has" if number == 2 else "want"
        on(browser, f"[name='{side}-group-0'][value={name}]")
        wait_for(lambda number=number: results(browser) == number)
    shown(browser, "Blond Hair: a synthetic picture")
    assert browser.run("stated('want')") == [
        "celeba/Black_Hair=0", "celeba/Blond_Hair=1", "celeba/Male=0"
    ]  # fmt: skip
    assert browser.run("byId('past').children.length") == 3
    browser.run("byId('split').value = 20; byId('split').dispatchEvent(new Event('input'))")
    assert browser.run("byId('after').style.clipPath") == "inset(0px 0px 0px 20%)"
    browser.run("byId('save').click()")
    saved = browser.downloaded("*.png")
    assert saved.name == "faces-v1-synthetic.png"
    wanted = [("label", "Blond_Hair"), ("has", "Black_Hair")]
    assert saved.read_bytes() == server.edit(file.read_bytes(), *wanted).body
    on(browser, "#past li:nth-child(3) button")
    assert "Result 1: nothing changed" in browser.run("byId('status').textContent")
    assert browser.run("byId('after').src === results[2].url")


def test_the_policy_of_the_page_allows_all_that_it_does(
    visit: Open, browser: Browser, file: Path
) -> None:
    """No violation, no error in the console, no request elsewhere."""
    server = visit("moods")
    ready(browser)
    browser.choose("#file", file)
    shown(browser, "synthetic picture")
    events = [(e["method"], e["params"]) for e in browser.events]
    logged = [p["entry"]["text"] for m, p in events if m == "Log.entryAdded"]
    assert logged == []
    assert [p for m, p in events if m == "Runtime.exceptionThrown"] == []
    asked = [p["request"]["url"] for m, p in events if m == "Network.requestWillBeSent"]
    assert {url for url in asked if not url.startswith((server.address, "blob:", "data:"))} == set()


def test_a_slider_moved_by_the_keyboard_changes_the_face(
    visit: Open, browser: Browser, file: Path
) -> None:
    """Units are sliders, with the names of the Facial Action Coding System."""
    visit("units")
    ready(browser)
    assert "AU12 lip corner puller" in browser.run("byId('edit').textContent")
    browser.choose("#file", file)
    shown(browser, "Nothing changed")
    browser.run("byId('amount-want:AU12').focus()")
    for _ in range(4):
        browser.press("ArrowRight", 39)
    shown(browser, "AU12 0.2: a synthetic picture")
    assert browser.run("byId('amount-want:AU12').nextSibling.textContent") == "0.20"
    on(browser, "#edit button")  # all to 0
    shown(browser, "Nothing changed")


def test_styles_come_from_a_number_or_from_another_photo(
    visit: Open, browser: Browser, file: Path, tmp_path: Path
) -> None:
    server = visit("moods")
    ready(browser)
    browser.choose("#file", file)
    shown(browser, "Angry: a synthetic")
    on(browser, "[name=want][value=sad]")
    shown(browser, "Sad: a synthetic")
    on(browser, "#dice")
    shown(browser, "Sad, style")
    Image.new("RGB", (50, 50), "teal").save(tmp_path / "other.png")
    browser.choose("#reference", tmp_path / "other.png")
    shown(browser, "Sad, another photo's style")
    assert browser.run("byId('seed').disabled")
    expected = server.edit(file.read_bytes(), ("label", "sad"),
                           reference=(tmp_path / "other.png").read_bytes())  # fmt: skip
    size = browser.run("results[0].blob.size")
    assert size == len(expected.body)


def test_of_several_label_sets_one_is_edited(visit: Open, browser: Browser, file: Path) -> None:
    visit("joint")
    ready(browser)
    browser.choose("#file", file)
    shown(browser, "synthetic picture")
    assert browser.run("stated('has').length") == 3
    on(browser, "[name=set][value=rafd]")
    shown(browser, "Angry: a synthetic")
    assert browser.run("document.activeElement.value") == "rafd"


def test_the_whole_page_works_by_keyboard_alone(visit: Open, browser: Browser, file: Path) -> None:
    """Tab reaches every control once, in the order of the page; Space and arrows use them."""
    visit()
    ready(browser)
    browser.choose("#file", file)
    shown(browser, "synthetic picture")
    seen: list[str] = []
    for _ in range(40):
        browser.press("Tab", 9)
        seen.append(browser.run("(e => e.id || e.name || e.tagName)(document.activeElement)"))
    start = seen.index("split")
    first = seen[start : seen.index("split", start + 1)]  # once around the page
    order = ["split", "save", "other", "has-group-0", "has", "want-group-0", "want",
             "amount-intensity", "frame", "A"]  # fmt: skip
    assert [name for name in first if name in order] == order
    browser.run("document.querySelector('[name=want]').focus()")
    browser.press(" ", 32)
    shown(browser, "Male: a synthetic")
    browser.run("document.querySelector('[name=want-group-0]').focus()")
    browser.press("ArrowRight", 39)
    shown(browser, "Black Hair, Male: a synthetic")
    browser.run("byId('other').focus()")
    browser.press("Enter", 13)
    assert browser.run("document.activeElement.id") == "file"


@pytest.mark.parametrize("name", ["faces", "moods", "units", "joint"])
def test_every_control_has_a_name_and_every_text_its_contrast(
    visit: Open, browser: Browser, file: Path, name: str
) -> None:
    """For screen readers, and by WCAG's formula, 4.5 at least."""
    visit(name)
    ready(browser)
    contrasts = browser.run(CONTRAST)
    browser.choose("#file", file)
    shown(browser, "synthetic picture")
    controls = browser.run(CONTROLS)
    assert len(controls) > 6
    assert [one for one in controls if not one[2]] == []
    low = [one for one in contrasts + browser.run(CONTRAST) if one[1] < 4.5]
    assert low == []
    assert browser.run("[...document.querySelectorAll('fieldset')].every((f) => "
                       "f.firstChild.tagName === 'LEGEND')")  # fmt: skip


@pytest.mark.parametrize("name", ["faces", "moods", "units"])
def test_a_phone_shows_everything_in_its_width(
    visit: Open, browser: Browser, file: Path, name: str
) -> None:
    """375 px; fingers hit every control, and the picture stays in view beside the last one."""
    browser.phone(375)
    visit(name)
    ready(browser)
    browser.choose("#file", file)
    shown(browser, "synthetic picture")
    assert browser.run("document.documentElement.scrollWidth") <= 375
    heights = browser.run(
        "[...document.querySelectorAll('button, .button, .chip, .switch')]"
        ".filter((e) => e.checkVisibility()).map((e) => e.offsetHeight)"
    )
    assert min(heights) >= 40
    browser.tap("[name=frame][value=centre]")
    wait_for(lambda: results(browser) == 2)
    box = browser.run("byId('compare').getBoundingClientRect().toJSON()")
    assert box["top"] >= 0
    assert box["bottom"] <= 844


def test_the_camera_takes_a_photo(visit: Open, browser: Browser) -> None:
    """Chromium's own moving figure, which has no face: the centre is offered instead."""
    visit()
    ready(browser)
    on(browser, "#camera")
    wait_for(lambda: browser.run("byId('video').videoWidth"))
    on(browser, "#take")
    wait_for(lambda: "No face found" in browser.run("byId('what').textContent")
             or "no face found" in browser.run("byId('what').textContent"))  # fmt: skip
    assert not browser.run("byId('lens').open")
    assert browser.run("byId('video').srcObject") is None
    on(browser, "#centre")
    shown(browser, "synthetic picture")
    assert browser.run("byId('problem').hidden")


def test_a_refusal_is_shown_with_its_fix(visit: Open, browser: Browser, tmp_path: Path) -> None:
    visit()
    ready(browser)
    (tmp_path / "notes.txt").write_text("no picture")
    browser.choose("#file", tmp_path / "notes.txt")
    text = wait_for(lambda: browser.run("byId('what').textContent"))
    assert text.startswith("image: not a picture")
    assert browser.run("byId('problem').getAttribute('role')") == "alert"


def test_a_large_photo_is_scaled_down_before_it_is_sent(
    visit: Open, browser: Browser, portrait: Image.Image, tmp_path: Path
) -> None:
    visit()
    ready(browser)
    portrait.resize((3000, 3674)).save(tmp_path / "large.jpg", quality=90)
    browser.choose("#file", tmp_path / "large.jpg")
    shown(browser, "synthetic picture")
    size = browser.run("createImageBitmap(results[0].blob).then((b) => [b.width, b.height])")
    assert size == [1672, 2048]


def test_the_page_asks_for_the_token_and_keeps_it(
    visit: Open, browser: Browser, file: Path
) -> None:
    visit(who=guard.Access(guard.LOOPBACK, TOKEN))
    wait_for(lambda: browser.run("!byId('enter').hidden"))
    assert browser.run("byId('work').hidden")
    enter = "byId('token').value = '{}'; byId('enter').requestSubmit()"
    browser.run(enter.format("wrong"))
    wait_for(lambda: "not this server's token" in browser.run("byId('what').textContent"))
    assert browser.run("byId('work').hidden")
    browser.run(enter.format(TOKEN))
    wait_for(lambda: browser.run("!byId('work').hidden"))
    assert browser.run("byId('problem').hidden")
    browser.reload()
    ready(browser)
    browser.choose("#file", file)
    shown(browser, "synthetic picture")


def test_a_busy_server_is_asked_again(visit: Open, browser: Browser, file: Path) -> None:
    server = visit(limits=Limits(queue=1))
    ready(browser)
    server.service.inside = 1  # as if another edit were there
    browser.choose("#file", file)
    shown(browser, "The server is busy; trying again in 1 s")
    server.service.inside = 0
    shown(browser, "synthetic picture")


def test_a_promotion_is_seen_with_the_next_edit(visit: Open, browser: Browser, file: Path) -> None:
    server = visit()
    ready(browser)
    browser.choose("#file", file)
    shown(browser, "by version 1")
    promote("faces", "2")
    server.follower.look()
    on(browser, "[name=want]")
    shown(browser, "by version 2")
    wait_for(lambda: "version 2" in browser.run("byId('about').textContent"))
    assert browser.run("document.querySelector('[name=want]').checked")  # the choice stays


def test_before_and_after_have_one_frame(visit: Open, browser: Browser, file: Path) -> None:
    """Of the centre, the photo is cropped as the model sees it."""
    visit()
    ready(browser)
    browser.choose("#file", file)
    shown(browser, "synthetic picture")
    shape = "(r => r.width / r.height)(byId('compare').getBoundingClientRect())"
    assert browser.run(shape) == pytest.approx(356 / 436, abs=0.02)
    on(browser, "[name=frame][value=centre]")
    wait_for(lambda: results(browser) == 2)
    assert browser.run(shape) == pytest.approx(1, abs=0.02)
    blob = browser.run("results[0].blob.arrayBuffer().then((b) => [...new Uint8Array(b)])")
    assert np.asarray(Image.open(io.BytesIO(bytes(blob)))).shape == (16, 16, 3)

"""The page that runs an exported model, in a real browser, against torch."""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from browser import Browser
from exports import VERSION, tiny_translator
from toydata import CELEBA, RAFD
from training.data.dataset import to_float, to_uint8
from training.data.labels import LabelSpace
from training.export import onnx_file, web
from training.inference.edit import center_square
from training.inference.translator import Translator
from training.models.base import EditOptions

SHAPES = {
    "stargan": LabelSpace((CELEBA, RAFD)), "attgan": LabelSpace((CELEBA,)),
    "cyclegan": LabelSpace((CELEBA,)), "starganv2": LabelSpace((RAFD,)),
}  # fmt: skip
Page = Callable[..., Translator]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth colourful picture."""
    small = np.random.RandomState(seed).randint(0, 256, (6, 5, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def built(
    runtime: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Translator, Path]]:
    """The page of a tiny model and its translator; built once."""
    made: dict[tuple[str, str], tuple[Translator, Path]] = {}

    def build(name: str, style: onnx_file.Style = "latent") -> tuple[Translator, Path]:
        if (name, style) not in made:
            translator = tiny_translator(name, SHAPES.get(name))
            folder = tmp_path_factory.mktemp("page") / name
            web.build(folder, onnx_file.export(translator, VERSION, style), runtime)
            made[name, style] = translator, folder
        return made[name, style]

    return build


@pytest.fixture
def page(browser: Browser, built: Any, serve: Callable[[Path], str]) -> Page:
    """Open the page of a model in the browser; returns its translator."""

    def go(name: str, style: str = "latent") -> Translator:
        translator, folder = built(name, style)
        browser.open(serve(folder) + "/")
        wait(browser, "document.body.dataset.ready === 'yes'")
        return translator

    return go


def wait(browser: Browser, condition: str) -> None:
    """Until the expression is true; the page's message if it never is."""
    end = time.monotonic() + 60
    while not browser.run(condition):
        assert time.monotonic() < end, browser.run("document.body.innerText")
        time.sleep(0.05)


def give(browser: Browser, selector: str, path: Path) -> None:
    """Choose a file in a file input."""
    found = browser.call("Runtime.evaluate", expression=f"document.querySelector('{selector}')")
    browser.call("DOM.setFileInputFiles", files=[str(path)], objectId=found["result"]["objectId"])


def after(browser: Browser, canvas: str = "after") -> np.ndarray:
    """The canvas's pixels (s, s, 3), once no run is pending."""
    wait(browser, "!document.getElementById('save').disabled")
    pixels = browser.run(
        f"(c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data])"
        f"(document.getElementById('{canvas}'))"
    )
    side = int(len(pixels) ** 0.5 / 2)
    return np.array(pixels, np.uint8).reshape(side, side, 4)[..., :3]


def check(browser: Browser, translator: Translator, label: list[float], source: Any = None,
          options: EditOptions | None = None) -> None:  # fmt: skip
    """The page's result is torch's edit of the page's square, but for rounding."""
    found = after(browser)
    x = to_float(torch.from_numpy(after(browser, "before"))[None])
    given = None if source is None else torch.tensor([source])
    with torch.no_grad():
        out = translator.model.translate(
            translator.nets, x, given, torch.tensor([label]), options or EditOptions()
        )
    assert apart(found, to_uint8(out)[0].numpy()) <= 1


def apart(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def central(photo: Image.Image) -> np.ndarray:
    """The square that `translate` edits."""
    return to_uint8(center_square(photo, 16))[0].numpy()


def test_the_page_edits_a_photo_as_torch_does(page: Page, browser: Browser, tmp_path: Path) -> None:
    """A photo of the model's size to the byte; a larger one, whose labels are clicked."""
    translator = page("stargan")
    exact = picture(16, 16)
    exact.save(tmp_path / "exact.png")
    give(browser, "#file", tmp_path / "exact.png")
    none = [0.0] * 6 + [1.0, 0.0]
    assert np.array_equal(after(browser, "before"), np.asarray(exact))
    check(browser, translator, none)
    photo = picture(131, 90)
    photo.save(tmp_path / "photo.png")
    give(browser, "#file", tmp_path / "photo.png")
    wait(browser, "document.getElementById('photo').width === 131")
    browser.run("document.querySelector('[data-label=Blond_Hair]').click()")
    check(browser, translator, [0.0, 1, 0, 0, 0, 0, 1, 0])
    assert apart(after(browser, "before"), central(photo)) <= 1
    browser.run("document.querySelector('[data-label=Black_Hair]').click()")  # excludes Blond_Hair
    assert not browser.run("document.querySelector('[data-label=Blond_Hair]').checked")
    check(browser, translator, [1.0, 0, 0, 0, 0, 0, 1, 0])
    browser.run("(s => (s.value = '1', s.dispatchEvent(new Event('change'))))"
                "(document.querySelector('select'))")  # fmt: skip
    browser.run("document.querySelector('[data-label=sad]').click()")
    check(browser, translator, [0.0, 0, 0, 0, 0, 1, 0, 1])


def test_the_photos_own_labels_and_the_strength_are_inputs(
    page: Page, browser: Browser, tmp_path: Path
) -> None:
    """AttGAN: the result starts from the photo's labels."""
    translator = page("attgan")
    photo = picture(40, 40)
    photo.save(tmp_path / "photo.png")
    give(browser, "#file", tmp_path / "photo.png")
    browser.run("document.querySelector('#source [data-label=Black_Hair]').click()")
    assert browser.run("document.querySelector('#label [data-label=Black_Hair]').checked")
    browser.run("document.querySelector('#label [data-label=Male]').click()")
    browser.run("(s => (s.value = '2', s.dispatchEvent(new Event('input'))))"
                "(document.getElementById('intensity'))")  # fmt: skip
    target, source, options = [1.0, 0, 1], [1.0, 0, 0], EditOptions(intensity=2.0)
    check(browser, translator, target, source, options)


def test_a_seed_on_the_page_is_the_seed_of_translate(
    page: Page, browser: Browser, tmp_path: Path
) -> None:
    translator = page("starganv2")
    photo = picture(30, 50)
    photo.save(tmp_path / "photo.png")
    give(browser, "#file", tmp_path / "photo.png")
    check(browser, translator, [1.0, 0, 0], options=EditOptions(seed=0))
    browser.run("document.querySelector('[data-label=happy]').click()")
    browser.run("(s => (s.value = '7', s.dispatchEvent(new Event('change'))))"
                "(document.getElementById('seed'))")  # fmt: skip
    check(browser, translator, [0.0, 1, 0], options=EditOptions(seed=7))


@pytest.mark.long
def test_the_style_of_another_photo_and_switched_networks(
    page: Page, browser: Browser, tmp_path: Path
) -> None:
    """StarGAN v2 with a reference; CycleGAN's graph has branches."""
    translator = page("starganv2", "reference")
    photo, other = picture(30, 50), picture(50, 30, seed=1)
    photo.save(tmp_path / "photo.png")
    other.save(tmp_path / "other.png")
    give(browser, "#file", tmp_path / "photo.png")
    assert browser.run("document.getElementById('save').disabled")  # no style yet
    give(browser, "#reference", tmp_path / "other.png")
    style = EditOptions(reference=center_square(other, 16))
    check(browser, translator, [1.0, 0, 0], options=style)
    translator = page("cyclegan")
    give(browser, "#file", tmp_path / "photo.png")
    browser.run("document.querySelector('#source [data-label=Black_Hair]').click()")
    for label in ("Blond_Hair", "Male"):
        browser.run(f"document.querySelector('#label [data-label={label}]').click()")
    check(browser, translator, [0.0, 1, 1], [1.0, 0, 0])


def test_nothing_leaves_the_page(page: Page, browser: Browser, tmp_path: Path) -> None:
    """Every request is to its own server; another one is refused by the page's policy."""
    browser.events.clear()
    page("stargan")
    picture(16, 16).save(tmp_path / "photo.png")
    give(browser, "#file", tmp_path / "photo.png")
    after(browser)
    sent = [e["params"]["request"] for e in browser.events
            if e.get("method") == "Network.requestWillBeSent"]  # fmt: skip
    addresses = {one["url"] for one in sent}
    own = browser.run("location.origin")
    assert {one["method"] for one in sent} == {"GET"}
    assert all(one.startswith((own, "blob:", "data:")) for one in addresses), addresses
    assert any(one.endswith(".wasm") for one in addresses)
    said = browser.run("fetch('http://127.0.0.1:9/photo').then(() => 'sent', e => e.message)")
    assert said == "Failed to fetch"
    texts = [json.dumps(e) for e in browser.events if e.get("method") == "Log.entryAdded"]
    assert texts
    assert all("127.0.0.1:9/" in text and "Content Security Policy" in text for text in texts)


def test_the_keyboard_moves_and_resizes_the_square(
    page: Page, browser: Browser, tmp_path: Path
) -> None:
    """Arrows and +/-; the edited square is that part of the photo."""
    page("stargan")
    photo = picture(120, 60)
    photo.save(tmp_path / "photo.png")
    give(browser, "#file", tmp_path / "photo.png")
    after(browser)
    browser.run("document.getElementById('photo').focus()")
    for _ in range(200):
        browser.press("ArrowRight", 39)
    right = np.asarray(photo.crop((60, 0, 120, 60)).resize((16, 16)))
    assert apart(after(browser, "before"), right) <= 9  # the square's edge reads its neighbours
    side = int(browser.run("document.getElementById('side').value"))
    browser.press("-", 189)
    assert int(browser.run("document.getElementById('side').value")) < side
    browser.run("document.getElementById('centre').click()")
    assert apart(after(browser, "before"), central(photo)) <= 1


def test_the_saved_picture_says_that_it_is_synthetic(
    page: Page, browser: Browser, tmp_path: Path
) -> None:
    """A PNG that Pillow reads, with IPTC's DigitalSourceType and the version in its XMP."""
    page("stargan")
    picture(16, 16).save(tmp_path / "photo.png")
    give(browser, "#file", tmp_path / "photo.png")
    shown = after(browser)
    browser.run("document.getElementById('save').click()")
    path = tmp_path / "downloads" / "synthetic-tiny-3.png"
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    with Image.open(io.BytesIO(path.read_bytes())) as saved:
        saved.load()
        assert np.array_equal(np.asarray(saved.convert("RGB")), shown)
        packet = saved.info["xmp"].decode()
    assert "digitalsourcetype/compositeWithTrainedAlgorithmicMedia" in packet
    assert "model tiny/3" in packet


def test_a_file_that_is_no_picture_is_refused_by_name(
    page: Page, browser: Browser, tmp_path: Path
) -> None:
    page("stargan")
    (tmp_path / "notes.txt").write_text("no picture")
    give(browser, "#file", tmp_path / "notes.txt")
    wait(browser, "!document.getElementById('problem').hidden")
    said = browser.run("document.getElementById('problem').textContent")
    assert said == "notes.txt is not a picture that this browser reads; save it as JPEG or PNG."


def test_it_fits_a_phone(page: Page, browser: Browser, tmp_path: Path) -> None:
    """No sideways scrolling, and the version and the warning are there."""
    browser.phone()
    page("stargan")
    picture(300, 400).save(tmp_path / "photo.png")
    give(browser, "#file", tmp_path / "photo.png")
    after(browser)
    assert browser.run("document.documentElement.scrollWidth") <= 390
    text = browser.run("document.body.innerText")
    assert "The results are synthetic pictures." in text
    assert "Version tiny/3, content cccccccccccc" in text


def test_a_page_without_a_server_says_how_to_start_one(built: Any, browser: Browser) -> None:
    """Opened from the disk, no browser lets it load its model."""
    browser.open((built("stargan")[1] / "index.html").as_uri())
    assert "python -m http.server" in browser.run("document.getElementById('problem').innerText")


def test_an_altered_or_other_package_is_refused(runtime: Path, tmp_path: Path) -> None:
    exported = onnx_file.Exported(b"", {}, 0.0, 0, None)
    with pytest.raises(ValueError, match=r"elsewhere: no npm package; onnxruntime-web 1\.30\.0, u"):
        web.build(tmp_path / "page", exported, tmp_path / "elsewhere")
    copy = tmp_path / "package"
    (copy / "dist").mkdir(parents=True)
    (copy / "package.json").write_bytes((runtime / "package.json").read_bytes())
    for name in web.FILES:
        (copy / "dist" / name).symlink_to(runtime / "dist" / name)
    (copy / "dist" / "ort.wasm.min.mjs").unlink()
    (copy / "dist" / "ort.wasm.min.mjs").write_text("alert(1)")
    with pytest.raises(ValueError, match=r"ort\.wasm\.min\.mjs: altered; unpack"):
        web.build(tmp_path / "page", exported, copy)
    assert not (tmp_path / "page").exists()


def test_without_npm_the_fix_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="npm is not installed: apt-get install npm, or on anoth"):
        web.fetch(tmp_path)


def test_a_package_of_other_bytes_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """npm that delivers something else, as a registry that somebody has changed would."""
    fake = tmp_path / "bin" / "npm"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho other > onnxruntime-web-1.30.0.tgz\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/usr/bin:/bin")
    with pytest.raises(ValueError, match=r"its integrity is sha512-.*, not sha512-q0y\+Jrrt"):
        web.fetch(tmp_path)

"""A real browser, driven through the Chrome DevTools protocol."""

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket

PATIENCE = 300.0  # seconds that a page or a file may take on a busy machine
# Text and what is behind it: contrast by WCAG 2.2's formula, 4.5 at least.
CONTRAST = """
(() => {
  const rgb = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = (c) => [0.2126, 0.7152, 0.0722].map((w, i) => {
    const v = c[i] / 255;
    return w * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  }).reduce((a, b) => a + b);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const texts = [...document.querySelectorAll("main *")].filter((e) => e.checkVisibility()
    && !e.disabled && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));
  return texts.map((e) => {
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))];
    return [e.textContent.trim().slice(0, 30), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
  });
})()
"""


class Browser:
    """Headless Chromium with one page at a time; its profile is `profile`."""

    def __init__(self, program: str, profile: Path) -> None:
        self.downloads = profile
        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--no-first-run", "--remote-debugging-port=0", f"--user-data-dir={profile}",
             # a camera that shows a moving figure
             "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        port, path = self._port(profile / "DevToolsActivePort")
        self.socket = websocket.create_connection(
            f"ws://127.0.0.1:{port}{path}", PATIENCE, http_no_proxy=["127.0.0.1"],
            suppress_origin=True,
        )  # fmt: skip
        self.number, self.session, self.context = 0, "", ""
        self.events: list[dict[str, Any]] = []

    def start(self, downloads: Path) -> None:
        """A page that shares nothing with earlier ones; its files go to the folder `downloads`."""
        downloads.mkdir()
        self.downloads = downloads
        self.context = self.call("Target.createBrowserContext")["browserContextId"]
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads),
                  browserContextId=self.context)  # fmt: skip
        target = self.call("Target.createTarget", url="about:blank", browserContextId=self.context)
        self.session = self.call("Target.attachToTarget", flatten=True, **target)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def end(self) -> None:
        """Close the page and forget what it kept."""
        self.session = ""
        self.call("Target.disposeBrowserContext", browserContextId=self.context)

    def _port(self, file: Path) -> list[str]:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            lines = file.read_text().split("\n") if file.exists() else []
            if len(lines) == 2:
                return lines
            assert self.process.poll() is None, "the browser has ended"
            time.sleep(0.05)
        raise AssertionError("the browser does not listen")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; events that come before it are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        self.socket.send(
            json.dumps(message | ({"sessionId": self.session} if self.session else {}))
        )
        while True:
            found = json.loads(self.socket.recv())
            if found.get("id") == self.number:
                assert "error" not in found, (method, found)
                return dict(found["result"])
            self.events.append(found)

    def open(self, address: str) -> None:
        """Load a page; returns when it is complete."""
        self.events.clear()
        self.call("Page.navigate", url=address)
        self.loaded()

    def reload(self) -> None:
        self.events.clear()
        self.call("Page.reload")
        self.loaded()

    def loaded(self) -> None:
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(json.loads(self.socket.recv()))

    def run(self, code: str) -> Any:
        """The JSON value of a JavaScript expression; an exception in it fails the test."""
        found = self.call(
            "Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str, code: int = 0) -> None:
        """Press and release a key, as a keyboard does."""
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        more = {"windowsVirtualKeyCode": code or ord(key.upper()[0])}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, text=text, **more)

    def tap(self, selector: str) -> None:
        """Tap the middle of an element with a finger."""
        box = self.run(
            f"(e => (e.scrollIntoView(), e.getBoundingClientRect().toJSON()))"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        point = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[point])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def phone(self, width: int = 390) -> None:
        """The screen and the fingers of a phone."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=844,
                  deviceScaleFactor=1, mobile=True)  # fmt: skip
        self.call("Emulation.setTouchEmulationEnabled", enabled=True)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file in a file input, as its dialog does."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        found = self.call("DOM.querySelector", nodeId=root, selector=selector)
        self.call("DOM.setFileInputFiles", files=[str(file)], **found)

    def drop(self, selector: str, file: Path) -> None:
        """Drag a file from outside onto an element."""
        box = self.run(f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
                       ".toJSON()")  # fmt: skip
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, data=data,
                      x=box["x"] + 9, y=box["y"] + 9)  # fmt: skip

    def downloaded(self, pattern: str = "*.json") -> Path:
        """The only file of this kind in `downloads`, once it is complete."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            files = list(self.downloads.glob(pattern))
            if files and not list(self.downloads.glob("*.crdownload")):
                (file,) = files
                return file
            time.sleep(0.05)
        raise AssertionError("nothing was downloaded")

    def close(self) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(PATIENCE)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no browser: apt-get install chromium")
    made = Browser(program, tmp_path_factory.mktemp("chromium"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def browser(chromium: Browser, tmp_path: Path) -> Iterator[Browser]:
    """A page of its own in the session's browser."""
    chromium.start(tmp_path / "downloads")
    try:
        yield chromium
    finally:
        chromium.end()

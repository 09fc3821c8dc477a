"""Tiny translators to export, the browser's runtime from npm, a plain web server of a folder."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

from toydata import SETS
from training.data.labels import LabelSet, LabelSpace
from training.export import web
from training.export.onnx_file import Version
from training.inference.translator import Translator
from training.models import MODELS
from training.models.layers import place

VERSION = Version("tiny", "3", "c" * 64, "1" * 64)
# Networks for each pair of domains take long to export: one pair.
ONE_PAIR = LabelSet("celeba", "binary", ("Male",))
SPACES = {name: LabelSpace(SETS["binary"] if model.edits_own_labels else (ONE_PAIR,))
          for name, model in MODELS.items()} | {
    "ganimation": LabelSpace(SETS["units"]),
    "starganv2": LabelSpace(SETS["classes"]),
    "stargan": LabelSpace(SETS["joint"]),
}  # fmt: skip


def tiny_translator(name: str, space: LabelSpace | None = None, size: int = 16) -> Translator:
    """A model of the registry in its smallest form, untrained, in evaluation mode."""
    torch.manual_seed(1)
    model, space = MODELS[name].tiny(), space or SPACES[name]
    nets = model.networks(space, size)
    for net in nets.values():
        net.requires_grad_(False).eval()
        place(net, torch.device("cpu"))
    return Translator(model, nets, space, size, {"name": name, "preset": "demo"})


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked npm package that runs the page's model, as npm delivers it."""
    if shutil.which("npm") is None:
        pytest.skip("no npm: apt-get install npm")
    try:
        return web.fetch(tmp_path_factory.mktemp("npm"))
    except ValueError as error:
        if "its integrity" in str(error):
            raise
        pytest.skip(str(error))


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """Serve a folder on loopback as `python -m http.server` does; returns its address."""
    running: list[tuple[ThreadingHTTPServer, Thread]] = []

    def start(folder: Path) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()

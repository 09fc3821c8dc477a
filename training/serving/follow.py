"""Follow a reference in the registry: a promotion or rollback is loaded beside the old version."""

import logging
import threading
import time
from collections.abc import Callable

from training.core.faults import explained
from training.serving.figures import Figures
from training.serving.served import Served, current, load

AGAIN = 60.0  # s after which a refused version is tried again
log = logging.getLogger(__name__)


def first(reference: str) -> Served:
    """The version that a reference names. Raises ValueError as `load` does, and for a path."""
    name, number = current(reference)
    return load(name, number)


class Follower:
    """A thread that asks every few seconds which version NAME@ALIAS is, and loads another one.

    A registry that does not answer, and a version that is damaged or not signed, change nothing
    but the log.
    """

    def __init__(
        self, reference: str, served: Served, swap: Callable[[Served], None], every: float,
        figures: Figures,
    ) -> None:  # fmt: skip
        """`swap` takes the new version; `every`: seconds between two questions."""
        self.reference, self.served, self.swap = reference, served, swap
        self.every, self.figures = every, figures
        self._refused, self._tried = "", 0.0  # a version, and when it was refused
        self._said = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        figures.answers.set(1)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Stop asking; a version that is being loaded is left."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self.every):
            self.look()

    def look(self) -> None:
        """Ask once, and serve the version that is named now."""
        try:
            _, number = current(self.reference)
        except Exception as error:  # the thread must outlive any failure of the registry
            self.figures.answers.set(0)
            self._say(f"{_reason(error)}; version {self.served.version} stays")
            return
        self.figures.answers.set(1)
        recently = time.monotonic() - self._tried < AGAIN
        if number == self.served.version:
            self._refused = self._said = ""
        elif number != self._refused or not recently:
            self._change(number)

    def _change(self, number: str) -> None:
        old = self.served.version
        try:
            served = load(self.served.name, number)
        except Exception as error:
            self._refused, self._tried = number, time.monotonic()
            self.figures.refused.inc()
            self._say(f"version {number} refused: {_reason(error)}; version {old} stays")
            return
        self.served, self._refused, self._said = served, "", ""
        self.swap(served)
        log.info("version %s is served in place of version %s", number, old)

    def _say(self, text: str) -> None:
        """Log a text unless it was the last one."""
        if text != self._said:
            log.warning("%s", text)
        self._said = text


def _reason(error: Exception) -> str:
    return explained(error) or f"{type(error).__name__}: {error}"

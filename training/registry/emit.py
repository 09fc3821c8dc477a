"""Where OpenLineage events go: a file, an HTTP server, or both; never at a step's cost.

The server's part is openlineage-python's own transport.
"""

import os
import queue
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.core import environment
from training.core.shown import shown

PATIENCE = 3.0  # s that a step waits at its end for a server, and a request for an answer


class File:
    """A file with one JSON event in each line; several processes may add to it."""

    def __init__(self, path: Path) -> None:
        self.where = str(path)

    def send(self, event: Any) -> None:
        """Add an event. Raises OSError."""
        from openlineage.client.serde import Serde

        path = Path(self.where)
        path.parent.mkdir(parents=True, exist_ok=True)
        line = f"{Serde.to_json(event)}\n".encode()
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, line)  # one write, so that lines of several processes do not mix
        finally:
            os.close(descriptor)


class Server:
    """An HTTP server that receives events, such as Marquez."""

    def __init__(self, url: str) -> None:
        """Raises ValueError for what is no address."""
        from openlineage.client.transport.http import HttpConfig, HttpTransport

        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{shown(url)}: no http:// or https:// address")
        self.where = shown(url)
        key = environment.OPENLINEAGE_API_KEY.get()
        self._transport = HttpTransport(
            HttpConfig.from_dict({
                "url": url, "endpoint": environment.OPENLINEAGE_ENDPOINT.get(),
                "timeout": PATIENCE, "retry": {"total": 0},
                **({"auth": {"type": "api_key", "apiKey": key}} if key else {}),
            })
        )  # fmt: skip

    def send(self, event: Any) -> None:
        """Post an event. Raises OSError if it is not received."""
        self._transport.emit(event)  # requests' errors are OSErrors


Destination = File | Server


def configured() -> list[Destination]:
    """The destinations of OPENLINEAGE_FILE and OPENLINEAGE_URL; ValueError for a wrong one."""
    file, url = environment.OPENLINEAGE_FILE.get(), environment.OPENLINEAGE_URL.get()
    return [*([File(Path(file))] if file else []), *([Server(url)] if url else [])]


def destination(text: str) -> Destination:
    """A URL's server or a path's file."""
    return Server(text) if "://" in text else File(Path(text))


class Sender:
    """Sends events from a thread of its own; `finish` says what each has not received."""

    def __init__(self, destinations: Sequence[Destination]) -> None:
        self._destinations = destinations
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._received = dict.fromkeys(range(len(self._destinations)), 0)
        self._put = 0
        self._errors: dict[int, str] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, event: Any) -> None:
        self._put += 1
        self._events.put(event)

    def finish(self) -> None:
        """Wait `PATIENCE` seconds at most for what is not yet received."""
        self._events.put(None)
        self._thread.join(PATIENCE)
        for number, one in enumerate(self._destinations):
            if missing := self._put - self._received[number]:
                why = self._errors.get(number) or f"no answer within {PATIENCE:.0f} s"
                sys.stderr.write(
                    f"OpenLineage: {missing} of {self._put} events were not received by "
                    f"{one.where} ({why}); the step is not affected\n"
                )

    def _run(self) -> None:
        while (event := self._events.get()) is not None:
            for number, one in enumerate(self._destinations):
                try:
                    one.send(event)
                    self._received[number] += 1
                except (OSError, ValueError) as error:
                    self._errors[number] = " ".join(shown(error).split())[:300]

"""Listen, serve until a signal, and leave without losing a request."""

import signal
import socket
import time
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from training.serving.service import Service

CONNECTIONS = 1000  # at once; above, uvicorn answers 503 by itself


def listener(host: str, port: int) -> socket.socket:
    """A bound socket; port 0: a free one. Raises OSError with the fix."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # after a kill, at once again
    try:
        bound.bind((host.strip("[]"), port))
    except OSError as error:
        bound.close()
        raise OSError(
            error.errno, f"{error.strerror}; give another --port, or end what listens there",
            f"{host}:{port}",
        ) from error  # fmt: skip
    return bound


class Server(uvicorn.Server):
    """A server that is not ready from the first signal on, and leaves when its edits are done."""

    def __init__(self, app: ASGIApp, service: Service, drain: float) -> None:
        """`drain`: seconds from SIGTERM on in which edits are still taken, until others have seen
        that the server is not ready."""
        config = uvicorn.Config(
            app, log_config=None, log_level="warning", access_log=False, server_header=False,
            proxy_headers=False, lifespan="off", limit_concurrency=CONNECTIONS, http="h11",
            ws="none",
            timeout_graceful_shutdown=max(1, round(service.limits.seconds)),
        )  # fmt: skip
        super().__init__(config)
        self.service, self.drain, self._leave, self._cut = service, drain, 0.0, False

    @property
    def ended(self) -> str:
        """How it has ended, for people."""
        if self._cut:
            return "stopped; answers that were not sent yet are lost"
        return "stopped; no edit was lost"

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A second signal ends the server at once."""
        if self.service.leaving:
            self.should_exit = self.force_exit = True
            return
        self.service.leaving = True
        self._leave = time.monotonic() + (self.drain if sig == signal.SIGTERM else 0)
        self._stop_in_time()

    def _stop_in_time(self) -> None:
        if self.service.leaving and time.monotonic() >= self._leave:
            self.service.stop()

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        self._stop_in_time()
        if self.service.stopping and not self.service.inside:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait until what is done is sent, up to the time limit."""
        await super().shutdown(sockets)
        self._cut = bool(self.server_state.connections or self.server_state.tasks)


def address(bound: socket.socket) -> str:
    """The address of a listening server, for people."""
    host, port = bound.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"

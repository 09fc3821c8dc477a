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
    """A server that refuses new edits at the first signal and leaves when those inside are done."""

    def __init__(self, app: ASGIApp, service: Service, drain: float) -> None:
        """`drain`: least seconds from SIGTERM to the end, in which others see that it stops."""
        config = uvicorn.Config(
            app, log_config=None, log_level="warning", access_log=False, server_header=False,
            proxy_headers=False, lifespan="off", limit_concurrency=CONNECTIONS, http="h11",
            ws="none",
            timeout_graceful_shutdown=max(1, round(service.limits.seconds)),
        )  # fmt: skip
        super().__init__(config)
        self.service, self.drain, self._leave = service, drain, 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A second signal ends the server at once."""
        if self.service.stopping:
            self.should_exit = self.force_exit = True
            return
        self.service.stop()
        self._leave = time.monotonic() + (self.drain if sig == signal.SIGTERM else 0)

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        done = self.service.stopping and not self.service.inside
        if done and time.monotonic() >= self._leave:
            self.should_exit = True
        return await super().on_tick(counter)


def address(bound: socket.socket) -> str:
    """The address of a listening server, for people."""
    host, port = bound.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"

"""The edits of a server: admitted up to a limit, prepared, run in batches, ended in time."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request
from torch import Tensor

from training.core import environment
from training.serving import asked as asking
from training.serving import pictures, protocol
from training.serving.asked import Asked, Wanted
from training.serving.batches import Batches, Edit, Painted
from training.serving.figures import Figures
from training.serving.problems import Problem
from training.serving.served import Served

PICTURES = 4  # prepared and pasted at once; each of 16 million pixels takes 0.5 GiB
T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """What a server takes on at once and from one request."""

    queue: int = 16  # edits that are inside: uploaded, prepared, waiting or run
    batch: int = 8  # pictures in one pass of the network
    seconds: float = 30.0  # to receive a request, and again to answer it
    bytes: int = 20 * 2**20  # of a request's body
    pixels: int = 16_000_000  # of a picture


class GoneError(Exception):
    """The client has left before its answer was ready."""


class Service:
    """Edits with the version that is served when each of them begins."""

    def __init__(self, served: Served, limits: Limits, figures: Figures) -> None:
        self.served, self.limits, self.figures = served, limits, figures
        self.leaving = False  # not ready any more, so that others send nothing new
        self.stopping = False
        self.inside = 0
        self._batches = Batches(limits.batch, figures)
        self._cpu = ThreadPoolExecutor(min(environment.cores(), PICTURES), "pictures")
        figures.serve(served.name, served.version)

    def swap(self, served: Served) -> None:
        """Serve another version; requests that have begun keep the old one."""
        self.served = served
        self.figures.serve(served.name, served.version)

    def stop(self) -> None:
        """Refuse new edits from now on; those inside are finished."""
        self.stopping = True

    def end(self) -> None:
        """Finish what waits and end the threads."""
        self._batches.end()
        self._cpu.shutdown()

    def retry_after(self) -> int:
        """Seconds after which a place is likely to be free."""
        return min(self._batches.wait_seconds(), math.ceil(self.limits.seconds))

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the queue's places. Raises Problem if none is free, or while stopping."""
        if self.stopping:
            raise Problem(503, "the server is stopping", "", "send it again", wait=1)
        if self.inside >= self.limits.queue:
            wait = self.retry_after()
            raise Problem(
                429, f"{self.inside} edits are waiting or running, the limit", "",
                f"send it again after {wait} s", wait=wait,
            )  # fmt: skip
        self.inside += 1
        self.figures.inside.set(self.inside)
        try:
            yield
        finally:
            self.inside -= 1
            self.figures.inside.set(self.inside)

    async def translate(self, request: Request) -> tuple[bytes, dict[str, str]]:
        """A form or a raw body to a PNG and its headers. Raises Problem and GoneError."""
        served = self.served
        asked = await self._read(asking.read(request, self.limits.bytes))
        async with self._limited():
            return await self._unless_gone(request, self._picture(served, asked))

    async def infer(self, request: Request) -> tuple[Served, protocol.Given, Tensor | bytes]:
        """An inference request in both forms to images or a PNG. Raises as `translate` does."""
        served = self.served
        body = await self._read(self._body(request))
        async with self._limited():
            given = await self._run(protocol.parse, body)
            work = self._tensors if given.is_tensor else self._bytes
            return served, given, await self._unless_gone(request, work(served, given))

    async def _body(self, request: Request) -> bytes:
        return b"".join([p async for p in asking.whole_body(request, self.limits.bytes)])

    async def _bytes(self, served: Served, given: protocol.Given) -> Tensor | bytes:
        asked = await self._run(protocol.asked, given)
        return (await self._picture(served, asked))[0]

    async def _tensors(self, served: Served, given: protocol.Given) -> Tensor | bytes:
        image, wanted = await self._run(protocol.tensors, served, given, self.limits.batch)
        return pictures.composed(image, *await self._paint(served, image, wanted))

    async def _picture(self, served: Served, asked: Asked) -> tuple[bytes, dict[str, str]]:
        part, wanted = await self._run(asking.edit_of, served, asked, self.limits.pixels)
        painted = await self._paint(served, part.square, wanted)
        made = await self._run(
            lambda: pictures.png(
                pictures.edited(part, *painted), f"{served.name}/{served.version}", asked.image
            )
        )
        return made, served.headers | part.headers

    async def _paint(self, served: Served, image: Tensor, wanted: Wanted) -> Painted:
        edit = Edit(served, image, wanted.source, wanted.target, wanted.options)
        return await asyncio.wrap_future(self._batches.add(edit))

    async def _run(self, function: Callable[..., T], *given: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._cpu, function, *given)

    async def _read(self, work: Awaitable[T]) -> T:
        """Read a body in time. Raises Problem, and ClientDisconnect."""
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await work
        except TimeoutError:
            raise Problem(
                408, f"not received within {self.limits.seconds:g} s", "the body",
                "send it again, or a smaller picture",
            ) from None  # fmt: skip

    @contextlib.asynccontextmanager
    async def _limited(self) -> AsyncIterator[None]:
        """A block that must end in time. Raises Problem otherwise."""
        try:
            async with asyncio.timeout(self.limits.seconds):
                yield
        except TimeoutError:
            raise Problem(
                504, f"not done within {self.limits.seconds:g} s", "",
                "send it again when the server is less busy", wait=self.retry_after(),
            ) from None  # fmt: skip

    async def _unless_gone(self, request: Request, work: Awaitable[T]) -> T:
        """The result of `work`, which is cancelled when the client leaves."""
        task = asyncio.ensure_future(work)
        left = asyncio.ensure_future(asking.gone(request))
        try:
            await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise GoneError
            return task.result()
        finally:
            task.cancel()
            left.cancel()

"""Progress of long tasks: a bar on a terminal, otherwise a plain line every few seconds."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

SECONDS = 5.0  # between plain lines


class Progress:
    """Count up to `total`; `step(n, **facts)` shows the rate, the time left and `facts`."""

    def __init__(self, what: str, total: int, unit: str, done: int = 0) -> None:
        self.what, self.total, self.unit, self.done = what, total, unit, done
        self.start, self.first, self.last = time.monotonic(), done, time.monotonic()
        terminal = sys.stderr.isatty()
        self.bar = (
            tqdm(total=total, desc=what, unit=unit, initial=done, dynamic_ncols=True)
            if terminal
            else None
        )

    def step(self, n: int = 1, **facts: object) -> None:
        self.done += n
        if self.bar is not None:
            if facts:
                self.bar.set_postfix({k: str(v) for k, v in facts.items()}, refresh=False)
            self.bar.update(n)
        elif time.monotonic() - self.last >= SECONDS:
            self.line(**facts)

    def line(self, **facts: object) -> None:
        self.last = time.monotonic()
        rate = (self.done - self.first) / max(self.last - self.start, 1e-9)
        left = (self.total - self.done) / rate if rate else 0.0
        extra = "".join(f"  {k} {v}" for k, v in facts.items())
        sys.stdout.write(
            f"{self.what}: {self.done}/{self.total} {self.unit}  {rate:.1f}/s  "
            f"{left:.0f} s left{extra}\n"
        )
        sys.stdout.flush()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.close()
        elif kind is None:
            self.line()

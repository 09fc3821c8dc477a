"""Edits that wait for the network, run in batches on one thread."""

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from training.models.base import EditOptions
from training.serving.figures import Figures
from training.serving.served import Served, rows_of

Painted = tuple[Tensor | None, Tensor]  # see `Model.paint`


@dataclass(frozen=True)
class Edit:
    """Images (n, 3, s, s) in [-1, 1] and what to make of them; the result is `Model.paint`'s."""

    served: Served
    image: Tensor
    source: Tensor | None
    target: Tensor
    options: EditOptions
    result: Future[Painted] = field(default_factory=Future)

    @property
    def rows(self) -> int:
        return len(self.image)

    @property
    def kind(self) -> tuple[object, ...]:
        """Edits of one kind can be one batch; their labels, seeds and references may differ."""
        options = self.options
        return (
            id(self.served), options.intensity, self.source is None, options.seed is None,
            options.reference is None,
        )  # fmt: skip


def paint(edits: Sequence[Edit]) -> Painted:
    """The edits, which are of one kind, in one pass."""
    first, rows = edits[0], [rows_of(edit.options, edit.rows) for edit in edits]
    seeds = [seed for one in rows if isinstance(one.seed, tuple) for seed in one.seed]
    styles = [one.reference for one in rows if one.reference is not None]
    sources = [edit.source for edit in edits if edit.source is not None]
    options = EditOptions(
        first.options.intensity, tuple(seeds) or None, torch.cat(styles) if styles else None
    )
    return replace(first.served.translator, options=options).paint(
        torch.cat([edit.image for edit in edits]),
        torch.cat(sources) if sources else None,
        torch.cat([edit.target for edit in edits]),
    )


class Batches:
    """A thread that runs waiting edits: the oldest one, and those of its kind behind it.

    It never waits for a batch to fill: an edit that comes alone runs alone.
    """

    def __init__(self, most: int, figures: Figures) -> None:
        """`most`: pictures of one pass."""
        self.most, self.figures = most, figures
        self.seconds_each = 0.1  # of a picture, a running mean; a guess before the first
        self._waiting: deque[Edit] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)
        self._thread.start()

    def add(self, edit: Edit) -> Future[Painted]:
        """Queue an edit; its future can be cancelled until it runs."""
        with self._changed:
            self._waiting.append(edit)
            self._count()
            self._changed.notify()
        return edit.result

    def wait_seconds(self) -> int:
        """Seconds until what waits now will have run, at least 1."""
        with self._changed:
            rows = sum(edit.rows for edit in self._waiting)
        return max(1, math.ceil((rows + 1) * self.seconds_each))

    def end(self) -> None:
        """Run what waits, then end the thread."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    def _count(self) -> None:
        self.figures.queue.set(sum(edit.rows for edit in self._waiting))

    def _next(self) -> list[Edit]:
        """The next batch, of edits that nobody cancelled; empty at the end."""
        with self._changed:
            while True:
                while not self._waiting and not self._ended:
                    self._changed.wait()
                taken: list[Edit] = []
                kept: deque[Edit] = deque()
                rows = 0
                for edit in self._waiting:
                    if edit.result.cancelled():
                        continue
                    fits = not taken or (
                        edit.kind == taken[0].kind and rows + edit.rows <= self.most
                    )
                    if fits and edit.result.set_running_or_notify_cancel():
                        taken.append(edit)
                        rows += edit.rows
                    elif not fits:
                        kept.append(edit)
                self._waiting = kept
                self._count()
                if taken or self._ended:
                    return taken

    def _run(self) -> None:
        while batch := self._next():
            self._paint(batch)

    def _paint(self, batch: list[Edit]) -> None:
        """Run a batch; if it fails, each edit alone, so that one does not fail the others."""
        start, rows = time.monotonic(), [edit.rows for edit in batch]
        try:
            keep, content = paint(batch)
        except Exception as error:
            if len(batch) > 1:
                for edit in batch:
                    self._paint([edit])
                return
            batch[0].result.set_exception(error)
            return
        seconds = time.monotonic() - start
        self.seconds_each += 0.2 * (seconds / sum(rows) - self.seconds_each)
        self.figures.batch.observe(sum(rows))
        self.figures.pass_seconds.observe(seconds)
        masks = [None] * len(batch) if keep is None else keep.split(rows)
        for edit, mask, part in zip(batch, masks, content.split(rows), strict=True):
            edit.result.set_result((mask, part))

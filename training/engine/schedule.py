"""Counts the images drawn before each step."""

import math

from training.models.base import Phase


class Schedule:
    """Images drawn as a function of the step alone. A step draws one data set; an iteration all.

    In the first `warmup_iterations` only warm-up phases run, which draw no extra batches. Raises
    ValueError for a phase with `new_batch` that is not always active.
    """

    def __init__(self, phases: list[Phase], sets: int, batch: int, warmup_images: int = 0) -> None:
        if invalid := [
            p.name
            for p in phases
            if p.new_batch and (p.round_robin_index >= 0 or p.active_range != (0.0, 1.0))
        ]:
            raise ValueError(
                f"{', '.join(invalid)}: a phase that draws a new batch must always be active; "
                "remove round_robin_index and active_range, or new_batch"
            )
        self.batch_intervals = [p.every for p in phases if p.new_batch]
        self.sets, self.batch = sets, batch
        self.warmup_iterations = math.ceil(warmup_images / (batch * sets))

    def drawn(self, iteration: int) -> int:
        """Images of one data set drawn before `iteration`."""
        warmup = self.warmup_iterations
        extra = (
            max(iteration, warmup) // every - warmup // every for every in self.batch_intervals
        )
        return self.batch * (iteration + sum(extra))

    def images(self, step: int) -> int:
        """Images of all data sets drawn before `step` (sets alternate within an iteration)."""
        iteration, dataset = divmod(step, self.sets)
        return dataset * self.drawn(iteration + 1) + (self.sets - dataset) * self.drawn(iteration)

"""Which images a step draws, and how many have been drawn before it."""

import math

from training.models.base import Phase


class Schedule:
    """Which data set and which of its images a step draws: a function of the step alone.

    In the first `warm` iterations only the warm-up's phases run, which draw nothing more.
    """

    def __init__(self, phases: list[Phase], sets: int, batch: int, warmup_images: int = 0) -> None:
        if wrong := [
            p.name
            for p in phases
            if p.new_batch and (p.round_robin_index >= 0 or p.active_range != (0.0, 1.0))
        ]:
            raise ValueError(
                f"{', '.join(wrong)}: a phase that draws a new batch is always active; take "
                "round_robin_index and active_range away, or new_batch"
            )
        self.drawing = [p.every for p in phases if p.new_batch]
        self.sets, self.batch = sets, batch
        self.warm = math.ceil(warmup_images / (batch * sets))

    def drawn(self, iteration: int) -> int:
        """Images of one data set drawn before `iteration`."""
        past = (max(iteration, self.warm) // every - self.warm // every for every in self.drawing)
        return self.batch * (iteration + sum(past))

    def images(self, step: int) -> int:
        """Images of all data sets drawn before `step` (sets alternate within an iteration)."""
        iteration, dataset = divmod(step, self.sets)
        return dataset * self.drawn(iteration + 1) + (self.sets - dataset) * self.drawn(iteration)

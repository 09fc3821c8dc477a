"""Records the work of a step as a CUDA graph and replays it: the same numbers, launched at once.

One graph for each set of due phases on each data set. A graph reads its inputs from tensors of
fixed address, which are refilled before each replay by one copy from pinned memory; learning rates
are tensors as well. What a graph cannot hold runs op by op, and the log says why.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from training.data.batch import Batch
from training.data.order import Draw
from training.models.base import Nets, Phase

log = logging.getLogger(__name__)
# Steps of each key before it is recorded: libraries choose algorithms, Adam gets its state.
EAGER = 3
ALIGNED = 256  # bytes: CUDA's vector loads, and the blocks of a CPU's

Body = Callable[[], Tensor]
Noise = tuple[int, str, tuple[int, ...]]  # draw, name, shape


class Key(NamedTuple):
    """What decides which operations a step runs."""

    dataset: int
    warming: bool
    due: tuple[tuple[str, int], ...]  # name and round-robin index, which tell phases apart
    prepared: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """One step, decided on the host."""

    due: tuple[Phase, ...]
    draws: tuple[Draw, ...]  # the main batch, then one for each due phase with `new_batch`
    warming: bool
    prepared: dict[str, Tensor] = field(default_factory=dict)  # of the main batch, on the device

    @property
    def key(self) -> Key:
        due = tuple((phase.name, phase.round_robin_index) for phase in self.due)
        return Key(self.draws[0].dataset, self.warming, due, tuple(sorted(self.prepared)))


class Slots:
    """Tensors of fixed address in one block of memory, filled by one copy from the host."""

    def __init__(self, like: dict[object, Tensor], device: torch.device) -> None:
        self.places: dict[object, tuple[int, Tensor]] = {}
        self.size = 0
        for name, tensor in like.items():
            self.places[name] = (self.size, tensor.detach().to("meta"))
            self.size += -(-tensor.nbytes // ALIGNED) * ALIGNED
        self.block = torch.empty(self.size, dtype=torch.uint8, device=device)
        self.tensors = dict(self._views(self.block))

    def _views(self, block: Tensor) -> Iterator[tuple[object, Tensor]]:
        for name, (start, like) in self.places.items():
            yield name, block[start : start + like.nbytes].view(like.dtype).view(like.shape)

    def fill(self, values: dict[object, Tensor]) -> None:
        """Copy host tensors in. Pinned memory is reused when its copy is done: nothing waits."""
        host = torch.empty(self.size, dtype=torch.uint8, pin_memory=self.block.is_cuda)
        for name, view in self._views(host):
            view.copy_(values[name])
        self.block.copy_(host, non_blocking=True)


@dataclass
class Recording:
    """The steps of one key: what they read, and their graph once it is recorded."""

    steps: int = 0
    noises: dict[Noise, None] = field(default_factory=dict)  # in the order they are asked for
    slots: Slots | None = None
    prepared: dict[str, Tensor] = field(default_factory=dict)
    names: tuple[str, ...] = ()  # of the losses
    replay: Body | None = None
    refused: str = ""  # why it is not recorded


class UnknownNoiseError(RuntimeError):
    """A step asks for noise that the first step of its key did not ask for."""


class Graphs:
    """Records functions of static tensors as CUDA graphs."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)
        # One pool: graphs never run at once, and each one's result is copied at once.
        self.pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def warming(self) -> Iterator[None]:
        """Run on the stream of the recordings, as CUDA asks for before a recording."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            yield
        current.wait_stream(self.stream)

    def record(self, body: Body) -> Body:
        """Record `body` without running it; the function returned replays it.

        Raises RuntimeError if it does anything that a graph cannot hold.
        """
        graph = torch.cuda.CUDAGraph()
        try:
            with (
                torch.cuda.stream(torch.cuda.current_stream()),  # restored also after a failure
                torch.cuda.graph(
                    graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"
                ),
            ):
                out = body()
        except RuntimeError:
            # A broken recording leaves the pool open, and the next one would fail for it.
            with suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(self.device.index or 0, self.pool)
            self.pool = torch.cuda.graph_pool_handle()
            raise

        def replay() -> Tensor:
            graph.replay()
            return out.clone()  # the next replay, also of another graph, overwrites `out`

        return replay


def _first(error: BaseException) -> BaseException:
    """The error that others followed: ending a broken recording raises as well."""
    while error.__context__:
        error = error.__context__
    return error


class Recorder:
    """Runs the steps of a session: the first ones of each key op by op, then from its graph."""

    def __init__(
        self,
        show: Callable[[Sequence[Draw], dict[str, Tensor]], list[Batch]],
        work: Callable[[Sequence[Phase], list[Batch]], tuple[tuple[str, ...], Tensor]],
        nets: Nets,
        device: torch.device,
        graphs: Graphs,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`waiting` is entered while a step's inputs are made and sent."""
        self.waiting = waiting
        self.show, self.work, self.nets = show, work, nets
        self.device, self.graphs = device, graphs
        self.kept: dict[Key, Recording] = {}

    @property
    def settled(self) -> bool:
        """Whether every key met so far is recorded or refused."""
        return all(kept.replay or kept.refused for kept in self.kept.values())

    def run(self, plan: Plan) -> tuple[tuple[str, ...], Tensor]:
        """One step; the log names and the values (k,) of its losses."""
        kept = self.kept.setdefault(plan.key, Recording())
        kept.steps += 1
        if kept.refused:
            return self.work(plan.due, self._plain(plan, None))
        if kept.slots is None:
            return self._begin(plan, kept)
        with self.waiting():
            kept.slots.fill(self._values(plan, kept))
            for name, tensor in plan.prepared.items():
                kept.prepared[name].copy_(tensor)
        if kept.steps <= EAGER:
            with self.graphs.warming():
                batches = self._static(plan, kept, kept.slots, missing=True)
                kept.names, losses = self.work(plan.due, batches)
            if kept.refused:
                self._say(plan, kept)
            return kept.names, losses.clone()
        if kept.replay is None:
            self._record(plan, kept, kept.slots)
        if kept.replay is None:
            return self.work(plan.due, self._plain(plan, None))
        return kept.names, kept.replay()

    def _begin(self, plan: Plan, kept: Recording) -> tuple[tuple[str, ...], Tensor]:
        """The first step of a key, on its own tensors: finds which noise it reads."""
        kept.names, losses = self.work(plan.due, self._plain(plan, kept))
        kept.slots = Slots(self._values(plan, kept), self.device)
        kept.prepared = {name: tensor.clone() for name, tensor in plan.prepared.items()}
        return kept.names, losses

    def _record(self, plan: Plan, kept: Recording, slots: Slots) -> None:
        def body() -> Tensor:
            return self.work(plan.due, self._static(plan, kept, slots, missing=False))[1]

        try:
            kept.replay = self.graphs.record(body)
        except RuntimeError as error:  # nothing ran: a recording only notes what would run
            for net in self.nets.values():
                net.zero_grad(set_to_none=True)
            kept.refused = str(_first(error)).partition("\n")[0]
            self._say(plan, kept)

    def _say(self, plan: Plan, kept: Recording) -> None:
        phases = ", ".join(phase.name for phase in plan.due)
        log.warning(
            "steps of %s on data set %d are not recorded and run op by op: %s",
            phases, plan.key.dataset, kept.refused,
        )  # fmt: skip

    def _values(self, plan: Plan, kept: Recording) -> dict[object, Tensor]:
        """Every host tensor that a step reads."""
        values: dict[object, Tensor] = {
            (k, name): tensor
            for k, draw in enumerate(plan.draws)
            for name, tensor in draw.tensors.items()
        }
        return values | {key: plan.draws[key[0]].noise(*key[1:]) for key in kept.noises}

    def _plain(self, plan: Plan, kept: Recording | None) -> list[Batch]:
        """The step's batches; `kept` notes the noise that they are asked for."""

        def noting(k: int, draw: Draw) -> Draw:
            def noise(name: str, shape: tuple[int, ...]) -> Tensor:
                if kept:
                    kept.noises[k, name, shape] = None
                return draw.noise(name, shape)

            return replace(draw.to(self.device), noise=noise)

        draws = [noting(k, draw) for k, draw in enumerate(plan.draws)]
        return self.show(draws, plan.prepared)

    def _static(self, plan: Plan, kept: Recording, slots: Slots, *, missing: bool) -> list[Batch]:
        """Batches of the static tensors. With `missing`, other noise is drawn and refuses the key.

        Otherwise it raises UnknownNoiseError.
        """
        tensors = slots.tensors

        def static(k: int, draw: Draw) -> Draw:
            def noise(name: str, shape: tuple[int, ...]) -> Tensor:
                if (found := tensors.get((k, name, shape))) is not None:
                    return found
                refusal = f"the noise {name} {shape} is asked for in some steps only"
                if not missing:
                    raise UnknownNoiseError(refusal)
                kept.refused = refusal
                return draw.noise(name, shape)

            return Draw(draw.dataset, {name: tensors[k, name] for name in draw.tensors}, noise)

        draws = [static(k, draw) for k, draw in enumerate(plan.draws)]
        return self.show(draws, kept.prepared)

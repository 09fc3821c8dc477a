"""Benchmark our training step against a plain one: same weights, batches, targets and threads.

    python benchmarks/step.py                  # this machine, its number of threads
    python benchmarks/step.py --preset demo --batches 4 --size 64 --only before ours
    python benchmarks/step.py --batches 16 64 256    # a GPU

The plain step follows the reference code: torch's default memory format and instance norm, the fake
image of the D step keeps its graph, D is called three times, G's step fills D's gradients, every
loss is synchronized at once. "before" is ours without the changes below; each of them is also
timed alone. All get the same batches; their losses must agree before anything is timed. They take
turns iteration by iteration (cycle by cycle on a GPU), and ratios are of neighbours, so that a
slow period of the machine affects both sides.
"""

import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.core import cli
from training.core.cli import means
from training.core.config import TrainConfig
from training.data.batch import Batch
from training.data.dataset import Faces
from training.data.labels import LabelSet, LabelSpace
from training.data.order import Order
from training.engine.distributed import World
from training.engine.session import Job, Session, build_state
from training.engine.throughput import Noise
from training.models import losses
from training.models.base import Model
from training.models.kernels import FromImage, Norm, ToImage, Wide
from training.models.shared_presets import CELEBA
from training.models.slope import Scored, double_backward
from training.models.stargan import StarGAN
from training.tracking.tracker import Tracker

main = cli.program("python benchmarks/step.py", __doc__)
NAMES = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Young")
BATCHES = means("sizes of the batches", consume_multiple=(1, None))
SPACE = LabelSpace((LabelSet("celeba", "binary", NAMES, (NAMES[:3],)),))

Step = Callable[[], dict[str, Any]]
# The layers of each change; without it they run as torch's own.
CHANGES: dict[str, tuple[type[nn.Module], ...]] = {
    "explicit penalty": (),
    "wide layers as products": (Wide,),
    "norm by hand": (Norm,),
    "7x7 by 2x2 pixels": (FromImage, ToImage),
}


def as_torch(net: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
    """Let layers of these kinds run as torch's own, with the same parameters."""
    for module in net.modules():
        if isinstance(module, kinds):
            module.__class__ = nn.GroupNorm if isinstance(module, Norm) else nn.Conv2d


def plain_network(net: nn.Module) -> nn.Module:
    """The network with torch's convolutions and instance norm, in torch's default memory format."""
    as_torch(net, tuple(kind for kinds in CHANGES.values() for kind in kinds))
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                norm = nn.InstanceNorm2d(child.num_channels, affine=True)
                norm.to(child.weight.device).load_state_dict(child.state_dict())
                setattr(module, name, norm)
    return net.to(memory_format=torch.contiguous_format)


class Plain:
    """The reference's training step, on separate networks with the same weights."""

    def __init__(self, job: Job) -> None:
        state, model = build_state(job), stargan_of(job)
        self.g, self.d = (plain_network(state.nets[name]) for name in ("G", "D"))
        self.g_optim = torch.optim.Adam(self.g.parameters(), model.g_lr, (0.5, 0.999))
        self.d_optim = torch.optim.Adam(self.d.parameters(), model.d_lr, (0.5, 0.999))
        self.step, self.model = 0, model

    def cls(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / len(logits)

    def __call__(self, batch: Batch) -> dict[str, float]:
        x = batch.image.contiguous()
        real, real_cls = self.d(x)
        fake = self.g(x, batch.target)
        src, _ = self.d(fake.detach())
        alpha = batch.noise("alpha", (1, 1, 1))
        mixed = (alpha * x.data + (1 - alpha) * fake.data).requires_grad_(True)
        out, _ = self.d(mixed)
        (gradient,) = torch.autograd.grad(
            out, mixed, torch.ones_like(out), retain_graph=True, create_graph=True
        )
        gp = ((gradient.view(len(x), -1).square().sum(1).sqrt() - 1) ** 2).mean()
        terms = {
            "d/real": -real.mean(), "d/fake": src.mean(),
            "d/cls": self.cls(real_cls, batch.source), "d/gp": self.model.lambda_gp * gp,
        }  # fmt: skip
        self.update(terms, self.d_optim)
        self.step += 1
        if self.step % self.model.n_critic == 0:
            fake = self.g(x, batch.target)
            src, cls = self.d(fake)
            back = self.g(fake, batch.source)
            g_terms = {
                "g/fake": -src.mean(), "g/cls": self.cls(cls, batch.target),
                "g/rec": self.model.lambda_rec * (x - back).abs().mean(),
            }  # fmt: skip
            self.update(g_terms, self.g_optim)
            terms |= g_terms
        return {name: value.item() for name, value in terms.items()}

    def update(self, terms: dict[str, Tensor], optimiser: torch.optim.Optimizer) -> None:
        self.g_optim.zero_grad()
        self.d_optim.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimiser.step()


def stargan_of(job: Job) -> StarGAN:
    if not isinstance(job.model, StarGAN):
        raise TypeError(f"{job.model}: only StarGAN has a plain step")
    return job.model


def make_job(size: int, batch: int, device: torch.device, model: Model | None = None) -> Job:
    rows = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (max(64, 2 * batch), len(NAMES)), generator=rows).float()
    part = Noise("celeba", labels.numpy(), size, device)
    faces = Faces("train", SPACE, size, [part])
    train = TrainConfig(images=10**9, decay_images=0, batch=batch, precision="fp32")
    return Job(model or StarGAN(), train, faces, faces, Path(), {}, World(0, 1, device), Tracker())


def ours(job: Job, bf16: bool = False, changes: tuple[str, ...] = tuple(CHANGES)) -> Step:
    """Our step, of the changes only with those named."""
    session = Session.open(job)
    session.state.bf16 = bf16
    for change in CHANGES.keys() - set(changes):
        for net in session.state.nets.values():
            as_torch(net, CHANGES[change])
    if "explicit penalty" in changes:
        return session.advance

    def step() -> dict[str, Any]:
        with mock.patch.object(losses, "scores_and_slope", by_autograd):
            return session.advance()

    return step


def by_autograd(
    net: Scored, x: Tensor, weights: Tensor | float, *, graph: bool
) -> tuple[Tensor, Tensor]:
    """`scores_and_slope` by double backward."""
    return double_backward(net.score_path(), x, weights)


def plain(job: Job) -> Step:
    order = Order(job.faces, job.train.seed, job.train.batch, flip=True, length=job.train.images)
    step, size = Plain(job), job.train.batch
    share = slice(0, size)
    return lambda: step(order.batch(0, step.step * size, 0, share, job.world.device))


@dataclass(frozen=True)
class Time:
    """Seconds by the clock and of the processor."""

    wall: float
    cpu: float


def timed(step: Step, device: torch.device, count: int) -> Time:
    """Of `count` iterations."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return Time(time.perf_counter() - wall, time.process_time() - cpu)


def take_turns(
    steps: dict[str, Step], device: torch.device, cycles: int, cycle: int
) -> dict[str, list[Time]]:
    """Times of each step's iterations (on a GPU: of its cycles of `cycle` iterations), in turns.

    The first cycle warms up; on a GPU the first six, in which graphs are recorded.
    """
    cuda = device.type == "cuda"
    count, warm = (cycle, 6) if cuda else (1, 1)
    times: dict[str, list[Time]] = defaultdict(list)
    for turn in range((cycles + warm) * cycle // count):
        for name, step in steps.items():
            taken = timed(step, device, count)
            if turn >= warm * cycle // count:
                times[name].append(taken)
    return times


def check(steps: dict[str, Step]) -> None:
    """Exit unless the losses of the first 3 iterations in fp32 agree with the first step's."""
    reference = next(iter(steps))
    for iteration in range(3):
        found = {name: {k: float(v) for k, v in step().items()} for name, step in steps.items()}
        for name, terms in found.items():
            for term, value in found[reference].items():
                if abs(terms[term] - value) > 1e-3 + 1e-2 * abs(value):
                    raise SystemExit(
                        f"iteration {iteration}: {term} is {terms[term]} in {name}, {value} in "
                        f"{reference}"
                    )


def table(times: dict[str, list[Time]], batch: int, cycle: int, iterations: int) -> str:
    """A row per step: seconds of an iteration, and medians of ratios to the first row.

    `iterations` of a cycle are in one time: 1 or all.
    """
    reference, base = next(iter(times.items()))
    per_cycle = cycle // iterations
    lines = [
        f"batch {batch}: medians by the clock (of the processor); ratios to {reference}",
        "| step | s an iteration | images/s | D's iteration | D and G's | a cycle | celeba-128 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, own in times.items():
        pairs = list(zip(base, own, strict=True))
        sums = [
            (total(first), total(second))
            for k in range(0, len(pairs), per_cycle)
            for first, second in [zip(*pairs[k : k + per_cycle], strict=True)]
        ]
        wall, cpu = (
            statistics.median(getattr(taken, clock) for _, taken in sums) / cycle
            for clock in ("wall", "cpu")
        )
        with_g = [pair for k, pair in enumerate(pairs) if not (k + 1) % per_cycle]
        only_d = [pair for k, pair in enumerate(pairs) if (k + 1) % per_cycle]
        apart = per_cycle == cycle > 1
        lines.append(
            f"| {name} | {wall:.4g} ({cpu:.4g}) | {batch / wall:.4g} | "
            f"{ratio(only_d) if apart else ''} | {ratio(with_g) if apart else ''} | "
            f"{ratio(sums)} | "
            f"{CELEBA * wall / batch / 86_400:.3g} days |"
        )
    return "\n".join(lines)


def ratio(pairs: list[tuple[Time, Time]]) -> str:
    """Medians of first to second, by the clock and of the processor, as text."""
    wall, cpu = (
        statistics.median(getattr(a, clock) / getattr(b, clock) for a, b in pairs)
        for clock in ("wall", "cpu")
    )
    return f"{wall:.2f} ({cpu:.2f})"


def total(times: tuple[Time, ...]) -> Time:
    return Time(sum(taken.wall for taken in times), sum(taken.cpu for taken in times))


def isa() -> str:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    names = [n for n in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {n}" in flags]
    return f"{platform.processor() or platform.machine()} {' '.join(names)}"


def variants(job: Job) -> dict[str, Callable[[], Step]]:
    """Every row in fp32, by name, made when it is needed."""
    return {
        "plain": lambda: plain(job),
        "before": lambda: ours(job, changes=()),
        **{name: partial(ours, job, changes=(name,)) for name in CHANGES},
        "ours": lambda: ours(job),
    }


@main.default
def command(
    *,
    size: Annotated[int, means("side of the images, px")] = 128,
    batches: Annotated[tuple[int, ...], BATCHES] = (16,),
    cycles: Annotated[int, means("timed cycles: iterations up to a step of G")] = 3,
    threads: Annotated[int, means("0: torch's default")] = 0,
    preset: Annotated[
        str, means("of StarGAN: its networks, loss weights and rates")
    ] = "celeba-128",
    only: Annotated[
        tuple[str, ...], means("rows to time; default: all", consume_multiple=(1, None))
    ] = (),
    bf16: Annotated[bool, means("time ours in bf16 as well")] = False,
) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if threads:
        torch.set_num_threads(threads)
    where = torch.cuda.get_device_name() if device.type == "cuda" else isa()
    print(f"{where}, torch {torch.__version__}, {torch.get_num_threads()} threads, {size} px")
    presets = StarGAN.presets()
    if preset not in presets:
        raise SystemExit(f"{preset}: no such preset; known: {', '.join(presets)}")
    for batch in batches:
        job = make_job(size, batch, device, presets[preset].model)
        cycle = stargan_of(job).n_critic
        rows = variants(job)
        if unknown := set(only) - rows.keys():
            raise SystemExit(f"{', '.join(sorted(unknown))}: no such row; known: {', '.join(rows)}")
        chosen = {name: rows[name] for name in only or rows}
        if "plain" in chosen and stargan_of(job).loss != "wgan-gp":
            raise SystemExit(
                f"{preset}: the plain step has the published form only; add --only before ours"
            )
        check({name: make() for name, make in chosen.items()})
        steps = {name: make() for name, make in chosen.items()}
        if bf16 or device.type == "cuda":
            steps["ours, bf16"] = ours(replace(job), True)
        times = take_turns(steps, device, cycles, cycle)
        print(table(times, batch, cycle, cycle if device.type == "cuda" else 1), flush=True)


if __name__ == "__main__":
    main()

"""Measure StarGAN's training step on a GPU: what costs, what helps, and how far the roofline is.

    python benchmarks/gpu.py check      # under 4 minutes: parts, settings, the whole step
    python benchmarks/gpu.py recipe     # the paper's recipe on drawn faces, at most 8 minutes

Without a GPU both run at a toy size, which shows that they work and nothing else.
"""

import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import torch
from pydantic import Field
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks import roofline
from benchmarks.convolutions import networks
from benchmarks.recipe import train_for
from benchmarks.step import SPACE, by_autograd, isa, make_job, ours, plain, plain_network
from training.core import cli
from training.core.cli import means
from training.core.files import write_json
from training.engine.session import Job
from training.models import losses
from training.models.stargan import StarGAN

main = cli.program("python benchmarks/gpu.py", __doc__)

FOREVER = 10**6  # n_critic of a training in which G's step is never due
KERNELS = 12  # shown of each profile
COMPILES = 90.0  # s that torch.compile may take
CYCLE = 5
RECORDED = 0.01  # relative difference of a loss that rounding over 30 steps does not reach
PLAIN = "plain fp32"
ORDERS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


@dataclass(frozen=True)
class Scale:
    """What is measured, and for how many steps."""

    size: int
    batches: tuple[int, ...]
    model: StarGAN
    warm: int  # steps before a measurement; a recorded step runs some times before it is recorded
    timed: int
    cycles: int  # timed cycles of the whole step


CARD = Scale(128, (16, 64, 256), StarGAN(), warm=6, timed=10, cycles=3)
TOY = Scale(
    32, (2,), StarGAN(conv_dim=4, repeat_num=1, d_conv_dim=4, d_repeat_num=3), 1, 1, cycles=1
)


@dataclass(frozen=True)
class Setup:
    """How a step runs; the defaults are the training's own on a GPU, in bf16."""

    title: str
    double: bool = False  # the penalty by double backward
    settings: dict[str, Any] = field(default_factory=dict)  # of TrainConfig
    search: bool = False  # cudnn.benchmark
    bf16: bool = True


EAGER = {"record": False}
PARTS = (
    Setup("double backward, op by op", double=True, settings=EAGER),
    Setup("op by op", settings=EAGER),
    Setup("recorded"),
    Setup("recorded, cudnn.benchmark", search=True),
)
WHOLE = (
    Setup("ours fp32", bf16=False),
    Setup("ours bf16"),
    Setup("ours bf16, fakes ahead", settings={"ahead": True}),
)
COMPILED = Setup("ours bf16, compiled", settings={"compile": True})


class Report:
    """The rows measured so far: printed, and written as JSON after each."""

    def __init__(self, out: Path, limit: float) -> None:
        self.out, self.deadline = out, time.monotonic() + limit
        self.facts: dict[str, Any] = {"machine": machine(), "rows": [], "not_measured": []}
        print(self.facts["machine"], flush=True)

    def measure(self, title: str, run: Callable[[], None], needed: float = 0.0) -> None:
        """Call `run` if `needed` seconds are left; what does not fit time or memory is listed."""
        if time.monotonic() + needed >= self.deadline:
            self.leave_out(f"{title}: out of time")
            return
        try:
            run()
        except torch.OutOfMemoryError:
            self.leave_out(f"{title}: out of memory")
        torch.cuda.empty_cache()

    def leave_out(self, what: str) -> None:
        self.facts["not_measured"].append(what)
        print(f"not measured: {what}", flush=True)
        self.save()

    def add(self, section: str, batch: int, title: str, **values: float | int) -> None:
        self.facts["rows"].append({"section": section, "batch": batch, "title": title, **values})
        shown = ", ".join(f"{name} {_number(value)}" for name, value in values.items())
        print(f"{section:6s} batch {batch:4d}  {title}: {shown}", flush=True)
        self.save()

    def tables(self) -> Iterator[str]:
        """Lines in Markdown, a table for each section."""
        for section in dict.fromkeys(row["section"] for row in self.facts["rows"]):
            rows = [row for row in self.facts["rows"] if row["section"] == section]
            names = [*dict.fromkeys(name for row in rows for name in row if name != "section")]
            yield from ("", f"| {' | '.join(names)} |", "|" + " --- |" * len(names))
            for row in rows:
                yield f"| {' | '.join(_number(row.get(name, '')) for name in names)} |"

    def save(self) -> None:
        write_json(self.out, self.facts)


def _number(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def machine() -> str:
    """Device and versions, in one line."""
    if not torch.cuda.is_available():
        return f"{isa()}, torch {torch.__version__}: no GPU, a toy size, whose numbers mean nothing"
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[0]
    cudnn = torch.backends.cudnn.version()
    return (
        f"{torch.cuda.get_device_name()}, driver {driver}, torch {torch.__version__}, cuDNN {cudnn}"
    )


def milliseconds(step: Callable[[], object], warm: int, timed: int) -> float:
    """Mean time of a step over `timed` of them, after `warm` others."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    for _ in range(warm):
        step()
    wait()
    start = time.perf_counter()
    for _ in range(timed):
        step()
    wait()
    return (time.perf_counter() - start) / timed * 1e3


@contextmanager
def installed(setup: Setup) -> Iterator[None]:
    """Run steps as `setup` says where no setting of a training says it."""
    doubled = mock.patch.object(losses, "scores_and_slope", by_autograd)
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = setup.search
    try:
        with doubled if setup.double else nullcontext():
            yield
    finally:
        torch.backends.cudnn.benchmark = before


def job_of(scale: Scale, batch: int, setup: Setup, n_critic: int = CYCLE) -> Job:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    job = make_job(scale.size, batch, device, replace(scale.model, n_critic=n_critic))
    return replace(job, train=replace(job.train, **setup.settings))


def part(report: Report, scale: Scale, batch: int, setup: Setup) -> None:
    """D's step, and D's with G's; kernels by time of D's step if it is not recorded."""
    with installed(setup):
        step = ours(job_of(scale, batch, setup, FOREVER), setup.bf16)
        row: dict[str, float] = {"D_ms": milliseconds(step, scale.warm, scale.timed)}
        if setup.settings == EAGER:
            row["D_kernels"] = longest(report, batch, setup.title, step)
        step = ours(job_of(scale, batch, setup, 1), setup.bf16)
        row["D_and_G_ms"] = milliseconds(step, scale.warm, scale.timed)
    report.add("parts", batch, setup.title, **row)


def longest(report: Report, batch: int, title: str, step: Callable[[], object]) -> int:
    """Report the kernels of a step that take longest (on a CPU: operations); all their number."""
    cuda = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiled:
        step()
        if cuda:
            torch.cuda.synchronize()
    kind = DeviceType.CUDA if cuda else DeviceType.CPU
    events = [
        (event.self_device_time_total if cuda else event.self_cpu_time_total, event)
        for event in profiled.key_averages()
        if event.device_type == kind and not event.is_user_annotation
    ]
    events.sort(key=lambda pair: -pair[0])
    for taken, event in events[:KERNELS]:
        name = f"{title}: {event.key[:80]}"
        report.add("kernel", batch, name, calls=event.count, ms=taken / 1e3)
    return sum(event.count for _, event in events)


def generator(report: Report, scale: Scale, batch: int, own: bool, order: str) -> None:
    """G forward and backward, with our norm or torch's instance norm, in a memory format."""
    row = {
        name: milliseconds(
            generator_pass(scale, batch, own, ORDERS[order], bf16), scale.warm, scale.timed
        )
        for name, bf16 in (("fp32_ms", False), ("bf16_ms", True))
    }
    report.add("G", batch, f"{'our norm' if own else 'instance norm'}, {order}", **row)


def generator_pass(
    scale: Scale, batch: int, own: bool, memory: torch.memory_format, bf16: bool
) -> Callable[[], None]:
    """One such pass."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = scale.model.networks(SPACE, scale.size)["G"].to(device)
    net = net if own else plain_network(net)
    net.to(memory_format=memory)  # type: ignore[call-overload]
    x = torch.rand(batch, 3, scale.size, scale.size, device=device).to(memory_format=memory)
    c = torch.zeros(batch, SPACE.dim_g, device=device)

    def both() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = net(x, c).square().mean()
        loss.backward()
        net.zero_grad(set_to_none=True)

    return both


def agree(scale: Scale, batch: int) -> None:
    """Raise ValueError unless the losses of the first 3 steps of ours and the plain one agree."""
    fp32 = Setup("ours fp32", settings=EAGER, bf16=False)
    sides = ours(job_of(scale, batch, fp32), False), plain(job_of(scale, batch, fp32))
    for step in range(3):
        own, other = ({k: float(v) for k, v in side().items()} for side in sides)
        for name, value in other.items():
            if abs(own[name] - value) > 1e-3 + 1e-2 * abs(value):
                raise ValueError(
                    f"step {step}: loss {name} is {own[name]}, of the plain step {value}; they "
                    "must agree before anything is timed"
                )


def compare_recorded(report: Report, scale: Scale, batch: int) -> None:
    """The largest difference of a loss, recorded against op by op, in fp32 over 30 steps.

    The graphs replay from the 21st step on. 0 or the rounding of kernels that sum in any order.
    """
    setups = Setup("recorded", bf16=False), Setup("op by op", settings=EAGER, bf16=False)
    sides = [ours(job_of(scale, batch, setup), False) for setup in setups]
    most = 0.0
    for _ in range(6 * CYCLE):
        own, other = ({k: float(v) for k, v in side().items()} for side in sides)
        most = max(most, *(abs(own[k] - v) / max(abs(v), 1.0) for k, v in other.items()))
    report.add("same", batch, "recorded against op by op, in fp32", parts_per_million=1e6 * most)
    if most > RECORDED:
        raise ValueError(f"a recorded loss differs by {most:.2g} from that op by op; record=false")


def race(report: Report, scale: Scale, batch: int, setups: tuple[Setup, ...]) -> None:
    """Cycles of five steps of every side, alternating; medians."""
    steps: dict[str, Callable[[], object]] = {PLAIN: plain(job_of(scale, batch, Setup(PLAIN)))}
    steps |= {setup.title: ours(job_of(scale, batch, setup), setup.bf16) for setup in setups}
    times: dict[str, list[float]] = {title: [] for title in steps}
    for title, step in steps.items():
        milliseconds(step, CYCLE * (1 if title == PLAIN else scale.warm), 1)
    for title, step in [*steps.items()] * scale.cycles:
        times[title].append(milliseconds(step, 0, CYCLE))
    rates = {title: 1e3 * batch / statistics.median(taken) for title, taken in times.items()}
    limit = roofline_rate(batch)
    for title, rate in rates.items():
        row = {"images_per_second": rate, "of_plain": rate / rates[PLAIN]}
        if limit and title != PLAIN:
            row["of_roofline_at_80"] = rate / limit
        report.add("whole", batch, title, **row)


def roofline_rate(batch: int) -> float:
    """Images/s of the model's row at 80 % on this card; 0 without a known card."""
    card = roofline.installed()
    if card is None:
        return 0.0
    return roofline.rate(card, networks(CARD.model, CARD.size), batch, roofline.MOST)


@main.command
def check(
    *,
    out: Annotated[Path, means("JSON to write")] = Path("runs/gpu.json"),
    limit: Annotated[
        float, Field(gt=0), means("seconds after which no measurement is begun")
    ] = 200.0,
    batches: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...],
        means("sizes of the batches; default: 16 64 256", consume_multiple=(1, None)),
    ] = (),
) -> None:
    """Parts of the step, ways of running it, and the whole step against a plain one."""
    scale = CARD if torch.cuda.is_available() else TOY
    scale = replace(scale, batches=batches or scale.batches)
    report = Report(out, limit)
    if roofline.installed() is None:
        print("no share of the roofline: this device is not in CARDS of benchmarks/roofline.py")
    for batch in scale.batches:
        for setup in PARTS:
            title = f"parts, batch {batch}, {setup.title}"
            report.measure(title, partial(part, report, scale, batch, setup))
    for batch in scale.batches:
        for own, order in product((True, False), ORDERS):
            title = f"G, batch {batch}, {'our' if own else 'instance'} norm, {order}"
            report.measure(title, partial(generator, report, scale, batch, own, order))
    agree(scale, scale.batches[0])
    report.measure("same", partial(compare_recorded, report, scale, scale.batches[0]))
    for batch in scale.batches:
        report.measure(f"whole, batch {batch}", partial(race, report, scale, batch, WHOLE))
    for batch in scale.batches:
        run = partial(race, report, scale, batch, (COMPILED,))
        report.measure(f"whole, batch {batch}, compiled", run, COMPILES)
    print(*report.tables(), f"\nall rows: {out}", sep="\n")


@main.command
def recipe(
    *,
    folder: Annotated[Path, means("where data, training and scores are kept")] = Path("runs/gpu"),
    minutes: Annotated[
        float, Field(gt=0), means("limit of the whole command; what is left is trained")
    ] = 8.0,
    batch: Annotated[int, Field(ge=1), means("images of a batch")] = 16,
    raw: Annotated[
        Path | None, means("a folder in CelebA's layout; default: faces drawn here")
    ] = None,
) -> None:
    """The paper's recipe at 128 px on drawn faces, as long as the minutes allow, and its scores."""
    train_for(folder, 60 * minutes, batch, raw)


if __name__ == "__main__":
    cli.entry_point(main)

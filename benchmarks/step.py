"""Benchmark our training step against a plain one: same weights, batch, targets and threads.

    python benchmarks/step.py                  # this machine
    python benchmarks/step.py --batches 16 64 256    # a GPU

The plain step follows the reference code: torch's default memory format and instance norm, the fake
image of the D step keeps its graph, D is called three times, G's step fills D's gradients, every
loss is synchronized at once. Both get the same first batches; their losses must agree before
anything is timed.
"""

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

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
from training.models.base import Model
from training.models.shared_presets import CELEBA
from training.models.stargan import StarGAN
from training.tracking.tracker import Tracker

main = cli.program("python benchmarks/step.py", __doc__)
NAMES = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Young")
BATCHES = means("sizes of the batches", consume_multiple=(1, None))
SPACE = LabelSpace((LabelSet("celeba", "binary", NAMES, (NAMES[:3],)),))


def plain_network(net: nn.Module) -> nn.Module:
    """The network with torch's instance norm, in torch's default memory format."""
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
        state = build_state(job)
        self.g, self.d = (plain_network(state.nets[name]) for name in ("G", "D"))
        self.g_optim = torch.optim.Adam(self.g.parameters(), 1e-4, (0.5, 0.999))
        self.d_optim = torch.optim.Adam(self.d.parameters(), 1e-4, (0.5, 0.999))
        self.step = 0

    def cls(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / len(logits)

    def __call__(self, batch: Batch) -> dict[str, float]:
        x = batch.image.contiguous()
        real, real_cls = self.d(x)
        fake = self.g(x, batch.target)
        src, _ = self.d(fake.detach())
        alpha = batch.noise("alpha", (1, 1, 1))
        mixed = (alpha * x.data + (1 - alpha) * fake.data).requires_grad_(True)
        out, _ = self.d(mixed)
        (slope,) = torch.autograd.grad(
            out, mixed, torch.ones_like(out), retain_graph=True, create_graph=True
        )
        gp = ((slope.view(len(x), -1).square().sum(1).sqrt() - 1) ** 2).mean()
        terms = {
            "d/real": -real.mean(), "d/fake": src.mean(),
            "d/cls": self.cls(real_cls, batch.source), "d/gp": 10 * gp,
        }  # fmt: skip
        self.update(terms, self.d_optim)
        self.step += 1
        if self.step % 5 == 0:
            fake = self.g(x, batch.target)
            src, cls = self.d(fake)
            back = self.g(fake, batch.source)
            g_terms = {
                "g/fake": -src.mean(), "g/cls": self.cls(cls, batch.target),
                "g/rec": 10 * (x - back).abs().mean(),
            }  # fmt: skip
            self.update(g_terms, self.g_optim)
            terms |= g_terms
        return {name: value.item() for name, value in terms.items()}

    def update(self, terms: dict[str, torch.Tensor], optimiser: torch.optim.Optimizer) -> None:
        self.g_optim.zero_grad()
        self.d_optim.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimiser.step()


def make_job(size: int, batch: int, device: torch.device, model: Model | None = None) -> Job:
    rows = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (max(64, 2 * batch), len(NAMES)), generator=rows).float()
    part = Noise("celeba", labels.numpy(), size, device)
    faces = Faces("train", SPACE, size, [part])
    train = TrainConfig(images=10**9, decay_images=0, batch=batch, precision="fp32")
    return Job(model or StarGAN(), train, faces, faces, Path(), {}, World(0, 1, device), Tracker())


def ours(job: Job, bf16: bool) -> Callable[[], dict[str, torch.Tensor]]:
    session = Session.open(job)
    session.state.bf16 = bf16
    return session.advance


def plain(job: Job) -> Callable[[], dict[str, float]]:
    order = Order(job.faces, job.train.seed, job.train.batch, flip=True, length=job.train.images)
    step, size = Plain(job), job.train.batch
    share = slice(0, size)
    return lambda: step(order.batch(0, step.step * size, 0, share, job.world.device))


def seconds(step: Callable[[], object], device: torch.device) -> float:
    """Seconds of one iteration, over a cycle of five (D, D, D, D, D and G)."""
    start = time.perf_counter()
    for _ in range(5):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / 5


def check(job: Job) -> None:
    """Exit unless the losses of the first 3 steps of both agree in fp32."""
    a, b = ours(job, False), plain(job)
    for step in range(3):
        losses = {k: float(v) for k, v in a().items()}
        for name, value in b().items():
            if abs(losses[name] - value) > 1e-3 + 1e-2 * abs(value):
                raise SystemExit(f"step {step}: {name} is {losses[name]}, plain {value}")


def isa() -> str:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    names = [n for n in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {n}" in flags]
    return f"{platform.processor() or platform.machine()} {' '.join(names)}"


@main.default
def command(
    *,
    size: Annotated[int, means("side of the images, px")] = 128,
    batches: Annotated[tuple[int, ...], BATCHES] = (16,),
    cycles: Annotated[int, means("timed cycles of five iterations")] = 3,
    bf16: Annotated[bool, means("time ours in bf16 as well")] = False,
) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.cuda.get_device_name() if device.type == "cuda" else isa()
    print(f"{where}, torch {torch.__version__}, {torch.get_num_threads()} threads, {size} px")
    for batch in batches:
        job = make_job(size, batch, device)
        check(job)
        steps: dict[str, Callable[[], object]] = {
            "plain fp32": plain(job),
            "ours fp32": ours(job, False),
        }
        if bf16 or device.type == "cuda":
            steps["ours bf16"] = ours(replace(job), True)
        times: dict[str, list[float]] = {name: [] for name in steps}
        for cycle in range(cycles + 1):  # alternating, so that a slow period affects all
            for name, step in steps.items():
                taken = seconds(step, device)
                if cycle:  # the first warms up
                    times[name].append(taken)
        rates = {name: batch / statistics.median(taken) for name, taken in times.items()}
        base = rates["plain fp32"]
        for name, rate in rates.items():
            days = CELEBA / rate / 86_400
            print(
                f"batch {batch:4d}  {name:12s} {rate:8.2f} images/s  {rate / base:5.2f}x  "
                f"celeba-128 in {days:.1f} days; seconds an iteration, each cycle: "
                + " ".join(f"{taken:.2f}" for taken in times[name])
            )


if __name__ == "__main__":
    main()

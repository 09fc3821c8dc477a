"""Model of a GPU's roofline for StarGAN's training step at the paper's size. Nothing is measured.

    python benchmarks/roofline.py                        # the installed card; without a GPU: h200
    python benchmarks/roofline.py --card h100 --gpus 2 8 16 64

The convolutions are read from the model's own networks. Each is a matrix product of whole tiles on
the card's multiprocessors, or the time to move its bytes, whichever is longer. Norms, activations
and optimisers move bytes at 85 % of the memory's bandwidth, whatever the row says of convolutions.
The step is that of a bf16 training as CUDA graphs with fused norms and activations.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field

from benchmarks.convolutions import Layer, Networks, networks
from training.core import cli
from training.core.cli import means
from training.models.shared_presets import CELEBA
from training.models.stargan import StarGAN

main = cli.program("python benchmarks/roofline.py", __doc__)

Kind = Literal["forward", "input", "weight"]  # a convolution, and its two gradients
Precision = Literal["bf16", "tf32"]

MEMORY_SHARE = 0.85  # of the memory's bandwidth that streaming kernels reach
LINK_SHARE = 0.8  # of a link's bandwidth that large all-reduces reach
ADAPTER = 50e9  # bytes/s: 400 Gbit/s
NODE = 8  # GPUs joined by NVLink
LATENCY = 30e-6  # s for each message of an all-reduce
FIRST_BUCKET, BUCKET = 2**20, 25 * 2**20  # bytes, DistributedDataParallel's defaults
GAP = 1.3e-6  # s between two kernels of a replayed graph
D_KERNELS, G_KERNELS = 170, 330  # of D's and G's step, with norms and activations fused
TILE_ROWS, TILE_COLUMNS = 128, (64, 256)  # of the matrix product's tiles; columns from, to
BLOCK = 2  # pixels a side that a 7×7 layer computes as channels
# Bytes a parameter. Adam reads 4 fp32 tensors and writes 3; a cast reads fp32 and writes bf16; a
# sum of two gradients and a moving average read 2 and write 1.
ADAM, CAST, SUM, AVERAGE = 28, 6, 12, 12


class Card(NamedTuple):
    """Dense peaks in FLOP/s, memory and link bandwidth in bytes/s (a link: one direction)."""

    title: str
    device: str  # as torch names it; boards for PCIe have other names and other figures
    peak: dict[Precision, float]
    memory: float
    link: float
    multiprocessors: int


# NVIDIA's data sheets (nvidia.com/en-us/data-center/a100, /h100, /h200), SXM boards; Hopper's state
# tensor cores with sparsity, twice the dense peak. Multiprocessors: the white papers of the
# A100 and H100 architectures; an H200 is an H100 with other memory.
AMPERE: dict[Precision, float] = {"bf16": 312e12, "tf32": 156e12}
HOPPER: dict[Precision, float] = {"bf16": 989e12, "tf32": 494e12}
CARDS = {
    "a100": Card("A100 SXM 80 GB", "NVIDIA A100-SXM4-80GB", AMPERE, 2.039e12, 300e9, 108),
    "h100": Card("H100 SXM", "NVIDIA H100 80GB HBM3", HOPPER, 3.35e12, 450e9, 132),
    "h200": Card("H200 SXM", "NVIDIA H200", HOPPER, 4.8e12, 450e9, 132),
}


class Kernel(NamedTuple):
    """A convolution or one of its gradients over `images` times the batch."""

    part: str
    layer: Layer
    kind: Kind
    images: int = 1

    @property
    def flops(self) -> int:
        """For one image of the batch."""
        return 2 * self.images * self.layer.macs


def kernels(part: str, layers: tuple[Layer, ...], *kinds: Kind, images: int = 1) -> list[Kernel]:
    return [Kernel(part, layer, kind, images) for layer in layers for kind in kinds]


def d_step(nets: Networks) -> list[Kernel]:
    """The convolutions of D's step, the penalty without double backward.

    The penalty's gradient is a forward pass and input gradients down to the image; its own backward
    runs the convolutions forward again (from the image up to the last but one) and gives weights.
    """
    layers = nets.D.layers
    critic = tuple(layer for layer in layers if layer.name != "cls")
    return [
        *kernels("G forward", nets.G.layers, "forward"),
        *kernels("D", layers, "forward", "weight", images=2),
        *kernels("D", layers[1:], "input", images=2),
        *kernels("penalty", critic, "forward", "input", "weight"),
        *kernels("penalty", critic[:-1], "forward"),
    ]


def g_step(nets: Networks) -> list[Kernel]:
    """The convolutions of G's step; the fakes come from D's step."""
    layers = nets.G.layers
    return [
        *kernels("D for G", nets.D.layers, "forward", "input"),
        *kernels("G", layers, "forward", "input", "weight"),  # the reconstruction
        *kernels("G", layers, "weight"),
        *kernels("G", layers[1:], "input"),
    ]


@dataclass(frozen=True)
class Case:
    """Assumptions of one row: the share of the peak that every convolution reaches, and tricks."""

    title: str
    share: float
    blocked: bool = False  # 7×7 layers with few channels by space-to-depth
    ahead: bool = False  # the fakes between two steps of G in one pass
    merged: bool = False  # D's gradients of both passes in one, not summed
    penalty: Precision = "tf32"


HALF, MOST = Case("convolutions at 50 % of the peak", 0.5), Case("at 80 %", 0.8)
TRICKS = Case(
    "… and the fakes of four steps in one pass, D's gradients in one", 0.8, True, True, True
)
CASES = (
    Case("convolutions at 35 % of the peak", 0.35),
    replace(HALF, title="at 50 %"),
    MOST,
    Case("at 80 %, the 7×7 layers by space-to-depth", 0.8, blocked=True),
    TRICKS,
    replace(TRICKS, title="the last at 60 %", share=0.6),
    replace(TRICKS, title="the last at 80 %, the penalty in bf16", penalty="bf16"),
)


def matrix(layer: Layer, kind: Kind, images: int, blocked: bool) -> tuple[int, int, int]:
    """Rows, columns and depth of the matrix product that computes `kind` of a convolution.

    Channels are padded to 8. A 7×7 layer that is `blocked` computes BLOCK × BLOCK pixels a row.
    """
    channels_in, channels_out = (-(-c // 8) * 8 for c in (layer.inputs, layer.outputs))
    taps, steps = layer.kernel**2, layer.stride**2
    given, made = images * layer.side_in**2, images * layer.side_out**2
    if kind == "weight":
        rows, columns, depth = channels_out, channels_in * taps, given if layer.transposed else made
        narrow = layer.outputs
    else:
        # Only every stride-th tap meets a pixel where the kernel spreads over a larger side.
        spreads = layer.transposed == (kind == "forward")
        ends = (made, channels_out, channels_in)
        rows, columns, channels = ends if kind == "forward" else (given, channels_in, channels_out)
        depth = channels * (taps // steps if spreads else taps)
        narrow = layer.outputs if kind == "forward" else layer.inputs
    if blocked and layer.kernel == 7 and narrow <= 8:
        wider = (layer.kernel + BLOCK - 1) ** 2
        if kind == "weight":
            return narrow * BLOCK**2, channels_in * wider, depth // BLOCK**2
        return rows // BLOCK**2, narrow * BLOCK**2, depth // taps * wider
    return rows, columns, depth


def seconds(card: Card, kernel: Kernel, batch: int, case: Case, precision: Precision) -> float:
    """Time of one convolution: whole tiles over all multiprocessors, or its bytes."""
    layer, images = kernel.layer, batch * kernel.images
    rows, columns, depth = matrix(layer, kernel.kind, images, case.blocked)
    narrowest, widest = TILE_COLUMNS
    width = min(widest, -(-columns // narrowest) * narrowest)
    down, across = -(-rows // TILE_ROWS), -(-columns // width)
    tiles, units = down * across, card.multiprocessors
    work = 2 * down * TILE_ROWS * across * width * depth
    # Few tiles are split along the depth, in parts that are worth their sum.
    few, part = (units, 256) if kernel.kind == "weight" else (units / 2, 512)
    if tiles < few:
        tiles *= max(1, min(units // tiles, depth // part))
    used = tiles / (-(-tiles // units) * units)
    size = 2 if precision == "bf16" else 4
    moved = size * images * (
        layer.side_in**2 * layer.inputs + layer.side_out**2 * layer.outputs
    ) + layer.weights * (4 if kernel.kind == "weight" else size)
    return max(
        work / (card.peak[precision] * case.share * used), moved / (card.memory * MEMORY_SHARE)
    )


def cycle(card: Card, nets: Networks, batch: int, case: Case) -> dict[str, float]:
    """Seconds by part of n_critic iterations, the last with G's step."""
    parts: dict[str, float] = {}
    times = nets.n_critic

    def add(part: str, taken: float) -> None:
        parts[part] = parts.get(part, 0.0) + taken

    def move(part: str, moved: float) -> None:
        add(part, moved / (card.memory * MEMORY_SHARE))

    for kernel in d_step(nets):
        precision: Precision = case.penalty if kernel.part == "penalty" else "bf16"
        if kernel.part == "G forward" and case.ahead:
            several = seconds(card, kernel, batch * (times - 1), case, precision)
            add(kernel.part, several + seconds(card, kernel, batch, case, precision))
        else:
            add(kernel.part, times * seconds(card, kernel, batch, case, precision))
    for kernel in g_step(nets):
        add(kernel.part, seconds(card, kernel, batch, case, "bf16"))
    G, D = nets.G, nets.D
    # Passes of bf16 over the activations: a fused norm reads twice and writes once forward, reads
    # four times and writes once backward; D's are read and written forward and backward, thrice.
    forward, backward = (2 * batch * (passes * G.normed + G.summed) for passes in (3, 5))
    move("norms and activations", (times + 1) * forward + 2 * backward)
    wide = 1.5 if case.penalty == "tf32" else 1.0
    move("norms and activations", 2 * batch * D.activated * (12 * wide * times + 5))
    per_step = D.parameters * (ADAM + CAST + (0 if case.merged else SUM)) + G.parameters * CAST
    move("optimisers", times * (per_step + G.parameters * AVERAGE) + G.parameters * ADAM)
    add("gaps between kernels", GAP * (times * D_KERNELS + G_KERNELS))
    return parts


def rate(card: Card, nets: Networks, batch: int, case: Case) -> float:
    """Images per second."""
    return nets.n_critic * batch / sum(cycle(card, nets, batch, case).values())


def ring(card: Card, gpus: int, adapters: int, size: float) -> float:
    """Seconds to sum `size` bytes over all GPUs; `adapters` of 400 Gbit/s in each node of 8."""
    bus = card.link if gpus <= NODE else min(card.link, adapters * ADAPTER)
    return LATENCY + 2 * (gpus - 1) / gpus * size / (bus * LINK_SHARE)


def uncovered(
    card: Card, backward: list[Kernel], batch: int, case: Case, gpus: int, adapters: int
) -> float:
    """Seconds that the sums of fp32 gradients take beyond the `backward` pass that makes them.

    Gradients wait in a bucket until it is full, as in DistributedDataParallel; buckets are sent one
    after another, while the pass goes on.
    """
    now = sent = bucket = 0.0
    layers = list(dict.fromkeys(kernel.layer for kernel in backward))
    full = FIRST_BUCKET
    for layer in reversed(layers):
        own = [kernel for kernel in backward if kernel.layer == layer]
        now += sum(seconds(card, kernel, batch, case, "bf16") for kernel in own)
        bucket += 4 * layer.weights
        if bucket >= full or layer == layers[0]:
            sent = max(sent, now) + ring(card, gpus, adapters, bucket)
            bucket, full = 0.0, BUCKET
    return sent - now


def efficiency(
    card: Card, nets: Networks, batch: int, case: Case, gpus: int, adapters: int
) -> float:
    """Images/s of each GPU against one alone, with `batch` images a GPU."""
    # The penalty's backward runs first; a weight is whole after the pass over real and fake.
    D = kernels("D", nets.D.layers, "weight", images=2)
    D += kernels("D", nets.D.layers[1:], "input", images=2)
    G = kernels("G", nets.G.layers, "weight") + kernels("G", nets.G.layers[1:], "input")
    alone = sum(cycle(card, nets, batch, case).values())
    waits = [uncovered(card, step, batch, case, gpus, adapters) for step in (D, G)]
    return alone / (alone + nets.n_critic * waits[0] + waits[1])


def installed() -> Card | None:
    """The installed card; None without a GPU and for one that is not in CARDS."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((card for card in CARDS.values() if card.device == device), None)


def table(card: Card, nets: Networks, batches: tuple[int, ...]) -> Iterator[str]:
    """Lines in Markdown: images/s, and minutes of celeba-128, of each row and batch."""
    yield "| | " + " | ".join(f"batch {batch}" for batch in batches) + " |"
    yield "| --- |" + " --- |" * len(batches)
    for case in CASES:
        rates = [rate(card, nets, batch, case) for batch in batches]
        cells = [f"{value:,.0f} ({CELEBA / value / 60:.1f} min)" for value in rates]
        yield f"| {case.title} | " + " | ".join(cells) + " |"


def parts_table(card: Card, nets: Networks, batches: tuple[int, ...]) -> Iterator[str]:
    """Lines in Markdown: milliseconds of a cycle by part, convolutions at 80 % of the peak."""
    parts = {batch: cycle(card, nets, batch, MOST) for batch in batches}
    yield "| part of a cycle, ms | " + " | ".join(f"batch {batch}" for batch in batches) + " |"
    yield "| --- |" + " --- |" * len(batches)
    for part in parts[batches[0]]:
        cells = [f"{1e3 * parts[batch][part]:.2f}" for batch in batches]
        yield f"| {part} | " + " | ".join(cells) + " |"


def scaling_table(card: Card, nets: Networks, gpus: tuple[int, ...]) -> Iterator[str]:
    """Lines in Markdown: predicted efficiency at 16 and 64 images a GPU, of two rows."""
    columns = [(batch, case) for batch in (16, 64) for case in (HALF, TRICKS)]
    titles = [
        f"batch {batch} a GPU, {'80 % and all tricks' if case is TRICKS else '50 %'}"
        for batch, case in columns
    ]
    yield "| GPUs | links | " + " | ".join(titles) + " |"
    yield "| --- | --- |" + " --- |" * len(columns)
    for count in gpus:
        for adapters in (0,) if count <= NODE else (NODE, 1):
            links = f"{adapters} × 400 Gbit/s a node" if adapters else "NVLink"
            cells = [
                f"{100 * efficiency(card, nets, batch, case, count, adapters):.0f} %"
                for batch, case in columns
            ]
            yield f"| {count} | {links} | " + " | ".join(cells) + " |"


@main.default
def command(
    *,
    card: Annotated[
        Literal["a100", "h100", "h200"] | None,
        means("model of the card; default: the installed one, h200 without a GPU"),
    ] = None,
    batches: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...],
        means("sizes of the batches", consume_multiple=(1, None)),
    ] = (16, 32, 64, 256),
    gpus: Annotated[
        tuple[Annotated[int, Field(ge=2)], ...],
        means("numbers of GPUs to scale to", consume_multiple=(1, None)),
    ] = (),
) -> None:
    chosen, nets = CARDS[card] if card else installed(), networks(StarGAN(), 128)
    if chosen is None and torch.cuda.is_available():
        raise ValueError(
            f"{torch.cuda.get_device_name()} is not in CARDS of benchmarks/roofline.py; add it "
            f"there, or name the nearest with --card: {', '.join(CARDS)}"
        )
    if chosen is None:
        print("no GPU here: the model of an H200")
        chosen = CARDS["h200"]
    flops = [sum(kernel.flops for kernel in step(nets)) / 2e9 for step in (d_step, g_step)]
    print(
        f"{chosen.title}: {chosen.peak['bf16'] / 1e12:.0f} TFLOP/s bf16, "
        f"{chosen.peak['tf32'] / 1e12:.0f} TF32, "
        f"{chosen.memory / 1e12:.2f} TB/s; StarGAN at 128 px: "
        f"G {nets.G.parameters / 1e6:.1f} M parameters, {nets.G.macs / 1e9:.2f} GMAC an image, "
        f"D {nets.D.parameters / 1e6:.1f} M, {nets.D.macs / 1e9:.2f}; D's step {flops[0]:.1f} GMAC "
        f"an image, G's {flops[1]:.1f}, {flops[0] + flops[1] / nets.n_critic:.1f} an iteration\n"
    )
    print("images/s, and minutes of celeba-128\n", *table(chosen, nets, batches), sep="\n")
    print("", *parts_table(chosen, nets, batches), sep="\n")
    if gpus:
        sent = 4e-6 * nets.D.parameters, 4e-6 * nets.G.parameters
        print(
            f"\nefficiency of each GPU against one alone; all-reduced: {sent[0]:.0f} MB of "
            f"gradients in D's step, {sent[1]:.0f} MB in G's\n",
            *scaling_table(chosen, nets, gpus),
            sep="\n",
        )


if __name__ == "__main__":
    cli.entry_point(main)

"""Processes and devices: the only user of torch.distributed outside the batch norm."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from training.core import environment
from training.models.base import Nets


@dataclass(frozen=True)
class World:
    """This process among all processes: every rank trains, rank 0 writes."""

    rank: int
    size: int
    device: torch.device
    local: int = 0  # rank among the processes of this machine

    def share(self, batch: int) -> slice:
        """This rank's rows of a global batch; the ranks' sizes differ by at most one.

        Raises ValueError for more processes than rows.
        """
        if self.size > batch:
            raise ValueError(f"{self.size} processes for a global batch of {batch}; start fewer")
        return slice(self.rank * batch // self.size, (self.rank + 1) * batch // self.size)

    def weight(self, batch: int) -> float:
        """Factor on a local mean loss that makes DDP's average the exact global mean."""
        share = self.share(batch)
        return (share.stop - share.start) * self.size / batch

    def wrap(self, nets: Nets) -> Nets:
        """Wrap `nets` in DistributedDataParallel; unchanged for a single process.

        Each bucket of gradients is summed while the backward pass goes on to earlier layers.
        """
        if self.size == 1:
            return nets
        ids = [self.device.index] if self.device.type == "cuda" else None
        return {
            # Gradients are views of the buckets that are sent: no copy of them is kept. With
            # `static_graph`, torch 2.13 silently sums nothing here, where phases differ.
            n: DistributedDataParallel(net, device_ids=ids, gradient_as_bucket_view=True)
            for n, net in nets.items()
        }

    def mean(self, values: Tensor, batch: int) -> Tensor:
        """Global mean, on every rank, of local means (k,) weighted by local batch sizes."""
        if self.size > 1:
            values = values * self.weight(batch)
            dist.all_reduce(values)
            values = values / self.size
        return values

    def most(self, values: list[float]) -> list[float]:
        """The largest of each value over all ranks."""
        if self.size == 1:
            return values
        found = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return found.tolist()

    def agree(self, value: str) -> str:
        """Broadcast rank 0's text to every rank."""
        if self.size == 1:
            return value
        # As bytes, because torch.distributed unpickles broadcast objects.
        local_text = torch.frombuffer(bytearray(value.encode() or b"\0"), dtype=torch.uint8)
        length = torch.tensor(len(local_text), device=self.device)
        dist.broadcast(length, src=0)
        sent = local_text if self.rank == 0 else torch.empty(int(length), dtype=torch.uint8)
        sent = sent.to(self.device)
        dist.broadcast(sent, src=0)
        return bytes(sent.tolist()).decode().rstrip("\0")

    def wait(self) -> None:
        """Wait until all ranks get here."""
        if self.size > 1:
            dist.barrier()


def freeze(nets: Nets, trains: tuple[str, ...]) -> None:
    """Enable gradients for the networks `trains` only."""
    for name, net in nets.items():
        for parameter in net.parameters():
            parameter.requires_grad_(name in trains)


@contextmanager
def world() -> Iterator[World]:
    """Join torchrun's process group (RANK, WORLD_SIZE, LOCAL_RANK); a single process without it.

    COLLECTIVE_TIMEOUT: seconds to wait for a peer (600); must exceed the time that rank 0 needs to
    save and copy a checkpoint. Raises ValueError for more processes than this machine has GPUs.
    """
    size = environment.WORLD_SIZE.count()
    rank = environment.RANK.count()
    local = environment.LOCAL_RANK.count()
    cuda = torch.cuda.is_available()
    if cuda and local >= (found := torch.cuda.device_count()):
        raise ValueError(
            f"nproc: process {local + 1} of this machine, which has {found} GPUs; give "
            f"nproc={found}"
        )
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if size > 1:
        limit = timedelta(seconds=environment.COLLECTIVE_TIMEOUT.number())
        dist.init_process_group("nccl" if cuda else "gloo", timeout=limit)
    try:
        yield World(rank, size, device, local)
    finally:
        if size > 1:
            dist.destroy_process_group()

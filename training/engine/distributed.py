"""Processes and devices: everything that knows of torch.distributed."""

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
    """This process among all: rank 0 writes, every rank trains."""

    rank: int
    size: int
    device: torch.device
    local: int = 0  # rank among the processes of this machine

    def share(self, batch: int) -> slice:
        """This rank's rows of a global batch; sizes differ by one where it does not divide."""
        if self.size > batch:
            raise ValueError(f"{self.size} processes for a global batch of {batch}; start fewer")
        return slice(self.rank * batch // self.size, (self.rank + 1) * batch // self.size)

    def weight(self, batch: int) -> float:
        """Factor on a local mean loss, so that DDP's plain average is the global mean, exactly."""
        share = self.share(batch)
        return (share.stop - share.start) * self.size / batch

    def wrap(self, nets: Nets) -> Nets:
        """`nets` whose backward averages gradients over the world."""
        if self.size == 1:
            return nets
        ids = [self.device.index] if self.device.type == "cuda" else None
        return {n: DistributedDataParallel(net, device_ids=ids) for n, net in nets.items()}

    def mean(self, values: Tensor, batch: int) -> Tensor:
        """Global mean of local means (k,), weighted by local counts; every rank gets it."""
        if self.size > 1:
            values = values * self.weight(batch)
            dist.all_reduce(values)
            values = values / self.size
        return values

    def any(self, flag: bool) -> bool:
        """Whether any rank says so."""
        if self.size == 1:
            return flag
        value = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return bool(value.item())

    def agree(self, value: str) -> str:
        """Rank 0's text, on every rank."""
        if self.size == 1:
            return value
        # As bytes: torch's own way to send an object unpickles it.
        mine = torch.frombuffer(bytearray(value.encode() or b"\0"), dtype=torch.uint8)
        length = torch.tensor(len(mine), device=self.device)
        dist.broadcast(length, src=0)
        sent = mine if self.rank == 0 else torch.empty(int(length), dtype=torch.uint8)
        sent = sent.to(self.device)
        dist.broadcast(sent, src=0)
        return bytes(sent.tolist()).decode().rstrip("\0")

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()


def freeze(nets: Nets, trains: tuple[str, ...]) -> None:
    """Let gradients flow into the named networks alone."""
    for name, net in nets.items():
        for parameter in net.parameters():
            parameter.requires_grad_(name in trains)


@contextmanager
def world() -> Iterator[World]:
    """Join the processes that torchrun started (RANK, WORLD_SIZE, LOCAL_RANK); alone without.

    COLLECTIVE_TIMEOUT: seconds after which a peer that does not answer is given up (600), longer
    than rank 0 needs for a checkpoint and its copy.
    """
    size = environment.WORLD_SIZE.count()
    rank = environment.RANK.count()
    local = environment.LOCAL_RANK.count()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if size > 1:
        patience = timedelta(seconds=environment.COLLECTIVE_TIMEOUT.number())
        dist.init_process_group("nccl" if cuda else "gloo", timeout=patience)
    try:
        yield World(rank, size, device, local)
    finally:
        if size > 1:
            dist.destroy_process_group()

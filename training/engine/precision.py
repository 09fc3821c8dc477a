"""Whether bfloat16 pays on this machine: measured, since on some CPUs it costs 5–11 times."""

import time

import torch
from torch import nn

from training.engine.distributed import World

ENOUGH = 0.3  # s; one pass takes longer where bfloat16 is only emulated


def _seconds(net: nn.Module, x: torch.Tensor, bf16: bool) -> float:
    """Fastest of up to three forward and backward passes after one to warm up."""
    times: list[float] = []
    while len(times) < 2 or (len(times) < 4 and sum(times[1:]) < ENOUGH):
        start = time.perf_counter()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            net(x).float().square().mean().backward()
        if x.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def use_bf16(precision: str, world: World) -> bool:
    """fp32 or bf16 as told; auto: bf16 where a small convolution is 1.2 times as fast with it."""
    if precision != "auto":
        return precision == "bf16"
    faster = False
    if world.rank == 0:
        net = nn.Sequential(nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, 1, 1))
        net.to(world.device)
        x = torch.randn(4, 64, 32, 32, device=world.device)
        faster = _seconds(net, x, False) > 1.2 * _seconds(net, x, True)
    return world.agree("bf16" if faster else "fp32") == "bf16"

"""Chooses fp32 or bf16 by measurement: on some CPUs bfloat16 is 5–11 times slower."""

import time

import torch
from torch import nn

from training.engine.distributed import World

TIME_LIMIT = 0.3  # s for all passes; one pass takes longer if bfloat16 is emulated


def _seconds(net: nn.Module, x: torch.Tensor, bf16: bool) -> float:
    """Shortest time in s of up to three forward and backward passes, after one for warm-up."""
    times: list[float] = []
    while len(times) < 2 or (len(times) < 4 and sum(times[1:]) < TIME_LIMIT):
        start = time.perf_counter()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            net(x).float().square().mean().backward()
        if x.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def use_bf16(precision: str, world: World) -> bool:
    """Whether to train in bf16. "auto": if it makes a small convolution 1.2 times as fast."""
    if precision != "auto":
        return precision == "bf16"
    faster = False
    if world.rank == 0:
        net = nn.Sequential(nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, 1, 1))
        net.to(world.device)
        x = torch.randn(4, 64, 32, 32, device=world.device)
        faster = _seconds(net, x, False) > 1.2 * _seconds(net, x, True)
    return world.agree("bf16" if faster else "fp32") == "bf16"

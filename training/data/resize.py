"""`data.resize=fast`: torch's antialiased resize of uint8, which rounds its weights to 16 bits.

Imported only where it is used: torch takes a second. Each image is resized by itself, so its
pixels depend on its bytes and the settings only. Groups of 32 equal squares were measured: no
faster.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F


def resize(square: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """Resize writable, contiguous uint8 (side, side, 3) to (size, size, 3), bilinear or bicubic."""
    # NumPy's [None] would leave a stride by which torch does not see channels-last, and reorders.
    batch = torch.from_numpy(square).view(1, *square.shape).permute(0, 3, 1, 2)
    out = F.interpolate(batch, (size, size), mode=interpolation, antialias=True)
    return np.ascontiguousarray(out.permute(0, 2, 3, 1)[0].numpy())


@contextmanager
def single_threaded() -> Iterator[None]:
    """torch starts no threads of its own in threads that begin inside: they are the workers.

    torch's number of threads belongs to the process; the earlier one is restored.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

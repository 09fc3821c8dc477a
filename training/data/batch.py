"""The batch that models train on."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """The input of one phase. Rows are this process's part of the global batch."""

    image: Tensor  # (n, 3, size, size) in [-1, 1]
    source: Tensor  # (n, dim_g) c̃ of the images' own labels
    target: Tensor  # (n, dim_g) c̃ of the target labels
    dataset: int  # index into LabelSpace.sets
    noise: Callable[[str, tuple[int, ...]], Tensor]
    # noise(name, shape): uniform [0, 1) of shape (n, *shape), keyed by (seed, global index, name)
    position: Tensor  # 0-dim float64, of the schedule: 0 at the first image, 1 at the last
    reference: Tensor | None = None  # (n, k, 3, size, size) images with the target's labels
    other: Tensor | None = None  # (n, dim_g) c̃ of other images, never equal to the row's own labels
    peers: Tensor | None = None  # (n, k − 1, 3, size, size) more images of the source domain
    shared: dict[str, Tensor] = field(default_factory=dict)
    # tensors that one phase computes for a later phase of the same step

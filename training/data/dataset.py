"""The unified data set as tensors."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from training.core.files import canonical_json, read_json, sha256_bytes
from training.data.labels import LabelSpace
from training.storage.store import Manifest, Store


def memory_order(device: torch.device) -> torch.memory_format:
    """Format of images and networks: channels_last was 1.2 times as fast on CPUs, not on a GPU."""
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format


def to_float(images: Tensor) -> Tensor:
    """uint8 (n, H, W, 3) -> float32 (n, 3, H, W) in [-1, 1]."""
    floats = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=memory_order(images.device))
    return floats.div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """float (n, 3, H, W) in [-1, 1], clipped -> uint8 (n, H, W, 3), rounded."""
    scaled = images.detach().float().add(1.0).mul(127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


class Part:
    """One data set's images of one split, memory-mapped."""

    def __init__(self, name: str, frame: pd.DataFrame, shards: dict[str, np.ndarray]) -> None:
        self.name = name
        self.labels = torch.from_numpy(np.stack(list(frame["label"])).astype(np.float32))
        self.identity = [str(v) for v in frame["identity"]]
        self.files = [str(v) for v in frame["file"]]
        self.digests = [str(v) for v in frame["sha256"]]
        self._shards = shards
        self._where = list(zip(frame["shard"], (int(r) for r in frame["row"]), strict=True))
        self._resident: Tensor | None = None

    def __len__(self) -> int:
        return len(self.files)

    def images(self, indices: Tensor | list[int]) -> Tensor:
        """uint8 (len(indices), H, W, 3), on the device of a resident part, else on the CPU."""
        if self._resident is not None:
            return self._resident[torch.as_tensor(indices, device=self._resident.device)]
        return self._read(indices)

    def chosen(self, indices: Tensor) -> Tensor:
        """What has to be sent to the device for `pixels`: row numbers, or uint8 images."""
        return self._read(indices) if self._resident is None else indices

    def pixels(self, chosen: Tensor) -> Tensor:
        """uint8 (n, H, W, 3) of `chosen`, which is on the device of a resident part."""
        return chosen if self._resident is None else self._resident[chosen]

    def _read(self, indices: Tensor | list[int]) -> Tensor:
        rows = [self._shards[s][r] for s, r in (self._where[int(i)] for i in indices)]
        return torch.from_numpy(np.stack(rows))

    def move(self, device: torch.device) -> None:
        """Keep every image on `device`, so that batches are not copied."""
        self._resident = self.images(list(range(len(self)))).to(device)

    @property
    def bytes(self) -> int:
        side = next(iter(self._shards.values())).shape[1]
        return len(self) * side * side * 3


@dataclass(frozen=True)
class Faces:
    """Every data set's images of one split, and their common label space."""

    split: str
    space: LabelSpace
    size: int
    parts: list[Part]

    @classmethod
    def open(cls, manifest: Manifest | Path, split: str, store: Store | None = None) -> "Faces":
        """Open a manifest of kind "dataset". Raises ValueError if a set has no image of `split`."""
        if isinstance(manifest, Path):
            manifest = Manifest.read(manifest, "dataset")
        space = LabelSpace.from_json(read_json(manifest.local("label_space.json", store)))
        table = pd.read_parquet(manifest.local("labels.parquet", store))
        table = table[table["split"] == split]
        parts = []
        for labels in space.sets:
            frame = table[table["dataset"] == labels.name]
            if frame.empty:
                raise ValueError(f"{labels.name}: no image in split {split!r}")
            shards = {
                str(name): np.load(manifest.local(str(name), store), mmap_mode="r")
                for name in sorted(set(frame["shard"]))
            }
            parts.append(Part(labels.name, frame, shards))
        size = int(next(iter(parts[0]._shards.values())).shape[1])
        return cls(split, space, size, parts)

    @cached_property
    def digest(self) -> str:
        """Hex sha256 of the split's source digests and labels, independent of their storage."""
        content = [[p.name, p.digests, p.identity, p.labels.tolist()] for p in self.parts]
        return sha256_bytes(canonical_json([self.split, self.size, self.space.to_json(), content]))

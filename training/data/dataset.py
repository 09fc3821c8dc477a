"""The unified data set as tensors."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from training.core.environment import cores
from training.core.files import canonical_json, read_json
from training.data.enlarged import enlarged
from training.data.labels import LabelSpace
from training.data.memory_format import memory_order
from training.storage.store import Manifest, Store

PIECE = 2**15  # rows that are JSON text at the same time


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

    def __init__(self, name: str, table: pa.Table, shards: dict[str, np.ndarray]) -> None:
        """`table`: the rows of labels.parquet."""
        self.name = name
        labels = table["label"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        self.labels = torch.from_numpy(labels.reshape(len(table), -1).astype(np.float32))
        self.identity: list[str] = table["identity"].cast(pa.string()).to_pylist()
        self.files: list[str] = table["file"].to_pylist()
        self.digests: list[str] = table["sha256"].to_pylist()
        codes, names = pd.factorize(table["shard"].to_pandas())
        self._shards = [shards[str(one)] for one in names]
        self._places = codes, table["row"].to_numpy()
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
        shards, places = self._places
        rows = [self._shards[shards[i]][places[i]] for i in map(int, indices)]
        return torch.from_numpy(np.stack(rows))

    def move(self, device: torch.device) -> None:
        """Keep every image on `device`, so that batches are not copied."""
        self._resident = self.images(list(range(len(self)))).to(device)

    @property
    def bytes(self) -> int:
        return len(self) * self.side * self.side * 3

    @property
    def side(self) -> int:
        """Of the images, px."""
        return int((self._shards[0] if self._resident is None else self._resident).shape[1])


class EmptySplitError(ValueError):
    """A data set has no image of a split."""


@dataclass(frozen=True)
class Faces:
    """Every data set's images of one split, and their common label space."""

    split: str
    space: LabelSpace
    size: int
    parts: list[Part]

    @classmethod
    def open(
        cls, manifest: Manifest | Path, split: str, store: Store | None = None, *,
        load: bool = False,
    ) -> "Faces":  # fmt: skip
        """Open a manifest of kind "dataset".

        Raises EmptySplitError, a ValueError, if a set has no image of `split`.

        With `load` the images are the larger ones, of `data.load` px, from which windows of `size`
        are to be cut.
        """
        if isinstance(manifest, Path):
            manifest = Manifest.read(manifest, "dataset")
        space = LabelSpace.from_json(read_json(manifest.local("label_space.json", store)))
        table = pq.read_table(
            manifest.local("labels.parquet", store), filters=pc.field("split") == split
        )
        parts = []
        for labels in space.sets:
            rows = table.filter(pc.field("dataset") == labels.name)
            if not len(rows):
                raise EmptySplitError(f"{labels.name}: no image in split {split!r}")
            names = sorted(pc.unique(rows["shard"]).to_pylist())
            with ThreadPoolExecutor(cores()) as pool:  # fetched and hashed outside Python's lock
                files = [enlarged(name) if load else name for name in names]
                paths = pool.map(partial(manifest.local, store=store), files)
            shards = {n: np.load(p, mmap_mode="r") for n, p in zip(names, paths, strict=True)}
            parts.append(Part(labels.name, rows, shards))
        return cls(split, space, manifest.meta.data["size"] if load else parts[0].side, parts)

    @cached_property
    def digest(self) -> str:
        """Hex sha256 of the split's source digests and labels, independent of their storage.

        That of the canonical JSON of [split, size, space, [[name, digests, identity, labels], …]],
        which for a large set is never whole in memory.
        """
        whole = hashlib.sha256(canonical_json([self.split, self.size, self.space.to_json()])[:-1])
        for number, part in enumerate(self.parts):
            whole.update(b"," if number else b",[")
            whole.update(canonical_json([part.name])[:-1])
            for column in (part.digests, part.identity, part.labels):
                whole.update(b",[")
                for piece in _json_items(column):
                    whole.update(piece)
                whole.update(b"]")
            whole.update(b"]")
        whole.update(b"]]")
        return whole.hexdigest()


def _json_items(column: "list[str] | Tensor") -> Iterator[bytes]:
    """The items of a list in canonical JSON, in pieces."""
    for start in range(0, len(column), PIECE):
        piece: Any = column[start : start + PIECE]
        text = canonical_json(piece.tolist() if isinstance(piece, Tensor) else piece)[1:-1]
        yield b"," + text if start else text

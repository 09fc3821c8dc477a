"""The order in which training draws images, and every random number of a batch.

A batch (images, mirroring, targets, noise) is a pure function of the seed and of the number of
images drawn before it, not of the number of processes or of the state of a process: this is what
makes a resumed training equal to an uninterrupted one, bit for bit.
"""

import torch
from torch import Tensor

from training.core.files import canonical_json, sha256_bytes
from training.data.augment import Kind, random_crop
from training.data.batch import Batch
from training.data.dataset import Faces, Part, to_float

MASKS = 256  # of which the rows are kept


def generator(seed: int, *keys: int | str) -> torch.Generator:
    """A separate random stream for each (seed, keys)."""
    digest = sha256_bytes(canonical_json([seed, *keys]))
    return torch.Generator().manual_seed(int(digest[:15], 16))


class Order:
    """The rows of each batch of each data set: one permutation per epoch, endlessly."""

    def __init__(
        self, faces: Faces, seed: int, batch: int, *, flip: bool, length: int, references: int = 0,
        crop: Kind = "none",
    ) -> None:  # fmt: skip
        for part in faces.parts:
            if not len(part):
                raise ValueError(f"{part.name}: no training image")
        self.faces, self.seed, self.size, self.flip, self.length = faces, seed, batch, flip, length
        self.references, self.crop = references, crop
        self._epochs: dict[int, tuple[int, Tensor]] = {}
        self._classes: dict[int, list[Tensor]] = {}  # of each data set, the rows of each class
        self._members: dict[int, tuple[Tensor, Tensor]] = {}  # by id: a mask, and its rows

    def rows(self, dataset: int, start: int) -> Tensor:
        """Row numbers (batch,) of the images start … start + batch − 1 of one data set."""
        count = len(self.faces.parts[dataset])
        out, end = [], start + self.size
        while start < end:
            epoch, offset = divmod(start, count)
            if self._epochs.get(dataset, (-1, None))[0] != epoch:
                stream = generator(self.seed, "order", dataset, epoch)
                self._epochs[dataset] = (epoch, torch.randperm(count, generator=stream))
            out.append(self._epochs[dataset][1][offset : offset + end - start])
            start += len(out[-1])
        return torch.cat(out)

    def batch(
        self,
        dataset: int,
        drawn: int,
        seen: int,
        local: slice,
        device: torch.device,
        masks: tuple[Tensor, Tensor] | None = None,
    ) -> Batch:
        """Rows `local` of the global batch that comes after `drawn` images of this data set.

        With `masks`, two (n,) bools, images and their peers are drawn from the first, references
        from the second. `seen` counts the earlier images of all data sets. Targets are a
        permutation of the global batch's labels (StarGAN 4.2), so the result is the same for any
        world size.
        """
        part, space = self.faces.parts[dataset], self.faces.space
        rows, reference_rows, peer_rows = self._draw_rows(dataset, drawn, masks)
        labels = part.labels[rows]
        order = torch.randperm(self.size, generator=generator(self.seed, "target", dataset, drawn))
        targets, reference = labels[order], None

        def stacked(rows: Tensor, key: str) -> Tensor:
            images = [
                self._images(part, rows[:, k], dataset, drawn, local, device, f"{key}{k}")
                for k in range(rows.shape[1])
            ]
            return torch.stack(images, 1)

        if reference_rows is not None:
            targets = part.labels[reference_rows[:, 0]]
            reference = stacked(reference_rows, "reference")
        peers = None if peer_rows is None else stacked(peer_rows, "peer")
        image = self._images(part, rows, dataset, drawn, local, device)

        def noise(name: str, shape: tuple[int, ...]) -> Tensor:
            stream = generator(self.seed, "noise", name, dataset, drawn)
            return torch.rand((self.size, *shape), generator=stream)[local].to(device)

        return Batch(
            image,
            space.encode(labels[local], dataset).to(device),
            space.encode(targets[local], dataset).to(device),
            dataset,
            noise,
            min(1.0, seen / self.length),
            reference,
            space.encode(self._others(part, labels)[local], dataset).to(device),
            peers,
        )

    def _draw_rows(
        self, dataset: int, drawn: int, masks: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Rows (batch,) of the images, (batch, k) of their references and (batch, k − 1) of peers.

        References and peers are None if not configured; peers also without `masks`.
        """
        if masks:
            first, second = (
                torch.stack(
                    [
                        self._draw_from(mask, f"{key}{k or ''}", dataset, drawn)
                        for k in range(max(1, self.references))
                    ],
                    1,
                )
                for mask, key in zip(masks, ("first", "second"), strict=True)
            )
            return first[:, 0], second, first[:, 1:] if first.shape[1] > 1 else None
        if self.references:
            rows = self.balanced(dataset, drawn, "source", 1)[:, 0]
            return rows, self.balanced(dataset, drawn, "reference", self.references), None
        return self.rows(dataset, drawn), None, None

    def _draw_from(self, mask: Tensor, key: str, dataset: int, drawn: int) -> Tensor:
        """Random rows (batch,) among those in `mask`. Raises ValueError if it is empty."""
        members = self._rows_of(mask)
        if not len(members):
            name = self.faces.parts[dataset].name
            raise ValueError(
                f"{name}: no training image on one side of a pair; leave the label out"
            )
        stream = generator(self.seed, key, dataset, drawn)
        return members[torch.randint(len(members), (self.size,), generator=stream)]

    def _rows_of(self, mask: Tensor) -> Tensor:
        """The rows in a mask; looked up once for a mask that is given for many batches."""
        known = self._members.get(id(mask))
        if known is None or known[0] is not mask:
            if len(self._members) >= MASKS:
                self._members.clear()
            known = self._members[id(mask)] = mask, mask.nonzero()[:, 0]
        return known[1]

    @staticmethod
    def _others(part: Part, labels: Tensor) -> Tensor:
        """Labels (batch, k) of the next image in the batch whose labels differ from the row's.

        If the whole batch has equal labels: those of the data set's first image that differs.
        """
        count = len(labels)
        differs = (labels[:, None] != labels[None]).any(2)
        ahead = (torch.arange(count)[None] - torch.arange(count)[:, None]) % count
        found = labels[torch.where(differs, ahead, count).argmin(1)]
        for row in (~differs.any(1)).nonzero()[:, 0]:
            found[row] = part.labels[int((part.labels != labels[row]).any(1).int().argmax())]
        return found

    def balanced(self, dataset: int, drawn: int, key: str, count: int) -> Tensor:
        """Rows (batch, count): for each a uniformly random class, and `count` images of it.

        Drawn again for each batch (the reference code pairs the images once for a whole run).
        """
        if dataset not in self._classes:
            classes = self.faces.parts[dataset].labels.argmax(1)
            self._classes[dataset] = [(classes == c).nonzero()[:, 0] for c in classes.unique()]
        members = self._classes[dataset]
        stream = generator(self.seed, key, dataset, drawn)
        drawn_classes = torch.randint(len(members), (self.size,), generator=stream)
        uniform = torch.rand((self.size, count), generator=stream)
        return torch.stack(
            [
                members[c][(u * len(members[c])).long()]
                for c, u in zip(drawn_classes, uniform, strict=True)
            ]
        )

    def _images(
        self, part: Part, rows: Tensor, dataset: int, drawn: int, local: slice,
        device: torch.device, key: str = "",
    ) -> Tensor:  # fmt: skip
        """Images `rows[local]` in [-1, 1], cropped and, with probability ½, mirrored."""
        image = to_float(part.images(rows[local]).to(device, non_blocking=True))
        position: list[int | str] = [dataset, drawn, *([key] if key else [])]
        if self.crop != "none":
            uniform = torch.rand((self.size, 5), generator=generator(self.seed, "crop", *position))
            image = random_crop(image, uniform[local], self.crop)
        if not self.flip:
            return image
        uniform = torch.rand(self.size, generator=generator(self.seed, "flip", *position))
        mirrored = (uniform[local] < 0.5).to(device)[:, None, None, None]
        return torch.where(mirrored, image.flip(3), image)

"""The order in which training draws images, and every random number of a batch.

A batch (images, mirroring, targets, noise) is a pure function of the seed and of the number of
images drawn before it, not of the number of processes or of the state of a process: this is what
makes a resumed training equal to an uninterrupted one, bit for bit.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from training.core.files import canonical_json, sha256_bytes
from training.data.augment import NUMBERS, Kind, corners, crop_boxes, cropped, windows
from training.data.batch import Batch
from training.data.dataset import Faces, Part, to_float

MASKS = 256  # of which the rows are kept


def generator(seed: int, *keys: int | str) -> torch.Generator:
    """A separate random stream for each (seed, keys)."""
    digest = sha256_bytes(canonical_json([seed, *keys]))
    return torch.Generator().manual_seed(int(digest[:15], 16))


@dataclass(frozen=True)
class Draw:
    """What a batch is made of: decided on the host, shown by `Order.show` on any device."""

    dataset: int  # index into LabelSpace.sets
    tensors: dict[str, Tensor]
    # image, reference<k>, peer<k>: as `Part.chosen` gives them, with …/box (n, 4) or …/corner
    # (n, 2) and …/mirrored (n,) bools if configured; source, target, other (n, dim_g); position ()
    noise: Callable[[str, tuple[int, ...]], Tensor]  # on the host, as Batch.noise

    def to(self, device: torch.device) -> "Draw":
        """The same with its tensors on `device`; nothing waits for the copies."""
        moved = {k: v.to(device, non_blocking=True) for k, v in self.tensors.items()}
        return replace(self, tensors=moved)


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

    def draw(
        self,
        dataset: int,
        drawn: int,
        seen: int,
        local: slice,
        masks: tuple[Tensor, Tensor] | None = None,
    ) -> Draw:
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
        targets = labels[order]
        pictures = {"image": rows}
        for name, more in (("reference", reference_rows), ("peer", peer_rows)):
            if more is not None:
                pictures |= {f"{name}{k}": column for k, column in enumerate(more.unbind(1))}
        if reference_rows is not None:
            targets = part.labels[reference_rows[:, 0]]

        def noise(name: str, shape: tuple[int, ...]) -> Tensor:
            stream = generator(self.seed, "noise", name, dataset, drawn)
            return torch.rand((self.size, *shape), generator=stream)[local]

        tensors = {
            "source": space.encode(labels[local], dataset),
            "target": space.encode(targets[local], dataset),
            "other": space.encode(self._others(part, labels)[local], dataset),
            "position": torch.tensor(min(1.0, seen / self.length), dtype=torch.float64),
        }
        for name, numbers in pictures.items():
            tensors |= self._draw_picture(part, numbers, dataset, drawn, local, name)
        return Draw(dataset, tensors, noise)

    def show(self, draw: Draw) -> Batch:
        """The batch of a draw, on the device of its tensors: gathered, cropped and mirrored."""
        tensors, device = draw.tensors, draw.tensors["image"].device

        def stacked(name: str) -> Tensor | None:
            count = sum(key.rstrip("0123456789") == name for key in tensors)
            pictures = [self._picture(draw, f"{name}{k}") for k in range(count)]
            return torch.stack(pictures, 1) if pictures else None

        return Batch(
            self._picture(draw, "image"),
            tensors["source"],
            tensors["target"],
            draw.dataset,
            lambda name, shape: draw.noise(name, shape).to(device, non_blocking=True),
            tensors["position"],
            stacked("reference"),
            tensors["other"],
            stacked("peer"),
        )

    def batch(
        self,
        dataset: int,
        drawn: int,
        seen: int,
        local: slice,
        device: torch.device,
        masks: tuple[Tensor, Tensor] | None = None,
    ) -> Batch:
        """The batch of `draw` on `device`."""
        return self.show(self.draw(dataset, drawn, seen, local, masks).to(device))

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

    def _draw_picture(
        self, part: Part, rows: Tensor, dataset: int, drawn: int, local: slice, name: str
    ) -> dict[str, Tensor]:
        """What images `rows[local]` are made of, by the keys of `Draw.tensors`."""
        position: list[int | str] = [dataset, drawn, *([name] if name != "image" else [])]
        out = {name: part.chosen(rows[local])}
        if self.crop != "none":
            stream = generator(self.seed, "crop", *position)
            widths = (5, NUMBERS - 5)  # the numbers of further tries come after all first ones
            uniform = torch.cat([torch.rand((self.size, k), generator=stream) for k in widths], 1)
            if self.crop == "zoom":
                out[f"{name}/box"] = crop_boxes(uniform[local])
            else:
                out[f"{name}/corner"] = corners(uniform[local], part.side - self.faces.size)
        if self.flip:
            uniform = torch.rand(self.size, generator=generator(self.seed, "flip", *position))
            out[f"{name}/mirrored"] = uniform[local] < 0.5
        return out

    def _picture(self, draw: Draw, name: str) -> Tensor:
        """Images (n, 3, s, s) in [-1, 1], cropped and, with probability ½, mirrored."""
        tensors = draw.tensors
        pixels = self.faces.parts[draw.dataset].pixels(tensors[name])
        if (corner := tensors.get(f"{name}/corner")) is not None:
            pixels = windows(pixels, corner, self.faces.size)
        image = to_float(pixels)
        if (box := tensors.get(f"{name}/box")) is not None:
            image = cropped(image, box)
        if (mirrored := tensors.get(f"{name}/mirrored")) is not None:
            image = torch.where(mirrored[:, None, None, None], image.flip(3), image)
        return image

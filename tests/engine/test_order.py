"""Which images a step draws, and how many: a function of the seed and of what was drawn before."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from runs import CPU
from training.data.dataset import Faces, to_float
from training.data.order import Order, generator
from training.engine.schedule import Schedule
from training.models.base import Phase


def test_the_schedule_counts_what_the_phases_draw() -> None:
    """Against a plain count, with a warm-up that draws once and phases that draw again."""

    def loss(*_: Any) -> Any:
        raise AssertionError

    for sets, every, warmup in itertools.product((1, 2, 3), (1, 2, 5), (0, 8, 24, 50)):
        phases = [Phase("a", (), loss), Phase("b", (), loss, every, new_batch=True)]
        schedule, seen, drawn = Schedule(phases, sets, 4, warmup), 0, [0] * sets
        warm = -(-warmup // (4 * sets))
        for step in range(60):
            iteration, dataset = divmod(step, sets)
            assert (schedule.images(step), schedule.drawn(iteration)) == (seen, drawn[dataset])
            again = iteration >= warm and (iteration + 1) % every == 0
            drawn[dataset] += 8 if again else 4
            seen += 8 if again else 4


@pytest.mark.parametrize("part", [{"round_robin_index": 0}, {"active_range": (0.5, 1.0)}])
def test_a_phase_that_draws_a_batch_is_always_active(part: dict[str, Any]) -> None:
    """The loop would draw for it less often than the schedule counts."""
    with pytest.raises(ValueError, match="b: a phase that draws a new batch"):
        Schedule([Phase("b", (), lambda *_: {}, new_batch=True, **part)], 1, 4)


def test_an_epoch_holds_every_image_once_and_the_next_another_order(binary: Path) -> None:
    faces = Faces.open(binary, "train")
    order = Order(faces, 3, 8, flip=True, length=1)
    count = len(faces.parts[0])
    seen = torch.cat([order.rows(0, start) for start in range(0, 2 * count, 8)])
    assert sorted(seen[:count].tolist()) == list(range(count))
    assert sorted(seen[count:].tolist()) == list(range(count))
    assert seen[:count].tolist() != seen[count:].tolist()
    assert torch.equal(Order(faces, 3, 8, flip=True, length=1).rows(0, count), order.rows(0, count))


def test_the_global_batch_is_the_same_at_any_world_size(joint: Path) -> None:
    faces, cpu = Faces.open(joint, "train"), torch.device("cpu")
    order = Order(faces, 5, 8, flip=True, length=64)
    whole = order.batch(1, 16, 0, slice(0, 8), cpu)
    for cuts in ([0, 4, 8], [0, 2, 5, 8]):
        parts = [order.batch(1, 16, 0, slice(a, b), cpu) for a, b in itertools.pairwise(cuts)]
        for key in ("image", "source", "target"):
            assert torch.equal(torch.cat([getattr(p, key) for p in parts]), getattr(whole, key))
        joined = torch.cat([p.noise("alpha", (1, 1, 1)) for p in parts])
        assert torch.equal(joined, whole.noise("alpha", (1, 1, 1)))


def test_targets_are_a_permutation_of_the_batch_labels(joint: Path) -> None:
    order = Order(Faces.open(joint, "train"), 5, 8, flip=True, length=64)
    for start in (0, 8, 24):
        batch = order.batch(0, start, 0, slice(0, 8), torch.device("cpu"))
        assert sorted(map(tuple, batch.source.tolist())) == sorted(
            map(tuple, batch.target.tolist())
        )


@pytest.mark.parametrize("which", ["joint", "classes", "units"])
def test_other_labels_are_another_images_at_any_world_size(
    which: str, request: pytest.FixtureRequest
) -> None:
    """Also in a batch whose images all have the same labels."""
    faces, cpu = Faces.open(request.getfixturevalue(which), "train"), torch.device("cpu")
    for index, part in enumerate(faces.parts):
        for equal in (False, True):
            if equal:
                part.labels[:20] = part.labels[0]
                part.labels[20] = part.labels[20:][(part.labels[20:] != part.labels[0]).any(1)][0]
            order = Order(faces, 5, 8, flip=True, length=64)
            known = {tuple(row) for row in faces.space.encode(part.labels, index).tolist()}
            for start in (0, 8, 24):
                whole = order.batch(index, start, 0, slice(0, 8), cpu)
                assert whole.other is not None
                assert (whole.other != whole.source).any(1).all()
                assert {tuple(row) for row in whole.other.tolist()} <= known
                pieces = [order.batch(index, start, 0, s, cpu).other
                          for s in (slice(0, 3), slice(3, 8))]  # fmt: skip
                joined = torch.cat([piece for piece in pieces if piece is not None])
                assert torch.equal(joined, whole.other)


def test_random_streams_differ_by_key() -> None:
    streams = [
        torch.rand(4, generator=generator(0, *k)).tolist() for k in (("a", 1), ("a", 2), ("b", 1))
    ]
    assert len({tuple(s) for s in streams}) == 3


def test_references_and_peers_are_of_their_domains_at_any_world_size(binary: Path) -> None:
    """Two images per side use separate random streams; with one per side the first is the same."""
    faces = Faces.open(binary, "train")
    male = faces.parts[0].labels[:, 2] > 0.5
    two, one = (Order(faces, 5, 8, flip=False, length=64, references=k) for k in (2, 1))
    whole, single = (o.batch(0, 8, 8, slice(0, 8), CPU, (male, ~male)) for o in (two, one))
    assert whole.reference is not None
    assert whole.peers is not None
    assert single.reference is not None
    assert (whole.reference.shape[1], whole.peers.shape[1]) == (2, 1)
    assert torch.equal(whole.image, single.image)
    assert torch.equal(whole.reference[:, :1], single.reference)
    assert single.peers is None
    assert not torch.equal(whole.peers[:, 0], whole.image)
    assert not torch.equal(whole.reference[:, 0], whole.reference[:, 1])
    for side, images in ((male, whole.peers), (~male, whole.reference)):
        known = {
            image.numpy().tobytes()
            for image in to_float(faces.parts[0].images(side.nonzero()[:, 0]))
        }
        assert {image.numpy().tobytes() for image in images.flatten(0, 1)} <= known
    parts = [two.batch(0, 8, 8, s, CPU, (male, ~male)) for s in (slice(0, 3), slice(3, 8))]
    for key in ("reference", "peers"):
        assert torch.equal(torch.cat([getattr(p, key) for p in parts]), getattr(whole, key))

"""Following a face: steadiness as a number, gaps, other faces, cuts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.crop import Box
from training.inference.track import GAP, follow, overlap

SIZE = (640, 360)
TIMES = [n / 25 for n in range(100)]


def around(x: float, y: float, side: float) -> Box:
    left, top = round(x - side / 2), round(y - side / 2)
    return left, top, left + round(side), top + round(side)


def centres(boxes: list[Box | None]) -> np.ndarray:
    """(n, 3): centre x, y and side."""
    assert None not in boxes
    return np.array([((b[0] + b[2]) / 2, (b[1] + b[3]) / 2, b[2] - b[0]) for b in boxes])  # type: ignore[index]


def trembling(values: np.ndarray) -> float:
    """Root mean square of the second differences of a box's centre and side, px."""
    return float(np.sqrt((np.diff(values, 2, axis=0) ** 2).mean()))


def test_a_trembling_detection_gives_a_steady_box() -> None:
    """Sides jump by a fifth, as the cascade's do, and one in ten detections is far off."""
    random = np.random.RandomState(0)
    true = np.array([(200 + 60 * t, 180 + 30 * np.sin(t), 120) for t in TIMES])
    looked = []
    for time, (x, y, side) in zip(TIMES, true, strict=True):
        side = side * random.choice([0.8, 1, 1.2])
        x, y = (x, y) + random.normal(0, 6, 2) + (random.uniform() < 0.1) * 25
        looked.append((time, [around(x, y, side)]))
    raw = centres([boxes[0] for _, boxes in looked])
    made = centres(follow(TIMES, looked, SIZE))
    assert trembling(raw) > 20
    assert trembling(made) < 1.1
    assert np.abs(made - true)[:, :2].mean() < 4
    assert np.abs(made - true)[:, 2].mean() < 6


def test_a_box_does_not_lag_behind_a_moving_face() -> None:
    """Nor at the beginning and the end, where there is nothing before or after."""
    looked = [(t, [around(100 + 100 * t, 180, 100)]) for t in TIMES]
    made = centres(follow(TIMES, looked, SIZE))
    assert np.abs(made[:, 0] - (100 + 100 * np.array(TIMES))).max() <= 1


def test_frames_between_two_looks_have_a_box() -> None:
    looked = [(t, [around(100 + 100 * t, 180, 100)]) for t in TIMES[::3]]
    made = centres(follow(TIMES, looked, SIZE))
    assert np.abs(made[:, 0] - (100 + 100 * np.array(TIMES))).max() <= 1


@pytest.mark.parametrize(("missed", "bridged"), [(GAP - 0.1, True), (GAP + 0.1, False)])
def test_gaps_are_bridged_up_to_the_limit(missed: float, bridged: bool) -> None:
    there = around(200, 180, 100)
    gone = [t for t in TIMES if 1 < t < 1 + missed - 1e-9]
    looked = [(t, [] if t in gone else [there]) for t in TIMES]
    made = follow(TIMES, looked, SIZE)
    empty = [t for t, box in zip(TIMES, made, strict=True) if box is None]
    assert empty == ([] if bridged else gone)


def test_frames_before_and_after_a_face_have_no_box() -> None:
    looked = [(t, [around(200, 180, 100)] if 1 <= t <= 2 else []) for t in TIMES]
    made = follow(TIMES, looked, SIZE)
    assert [box is not None for box in made] == [1 <= t <= 2 for t in TIMES]


def test_of_two_faces_the_larger_is_followed_and_a_flash_is_none() -> None:
    small, large, flash = around(100, 180, 80), around(400, 180, 120), around(600, 60, 100)
    looked = [(t, [small, large, *([flash] if t == 2 else [])]) for t in TIMES]
    assert set(follow(TIMES, looked, SIZE)) == {large}
    looked = [(t, [flash] if t == 2 else []) for t in TIMES]
    assert set(follow(TIMES, looked, SIZE)) == {None}


def test_after_a_cut_the_box_is_on_the_new_face_at_once() -> None:
    first, second = around(100, 180, 80), around(500, 180, 80)
    looked = [(t, [first if t < 2 else second]) for t in TIMES]
    made = follow(TIMES, looked, SIZE)
    assert made == [first if t < 2 else second for t in TIMES]


def test_a_video_of_one_frame_is_followed() -> None:
    box = around(100, 180, 80)
    assert follow([0.0], [(0.0, [box])], SIZE) == [box]


def test_frames_far_apart_are_not_a_gap() -> None:
    """One frame in two seconds, a face in each."""
    box = around(100, 180, 80)
    times = [0.0, 2.0, 4.0, 6.0]
    assert follow(times, [(t, [box]) for t in times], SIZE) == [box] * 4


SQUARES = st.tuples(st.integers(0, 500), st.integers(0, 240), st.integers(20, 120)).map(
    lambda v: (v[0], v[1], v[0] + v[2], v[1] + v[2])
)


@given(st.lists(st.lists(SQUARES, max_size=3), min_size=1, max_size=20))
def test_every_box_is_a_square_within_the_frame(found: list[list[Box]]) -> None:
    times = [n / 10 for n in range(len(found))]
    for box in follow(times, list(zip(times, found, strict=True)), SIZE):
        if box is not None:
            left, top, right, bottom = box
            assert right - left == bottom - top >= 16
            assert 0 <= left < right <= SIZE[0]
            assert 0 <= top < bottom <= SIZE[1]


@given(SQUARES, SQUARES)
def test_the_overlap_is_that_of_the_pixels(a: Box, b: Box) -> None:
    masks = np.zeros((2, 360, 640), bool)
    for mask, (left, top, right, bottom) in zip(masks, (a, b), strict=True):
        mask[top:bottom, left:right] = True
    assert overlap(a, b) == pytest.approx((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())

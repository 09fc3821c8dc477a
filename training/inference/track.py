"""Follow one face through a video: from a detector's boxes to a box that does not tremble.

A detector looks at each frame alone: its boxes jump by a fifth of the face from one frame to the
next, faces are missed, and others are seen where there are none. Here boxes of several moments are
joined to tracks, and a track's centre and side are smoothed over time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from training.data.crop import Box

GAP = 0.5  # s without a detection that are bridged
OVERLAP = 0.25  # intersection over union of a face's boxes in successive detections
LEAST = 2  # detections of a track: one alone is a mistake of the detector
MEDIAN = 5  # detections over which outliers are removed
CENTRE, SIDE = 0.25, 0.6  # s, standard deviations of the smoothing of position and size
REACH = 4  # standard deviations after which a detection no longer counts


@dataclass
class _Track:
    times: list[float] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)

    @property
    def weight(self) -> float:
        """How much of the video it covers: seconds times mean side."""
        sides = [right - left for left, _, right, _ in self.boxes]
        return (self.times[-1] - self.times[0] + 1e-3) * float(np.mean(sides))

    def meets(self, other: "_Track") -> bool:
        return self.times[0] <= other.times[-1] and other.times[0] <= self.times[-1]


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0 to 1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(one[2] - one[0]) * (one[3] - one[1]) for one in (a, b)]
    return width * height / (sum(areas) - width * height)


def follow(
    times: Sequence[float], looked: Sequence[tuple[float, Sequence[Box]]], size: tuple[int, int]
) -> list[Box | None]:
    """The box of the main face at each of the frames' `times`, in s; None where there is none.

    looked: times at which a detector has looked, in order, and the square boxes that it found, in
    px of frames of `size` (width, height). Gaps of up to `GAP` s, or between two detections in a
    row, are bridged. At every moment at most one face is edited: that of the track that covers
    most, by seconds and size; the others fill its gaps.
    """
    chosen: list[_Track] = []
    tracks = [t for t in _tracks(looked) if len(t.times) >= min(LEAST, len(looked))]
    for track in sorted(tracks, key=lambda track: -track.weight):
        if not any(track.meets(other) for other in chosen):
            chosen.append(track)
    boxes: list[Box | None] = [None] * len(times)
    for track in chosen:
        values = _numbers(track)
        moments = np.array(track.times)
        for number, time in enumerate(times):
            if moments[0] <= time <= moments[-1]:
                boxes[number] = _box_at(time, moments, values, size)
    return boxes


def _tracks(looked: Sequence[tuple[float, Sequence[Box]]]) -> list[_Track]:
    """Join boxes to the track whose last box they overlap most, if it is not too long ago."""
    done: list[_Track] = []
    live: list[_Track] = []
    before = -np.inf
    for time, boxes in looked:
        ended = [t for t in live if time - t.times[-1] > GAP and t.times[-1] < before]
        done += ended
        live = [track for track in live if track not in ended]
        pairs = sorted(
            ((overlap(track.boxes[-1], box), i, j)
             for i, track in enumerate(live) for j, box in enumerate(boxes)),
            reverse=True,
        )  # fmt: skip
        tracks_left, boxes_left = set(range(len(live))), set(range(len(boxes)))
        for share, i, j in pairs:
            if share >= OVERLAP and i in tracks_left and j in boxes_left:
                live[i].times.append(time)
                live[i].boxes.append(boxes[j])
                tracks_left.remove(i)
                boxes_left.remove(j)
        live += [_Track([time], [boxes[j]]) for j in sorted(boxes_left)]
        before = time
    return done + live


def _numbers(track: _Track) -> np.ndarray:
    """(n, 3): centre x, centre y and side of a track's boxes, in px, without outliers."""
    values = np.array(
        [((a + c) / 2, (b + d) / 2, c - a) for a, b, c, d in track.boxes], dtype=float
    )
    half = MEDIAN // 2
    padded = np.pad(values, ((half, half), (0, 0)), mode="reflect", reflect_type="odd")
    windows = np.lib.stride_tricks.sliding_window_view(padded, MEDIAN, axis=0)
    return np.asarray(np.median(windows, axis=-1)) if len(values) > half else values


def _box_at(time: float, moments: np.ndarray, values: np.ndarray, size: tuple[int, int]) -> Box:
    x = _smoothed(time, moments, values[:, 0], CENTRE)
    y = _smoothed(time, moments, values[:, 1], CENTRE)
    side = min(max(16, round(_smoothed(time, moments, values[:, 2], SIDE))), *size)
    left, top = (
        min(max(0, round(middle - side / 2)), length - side)
        for middle, length in zip((x, y), size, strict=True)
    )
    return left, top, left + side, top + side


def _smoothed(time: float, moments: np.ndarray, values: np.ndarray, width: float) -> float:
    """A weighted straight line through the values around `time`, at `time`.

    The weights are a Gaussian's of standard deviation `width` s; unlike a mean, a line does not lag
    where a movement begins or ends.
    """
    near = slice(*np.searchsorted(moments, (time - REACH * width, time + REACH * width)))
    t, v = moments[near] - time, values[near]
    if not len(t):  # far apart: of a video of few frames
        return float(np.interp(time, moments, values))
    weight = np.exp(-((t / width) ** 2) / 2)
    total = weight.sum()
    middle, mean = (weight * t).sum() / total, (weight * v).sum() / total
    spread = (weight * (t - middle) ** 2).sum()
    if spread < total * 1e-6:
        return float(mean)
    slope = (weight * (t - middle) * (v - mean)).sum() / spread
    return float(mean - slope * middle)

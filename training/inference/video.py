"""Edit the face in every frame of a video; sound, timestamps and rotation are kept.

The video is decoded twice: to find the face, so that its box can be smoothed with what comes after,
and to edit it. Frames are encoded anew (H.264, or VP9 in WebM), upright; audio packets are copied.
`av` is an optional extra.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from training.core.files import fsync
from training.core.progress import Progress
from training.data.crop import Box
from training.data.pictures import VIDEOS
from training.inference.marks import EDITED, TERMS, burn, label, said, uuid_box, xmp
from training.inference.paste import find_faces, square_in
from training.inference.track import follow

INSTALL = "python -m pip install av==18.1.0"
WRITTEN = (".mp4", ".m4v", ".mov", ".mkv", ".webm")
BOXES = (".mp4", ".m4v", ".mov")  # formats that hold an XMP packet in a box
MUXERS = {".mov": "mov", ".mkv": "matroska", ".webm": "webm"}  # else MP4
ANY = ".mkv"  # the format for everything else, which holds any sound
LOOK = 0.1  # s between two searches for faces; one takes about 0.1 s
# Settings of the encoders: nearly no visible loss.
ENCODERS = {
    ".webm": ("libvpx-vp9", {"crf": "24", "b": "0", "row-mt": "1"}),
    "": ("libx264", {"crf": "17", "preset": "medium"}),
}
BT2100 = (16, 18)  # transfer functions PQ and HLG

Edit = Callable[[Image.Image, Box | None], np.ndarray]


@dataclass(frozen=True)
class Edited:
    """What was done: frames, those without a face, and what was left out of the file."""

    frames: int
    without: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        none = f", {self.without} of them without a face and unchanged" if self.without else ""
        return "; ".join([f"{self.frames} frames{none}", *self.notes])


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEOS


def require() -> None:
    """Raise ValueError with the fix if `av` is not installed."""
    _library()


def _library() -> Any:
    try:
        import av
    except ImportError as error:
        raise ValueError(f"videos need the package av: {INSTALL}") from error
    return av


def edit_video(
    source: Path, out: Path, edit: Edit, version: str, *,
    box: Box | None = None, visible: bool = True, sources: tuple[str, ...] = (),
) -> Edited:  # fmt: skip
    """Write `source` to `out` with `edit` applied to a square of each upright RGB frame.

    The square is that of `box`, px, or follows the largest face. Frames without a face keep their
    picture. `visible` burns the mark into each. `sources`: as in `marks.xmp`. `out` is not atomic:
    give a temporary name. Raises ValueError with the file's name for a video that cannot be read or
    written, and for one without a face.
    """
    with _named(source):
        _check_sound(source, out.suffix.lower())
        seen = _look(source, box is None)
        if box is not None:
            boxes: list[Box | None] = [square_in(box, *seen.size)] * len(seen.times)
        else:
            boxes = follow(seen.times, seen.looked, seen.size)
        if not any(boxes):
            raise ValueError(
                f"no face in any of {len(seen.times)} frames; give its box with --box "
                "LEFT,TOP,RIGHT,BOTTOM"
            )
        mark = label(version, *seen.size) if visible else None
        notes = _write(source, out, seen.first, boxes, _Changes(edit, mark, version, sources))
    if out.suffix.lower() in BOXES:
        with out.open("ab") as stream:
            stream.write(uuid_box(xmp(version, sources=sources)))
    fsync(out)
    return Edited(len(boxes), boxes.count(None), notes)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of the libraries under `av` as ValueError with the file's name."""
    av = _library()
    try:
        yield
    except av.FFmpegError as error:
        raise ValueError(f"{path}: cannot be read or written as a video ({error})") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _video(container: Any) -> Any:
    """The video stream, decoded on several threads. ValueError if there is none."""
    cover = _library().stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        raise ValueError("no video in this file")
    streams[0].thread_type = "AUTO"
    return streams[0]


def _sounds(container: Any) -> list[Any]:
    """The sound tracks that can be copied; `av` cannot copy one that it has no decoder of."""
    return [one for one in container.streams.audio if one.codec_context is not None]


def _check_sound(path: Path, suffix: str) -> None:
    """Raise ValueError if a file of this suffix cannot hold the sound of `path`."""
    av = _library()
    with (
        av.open(str(path)) as container,
        av.open(io.BytesIO(), "w", format=MUXERS.get(suffix, "mp4")) as result,
    ):
        for one in _sounds(container):
            if one.codec_context.codec.canonical_name not in result.supported_codecs:
                raise ValueError(
                    f"a {suffix} file cannot hold its sound ({one.codec_context.name}); write {ANY}"
                )


class _Seen(NamedTuple):
    """A video's frames: their times in s, the faces found in some, and the first of them."""

    times: list[float]
    looked: list[tuple[float, list[Box]]]
    first: Any

    @property
    def size(self) -> tuple[int, int]:
        """Upright width and height, px."""
        return _upright_size(self.first)


def _look(path: Path, find: bool) -> _Seen:
    times: list[float] = []
    finder = _Finder()
    first = None
    with _library().open(str(path)) as container:
        stream = _video(container)
        with Progress(f"{path.name}: find the face", _expected(stream, container), "frames") as bar:
            for frame in container.decode(stream):
                if frame.pts is None or (times and float(frame.time) <= times[-1]):
                    raise ValueError(
                        f"frame {len(times)} has no time of its own; encode it again with a "
                        "constant frame rate"
                    )
                times.append(float(frame.time))
                first = first or frame
                if _upright_size(frame) != _upright_size(first):
                    raise ValueError(
                        f"its size changes at {times[-1]:.2f} s; cut it there into two videos"
                    )
                if find:
                    finder.see(frame)
                bar.step()
        finder.end()
    if not times:
        raise ValueError("no frames")
    return _Seen(times, finder.looked, first)


class _Finder:
    """Looks for faces every `LOOK` s, and at every frame around one where they come or go."""

    def __init__(self) -> None:
        self.looked: list[tuple[float, list[Box]]] = []
        self._between: list[Any] = []  # frames since the last look

    def see(self, frame: Any) -> None:
        if self.looked and float(frame.time) - self.looked[-1][0] < LOOK - 1e-6:
            self._between.append(frame)
            return
        now = self._look(frame)
        if self.looked and bool(now[1]) != bool(self.looked[-1][1]):
            self.looked += map(self._look, self._between)
        self.looked.append(now)
        self._between = []

    def end(self) -> None:
        """Look at the last frame, so that the end is not left without a box."""
        self.looked += map(self._look, self._between[-1:])

    def _look(self, frame: Any) -> tuple[float, list[Box]]:
        return float(frame.time), find_faces(Image.fromarray(_pixels(frame)))


def _expected(stream: Any, container: Any) -> int:
    """The number of frames, as far as the file's header tells."""
    if stream.frames:
        return int(stream.frames)
    seconds = (container.duration or 0) / 1e6
    return max(1, round(seconds * float(stream.average_rate or stream.guessed_rate or 25)))


def _upright_size(frame: Any) -> tuple[int, int]:
    size = frame.width, frame.height
    return size[::-1] if frame.rotation % 180 else size


def _pixels(frame: Any) -> np.ndarray:
    """Upright uint8 (H, W, 3) RGB of a frame."""
    pixels = frame.to_ndarray(format="rgb24")
    if frame.rotation % 90:
        raise ValueError(f"turned by {frame.rotation}°; only quarter turns can be made upright")
    return np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90))


class _Changes(NamedTuple):
    """What is done to the frames: the edit, the visible mark, and what the file says of both."""

    edit: Edit
    mark: Image.Image | None
    version: str
    sources: tuple[str, ...]

    def __call__(self, pixels: np.ndarray, box: Box | None) -> np.ndarray:
        if box is not None:
            pixels = self.edit(Image.fromarray(pixels), box)
        return pixels if self.mark is None else burn(pixels, self.mark)


def _write(
    source: Path, out: Path, first: Any, boxes: list[Box | None], changes: _Changes
) -> tuple[str, ...]:
    """Encode the edited frames and copy the sound; what was left out or changed."""
    av = _library()
    suffix = out.suffix.lower()
    options = {"movflags": "faststart"} if suffix in BOXES else {}
    with (
        av.open(str(source)) as container,
        av.open(str(out), "w", options=options) as result,
        Progress(f"{source.name}: edit", len(boxes), "frames") as bar,
    ):
        stream = _video(container)
        comment = said(changes.version, sources=changes.sources)
        result.metadata.update(comment=comment, digital_source_type=TERMS + EDITED)
        encoder = _encoder(result, stream, first, suffix)
        tracks = _sounds(container)
        sound = {one.index: result.add_stream_from_template(one) for one in tracks}
        left = iter(boxes)
        for packet in container.demux(stream, *tracks):
            if packet.stream.index in sound:
                if packet.dts is not None:  # the last, empty one
                    packet.stream = sound[packet.stream.index]
                    result.mux(packet)
                continue
            for frame in packet.decode():
                pixels = changes(_pixels(frame), next(left))
                result.mux(encoder.encode(_frame(pixels, frame, encoder)))
                bar.step()
        result.mux(encoder.encode())
        return _notes(stream, container, first)


def _encoder(result: Any, stream: Any, frame: Any, suffix: str) -> Any:
    """The output's video stream: the input's clock, size upright, shape of pixels and colours."""
    name, options = ENCODERS.get(suffix, ENCODERS[""])
    made = result.add_stream(name, rate=stream.average_rate or 25, options=options)
    width, height = _upright_size(frame)
    made.width, made.height = width, height
    made.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
    context = made.codec_context
    made.time_base = context.time_base = stream.time_base
    if shape := stream.sample_aspect_ratio:
        turned = frame.rotation % 180 != 0
        context.sample_aspect_ratio = 1 / Fraction(shape) if turned else shape
    for fact in ("colorspace", "color_primaries", "color_trc", "color_range"):
        setattr(context, fact, getattr(frame, fact))
    return made


def _frame(pixels: np.ndarray, like: Any, encoder: Any) -> Any:
    """A frame for the encoder, with the time, duration and colours of the frame `like`."""
    frame = _library().VideoFrame.from_ndarray(pixels, format="rgb24")
    frame = frame.reformat(
        format=encoder.pix_fmt, dst_colorspace=like.colorspace, dst_color_range=like.color_range
    )
    frame.pts, frame.time_base, frame.duration = like.pts, like.time_base, like.duration
    return frame


def _notes(stream: Any, container: Any, frame: Any) -> tuple[str, ...]:
    notes = []
    kept = {stream.index, *(one.index for one in _sounds(container))}
    if left := [one.type for one in container.streams if one.index not in kept]:
        notes.append(f"left out: {', '.join(left)}")
    if frame.color_trc in BT2100:
        notes.append("high dynamic range was reduced to 8 bits; its colours may show steps")
    if frame.rotation:
        notes.append(f"stored turned by {frame.rotation}°, written upright")
    return tuple(notes)

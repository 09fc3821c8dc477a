"""Videos of a drawn face, with sound, made and read with `av`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
from PIL import Image

from training.data.synthetic import paint
from training.data.synthetic.faces import celeba_jobs

RATE = 48_000
CLOCK = Fraction(1, 90_000)
SIZE = (192, 144)  # px


@cache
def face() -> Image.Image:
    """A face that the detector sees, 73x90 px."""
    return paint.celeba(celeba_jobs(2, 7)[0][1].face).resize((73, 90))


def scene(place: tuple[float, float] | None, seed: int = 0) -> np.ndarray:
    """A picture with noise, and a face with its upper left corner at `place`: uint8 (H, W, 3)."""
    picture = Image.new("RGB", SIZE, (120, 125, 130))
    if place is not None:
        picture.paste(face(), (round(place[0]), round(place[1])))
    noise = np.random.RandomState(seed).normal(0, 3, (SIZE[1], SIZE[0], 3))
    return np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8)


def sound(seconds: float) -> np.ndarray:
    """A tone, float32 (n,)."""
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(int(RATE * seconds)) / RATE)).astype("f4")


def write(
    path: Path, frames: Sequence[np.ndarray], ticks: Sequence[int], rotation: int = 0,
    audio: str = "aac", video: str = "libx264",
) -> Path:  # fmt: skip
    """A video of `frames` at `ticks` of a 90 kHz clock, BT.709, with a tone of its length."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(video, rate=25, options={"crf": "10"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = CLOCK
        for fact in ("colorspace", "color_primaries", "color_trc", "color_range"):
            setattr(stream.codec_context, fact, 1)
        if rotation:
            stream.set_display_rotation(rotation)
        tone = file.add_stream(audio, rate=RATE, layout="mono")
        for pixels, tick in zip(frames, ticks, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=1, dst_color_range=1)
            frame.pts, frame.time_base = tick, CLOCK
            file.mux(stream.encode(frame))
        wave = sound(float((ticks[-1] + 3600) * CLOCK))
        for start in range(0, len(wave), 1024):
            part = wave[None, start : start + 1024]
            block = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
            block.sample_rate, block.pts, block.time_base = RATE, start, Fraction(1, RATE)
            file.mux(tone.encode(block))
        file.mux(stream.encode())
        file.mux(tone.encode())
    return path


def moving(path: Path, place: Callable[[int], tuple[float, float] | None], count: int) -> Path:
    """A video at 25 frames a second with a face at `place` of each frame's number."""
    frames = [scene(place(number), number) for number in range(count)]
    return write(path, frames, range(0, 3600 * count, 3600))


@dataclass
class Clip:
    """What a video file holds; times in s, exactly."""

    frames: list[np.ndarray]
    times: list[Fraction]
    sound: list[tuple[bytes, Fraction]]
    colours: tuple[int, ...]
    rotation: int
    metadata: dict[str, str]
    codecs: list[str]


def read(path: Path) -> Clip:
    with av.open(str(path)) as file:
        frames = list(file.decode(file.streams.video[0]))
        codecs = [stream.codec_context.name for stream in file.streams]
        metadata = dict(file.metadata)
    with av.open(str(path)) as file:
        packets = [
            (bytes(packet), packet.pts * packet.time_base)
            for packet in file.demux(file.streams.audio[0])
            if packet.size
        ]
    last = frames[-1]
    return Clip(
        [frame.to_ndarray(format="rgb24") for frame in frames],
        [frame.pts * frame.time_base for frame in frames],
        packets,
        (last.colorspace, last.color_primaries, last.color_trc, last.color_range),
        last.rotation,
        metadata,
        codecs,
    )

"""Drawn landscapes in several seasons: a data set without faces, in the folders layout.

    python -m training.data scenes scenes            # scenes/summer/0000.png …, 128 px
    python -m pipelines run datasets=scenes:folders raw=scenes

The distribution of hills and trees does not depend on the season, so that only the season differs.
The bytes are the same on every machine.
"""

from pathlib import Path
from typing import NamedTuple

from PIL import Image

from training.core.temporary import check_free, whole_folder
from training.data.synthetic.pen import Colour, Pen, Point, level, mix, oval, spline, stroke
from training.data.synthetic.people import Draws

SIZE = 128  # px
SEED = 20_171_124


class SeasonStyle(NamedTuple):
    """A season's colours, and whether there are leaves and snow."""

    top: Colour
    low: Colour  # of the sky, above and at the horizon
    near: Colour
    far: Colour  # of the land
    leaves: tuple[Colour, ...]  # none: bare
    snow: bool = False


SEASONS = {
    "spring": SeasonStyle((120, 178, 226), (226, 238, 240), (140, 190, 92), (168, 204, 150),
                          ((244, 184, 204), (250, 214, 224), (170, 208, 110))),
    "summer": SeasonStyle((58, 132, 214), (200, 226, 240), (74, 140, 56), (112, 158, 112),
                          ((38, 100, 44), (56, 122, 50), (80, 140, 60))),
    "autumn": SeasonStyle((126, 148, 176), (232, 216, 188), (168, 142, 74), (176, 150, 110),
                          ((206, 104, 36), (224, 160, 52), (160, 62, 36))),
    "winter": SeasonStyle((150, 164, 186), (222, 228, 236), (240, 243, 248), (206, 214, 226), (),
                          snow=True),
}  # fmt: skip


def landscape(season: str, number: int, seed: int = SEED) -> Image.Image:
    """One picture of SIZE×SIZE pixels. Units are pixels from the centre, y down."""
    style, d = SEASONS[season], Draws("scene", seed, season, number)
    sky = Image.new("RGB", (1, 16))
    sky.putdata([mix(style.top, style.low, i / 15) for i in range(16)])
    image = sky.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    pen = Pen(image, 1.0, (SIZE / 2, SIZE / 2), smooth=3)
    pen.relief = level
    _sky(pen, style, d)
    for height, share in ((-8, 0.75), (6, 0.4), (22, 0.0)):
        ridge = _ridge(d, height)
        land = mix(style.near, style.far, share)
        pen.fill(land, [*ridge, (70, 70), (-70, 70)])
        pen.fill(mix(land, (255, 255, 255), 0.25), stroke(ridge, 2.0), alpha=0.5)
        if share:
            continue
        for _ in range(3 + d.whole(4)):
            x = d.between(-58, 58)
            _tree(pen, style, d, x, d.between(30, 56))
    if style.snow:
        for _ in range(60):
            x, y, r = d.between(-64, 64), d.between(-64, 64), d.between(0.6, 1.4)
            pen.fill((255, 255, 255), oval(x, y, r, r, 8), alpha=0.85)
    return image


def _ridge(d: Draws, y: float) -> list[Point]:
    """A line of hills across the picture, around the height `y`."""
    return spline([(x, y + d.between(-9, 9)) for x in range(-80, 81, 20)], n=8)


def _sky(pen: Pen, style: SeasonStyle, d: Draws) -> None:
    x, y, r = d.between(-46, 46), d.between(-52, -34), d.between(6, 9)
    pen.fill((255, 246, 200), oval(x, y, 1.8 * r, 1.8 * r), alpha=0.35, blur=3.0)
    pen.fill(mix((255, 240, 170), style.low, 0.6 if style.snow else 0.0), oval(x, y, r, r))
    for _ in range(1 + d.whole(3)):
        cx, cy = d.between(-56, 56), d.between(-56, -24)
        puffs = [
            oval(cx + d.between(-12, 12), cy + d.between(-2, 2), d.between(6, 11), d.between(3, 5))
            for _ in range(4)
        ]
        pen.fill(mix((255, 255, 255), style.top, 0.12), *puffs, alpha=0.8, blur=1.0)


def _tree(pen: Pen, style: SeasonStyle, d: Draws, x: float, y: float) -> None:
    """Draw a tree rooted at (x, y); nearer ones, lower in the picture, are larger."""
    tall = (14 + 0.45 * (y - 20)) * d.between(0.8, 1.2)
    lean = d.between(-2, 2)
    bark = mix((92, 66, 48), (60, 46, 40), d.next())
    top = (x + lean, y - tall)
    pen.fill((40, 44, 40), oval(x + 2, y, 0.35 * tall, 0.07 * tall, 16), alpha=0.2, blur=1.0)
    pen.fill(bark, stroke([(x, y), (x + lean / 2, y - tall / 2), top], 0.14 * tall, 1.2))
    for side in (-1, 1):
        for share in (0.45, 0.65, 0.85):
            root = (x + lean * share, y - tall * share)
            end = (root[0] + side * tall * (0.5 - 0.3 * share), root[1] - 0.3 * tall)
            pen.fill(bark, stroke([root, end], 0.05 * tall, 0.6))
            if style.snow:
                shifted = [(root[0], root[1] - 0.8), (end[0], end[1] - 0.8)]
                pen.fill((250, 252, 255), stroke(shifted, 0.8, 0.5), alpha=0.9)
    if not style.leaves:
        return
    for _ in range(9):
        cx, cy = top[0] + tall * d.between(-0.4, 0.4), top[1] + tall * d.between(-0.15, 0.45)
        r = tall * d.between(0.16, 0.26)
        pen.fill(d.pick(style.leaves), oval(cx, cy, r, 0.85 * r, 18), alpha=0.92)


def draw(out: Path, seasons: tuple[str, ...] = ("summer", "winter"), count: int = 300) -> int:
    """Write `count` pictures of each season to `out`/<season>/; returns their number.

    Raises ValueError for an unknown season, or if `out` is not a new or empty folder. It appears
    whole or not at all.
    """
    check_free(out)
    if unknown := [name for name in seasons if name not in SEASONS]:
        raise ValueError(f"unknown season {', '.join(unknown)}; known: {', '.join(SEASONS)}")
    with whole_folder(out) as new:
        for season in seasons:
            (new / season).mkdir()
            for number in range(count):
                landscape(season, number).save(new / season / f"{number:04d}.png")
    return len(seasons) * count

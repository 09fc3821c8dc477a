"""Draw the moving parts of a face: eyes, brows, nose and mouth.

Action units are given as shares of their full intensity (0…1).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from training.data.synthetic.pen import Colour, Pen, Point, bulge, flip, mix, oval, spline, stroke
from training.data.synthetic.people import Face

IRIS: tuple[Colour, ...] = ((92, 60, 38), (84, 124, 168), (92, 130, 86), (58, 42, 34))
INK: Colour = (42, 28, 26)
WHITE: Colour = (255, 255, 255)


@dataclass(frozen=True)
class Shape:
    """Shared by all parts of a face: half width and chin (face units), colours, action units."""

    half: float
    chin: float
    skin: Colour
    dark: Colour
    units: Mapping[int, float]


def eye_at(face: Face) -> tuple[float, float, float]:
    """Centre (right side) and half width of the eye."""
    who = face.person
    return 19.2 + 1.1 * who.eye_distance, -6.5, 10.4 + 0.7 * who.eyes + (0.8 if who.child else 0)


def _lids(face: Face, u: Mapping[int, float]) -> tuple[list[Point], list[Point]]:
    """Upper and lower lid of the right eye, from the inner to the outer corner."""
    x, y, wide = eye_at(face)
    opening = face.opening
    up = (6.3 + 0.6 * face.person.eyes + 0.7 * face.person.child) * opening
    up -= 2.6 * max(0.0, 1 - 2 * opening)
    low = 3.5 - 1.5 * u[6] - 1.0 * u[7] + 0.5 * u[5]
    low = max(low, 0.5 - up)
    sag = 0.0 if face.young else 0.5
    inner, outer = (x - wide, y + 1.4), (x + wide, y - 0.8 + sag)
    upper = spline(
        [inner, (x - wide * 0.5, y - up * 0.82), (x + wide * 0.08, y - up),
         (x + wide * 0.62, y - up * 0.62 + sag * 0.6), outer]
    )  # fmt: skip
    lower = spline([inner, (x - wide * 0.35, y + low * 0.85), (x + wide * 0.35, y + low), outer])
    return upper, lower


def eye(pen: Pen, face: Face, shape: Shape, side: int) -> None:
    """Socket, white, iris, lids and lashes of one eye."""
    who, u = face.person, shape.units
    x, y, wide = eye_at(face)
    upper, lower = _lids(face, u)
    upper, lower = flip(upper, side), flip(lower, side)
    socket = oval(side * x, y - 4, wide + 2, 7.5)
    pen.fill(shape.dark, socket, alpha=0.24, blur=3, clip=pen.skin)
    if face.makeup:
        lid = upper + [(px, py - 5.2) for px, py in reversed(upper)]
        pen.fill((124, 70, 120), lid, alpha=0.65, blur=1.2, clip=pen.skin)
    almond = upper + lower[::-1]
    inside = pen.mask(almond)
    pen.fill((248, 246, 243), almond)
    iris = IRIS[who.iris]
    radius = 5.3 + 0.5 * who.child
    cx, cy = side * x + 4.4 * face.gaze, y - 0.9
    pen.fill(mix(iris, (0, 0, 0), 0.45), oval(cx, cy, radius, radius), clip=inside)
    pen.fill(iris, oval(cx, cy, radius - 0.8, radius - 0.8), clip=inside)
    pen.fill(mix(iris, WHITE, 0.35), oval(cx, cy + 2, 3, 2), alpha=0.7, blur=0.8, clip=inside)
    pen.fill((14, 10, 12), oval(cx, cy, 2.4, 2.4, 18), clip=inside)
    pen.fill(
        INK, [(px, py + 1.4) for px, py in upper] + upper[::-1], alpha=0.35, blur=0.8, clip=inside
    )
    pen.fill(WHITE, oval(cx + 1.8, cy - 2, 1.25, 1.25, 14), clip=inside)
    lash = upper
    if not who.male:
        ex, ey = upper[-1]
        lash = [*upper, (ex + side * 3.4, ey - 3.0)]
        pen.fill(INK, stroke(lash, 1.1, 3.0, 3.8, 3.4, 0.6))
    else:
        pen.fill(INK, stroke(lash, 0.7, 1.2, 1.3, 0.8))
    pen.fill(shape.dark, stroke(lower, 0.4, 1.0, 0.8), alpha=0.8)
    fold = 3.0
    crease = [(px, py - fold) for px, py in upper[2:]]
    pen.fill(shape.dark, stroke(crease, 0.3, 1.2, 0.5), alpha=0.75, blur=0.3, clip=pen.skin)


def brow(pen: Pen, face: Face, shape: Shape, side: int, colour: Colour) -> None:
    """One eyebrow: units 1 and 2 raise its inner and outer end, 4 lowers and knits it."""
    who, u = face.person, shape.units
    x, y, _ = eye_at(face)
    y += -14.6 if who.male else -16.2
    arch = 1.3 * who.arch + (0.0 if who.male else 1.0)
    mid = -4.2 * u[1] - 6.6 * u[2] + 6.4 * u[4] + 1.6 * u[9]
    points = [
        (x - 12.5 - 2.6 * u[4], y + 1.0 - 7.6 * u[1] + 9.2 * u[4] + 2.6 * u[9] - 1.2 * u[2]),
        (x - 3, y + mid - 0.4),
        (x + 5.5, y - arch - 1.2 - 1.2 * u[1] - 9.4 * u[2] + 2.8 * u[4]),
        (x + 13, y + 2.8 + 0.8 * u[1] - 7.6 * u[2] - 0.6 * u[4]),
    ]
    line = flip(spline(points), side)
    thick = (5.4 + 1.1 * who.brows if who.male else 2.8 + 0.4 * who.brows) - 0.5 * who.child
    tone = mix(colour, (38, 26, 22), 0.6)
    if not face.young:
        tone = mix(tone, (150, 146, 144), 0.4)
    pen.fill(tone, stroke(line, thick * 0.7, thick, thick * 0.75, 0.5), alpha=0.92, blur=0.4)


def _snout(x: float, y: float) -> float:
    """Relief of the nose: it protrudes, so it moves more when the head turns."""
    height = max(0.0, min(1.0, (y + 10) / 30))
    return bulge(x, y) + 11 * height * max(0.0, 1 - abs(x) / 15)


def nose(pen: Pen, face: Face, shape: Shape) -> None:
    """Bridge, tip, wings and nostrils; unit 9 lifts and widens the wings."""
    who, u, dark = face.person, shape.units, shape.dark
    pen.relief = _snout
    wide = (
        7.8 + 1.3 * who.nose + (1.3 if who.male else 0) - 0.8 * who.child + 1.6 * u[9] + 0.8 * u[12]
    )
    tip = 20.5 + 1.6 * who.long_nose - 2.4 * u[9] - 2.5 * who.child
    wing = tip - 3.2 * u[9]
    shadow = -1 if face.light > 0 else 1
    side = spline(
        [
            (shadow * 4.5, -12),
            (shadow * 3.6, 0),
            (shadow * wide * 0.75, tip - 6),
            (shadow * wide, tip),
        ]
    )
    pen.fill(
        dark,
        [*side, (shadow * 1.5, tip - 4), (shadow * 1.5, -8)],
        alpha=0.42,
        blur=2,
        clip=pen.skin,
    )
    pen.fill(
        mix(shape.skin, WHITE, 0.5),
        stroke([(0, -8), (0, 4), (0, tip - 5)], 1.5, 3, 4),
        alpha=0.5,
        blur=1.5,
    )
    pen.fill(mix(shape.skin, WHITE, 0.5), oval(0, tip - 3.5, 3, 2.6, 16), alpha=0.5, blur=1.2)
    pen.fill(dark, oval(0, tip + 3.4, wide * 0.8, 2.4), alpha=0.4, blur=1.5, clip=pen.skin)
    under = spline(
        [
            (-wide * 0.62, wing + 1.6),
            (-2.2, tip + 2.2),
            (0, tip + 3),
            (2.2, tip + 2.2),
            (wide * 0.62, wing + 1.6),
        ]
    )
    pen.fill(dark, stroke(under, 0.5, 1.2, 0.5), alpha=0.85, blur=0.3)
    for s in (-1, 1):
        curve = spline(
            [(wide * 0.8, wing - 5.4), (wide + 0.5, wing - 1.6), (wide * 0.72, wing + 1.7)]
        )
        pen.fill(dark, stroke(flip(curve, s), 0.4, 1.5, 1.0), alpha=0.9, blur=0.3)
        pen.fill(
            mix(dark, (30, 8, 8), 0.6),
            oval(s * 3.6, (wing + tip) / 2 + 1.1, 2.0, 1.15, 16),
            alpha=0.85,
        )
    pen.relief = bulge


def mouth(pen: Pen, face: Face, shape: Shape) -> None:
    """Lips, teeth and the opening between them."""
    who, u = face.person, shape.units
    my = 36.6 + 0.8 * who.height + (1.0 if who.male else 0) - 2.0 * who.child
    wide = (
        16.8 + 1.0 * who.lips + 6.8 * u[12] + 5.5 * u[20] - 4.6 * u[23] - 4.0 * u[26] - 1.5 * u[17]
    )
    wide -= 1.5 * who.child
    corner = -7.6 * u[12] + 7.6 * u[15] + 1.2 * u[20]
    corners = {s: corner - (8.0 * u[14] if s == who.side else 0.0) for s in (-1, 1)}
    widths = {s: wide + (2.6 * u[14] if s == who.side else 0.0) for s in (-1, 1)}
    gap = 7.4 * u[25] + 14.0 * u[26]
    lift, push = 4.0 * u[10], 2.6 * u[17]
    full = (1 - 0.62 * u[23]) * (1 + 0.16 * who.lips)
    upper = (2.4 if who.male else 4.3) * full
    lower = (3.8 if who.male else 6.2) * full
    square = max(u[20], 0.7 * u[10])

    def line(centre: float, thick: float, bow: float = 0.0) -> list[Point]:
        """A line from corner to corner, `centre` below its middle, `thick` nearly throughout."""
        points = []
        for k in range(-8, 9):
            f = abs(k) / 8
            s = 1 if k > 0 else -1
            ease = 1 - f * f * (1 - square) - f * f * f * f * square
            y = my + corners[s] * f * f + centre * ease + thick * (1 - f * f * f * f)
            y += bow * max(0.0, 1 - 4 * f)
            points.append((s * f * widths[s], y))
        return points

    top, low = -0.32 * gap - lift - push, 0.68 * gap - 0.6 * lift - push
    lip = mix(shape.skin, (190, 40, 62), 0.9 if face.lipstick else 0.6 if not who.male else 0.32)
    for s in (-1, 1):  # the corners' small shadows
        pen.fill(
            shape.dark,
            oval(s * (widths[s] + 1), my + corners[s], 2.2, 2.2, 12),
            alpha=0.55,
            blur=1,
            clip=pen.skin,
        )
    pen.fill(
        shape.dark, oval(0, my + low + lower + 4.6, 9, 2.4), alpha=0.4, blur=1.8, clip=pen.skin
    )
    inner_top, inner_low = line(top, 0.3), line(low, 0.3)
    pen.fill(lip, inner_low + line(low, lower)[::-1])
    pen.fill(
        mix(lip, WHITE, 0.5),
        oval(0, my + low + lower * 0.55, wide * 0.38, lower * 0.22),
        alpha=0.5,
        blur=0.9,
    )
    pen.fill(mix(lip, (90, 16, 30), 0.24), line(top, -upper, 0.9) + inner_top[::-1])
    if gap > 1.0:
        hole = inner_top + inner_low[::-1]
        inside = pen.mask(hole)
        pen.fill((84, 22, 28), hole)
        pen.fill(
            (206, 96, 100),
            oval(0, my + low + 1.5, wide * 0.5, gap * 0.26),
            alpha=0.85,
            blur=0.8,
            clip=inside,
        )
        teeth = min(0.62 * gap, 6.0) if u[26] > 0.4 else min(0.86 * gap, 6.6)
        edge = [(x * 0.94, y + teeth) for x, y in inner_top]
        pen.fill((248, 245, 239), inner_top + edge[::-1], clip=inside)
        pen.fill((84, 22, 28), stroke(inner_top, 1.6), alpha=0.4, blur=0.6, clip=inside)
    else:
        pen.fill(mix(lip, (60, 4, 16), 0.66), stroke(line((top + low) / 2, 0.3), 0.7, 1.5, 0.7))

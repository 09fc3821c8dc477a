"""Draw hair: locks between two curves, with strands along them or across."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from training.data.synthetic.pen import (
    Colour,
    Pen,
    Point,
    Shape,
    between,
    bulge,
    flip,
    level,
    mix,
    oval,
    sine,
    spline,
    stroke,
)
from training.data.synthetic.people import Draws, Face

HAIR_COLOURS: dict[str, Colour] = {
    "Black_Hair": (34, 30, 32),
    "Blond_Hair": (224, 186, 112),
    "Brown_Hair": (116, 72, 42),
    "Gray_Hair": (172, 172, 174),
}
BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)
GREY: Colour = (190, 190, 192)


@dataclass(frozen=True)
class Lock:
    """A surface of hair between curves `a` and `b` of equal length; `across`: strands a → b."""

    a: list[Point]
    b: list[Point]
    across: bool = False

    @property
    def outline(self) -> list[Point]:
        return self.a + self.b[::-1]

    def strand(self, d: Draws) -> list[Point]:
        """A random strand within the lock."""
        if not self.across:
            line = between(self.a, self.b, d.between(0.03, 0.97))
            start = d.whole(len(line) // 2)
            return line[start : start + d.whole(len(line)) + 4]
        last = len(self.a) - 1
        i = d.whole(last + 1)
        j = min(last, max(0, i + d.whole(5) - 2))
        low, high = d.between(0, 0.35), d.between(0.6, 1)
        (ax, ay), (bx, by) = self.a[i], self.b[j]
        lean = d.between(-2, 2)
        return [
            (ax + (bx - ax) * t + lean * t * (1 - t), ay + (by - ay) * t)
            for t in (low, (low + high) / 2, high)
        ]


def colours(face: Face) -> tuple[Colour, Colour, Colour]:
    """Base, shadow and highlight colours of the face's hair."""
    r, g, b = HAIR_COLOURS[face.hair]
    jr, jg, jb = face.tone
    base = (r + jr, g + jg, b + jb)
    if not face.young:
        base = mix(base, GREY, 0.1)
    r, g, b = base
    shadow = (r * 170 // 256, g * 156 // 256, b * 142 // 256)
    return base, shadow, mix(base, WHITE, 0.26)


def waved(line: Shape, size: float, waves: float, phase: float) -> list[Point]:
    """`line` with horizontal waves that grow towards its end."""
    last = max(1, len(line) - 1)
    return [
        (x + size * min(1.0, 2 * i / last) * sine(phase + waves * i / last), y)
        for i, (x, y) in enumerate(line)
    ]


def behind(pen: Pen, face: Face, half: float) -> None:
    """Draw the hair behind neck and ears; `half` is half the face's width."""
    base, dark, _ = colours(face)
    who = face.person
    pen.relief = level
    if face.short:
        pen.fill(dark, spline(_skull(half + 2, 76, -8)))
        pen.relief = bulge
        return
    if face.style == "updo":
        pen.fill(dark, spline(_skull(half + 2, 80, -8)))
        pen.fill(dark, oval(0, -88, 21, 17))
        pen.fill(base, oval(0, -90, 19, 14))
        d = Draws("bun", face.strands)
        lines = [
            stroke(spline([(-17, -88 + k), (0, -98 + k * 1.4), (17, -88 + k)], n=4), 0.3, 1.2, 0.3)
            for k in (d.between(0, 2), d.between(4, 6), d.between(8, 11))
        ]
        pen.fill(mix(base, BLACK, 0.2), *lines, alpha=0.6)
        pen.relief = bulge
        return
    length = {"long": 104, "wavy": 92, "bob": 44}[face.style] + 4 * who.height
    wide = half + (15 if face.style == "wavy" else 11)
    flare = wide + (6 if face.style != "bob" else 2)
    sway = 3.2 if face.style == "wavy" else 0.8
    left = spline(
        [(-6, -82), (-wide * 0.66, -64), (-wide, -30), (-wide - 1, 12), (-flare, length * 0.7),
         (-flare + 5, length)]
    )  # fmt: skip
    left = waved(left, sway, 2.4, 0.1)
    right = [(-x, y) for x, y in left]
    pen.fill(dark, [*left, (0, length + 5), *right[::-1]])
    lock = Lock(left, right)
    d = Draws("behind", face.strands)
    _strands(pen, [lock], d, 26, base, None, 0.55)
    pen.relief = bulge


def _skull(wide: float, high: float, low: float) -> list[Point]:
    return [
        (-wide + 9, low), (-wide, -24), (-wide * 0.82, -56), (-wide * 0.4, -high + 4), (0, -high),
        (wide * 0.4, -high + 4), (wide * 0.82, -56), (wide, -24), (wide - 9, low),
    ]  # fmt: skip


def front(pen: Pen, face: Face, half: float) -> None:
    """Draw the hair in front of the face: its locks, shadow, strands and highlight."""
    base, dark, shine = colours(face)
    d = Draws("front", face.strands)
    locks, tips = (_short if face.short else _long)(face, half, d)
    shapes = [lock.outline for lock in locks] + tips
    mask = pen.mask(*shapes)
    # a soft shadow of the hair on the forehead
    shadow = [[(x, y + 2.5) for x, y in s] for s in shapes]
    pen.fill((60, 30, 20), *shadow, alpha=0.3, blur=2.0, clip=pen.skin)
    pen.fill(base, *shapes)
    low = [lock.b[len(lock.b) // 3 :] for lock in locks if not lock.across]
    pen.fill(dark, *[stroke(line, 2, 9) for line in low], alpha=0.6, blur=2.5, clip=mask)
    _strands(pen, locks, d, 30, dark, mask, 0.6)
    glow = spline(
        [(-half * 0.9, -46), (-half * 0.5, -66), (0, -72), (half * 0.5, -66), (half * 0.9, -46)]
    )
    pen.fill(shine, stroke(glow, 2, 9, 10, 9, 2), alpha=0.55, blur=3.2, clip=mask)
    _strands(pen, locks, d, 22, shine, mask, 0.55)
    if not face.young and face.hair != "Gray_Hair":
        _temples(pen, half, mask, d, 0.85 if face.short else 0.6)


def _temples(pen: Pen, half: float, mask: Image.Image, d: Draws, alpha: float) -> None:
    """Draw grey temples, the clearest sign of age; `alpha` is the patch's below its strands."""
    for side in (-1, 1):
        patch = oval(side * (half + 2), -24, 11, 25)
        pen.fill((176, 182, 194), patch, alpha=alpha, blur=3, clip=mask)
        lines = []
        for _ in range(30):
            x, y, size = half + d.between(-10, 10), d.between(-46, -24), d.between(14, 30)
            line = [(x * 0.93, y), (x * 0.99, y + size * 0.4), (x * 1.01, y + size)]
            lines.append(stroke(flip(line, side), 0.3, 1.2, 0.3))
        pen.fill((208, 213, 222), *lines, alpha=0.75, clip=mask)


def _strands(
    pen: Pen,
    locks: Sequence[Lock],
    d: Draws,
    count: int,
    colour: Colour,
    mask: Image.Image | None,
    alpha: float,
) -> None:
    fine = pen.scale > 2  # a large picture shows more and thinner strands
    lines = []
    for i in range(count * 2 if fine else count):
        line = locks[i % len(locks)].strand(d)
        if len(line) > 2:
            lines.append(stroke(line, 0.2, d.between(0.5, 1.1 if fine else 1.6), 0.2))
    pen.fill(colour, *lines, alpha=alpha, clip=mask)


def _fringe(
    left: list[Point], right: list[Point], pieces: int, d: Draws
) -> tuple[list[Lock], list[Shape]]:
    """A fringe of overlapping pieces, each with its own tip."""
    locks: list[Lock] = []
    tips: list[Shape] = []
    for i in range(pieces):
        a, b = between(left, right, i / pieces), between(left, right, (i + 1) / pieces)
        locks.append(Lock(a, b))
        (ax, ay), (bx, by) = a[-1], b[-1]
        lean, drop = d.between(0.3, 0.7), d.between(1.5, 5)
        tip = (ax + (bx - ax) * lean, (ay + by) / 2 + drop)
        tips.append([a[-3], *spline([a[-1], tip, b[-1]], n=4), b[-3]])
    return locks, tips


def _crown(x: float) -> Point:
    """The top of the hair, as a parabola."""
    return x, -84 + x * x * 0.0105


def _long(face: Face, half: float, d: Draws) -> tuple[list[Lock], list[Shape]]:
    part = face.person.parting * 13.0
    locks: list[Lock] = []
    tips: list[Shape] = []
    for side in (-1, 1):
        p = part * side
        top = [_crown(p), _crown((p + 34) / 2), _crown(34)]
        inner = [(p, -76), (p + 3, -54), (half * 0.6, -43), (half * 0.88, -20)]
        if face.style == "updo":
            inner = [*inner[:3], (half * 0.9, -20), (half - 1, -2)]
            outer = [*top, (half + 4, -34), (half + 1, 2)]
        else:
            end, curl = {"long": (80, 0), "wavy": (76, 0), "bob": (44, 8)}[face.style]
            inner += [(half - 1, 10), (half + 1 - curl * 0.4, 34), (half + 5 - curl, end)]
            low = [(half + 12, 34), (half + 8 - curl, end + 4)]
            outer = [*top, (half + 8, -40), (half + 12, -2), *low]
        a, b = spline(outer), spline(inner)
        if face.style == "wavy":
            phase = d.next()
            a, b = waved(a, 2.6, 2.2, phase), waved(b, 2.6, 2.2, phase)
        locks.append(Lock(flip(a, side), flip(b, side)))
    if face.fringe:
        left = [(part - 4, -78), (-half * 0.55, -62), (-half * 0.86, -44), (-half * 0.9, -29)]
        right = [(part + 4, -78), (half * 0.55, -62), (half * 0.86, -44), (half * 0.9, -29)]
        more, tips = _fringe(spline(left), spline(right), 8, d)
        locks += more
    return locks, tips


def _short(face: Face, half: float, d: Draws) -> tuple[list[Lock], list[Shape]]:
    style, side = face.style, 1 if face.person.parting >= 0 else -1
    back = 4.0 if face.receding else 0.0  # how far the hairline recedes at the temples
    tips: list[Shape] = []
    high = {"crop": 77.0, "side": 83.0, "curly": 84.0, "back": 83.0, "fringe": 80.0}[style]
    line = {"crop": -47.0, "side": -48.0, "curly": -46.0, "back": -52.0, "fringe": -50.0}[style]
    # from the left sideburn over the crown to the right one
    outer = [
        (-half + 1, 6), (-half - 2, -8), (-half - 4, -26), (-half * 0.9, -56),
        (-half * 0.45, -high + 4), (0, -high), (half * 0.45, -high + 4), (half * 0.9, -56),
        (half + 4, -26), (half + 2, -8), (half - 1, 6),
    ]  # fmt: skip
    inner = [
        (-half + 2, 6), (-half + 3.5, -8), (-half + 3, -20), (-half * 0.84, -38 - back * 0.5),
        (-half * 0.5, line - 2 - back), (0, line - back * 0.5), (half * 0.5, line - 2 - back),
        (half * 0.84, -38 - back * 0.5), (half - 3, -20), (half - 3.5, -8), (half - 2, 6),
    ]  # fmt: skip
    a, b = spline(outer), spline(inner)
    if style == "side":  # a wave swept over from the parting
        locks = [Lock(a, b, across=True)]
        sweep = [(-half * 0.62, -58), (-half * 0.2, -85), (half * 0.5, -83), (half * 0.95, -58)]
        under = [(-half * 0.62, -52), (-half * 0.1, -50), (half * 0.5, -43), (half * 0.93, -42)]
        top = Lock(
            spline([(side * x, y) for x, y in sweep]), spline([(side * x, y) for x, y in under])
        )
        return [*locks, top], tips
    if style == "curly":
        for i in range(0, len(a), 2):
            (x, y), (u, v) = a[i], b[i]
            if y < -14:
                tips.append(oval(x, y, d.between(6, 8.5), d.between(6, 8), 14))
            if v < -34:
                tips.append(oval(u, v - 2, d.between(4.5, 6.5), d.between(4, 6), 12))
        return [Lock(a, b, across=True)], tips
    locks = [Lock(a, b, across=True)]
    if style == "fringe":
        left = spline([(-6, -78), (-half * 0.5, -62), (-half * 0.8, -44), (-half * 0.84, -33)])
        right = spline([(6, -78), (half * 0.5, -62), (half * 0.8, -44), (half * 0.84, -33)])
        more, tips = _fringe(left, right, 6, d)
        locks += more
    return locks, tips

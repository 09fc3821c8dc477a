"""Draw wrinkles, beard and glasses."""

from PIL import ImageChops

from training.data.synthetic.features import WHITE, Shape, eye_at
from training.data.synthetic.pen import Colour, Pen, Point, flip, mix, oval, ring, spline, stroke
from training.data.synthetic.people import Draws, Face

Line = tuple[float, list[Point], float]  # depth 0…1, points, width


def wrinkles(pen: Pen, face: Face, shape: Shape) -> None:
    """Draw lines of age and of expression; the latter are finer, so that age stays visible."""
    u = shape.units
    lines = _middle_lines(face, shape)
    for side in (-1, 1):
        lines += [(deep, flip(line, side), w) for deep, line, w in _side_lines(face, shape)]
    dimple = spline([(25, 22), (27.5, 29), (25.5, 36)])
    lines.append((u[14], flip(dimple, face.person.side), 2.2))
    deep = [stroke(line, 0.4, w, 0.4) for depth, line, w in lines if depth > 0.75]
    fine = [stroke(line, 0.4, w, 0.4) for depth, line, w in lines if 0.35 < depth <= 0.75]
    pen.fill(shape.dark, *deep, alpha=0.85, blur=0.5, clip=pen.skin)
    pen.fill(shape.dark, *fine, alpha=0.3, blur=0.6, clip=pen.skin)


def _middle_lines(face: Face, shape: Shape) -> list[Line]:
    """Lines on the forehead, the nose and the chin and between the brows."""
    u, age, chin = shape.units, 0.0 if face.young else 0.7, shape.chin
    lines: list[Line] = []
    for k, half in ((0, 20), (1, 23), (2, 18)):
        y = -34 - 6.4 * k - 2 * u[1]
        course = spline([(-half, y), (-half * 0.4, y - 2), (half * 0.4, y - 2), (half, y)])
        lines.append((max(age, 0.35 * (u[1] + u[2])), course, 1.7))
    lines += [
        (0.75 * u[9], spline([(-5, y), (0, y - 1.5), (5, y)]), 1.5) for y in (-9.0, -5.6, -2.2)
    ]
    lines += [(u[4], flip([(3.2, -25), (2.4, -20), (2.8, -15)], side), 1.8) for side in (-1, 1)]
    ball = spline([(-8, chin - 8), (0, chin - 11), (8, chin - 8)])
    lines.append((0.7 * u[17], ball, 1.8))
    return lines


def _side_lines(face: Face, shape: Shape) -> list[Line]:
    """Lines of the right half: beside nose and mouth, below and beside the eye, at the jaw."""
    u, age, x = shape.units, 0.0 if face.young else 0.7, eye_at(face)[0]
    out = 4.5 * u[12] + 3 * u[20]
    fold = spline([(10.5, 19 - 3 * u[9]), (17 + out, 26), (20.5 + out, 36 - 3 * u[12])])
    bag = spline([(x - 9, 1.5), (x - 1, 5.0), (x + 8, 2.5)])
    lines: list[Line] = [
        (0.7 * max(u[9], u[10]), spline([(7, -3), (11, 6), (12.5, 15)]), 1.6),
        (max(age, 0.75 * u[12], 0.75 * u[10]), fold, 2.0),
        (max(age, 0.6 * u[6], 0.6 * u[7]), bag, 1.6),
        (0.6 * age, spline([(21, 42), (22.5, 47), (21, 52)]), 1.8),
    ]
    for start, end in ((-3.5, -7.5), (-0.5, -0.5), (2.5, 6.0)):
        feet = [(x + 12.6, start - 6), (x + 16, (start + end) / 2 - 6), (x + 19.5, end - 6)]
        lines.append((max(age, 0.55 * u[6]), feet, 1.2))
    return lines


def beard(pen: Pen, face: Face, shape: Shape, colour: Colour) -> None:
    """Draw stubble, a full beard, goatee or moustache."""
    kind, half, chin, u = face.beard, shape.half, shape.chin, shape.units
    if kind == "none" or pen.skin is None:
        return
    tone = mix(colour, (46, 34, 30), 0.55)
    if not face.young:
        tone = mix(tone, (176, 174, 172), 0.4)
    wide, lip = 18 + 5 * u[12] + 3 * u[20], 33 - 3.5 * u[10]
    end = 39.5 - 5 * u[12]
    tash = spline(
        [(-wide - 3, end), (-wide * 0.6, lip - 3.2), (0, lip - 3.5), (wide * 0.6, lip - 3.2),
         (wide + 3, end), (wide * 0.6, lip + 2.6), (0, lip + 1.5), (-wide * 0.6, lip + 2.6)],
        closed=True,
    )  # fmt: skip
    jaw = spline(
        [(-half - 1, 2), (-half * 0.93, 20), (-wide - 8, 31), (-wide - 2, lip - 1), (0, lip - 3),
         (wide + 2, lip - 1), (wide + 8, 31), (half * 0.93, 20), (half + 1, 2), (half + 3, 30),
         (half * 0.8, chin), (0, chin + 14), (-half * 0.8, chin), (-half - 3, 30)],
        closed=True,
    )  # fmt: skip
    patch = oval(0, chin - 6, 12.5, 10.5)
    shapes = {"full": [jaw, tash], "goatee": [patch, tash], "mustache": [tash]}.get(kind, [jaw])
    if kind == "shadow":
        pen.fill(tone, *shapes, alpha=0.45, blur=2.6, clip=pen.skin)
        return
    pen.fill(tone, *shapes, alpha=0.88, blur=1.1, clip=pen.skin)
    d = Draws("beard", face.strands)
    mask = ImageChops.multiply(pen.mask(*shapes, blur=1.0), pen.skin)
    hairs = []
    for _ in range(46):
        x, y = d.between(-half, half), d.between(22, chin + 2)
        hairs.append(stroke([(x, y), (x * 1.03, y + 2.5), (x * 1.02, y + 5)], 0.2, 0.8, 0.2))
    pen.fill(mix(tone, (0, 0, 0), 0.4), *hairs, alpha=0.5, clip=mask)


def glasses(pen: Pen, face: Face, shape: Shape) -> None:
    x, y, _ = eye_at(face)
    tone: Colour = (46, 42, 46) if face.person.parting else (110, 70, 46)
    half = [
        (x - 12.5, y - 8), (x + 2, y - 9.5), (x + 14, y - 8), (x + 14, y + 4), (x + 6, y + 11),
        (x - 6, y + 10.5), (x - 13, y + 3),
    ]  # fmt: skip
    for side in (-1, 1):
        rim = spline(flip(half, side), closed=True)
        pen.fill(WHITE, rim, alpha=0.1)
        pen.fill(tone, ring(rim, 2.0))
        pen.fill(tone, stroke([(side * (x + 14), y - 5), (side * shape.half, y - 4)], 1.8))
    pen.fill(tone, stroke(spline([(-x + 12.5, y - 3), (0, y - 5.5), (x - 12.5, y - 3)]), 1.8))

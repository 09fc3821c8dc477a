"""A pen that draws smooth shapes in face units, with the same bytes on every machine.

One face unit is a pixel of an aligned CelebA picture; the origin lies between the cheeks, x to
the right, y down. Geometry uses only + − × ÷ and square roots in double precision, which IEEE 754
defines exactly, and sines come from a table of integers; every vertex is rounded to a whole
(supersampled) pixel before Pillow draws it, and Pillow fills, blurs and scales in integers.
"""

import math
from collections.abc import Callable, Sequence

from PIL import Image, ImageChops, ImageDraw, ImageFilter

Point = tuple[float, float]
Shape = Sequence[Point]
Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]

TURN = 1024  # entries of the sine table for a full turn
SINES = tuple(round(16384 * math.sin(2 * math.pi * i / TURN)) for i in range(TURN))


def sine(turns: float) -> float:
    """sin(2π·turns) from the table, in steps of 1/1024 turn."""
    return SINES[round(turns * TURN) % TURN] / 16384


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Blend a share of `b` into `a`, in steps of 1/256."""
    k = round(share * 256)
    return (
        (a[0] * (256 - k) + b[0] * k) // 256,
        (a[1] * (256 - k) + b[1] * k) // 256,
        (a[2] * (256 - k) + b[2] * k) // 256,
    )


def spline(points: Shape, closed: bool = False, n: int = 6) -> list[Point]:
    """The Catmull-Rom curve through `points`, with n steps between neighbours."""
    count = len(points)
    if closed:
        loop = [points[-1], *points, points[0], points[1]]
    else:
        loop = [points[0], *points, points[-1]]
    out: list[Point] = []
    for i in range(count if closed else count - 1):
        (ax, ay), (bx, by), (cx, cy), (dx, dy) = loop[i : i + 4]
        for k in range(n):
            t = k / n
            u, v = t * t, t * t * t
            wa, wb, wc, wd = 2 * u - v - t, 2 - 5 * u + 3 * v, t + 4 * u - 3 * v, v - u
            out.append(
                (
                    (ax * wa + bx * wb + cx * wc + dx * wd) / 2,
                    (ay * wa + by * wb + cy * wc + dy * wd) / 2,
                )
            )
    return out if closed else [*out, points[-1]]


def mirrored(half: Shape) -> list[Point]:
    """`half` (from the top to the bottom, right side) and its mirror image, as one closed loop."""
    left = [(-x, y) for x, y in reversed(half) if x]
    return [*half, *left]


def flip(points: Shape, side: float) -> list[Point]:
    """`points` on the right (side 1) or mirrored to the left (side −1)."""
    return [(side * x, y) for x, y in points]


def oval(x: float, y: float, rx: float, ry: float, n: int = 28) -> list[Point]:
    return [(x + rx * sine(i / n + 0.25), y + ry * sine(i / n)) for i in range(n)]


def between(a: Shape, b: Shape, share: float) -> list[Point]:
    """The curve interpolated from `a` (share 0) to `b` (share 1), of equal numbers of points."""
    return [
        (ax + (bx - ax) * share, ay + (by - ay) * share)
        for (ax, ay), (bx, by) in zip(a, b, strict=True)
    ]


def stroke(line: Shape, *widths: float) -> list[Point]:
    """The outline of a brush stroke along `line`; `widths` are spread evenly from end to end."""
    last, bands = len(line) - 1, max(1, len(widths) - 1)
    there: list[Point] = []
    back: list[Point] = []
    for i, (x, y) in enumerate(line):
        (px, py), (qx, qy) = line[max(0, i - 1)], line[min(last, i + 1)]
        dx, dy = qx - px, qy - py
        length = math.sqrt(dx * dx + dy * dy) or 1.0
        at = i / last * bands
        k = min(int(at), len(widths) - 2) if len(widths) > 1 else 0
        width = widths[k] + (widths[min(k + 1, len(widths) - 1)] - widths[k]) * (at - k)
        nx, ny = -dy / length * width / 2, dx / length * width / 2
        there.append((x + nx, y + ny))
        back.append((x - nx, y - ny))
    return there + back[::-1]


def ring(shape: Shape, width: float) -> list[Point]:
    """A frame of `width` along a closed shape."""
    return stroke([*shape, shape[0], shape[1]], width)


def bulge(x: float, y: float) -> float:
    """The head's depth towards the viewer at (x, y); scales the movement when the head turns."""
    square = 1 - x * x / 2700
    if y < 0:
        square -= y * y / 6084
    return 38 * math.sqrt(square) if square > 0 else 0.0


def level(x: float, y: float) -> float:
    """No relief, for parts that do not turn with the head (neck, shoulders, hair behind)."""
    return 0.0


class Pen:
    """Draw on an RGB picture of `size` pixels.

    `scale` is pixels per face unit, `origin` the face's centre in pixels, `turn` the sine of the
    head's turn about the vertical axis, `tilt` that of its roll, `smooth` the supersampling.
    """

    def __init__(
        self,
        image: Image.Image,
        scale: float,
        origin: Point,
        turn: float = 0.0,
        tilt: float = 0.0,
        smooth: int = 3,
    ) -> None:
        self.image, self.scale, self.origin = image, scale, origin
        self.turn, self.smooth = turn, smooth
        self.sin, self.cos = tilt, math.sqrt(1 - tilt * tilt)
        self.relief: Callable[[float, float], float] = bulge
        self.skin: Image.Image | None = None  # coverage of the face's skin, for clipping

    def place(self, shape: Shape, factor: float) -> list[tuple[int, int]]:
        """Whole-pixel vertices in a picture `factor` times the size."""
        ox, oy = self.origin[0] * factor + 0.5, self.origin[1] * factor + 0.5
        cos, sin = self.cos * self.scale * factor, self.sin * self.scale * factor
        turn, relief, floor = self.turn, self.relief, math.floor
        out = []
        for x, y in shape:
            moved = x + turn * relief(x, y)
            out.append((floor(ox + moved * cos - y * sin), floor(oy + moved * sin + y * cos)))
        return out

    def stencil(
        self, shapes: Sequence[Shape], alpha: float, blur: float
    ) -> tuple[Box, Image.Image] | None:
        """Bounding box (pixels) and coverage (L) of the shapes; None outside the picture.

        `blur` is the radius in face units. Blurred stencils are drawn small and scaled up.
        """
        radius = blur * self.scale
        small = 1
        while radius / small >= 4:
            small *= 2
        fine = 1 if radius >= 2 else self.smooth
        placed = [self.place(s, fine / small) for s in shapes if len(s) > 2]
        xs = [x for p in placed for x, _ in p]
        ys = [y for p in placed for _, y in p]
        if not xs:
            return None
        pad = math.ceil(3 * radius / small)
        width, height = self.image.size
        x0 = max(0, min(xs) // fine - pad)
        y0 = max(0, min(ys) // fine - pad)
        x1 = min(-(-width // small), max(xs) // fine + 1 + pad)
        y1 = min(-(-height // small), max(ys) // fine + 1 + pad)
        if x0 >= x1 or y0 >= y1:
            return None
        mask = Image.new("L", ((x1 - x0) * fine, (y1 - y0) * fine))
        draw = ImageDraw.Draw(mask)
        for p in placed:
            draw.polygon([(x - x0 * fine, y - y0 * fine) for x, y in p], fill=round(alpha * 255))
        if fine > 1:
            mask = mask.reduce(fine)
        if radius:
            mask = mask.filter(ImageFilter.GaussianBlur(round(radius / small * 16) / 16))
        if small > 1:
            mask = mask.resize((mask.width * small, mask.height * small), Image.Resampling.BILINEAR)
        box = (x0 * small, y0 * small, min(x1 * small, width), min(y1 * small, height))
        return box, mask.crop((0, 0, box[2] - box[0], box[3] - box[1]))

    def mask(self, *shapes: Shape, alpha: float = 1.0, blur: float = 0.0) -> Image.Image:
        """Coverage of the whole picture by the shapes, for clipping."""
        full = Image.new("L", self.image.size)
        found = self.stencil(shapes, alpha, blur)
        if found:
            full.paste(found[1], found[0])
        return full

    def fill(
        self,
        colour: Colour,
        *shapes: Shape,
        alpha: float = 1.0,
        blur: float = 0.0,
        clip: Image.Image | None = None,
    ) -> None:
        """Paint the shapes, softened by `blur` (face units), within `clip`."""
        found = self.stencil(shapes, alpha, blur)
        if not found:
            return
        box, mask = found
        if clip is not None:
            mask = ImageChops.multiply(mask, clip.crop(box))
        self.image.paste(colour, box, mask)

"""Paint one face: backdrop, body, head, features and light, from the back to the front."""

import hashlib
from functools import cache

from PIL import Image, ImageChops

from training.data.synthetic import features, hair, marks
from training.data.synthetic.pen import (
    Colour,
    Pen,
    bulge,
    flip,
    level,
    mirrored,
    mix,
    oval,
    spline,
    stroke,
)
from training.data.synthetic.people import Draws, Face

SKIN: tuple[Colour, ...] = (
    (250, 224, 206),
    (240, 202, 172),
    (222, 176, 140),
    (184, 132, 96),
    (138, 94, 68),
)
CLOTHS: tuple[Colour, ...] = (
    (92, 108, 128), (138, 92, 92), (104, 122, 100), (196, 190, 180), (74, 78, 88),
    (150, 134, 112), (112, 96, 124), (168, 176, 186), (172, 136, 120), (70, 92, 96),
)  # fmt: skip
BACKDROPS: tuple[Colour, ...] = (
    (196, 200, 204), (178, 188, 196), (206, 200, 190), (188, 194, 182), (200, 190, 194),
    (164, 172, 180), (214, 212, 208), (176, 170, 164), (182, 196, 200), (150, 158, 160),
)  # fmt: skip
CELEBA = (178, 218)
RAFD = (681, 1024)
CELEBA_SCALE, RAFD_SCALE, RAFD_CENTRE = 1.1, 3.7, (340.0, 440.0)  # pixels per face unit


def celeba(face: Face) -> Image.Image:
    """A picture of 178×218 pixels, with eyes and mouth at CelebA's aligned positions."""
    d = Draws("backdrop", face.strands)
    image = _backdrop(CELEBA, d.pick(BACKDROPS), d.pick(BACKDROPS), d)
    pen = Pen(
        image,
        CELEBA_SCALE * face.zoom,
        (89 + face.shift[0], 116 + face.shift[1]),
        face.turn,
        face.tilt,
        smooth=4,
    )
    _paint(pen, face, CLOTHS[face.cloth % len(CLOTHS)])
    return _lit(image, face.light)


def rafd(face: Face) -> Image.Image:
    """A studio portrait of 681×1024 pixels, the face about 330 wide around (340, 440)."""
    image = _backdrop(RAFD, (226, 227, 228), (206, 208, 210), None)
    ox, oy = RAFD_CENTRE
    origin = (ox + face.shift[0] * RAFD_SCALE, oy + face.shift[1] * RAFD_SCALE)
    pen = Pen(image, RAFD_SCALE, origin, face.turn, face.tilt, smooth=2)
    _paint(pen, face, (58, 60, 64))
    return ImageChops.add(image, _grain(RAFD), offset=-1)


def _backdrop(size: tuple[int, int], top: Colour, bottom: Colour, d: Draws | None) -> Image.Image:
    """A muted gradient, with soft out-of-focus blobs if `d` is given."""
    rows = [mix(top, bottom, i / 15) for i in range(16)]
    small = Image.new("RGB", (1, 16))
    small.putdata(rows)
    small = small.resize((16, 16), Image.Resampling.NEAREST)
    if d is not None:
        pen = Pen(small, 1.0, (8.0, 8.0), smooth=4)
        pen.relief = level
        for _ in range(4):
            x, y, r = d.between(-9, 9), d.between(-9, 9), d.between(2, 5)
            shade = mix(d.pick(BACKDROPS), (70, 74, 80) if d.chance(0.5) else (240, 240, 236), 0.4)
            pen.fill(shade, oval(x, y, r, r, 12), alpha=0.5, blur=1.0)
    return small.resize(size, Image.Resampling.BICUBIC)


def _lit(image: Image.Image, light: float) -> Image.Image:
    """Light from one side, as a soft horizontal gradient."""
    ramp = Image.new("L", (9, 1))
    ramp.putdata([round(240 + 15 * light * (i - 4) / 4) for i in range(9)])
    shade = ramp.resize(image.size, Image.Resampling.BICUBIC)
    lit = ImageChops.multiply(image, Image.merge("RGB", (shade, shade, shade)))
    return ImageChops.add(lit, _grain(image.size), offset=-1)


@cache
def _grain(size: tuple[int, int]) -> Image.Image:
    """Noise of 0…2 levels against banding in soft gradients."""
    data = hashlib.shake_256(b"grain").digest(3 * size[0] * size[1])
    return Image.frombytes("RGB", size, data).point([v * 3 // 256 for v in range(256)] * 3)


def _paint(pen: Pen, face: Face, cloth: Colour) -> None:
    who, u = face.person, {k: v / 5 for k, v in face.units.items()}
    skin = SKIN[who.skin]
    if not face.young:
        skin = mix(skin, (196, 176, 164), 0.16)
    dark = mix(mix(skin, (96, 40, 24), 0.42), (40, 20, 20), 0.1)
    shape = features.Shape(
        half=44.4 + 2.4 * who.width + (0.8 if who.male else 0) + (1.5 if who.child else 0),
        chin=57 + 2.6 * who.height + 7.5 * u[26] + (1.2 if who.male else 0) - 5 * who.child,
        skin=skin,
        dark=dark,
        units=u,
    )
    hair.behind(pen, face, shape.half)
    _body(pen, face, shape, cloth)
    _head(pen, face, shape)
    features.nose(pen, face, shape)
    marks.wrinkles(pen, face, shape)
    marks.beard(pen, face, shape, hair.colours(face)[0])
    features.mouth(pen, face, shape)
    for side in (-1, 1):
        features.eye(pen, face, shape, side)
        features.brow(pen, face, shape, side, hair.colours(face)[0])
    hair.front(pen, face, shape.half)
    if face.glasses:
        marks.glasses(pen, face, shape)


def _body(pen: Pen, face: Face, shape: features.Shape, cloth: Colour) -> None:
    """Draw neck, shoulders and clothes; they do not turn with the head."""
    who, chin = face.person, shape.chin
    pen.relief = level
    wide = 22.5 if who.male else 20.5
    if who.child:
        wide = 17.0
    slope = 89.0 if who.male else 87.0
    neck = mirrored(
        [(0, 20), (wide, 20), (wide, chin + 2), (wide + 3, 72), (wide + 16, 84), (slope, 100),
         (slope, 180), (0, 180)]
    )  # fmt: skip
    mask = pen.mask(neck)
    pen.fill(mix(shape.skin, shape.dark, 0.18), neck)
    pen.fill(shape.dark, oval(0, chin - 6, wide + 8, 21), alpha=0.75, blur=4, clip=mask)
    for side in (-1, 1):  # the neck's round sides
        edge = flip(stroke([(wide, 40), (wide, chin), (wide + 3, 74)], 4), side)
        pen.fill(shape.dark, edge, alpha=0.5, blur=2.5, clip=mask)
    if face.necklace:
        pen.fill(
            (214, 180, 96), stroke(spline([(-21, 70), (-12, 80), (0, 84), (12, 80), (21, 70)]), 1.2)
        )
        pen.fill((240, 214, 150), oval(0, 85.5, 2.2, 2.4, 14))
    low, open_ = (81.0, wide + 6) if who.male else (87.0, wide + 10)
    half = [(0, low), (open_ * 0.5, low - 3), (open_, 74 if who.male else 76)]
    curve = spline(half)
    top = 73.0 if who.male else 75.0
    arm = [(open_ + 2, top), (slope * 0.72, 84), (slope + 6, 100), (slope + 14, 130)]
    garment = mirrored([*curve, *spline(arm), (slope + 16, 190), (0, 190)])
    pen.fill(cloth, garment)
    mask = pen.mask(garment)
    pen.fill(mix(cloth, (0, 0, 0), 0.35), oval(0, 74, 44, 18), alpha=0.45, blur=5, clip=mask)
    collar = [(-x, y) for x, y in reversed(curve)] + curve[1:]
    pen.fill(mix(cloth, (0, 0, 0), 0.22), stroke(collar, 2.6), alpha=0.9)
    for side in (-1, 1):
        fold = flip(spline([(46, 96), (40, 112), (42, 140)]), side)
        pen.fill(mix(cloth, (0, 0, 0), 0.4), stroke(fold, 1, 4, 2), alpha=0.4, blur=2, clip=mask)
    pen.relief = bulge


def _head(pen: Pen, face: Face, shape: features.Shape) -> None:
    """Draw the ears and the skin with its large soft shadows."""
    who, half, chin, old = face.person, shape.half, shape.chin, not face.young
    skin, dark, u = shape.skin, shape.dark, shape.units
    for side in (-1, 1):
        pen.fill(mix(skin, dark, 0.15), oval(side * (half + 1.5), 4, 5.6, 11.5))
        pen.fill(dark, oval(side * (half + 2.5), 4, 2.6, 7.0, 16), alpha=0.5, blur=0.8)
        if face.earrings:
            pen.fill((226, 192, 104), oval(side * (half + 2), 19, 2.4, 3.4, 16))
    corner = 0.82 + 0.045 * who.jaw + (0.015 if who.male else -0.015) - (0.05 if who.child else 0)
    point = 15 + 2.5 * who.jaw + (2.0 if who.male else 0)
    outline = spline(
        mirrored(
            [(0, -67), (21, -64), (half * 0.8, -47), (half * 0.985, -19), (half, 3),
             (half * 0.965, 22), (half * corner, 38 - 4 * who.child), (point, chin - 5),
             (point * 0.45, chin), (0, chin + 0.6)]
        ),
        closed=True,
    )  # fmt: skip
    pen.fill(skin, outline)
    pen.skin = pen.mask(outline)
    # the rim is darker, away from the light
    lx = 5 * face.light
    inner = [(x * 0.83 + lx, y * 0.87 - 2) for x, y in outline]
    rim = ImageChops.subtract(pen.skin, pen.mask(inner, blur=6.5))
    pen.fill(dark, outline, alpha=0.62, clip=rim)
    pen.fill(
        mix(skin, (255, 255, 246), 0.5), oval(lx, -36, 22, 11), alpha=0.5, blur=6, clip=pen.skin
    )
    rosy = 0.5 if face.makeup else 0.35 if not who.male or who.child else 0.08
    rosy = min(0.65, rosy + 0.25 * u[6])
    for side in (-1, 1):
        lift = 3 * u[6] + 2 * u[12]
        cheek = oval(side * 27, 17 - lift, 10.5, 7.2)
        pen.fill(mix(skin, (228, 84, 84), 0.7), cheek, alpha=rosy, blur=3.6, clip=pen.skin)
        shine = oval(side * 25, 9 - lift, 7, 3.6)
        pen.fill(mix(skin, (255, 250, 240), 0.4), shine, alpha=0.4, blur=2.6, clip=pen.skin)
        hollow = spline(
            [(side * half * 0.93, 14), (side * 33, 28), (side * 24, 40), (side * 34, 40)],
            closed=True,
        )
        pen.fill(dark, hollow, alpha=0.28 if who.male or old else 0.12, blur=4, clip=pen.skin)
    pen.fill(
        mix(skin, (255, 250, 240), 0.5), oval(0, chin - 8, 7, 4.5), alpha=0.4, blur=3, clip=pen.skin
    )

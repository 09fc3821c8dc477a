"""Drawn persons: identities, expressions as action units, and matching labels.

Only `random.Random.random()` is used: the only method whose sequence Python guarantees.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from training.data.labels import ATTRIBUTES, HAIR

T = TypeVar("T")

# The 17 OpenFace intensities, 0…5, in OpenFace's order.
UNITS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)
# FACS prototypes of RaFD's expressions: unit -> intensity.
EXPRESSIONS: dict[str, dict[int, float]] = {
    "angry": {4: 5, 5: 2.5, 7: 3.5, 23: 4.5, 17: 1, 9: 1},
    "contemptuous": {14: 5, 12: 0.8, 4: 0.6, 7: 1},
    "disgusted": {9: 5, 10: 4.5, 4: 2.5, 7: 3, 15: 1.5, 25: 1},
    "fearful": {1: 5, 2: 3, 4: 2.5, 5: 4.5, 20: 4.5, 25: 3.2, 26: 1},
    "happy": {6: 3.5, 12: 4.8, 25: 3.6},
    "neutral": {},
    "sad": {1: 4.8, 4: 2.5, 15: 4.8, 17: 3.2, 7: 1},
    "surprised": {1: 5, 2: 5, 5: 4.5, 25: 4, 26: 5},
}
ALONE = (1, 2, 4, 6, 12, 15, 25, 26)  # units that also move by themselves
SHORT = ("crop", "side", "curly", "back", "fringe")  # the other styles reach the ears or more
# Some women have short hair and some men long hair, so that a gender shows in the face.
WOMEN = ("long", "wavy", "bob", "updo", "bob", "side", "curly", "fringe")
MEN = ("crop", "side", "curly", "back", "fringe", "crop", "wavy", "bob")
BEARDS = ("none", "shadow", "shadow", "shadow", "full", "goatee", "mustache")


class Draws:
    """A stream of random numbers seeded by `key`; the same on every Python version and machine."""

    def __init__(self, *key: object) -> None:
        text = "/".join(map(str, key))
        self.next = random.Random(int(hashlib.sha256(text.encode()).hexdigest(), 16)).random

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.next()

    def chance(self, share: float) -> bool:
        return self.next() < share

    def whole(self, n: int) -> int:
        """One of 0…n−1."""
        return int(self.next() * n)

    def pick(self, items: Sequence[T]) -> T:
        return items[self.whole(len(items))]


@dataclass(frozen=True)
class Person:
    """The constant properties of one identity; geometry in −1…1."""

    male: bool
    child: bool
    skin: int  # index into SKIN, 0 the palest
    iris: int
    width: float
    height: float
    jaw: float
    eyes: float
    eye_distance: float
    nose: float
    long_nose: float
    lips: float
    brows: float  # thickness
    arch: float
    beard: str
    styles: tuple[str, str]  # a person's two hair styles
    bangs: bool
    parting: int  # −1, 0, 1: where the hair is parted
    side: int  # of one-sided expressions, −1 or 1


@dataclass(frozen=True)
class Face:
    """One picture: a person, its labels, its expression, and the camera and light."""

    person: Person
    hair: str
    young: bool
    units: dict[int, float] = field(hash=False)  # 0…5, two decimals
    style: str
    bangs: bool
    tone: tuple[int, int, int]  # jitter of the hair colour
    beard: str
    lipstick: bool
    makeup: bool
    glasses: bool
    earrings: bool
    necklace: bool
    gaze: float  # −1 left … 1 right, in the picture
    turn: float  # sine of the head's turn, > 0 towards the picture's right
    tilt: float
    shift: tuple[float, float]  # face units
    zoom: float
    light: float  # −1 from the left … 1 from the right
    cloth: int
    strands: int  # random key of the hair's strands

    @property
    def short(self) -> bool:
        """Whether the hair ends above the ears."""
        return self.style in SHORT

    @property
    def fringe(self) -> bool:
        """Whether hair covers the forehead."""
        if self.short:
            return self.style == "fringe"
        return self.bangs and self.style != "updo"

    @property
    def receding(self) -> bool:
        return self.person.male and not self.young and self.style in ("back", "crop")

    @property
    def opening(self) -> float:
        """How far the eyes are open, 1 at rest."""
        u = self.units
        shut = 0.085 * u[7] + 0.09 * u[6] + 0.06 * u[9]
        return max(0.0, (1 + 0.13 * u[5] - shut) * (1 - u[45] / 5))


# The fields of a person's geometry, in the order of their random draws.
SHAPE = (
    "width", "height", "jaw", "eyes", "eye_distance", "nose", "long_nose", "lips", "brows", "arch",
)  # fmt: skip


def person(draws: Draws, male: bool, child: bool = False, skins: Sequence[int] = ()) -> Person:
    """A new identity; `skins` limits the skin colours."""
    d = draws
    shape = {name: d.between(-1, 1) for name in SHAPE}
    looks = MEN if male else WOMEN
    first = d.pick(looks)
    return Person(
        male,
        child,
        d.pick(skins or (0, 1, 1, 2, 2, 3, 4)),
        d.whole(4),
        beard="none" if child or not male else d.pick(BEARDS),
        styles=(first, d.pick(looks)),
        bangs=d.chance(0.5),
        parting=d.whole(3) - 1,
        side=1 if d.chance(0.5) else -1,
        **shape,
    )


def expression(draws: Draws, name: str, least: float, most: float) -> dict[int, float]:
    """The named expression at a random strength of `least`…`most` of its prototype, in 0…5."""
    strength, base = draws.between(least, most), EXPRESSIONS[name]
    units = {}
    for unit in UNITS:
        value = base.get(unit, 0.0) * strength * draws.between(0.88, 1.12)
        value += draws.between(-0.25, 0.3) if unit != 45 else 0.0
        units[unit] = round(min(5.0, max(0.0, value)) * 100) / 100
    return units


def snapshot(draws: Draws, who: Person) -> Face:
    """A CelebA-like picture of `who`: hair, age and expression independent of the identity."""
    d = draws
    young = d.chance(0.6)
    hair = HAIR[d.whole(3)]
    if not young and d.chance(0.03):
        hair = "Gray_Hair"
    mood = d.next()
    name = (
        "happy"
        if mood < 0.42
        else "neutral"
        if mood < 0.7
        else d.pick(("angry", "contemptuous", "disgusted", "fearful", "sad", "surprised"))
    )
    units = expression(d, name, 0.45, 1.05)
    if name == "happy" and d.chance(0.3):  # a smile with closed lips
        units[25] = 0.0
    if name == "neutral" and d.chance(0.25):
        units[25] = round(d.between(1.6, 3) * 100) / 100
    if d.chance(0.5):  # otherwise a unit is hardly ever seen without those of its expression
        for _ in range(1 + d.whole(2)):
            units[d.pick(ALONE)] = round(d.between(2, 5) * 100) / 100
    return Face(
        who,
        hair,
        young,
        units,
        style=who.styles[0 if d.chance(0.7) else 1],
        bangs=who.bangs if d.chance(0.7) else not who.bangs,
        tone=_tone(d),
        beard=who.beard if d.chance(0.85) else "none",
        lipstick=not who.male and d.chance(0.95),
        makeup=not who.male and d.chance(0.85),
        glasses=d.chance(0.07),
        earrings=not who.male and d.chance(0.25),
        necklace=not who.male and d.chance(0.2),
        gaze=d.between(-0.5, 0.5),
        turn=d.between(-0.14, 0.14),
        tilt=d.between(-0.07, 0.07),
        shift=(d.between(-2, 2), d.between(-2, 2)),
        zoom=d.between(0.97, 1.04),
        light=d.between(-1, 1),
        cloth=d.whole(1 << 16),
        strands=d.whole(1 << 30),
    )


def portrait(
    draws: Draws, still: Draws, who: Person, hair: str, name: str, gaze: float, turn: float
) -> Face:
    """A RaFD-like studio picture; `still`, equal for all pictures of a subject, draws the hair."""
    d = draws
    return Face(
        who,
        hair,
        young=True,
        units=expression(d, name, 0.9, 1.08),
        style=who.styles[0],
        bangs=who.bangs,
        tone=_tone(still),
        beard="none" if who.beard in ("full", "goatee") else who.beard,
        lipstick=False,
        makeup=False,
        glasses=False,
        earrings=False,
        necklace=False,
        gaze=gaze,
        turn=turn,
        tilt=d.between(-0.015, 0.015),
        shift=(d.between(-1, 1), d.between(-1, 1)),
        zoom=1.0,
        light=0.0,
        cloth=0,
        strands=still.whole(1 << 30),
    )


def _tone(d: Draws) -> tuple[int, int, int]:
    base = d.whole(19) - 9
    return base + d.whole(9) - 4, base + d.whole(7) - 3, base + d.whole(9) - 4


def attributes(face: Face) -> dict[str, bool]:
    """CelebA's 40 attributes: True if the picture shows it.

    Always False, because never drawn or subjective: Attractive, Bald, Blurry, Double_Chin,
    High_Cheekbones, Wearing_Hat, Wearing_Necktie.
    """
    who, u = face.person, face.units
    hidden = not face.short and face.style != "updo"
    shown = {
        "5_o_Clock_Shadow": face.beard == "shadow",
        "Arched_Eyebrows": not who.male and who.arch > 0.2,
        "Bags_Under_Eyes": not face.young,
        "Bangs": face.fringe,
        "Big_Lips": who.lips > 0.6,
        "Big_Nose": who.nose > 0.6,
        face.hair: True,
        "Bushy_Eyebrows": who.male and who.brows > 0.4,
        "Chubby": who.width > 0.5 and who.jaw > 0.2,
        "Eyeglasses": face.glasses,
        "Goatee": face.beard == "goatee",
        "Heavy_Makeup": face.makeup,
        "Male": who.male,
        "Mouth_Slightly_Open": u[25] >= 1.5 or u[26] >= 1.5,
        "Mustache": face.beard in ("mustache", "full"),
        "Narrow_Eyes": face.opening < 0.72,
        "No_Beard": face.beard == "none",
        "Oval_Face": who.height > 0.2 and who.jaw < 0,
        "Pale_Skin": who.skin == 0,
        "Pointy_Nose": who.nose < -0.6,
        "Receding_Hairline": face.receding,
        "Rosy_Cheeks": face.makeup and who.skin < 3,
        "Sideburns": face.beard == "full",
        "Smiling": u[12] >= 1.5,
        "Straight_Hair": face.style in ("long", "bob", "fringe"),
        "Wavy_Hair": face.style in ("wavy", "curly"),
        "Wearing_Earrings": face.earrings and not hidden,
        "Wearing_Lipstick": face.lipstick,
        "Wearing_Necklace": face.necklace,
        "Young": face.young,
    }
    return {name: shown.get(name, False) for name in ATTRIBUTES}

"""Who is portrayed and how: every random choice of a portrait, made before a pixel is drawn.

A `Person` is what the pictures of one identity share (bone structure, skin tone, gender presentation, hair colour).
A `Sitting` is one picture of that person (age, pose, expression, hair style, glasses, light, camera). Each is drawn
from its own random stream, named by the seed and its number, so that it does not depend on how many others exist.
What can be asked for is dealt like cards, in blocks, so that shares are met and not only aimed at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import radians, sqrt
from statistics import NormalDist

import numpy as np

from facekit.data.portraits.canvas import Pixels, rgb
from facekit.errors import ConfigError
from facekit.tasks import AGE_BAND, AGE_BANDS, GENDER, SKIN_TONE

# Monk Skin Tone scale, steps 1 … 10: Ellis Monk, "The Monk Skin Tone Scale", 2023, doi 10.31235/osf.io/pdf4c;
# values as published by Google at https://skintone.google.
MONK_HEX = ["f6ede4", "f3e7db", "f7ead0", "eadaba", "d7bd96", "a07e56", "825c43", "604134", "3a312a", "292420"]
MONK: tuple[Pixels, ...] = tuple(rgb(*(value / 255 for value in bytes.fromhex(code))) for code in MONK_HEX)

EXPRESSIONS = ("neutral", "smile", "surprise", "frown")
YOUNGEST, OLDEST = 3.0, 85.0
# Lower edge of each band of AGE_BANDS within the ages that are drawn, and the end of the last.
AGE_EDGES = np.array([YOUNGEST, YOUNGEST, 10, 20, 30, 40, 50, 60, 70, OLDEST])

# What can be asked for, with the shares it has when nothing is asked (None: ages are uniform in years).
Share = Mapping[str, float]
DEFAULT_SHARES: dict[str, Share] = {
    "gender": dict.fromkeys(GENDER.classes, 0.5),
    "skin_tone": dict.fromkeys(SKIN_TONE.classes, 0.1),
    "age": dict(zip(AGE_BANDS, np.diff(AGE_EDGES).tolist(), strict=True)),
    "expression": {"neutral": 0.4, "smile": 0.35, "surprise": 0.12, "frown": 0.13},
}
PILES = ("gender", "skin_tone", "age", "expression", "glasses")
# Glasses are likelier in old age unless their share is asked for.
CHOICES: dict[str, tuple[str, ...]] = {
    **{name: tuple(shares) for name, shares in DEFAULT_SHARES.items()},
    "glasses": ("no", "yes"),
}

# Persons, or pictures, among which asked shares are met exactly (as far as they are multiples of 1 / BLOCK).
BLOCK = 20
# Quantiles of the normal distribution between -2.5 and 2.5: a table, since a logarithm may differ in its last bit from
# one machine to the next. Rounded, so that the table itself cannot differ.
_TAIL = 0.00621
_KNOTS = 256
_QUANTILES = [round(NormalDist().inv_cdf(_TAIL + (1 - 2 * _TAIL) * knot / _KNOTS), 6) for knot in range(_KNOTS + 1)]


class Draws:
    """Random numbers by name of their distribution. Each call uses exactly one number of the stream.

    So what is asked for one attribute never changes what is drawn for another.
    """

    def __init__(self, *stream: int):
        self.rng = np.random.Generator(np.random.PCG64(stream))

    def uniform(self, low: float, high: float) -> float:
        """Uniform between low and high."""
        return low + (high - low) * self.rng.random()

    def normal(self, mean: float, sd: float) -> float:
        """Normal, cut at 2.5 standard deviations so that no face falls apart."""
        at = min(max((self.rng.random() - _TAIL) / (1 - 2 * _TAIL), 0.0), 1.0) * _KNOTS
        knot = min(int(at), _KNOTS - 1)
        below = _QUANTILES[knot]
        return mean + sd * (below + (at - knot) * (_QUANTILES[knot + 1] - below))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.rng.random() < probability

    def pick(self, shares: Share) -> str:
        """A key of `shares`, with probability in proportion to its value."""
        return pick(shares, self.rng.random())

    def noise(self, rows: int, columns: int) -> Pixels:
        """Uniform in -1 … 1, float32 (rows, columns)."""
        return self.rng.random((rows, columns), np.float32) * 2 - 1


def pick(shares: Share, at: float) -> str:
    """The key of `shares` in whose part of the interval 0 … 1 the number lies."""
    left = at * sum(shares.values())
    for key, share in shares.items():
        left -= share
        if left < 0:
            return key
    return [key for key, share in shares.items() if share > 0][-1]


def deal(seed: int, pile: str, number: int) -> float:
    """A number in [0, 1) for person or picture `number`; in each block of BLOCK, every BLOCKth part comes once."""
    block, place = divmod(number, BLOCK)
    return _pile(seed, PILES.index(pile), block)[place]


@lru_cache(maxsize=64)
def _pile(seed: int, pile: int, block: int) -> list[float]:
    """The numbers of one block, in random order."""
    rng = np.random.Generator(np.random.PCG64((seed, 2, pile, block)))
    order = np.argsort(rng.random(BLOCK), kind="stable")
    return ((order + rng.random(BLOCK)) / BLOCK).tolist()


def read_shares(attributes: Mapping[str, str | Sequence[str] | Share] | None) -> dict[str, Share]:
    """What is asked for, as shares by attribute; raises ConfigError for unknown attributes, values or shares.

    A value may be one label, several equally likely labels, or a mapping from labels to shares.
    """
    shares: dict[str, Share] = {}
    for name, wish in (attributes or {}).items():
        if name not in CHOICES:
            raise ConfigError(f"portraits have no attribute {name!r} to choose; choose among {', '.join(CHOICES)}.")
        if isinstance(wish, str):
            wish = {wish: 1.0}
        elif not isinstance(wish, Mapping):
            wish = dict.fromkeys(wish, 1.0)
        possible = [label for label in CHOICES[name] if (name, label) != (AGE_BAND.name, AGE_BANDS[0])]
        unknown = [label for label in wish if label not in possible]
        if unknown or not wish:
            raise ConfigError(f"attribute {name!r} cannot be {unknown or wish!r}; use {', '.join(possible)}.")
        values = list(wish.values())
        if not all(isinstance(value, (int, float)) and 0 <= value < float("inf") for value in values) or not sum(
            values
        ):
            raise ConfigError(f"attribute {name!r}: shares {dict(wish)} must be numbers >= 0, one of them above 0.")
        # In the order of the classes, so that equal wishes written in another order give equal portraits.
        shares[name] = {label: float(wish[label]) for label in possible if label in wish}
    return shares


# Natural hair colours, and how often each occurs with light and with dark skin; dyed hair comes on top.
HAIR_COLOURS = {
    "black": (rgb(0.07, 0.06, 0.06), 0.20, 0.72),
    "dark brown": (rgb(0.19, 0.12, 0.08), 0.26, 0.20),
    "brown": (rgb(0.34, 0.22, 0.13), 0.24, 0.05),
    "auburn": (rgb(0.43, 0.19, 0.10), 0.08, 0.02),
    "dark blond": (rgb(0.55, 0.42, 0.25), 0.12, 0.01),
    "blond": (rgb(0.78, 0.64, 0.40), 0.10, 0.00),
}
IRIS_COLOURS = {
    "dark": (rgb(0.16, 0.09, 0.05), 0.30, 0.80),
    "brown": (rgb(0.33, 0.19, 0.09), 0.30, 0.18),
    "green": (rgb(0.33, 0.38, 0.22), 0.15, 0.01),
    "blue": (rgb(0.32, 0.45, 0.58), 0.25, 0.01),
}
GREY = rgb(0.74, 0.74, 0.74)


class Person:
    """What all pictures of one identity share, drawn. Lengths in face units for an adult; see `features.Anatomy`.

    Men and women differ on average, and overlap in every single trait.
    """

    def __init__(self, seed: int, number: int, shares: Mapping[str, Share]):
        d = Draws(seed, 0, number)
        wanted = {**DEFAULT_SHARES, **shares}
        self.gender = pick(wanted["gender"], deal(seed, "gender", number))
        self.skin_tone = pick(wanted["skin_tone"], deal(seed, "skin_tone", number))
        # In years; the pictures are up to five years older or younger.
        self.age = draw_age(wanted["age"], deal(seed, "age", number))
        man = self.gender == "Male"
        # How typical this face is of its gender: drawn, not fixed, which is what makes the two groups overlap.
        male = d.normal(0.75 if man else -0.75, 0.55)
        darkness = (int(self.skin_tone) - 1) / 9

        def natural(colours: dict) -> Pixels:
            shares_here = {k: light + (dark - light) * darkness for k, (_, light, dark) in colours.items()}
            return colours[d.pick(shares_here)][0] * np.float32(d.uniform(0.85, 1.2))

        hair, dye = natural(HAIR_COLOURS), HAIR_COLOURS[d.pick(dict.fromkeys(HAIR_COLOURS, 1.0))][0]
        self.hair = dye if d.chance(0.06) else hair
        self.skin = _skin_colour(d, int(self.skin_tone))
        self.iris = natural(IRIS_COLOURS)
        # Age at which half of the hair is grey, or is no longer dyed.
        self.greying = d.normal(55, 12) + (40 if d.chance(0.2 if man else 0.4) else 0)
        self.balding = d.uniform(0, 1 if man else 0.15)  # 0 never … 1 early
        self.curl = max(0.0, d.normal(-0.1 + 0.7 * darkness, 0.45))  # 0 straight … 1 tight curls
        self.beard = max(0.0, d.normal(0.45 if man else -1.0, 0.35))  # growth, 0 none … 1 dense
        self.long_hair = d.normal(-0.75 * male, 0.6)  # -1 always short … 1 always long
        self.weathered = d.normal(0, 7)  # years by which the skin looks older than it is
        self.freckles = max(0.0, d.normal(-0.3, 0.5)) * (1 - darkness)
        self.width = d.normal(0.455 + 0.008 * male, 0.018)
        self.length = d.normal(0.635 + 0.010 * male, 0.022)
        self.jaw = d.normal(0.27 - 0.07 * male, 0.05)  # narrowing towards the chin
        self.squareness = d.normal(0.42 + 0.15 * male, 0.14)
        self.chin = d.normal(0.035 + 0.014 * male, 0.012)
        self.eye_distance = d.normal(0.196, 0.010)
        self.eye_width = d.normal(0.098 - 0.003 * male, 0.006)
        self.eye_opening = d.normal(0.047 - 0.005 * male, 0.005)
        self.eye_tilt = d.normal(-0.04, 0.06)
        self.eye_depth = d.normal(0.035 + 0.008 * male, 0.012)
        self.brow_height = d.normal(0.122 - 0.010 * male, 0.010)
        self.brow_thickness = d.normal(0.020 + 0.007 * male, 0.004)
        self.brow_arch = d.normal(0.030 - 0.008 * male, 0.010)
        self.nose_length = d.normal(0.285 + 0.008 * male, 0.018)
        self.nose_width = d.normal(0.078 + 0.008 * male + 0.014 * darkness, 0.010)
        self.nose_height = d.normal(0.080 + 0.006 * male - 0.015 * darkness, 0.012)
        self.mouth_width = d.normal(0.162 + 0.004 * male, 0.013)
        self.lips = d.normal(0.036 - 0.005 * male + 0.010 * darkness, 0.006)
        self.ears = d.normal(0.13, 0.012)
        self.cheeks = d.normal(0.03, 0.010)
        self.neck = d.normal(0.62 + 0.05 * male, 0.03)


def _skin_colour(d: Draws, tone: int) -> Pixels:
    """The published colour of the step, moved at most half a step towards a neighbour, with a warmer or cooler cast.

    More saturated than published: light scattered in the skin is coloured again, which flat paint cannot show.
    """
    towards = d.uniform(-0.5, 0.5)
    neighbour = MONK[min(max(tone - 1 + (1 if towards > 0 else -1), 0), 9)]
    colour = MONK[tone - 1] + abs(np.float32(towards)) * (neighbour - MONK[tone - 1])
    grey = colour.mean()
    colour = grey + np.float32(1.25) * (colour - grey)
    return colour * rgb(1 + d.uniform(-0.01, 0.04), 1.0, 1 + d.uniform(-0.06, 0.03))


def draw_age(shares: Share, at: float) -> float:
    """The age in years below which the share `at` of ages lies; uniform within each band."""
    band = AGE_BANDS.index(pick(shares, at))
    below = sum(shares.get(name, 0.0) for name in AGE_BANDS[:band])
    within = (at * sum(shares.values()) - below) / shares[AGE_BANDS[band]]
    return float(AGE_EDGES[band] + min(max(within, 0.0), 1 - 1e-9) * (AGE_EDGES[band + 1] - AGE_EDGES[band]))


def age_band_at(years: float) -> int:
    """The place of an age in AGE_BANDS."""
    return int(np.searchsorted(AGE_EDGES[:-1], years, side="right")) - 1


def _near(age: float, change: float, asked: bool) -> float:
    """An age a few years from the person's; reflected at the ends, so that ages keep their distribution.

    The ends are those of all ages, or of the person's band if bands were asked for.
    """
    low, high = YOUNGEST, OLDEST
    if asked:
        band = age_band_at(age)
        low, high = float(AGE_EDGES[band]), float(AGE_EDGES[band + 1])
    age += change * min(5.0, high - low)
    age = 2 * low - age if age < low else age
    return min(2 * high - age if age >= high else age, high - 1e-6)


# How far each expression moves the corners of the mouth, opens it, lifts and knits the brows, and opens the eyes.
_MOVES = {
    "neutral": (0.05, 0.0, 0.0, 0.0, 1.0),
    "smile": (0.75, 0.35, 0.1, -0.1, 0.88),
    "surprise": (0.05, 0.75, 0.9, -0.1, 1.25),
    "frown": (-0.55, 0.0, -0.25, 0.7, 0.88),
}


class Sitting:
    """One picture: what changes from picture to picture of the same person. Angles in radians.

    The age is within five years of the person's, everything else is drawn anew.
    """

    def __init__(self, seed: int, number: int, person: Person, shares: Mapping[str, Share]):
        d = Draws(seed, 1, number)
        self.age = age = _near(person.age, d.uniform(-1, 1), "age" in shares)
        self.expression = pick(shares.get("expression", DEFAULT_SHARES["expression"]), deal(seed, "expression", number))
        glasses = pick(shares.get("glasses") or _glasses_by_age(age), deal(seed, "glasses", number)) == "yes"
        # How far mouth, brows and lids move. Weak smiles and weak frowns look much like a neutral face.
        smile, opened, lift, frown, lids = _MOVES[self.expression]
        strength = d.uniform(0.45, 1.2)
        self.smile = smile * strength + d.normal(0.05, 0.16)  # corners of the mouth, -1 down … 1 up
        self.mouth_open = max(0.0, opened * strength + d.normal(-0.04, 0.12))
        self.brow_lift = lift * strength + d.normal(0, 0.15)
        self.brow_frown = frown * strength + d.normal(0, 0.12)
        self.eyes_open = 1 + (lids - 1) * strength + d.normal(0, 0.08)
        self.hairstyle = Hairstyle(d, person, age)
        spectacles = Spectacles(d)
        self.spectacles = spectacles if glasses else None
        self.makeup = d.uniform(0.2, 1) * d.chance(0.55 if person.gender == "Female" else 0.04) * (age > 16)
        beard_style = d.pick({"none": 0.40, "stubble": 0.22, "full": 0.22, "moustache": 0.07, "goatee": 0.09})
        self.beard_style = beard_style if person.beard > 0 and age > 17 else "none"
        self.beard = person.beard * min(max((age - 16) / 10, 0), 1)
        self.gaze = (d.normal(0, 0.010), d.normal(0, 0.004))
        self.yaw = radians(d.normal(0, 9))
        self.pitch = radians(d.normal(0, 4))
        self.roll = radians(d.normal(0, 5))
        self.zoom = d.normal(1.20, 0.06)
        self.shift = (d.normal(0, 0.04), d.normal(0.07, 0.035))
        self.lipstick = rgb(d.uniform(0.55, 0.8), d.uniform(0.12, 0.3), d.uniform(0.2, 0.38))
        self.light = Light(d, person)
        self.clothes = _draw_paint(d, 0.05, 0.6)
        self.neckline = d.uniform(0.0, 1.0)
        self.backdrop = (_draw_paint(d, 0.15, 0.30), _draw_paint(d, 0.15, 0.30))
        self.backdrop_kind = d.pick({"plain": 0.3, "gradient": 0.3, "blurred": 0.4})
        self.textures = d  # the rest of the stream, for textures


def _draw_paint(d: Draws, darkest: float, saturation: float) -> Pixels:
    """A colour of any brightness above `darkest`; saturation 0 is grey."""
    grey = d.uniform(darkest, 0.88)
    return rgb(*(min(max(grey + saturation * d.uniform(-0.5, 0.5), 0.0), 1.0) for _ in range(3)))


def _glasses_by_age(age: float) -> Share:
    share = 0.18 + 0.27 * min(max((age - 35) / 35, 0), 1)
    return {"no": 1 - share, "yes": share}


class Hairstyle:
    """Hair of one picture. Lengths in face units.

    Length follows the person's habit, not their gender; baldness and grey come with age, early or late.
    """

    def __init__(self, d: Draws, person: Person, age: float):
        length = person.long_hair + d.normal(-0.1, 0.35)
        bald = person.balding * min(max((age - 22) / 45, 0), 1) * 1.5
        grey = 0.95 * min(max((age - person.greying) / 24 + 0.5, 0), 1)
        low, high = (-0.10, 0.10) if length < 0.15 else (0.25, 0.60) if length < 0.6 else (0.75, 1.3)
        self.reach = d.uniform(low, high)  # y at which the hair beside the face ends
        hairline = d.uniform(-0.27, -0.19) if d.chance(0.3) else d.normal(-0.40, 0.03)
        self.hairline = hairline - 0.30 * max(bald, 0)  # y at which it begins on the forehead
        self.present = not (d.chance(0.03) or bald > 0.85)
        volume = d.normal(0.085, 0.03) + 0.13 * min(person.curl, 1.2) * d.uniform(0.2, 1)
        self.volume = max(0.03, volume) * (1 - 0.5 * bald)  # how far it stands off the skull
        self.parting = d.normal(0, 0.07)  # shift of the opening to one side
        self.fringe = d.uniform(0.2, 1)  # raggedness of its edge
        self.bun = d.chance(0.22) and length > 0.3
        self.colour = person.hair + np.float32(grey) * (GREY * np.float32(d.uniform(0.8, 1.15)) - person.hair)


class Spectacles:
    """A frame and its two lenses. Half-sizes and lengths in face units, the rest in [0, 1].

    Frames from heavy and dark to rimless, which a coarse look at the pixels misses.
    """

    def __init__(self, d: Draws):
        self.rim = d.uniform(0.010, 0.028)
        shade = d.uniform(0.03, 0.6)
        self.width = d.normal(0.145, 0.010)
        self.height = d.normal(0.105, 0.012)
        self.squareness = d.uniform(0, 0.9)
        self.colour = rgb(shade * d.uniform(0.8, 1.3), shade * d.uniform(0.7, 1.1), shade * d.uniform(0.6, 1.1))
        self.opacity = d.uniform(0.45, 0.95)
        self.tint = max(0.0, d.uniform(-0.15, 0.15))
        self.drop = d.uniform(0.0, 0.03)


class Light:
    """A lamp (direction towards it: right, down, out of the picture), fill light, and the camera's settings.

    Lighting and exposure vary enough to hide neighbouring skin tones; cameras brighten dark faces in part.
    """

    def __init__(self, d: Draws, person: Person):
        brightness = float(person.skin.mean())
        automatic = sqrt(sqrt(0.58 / (brightness * 0.85 + 0.09)))
        automatic *= sqrt(automatic)
        self.direction = (d.normal(0, 0.45), d.normal(-0.45, 0.22), 1.0)
        self.ambient = d.uniform(0.42, 0.66)
        self.exposure = automatic * d.normal(1.0, 0.09)
        self.warmth = d.normal(0, 0.05)
        self.contrast = d.normal(1.0, 0.06)
        self.blur = d.uniform(0.05, 0.25)
        self.noise = d.uniform(0.004, 0.028)
        self.vignette = d.uniform(0, 0.25)

"""The domain of medical images: is there a lesion on the skin, where, and of which kind.

`render_lesions` draws patches of skin as seen through a dermatoscope. The kinds have the names of real diagnoses and
are drawn after the words that textbooks use for them (a nevus round and even, a melanoma ragged and of several
colours …), with much overlap. Nothing about medicine can be learnt from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facekit.data.portraits.canvas import Pixels, axes, blur, cos_sin, rgb, smoothstep, value_noise
from facekit.data.portraits.people import MONK, Draws
from facekit.data.rendering import DRAWN, Picture, rendered_set, to_bytes
from facekit.data.sets import FaceSet
from facekit.errors import ConfigError
from facekit.tasks import Task

# Raised whenever the same seed gives other pixels or labels than before.
VERSION = 1
GENERATOR = {"name": "facekit.data.drawn.lesions", "version": VERSION}
BOX_COLUMNS = ("box_left", "box_top", "box_right", "box_bottom")
LESION = Task("lesion", "multiclass", ("no", "yes"))
# Share of pictures with a lesion, and how much of another kind's look a lesion may borrow.
PRESENT, ATYPICAL = 0.75, 0.35
_STREAM = 31


@dataclass(frozen=True)
class _Look:
    """How one kind of lesion looks: means, each drawn with a spread.

    ragged: how far the border leaves the ellipse. soft: width of the fading edge, in radii. variegated: share of a
    second and third pigment. pale: how much the middle is paler than the rim. bumpy: relief. dots, vessels: how many,
    0 … 1. radius: in half-sides of the picture. pigments: what light comes back through them, red, green and blue.
    """

    ragged: float
    soft: float
    variegated: float
    pale: float
    bumpy: float
    dots: float
    vessels: float
    radius: float
    pigments: tuple[tuple[float, ...], ...]


_SPREADS = {"ragged": 0.04, "soft": 0.07, "variegated": 0.20, "pale": 0.15, "bumpy": 0.20}
_SPREADS |= {"dots": 0.15, "vessels": 0.15, "radius": 0.10}
TAN, BROWN, DARK = (0.80, 0.62, 0.46), (0.60, 0.41, 0.30), (0.33, 0.22, 0.19)
RED, PURPLE, PINK = (0.86, 0.36, 0.36), (0.55, 0.24, 0.38), (0.98, 0.72, 0.70)
GREY = (0.52, 0.54, 0.62)
LOOKS = {
    "nevus": _Look(0.05, 0.22, 0.20, 0.0, 0.15, 0.05, 0.0, 0.36, (BROWN, DARK, TAN)),
    "melanoma": _Look(0.20, 0.16, 0.75, 0.0, 0.25, 0.15, 0.05, 0.48, (DARK, GREY, RED)),
    "seborrheic keratosis": _Look(0.11, 0.06, 0.35, 0.0, 0.75, 0.70, 0.0, 0.45, (TAN, BROWN, GREY)),
    "basal cell carcinoma": _Look(0.12, 0.35, 0.35, 0.15, 0.35, 0.10, 0.80, 0.44, (PINK, RED, GREY)),
    "dermatofibroma": _Look(0.06, 0.45, 0.15, 0.75, 0.15, 0.0, 0.05, 0.36, (BROWN, TAN, PINK)),
    "vascular lesion": _Look(0.08, 0.12, 0.55, 0.0, 0.55, 0.05, 0.10, 0.33, (RED, PURPLE, DARK)),
}
DIAGNOSES = tuple(LOOKS)
DIAGNOSIS = Task("diagnosis", "multiclass", DIAGNOSES)
ABOUT = {
    **DRAWN,
    "source": "patches of skin drawn by facekit; they show nobody and teach nothing about medicine",
    "generator": GENERATOR,
    "classes": {task.name: list(task.classes) for task in (LESION, DIAGNOSIS)},
}


def render_lesions(n: int | Sequence[int], seed: int = 0, size: int = 64) -> FaceSet:
    """Draws `n` patches of skin of `size` × `size` pixels, with or without a lesion, as a FaceSet.

    n: how many, or how many in train, validation and test. Labels: `lesion` ("no", "yes"; three quarters have one),
    `diagnosis` (one of DIAGNOSES; missing where there is no lesion), the box around it in fractions of the side
    (`box_left`, `box_top`, `box_right`, `box_bottom`; NaN where there is none), `number` in the series, `split`. The
    box is the extent of the mask, which `lesion_masks` gives. Hairs, freckles, glare and dark corners come with and
    without lesions.

    A picture depends on seed, size and its number alone. Raises ConfigError for impossible arguments.
    """

    def draw(number: int) -> Picture:
        image, mask, diagnosis = _draw(seed, number, size)
        box = dict(zip(BOX_COLUMNS, mask_box(mask), strict=True))
        has_one = LESION.classes[diagnosis is not None]
        return to_bytes(image), {"lesion": has_one, "diagnosis": diagnosis, **box, "number": number}

    return rendered_set(lambda number: f"lesion {seed}-{number}", draw, ABOUT, {"n": n, "seed": seed, "size": size})


def lesion_masks(faces: FaceSet) -> np.ndarray:
    """The masks of pictures from `render_lesions`, bool (N, size, size): True on the lesion.

    faces: a whole set or any rows of it, at the size it was drawn in. The masks are drawn once more from seed, size and
    the rows' numbers. Raises ConfigError for a set of another origin, version or size.
    """
    request = faces.manifest.get("request", {})
    if faces.manifest.get("generator") != GENERATOR or request["size"] != faces.images.shape[2]:
        raise ConfigError("masks are known of pictures as this version's render_lesions drew them; draw them again.")
    seed, size = request["seed"], request["size"]
    return np.stack([_draw(seed, int(number), size)[1] for number in faces.labels["number"]])


def mask_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the True pixels of (H, W), in fractions of the sides; NaN where there is none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return (float("nan"),) * 4
    height, width = mask.shape
    return columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height


# --- drawing ---------------------------------------------------------------------------------------------------------


def _draw(seed: int, number: int, size: int) -> tuple[Pixels, np.ndarray, str | None]:
    """Picture `number`: float32 (3, size, size), the lesion's mask (size, size) and its kind, if there is one."""
    d = Draws(seed, _STREAM, number)
    diagnosis, other = (DIAGNOSES[int(d.uniform(0, len(DIAGNOSES)))] for _ in range(2))
    present = d.chance(PRESENT)
    image = _skin(Draws(seed, _STREAM, number, 1), size)
    _blotch(Draws(seed, _STREAM, number, 4), image)
    mask = np.zeros((size, size), bool)
    if present:
        look = _mixed(d, LOOKS[diagnosis], LOOKS[other])
        mask = _lesion(Draws(seed, _STREAM, number, 2), look, image)
    _clutter(Draws(seed, _STREAM, number, 3), image)
    return image, mask, diagnosis if present else None


def _mixed(d: Draws, own: _Look, other: _Look) -> _Look:
    """The look of one lesion: its kind's, drawn part of the way to another kind's, with a spread of its own."""
    away = d.uniform(0, ATYPICAL)

    drawn = {}
    for name, spread in _SPREADS.items():
        mean = getattr(own, name) + away * (getattr(other, name) - getattr(own, name))
        drawn[name] = max(d.normal(mean, spread), 0.0)
    drawn["soft"] += 0.04
    drawn["radius"] = min(max(drawn["radius"], 0.20), 0.70)
    pigments = tuple(
        tuple(a + away * (b - a) for a, b in zip(mine, theirs, strict=True))
        for mine, theirs in zip(own.pigments, other.pigments, strict=True)
    )
    return _Look(**drawn, pigments=pigments)


def ring_noise(points: Pixels, x: Pixels, y: Pixels) -> Pixels:
    """A smooth random function of the direction of (x, y): values `points` (K,) spread once around the circle.

    The direction is measured along a diamond instead of a circle, which needs no arc tangent.
    """
    reach = np.abs(x) + np.abs(y)
    along = y / np.maximum(reach, np.float32(1e-6))  # 0 to the right, 1 below, …
    turn = np.where(x < 0, 2 - along, np.where(y < 0, 4 + along, along)) * np.float32(len(points) / 4)
    before = np.floor(turn).astype(np.int64)
    first = points[before % len(points)]
    return first + smoothstep(turn - before) * (points[(before + 1) % len(points)] - first)


def _noise(d: Draws, cells: int, size: int) -> Pixels:
    """Smooth noise in -1 … 1 with so many cells across the picture."""
    return value_noise(d.noise(cells + 2, cells + 2), size, size)


def _skin(d: Draws, size: int) -> Pixels:
    """Skin of any tone of the Monk scale up to 9, with pores, blotches and a little more red than paint has."""
    tone = d.uniform(0, 8)
    below = int(tone)
    colour = MONK[below] + np.float32(tone - below) * (MONK[below + 1] - MONK[below])
    grey = colour.mean()
    colour = (grey + np.float32(1.3) * (colour - grey)) * rgb(1.04, d.uniform(0.90, 0.98), d.uniform(0.86, 0.96))
    relief = np.float32(0.05) * _noise(d, 5, size) + np.float32(0.03) * _noise(d, 21, size)
    red = smoothstep(_noise(d, 4, size) * np.float32(d.uniform(0.2, 1.0))) * np.float32(d.uniform(0.0, 0.22))
    image = np.empty((3, size, size), np.float32)
    for plane, value, flush in zip(image, colour.ravel(), (0.1, 1.0, 0.8), strict=True):
        np.multiply(1 + relief, value, out=plane)
        plane *= 1 - red * np.float32(flush)
    return image


def _lesion(d: Draws, look: _Look, image: Pixels) -> np.ndarray:
    """Paints a lesion over the skin and returns its mask: where at least half of its pigment is."""
    size = image.shape[1]
    x, y = axes(size)
    stretch = d.uniform(0.68, 1.0)
    c, s = cos_sin(d.uniform(-1.5, 1.5))
    room = 0.95 - min(look.radius, 0.6)
    x, y = x - np.float32(d.uniform(-room, room)), y - np.float32(d.uniform(-room, room))
    u = (x * np.float32(c) + y * np.float32(s)) * np.float32(1 / look.radius)
    v = (y * np.float32(c) - x * np.float32(s)) * np.float32(1 / (look.radius * stretch))
    edge: Pixels | np.float32 = np.float32(1.0)
    for knots, share in ((5, 1.0), (11, 0.8), (23, 0.6)):
        edge = edge + np.float32(look.ragged * share) * ring_noise(d.noise(1, knots)[0], u, v)
    away = np.sqrt(u * u + v * v) / edge  # 1 on the border
    strength = smoothstep((1 - away) * np.float32(1 / look.soft) + np.float32(0.5)) * np.float32(d.uniform(0.5, 1.0))
    # A paler middle; the rim keeps its pigment.
    strength = strength * (1 - np.float32(min(look.pale, 0.95)) * smoothstep(1 - away * np.float32(1.35)))
    _pigment(d, look, image, strength, away)
    return away < 1


def _pigment(d: Draws, look: _Look, image: Pixels, strength: Pixels, away: Pixels) -> None:
    """Lets the light come back through up to three pigments, with relief, bright dots and vessels."""
    size = image.shape[1]
    second = smoothstep((_noise(d, 5, size) + np.float32(look.variegated * 1.4 - 0.6)) * 2)
    third = smoothstep((_noise(d, 6, size) + np.float32(look.variegated * 1.3 - 0.9)) * 2)
    depth = np.float32(d.uniform(0.8, 1.1))
    relief = np.float32(look.bumpy * 0.22) * _noise(d, 15, size)
    tone = 1 + relief + np.float32(0.08) * _noise(d, 31, size)
    vessels = _threads(d, look.vessels, size)
    dots = smoothstep((_noise(d, 17, size) - np.float32(1.0 - 0.55 * look.dots)) * 6) * np.float32(min(look.dots, 1))
    for channel, plane in enumerate(image):
        one, two, three = (pigment[channel] for pigment in look.pigments)
        through = one + second * np.float32(two - one)
        through += third * (np.float32(three) - through)
        through = 1 - (1 - through * tone) * depth
        if vessels is not None and channel:
            through *= 1 - vessels * np.float32(0.5)
        plane *= 1 - strength * (1 - through)
        plane += strength * dots * np.float32(0.28)


def _threads(d: Draws, amount: float, size: int) -> Pixels | None:
    """Thin branching lines: where a smooth noise crosses zero. amount: 0 … 1."""
    noise = _noise(d, 7, size)
    if amount < 0.2:
        return None
    return smoothstep(1 - np.abs(noise) * np.float32(9)) * np.float32(min(amount, 1))


def _clutter(d: Draws, image: Pixels) -> None:
    """What is on the way from skin to picture: freckles, hairs, glare, dark corners, blur, light and noise."""
    size = image.shape[1]
    x, y = axes(size)
    for chance, fewest, most, add in ((0.3, 2, 9, _freckle), (0.4, 1, 7, _hair), (0.2, 1, 4, _glare)):
        if d.chance(chance):
            for _ in range(int(d.uniform(fewest, most))):
                add(d, image, x, y)
    lamp = 1 + np.float32(d.uniform(-0.12, 0.12)) * x + np.float32(d.uniform(-0.12, 0.12)) * y
    if d.chance(0.3):
        reach = np.float32(d.uniform(1.02, 1.3))
        lamp = lamp * smoothstep((reach - np.sqrt(x * x + y * y)) * np.float32(d.uniform(5, 14)) + 1)
    exposure, amount, grain = d.uniform(0.82, 1.04), d.uniform(0.0, 0.2), d.uniform(0.01, 0.04)
    for plane, cast in zip(image, (1 + d.uniform(-0.05, 0.05), 1, 1 + d.uniform(-0.05, 0.05)), strict=True):
        plane[:] = blur(plane, amount) * lamp * np.float32(exposure * cast)
    image += np.float32(grain) * d.noise(size, size)


def _blotch(d: Draws, image: Pixels) -> None:
    """In half of the pictures a patch of skin is redder or browner than the rest, without an edge: no lesion."""
    if d.chance(0.5):
        return
    x, y = axes(image.shape[1])
    a, b = x - np.float32(d.uniform(-0.9, 0.9)), y - np.float32(d.uniform(-0.9, 0.9))
    radius = d.uniform(0.25, 0.7)
    hill = (1 - (a * a + b * b * np.float32(d.uniform(0.6, 1.6))) * np.float32(1 / (radius * radius))).clip(0, 1)
    hill = hill * hill * np.float32(d.uniform(0.1, 0.4)) * (1 + np.float32(0.4) * _noise(d, 9, image.shape[1]))
    for plane, pigment in zip(image, (PINK, RED, TAN)[int(d.uniform(0, 3))], strict=True):
        plane *= 1 - hill * np.float32(1 - pigment)


def _freckle(d: Draws, image: Pixels, x: Pixels, y: Pixels) -> None:
    radius = d.uniform(0.02, 0.06)
    a, b = x - np.float32(d.uniform(-1, 1)), y - np.float32(d.uniform(-1, 1))
    spot = (1 - (a * a + b * b) * np.float32(1 / (radius * radius))).clip(0, 1) * np.float32(d.uniform(0.15, 0.45))
    for plane, pigment in zip(image, BROWN, strict=True):
        plane *= 1 - spot * np.float32(1 - pigment)


def _hair(d: Draws, image: Pixels, x: Pixels, y: Pixels) -> None:
    """A bent line across the picture: a parabola in axes of its own."""
    c, s = cos_sin(d.uniform(-1.5, 1.5))
    u = x * np.float32(c) + y * np.float32(s) + np.float32(d.uniform(-0.7, 0.7))
    v = y * np.float32(c) - x * np.float32(s) + np.float32(d.uniform(-0.9, 0.9))
    width = max(d.uniform(0.012, 0.03), 1.2 / image.shape[1])
    off = np.abs(v + np.float32(d.uniform(-0.45, 0.45)) * u * u)
    line = (1 - off * np.float32(1 / width)).clip(0, 1) * np.float32(d.uniform(0.5, 0.85))
    ends = smoothstep((np.float32(d.uniform(0.4, 1.6)) - np.abs(u)) * 4)
    image *= 1 - line * ends


def _glare(d: Draws, image: Pixels, x: Pixels, y: Pixels) -> None:
    """Light on a bubble of gel: a pale ring."""
    radius = d.uniform(0.06, 0.2)
    a, b = x - np.float32(d.uniform(-1, 1)), y - np.float32(d.uniform(-1, 1))
    off = np.abs(np.sqrt(a * a + b * b) - np.float32(radius))
    ring = (1 - off * np.float32(1 / max(0.03, 2 / image.shape[1]))).clip(0, 1) * np.float32(d.uniform(0.15, 0.5))
    image += ring * (1 - image)

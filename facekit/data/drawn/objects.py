"""The domain of everyday images: what thing is in the picture.

`render_objects` draws ten things from a few simple shapes each, in any pose, colour and light, before backgrounds with
other shapes in them. Colour, size and place say nothing about the class; the shape does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from facekit.data.portraits.canvas import Pixels, axes, blur, cos_sin, ellipse, smoothstep, value_noise
from facekit.data.portraits.people import Draws
from facekit.data.rendering import DRAWN, Picture, rendered_set, to_bytes
from facekit.data.sets import FaceSet
from facekit.tasks import Task

# Raised whenever the same seed gives other pixels or labels than before.
VERSION = 1
GENERATOR = {"name": "facekit.data.drawn.objects", "version": VERSION}
_STREAM = 32

Colour = tuple[float, float, float]


def render_objects(n: int | Sequence[int], seed: int = 0, size: int = 64) -> FaceSet:
    """Draws `n` pictures of one thing each, `size` × `size` pixels, as a FaceSet.

    n: how many, or how many in train, validation and test. Labels: `object` (one of THINGS), `number` in the series,
    `split`. A picture depends on seed, size and its number alone. Raises ConfigError for impossible arguments.
    """
    request = {"n": n, "seed": seed, "size": size}
    about = {
        **DRAWN,
        "source": "things drawn by facekit",
        "generator": GENERATOR,
        "classes": {OBJECT.name: list(THINGS)},
    }
    return rendered_set(
        lambda number: f"object {seed}-{number}", lambda number: _draw(seed, number, size), about, request
    )


# --- shapes ----------------------------------------------------------------------------------------------------------


class _Pen:
    """Draws shapes of a thing in coordinates of its own: x to the right, y down, the thing within -1 … 1.

    image: float32 (3, size, size), painted in place. x, y: those coordinates of every pixel. unit: width of a pixel in
    them. light: shading (size, size) by which every colour is multiplied.
    """

    def __init__(self, image: Pixels, x: Pixels, y: Pixels, unit: float, light: Pixels | np.float32) -> None:
        self.image, self.x, self.y, self.light = image, x, y, light
        self.sharp = np.float32(1 / unit)

    def fill(self, distance: Pixels, colour: Colour) -> None:
        """Paints where the signed distance is negative, antialiased."""
        cover = (np.float32(0.5) - distance * self.sharp).clip(0, 1)
        for plane, value in zip(self.image, colour, strict=True):
            plane += cover * (self.light * np.float32(value) - plane)

    def ellipse(self, x: float, y: float, rx: float, ry: float) -> Pixels:
        """Distance to an ellipse, about right near its edge."""
        return ellipse(self.x - np.float32(x), self.y - np.float32(y), rx, ry)

    def box(self, x: float, y: float, rx: float, ry: float, taper: float = 0.0) -> Pixels:
        """Distance to an upright box; taper: how much wider (narrower below 0) its lower edge is, as a share."""
        u, v = self.x - np.float32(x), self.y - np.float32(y)
        half = np.float32(rx) * (1 + v * np.float32(taper / ry)) if taper else np.float32(rx)
        return np.maximum(np.abs(u) - half, np.abs(v) - np.float32(ry))

    def line(self, x0: float, y0: float, x1: float, y1: float, width: float) -> Pixels:
        """Distance to a line with round ends; width: half of its thickness."""
        dx, dy = x1 - x0, y1 - y0
        u, v = self.x - np.float32(x0), self.y - np.float32(y0)
        along = ((u * np.float32(dx) + v * np.float32(dy)) * np.float32(1 / (dx * dx + dy * dy))).clip(0, 1)
        across, down = u - along * np.float32(dx), v - along * np.float32(dy)
        return np.sqrt(across * across + down * down) - np.float32(width)


def _ring(distance: Pixels, width: float) -> Pixels:
    """Distance to the outline of a shape; width: half of its thickness."""
    return np.abs(distance) - np.float32(width)


# --- ten things: each takes the pen, its random numbers, and a main, a second and a dark colour -----------------------


def _mug(p: _Pen, d: Draws, main: Colour, second: Colour, dark: Colour) -> None:
    height, width, side = d.uniform(0.5, 0.75), d.uniform(0.42, 0.6), 0.62
    p.fill(_ring(p.ellipse(width + 0.02, 0.05, 0.3, height * side), 0.08), main)
    p.fill(p.box(0, 0.05, width, height, d.uniform(-0.12, 0.0)), main)
    p.fill(p.box(0, d.uniform(-0.1, 0.3), width * 0.98, d.uniform(0.05, 0.2)), second)
    p.fill(p.ellipse(0, 0.05 - height, width, 0.14), dark)


def _bottle(p: _Pen, d: Draws, main: Colour, second: Colour, dark: Colour) -> None:
    width, neck = d.uniform(0.26, 0.38), d.uniform(0.08, 0.13)
    shoulder = d.uniform(-0.35, -0.1)
    p.fill(p.box(0, -0.6, neck, 0.3), main)
    p.fill(p.ellipse(0, shoulder, width, 0.3), main)
    p.fill(p.box(0, (0.95 + shoulder) / 2, width, (0.95 - shoulder) / 2), main)
    p.fill(p.box(0, d.uniform(0.25, 0.5), width, d.uniform(0.14, 0.26)), second)
    p.fill(p.box(0, -0.9, neck + 0.02, 0.08), dark)


def _lamp(p: _Pen, d: Draws, main: Colour, second: Colour, dark: Colour) -> None:
    p.fill(p.box(0, 0.3, d.uniform(0.03, 0.07), 0.55), dark)
    p.fill(p.ellipse(0, 0.86, d.uniform(0.3, 0.42), 0.09), dark)
    p.fill(p.box(0, -0.45, d.uniform(0.38, 0.5), d.uniform(0.3, 0.42), d.uniform(0.3, 0.6)), main)


def _clock(p: _Pen, d: Draws, main: Colour, second: Colour, dark: Colour) -> None:
    p.fill(p.ellipse(0, 0, 0.88, 0.88), main)
    p.fill(p.ellipse(0, 0, 0.72, 0.72), second)
    for reach, width in ((0.38, 0.06), (0.56, 0.04)):
        c, s = cos_sin(d.uniform(-2.5, 2.5))
        p.fill(p.line(0, 0, reach * c, reach * s, width), dark)
    for x, y in ((0, -0.6), (0.6, 0), (0, 0.6), (-0.6, 0)):
        p.fill(p.ellipse(x, y, 0.06, 0.06), dark)


def _umbrella(p: _Pen, d: Draws, main: Colour, second: Colour, dark: Colour) -> None:
    p.fill(p.box(0, 0.2, 0.035, 0.65), dark)
    hook = np.maximum(_ring(p.ellipse(0.14, 0.82, 0.14, 0.14), 0.035), np.float32(0.8) - p.y)
    p.fill(hook, dark)
    low = d.uniform(-0.1, 0.05)
    dome = np.maximum(p.ellipse(0, low, 0.92, d.uniform(0.7, 0.9)), p.y - np.float32(low))
    p.fill(dome, main)
    p.fill(np.maximum(dome, p.ellipse(0, low, 0.34, 0.95)), second)
    for x in (-0.62, 0.0, 0.62):
        p.fill(p.ellipse(x, low + 0.03, 0.31, 0.11), dark if d.chance(0.5) else second)


def _key(p: _Pen, d: Draws, main: Colour, second: Colour, dark: Colour) -> None:
    bow = d.uniform(0.26, 0.36)
    p.fill(_ring(p.ellipse(-0.55, 0, bow, bow * d.uniform(0.8, 1.1)), d.uniform(0.07, 0.12)), main)
    p.fill(p.box(0.3, 0, 0.62, 0.07), main)
    for x in (0.45, 0.63, 0.81)[: 2 + d.chance(0.6)]:
        p.fill(p.box(x, 0.16, 0.055, d.uniform(0.1, 0.2)), main)


def _chair(p: _Pen, d: Draws, main: Colour, second: Colour, dark: Colour) -> None:
    legs, lean = d.uniform(0.04, 0.065), d.uniform(0.1, 0.3)
    for x in (-0.42 + lean, 0.38 + lean):
        p.fill(p.box(x, 0.35, legs, 0.35), dark)
        p.fill(p.box(x, -0.45, legs, 0.5), main)
    for y in (-0.8, -0.5, -0.2)[: 2 + d.chance(0.5)]:
        p.fill(p.box(-0.02 + lean, y, 0.42, 0.07), main)
    for x in (-0.5, 0.3):
        p.fill(p.box(x, 0.55, legs, 0.4), dark)
    p.fill(p.line(-0.44, 0.12, 0.3 + lean, 0.06, d.uniform(0.1, 0.14)), second)


def _scissors(p: _Pen, d: Draws, main: Colour, second: Colour, dark: Colour) -> None:
    open_by = d.uniform(0.15, 0.4)
    for side in (-1, 1):
        p.fill(p.line(0.28 * side, 0.4, -open_by * side, -0.9, 0.065), second)
        p.fill(_ring(p.ellipse(0.36 * side, 0.64, 0.25, 0.28), 0.075), main)
    p.fill(p.ellipse(0, 0.02, 0.06, 0.06), dark)


def _car(p: _Pen, d: Draws, main: Colour, second: Colour, dark: Colour) -> None:
    top = d.uniform(-0.48, -0.3)
    p.fill(p.box(d.uniform(-0.15, 0.1), top + 0.18, 0.5, 0.27, 0.25), main)
    p.fill(p.box(-0.02, top + 0.2, 0.4, 0.16, 0.2), second)
    p.fill(p.box(-0.02, top + 0.2, 0.03, 0.18), main)
    p.fill(p.box(0, 0.2, 0.93, 0.22), main)
    wheel = d.uniform(0.2, 0.26)
    for x in (-0.52, 0.54):
        p.fill(p.ellipse(x, 0.42, wheel, wheel), dark)
        p.fill(p.ellipse(x, 0.42, wheel * 0.45, wheel * 0.45), second)


def _tree(p: _Pen, d: Draws, main: Colour, second: Colour, dark: Colour) -> None:
    p.fill(p.box(0, 0.6, d.uniform(0.07, 0.13), 0.36, 0.2), dark)
    if d.chance(0.5):  # a fir of three tiers
        for y, rx in ((-0.6, 0.3), (-0.22, 0.44), (0.16, 0.58)):
            p.fill(p.box(0, y, rx * 0.55, 0.28, 0.85), main)
        return
    shaded = (0.75 * main[0], 0.75 * main[1], 0.75 * main[2])
    for _ in range(7):
        x, y, r = d.uniform(-0.45, 0.45), d.uniform(-0.65, 0.05), d.uniform(0.25, 0.4)
        p.fill(p.ellipse(x, y, r, r), main if d.chance(0.6) else shaded)


_ALL = (_mug, _bottle, _lamp, _clock, _umbrella, _key, _chair, _scissors, _car, _tree)
_DRAWERS: dict[str, Callable] = {drawer.__name__[1:]: drawer for drawer in _ALL}
THINGS = tuple(_DRAWERS)
OBJECT = Task("object", "multiclass", THINGS)


# --- the picture -----------------------------------------------------------------------------------------------------


def _draw(seed: int, number: int, size: int) -> Picture:
    """Picture `number` and its labels."""
    d = Draws(seed, _STREAM, number)
    name = THINGS[int(d.uniform(0, len(THINGS)))]
    back = _bright(d, d.uniform(0.2, 0.95), d.uniform(0.0, 0.5))
    image = _background(Draws(seed, _STREAM, number, 1), back, size)
    _others(Draws(seed, _STREAM, number, 2), image, d.uniform(0.06, 0.2), int(d.uniform(0, 6)))
    main, second, dark = _colours(d, back)
    pen = _posed(d, image)
    _shadow(d, image)
    _DRAWERS[name](pen, Draws(seed, _STREAM, number, 3), main, second, dark)
    if d.chance(0.25):  # something in front
        _others(Draws(seed, _STREAM, number, 4), image, 0.18, 1)
    _camera(Draws(seed, _STREAM, number, 5), image)
    return to_bytes(image), {"object": name, "number": number}


def _bright(d: Draws, brightness: float, saturation: float) -> Colour:
    """A colour of any hue: three random parts, brought to a brightness and a saturation."""
    parts = [d.uniform(0, 1) for _ in range(3)]
    low, high = min(parts), max(parts)
    spread = max(high - low, 1e-3)
    red, green, blue = (brightness * (1 - saturation * (high - part) / spread) for part in parts)
    return red, green, blue


def _colours(d: Draws, back: Colour) -> tuple[Colour, Colour, Colour]:
    """Main, second and dark colour of a thing; the main one is lighter or darker than the background."""
    level = sum(back) / 3
    brightness = d.uniform(0.15, level - 0.22) if level > 0.55 else d.uniform(level + 0.3, 1.0)
    main = _bright(d, min(max(brightness * 1.15, 0.2), 1.0), d.uniform(0.15, 0.9))
    second = _bright(d, d.uniform(0.3, 1.0), d.uniform(0.0, 0.7))
    return main, second, _bright(d, d.uniform(0.05, 0.3), d.uniform(0.0, 0.6))


def _background(d: Draws, colour: Colour, size: int) -> Pixels:
    """A wall, a pattern or a room with a floor, with uneven light."""
    x, y = axes(size)
    other = _bright(d, d.uniform(0.2, 0.95), d.uniform(0.0, 0.5))
    kind, share = d.uniform(0, 3), np.float32(d.uniform(0.1, 0.5))
    noise = value_noise(d.noise(7, 7), size, size)
    if kind < 1:
        mix = smoothstep(noise * 2) * share
    elif kind < 2:
        c, s = cos_sin(d.uniform(-1.5, 1.5))
        stripes = (x * np.float32(c) + y * np.float32(s)) * np.float32(d.uniform(1.5, 5))
        mix = smoothstep((np.abs(stripes - np.floor(stripes) - np.float32(0.5)) - np.float32(0.25)) * 8) * share
    else:
        mix = smoothstep((y - np.float32(d.uniform(0.0, 0.6))) * 20 + noise * np.float32(0.3)) * (share + 0.3)
    light = (
        1 + np.float32(0.08) * noise + np.float32(d.uniform(-0.15, 0.15)) * x + np.float32(d.uniform(-0.15, 0.15)) * y
    )
    image = np.empty((3, size, size), np.float32)
    for plane, one, two in zip(image, colour, other, strict=True):
        plane[:] = (one + mix * np.float32(two - one)) * light
    return image


def _others(d: Draws, image: Pixels, reach: float, how_many: int) -> None:
    """Discs, bars and boxes that belong to nothing."""
    size = image.shape[1]
    x, y = axes(size)
    for _ in range(how_many):
        c, s = cos_sin(d.uniform(-1.5, 1.5))
        a, b = x - np.float32(d.uniform(-1, 1)), y - np.float32(d.uniform(-1, 1))
        pen = _Pen(image, a * c + b * s, b * c - a * s, 2 / size, np.float32(1))
        kind, rx, ry = d.uniform(0, 3), reach * d.uniform(0.5, 1.3), reach * d.uniform(0.5, 1.3)
        colour = _bright(d, d.uniform(0.2, 1.0), d.uniform(0.0, 0.8))
        shape = pen.ellipse(0, 0, rx, ry) if kind < 1 else pen.box(0, 0, rx, ry if kind < 2 else 0.03)
        pen.fill(_ring(shape, 0.025) if kind < 0.4 else shape, colour)


def _posed(d: Draws, image: Pixels) -> _Pen:
    """A pen for a thing that is moved, turned, scaled, stretched and perhaps mirrored, under a light from one side."""
    size = image.shape[1]
    x, y = axes(size)
    scale, stretch = d.uniform(0.42, 0.85), d.uniform(0.85, 1.18)
    room = 1.05 - scale
    a, b = x - np.float32(d.uniform(-room, room)), y - np.float32(d.uniform(-room, room))
    c, s = cos_sin(d.normal(0, 0.28))
    mirror = -1.0 if d.chance(0.5) else 1.0
    u = (a * np.float32(c) + b * np.float32(s)) * np.float32(mirror * stretch / scale)
    v = (b * np.float32(c) - a * np.float32(s)) * np.float32(1 / (stretch * scale))
    light = (1 + np.float32(d.uniform(-0.25, 0.25)) * u + np.float32(d.uniform(-0.2, 0.2)) * v).clip(0.6, 1.4)
    return _Pen(image, u, v, 2 / (size * scale), light)


def _shadow(d: Draws, image: Pixels) -> None:
    """Half of the pictures are darker on one side, as if something stood before the lamp."""
    if d.chance(0.5):
        return
    x, y = axes(image.shape[1])
    c, s = cos_sin(d.uniform(-1.5, 1.5))
    edge = smoothstep((x * np.float32(c) + y * np.float32(s) + np.float32(d.uniform(-0.6, 0.6))) * 3)
    image *= 1 - edge * np.float32(d.uniform(0.1, 0.35))


def _camera(d: Draws, image: Pixels) -> None:
    """Exposure, a cast, blur and noise."""
    amount, exposure, grain = d.uniform(0.0, 0.25), d.uniform(0.8, 1.15), d.uniform(0.01, 0.06)
    for plane, cast in zip(image, (1 + d.uniform(-0.08, 0.08), 1.0, 1 + d.uniform(-0.08, 0.08)), strict=True):
        plane[:] = blur(plane, amount) * np.float32(exposure * cast)
    image += np.float32(grain) * d.noise(image.shape[1], image.shape[1])

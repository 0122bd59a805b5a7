"""The drawing board: shapes are painted only inside their own bounding window, in float32.

Pixels are made with +, -, *, / and sqrt alone. IEEE 754 rounds each of these exactly, so the same seed gives the same
picture on every processor (exp, sin or a matrix product would differ in the last bit between libraries). Every
shape has compact support, so cutting it to its window loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor

import numpy as np

Pixels = np.ndarray  # float32
Window = tuple[slice, slice]


def cos_sin(angle: float) -> tuple[float, float]:
    """Cosine and sine of an angle between -2.5 and 2.5 radians, as polynomials.

    Wrong by up to 1e-6, but the same everywhere, which those of the system's mathematical library are not.
    """
    x = angle * angle
    cosine = 1 - x / 2 * (1 - x / 12 * (1 - x / 30 * (1 - x / 56 * (1 - x / 90 * (1 - x / 132 * (1 - x / 182))))))
    sine = 1 - x / 6 * (1 - x / 20 * (1 - x / 42 * (1 - x / 72 * (1 - x / 110 * (1 - x / 156 * (1 - x / 210))))))
    return cosine, angle * sine


def rgb(red: float, green: float, blue: float) -> Pixels:
    """A colour in [0, 1], shape (3, 1, 1), so that it broadcasts over pixels."""
    return np.array([[[red]], [[green]], [[blue]]], np.float32)


def smoothstep(values: Pixels) -> Pixels:
    """0 below 0, 1 above 1, and a smooth cubic between."""
    t = values.clip(0, 1)
    return t * t * (3 - 2 * t)


def squircle(u: Pixels, v: Pixels, squareness: float) -> Pixels:
    """Distance of (u, v) to a circle of radius 1, by whose squareness (0 … 1) it is a rounded square."""
    uu, vv = u * u, v * v
    round_, square = np.sqrt(uu + vv), np.sqrt(np.sqrt(uu * uu + vv * vv))
    return round_ + np.float32(squareness) * (square - round_) - 1


@lru_cache(maxsize=4)
def axes(size: int) -> tuple[Pixels, Pixels]:
    """x (1, size) and y (size, 1) of the pixels' middles, -1 … 1."""
    axis = ((np.arange(size) + 0.5) * (2 / size) - 1).astype(np.float32)
    return axis[None], axis[:, None]


def ellipse(x: Pixels, y: Pixels, rx: float, ry: float) -> Pixels:
    """Signed distance, about right near the edge, to an ellipse with half-sizes rx, ry around the origin."""
    u, v = x * np.float32(1 / rx), y * np.float32(1 / ry)
    return (np.sqrt(u * u + v * v) - 1) * np.float32(min(rx, ry))


@lru_cache(maxsize=64)
def _lattice(size: int, cells: int, phase: float) -> tuple[np.ndarray, Pixels]:
    """For each of `size` pixels: the lattice point before it and the smoothed fraction of the way to the next."""
    at = (np.arange(size) + 0.5) / size * (cells - 2) + phase
    before = np.floor(at).astype(np.int64)
    return before, smoothstep((at - before).astype(np.float32))


def value_noise(points: Pixels, height: int, width: int) -> Pixels:
    """A coarse lattice (rows, columns) of random values, interpolated smoothly to (height, width) pixels."""
    rows, down = _lattice(height, points.shape[0], 0.0)
    columns, right = _lattice(width, points.shape[1], 0.0)
    lines = points[rows] + down[:, None] * (points[rows + 1] - points[rows])
    left = lines[:, columns]
    return left + right * (lines[:, columns + 1] - left)


@dataclass(slots=True)
class Patch:
    """The window of one shape: (u, v) are its own coordinates, -1 … 1 from edge to edge, rotated with it.

    at: rows and columns in the picture. rx, ry: its half-sizes in face units. pixel: width of a pixel in face units.
    """

    at: Window
    u: Pixels
    v: Pixels
    rx: float
    ry: float
    pixel: float

    def inside(self, distance: Pixels, soft: float = 1.0) -> Pixels:
        """Coverage in [0, 1] from a signed distance in face units (negative inside), antialiased over `soft` pixels."""
        return (0.5 - distance * (1 / (self.pixel * soft))).clip(0, 1)

    def ellipse(self, soft: float = 1.0) -> Pixels:
        """Coverage of the ellipse that fills the patch."""
        return self.inside((np.sqrt(self.u * self.u + self.v * self.v) - 1) * min(self.rx, self.ry), soft)

    def bump(self) -> Pixels:
        """A smooth hill: 1 in the middle, 0 with zero slope on the ellipse that fills the patch."""
        hill = (1 - self.u * self.u - self.v * self.v).clip(0, 1)
        return hill * hill


class Canvas:
    """A square picture seen by one camera, with drawing in face coordinates.

    Face coordinates: x to the right, y down, in units of half the picture at zoom 1, origin in the middle of the face.
    image: (3, size, size) float32 in [0, 1]. height: (size, size) float32, the relief of the face towards the viewer.
    """

    def __init__(self, size: int, zoom: float = 1.0, roll: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)):
        self.size, self.zoom, self.roll, self.shift = size, zoom, roll, shift
        self.pixel = 2 / (size * zoom)
        self.turn = cos_sin(roll)
        self.axis = axes(size)[0][0]
        self.image = np.zeros((3, size, size), np.float32)
        self.height = np.zeros((size, size), np.float32)

    def layer(self) -> Canvas:
        """An empty canvas seen by the same camera."""
        return Canvas(self.size, self.zoom, self.roll, self.shift)

    def patch(self, x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> Patch:
        """The window around a rectangle at (x, y) with half-sizes rx, ry, rotated by `angle` (radians, clockwise)."""
        c, s = self.turn
        middle_x = self.shift[0] + self.zoom * (x * c - y * s)
        middle_y = self.shift[1] + self.zoom * (x * s + y * c)
        c, s = cos_sin(self.roll + angle) if angle else self.turn
        half_width = self.zoom * (rx * abs(c) + ry * abs(s)) + 3 / self.size
        half_height = self.zoom * (rx * abs(s) + ry * abs(c)) + 3 / self.size
        columns = self._span(middle_x, half_width)
        rows = self._span(middle_y, half_height)
        across, down = self.axis[columns] - np.float32(middle_x), self.axis[rows] - np.float32(middle_y)
        kx, ky = 1 / (self.zoom * rx), 1 / (self.zoom * ry)
        down = down[:, None]
        u = down * np.float32(s * kx) + across * np.float32(c * kx)
        v = down * np.float32(c * ky) + across * np.float32(-s * ky)
        return Patch((rows, columns), u, v, rx, ry, self.pixel)

    def _span(self, middle: float, half: float) -> slice:
        """Pixels from middle - half to middle + half, cut at the border."""
        first = floor((middle - half + 1) / 2 * self.size)
        last = ceil((middle + half + 1) / 2 * self.size)
        return slice(min(max(first, 0), self.size), max(min(last, self.size), 0))

    def paint(self, patch: Patch, mask: Pixels, colour: Pixels) -> None:
        """Covers with a colour (3, 1, 1) or with pixels (3, h, w), as far as the mask (h, w) says."""
        region = self.image[:, patch.at[0], patch.at[1]]
        region += mask * (colour - region)

    def cover(self, patch: Patch, mask: Pixels, planes: Iterable[Pixels]) -> None:
        """The same for large patches: red, green and blue (h, w) one after the other.

        Arrays the size of one plane stay in the processor's fast memory, and the allocator hands them out again, where
        larger ones come from the system each time: a quarter of the time at 160 pixels.
        """
        for old, new in zip(self.image[:, patch.at[0], patch.at[1]], planes, strict=True):
            step = new - old
            step *= mask
            old += step

    def tint(self, patch: Patch, mask: Pixels, factor: Pixels) -> None:
        """Multiplies the colour by `factor` where the mask is 1; darkens, blushes or lightens what is there."""
        change = mask * (factor - 1)
        change += 1
        region = self.image[:, patch.at[0], patch.at[1]]
        region *= change

    def lift(self, patch: Patch, shape: Pixels, amount: float) -> None:
        """Adds `amount` (face units) times the shape to the relief."""
        self.height[patch.at] += shape * np.float32(amount)

    def mound(
        self, x: float, y: float, rx: float, ry: float, amount: float, colour: Pixels | None = None, angle: float = 0.0
    ) -> None:
        """Raises a smooth hill (below 0: sinks a hollow) with these half-sizes, and tints it with a colour."""
        patch = self.patch(x, y, rx, ry, angle)
        shape = patch.bump()
        self.lift(patch, shape, amount)
        if colour is not None:
            self.tint(patch, shape, colour)

    def stroke(
        self, x: float, y: float, half_length: float, thickness: float, angle: float = 0.0, bend: float = 0.0
    ) -> tuple[Patch, Pixels]:
        """A line that tapers to both ends: patch and mask. bend: how far its ends lie below its middle."""
        thickness, strength = max(thickness, self.pixel), min(thickness / self.pixel, 1)
        patch = self.patch(x, y + bend / 2, half_length, thickness + abs(bend), angle)
        along = (1 - patch.u * patch.u).clip(0, 1)
        off = patch.v * np.float32(patch.ry) + np.float32(bend) * (along - 0.5)
        return patch, (1 - np.abs(off) * np.float32(1 / thickness)).clip(0, 1) * along * np.float32(strength)


def gradient(height: Pixels, pixel: float) -> tuple[Pixels, Pixels]:
    """Slopes of a relief to the right and downwards (central differences, edges repeated)."""
    right, down = np.zeros_like(height), np.zeros_like(height)
    scale = np.float32(0.5 / pixel)
    right[:, 1:-1] = (height[:, 2:] - height[:, :-2]) * scale
    down[1:-1] = (height[2:] - height[:-2]) * scale
    return right, down


def blur(plane: Pixels, amount: float) -> Pixels:
    """Binomial blur over 3 × 3 pixels of (H, W): 0 leaves the plane, 0.25 is the kernel (1, 2, 1) / 4. Edges repeat."""
    keep, give = np.float32(1 - 2 * amount), np.float32(amount)
    rows = plane * keep
    side = plane * give
    rows[1:] += side[:-1]
    rows[:-1] += side[1:]
    rows[0] += side[0]
    rows[-1] += side[-1]
    out = rows * keep
    rows *= give
    out[:, 1:] += rows[:, :-1]
    out[:, :-1] += rows[:, 1:]
    out[:, 0] += rows[:, 0]
    out[:, -1] += rows[:, -1]
    return out

"""Sets of drawn pictures: what the renderers of the three domains (lesions, objects, words) have in common.

A picture is a function of a seed and its number alone. Which side it is on follows from a key, by content hash as in
every set, so it depends neither on how many there are nor on the order in which they are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count, takewhile
from operator import index

import numpy as np
import pandas as pd

from facekit import settings
from facekit.data.portraits.canvas import Pixels, smoothstep
from facekit.data.sets import SPLITS, FaceSet
from facekit.data.splits import split_by_content
from facekit.errors import ConfigError

FRACTIONS = (0.70, 0.15, 0.15)
SMALLEST, LARGEST = 16, 1024
Picture = tuple[Pixels, dict]  # float32 (3, H, W) in [0, 1], and its labels


def drawn_set(
    n: int | Sequence[int],
    size: int | tuple[int, int],
    key: Callable[[int], str],
    draw: Callable[[int], Picture],
    about: dict,
) -> FaceSet:
    """Draws the first pictures of a series as a FaceSet: columns of `draw`, `number`, `split` (70 / 15 / 15 %).

    n: how many, or how many in train, validation and test. size: the side in pixels, or (height, width). key: number of
    a picture to the text that its side follows from; pictures with the same key are on the same side. Raises
    ConfigError for impossible numbers and sizes.
    """
    sizes = checked_sizes(n)
    height, width = checked_shape(size)
    numbers = range(sizes) if isinstance(sizes, int) else _numbers_by_split(sizes, key)
    images = np.empty((len(numbers), 3, height, width), np.uint8)
    rows = []
    for position, number in enumerate(settings.progress(numbers, desc="drawing", unit="picture")):
        pixels, labels = draw(number)
        images[position] = to_bytes(pixels)
        rows.append(labels)
    labels = pd.DataFrame(rows)
    labels["number"] = list(numbers)
    labels["split"] = split_by_content([key(number) for number in numbers], FRACTIONS)
    return FaceSet(images, labels, {"licence": "MIT", "datasheet": "datasets/drawn/README.md", **about})


def _numbers_by_split(sizes: Sequence[int], key: Callable[[int], str]) -> list[int]:
    """The first pictures of the series that fill every split to its size."""
    left = dict(zip(SPLITS, sizes, strict=True))
    numbers: list[int] = []
    for number in takewhile(lambda _: any(left.values()), count()):
        if number > 20 * (sum(sizes) + 50):  # as many as that have no other key: a small alphabet's strings
            raise ConfigError(f"too few different pictures to fill {sizes}; ask for more variety or fewer of them.")
        split = split_by_content([key(number)], FRACTIONS)[0]
        if left[split]:
            left[split] -= 1
            numbers.append(number)
    return numbers


def checked_sizes(n: int | Sequence[int]) -> int | list[int]:
    """The wanted number, or one for each split, as plain integers; raises ConfigError for anything else."""
    try:
        sizes = [index(part) for part in (n if isinstance(n, Iterable) else [n])]
    except TypeError:
        sizes = []
    if len(sizes) != (len(SPLITS) if np.ndim(n) else 1) or min(sizes) < 0 or not any(sizes):
        raise ConfigError(f"{n} pictures: give a number above 0, or three for {', '.join(SPLITS)}, none negative.")
    return sizes if np.ndim(n) else sizes[0]


def checked_shape(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width in pixels; raises ConfigError where a side is too small or too large to draw on."""
    try:
        height, width = map(index, size if isinstance(size, Iterable) else (size, size))
    except (TypeError, ValueError):
        raise ConfigError(f"size {size!r}: give whole pixels, one number or a height and a width.") from None
    if not (SMALLEST <= height <= LARGEST and SMALLEST <= width <= LARGEST):
        raise ConfigError(f"pictures of {height} × {width} pixels cannot be drawn; use {SMALLEST} to {LARGEST}.")
    return height, width


def to_bytes(image: Pixels) -> np.ndarray:
    """Values in [0, 1] to uint8, rounded; what is outside is cut. The image is used up."""
    np.clip(image, 0, 1, out=image)
    image *= 255
    image += np.float32(0.5)
    return image.astype(np.uint8)


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

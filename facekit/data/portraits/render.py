"""Rendered portraits as a FaceSet: what can be asked for, the labels, the splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count, takewhile
from operator import index

import numpy as np
import pandas as pd

from facekit import settings
from facekit.data.portraits.light import STYLES
from facekit.data.portraits.people import Share, read_shares
from facekit.data.portraits.picture import Series
from facekit.data.portraits.workers import WORTHWHILE, Picture, paint
from facekit.data.sets import SPLITS, FaceSet
from facekit.data.splits import split_by_content
from facekit.errors import ConfigError
from facekit.settings import cores
from facekit.tasks import age_band

# Raised whenever the same seed gives other pixels or labels than before.
VERSION = 1
SMALLEST, LARGEST = 32, 1024
FRACTIONS = (0.70, 0.15, 0.15)


def render_portraits(
    n: int | Sequence[int],
    seed: int = 0,
    size: int = 160,
    style: str = "photo",
    attributes: Mapping[str, str | Sequence[str] | Share] | None = None,
    per_person: int = 4,
    workers: int | None = None,
) -> FaceSet:
    """Renders `n` portraits of `size` × `size` pixels, with exact labels and fixed splits, as a FaceSet.

    n: how many, or how many in train, validation and test. style: `photo` or `sketch`; the same seed gives the same
    people, poses and labels in both. attributes: what to draw, as a label, several labels, or shares by label, for
    gender, skin_tone, age, expression or glasses (see `people.read_shares`). per_person: pictures of each identity,
    one after the other. workers: processes, by default one a core where that pays.

    Every picture depends on seed, size, style, attributes, per_person and its number in the series alone: not on n,
    the workers or the processor. Splits (70 / 15 / 15 %) are by identity: a person's pictures are all on one side.

    Labels: gender, skin_tone (Monk scale, "1" … "10"), age (band), age_years, expression, glasses ("no", "yes"), yaw,
    pitch and roll (degrees; positive turns to the picture's right, nods down, tilts clockwise), identity, split.
    Raises ConfigError for impossible arguments.
    """
    n = _sizes(n)
    _check(seed, size, style, per_person, workers)
    series = Series(seed, size, style, read_shares(attributes), per_person)
    numbers = range(n) if isinstance(n, int) else _numbers_by_split(series, n)
    images = np.empty((len(numbers), 3, size, size), np.uint8)
    rows: list[dict] = [{}] * len(numbers)
    with settings.progress(total=len(numbers), desc="rendering", unit="portrait") as bar:

        def done(position: int, picture: Picture) -> None:
            images[position], rows[position] = picture
            bar.update(1)

        paint(series, numbers, done, workers or (cores() if images.size >= 3 * WORTHWHILE else 1))
    labels = pd.DataFrame(rows)
    labels.insert(2, "age", age_band(labels["age_years"]))
    labels["split"] = split_by_content(labels["identity"], FRACTIONS)
    return FaceSet(images, labels, _about(series, n))


def _numbers_by_split(series: Series, sizes: Sequence[int]) -> list[int]:
    """The first pictures of the series that fill every split to its size."""
    left = dict(zip(SPLITS, sizes, strict=True))
    numbers: list[int] = []
    for person in takewhile(lambda _: any(left.values()), count()):
        split = split_by_content([series.identity(person)], FRACTIONS)[0]
        take = min(series.per_person, left[split])
        left[split] -= take
        numbers += range(person * series.per_person, person * series.per_person + take)
    return numbers


def _about(series: Series, n: int | list[int]) -> dict:
    """The manifest: where the pictures come from and how to make them again."""
    return {
        "source": "portraits rendered by facekit; they show nobody",
        "licence": "MIT",
        "datasheet": "datasets/portraits/README.md",
        "generator": {"name": "facekit.data.portraits", "version": VERSION},
        "request": {
            "n": n,
            "seed": series.seed,
            "size": series.size,
            "style": series.style,
            "attributes": series.shares,
            "per_person": series.per_person,
        },
    }


def _sizes(n: int | Sequence[int]) -> int | list[int]:
    """The wanted number, or one for each split, as plain integers; raises ConfigError for anything else."""
    try:
        sizes = [index(part) for part in (n if isinstance(n, Iterable) else [n])]
    except TypeError:
        sizes = []
    if len(sizes) != (len(SPLITS) if np.ndim(n) else 1) or min(sizes) < 0:
        raise ConfigError(f"{n} portraits: give a number, or three for {', '.join(SPLITS)}, none of them negative.")
    if not any(sizes):
        raise ConfigError("0 portraits cannot be rendered; ask for 1 or more.")
    return sizes if np.ndim(n) else sizes[0]


def _check(seed: int, size: int, style: str, per_person: int, workers: int | None) -> None:
    """Raises ConfigError for the first argument that cannot be used."""
    if seed < 0:
        raise ConfigError(f"seed {seed} is negative; use 0 or more.")
    if not SMALLEST <= size <= LARGEST:
        raise ConfigError(f"portraits of {size} pixels cannot be rendered; use {SMALLEST} to {LARGEST}.")
    if style not in STYLES:
        raise ConfigError(f"unknown style {style!r}; use {' or '.join(STYLES)}.")
    if per_person < 1 or (workers is not None and workers < 1):
        raise ConfigError(f"per_person {per_person} and workers {workers} must be 1 or more.")

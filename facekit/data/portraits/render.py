"""Rendered portraits as a FaceSet: who is in which picture, the labels, the splits, and who does the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import degrees
from typing import Literal

import numpy as np
import pandas as pd

from facekit import settings
from facekit.data.pack import cores
from facekit.data.portraits import features, light, scene
from facekit.data.portraits.canvas import Canvas, Pixels
from facekit.data.portraits.people import Person, Share, Sitting, draw_person, draw_sitting, read_shares
from facekit.data.sets import FaceSet
from facekit.data.splits import split_by_content
from facekit.errors import ConfigError
from facekit.tasks import age_band

Style = Literal["photo", "sketch"]
# Raised whenever the same seed gives other pixels or labels than before.
VERSION = 1
SMALLEST, LARGEST = 32, 1024
FRACTIONS = (0.70, 0.15, 0.15)
# Pictures that a thread makes at a time.
CHUNK = 16


def render_portraits(
    n: int,
    seed: int = 0,
    size: int = 160,
    style: Style = "photo",
    attributes: Mapping[str, str | Sequence[str] | Share] | None = None,
    per_person: int = 4,
    workers: int | None = None,
) -> FaceSet:
    """Renders `n` portraits of `size` × `size` pixels, with exact labels and fixed splits, as a FaceSet.

    style: `photo` or `sketch`; the same seed gives the same people, poses and labels in both. attributes: what to
    draw, as a label, several labels or shares by label, for gender, skin_tone, age, expression or glasses (see
    `people.read_shares`). per_person: pictures of each identity, one after the other. workers: threads, by default
    one a core.

    Picture i depends on seed, size, style, attributes, per_person and i alone: not on n, the workers or the
    processor. The splits (70 / 15 / 15 %) are by identity: all pictures of a person are on one side.

    Labels: gender, skin_tone (Monk scale, "1" … "10"), age (band), age_years, expression, glasses ("no", "yes"), yaw,
    pitch and roll (degrees; positive turns to the right of the picture, nods down, tilts clockwise), identity, split.
    Raises ConfigError for impossible arguments.
    """
    _check(n, seed, size, style, per_person, workers)
    shares = read_shares(attributes)
    images = np.empty((n, 3, size, size), np.uint8)
    rows: list[dict] = [{}] * n
    starts = range(0, n, CHUNK)
    with (
        ThreadPoolExecutor(min(workers or cores(), len(starts))) as pool,
        settings.progress(total=n, desc="rendering", unit="portrait") as bar,
    ):

        def fill(start: int) -> int:
            stop = min(start + CHUNK, n)
            for number in range(start, stop):
                person = draw_person(seed, number // per_person, shares)
                sitting = draw_sitting(seed, number, person, shares)
                rows[number] = _labels(person, sitting, f"{seed}-{number // per_person:06d}")
                images[number] = draw(person, sitting, size, style)
            return stop - start

        for done in pool.map(fill, starts):
            bar.update(done)
    labels = pd.DataFrame(rows)
    labels.insert(2, "age", age_band(labels["age_years"]))
    labels["split"] = split_by_content(labels["identity"], FRACTIONS)
    return FaceSet(images, labels, _about(seed, size, style, shares, per_person))


def draw(person: Person, sitting: Sitting, size: int, style: Style) -> Pixels:
    """One picture, uint8 (3, size, size). The sitting's random stream is used up: draw it anew for another picture."""
    canvas = Canvas(size, sitting.zoom, sitting.roll, sitting.shift)
    face = features.anatomy(person, sitting)
    scene.backdrop(canvas, face)
    scene.back_hair(canvas, face)
    scene.neck(canvas, face)
    scene.clothes(canvas, face)
    scene.ears(canvas, face)
    front = canvas.layer()
    head, distance = features.draw_face(front, face)
    light.shade(front, face, head)
    canvas.paint(head, head.inside(distance, 1.5), front.image[:, head.at[0], head.at[1]])
    scene.front_hair(canvas, face)
    scene.glasses(canvas, face)
    image = light.STYLES[style](canvas, face)
    return (np.clip(image, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def _labels(person: Person, sitting: Sitting, identity: str) -> dict:
    return {
        "gender": person.gender,
        "skin_tone": person.skin_tone,
        "age_years": round(sitting.age, 2),
        "expression": sitting.expression,
        "glasses": "no" if sitting.spectacles is None else "yes",
        "yaw": round(degrees(sitting.yaw), 2),
        "pitch": round(degrees(sitting.pitch), 2),
        "roll": round(degrees(sitting.roll), 2),
        "identity": identity,
    }


def _about(seed: int, size: int, style: str, shares: Mapping[str, Share], per_person: int) -> dict:
    """The manifest: where the pictures come from and how to make them again."""
    return {
        "source": "portraits rendered by facekit; they show nobody",
        "licence": "MIT",
        "datasheet": "datasets/portraits/README.md",
        "generator": {"name": "facekit.data.portraits", "version": VERSION},
        "request": {"seed": seed, "size": size, "style": style, "attributes": shares, "per_person": per_person},
    }


def _check(n: int, seed: int, size: int, style: str, per_person: int, workers: int | None) -> None:
    """Raises ConfigError for the first argument that cannot be used."""
    if n < 1:
        raise ConfigError(f"{n} portraits cannot be rendered; ask for 1 or more.")
    if seed < 0:
        raise ConfigError(f"seed {seed} is negative; use 0 or more.")
    if not SMALLEST <= size <= LARGEST:
        raise ConfigError(f"portraits of {size} pixels cannot be rendered; use {SMALLEST} to {LARGEST}.")
    if style not in light.STYLES:
        raise ConfigError(f"unknown style {style!r}; use {' or '.join(light.STYLES)}.")
    if per_person < 1 or (workers is not None and workers < 1):
        raise ConfigError(f"per_person {per_person} and workers {workers} must be 1 or more.")

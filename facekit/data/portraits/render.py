"""Rendered portraits: from a seed to people, from a number to pixels and labels, and the whole as a FaceSet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import degrees

from facekit.data.portraits import features, light, scene
from facekit.data.portraits.canvas import Canvas, Pixels
from facekit.data.portraits.people import Person, Share, Sitting, age_band_at, read_shares
from facekit.data.rendering import rendered_set, to_bytes
from facekit.data.sets import FaceSet
from facekit.errors import ConfigError
from facekit.tasks import AGE_BANDS

# The version is raised whenever the same seed gives other pixels or labels than before.
ABOUT = {
    "source": "portraits rendered by facekit; they show nobody",
    "licence": "MIT",
    "datasheet": "datasets/portraits/README.md",
    "generator": {"name": "facekit.data.portraits", "version": 1},
}
SMALLEST = 32


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
    if style not in light.STYLES:
        raise ConfigError(f"unknown style {style!r}; use {' or '.join(light.STYLES)}.")
    if per_person < 1 or (workers is not None and workers < 1):
        raise ConfigError(f"per_person {per_person} and workers {workers} must be 1 or more.")
    series = Series(seed, size, style, read_shares(attributes), per_person)
    request = {"n": n, "seed": seed, "size": size, "style": style, "attributes": series.shares}
    request["per_person"] = per_person
    return rendered_set(series.identity, series.render, ABOUT, request, SMALLEST, per_person, workers)


@dataclass(frozen=True, eq=False)
class Series:
    """All portraits that one seed and one wish give, numbered from 0; none depends on how many are rendered."""

    seed: int
    size: int
    style: str
    shares: Mapping[str, Share]
    per_person: int

    def identity(self, number: int) -> str:
        """The name of the person in picture `number`."""
        return f"{self.seed}-{number // self.per_person:06d}"

    def render(self, number: int) -> tuple[Pixels, dict]:
        """Picture `number`: uint8 (3, size, size) and its labels."""
        person = _person(self, number // self.per_person)
        sitting = Sitting(self.seed, number, person, self.shares)
        years = round(sitting.age, 2)
        labels = {
            "gender": person.gender,
            "skin_tone": person.skin_tone,
            "age": AGE_BANDS[age_band_at(years)],
            "age_years": years,
            "expression": sitting.expression,
            "glasses": "no" if sitting.spectacles is None else "yes",
            "yaw": round(degrees(sitting.yaw), 2),
            "pitch": round(degrees(sitting.pitch), 2),
            "roll": round(degrees(sitting.roll), 2),
            "identity": self.identity(number),
        }
        return draw(person, sitting, self.size, self.style), labels


@lru_cache(maxsize=8)
def _person(series: Series, number: int) -> Person:
    return Person(series.seed, number, series.shares)


def draw(person: Person, sitting: Sitting, size: int, style: str) -> Pixels:
    """Paints a sitting from back to front, uint8 (3, size, size). Its random stream is used up: draw it but once."""
    canvas = Canvas(size, sitting.zoom, sitting.roll, sitting.shift)
    face = features.Anatomy(person, sitting)
    scene.backdrop(canvas, face)
    scene.back_hair(canvas, face)
    scene.neck(canvas, face)
    scene.clothes(canvas, face)
    scene.ears(canvas, face)
    front = canvas.layer()
    head, distance = features.draw_face(front, face)
    light.shade(front, face, head)
    canvas.cover(head, head.inside(distance, 1.5), front.image[:, head.at[0], head.at[1]])
    scene.front_hair(canvas, face)
    scene.glasses(canvas, face)
    return to_bytes(light.STYLES[style](canvas, face))

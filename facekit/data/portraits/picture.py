"""One portrait of a series: from its number to its pixels and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import degrees

import numpy as np

from facekit.data.portraits import features, light, scene
from facekit.data.portraits.canvas import Canvas, Pixels
from facekit.data.portraits.people import Person, Share, Sitting, draw_person, draw_sitting


@dataclass(frozen=True, eq=False)
class Series:
    """All portraits that one seed and one wish give, numbered from 0; none depends on how many are rendered."""

    seed: int
    size: int
    style: str
    shares: Mapping[str, Share]
    per_person: int

    def identity(self, person: int) -> str:
        """The name of a person of this series."""
        return f"{self.seed}-{person:06d}"

    def render(self, number: int) -> tuple[Pixels, dict]:
        """Picture `number`: uint8 (3, size, size) and its labels."""
        who = number // self.per_person
        person = _person(self, who)
        sitting = draw_sitting(self.seed, number, person, self.shares)
        labels = {
            "gender": person.gender,
            "skin_tone": person.skin_tone,
            "age_years": round(sitting.age, 2),
            "expression": sitting.expression,
            "glasses": "no" if sitting.spectacles is None else "yes",
            "yaw": round(degrees(sitting.yaw), 2),
            "pitch": round(degrees(sitting.pitch), 2),
            "roll": round(degrees(sitting.roll), 2),
            "identity": self.identity(who),
        }
        return draw(person, sitting, self.size, self.style), labels


@lru_cache(maxsize=8)
def _person(series: Series, number: int) -> Person:
    return draw_person(series.seed, number, series.shares)


def draw(person: Person, sitting: Sitting, size: int, style: str) -> Pixels:
    """Paints a sitting from back to front, uint8 (3, size, size). Its random stream is used up: draw it but once."""
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
    canvas.cover(head, head.inside(distance, 1.5), front.image[:, head.at[0], head.at[1]])
    scene.front_hair(canvas, face)
    scene.glasses(canvas, face)
    image = light.STYLES[style](canvas, face)
    np.clip(image, 0, 1, out=image)
    image *= 255
    image += np.float32(0.5)
    return image.astype(np.uint8)

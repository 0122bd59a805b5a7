"""Drawn pictures of the three domains beside faces: lesions on skin, things, words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from facekit.data.drawn.lesions import render_lesions
from facekit.data.drawn.objects import render_objects
from facekit.data.drawn.words import render_words
from facekit.data.sets import FaceSet

DomainName = Literal["lesions", "objects", "words"]
RENDERERS: dict[str, Callable[..., FaceSet]] = {
    "lesions": render_lesions,
    "objects": render_objects,
    "words": render_words,
}
DOMAINS = tuple(RENDERERS)

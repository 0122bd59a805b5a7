"""The three domains beside faces, as sets: the drawn ones of any size, and the real ones packed from photos."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from facekit import settings
from facekit.data.lesions import DIAGNOSES, render_lesions
from facekit.data.objects import THINGS, render_objects
from facekit.data.pack import pack
from facekit.data.rendered import render_into, write_sheet
from facekit.data.sets import FaceSet
from facekit.data.words import render_words
from facekit.errors import ConfigError, DataError

DomainName = Literal["lesions", "objects", "words"]
RENDERERS: dict[str, Callable[..., FaceSet]] = {
    "lesions": render_lesions,
    "objects": render_objects,
    "words": render_words,
}
DOMAINS = tuple(RENDERERS)
# Where the real set is: folder in FACEKIT_DATA (which is also the kind to pack it with) and folder in the cache.
SOURCES: dict[str, dict[str, str]] = {
    "lesions": {"isic": "isic-128", "dermamnist": "dermamnist"},
    "objects": {"cifar10": "cifar10-32"},
    "words": {"captcha": "captcha-50x200"},
}
SHEETS = {"isic": "ISIC", "cifar10": "CIFAR10", "captcha": "CAPTCHA"}
# Contact sheet: pictures in a row, the side they are drawn in, and the room between and above them, in pixels.
COLUMNS, SIDE, GAP, HEADING = 10, 72, 4, 18


@cache
def domain(name: DomainName) -> FaceSet:
    """The real photos of a domain: ISIC (or DermaMNIST), CIFAR-10 or captchas, with their fixed splits.

    The packed set in the cache, else packed now from `FACEKIT_DATA`. Raises DataError that says what to get and where
    to put it, ConfigError for an unknown domain.
    """
    if name not in SOURCES:
        raise ConfigError(f"unknown domain {name!r}; use {', '.join(SOURCES)}.")
    for folder in SOURCES[name].values():
        if (settings.cache_dir() / folder / "manifest.json").exists():
            return FaceSet.load(settings.cache_dir() / folder)
    data = settings.data_dir()
    for kind, folder in SOURCES[name].items():
        if data is not None and (data / kind).is_dir():
            return pack(data / kind, settings.cache_dir() / folder, kind=kind)
    kind = next(iter(SOURCES[name]))
    raise DataError(
        f"profile full needs the photos of the domain {name}: put them into a folder {kind!r} and set FACEKIT_DATA to "
        f"the folder that contains it. datasets/{SHEETS[kind]}.md says where to get them, on which terms, step by step."
    )


def render_command(domain: DomainName, dest: Path, n: int = 600, seed: int = 0) -> int:
    """Draws pictures of one domain into a folder that facekit reads: pixels, labels, splits, manifest.

    Args:
        domain: What is drawn: lesions, objects or words.
        dest: Folder for the set.
        n: How many pictures.
        seed: Other seeds give other pictures.
    """
    drawn, splits = render_into(dest, lambda: RENDERERS[domain](n, seed))
    print(f"{dest}: {len(drawn)} {domain} ({splits})")
    return 0


def sheet_command(path: Path = Path("datasets/drawn/contact_sheet.png"), seed: int = 0) -> int:
    """Writes the contact sheet: a row for each kind of lesion, the ten things, and words.

    Args:
        path: The PNG to write.
        seed: Which pictures.
    """
    return write_sheet(*contact_sheet(seed), path)


def contact_sheet(seed: int = 0) -> tuple[Image.Image, str]:
    """The sheet, and a text that names its pictures: the content hash of each domain's set."""
    skin = render_lesions(200, seed, SIDE)
    kinds = [*DIAGNOSES, None]
    things = render_objects(200, seed, SIDE)
    words = render_words(3 * COLUMNS // 2, seed, size=(SIDE // 2, 2 * SIDE + GAP))
    rows = [(kind or "no lesion", _of(skin, "diagnosis", kind)) for kind in kinds]
    rows += [("things", np.concatenate([_of(things, "object", name, 1) for name in THINGS]))]
    rows += [("more of them", np.concatenate([_of(things, "object", name, 2)[1:] for name in THINGS]))]
    rows += [("words" if start == 0 else "", words.images[start : start + 5]) for start in range(0, len(words), 5)]
    heights = [bool(heading) * HEADING + images.shape[2] + GAP for heading, images in rows]
    sheet = Image.new("RGB", (COLUMNS * (SIDE + GAP) + GAP, sum(heights)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default_imagefont()
    for (heading, images), top in zip(rows, np.cumsum([0, *heights]), strict=False):
        pen.text((GAP, int(top) + 4), heading, fill="black", font=font)
        for place, pixels in enumerate(images & 0xF0 | 0x08):  # 16 steps a channel, half of the file
            at = GAP + place * (pixels.shape[2] + GAP), int(top) + bool(heading) * HEADING
            sheet.paste(Image.fromarray(np.moveaxis(pixels, 0, 2)), at)
    return sheet, " ".join(each.content_hash() for each in (skin, things, words))


def _of(data: FaceSet, column: str, label: str | None, limit: int = COLUMNS) -> np.ndarray:
    """The first pictures with a label; without one for None."""
    values = data.labels[column]
    return data.images[np.flatnonzero(values.isna() if label is None else values == label)[:limit]]

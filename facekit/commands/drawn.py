"""`python -m facekit drawn …`: drawn pictures as a set on disk, and the contact sheet of the datasheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from facekit.data.drawn import RENDERERS, DomainName
from facekit.data.drawn.lesions import DIAGNOSES, render_lesions
from facekit.data.drawn.objects import THINGS, render_objects
from facekit.data.drawn.rendered import render_into, write_sheet
from facekit.data.drawn.words import render_words
from facekit.data.sets import FaceSet

# Contact sheet: pictures in a row, the side they are drawn in, and the room between and above them, in pixels.
COLUMNS, SIDE, GAP, HEADING = 10, 72, 4, 18


def subcommands() -> dict[str, str]:
    """Name to function of every command of this group."""
    return {"render": "facekit.commands.drawn:render", "sheet": "facekit.commands.drawn:sheet"}


def render(domain: DomainName, dest: Path, n: int = 600, seed: int = 0) -> int:
    """Draws pictures of one domain into a folder that facekit reads: pixels, labels, splits, manifest.

    Args:
        domain: What is drawn: lesions, objects or words.
        dest: Folder for the set.
        n: How many pictures.
        seed: Other seeds give other pictures.

    Examples:
        python -m facekit drawn render words captchas --n 1000
    """
    drawn, splits = render_into(dest, lambda: RENDERERS[domain](n, seed))
    print(f"{dest}: {len(drawn)} {domain} ({splits})")
    return 0


def sheet(path: Path = Path("datasets/drawn/contact_sheet.png"), seed: int = 0) -> int:
    """Writes the contact sheet: a row for each kind of lesion, the ten things, and words.

    Args:
        path: The PNG to write.
        seed: Which pictures.

    Examples:
        python -m facekit drawn sheet
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
    page = Image.new("RGB", (COLUMNS * (SIDE + GAP) + GAP, sum(heights)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default_imagefont()
    for (heading, images), top in zip(rows, np.cumsum([0, *heights]), strict=False):
        pen.text((GAP, int(top) + 4), heading, fill="black", font=font)
        for place, pixels in enumerate(images & 0xF0 | 0x08):  # 16 steps a channel, half of the file
            at = GAP + place * (pixels.shape[2] + GAP), int(top) + bool(heading) * HEADING
            page.paste(Image.fromarray(np.moveaxis(pixels, 0, 2)), at)
    return page, " ".join(each.content_hash() for each in (skin, things, words))


def _of(data: FaceSet, column: str, label: str | None, limit: int = COLUMNS) -> np.ndarray:
    """The first pictures with a label; without one for None."""
    values = data.labels[column]
    return data.images[np.flatnonzero(values.isna() if label is None else values == label)[:limit]]

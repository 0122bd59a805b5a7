"""What the commands that render sets share: a new set is written whole or not at all, and so is a contact sheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from facekit.data.sets import STORED, FaceSet
from facekit.errors import DataError
from facekit.files import atomic_path, may_replace, told, writing

Row = tuple[str, np.ndarray, Sequence[str]]  # heading, pictures uint8 (N, 3, H, W) and captions of a contact sheet
GAP = 4


def render_into(dest: Path, render: Callable[[], FaceSet]) -> tuple[FaceSet, str]:
    """Writes what `render` returns to a new folder; the set, and how many pictures each split has, as text.

    Raises, before anything is rendered, DataError for a folder that holds a set already, and for one that cannot be
    written; OutputError where it is another process's or somebody's files are in the way.
    """
    try:
        with writing(dest, *STORED):
            if (dest / "manifest.json").exists():
                raise DataError(f"{dest} already holds a set; delete it or choose another folder.")
            rendered = render()
            rendered.save(dest)
    except OSError as error:
        raise DataError(f"{told(error, dest)}. No set was made.") from None
    return rendered, ", ".join(f"{count} {name}" for name, count in rendered.labels["split"].value_counts().items())


def write_sheet(path: Path, rows: Sequence[Row], sets: Sequence[FaceSet], heading: int, foot: int, levels: int) -> int:
    """Writes rows of pictures as PNG, with the content hashes of `sets` as its text `Content`, and says so; returns 0.

    heading, foot: room for a row's heading, where it has one, and for its captions, in pixels. levels: so many values
    has a channel; the noise of the pictures hides the steps between them, and the file is a fraction of its size.
    Raises DataError where it cannot be written, OutputError where somebody else's file is in the way.
    """
    may_replace(path, b"tEXtContent")
    heights = [bool(title) * heading + images.shape[2] + foot for title, images, _ in rows]
    width = max(len(images) * (images.shape[3] + GAP) for _, images, _ in rows) + GAP
    page = Image.new("RGB", (width, sum(heights)), "white")
    pen, font, step = ImageDraw.Draw(page), ImageFont.load_default_imagefont(), 256 // levels
    for (title, images, captions), low in zip(rows, accumulate(heights), strict=True):
        top = low - foot - images.shape[2]
        pen.text((GAP, top - (heading + 11) // 2), title, fill="black", font=font)
        for place, pixels in enumerate(images // step * step + step // 2):
            left = GAP + place * (images.shape[3] + GAP)
            page.paste(Image.fromarray(np.moveaxis(pixels, 0, 2)), (left, top))
            pen.text((left, low - foot + 2), captions[place] if captions else "", fill="black", font=font, spacing=1)
    about = PngInfo()
    about.add_text("Content", " ".join(each.content_hash() for each in sets))
    try:
        with atomic_path(path) as temporary:
            page.save(temporary, format="PNG", optimize=True, pnginfo=about)
    except OSError as error:
        raise DataError(f"{told(error, path)}. The sheet was not written.") from None
    print(f"{path}: {page.width} × {page.height} pixels, {path.stat().st_size / 1e3:,.0f} kB")
    return 0

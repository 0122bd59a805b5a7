"""Boxes and short texts on a photo."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from facekit.show.plots import COLORS

FONT = Path("fonts", "ttf", "DejaVuSans.ttf")  # ships with matplotlib


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), FONT)), size)


def labelled(
    image: Image.Image, boxes: Sequence[tuple[float, ...] | None], texts: Sequence[Sequence[str]]
) -> Image.Image:
    """A copy of an RGB image with numbered boxes, and lines of text on each.

    boxes: left, top, right, bottom in pixels; None for the whole image, which gets no outline. texts: of each box.
    Colour does not stand alone: a box has its number, which is its place among the boxes.
    """
    drawn = image.copy()
    pen, size = ImageDraw.Draw(drawn), max(10, round(max(image.size) / 60))
    for place, (box, lines) in enumerate(zip(boxes, texts, strict=True)):
        colour = COLORS[place % len(COLORS)]
        left, top, _, bottom = box or (0, 0, 0, 0)
        if box:
            pen.rectangle(box, outline=colour, width=max(2, size // 6))
        text = "\n".join([f"face {place + 1}", *lines] if box else lines)
        wide = pen.multiline_textbbox((0, 0), text, _font(size), spacing=2)
        width, height = wide[2] + 6, wide[3] + 6
        # Below the box, else above it, where there is room; always inside the picture.
        x = min(max(0, left), max(0, image.width - width))
        y = bottom if bottom + height <= image.height else top - height
        y = min(max(0, y), max(0, image.height - height)) if y >= 0 else max(0, image.height - height)
        pen.rectangle((x, y, x + width, y + height), fill="white", outline=colour)
        pen.multiline_text((x + 3, y + 2), text, "black", _font(size), spacing=2)
    return drawn

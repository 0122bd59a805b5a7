"""The domain of text images: which string is written in the picture.

`render_words` writes random strings in the fonts that come with matplotlib, letter by letter, leaning, warped and
struck through. The letters' outlines are FreeType's, so other versions of Pillow may give slightly other pixels; the
strings, and everything else, are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from facekit.data.portraits.canvas import Pixels, blur, cos_sin, smoothstep, value_noise
from facekit.data.portraits.people import Draws
from facekit.data.readers.captcha import ALPHABET
from facekit.data.rendering import DRAWN, Picture, checked_shape, rendered_set, to_bytes
from facekit.data.sets import FaceSet
from facekit.errors import ConfigError

# Raised whenever the same seed gives other pixels or labels than before.
VERSION = 1
GENERATOR = {"name": "facekit.data.drawn.words", "version": VERSION}
_DEJAVU = ("Sans", "Sans-Bold", "Sans-Oblique", "SansMono", "SansMono-Bold", "Serif", "Serif-Bold", "Serif-Italic")
_OTHERS = ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmb10", "cmss10", "cmtt10")
FONTS = (*(f"DejaVu{name}.ttf" for name in _DEJAVU), *(f"{name}.ttf" for name in _OTHERS))
LONGEST = 12
_STREAM = 33
# Sizes (pixels an em) in which letters are kept; one is drawn from the next larger, so that it is never enlarged much.
_EMS = (12, 16, 20, 26, 34, 44, 58, 76, 100)


def render_words(
    n: int | Sequence[int],
    seed: int = 0,
    alphabet: str = ALPHABET,
    lengths: int | tuple[int, int] = (3, 5),
    size: tuple[int, int] = (32, 128),
) -> FaceSet:
    """Writes `n` random strings into pictures of `size` = (height, width) pixels, as a FaceSet.

    n: how many, or how many in train, validation and test. alphabet: the symbols, each once; any that the fonts have.
    lengths: of the strings, one number or the shortest and the longest (at most LONGEST). Labels: `text`, `number` in
    the series, `split`. Splits are by string: none that is tested was learnt from. A picture depends on everything but
    n. Raises ConfigError for impossible arguments.
    """
    shortest, longest = lengths if isinstance(lengths, Iterable) else (lengths, lengths)
    height, width = checked_shape(size)
    if not 1 <= shortest <= longest <= LONGEST:
        raise ConfigError(f"lengths {lengths} must be between 1 and {LONGEST}, rising.")
    if 4 * longest > width:
        raise ConfigError(f"{longest} letters do not fit into {width} pixels; give 4 pixels or more to each.")
    fonts = fonts_for(alphabet)

    def text(number: int) -> str:
        d = Draws(seed, _STREAM, number)
        length = shortest + int(d.uniform(0, longest - shortest + 1))
        return "".join(alphabet[int(d.uniform(0, len(alphabet)))] for _ in range(length))

    def draw(number: int) -> Picture:
        string = text(number)
        image = _draw(Draws(seed, _STREAM, number, 1), string, fonts, height, width)
        return to_bytes(image), {"text": string, "number": number}

    about = {
        **DRAWN,
        "source": "strings written by facekit",
        "generator": GENERATOR,
        "alphabet": alphabet,
    }
    request = {"n": n, "seed": seed, "alphabet": alphabet, "lengths": [shortest, longest], "size": [height, width]}
    return rendered_set(lambda number: f"word {text(number)}", draw, about, request, square=False)


# --- letters ---------------------------------------------------------------------------------------------------------


def font_file(name: str) -> Path:
    """Where matplotlib keeps a font that comes with it; raises ConfigError where it is not there."""
    import matplotlib

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", name)
    if not path.is_file():
        raise ConfigError(f"matplotlib's font {name} is missing ({path.parent}); install matplotlib again.")
    return path


@lru_cache(maxsize=8)
def fonts_for(alphabet: str) -> tuple[str, ...]:
    """The fonts that have every symbol of the alphabet.

    Raises ConfigError for an alphabet with fewer than two symbols, with one twice, one that is blank, or one that no
    font has together with the others.
    """
    if len(alphabet) < 2 or len(set(alphabet)) < len(alphabet) or any(char.isspace() for char in alphabet):
        raise ConfigError(f"the alphabet {alphabet!r} needs two or more different symbols, none of them blank.")
    found = tuple(name for name in FONTS if all(ord(char) in _charmap(name) for char in alphabet))
    if not found:
        poor = [char for char in alphabet if all(ord(char) not in _charmap(name) for name in FONTS)]
        raise ConfigError(f"no font has all of {alphabet!r}{f'; none has {poor}' if poor else ''}; leave some out.")
    return found


@lru_cache(maxsize=len(FONTS))
def _charmap(name: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(font_file(name))).get_charmap())


@lru_cache(maxsize=4096)
def _letter(font: str, em: int, char: str) -> tuple[Pixels, float]:
    """One letter, (2 em, 2 em) float32 in [0, 1] with its origin at 0.5 em, 1.4 em, and its advance in ems."""
    face = ImageFont.truetype(str(font_file(font)), em, layout_engine=ImageFont.Layout.BASIC)
    plate = Image.new("L", (2 * em, 2 * em))
    ImageDraw.Draw(plate).text((em * 0.5, em * 1.4), char, fill=255, font=face, anchor="ls")
    ink = np.asarray(plate, np.float32) * np.float32(1 / 255)
    ink[[0, -1]] = 0
    ink[:, [0, -1]] = 0  # whatever is looked up outside is blank
    return ink, face.getlength(char) / em


def _look_up(ink: Pixels, x: Pixels, y: Pixels) -> Pixels:
    """The plate at x, y (pixels of the plate, any shape), interpolated; blank outside."""
    last = len(ink) - 1
    x, y = (x - np.float32(0.5)).clip(0, last - 1), (y - np.float32(0.5)).clip(0, last - 1)
    column, row = x.astype(np.int32), y.astype(np.int32)
    right, down = x - column, y - row
    flat, at = ink.ravel(), row * len(ink) + column
    upper = flat[at] + right * (flat[at + 1] - flat[at])
    at += len(ink)
    lower = flat[at] + right * (flat[at + 1] - flat[at])
    return upper + down * (lower - upper)


# --- the picture -----------------------------------------------------------------------------------------------------


def _draw(d: Draws, text: str, fonts: tuple[str, ...], height: int, width: int) -> Pixels:
    """A string as float32 (3, height, width)."""
    paper, ink_colour = _two_colours(d)
    ink = _written(d, text, fonts, height, width)
    strokes = _strokes(d, height, width)
    rough = value_noise(d.noise(height // 2 + 2, width // 2 + 2), height, width)
    ink = (ink * (1 + np.float32(d.uniform(0.0, 0.6)) * rough)).clip(0, 1)
    ink = np.maximum(ink, strokes) * np.float32(d.uniform(0.75, 1.0))
    tilt, blot = np.float32(d.uniform(-0.15, 0.15)), np.float32(d.uniform(0.0, 0.12))
    across = ((np.arange(width) + 0.5) * (2 / width) - 1).astype(np.float32)
    light = 1 + tilt * across + blot * value_noise(d.noise(5, 9), height, width)
    amount = d.uniform(0.0, 0.15)
    grain = np.float32(d.uniform(0.005, 0.06)) * d.noise(height, width)
    image = np.empty((3, height, width), np.float32)
    ink = blur(ink, amount)
    for plane, back, front in zip(image, paper, ink_colour, strict=True):
        plane[:] = np.float32(back) * light
        plane += ink * (np.float32(front) - plane)
        plane += grain
    return image


def _two_colours(d: Draws) -> tuple[list[float], list[float]]:
    """Paper and ink, half of them grey; in a quarter of the pictures the ink is the lighter one."""
    grey = d.chance(0.5)
    paper, ink = d.uniform(0.7, 1.0), d.uniform(0.0, 0.3)
    cast = [[0 if grey else d.uniform(-0.18, 0.18) for _ in range(3)] for _ in range(2)]
    colours = [[level + part for part in parts] for level, parts in zip((paper, ink), cast, strict=True)]
    return (colours[1], colours[0]) if d.chance(0.25) else (colours[0], colours[1])


def _written(d: Draws, text: str, fonts: tuple[str, ...], height: int, width: int) -> Pixels:
    """How much ink the letters leave, (height, width) in [0, 1]."""
    font = fonts[int(d.uniform(0, len(fonts)))]
    mixed = d.chance(0.2)
    letters = [(fonts[int(d.uniform(0, len(fonts)))] if mixed else font, char) for char in text]
    gaps = [d.uniform(-0.04, 0.10) for _ in text]
    advances = [_letter(name, 44, char)[1] + gap for (name, char), gap in zip(letters, gaps, strict=True)]
    # As high as was drawn, unless the word would be too long or the letters too wide for the picture.
    em = min(height * d.uniform(0.62, 0.92), width * 0.92 / max(sum(advances), 0.6))
    x, y = _warped(d, em, height, width)
    start = d.uniform(0.04, 0.96) * max(width - sum(advances) * em, 0)
    base = height * 0.5 + em * 0.27 + d.uniform(-1, 1) * max(height - em * 1.05, 0) * 0.4
    plate = next((kept for kept in _EMS if kept >= em), _EMS[-1])
    ink = np.zeros((height, width), np.float32)
    for (name, char), advance in zip(letters, advances, strict=True):
        shape, own = _letter(name, plate, char)
        scale = plate / (em * d.uniform(0.88, 1.1))
        c, s = cos_sin(d.normal(0, 0.14))
        middle, foot = start + advance * em / 2, base + d.uniform(-0.06, 0.06) * em
        columns = slice(max(int(middle - em), 0), min(int(middle + em) + 1, width))
        u, v = x[:, columns] - np.float32(middle), y[:, columns] - np.float32(foot - 0.27 * em)
        across = (u * np.float32(c) + v * np.float32(s)) * np.float32(scale) + np.float32((0.5 + own / 2) * plate)
        down = (v * np.float32(c) - u * np.float32(s)) * np.float32(scale) + np.float32((1.4 - 0.27) * plate)
        part = ink[:, columns]
        np.maximum(part, _look_up(shape, across, down), out=part)
        start += advance * em
    return ink


def _warped(d: Draws, em: float, height: int, width: int) -> tuple[Pixels, Pixels]:
    """Where each pixel looks for its ink: x and y (height, width), leaning and bent."""
    x = np.arange(width, dtype=np.float32)[None] + np.float32(0.5)
    y = np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5)
    bend = np.float32(em * d.uniform(0.0, 0.16))
    lean = np.float32(d.normal(0, 0.18)) * (y - np.float32(height / 2))
    cells = max(3, round(width / em))
    aside = value_noise(d.noise(4, cells + 2), height, width)
    below = value_noise(d.noise(4, cells + 2), height, width)
    return x + lean + bend * np.float32(0.7) * aside, y + bend * below


def _strokes(d: Draws, height: int, width: int) -> Pixels:
    """Up to three thin curves across the word, ink as above."""
    ink = np.zeros((height, width), np.float32)
    for _ in range(max(int(d.uniform(-1.5, 4)), 0)):
        knots = d.noise(1, max(3, width // 24) + 2)
        path = value_noise(np.concatenate([knots, knots]), 1, width) * np.float32(height * d.uniform(0.05, 0.3))
        path = path + np.float32(height * d.uniform(0.2, 0.8))
        y = np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5)
        thick = max(height / 32 * d.uniform(0.5, 0.9), 0.5)
        line = smoothstep(np.float32(thick + 0.5) - np.abs(y - path))
        first, last = sorted((d.uniform(0, 0.5), d.uniform(0.5, 1)))
        line[:, : int(first * width)] = 0
        line[:, int(last * width) :] = 0
        np.maximum(ink, line * np.float32(d.uniform(0.5, 1.0)), out=ink)
    return ink

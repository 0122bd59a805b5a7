"""The bytes of a photo to RGB pixels of one size, or the reason why not.

Whatever a file contains, `decode` either returns an upright RGB image or raises `Unusable`: errors of the image
library, which are of a dozen kinds, do not get past it.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from facekit.data.readers.archives import Problem
from facekit.errors import DataError

# MPO, of some cameras, is opened as the JPEG that it begins with
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
# Above this a photo is refused before any pixel is decoded: 64 million pixels are 192 MB as RGB, per worker.
MAX_PIXELS = 64_000_000
# Below this there is no face to see, and resizing would invent it.
MIN_SIDE = 16
_ORIENTATION = 0x0112
# EXIF orientation (CIPA DC-008, tag 274) to the transposition that makes the photo upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Unusable(DataError):
    """A photo that cannot be used; `problem` holds the reason."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.reason}: {problem.detail}" if problem.detail else problem.reason)
        self.problem = problem


def decode(data: bytes, at_least: int | None = None) -> Image.Image:
    """An upright RGB image of the whole photo; transparency is laid on white, the first frame of several is taken.

    at_least: if given, a big JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as both sides keep at least
    twice this many pixels (far cheaper, and the later resize still averages). Raises Unusable with the reason
    `empty`, `unreadable`, `too many pixels` or `too small`.
    """
    if not data:
        raise Unusable(Problem("empty", "the file has no bytes"))
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Unusable(Problem("too many pixels", str(error))) from None
    except Exception as error:  # the wall around the image library, see the module's text
        raise Unusable(Problem("unreadable", _told(error))) from None
    return rgb(image, at_least)


def rgb(image: Image.Image, at_least: int | None = None) -> Image.Image:
    """An opened image as `decode` returns it; its size is checked before any pixel is decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Unusable(Problem("too many pixels", f"{width} × {height}, at most {MAX_PIXELS:,} in all"))
    if min(width, height) < MIN_SIDE:
        raise Unusable(Problem("too small", f"{width} × {height}, at least {MIN_SIDE} on each side"))
    try:
        if at_least is not None:
            image.draft(None, (2 * at_least, 2 * at_least))
        image.load()
        return _upright(image, to_rgb(image))
    except Exception as error:  # the same wall; a damaged file can fail anywhere in here
        raise Unusable(Problem("unreadable", _told(error))) from None


def _told(error: Exception) -> str:
    """The library's message in one line, without the address of an object in memory."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "not a photo of a known format" if "cannot identify" in text else text


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB: transparency on white, 16-bit grey scaled to 8 bits, CMYK and palettes converted."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        # Only 16-bit depth says what white is; other numbers are taken to be 0 … 255 as long as they fit.
        scale = 257 if image.mode.startswith("I;16") or values.max() > 255 else 1
        return Image.fromarray((values / scale).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        clear = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    return image.convert("RGB")


def _upright(opened: Image.Image, image: Image.Image) -> Image.Image:
    """Applies the EXIF orientation of the opened file to its converted image."""
    if opened.format == "JPEG" and not {"exif", "xmp"} & opened.info.keys():
        return image  # what most face crops are: nothing to look for
    try:
        orientation = opened.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        orientation = 1
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def resize(image: Image.Image, height: int, width: int | None = None) -> np.ndarray:
    """The whole RGB image at height × width (Lanczos), uint8 (3, height, width); a side ratio is not kept.

    width: by default as the height.
    """
    width = height if width is None else width
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    # Band by band out of the image library's own packer: half the time of an array that is then transposed.
    planes = b"".join([image.tobytes("raw", band) for band in "RGB"])
    return np.frombuffer(planes, np.uint8).reshape(3, height, width)


def other_size(data: bytes, expected: tuple[int, int]) -> Problem | None:
    """The problem of an image that is not of the `expected` (width, height); only its header is read.

    What cannot be read at all is left to `decode`, which says why.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
    except Exception:  # as in `decode`
        return None
    if (width, height) == expected:
        return None
    return Problem("other size", f"{width} × {height}, this set has {expected[0]} × {expected[1]}")


def as_file(pixels: np.ndarray) -> bytes:
    """An image (H, W, 3) uint8 as the bytes of a file that `decode` turns back into these pixels.

    BMP: nothing but a header and the pixels, so the same image has the same bytes with any version of the library.
    """
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "BMP")
    return file.getvalue()


@contextmanager
def quiet() -> Iterator[None]:
    """Silences the image library's warnings; what matters in them `decode` reports itself.

    Python's filters belong to all threads: enter this once around the workers, not in each of them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", module="PIL")
        yield

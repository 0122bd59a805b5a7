"""The bytes of a photo to RGB pixels of one size, or the reason why not.

Whatever a file contains, `decode` either returns an upright RGB image or raises `Unusable`: errors of the image
library, which are of a dozen kinds, do not get past it.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageFile, features

from facekit.data.readers.archives import MAX_FILE_BYTES, Problem
from facekit.data.readers.costs import MAX_PIXELS, MAX_PIXELS_OF, Costly, Metered, check_file, check_opened
from facekit.errors import DataError
from facekit.files import pasted_path

# MPO, of some cameras, is opened as the JPEG that it begins with; see also `formats`
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
# Below this there is no face to see, and resizing would invent it.
MIN_SIDE = 16
# Tags of TIFF 6.0 and of EXIF.
_SUBFILE, _BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLE_FORMAT = 254, 258, 262, 0x0112, 339
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


@cache
def formats() -> tuple[str, ...]:
    """What is read, as the image library calls it: AVIF from Pillow 11.3 on, HEIC (HEIF) where pillow-heif is there."""
    extra = ["AVIF"] if "avif" in features.modules and features.check("avif") else []
    try:
        import_module("pillow_heif").register_heif_opener()
        extra.append("HEIF")
    except ImportError:
        pass
    return (*_FORMATS, *extra)


def decoder() -> str:
    """What decodes here, with its version: other versions may give other pixels, or reject other photos."""
    heif = f", pillow-heif {version('pillow-heif')}" if "HEIF" in formats() else ""
    return f"Pillow {PIL.__version__}{heif}"


def decode(data: bytes, at_least: int | None = None) -> Image.Image:
    """An upright RGB image of the whole photo; transparency is laid on white, the first frame of several is taken.

    at_least: if given, a big JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as both sides keep at least
    twice this many pixels (far cheaper, and the later resize still averages). Raises Unusable with the reason `empty`,
    `unreadable`, `file too large`, `too many pixels`, `too costly`, `too small` or `unknown brightness`.
    """
    if not data:
        raise Unusable(Problem("empty", "the file has no bytes"))
    if len(data) > MAX_FILE_BYTES:
        raise Unusable(Problem("file too large", f"over {MAX_FILE_BYTES:,} bytes"))
    with _wall(data):
        image = _open(data)
        _check_size(image)
        check_opened(image, data)
        if data[8:10] == b"CR" or getattr(image, "tag_v2", {}).get(_SUBFILE) == 1:  # a small picture before the photo
            raise ValueError(f"it is {_RAW}, which is not read here; save it as JPEG")
    return rgb(image, at_least)


def decode_file(path: Path | str) -> Image.Image:
    """`decode` of a file; also raises Unusable with the reason `no file` for a path that cannot be read."""
    return decode(file_bytes(path))


def file_bytes(path: Path | str) -> bytes:
    """The bytes of a file, a few too many of one that is too large; raises Unusable, `no file`, where there is none."""
    try:
        path = pasted_path(path)
        if path.exists() and not path.is_file():  # to read from a pipe could last for ever
            raise Unusable(Problem("no file", f"{path} is no file, but a folder or a device"))
        with open(path, "rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError, RuntimeError) as error:
        raise Unusable(Problem("no file", f"{path}: {getattr(error, 'strerror', None) or error}")) from None


def rgb(image: Image.Image, at_least: int | None = None) -> Image.Image:
    """An opened image as `decode` returns it; its size is checked before any pixel is decoded."""
    with _wall(b""):
        _check_size(image)
        tiles = getattr(image, "tile", None)
        raw = str(tiles[0][3]) if tiles else ""  # how the file has its pixels
        if at_least is not None:
            image.draft(None, (2 * at_least, 2 * at_least))
        image.load()
        return _upright(image, _to_rgb(image, raw))


def _open(data: bytes) -> ImageFile.ImageFile:
    """The image in some bytes, its pixels not yet decoded; raises what the library raises, or Costly."""
    check_file(data)
    file = Metered(data)
    image = Image.open(file, formats=formats())
    file.open_wide()
    return image


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    most = min(MAX_PIXELS, MAX_PIXELS_OF.get(image.format or "", MAX_PIXELS))
    if width * height > most:
        raise Unusable(Problem("too many pixels", f"{width} × {height}, at most {most:,} in all"))
    if min(width, height) < MIN_SIDE:
        raise Unusable(Problem("too small", f"{width} × {height}, at least {MIN_SIDE} on each side"))


@contextmanager
def _wall(data: bytes) -> Iterator[None]:
    """Whatever is raised in here becomes Unusable; data: the file, whose first bytes say what it is."""
    try:
        yield
    except Unusable:
        raise
    except Costly as error:
        raise Unusable(Problem("too costly", f"{error}; save it as JPEG")) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Unusable(Problem("too many pixels", f"over {MAX_PIXELS:,}")) from None
    except Exception as error:  # a damaged file can fail anywhere
        text = " ".join(str(error).split()) or type(error).__name__
        # The library's own text has the address of an object in memory.
        raise Unusable(Problem("unreadable", _what_it_is(data) if "cannot identify" in text else text)) from None


def _what_it_is(data: bytes) -> str:
    """What a file is that could not be opened, by its first bytes, and what can be done."""
    if data[4:8] == b"ftyp":  # ISO 14496-12: the brands that a reader must know, one of them at least
        brands = {data[place : place + 4] for place in range(8, min(int.from_bytes(data[:4], "big"), 256), 4)}
        kind = next((kind for kind, known in _BRANDS.items() if brands & known), "a film")
    else:
        kind = next((kind for first, kind in _BEGINNINGS.items() if data.startswith(first)), "")
    if not kind:
        return "not a photo of a known format"
    if {"WebP": "WEBP", "HEIC": "HEIF"}.get(kind, kind) in formats():
        return f"a damaged {kind} file, or a kind of {kind} that is not read; save it anew as JPEG or PNG"
    remedy = _REMEDIES.get(kind, "save it as JPEG or PNG")
    return f"it is {kind}, which is not read here; {remedy}"


_RAW = "a camera's raw file"
_BRANDS = {
    "HEIC": {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"},
    "AVIF": {b"avif", b"avis"},
    _RAW: {b"crx "},
}
_BEGINNINGS = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"RIFF": "WebP",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"\0\0\0\x0cjP": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"FUJIFILM": _RAW,
    b"IIRO": _RAW,
    b"IIU\0": _RAW,
    b"8BPS": "a Photoshop file",
    b"%PDF": "a PDF",
    b"PK\3\4": "a zip",
    b"<": "a web page or a drawing (SVG)",
    b"version https://git-lfs": "a pointer to a file of Git LFS",
}
_REMEDIES = {
    "HEIC": "type `pip install pillow-heif` and try again, or save it as JPEG",
    "AVIF": "type `pip install -U pillow` and try again (from 11.3 on it reads AVIF), or save it as JPEG",
    "a pointer to a file of Git LFS": "type `git lfs pull` where it came from",
    "a web page or a drawing (SVG)": "download the photo itself",
}


def _to_rgb(image: Image.Image, raw: str) -> Image.Image:
    """Any mode to RGB: transparency on white, deeper values scaled to 8 bits, CMYK and palettes converted.

    raw: the image library's word for how the file has its pixels. Raises Unusable where nothing says what is white.
    """
    clear = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if image.mode.startswith("I") or image.mode == "F":
        least, most = _range(image)
        white = _white(image, raw, least, most)
        convert = partial(_deep_strip, white=white, negative=getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0)
    else:
        _check_depth(image, raw)
        if not clear:
            return image if image.mode == "RGB" else image.convert("RGB")
        convert = partial(_clear_strip, raw=raw)
    whole = Image.new("RGB", image.size)
    for top, strip in _strips(image):  # in strips: ten copies of the whole would be too much
        whole.paste(convert(strip), (0, top))
    return whole


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The first row and the pixels of strips of about a million pixels."""
    rows = max(1, 2**20 // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _clear_strip(strip: Image.Image, raw: str) -> Image.Image:
    """Laid on white. The colour that a PNG calls transparent is a number of its file's depth, not of 8 bits."""
    colour, factor = strip.info.get("transparency"), {"L;2": 85, "L;4": 17}.get(raw, 1)
    if isinstance(colour, int) and strip.mode == "L":
        strip.info["transparency"] = colour * factor
    elif isinstance(colour, tuple) and ";16" in raw:
        strip.info["transparency"] = tuple(value >> 8 for value in colour)
    rgba = strip.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _deep_strip(strip: Image.Image, white: float, negative: bool) -> Image.Image:
    """Grey of more than 8 bits, of which `white` is white, or black in a negative."""
    values = np.asarray(strip, dtype=np.float64)
    grey = (values / (white / 255)).round().clip(0, 255).astype(np.uint8)
    grey = 255 - grey if negative else grey
    grey[values == strip.info.get("transparency", -1)] = 255
    return Image.fromarray(grey).convert("RGB")


def _range(image: Image.Image) -> tuple[float, float]:
    """The least and the largest value of an image; NaN where one is no number."""
    ends = np.array([(values.min(), values.max()) for values in (np.asarray(strip) for _, strip in _strips(image))])
    return float(ends[:, 0].min()), float(ends[:, 1].max())


def _white(image: Image.Image, raw: str, least: float, most: float) -> float:
    """What value is white, as the largest one shows: it is to use the upper two bits of a usual range.

    A file of 16 bits with nothing above 4095 may be a night photo or one of 12 bits: nothing in it says which, and one
    of the two would come out wrong. Raises Unusable then, and for what is negative, infinite, or no number.
    """
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16"):
        whites = [2 ** tags.get(_BITS, (16,))[0] - 1]  # 12 bits in 12 are said by the file
    elif image.mode == "F":
        whites = [1, 255, 65535]
    elif image.format == "PPM":
        whites = [65535]  # whatever the file calls white, the image library has made it this
        most = max(most, 65535 if not _sixteen(raw) else 0)  # said by the file, unless it is what every program writes
    else:
        whites = [255] if tags.get(_BITS, (32,))[0] == 16 else [255, 65535]  # 16 bits with a sign have no white
    white = next((white for white in whites if white / 4 < most <= white), None)
    if least >= 0 and white:  # both are false for NaN
        return white
    usual = " or ".join(f"0 to {white}" for white in whites)
    told = f"its values go from {least:g} to {most:g}, not from {usual}" if least <= most else "not all are numbers"
    raise Unusable(Problem("unknown brightness", f"{told}; save it with 8 bits a colour"))


def _sixteen(raw: str) -> bool:
    """Whether a file has values up to 65535, by the image library's word for how it has its pixels."""
    return ";16" in raw or "65535" in raw


def _check_depth(image: Image.Image, raw: str) -> None:
    """Raises Unusable for values of 16 bits of which the upper two are never used (see `_white`), and for signed ones.

    The image library has made 8 bits of them; what were 12 bits in 16 is all but black now.
    """
    deep, signed = _sixteen(raw), 2 in getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT, ())
    if not deep and not signed:
        return
    colours = [name for name in image.getbands() if name not in "Aa"]
    if signed or max(np.max(image.getchannel(name).getextrema()) for name in colours) < 64:
        what = "have a sign" if signed else "use at most 14 of their 16 bits"
        raise Unusable(Problem("unknown brightness", f"its values {what}; save it with 8 bits a colour"))


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
        with _open(data) as image:
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

"""What decoding a photo would cost, told from its headers, so that a bomb is refused before any pixel is decoded.

A file of a few megabytes can ask for hours of work or for terabytes: by its size in pixels, by passes over the same
pixels, by thousands of compressed texts, by lists of millions of strips. The limits here are counts of what a file asks
for, not seconds, so that the same files are refused on every machine. They are far above any camera's photos, and keep
a photo within 1 GB of memory and 10 s of one core.
"""

from __future__ import annotations

import io
import re
import struct

from PIL import ImageFile

# Above this a photo is refused before any pixel is decoded: 64 million pixels are 256 MB as the image library holds
# them, and are held up to three times while they are converted and turned upright.
MAX_PIXELS = 64_000_000
# Formats whose decoders hold more than that themselves.
MAX_PIXELS_OF = {"WEBP": 40_000_000, "AVIF": 50_000_000, "HEIF": 50_000_000}
# A header of more bytes is no photo's, and would be held several times.
_HEADER_BYTES = 16 * 2**20
_HEADER_READS = 20_000
_PIXEL_READS, _PIXEL_BYTES = 4_000_000, 16 * 2**30  # each strip of a TIFF is read with what stands behind it
_NUMBERS = 600_000  # in a TIFF's directory: two for each of 250,000 tiles
_BLOCK_BYTES = 400_000_000  # of a TIFF, decoded at once
_TEXTS = 500  # each is up to 1 MB when it is decompressed
_SCANNED_PIXELS = 3_000_000_000  # pixels times scans of a JPEG
_SLOW_VALUES = 8_000_000  # of a PPM, where the image library converts one number after another
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


class Costly(Exception):
    """A photo that would cost too much; the text says what of it."""


class Metered(io.BytesIO):
    """A file in memory that raises Costly when more is read of it, or more often, than any photo needs."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        whole = data[:4] in (b"RIFF", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") or data[4:8] == b"ftyp"
        self._calls, self._bytes = _HEADER_READS, len(data) + 2**20 if whole else _HEADER_BYTES

    def open_wide(self) -> None:
        """The header is read: from here on the pixels are."""
        self._calls, self._bytes = _PIXEL_READS, _PIXEL_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        part = super().read(size)
        self._calls -= 1
        self._bytes -= len(part)
        if self._calls < 0 or self._bytes < 0:
            raise Costly("it has more in it, or in more parts, than any photo")
        return part


def check_file(data: bytes) -> None:
    """Raises Costly for what must not even be opened."""
    if data.startswith(b"\x89PNG") and sum(map(data.count, (b"iCCP", b"zTXt", b"iTXt"))) > _TEXTS:
        raise Costly(f"it has over {_TEXTS} compressed texts")
    if re.match(rb"P[1-6]\s", data) and data.count(b"#", 0, 2**20) > 1000:
        raise Costly("it has over 1,000 comments")
    if data[:2] in (b"II", b"MM") and (count := _numbers(data)) > _NUMBERS:
        raise Costly(f"its directory has {count:,} numbers, at most {_NUMBERS:,}")


def check_opened(image: ImageFile.ImageFile, data: bytes) -> None:
    """Raises Costly for an opened image whose pixels cost too much, whatever their number."""
    width, height = image.size
    if image.format in ("JPEG", "MPO"):
        most = _SCANNED_PIXELS // (width * height)
        if data.count(b"\xff\xda") > most and _scans(data, most) > most:
            raise Costly(f"{width} × {height} in over {most:,} scans")
    if image.format == "PPM" and image.tile[0][0] != "raw" and width * height * len(image.getbands()) > _SLOW_VALUES:
        raise Costly(f"{width} × {height} numbers as text or not of 8 or 16 bits")
    tags = getattr(image, "tag_v2", {})
    block = tags.get(322, width) * tags.get(323, min(tags.get(278, height), height))
    if (size := block * sum(tags.get(258, (1,))) // 8) > _BLOCK_BYTES:
        raise Costly(f"it is decoded in blocks of {size:,} bytes, at most {_BLOCK_BYTES:,}")


def _numbers(data: bytes) -> int:
    """How many numbers the first directory of a TIFF file lists, bytes and texts not counted (TIFF 6.0, section 2)."""
    order, big = "<" if data[:2] == b"II" else ">", data[2:4] in (b"+\0", b"\0+")
    head, word, entry = ("Q", "Q", "HHQ8x") if big else ("I", "H", "HHI4x")
    try:
        (start,) = struct.unpack_from(order + head, data, 8 if big else 4)
        (count,) = struct.unpack_from(order + word, data, start)
        start += struct.calcsize(word)
        size = struct.calcsize(order + entry)
        end = min(start + min(count, 2**16) * size, start + (len(data) - start) // size * size)
        entries = struct.iter_unpack(order + entry, data[start:end])
        # What is claimed beyond the file's end is left out by the image library, too.
        return sum(number for _, kind, number in entries if kind not in (1, 2, 7) and number <= len(data))
    except (struct.error, OverflowError):
        return 0  # it is damaged, which whoever opens it says


def _scans(data: bytes, most: int) -> int:
    """How many scans the first image of a JPEG file has, counted until there are more than `most`."""
    count, place = 0, 2
    while count <= most and (marker := _NEXT_MARKER.search(data, place)):
        kind, place = data[marker.end() - 1], marker.end()
        if kind == 0xD9:
            break
        count += kind == 0xDA
        place += int.from_bytes(data[place : place + 2], "big")
    return count

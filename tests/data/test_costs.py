"""A bomb costs less than 1 GB of memory and 10 s of one core, whatever its format: it is an image, or one reason."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image
from test_decode import huge_png, photo, saved

from facekit.data.readers.costs import MAX_PIXELS
from facekit.data.readers.decode import decode

CHILD = """
import json, resource, sys, time
from pathlib import Path
from facekit.data.readers.decode import Unusable, decode_file, quiet, resize
def peak():  # Linux's ru_maxrss starts with what the parent had
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
told, start = {}, peak()
for path in sorted(Path(sys.argv[1]).iterdir()):
    began = time.process_time()
    try:
        with quiet():
            reason = str(resize(decode_file(path), 32).mean())
    except Unusable as error:
        reason = error.problem.reason
    told[path.name] = (reason, peak() - start, time.process_time() - began)
print(json.dumps(told))
"""


def chunk(kind, data=b""):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour, first=b"", last=b"", value=255):
    """A PNG all of one value, with chunks before and behind its pixels."""
    row = b"\0" + bytes([value]) * (width * {0: 1, 2: 3, 4: 2, 6: 4}[colour] * depth // 8)
    packed = zlib.compressobj(1)
    pixels = b"".join([packed.compress(row) for _ in range(height)] + [packed.flush()])
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + first + chunk(b"IDAT", pixels) + last + chunk(b"IEND")


def tiff(*entries, body=b"", order="<"):
    """A TIFF with the directory (tag, type, count, value) of a 64 × 64 grey picture, changed by `entries`."""
    table = {256: (4, 1, 64), 257: (4, 1, 64), 258: (3, 1, 8), 262: (3, 1, 1), 273: (4, 1, 8), 277: (3, 1, 1)}
    table |= {279: (4, 1, 4096)} | {tag: rest for tag, *rest in entries}
    lines = b"".join(struct.pack(order + "HHII", tag, *rest) for tag, rest in sorted(table.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(table)) + lines + bytes(4) + body


def with_scans(side, scans):
    """A progressive JPEG whose last scan is repeated."""
    data = saved(Image.new("RGB", (side, side), 99), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * scans + data[-2:]


def in_jpeg(segments):
    data = saved(photo(), "JPEG")
    return data[:2] + segments + data[2:]


def frames(kind, count):
    return saved(photo(), kind, save_all=True, append_images=[photo().rotate(n % 360) for n in range(count)])


def run_length_bmp(side, row, rows):
    runs = (b"\1\5" * row + b"\0\0") * rows
    head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 1078) + head + bytes(1024) + runs


SIDE = int(MAX_PIXELS**0.5)
TEXT = b"c\0\0" + zlib.compress(bytes(2**20 - 1))
# A directory whose one tag, of the EXIF directory, and whose successor are itself.
EXIF_LOOP = struct.pack(">2sHIHHHIII4x", b"MM", 42, 8, 1, 0x8769, 4, 1, 8, 8)
BOMBS = {
    "3 GB in a few bytes.png": (lambda: huge_png(32000), "too many pixels"),
    "16 bits.png": (lambda: png(SIDE, SIDE, 16, 0), "255.0"),
    "a long text.png": (lambda: png(64, 64, 8, 2, chunk(b"zTXt", TEXT[:3] + zlib.compress(bytes(2**24)))), None),
    "many texts.png": (lambda: png(64, 64, 8, 2, chunk(b"zTXt", TEXT) * 5000), "too costly"),
    "many profiles.png": (lambda: png(64, 64, 8, 2, last=chunk(b"iCCP", TEXT) * 5000), "too costly"),
    "many chunks.png": (lambda: png(64, 64, 8, 2, chunk(b"prVt") * 500_000), "too costly"),
    "many chunks at the end.png": (lambda: png(64, 64, 8, 2, last=chunk(b"prVt") * 100_000), "255.0"),
    "2000 scans.jpg": (lambda: with_scans(3000, 2000), "too costly"),
    "many segments.jpg": (lambda: in_jpeg(b"\xff\xe9\0\2" * 2_000_000), "too costly"),
    "padding.jpg": (lambda: in_jpeg(b"\xff" * 20_000_000), "too costly"),
    "long exif.jpg": (lambda: in_jpeg((b"\xff\xe1\xff\xffExif\0\0" + bytes(65527)) * 600), "too costly"),
    "exif loop.jpg": (lambda: in_jpeg(b"\xff\xe1\0\x28Exif\0\0" + EXIF_LOOP), None),
    "many numbers.tif": (lambda: tiff((258, 3, 8_000_000, 0), body=bytes(16_000_000)), "too costly"),
    "many tiles.tif": (
        lambda: tiff((322, 4, 1, 1), (323, 4, 1, 1), (324, 4, 2_000_000, 8), body=bytes(8_000_000)),
        "too costly",
    ),
    "one huge tile.tif": (
        lambda: tiff((259, 3, 1, 5), (322, 4, 1, 30_000), (323, 4, 1, 30_000), (324, 4, 1, 8), (325, 4, 1, 100)),
        "too costly",
    ),
    "all tags the whole file.tif": (
        lambda: tiff(*[(1000 + tag, 7, 4_000_000, 8) for tag in range(5000)], body=bytes(4_000_000)),
        None,
    ),
    "next directory is this one.tif": (lambda: tiff(body=bytes(4096)).replace(bytes(4), b"\x08\0\0\0", 1), None),
    "many frames.gif": (lambda: frames("GIF", 300), None),
    "many frames.tif": (lambda: frames("TIFF", 300), None),
    "many runs.bmp": (lambda: run_length_bmp(SIDE, SIDE, 600), "too costly"),
    "numbers as text.ppm": (lambda: b"P3 4000 4000 255\n" + b"9 " * 9_000_000, "too costly"),
    "comments.ppm": (lambda: b"P3 400 400 255\n" + b"#\n" * 500_000, "too costly"),
    "odd maximum.ppm": (lambda: b"P6 4000 4000 254\n" + bytes(48_000_000), "too costly"),
}


def test_bombs_cost_little_and_are_told(tmp_path):
    for name, (make, _) in BOMBS.items():
        (tmp_path / name).write_bytes(make())
    done = subprocess.run([sys.executable, "-c", CHILD, tmp_path], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told.keys() == BOMBS.keys()
    for name, (reason, memory, seconds) in told.items():
        assert memory < 1e9 and seconds < 10, (name, memory, seconds)
        assert BOMBS[name][1] in (None, reason), (name, reason)


@pytest.mark.parametrize(
    "data",
    [
        with_scans(300, 0),
        png(64, 64, 8, 2, chunk(b"zTXt", TEXT) * 50),
        in_jpeg((b"\xff\xe2\xff\xf0" + bytes(65518)) * 100),
        saved(Image.new("L", (300, 3000), 99), "TIFF", tiffinfo={278: 1}),  # a strip a row
        saved(Image.new("I;16", (3000, 3000), 60000), "TIFF", compression="tiff_lzw"),
        b"P3 64 64 255 # a remark\n" + b"9 " * 3 * 64 * 64,
        run_length_bmp(300, 300, 300),
    ],
)
def test_what_programs_write_is_no_bomb(data):
    assert decode(data).mode == "RGB"


def test_a_motion_photo_is_no_bomb():
    """A film behind the photo, in which the bytes of a scan's start come by chance."""
    film = np.random.default_rng(0).integers(0, 256, 20_000_000, dtype=np.uint8).tobytes()
    assert decode(saved(Image.new("RGB", (5000, 5000)), "JPEG") + film).size == (5000, 5000)

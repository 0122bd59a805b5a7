"""Any bytes become an upright RGB image or one reason; nothing of the image library gets through."""

from __future__ import annotations

import io
import os
import struct
import sys
import types
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin, features

from facekit.data.readers import decode as decoding
from facekit.data.readers.costs import MAX_PIXELS
from facekit.data.readers.decode import Unusable, decode, decode_file, quiet, resize

KINDS = ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"] + ["AVIF"] * features.check("avif")
RAMP = np.linspace(0, 1, 64 * 48).reshape(48, 64)


def photo(width=64, height=48, mode="RGB"):
    """A photo with a red corner at the top left on a blue ground."""
    image = Image.new("RGB", (width, height), (0, 0, 200))
    image.paste((220, 0, 0), (0, 0, width // 2, height // 2))
    return image.convert(mode)


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def reason(data):
    with pytest.raises(Unusable) as caught:
        decode(data)
    return caught.value.problem.reason


def huge_png(side):
    """A valid PNG header that claims side × side pixels, in a few hundred bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def test_reasons():
    jpeg = saved(photo(), "JPEG")
    assert reason(b"") == "empty"
    assert reason(b"just some text") == "unreadable"
    with pytest.raises(Unusable, match="not a photo of a known format"):
        decode(b"just some text")
    assert reason(jpeg[: len(jpeg) // 2]) == "unreadable"
    assert reason(saved(photo(1, 1))) == "too small"


def test_a_camera_file_with_two_pictures_gives_its_first():
    data = saved(photo(), "MPO", save_all=True, append_images=[photo().rotate(180)], quality=95)
    assert np.asarray(decode(data))[5, 5].argmax() == 0, "the first picture has its red corner at the top left"


@pytest.mark.parametrize("side", [8100, 10000, 20000, 60000])
def test_too_many_pixels_are_refused_before_decoding(side, monkeypatch):
    assert side**2 > MAX_PIXELS
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("a pixel was decoded"))
    with quiet(), warnings.catch_warnings():
        assert reason(huge_png(side)) == "too many pixels"


def test_real_jpeg_of_20000_by_20000_is_refused():
    """The header of a real JPEG, its size patched: what a camera of 400 megapixels would send."""
    data = bytearray(saved(photo(), "JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", 20000, 20000)
    with quiet():
        assert reason(bytes(data)) == "too many pixels"


def test_transparency_is_laid_on_white():
    palette = photo().convert("P", palette=Image.Palette.ADAPTIVE)
    red = palette.getpixel((0, 0))
    assert decode(saved(palette, transparency=red)).getpixel((2, 2)) == (255, 255, 255)
    assert decode(saved(palette, transparency=red)).getpixel((60, 40)) == (0, 0, 200)
    clear = photo(mode="RGBA")
    clear.putalpha(0)
    assert np.all(np.asarray(decode(saved(clear))) == 255)
    assert decode(saved(photo(), transparency=(220, 0, 0))).getpixel((2, 2)) == (255, 255, 255)


@pytest.mark.parametrize("mode, kind", [("CMYK", "JPEG"), ("L", "JPEG"), ("1", "PNG"), ("LA", "PNG"), ("P", "GIF")])
def test_other_modes_become_rgb(mode, kind):
    wanted = np.asarray(photo(mode=mode).convert("RGB"), dtype=int)
    got = decode(saved(photo(mode=mode), kind))
    assert got.mode == "RGB"
    assert np.abs(np.asarray(got, dtype=int) - wanted).mean() < 6


def png_of_depth(depth, colour, rows, clear):
    """A PNG 64 × 48 as a program writes it that knows other depths than the image library; clear: its tRNS chunk."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in [rows] * 48)))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"tRNS", clear) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("clear", [True, False])
@pytest.mark.parametrize("depth, value", [(1, 0), (1, 1), (2, 1), (4, 9), (8, 77), (16, 0x4050), (48, 0x4050)])
def test_the_clear_colour_of_a_png_has_its_depth(depth, value, clear):
    """The left half has the colour that is clear, or one next to it; the right half is white."""
    bits = depth if depth < 48 else 16
    code, white = (f"{number:0{bits}b}" * (1 if depth < 48 else 3) for number in (value, 2**bits - 1))
    row = int(code * 32 + white * 32, 2).to_bytes(64 * depth // 8, "big")
    named = (value if clear else value ^ (1 << bits - 1)).to_bytes(2, "big") * (1 if depth < 48 else 3)
    got = decode(png_of_depth(bits, 2 if depth == 48 else 0, row, named)).getpixel((2, 2))
    assert got == ((255 if clear else round(255 * value / (2**bits - 1)),) * 3 if depth < 48 else got)
    assert depth < 48 or (got == (255, 255, 255)) == clear


def tiff(values, photometric=1, preview=False):
    """A TIFF of an array (48, 64) or (48, 64, 3), of any type of numbers; a preview says that it is one."""
    bands, depth = values[0, 0].size, 8 * values.itemsize
    after = 8 + 2 + 10 * 12 + 4
    words = struct.pack(f"<{2 * bands}H", *[depth] * bands, *[{"u": 1, "i": 2, "f": 3}[values.dtype.kind]] * bands)
    bits, form = (after, after + 2 * bands) if bands > 2 else struct.unpack("<HH", words)
    one, many = (4, 1), (3, bands)  # types and counts
    rows = [(254, *one, int(preview)), (256, *one, 64), (257, *one, 48), (258, *many, bits), (262, *one, photometric)]
    rows += [(273, *one, after + len(words)), (277, *one, bands), (278, *one, 48), (279, *one, values.nbytes)]
    lines = [struct.pack("<HHII", *row) for row in [*rows, (339, *many, form)]]
    return b"II*\0" + struct.pack("<IH", 8, 10) + b"".join(lines) + bytes(4) + words + values.tobytes()


def pgm(most, scale=1.0):
    return b"P5 64 48 %d\n" % most + (RAMP * most * scale).astype(">u2").tobytes()


COLOURS = np.stack([RAMP, RAMP[::-1], RAMP], 2)


@pytest.mark.parametrize(
    "data, white",
    [
        (tiff(RAMP.astype(np.float32)), 1),
        (tiff(255 * RAMP.astype(np.float32)), 1),
        (tiff(65535 * RAMP.astype(np.float32)), 1),
        (tiff(RAMP.astype(np.float32), photometric=0), -1),
        (tiff((65535 * RAMP).astype(np.uint16)), 1),
        (tiff((65535 * RAMP).astype(np.uint16), photometric=0), -1),
        (tiff((255 * RAMP).astype(np.int16)), 1),
        (tiff((255 * RAMP).astype(np.int32)), 1),
        (tiff((65535 * RAMP).astype(np.uint32)), 1),
        (tiff((65535 * COLOURS).astype(np.uint16), photometric=2), 1),
        (saved(Image.fromarray((65535 * RAMP).astype(np.uint16))), 1),
        (pgm(65535), 1),
        (pgm(4095), 1),
        (pgm(4095, 0.05), 0.05),  # it says what is white
        (b"Pf 64 48 -1.0\n" + RAMP[::-1].astype("<f4").tobytes(), 1),
    ],
)
def test_brightness_is_right_whatever_the_numbers(data, white):
    got = np.asarray(decode(data))[:, :, 0]
    assert np.abs(got - 255 * (RAMP * white if white > 0 else 1 - RAMP)).max() <= 1.6


def with_one(value):
    values = RAMP.astype(np.float32)
    values[5, 5] = value
    return tiff(values)


@pytest.mark.parametrize(
    "data",
    [
        *[tiff((RAMP * scale).astype(np.float32)) for scale in (0, 0.01, 1.1, 30, 300, 1e6, -1, np.nan)],
        *[with_one(value) for value in (np.nan, np.inf, -np.inf, -0.1)],
        *[tiff((RAMP * most).astype(np.uint16)) for most in (0, 1, 255, 1023, 4095, 16383)],
        *[tiff((RAMP * most - low).astype(np.int16)) for most, low in ((65535, 32768), (32767, 0), (4095, 0), (1, 0))],
        *[tiff((RAMP * most - low).astype(np.int32)) for most, low in ((255, 1), (1, 0), (4095, 0), (2**31 - 1, 0))],
        tiff((RAMP * 255 - 128).astype(np.int8)),
        tiff((COLOURS * 4095).astype(np.uint16), photometric=2),
        saved(Image.fromarray((4095 * RAMP).astype(np.uint16))),
        pgm(65535, 1 / 16),
    ],
)
def test_where_nothing_says_what_is_white_the_photo_is_refused_not_black(data):
    assert reason(data) == "unknown brightness"


def test_large_pictures_are_converted_in_parts_to_the_same_pixels():
    values = np.random.default_rng(0).integers(0, 256, (1100, 1300, 4), dtype=np.uint8)
    clear = Image.fromarray(values)
    wanted = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    assert np.array_equal(decode(saved(clear, "TIFF")), wanted)
    deep = values[:, :, 0].astype(np.uint16) * 256 + values[:, :, 1]
    assert np.array_equal(np.asarray(decode(saved(Image.fromarray(deep))))[:, :, 0], (deep / 257).round())


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_its_picture_and_of_several_the_first(kind):
    wanted = np.asarray(photo(), dtype=int)
    assert np.abs(np.asarray(decode(saved(photo(), kind))) - wanted).mean() < 6
    if kind not in ("JPEG", "BMP", "PPM"):
        several = saved(photo(), kind, save_all=True, append_images=[photo().rotate(180)] * 3)
        assert np.abs(np.asarray(decode(several)) - wanted).mean() < 6


HEIC = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(200)


@pytest.mark.parametrize(
    "data, told",
    [
        (HEIC, "pip install pillow-heif"),
        (HEIC.replace(b"heic", b"hevx"), "HEIC"),
        (b"\0\0\0\x14ftypisom\0\0\0\0isom", "a film"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50), "JPEG XL.* save it as"),
        (b"\xff\x4f\xff\x51" + bytes(50), "JPEG 2000"),
        (b"%PDF-1.4", "a PDF"),
        (b"<!DOCTYPE html>", "download the photo"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"\xff\xd8 and no more", "JPEG"),
        (b"FUJIFILMCCD-RAW ", "a camera's raw file.* save it as"),
        (tiff(COLOURS.astype(np.uint8), 2, preview=True), "a camera's raw file"),
        (tiff(RAMP), "a kind of TIFF that is not read"),
    ],
)
def test_what_is_not_read_is_named_with_the_remedy(data, told, monkeypatch):
    monkeypatch.setattr(decoding, "formats", lambda: ("JPEG", "PNG", "TIFF"))
    with pytest.raises(Unusable, match=told) as caught:
        decode(data)
    assert caught.value.problem.reason == "unreadable"


def test_heic_that_begins_as_avif_may_is_named_too():
    if "HEIF" not in decoding.formats():
        with pytest.raises(Unusable, match="pip install pillow-heif"):
            decode(HEIC)


def test_heic_is_read_where_the_package_for_it_is_installed(monkeypatch):
    """Its opener is stood in for by one that opens the PNG behind the HEIC's first box."""

    class Opener(PngImagePlugin.PngImageFile):
        format = "HEIF"

        def _open(self):
            self.fp = io.BytesIO(self.fp.read()[24:])
            super()._open()

    package = types.ModuleType("pillow_heif")
    package.register_heif_opener = lambda: Image.register_open("HEIF", Opener, lambda first: b"ftyp" in first)
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    monkeypatch.setattr(decoding, "version", lambda name: f"1 of {name}")
    decoding.formats.cache_clear()
    try:
        assert decode(HEIC[:24] + saved(photo())).getpixel((3, 3)) == (220, 0, 0)
        assert decoding.decoder().endswith(", pillow-heif 1 of pillow-heif")
    finally:
        decoding.formats.cache_clear()
        del Image.OPEN["HEIF"]
        Image.ID.remove("HEIF")


def test_a_file_that_cannot_be_read_is_no_unreadable_photo(tmp_path):
    (tmp_path / "photo.png").write_bytes(saved(photo()))
    assert decode_file(tmp_path / "photo.png").size == (64, 48)
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "none.png", tmp_path, tmp_path / "pipe.png", "~nobody at all/x", "a\0b"):
        with pytest.raises(Unusable) as caught:
            decode_file(path)
        assert caught.value.problem.reason == "no file"


def test_files_of_any_length_are_not_read_whole(tmp_path):
    with open(tmp_path / "long.png", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(Unusable) as caught:
        decode_file(tmp_path / "long.png")
    assert caught.value.problem.reason == "file too large"


def test_sixteen_bit_grey_keeps_its_range():
    values = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    got = np.asarray(decode(saved(Image.fromarray(values))))[:, :, 0]
    assert np.abs(got - values / 257.0).max() <= 0.51


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    """Independent statement of CIPA DC-008: where row 0 and column 0 of the stored image are in the upright one."""
    corners = {1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "tl", 6: "tr", 7: "br", 8: "bl"}
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = decode(saved(photo(), "JPEG", quality=95, exif=exif))
    assert upright.size == ((64, 48) if orientation < 5 else (48, 64))
    width, height = upright.size
    places = {"tl": (4, 4), "tr": (width - 5, 4), "br": (width - 5, height - 5), "bl": (4, height - 5)}
    red = [name for name, place in places.items() if upright.getpixel(place)[0] > 150]
    assert red == [corners[orientation]]


def test_big_jpegs_are_decoded_smaller_yet_look_the_same():
    values = np.asarray(Image.effect_noise((20, 20), 80).resize((1600, 1600), Image.Resampling.BICUBIC))
    data = saved(Image.fromarray(values).convert("RGB"), "JPEG", quality=95)
    small = decode(data, at_least=160)
    assert 320 <= small.width < 1600
    difference = np.abs(resize(small, 160).astype(int) - resize(decode(data), 160))
    assert difference.mean() < 1


def test_resize_takes_the_whole_photo():
    pixels = resize(photo(), 16)
    assert pixels.shape == (3, 16, 16) and pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert pixels[0, 2, 2] > 200 and pixels[2, 13, 13] > 180
    same = photo(16, 16)
    assert np.array_equal(resize(same, 16), np.asarray(same).transpose(2, 0, 1))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_damaged_files_are_images_or_reasons(data):
    kind = data.draw(st.sampled_from(KINDS))
    whole = bytearray(saved(photo(), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with quiet():
        try:
            assert decode(bytes(whole)).mode == "RGB"
        except Unusable as error:
            wanted = ("unreadable", "too small", "too many pixels", "too costly", "unknown brightness")
            assert error.problem.reason in wanted
            assert "0x" not in str(error)

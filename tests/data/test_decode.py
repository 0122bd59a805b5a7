"""Any bytes become an upright RGB image or one reason; nothing of the image library gets through."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facekit.data.readers.decode import MAX_PIXELS, Unusable, decode, quiet, resize


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
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"]))
    whole = bytearray(saved(photo(), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with quiet():
        try:
            assert decode(bytes(whole)).mode == "RGB"
        except Unusable as error:
            assert error.problem.reason in ("unreadable", "too small", "too many pixels")
            assert "0x" not in str(error)

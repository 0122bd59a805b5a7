"""What is packed: label tables, pictures, folders, archives, pickles of CIFAR-10, bombs, and what is left of packing.

A target makes an input before its `yield`; what follows is measured and checked. Photos have a number in their name,
which survives whatever else is done to the name.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import pickle
import pickletools
import re
import shutil
import struct
import sys
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random
from urllib.parse import quote

import numpy as np
import pandas as pd
from PIL import Image, PngImagePlugin

from facekit.data.pack import pack
from facekit.data.sets import FaceSet

from . import mutate
from .child import Changed

SIDE = 16
SEEN = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")  # what a person takes for a photo
SEEN += (".heic", ".heif", ".avif", ".jfif", ".ppm", ".pgm")


@cache
def pixels(number: int, side: int = 24) -> np.ndarray:
    """A smooth picture (side, side, 3) uint8 that no other number has."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:side, :side] / side
    waves = [np.sin(x * rng.uniform(1, 6) + y * rng.uniform(1, 6) + rng.uniform(0, 6)) for _ in range(3)]
    return (127 + 100 * np.stack(waves, 2)).astype(np.uint8)


@cache
def photo(number: int, form: str = "PNG", side: int = 24) -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    Image.fromarray(pixels(number, side)).save(file, form)
    return file.getvalue()


@cache
def as_packed(number: int) -> np.ndarray:
    """The pixels that a whole PNG of this number has in a set."""
    image = Image.fromarray(pixels(number)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image).transpose(2, 0, 1)


def numbers_in(names: list[str]) -> list[int]:
    """The numbers of photos in names, in their order."""
    return [int(found[-1]) for name in names if (found := re.findall(r"n(\d+)n", str(name)))]


def told(faces: FaceSet) -> tuple[list[str], list[str]]:
    """Names of the packed and of the rejected; packed + rejected = found."""
    packed, rejected = (
        [str(name) for name in faces.labels["file"]],
        [each["file"] for each in faces.manifest["rejected"]],
    )
    if faces.manifest["found"] != len(packed) + len(rejected):
        raise Changed(f"found {faces.manifest['found']}, packed {len(packed)}, rejected {len(rejected)}")
    return packed, rejected


def all_there(faces: FaceSet, expected: set[int]) -> str:
    """Checks that every photo is packed or named; returns how it ended."""
    packed, rejected = told(faces)
    if missing := expected - set(numbers_in(packed + rejected)):
        raise Changed(f"of photos {sorted(expected)}, {sorted(missing)} are neither packed nor rejected")
    return "rejects" if rejected else "accepted"


def same_pixels(faces: FaceSet) -> None:
    """Checks that every packed photo with a number has the pixels of that number."""
    for row, name in enumerate(map(str, faces.labels["file"])):
        for number in numbers_in([name]):
            if not (faces.images[row] == as_packed(number)).all():
                raise Changed(f"{name} has other pixels")


# --- label tables -------------------------------------------------------------------------------------------------

PLAIN_NUMBER = re.compile(r"[+-]?(0|[1-9]\d{0,14})(\.\d*)?([eE][+-]?\d{1,2})?")
NAMING = ("file", "path", "image", "filename")
VALUES = {
    "gender": ("Male", "Female", ""),
    "age": ("0-2", "3-9", "20-29", "more than 70"),
    "age_years": ("3", "41", "7.5", ""),
    "split": ("train", "validation", "test", ""),
    "town": ("Bonn", "K\u00f6ln", "S\u00e3o Paulo", "New York"),
    "code": ("001", "002", "010"),
    "level": ("1.5", "2", "-3e2", "0"),
    "wears": ("None", "NA", "Glasses"),
    "flag": ("True", "False"),
    "sign": ("-1", "1"),
    "identity": ("12", "0012", "m.0a1"),
    "text": ("nan", "007", "a b"),
}


def same_text(text: str, got: object) -> bool:
    """Whether what came back is the text of a table's field, or the number that it can only be."""
    text = text.strip()
    if got is None or got == "" or got != got:
        return text == ""
    if isinstance(got, str):
        return got.strip() == text
    if isinstance(got, bool | np.bool_):
        return str(got) == text
    return bool(PLAIN_NUMBER.fullmatch(text)) and bool(np.isclose(float(text), float(got), rtol=1e-9, atol=0))


def reading(data: bytes) -> dict[str, dict[str, str]] | None:
    """Name to labels of a table that can only be read in one way (UTF-8, commas), None for all others."""
    try:
        text = data.decode("utf-8-sig")
        header, *rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if any(row)]
    except (UnicodeDecodeError, ValueError, csv.Error):
        return None
    header = [name.strip() for name in header]
    naming = [place for place, name in enumerate(header) if name in NAMING]
    plain = all(re.fullmatch(r"\w[\w .-]*", name) for name in header) and len(set(header)) == len(header)
    if len(naming) != 1 or not plain or any(len(row) != len(header) for row in rows):
        return None
    names = [row[naming[0]].strip() for row in rows]
    if len(set(names)) < len(names):
        return None
    return {name: dict(zip(header, row, strict=True)) for name, row in zip(names, rows, strict=True)}


def table(rng: Random, folder: Path) -> Iterator:
    """A label table beside photos."""
    columns = rng.sample(list(VALUES), rng.randint(1, 4))
    numbers = range(rng.randint(2, 8))
    inner = rng.choice(("", "", "faces/"))
    naming = rng.choice((*NAMING, *NAMING, *NAMING, "image_id", "File", "name", "file "))
    rows = [{naming: f"{inner}n{n}n.png", **{name: rng.choice(VALUES[name]) for name in columns}} for n in numbers]
    for row in rows:
        for name in columns:
            if rng.random() < 0.15:
                row[name] = mutate.text(rng)
    lines = [[naming, *columns], *([row[name] for name in (naming, *columns)] for row in rows)]
    data = accident(rng, lines)
    for n in numbers:
        path = folder / "photos" / inner / f"n{n}n.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(n))
    (folder / "photos" / "labels.csv").write_bytes(data)
    yield
    faces = pack(folder / "photos", folder / "out", SIDE, workers=1)
    end = all_there(faces, set(numbers))
    same_pixels(faces)
    again = FaceSet.load(folder / "out")
    wanted = reading(data) or {}
    for got in again.labels.to_dict("records"):
        tails = [str(got["file"]), str(got["file"]).rpartition("/")[2]]
        for column, text in next((wanted[tail] for tail in tails if tail in wanted), {}).items():
            text = unicodedata.normalize("NFC", text)
            if column in NAMING or (column == "split" and not text.strip()):
                continue
            noted = column == "age" and any(repr(text.strip()) in note for note in again.manifest.get("notes", []))
            years = column == "age_years" and text.strip().lstrip("0").replace(".", "").isdecimal()
            if noted or (
                years and float(text) == float(got[column])
            ):  # a spreadsheet's date is told; years are numbers
                continue
            if column not in got or not same_text(text, norm(got[column])):
                raise Changed(f"{column}: {text!r} came back as {got.get(column, 'nothing')!r} ({got['file']})")
    return end


def norm(value: object) -> object:
    return unicodedata.normalize("NFC", value) if isinstance(value, str) else value


def accident(rng: Random, lines: list[list[str]]) -> bytes:
    """Rows as bytes of a table, as one program or another writes it, or damaged."""
    match rng.randrange(14):
        case 0:
            lines = [[*line, "", ""] for line in lines]
        case 1:
            lines[rng.randrange(len(lines)) :][:1][0][:] = lines[0][: rng.randrange(4)]
        case 2:
            lines.insert(rng.randrange(len(lines)), rng.choice(([], [""], [""] * len(lines[0]), ["sep=,"], ["#x"])))
        case 3:
            lines.append(list(rng.choice(lines)))
        case 4:
            lines[0][rng.randrange(len(lines[0]))] = mutate.text(rng)
        case 5:
            lines = lines[1:]
        case 6:
            style = rng.choice(("/x/{}", "C:\\x\\{}", "./{}", "x/{}", "{}.png", " {}", "{}\n", "..\\{}"))
            for line in lines[1:]:
                line[0] = style.format(line[0])
        case 7:
            for line in lines[1:]:
                line[0] = rng.choice((line[0][:-4], line[0].upper(), line[0].replace(".png", ".jpg"), mutate.text(rng)))
        case 8:
            lines = [[*line, line[0] if n else rng.choice(NAMING)] for n, line in enumerate(lines)]
    style = {"delimiter": ",", "lineterminator": rng.choice(("\n", "\n", "\r\n", "\r")), "quoting": csv.QUOTE_MINIMAL}
    if rng.random() < 0.2:
        style |= {"delimiter": rng.choice(";\t| "), "quoting": rng.choice((csv.QUOTE_ALL, csv.QUOTE_MINIMAL))}
    file = io.StringIO(newline="")
    csv.writer(file, **style).writerows(lines)
    return mutate.written(rng, file.getvalue())


# --- pictures -----------------------------------------------------------------------------------------------------

GREY = np.linspace(0, 255, 24 * 24).reshape(24, 24)


def deep(rng: Random) -> tuple[bytes, np.ndarray]:
    """A grey wedge whose values are not 0 … 255, as a file, and as it should look."""
    top = rng.choice((1.0, 255.0, 300.0, 1000.0, 4095.0, 65535.0))
    values = GREY / 255 * top
    kind = rng.choice((np.float32, np.uint16, np.int32)) if top > 300 else np.float32
    values = values.astype(kind)
    if kind == np.float32 and rng.random() < 0.3:
        values[rng.randrange(24)] = rng.choice((np.nan, np.inf, -np.inf))
    if rng.random() < 0.1:
        values[:] = rng.choice((0, 0.5, top)) if kind != np.float32 else rng.choice((np.nan, np.inf, 0.5))
        return saved(Image.fromarray(values), "TIFF"), np.zeros(0)
    form = "PNG" if kind == np.uint16 and rng.random() < 0.5 else "TIFF"
    return saved(Image.fromarray(values), form), GREY


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and content of the chunks of a whole PNG."""
    found, at = [], 8
    while at < len(data):
        size = struct.unpack(">I", data[at : at + 4])[0]
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def structured(rng: Random, form: str, data: bytes) -> bytes:
    """A picture with one field of its structure changed, its checksums right again."""
    if form == "PNG":
        parts = png_chunks(data)
        place = rng.randrange(len(parts))
        kind, content = parts[place]
        match rng.randrange(6):
            case 0:
                parts[place] = (kind, mutate.damaged(rng, content))
            case 1:
                del parts[place]
            case 2:
                parts.insert(place, parts[rng.randrange(len(parts))])
            case 3:
                extra = rng.choice((b"tRNS", b"PLTE", b"gAMA", b"iCCP", b"eXIf", b"acTL", b"zTXt", b"sBIT", b"IDAT"))
                parts.insert(rng.randint(0, len(parts)), (extra, rng.randbytes(rng.choice((0, 1, 6, 26, 300)))))
            case 4:
                head = bytearray(parts[0][1])
                head[rng.randrange(len(head))] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
                parts[0] = (b"IHDR", bytes(head))
            case 5:
                parts.insert(1, (rng.choice((b"zTXt", b"iCCP")), b"x\0\0" + zlib.compress(bytes(2**22), 9)))
        return data[:8] + b"".join(chunk(*part) for part in parts)
    # Lengths and counts of the other formats lie in their first bytes.
    return mutate.damaged(rng, data, end=min(len(data), 160))


def picture(rng: Random, folder: Path) -> Iterator:
    """A photo among two whole ones: damaged, of an odd mode or with odd values."""
    form = rng.choice(("JPEG", "JPEG", "PNG", "PNG", "GIF", "WEBP", "BMP", "TIFF"))
    expected = None
    mode = rng.choice(("RGB", "RGB", "L", "P", "1", "LA", "RGBA", "CMYK", "I;16", "deep", "exif"))
    if mode == "deep":
        data, expected = deep(rng)
    elif mode == "exif":
        exif = Image.Exif()
        exif[0x0112] = rng.choice((0, 1, 3, 6, 8, 9, 65535))
        form = rng.choice(("JPEG", "PNG", "WEBP"))
        data = saved(Image.fromarray(pixels(1)), form, exif=exif.tobytes())
    else:
        image = Image.fromarray(pixels(1)).convert("L" if mode == "I;16" else "RGB" if mode in ("P", "CMYK") else mode)
        try:
            data = saved(image.convert(mode), form)
        except (OSError, ValueError):
            data = photo(1, form)
    if rng.random() < (0.2 if mode == "deep" else 0.85):
        expected = None
        data = structured(rng, form, data) if rng.random() < 0.5 else mutate.damaged(rng, data)
    name = f"n9n.{rng.choice((form.lower(), 'jpg', 'png', 'tif'))}"
    for place, content in {"a/n1n.png": photo(1), "b/n2n.png": photo(2), f"a/{name}": data}.items():
        (folder / "photos" / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / "photos" / place).write_bytes(content)
    yield
    faces = pack(folder / "photos", folder / "out", SIDE, "classes", workers=1)
    end = all_there(faces, {1, 2, 9})
    got = {number: faces.images[row] for row, number in enumerate(numbers_in(list(faces.labels["file"])))}
    for number in (1, 2):
        if not (got[number] == as_packed(number)).all():
            raise Changed(f"photo {number} has other pixels")
    if expected is not None and 9 in got:
        brightness, wanted = got[9].mean(), expected.mean() if expected.size else None
        if wanted is not None and abs(brightness - wanted) > 45:
            raise Changed(f"brightness {brightness:.0f} of 255 instead of {wanted:.0f}")
        if wanted is None and not got[9].any() and "nan" in repr(np.asarray(Image.open(io.BytesIO(data)))):
            raise Changed("nothing but NaN was packed as black")
    return end


# --- folders and archives of class folders ------------------------------------------------------------------------

CLASSES = (
    "None",
    "NA",
    "null",
    "001",
    "1",
    "0",
    "True",
    "1e5",
    "-1",
    "a",
    "A",
    "type_1",
    "type 1",
    "\u00e4",
    "a\u0308",
)
CLASSES += (
    "a\nb",
    "a\rb",
    'a"b',
    "a,b",
    "'",
    " a",
    "a ",
    "nan",
    "x" * 200,
    "\u202ex",
    "\udce4x",
    "\x01",
    "train",
    "test",
)


def plain(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).casefold().replace("_", " ").replace("-", " ").split())


def tree(rng: Random, folder: Path) -> Iterator:
    """Class folders on disk, with odd names, links, other formats and things in the way."""
    root, elsewhere = folder / "photos", folder / "elsewhere"
    classes = rng.sample(CLASSES, rng.randint(2, 5))
    number, expected, label_of, gone = 0, set(), {}, set()
    for name in classes:
        place = root / name
        if rng.random() < 0.15:  # a class that lies on another disk
            place.parent.mkdir(parents=True, exist_ok=True)
            target = elsewhere / str(number)
            target.mkdir(parents=True)
            place.symlink_to(target)
        place.mkdir(parents=True, exist_ok=True)
        for _ in range(rng.randint(1, 3)):
            number += 1
            suffix = rng.choice((".png", ".png", ".png", ".PNG", ".jpg", *SEEN, ".txt", ""))
            (place / f"n{number}n{suffix}").write_bytes(photo(number))
            if suffix.lower() in SEEN:
                expected.add(number)
                label_of[number] = name
    for _ in range(rng.choice((0, 0, 1, 2))):
        number += 1
        place = root / rng.choice(classes)
        match rng.randrange(7):
            case 0:
                (place / f"n{number}n.png").symlink_to(folder / "nowhere.png")
            case 1:
                (place / f"n{number}n.png").mkdir()
                number += 1
                (place / f"n{number - 1}n.png" / f"n{number}n.png").write_bytes(photo(number))
                gone.add(number - 1)
            case 2:
                (place / f"loop{number}").symlink_to(root, target_is_directory=True)
                gone.add(number)
            case 3:
                os.mkfifo(place / f"n{number}n.png")
            case 4:
                shutil.copy(next(path for path in root.rglob("n*") if path.is_file()), place / f"n{number}n.png")
            case 5:
                (place / f"n{number}n.png").write_bytes(rng.choice((b"", b"\0" * 99, photo(number)[:-9])))
            case 6:
                deep_place = place / "/".join(["d" * 100] * rng.choice((2, 12)))
                deep_place.mkdir(parents=True, exist_ok=True)
                (deep_place / f"n{number}n.png").write_bytes(photo(number))
        expected.add(number)
    yield
    faces = pack(root, folder / "out", SIDE, "classes", workers=1)
    end = all_there(faces, expected - gone)
    again = FaceSet.load(folder / "out")
    for name, got in zip(again.labels["file"], again.labels["class"], strict=True):
        own = label_of.get(*numbers_in([str(name)]))
        if own is None or "\udce4" in own:
            continue
        merged = len(set(map(plain, classes))) < len(classes)  # then it may have the name of the other
        # Control characters of a name are escaped, so that it can be shown and told.
        own = "".join(char if ord(char) > 31 else quote(char) for char in own) if "%" in str(got) else own
        if not isinstance(got, str) or (plain(got) != plain(own) if merged else norm(got) != norm(own)):
            raise Changed(f"class {own!r} came back as {got!r} ({name})")
    return end


def odd_name(rng: Random, number: int) -> tuple[str, bool]:
    """A name for an entry of an archive, and whether a person takes it for a photo in a class folder."""
    name = f"{'ab'[number % 2]}/n{number}n.png"
    odd = (
        f"../{name}",
        f"/{name}",
        f"./{name}",
        f"C:/{name}",
        f"a\\n{number}n.png",
        f"x/{name}",
        f"a/\x01n{number}n.png",
    )
    odd += (f"a/\u00e4n{number}n.png", f"\udce4/n{number}n.png", f"a/{'y' * 180}n{number}n.png", f"a/n{number}n.JPG")
    odd += (
        f"a/n{number}n.heic",
        f"a//n{number}n.png",
        f"None/n{number}n.png",
        f"a/n{number}n.png\n",
        f"n{number}n.png",
    )
    return (rng.choice(odd), True) if rng.random() < 0.12 else (name, True)


def archive(rng: Random, folder: Path) -> Iterator:
    """A zip or a tar of class folders: odd names and kinds of entries, or damaged after it was written."""
    form = rng.choice(("zip", "zip", "tar", "tar", "tar.gz", "tar.bz2", "tar.xz"))
    names = [odd_name(rng, number)[0] for number in range(rng.randint(4, 10))]
    odd = sum(name != f"{'ab'[number % 2]}/n{number}n.png" for number, name in enumerate(names))
    path = folder / f"photos.{form}"
    data, starts = (zip_of if form == "zip" else tar_of)(rng, names, form)
    whole, listed = data, True
    if rng.random() < 0.75 and not odd:
        data, listed = broken(rng, form, data, starts, names)
    path.write_bytes(data)
    yield
    faces = pack(path, folder / "out", SIDE, "classes", workers=1)
    expected = set(range(len(names))) - {
        n for n, name in enumerate(names) if not name.lower().rstrip("\n").endswith(SEEN)
    }
    if data == whole:
        end = all_there(faces, expected - {n for n, name in enumerate(names) if name.endswith("\n")})
        same_pixels(faces)
        return end
    packed, rejected = told(faces)
    if listed and len(packed) + len(rejected) < len(names):
        raise Changed(
            f"{len(names)} photos in a damaged {form}, told of {len(packed) + len(rejected)}: {packed + rejected}"
        )
    if form != "tar" and listed:  # a tar has no checksum of what it holds, the others have
        same_pixels(faces)
    return "rejects" if rejected else "accepted"


def zip_of(rng: Random, names: list[str], form: str) -> tuple[bytes, list[int]]:
    """Bytes of a zip, and where its central directory and what follows it begin."""
    file = io.BytesIO()
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    with zipfile.ZipFile(file, "w") as made:
        for number, name in enumerate(names):
            info = zipfile.ZipInfo(name.encode(errors="replace").decode() if name.isprintable() else name)
            info.filename = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            info.compress_type = rng.choice(methods)
            if rng.random() < 0.05:
                info.flag_bits |= 1
            made.writestr(info, photo(number))
        if rng.random() < 0.1:
            made.writestr("a/", b"")
        if rng.random() < 0.1:
            made.comment = b"PK\x05\x06" + rng.randbytes(30)
    data = file.getvalue()
    return data, [data.find(b"PK\x01\x02"), data.rfind(b"PK\x05\x06")]


def tar_of(rng: Random, names: list[str], form: str) -> tuple[bytes, list[int]]:
    """Bytes of a tar, and where the headers of its entries begin (before it was compressed)."""
    file = io.BytesIO()
    kind = rng.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    kind = tarfile.PAX_FORMAT if max(map(len, names)) > 100 else kind
    starts = []
    with tarfile.open(fileobj=file, mode="w", format=kind, encoding="utf-8", errors="surrogateescape") as made:
        for number, name in enumerate(names):
            entry = tarfile.TarInfo(name)
            data = photo(number)
            entry.size = len(data)
            match rng.randrange(60):
                case 0:
                    entry.type, entry.linkname, entry.size = tarfile.SYMTYPE, names[0], 0
                case 1:
                    entry.type, entry.size = rng.choice((tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.LNKTYPE)), 0
                case 2 if kind == tarfile.PAX_FORMAT:
                    entry.pax_headers = {
                        rng.choice(("comment", "size", "uname", "mtime", "GNU.sparse.map")): mutate.text(rng)
                    }
            starts.append(made.offset)
            made.addfile(entry, io.BytesIO(data) if entry.size else None)
    raw = file.getvalue()
    return packed_as(form, raw), starts


def packed_as(form: str, raw: bytes) -> bytes:
    pressed = {"tar.gz": lambda data: gzip.compress(data, mtime=0), "tar.bz2": bz2.compress, "tar.xz": lzma.compress}
    return pressed.get(form, bytes)(raw)


def broken(rng: Random, form: str, data: bytes, starts: list[int], names: list[str]) -> tuple[bytes, bool]:
    """An archive after an accident, and whether all of its photos must be told of, should it be read at all."""
    if form == "zip":
        where = rng.randrange(4)
        if where == 0:
            return mutate.damaged(rng, data, end=starts[0]), True
        if where == 1:  # a field of the directory of 46 bytes and more for each entry
            data = mutate.damaged(rng, data, 1, starts[0], starts[1])
        elif where == 2:
            data = mutate.damaged(rng, data, 1, starts[1])
        else:
            data = mutate.damaged(rng, data)
        # A name or a place of the directory may have changed; what vanishes whole must not.
        try:
            listed = [info.filename for info in zipfile.ZipFile(io.BytesIO(data)).infolist()]
        except Exception:
            return data, True
        return data, all(name in listed for name in names)
    if form == "tar" or rng.random() < 0.4:
        raw = bytearray(
            data if form == "tar" else {"tar.gz": gzip, "tar.bz2": bz2, "tar.xz": lzma}[form].decompress(data)
        )
        at = rng.choice(starts)
        match rng.randrange(7):
            case 0:
                raw[at + rng.randrange(512)] ^= 1 << rng.randrange(8)
            case 1:
                del raw[at:]
            case 2:
                del raw[at + rng.randrange(1, 512) :]
            case 3:
                raw[at : at + rng.choice((512, 1024, 2048))] = bytes(rng.choice((512, 1024, 2048)))
            case 4:
                raw[at + 124 : at + 136] = rng.choice(
                    (b"77777777777\0", b"\x80" + b"\xff" * 11, b"-1         \0", b"\0" * 12)
                )
                fixed(raw, at)
            case 5:
                raw[at + 156] = rng.choice(b"0123456789LKSxgNX\0\xff")
                fixed(raw, at)
                return packed_as(form, bytes(raw)), False  # it says itself that it is something else
            case 6:
                del raw[at + 512 + rng.randrange(512) : at + 1024]
        # With nothing but zeros from there on, it is a whole archive of those before.
        return packed_as(form, bytes(raw)), any(raw[at:]) or len(raw) == at
    return mutate.damaged(rng, data), True


def fixed(raw: bytearray, at: int) -> None:
    """The checksum of a tar's header, right again."""
    raw[at + 148 : at + 156] = b" " * 8
    raw[at + 148 : at + 156] = b"%06o\0 " % sum(raw[at : at + 512])


# --- pickles of CIFAR-10 ------------------------------------------------------------------------------------------


class Call:
    """What a pickle calls when it is read."""

    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> tuple:
        return self.call[0], tuple(self.call[1:])


def cifar(rng: Random, folder: Path) -> Iterator:
    """A batch of CIFAR-10: whole in another form, with other values, or a pickle that means harm."""
    n = 6
    rows = np.stack([pixels(k, 32).transpose(2, 0, 1).reshape(-1) for k in range(n)])
    batch = {"batch_label": "x", "labels": list(range(n)), "data": rows, "filenames": [f"n{k}n.png" for k in range(n)]}
    protocol, true = rng.choice((0, 1, 2, 3, 4, 5)), True
    kind = rng.randrange(12)
    if kind <= 3:
        true = False
        key = rng.choice(list(batch))
        odd = (
            rows[:3],
            rows.astype(np.float32),
            rows.astype(object),
            np.asfortranarray(rows),
            rows.tolist(),
            rows[0, 0],
        )
        odd += (
            rows.tobytes(),
            rows.view([("a", "u1")]),
            np.ma.array(rows),
            memoryview,
            len,
            Call(eval, "1"),
            np.str_("x"),
        )
        batch[key] = rng.choice((mutate.value(rng), mutate.value(rng), *odd))
        if key in ("labels", "filenames") and rng.random() < 0.6:
            batch[key] = list(range(n)) if key == "labels" else [f"n{k}n.png" for k in range(n)]
            batch[key][rng.randrange(n)] = rng.choice((mutate.value(rng), rows, True, np.int64(3), -1, 10))
    elif kind == 4:
        true, batch = (
            False,
            rng.choice((mutate.value(rng), Call(os.getenv, "HOME"), Call(np.ndarray, (2**40,)), nested(rng))),
        )
    try:
        data = pickle.dumps(batch, protocol)
    except Exception:
        data, true = pickle.dumps(dict(batch, data=None) if isinstance(batch, dict) else None, protocol), False
    if kind in (5, 6, 7):
        true, data = False, mutate.damaged(rng, data, end=rng.choice((400, None)))
    elif kind in (8, 9):
        true, data = False, other_words(rng, data)
    elif kind == 10:
        true, data = False, rng.choice(harmful(rng, n))
    name = rng.choice(("data_batch_1", "test_batch"))
    where = folder / "cifar-10-batches-py"
    where.mkdir()
    (where / name).write_bytes(data)
    yield
    faces = pack(folder, folder / "out", kind="cifar10", workers=1)
    end = all_there(faces, set(range(n)) if true else set())
    if true:
        for row, k in enumerate(numbers_in(list(faces.labels["file"]))):
            same = (faces.images[row] == rows[k].reshape(3, 32, 32)).all()
            if not same or faces.labels["object"][row] != faces.manifest["classes"]["object"][k]:
                raise Changed(f"image {k} has other pixels or another label")
    return end


def other_words(rng: Random, data: bytes) -> bytes:
    """A pickle in which one number, one text or one instruction is another."""
    words = [(op, value, at) for op, value, at in pickletools.genops(data)]
    match rng.randrange(3):
        case 0:  # the kinds of numpy's numbers, and their byte order
            old, new = rng.choice(
                ((b"u1", b"O8"), (b"u1", b"V1"), (b"u1", b"S0"), (b"u1", b"u8"), (b"b", b"O"), (b"|", b"<"))
            )
            return data.replace(old, new, rng.choice((1, 2)))
        case 1:
            at = rng.choice(
                [at for op, value, at in words if op.name in ("BININT1", "BININT2", "BININT", "INT", "BINGET")]
            )
            return data[: at + 1] + bytes([rng.choice((0, 1, 2, 3, 6, 7, 127, 255))]) + data[at + 2 :]
    _, _, at = rng.choice(words)
    return data[:at] + rng.choice(pickletools.opcodes).code.encode("latin-1") + data[at + 1 :]


def nested(rng: Random) -> object:
    """A list in a list in a list."""
    made: list = []
    for _ in range(300):
        made = [made]
    return made


def harmful(rng: Random, n: int) -> list[bytes]:
    """Pickles that are small and grow, go deep, or make arrays over other memory."""
    grown = (
        b"\x80\x02(lq\x00"
        + b"".join(b"(lq" + bytes([k + 1]) + b"(" + (b"h" + bytes([k])) * 60 + b"e" for k in range(7))
        + b"."
    )
    dtype = b"cnumpy\ndtype\n(S'%s'\nI0\nI1\ntR"
    state = b"(I3\nS'|'\nNNNI-1\nI-1\nI%d\ntb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    return [
        grown,
        b"(" * 100_000 + b".",
        b"]" * 200_000 + b"a" * 199_999 + b".",
        b"\x80\x04" + b"\x8c" + b"\xff" + b"x" * 9,
        b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
        b"\x80\x04B" + struct.pack("<I", 2**31) + b"x.",
        b"\x80\x02\x8b" + struct.pack("<i", 10**6) + b"\xff" * 10**6 + b".",
        b"L" + b"9" * 20_000 + b"L\n.",
        b"cnumpy\nndarray\n((I%d\nltR." % 2**45,
        b"cnumpy\nndarray\n(I%d\ntR." % 2**33,
        array + b"(I1\n(I%d\nl" % 2**40 + dtype % b"u1" + b"I00\nS'abc'\ntb.",
        array + b"(I1\n(I2\nl" + dtype % b"O8" + b"I00\n(I1\nI2\nltb.",
        array + b"(I1\n(I4\nt" + dtype % b"O8" + b"I00\nS'" + b"A" * 32 + b"'\ntb.",
        *(array + b"(I1\n(I4\nt" + dtype % b"O8" + state % k + b"I00\nS'" + b"A" * 32 + b"'\ntb." for k in (0, 16, 63)),
        *(array + b"(I1\n(I%d\nt" % k + dtype % b"u1" + b"I00\nS'" + b"A" * 32 + b"'\ntb." for k in (-1, 0, 2**62)),
        array + b"(I1\n(I4\nt" + dtype % b"V8" + state % 63 + b"I00\nS'" + b"A" * 32 + b"'\ntb.",
        dtype % b"u1" + b"(I3\nS'|'\nNNNI-1\nI-1\nI63\ntb.",
        dtype % b"V16" + b"(I3\nS'|'\nN(S'a'\ntI-1\nI-1\nI99\ntb.",
        b"cos\nsystem\n(S'true'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
    ]


# --- stored sets --------------------------------------------------------------------------------------------------


@cache
def packed_set() -> Path:
    """A small set with all kinds of label columns; in this process's own folder."""
    home = Path("packed-set").absolute()
    shutil.rmtree(home, ignore_errors=True)
    for n in range(8):
        place = home / "photos" / f"n{n}n.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(photo(n))
    rows = [
        f"n{n}n.png,{'Male' if n % 2 else 'Female'},{20 + n},t{n % 3},00{n % 2},{('train', 'test')[n % 2]}"
        for n in range(8)
    ]
    (home / "photos" / "labels.csv").write_text("\n".join(["file,gender,age_years,town,code,split", *rows]))
    pack(home / "photos", home / "set", SIDE, workers=1)
    return home


@cache
def whole_set() -> tuple[np.ndarray, pd.DataFrame]:
    """Pixels and labels of that set."""
    faces = FaceSet.load(packed_set() / "set")
    return np.array(faces.images), faces.labels


def same_set(faces: FaceSet) -> None:
    """Checks that a set has the pixels and labels of the whole one, asked as a training would ask."""
    images, labels = whole_set()
    for split in ("train", "test"):
        part, rows = faces.split(split), labels["split"] == split
        if part.images.shape != images[rows].shape or not (np.asarray(part.images) == images[rows]).all():
            raise Changed(f"other pixels in {split}")
        got, wanted = part.labels.astype(str), labels[rows].reset_index(drop=True).astype(str)
        if list(got) != list(wanted) or not (got == wanted).all(axis=None):
            found = got.compare(wanted).head(2).to_dict() if got.shape == wanted.shape else list(got)
            raise Changed(f"other labels in {split}: {found}")


def packed(rng: Random, folder: Path) -> Iterator:
    """A packed set of which a file was damaged or edited."""
    shutil.copytree(packed_set() / "set", folder / "set")
    name = rng.choice(("inputs.npy", "labels.csv", "manifest.json", "manifest.json"))
    file = folder / "set" / name
    data = file.read_bytes()
    if name == "manifest.json" and rng.random() < 0.75:
        file.write_bytes(mutate.written(rng, json.dumps(mutate.changed(rng, json.loads(data)))))
    elif name == "inputs.npy" and rng.random() < 0.5:
        head = data[:128].decode("latin-1")
        old, new = rng.choice(
            [
                ("False", "True "),
                ("|u1", rng.choice(("|i1", "|b1", "|O ", "|V1", "<u2", "|S1"))),
                ("(8,", "(9,"),
                ("(8,", "(-8"),
                ("3, 16", "16, 3"),
            ]
            + [
                ("\x01\x00v", rng.choice(("\x02\x00v", "\x09\x00v", "\x01\x00\xff"))),
                ("'shape'", "'shapo'"),
                ("{", "["),
                ("(8,", "(" * 9),
            ]
        )
        file.write_bytes(head.replace(old, new, 1).encode("latin-1")[:128].ljust(128) + data[128:])
    elif name == "labels.csv" and rng.random() < 0.5:
        rows = list(csv.reader(io.StringIO(data.decode(), newline="")))
        rows[rng.randrange(len(rows))][rng.randrange(6)] = mutate.text(rng)
        made = io.StringIO(newline="")
        csv.writer(made, lineterminator="\n").writerows(rows)
        file.write_bytes(made.getvalue().encode("utf-8", "replace"))
    else:
        mutate.struck(rng, file)
    yield
    same_set(FaceSet.load(folder / "set"))
    return "accepted"


STOP = {"at": -1}  # how many renames are left before packing is stopped


def _stopping(event: str, arguments: tuple) -> None:
    if event == "os.rename" and STOP["at"] >= 0:
        STOP["at"] -= 1
        if STOP["at"] < 0:
            raise KeyboardInterrupt


@cache
def _watched() -> None:
    sys.addaudithook(_stopping)


def journal(rng: Random, folder: Path) -> Iterator:
    """What a stopped packing left, damaged, and the same packing again."""
    _watched()
    shutil.copytree(packed_set() / "photos", folder / "photos")
    STOP["at"] = rng.randrange(3)
    with suppress(KeyboardInterrupt):
        pack(folder / "photos", folder / "set", SIDE, workers=1)
    STOP["at"] = -1
    left = [path for path in sorted((folder / "set").rglob("*")) if path.is_file() and path.name != "manifest.json"]
    if left:
        file = rng.choice(left)
        lines = file.read_bytes().split(b"\n")
        if file.suffix != ".npy" and "pixels" not in file.name and len(lines) > 2 and rng.random() < 0.6:
            place = rng.randrange(len(lines) - 1)
            try:
                lines[place] = json.dumps(mutate.changed(rng, json.loads(lines[place]))).encode("utf-8", "replace")
            except ValueError:
                lines.insert(place, lines.pop())
            file.write_bytes(b"\n".join(lines))
        else:
            file.write_bytes(mutate.damaged(rng, file.read_bytes()))
    yield
    same_set(pack(folder / "photos", folder / "set", SIDE, workers=1))
    same_set(FaceSet.load(folder / "set"))
    return "accepted"


# --- bombs: small, and large once they are opened -----------------------------------------------------------------


@cache
def zeros(size: int, wrap: int = 15) -> bytes:
    """`size` zeros (a multiple of 2^20), compressed in no time. wrap: zlib's window bits; 31 for gz, negative: none."""
    press = zlib.compressobj(9, zlib.DEFLATED, -15)
    press.compress(bytes(2**16))
    press.flush(zlib.Z_FULL_FLUSH)
    block = press.compress(bytes(2**20)) + press.flush(zlib.Z_FULL_FLUSH)
    body = block * (size // 2**20) + press.flush()
    if wrap == 31:
        checksum = 0
        for _ in range(size // 2**20):
            checksum = zlib.crc32(bytes(2**20), checksum)
        return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + body + struct.pack("<II", checksum, size & 0xFFFFFFFF)
    return body if wrap < 0 else b"\x78\xda" + body + struct.pack(">I", ((size % 65521) << 16 | 1) & 0xFFFFFFFF)


def png(width: int, height: int, depth: int, colour: int, size: int, interlaced: int = 0) -> bytes:
    """A PNG of zeros."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    room = -(-size // 2**20) * 2**20
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zeros(room)) + chunk(b"IEND", b"")


def scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    data = saved(Image.fromarray(noise), "JPEG", progressive=True, quality=5)
    last = data.rfind(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def tar_head(name: bytes, kind: bytes, size: int) -> bytes:
    """A header of a tar that announces `size` bytes."""
    head = bytearray(512)
    head[: len(name)] = name
    head[100:108], head[124:136], head[156:157] = b"0000644\0", b"%011o " % size, kind
    head[257:265] = b"ustar\x0000"
    fixed(head, 0)
    return bytes(head)


def gz_tar(name: bytes, kind: bytes, size: int, filled: int) -> bytes:
    """A compressed tar with one header that announces `size` bytes, of which `filled` zeros come."""
    return gzip.compress(tar_head(name, kind, size), mtime=0) + zeros(filled, 31)


def zip_bomb(size: int, said: int) -> bytes:
    """A zip with one photo of `size` zeros that says it has `said`."""
    body, name = zeros(size, -15), b"a/n1n.bmp"
    sizes = struct.pack("<III", 0, len(body), said)
    local = b"PK\x03\x04" + struct.pack("<HHHHH", 20, 0, 8, 0, 33) + sizes + struct.pack("<HH", len(name), 0) + name
    head = b"PK\x01\x02" + struct.pack("<HHHHHH", 20, 20, 0, 8, 0, 33) + sizes
    head += struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, 0) + name
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(head), len(local) + len(body), 0)
    return local + body + head + end


BOMBS = {
    "16 bits": ("n9n.png", lambda: png(8000, 8000, 16, 2, 8000 * (8000 * 6 + 1))),
    "16 bits grey": ("n9n.png", lambda: png(8000, 8000, 16, 0, 8000 * (8000 * 2 + 1))),
    "interlaced": ("n9n.png", lambda: png(8000, 8000, 8, 6, 8000 * (8000 * 4 + 1), 1)),
    "one bit": ("n9n.png", lambda: png(60_000, 60_000, 1, 0, 60_000 * 7501)),
    "long": ("n9n.png", lambda: png(2**31 - 1, 16, 1, 0, 2**20)),
    "more than it says": ("n9n.png", lambda: png(24, 24, 8, 2, 2**30)),
    "text": (
        "n9n.png",
        lambda: photo(1)[:33] + chunk(b"zTXt", b"x\0\0" + zeros(2**30)) + photo(1)[33:],
    ),
    "profile": ("n9n.png", lambda: photo(1)[:33] + chunk(b"iCCP", b"x\0\0" + zeros(2**30)) + photo(1)[33:]),
    "scans": ("n9n.jpg", lambda: scans(2000)),
    "tiff": ("n9n.tif", lambda: saved(Image.new("I;16", (8000, 8000)), "TIFF", compression="tiff_adobe_deflate")),
    "float tiff": ("n9n.tif", lambda: saved(Image.new("F", (8000, 7900)), "TIFF", compression="tiff_lzw")),
    "gif": ("n9n.gif", lambda: saved(Image.new("P", (8000, 8000)), "GIF")),
    "webp": ("n9n.webp", lambda: saved(Image.new("RGB", (8000, 8000)), "WEBP", lossless=True, method=0)),
    "tar size": ("photos.tar.gz", lambda: gz_tar(b"a/n1n.png", b"0", 3 * 2**30, 3 * 2**30)),
    "tar size, cut": ("photos.tar", lambda: tar_head(b"a/n1n.png", b"0", 2**33 - 1) + bytes(2**20)),
    "tar name": ("photos.tar.gz", lambda: gz_tar(b"././@LongLink", b"L", 2**30, 2**30)),
    "tar pax": ("photos.tar.gz", lambda: gz_tar(b"PaxHeaders/x", b"x", 2**30, 2**30)),
    "tar pax, 8 GB": ("photos.tar.gz", lambda: gz_tar(b"PaxHeaders/x", b"g", 2**33 - 1, 2**30)),
    "tar zeros": ("photos.tar.gz", lambda: gzip.compress(bytes(1024), mtime=0) + zeros(3 * 2**30, 31)),
    "zip": ("photos.zip", lambda: zip_bomb(3 * 2**30, 3 * 2**30)),
    "zip that lies": ("photos.zip", lambda: zip_bomb(3 * 2**30, 1000)),
    "zip below the limit": ("photos.zip", lambda: zip_bomb(200 * 2**20, 200 * 2**20)),
    "many columns": (
        "labels.csv",
        lambda: b"file," + b",".join(b"c%d" % n for n in range(100_000)) + b"\nn1n.png" + b",1" * 100_000,
    ),
    "long field": ("labels.csv", lambda: b'file,x\nn1n.png,"' + b"x" * 300_000_000 + b'"\n'),
    "many rows": ("labels.csv", lambda: b"file,x\n" + b"".join(b"m%d.png,1\n" % n for n in range(300_000))),
    "no end of line": ("labels.csv", lambda: b"file" + b"," * 50_000_000),
    "many entries": ("photos.zip", lambda: many_entries(3000)),
}


def many_entries(count: int) -> bytes:
    """A zip whose entries all lie in the same place."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a/n1n.png", photo(1, side=400))
        first = made.infolist()[0]
        for n in range(count):
            info = zipfile.ZipInfo(f"{'ab'[n % 2]}/{n}.png")
            for name in ("compress_type", "CRC", "compress_size", "file_size", "header_offset"):
                setattr(info, name, getattr(first, name))
            made.filelist.append(info)
    return file.getvalue()


def bomb(rng: Random, folder: Path) -> Iterator:
    """A file that is small and large once it is opened, or that takes long; all of them in turn."""
    name, make = BOMBS[rng.choice(list(BOMBS))]
    source = folder / "photos"
    for place, content in {"a/n1n.png": photo(1), "b/n2n.png": photo(2)}.items():
        (source / place).parent.mkdir(parents=True, exist_ok=True)
        (source / place).write_bytes(content)
    if name.startswith("photos"):
        source = folder / name
    (
        source if name.startswith("photos") else source / name if name.endswith("csv") else source / "a" / name
    ).write_bytes(make())
    yield
    faces = pack(source, folder / "out", SIDE, "folder" if name.endswith("csv") else "classes", workers=2)
    return all_there(faces, {1, 2} if source.is_dir() else set())


TARGETS = {target.__name__: target for target in (table, picture, tree, archive, cifar, packed, journal, bomb)}
assert PngImagePlugin  # opened once, so that its formats are known before memory is measured

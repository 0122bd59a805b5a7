"""What comes in is named or used: damaged archives, what a folder holds besides photos, strange names, bombs."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import random
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from test_archives import write_folder, write_tar, write_zip
from test_decode import saved

from facekit.commands import cli
from facekit.data.pack import pack
from facekit.data.readers.archives import PHOTO_SUFFIXES, clean_name, is_photo, open_source
from facekit.data.readers.cifar10 import CIFAR10_CLASSES, cifar10_reader
from facekit.data.sets import FaceSet
from facekit.errors import DataError


def picture(seed):
    """A PNG that no other seed gives."""
    return saved(Image.frombytes("RGB", (20, 20), random.Random(seed).randbytes(1200)))


PHOTOS = {f"{'ab'[n % 2]}/{n:02}.png": picture(n) for n in range(12)}
posix = pytest.mark.skipif(os.name != "posix", reason="needs links, and names that are bytes")


def all_in(source):
    """Name to data, or to the reason why there is none."""
    return {entry.name: entry.problem.reason if entry.problem else entry.data for entry in source.entries()}


def whole_tar(form=tarfile.GNU_FORMAT):
    """A tar with long names and a folder, and where its blocks lie that are not data."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, data in {**PHOTOS, f"b/{'long ' * 30}.png": b"long", "notes.txt": b"text"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        end = archive.offset
    file.seek(0)
    with tarfile.open(fileobj=file) as archive:
        headers = [place for member in archive for place in range(member.offset, member.offset_data, 512)]
    return file.getvalue(), headers, end


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_tar_is_an_error_that_says_where_or_is_read_whole(tmp_path, seed):
    """Any flipped bit in a header, any cut before the end mark, any block of zeros, with any compression."""
    rng = random.Random(seed)
    data, headers, end = whole_tar(rng.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    header = rng.choice(headers)
    if seed % 3 == 0:
        header = rng.choice([place for place in headers if data[place + 257 :][:5] == b"ustar"])
        place = header + rng.randrange(512)
        data = data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
    elif seed % 3 == 1:
        cut = rng.choice([header, header + rng.randrange(1, 512), end])
        data = data[:cut]
    else:
        header = rng.choice(headers[:-1])  # zeros from the last one on are the end of a shorter tar
        data = data[:header] + bytes(512 * rng.choice([1, 2])) + data[header + 1024 :]
    form = rng.choice([bytes, gzip.compress, bz2.compress, lzma.compress])
    (tmp_path / "x.tar").write_bytes(form(data))
    pattern = r"x.tar is (no readable tar|damaged after entry \d+, '.+') \(.*\); download"
    with pytest.raises(DataError, match=pattern):
        all_in(open_source(tmp_path / "x.tar"))


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_compressed_tar_is_an_error(tmp_path, seed):
    """Any bit of the compressed data, of the checksum or of the length, and any cut."""
    rng = random.Random(seed)
    form = [gzip.compress, bz2.compress, lzma.compress][seed % 3]
    data = form(whole_tar()[0])
    place = rng.randrange(len(data) - 8, len(data)) if rng.random() < 0.5 else rng.randrange(20, len(data))
    damaged = data[:place] if rng.random() < 0.5 else data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]
    (tmp_path / "x.tar.gz").write_bytes(damaged)
    with pytest.raises(DataError, match="damaged after|no readable tar"):
        all_in(open_source(tmp_path / "x.tar.gz"))


def test_a_whole_tar_is_read_with_any_padding_and_compression(tmp_path):
    data, _, end = whole_tar()
    for form in (bytes, gzip.compress, bz2.compress, lzma.compress):
        for padded in (data, data[:end] + bytes(1024), data[:end] + bytes(512), data + bytes(2**19)):
            (tmp_path / "x.tar").write_bytes(form(padded))
            assert set(PHOTOS) < set(all_in(open_source(tmp_path / "x.tar")))
    (tmp_path / "x.tar").write_bytes(data[:end] + bytes(2**22))
    with pytest.raises(DataError, match="damaged after entry 14, 'notes.txt'"):
        all_in(open_source(tmp_path / "x.tar"))


def test_a_damaged_tar_of_cifar10_makes_no_smaller_set(tmp_path):
    path = write_tar(tmp_path / "cifar-10-python.tar.gz", {"cifar-10-batches-py/test_batch": b"x" * 3000})
    path.write_bytes(path.read_bytes()[:-8] + b"12345678")
    with pytest.raises(DataError, match="damaged after entry 1, "):
        cifar10_reader(path)
    assert len(CIFAR10_CLASSES) == 10


@pytest.mark.parametrize("method", ["ZIP_STORED", "ZIP_DEFLATED", "ZIP_BZIP2", "ZIP_LZMA"])
def test_damage_in_a_zip_is_a_reject_or_an_error(tmp_path, method):
    """Whatever byte is wrong: a member that cannot be read is named, a directory that cannot be read is an error."""
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", getattr(zipfile, method)) as archive:
        for name, data in PHOTOS.items():
            archive.writestr(name, data)
    whole, rng = path.read_bytes(), random.Random(method)
    assert all_in(open_source(path)) == PHOTOS
    outcomes = set()
    directory = whole.find(b"PK\x01\x02")
    names = {place + 46 + n for place in range(len(whole)) if whole.startswith(b"PK\1\2", place) for n in range(8)}
    for turn in range(200):
        damaged = bytearray(whole)
        place = rng.choice(sorted({*range(directory if turn % 2 else 0, len(whole))} - names))
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            got = all_in(open_source(path))
        except DataError as error:
            outcomes.add("error")
            assert "x.zip" in str(error)
        else:
            wrong = {name: data for name, data in got.items() if data != PHOTOS.get(name)}
            outcomes |= {data for data in wrong.values() if isinstance(data, str)}
            assert set(got) == set(PHOTOS) and all(isinstance(data, str) for data in wrong.values())
    assert {"error", "unreadable"} <= outcomes


@pytest.mark.parametrize("method", ["ZIP_STORED", "ZIP_DEFLATED", "ZIP_BZIP2", "ZIP_LZMA"])
def test_members_of_any_size_come_back(tmp_path, method):
    sizes = ((0, 0), (1, 1), (1, 2**19), (2**20, 0), (2**20 + 1, 0), (2**24, 1))
    files = {f"{n}.jpg": bytes(zero) + random.Random(n).randbytes(noise) for n, (zero, noise) in enumerate(sizes)}
    with zipfile.ZipFile(tmp_path / "x.zip", "w", getattr(zipfile, method)) as archive:
        for name, data in files.items():
            archive.writestr(name, data, compresslevel=1)
    assert all_in(open_source(tmp_path / "x.zip")) == files


def test_an_encrypted_member_and_an_unknown_compression_are_rejects(tmp_path):
    path = write_zip(tmp_path / "x.zip", PHOTOS)
    for offset, byte in ((8, 1), (10, 9)):  # flags and method, in the directory
        data = bytearray(path.read_bytes())
        data[data.find(b"PK\x01\x02") + offset] = byte
        (tmp_path / "y.zip").write_bytes(data)
        got = all_in(open_source(tmp_path / "y.zip"))
        assert got.pop("a/00.png") == "unreadable" and got == {k: v for k, v in PHOTOS.items() if k in got}


@posix
def test_what_a_person_sees_in_a_folder_is_packed_or_rejected(tmp_path, monkeypatch):
    other = write_folder(tmp_path / "other disk", {"1.png": picture(50)})
    root = write_folder(
        tmp_path / "set",
        {**PHOTOS, "a/x.heic": b"x", "b/raw.NEF": PHOTOS["a/00.png"], "b/old.tar.gz": b"x", "b/notes.txt": b"x"},
    )
    (root / "c").symlink_to(other, target_is_directory=True)
    (root / "again").symlink_to(root / "a", target_is_directory=True)
    (root / "a" / "loop").symlink_to(root, target_is_directory=True)
    (root / "a" / "up").symlink_to("/", target_is_directory=True)
    (root / "unmounted").symlink_to(tmp_path / "disk")
    (root / "b" / "broken.jpg").symlink_to(tmp_path / "nothing.jpg")
    (root / "b" / "circle").symlink_to(root / "b" / "circle")
    (root / "b" / "fine.png").symlink_to(other / "1.png")
    os.mkfifo(root / "b" / "pipe.jpg")
    write_folder(root, {"locked/1.png": b"x", ".hidden/1.png": b"x"})
    scandir = os.scandir

    def locked(place):
        if str(place).endswith(("locked", ".hidden")):
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", locked)
    about = pack(root, tmp_path / "packed", size=16, kind="classes").manifest
    rejected = {each["file"]: each["reason"] for each in about["rejected"]}
    assert rejected == {
        "a/loop": "repeated folder",
        "a/up": "repeated folder",
        "a/x.heic": "unreadable",
        "again": "repeated folder",
        "b/broken.jpg": "broken link",
        "b/circle": "unreadable",
        "b/fine.png": "several classes",
        "b/old.tar.gz": "archive inside",
        "b/pipe.jpg": "not a plain file",
        "b/raw.NEF": "unreadable",
        "c/1.png": "several classes",
        "locked": "unreadable",
        "unmounted": "broken link",
    }
    assert about["found"] == len(PHOTOS) + len(rejected) == about["packed"] + len(about["rejected"])
    assert about["classes"]["class"] == ["a", "b", "c"]
    assert not any(str(tmp_path) in each["detail"] for each in about["rejected"])


@posix
def test_links_that_multiply_are_walked_once(tmp_path):
    """Two links in each of 30 folders to the next: a billion paths to one photo."""
    for n in range(30):
        write_folder(tmp_path / "set", {f"{n}/note.txt": b"x"})
        for link in "xy":
            (tmp_path / "set" / f"{n}" / link).symlink_to(tmp_path / "set" / f"{n + 1}")
    write_folder(tmp_path / "set", {"30/1.png": b"x"})
    got = all_in(open_source(tmp_path / "set"))
    assert got.pop("30/1.png") == b"x" and set(got.values()) == {"repeated folder"} and len(got) == 60


@posix
def test_a_path_that_is_too_deep_for_the_system_is_named(tmp_path):
    write_folder(tmp_path / "set", {"1.png": b"x"})
    start = os.getcwd()
    os.chdir(tmp_path / "set")
    try:
        for _ in range(50):
            os.mkdir("d" * 100)
            os.chdir("d" * 100)
        Path("deep.png").write_bytes(b"x")
    finally:
        os.chdir(start)
    got = all_in(open_source(tmp_path / "set"))
    assert got.pop("1.png") == b"x"
    ((name, reason),) = got.items()
    assert reason == "unreadable" and name.startswith("ddd")


def test_a_folder_with_nothing_but_what_cannot_be_read_says_so(tmp_path):
    write_folder(tmp_path / "set", {"inner/photos.zip": b"x"})
    with pytest.raises(DataError, match="no photo and no archive; inner/photos.zip: archive inside, .*unpack it"):
        open_source(tmp_path / "set")


@pytest.mark.parametrize("form", ["folder", "zip", "tar"])
def test_every_name_that_says_photo_is_seen(tmp_path, form):
    files = {f"a/{n}{suffix}": b"x" for n, suffix in enumerate(PHOTO_SUFFIXES)}
    files |= {f"b/{n}{suffix.upper()}": b"y" for n, suffix in enumerate(PHOTO_SUFFIXES)}
    files |= {"b/c.jpg?w=300": b"z", "b/d.jpg ": b"z"}
    write = {"folder": write_folder, "zip": write_zip, "tar": write_tar}[form]
    source = write(tmp_path / f"x.{form}", {**files, "b/a.jpg.txt": b"", "b/archive.zip": b"", "b/jpg": b""})
    got = all_in(open_source(source))
    assert got.pop("b/archive.zip") == "archive inside" and got == files


@posix
@pytest.mark.parametrize("form", ["folder", "tar", "zip"])
def test_any_name_is_packed_and_its_label_comes_back(tmp_path, form):
    """Names in Latin-1 and with control characters survive journal, table and manifest; two runs agree."""
    folders = [b"M\xe4nner", b"a\nb", b"c\rd", b'e"f', b"tab\t,", "\u2028".encode(), b"\xff\xfe", b"plain"]
    names = [os.fsdecode(folder) for folder in folders]
    if form == "zip":
        names = ["a\nb", 'e"f', "tab\t,", "\u2028", "plain", "얼굴", "Männer"]
    files = {f"{name}/{n}\r.png": picture(k * 9 + n) for k, name in enumerate(names) for n in range(3)}
    write = {"folder": write_folder, "zip": write_zip, "tar": write_tar}[form]
    source = write(tmp_path / (f"x.{form}" if form != "folder" else os.fsdecode(b"gr\xfcn")), files)
    pack(source, tmp_path / "packed", size=16, kind="classes")
    faces = FaceSet.load(tmp_path / "packed", verify=True)
    assert sorted(faces.labels["file"]) == sorted(clean_name(name) for name in files)
    assert sorted(set(faces.labels["class"])) == sorted(map(clean_name, names)) == faces.manifest["classes"]["class"]
    json.dumps(faces.manifest, ensure_ascii=False).encode()
    assert all(name.isprintable() for name in faces.labels["file"])
    assert pack(source, tmp_path / "packed", size=16, kind="classes").content_hash() == faces.content_hash()


@posix
def test_the_command_ends_well_whatever_source_and_dest_are_called(tmp_path, capsys):
    source = write_folder(tmp_path / os.fsdecode(b"gr\xfcn\r"), PHOTOS)
    dest = tmp_path / os.fsdecode(b"gepackt \xfc")
    assert cli.main(["pack", os.fspath(source), os.fspath(dest), "--size", "16", "--kind", "classes"]) == 0
    assert "gr%FCn%0D (classes): found 12, packed 12" in capsys.readouterr().out
    assert FaceSet.load(dest).manifest["source"] == "gr%FCn%0D"


def test_names_of_zips_without_the_flag_for_utf8(tmp_path):
    """Korean and European Windows write their own code page and do not say so."""
    for name, encoding in (("얼굴/사진.jpg", "cp949"), ("Männer/Straße.jpg", "cp437"), ("é/à.jpg", "utf-8")):
        written = name.encode(encoding)
        path = write_zip(tmp_path / "x.zip", {"q" * len(written): b"x"})
        path.write_bytes(path.read_bytes().replace(b"q" * len(written), written))
        assert list(all_in(open_source(path))) == [name]


def test_cleaning_a_name_twice_changes_nothing_more():
    rng = random.Random(0)
    for _ in range(2000):
        name = "".join(chr(rng.choice([rng.randrange(256), 0xDC80 + rng.randrange(128), 0xD800])) for _ in range(8))
        cleaned = clean_name(name + ".jpg\r")
        assert clean_name(cleaned) == cleaned and cleaned.encode()
        assert is_photo(cleaned) or "/." in f"/{cleaned}"


def header(name, size, kind=b"0"):
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def zeros(form, prefix, count):
    """`prefix` and then `count` MiB of zeros, as streams one after another."""
    packed = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[form]
    return packed(prefix) + count * packed(bytes(2**20))


def bombs(folder):
    """Files of at most a few MB that ask for far more."""
    big = 48
    for form in ("gz", "bz2", "xz"):
        (folder / f"photo.tar.{form}").write_bytes(zeros(form, header("a/1.jpg", 3 * 2**30), big))
        (folder / f"name.tar.{form}").write_bytes(zeros(form, header("a/1.jpg", 2**30, b"L"), big))
        (folder / f"pax.tar.{form}").write_bytes(zeros(form, header("a/1.jpg", 2**30, b"x"), big))
    (folder / "exabyte.tar.gz").write_bytes(zeros("gz", header("a/1.txt", 2**60), 1))
    (folder / "exabyte.tar").write_bytes(header("a/1.txt", 2**60) + bytes(4096))
    (folder / "negative.tar").write_bytes(header("a/1.jpg", -512) * 3 + bytes(1024))
    (folder / "negative name.tar").write_bytes(header("a/1.jpg", -512, b"L") * 3 + bytes(1024))
    (folder / "negative name.tar.gz").write_bytes(gzip.compress(header("a/1.jpg", -512, b"L") * 3 + bytes(1024)))
    (folder / "padding.tar.gz").write_bytes(zeros("gz", header("a/1.jpg", 0), big))
    sparse = bytearray(header("a/1.jpg", 512, b"S"))
    sparse[482] = 1  # its list of holes goes on, for ever
    sparse[148:156] = b"%06o\0 " % (sum(sparse[:148]) + 256 + sum(sparse[156:512]))
    block = (b"00000000001\0" * 42)[:504] + b"\1" + bytes(7)
    (folder / "holes.tar.gz").write_bytes(gzip.compress(bytes(sparse) + block * 2**17))
    nested = header("a/1.jpg", 512, b"x") + (b"20 path=a/1.jpg\n" * 40)[:512]
    (folder / "nested.tar.gz").write_bytes(gzip.compress(nested * 5000))
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        path = folder / f"lies {method}.zip"
        with zipfile.ZipFile(path, "w", method) as archive, archive.open("a/1.jpg", "w", force_zip64=True) as file:
            for _ in range(big):
                file.write(bytes(2**20))
        data = bytearray(path.read_bytes())
        place = data.find(b"PK\x01\x02") + 24
        data[place : place + 4] = (1000).to_bytes(4, "little")
        path.write_bytes(data)
    with zipfile.ZipFile(folder / "many.zip", "w") as archive:
        for n in range(20000):
            archive.writestr(f"{n % 2}/{n}.jpg", b"")
    inside = b"x"
    for level in range(5):
        inside = write_zip(folder / "nested.zip", {f"a/{level}.zip": inside}).read_bytes()


LIMITED = """
import re, sys, time
from pathlib import Path
from facekit.data.readers.archives import open_source
from facekit.errors import DataError
def peak():
    return int(re.search("VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
start = peak()
for path in map(Path, sys.argv[1:]):
    before = time.process_time()
    try:
        found = [entry.problem.reason if entry.problem else len(entry.data) for entry in open_source(path).entries()]
        told = f"{len(found)} {found[0]}"
    except DataError as error:
        told = f"error {error}"
    print(path.name, f"{time.process_time() - before:.1f}", peak() - start, told, sep="|")
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc, which says how much memory was used")
def test_bombs_cost_little_and_are_told(tmp_path):
    bombs(tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 10 * 2**20
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    files = sorted(tmp_path.iterdir())
    command = [sys.executable, "-c", LIMITED, *files]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    rows = [line.split("|") for line in done.stdout.splitlines()]
    assert len(rows) == len(files)
    for name, seconds, mib, told in rows:
        assert float(seconds) < 10 and int(mib) < 32, (name, seconds, mib)
        assert told.startswith(("error", "1 ", "20000 0")), (name, told)


def test_a_name_that_is_damaged_in_a_zips_directory_hides_no_photo(tmp_path):
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as archive:
        for name, data in PHOTOS.items():
            archive.writestr(name, data)
    whole = (tmp_path / "whole.zip").read_bytes()
    places = [place + 46 + n for place in range(len(whole)) if whole.startswith(b"PK\1\2", place) for n in range(8)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 7
        (tmp_path / "x.zip").write_bytes(damaged)
        try:
            found = list(open_source(tmp_path / "x.zip").entries())
        except DataError as error:
            assert "x.zip is no readable zip" in str(error)
        else:
            assert len(found) == len(PHOTOS) and sum(entry.problem is not None for entry in found) == 1


def test_a_zip_with_an_entry_that_has_no_name_is_an_error(tmp_path):
    """One damaged name could be that of any photo."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("a/1.png", "b/2.png", ""):
            archive.writestr(zipfile.ZipInfo(name), PHOTOS["a/00.png"])
    with pytest.raises(DataError, match="x.zip is no readable zip .an entry has no name.; download or copy it again"):
        open_source(tmp_path / "x.zip")

"""Photos from folders, zips and tars: same entries in the same order, nothing extracted, damage told."""

from __future__ import annotations

import io
import os
import tarfile
import unicodedata
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekit.data.readers.archives import clean_name, is_photo, is_safe, open_source
from facekit.errors import DataError

FILES = {"b/2.jpg": b"two", "a/1 one.PNG": b"one", "얼굴 사진.jpeg": b"three", "b/10.jpg": b""}


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path, files, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_folder(path, files):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


@pytest.mark.parametrize("form", ["folder", "zip", "tar.gz", "tar"])
def test_every_form_yields_every_photo_and_nothing_else(tmp_path, form):
    files = {**FILES, "notes.txt": b"x", ".hidden.jpg": b"x", "__MACOSX/a/1.jpg": b"x"}
    path = tmp_path / f"photos.{form}"
    if form == "folder":
        source = open_source(write_folder(path, files))
    elif form == "zip":
        source = open_source(write_zip(path, files))
    else:
        source = open_source(write_tar(path, files, "w:gz" if form == "tar.gz" else "w"))
    assert {entry.name: entry.data for entry in source.entries()} == FILES
    assert [entry.name for entry in source.entries()] == [entry.name for entry in source.entries(skip=2)]
    assert [entry.data is None for entry in source.entries(skip=2)] == [True, True, False, False]
    assert source.total in (None, len(FILES))
    assert source.fingerprint() == open_source(path).fingerprint()


@pytest.mark.parametrize("write, name", [(write_zip, "x.zip"), (write_tar, "x.tar.gz")])
def test_names_that_leave_the_archive_are_problems_and_touch_no_disk(tmp_path, write, name):
    inside = tmp_path / "inner" / "deep"
    inside.mkdir(parents=True)
    path = write(inside / name, {"../../evil.jpg": b"evil", "/etc/evil.jpg": b"evil", "good.jpg": b"good"})
    before = sorted(tmp_path.rglob("*"))
    entries = list(open_source(path).entries())
    assert [entry.problem.reason if entry.problem else entry.data for entry in entries] == [
        "unsafe name",
        "unsafe name",
        b"good",
    ]
    assert all(entry.data is None for entry in entries[:2])
    assert sorted(tmp_path.rglob("*")) == before


@given(st.text(alphabet="ab./\\: 얼", max_size=12))
def test_a_safe_name_stays_below_its_root(name):
    name = clean_name(name)
    if is_safe(name):
        joined = os.path.normpath(os.path.join("/data/set", name))
        assert joined == "/data/set" or joined.startswith("/data/set/")


def test_decomposed_and_windows_names_are_brought_to_one_form():
    assert clean_name(unicodedata.normalize("NFD", ".\\얼굴\\é.jpg")) == "얼굴/é.jpg"
    assert is_photo("a/B.JPEG") and not is_photo("a/.b.jpg") and not is_photo("a/b.csv")


def test_a_link_in_a_tar_is_not_followed(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (entry,) = open_source(path).entries()
    assert entry.data is None and entry.problem.reason == "not a plain file"


def test_a_damaged_member_of_a_zip_is_one_problem(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"a.jpg": b"A" * 100, "b.jpg": b"B" * 100})
    path.write_bytes(path.read_bytes().replace(b"A" * 100, b"A" * 99 + b"C"))
    first, second = open_source(path).entries()
    assert first.problem.reason == "unreadable" and second.data == b"B" * 100


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.tar"])
def test_truncated_and_foreign_archives_are_data_errors(tmp_path, name):
    write = write_zip if name.endswith("zip") else write_tar
    arguments = () if name != "x.tar" else ("w",)
    whole = write(tmp_path / name, {f"{n}.jpg": os.urandom(3000) for n in range(5)}, *arguments).read_bytes()
    for data in (whole[: len(whole) // 2 - 777], b"this is text", b""):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match="x\\.(zip|tar)"):
            list(open_source(tmp_path / name).entries())


def test_missing_empty_and_ambiguous_places_are_data_errors(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        open_source(tmp_path / "none")
    with pytest.raises(DataError, match="no photo and no archive"):
        open_source(tmp_path)
    write_zip(tmp_path / "one.zip", {"a.jpg": b"a"})
    assert [entry.name for entry in open_source(tmp_path).entries()] == ["a.jpg"]
    write_zip(tmp_path / "two.zip", {"a.jpg": b"a"})
    with pytest.raises(DataError, match="2 archives"):
        open_source(tmp_path)
    (tmp_path / "text.bin").write_text("neither")
    with pytest.raises(DataError, match="neither a folder nor a zip nor a tar"):
        open_source(tmp_path / "text.bin")

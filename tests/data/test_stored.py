"""Stored sets: what is read back is what was written, or an error that says what to do."""

from __future__ import annotations

import io
import json
import os
import time

import numpy as np
import pandas as pd
import pytest
from damage import accidents, odd_json
from tiny import faces, features

from facekit.data import sets
from facekit.data.sets import FaceSet, FeatureSet, finish_set
from facekit.errors import DataError


@pytest.fixture
def folder(tmp_path):
    data = faces(12)
    return data.save(tmp_path / "set")


def same(one: FaceSet, other: FaceSet) -> bool:
    return one.content_hash() == other.content_hash() and one.labels.equals(other.labels)


@pytest.mark.parametrize("name", ["inputs.npy", "labels.csv", "manifest.json"])
def test_a_set_with_a_damaged_file_is_refused_or_the_same(folder, name):
    before = FaceSet.load(folder).select(range(12))  # a copy: what is mapped follows the file
    for what in accidents(folder / name, 150):
        try:
            assert same(FaceSet.load(folder), before), what
        except DataError as error:
            assert any(remedy in str(error) for remedy in ("make the set again", "facekit pack")), f"{what}: {error}"
        else:
            assert name == "manifest.json", f"{what} was not noticed"
    assert same(FaceSet.load(folder), before)


def test_a_manifest_of_before_without_a_hash_of_itself_is_read_and_its_odd_fields_are_told(folder):
    before = FaceSet.load(folder).select(range(12))  # a copy: what is mapped follows the file
    manifest = json.loads((folder / "manifest.json").read_text())
    assert len(manifest.pop("sha256")) == 64
    for version in [manifest, *odd_json(manifest)]:
        (folder / "manifest.json").write_text(json.dumps(version))
        try:
            assert same(FaceSet.load(folder), before)
        except DataError as error:
            assert version is not manifest
            assert "make the set again" in str(error) or version["kind"] in str(error)


def test_every_word_of_a_manifest_counts(folder):
    text = (folder / "manifest.json").read_text()
    manifest = json.loads(text)
    for version in odd_json({key: value for key, value in manifest.items() if key != "sha256"}):
        (folder / "manifest.json").write_text(json.dumps({**version, "sha256": manifest["sha256"]}))
        with pytest.raises(DataError, match="again"):
            FaceSet.load(folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))  # indented otherwise
    assert len(FaceSet.load(folder)) == 12


def npz(array):
    file = io.BytesIO()
    np.savez(file, array)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


PHOTOS = np.zeros((12, 3, 4, 4), np.uint8)
ODD_INPUTS = {
    "another dtype": npy(PHOTOS.astype(np.int16)),
    "objects": npy(np.array([None] * 12)),
    "another shape": npy(PHOTOS[0]),
    "more rows": npy(np.zeros((13, 3, 4, 4), np.uint8)),
    "channels last": npy(np.zeros((12, 4, 4, 3), np.uint8)),
    "no rows": npy(PHOTOS[:0]),
    "an npz": npz(PHOTOS),
    "a number": npy(np.float64(3)),
    "records": npy(np.zeros(12, [("a", "u1")])),
    "no header": b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16,
    "an unknown dtype": npy(PHOTOS).replace(b"|u1", b"|q9"),
    "a huge shape": npy(PHOTOS).replace(b"(12, 3, 4, 4)", b"(9999999, 3,)"),
    "text": b"these are no pixels",
}


@pytest.mark.parametrize("what", ODD_INPUTS)
def test_odd_inputs_are_told_even_if_the_manifest_goes_with_them(folder, what):
    labels = FaceSet.load(folder).labels
    (folder / "inputs.npy").write_bytes(ODD_INPUTS[what])
    finish_set(folder, FaceSet.kind, labels, {})
    with pytest.raises(DataError, match="make the set again"):
        FaceSet.load(folder)


ODD_LABELS = {
    "nothing": "",
    "no split": "colour\n" + "dark\n" * 12,
    "fewer rows": "colour,split\n" + "dark,train\n" * 11,
    "an unknown split": "colour,split\n" + "dark,trian\n" * 12,
    "more cells than columns": "colour,split\n" + "dark,train\n" * 11 + "dark,train,1,2\n",
    "an open quote": 'colour,split\n"dark,train\n' + "dark,train\n" * 11,
}


@pytest.mark.parametrize("what", ODD_LABELS)
def test_odd_labels_are_told_even_if_the_manifest_goes_with_them(folder, what):
    class Written:
        def __len__(self):
            return 12

        def items(self):
            return {"colour": pd.Series(["dark"]), "split": pd.Series(["train"])}.items()

        def to_csv(self, path, **_):
            path.write_text(ODD_LABELS[what])

    finish_set(folder, FaceSet.kind, Written(), {})
    with pytest.raises(DataError, match="make the set again"):
        FaceSet.load(folder)


def test_a_set_of_another_kind_is_told(tmp_path):
    with pytest.raises(DataError, match="not a 'face set'"):
        FaceSet.load(features().save(tmp_path / "set"))
    assert len(FeatureSet.load(tmp_path / "set")) == 40


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The names of the files that are read whole for their hash; every file is long written."""
    names: list[str] = []
    whole, clock = sets.sha256_of_file, time.time_ns
    monkeypatch.setattr(sets, "sha256_of_file", lambda path: names.append(path.name) or whole(path))
    monkeypatch.setattr(time, "time_ns", lambda: clock() + 10**10)
    return names


def test_inputs_are_read_once_for_their_hash_and_again_when_they_were_written_to(folder, read):
    for _ in range(3):
        FaceSet.load(folder)
    assert read == ["inputs.npy", *["labels.csv"] * 3]
    FaceSet.load(folder, verify=True)
    assert read.count("inputs.npy") == 2
    time.sleep(0.05)  # longer than a tick of the disk's clock
    path = folder / "inputs.npy"
    stamp = path.stat()
    with open(path, "r+b") as file:
        file.seek(-7, os.SEEK_END)
        file.write(b"\0")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as if nothing had happened
    with pytest.raises(DataError, match="not as it was written"):
        FaceSet.load(folder)


def test_a_file_that_has_just_been_written_is_not_trusted_by_its_stamps(folder):
    """Two writes in one tick of the disk's clock leave the same stamps."""
    path = folder / "inputs.npy"
    content = path.read_bytes()
    for place in range(-20, -1):
        FaceSet.load(folder)
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(DataError, match="not as it was written"):
            FaceSet.load(folder)
        path.write_bytes(content)


def test_without_a_cache_to_write_to_sets_are_read_all_the_same(folder, read, monkeypatch, tmp_path):
    (tmp_path / "checked").write_text("")  # where the notes would go
    monkeypatch.setenv("FACEKIT_CACHE", str(tmp_path))
    FaceSet.load(folder)
    FaceSet.load(folder)
    assert read.count("inputs.npy") == 2


def test_a_set_of_a_set_has_its_own_hash(folder, tmp_path):
    some = FaceSet.load(folder).select([0, 2])
    again = FaceSet.load(some.save(tmp_path / "some"))
    assert same(again, some) and again.manifest["rows"] == 2
    assert isinstance(again.labels, pd.DataFrame) and sets.read_manifest(tmp_path / "some") == again.manifest

"""Readers: every photo and every label row becomes one record, with labels as their source means them."""

from __future__ import annotations

import unicodedata

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_archives import write_folder, write_tar, write_zip

from facekit.data.readers.fairface import COLUMNS, FairFaceReader
from facekit.data.readers.folder import FolderReader
from facekit.data.readers.table import readers
from facekit.data.readers.utkface import UTKFaceReader, parse_name
from facekit.errors import DataError
from facekit.tasks import AGE_BAND, GENDER, RACE, encode_all

HEADER = ",".join(COLUMNS)
GOOD = "3-9,Female,Black,FALSE"


def fairface(tmp_path, train, val=("val/1.jpg," + GOOD,), header=HEADER):
    (tmp_path / "fairface_label_train.csv").write_text("\n".join([header, *train]) + "\n")
    (tmp_path / "fairface_label_val.csv").write_text("\n".join([HEADER, *val]) + "\n")
    return tmp_path


def outcomes(reader, skip=0):
    return {r.name: r.problem.reason if r.problem else (dict(r.labels), r.split) for r in reader.records(skip)}


@pytest.mark.parametrize("form", ["zip beside", "zip", "folder", "tar", "nested zip"])
def test_fairface_in_every_form(tmp_path, form):
    files = {"train/1.jpg": b"a", "val/1.jpg": b"b", "train/7.jpg": b"c"}
    fairface(tmp_path, ["train/1.jpg,20-29,Male,White,TRUE", "train/2.jpg," + GOOD])
    if form == "folder":
        path = write_folder(tmp_path, files)
    elif form == "tar":
        path = write_tar(tmp_path / "x.tar.gz", files)
    else:
        prefix = "fairface/" if form == "nested zip" else ""
        path = write_zip(tmp_path / "fairface-img.zip", {prefix + name: data for name, data in files.items()})
        path = tmp_path if form == "zip beside" else path
    got = outcomes(FairFaceReader(path))
    got = {name.removeprefix("fairface/"): value for name, value in got.items()}
    assert got == {
        "train/1.jpg": ({"age": "20-29", "gender": "Male", "race": "White", "service_test": "TRUE"}, None),
        "val/1.jpg": ({"age": "3-9", "gender": "Female", "race": "Black", "service_test": "FALSE"}, "test"),
        "train/7.jpg": "file without label",
        "train/2.jpg": "label without file",
    }
    if form != "tar":
        assert next(FairFaceReader(path).records()).split == "test"


def test_fairface_rejects_unknown_labels_and_repeated_rows_and_keeps_missing_ones(tmp_path):
    rows = [
        "train/1.jpg,20-29,male,White,TRUE",
        "train/2.jpg,,,,TRUE",
        "train/2.jpg," + GOOD,
        "train/3.jpg,25," + "," * 2,
    ]
    path = write_folder(fairface(tmp_path, rows), {f"train/{n}.jpg": b"x" for n in (1, 2, 3)})
    records = list(FairFaceReader(path).records())
    reasons = [(record.name, record.problem.reason if record.problem else "") for record in records]
    assert reasons == [
        ("train/1.jpg", "unknown label"),
        ("train/2.jpg", ""),
        ("train/3.jpg", "unknown label"),
        ("val/1.jpg", "label without file"),
        ("train/2.jpg", "repeated label row"),
    ]
    assert "'male'" in records[0].problem.detail and "age_years" in records[2].problem.detail


def test_fairface_wrong_header_missing_tables_and_ragged_rows(tmp_path):
    write_folder(tmp_path, {"train/1.jpg": b"x"})
    with pytest.raises(DataError, match="fairface_label_train.csv"):
        FairFaceReader(tmp_path)
    fairface(tmp_path, [], header="file;age;gender;race")
    with pytest.raises(DataError, match="header is 'file, age.*must have file, age, gender"):
        FairFaceReader(tmp_path)
    fairface(tmp_path, ["train/1.jpg,3-9"])
    with pytest.raises(DataError, match="row 2: 2 fields, the header has 5"):
        FairFaceReader(tmp_path)


def test_fairface_labels_are_those_of_the_tasks(tmp_path):
    rows = [
        f"train/{n}.jpg,{AGE_BAND.classes[n % 9]},{GENDER.classes[n % 2]},{RACE.classes[n % 7]},TRUE" for n in range(63)
    ]
    path = write_folder(fairface(tmp_path, rows, []), {f"train/{n}.jpg": b"x" for n in range(63)})
    table = pd.DataFrame([dict(record.labels) for record in FairFaceReader(path).records()])
    targets = encode_all([AGE_BAND, GENDER, RACE], table)
    assert [len(set(target.tolist())) for target in targets.values()] == [9, 2, 7]


@given(st.integers(0, 116), st.integers(0, 1), st.integers(0, 4), st.integers(10**16, 10**17 - 1))
def test_utkface_names_are_read_back(age, gender, race, stamp):
    labels = parse_name(f"some folder/{age}_{gender}_{race}_{stamp}.jpg.chip.jpg")
    assert int(labels["age_years"]) == age
    assert labels["gender"] == ("Male", "Female")[gender]
    assert labels["utk_race"] == ("White", "Black", "Asian", "Indian", "Other")[race]
    low, _, high = labels["age"].replace("more than 70", "70-200").partition("-")
    assert int(low) <= age <= int(high)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("50_1_20170101000000000.jpg.chip.jpg", "malformed name"),
        ("_1_0_20170101000000000.jpg.chip.jpg", "malformed name"),
        ("portrait.jpg", "malformed name"),
        ("٣_1_0_20170101000000000.jpg", "malformed name"),
        ("30_2_0_20170101000000000.jpg.chip.jpg", "unknown label"),
        ("30_1_5_20170101000000000.jpg.chip.jpg", "unknown label"),
        ("117_1_0_20170101000000000.jpg.chip.jpg", "unknown label"),
    ],
)
def test_utkface_names_are_never_guessed(name, reason):
    assert parse_name(name).reason == reason


def test_utkface_from_a_tar_and_a_folder(tmp_path):
    names = [f"crop_part1/{n}_1_2_2017011020332828{n}.jpg.chip.jpg" for n in range(1, 5)]
    files = {name: b"x" for name in names} | {"crop_part1/50_1_20170101000000000.jpg.chip.jpg": b"y"}
    row = readers()["utkface"]
    assert row.shown_by(names) and not row.shown_by(["a.jpg", "1.jpg"]) and not row.shown_by([])
    tar, folder = write_tar(tmp_path / "crop_part1.tar.gz", files), write_folder(tmp_path / "f", files)
    assert outcomes(UTKFaceReader(tar)) == outcomes(UTKFaceReader(folder))
    assert outcomes(UTKFaceReader(tar))["crop_part1/50_1_20170101000000000.jpg.chip.jpg"] == "malformed name"


@pytest.mark.parametrize("column", ["file", "path", "image", "filename"])
def test_folder_with_spaces_korean_names_and_splits(tmp_path, column):
    files = {"하위 폴더/홍 길동.jpg": b"a", "plain one.jpg": b"b", "c.jpg": b"c", "d.jpg": b"d"}
    write_folder(tmp_path / "photos", {unicodedata.normalize("NFD", name): data for name, data in files.items()})
    table = tmp_path / "labels.csv"
    rows = [
        "mood,split," + column,
        "glad,test,하위 폴더\\홍 길동.jpg",
        "sad,train,./plain one.jpg",
        "sad,exam,c.jpg",
        "glad,,d.jpg",
    ]
    table.write_text("\ufeff" + "\n".join(rows) + "\n", encoding="utf-8")
    reader = FolderReader(tmp_path / "photos", table)
    assert reader.columns == ("mood",)
    got = outcomes(reader)
    assert got["하위 폴더/홍 길동.jpg"] == ({"mood": "glad", "split": "test"}, "test")
    assert got["plain one.jpg"][1] == "train" and got["d.jpg"][1] is None
    assert got["c.jpg"] == "unknown split"


def test_a_tail_of_the_name_finds_its_row_once(tmp_path):
    write_folder(tmp_path, {"set/a/1.jpg": b"x", "set/b/1.jpg": b"y", "set/2.jpg": b"z"})
    (tmp_path / "labels.csv").write_text("file,k\na/1.jpg,p\n2.jpg,q\n1.jpg,r\n")
    got = outcomes(FolderReader(tmp_path))
    assert {name: value[0]["k"] for name, value in got.items()} == {
        "set/a/1.jpg": "p",
        "set/b/1.jpg": "r",
        "set/2.jpg": "q",
    }


@pytest.mark.parametrize("content", ["a,b\nx,2\n", "", "file,file\nx,y\n", 'file,k\n"open\n'])
def test_bad_tables_are_data_errors(tmp_path, content):
    write_folder(tmp_path, {"1.jpg": b"x"})
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(DataError, match="labels.csv"):
        FolderReader(tmp_path)


def test_a_table_that_is_not_utf8_or_not_there_or_one_of_two(tmp_path):
    write_folder(tmp_path, {"1.jpg": b"x"})
    with pytest.raises(DataError, match="no CSV files"):
        FolderReader(tmp_path)
    (tmp_path / "labels.csv").write_bytes("file,k\n얼굴.jpg,1\n".encode("cp949"))
    with pytest.raises(DataError, match="UTF-8"):
        FolderReader(tmp_path)
    (tmp_path / "more.csv").write_text("file\n")
    with pytest.raises(DataError, match="2 CSV files"):
        FolderReader(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        FolderReader(tmp_path, tmp_path / "none.csv")


def test_real_sets_are_read_whole(real_data):
    if not (real_data / "fairface").is_dir() or not (real_data / "utkface").is_dir():
        pytest.skip("FACEKIT_DATA has no folders fairface and utkface")
    face = FairFaceReader(real_data / "fairface")
    assert sum(record.problem is None for record in face.records(skip=10**9)) == face.total
    utk = list(UTKFaceReader(real_data / "utkface").records(skip=10**9))
    assert {record.problem.reason for record in utk if record.problem} <= {"malformed name"}

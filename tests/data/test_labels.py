"""Labels: what went in comes back letter for letter, from class folders and from tables as programs write them."""

from __future__ import annotations

import csv
import io
import json
import random
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from test_archives import write_folder, write_zip
from test_domains import picture
from test_readers import outcomes

from facekit.commands.cli import main
from facekit.commands.train import task_of
from facekit.data.pack import make_reader, pack
from facekit.data.readers.archives import Problem, Sample
from facekit.data.readers.classes import class_task
from facekit.data.readers.folder import FolderReader
from facekit.data.readers.labels import MOST_COLUMNS, read_label_table
from facekit.data.sets import FaceSet, FeatureSet, read_manifest
from facekit.errors import ConfigError, DataError
from facekit.tasks import AGE_BANDS

LOOKS_LIKE = ["None", "NA", "null", "nan", "inf", "001", "0", "-1", "1e5", "1_0", "True", "1.50", "#N/A", "-", "'"]
ODD = [
    '"',
    "\r",
    "\n",
    "\r\n",
    ",",
    ";",
    "\t",
    "\0",
    " ",
    "\x1a",
    "\ufeff",
    "\u2028",
    "é",
    "한",
    "😀",
    "=1",
    *LOOKS_LIKE,
]


def text(rng: random.Random) -> str:
    """Any text without surrogates that is not blank."""
    code = rng.choice([rng.randrange(128), rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])
    found = "".join(rng.choice([*ODD, chr(code)]) for _ in range(rng.randrange(1, 6)))
    return found if found.strip() else text(rng)


def known(column: pd.Series) -> list[str | None]:
    return [None if pd.isna(value) else value for value in column]


def packed_columns(folder):
    return read_manifest(folder)["columns"]


# --- Sets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_a_set_gives_back_any_text_any_number_and_any_name_of_a_column(tmp_path, seed):
    rng = random.Random(seed)
    rows = rng.randrange(1, 20)
    texts = {text(rng): [rng.choice([text(rng), None]) for _ in range(rows)] for _ in range(3)}
    numbers = [rng.choice([rng.random() * 10 ** rng.randrange(-9, 9), np.nan]) for _ in range(rows)]
    labels = pd.DataFrame({**texts, "": "x", "real": np.array(numbers), "whole": range(rows), "split": "train"})
    back = FeatureSet.load(FeatureSet(np.zeros((rows, 2), np.float32), labels).save(tmp_path), verify=True).labels
    assert list(back.columns) == list(labels.columns)
    for name, wanted in texts.items():
        assert known(back[name]) == wanted
    assert back["real"].equals(labels["real"]) and back["whole"].tolist() == list(range(rows))
    kinds = packed_columns(tmp_path)
    assert [name for name, kind in kinds.items() if kind == "number"] == ["real", "whole"]


def test_a_set_that_was_stored_before_is_read_as_before(tmp_path):
    labels = pd.DataFrame({"file": ["1", "2"], "class": ["001", "NA"], "text": ["007", "NA"], "split": "train"})
    FeatureSet(np.zeros((2, 2), np.float32), labels).save(tmp_path)
    manifest = read_manifest(tmp_path)
    del manifest["columns"]
    manifest.pop("sha256", None)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    data = FeatureSet.load(tmp_path)
    assert known(data.labels["class"]) == [1, None] and known(data.labels["text"]) == ["007", "NA"]
    with pytest.raises(DataError, match="holds numbers.*--classes class"):
        class_task(data, "class")
    assert known(FeatureSet.load(data.save(tmp_path / "again")).labels["class"]) == [1, None]


# --- Classes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "classes", [("None", "NA", "null"), ("001", "002", "010"), ("0", "1", "2"), ("True", "False"), ("1e5", "-1", "nan")]
)
def test_class_folders_are_classes_whatever_they_are_called(tmp_path, classes):
    files = {f"train/{name}/{at}.png": picture(10 * row + at) for row, name in enumerate(classes) for at in range(3)}
    data = pack(write_zip(tmp_path / "x.zip", files), tmp_path / "set", kind="classes", size=16)
    assert [name.split("/")[1] for name in data.labels["file"]] == data.labels["class"].tolist()
    for task in (task_of("class", data), class_task(data, "class")):
        assert task.kind == "multiclass" and set(task.classes) == set(classes)
        assert data.targets([task])["class"].min() == 0


def test_classes_that_are_merged_are_told_by_their_names(tmp_path, capsys):
    names = ["A", "a", "type_1", "type 1", "other"]
    files = {f"{name}/{at}.png": picture(at) for at, name in enumerate(names)}
    source = write_zip(tmp_path / "x.zip", files)
    assert main(["pack", str(source), str(tmp_path / "set"), "--kind", "classes", "--size", "16"]) == 0
    printed = capsys.readouterr().out
    for folders in ("'A', 'a' are one class, 'a'", "'type 1', 'type_1' are one class, 'type_1'"):
        assert folders in printed and any(folders in note for note in read_manifest(tmp_path / "set")["notes"])
    assert make_reader(write_folder(tmp_path / "f", {"a/1.png": b"", "b/2.png": b""}), "classes").notes == []


# --- Columns of numbers ----------------------------------------------------------------------------------------------


@pytest.fixture
def measured(tmp_path):
    """Photos with columns of every kind of text that is digits."""
    files = {f"{at}.png": picture(at) for at in range(30)}
    rows = [f"{at}.png,{at}.5,{at % 3},{(-1) ** at},{at % 2}.0,{at},{at}" for at in range(30)]
    folder = write_folder(tmp_path / "photos", files)
    (folder / "l.csv").write_text("\n".join(["file,weight,kind,smiling,version,age_years,number", *rows]))
    return folder


def test_which_columns_are_numbers_is_found_recorded_shown_and_can_be_said(tmp_path, measured, capsys):
    out, options = tmp_path / "set", ["--size", "16"]
    assert main(["pack", str(measured), str(out), *options]) == 0
    printed = capsys.readouterr().out
    assert "column weight: numbers, 0.5 to 29.5" in printed and "column kind: 3 classes, '0' 10" in printed
    assert "column number: 30 classes" in printed and "--numbers number" in printed
    texts = ("file", "kind", "smiling", "version", "number", "split")
    assert packed_columns(out) == {
        name: "text" if name in texts else "number"
        for name in ("file", "weight", "kind", "smiling", "version", "age_years", "number", "split")
    }
    data = FaceSet.load(out)
    assert task_of("smiling", data).classes == ("-1", "1") and task_of("kind", data).classes == ("0", "1", "2")
    assert task_of("weight", data).kind == task_of("age_years", data).kind == "regression"

    assert main(["pack", str(measured), str(out), *options, "--numbers", "number,kind"]) == 2  # another set
    said = tmp_path / "said"
    assert main(["pack", str(measured), str(said), *options, "--numbers", "number, kind", "--classes", "weight"]) == 0
    data = FaceSet.load(said)
    assert task_of("number", data).kind == task_of("kind", data).kind == "regression"
    assert "10.5" in task_of("weight", data).classes


def test_the_sides_of_a_box_are_numbers_where_all_four_are(tmp_path):
    box = [f"face_{side}" for side in ("left", "top", "right", "bottom")]
    for columns, numbers in ((box, tuple(box)), (box[:3], ())):
        (tmp_path / "l.csv").write_text(
            written([["file", *columns], ["1.jpg", *"0011"[: len(columns)]], ["2.jpg", *[""] * len(columns)]])
        )
        assert read_label_table(tmp_path / "l.csv").measures() == numbers


def test_what_is_said_of_columns_is_checked(tmp_path, measured):
    with pytest.raises(ConfigError, match="no label column 'size'.*weight, kind"):
        pack(measured, tmp_path / "set", numbers=["size"])
    with pytest.raises(ConfigError, match="'kind' holds numbers or classes"):
        pack(measured, tmp_path / "set", numbers=["kind"], classes=["kind"])
    odd = ["1_0", "nan", "inf", "٣", "1,5", "0x1", "1e400", "one"]
    rows = [f"{at}.png,{value}" for at, value in enumerate(["1", "+2.5", ".5", "1e3", "", *(f'"{o}"' for o in odd)])]
    (measured / "l.csv").write_text("\n".join(["file,kg", *rows]), encoding="utf-8")
    data = pack(measured, tmp_path / "set", size=16, numbers=["kg"])
    assert {*known(data.labels["kg"])} == {1, 2.5, 0.5, 1000, None}
    told = [rejected["detail"] for rejected in data.manifest["rejected"] if rejected["reason"] == "unknown label"]
    assert sorted(told) == sorted(f"kg is {value!r}, expected a number" for value in odd)
    (measured / "l.csv").write_text("\n".join(row.replace("kg", "age_years") for row in ["file,kg", *rows]))
    assert sum(value == "unknown label" for value in outcomes(FolderReader(measured)).values()) == len(odd) + 1  # 1000


def test_a_column_of_one_class_is_told_with_its_class():
    labels = pd.DataFrame({"town": ["Bonn", "Bonn", None, "Ulm"], "none": None, "split": [*["train"] * 3, "test"]})
    data = FeatureSet(np.zeros((4, 2), np.float32), labels)
    with pytest.raises(DataError, match="fewer than two different labels in the split 'train', only 'Bonn' in 2 rows"):
        task_of("town", data)
    with pytest.raises(DataError, match="fewer than two different labels in the split 'train', none"):
        task_of("none", data)


# --- Tables ----------------------------------------------------------------------------------------------------------


def written(rows: list[list[str]], delimiter: str = ",", end: str = "\r\n", quoting: int = csv.QUOTE_MINIMAL) -> str:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows(rows)  # type: ignore[arg-type]
    return file.getvalue()


@pytest.mark.parametrize("seed", range(40))
def test_a_table_gives_back_any_text_however_it_is_written(tmp_path, seed):
    rng = random.Random(seed)
    names = [f"photo {at}.jpg" for at in range(rng.randrange(1, 12))]
    columns = [f"{text(rng).strip()} {at}" for at in range(rng.randrange(1, 4))]
    rows = [[name, *(rng.choice([text(rng), ""]).strip() for _ in columns)] for name in names]
    content = written(
        [["file", *columns], *rows], rng.choice(",;\t"), rng.choice(["\r\n"] if seed % 2 else ["\r\n", "\n", "\r"]),
        rng.choice([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]) if seed % 2 else csv.QUOTE_ALL,
    )  # fmt: skip
    encoding = rng.choice(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
    (tmp_path / "l.csv").write_bytes(content.encode(encoding))
    table = read_label_table(tmp_path / "l.csv")
    assert list(table.columns) == columns and not table.unused and not table.notes
    assert {name: list(values) for name, values in table.rows.items()} == {name: values for name, *values in rows}


GOOD = [["file", "age", "town"], ["1.jpg", "3-9", "x, y"], ["2.jpg", "10-19", ""], ["3.jpg", "", "NA"]]
FORMS = {
    "commas": written(GOOD),
    "semicolons": written(GOOD, ";"),
    "tabs": written(GOOD, "\t"),
    "sep line": "sep=;\r\n" + written(GOOD, ";"),
    "quoted sep line": '"sep=|"\r\n' + written(GOOD, "|"),
    "blank rows": "\n,,\n" + written(GOOD).replace("\r\n", "\r\n,,\r\n\r\n"),
    "commas at the end": written([[*row, "", ""] for row in GOOD]),
    "commas at the end of rows": written([GOOD[0], *([*row, "", ""] for row in GOOD[1:])]),
    "no commas at the end of rows": written([[*GOOD[0], ""], *GOOD[1:]]),
    "Excel's dates": written(GOOD).replace("3-9", "9-Mar").replace("10-19", "19-Oct"),
    "other dates": written(GOOD).replace("3-9", "03. Sep").replace("10-19", "Okt 19"),
    "Korean dates": written(GOOD).replace("3-9", "03월 09일").replace("10-19", "10월 19일"),
    "dashes": written(GOOD).replace("3-9", "3–9").replace("10-19", "10 – 19"),
    "folder before": written([GOOD[0], *(["faces/" + name, *more] for name, *more in GOOD[1:])]),
    "Windows path": written([GOOD[0], *(["C:\\Users\\me\\faces\\" + name, *more] for name, *more in GOOD[1:])]),
    "no suffix": written(GOOD).replace(".jpg", ""),
    "large letters": written(GOOD).replace(".jpg", ".JPG"),
    "another suffix": written(GOOD).replace(".jpg", ".png"),
    "image_id": written(GOOD).replace("file", "image_id"),
    "id without suffix": written(GOOD).replace("file", "id").replace(".jpg", ""),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_means_the_same(tmp_path, form):
    write_folder(tmp_path, {f"{at}.jpg": b"x" for at in (1, 2, 3)})
    (tmp_path / "l.csv").write_text(FORMS[form], encoding="utf-8", newline="")
    reader = FolderReader(tmp_path)
    got = {name: value[0] for name, value in outcomes(reader).items()}
    assert got == {name: {"age": age, "town": town} for name, age, town in GOOD[1:]}
    changed = form.endswith(("dates", "path", "before", "suffix", "letters")) or form == "dashes"
    assert bool(reader.notes) == changed, reader.notes  # what is read as something else is told


def test_what_may_be_a_band_or_has_blanks_around_it_is_kept_or_stripped_and_told(tmp_path):
    rows = [["file", " stage"], ["1.jpg", "9-Mar"], ["2.jpg", "20-29"], ["3.jpg", " 20-29"]]
    (tmp_path / "l.csv").write_text(written(rows[:3]))
    table = read_label_table(tmp_path / "l.csv")
    assert [*table.rows.values()] == [("9-Mar",), ("20-29",)] and table.columns == ("stage",)
    assert "stage has '9-Mar' beside '20-29'" in table.notes[1] and "row 1, ' stage'" in table.notes[0]
    (tmp_path / "l.csv").write_text(written([["file", "stage"], *rows[2:]]))
    table = read_label_table(tmp_path / "l.csv")
    assert [*table.rows.values()] == [("20-29",)] * 2 and "row 3, ' 20-29'" in table.notes[0]


def test_an_age_that_is_no_band_is_never_made_one(tmp_path):
    odd = ["9", "9-Apr", "9-Mar-2024", "25", "3-9-10", "Mar", "30-40", "2-Jan", "1-Mar", "3-9 months", "9 marks"]
    write_folder(tmp_path, {f"{at}.jpg": b"x" for at, _ in enumerate([*odd, *AGE_BANDS])})
    (tmp_path / "l.csv").write_text(
        written([["file", "age"], *([f"{at}", age] for at, age in enumerate([*odd, *AGE_BANDS]))])
    )
    got = outcomes(FolderReader(tmp_path))
    assert [got[f"{at}.jpg"] for at in range(len(odd))] == ["unknown label"] * len(odd)
    assert [got[f"{at}.jpg"][0]["age"] for at in range(len(odd), len(got))] == list(AGE_BANDS)


def test_the_column_that_names_the_photos_is_found(tmp_path):
    names = ["train/1.jpg", "val/1.jpg", "val/2.jpg"]
    write_folder(tmp_path, dict.fromkeys(names, b"x"))
    header = ["", "file", "path", "image_id", "age_years"]
    rows = [[f"{at}", name.split("/")[-1], name, f"id{at}", f"{at}"] for at, name in enumerate(names)]
    (tmp_path / "l.csv").write_text(written([header, *rows]))
    reader = FolderReader(tmp_path)
    assert reader.columns == ("column_1", "file_in_table", "image_id", "age_years")
    assert [value[0]["image_id"] for value in outcomes(reader).values()] == ["id0", "id1", "id2"]
    assert "named in column 'path'" in reader.notes[0]
    rows = [[at, f"old {at}.png", name, *more] for at, _, name, *more in rows]
    (tmp_path / "l.csv").write_text(written([header, *rows]))
    assert [value[0]["file_in_table"] for value in outcomes(FolderReader(tmp_path)).values()] == [
        f"old {at}.png" for at in "012"
    ]


def test_a_name_that_may_mean_several_is_told_not_guessed(tmp_path):
    write_folder(
        tmp_path, {"a/1.jpg": b"x", "b/1.jpg": b"x", "c.png": b"x", "d.jpg": b"x", "e.jpg": b"x", "e.png": b"x"}
    )
    (tmp_path / "l.csv").write_text("file,k\n1,x\nC.jpg,x\nc.gif,x\ne.jpg,x\nq/d.jpg,good\nother/f.jpg,x\n,lost\n")
    reader = FolderReader(tmp_path)
    records = {record.name: record for record in reader.records()}
    assert records["d.jpg"].labels == {"k": "good"} and records["e.jpg"].labels == {"k": "x"}
    told = {name: record.problem.detail for name, record in records.items() if record.problem}
    for name in ("a/1.jpg", "b/1.jpg"):
        assert "'1' in the label table may mean it or another photo" in told[name]
    assert "'C.jpg' or 'c.gif' in the label table may mean it" in told["c.png"]
    assert "the label table does not name it; it names '1', for one" in told["e.png"]
    assert "no photo found has this name; the source has 'a/1.jpg', for one" in told["other/f.jpg"]
    assert told["row 8"] == "it names no photo"
    assert len(reader.notes) == 1 and "'q/d.jpg' with 'd.jpg'" in reader.notes[0]


def test_a_file_that_cannot_be_read_is_not_said_to_be_missing(tmp_path, monkeypatch):
    write_folder(tmp_path, {"1.jpg": b"x", "2.heic": b"x"})
    (tmp_path / "l.csv").write_text("file\n1.jpg\n2.heic\n")
    reader = FolderReader(tmp_path)
    problem = Problem("not read", "save it as JPEG")
    entries = [Sample("1.jpg", b"x"), Sample("2.heic", problem=problem)]
    monkeypatch.setattr(reader.source, "entries", lambda *_: iter(entries))
    assert [record.problem for record in reader.records()] == [None, problem]


TOLD = {
    "begins with '1.jpg, a': put a row with names of the columns above it": "1.jpg,a\n2.jpg,b\n",
    "begins with '1, a': put a row with": "1,a\n2,b\n3,c\n",
    "must have a column that names the photos.*": "name,k\nx,y\n",
    "its first row 'x, y'; the source has '1.jpg'": "name,k\nx,y\n",
    "columns 'id' and 'key' both name photos; call the right one file": "id,key\n1,3\n2,1\n3,2\n",
    "with 'k' twice": "file,k,k\n1.jpg,a,b\n",
    "the header is 'a, file, , column_3'; give every": "a,file,,column_3\nx,1.jpg,y,z\n",
    "row 3: 2 fields, the header has 3": "file,k,l\n1.jpg,a,b\n2.jpg,a\n",
    "row 2: 3 fields, the header has 2": "file,k\n1.jpg,a,b\n",
    "row 3: unexpected end of data; correct the quotes": 'file,k\n1.jpg,a\n2.jpg,"b\n',
    f"has {MOST_COLUMNS + 2:,} columns, file, c0": ",".join(["file", *(f"c{at}" for at in range(MOST_COLUMNS + 1))]),
    "mean '1.jpg,fröhlich' in cp1252 or": "file,k\n1.jpg,fröhlich\n".encode("cp1252"),
    "'얼굴.jpg' in cp949": "file\n얼굴.jpg\n".encode("cp949"),
    "is a workbook": b"PK\3\4 and so on",
}


@pytest.mark.parametrize("told", TOLD)
def test_what_has_no_one_meaning_is_told(tmp_path, told):
    write_folder(tmp_path, {f"{at}.jpg": b"x" for at in (1, 2, 3)})
    content = TOLD[told]
    (tmp_path / "l.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=told):
        FolderReader(tmp_path)


def test_a_folder_can_stand_for_its_only_table(tmp_path):
    photos = write_folder(tmp_path / "photos", {"1.jpg": b"x"})
    folder = tmp_path / "labels"
    folder.mkdir()
    with pytest.raises(DataError, match="labels: no CSV files"):
        make_reader(photos, labels=folder)
    (folder / "A.CSV").write_text("file,k\n1.jpg,x\n")
    (folder / "._A.CSV").write_bytes(b"\0\5\x16\7")
    assert outcomes(make_reader(photos, labels=folder)) == {"1.jpg": ({"k": "x"}, None)}
    (folder / "b.tsv").write_text("file\n")
    with pytest.raises(DataError, match=r"2 CSV files \(A.CSV, b.tsv\)"):
        make_reader(photos, labels=folder)


def test_what_a_table_costs_is_bounded(tmp_path):
    wide = ",".join(f"c{at}" for at in range(100_000))
    contents = wide, f"file,{wide},", "file\n" + "," * 10**6, 'file,k\n1.jpg,"' + "x\n" * 10**6
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.csv").write_text(content)
    with open(tmp_path / "hole.csv", "wb") as file:
        file.write(b"file,k\n1.jpg,")
        file.truncate(2**30)
    tracemalloc.start()
    for path in sorted(tmp_path.glob("*.csv")):
        if path.name == "2.csv":
            assert not read_label_table(path).rows  # a blank row, however long
            continue
        with pytest.raises(DataError, match="columns|line of more than|field larger than"):
            read_label_table(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 64 * 2**20

"""Answers for photos: each face and each photo has its row, cut as in training, whatever stops the run in between."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from damage import damaged
from PIL import Image
from test_decode import HEIC
from tiny import faces, features

import facekit
from facekit.answers import faces as cutting
from facekit.answers import predict as module
from facekit.answers.predict import FACE, Answers, Journal, write_answers
from facekit.commands.cli import main
from facekit.commands.train import train
from facekit.course.own_photo import read_photo
from facekit.data.align import PORTRAIT_POINTS, Framing, align_faces, cut, find_faces
from facekit.data.pack import pack
from facekit.data.portraits import render_portraits
from facekit.data.readers.decode import decode_file
from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError, DataError, OutputError
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.embedding import embed
from facekit.tasks import AGE_BAND, GENDER, Task

QUICK = {"epochs": 1, "steps": 1, "batch_size": 8, "plan": "probe"}
PICKED = ["gender", "gender_probability", "gender_second", "gender_second_probability"]


def images_of(data: FaceSet) -> list[Image.Image]:
    return [Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))) for pixels in data.images]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Portraits as a set, and as photos in a folder with labels."""
    home = tmp_path_factory.mktemp("photos")
    data = render_portraits((16, 4, 8), seed=4, size=160)
    data.save(home / "set")
    (home / "labelled").mkdir()
    for row, image in enumerate(images_of(data)):
        image.save(home / "labelled" / f"{row:02d}.png")
    table = data.labels[["gender", "age", "age_years", "split"]]
    table.insert(0, "file", [f"{row:02d}.png" for row in range(len(data))])
    table.to_csv(home / "labelled" / "labels.csv", index=False)
    return home


@pytest.fixture(scope="module")
def model(home, tmp_path_factory) -> facekit.answers.model.Model:
    """A model of rendered portraits."""
    out = tmp_path_factory.mktemp("models") / "run"
    train(str(home / "set"), out, "gender,age", **QUICK)
    return facekit.load(out)


@pytest.fixture
def photos(home, tmp_path) -> Path:
    """Two portraits, both of them in one photo, a photo without a face, and files that cannot be read."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    one, two, *_ = (Image.open(home / "labelled" / f"{row:02d}.png") for row in range(2))
    one.save(folder / "a.png")
    two.save(folder / "sub" / "b.jpg", quality=95)
    both = Image.new("RGB", (320, 160))
    both.paste(one, (0, 0))
    both.paste(two, (160, 0))
    both.save(folder / "both.png")
    Image.new("RGB", (120, 90), "grey").save(folder / "grey.png")
    (folder / "empty.jpg").touch()
    (folder / "phone.heic").write_bytes(HEIC)
    (folder / "text.png").write_text("text")
    return folder


def by_hand(model, image: Image.Image, task: Task = GENDER) -> tuple[list[str], np.ndarray]:
    """The answers for the faces of a photo, largest first, with no more than the detector and the network."""
    crops = [cut(image, face.points, 160, Framing(landmarks=PORTRAIT_POINTS)) for face in find_faces(image)]
    data = FaceSet(np.stack(crops), pd.DataFrame({"split": ["test"] * len(crops)}))
    shares = model.probabilities(data)[task.name].numpy()
    return [task.classes[place] for place in shares.argmax(1)], shares


def test_a_row_a_face_and_a_row_for_every_photo_without_one(model, photos):
    found = model.predict(photos)
    assert list(found.columns[:7]) == list(FACE) and found.columns[-1] == "reason"
    names = ["a.png", "both.png", "both.png", "empty.jpg", "grey.png", "phone.heic", "sub/b.jpg", "text.png"]
    assert found["file"].tolist() == names
    assert found["face"].tolist() == [1, 1, 2, pd.NA, pd.NA, pd.NA, 1, pd.NA]
    reasons = dict(zip(found["file"], found["reason"], strict=True))
    assert reasons["a.png"] == "" and reasons["grey.png"] == "no face"
    assert "HEIC" in reasons["phone.heic"] and "not a photo" in reasons["text.png"] and "empty" in reasons["empty.jpg"]
    whole = found[found["face"].notna()]
    assert whole[[*PICKED, "confidence", "left"]].notna().all(axis=None) and (whole["reason"] == "").all()
    empty = found[found["face"].isna()]
    assert empty[[*PICKED, "left", "age"]].isna().all(axis=None) and (empty["reason"] != "").all()


def test_answers_are_those_of_the_network_for_faces_cut_as_in_training(model, photos):
    found = model.predict(photos).set_index("file")
    for name in ("a.png", "both.png", "sub/b.jpg"):
        image = decode_file(photos / name)
        said, shares = by_hand(model, image)
        rows = found.loc[[name]]
        assert rows["gender"].tolist() == said
        assert rows["gender_probability"].to_numpy(float) == pytest.approx(shares.max(1), abs=1e-4)
        boxes = [face.box for face in find_faces(image)]
        assert rows[["left", "top", "right", "bottom"]].to_numpy(float) == pytest.approx(np.array(boxes), abs=0.06)
    ages = found.loc["both.png"]
    _, shares = by_hand(model, decode_file(photos / "both.png"), AGE_BAND)
    order = np.argsort(-shares, axis=1)
    assert ages["age_second"].tolist() == [AGE_BAND.classes[place] for place in order[:, 1]]
    assert ages["age_second_probability"].to_numpy(float) == pytest.approx(np.sort(shares, 1)[:, -2], abs=1e-4)


def test_portraits_have_their_faces_where_the_framing_wants_them():
    """The law behind `rendered`: what is cut of a portrait looks like the portrait."""
    places = []
    for image in images_of(render_portraits(40, seed=21, size=160, per_person=1)):
        places += [face.points / 160 for face in find_faces(image)[:1]]
    assert len(places) > 35
    assert np.abs(np.median(places, axis=0) - np.array(PORTRAIT_POINTS)).max() < 0.03


def test_a_packed_set_is_answered_as_the_model_answers_its_rows(model, home):
    data = FaceSet.load(home / "set")
    found, shares = model.predict(home / "set"), model.probabilities(data)["gender"]
    assert len(found) == len(data) and found["left"].isna().all() and (found["face"] == 1).all()
    assert found["gender"].tolist() == [GENDER.classes[place] for place in shares.argmax(1)]
    assert found["gender_probability"].to_numpy(float) == pytest.approx(shares.max(1).values.numpy(), abs=1e-4)
    small = data.resized(96)
    assert model.predict(small)["age"].tolist() == AGE_BAND.decode(AGE_BAND.predict(model.outputs(small)["age"]))["age"]
    assert len(model.predict(data.select([0, 1]), faces="fairface").dropna(subset="left")) == 2, "faces can be found"


def test_photos_in_memory_and_in_every_place_give_the_same(model, photos, tmp_path):
    whole = model.predict(photos).set_index("file")
    wanted = whole.loc["a.png", PICKED]
    archive = shutil.make_archive(str(tmp_path / "all"), "zip", photos)
    ordered = [
        table.sort_values(["file", "face"], ignore_index=True) for table in map(model.predict, (archive, photos))
    ]
    pd.testing.assert_frame_equal(*ordered)
    image = decode_file(photos / "a.png")
    several = [photos / "a.png", str(photos / "a.png"), image, np.asarray(image), (photos / "a.png").read_bytes()]
    found = model.predict([*several, photos / "none.jpg", b""])
    assert found["file"].tolist() == ["a.png", "a.png", "2", "3", "4", "none.jpg", "6"]
    assert all(found.loc[row, PICKED].equals(wanted) for row in range(5))
    assert found["reason"][5].startswith("no file: ") and found["reason"][6].startswith("empty")
    for one in (photos / "a.png", image, (photos / "a.png").read_bytes()):
        assert model.predict(one).loc[0, PICKED].equals(wanted)
    with pytest.raises(DataError, match="photo 0 is an array float64"):
        model.predict([np.zeros((30, 30, 3))])


def test_the_command_writes_the_same_table(model, photos, tmp_path, capsys):
    out, pictures = tmp_path / "new" / "answers.csv", tmp_path / "drawn"
    assert main(["predict", str(model.folder), str(photos), "--out", str(out), "--pictures", str(pictures)]) == 0
    said = capsys.readouterr().out
    assert "4 faces in 7 photos" in said and "2 without an answer: unreadable, first phone.heic" in said
    assert "no temperature was fitted for gender" in said
    assert sorted(path.name for path in out.parent.iterdir()) == ["answers.csv"]
    read = pd.read_csv(out, dtype={"face": "Int64", "reason": str}, keep_default_na=False, na_values={"face": [""]})
    found = model.predict(photos)
    assert read["file"].tolist() == found["file"].tolist() and read["reason"].tolist() == found["reason"].tolist()
    rows = list(csv.reader(out.open(encoding="utf-8", newline="")))
    assert rows[0] == list(found.columns)
    for row, wanted in zip(rows[1:], found.itertuples(index=False), strict=True):
        assert row == ["" if pd.isna(value) else str(value) for value in wanted]
    drawn = sorted(path.name for path in pictures.glob("*.jpg"))
    assert [name.partition("-")[2] for name in drawn] == [
        f"{name}.answers.jpg" for name in ("a.png", "both.png", "grey.png", "sub_b.jpg")
    ]
    before, after = (
        np.asarray(Image.open(path).convert("RGB"), int) for path in (photos / "both.png", pictures / drawn[1])
    )
    assert before.shape == after.shape and (np.abs(before - after).max(2) > 90).mean() > 0.01
    assert (photos / "a.png").exists() and main(["predict", str(model.folder), str(photos), "--out", str(out)]) == 0


class Stopped(BaseException):
    """What ends a run from outside."""


def stopping(monkeypatch, after: int) -> None:
    """The next run ends after so many groups."""
    append = Journal.append
    left = [after]

    def counted(self, photos, rows):
        if not left[0]:
            raise Stopped
        left[0] -= 1
        append(self, photos, rows)

    monkeypatch.setattr(Journal, "append", counted)


@pytest.fixture
def small_groups(monkeypatch) -> None:
    monkeypatch.setattr(module, "GROUP", 2)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("after", [0, 1, 3])
def test_stopped_and_gone_on_is_uninterrupted(model, photos, tmp_path, monkeypatch, small_groups, after):
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    places = {name: (tmp_path / name / "answers.csv", tmp_path / name / "drawn") for name in ("whole", "stopped")}
    write_answers(Answers(model, photos), *places["whole"])
    with monkeypatch.context() as patch:
        stopping(patch, after)
        with pytest.raises(Stopped):
            write_answers(Answers(model, photos), *places["stopped"])
        assert not places["stopped"][0].exists(), "no half of a table"
    answered = []
    rows = Answers._rows
    monkeypatch.setattr(Answers, "_rows", lambda self, group: answered.append(len(group)) or rows(self, group))
    write_answers(Answers(model, photos), *places["stopped"])
    assert sum(answered) == 7 - 2 * after, "what was done is not done again"
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")


def test_no_crop_and_no_embedding_is_kept(model, photos, tmp_path, monkeypatch, small_groups):
    before = content(photos)
    stopping(monkeypatch, 2)
    (tmp_path / "out").mkdir()
    with pytest.raises(Stopped):
        write_answers(Answers(model, photos), tmp_path / "out" / "a.csv")
    left = content(tmp_path / "out")
    assert list(left) == [".a.csv.journal"] and len(left[".a.csv.journal"]) < 3000 and content(photos) == before
    monkeypatch.undo()
    write_answers(Answers(model, photos), tmp_path / "out" / "a.csv")
    assert list(content(tmp_path / "out")) == ["a.csv"]


def test_other_photos_or_another_way_to_cut_begin_anew(model, photos, tmp_path, monkeypatch, small_groups):
    out = tmp_path / "a.csv"
    with monkeypatch.context() as patch:
        stopping(patch, 2)
        with pytest.raises(Stopped):
            write_answers(Answers(model, photos), out)
    (photos / "a.png").unlink()
    assert write_answers(Answers(model, photos), out).photos == 6
    with monkeypatch.context() as patch:
        stopping(patch, 2)
        with pytest.raises(Stopped):
            write_answers(Answers(model, photos), out)
    written = write_answers(Answers(model, photos, "cropped"), out)
    assert (written.photos, written.faces) == (6, 3), "a whole photo is one face"


def test_a_damaged_journal_gives_the_same_table(model, photos, tmp_path, monkeypatch, small_groups):
    whole = tmp_path / "whole.csv"
    write_answers(Answers(model, photos), whole)
    out = tmp_path / "a.csv"
    with monkeypatch.context() as patch:
        stopping(patch, 3)
        with pytest.raises(Stopped):
            write_answers(Answers(model, photos), out)
    journal = tmp_path / ".a.csv.journal"
    kept = journal.read_bytes()
    lines = kept.splitlines(keepends=True)
    swapped = lines[:1] + [lines[2], lines[1]] + lines[3:]
    for content in (b"".join(swapped), kept[:-5], kept + b"x", kept.replace(b"both.png", b"bath.png"), b""):
        journal.write_bytes(content)
        write_answers(Answers(model, photos), out)
        assert out.read_bytes() == whole.read_bytes() and not journal.exists()
    request = Answers(model, photos).request()
    for content in damaged(kept, 60):
        journal.write_bytes(content)
        again = Journal(journal, request | {"pictures": None})
        again.close()
        done = [row[0] for row in again.rows()]
        assert done == [row.split(",")[0] for row in whole.read_text().splitlines()[1 : 1 + len(done)]]


def test_nothing_that_is_not_ours_is_overwritten(model, photos, tmp_path):
    answers, out = Answers(model, photos), tmp_path / "a.csv"
    out.write_text("my,own\n")
    with pytest.raises(OutputError, match=r"a\.csv is in the way"):
        write_answers(answers, out)
    with pytest.raises(OutputError, match="is a folder; name the table"):
        write_answers(answers, tmp_path)
    assert out.read_text() == "my,own\n"
    out.unlink()
    for make in (lambda path: path.write_text("mine"), lambda path: path.mkdir(), lambda path: path.symlink_to("x")):
        journal = tmp_path / ".a.csv.journal"
        make(journal)
        with pytest.raises(OutputError, match=r"\.a\.csv\.journal is in the way"):
            write_answers(answers, out)
        journal.rmdir() if journal.is_dir() and not journal.is_symlink() else journal.unlink()
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "000001-a.png.answers.jpg").write_text("mine")
    with pytest.raises(OutputError, match=r"answers\.jpg is in the way"):
        write_answers(answers, out, tmp_path / "drawn")
    assert not out.exists() and (tmp_path / "drawn" / "000001-a.png.answers.jpg").read_text() == "mine"
    with pytest.raises(ConfigError, match="lies in the folder of the photos"):
        write_answers(answers, out, photos / "drawn")


def test_pictures_of_photos_that_are_gone_do_not_stay(model, photos, tmp_path):
    write_answers(Answers(model, photos), tmp_path / "a.csv", tmp_path / "drawn")
    (photos / "a.png").unlink()
    (tmp_path / "drawn" / "mine.jpg").write_text("mine")
    write_answers(Answers(model, photos), tmp_path / "a.csv", tmp_path / "drawn")
    names = sorted(path.name for path in (tmp_path / "drawn").glob("*.jpg"))
    assert names == [
        "000001-both.png.answers.jpg",
        "000003-grey.png.answers.jpg",
        "000005-sub_b.jpg.answers.jpg",
        "mine.jpg",
    ]


def test_a_full_disk_is_said_and_the_run_goes_on(model, photos, tmp_path, monkeypatch, small_groups):
    write = Journal._write
    full = [3]

    def filling(self, line):
        full[0] -= 1
        if full[0] == 0:
            self._file.write(line[: len(line) // 2])
            self._file.flush()
            raise OSError(28, "No space left on device")
        write(self, line)

    monkeypatch.setattr(Journal, "_write", filling)
    with pytest.raises(OutputError, match="the disk is full.*the same command goes on"):
        write_answers(Answers(model, photos), tmp_path / "a.csv")
    write_answers(Answers(model, photos), tmp_path / "a.csv")
    write_answers(Answers(model, photos), tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_memory_does_not_grow_with_the_photos(model, monkeypatch):
    image, under_way, most = Image.new("RGB", (64, 64)), [0], [0]
    decode = cutting.decode

    def counted(data, at_least=None):
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        return decode(data, at_least)

    rows = Answers._rows

    def answered(self, group):
        under_way[0] -= len(group)
        return rows(self, group)

    monkeypatch.setattr(cutting, "decode", counted)
    monkeypatch.setattr(cutting, "cores", lambda: 2)
    monkeypatch.setattr(module, "GROUP", 8)
    monkeypatch.setattr(Answers, "_rows", answered)
    assert len(model.predict([image] * 150, faces="cropped")) == 150
    assert most[0] <= 8 + (2 + 2 + 1) * cutting._TOGETHER


def test_a_photo_of_200_faces(model, home, tmp_path):
    small = [Image.open(home / "labelled" / f"{row:02d}.png").resize((64, 64)) for row in range(20)]
    crowd = Image.new("RGB", (20 * 64, 10 * 64))
    for place in range(200):
        crowd.paste(small[place % 20], (place % 20 * 64, place // 20 * 64))
    crowd.save(tmp_path / "crowd.png")
    assert main(["predict", str(model.folder), str(tmp_path / "crowd.png"), "--out", str(tmp_path / "a.csv")]) == 0
    found = pd.read_csv(tmp_path / "a.csv")
    assert 150 < len(found) == len(find_faces(decode_file(tmp_path / "crowd.png"))) <= 200
    assert found["face"].tolist() == list(range(1, len(found) + 1)) and found["gender"].notna().all()


# --- how faces are cut ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packed(home, tmp_path_factory) -> dict[str, facekit.answers.model.Model]:
    """Models of photos that were packed whole and with `--align`."""
    base, found = tmp_path_factory.mktemp("packed"), {}
    for name, align_too in (("whole", False), ("aligned", True)):
        pack(home / "labelled", base / f"{name}-set", size=64, align=align_too)
        train(str(base / f"{name}-set"), base / name, "gender", **QUICK)
        found[name] = facekit.load(base / name)
    return found


def test_aligned_photos_are_cut_as_pack_does(packed, photos):
    found = packed["aligned"].predict(photos / "both.png")
    crops, _ = align_faces([photos / "both.png"], size=64, keep="all")
    shares = packed["aligned"].probabilities(FaceSet(crops, pd.DataFrame({"split": ["test"] * len(crops)})))["gender"]
    assert found["gender_probability"].to_numpy(float) == pytest.approx(shares.max(1).values.numpy(), abs=1e-4)


def test_whole_photos_are_answered_as_the_set_that_is_packed_of_them(packed, home):
    """What pack makes of photos and what predict makes of them are the same pixels."""
    model = packed["whole"]
    data = FaceSet.load(model.folder.parent / "whole-set")
    found, of_set = model.predict(home / "labelled"), model.predict(data)
    assert len(found) == 28 and found["left"].isna().all()
    both = [table.set_index("file")[PICKED].sort_index() for table in (found, of_set)]
    pd.testing.assert_frame_equal(*both)


def test_what_was_packed_otherwise_is_noted(packed):
    data = FaceSet.load(packed["whole"].folder.parent / "whole-set")
    assert "packed otherwise" in Answers(packed["aligned"], data).notes[0]
    assert not Answers(packed["whole"], data).notes


@pytest.mark.parametrize(
    ("manifest", "way"),
    [
        ({"request": {"align": False}, "reader": "fairface"}, Framing()),
        ({"request": {"align": True}, "reader": "fairface"}, None),
        ({"request": {"align": False}, "reader": "folder"}, "whole"),
        ({"generator": {"name": "facekit.data.drawn.words"}}, "whole"),
        ({"generator": {"name": "facekit.data.portraits"}}, Framing(landmarks=PORTRAIT_POINTS)),
    ],
)
def test_the_way_to_cut_is_that_of_the_training_photos(manifest, way, tmp_path):
    model = trained_on(FaceSet(faces(12).images, faces(12).labels, manifest).resized(40), tmp_path, "colour")
    one = Answers(model, faces(2))  # of a set they are as they are
    assert one._pipeline.cut.whole
    one = Answers(model, [Image.new("RGB", (50, 50))])
    assert (one._pipeline.cut.height, one._pipeline.cut.width) == (40, 40)
    assert one._pipeline.cut.whole == (way == "whole") and (way == "whole" or one._pipeline.cut.framing == way)


def trained_on(data, tmp_path, tasks: str, **options) -> facekit.answers.model.Model:
    """A model of a set, in which every third row is for validation."""
    splits = np.array(["train", "train", "validation"])[np.arange(len(data)) % 3]
    replace(data, labels=data.labels.assign(split=splits)).save(tmp_path / "set")
    kind = {"backbone": "none"} if isinstance(data, FeatureSet) else {"size": 32}
    train(str(tmp_path / "set"), tmp_path / "run", tasks, **QUICK | kind | options)
    return facekit.load(tmp_path / "run")


@pytest.mark.parametrize(
    ("manifest", "told"),
    [
        ({}, "they are not known. Say it yourself: --faces cropped"),
        ({"request": {"align": False}, "reader": "utkface"}, "are UTKFace's own crops.*--faces fairface or box"),
    ],
)
def test_where_nobody_knows_how_faces_were_cut_it_is_asked(manifest, told, tmp_path, photos, capsys):
    model = trained_on(FaceSet(faces(12).images, faces(12).labels, manifest).resized(40), tmp_path, "colour")
    with pytest.raises(ConfigError, match=told):
        model.predict(photos)
    assert len(model.predict(photos, faces="cropped")) == 7 and len(model.predict(photos, faces="box")) == 8
    assert len(model.predict(faces(3))) == 3, "a packed set is cut already"
    with pytest.raises(ConfigError, match="use one of as_trained, cropped, fairface, box"):
        model.predict(photos, faces="best")
    assert main(["predict", str(model.folder), str(photos), "--out", str(tmp_path / "a.csv")]) == 2
    assert capsys.readouterr().err.startswith("error: ") and not (tmp_path / "a.csv").exists()


# --- models of embeddings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"flip": True, "size": 64}, {"stage": "stem"}])
def test_a_model_of_embeddings_answers_photos(how, home, tmp_path, photos):
    mini = FaceNetMini.from_pretrained()
    how = {**how, **({"stage": list(mini.stages)[1]} if "stage" in how else {})}
    portraits = FaceSet.load(home / "set")
    data = embed(mini, portraits, cache=False, **how)
    model = trained_on(data, tmp_path, "gender")
    assert model.learnt_from["framing"]["embedded"] == {
        "photos": [160, 160], "size": how.get("size", 96 if mini.image_size == 96 else mini.image_size),
        "stage": how.get("stage"), "flip": how.get("flip", False),
    }  # fmt: skip
    found = model.predict(photos / "both.png")
    image = decode_file(photos / "both.png")
    crops = [cut(image, face.points, 160, Framing(landmarks=PORTRAIT_POINTS)) for face in find_faces(image)]
    rows = pd.DataFrame({"split": ["test"] * len(crops)})
    shares = model.probabilities(embed(mini, FaceSet(np.stack(crops), rows), cache=False, **how))["gender"]
    assert found["gender_probability"].to_numpy(float) == pytest.approx(shares.max(1).values.numpy(), abs=2e-4)
    of_photos, of_set = model.predict(portraits), model.predict(data)
    assert of_photos["gender"].tolist() == of_set["gender"].tolist()
    assert of_set["gender_probability"].to_numpy(float) == pytest.approx(of_photos["gender_probability"], abs=2e-4)
    with pytest.raises(ConfigError, match="no face is looked for"):
        model.predict(data, faces="box")


def test_own_photo_and_predict_say_the_same(home, tmp_path, photos):
    """One way from a photo to an answer: the widget's network and a model that was stored."""
    mini = FaceNetMini.from_pretrained()
    data = embed(mini, FaceSet.load(home / "set"), cache=False, flip=True)
    model = trained_on(data, tmp_path, "gender")
    assert model.temperatures["gender"] is None
    found = model.predict(photos / "both.png", faces="fairface")
    reading = read_photo(photos / "both.png", mini, model.network)
    assert len(reading.crops) == 2
    # The model's photos had 160 pixels before they were embedded, the widget cuts at the network's size.
    assert found["gender_probability"].to_numpy(float) == pytest.approx(
        reading.probabilities["gender"].max(axis=1).to_numpy(), abs=0.02
    )
    assert found[["left", "confidence"]].to_numpy(float) == pytest.approx(
        reading.table[["left", "confidence"]].to_numpy(), abs=0.06
    )


def test_what_embeds_is_named_or_asked_for(tmp_path, photos):
    manifest = {"request": {"align": False}, "reader": "fairface"}
    data = features(30, dim=512)
    model = trained_on(replace(data, manifest=manifest), tmp_path, "side")
    with pytest.raises(ConfigError, match="by a network that it does not name; name it: --backbone facenet or mini"):
        model.predict(photos)
    assert len(model.predict(photos, backbone="mini")) == 8
    assert len(model.predict(data)) == 30
    of_photos = trained_on(FaceSet(faces(12).images, faces(12).labels, manifest).resized(40), tmp_path / "b", "colour")
    with pytest.raises(ConfigError, match="takes photos, so nothing embeds them"):
        of_photos.predict(photos, backbone="mini")
    with pytest.raises(ConfigError, match="takes photos, a FaceSet, got a feature set"):
        of_photos.predict(data)


def test_embeddings_go_on_where_they_were_stopped(tmp_path, monkeypatch):
    model = trained_on(features(30), tmp_path, "side,level")
    many = features(2500).save(tmp_path / "many")
    write_answers(Answers(model, many), tmp_path / "whole.csv")
    with monkeypatch.context() as patch:
        stopping(patch, 1)
        with pytest.raises(Stopped):
            write_answers(Answers(model, many), tmp_path / "a.csv")
    assert write_answers(Answers(model, many), tmp_path / "a.csv").photos == 2500
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert model.predict(features(3))["side"].isin(["left", "right"]).all()


# --- what is answered ------------------------------------------------------------------------------------------------


def test_numbers_and_ages_answer_as_their_kind(tmp_path):
    data = features(30)
    model = trained_on(data, tmp_path, "side,level")
    ordinal = replace(AGE_BAND, name="a", kind="ordinal")
    expected = replace(AGE_BAND, name="b", kind="expectation")
    spoken = Task("t", "string", tuple("abc"))
    box = Task("box", "box")
    tasks = (GENDER, ordinal, expected, Task("level", "regression", scale=10.0), spoken, box)
    model = replace(model, tasks=tasks, temperatures=dict.fromkeys((task.name for task in tasks), 1.0))
    answers = Answers(model, features(3))
    outputs = {task.name: torch.randn(3, task.n_outputs) for task in tasks}
    outputs["t"] = torch.randn(3, 5, 4)
    table = answers.frame([["f", 1, *[None] * 5, *said, ""] for said in answers._said(outputs)])
    assert list(table.columns[7:-1]) == [
        *PICKED, "a", "b", "b_class", "b_probability", "b_second", "b_second_probability", "level", "t",
        "box_left", "box_top", "box_right", "box_bottom",
    ]  # fmt: skip
    assert table["a"].isin(AGE_BAND.classes).all() and table["b_class"].isin(AGE_BAND.classes).all()
    assert table["b"].to_numpy(float) == pytest.approx(expected.predict(outputs["b"]).numpy(), rel=1e-5)
    assert table["level"].to_numpy(float) == pytest.approx(10 * outputs["level"][:, 0].numpy(), rel=1e-5)
    assert table["t"].fillna("").tolist() == spoken.texts(spoken.predict(outputs["t"]))
    assert (table["box_left"] <= table["box_right"]).all()


def test_no_column_hides_another(tmp_path):
    data = features(30)
    labels = data.labels.assign(file=data.labels["side"], reason=data.labels["side"], side_second=data.labels["side"])
    model = trained_on(replace(data, labels=labels), tmp_path, "side,side_second,reason,file")
    found = model.predict(data)
    assert found.columns.is_unique
    told = found[["side", "side_second", "side_second_answer", "reason_answer", "file_answer"]]
    assert told.isin(["left", "right"]).all(axis=None) and (found["reason"] == "").all()
    assert found["file"].tolist() == [str(row) for row in range(30)]


def test_a_model_of_several_domains_answers_for_the_one_that_is_named(tmp_path, capsys):
    sets = {}
    for name, task in {"bright": "colour", "aside": "side"}.items():
        data = faces(12, seed=len(name))
        splits = ["train", "train", "validation"] * 4
        FaceSet(data.images, data.labels.assign(split=splits)).save(tmp_path / name)
        sets[name] = task
    data = {name: str(tmp_path / name) for name in sets}
    train(data, tmp_path / "run", sets, method="frozen_heads", epochs=1, steps=1, batch_size=8, size=32, lr=0.01)
    command = ["predict", str(tmp_path / "run"), str(tmp_path / "aside"), "--out", str(tmp_path / "a.csv")]
    assert main(command) == 2 and "choose one: --domain bright" in capsys.readouterr().err
    assert main([*command, "--domain", "aside"]) == 0
    assert pd.read_csv(tmp_path / "a.csv")["side"].isin(["left", "right"]).all()
    assert main([*command, "--domain", "skin"]) == 2 and "has no domain 'skin'" in capsys.readouterr().err


# --- bad input -------------------------------------------------------------------------------------------------------


def test_there_is_a_way_on_wherever_there_is_nothing_to_answer(model, tmp_path, capsys):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "notes.txt").write_text("no photo")
    (tmp_path / "bad.zip").write_bytes(b"PK\3\4 not a zip")
    (tmp_path / "words.txt").write_text("no photo")
    told = {
        "bare": "holds no photo and no archive; name the folder that they are in",
        "none": "does not exist; give the folder, zip or tar",
        "bad.zip": "no readable zip",
        "words.txt": "is neither a folder nor a zip nor a tar",
    }
    for name, wanted in told.items():
        assert main(["predict", str(model.folder), str(tmp_path / name), "--out", str(tmp_path / "a.csv")]) == 2
        error = capsys.readouterr().err
        assert wanted in error and error.startswith("error: ") and error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"bare", "bad.zip", "words.txt"}


@pytest.mark.parametrize("name", ["model.json", "best.safetensors"])
def test_a_model_without_one_of_its_files_says_so(name, model, photos, tmp_path, capsys):
    shutil.copytree(model.folder, tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    assert main(["predict", str(tmp_path / "run"), str(photos), "--out", str(tmp_path / "a.csv")]) == 2
    assert ("--resume true" if name == "model.json" else "a model needs it") in capsys.readouterr().err


def test_a_model_of_another_version_says_so(model, photos, tmp_path, capsys):
    shutil.copytree(model.folder, tmp_path / "run")
    about = json.loads((tmp_path / "run" / "model.json").read_text())
    (tmp_path / "run" / "model.json").write_text(json.dumps({**about, "format": 99}))
    assert main(["predict", str(tmp_path / "run"), str(photos), "--out", str(tmp_path / "a.csv")]) == 2
    assert "has format 99, this facekit reads 1; install a newer facekit" in capsys.readouterr().err


def test_real_photos(model, real_data, tmp_path):
    if not (real_data / "photos" / "six_people.jpg").exists():
        pytest.skip("FACEKIT_DATA has no photos/six_people.jpg")
    found = model.predict(real_data / "photos", faces="fairface")
    assert found["file"].value_counts()["six_people.jpg"] == 6 and found["gender"].notna().all()

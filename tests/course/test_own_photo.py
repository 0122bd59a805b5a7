"""A photo of one's own: whatever is given, there is a picture or a clear text, and nothing is kept or written."""

from __future__ import annotations

import builtins
import io
import os
import tempfile
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from test_decode import HEIC, RAMP, huge_png, saved, tiff

from facekit.course import own_photo
from facekit.course.own_photo import CAUTION, MOST_FACES, example_photos, read_photo
from facekit.data.sets import FaceSet
from facekit.errors import ConfigError
from facekit.models.backbones.base import Backbone
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.embedding import embed
from facekit.models.heads import Classifier, Heads
from facekit.show import plots
from facekit.tasks import AGE_BAND, GENDER, RACE, Task

EXIF_ORIENTATION = 0x0112
PORTRAIT, PAIR, TURNED = list(example_photos())


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    return FaceNetMini.from_pretrained()


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(None, Heads(512, (RACE, GENDER, AGE_BAND))).eval()


@pytest.fixture(scope="module")
def portrait() -> Image.Image:
    return example_photos()[PORTRAIT]


@pytest.fixture(scope="module")
def reading(portrait, backbone, classifier):
    return read_photo(portrait, backbone, classifier)


def test_probabilities_are_those_of_the_classifier_on_the_crop(reading, backbone, classifier):
    assert reading.crops.shape == (1, 3, backbone.image_size, backbone.image_size) and reading.crops.dtype == np.uint8
    assert list(reading.probabilities) == ["race", "gender", "age"]
    labels = pd.DataFrame({"split": ["test"]})
    features = embed(backbone, FaceSet(reading.crops, labels), flip=True, cache=False).features
    wanted = classifier(torch.from_numpy(features))
    for task in (RACE, GENDER, AGE_BAND):
        found = reading.probabilities[task.name]
        assert list(found.columns) == list(task.classes)
        expected = wanted[task.name].softmax(1).detach().numpy()
        np.testing.assert_allclose(found.to_numpy(), expected, atol=1e-5)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


def test_a_temperature_flattens_what_is_said_and_changes_no_answer(portrait, reading, backbone, classifier):
    found = read_photo(portrait, backbone, classifier, {"race": 3.0})
    for name, temperature in (("race", 3.0), ("gender", 1.0), ("age", 1.0)):
        before, after = reading.probabilities[name].to_numpy(), found.probabilities[name].to_numpy()
        expected = before ** (1 / temperature)
        np.testing.assert_allclose(after, expected / expected.sum(), atol=1e-6)
        assert before.argmax() == after.argmax()
    own = own_photo.OwnPhoto(backbone, classifier, {"race": 3.0})
    pd.testing.assert_frame_equal(own.first.probabilities["race"], found.probabilities["race"])
    with pytest.raises(ConfigError, match="'skin'"):
        read_photo(portrait, backbone, classifier, {"skin": 2.0})


def test_every_form_of_the_same_photo_is_read_alike(tmp_path, portrait, reading, backbone, classifier):
    data = saved(portrait)
    (tmp_path / "me.png").write_bytes(data)
    forms = [data, memoryview(data), tmp_path / "me.png", str(tmp_path / "me.png"), np.asarray(portrait)]
    for form in forms:
        assert (read_photo(form, backbone, classifier).crops == reading.crops).all()


def test_a_photo_that_the_camera_stored_turned_is_put_upright(portrait, reading, backbone, classifier):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6  # to be turned clockwise by whoever shows it
    data = saved(portrait.transpose(Image.Transpose.ROTATE_90), exif=exif)
    assert (read_photo(data, backbone, classifier).crops == reading.crops).all()


def test_several_faces_largest_first(backbone, classifier):
    found = read_photo(example_photos()[PAIR], backbone, classifier)
    assert len(found.crops) == 2 and found.text.startswith("2 faces")
    heights = found.table["bottom"] - found.table["top"]
    assert heights.iloc[0] >= heights.iloc[1]
    assert "face 1" in found.alt and "face 2" in found.alt


def test_a_crowd_is_cut_to_its_largest_faces(portrait, backbone, classifier):
    side = portrait.width
    crowd = Image.new("RGB", (4 * side, 2 * side))
    for place in range(8):
        crowd.paste(portrait, (place % 4 * side, place // 4 * side))
    found = read_photo(crowd, backbone, classifier)
    assert len(found.crops) == MOST_FACES and f"8 faces found, the largest {MOST_FACES} are shown" in found.text


def test_a_large_photo_gives_about_the_same_as_a_small_one(portrait, reading, backbone, classifier):
    large = portrait.resize((4000, 4000), Image.Resampling.BICUBIC)
    found = read_photo(saved(large, "JPEG", quality=95), backbone, classifier)
    assert len(found.crops) == 1
    difference = np.abs(found.crops.astype(int) - reading.crops.astype(int)).mean()
    assert difference < 12  # levels of 255; the detector's box moves by a pixel or two


@pytest.mark.parametrize(
    ("photo", "told"),
    [
        (b"", "empty"),
        (b"just some text", "not a photo of a known format"),
        (huge_png(20000), "64,000,000"),
        (saved(Image.new("RGB", (200, 200), "grey")), "No face"),
        (saved(Image.new("RGB", (8, 8))), "at least"),
        ("nowhere/me.heic", "There is no photo at this path. (nowhere/me.heic: No such file or directory)"),
        (HEIC, "HEIC"),
        (tiff(300 * RAMP.astype(np.float32)), "which of its values is white. (its values go from 0 to 300"),
        (np.zeros((5, 5, 5)), "uint8"),
        (None, "NoneType"),
        (example_photos()[TURNED], "No face"),
    ],
    ids=["empty", "text", "huge", "faceless", "tiny", "missing", "heic", "deep", "array", "nothing", "turned"],
)
def test_without_a_face_there_is_a_text_and_a_picture_of_it(photo, told, backbone, classifier):
    found = read_photo(photo, backbone, classifier)
    assert len(found.crops) == 0 and not any(len(table) for table in found.probabilities.values())
    assert told in found.text and "Traceback" not in found.text
    assert found.alt == found.text
    assert plots.png(found.figure()).startswith(b"\x89PNG")


def test_the_picture_has_a_row_a_face_and_a_panel_a_task(reading, backbone, classifier):
    assert len(reading.figure().axes) == 4
    assert len(read_photo(example_photos()[PAIR], backbone, classifier).figure().axes) == 8
    assert CAUTION in reading.alt


def test_the_text_names_classes_until_most_of_the_probability_is_told(reading):
    shares = reading.probabilities["race"].iloc[0].sort_values(ascending=False)
    assert str(shares.index[0]).replace("_", " ") in reading.alt
    told = own_photo.likely(shares)
    assert shares[told].sum() >= own_photo.TOLD and shares[told[:-1]].sum() < own_photo.TOLD
    assert told == list(shares.index[: len(told)])


def test_in_words_near_ties_keep_the_order_of_the_classes():
    text = "d (about 40 %), a b (about 30 %) or c (about 30 %)"
    one = pd.Series({"a_b": 0.301, "c": 0.302, "d": 0.397})
    other = pd.Series({"a_b": 0.302, "c": 0.301, "d": 0.397})
    assert own_photo._in_words(one) == own_photo._in_words(other) == text
    assert own_photo._in_words(pd.Series({"a": 0.96, "b": 0.04})) == "a (about 100 %)"


def test_what_cannot_be_used_as_classifier_is_said(portrait, backbone):
    years = Task("years", "regression")
    with pytest.raises(ConfigError, match="years"):
        read_photo(portrait, backbone, Classifier(None, Heads(512, (years,))))
    with pytest.raises(ConfigError, match="embeddings"):
        read_photo(portrait, backbone, Classifier(backbone, Heads(512, (GENDER,))))
    with pytest.raises(ConfigError, match="512"):
        read_photo(portrait, backbone, Classifier(None, Heads(6, (GENDER,))))


@pytest.fixture
def nothing_written(tmp_path, monkeypatch):
    """An empty folder for cache and temporary files; fails when a file is opened for writing anywhere."""
    monkeypatch.setenv("FACEKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    opened, low = builtins.open, os.open

    def guarded(file, mode="r", *args, **options):
        assert not set(mode) & set("wax+"), f"{file} was opened for writing"
        return opened(file, mode, *args, **options)

    def guarded_low(path, flags, *args, **options):
        assert not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT), f"{path} was opened for writing"
        return low(path, flags, *args, **options)

    monkeypatch.setattr(builtins, "open", guarded)
    monkeypatch.setattr(io, "open", guarded)
    monkeypatch.setattr(os, "open", guarded_low)
    yield
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_and_nothing_leaves_the_machine(
    nothing_written, portrait, backbone, classifier, monkeypatch
):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection was opened"))
    found = read_photo(saved(portrait), backbone, classifier)
    assert len(found.crops) == 1 and plots.png(found.figure())
    own_photo.OwnPhoto(backbone, classifier).read(saved(portrait))


def test_the_guard_against_writing_works(tmp_path, nothing_written):
    for write in (lambda: Path(tmp_path / "a").write_text("a"), lambda: np.save(tmp_path / "a.npy", np.ones(3))):
        with pytest.raises(AssertionError, match="for writing"):
            write()


@pytest.fixture
def published(monkeypatch) -> list:
    """What a notebook would show: (bundle, metadata) pairs."""
    shown = []
    monkeypatch.setattr(plots, "publish", lambda bundle, metadata=None: shown.append((bundle, metadata)))
    return shown


def test_static_twin_and_controls_show_the_same_function(published, backbone, classifier, reading):
    own = own_photo.OwnPhoto(backbone, classifier)
    own.show()
    pictures = [(bundle, metadata) for bundle, metadata in published if metadata]
    assert len(pictures) == 1
    assert (
        pictures[0][1]["image/png"]["alt"] == reading.alt
        and b64encode(plots.png(reading.figure())).decode() in own.image.value
    )
    assert "run this cell" in published[-1][0]["text/plain"]
    own.choice.value = TURNED
    assert "No face" in own.caption.value


def test_an_upload_is_shown_and_dropped_at_once(portrait, backbone, classifier):
    own = own_photo.OwnPhoto(backbone, classifier)
    before = own.image.value
    data = saved(example_photos()[PAIR])
    about = {"name": "us.png", "type": "image/png", "size": len(data), "last_modified": datetime.now(UTC)}
    own.upload.value = ({**about, "content": memoryview(data)},)
    assert own.upload.value == (), "the upload is not kept"
    assert own.image.value != before and "2 faces" in own.caption.value
    own.upload.value = ({**about, "content": memoryview(b"text")},)
    assert "not a photo" in own.caption.value and own.upload.value == ()
    own.choice.value = PAIR  # a choice after an upload counts again
    assert "2 faces" in own.caption.value
    own.clear.click()
    assert "2 faces" not in own.caption.value and own.image.value == ""


def test_a_path_is_read_on_this_machine(tmp_path, portrait, backbone, classifier):
    (tmp_path / "me.png").write_bytes(saved(portrait))
    own = own_photo.OwnPhoto(backbone, classifier)
    own.path.value = str(tmp_path / "nobody.png")
    assert "nobody.png" in own.caption.value
    own.path.value = str(tmp_path / "me.png")
    assert "1 face" in own.caption.value


def test_an_unexpected_error_is_said_below_the_picture(backbone, classifier, monkeypatch):
    own = own_photo.OwnPhoto(backbone, classifier)
    monkeypatch.setattr(own_photo, "read_photo", lambda *_: 1 / 0)
    own.choice.value = PAIR
    assert "division by zero" in own.caption.value


def test_controls_can_be_named_and_read(backbone, classifier):
    own = own_photo.OwnPhoto(backbone, classifier)
    for control in (own.choice, own.upload, own.path, own.clear):
        assert control.description and isinstance(control, ipywidgets.DOMWidget)


def test_real_photos(real_data, backbone, classifier):
    photos = real_data / "photos"
    if not (photos / "six_people.jpg").exists():
        pytest.skip("FACEKIT_DATA has no photos/six_people.jpg")
    found = read_photo(photos / "six_people.jpg", backbone, classifier)
    assert len(found.crops) == 6 and found.text.startswith("6 faces")

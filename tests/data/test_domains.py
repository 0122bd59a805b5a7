"""Readers of ISIC, DermaMNIST, CIFAR-10 and captchas: labels as their sources mean them, and bad input told."""

from __future__ import annotations

import io
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_archives import write_folder, write_tar, write_zip
from test_decode import saved

from facekit.commands.cli import main
from facekit.commands.drawn import sheet
from facekit.data.drawn import DOMAINS
from facekit.data.drawn.lesions import DIAGNOSES, render_lesions
from facekit.data.pack import make_reader, pack
from facekit.data.readers.archives import Problem, open_source
from facekit.data.readers.captcha import ALPHABET, CaptchaReader, read_name
from facekit.data.readers.cifar10 import (
    BATCHES,
    CIFAR10_CLASSES,
    CIFAR10Batches,
    CIFAR10Folders,
    holds_batches,
)
from facekit.data.readers.classes import ClassFolderReader, class_task, plain
from facekit.data.readers.decode import as_file, decode, other_size, resize
from facekit.data.readers.dermamnist import DERMAMNIST_CLASSES, DermaMNISTReader
from facekit.data.readers.isic import ISIC_CLASSES, ISICReader
from facekit.data.sets import FaceSet
from facekit.errors import ConfigError, DataError

DATASHEETS = Path(__file__).resolve().parents[2] / "datasets"


def picture(seed: int, width: int = 32, height: int = 32) -> bytes:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return saved(Image.fromarray(values))


def isic(**more: bytes) -> dict[str, bytes]:
    """Two photos of each diagnosis."""
    files = {
        f"{name}/ISIC_{2 * at + n:07}.png": picture(2 * at + n) for at, name in enumerate(ISIC_CLASSES) for n in (0, 1)
    }
    return files | more


def cifar(train: int = 3, test: int = 2) -> dict[str, bytes]:
    sides = [("test", test), ("train", train)]
    return {
        f"{side}/{name}/{n:04}.png": picture(1000 * at + 10 * n + len(side))
        for at, name in enumerate(CIFAR10_CLASSES)
        for side, count in sides
        for n in range(count)
    }


def outcomes(reader, skip=0):
    return {r.name: r.problem.reason if r.problem else (dict(r.labels), r.split) for r in reader.records(skip)}


# --- ISIC and any folder of classes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["zip", "tar", "folder", "nested folder"])
def test_isic_in_every_form_and_found_by_its_folders(tmp_path, form):
    files = isic()
    if form == "zip":
        path = write_zip(tmp_path / "x.zip", files)
    elif form == "tar":
        path = write_tar(tmp_path / "x.tar.gz", files)
    else:
        inner = "Skin cancer/" if form == "nested folder" else ""
        path = write_folder(tmp_path / "x", {inner + name: data for name, data in files.items()})
    reader = make_reader(path)
    assert isinstance(reader, ISICReader) and reader.columns == ("lesion", "diagnosis")
    got = outcomes(reader)
    assert len(got) == 18
    for name, (labels, split) in got.items():
        assert labels == {"lesion": "yes", "diagnosis": name.split("/")[-2]} and split is None


def test_a_photo_under_two_diagnoses_is_rejected_under_both(tmp_path):
    files = isic()
    files["nevus/ISIC_9000000.png"] = files["melanoma/ISIC_0000006.png"]  # the same bytes under another name
    files["nevus/ISIC_0000000.png"] = picture(99)  # the same number, stored again
    files["nevus/ISIC_0000008(1).png"] = files["nevus/ISIC_0000008.png"]  # twice under one class: a mere duplicate
    data = pack(write_zip(tmp_path / "x.zip", files), tmp_path / "set", size=16)
    reasons = {entry["file"]: (entry["reason"], entry["detail"]) for entry in data.manifest["rejected"]}
    several = {name for name, (reason, _) in reasons.items() if reason == "several classes"}
    assert several == {
        "nevus/ISIC_9000000.png",
        "melanoma/ISIC_0000006.png",
        "nevus/ISIC_0000000.png",
        "actinic keratosis/ISIC_0000000.png",
    }
    assert reasons["melanoma/ISIC_0000006.png"][1] == "the same photo is also under nevus"
    assert reasons["nevus/ISIC_0000008(1).png"][0] == "duplicate"
    assert data.manifest["found"] == 21 and len(data) == 16
    assert not {"nevus/ISIC_9000000.png", "melanoma/ISIC_0000006.png"} & set(data.labels["file"])


def test_an_interrupted_packing_of_classes_ends_in_the_same_set(tmp_path, monkeypatch):
    files = isic()
    files["nevus/ISIC_9000000.png"] = files["melanoma/ISIC_0000006.png"]
    source = write_zip(tmp_path / "x.zip", files)
    whole = pack(source, tmp_path / "whole", size=16)
    monkeypatch.setattr("facekit.data.growing.CHECKPOINT_ROWS", 3)
    records = ISICReader.records

    def dying(reader, skip=0):
        for count, record in enumerate(records(reader, skip)):
            if count == 9:
                raise KeyboardInterrupt
            yield record

    monkeypatch.setattr(ISICReader, "records", dying)
    monkeypatch.setattr("facekit.data.pack._TASK_PHOTOS", 1)
    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path / "set", size=16, workers=1)
    monkeypatch.setattr(ISICReader, "records", records)
    again = pack(source, tmp_path / "set", size=16)
    assert again.manifest["files"] == whole.manifest["files"]
    assert again.manifest["rejected"] == whole.manifest["rejected"]


def test_a_missing_or_empty_diagnosis_is_told(tmp_path):
    files = {name: data for name, data in isic().items() if not name.startswith("nevus")}
    with pytest.raises(DataError, match="8 of the set's 9 classes; no photo in a folder 'nevus'.*--kind classes"):
        ISICReader(write_zip(tmp_path / "x.zip", files))
    folder = write_folder(tmp_path / "x", files)
    (folder / "nevus").mkdir()
    with pytest.raises(DataError, match="'nevus'"):
        ISICReader(folder)


def test_folders_of_other_names_are_rejected_by_a_known_set(tmp_path):
    files = isic() | {"wart/1.png": picture(50), "2.png": picture(51), "Nevus_/3.png": picture(52)}
    got = outcomes(ISICReader(write_zip(tmp_path / "x.zip", files)))
    assert got["wart/1.png"] == got["2.png"] == "unknown class"
    assert got["Nevus_/3.png"][0]["diagnosis"] == "nevus" and plain("Basal_Cell-Carcinoma ") == "basal cell carcinoma"


def test_any_folders_are_classes_with_sides_above_them(tmp_path):
    names = ["train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "train/dog/2.png"]
    files = {name: picture(at) for at, name in enumerate(names)}
    data = pack(write_folder(tmp_path / "x", files), tmp_path / "set", kind="classes", size=16)
    assert dict(zip(data.labels["file"], data.labels["class"], strict=True)) == {
        name: name[-9:-6].strip("/") for name in names
    }
    assert set(data.labels["split"][data.labels["file"].str.startswith("val")]) == {"validation"}
    assert "validation" not in set(data.labels["split"][data.labels["file"].str.startswith("train")])
    task = class_task(data, "class")
    assert task.classes == ("cat", "dog") and len(data.targets([task])["class"]) == 4


@pytest.mark.parametrize(
    ("folders", "fractions"),
    [
        (("",), (0.8, 0.1, 0.1)),
        (("train/", "test/"), (0.9, 0.1, 0.0)),
        (("train/", "valid/"), (0.9, 0.0, 0.1)),
        (("train/", "val/", "test/"), (1.0, 0.0, 0.0)),
    ],
)
def test_sides_that_have_no_folder_are_taken_from_the_rest(tmp_path, folders, fractions):
    files = {f"{folder}{kind}/{at}.png": picture(at) for at, folder in enumerate(folders) for kind in "ab"}
    reader = ClassFolderReader(write_folder(tmp_path, files))
    assert reader.fractions == pytest.approx(fractions) and sum(reader.fractions) == pytest.approx(1)


def test_a_copy_in_the_test_folder_leaves_the_training_folder(tmp_path):
    files = {f"{side}/{kind}/{at}.png": picture(at) for side in ("train", "test") for kind, at in (("a", 1), ("b", 2))}
    files["train/a/3.png"] = picture(3)
    data = pack(write_zip(tmp_path / "x.zip", files), tmp_path / "set", kind="classes", size=16)
    assert data.manifest["rejected_by_reason"] == {"duplicate": 2}
    assert sorted(data.labels["file"][data.labels["split"] == "test"]) == ["test/a/1.png", "test/b/2.png"]


@pytest.mark.parametrize("form", ["zip", "folder"])
def test_an_empty_class_folder_is_told(tmp_path, form):
    files = {"a/1.png": picture(1), "b/1.png": picture(2)}
    if form == "zip":
        path = write_zip(tmp_path / "x.zip", files | {"c/": b""})
    else:
        path = write_folder(tmp_path / "x", files)
        (path / "c").mkdir()
        (path / ".hidden").mkdir()
    with pytest.raises(DataError, match="no photo in folder 'c'"):
        ClassFolderReader(path)
    assert open_source(path).empty_folders() == ["c"]


def test_sources_without_photos_or_with_one_class_are_told(tmp_path):
    (tmp_path / "labels.csv").write_text("file\n")
    for reader in (ClassFolderReader, ISICReader, CIFAR10Folders, CaptchaReader):
        with pytest.raises(DataError, match="holds no"):
            reader(write_zip(tmp_path / "empty.zip", {"readme.txt": b"x"}))
        with pytest.raises(DataError, match="leave out the label table"):
            reader(tmp_path / "empty.zip", tmp_path / "labels.csv")
    with pytest.raises(DataError, match="photos of 1 classes"):
        ClassFolderReader(write_zip(tmp_path / "one.zip", {"train/a/1.png": picture(1), "train/2.png": picture(2)}))


def test_a_label_table_goes_before_the_names_of_folders(tmp_path):
    folder = write_folder(tmp_path / "x", {"cat/1.png": picture(1), "dog/2.png": picture(2)})
    with pytest.raises(DataError, match="2 of the set's 10 classes"):
        make_reader(folder)
    (folder / "labels.csv").write_text("file,mood\ncat/1.png,glad\ndog/2.png,sad\n")
    assert make_reader(folder).kind == "folder"


def test_class_tasks_name_every_class_of_the_set():
    drawn = render_lesions(20, size=16)
    assert class_task(drawn, "diagnosis").classes == DIAGNOSES
    bare = FaceSet(drawn.images, drawn.labels)
    assert set(class_task(bare, "diagnosis").classes) <= set(DIAGNOSES)
    with pytest.raises(DataError, match="no column 'kind'"):
        class_task(bare, "kind")
    with pytest.raises(DataError, match="nothing to tell apart"):
        class_task(FaceSet(drawn.images, drawn.labels.assign(diagnosis="nevus")), "diagnosis")


# --- DermaMNIST ------------------------------------------------------------------------------------------------------


def derma(side: int = 28, **other) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {}
    for name, count in (("train", 14), ("val", 3), ("test", 4)):
        arrays[f"{name}_images"] = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        arrays[f"{name}_labels"] = rng.integers(0, 7, (count, 1)).astype(np.uint8)
    return arrays | other


def test_dermamnist_round_trip(tmp_path):
    arrays = derma()
    arrays["train_images"][5] = arrays["test_images"][1]  # the test keeps what the training has too
    np.savez_compressed(tmp_path / "dermamnist.npz", **arrays)
    data = pack(tmp_path / "dermamnist.npz", tmp_path / "set")
    assert data.images.shape == (20, 3, 28, 28) and data.manifest["reader"] == "dermamnist"
    assert data.labels["split"].value_counts().to_dict() == {"train": 13, "validation": 3, "test": 4}
    assert data.manifest["rejected"][0]["file"] == "train/00005"
    for row, name in enumerate(data.labels["file"]):
        side, number = name.split("/")
        assert np.array_equal(data.images[row], arrays[f"{side}_images"][int(number)].transpose(2, 0, 1))
        assert data.labels["diagnosis"][row] == DERMAMNIST_CLASSES[arrays[f"{side}_labels"][int(number), 0]]
    assert class_task(data, "diagnosis").classes == DERMAMNIST_CLASSES
    assert (
        make_reader(tmp_path, "dermamnist").fingerprint() == DermaMNISTReader(tmp_path / "dermamnist.npz").fingerprint()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val_labels": np.array([[0], [7], [1]])}, "val_labels, row 1: label 7.*another set"),
        ({"val_labels": np.array([[0], [1]])}, "val_labels.*expected 3 whole numbers"),
        ({"val_labels": np.array([0.0, 1.0, 2.0])}, "val_labels.*whole numbers"),
        ({"val_images": np.zeros((3, 28, 28), np.uint8)}, "val_images.*in colour"),
        ({"val_images": np.zeros((3, 28, 30, 3), np.uint8)}, "val_images"),
        ({"val_images": np.zeros((3, 28, 28, 3))}, "float64"),
        ({"val_images": np.array([object()] * 3)}, "no readable .npz"),
    ],
)
def test_dermamnist_with_wrong_arrays_names_them(tmp_path, change, message):
    np.savez(tmp_path / "x.npz", **derma(**change))
    with pytest.raises(DataError, match=message):
        DermaMNISTReader(tmp_path / "x.npz")


def test_dermamnist_damaged_cut_or_missing(tmp_path):
    path = tmp_path / "x.npz"
    arrays = derma()
    del arrays["test_labels"]
    np.savez(path, **arrays)
    with pytest.raises(DataError, match="no array.*test_labels"):
        DermaMNISTReader(path)
    np.savez_compressed(path, **derma())
    whole = path.read_bytes()
    torn = bytearray(whole)
    torn[len(torn) // 3 : len(torn) // 3 + 40] = bytes(40)
    for data in (whole[: len(whole) // 2], b"", b"no zip", bytes(torn)):
        path.write_bytes(data)
        with pytest.raises(DataError, match="x.npz"):
            DermaMNISTReader(path)
    with pytest.raises(DataError, match="no readable .npz"):
        DermaMNISTReader(tmp_path / "none.npz")
    path.rename(tmp_path / "y.txt")
    with pytest.raises(DataError, match="no .npz files"):
        DermaMNISTReader(tmp_path)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_an_array_as_a_file_is_decoded_to_itself(height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height + 15, width + 15, 3), dtype=np.uint8)
    image = decode(as_file(pixels))
    assert np.array_equal(np.asarray(image), pixels)
    assert np.array_equal(resize(image, *pixels.shape[:2]), pixels.transpose(2, 0, 1))


# --- CIFAR-10 --------------------------------------------------------------------------------------------------------


class Python2Pickler(pickle._Pickler):
    """Pickles texts and bytes as Python 2 did, in which CIFAR-10 is published."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_old_text(self, value):
        data = value.encode("latin1") if isinstance(value, str) else value
        self.write(b"T" + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_old_text


def batch(seed: int, count: int = 4, old: bool = True, **other) -> bytes:
    rng = np.random.default_rng(seed)
    content = {
        "batch_label": "a batch",
        "labels": rng.integers(0, 10, count).tolist(),
        "data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
        "filenames": [f"thing_{seed}_{n}.png" for n in range(count)],
    } | other
    if not old:
        return pickle.dumps(content, protocol=4)
    file = io.BytesIO()
    Python2Pickler(file, 2).dump(content)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def batches(**other: bytes) -> dict[str, bytes]:
    return {name: batch(seed) for seed, name in enumerate(BATCHES)} | other


@pytest.mark.parametrize("form", ["tar", "tar in a folder", "folder", "outer folder"])
def test_cifar10_batches_in_every_form(tmp_path, form):
    files = {f"cifar-10-batches-py/{name}": data for name, data in batches().items()}
    if form.startswith("tar"):
        path = write_tar(tmp_path / "cifar-10-python.tar.gz", files)
        path = tmp_path if "folder" in form else path
    else:
        path = write_folder(tmp_path, files)
        path = path / "cifar-10-batches-py" if form == "folder" else path
    assert holds_batches(path)
    data = pack(path, tmp_path / "set")
    assert data.manifest["reader"] == "cifar10" and data.images.shape == (24, 3, 32, 32)
    assert (data.labels["split"][:4] == "test").all() and "test" not in set(data.labels["split"][4:])
    for seed, name in enumerate(BATCHES):
        rng = np.random.default_rng(seed)
        codes, pixels = rng.integers(0, 10, 4), rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        rows = slice(4 * seed, 4 * seed + 4)
        assert np.array_equal(data.images[rows], pixels.reshape(4, 3, 32, 32))
        assert data.labels["object"][rows].tolist() == [CIFAR10_CLASSES[code] for code in codes]
        assert data.labels["file"][4 * seed] == f"{name}/thing_{seed}_0.png"


def test_python_2_and_python_3_batches_read_alike_and_some_may_be_missing(tmp_path):
    old, new = (write_folder(tmp_path / str(kind), {"data_batch_2": batch(7, old=kind)}) for kind in (True, False))
    one, two = (list(CIFAR10Batches(path).records()) for path in (old, new))
    assert one == two and len(one) == 4 and all(record.split is None for record in one)


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch evil",)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pickle.dumps(Evil(), 2), "posix.system|nt.system"),
        (batch(0, old=False, more=Evil()), "has no place in a batch of images"),
        (pickle.dumps(eval), "builtins.eval"),
        (batch(0)[:5000], "no batch that can be read"),
        (b"", "no batch that can be read"),
        (pickle.dumps([1, 2]), "no batch of CIFAR-10"),
        (pickle.dumps({"data": 1}), "no batch of CIFAR-10"),
        (batch(0, labels=[0, 1, 10, 2]), "row 2: label 10"),
        (batch(0, labels=[0, 1]), "a row for each label"),
        (batch(0, filenames=["a"]), "1 file names for 4 labels"),
        (batch(0, data=[1, 2, 3, 4]), "must be uint8"),
    ],
)
def test_batches_that_are_none_are_told_and_run_nothing(tmp_path, monkeypatch, data, message):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "x", {"data_batch_1": data})
    with pytest.raises(DataError, match=message) as caught:
        CIFAR10Batches(tmp_path / "x")
    assert "data_batch_1" in str(caught.value) and not (tmp_path / "evil").exists()


@pytest.mark.parametrize("form", ["tar", "folder"])
def test_a_batch_that_is_too_long_is_not_read(tmp_path, monkeypatch, form):
    monkeypatch.setattr("facekit.data.readers.cifar10._BATCH_BYTES", 100)
    write = write_tar if form == "tar" else write_folder
    with pytest.raises(DataError, match="where a batch of CIFAR-10 has 31 million"):
        CIFAR10Batches(write(tmp_path / "cifar-10-python.tar", batches()))


def test_damaged_and_empty_tars_of_batches_are_told(tmp_path):
    path = write_tar(tmp_path / "cifar-10-python.tar.gz", {"readme.html": b"x"})
    with pytest.raises(DataError, match="none of test_batch"):
        CIFAR10Batches(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="no readable tar"):
        CIFAR10Batches(path)


def test_cifar10_in_folders_keeps_the_official_test_and_refuses_other_sizes(tmp_path):
    files = cifar() | {"train/cat/big.png": picture(5, 40, 32)}
    data = pack(write_zip(tmp_path / "x.zip", files), tmp_path / "set")
    assert data.images.shape == (50, 3, 32, 32) and data.manifest["reader"] == "cifar10"
    official = data.labels["file"].str.startswith("test/")
    assert ((data.labels["split"] == "test") == official).all() and official.sum() == 20
    (rejected,) = data.manifest["rejected"]
    assert rejected == {"file": "train/cat/big.png", "reason": "other size", "detail": "40 × 32, this set has 32 × 32"}
    assert data.targets([class_task(data, "object")])["object"].min() == 0


# --- captchas --------------------------------------------------------------------------------------------------------


@given(st.text(alphabet=ALPHABET, min_size=5, max_size=5))
def test_a_captcha_s_name_is_its_string(text):
    assert read_name(f"captcha_images_v2/{text}.png") == text


@pytest.mark.parametrize(
    ("name", "reason", "detail"),
    [
        ("2b82.png", "malformed name", "4 symbols"),
        ("2b8277.png", "malformed name", "6 symbols"),
        ("2b8a7.png", "unknown label", "'a' at place 4"),
        ("2B827.png", "unknown label", "'B' at place 2"),
    ],
)
def test_captcha_names_are_never_guessed(name, reason, detail):
    problem = read_name(f"x/{name}")
    assert isinstance(problem, Problem) and problem.reason == reason and detail in problem.detail


def test_captchas_are_packed_as_wide_as_they_are(tmp_path):
    texts = ["2b827", "nwxyy", "22222", "mmmmm"]
    files = {f"c/{text}.png": picture(at, 200, 50) for at, text in enumerate(texts)}
    files |= {"c/pppp1.png": picture(9, 200, 50), "c/bbbbb.png": picture(10, 150, 40)}
    data = pack(write_zip(tmp_path / "x.zip", files), tmp_path / "set")
    assert data.images.shape == (4, 3, 50, 200) and data.labels["text"].tolist() == texts
    assert data.labels["text"].map(type).eq(str).all() and data.manifest["alphabet"] == ALPHABET
    assert data.manifest["request"]["size"] == [50, 200]
    assert data.manifest["rejected_by_reason"] == {"other size": 1, "unknown label": 1}
    with Image.open(io.BytesIO(files["c/2b827.png"])) as image:
        assert np.array_equal(data.images[0], np.asarray(image).transpose(2, 0, 1))
    small = pack(tmp_path / "x.zip", tmp_path / "small", size=(25, 100))
    assert small.images.shape == (4, 3, 25, 100)


def test_a_place_without_captchas_is_told(tmp_path):
    with pytest.raises(DataError, match="no file name is a string of 5.*first: 'me.png'"):
        CaptchaReader(write_zip(tmp_path / "x.zip", {"me.png": picture(1)}))


def test_sizes_that_cannot_be(tmp_path):
    source = write_zip(tmp_path / "x.zip", {"22222.png": picture(1, 200, 50)})
    for size in (0, (0, 5), (5,), (1, 2, 3)):
        with pytest.raises(ConfigError, match="size is"):
            pack(source, tmp_path / "set", size=size)
    with pytest.raises(ConfigError, match="aligned in squares"):
        pack(source, tmp_path / "set", size=(50, 200), align=True)


def test_other_size_leaves_what_is_unreadable_to_the_decoder():
    assert other_size(b"no picture", (1, 1)) is None
    assert other_size(picture(1, 20, 30), (20, 30)) is None
    assert other_size(picture(1, 20, 30), (30, 20)).detail == "20 × 30, this set has 30 × 20"


# --- the commands -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOMAINS)
def test_the_command_draws_a_set(tmp_path, capsys, name):
    assert main(["drawn", "render", name, str(tmp_path / "set"), "--n", "7"]) == 0
    assert "7 " + name in capsys.readouterr().out
    assert len(FaceSet.load(tmp_path / "set")) == 7
    assert main(["drawn", "render", name, str(tmp_path / "set")]) == 2
    assert "already holds a set" in capsys.readouterr().err


def test_the_pack_command_takes_a_height_and_a_width(tmp_path, capsys):
    source = write_zip(tmp_path / "x.zip", {"22222.png": picture(1, 200, 50)})
    assert main(["pack", str(source), str(tmp_path / "set"), "--size", "[25, 100]", "--kind", "captcha"]) == 0
    assert json.loads((tmp_path / "set" / "manifest.json").read_text())["request"]["size"] == [25, 100]


def test_the_contact_sheet_shows_what_is_drawn_today(tmp_path):
    sheet(tmp_path / "sheet.png")
    with Image.open(DATASHEETS / "drawn" / "contact_sheet.png") as stored, Image.open(tmp_path / "sheet.png") as made:
        # The hashes of lesions and things; those of words hang on FreeType's version.
        assert stored.text["Content"].split()[:2] == made.text["Content"].split()[:2]
        assert stored.size == made.size


# --- real sets -------------------------------------------------------------------------------------------------------


def source(real_data, name):
    path = real_data / name
    if not path.exists():
        pytest.skip(f"FACEKIT_DATA has no {name}")
    return path


def test_real_isic_is_cleaned(real_data, tmp_path):
    data = pack(source(real_data, "isic/isic9-train.zip"), tmp_path / "set", size=16)
    assert data.manifest["rejected_by_reason"] == {"several classes": 2 * 137, "duplicate": 4}
    assert data.manifest["found"] == 2241 and len(data) == 1963
    assert (data.targets([class_task(data, "diagnosis")])["diagnosis"] >= 0).all()


def test_real_cifar10_is_read_whole(real_data, tmp_path):
    data = pack(source(real_data, "cifar10/cifar10-images.zip"), tmp_path / "set")
    assert data.manifest["rejected"] == [] and data.labels["object"].value_counts().eq(700).all()
    assert data.labels["split"].value_counts()["test"] == 1000


def test_real_captchas_are_read_whole(real_data, tmp_path):
    data = pack(source(real_data, "captcha/captcha_images_v2.zip"), tmp_path / "set")
    assert data.manifest["rejected"] == [] and data.images.shape == (900, 3, 50, 200)
    assert set("".join(data.labels["text"])) == set(ALPHABET)

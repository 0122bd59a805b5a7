"""What people type by mistake into `pack` and `train`: an error of ours or a plain sentence, and a way on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facekit.answers.model import load
from facekit.commands.cli import main
from facekit.data.sets import FaceSet

TRAIN = ("--epochs", "1", "--steps", "1", "--plan", "probe")


def photos(folder: Path, n: int) -> Path:
    """Photos of noise called 00.png, 01.png …"""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(n):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number:02d}.png")
    return folder


def table(folder: Path, rows: list[str], header: str = "file,gender") -> Path:
    (folder / "labels.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


def given(capsys, *words: object) -> tuple[int, str, str]:
    """Exit status, what was printed and what was said on stderr."""
    status = main(list(map(str, words)))
    return status, *capsys.readouterr()


def refused(capsys, *words: object) -> str:
    """The one line of the error of a command that is refused."""
    status, _, error = given(capsys, *words)
    assert status == 2 and error.startswith("error: ") and error.count("\n") == 1, error
    return error


def test_a_folder_without_photos(tmp_path, capsys):
    (tmp_path / "none").mkdir()
    table(tmp_path / "none", ["a.png,Male"])
    assert "no photo and no archive; name the folder that they are in" in refused(
        capsys, "pack", tmp_path / "none", tmp_path / "set"
    )
    assert not (tmp_path / "set").exists()


def test_photos_of_one_class(tmp_path, capsys):
    photos(tmp_path / "pets" / "cat", 12)
    error = refused(capsys, "pack", tmp_path / "pets", tmp_path / "set", "--kind", "classes", "--size", 32)
    assert "photos of 1 classes; put those of each class into a folder of its own" in error
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("column", ["gender", "mood"])
def test_labels_that_are_all_the_same(column, tmp_path, capsys):
    folder = table(photos(tmp_path / "same", 30), [f"{n:02d}.png,Male,Male" for n in range(30)], "file,gender,mood")
    assert given(capsys, "pack", folder, tmp_path / "set", "--size", 32)[0] == 0
    error = refused(capsys, "train", "--data", tmp_path / "set", "--tasks", column, "--out", tmp_path / "run", *TRAIN)
    assert f"column '{column}' has fewer than two different labels" in error and "only 'Male'" in error
    assert "name another column, or pack photos of at least two" in error and not (tmp_path / "run").exists()


def test_one_number_for_all(tmp_path, capsys):
    folder = table(photos(tmp_path / "same", 30), [f"{n:02d}.png,7.5" for n in range(30)], "file,weight")
    given(capsys, "pack", folder, tmp_path / "set", "--size", 32, "--numbers", "weight")
    error = refused(capsys, "train", "--data", tmp_path / "set", "--tasks", "weight", "--out", tmp_path / "run", *TRAIN)
    assert "fewer than two different labels" in error


@pytest.mark.parametrize("others", ["absent", "empty"])
def test_labels_of_ten_faces(others, tmp_path, capsys):
    """They are learnt from, if somebody wants it, and it is said what that is worth."""
    rows = [f"{n:02d}.png,{('Male', 'Female')[n % 2]}" for n in range(10)]
    rows += [f"{n:02d}.png," for n in range(10, 40)] if others == "empty" else []
    folder = table(photos(tmp_path / "ten", 40), rows)
    status, said, _ = given(capsys, "pack", folder, tmp_path / "set", "--size", 32)
    wanted = (
        "30 empty" if others == "empty" else "rejected 30: file without label, first 10.png (the label table does not"
    )
    assert status == 0 and wanted in said
    status, said, _ = given(
        capsys, "train", "--data", tmp_path / "set", "--tasks", "gender", "--out", tmp_path / "run", *TRAIN
    )
    assert status == 0
    assert "note: gender has 7 labels in train, 3 labels in validation, 0 labels in test" in said
    assert "mostly chance. Label more photos, or share them out with a column split" in said
    assert load(tmp_path / "run").temperatures == {"gender": None}


def test_enough_labels_need_no_note(tmp_path, capsys):
    rows = [f"{n:02d}.png,{('Male', 'Female')[n % 2]},{('train', 'validation', 'test')[n % 3]}" for n in range(60)]
    folder = table(photos(tmp_path / "many", 60), rows, "file,gender,split")
    given(capsys, "pack", folder, tmp_path / "set", "--size", 32)
    _, said, _ = given(
        capsys, "train", "--data", tmp_path / "set", "--tasks", "gender", "--out", tmp_path / "run", *TRAIN
    )
    assert "best epoch" in said and "note:" not in said


def test_a_table_half_of_whose_names_are_no_photos(tmp_path, capsys):
    rows = [f"{'x' * (n % 2)}{n:02d}.png,{('Male', 'Female')[n % 3 == 0]}" for n in range(40)]
    folder = table(photos(tmp_path / "half", 40), rows)
    status, said, _ = given(capsys, "pack", folder, tmp_path / "set", "--size", 32)
    assert status == 0 and "found 60, packed 20" in said
    assert "rejected 20: file without label, first 01.png (the label table does not name it; it names '00.png'" in said
    assert "rejected 20: label without file, first x01.png (the label table names it, but no photo found" in said
    rejected = FaceSet.load(tmp_path / "set").manifest["rejected"]
    assert len(rejected) == 40 and {each["file"] for each in rejected if each["reason"] == "label without file"} == {
        f"x{n:02d}.png" for n in range(1, 40, 2)
    }


def test_a_known_column_that_is_not_there(tmp_path, capsys):
    folder = table(photos(tmp_path / "few", 30), [f"{n:02d}.png,{'xy'[n % 2]}" for n in range(30)], "file,mood")
    given(capsys, "pack", folder, tmp_path / "set", "--size", 32)
    status, _, error = given(
        capsys, "train", "--data", tmp_path / "set", "--tasks", "gender", "--out", tmp_path / "run", *TRAIN
    )
    assert status == 2 and "no label column 'gender'; the table has file, mood, split" in error

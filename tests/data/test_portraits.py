"""Rendered portraits: the same everywhere, labelled exactly, split by identity, and faces to a face detector."""

from __future__ import annotations

import ast
import hashlib
import re
import subprocess
import sys
import time
from multiprocessing import resource_tracker
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

from facekit.commands import portraits as commands
from facekit.commands.cli import main
from facekit.data import rendering
from facekit.data.portraits import render_portraits
from facekit.data.portraits.people import BLOCK, EXPRESSIONS, OLDEST, YOUNGEST
from facekit.data.portraits.render import Series
from facekit.data.rendering import paint
from facekit.data.sets import FaceSet
from facekit.errors import ConfigError, DataError
from facekit.tasks import AGE_BAND, AGE_BANDS, GENDER, SKIN_TONE, age_band

ROOT = Path(__file__).resolve().parents[2]
DATASHEET = ROOT / "datasets" / "portraits"
COLUMNS = ["gender", "skin_tone", "age", "age_years", "expression", "glasses", "yaw", "pitch", "roll"]
COLUMNS += ["identity", "split"]
SERIES = Series(0, 32, "photo", {}, 4)


@pytest.fixture(scope="module")
def faces() -> FaceSet:
    """1,000 small portraits of 250 people, painted in this process."""
    return render_portraits(1000, size=32, workers=1)


def same(a: FaceSet, b: FaceSet) -> bool:
    return a.images.tobytes() == b.images.tobytes() and a.labels.equals(b.labels)


# --- the same everywhere ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "pixels"),
    [
        ("photo", "d81d0042a5f6e1d4"),
        ("sketch", "e69a9a7626f07cb2"),
    ],
)
def test_these_pixels_are_the_same_on_every_machine(style, pixels):
    # A change of the painting changes them: raise the version in render.ABOUT and make the contact sheet again.
    assert render_portraits(12, seed=3, size=64, style=style).content_hash()[:16] == pixels


def test_these_labels_are_the_same_on_every_machine(faces):
    text = faces.labels.to_csv(index=False, lineterminator="\n")
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "cc5bcee785ffec99"


def test_painting_uses_only_arithmetic_that_is_exact_everywhere():
    # exp, sin, powers and matrix products differ in the last bit between libraries and processors.
    exact = {"abs", "add", "argsort", "array", "clip", "concatenate", "diff", "empty_like", "float32", "floor"}
    exact |= {"arange", "minimum", "maximum", "multiply", "sqrt", "subtract", "zeros", "zeros_like", "searchsorted"}
    exact |= {"float64", "int64", "uint8", "ndarray", "random", "stack"}
    for name in ("canvas", "features", "light", "people", "render", "scene"):
        for node in ast.walk(ast.parse((ROOT / f"facekit/data/portraits/{name}.py").read_text(encoding="utf-8"))):
            assert not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Pow | ast.MatMult), name
            if isinstance(node, ast.ImportFrom) and node.module == "math":
                assert {alias.name for alias in node.names} <= {"ceil", "floor", "sqrt", "radians", "degrees"}, name
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np":
                assert node.attr in exact, f"{name}: np.{node.attr}"


@pytest.mark.parametrize("style", ["photo", "sketch"])
def test_a_portrait_does_not_depend_on_how_many_there_are(style):
    few, many = (render_portraits(n, seed=1, size=40, style=style) for n in (5, 18))
    assert same(few, many.select(range(5)))


def test_a_portrait_does_not_depend_on_the_numbers_type():
    assert same(render_portraits(np.int64(3), size=32), render_portraits(3, size=32))
    sizes = (2, 1, 1)
    assert same(render_portraits(np.array(sizes), size=32), render_portraits(sizes, size=32))


def test_another_seed_gives_other_portraits():
    a, b = (render_portraits(4, seed=seed, size=32) for seed in (0, 1))
    assert a.content_hash() != b.content_hash()
    assert not set(a.labels["identity"]) & set(b.labels["identity"])


def test_both_styles_show_the_same_people_and_look_different():
    photo, sketch = (render_portraits(20, size=48, style=style) for style in ("photo", "sketch"))
    assert photo.labels.equals(sketch.labels)
    difference = np.abs(photo.images.astype(float) - sketch.images).mean((1, 2, 3))
    assert difference.min() > 10
    colourfulness = [np.ptp(each.images.astype(float).mean((2, 3)), axis=1).mean() for each in (photo, sketch)]
    assert colourfulness[1] < colourfulness[0]


# --- several processes ----------------------------------------------------------------------------------------------


def test_the_number_of_workers_changes_nothing():
    alone, together = (render_portraits(70, size=32, workers=count) for count in (1, 3))
    assert same(alone, together)


class Helpless:
    """Draws portraits here, slowly until a helper has been told to draw one, which leaves a mark and fails at it."""

    def __init__(self, mark: Path, failure: str):
        self.mark, self.failure = mark, failure

    def __call__(self, number: int):
        if not self.mark.exists():
            time.sleep(0.1)
        return SERIES.render(number)

    def __reduce__(self):
        return exec, (f"import os, pathlib; pathlib.Path({str(self.mark)!r}).touch(); {self.failure}",)


@pytest.mark.parametrize("failure", ["os._exit(1)", "raise KeyError", "pass"], ids=["dies", "fails", "talks nonsense"])
def test_what_a_helper_leaves_undone_is_painted_here(tmp_path, failure):
    pictures = dict(paint(Helpless(tmp_path / "mark", failure), range(300), workers=2))
    assert (tmp_path / "mark").exists()
    assert sorted(pictures) == list(range(300))
    assert all((pictures[i][0] == SERIES.render(i)[0]).all() for i in range(0, 300, 7))


def test_without_room_for_processes_all_is_painted_here(monkeypatch):
    def no_memory(*_):
        raise OSError("no memory")

    monkeypatch.setattr(rendering, "ProcessPoolExecutor", no_memory)
    assert sorted(number for number, _ in paint(SERIES.render, range(40), workers=3)) == list(range(40))


def test_an_error_while_painting_ends_the_helpers_too(tmp_path):
    class Stopped(Helpless):
        def __call__(self, number: int):
            if self.mark.exists():
                raise KeyboardInterrupt
            return super().__call__(number)

    resource_tracker.ensure_running()  # multiprocessing keeps this child until the end
    before, main = _children(), sys.modules["__main__"]
    with pytest.raises(KeyboardInterrupt):
        dict(paint(Stopped(tmp_path / "mark", "pass"), range(300), workers=3))
    deadline = time.monotonic() + 30
    while not _children() <= before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _children() <= before
    assert sys.modules["__main__"] is main


def _children() -> set[str]:
    """Process ids of this process's children, where the system tells."""
    return {
        pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text(encoding="ascii").split()
    }


def test_a_script_without_main_guard_runs_once(tmp_path):
    script = tmp_path / "plain_script.py"
    script.write_text(
        "from facekit.data.portraits import render_portraits\n"
        "print('images', render_portraits(40, size=32, workers=2).images.shape)\n",
        encoding="utf-8",
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert run.stdout.strip() == "images (40, 3, 32, 32)"


# --- labels and splits ----------------------------------------------------------------------------------------------


def test_every_label_is_there_and_known(faces):
    labels = faces.labels
    assert list(labels) == COLUMNS
    assert not labels.isna().any().any()
    for task in (GENDER, SKIN_TONE, AGE_BAND):
        assert (task.encode(labels[task.name]) >= 0).all()
    assert labels["age"].tolist() == age_band(labels["age_years"]).tolist()
    assert labels["age_years"].between(YOUNGEST, OLDEST).all()
    assert set(labels["expression"]) == set(EXPRESSIONS)
    assert set(labels["glasses"]) == {"no", "yes"}
    assert labels[["yaw", "pitch", "roll"]].abs().max().max() < 30


def test_a_person_is_on_one_side_and_stays_the_same_person(faces):
    people = faces.labels.groupby("identity")
    for column in ("split", "gender", "skin_tone"):
        assert people[column].nunique().max() == 1
    assert (people.size() == 4).all()
    assert (people["age_years"].max() - people["age_years"].min()).max() <= 10
    assert people["expression"].nunique().max() > 1


def test_splits_are_about_70_15_15(faces):
    shares = faces.labels["split"].value_counts(normalize=True)
    assert shares.sub(pd.Series({"train": 0.7, "validation": 0.15, "test": 0.15})).abs().max() < 0.06


def test_sizes_of_the_splits_can_be_asked_for(faces):
    some = render_portraits((30, 9, 6), size=32)
    assert some.labels["split"].value_counts().to_dict() == {"train": 30, "validation": 9, "test": 6}
    key = ["identity", "age_years", "yaw", "roll"]
    rows = faces.labels.reset_index().merge(some.labels[key], on=key)["index"]
    assert same(faces.select(rows.to_numpy()), some)


def test_tones_and_genders_are_dealt_in_equal_parts(faces):
    people = faces.labels.drop_duplicates("identity").head(12 * BLOCK)
    assert people["gender"].value_counts().to_dict() == {"Male": 6 * BLOCK, "Female": 6 * BLOCK}
    assert set(people["skin_tone"].value_counts()) == {12 * BLOCK // 10}


def test_what_is_asked_for_is_drawn_in_the_shares_asked_for():
    wish = {
        "gender": {"Female": 3, "Male": 7},
        "skin_tone": ["2", "9"],
        "age": {"20-29": 1, "60-69": 1},
        "expression": "smile",
        "glasses": {"yes": 0.25, "no": 0.75},
    }
    labels = render_portraits(4 * BLOCK, size=32, attributes=wish).labels
    people = labels.drop_duplicates("identity")
    assert people["gender"].value_counts().to_dict() == {"Male": 14, "Female": 6}
    assert people["skin_tone"].value_counts().to_dict() == {"2": 10, "9": 10}
    assert labels["age"].value_counts().to_dict() == {"20-29": 40, "60-69": 40}
    assert (labels.groupby("identity")["age"].nunique() == 1).all()
    assert set(labels["expression"]) == {"smile"}
    assert labels["glasses"].value_counts().to_dict() == {"no": 60, "yes": 20}


def test_a_wish_changes_only_what_is_wished_for(faces):
    women = render_portraits(60, size=32, attributes={"gender": "Female"}).labels
    assert set(women["gender"]) == {"Female"}
    others = [column for column in COLUMNS if column != "gender"]
    assert women[others].equals(faces.labels[others].head(60))


@pytest.mark.parametrize("band", AGE_BANDS[1:])
def test_every_age_band_can_be_had(band):
    assert set(render_portraits(6, size=32, attributes={"age": band}).labels["age"]) == {band}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "above 0"),
        ({"n": -3}, "negative"),
        ({"n": (1, 2)}, "three"),
        ({"n": (5, -1, 2)}, "negative"),
        ({"n": (0, 0, 0)}, "above 0"),
        ({"n": 2.5}, "give a number"),
        ({"n": "10"}, "give a number"),
        ({"seed": -1}, "seed"),
        ({"size": 8}, "8 pixels"),
        ({"size": 5000}, "5000 pixels"),
        ({"size": (64, 32)}, "squares"),
        ({"style": "oil"}, "photo or sketch"),
        ({"per_person": 0}, "per_person"),
        ({"workers": 0}, "workers"),
        ({"attributes": {"race": "White"}}, "no attribute 'race'.*skin_tone"),
        ({"attributes": {"gender": "female"}}, "female.*Male, Female"),
        ({"attributes": {"age": "0-2"}}, "0-2.*3-9"),
        ({"attributes": {"age": []}}, "age"),
        ({"attributes": {"gender": {"Male": -1}}}, "shares"),
        ({"attributes": {"gender": {"Male": 0}}}, "shares"),
        ({"attributes": {"gender": {"Male": float("nan")}}}, "shares"),
    ],
)
def test_impossible_wishes_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        render_portraits(**{"n": 1, **arguments})


# --- as pictures ----------------------------------------------------------------------------------------------------


def test_a_face_detector_finds_them():
    from facenet_pytorch import MTCNN

    images = render_portraits(100, seed=7, per_person=1).images.transpose(0, 2, 3, 1)
    _, found = MTCNN(keep_all=True).detect(np.ascontiguousarray(images))
    sure = [max((p for p in each if p is not None), default=0) >= 0.9 for each in found]
    assert np.mean(sure) >= 0.9


def test_no_task_is_trivial_from_raw_pixels_and_none_is_hopeless():
    portraits = render_portraits((600, 1, 300), seed=1, size=32, per_person=1)
    pixels = portraits.resized(16).images.reshape(len(portraits), -1) / 255 - 0.5
    train, test = ((portraits.labels["split"] == split).to_numpy() for split in ("train", "test"))

    def right(column: str, steps: int = 0) -> float:
        model = LogisticRegression(C=0.01, max_iter=300).fit(pixels[train], portraits.labels[column][train])
        known = {label: place for place, label in enumerate(order[column])}
        guess, truth = model.predict(pixels[test]), portraits.labels[column][test]
        return np.mean([abs(known[a] - known[b]) <= steps for a, b in zip(guess, truth, strict=True)])

    order = {"gender": GENDER.classes, "skin_tone": SKIN_TONE.classes, "age": AGE_BANDS, "glasses": ("no", "yes")}
    assert 0.55 < right("gender") < 0.90
    assert 0.2 < right("skin_tone") < 0.75
    assert right("skin_tone", steps=1) > 0.6
    assert 0.14 < right("age") < 0.60
    assert right("glasses") < 0.90


def test_pixels_use_their_range_and_no_portrait_is_flat(faces):
    assert faces.images.dtype == np.uint8
    assert faces.images.std((1, 2, 3)).min() > 15
    assert faces.images.min() < 10 and faces.images.max() > 245


# --- on disk and in the repository ----------------------------------------------------------------------------------


def test_a_stored_set_reads_back_whole(tmp_path):
    made = render_portraits(12, size=32, attributes={"gender": ["Male", "Female"]})
    read = FaceSet.load(made.save(tmp_path / "set"), verify=True)
    assert (read.images == made.images).all()
    pd.testing.assert_frame_equal(read.labels, made.labels, check_dtype=False)
    assert torch.equal(read.targets([SKIN_TONE])["skin_tone"], made.targets([SKIN_TONE])["skin_tone"])
    about = read.manifest
    assert about["licence"] == "MIT" and about["generator"]["version"] and about["source"]
    assert (ROOT / about["datasheet"]).is_file()
    assert same(render_portraits(**about["request"]), made)


def test_the_command_makes_a_set_and_never_overwrites_one(tmp_path, capsys):
    dest = tmp_path / "portraits of people"
    arguments = ["portraits", "render", str(dest), "--n", "8", "--size", "32", "--attributes", '{"gender": "Female"}']
    assert main(arguments) == 0
    assert "8 portraits of 2 people" in capsys.readouterr().out
    assert set(FaceSet.load(dest, verify=True).labels["gender"]) == {"Female"}
    assert main(arguments) == 2
    assert "already holds a set" in capsys.readouterr().err


def test_a_set_that_cannot_be_written_is_an_error_with_its_place(tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(DataError, match="file"):
        commands.render(tmp_path / "file" / "set", n=1, size=32)
    with pytest.raises(DataError, match="file"):
        commands.sheet(tmp_path / "file" / "sheet.png")


def test_the_contact_sheet_is_what_its_command_makes(tmp_path):
    path = DATASHEET / "contact_sheet.png"
    assert path.stat().st_size < 600_000
    commands.sheet(tmp_path / "sheet.png")
    with Image.open(path) as stored, Image.open(tmp_path / "sheet.png") as made:
        assert stored.text["Content"] == made.text["Content"]
        assert np.array_equal(np.asarray(stored.convert("RGB")), np.asarray(made.convert("RGB")))


def test_the_counts_of_the_datasheet_are_those_of_its_set(faces):
    text = (DATASHEET / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", text, flags=re.MULTILINE)
    shown = {
        name: {label.strip(): int(n) for label, n in re.findall(r"([^:,]+): (\d+)", cells)} for name, cells in rows
    }
    counted = {name: faces.labels[name].value_counts().to_dict() for name in shown}
    assert set(shown) == {"gender", "skin_tone", "age", "expression", "glasses", "split"}
    assert shown == counted

"""Drawn lesions, things and words: exact labels, the same everywhere, sides that share nothing, and no trivial task."""

from __future__ import annotations

import ast
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from facekit.data import rendering
from facekit.data.drawn import lesions, objects, words
from facekit.data.drawn.lesions import (
    BOX_COLUMNS,
    DIAGNOSES,
    DIAGNOSIS,
    LESION,
    lesion_masks,
    mask_box,
    render_lesions,
    ring_noise,
)
from facekit.data.drawn.objects import OBJECT, THINGS, render_objects
from facekit.data.drawn.words import FONTS, font_file, fonts_for, render_words
from facekit.data.readers.captcha import ALPHABET
from facekit.data.sets import SPLITS, FaceSet
from facekit.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
RENDERERS = {"lesions": render_lesions, "objects": render_objects, "words": render_words}
renderers = pytest.mark.parametrize("render", RENDERERS.values(), ids=RENDERERS)


def same(a: FaceSet, b: FaceSet) -> bool:
    return a.images.tobytes() == b.images.tobytes() and a.labels.equals(b.labels)


@pytest.fixture(scope="module")
def skin() -> FaceSet:
    return render_lesions(300, seed=2, size=32)


# --- what holds for all three ----------------------------------------------------------------------------------------


@renderers
def test_a_picture_depends_on_seed_and_number_alone(render):
    few, many, other = render(4, seed=3), render(9, seed=3), render(4, seed=4)
    assert same(few, many.select(range(4)))
    assert few.images.dtype == np.uint8 and few.images.tobytes() != other.images.tobytes()
    assert few.labels["number"].tolist() == [0, 1, 2, 3]
    assert few.manifest["datasheet"] == "datasets/drawn/README.md" and few.manifest["request"]["seed"] == 3


@renderers
def test_sizes_by_split_are_met_with_the_pictures_of_the_same_series(render):
    three, series = render((9, 2, 3), seed=1), render(60, seed=1)
    assert three.labels["split"].value_counts().to_dict() == {"train": 9, "validation": 2, "test": 3}
    assert same(three, series.select(three.labels["number"].to_numpy()))


@renderers
@pytest.mark.parametrize("n", [0, -1, 2.5, (1, 2), (1, -1, 2), (0, 0, 0), "many"])
def test_impossible_numbers_are_refused(render, n):
    with pytest.raises(ConfigError, match="give a number above 0"):
        render(n)


@renderers
def test_impossible_seeds_and_sizes_are_refused(render):
    with pytest.raises(ConfigError, match="seed -1"):
        render(1, seed=-1)
    with pytest.raises(ConfigError, match="use 16 to 1024"):
        render(1, size=(8, 128) if render is render_words else 8)
    with pytest.raises(ConfigError, match="whole pixels"):
        render(1, size=32.5)
    with pytest.raises(ConfigError, match="size \\(32, 64, 3\\)"):
        render(1, size=(32, 64, 3))


@renderers
def test_a_stored_set_is_read_as_it_was(render, tmp_path):
    made = render(12, seed=5)
    read = FaceSet.load(made.save(tmp_path / "set"), verify=True)
    assert read.content_hash() == made.content_hash()
    pd.testing.assert_frame_equal(read.labels, made.labels.fillna(np.nan), check_dtype=False)


@pytest.mark.parametrize(
    ("made", "pixels"),
    [
        (lambda: render_lesions(12, seed=3), "e125c28c4f34efed"),
        (lambda: render_objects(12, seed=3), "e9b5c67fda752f47"),
    ],
    ids=["lesions", "objects"],
)
def test_these_pixels_are_the_same_on_every_machine(made, pixels):
    # A change of the drawing changes them: raise VERSION of its module and make the contact sheet again.
    assert made().content_hash()[:16] == pixels


@pytest.mark.parametrize(
    ("made", "labels"),
    [
        (lambda: render_lesions(50), "2801589ddc59b26d"),
        (lambda: render_objects(50, size=16), "2241c5f2850a531e"),
        (lambda: render_words(50, size=(16, 64)), "40e3ad8039fc1931"),
    ],
    ids=["lesions", "objects", "words"],
)
def test_these_labels_are_the_same_on_every_machine(made, labels):
    text = made().labels.to_csv(index=False, lineterminator="\n")
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == labels


def test_drawing_uses_only_arithmetic_that_is_exact_everywhere():
    # exp, sin, powers and matrix products differ in the last bit between libraries and processors.
    exact = {"abs", "arange", "array", "clip", "empty", "flatnonzero", "float32", "floor", "int32", "int64", "maximum"}
    exact |= {"minimum", "multiply", "ndarray", "ndim", "sqrt", "stack", "uint8", "where", "zeros", "asarray"}
    exact |= {"concatenate"}
    for module in (rendering, lesions, objects, words):
        drawing = Path(module.__file__).read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(drawing)):
            assert not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Pow | ast.MatMult), module
            assert not isinstance(node, ast.ImportFrom) or node.module != "math", module
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np":
                assert node.attr in exact, f"{module.__name__}: np.{node.attr}"


@settings(max_examples=30)
@given(st.floats(-3, 3, width=32), st.floats(-3, 3, width=32), st.floats(0.125, 8, width=32))
def test_ring_noise_sees_the_direction_only_and_closes(x, y, far):
    points = np.random.default_rng(0).random(7).astype(np.float32)
    one, two = (ring_noise(points, np.float32([x * k]), np.float32([y * k]))[0] for k in (1, far))
    assert points.min() <= one <= points.max()
    if abs(x) + abs(y) > 1e-2:
        assert one == pytest.approx(two, abs=1e-4)
    above, below = (ring_noise(points, np.float32([1]), np.float32([side]))[0] for side in (-1e-5, 1e-5))
    assert above == pytest.approx(below, abs=1e-3)


# --- lesions ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def masks(skin) -> np.ndarray:
    return lesion_masks(skin)


def test_the_box_is_the_extent_of_the_mask(skin, masks):
    for mask, (_, row) in zip(masks, skin.labels.iterrows(), strict=True):
        box = row[list(BOX_COLUMNS)].to_numpy(float)
        assert (row["lesion"] == "yes") == mask.any() == pd.notna(row["diagnosis"]) == (not np.isnan(box).any())
        if mask.any():
            left, top, right, bottom = (box * 32).round().astype(int)
            assert (
                (box * 32 == (left, top, right, bottom)).all() and 0 <= left < right <= 32 and 0 <= top < bottom <= 32
            )
            inside = np.zeros_like(mask)
            inside[top:bottom, left:right] = True
            assert not mask[~inside].any()
            assert mask[top].any() and mask[bottom - 1].any() and mask[:, left].any() and mask[:, right - 1].any()


def test_the_mask_is_where_the_picture_differs_from_bare_skin(monkeypatch, skin, masks):
    monkeypatch.setattr(lesions, "PRESENT", 0.0)
    bare = render_lesions(300, seed=2, size=32)
    assert (bare.labels["lesion"] == "no").all()
    change = np.abs(skin.images.astype(float) - bare.images).mean(1)
    without = ~masks.any((1, 2))
    assert without.any() and not change[without].any()
    inside = np.array([c[m].mean() for c, m in zip(change[~without], masks[~without], strict=True)])
    outside = np.array([c[~m].mean() for c, m in zip(change[~without], masks[~without], strict=True)])
    assert (inside > 2 * outside).mean() > 0.98


def test_masks_of_some_rows_and_of_sets_that_have_none(skin, masks):
    rows = np.array([7, 3, 250])
    assert np.array_equal(lesion_masks(skin.select(rows)), masks[rows])
    for other in (skin.resized(16), render_objects(2, size=16), FaceSet(skin.images, skin.labels)):
        with pytest.raises(ConfigError, match="draw them again"):
            lesion_masks(other)
    assert np.isnan(mask_box(np.zeros((4, 6), bool))).all()
    assert mask_box(np.ones((4, 6), bool)) == (0, 0, 1, 1)


def test_every_kind_occurs_and_three_quarters_have_a_lesion(skin):
    share = (skin.labels["lesion"] == "yes").mean()
    assert 0.65 < share < 0.85
    counts = skin.labels["diagnosis"].value_counts()
    assert set(counts.index) == set(DIAGNOSES) and counts.min() > 20
    targets = skin.targets([LESION, DIAGNOSIS])
    assert ((targets["diagnosis"] == -1) == (targets["lesion"] == 0)).all()


def test_the_datasheet_counts_what_is_drawn():
    text = " ".join((ROOT / "datasets" / "drawn" / "README.md").read_text(encoding="utf-8").split())
    kinds = render_lesions(1000, size=16).labels["diagnosis"].fillna("no lesion").value_counts()
    for kind, count in kinds.items():
        assert f"{kind} {count}" in text


def test_the_kind_can_be_learnt_and_not_read_off(skin, masks):
    # Colours of lesion and rim tell a good deal, far from all.
    rows = masks.any((1, 2))
    with_one, masks = skin.select(rows), masks[rows][:, None]
    pixels = with_one.images.astype(float) / 255
    inside = (pixels * masks).sum((2, 3)) / masks.sum((2, 3))
    outside = (pixels * ~masks).sum((2, 3)) / (~masks).sum((2, 3))
    spread = np.sqrt(((pixels - inside[:, :, None, None]) ** 2 * masks).sum((2, 3)) / masks.sum((2, 3)))
    features = np.concatenate([inside / outside, spread, masks.sum((2, 3)) / 1024], axis=1)
    features = (features - features.mean(0)) / features.std(0)
    kinds, half = with_one.labels["diagnosis"].to_numpy(), len(with_one) // 2
    score = LogisticRegression(max_iter=500).fit(features[:half], kinds[:half]).score(features[half:], kinds[half:])
    assert 0.35 < score < 0.85


# --- things ----------------------------------------------------------------------------------------------------------


def test_every_thing_occurs_and_its_colours_do_not_tell_it():
    data = render_objects(700, size=16)
    counts = data.labels["object"].value_counts()
    assert set(counts.index) == set(THINGS) == set(OBJECT.classes) and counts.min() > 40
    colours = data.images.astype(float)
    features = np.concatenate([colours.mean((2, 3)), colours.std((2, 3))], axis=1) / 255
    things = data.labels["object"].to_numpy()
    score = LogisticRegression(max_iter=500).fit(features[:500], things[:500]).score(features[500:], things[500:])
    assert score < 0.25


@pytest.mark.parametrize("name", THINGS)
def test_a_thing_is_seen_at_any_size(monkeypatch, name):
    # The same background with and without the thing: it covers a visible part of the picture.
    with_it = []
    for drawer in (objects._DRAWERS[name], lambda *_: None):
        monkeypatch.setattr(objects, "_DRAWERS", dict.fromkeys(THINGS, drawer))
        with_it.append(render_objects(20, seed=1, size=48).images.astype(float))
    changed = np.abs(with_it[0] - with_it[1]).max(1) > 12
    assert np.median(changed.mean((1, 2))) > 0.02 and (changed.mean((1, 2)) > 0.005).mean() > 0.95


# --- words -----------------------------------------------------------------------------------------------------------


def test_strings_are_of_the_alphabet_and_of_the_lengths():
    data = render_words(150, size=(16, 64))
    texts = data.labels["text"]
    assert set("".join(texts)) == set(ALPHABET) and set(texts.str.len()) == {3, 4, 5}
    fixed = render_words(40, alphabet="01", lengths=6, size=(16, 64))
    assert set(fixed.labels["text"].str.len()) == {6} and fixed.labels["text"].map(type).eq(str).all()
    assert data.images.shape == (150, 3, 16, 64)


def test_no_string_is_on_two_sides():
    labels = render_words(150, seed=1, alphabet="abc", lengths=(1, 4), size=(16, 32)).labels
    sides = labels.groupby("text")["split"].nunique()
    assert (sides == 1).all() and labels["text"].duplicated().any() and set(labels["split"]) == set(SPLITS)


def test_too_few_strings_for_three_sides_are_told():
    with pytest.raises(ConfigError, match="too few different"):
        render_words((4, 4, 4), alphabet="ab", lengths=1, size=(16, 16))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"alphabet": "a"}, "two or more"),
        ({"alphabet": "aab"}, "different"),
        ({"alphabet": "ab "}, "blank"),
        ({"alphabet": "ab가"}, "none has \\['가'\\]"),
        ({"lengths": 0}, "between 1 and 12"),
        ({"lengths": (5, 3)}, "rising"),
        ({"lengths": 13}, "between 1 and 12"),
        ({"lengths": 12, "size": (16, 32)}, "do not fit"),
    ],
)
def test_impossible_words_are_refused(how, message):
    with pytest.raises(ConfigError, match=message):
        render_words(1, **how)


def test_every_font_is_there_and_has_the_alphabet():
    assert fonts_for(ALPHABET) == FONTS
    assert len(fonts_for("aäя")) < len(FONTS)
    with pytest.raises(ConfigError, match="none.ttf is missing"):
        font_file("none.ttf")


def test_a_letter_is_whole_and_differs_from_others():
    for font in FONTS:
        plates = {char: words._letter(font, 44, char)[0] for char in ALPHABET}
        for ink in plates.values():
            assert ink.sum() > 30 and not ink[[0, 1, -2, -1]].any() and not ink[:, [0, 1, -2, -1]].any(), font
        assert len({ink.tobytes() for ink in plates.values()}) == len(ALPHABET), font


def test_a_letter_looked_up_at_its_own_pixels_is_itself():
    ink, _ = words._letter("DejaVuSans.ttf", 26, "g")
    at = np.arange(52, dtype=np.float32) + np.float32(0.5)
    assert np.array_equal(words._look_up(ink, at[None], at[:, None]), ink)
    assert not words._look_up(ink, at[None] + 100, at[:, None]).any()


def test_ink_shows_on_paper():
    data = render_words(50, seed=4)
    grey = data.images.astype(float).mean(1)
    contrast = np.percentile(grey, 99, axis=(1, 2)) - np.percentile(grey, 1, axis=(1, 2))
    assert np.percentile(contrast, 5) > 40


# --- photos that are not square --------------------------------------------------------------------------------------


def test_resized_takes_height_and_width():
    data = render_words(3, size=(32, 128))
    assert data.resized((32, 128)) is data
    wide = data.resized((16, 64))
    assert wide.images.shape == (3, 3, 16, 64)
    assert abs(wide.images.astype(float).mean() - data.images.mean()) < 1
    square = render_objects(2, size=32)
    assert np.array_equal(square.resized(16).images, square.resized((16, 16)).images)
    assert square.resized(np.int64(32)) is square


def test_strings_that_look_like_something_else_stay_strings(tmp_path):
    texts = ["nan", "007", "1e5", "None", "NA", "true"]
    data = FaceSet(np.zeros((6, 3, 4, 8), np.uint8), pd.DataFrame({"text": texts, "split": "train"}))
    assert FaceSet.load(data.save(tmp_path / "set")).labels["text"].tolist() == texts
    missing = FaceSet(data.images, data.labels.assign(text=[None, *texts[1:]]))
    assert pd.isna(FaceSet.load(missing.save(tmp_path / "other")).labels["text"][0])


DRAWER = """
import os
import signal
import time

def draw(number):
    time.sleep(0.01)
    return os.getpid()

if __name__ == "__main__":
    import drawer
    from facekit.data.rendering import paint
    for _, who in paint(drawer.draw, range(10**6), 2):
        if who != os.getpid():
            print(who, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
def test_helpers_end_with_a_process_that_was_killed(tmp_path):
    (tmp_path / "drawer.py").write_text(DRAWER)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    command = [sys.executable, tmp_path / "drawer.py"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, timeout=120)
    assert done.returncode == -signal.SIGKILL
    helper = Path("/proc") / done.stdout.strip()
    until = time.monotonic() + 30
    while helper.exists() and time.monotonic() < until and "(zombie)" not in (helper / "status").read_text():
        time.sleep(0.05)
    assert time.monotonic() < until, "it is still there"

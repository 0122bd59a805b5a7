"""Leaks made on purpose: what noise touches, what is copied, and which side a copy is on."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekit.data.leaks import HONEST, Protocol, divide, oversampled, with_noise
from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError, DataError


def grey(n: int, value: int = 128, size: int = 24) -> FaceSet:
    labels = pd.DataFrame({"race": ["White", "Black"] * (n // 2), "split": ["train"] * n})
    return FaceSet(np.full((n, 3, size, size), value, np.uint8), labels)


def features(labels: list, copies: int = 1) -> FeatureSet:
    """Rows that differ from one another, but for copies."""
    values = np.random.default_rng(0).normal(size=(len(labels), 4)).astype(np.float32)
    table = pd.DataFrame({"race": labels * copies, "split": ["test"] * len(labels) * copies})
    return FeatureSet(np.tile(values, (copies, 1)), table)


def test_noise_is_on_the_masked_rows_only_and_has_the_amount_asked_for():
    faces = grey(6)
    mask = np.array([True, False, True, False, False, True])
    noisy = with_noise(faces, mask, 0.05, seed=0)
    assert noisy.images.dtype == np.uint8
    assert (noisy.images[~mask] == 128).all() and (faces.images == 128).all()
    spread = noisy.images[mask].astype(float).std()
    assert spread == pytest.approx(0.05 * 255, rel=0.05)
    assert noisy.images[mask].astype(float).mean() == pytest.approx(128, abs=0.7)
    assert noisy.labels.equals(faces.labels)


@pytest.mark.parametrize("value", [0, 255])
def test_noise_is_clipped_and_does_not_wrap_around(value):
    images = with_noise(grey(2, value), [True, True], 0.1, seed=1).images.astype(int)
    assert np.abs(images - value).max() < 255 * 0.1 * 6
    assert (images == value).mean() == pytest.approx(0.5, abs=0.05), "half of the noise goes beyond the end"


def test_noise_of_a_row_depends_on_seed_and_row_alone():
    faces = grey(4)
    one = with_noise(faces, [True, True, False, False], 0.1, seed=3).images
    other = with_noise(faces, [False, True, False, True], 0.1, seed=3).images
    assert (one[1] == other[1]).all() and (one[0] != one[1]).any()
    assert (with_noise(faces, [False, True, False, False], 0.1, seed=4).images[1] != one[1]).any()
    assert (with_noise(faces, [True] * 4, 0.0, seed=3).images == faces.images).all()


@pytest.mark.parametrize("mask", [[1, 0, 1, 0], [True] * 3, [[True] * 4], "all"])
def test_a_mask_that_is_none_is_refused(mask):
    with pytest.raises(DataError, match="each of the 4 rows"):
        with_noise(grey(4), mask, 0.1, seed=0)


@pytest.mark.parametrize("amount", [-0.1, 25, float("nan")])
def test_an_amount_in_grey_levels_is_refused(amount):
    with pytest.raises(ConfigError, match="fraction of 255"):
        with_noise(grey(4), [True] * 4, amount, seed=0)


@given(
    st.lists(st.sampled_from(["White", "Black", "Asian", None]), min_size=1, max_size=40).filter(any),
    st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_oversampled_classes_are_equal_and_no_row_is_lost_or_favoured(labels, seed):
    data = features(labels)
    larger, rows = oversampled(data, "race", seed)
    assert rows.dtype == np.int64 and (rows[: len(data)] == np.arange(len(data))).all()
    assert (larger.features == data.features[rows]).all()
    assert larger.labels["race"].fillna("").tolist() == data.labels["race"].fillna("").iloc[rows].tolist()
    counts = data.labels["race"].value_counts()
    assert (larger.labels["race"].value_counts() == counts.max()).all()
    times = pd.Series(np.bincount(rows, minlength=len(data))).groupby(data.labels["race"].fillna("none"))
    assert (times.max() - times.min() <= 1).all()
    assert times.max().get("none", 1) == 1
    assert (oversampled(data, "race", seed)[1] == rows).all()


def test_what_is_repeated_follows_the_seed():
    data = features(["White"] * 7 + ["Black"] * 5)
    drawn = {tuple(sorted(oversampled(data, "race", seed)[1][12:])) for seed in range(20)}
    assert len(drawn) > 5


def test_oversampling_needs_labels():
    with pytest.raises(DataError, match="no label column 'skin'"):
        oversampled(features(["White"]), "skin", 0)
    with pytest.raises(DataError, match="no label column 'race'"):
        oversampled(features([None, None]), "race", 0)


UNEVEN = ["White"] * 120 + ["Black"] * 40 + ["Asian"] * 20


@pytest.mark.parametrize("oversample", ["nothing", "training", "both sides"])
def test_no_copy_is_on_both_sides_unless_rows_are_repeated_before_the_split(oversample):
    data = features(UNEVEN, copies=2)  # the set itself has copies, too
    sides = divide(data, Protocol("p", oversample=oversample), "race", seed=0, held_out=0.2)
    assert sides.leaked == 0
    learnt = {row.tobytes() for row in sides.train.features}
    assert not learnt & {row.tobytes() for row in sides.scored.features}
    assert set(sides.train_rows) | set(sides.scored_rows) == set(range(len(data)))
    even = {"train": sides.train, "scored": sides.scored}
    even = {name: side.labels["race"].value_counts().nunique() == 1 for name, side in even.items()}
    assert even == {"train": oversample != "nothing", "scored": oversample == "both sides"}


def test_repeating_before_the_split_leaks_the_share_that_counting_gives():
    data = features(UNEVEN)
    found = [divide(data, Protocol("p", "before the split"), "race", seed, held_out=0.5) for seed in range(30)]
    # 120 rows have 1 copy, 40 have 3, 20 have 6: a held-out copy is safe when none of the others is learnt from.
    wanted = np.average([0, 1 - 0.5**2, 1 - 0.5**5], weights=[120, 120, 120])
    assert np.mean([sides.leaked for sides in found]) == pytest.approx(wanted, abs=0.02)
    assert all(len(sides.train) == len(sides.scored) == 180 for sides in found)


def test_the_split_is_the_same_for_all_that_do_not_repeat_before_it_and_another_with_another_seed():
    data = features(UNEVEN)
    honest = divide(data, HONEST, "race", seed=5)
    other = divide(data, Protocol("p", "both sides"), "race", seed=5)
    assert set(honest.scored_rows) == set(other.scored_rows)
    assert set(honest.scored_rows) != set(divide(data, HONEST, "race", seed=6).scored_rows)


@pytest.mark.parametrize("change", ["nothing", "training", "both sides"])
def test_only_masked_rows_of_the_named_sides_are_changed(change):
    data = features(UNEVEN)
    mask = data.labels["race"].ne("White").to_numpy()
    plus = [FeatureSet(data.features + k, data.labels) for k in (10, 20)]
    protocol = Protocol("p", oversample="both sides", change=change)
    sides = divide(data, protocol, "race", seed=0, held_out=0.3, mask=mask, changed=plus)
    for side, rows, named in (
        (sides.train, sides.train_rows, change != "nothing"),
        (sides.scored, sides.scored_rows, change == "both sides"),
    ):
        moved = np.rint(side.features - data.features[rows]).astype(int)
        assert (moved == moved[:, :1]).all()
        assert (moved[~mask[rows], 0] == 0).all()
        assert set(moved[mask[rows], 0]) == ({10, 20} if named else {0})


def test_a_copy_of_a_row_is_changed_on_its_own():
    data = features(UNEVEN)
    mask = data.labels["race"].eq("Asian").to_numpy()
    plus = [data, FeatureSet(data.features + 10, data.labels)]
    sides = divide(data, Protocol("p", "training", "training"), "race", 0, mask=mask, changed=plus)
    own = sides.train.features[:, 0] - data.features[sides.train_rows, 0]
    kinds = pd.Series(np.rint(own)).groupby(sides.train_rows).nunique()
    assert kinds[mask[kinds.index]].max() == 2


def test_what_cannot_be_divided_is_said():
    data = features(UNEVEN)
    with pytest.raises(ConfigError, match="oversample is 'twice'"):
        Protocol("p", oversample="twice")
    with pytest.raises(ConfigError, match="change is 'before the split'"):
        Protocol("p", change="before the split")
    with pytest.raises(ConfigError, match="pass the changed photos"):
        divide(data, Protocol("p", change="training"), "race", 0)
    with pytest.raises(DataError, match="the same 180 rows, got 3"):
        divide(data, Protocol("p", change="training"), "race", 0, changed=[data.select([0, 1, 2])])
    with pytest.raises(ConfigError, match="between 0 and 1"):
        divide(data, HONEST, "race", 0, held_out=1)
    with pytest.raises(ConfigError, match="too few"):
        divide(data.select([0, 1]), HONEST, "race", 0, held_out=0.001)
